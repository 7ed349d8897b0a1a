// attn_remainder: attention over the chunks that were not selected, each as one row: its mean value, weighted by its
// estimated mass.
//
// Computes   over the chunks j < n that are not in ids and whose log_mass[g,j] > -inf: w_j = log_mass[g,j];
//            out[g,:] = sum_j softmax(w)_j * value_j, lse[g] = ln sum_j exp(w_j), merged with what out and lse hold
// Shapes     per item (one query token, one KV head): log_mass [G, n] (landmark_score's; excluded chunks are -inf);
//            ids [*n_ids] ascending; values: mean value rows of n chunks; out [G, D], lse [G], contiguous
// Types      values bf16, f32 or int8 with f16 scales (digest_format.h, kind mean); the rest f32; sums f32
// Strides    value rows 16-byte aligned; scales one after another in their page; nothing is read past a row
// Edges      nothing left over: out and lse unchanged to the bit; a lse of -inf: out is the remainder's alone,
//            whatever it held. Chunks in ids or of log mass -inf for every g: their values, NaN or not, count for
//            nothing. A NaN in a log mass, in out or lse, or in a value that any g weighs: NaN in this item only. A
//            weight of less than 1e-37 of the largest counts as none
// Determinism the result depends on the item alone: splits have a fixed length in chunks
// Tolerance  out 1e-5 of max|v| and max|out| before, lse 1e-5 of max(1, |lse|), against the same values
// Workspace  workspace_bytes(desc, n_items, sum of n over items)
// Cost       bytes n (values + 4 G), flops 2 G n D; bandwidth-bound for G <= 8
// Source     RetroInfer (arXiv 2505.02922), estimation zone; shadowkv.md section 9
#pragma once

#include <cstddef>
#include <span>

#include "kernels/common/digest_format.h"

namespace skv::kernels {

struct AttnRemainderDesc {
  DigestFormat values;  // kind mean
  int32_t group = 0;
};

struct AttnRemainderItem {
  const float* log_mass = nullptr;
  int64_t log_mass_stride = 0;
  int32_t n = 0;
  const int32_t* ids = nullptr;
  const int32_t* n_ids = nullptr;
  int32_t max_ids = 0;  // bound of *n_ids
  DigestRows values;
  float* out = nullptr;
  float* lse = nullptr;
};

bool attn_remainder_supports(const AttnRemainderDesc& desc);
std::size_t attn_remainder_workspace_bytes(const AttnRemainderDesc& desc, int64_t n_items, int64_t total_chunks);
void attn_remainder_ref(const AttnRemainderDesc&, std::span<const AttnRemainderItem>, void* workspace);
void attn_remainder_cpu(const AttnRemainderDesc&, std::span<const AttnRemainderItem>, void* workspace);

}  // namespace skv::kernels
