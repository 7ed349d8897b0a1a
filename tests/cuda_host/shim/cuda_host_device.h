// What kernels call: barriers, warp operations, atomics and arithmetic.
#pragma once

#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda_host_types.h"

namespace skv::cuda_host {

unsigned char* shared_memory();  // of the running block

enum class Shuffle { index, up, down, exclusive };
enum class Vote { ballot, any, all };
enum class Reduce { add, min, max, bit_and, bit_or, bit_xor };
enum class Atomic { add, sub, min, max, bit_and, bit_or, bit_xor, exchange };
enum class Value { i32, u32, u64, f32, f64 };

// The site of a collective is where it was called from, so these are never inlined; what calls them always is.
uint64_t shuffle(unsigned mask, Shuffle kind, uint64_t bits, int lane, int width);
unsigned vote(unsigned mask, Vote kind, int predicate);
uint64_t match(unsigned mask, uint64_t bits);
uint64_t reduce(unsigned mask, Reduce kind, Value type, uint64_t bits);
uint64_t atomic(void* at, Atomic kind, Value type, uint64_t bits);
uint64_t atomic_compare(void* at, Value type, uint64_t compare, uint64_t bits);

template <class T>
__forceinline__ uint64_t to_bits(T x) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2 || sizeof(T) == 1);
  if constexpr (sizeof(T) == 8) return std::bit_cast<uint64_t>(x);
  else if constexpr (sizeof(T) == 4) return std::bit_cast<uint32_t>(x);
  else return static_cast<uint64_t>(x);
}
template <class T>
__forceinline__ T from_bits(uint64_t bits) {
  if constexpr (sizeof(T) == 8) return std::bit_cast<T>(bits);
  else if constexpr (sizeof(T) == 4) return std::bit_cast<T>(static_cast<uint32_t>(bits));
  else return static_cast<T>(bits);
}
template <class T>
constexpr Value value_of() {
  if constexpr (std::is_same_v<T, float>) return Value::f32;
  else if constexpr (std::is_same_v<T, double>) return Value::f64;
  else if constexpr (sizeof(T) == 8) return Value::u64;
  else if constexpr (std::is_signed_v<T>) return Value::i32;
  else return Value::u32;
}

}  // namespace skv::cuda_host

// Barriers.
extern "C" {
void __syncthreads();
int __syncthreads_or(int predicate);
int __syncthreads_and(int predicate);
int __syncthreads_count(int predicate);
void __syncwarp(unsigned mask = 0xffffffffu);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// Warp operations.
#define SKV_CUDA_SHUFFLE(name, kind, Lane)                                                                       \
  template <class T>                                                                                             \
  __forceinline__ T name(unsigned mask, T x, Lane lane, int width = 32) {                                        \
    using namespace skv::cuda_host;                                                                              \
    return from_bits<T>(                                                                                         \
        shuffle(mask, Shuffle::kind, to_bits(x), static_cast<int>(lane), width));               \
  }
SKV_CUDA_SHUFFLE(__shfl_sync, index, int)
SKV_CUDA_SHUFFLE(__shfl_up_sync, up, unsigned)
SKV_CUDA_SHUFFLE(__shfl_down_sync, down, unsigned)
SKV_CUDA_SHUFFLE(__shfl_xor_sync, exclusive, int)
#undef SKV_CUDA_SHUFFLE

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate) {
  return skv::cuda_host::vote(mask, skv::cuda_host::Vote::ballot, predicate);
}
__forceinline__ int __any_sync(unsigned mask, int predicate) {
  return static_cast<int>(skv::cuda_host::vote(mask, skv::cuda_host::Vote::any, predicate));
}
__forceinline__ int __all_sync(unsigned mask, int predicate) {
  return static_cast<int>(skv::cuda_host::vote(mask, skv::cuda_host::Vote::all, predicate));
}
template <class T>
__forceinline__ unsigned __match_any_sync(unsigned mask, T x) {
  return static_cast<unsigned>(skv::cuda_host::match(mask, skv::cuda_host::to_bits(x)));
}

#define SKV_CUDA_REDUCE(name, kind)                                                                      \
  template <class T>                                                                                     \
  __forceinline__ T name(unsigned mask, T x) {                                                           \
    using namespace skv::cuda_host;                                                                      \
    static_assert(sizeof(T) == 4 && std::is_integral_v<T>);                                              \
    return from_bits<T>(reduce(mask, Reduce::kind, value_of<T>(), to_bits(x)));         \
  }
