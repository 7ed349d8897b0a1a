#include "kernels/landmark_build/landmark_build.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/landmark_build/landmark_build_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/hadamard.h"
#include "kernels/common/parallel.h"
#include "kernels/common/row_codec-inl.h"
#include "kernels/common/row_tile-inl.h"
#include "kernels/common/simd-inl.h"

#ifndef SKV_KERNELS_LANDMARK_BUILD_LIMITS
#define SKV_KERNELS_LANDMARK_BUILD_LIMITS
namespace skv::kernels {
inline constexpr int64_t kLandmarkDim = 256;    // largest head_dim
inline constexpr int32_t kLandmarkChunk = 32;   // largest chunk
inline constexpr int64_t kLandmarkChunks = 64;  // of one unit of work
inline constexpr int64_t kLandmarkRotated = 8;  // keys rotated at a time: 8 KB at most
}  // namespace skv::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

inline float widen(float x) { return x; }
inline float widen(Bf16 x) { return bf16_to_f32(x.bits); }

// Where one chunk's digest goes, and the weights [dim] of the keys it is of. scales and variance are null where the
// format has none.
template <class T>
struct DigestPlace {
  const float* weights;
  T* row;
  uint16_t* scales;
  uint16_t* variance;
};

// mean [dim]: column means, NaN where a key is not finite. Each key is scaled before it is added, so that finite keys
// have finite means. kBox: also the weighted column extremes, NaN likewise.
template <bool kBox, class T>
void reduce_columns(const T* k, int64_t chunk, int64_t dim, float* mean, const DigestPlace<T>& to) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const VF scale = hn::Set(d, 1.0f / static_cast<float>(chunk)), zero = hn::Zero(d);
  for (int64_t j = 0; j < dim; j += lanes) {
    VF sum = zero, high = hn::Set(d, -std::numeric_limits<float>::infinity()), low = hn::Neg(high);
    for (int64_t t = 0; t < chunk; ++t) {
      const VF x = load(d, k + t * dim + j);
      sum = hn::MulAdd(x, scale, sum);
      if constexpr (kBox) {
        high = hn::Max(high, x);
        low = hn::Min(low, x);
      }
    }
    const VF nan_or_zero = hn::Mul(sum, zero);
    hn::Store(hn::Add(sum, nan_or_zero), d, mean + j);
    if constexpr (kBox) {
      const VF weight = hn::Load(d, to.weights + j);
      store(hn::MulAdd(high, weight, nan_or_zero), d, to.row + j);
      store(hn::MulAdd(low, weight, nan_or_zero), d, to.row + dim + j);
    }
  }
}

// In double nothing overflows or vanishes. Returns NaN or an infinity where a key is not finite.
template <class T>
float careful_cosine(const T* row, const float* mean, int64_t dim) {
  double product = 0.0, norm2 = 0.0, mean2 = 0.0;
  for (int64_t i = 0; i < dim; ++i) {
    const double x = widen(row[i]), m = mean[i];
    product += x * m;
    norm2 += x * x;
    mean2 += m * m;
  }
  if (norm2 == 0.0 || mean2 == 0.0) return 0.0f;
  return static_cast<float>(product / (std::sqrt(norm2) * std::sqrt(mean2)));
}

// Whether a sum of squares in f32 lost nothing that matters to over- or underflow.
inline bool is_plain(float norm2) { return norm2 > 1e-24f && norm2 < std::numeric_limits<float>::max(); }

template <class T>
float lowest_cosine(const T* k, const float* mean, int64_t chunk, int64_t dim) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float mean2 = dot(mean, mean, static_cast<std::size_t>(dim)), mean_norm = std::sqrt(mean2);
  const bool plain_mean = is_plain(mean2);
  float lowest = 2.0f;
  for (int64_t t = 0; t < chunk; t += 4) {
    const T* rows[4];
    for (int64_t i = 0; i < 4; ++i) rows[i] = k + std::min(t + i, chunk - 1) * dim;
    VF product[4], square[4];
    unroll<4>([&](auto i) SKV_INLINE_LAMBDA { product[i] = square[i] = hn::Zero(d); });
    for (int64_t j = 0; j < dim; j += lanes) {
      const VF m = hn::Load(d, mean + j);
      unroll<4>([&](auto i) SKV_INLINE_LAMBDA {
        const VF x = load(d, rows[i] + j);
        product[i] = hn::MulAdd(x, m, product[i]);
        square[i] = hn::MulAdd(x, x, square[i]);
      });
    }
    float products[4], squares[4];
    store_sums(d, product[0], product[1], product[2], product[3], products);
    store_sums(d, square[0], square[1], square[2], square[3], squares);
    for (int i = 0; i < 4; ++i) {
      const float cosine = plain_mean && is_plain(squares[i]) ? products[i] / (std::sqrt(squares[i]) * mean_norm)
                                                              : careful_cosine(rows[i], mean, dim);
      if (!std::isfinite(cosine)) return -1.0f;
      lowest = std::min(lowest, cosine);
    }
  }
  return lowest;
}

