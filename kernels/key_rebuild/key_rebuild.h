// key_rebuild: keys of missed chunks from their low-rank form, straight into slots.
//
// Computes   for chunk c = chunks[i], token t of it, at position c * C + t, segment s = the last with
//            first_chunk <= c: k = sum_j decode(A)[c, t, j] * b_s[j, :] + mu_s[:];
//            slot[slots[i]][t, :] = RoPE(k, position)
// Shapes     per item (one sequence and KV head): a paged rows, one block of C rows of r a chunk (block_format.h);
//            segments [n_segments], first_chunk ascending, the first is <= every chunk; slot region [n_slots, C, D]
// Types      b, mu and slots of one dtype (bf16 or f32), a too or int8 with f16 scales; sums f32, one rounding at
//            the end
// Edges      *n = 0: nothing. rotary_dim < D: the rest passes through unrotated. A row of A with a NaN, or an int8
//            one whose scale is NaN: every element of its key is NaN
// Determinism a chunk's bytes depend on (A, segment, position) only: not on i, the slot, other items or threads
// Tolerance  |k - ref| <= 1e-2 * max|ref row| bf16, 1e-5 f32
// Cost       flops 2 n C r D; bytes n C r a + r D b once per item + n C D out
// Source     ShadowKV Alg. 2 line 5; centring by mu is this library's
#pragma once

#include <span>

#include "kernels/common/block_format.h"
#include "kernels/common/paged.h"
#include "kernels/common/rope_view.h"

namespace skv::kernels {

struct KeyRebuildDesc {
  DType dtype = DType::bf16;
  int32_t rank = 0;
  int32_t chunk = 0;
  int32_t head_dim = 0;
  RopeView rope;
  BlockCodec a_codec = BlockCodec::raw;  // raw or int8

  SKV_HD BlockFormat a_format() const { return {a_codec, dtype, chunk, rank}; }
};

struct KeyRebuildItem {
  PagedRows a;
  const BasisSegment* segments = nullptr;
  int32_t n_segments = 0;
  const int32_t* chunks = nullptr;
  const int32_t* slots = nullptr;  // null: 0, 1, 2, ...
  const int32_t* n = nullptr;
  int32_t max_n = 0;  // bound of *n
  void* slot_region = nullptr;
  SKV_HD int32_t slot(int32_t i) const { return slots == nullptr ? i : slots[i]; }
};

bool key_rebuild_supports(const KeyRebuildDesc& desc);
void key_rebuild_ref(const KeyRebuildDesc&, std::span<const KeyRebuildItem>);
void key_rebuild_cpu(const KeyRebuildDesc&, std::span<const KeyRebuildItem>);

}  // namespace skv::kernels
