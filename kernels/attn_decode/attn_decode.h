// attn_decode: one query token per item attends to blocks and runs of KV rows.
//
// Computes   over all rows i of the item's blocks and runs: w_i = scale * dot(q[g,:], k_i);
//            out[g,:] = sum softmax(w)_i v_i; lse[g] = ln sum exp(w_i); with merge, over these rows and those that
//            out and lse stood for before
// Shapes     per item (one query token, one KV head): q [G, D], out [G, D], lse [G] (may be null without merge),
//            contiguous
// Types      q, out, lse f32; k, v bf16 or f32; sums f32 (running max and sum)
// Strides    k and v rows contiguous (D elements), 16-byte aligned; no other rows are read, and pages of a run that
//            hold none of its rows may be null
// Edges      no rows: out = 0, lse = -inf, never NaN; every w = -inf: likewise; NaN in q: NaN in this item only. With
//            merge those leave out and lse unchanged to the bit; where lse was -inf, out counts for nothing; a NaN in
//            either stays in this item
// Determinism the result depends on the rows of the item's blocks and of its runs in their order only: splits have a
//            fixed length in tokens, so neither other items nor the thread count change a bit, nor how runs and
//            pages cut the rows
// Tolerance  1e-5 relative f32; 2e-2 of max|v| bf16 inputs are exact once widened, so 1e-5 too against the same bits
// Workspace  workspace_bytes(desc, n_items, total rows: max_ids blocks and all runs of every item)
// Cost       bytes 2 n D sizeof(kv), flops 4 G n D; bandwidth-bound for G <= 8
// Source     streaming softmax (FlashAttention, arXiv 2205.14135); merge by lse
#pragma once

#include <cstddef>
#include <span>

#include "kernels/common/paged.h"

namespace skv::kernels {

struct AttnDecodeDesc {
  DType dtype = DType::bf16;
  int32_t head_dim = 0;
  int32_t group = 0;
  float scale = 0.0f;
};

// Rows [first, first + n) of one KV head, in pages of equal size. K of row i is at
//   k_pages[i / rows_per_page] + k_offset_bytes + (i % rows_per_page) * its bytes, V likewise.
// One page may hold K and V of every head: then all heads have the same lists, and the offsets select.
struct KvRun {
  void* const* k_pages = nullptr;  // [n_pages], lists (see paged.h)
  void* const* v_pages = nullptr;
  int64_t k_offset_bytes = 0;
  int64_t v_offset_bytes = 0;
  int32_t n_pages = 0;
  int32_t rows_per_page = 1;
  int32_t first = 0;
  int32_t n = 0;

  const void* k_row(int32_t i, int64_t row_bytes) const {
    return offset_bytes(k_pages[i / rows_per_page], k_offset_bytes + i % rows_per_page * row_bytes);
  }
  const void* v_row(int32_t i, int64_t row_bytes) const {
    return offset_bytes(v_pages[i / rows_per_page], v_offset_bytes + i % rows_per_page * row_bytes);
  }
};

struct AttnDecodeItem {
  const float* q = nullptr;
  KvBlocks blocks;              // slots; may be empty
  const KvRun* runs = nullptr;  // exact pages, outliers; few, may be empty
  int32_t n_runs = 0;
  float* out = nullptr;
  float* lse = nullptr;
  bool merge = false;  // out and lse hold an earlier result over other rows
};

bool attn_decode_supports(const AttnDecodeDesc& desc);
std::size_t attn_decode_workspace_bytes(const AttnDecodeDesc& desc, int64_t n_items, int64_t total_rows);
void attn_decode_ref(const AttnDecodeDesc&, std::span<const AttnDecodeItem>, void* workspace);
void attn_decode_cpu(const AttnDecodeDesc&, std::span<const AttnDecodeItem>, void* workspace);

}  // namespace skv::kernels
