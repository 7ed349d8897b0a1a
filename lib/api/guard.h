// The last line of C++: what is thrown below becomes a status and, if the caller wants it, an skv_error.
#pragma once

#include "lib/engine/error_detail.h"

namespace skv::api {

// Status of the exception being handled, with its details in err.
inline skv_status report(skv_error* err) noexcept {
  const engine::Failure failure = engine::current_failure();
  engine::fill_error(failure, err);
  return failure.status;
}

template <class Fn>
skv_status guarded(skv_error* err, Fn&& fn) noexcept {
  try {
    fn();
    return SKV_OK;
  } catch (...) {
    return report(err);
  }
}

}  // namespace skv::api
