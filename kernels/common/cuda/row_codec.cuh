// The int8 and int4 codes of row_codec.h by a warp, a row at a time, bits equal to the references there. Blocks are
// one-dimensional; all 32 lanes call together.
//
// Rows and codes may lie in shared or global memory. A lane writes whole aligned words of codes, so lanes share none;
// a row that other lanes wrote, or codes that other lanes read afterwards, need a __syncwarp() of the caller's, and
// so do codes of two rows that meet within a word.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/cuda/ptx.cuh"
#include "kernels/common/cuda/warp.cuh"

namespace skv::cuda {

inline constexpr uint16_t kNanScale = 0x7e00u;

// The smallest f16 not below a non-negative f; beyond 65504, and for NaN: NaN.
__device__ __forceinline__ uint16_t f32_to_f16_scale(float f) {
  if (!(f <= 65504.0f)) return kNanScale;
  const uint16_t nearest = float_to_f16(f);
  return f16_to_float(nearest) < f ? static_cast<uint16_t>(nearest + 1) : nearest;
}

// Bits of |x|: as integers they rank numbers below infinities below NaN, so that a maximum of them loses none.
__device__ __forceinline__ uint32_t abs_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

__device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

// A row's f16 scale from the largest abs_bits of its elements.
__device__ __forceinline__ uint16_t int8_scale(uint32_t most) {
  return f32_to_f16_scale(__uint_as_float(most) / 127.0f);
}
__device__ __forceinline__ uint16_t int4_scale(uint32_t most) {
  return f32_to_f16_scale(__uint_as_float(most) / 8.0f);
}

// The code of one element; a scale of 0 or NaN has none but 0.
__device__ __forceinline__ int int8_code(float x, float scale) {
  return scale > 0.0f ? static_cast<int>(rintf(x / scale)) : 0;
}
__device__ __forceinline__ int int4_code(float y, float scale) {
  if (!(scale > 0.0f)) return 0;
  const int code = static_cast<int>(floorf(y / scale + 8.0f));
  return code < 0 ? 0 : code > 15 ? 15 : code;
}
// Exact but for the sign of zero, which is +.
__device__ __forceinline__ float int4_value(int code, float scale) {
  return fmaf(static_cast<float>(code) - 7.5f, scale, 0.0f);
}

// The largest abs_bits of at(0), ..., at(n - 1), in every lane.
template <class At>
__device__ __forceinline__ uint32_t warp_max_abs(const At& at, int n) {
  uint32_t most = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < n; i += kWarp) most = larger(most, abs_bits(at(i)));
  return __reduce_max_sync(kFullWarp, most);
}

// bytes[i] = low 8 bits of code(i), i < n.
template <class Code>
__device__ __forceinline__ void store_code_bytes(const Code& code, int n, uint8_t* bytes) {
  const int skew = static_cast<int>(reinterpret_cast<uintptr_t>(bytes) % 4);
  for (int first = static_cast<int>(threadIdx.x) % kWarp * 4 - skew; first < n; first += 4 * kWarp) {
    if (first >= 0 && first + 4 <= n) {
      uint32_t word = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) word |= (static_cast<uint32_t>(code(first + i)) & 0xffu) << (8 * i);
      *reinterpret_cast<uint32_t*>(bytes + first) = word;
    } else {
      for (int i = first < 0 ? 0 : first; i < first + 4 && i < n; ++i) bytes[i] = static_cast<uint8_t>(code(i));
    }
  }
}

// Of the row at(0), ..., at(n - 1), which is read twice. Every lane has the scale.
template <class At>
__device__ __forceinline__ uint16_t encode_int8(const At& at, int n, int8_t* codes) {
  const uint16_t bits = int8_scale(warp_max_abs(at, n));
  const float scale = f16_to_float(bits);
  store_code_bytes([&](int i) { return int8_code(at(i), scale); }, n, reinterpret_cast<uint8_t*>(codes));
  return bits;
}

__device__ __forceinline__ uint16_t encode_int8_row(const float* x, int n, int8_t* codes) {
  return encode_int8([x](int i) { return x[i]; }, n, codes);
}

__device__ __forceinline__ void decode_int8_row(const int8_t* codes, uint16_t bits, int n, float* x) {
  const float scale = f16_to_float(bits);
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < n; i += kWarp) x[i] = static_cast<float>(codes[i]) * scale;
}

// y rotated already; n even. Every lane has the scale.
__device__ __forceinline__ uint16_t encode_int4_row(const float* y, int n, uint8_t* packed) {
  const uint16_t bits = int4_scale(warp_max_abs([y](int i) { return y[i]; }, n));
  const float scale = f16_to_float(bits);
  const int half = n / 2;
  store_code_bytes([&](int i) { return int4_code(y[i], scale) | int4_code(y[half + i], scale) << 4; }, half, packed);
  return bits;
}

// y as it was coded: rotated.
__device__ __forceinline__ void decode_int4_row(const uint8_t* packed, uint16_t bits, int n, float* y) {
  const float scale = f16_to_float(bits);
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < n / 2; i += kWarp) {
    y[i] = int4_value(packed[i] & 15, scale);
    y[n / 2 + i] = int4_value(packed[i] >> 4, scale);
  }
}

}  // namespace skv::cuda
