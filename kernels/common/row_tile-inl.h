// Tiles of K/V or landmark rows against the query heads of one KV head: logits and weighted sums. A tile's rows stay
// in the first cache levels while all heads pass over it, so memory is read once. Per target, as simd-inl.h.
#if defined(SKV_KERNELS_COMMON_ROW_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_COMMON_ROW_TILE_INL_H_
#undef SKV_KERNELS_COMMON_ROW_TILE_INL_H_
#else
#define SKV_KERNELS_COMMON_ROW_TILE_INL_H_
#endif

#include <algorithm>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

inline constexpr int kTileRows = 64;   // 32 KB of K and V at head_dim 128 in 16 bits
inline constexpr int kTileHeads = 8;   // query heads whose logits are held at once
// Accumulators must fit the registers: 32 of them on AVX-512, 16 below.
inline constexpr int kWideHeads = HWY_TARGET == HWY_AVX3 ? 4 : 2;
inline constexpr int kAccumulators = HWY_TARGET == HWY_AVX3 ? 16 : 8;

// Any row lengths and places: consecutive rows need not be neighbours.
template <class T>
struct RowTile {
  const T* k[kTileRows];
  const T* v[kTileRows];
  int n = 0;
};

// Rows to bring near while others are worked on, one for each of those, a line at a time between the products: in
// bursts they would fill the miss buffers and stall. n = 0: none.
template <class T>
struct Ahead {
  const T* const* rows = nullptr;
  int n = 0;
};

template <class T>
inline constexpr std::size_t kLine = 64 / sizeof(T);

#if HWY_TARGET != HWY_SCALAR
// Folds a vector onto its first 128 bits.
template <class D, class V, class T = hn::TFromD<D>>
HWY_INLINE void store_block_sum(D d, V v, T* out) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    hn::StoreU(v, d, out);
  } else {
    const hn::Half<D> half;
    store_block_sum(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), out);
  }
}
#endif

// The lane sums of four vectors of f32 or int32. Always this tree, so that a row's dot product does not depend on its
// place in a tile.
template <class D, class V, class T = hn::TFromD<D>>
HWY_INLINE void store_sums([[maybe_unused]] D d, V a, V b, V c, V e, T* out) {
#if HWY_TARGET == HWY_SCALAR
  out[0] = hn::GetLane(a), out[1] = hn::GetLane(b), out[2] = hn::GetLane(c), out[3] = hn::GetLane(e);
#else
  const hn::RepartitionToWide<D> dw;
  const auto ab = hn::BitCast(dw, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(dw, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const V blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(dw, ab, ce)),
                           hn::BitCast(d, hn::InterleaveUpper(dw, ab, ce)));
  store_block_sum(d, blocks, out);
#endif
}

// out[g * kTileRows + r] = dot(q + g * q_stride, k[r]) for G heads and four rows. q rows are padded with zeros.
// ahead: four rows to prefetch, or null.
template <int G, class T>
HWY_INLINE void dot_four_rows(const T* const* k, const float* q, std::size_t q_stride, std::size_t dim, float* out,
                              const T* const* ahead) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  VF sum[G * 4];
  unroll<G * 4>([&](auto i) SKV_INLINE_LAMBDA { sum[i] = hn::Zero(d); });
  const T *k0 = k[0], *k1 = k[1], *k2 = k[2], *k3 = k[3];
  const auto step = [&](std::size_t i, auto load_row) SKV_INLINE_LAMBDA {
    if (ahead != nullptr && i % kLine<T> == 0) {
      unroll<4>([&](auto r) SKV_INLINE_LAMBDA { __builtin_prefetch(ahead[r] + i); });
    }
    const VF r0 = load_row(k0 + i), r1 = load_row(k1 + i), r2 = load_row(k2 + i), r3 = load_row(k3 + i);
    unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
      const VF head = hn::LoadU(d, q + static_cast<std::size_t>(g()) * q_stride + i);
      sum[4 * g] = hn::MulAdd(r0, head, sum[4 * g]);
      sum[4 * g + 1] = hn::MulAdd(r1, head, sum[4 * g + 1]);
      sum[4 * g + 2] = hn::MulAdd(r2, head, sum[4 * g + 2]);
      sum[4 * g + 3] = hn::MulAdd(r3, head, sum[4 * g + 3]);
    });
  };
  std::size_t i = 0;
  for (; i + lanes <= dim; i += lanes) step(i, [&](const T* p) SKV_INLINE_LAMBDA { return load(d, p); });
  if (i < dim) step(i, [&](const T* p) SKV_INLINE_LAMBDA { return load_n(d, p, dim - i); });
  unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
    store_sums(d, sum[4 * g], sum[4 * g + 1], sum[4 * g + 2], sum[4 * g + 3], out + g * kTileRows);
  });
}

