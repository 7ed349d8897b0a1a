// Qualifiers, vector types and built-in variables.
#pragma once

#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

#define SKV_CUDA_VECTOR(T, name, align2, align4)                                                  \
  struct name##1 { T x; };                                                                        \
  struct alignas(align2) name##2 { T x, y; };                                                     \
  struct name##3 { T x, y, z; };                                                                  \
  struct alignas(align4) name##4 { T x, y, z, w; };                                               \
  constexpr name##1 make_##name##1(T x) { return {x}; }                                           \
  constexpr name##2 make_##name##2(T x, T y) { return {x, y}; }                                   \
  constexpr name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                           \
  constexpr name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
SKV_CUDA_VECTOR(signed char, char, 2, 4)
SKV_CUDA_VECTOR(unsigned char, uchar, 2, 4)
SKV_CUDA_VECTOR(short, short, 4, 8)
SKV_CUDA_VECTOR(unsigned short, ushort, 4, 8)
SKV_CUDA_VECTOR(int, int, 8, 16)
SKV_CUDA_VECTOR(unsigned int, uint, 8, 16)
SKV_CUDA_VECTOR(long long, longlong, 16, 16)
SKV_CUDA_VECTOR(unsigned long long, ulonglong, 16, 16)
SKV_CUDA_VECTOR(float, float, 8, 16)
SKV_CUDA_VECTOR(double, double, 16, 16)
#undef SKV_CUDA_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the fiber that runs on this host thread.
extern __thread uint3 threadIdx;
extern __thread uint3 blockIdx;
extern __thread dim3 blockDim;
extern __thread dim3 gridDim;
inline constexpr int warpSize = 32;
