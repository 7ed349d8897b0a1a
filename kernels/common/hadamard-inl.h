// The rotation of hadamard.h within kernels, without its factor 1 / sqrt(width): sums and differences only, exact for
// small integers. Per target, as simd-inl.h.
#if defined(SKV_KERNELS_COMMON_HADAMARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_COMMON_HADAMARD_INL_H_
#undef SKV_KERNELS_COMMON_HADAMARD_INL_H_
#else
#define SKV_KERNELS_COMMON_HADAMARD_INL_H_
#endif

#include "kernels/common/hadamard.h"
#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

inline constexpr int kWalshLanes = static_cast<int>(hn::MaxLanes(F32()));
inline constexpr int kWalshVectors = HWY_TARGET <= HWY_AVX3 ? 16 : 8;  // half the registers

// Lane i gets lane i ^ kDistance.
template <int kDistance>
HWY_INLINE VF exchange_lanes([[maybe_unused]] F32 d, VF v) {
#if HWY_TARGET == HWY_SCALAR
  return v;
#else
  if constexpr (kDistance == 1) return hn::Shuffle2301(v);
  else if constexpr (kDistance == 2) return hn::Shuffle1032(v);
  else if constexpr (kDistance * 2 == kWalshLanes) return hn::ConcatLowerUpper(d, v, v);
  else return hn::SwapAdjacentBlocks(v);
#endif
}

// One stage within each vector: sums in the lanes without bit kDistance, differences in those with it.
template <int kDistance, int V>
HWY_INLINE void walsh_lanes(F32 d, VF (&v)[V]) {
  if constexpr (kDistance < kWalshLanes) {
    const hn::RebindToUnsigned<F32> d32;
    const auto upper = hn::Ne(hn::And(hn::Iota(d32, 0u), hn::Set(d32, uint32_t{kDistance})), hn::Zero(d32));
    const VF sign = hn::IfThenElse(hn::RebindMask(d, upper), hn::Set(d, -1.0f), hn::Set(d, 1.0f));
    unroll<V>([&](auto i) SKV_INLINE_LAMBDA { v[i] = hn::MulAdd(v[i], sign, exchange_lanes<kDistance>(d, v[i])); });
    walsh_lanes<kDistance * 2>(d, v);
  }
}

// One stage between vectors.
template <int kDistance, class Vec, int V>
HWY_INLINE void walsh_stage(Vec (&v)[V]) {
  unroll<V / 2>([&](auto i) SKV_INLINE_LAMBDA {
    constexpr int low = i / kDistance * 2 * kDistance + i % kDistance, high = low + kDistance;
    const Vec sum = hn::Add(v[low], v[high]);
    v[high] = hn::Sub(v[low], v[high]);
    v[low] = sum;
  });
}

// All stages between vectors from a distance of kDistance of them on.
template <int kDistance, class Vec, int V>
HWY_INLINE void walsh_vectors(Vec (&v)[V]) {
  if constexpr (kDistance < V) {
    walsh_stage<kDistance>(v);
    walsh_vectors<kDistance * 2>(v);
  }
}

// x = S x, of V whole vectors in registers.
template <int V>
HWY_INLINE void walsh_block(F32 d, float* x) {
  VF v[V];
  unroll<V>([&](auto i) SKV_INLINE_LAMBDA { v[i] = hn::LoadU(d, x + i * kWalshLanes); });
  walsh_lanes<1>(d, v);
  walsh_vectors<1>(v);
  unroll<V>([&](auto i) SKV_INLINE_LAMBDA { hn::StoreU(v[i], d, x + i * kWalshLanes); });
}

// The same for V vectors or more, fewer than kWalshVectors.
template <int V>
HWY_INLINE void walsh_small(F32 d, float* x, int32_t n) {
  if constexpr (V < kWalshVectors) {
    if (n == V * kWalshLanes) walsh_block<V>(d, x);
    else walsh_small<2 * V>(d, x, n);
  }
}

// Stages of distances [from, n), elements; both multiples of the lanes.
HWY_INLINE void walsh_memory(F32 d, float* x, int32_t from, int32_t n) {
  for (int32_t distance = from; distance < n; distance *= 2) {
    for (int32_t first = 0; first < n; first += 2 * distance) {
      for (int32_t i = first; i < first + distance; i += kWalshLanes) {
        const VF a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + i + distance);
        hn::StoreU(hn::Add(a, b), d, x + i);
        hn::StoreU(hn::Sub(a, b), d, x + i + distance);
      }
    }
  }
}