// dot(integral_constant<int, G>, four rows, g, r, four rows to prefetch or null) until heads [0, heads) have met rows
// [0, n), G heads from g on and the rows from r on at a time. Past row n - 1 it stands in for the missing ones.
template <class T, class Dot>
HWY_INLINE void for_each_head_block(const T* const* rows, int n, int heads, const Ahead<T>& ahead, Dot&& dot) {
  for (int r = 0; r < n; r += 4) {
    const T* k[4];
    for (int i = 0; i < 4; ++i) k[i] = rows[std::min(r + i, n - 1)];
    const T* const* near = r + 4 <= ahead.n ? ahead.rows + r : nullptr;
    int g = 0;
    for (; g + kWideHeads <= heads; g += kWideHeads, near = nullptr) {
      dot(std::integral_constant<int, kWideHeads>{}, k, g, r, near);
    }
    if (kWideHeads > 2 && g + 2 <= heads) {
      dot(std::integral_constant<int, 2>{}, k, g, r, near);
      g += 2;
      near = nullptr;
    }
    if (g < heads) dot(std::integral_constant<int, 1>{}, k, g, r, near);
  }
}

// Logits of heads <= kTileHeads heads against n rows: w[g * kTileRows + r]. Up to three entries past n are written
// with copies of the last row's.
template <class T>
HWY_INLINE void tile_logits(const T* const* rows, int n, const float* q, std::size_t q_stride, int heads,
                            std::size_t dim, float* w, const Ahead<T>& ahead = {}) {
  for_each_head_block(rows, n, heads, ahead,
                      [&](auto width, const T* const* k, int g, int r, const T* const* near) SKV_INLINE_LAMBDA {
    dot_four_rows<width()>(k, q + static_cast<std::size_t>(g) * q_stride, q_stride, dim, w + g * kTileRows + r, near);
  });
}

// acc[g, i..] = acc * decay[g] + sum_r w[g, r] v[r][i..] for G heads and N vectors of columns from i on; the tile is
// summed from zero first, which keeps the rounding error of long rows that of a tree.
template <int G, int N, class T, class LoadRow>
HWY_INLINE void add_rows(const T* const* v, int n, std::size_t i, const float* w, const float* decay, float* acc,
                         std::size_t acc_stride, const Ahead<T>& ahead, LoadRow&& load_row) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  VF sum[G * N];
  unroll<G * N>([&](auto i) SKV_INLINE_LAMBDA { sum[i] = hn::Zero(d); });
  for (int r = 0; r < n; ++r) {
    const T* from = v[r] + i;
    if (r < ahead.n) {
      for (std::size_t c = 0; c < N * lanes; c += kLine<T>) __builtin_prefetch(ahead.rows[r] + i + c);
    }
    VF row[N];
    unroll<N>([&](auto c) SKV_INLINE_LAMBDA { row[c] = load_row(from + static_cast<std::size_t>(c()) * lanes); });
    unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
      const VF p = hn::Set(d, w[g * kTileRows + r]);
      unroll<N>([&](auto c) SKV_INLINE_LAMBDA { sum[g * N + c] = hn::MulAdd(p, row[c], sum[g * N + c]); });
    });
  }
  unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
    float* to = acc + static_cast<std::size_t>(g()) * acc_stride + i;
    const VF scale = hn::Set(d, decay[g]);
    unroll<N>([&](auto c) SKV_INLINE_LAMBDA {
      hn::StoreU(hn::MulAdd(hn::LoadU(d, to + c * lanes), scale, sum[g * N + c]), d, to + c * lanes);
    });
  });
}

// All columns for G heads. acc rows are padded to whole vectors.
template <int G, class T>
HWY_INLINE void add_rows_all(const T* const* v, int n, std::size_t dim, const float* w, const float* decay,
                             float* acc, std::size_t acc_stride, const Ahead<T>& ahead) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  constexpr int kWide = std::min(kAccumulators / G, 8);
  const auto whole = [&](const T* p) SKV_INLINE_LAMBDA { return load(d, p); };
  std::size_t i = 0;
  for (; i + kWide * lanes <= dim; i += kWide * lanes) {
    add_rows<G, kWide>(v, n, i, w, decay, acc, acc_stride, ahead, whole);
  }
  for (; i + lanes <= dim; i += lanes) {
    add_rows<G, 1>(v, n, i, w, decay, acc, acc_stride, ahead, whole);
  }
  if (i < dim) {
    const auto part = [&](const T* p) SKV_INLINE_LAMBDA { return load_n(d, p, dim - i); };
    add_rows<G, 1>(v, n, i, w, decay, acc, acc_stride, ahead, part);
  }
}

template <class T>
HWY_INLINE void tile_weighted_sum(const T* const* v, int n, std::size_t dim, const float* w, const float* decay,
                                  int heads, float* acc, std::size_t acc_stride, Ahead<T> ahead = {}) {
  int g = 0;
  const auto at = [&](int head) { return acc + static_cast<std::size_t>(head) * acc_stride; };
  for (; g + kWideHeads <= heads; g += kWideHeads, ahead.n = 0) {
    add_rows_all<kWideHeads>(v, n, dim, w + g * kTileRows, decay + g, at(g), acc_stride, ahead);
  }
  if (kWideHeads > 2 && g + 2 <= heads) {
    add_rows_all<2>(v, n, dim, w + g * kTileRows, decay + g, at(g), acc_stride, ahead);
    g += 2;
    ahead.n = 0;
  }
  if (g < heads) add_rows_all<1>(v, n, dim, w + g * kTileRows, decay + g, at(g), acc_stride, ahead);
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
