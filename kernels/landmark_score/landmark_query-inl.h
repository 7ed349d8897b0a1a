// The query heads of a work unit in the forms that digests are read with. Per target, as simd-inl.h.
#if defined(SKV_KERNELS_LANDMARK_SCORE_LANDMARK_QUERY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_LANDMARK_SCORE_LANDMARK_QUERY_INL_H_
#undef SKV_KERNELS_LANDMARK_SCORE_LANDMARK_QUERY_INL_H_
#else
#define SKV_KERNELS_LANDMARK_SCORE_LANDMARK_QUERY_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "kernels/common/hadamard.h"
#include "kernels/common/row_tile-inl.h"
#include "kernels/landmark_score/landmark_score_plan.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

inline constexpr std::size_t kQueryPad = 32;  // lanes of the widest vector of int16

// Heads times the scale of the scores, one row of elements after another, zeros up to stride.
struct QueryRows {
  alignas(64) float rows[kTileHeads * (kMaxScoreRow + kQueryPad)];
  std::size_t stride;
  float norm2[kTileHeads];  // scale^2 |q|^2

  const float* head(int g) const { return rows + static_cast<std::size_t>(g) * stride; }
  float* head(int g) { return rows + static_cast<std::size_t>(g) * stride; }
};

// The same rounded to int16: element = step * code. Head g's step is NaN if an element of it is not finite.
struct QueryCodes {
  alignas(64) int16_t codes[kTileHeads * (kMaxScoreRow + kQueryPad)];
  std::size_t stride;
  float step[kTileHeads];
};

// For boxes a head is [max(q, 0), min(q, 0)], twice as long: its dot product with [max, min] is
// sum_d max(q_d max_d, q_d min_d).
HWY_INLINE void load_queries(const LandmarkScoreDesc& desc, const float* q, const float* weights, int heads,
                             QueryRows* out) {
  const auto dim = static_cast<std::size_t>(desc.format.head_dim);
  const bool box = desc.format.kind == DigestKind::box;
  const bool packed = desc.format.kind == DigestKind::keys_2bit;  // rotated in place, as neighbours
  const std::size_t size = box ? 2 * dim : dim;
  out->stride = packed ? size : round_up(size, kQueryPad);
  for (int g = 0; g < heads; ++g) {
    const float* from = q + static_cast<std::size_t>(g) * dim;
    float* to = out->head(g);
    for (std::size_t i = 0; i < dim; ++i) to[i] = (weights != nullptr ? from[i] * weights[i] : from[i]) * desc.scale;
    out->norm2[g] = dot(to, to, dim);
    for (std::size_t i = 0; box && i < dim; ++i) {  // a NaN stays in both
      to[dim + i] = to[i] > 0.0f ? 0.0f : to[i];
      to[i] = to[i] < 0.0f ? 0.0f : to[i];
    }
    std::fill(to + size, to + out->stride, 0.0f);
  }
}

// n floats, a multiple of every vector's lanes, to codes in [-32767, 32767]. Returns the step.
HWY_INLINE float quantise(const float* x, std::size_t n, int16_t* codes) {
  const F32 d;
  const hn::Rebind<int16_t, F32> d16;
  const std::size_t lanes = hn::Lanes(d);
  VF top = hn::Zero(d), damage = hn::Zero(d);
  for (std::size_t i = 0; i < n; i += lanes) {
    const VF v = hn::LoadU(d, x + i);
    top = hn::Max(top, hn::Abs(v));
    damage = hn::Add(damage, hn::Sub(v, v));  // 0, or NaN once an element is not finite
  }
  const float inverse = std::min(32767.0f / max_of_lanes(d, top), 1e38f);  // zeros: 0 * 1e38
  for (std::size_t i = 0; i < n; i += lanes) {
    const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse)));
    hn::StoreU(hn::DemoteTo(d16, rounded), d16, codes + i);
  }
  return 1.0f / inverse + sum_of_lanes(d, damage);
}

HWY_INLINE void quantise_queries(const QueryRows& q, int heads, QueryCodes* out) {
  out->stride = q.stride;
  for (int g = 0; g < heads; ++g) {
    out->step[g] = quantise(q.head(g), q.stride, out->codes + static_cast<std::size_t>(g) * q.stride);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
