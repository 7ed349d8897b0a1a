// Log masses from digests that are one row a chunk: means and boxes. Per target, as simd-inl.h.
#if defined(SKV_KERNELS_LANDMARK_SCORE_LANDMARK_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_LANDMARK_SCORE_LANDMARK_ROWS_INL_H_
#undef SKV_KERNELS_LANDMARK_SCORE_LANDMARK_ROWS_INL_H_
#else
#define SKV_KERNELS_LANDMARK_SCORE_LANDMARK_ROWS_INL_H_
#endif

#include <type_traits>

#include "kernels/common/digest_rows-inl.h"
#include "kernels/landmark_score/landmark_query-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

using I16 = hn::ScalableTag<int16_t>;
using I32 = hn::RepartitionToWide<I16>;
using VI16 = hn::Vec<I16>;
using VI32 = hn::Vec<I32>;

HWY_INLINE VI16 load_codes(I16 d, const int8_t* p) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<int8_t, I16>(), p));
}
// The first n < Lanes(d), zeros after them.
HWY_INLINE VI16 load_codes_n(I16 d, const int8_t* p, std::size_t n) {
  const hn::Rebind<int8_t, I16> d8;
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return hn::PromoteTo(d, hn::MaskedLoad(hn::FirstN(d8, n), d8, p));  // reads nothing past n here
#else
  alignas(32) int8_t lanes[HWY_MAX_BYTES / 2] = {};
  std::memcpy(lanes, p, n);
  return hn::PromoteTo(d, hn::LoadU(d8, lanes));
#endif
}

// out[g * kTileRows + r] = dot(q + g * q_stride, k[r]), exact, for G heads and four rows. q rows are padded with
// zeros.
template <int G>
HWY_INLINE void dot_four_rows(const int8_t* const* k, const int16_t* q, std::size_t q_stride, std::size_t dim,
                              int32_t* out, const int8_t* const* ahead) {
  const I16 d;
  const I32 d32;
  const std::size_t lanes = hn::Lanes(d);
  VI32 low[G * 4], high[G * 4];  // the pairs of sums of hn::ReorderWidenMulAccumulate: x86 uses only the first
  unroll<G * 4>([&](auto i) SKV_INLINE_LAMBDA { low[i] = high[i] = hn::Zero(d32); });
  const auto step = [&](std::size_t i, auto load_row) SKV_INLINE_LAMBDA {
    if (ahead != nullptr && i % kLine<int8_t> == 0) {
      unroll<4>([&](auto r) SKV_INLINE_LAMBDA { __builtin_prefetch(ahead[r] + i); });
    }
    VI16 rows[4];
    unroll<4>([&](auto r) SKV_INLINE_LAMBDA { rows[r] = load_row(k[r] + i); });
    unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
      const VI16 head = hn::LoadU(d, q + static_cast<std::size_t>(g()) * q_stride + i);
      unroll<4>([&](auto r) SKV_INLINE_LAMBDA {
        constexpr int at = 4 * decltype(g)::value + decltype(r)::value;
        low[at] = hn::ReorderWidenMulAccumulate(d32, rows[r], head, low[at], high[at]);
      });
    });
  };
  std::size_t i = 0;
  for (; i + lanes <= dim; i += lanes) step(i, [&](const int8_t* p) SKV_INLINE_LAMBDA { return load_codes(d, p); });
  if (i < dim) step(i, [&](const int8_t* p) SKV_INLINE_LAMBDA { return load_codes_n(d, p, dim - i); });
  unroll<G>([&](auto g) SKV_INLINE_LAMBDA {
    const auto sum = [&](int r) SKV_INLINE_LAMBDA { return hn::Add(low[4 * g + r], high[4 * g + r]); };
    store_sums(d32, sum(0), sum(1), sum(2), sum(3), out + g * kTileRows);
  });
}

