#include <cinttypes>
#include <cmath>
#include <limits>

#include "lib/base/json.h"
#include "lib/base/status.h"

namespace skv {

namespace {

using nlohmann::json;

// The value as text for a message: short, never throwing on bytes that are not UTF-8.
std::string shown(const json& value) {
  constexpr std::size_t kMaxChars = 60;
  if (value.is_structured()) return std::string("an ") + value.type_name();
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (value.is_number_float() && !std::isfinite(value.get<double>())) text = "not finite";
  if (text.size() > kMaxChars) text = text.substr(0, kMaxChars) + "...";
  return text;
}

const json& member(const json& object, const char* key, const char* wanted) {
  const json* value = find_member(object, key);
  if (value == nullptr) fail(SKV_E_MODEL, "%s is missing; %s is needed", key, wanted);
  return *value;
}

[[noreturn]] void fail_type(const json& value, const char* key, const char* wanted) {
  fail(SKV_E_MODEL, "%s is %s; %s is needed", key, shown(value).c_str(), wanted);
}

int64_t to_int(const json& value, const char* key, int64_t lo, int64_t hi) {
  constexpr double kExact = 9007199254740992.0;  // 2^53: above it a double no longer names one integer
  bool inside = false;
  int64_t number = 0;
  if (value.is_number_unsigned()) {
    const auto raw = value.get<uint64_t>();
    inside = raw <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    number = inside ? static_cast<int64_t>(raw) : 0;
  } else if (value.is_number_integer()) {
    inside = true;
    number = value.get<int64_t>();
  } else if (value.is_number_float()) {
    const auto raw = value.get<double>();
    if (std::isfinite(raw) && raw != std::trunc(raw)) fail_type(value, key, "an integer");
    inside = std::fabs(raw) <= kExact;  // false for NaN
    number = inside ? static_cast<int64_t>(raw) : 0;
  } else {
    fail_type(value, key, "an integer");
  }
  if (!inside || number < lo || number > hi) {
    fail(SKV_E_MODEL, "%s is %s; %" PRId64 " to %" PRId64 " are allowed", key, shown(value).c_str(), lo, hi);
  }
  return number;
}

double to_number(const json& value, const char* key, double lo, double hi) {
  if (!value.is_number()) fail_type(value, key, "a number");
  const auto number = value.get<double>();
  if (!std::isfinite(number) || number < lo || number > hi) {
    fail(SKV_E_MODEL, "%s is %s; %g to %g are allowed", key, shown(value).c_str(), lo, hi);
  }
  return number;
}

bool to_bool(const json& value, const char* key) {
  if (!value.is_boolean()) fail_type(value, key, "true or false");
  return value.get<bool>();
}

std::string to_string(const json& value, const char* key) {
  if (!value.is_string()) fail_type(value, key, "a string");
  return value.get<std::string>();
}

}  // namespace

const json* find_member(const json& object, const char* key) {
  if (!object.is_object()) {
    fail(SKV_E_MODEL, "%s is looked for in %s; an object is needed", key, shown(object).c_str());
  }
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

int64_t get_int(const json& object, const char* key, int64_t lo, int64_t hi) {
  return to_int(member(object, key, "an integer"), key, lo, hi);
}

int64_t get_int_or(const json& object, const char* key, int64_t lo, int64_t hi, int64_t fallback) {
  const json* value = find_member(object, key);
  return value == nullptr ? fallback : to_int(*value, key, lo, hi);
}

double get_number(const json& object, const char* key, double lo, double hi) {
  return to_number(member(object, key, "a number"), key, lo, hi);
}

double get_number_or(const json& object, const char* key, double lo, double hi, double fallback) {
  const json* value = find_member(object, key);
  return value == nullptr ? fallback : to_number(*value, key, lo, hi);
}

bool get_bool(const json& object, const char* key) { return to_bool(member(object, key, "true or false"), key); }

bool get_bool_or(const json& object, const char* key, bool fallback) {
  const json* value = find_member(object, key);
  return value == nullptr ? fallback : to_bool(*value, key);
}

std::string get_string(const json& object, const char* key) {
  return to_string(member(object, key, "a string"), key);
}

std::string get_string_or(const json& object, const char* key, const std::string& fallback) {
  const json* value = find_member(object, key);
  return value == nullptr ? fallback : to_string(*value, key);
}

const json& get_object(const json& object, const char* key) {
  const json& value = member(object, key, "an object");
  if (!value.is_object()) fail_type(value, key, "an object");
  return value;
}

const json& get_array(const json& object, const char* key) {
  const json& value = member(object, key, "an array");
  if (!value.is_array()) fail_type(value, key, "an array");
  return value;
}

}  // namespace skv
