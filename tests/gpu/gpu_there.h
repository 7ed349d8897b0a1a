// Programs of GoogleTest say plainly that there is nothing to test on.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>

namespace skv::gpu {

inline constexpr int kNoGpu = 2;  // exit status

inline bool gpu_is_there() {
  int n = 0;
  const cudaError_t error = cudaGetDeviceCount(&n);
  if (error == cudaSuccess && n > 0) return true;
  std::fprintf(stderr, "no CUDA device: %s\n", error == cudaSuccess ? "none is there" : cudaGetErrorString(error));
  return false;
}

}  // namespace skv::gpu
