// Element types as they stand in memory, and scalar conversions (SIMD ones live beside the kernels).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/common/host_device.h"

namespace skv {

enum class DType : uint8_t { f32 = 0, bf16 = 1, f16 = 2 };

SKV_HD inline constexpr int64_t dtype_bytes(DType t) { return t == DType::f32 ? 4 : 2; }

SKV_HD inline float bf16_to_f32(uint16_t v) { return std::bit_cast<float>(static_cast<uint32_t>(v) << 16); }

// Round to nearest, ties to even; NaN stays NaN.
SKV_HD inline uint16_t f32_to_bf16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

SKV_HD inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

// Round to nearest, ties to even; beyond 65504 infinity; NaN stays NaN.
uint16_t f32_to_f16(float f);
// The smallest f16 not below a non-negative f; beyond 65504, and for NaN: NaN. For scales, so that codes never overflow.
uint16_t f32_to_f16_scale(float f);

SKV_HD inline float load_f32(const void* base, DType t, int64_t i) {
  switch (t) {
    case DType::f32: return static_cast<const float*>(base)[i];
    case DType::bf16: return bf16_to_f32(static_cast<const uint16_t*>(base)[i]);
    case DType::f16: return f16_to_f32(static_cast<const uint16_t*>(base)[i]);
  }
  return 0.0f;
}

SKV_HD inline void store_f32(void* base, DType t, int64_t i, float v) {
  if (t == DType::f32) static_cast<float*>(base)[i] = v;
  else static_cast<uint16_t*>(base)[i] = t == DType::bf16 ? f32_to_bf16(v) : f32_to_f16(v);
}

SKV_HD inline void* offset_bytes(void* p, int64_t bytes) { return static_cast<char*>(p) + bytes; }
SKV_HD inline const void* offset_bytes(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }

}  // namespace skv
