// Numbers as users write them.
#pragma once

#include <charconv>
#include <cmath>
#include <string_view>

namespace shell {

// All of text as a number that is finite and not negative.
inline bool parse_number(std::string_view text, double* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(*value) && *value >= 0;
}

}  // namespace shell
