#include <gtest/gtest.h>

#include "tests/gpu/gpu_there.h"

int main(int argc, char** argv) {
  if (!skv::gpu::gpu_is_there()) return skv::gpu::kNoGpu;
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
