// Untrusted JSON: bounded parsing, and getters that name the key, the value and what is allowed.
//
//   const json config = parse_json(read_file(path, kMax), "config.json", 32, kMax);
//   const int64_t heads = get_int(config, "num_attention_heads", 1, 4096);
//   const int64_t kv_heads = get_int_or(config, "num_key_value_heads", 1, 4096, heads);
//
// Nothing of nlohmann's is thrown by these functions; code that calls its own accessors keeps to checked types.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace skv {

// Throws Error(SKV_E_DATA) with `what` and the byte offset: longer than max_bytes, nested deeper than max_depth (a
// scalar is depth 0), syntax, invalid UTF-8, a number outside double, NaN and Infinity words, trailing text.
// Of a key that occurs twice the last value wins.
nlohmann::json parse_json(std::string_view text, const std::string& what, int max_depth, int64_t max_bytes);

// The member, or nullptr where it is absent or null (model files write null for "not set").
// Throws Error(SKV_E_MODEL) if object is not a JSON object, as do all getters below.
const nlohmann::json* find_member(const nlohmann::json& object, const char* key);

// Throw Error(SKV_E_MODEL) where the member is absent, of another type or outside [lo, hi]. An integer may be written
// as 4096.0. The _or forms take the fallback, unchecked, where the member is absent or null.
int64_t get_int(const nlohmann::json& object, const char* key, int64_t lo, int64_t hi);
int64_t get_int_or(const nlohmann::json& object, const char* key, int64_t lo, int64_t hi, int64_t fallback);
// Finite, whatever lo and hi are.
double get_number(const nlohmann::json& object, const char* key, double lo, double hi);
double get_number_or(const nlohmann::json& object, const char* key, double lo, double hi, double fallback);
bool get_bool(const nlohmann::json& object, const char* key);
bool get_bool_or(const nlohmann::json& object, const char* key, bool fallback);
std::string get_string(const nlohmann::json& object, const char* key);
std::string get_string_or(const nlohmann::json& object, const char* key, const std::string& fallback);
// The member as an object or array, in place.
const nlohmann::json& get_object(const nlohmann::json& object, const char* key);
const nlohmann::json& get_array(const nlohmann::json& object, const char* key);

}  // namespace skv
