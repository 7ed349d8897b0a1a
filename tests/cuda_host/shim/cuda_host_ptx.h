// Host versions of the wrappers in kernels/common/cuda/ptx.cuh.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/common/dtype.h"

namespace skv::cuda_host {

void copy_async(void* shared, const void* global, bool valid);
void commit_copies();
void wait_for_copies(int newest);
void load_matrices(uint32_t* r, const void* row, bool transposed);
void multiply_bf16(float* d, const uint32_t* a, const uint32_t* b);

}  // namespace skv::cuda_host

namespace skv::cuda {

__forceinline__ void cp_async16(void* shared, const void* global) {
  cuda_host::copy_async(shared, global, true);
}

__forceinline__ void cp_async16_zfill(void* shared, const void* global, bool valid) {
  cuda_host::copy_async(shared, global, valid);
}

__forceinline__ void cp_async_commit() { cuda_host::commit_copies(); }

template <int N>
__forceinline__ void cp_async_wait() {
  cuda_host::wait_for_copies(N);
}

__forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  cuda_host::load_matrices(r, row, false);
}

__forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  cuda_host::load_matrices(r, row, true);
}

__forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  cuda_host::multiply_bf16(d, a, b);
}

// The hardware's NaN is 0x7fff.
inline uint32_t pack_bf16x2(float lo, float hi) {
  const uint32_t low = lo == lo ? f32_to_bf16(lo) : 0x7fffu, high = hi == hi ? f32_to_bf16(hi) : 0x7fffu;
  return high << 16 | low;
}

inline float f16_to_float(uint16_t bits) { return f16_to_f32(bits); }

uint16_t float_to_f16(float x);

// ex2.approx.ftz: subnormal inputs count as zero and subnormal results become zero.
inline float exp2_approx(float x) {
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
}

__forceinline__ uint4 load_once(const void* global) { return *static_cast<const uint4*>(global); }

}  // namespace skv::cuda
