// Failures as the ABI reports them to one row or one sequence.
#pragma once

#include <exception>
#include <string>

#include "lib/base/status.h"

namespace skv::engine {

struct Failure {
  skv_status status = SKV_OK;
  int64_t native = 0;
  std::string message;
};

// What the exception being handled says; what is not an Error is SKV_E_NOMEM (std::bad_alloc) or SKV_E_INTERNAL.
Failure current_failure() noexcept;
[[noreturn]] void raise(const Failure& failure);
// Writes nothing if out is NULL or its struct_size is not one of an skv_error.
void fill_error(const Failure& failure, skv_error* out) noexcept;

}  // namespace skv::engine
