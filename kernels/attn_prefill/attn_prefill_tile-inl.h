// SIMD pieces of attn_prefill_cpu: packing a tile, the matrix product, one row's softmax step. Included per target.
#if defined(SKV_ATTN_PREFILL_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_ATTN_PREFILL_TILE_INL_H_
#undef SKV_ATTN_PREFILL_TILE_INL_H_
#else
#define SKV_ATTN_PREFILL_TILE_INL_H_
#endif

#include <limits>

#include <hwy/highway.h>

#include "kernels/attn_prefill/attn_prefill_tile.h"
#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

static_assert(HWY_MAX_BYTES <= kPad * sizeof(float));

// Rows of a microkernel: with two vectors of columns, 8 rows fill 32 vector registers, 6 rows fill 16.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kMaxRows = 8;
#else
constexpr int kMaxRows = 6;
#endif

struct Matrix {
  const float* data;
  int64_t stride;
};

// c[kRows, kVecs vectors] (+)= a[kRows, depth] b[depth, ...]: one chain over depth per element.
template <bool kAdd, int kRows, int kVecs>
HWY_INLINE void multiply_tile(Matrix a, Matrix b, int64_t depth, float* HWY_RESTRICT c, int64_t c_stride) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  VF acc[kRows][kVecs];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(2)
    for (int j = 0; j < kVecs; ++j) acc[r][j] = kAdd ? hn::LoadU(d, c + r * c_stride + j * lanes) : hn::Zero(d);
  }
  for (int64_t p = 0; p < depth; ++p) {
    VF bv[kVecs];
    HWY_UNROLL(2)
    for (int j = 0; j < kVecs; ++j) bv[j] = hn::LoadU(d, b.data + p * b.stride + j * lanes);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      const VF av = hn::Set(d, a.data[r * a.stride + p]);
      HWY_UNROLL(2)
      for (int j = 0; j < kVecs; ++j) acc[r][j] = hn::MulAdd(av, bv[j], acc[r][j]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(2)
    for (int j = 0; j < kVecs; ++j) hn::StoreU(acc[r][j], d, c + r * c_stride + j * lanes);
  }
}

template <bool kAdd, int kVecs>
void multiply_columns(Matrix a, Matrix b, int64_t rows, int64_t depth, float* c, int64_t c_stride) {
  const auto step = [&](int64_t n) {
    a.data += n * a.stride;
    c += n * c_stride;
    rows -= n;
  };
  for (; rows >= kMaxRows; step(kMaxRows)) multiply_tile<kAdd, kMaxRows, kVecs>(a, b, depth, c, c_stride);
  for (; rows >= 4; step(4)) multiply_tile<kAdd, 4, kVecs>(a, b, depth, c, c_stride);
  for (; rows >= 2; step(2)) multiply_tile<kAdd, 2, kVecs>(a, b, depth, c, c_stride);
  for (; rows >= 1; step(1)) multiply_tile<kAdd, 1, kVecs>(a, b, depth, c, c_stride);
}

// columns is a multiple of kPad.
template <bool kAdd>
void multiply(Matrix a, Matrix b, int64_t rows, int64_t columns, int64_t depth, float* c, int64_t c_stride) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t j = 0;
  for (; j + 2 * lanes <= columns; j += 2 * lanes) {
    multiply_columns<kAdd, 2>(a, Matrix{b.data + j, b.stride}, rows, depth, c + j, c_stride);
  }
  for (; j < columns; j += lanes) {
    multiply_columns<kAdd, 1>(a, Matrix{b.data + j, b.stride}, rows, depth, c + j, c_stride);
  }
}

#if HWY_TARGET != HWY_SCALAR
using Quad = hn::FixedTag<float, 4>;
inline hn::Vec<Quad> load_4(const float* p) { return hn::LoadU(Quad(), p); }
inline hn::Vec<Quad> load_4(const Bf16* p) {
  const hn::FixedTag<uint32_t, 4> d32;
  const hn::FixedTag<uint16_t, 4> d16;
  const auto wide = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(Quad(), hn::ShiftLeft<16>(wide));
}
#endif
inline float load_1(const float* p) { return *p; }
inline float load_1(const Bf16* p) { return bf16_to_f32(p->bits); }