template <class T>
void write_mean(const float* mean, int64_t dim, const DigestPlace<T>& to) {
  HWY_ALIGN float weighted[kLandmarkDim];
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const bool coded = to.scales != nullptr;
  for (int64_t j = 0; j < dim; j += lanes) {
    const VF x = hn::Mul(hn::Load(d, mean + j), hn::Load(d, to.weights + j));
    if (coded) hn::Store(x, d, weighted + j);
    else store(x, d, to.row + j);
  }
  if (coded) *to.scales = encode_int8_row(weighted, dim, reinterpret_cast<int8_t*>(to.row));
}

// A sum of finite squares that overflows is far above the largest f16 in any case; NaN means stay NaN.
template <class T>
uint16_t variance_of(const T* k, const float* mean, const float* weights, int64_t chunk, int64_t dim) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  VF even = hn::Zero(d), odd = even;
  for (int64_t j = 0; j < dim; j += lanes) {
    const VF m = hn::Load(d, mean + j), w = hn::Load(d, weights + j);
    const auto deviation = [&](int64_t t) SKV_INLINE_LAMBDA {
      return hn::Mul(hn::Sub(load(d, k + t * dim + j), m), w);
    };
    int64_t t = 0;
    for (; t + 2 <= chunk; t += 2) {
      const VF a = deviation(t), b = deviation(t + 1);
      even = hn::MulAdd(a, a, even);
      odd = hn::MulAdd(b, b, odd);
    }
    if (t < chunk) {
      const VF a = deviation(t);
      even = hn::MulAdd(a, a, even);
    }
  }
  const float variance = sum_of_lanes(d, hn::Add(even, odd)) / static_cast<float>(chunk * dim);
  return f32_to_f16(variance > 65504.0f ? 65504.0f : variance);
}

// Codes of one rotated key; returns its f16 scale. Reads up to a vector past y and past its quarters.
uint16_t quantise_key(const float* y, int64_t dim, uint8_t* packed) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  const hn::Rebind<uint8_t, F32> du8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t quarter = dim / 4;
  const float norm2 = dot(y, y, static_cast<std::size_t>(dim));
  const VF t = hn::Set(d, 0.9957f * std::sqrt(norm2 / static_cast<float>(dim))), minus_t = hn::Neg(t);
  const VF zero = hn::Zero(d), one = hn::Set(d, 1.0f), middle = hn::Set(d, 1.5f);
  VF energy = zero;
  for (int64_t b = 0; b < quarter; b += lanes) {
    const int64_t n = std::min(lanes, quarter - b);
    const auto valid = hn::FirstN(d, static_cast<std::size_t>(n));
    VF byte = zero;  // exact: at most 255
    unroll<4>([&](auto i) SKV_INLINE_LAMBDA {
      const VF x = hn::IfThenElseZero(valid, hn::LoadU(d, y + i * quarter + b));
      VF level = hn::Sub(hn::Set(d, 3.0f), hn::IfThenElseZero(hn::Lt(x, minus_t), one));
      level = hn::Sub(level, hn::IfThenElseZero(hn::Lt(x, zero), one));
      level = hn::Sub(level, hn::IfThenElseZero(hn::Lt(x, t), one));
      const VF u = hn::IfThenElseZero(valid, hn::Sub(level, middle));
      energy = hn::MulAdd(u, u, energy);
      byte = hn::MulAdd(level, hn::Set(d, static_cast<float>(1 << (2 * i))), byte);
    });
    const auto bytes = hn::DemoteTo(du8, hn::ConvertTo(di, byte));
    if (n == lanes) {
      hn::StoreU(bytes, du8, packed + b);
    } else {
      uint8_t rest[HWY_MAX_BYTES];
      hn::StoreU(bytes, du8, rest);
      std::memcpy(packed + b, rest, static_cast<std::size_t>(n));
    }
  }
  if (norm2 == 0.0f) return 0;
  const uint16_t scale = f32_to_f16(std::sqrt(norm2 / sum_of_lanes(d, energy)));
  constexpr uint16_t kExponent = 0x7c00u, kNan = 0x7e00u;
  return (scale & kExponent) == kExponent ? kNan : scale;
}

