#include <algorithm>
#include <cinttypes>
#include <utility>
#include <vector>

#include "lib/base/json.h"
#include "lib/base/status.h"

namespace skv {

namespace {

using nlohmann::json;

// Brackets outside strings, before the parser allocates anything. On text that is not JSON it may count otherwise
// than the parser would, but only past the point where the parser stops.
void check_depth(std::string_view text, const std::string& what, int max_depth) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_depth) {
        fail(SKV_E_DATA, "%s: byte %zu: nested deeper than %d levels", what.c_str(), i, max_depth);
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

// Builds the value and keeps the first error with its place; json::parse would throw, and without the place for
// numbers that overflow.
class Builder final : public json::json_sax_t {
 public:
  json root;
  std::size_t error_offset = 0;
  std::string error;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in JSON text
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool key(string_t& name) override {
    member_ = &(*open_.back())[name];
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& cause) override {
    error_offset = position == 0 ? 0 : position - 1;  // nlohmann counts the bytes read
    error = cause.what();
    return false;
  }

 private:
  json* place(json&& value) {
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *member_ = std::move(value);
    return member_;
  }
  bool add(json value) {
    place(std::move(value));
    return true;
  }
  bool open(json value) {
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<json*> open_;  // containers being filled; only the innermost grows, so outer pointers stay good
  json* member_ = nullptr;
};

// "[json.exception.parse_error.101] parse error at line 1, column 2: <reason>", the reason quoting raw input of any
// length: what remains is the reason, in printable ASCII, cut to fit an skv_error.
std::string readable_reason(const std::string& text) {
  constexpr std::size_t kMaxChars = 120;
  std::size_t start = text.find("] ");
  start = start == std::string::npos ? 0 : start + 2;
  const std::size_t place = text.find(": ", start);
  if (place != std::string::npos && text.compare(start, 11, "parse error") == 0) start = place + 2;
  std::string reason = text.substr(start, kMaxChars);
  std::replace_if(reason.begin(), reason.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return reason;
}

}  // namespace

json parse_json(std::string_view text, const std::string& what, int max_depth, int64_t max_bytes) {
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    fail(SKV_E_DATA, "%s: byte %" PRId64 ": %zu bytes of JSON, %" PRId64 " are allowed", what.c_str(), max_bytes,
         text.size(), max_bytes);
  }
  check_depth(text, what, max_depth);
  Builder builder;
  if (!json::sax_parse(text, &builder)) {
    fail(SKV_E_DATA, "%s: byte %zu: %s", what.c_str(), builder.error_offset, readable_reason(builder.error).c_str());
  }
  return std::move(builder.root);
}

}  // namespace skv