// keys[i, c] = element i of key c. Columns from n up to padded(n) repeat the last key; nobody reads their scores.
template <class T>
void transpose_keys(const KeyTile& tile, int64_t dim, float* HWY_RESTRICT keys) {
  for (int64_t c = 0; c < padded(tile.n); c += 4) {
    const T* row[4];
    for (int64_t i = 0; i < 4; ++i) row[i] = static_cast<const T*>(tile.k[std::min<int64_t>(c + i, tile.n - 1)]);
    int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const Quad d;
    for (; i + 4 <= dim; i += 4) {
      const auto r0 = load_4(row[0] + i), r1 = load_4(row[1] + i);
      const auto r2 = load_4(row[2] + i), r3 = load_4(row[3] + i);
      const auto low02 = hn::InterleaveLower(d, r0, r2), low13 = hn::InterleaveLower(d, r1, r3);
      const auto high02 = hn::InterleaveUpper(d, r0, r2), high13 = hn::InterleaveUpper(d, r1, r3);
      hn::StoreU(hn::InterleaveLower(d, low02, low13), d, keys + i * kTileKeys + c);
      hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, keys + (i + 1) * kTileKeys + c);
      hn::StoreU(hn::InterleaveLower(d, high02, high13), d, keys + (i + 2) * kTileKeys + c);
      hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, keys + (i + 3) * kTileKeys + c);
    }
#endif
    for (; i < dim; ++i) {
      for (int64_t j = 0; j < 4; ++j) keys[i * kTileKeys + c + j] = load_1(row[j] + i);
    }
  }
}

template <class T>
void widen_values(const KeyTile& tile, int64_t dim, float* HWY_RESTRICT values) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), stride = padded(dim);
  for (int64_t c = 0; c < tile.n; ++c) {
    const T* row = static_cast<const T*>(tile.v[c]);
    float* to = values + c * stride;
    int64_t i = 0;
    for (; i + lanes <= dim; i += lanes) store(load(d, row + i), d, to + i);
    if (i < dim) store(load_n(d, row + i, static_cast<std::size_t>(dim - i)), d, to + i);
    for (i = dim; i < stride; ++i) to[i] = 0.0f;
  }
}

// Turns row r's first n scores into weights and brings its running maximum, sum and accumulator up to date.
inline void soften_row(const PrefillScratch& s, int64_t r, int64_t n, int64_t dim_padded) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const VF lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  float* scores = s.scores + r * kTileKeys;
  const int64_t full = n - n % lanes;
  const auto in_tail = hn::FirstN(d, static_cast<std::size_t>(n - full));
  VF max = hn::Set(d, s.max[r]);
  for (int64_t j = 0; j < full; j += lanes) max = hn::Max(hn::LoadU(d, scores + j), max);
  if (full < n) max = hn::Max(hn::IfThenElse(in_tail, hn::LoadU(d, scores + full), lowest), max);
  const float new_max = max_of_lanes(d, max);
  // While every score is -inf the weights are exp(-inf) = 0, not exp(-inf + inf) = NaN.
  const VF shift = hn::Set(d, new_max == -std::numeric_limits<float>::infinity() ? 0.0f : new_max);
  VF sum = hn::Zero(d);
  for (int64_t j = 0; j < full; j += lanes) {
    const VF weight = exp(d, hn::Sub(hn::LoadU(d, scores + j), shift));
    hn::StoreU(weight, d, scores + j);
    sum = hn::Add(sum, weight);
  }
  if (full < n) {
    const VF weight = exp(d, hn::Sub(hn::LoadU(d, scores + full), shift));
    hn::StoreU(weight, d, scores + full);
    sum = hn::Add(sum, hn::IfThenElseZero(in_tail, weight));
  }
  const float tile_sum = sum_of_lanes(d, sum);
  if (new_max == s.max[r]) {
    s.sum[r] += tile_sum;
    return;
  }
  const VF rescale = exp(d, hn::Sub(hn::Set(d, s.max[r]), shift));
  s.sum[r] = s.sum[r] * hn::GetLane(rescale) + tile_sum;
  s.max[r] = new_max;
  float* acc = s.acc + r * dim_padded;
  for (int64_t i = 0; i < dim_padded; i += lanes) hn::StoreU(hn::Mul(rescale, hn::LoadU(d, acc + i)), d, acc + i);
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // SKV_ATTN_PREFILL_TILE_INL_H_
