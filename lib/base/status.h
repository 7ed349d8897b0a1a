// Failures inside the library. Internal code throws Error; lib/api/guard.h turns it into skv_status + skv_error.
// Codes are those of include/shadowkv/status.h, so nothing is translated on the way out.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "shadowkv/status.h"

namespace skv {

class Error : public std::runtime_error {
 public:
  Error(skv_status code, const std::string& message, int64_t native = 0)
      : std::runtime_error(message), code_(code), native_(native) {}
  skv_status code() const { return code_; }
  int64_t native() const { return native_; }  // errno, or a library's own code; 0 if none

 private:
  skv_status code_;
  int64_t native_;
};

// printf-style; keeps the one-line message rule in one place.
[[noreturn]] void fail(skv_status code, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace skv
