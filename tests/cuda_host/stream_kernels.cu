#include "tests/cuda_host/stream_kernels.h"

#include "kernels/common/cuda/launch.h"

namespace skv::test {
namespace {

__global__ void copy_both(const int32_t* a, int64_t n_a, const int32_t* b, int64_t n_b, int32_t* out) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n_a) out[i] = a[i];
  else if (i < n_a + n_b) out[i] = b[i - n_a];
}

}  // namespace

void copy_lists(cuda::Stream& stream, const int32_t* a, int64_t n_a, const int32_t* b, int64_t n_b, int32_t* out) {
  const auto blocks = static_cast<unsigned>((n_a + n_b + 31) / 32);
  cuda::launch(copy_both, dim3(blocks), dim3(32), 0, stream, a, n_a, b, n_b, out);
}

}  // namespace skv::test