// x = S x; n a power of two, at least 16. Distances rise from stage to stage whatever the target: equal bits on all.
HWY_INLINE void walsh_row(F32 d, float* x, int32_t n) {
  constexpr int32_t kBlock = kWalshVectors * kWalshLanes;
  if (n < kBlock) return walsh_small<16 / kWalshLanes>(d, x, n);
  for (int32_t i = 0; i < n; i += kBlock) walsh_block<kWalshVectors>(d, x + i);
  walsh_memory(d, x, kBlock, n);
}

// One pass between groups of b elements, R groups at distances h, 2 h, ... of n; b and so every row of a group is a
// multiple of 4, seldom of more.
template <int R>
HWY_INLINE void walsh_groups(const float* from, float* to, int32_t n, int32_t h, int32_t b) {
  const hn::CappedTag<float, 4> d4;
  const auto lanes = static_cast<int32_t>(hn::Lanes(d4));
  for (int32_t first = 0; first < n * b; first += R * h * b) {
    for (int32_t i = first; i < first + h * b; i += lanes) {
      hn::Vec<decltype(d4)> v[R];
      unroll<R>([&](auto r) SKV_INLINE_LAMBDA { v[r] = hn::LoadU(d4, from + i + r * h * b); });
      walsh_vectors<1>(v);
      unroll<R>([&](auto r) SKV_INLINE_LAMBDA { hn::StoreU(v[r], d4, to + i + r * h * b); });
    }
  }
}

// x * factor + 0: no negative zeros.
HWY_INLINE VF scale_sums(F32 d, VF x, VF factor) { return hn::MulAdd(x, factor, hn::Zero(d)); }

// G groups of B elements: out = factor Q x, a column of Q at a time. Whole vectors are written, of which the elements
// after B are the next group's; the last group of a row ends with it.
template <int B, int G>
HWY_INLINE void core_groups(F32 d, const float* columns, const float* x, VF factor, bool last, float* out) {
  constexpr int N = (B + kWalshLanes - 1) / kWalshLanes;
  VF sum[G * N];
  unroll<G * N>([&](auto i) SKV_INLINE_LAMBDA { sum[i] = hn::Zero(d); });
  for (int32_t j = 0; j < B; ++j, columns += kCoreStride) {
    unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
      const VF xj = hn::Set(d, x[g * B + j]);
      unroll<N>([&](auto i) SKV_INLINE_LAMBDA {
        sum[g * N + i] = hn::MulAdd(xj, hn::Load(d, columns + i * kWalshLanes), sum[g * N + i]);
      });
    });
  }
  unroll<G * N>([&](auto i) SKV_INLINE_LAMBDA {
    constexpr int g = i / N, at = i % N * kWalshLanes;
    const VF scaled = scale_sums(d, sum[i], factor);
    if (g == G - 1 && last && at + kWalshLanes > B) store_n(scaled, d, out + g * B + at, B - at);
    else store(scaled, d, out + g * B + at);
  });
}

// First the stages between groups, then the core within them.
template <int B>
HWY_INLINE void core_row(F32 d, float* x, int32_t width, bool inverse, VF factor) {
  constexpr int N = (B + kWalshLanes - 1) / kWalshLanes, G = N == 1 ? 8 : N == 2 ? 4 : N == 3 ? 2 : 1;
  alignas(64) float y[kMaxHadamard];
  const int32_t n = width / B;
  const float* from = x;
  for (int32_t h = 1; h < n; from = y) {
    const int32_t rest = n / h;
    if (rest >= 8) walsh_groups<8>(from, y, n, h, B), h *= 8;
    else if (rest == 4) walsh_groups<4>(from, y, n, h, B), h *= 4;
    else walsh_groups<2>(from, y, n, h, B), h *= 2;
  }
  if (n == 1) std::memcpy(y, x, B * sizeof(float));
  const float* columns = hadamard_core(B, inverse);
  int32_t g = 0;
  for (; g + G <= n; g += G) core_groups<B, G>(d, columns, y + g * B, factor, g + G == n, x + g * B);
  for (; g < n; ++g) core_groups<B, 1>(d, columns, y + g * B, factor, g + 1 == n, x + g * B);
}

// x = factor sqrt(width) H x, or H^T x if inverse; a zero is +0.
HWY_INLINE void hadamard_row(F32 d, float* x, int32_t width, bool inverse, VF factor) {
  switch (hadamard_core_order(width)) {
    case 12: return core_row<12>(d, x, width, inverse, factor);
    case 20: return core_row<20>(d, x, width, inverse, factor);
    default: break;
  }
  walsh_row(d, x, width);
  for (int32_t i = 0; i < width; i += kWalshLanes) store(scale_sums(d, load(d, x + i), factor), d, x + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
