// A kernel for runtime_test.cc.
#pragma once

#include <cstdint>

#include "kernels/common/cuda/stream.h"

namespace skv::test {

// One launch: each block appends value + its index to a log of which log[0] is the length.
class Append {
 public:
  Append(int32_t* log, int32_t value, unsigned blocks = 1);
  Append(const Append&) = delete;
  Append& operator=(const Append&) = delete;
  void set(int32_t value) { value_ = value; }
  operator const cuda::Launch&() const { return launch_; }

 private:
  int32_t* log_;
  int32_t value_;
  void* args_[2];
  cuda::Launch launch_;
};

}  // namespace skv::test
