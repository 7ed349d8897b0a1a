// The rotation of hadamard.h by a warp, a row at a time. Blocks are one-dimensional; all 32 lanes call together.
//
//   const cuda::Hadamard h = cuda::make_hadamard(width, inverse);   // host; a kernel's argument, by value
//   const uint32_t signs = cuda::hadamard_signs(h);                 // device
//   cuda::hadamard_row(h, signs, x, h.norm);                        // x = H x, or H^T x
//
// In registers, where the width is a power of two, walsh_warp alone does it. Results do not depend on the launch.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/common/cuda/warp.cuh"
#include "kernels/common/hadamard.h"

namespace skv::cuda {

inline constexpr int kMaxCore = 20;

struct Hadamard {
  int32_t width = 0;
  int32_t core = 1;               // order b of the orthogonal factor: 1, 12 or 20
  int32_t groups = 1;             // width / b, a power of two
  float norm = 1.0f;              // 1 / sqrt(width)
  uint32_t signs[kMaxCore] = {};  // bit j of signs[i]: entry (i, j) of the factor is negative
};

// A width that hadamard_supports(). inverse: of H^T.
inline Hadamard make_hadamard(int32_t width, bool inverse) {
  Hadamard h;
  h.width = width;
  h.core = kernels::hadamard_core_order(width);
  h.groups = width / h.core;
  h.norm = 1.0f / std::sqrt(static_cast<float>(width));
  if (h.core == 1) return h;
  const float* columns = kernels::hadamard_core(h.core, inverse);
  for (int32_t i = 0; i < h.core; ++i) {
    for (int32_t j = 0; j < h.core; ++j) {
      if (columns[j * kernels::kCoreStride + i] < 0.0f) h.signs[i] |= 1u << j;
    }
  }
  return h;
}

// Sums and differences at all distances within N registers.
template <int N>
__device__ __forceinline__ void walsh_registers(float (&v)[N]) {
#pragma unroll
  for (int distance = 1; distance < N; distance *= 2) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if ((i & distance) != 0) continue;
      const float a = v[i], b = v[i + distance];
      v[i] = a + b;
      v[i + distance] = a - b;
    }
  }
}

// S x of 32 N elements, N a power of two: whichever bits of an element's number choose its lane and which its
// register, as long as five choose the lane. Without the factor 1 / sqrt(32 N), so exact for small integers.
template <int N>
__device__ __forceinline__ void walsh_warp(float (&v)[N]) {
  walsh_registers(v);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const float sign = (lane & distance) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = fmaf(v[i], sign, __shfl_xor_sync(kFullWarp, v[i], distance));
  }
}

namespace hadamard_detail {

// x = factor S x of 32 N elements in shared memory; each lane gives back what it took.
template <int N>
__device__ __forceinline__ void walsh_shared(float* x, float factor) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float v[N];
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 part = reinterpret_cast<const float4*>(x)[lane + kWarp * (i / 4)];
      v[i] = part.x, v[i + 1] = part.y, v[i + 2] = part.z, v[i + 3] = part.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = x[lane + kWarp * i];
  }
  walsh_warp(v);
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      float4 part;
      part.x = fmaf(v[i], factor, 0.0f), part.y = fmaf(v[i + 1], factor, 0.0f);
      part.z = fmaf(v[i + 2], factor, 0.0f), part.w = fmaf(v[i + 3], factor, 0.0f);
      reinterpret_cast<float4*>(x)[lane + kWarp * (i / 4)] = part;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) x[lane + kWarp * i] = fmaf(v[i], factor, 0.0f);
  }
}

// Half a warp's elements: zeros in the other half.
__device__ __forceinline__ void walsh_shared_16(float* x, float factor) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float v[1] = {lane < 16 ? x[lane] : 0.0f};
  walsh_warp(v);
  if (lane < 16) x[lane] = fmaf(v[0], factor, 0.0f);
}