// w[g * kTileRows + r]: dot products of heads and rows. Up to three entries past n are written.
template <class T>
HWY_INLINE void tile_dots(const T* const* rows, int n, const QueryRows& q, const QueryCodes&, int heads,
                          std::size_t dim, float* w, const Ahead<T>& ahead) {
  tile_logits(rows, n, q.rows, q.stride, heads, dim, w, ahead);
}
HWY_INLINE void tile_dots(const int8_t* const* rows, int n, const QueryRows&, const QueryCodes& q, int heads,
                          std::size_t dim, int32_t* w, const Ahead<int8_t>& ahead) {
  for_each_head_block(rows, n, heads, ahead,
                      [&](auto width, const int8_t* const* k, int g, int r, const int8_t* const* near)
                          SKV_INLINE_LAMBDA {
    dot_four_rows<width()>(k, q.codes + static_cast<std::size_t>(g) * q.stride, q.stride, dim, w + g * kTileRows + r,
                           near);
  });
}

// What makes a log mass of a dot product, of one head: base + w * step * scales[r] + spread * variances[r].
struct RowTerms {
  float base = 0.0f;
  float step = 1.0f;
  float spread = 0.0f;
  const float* scales = nullptr;     // null: 1, and then step is not used either
  const float* variances = nullptr;  // null: 0
};

HWY_INLINE VF dots_to_float(F32 d, const float* w) { return hn::LoadU(d, w); }
HWY_INLINE VF dots_to_float(F32 d, const int32_t* w) { return hn::ConvertTo(d, hn::LoadU(I32(), w)); }

template <class W>
HWY_INLINE void add_terms(const W* w, std::size_t n, const RowTerms& terms, float* mass) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  const VF base = hn::Set(d, terms.base), step = hn::Set(d, terms.step), spread = hn::Set(d, terms.spread);
  for (std::size_t r = 0; r < n; r += lanes) {
    VF x = dots_to_float(d, w + r);
    if (terms.scales != nullptr) x = hn::Mul(x, hn::Mul(step, hn::LoadU(d, terms.scales + r)));
    if (terms.variances != nullptr) x = hn::MulAdd(spread, hn::LoadU(d, terms.variances + r), x);
    x = hn::Add(x, base);
    if (r + lanes <= n) hn::StoreU(x, d, mass + r);
    else store_n(x, d, mass + r, n - r);
  }
}

// mass[g * stride + r] for heads and rows [first, first + n).
template <class T>
void row_mass(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, int32_t first, int32_t n,
              const QueryRows& q, int heads, float* mass, std::size_t stride) {
  constexpr bool kCoded = std::is_same_v<T, int8_t>;
  const bool box = desc.format.kind == DigestKind::box, spread = desc.format.kind == DigestKind::mean_variance;
  float scales[kUnitRows + kHalfPad], variances[kUnitRows + kHalfPad];
  QueryCodes codes;
  if constexpr (kCoded) {
    quantise_queries(q, heads, &codes);
    load_halves(item.digest.scales, first, n, 1, scales);
  }
  if (spread) load_halves(item.digest.variances, first, n, 1, variances);
  const auto dim = static_cast<std::size_t>(box ? 2 * desc.format.head_dim : desc.format.head_dim);
  RowTerms terms;
  terms.base = box ? 0.0f : std::log(static_cast<float>(desc.format.chunk));
  DigestCursor<T> cursor(item.digest.rows, first, n);
  const T* rows[2][kTileRows];
  int count = cursor.fill(rows[0], kTileRows), turn = 0;
  for (int32_t done = 0; count > 0; turn ^= 1) {
    const int next = cursor.fill(rows[turn ^ 1], kTileRows);
    alignas(64) std::conditional_t<kCoded, int32_t, float> w[kTileHeads * kTileRows];
    tile_dots(rows[turn], count, q, codes, heads, dim, w, Ahead<T>{rows[turn ^ 1], next});
    for (int g = 0; g < heads; ++g) {
      if (kCoded) terms.scales = scales + done, terms.step = codes.step[g];
      if (spread) terms.variances = variances + done, terms.spread = 0.5f * q.norm2[g];
      add_terms(w + g * kTileRows, static_cast<std::size_t>(count), terms,
                mass + static_cast<std::size_t>(g) * stride + done);
    }
    done += count;
    count = next;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
