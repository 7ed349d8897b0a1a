// Logits of a tile of rows into softmax weights, with a running maximum. Per target, as simd-inl.h.
#if defined(SKV_KERNELS_COMMON_SOFTMAX_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_COMMON_SOFTMAX_TILE_INL_H_
#undef SKV_KERNELS_COMMON_SOFTMAX_TILE_INL_H_
#else
#define SKV_KERNELS_COMMON_SOFTMAX_TILE_INL_H_
#endif

#include <algorithm>
#include <limits>

#include "kernels/common/simd-inl.h"
#include "kernels/common/softmax_parts.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

// Logits w [n] of one head become weights exp(w - max), max brought up to date first; returns what the head's earlier
// sums must be multiplied by. w has room for whole vectors, whose lanes past n become zeros.
HWY_INLINE float weigh(float* w, int n, float* max, float* sum) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const float none = -std::numeric_limits<float>::infinity();
  for (int r = n; r % lanes != 0; ++r) w[r] = none;
  VF top = hn::Set(d, none);
  for (int r = 0; r < n; r += lanes) top = hn::Max(hn::LoadU(d, w + r), top);
  const float whole = std::max(*max, max_of_lanes(d, top));
  const VF shift = hn::Set(d, whole == none ? 0.0f : whole);
  VF total = hn::Zero(d);
  for (int r = 0; r < n; r += lanes) {
    const VF p = exp(d, hn::Sub(hn::LoadU(d, w + r), shift));
    hn::StoreU(p, d, w + r);
    total = hn::Add(total, p);
  }
  const float decay = *max == whole ? 1.0f : decay_to(*max, whole);
  *sum = *sum * decay + sum_of_lanes(d, total);
  *max = whole;
  return decay;
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