SKV_CUDA_REDUCE(__reduce_add_sync, add)
SKV_CUDA_REDUCE(__reduce_min_sync, min)
SKV_CUDA_REDUCE(__reduce_max_sync, max)
SKV_CUDA_REDUCE(__reduce_and_sync, bit_and)
SKV_CUDA_REDUCE(__reduce_or_sync, bit_or)
SKV_CUDA_REDUCE(__reduce_xor_sync, bit_xor)
#undef SKV_CUDA_REDUCE

// Atomics: on shared memory they do not race with each other.
#define SKV_CUDA_ATOMIC_OF(name, kind, T)                                                                  \
  __forceinline__ T name(T* at, T x) {                                                                     \
    using namespace skv::cuda_host;                                                                        \
    return from_bits<T>(atomic(at, Atomic::kind, value_of<T>(), to_bits(x)));             \
  }
#define SKV_CUDA_ATOMIC(name, kind)                  \
  SKV_CUDA_ATOMIC_OF(name, kind, int)                \
  SKV_CUDA_ATOMIC_OF(name, kind, unsigned)           \
  SKV_CUDA_ATOMIC_OF(name, kind, unsigned long long)
SKV_CUDA_ATOMIC(atomicAdd, add)
SKV_CUDA_ATOMIC_OF(atomicAdd, add, float)
SKV_CUDA_ATOMIC_OF(atomicAdd, add, double)
SKV_CUDA_ATOMIC_OF(atomicSub, sub, int)
SKV_CUDA_ATOMIC_OF(atomicSub, sub, unsigned)
SKV_CUDA_ATOMIC(atomicMin, min)
SKV_CUDA_ATOMIC(atomicMax, max)
SKV_CUDA_ATOMIC(atomicAnd, bit_and)
SKV_CUDA_ATOMIC(atomicOr, bit_or)
SKV_CUDA_ATOMIC(atomicXor, bit_xor)
SKV_CUDA_ATOMIC(atomicExch, exchange)
SKV_CUDA_ATOMIC_OF(atomicExch, exchange, float)
#undef SKV_CUDA_ATOMIC
#undef SKV_CUDA_ATOMIC_OF

#define SKV_CUDA_COMPARE(T)                                                                                      \
  __forceinline__ T atomicCAS(T* at, T compare, T x) {                                                           \
    using namespace skv::cuda_host;                                                                              \
    return from_bits<T>(atomic_compare(at, value_of<T>(), to_bits(compare), to_bits(x)));       \
  }
SKV_CUDA_COMPARE(int)
SKV_CUDA_COMPARE(unsigned)
SKV_CUDA_COMPARE(unsigned long long)
#undef SKV_CUDA_COMPARE

// Bits.
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned select = s >> (4 * i) & 0xfu;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (select & 7u))) & 0xffu;
    if ((select & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xffu : 0u;
    r |= byte << (8 * i);
  }
  return r;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(hi) << 32 | lo) << (shift & 31u) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(hi) << 32 | lo) >> (shift & 31u));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 0xffu) * (b >> (8 * i) & 0xffu);
  return c;
}

// Memory with cache hints.
template <class T>
__forceinline__ T __ldg(const T* p) { return *p; }
template <class T>
__forceinline__ T __ldcs(const T* p) { return *p; }
template <class T>
__forceinline__ T __ldcg(const T* p) { return *p; }
template <class T>
__forceinline__ void __stcs(T* p, T x) { *p = x; }
template <class T>
__forceinline__ void __stcg(T* p, T x) { *p = x; }

// Arithmetic. The approximate ones are computed exactly rounded or nearly so.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float rsqrtf(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float fdividef(float x, float y) { return x / y; }
inline int __float2int_rn(float x) {
  if (!(x == x)) return 0;
  if (x >= 0x1p31f) return 0x7fffffff;
  if (x <= -0x1p31f) return static_cast<int>(0x80000000u);
  return static_cast<int>(rintf(x));
}
inline int __float2int_rz(float x) { return __float2int_rn(truncf(x)); }
inline int __float2int_rd(float x) { return __float2int_rn(floorf(x)); }
inline int __float2int_ru(float x) { return __float2int_rn(ceilf(x)); }
inline unsigned __float2uint_rn(float x) {
  if (!(x > 0.0f)) return 0;
  return x >= 0x1p32f ? 0xffffffffu : static_cast<unsigned>(rintf(x));
}
inline unsigned __float2uint_rz(float x) { return __float2uint_rn(truncf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int min(int a, int b) { return a < b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned min(int a, unsigned b) { return min(static_cast<unsigned>(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, static_cast<unsigned>(b)); }
inline long min(long a, long b) { return a < b ? a : b; }
inline unsigned long min(unsigned long a, unsigned long b) { return a < b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline unsigned max(int a, unsigned b) { return max(static_cast<unsigned>(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, static_cast<unsigned>(b)); }
inline long max(long a, long b) { return a < b ? b : a; }
inline unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
