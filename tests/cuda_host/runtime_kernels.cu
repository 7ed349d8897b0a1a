#include "tests/cuda_host/runtime_kernels.h"

#include "kernels/common/cuda/launch.h"

namespace skv::test {
namespace {

__global__ void append(int32_t* log, int32_t value) {
  log[1 + log[0]] = value + static_cast<int32_t>(blockIdx.x);
  ++log[0];
}

}  // namespace

Append::Append(int32_t* log, int32_t value, unsigned blocks) : log_(log), value_(value), args_{&log_, &value_} {
  static constexpr std::size_t kBytes[] = {sizeof(log_), sizeof(value_)};
  launch_.kernel = reinterpret_cast<const void*>(append);
  launch_.call = &cuda::call_kernel<int32_t*, int32_t>;
  launch_.grid = dim3(blocks);
  launch_.block = dim3(1);
  launch_.n_args = 2;
  launch_.args = args_;
  launch_.arg_bytes = kBytes;
}

}  // namespace skv::test
