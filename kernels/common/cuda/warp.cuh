// Sums and maxima over a warp and over a block, in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common/cuda/launch.h"

namespace skv::cuda {

inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr int kWarp = 32;

// Every lane has the result. The order of additions is that of the butterfly, whatever the values.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}

// A NaN counts as nothing (fmaxf).
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, offset));
  return x;
}

// Over a block of up to 1024 threads (whole warps); every thread has the result. scratch: 32 T of shared memory, free
// again when the call returns.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? scratch[lane] : T(0));
  __syncthreads();
  return x;
}

__device__ __forceinline__ float block_max(float x, float* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_max(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = warp_max(lane < warps ? scratch[lane] : -INFINITY);
  __syncthreads();
  return x;
}

}  // namespace skv::cuda
