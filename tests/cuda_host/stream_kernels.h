// A kernel for stream_test.cc.
#pragma once

#include <cstdint>

#include "kernels/common/cuda/stream.h"

namespace skv::test {

// out[i] = a[i] for i < n_a, then b: lists as the device sees them.
void copy_lists(cuda::Stream& stream, const int32_t* a, int64_t n_a, const int32_t* b, int64_t n_b, int32_t* out);

}  // namespace skv::test
