// A softmax-weighted sum over many rows, cut into parts: each leaves, per query head, its largest logit, its sum of
// weights and its weighted sum of values. Merged in order, so that a result depends on where the cuts are only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/common/host_device.h"

namespace skv::kernels {

struct SoftmaxPart {
  float* max = nullptr;  // [G], -inf before any row
  float* sum = nullptr;  // [G], of exp(logit - max)
  float* acc = nullptr;  // [G, padded_dim], of exp(logit - max) * value
};

// Parts of equal shape in one array of floats.
struct SoftmaxParts {
  float* base = nullptr;
  int32_t group = 0;
  int32_t head_dim = 0;

  SKV_HD static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }
  SKV_HD int64_t padded_dim() const { return padded(head_dim); }
  SKV_HD int64_t part_floats() const { return 2 * padded(group) + group * padded_dim(); }
  SKV_HD SoftmaxPart at(int64_t i) const {
    float* part = base + i * part_floats();
    return {part, part + padded(group), part + 2 * padded(group)};
  }
  void clear(int64_t i) const {
    const SoftmaxPart part = at(i);
    std::fill(part.max, part.max + group, -std::numeric_limits<float>::infinity());
    std::fill(part.sum, part.sum + group, 0.0f);
    std::fill(part.acc, part.acc + group * padded_dim(), 0.0f);
  }
};

// Weight of a part with maximum max in a whole with maximum whole, where both may be -inf (no visible row).
inline float decay_to(float max, float whole) {
  return std::isinf(whole) && whole < 0 ? 1.0f : std::exp(max - whole);
}

// out and lse of head g over parts [first, last): out = 0, lse = -inf when those hold no visible row. With earlier,
// joined to what out and lse hold: unchanged to the bit when the parts weigh nothing.
inline void merge_softmax_head(const SoftmaxParts& parts, int32_t g, int64_t first, int64_t last, bool earlier,
                               float* out, float* lse) {
  const float none = -std::numeric_limits<float>::infinity();
  const bool joined = earlier && *lse != none;
  float max = joined ? *lse : none;
  for (int64_t s = first; s < last; ++s) max = std::fmax(max, parts.at(s).max[g]);
  double sum = 0;
  for (int64_t s = first; s < last; ++s) {
    const SoftmaxPart part = parts.at(s);
    sum += static_cast<double>(decay_to(part.max[g], max)) * part.sum[g];
  }
  if (earlier && sum == 0) return;
  const float before = joined ? decay_to(*lse, max) : 0.0f;
  sum += before;
  for (int32_t d = 0; d < parts.head_dim; ++d) out[d] = joined ? out[d] * before : 0.0f;
  for (int64_t s = first; s < last; ++s) {
    const SoftmaxPart part = parts.at(s);
    const float weight = decay_to(part.max[g], max);
    const float* acc = part.acc + g * parts.padded_dim();
    for (int32_t d = 0; d < parts.head_dim; ++d) out[d] += weight * acc[d];
  }
  const float inverse = sum == 0 ? 0.0f : static_cast<float>(1.0 / sum);
  for (int32_t d = 0; d < parts.head_dim; ++d) out[d] *= inverse;
  if (lse != nullptr) *lse = sum == 0 ? none : static_cast<float>(max + std::log(sum));
}

}  // namespace skv::kernels