// S between G groups of b elements: a lane has element `lane` of every group.
template <int G>
__device__ __forceinline__ void walsh_groups(float* x, int b) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane >= b) return;
  float v[G];
#pragma unroll
  for (int g = 0; g < G; ++g) v[g] = x[g * b + lane];
  walsh_registers(v);
#pragma unroll
  for (int g = 0; g < G; ++g) x[g * b + lane] = v[g];
}

// x = factor Q x within each group of B elements, as many whole groups at a time as a warp has lanes for.
template <int B>
__device__ __forceinline__ void rotate_groups(int groups, uint32_t signs, float* x, float factor) {
  constexpr int kAtOnce = kWarp / B;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row = lane % B;
#pragma unroll 1
  for (int first = 0; first < groups; first += kAtOnce) {
    const int group = first + lane / B;
    const bool mine = lane < kAtOnce * B && group < groups;
    float* at = x + (mine ? group : 0) * B;
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    const auto flipped = [signs](float value, int j) {
      return __uint_as_float(__float_as_uint(value) ^ ((signs << (31 - j)) & 0x80000000u));
    };
#pragma unroll
    for (int j = 0; j < B; j += 4) {
      const float4 part = *reinterpret_cast<const float4*>(at + j);
      sum.x += flipped(part.x, j);
      sum.y += flipped(part.y, j + 1);
      sum.z += flipped(part.z, j + 2);
      sum.w += flipped(part.w, j + 3);
    }
    __syncwarp();
    if (mine) at[row] = fmaf((sum.x + sum.y) + (sum.z + sum.w), factor, 0.0f);
    __syncwarp();
  }
}

__device__ __forceinline__ void walsh_groups(const Hadamard& h, float* x) {
  switch (h.groups) {
    case 2: return walsh_groups<2>(x, h.core);
    case 4: return walsh_groups<4>(x, h.core);
    case 8: return walsh_groups<8>(x, h.core);
    case 16: return walsh_groups<16>(x, h.core);
    case 32: return walsh_groups<32>(x, h.core);
    default: return;
  }
}

}  // namespace hadamard_detail

// A lane's part of h, taken once at the start of a kernel. By selection: a lane's own index into a kernel's arguments
// would have them all copied to memory.
__device__ __forceinline__ uint32_t hadamard_signs(const Hadamard& h) {
  const int row = static_cast<int>(threadIdx.x) % kWarp % h.core;
  uint32_t signs = 0;
#pragma unroll
  for (int i = 0; i < kMaxCore; ++i) signs = i == row ? h.signs[i] : signs;
  return signs;
}

// x = factor sqrt(width) H x (factor = h.norm: the rotation itself); a zero is +0. x: width floats of shared memory,
// 16-byte aligned, this warp's alone. Begins and ends with __syncwarp(), so lanes may have written x just before and
// may read any of it after. Of a width that is a power of two, where fewer registers count:
__device__ __forceinline__ void walsh_row(int width, float* x, float factor) {
  __syncwarp();
  switch (width) {
    case 16: hadamard_detail::walsh_shared_16(x, factor); break;
    case 32: hadamard_detail::walsh_shared<1>(x, factor); break;
    case 64: hadamard_detail::walsh_shared<2>(x, factor); break;
    case 128: hadamard_detail::walsh_shared<4>(x, factor); break;
    case 256: hadamard_detail::walsh_shared<8>(x, factor); break;
    default: hadamard_detail::walsh_shared<16>(x, factor); break;
  }
  __syncwarp();
}

// The same for any width; signs: hadamard_signs(h).
__device__ __forceinline__ void hadamard_row(const Hadamard& h, uint32_t signs, float* x, float factor) {
  if (h.core == 1) return walsh_row(h.width, x, factor);
  __syncwarp();
  hadamard_detail::walsh_groups(h, x);
  __syncwarp();
  if (h.core == 12) hadamard_detail::rotate_groups<12>(h.groups, signs, x, factor);
  else hadamard_detail::rotate_groups<20>(h.groups, signs, x, factor);
}

}  // namespace skv::cuda
