// Rotary embedding as kernels see it. The rotation of position p is the product of two tabulated ones,
// p = hi * kRopeLow + lo, so the tables take 2 * 1024 rows at any context length; angles were computed in double.
#pragma once

#include <cstdint>

namespace skv::kernels {

inline constexpr int32_t kRopeLow = 1024;

struct RopeView {
  const float* lo = nullptr;  // [kRopeLow, rotary_dim / 2, 2]: cos, sin of lo * frequency
  const float* hi = nullptr;  // [hi_rows, rotary_dim / 2, 2]: cos, sin of hi * kRopeLow * frequency
  int32_t hi_rows = 0;        // positions are < hi_rows * kRopeLow
  int32_t rotary_dim = 0;     // even, <= head_dim; dims past it pass through (partial RoPE); 0 = no rotation
  bool interleaved = false;   // pairs (2i, 2i+1) instead of (i, i + rotary_dim / 2)
  float attention_factor = 1.0f;  // a of YaRN / LongRoPE: forward multiplies by a, inverse divides by it
};

}  // namespace skv::kernels
