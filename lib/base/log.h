// Log lines go to the host's callback (skv_runtime_params.log) or nowhere. Never to stderr by itself.
#pragma once

#include <memory>
#include <mutex>

#include "shadowkv/runtime.h"

namespace skv {

struct LogSink {
  skv_log_fn fn = nullptr;
  void* user = nullptr;
  skv_log_level level = SKV_LOG_WARN;
  // One call of fn at a time, as its type promises; recursive, for a callback that calls the library.
  std::shared_ptr<std::recursive_mutex> turn = std::make_shared<std::recursive_mutex>();
};

// Cut at 1023 bytes; control characters become spaces.
void log(const LogSink& sink, skv_log_level level, const char* format, ...) __attribute__((format(printf, 3, 4)));

}  // namespace skv
