#pragma once

#include <gtest/gtest.h>

#include "lib/base/status.h"

namespace skv::test {

// What fn throws; the test fails where that is nothing.
template <class Fn>
Error error_of(Fn&& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(SKV_OK, "");
}

}  // namespace skv::test
