// The codes of row_codec.h, any n >= 1, nothing read or written past n: bits equal to the references there. int8 rows
// may be of any element type T. Per target, as simd-inl.h.
#if defined(SKV_KERNELS_COMMON_ROW_CODEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_COMMON_ROW_CODEC_INL_H_
#undef SKV_KERNELS_COMMON_ROW_CODEC_INL_H_
#else
#define SKV_KERNELS_COMMON_ROW_CODEC_INL_H_
#endif

#include <bit>
#include <limits>
#include <type_traits>

#include "kernels/common/row_codec.h"
#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

using CodeI32 = hn::RebindToSigned<F32>;
using CodeI8 = hn::Rebind<int8_t, F32>;  // as many lanes as F32 has
using CodeU8 = hn::Rebind<uint8_t, F32>;

// Bits of the largest |x|: as integers they rank numbers below infinities below NaN, so that none is lost.
template <class T>
HWY_INLINE float max_abs_row(const T* x, std::size_t n) {
  const F32 d;
  const CodeI32 di;
  const std::size_t lanes = hn::Lanes(d);
  auto most = hn::Zero(di);
  const auto take = [&](VF v) SKV_INLINE_LAMBDA { most = hn::Max(most, hn::BitCast(di, hn::Abs(v))); };
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) take(load(d, x + i));
  if (i < n) take(load_n(d, x + i, n - i));
  return std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(di, most)));
}

// As f32, all NaN as one whose mantissa store_pairs may round.
HWY_INLINE float scale_of(uint16_t bits) {
  const float scale = f16_to_f32(bits);
  return scale == scale ? scale : std::numeric_limits<float>::quiet_NaN();
}

HWY_INLINE VF load_codes(F32 d, const int8_t* codes) {
  return hn::ConvertTo(d, hn::PromoteTo(CodeI32(), hn::LoadU(CodeI8(), codes)));
}

HWY_INLINE void store_codes(VF v, int8_t* codes) {
  hn::StoreU(hn::DemoteTo(CodeI8(), hn::NearestInt(v)), CodeI8(), codes);
}

template <class T>
HWY_INLINE uint16_t encode_int8_row(const T* x, int64_t n, int8_t* codes) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d), size = static_cast<std::size_t>(n);
  const uint16_t bits = f32_to_f16_scale(max_abs_row(x, size) / 127.0f);
  const float scale = f16_to_f32(bits);
  if (!(scale > 0.0f)) {
    std::memset(codes, 0, size);
    return bits;
  }
  const VF s = hn::Set(d, scale);
  std::size_t i = 0;
  for (; i + lanes <= size; i += lanes) store_codes(hn::Div(load(d, x + i), s), codes + i);
  if (i < size) {
    int8_t rest[HWY_MAX_BYTES];
    store_codes(hn::Div(load_n(d, x + i, size - i), s), rest);
    std::memcpy(codes + i, rest, size - i);
  }
  return bits;
}

#if HWY_TARGET != HWY_SCALAR
// Elements 2 i of a row in lane i of even, 2 i + 1 in odd. For bf16 this order spares a narrowing across lanes; it
// rounds as simd-inl.h's store, but NaN must be std::numeric_limits' quiet one.
HWY_INLINE void store_pairs(F32 d, VF even, VF odd, float* p) { hn::StoreInterleaved2(even, odd, d, p); }
HWY_INLINE void store_pairs([[maybe_unused]] F32 d, VF even, VF odd, Bf16* p) {
  const hn::RebindToUnsigned<F32> d32;
  const auto rounded = [&](VF v) SKV_INLINE_LAMBDA {
    const auto u = hn::BitCast(d32, v);
    const auto lsb = hn::And(hn::ShiftRight<16>(u), hn::Set(d32, 1u));
    return hn::Add(u, hn::Add(lsb, hn::Set(d32, 0x7fffu)));
  };
  const auto low = hn::ShiftRight<16>(rounded(even)), high = hn::And(rounded(odd), hn::Set(d32, 0xffff0000u));
  hn::StoreU(hn::Or(low, high), d32, reinterpret_cast<uint32_t*>(p));
}