template <class T>
void write_keys(const DigestFormat& format, const T* k, const DigestPlace<T>& to) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t dim = format.head_dim;
  HWY_ALIGN float y[kLandmarkRotated * kLandmarkDim + HWY_MAX_BYTES / sizeof(float)];
  for (int64_t first = 0; first < format.chunk; first += kLandmarkRotated) {
    const int64_t n = std::min(kLandmarkRotated, format.chunk - first);
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t j = 0; j < dim; j += lanes) {
        hn::Store(hn::Mul(load(d, k + (first + t) * dim + j), hn::Load(d, to.weights + j)), d, y + t * dim + j);
      }
    }
    hadamard_rows(y, n, format.head_dim, false);
    for (int64_t t = 0; t < n; ++t) {
      uint8_t* packed = reinterpret_cast<uint8_t*>(to.row) + (first + t) * (dim / 4);
      to.scales[first + t] = quantise_key(y + t * dim, dim, packed);
    }
  }
}

template <class T>
void build_chunk(const DigestFormat& format, const T* k, const DigestPlace<T>& to, float* min_cosine) {
  HWY_ALIGN float mean[kLandmarkDim];
  const int64_t chunk = format.chunk, dim = format.head_dim;
  if (format.kind == DigestKind::box) reduce_columns<true>(k, chunk, dim, mean, to);
  else if (format.kind != DigestKind::keys_2bit || min_cosine != nullptr)
    reduce_columns<false>(k, chunk, dim, mean, to);
  if (min_cosine != nullptr) *min_cosine = lowest_cosine(k, mean, chunk, dim);
  if (format.kind == DigestKind::keys_2bit) write_keys(format, k, to);
  if (format.kind == DigestKind::mean || format.kind == DigestKind::mean_variance) write_mean(mean, dim, to);
  if (format.kind == DigestKind::mean_variance) *to.variance = variance_of(k, mean, to.weights, chunk, dim);
}

// Chunks [begin, end) of an item; spans before them are skipped.
template <class T>
void build_range(const DigestFormat& format, const LandmarkBuildItem& item, int64_t begin, int64_t end) {
  const bool scaled = format.scale_bytes() > 0, varied = format.variance_bytes() > 0;
  HWY_ALIGN float weights[kLandmarkDim];
  for (int64_t i = 0; i < format.head_dim; ++i) weights[i] = item.inverse_weights ? item.inverse_weights[i] : 1.0f;
  int64_t first = 0;
  for (int32_t s = 0; s < item.n_spans && first < end; ++s) {
    const int64_t n = item.spans[s].n / format.chunk;
    for (int64_t j = std::max(begin, first); j < std::min(end, first + n); ++j) {
      const T* k = static_cast<const T*>(item.spans[s].k) + (j - first) * format.chunk * format.head_dim;
      const int64_t row = item.first_chunk + j;
      const DigestPlace<T> to{weights, static_cast<T*>(item.digest.rows.row(row)),
                              scaled ? static_cast<uint16_t*>(item.digest.scales.row(row)) : nullptr,
                              varied ? static_cast<uint16_t*>(item.digest.variances.row(row)) : nullptr};
      build_chunk(format, k, to, item.min_cosine != nullptr ? item.min_cosine + j : nullptr);
    }
    first += n;
  }
}

void landmark_build_simd(const DigestFormat& format, std::span<const LandmarkBuildItem> items) {
  int64_t units = 0;
  for (const LandmarkBuildItem& item : items) {
    int64_t chunks = 0;
    for (int32_t s = 0; s < item.n_spans; ++s) chunks += item.spans[s].n / format.chunk;
    units = std::max(units, (chunks + kLandmarkChunks - 1) / kLandmarkChunks);
  }
  parallel_for(static_cast<int64_t>(items.size()) * units, [&](int64_t i, int) HWY_ATTR {
    const LandmarkBuildItem& item = items[static_cast<std::size_t>(i / units)];
    const int64_t begin = i % units * kLandmarkChunks;
    if (format.dtype == DType::bf16) build_range<Bf16>(format, item, begin, begin + kLandmarkChunks);
    else build_range<float>(format, item, begin, begin + kLandmarkChunks);
  });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
HWY_EXPORT(landmark_build_simd);

bool landmark_build_supports(const DigestFormat& format) {
  const bool means = format.kind == DigestKind::mean || format.kind == DigestKind::mean_variance;
  const bool codec = format.codec == BlockCodec::raw || (format.codec == BlockCodec::int8 && means);
  const bool dim = format.head_dim >= 16 && format.head_dim <= kLandmarkDim && format.head_dim % 16 == 0 &&
                   (format.kind != DigestKind::keys_2bit || hadamard_supports(format.head_dim));
  return codec && dim && format.dtype != DType::f16 && format.chunk >= 1 && format.chunk <= kLandmarkChunk;
}

void landmark_build_cpu(const DigestFormat& format, std::span<const LandmarkBuildItem> items) {
  HWY_DYNAMIC_DISPATCH(landmark_build_simd)(format, items);
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
