// All kernel tests in one program: most of its size is what they share.
#include "tests/gpu/gpu_there.h"
#include "tests/kernels/kernel_test.h"

int main(int argc, char** argv) {
  return skv::gpu::gpu_is_there() ? skv::test::kernel_test_main(argc, argv, nullptr) : skv::gpu::kNoGpu;
}
