// key_project: the low-rank coordinates of pre-RoPE keys, and what they miss.
//
// Computes   a[i, :] = code((x[i, :] - mu) p), code: rounded to dtype, or int8 as block_format.h says;
//            xhat = decode(a) b + mu, with b = round(p^T);
//            residual[c, h] = ||x - xhat||^2 and energy[c, h] = ||x - mu||^2 over chunk c and head h's columns
// Shapes     x [n, m] f32 (n = whole chunks, token-major, m = kv_heads * D); mu [m] f32 (already rounded as
//            stored); p [m, r] f32; b [kv_heads, r, D] as stored; a paged rows, one block of C rows of r a chunk;
//            first_chunk; residual, energy [n / C, kv_heads] f32
// Types      a and b of dtype (bf16 or f32), or a int8 with f16 scales; sums f32
// Edges      a row of x that is not finite: NaN coordinates (raw rows keep infinities); its chunk's residuals are not
//            finite; all else as without it. Padding bytes of int8 blocks are zeros
// Determinism a chunk's bytes depend on its rows of x, mu, p and b only: not on n, first_chunk or threads (on a GPU
//            also on whether p is a multiple of 16 bytes)
// Tolerance  a: one rounding of the reference (int8: scales one step of f16, codes 1); residual 1e-3 relative +
//            1e-6 * energy, about the coordinates as they were stored; energy 1e-4 relative
// Workspace  workspace_bytes(desc, n), the largest need of any backend; does not grow beyond n = 4,096
// Cost       flops 4 n m r
// Source     shadowkv.md section 2; residuals are always those of centred keys
#pragma once

#include <cstddef>

#include "kernels/common/block_format.h"
#include "kernels/common/paged.h"

namespace skv::kernels {

struct KeyProjectDesc {
  DType dtype = DType::bf16;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t rank = 0;
  int32_t chunk = 0;
  BlockCodec a_codec = BlockCodec::raw;  // raw or int8

  BlockFormat a_format() const { return {a_codec, dtype, chunk, rank}; }
};

struct KeyProjectArgs {
  const float* x = nullptr;
  int64_t n = 0;
  const float* mu = nullptr;
  const float* p = nullptr;
  const void* b = nullptr;
  PagedRows a;
  int32_t first_chunk = 0;
  float* residual = nullptr;
  float* energy = nullptr;
};

bool key_project_supports(const KeyProjectDesc& desc);
std::size_t key_project_workspace_bytes(const KeyProjectDesc& desc, int64_t n);
void key_project_ref(const KeyProjectDesc&, const KeyProjectArgs&, void* workspace);
void key_project_cpu(const KeyProjectDesc&, const KeyProjectArgs&, void* workspace);

}  // namespace skv::kernels