// As many bf16 elements as two vectors hold at a time; returns how many were decoded.
HWY_INLINE std::size_t decode_int8_pairs(const int8_t* codes, VF scale, std::size_t n, Bf16* x) {
  const F32 d;
  const CodeI32 di;
  const hn::Repartition<int16_t, F32> d16;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  const std::size_t lanes = hn::Lanes(d16);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto both = hn::BitCast(di, hn::PromoteTo(d16, hn::LoadU(d8, codes + i)));
    const auto even = hn::ShiftRight<16>(hn::ShiftLeft<16>(both)), odd = hn::ShiftRight<16>(both);
    store_pairs(d, hn::Mul(hn::ConvertTo(d, even), scale), hn::Mul(hn::ConvertTo(d, odd), scale), x + i);
  }
  return i;
}
#endif

template <class T>
HWY_INLINE void decode_int8_row(const int8_t* codes, uint16_t scale, int64_t n, T* x) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d), size = static_cast<std::size_t>(n);
  const VF s = hn::Set(d, scale_of(scale));
  std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<T, Bf16>) i = decode_int8_pairs(codes, s, size, x);
#endif
  for (; i + lanes <= size; i += lanes) store(hn::Mul(load_codes(d, codes + i), s), d, x + i);
  if (i < size) {
    int8_t rest[HWY_MAX_BYTES] = {};
    std::memcpy(rest, codes + i, size - i);
    store_n(hn::Mul(load_codes(d, rest), s), d, x + i, size - i);
  }
}

// Codes of y / scale, in i32 lanes.
HWY_INLINE hn::Vec<CodeI32> int4_codes(F32 d, VF y, VF scale) {
  const CodeI32 di;
  const auto code = hn::ConvertTo(di, hn::Floor(hn::Add(hn::Div(y, scale), hn::Set(d, 8.0f))));
  return hn::Min(hn::Max(code, hn::Zero(di)), hn::Set(di, 15));
}

HWY_INLINE void pack_int4(F32 d, VF low, VF high, VF scale, uint8_t* packed) {
  const auto both = hn::Or(int4_codes(d, low, scale), hn::ShiftLeft<4>(int4_codes(d, high, scale)));
  hn::StoreU(hn::DemoteTo(CodeU8(), both), CodeU8(), packed);
}

HWY_INLINE uint16_t encode_int4_row(const float* y, int64_t n, uint8_t* packed) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d), half = static_cast<std::size_t>(n / 2);
  const uint16_t bits = f32_to_f16_scale(max_abs_row(y, static_cast<std::size_t>(n)) / 8.0f);
  const float scale = f16_to_f32(bits);
  if (!(scale > 0.0f)) {
    std::memset(packed, 0, half);
    return bits;
  }
  const VF s = hn::Set(d, scale);
  std::size_t i = 0;
  for (; i + lanes <= half; i += lanes) pack_int4(d, load(d, y + i), load(d, y + half + i), s, packed + i);
  if (i < half) {
    uint8_t rest[HWY_MAX_BYTES];
    pack_int4(d, load_n(d, y + i, half - i), load_n(d, y + half + i, half - i), s, rest);
    std::memcpy(packed + i, rest, half - i);
  }
  return bits;
}

// Lanes(d) bytes: their low and high codes less 7.5.
HWY_INLINE void unpack_int4(F32 d, const uint8_t* packed, VF* low, VF* high) {
  const CodeI32 di;
  const VF centre = hn::Set(d, 7.5f);
  const auto both = hn::PromoteTo(di, hn::LoadU(CodeU8(), packed));
  *low = hn::Sub(hn::ConvertTo(d, hn::And(both, hn::Set(di, 15))), centre);
  *high = hn::Sub(hn::ConvertTo(d, hn::ShiftRight<4>(both)), centre);
}

// x * scale + 0: a zero row has no negative zeros.
HWY_INLINE VF scale_int4(F32 d, VF x, VF scale) { return hn::MulAdd(x, scale, hn::Zero(d)); }

HWY_INLINE void decode_int4_row(const uint8_t* packed, uint16_t scale, int64_t n, float* y) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d), half = static_cast<std::size_t>(n / 2);
  const VF s = hn::Set(d, scale_of(scale));
  VF low, high;
  std::size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    unpack_int4(d, packed + i, &low, &high);
    store(scale_int4(d, low, s), d, y + i);
    store(scale_int4(d, high, s), d, y + half + i);
  }
  if (i < half) {
    uint8_t rest[HWY_MAX_BYTES] = {};
    std::memcpy(rest, packed + i, half - i);
    unpack_int4(d, rest, &low, &high);
    store_n(scale_int4(d, low, s), d, y + i, half - i);
    store_n(scale_int4(d, high, s), d, y + half + i, half - i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
