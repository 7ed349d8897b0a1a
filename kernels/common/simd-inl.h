// Highway helpers that the kernels share. Per target: include it after <hwy/foreach_target.h> and use it inside
// namespace skv::kernels::HWY_NAMESPACE. float lanes throughout; 16-bit elements are widened as they are loaded.
//
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "kernels/rope/rope_cpu.cc"
//   #include <hwy/foreach_target.h>
//   #include "kernels/common/simd-inl.h"
//   HWY_BEFORE_NAMESPACE();
//   namespace skv::kernels { namespace HWY_NAMESPACE { ... } }
//   HWY_AFTER_NAMESPACE();
//   #if HWY_ONCE  ... HWY_EXPORT, HWY_DYNAMIC_DISPATCH ...  #endif
#if defined(SKV_KERNELS_COMMON_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SKV_KERNELS_COMMON_SIMD_INL_H_
#undef SKV_KERNELS_COMMON_SIMD_INL_H_
#else
#define SKV_KERNELS_COMMON_SIMD_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include <hwy/highway.h>

#include "kernels/common/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#undef SKV_INLINE_LAMBDA  // HWY_ATTR differs between targets
#define SKV_INLINE_LAMBDA HWY_ATTR __attribute__((always_inline))

using F32 = hn::ScalableTag<float>;
using VF = hn::Vec<F32>;

inline std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// fn(integral_constant<int, 0>), ..., fn(N - 1). Arrays of vectors indexed only this way stay in registers; in a loop
// GCC 12 keeps them in memory, because it unrolls after it has split arrays into scalars.
template <int N, class Fn>
HWY_INLINE void unroll(Fn&& fn) {
  [&]<int... I>(std::integer_sequence<int, I...>) SKV_INLINE_LAMBDA {
    (fn(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// Element types as they stand in memory. Bf16 and F16 tell uint16_t arrays of different meaning apart.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

// Calls fn(const T*) with T = float, Bf16 or F16: the run-time dtype becomes a type.
template <class Fn>
HWY_INLINE void with_dtype(DType dtype, const void* p, Fn&& fn) {
  switch (dtype) {
    case DType::f32: return fn(static_cast<const float*>(p));
    case DType::bf16: return fn(static_cast<const Bf16*>(p));
    case DType::f16: return fn(static_cast<const F16*>(p));
  }
}

// Lanes(d) elements from any address.
HWY_INLINE VF load(F32 d, const float* p) { return hn::LoadU(d, p); }
HWY_INLINE VF load(F32 d, const Bf16* p) {
  const hn::Rebind<uint16_t, F32> d16;
  const hn::RebindToUnsigned<F32> d32;
  const auto wide = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(wide));
}
HWY_INLINE VF load(F32 d, const F16* p) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  const hn::Rebind<hwy::float16_t, F32> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
#else
  // Highway's emulation takes infinities and NaN for large numbers. Scaling by 2^112 moves the exponent's bias.
  const hn::Rebind<uint16_t, F32> d16;
  const hn::RebindToUnsigned<F32> d32;
  const auto u = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(u, hn::Set(d32, 0x7fffu)));
  const auto sign = hn::ShiftLeft<16>(hn::And(u, hn::Set(d32, 0x8000u)));
  const VF scaled = hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f));
  const VF special = hn::BitCast(d, hn::Or(magnitude, hn::Set(d32, 0x7f800000u)));
  const VF unsigned_value = hn::IfThenElse(hn::Ge(scaled, hn::Set(d, 65536.0f)), special, scaled);
  return hn::Or(unsigned_value, hn::BitCast(d, sign));
#endif
}

// The first n < Lanes(d) elements, zeros after them; nothing past p + n is read (Highway's MaskedLoad of 16-bit lanes
// reads whole vectors on AVX2 and below).
template <class T>
HWY_INLINE VF load_n(F32 d, const T* p, std::size_t n) {
  alignas(64) T lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(lanes, p, n * sizeof(T));
  return load(d, lanes);
}

