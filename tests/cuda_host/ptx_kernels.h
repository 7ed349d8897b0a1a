// One kernel for each wrapper of kernels/common/cuda/ptx.cuh, for ptx_test.cc. All pointers are device memory; one
// warp unless said.
#pragma once

#include <cstdint>

#include "kernels/common/cuda/stream.h"

namespace skv::test {

// Registers of lane t at [t * n ..): a 4, b 2, d 4 (in and out).
void launch_mma(cuda::Stream& stream, const uint32_t* a, const uint32_t* b, float* d);
// image: 2 KiB that shared memory is filled with; at[t]: byte offset of lane t's row; r [32, 4].
void launch_ldmatrix(cuda::Stream& stream, const uint8_t* image, const int32_t* at, bool transposed, uint32_t* r);
// One thread copies from[0], from[1], from[2] (16 bytes each) in three groups, the third only where valid, over ones.
// out[0]: the first copy after wait<2>, out[1]: the second after wait<1>, out[2]: the third after wait<0>.
void launch_cp_async(cuda::Stream& stream, const uint4* from, bool valid, uint4* out);
// Elementwise, n elements, n threads in blocks of 128.
void launch_pack_bf16x2(cuda::Stream& stream, int n, const float* lo, const float* hi, uint32_t* out);
void launch_f16_to_float(cuda::Stream& stream, int n, const uint16_t* x, float* out);
void launch_float_to_f16(cuda::Stream& stream, int n, const float* x, uint16_t* out);
void launch_exp2_approx(cuda::Stream& stream, int n, const float* x, float* out);
void launch_load_once(cuda::Stream& stream, int n, const uint4* x, uint4* out);

// The rest of the device's vocabulary that a host has versions of. Rows of 32 lanes, in the order of the kernel.
inline constexpr int kShuffles = 8, kVotes = 6, kReductions = 7;
void launch_shuffles(cuda::Stream& stream, uint32_t* out);         // of 100 + lane
void launch_votes(cuda::Stream& stream, uint32_t* out);
void launch_reductions(cuda::Stream& stream, uint32_t* out);       // of lane - 16
void launch_block_votes(cuda::Stream& stream, uint32_t* out);      // 64 threads: out[3]
void launch_atomics(cuda::Stream& stream, uint32_t* word, uint32_t* out);  // *word 10; out[11]: what each returned
void launch_bits(cuda::Stream& stream, uint32_t* out);             // out[16]
void launch_conversions(cuda::Stream& stream, int n, const float* x, int32_t* out);  // out[n, 5]

}  // namespace skv::test
