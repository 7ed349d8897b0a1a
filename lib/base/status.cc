#include "lib/base/status.h"

#include <cstdarg>
#include <cstdio>

namespace skv {

namespace {

// Messages are one line by contract, but quoted names (paths, JSON keys) come from outside.
void make_one_line(std::string& text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = ' ';
  }
}

}  // namespace

void fail(skv_status code, const char* format, ...) {
  va_list args;
  va_list again;
  va_start(args, format);
  va_copy(again, args);
  const int length = std::vsnprintf(nullptr, 0, format, args);
  va_end(args);
  std::string message;
  if (length > 0) {
    message.resize(static_cast<std::size_t>(length));
    std::vsnprintf(message.data(), message.size() + 1, format, again);
  }
  va_end(again);
  make_one_line(message);
  throw Error(code, message);
}

}  // namespace skv