HWY_INLINE void store(VF v, F32 d, float* p) { hn::StoreU(v, d, p); }
// Round to nearest, ties to even; NaN stays NaN (as skv::f32_to_bf16).
HWY_INLINE void store(VF v, [[maybe_unused]] F32 d, Bf16* p) {
  const hn::RebindToUnsigned<F32> d32;
  const hn::Rebind<uint16_t, F32> d16;
  const auto u = hn::BitCast(d32, v);
  const auto lsb = hn::And(hn::ShiftRight<16>(u), hn::Set(d32, 1u));
  const auto rounded = hn::Add(u, hn::Add(lsb, hn::Set(d32, 0x7fffu)));
  const auto quiet = hn::Or(u, hn::Set(d32, 0x400000u));
  const auto bits = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded);
#if HWY_TARGET == HWY_SCALAR
  hn::StoreU(hn::Vec<decltype(d16)>(static_cast<uint16_t>(hn::GetLane(bits) >> 16)), d16,
             reinterpret_cast<uint16_t*>(p));
#else
  // DemoteTo saturates from signed; the shifted value is below 2^16, hence exact.
  const hn::RebindToSigned<F32> di32;
  const auto high = hn::BitCast(di32, hn::ShiftRight<16>(bits));
  hn::StoreU(hn::DemoteTo(d16, high), d16, reinterpret_cast<uint16_t*>(p));
#endif
}

// The first n < Lanes(d) lanes only.
template <class T>
HWY_INLINE void store_n(VF v, F32 d, T* p, std::size_t n) {
  alignas(64) T lanes[HWY_MAX_BYTES / sizeof(float)];
  store(v, d, lanes);
  std::memcpy(p, lanes, n * sizeof(T));
}

HWY_INLINE float sum_of_lanes(F32 d, VF v) { return hn::GetLane(hn::SumOfLanes(d, v)); }
HWY_INLINE float max_of_lanes(F32 d, VF v) { return hn::GetLane(hn::MaxOfLanes(d, v)); }

// e^x to 2 units in the last place: 2^n * e^r, |r| <= ln 2 / 2, Taylor to r^7 (remainder 6e-9). Below -87.3 exactly
// 0, above 88 +inf, NaN for NaN, exp(0) exactly 1.
HWY_INLINE VF exp(F32 d, VF x) {
  const hn::RebindToSigned<F32> di;
  const VF clamped = hn::Min(hn::Max(x, hn::Set(d, -87.3f)), hn::Set(d, 88.0f));
  const auto n = hn::NearestInt(hn::Mul(clamped, hn::Set(d, 1.44269504f)));
  const VF nf = hn::ConvertTo(d, n);
  // ln 2 in two parts: the first has few enough bits that n times it is exact.
  const VF r = hn::NegMulAdd(nf, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(nf, hn::Set(d, 0.693359375f), clamped));
  VF p = hn::Set(d, 1.0f / 5040);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 720));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const VF power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
  const VF finite = hn::Mul(p, power);
  const VF low = hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -87.3f)), finite);
  const VF high = hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.0f)), hn::Inf(d), low);
  return hn::IfThenElse(hn::IsNaN(x), x, high);
}

// sum_i a[i] * b[i], f32, four chains. A fixed order for a given n and target.
template <class A, class B>
HWY_INLINE float dot(const A* a, const B* b, std::size_t n) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  VF s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  std::size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::MulAdd(load(d, a + i), load(d, b + i), s0);
    s1 = hn::MulAdd(load(d, a + i + lanes), load(d, b + i + lanes), s1);
    s2 = hn::MulAdd(load(d, a + i + 2 * lanes), load(d, b + i + 2 * lanes), s2);
    s3 = hn::MulAdd(load(d, a + i + 3 * lanes), load(d, b + i + 3 * lanes), s3);
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::MulAdd(load(d, a + i), load(d, b + i), s0);
  if (i < n) s1 = hn::MulAdd(load_n(d, a + i, n - i), load_n(d, b + i, n - i), s1);
  return sum_of_lanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

// y[i] += alpha * x[i]
template <class T>
HWY_INLINE void add_scaled(float alpha, const T* x, std::size_t n, float* y) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  const VF a = hn::Set(d, alpha);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(hn::MulAdd(a, load(d, x + i), load(d, y + i)), d, y + i);
  if (i < n) store_n(hn::MulAdd(a, load_n(d, x + i, n - i), load_n(d, y + i, n - i)), d, y + i, n - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();
#endif
