#include "lib/base/log.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

namespace skv {

void log(const LogSink& sink, skv_log_level level, const char* format, ...) {
  if (sink.fn == nullptr || level > sink.level) return;
  char line[1024];  // on the stack, so that running out of memory can be logged too
  va_list args;
  va_start(args, format);
  const int length = std::vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (length < 0) return;
  std::replace_if(line, line + std::min<std::size_t>(length, sizeof line - 1),
                  [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  const std::lock_guard<std::recursive_mutex> lock(*sink.turn);
  sink.fn(sink.user, level, line);
}

}  // namespace skv
