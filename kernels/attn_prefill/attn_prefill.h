// attn_prefill: a block of query tokens attends causally to a list of spans; partial results merge.
//
// Computes   row t of the block is at position pos + t; over rows i of all spans with (span.pos + i) <= pos + t:
//            w = scale * dot(q[t,g,:], k_i); (out, lse) = softmax-weighted sum and ln-sum-exp. With merge, the result is
//            combined by lse with what out and lse held before (streaming over history tiles)
// Shapes     per item (one sequence and KV head): q row (t, g) at q + t * q_stride + g * D; out row likewise with
//            out_stride; lse (t, g) at lse + t * lse_stride + g (may be null when merge is false)
// Types      q, out, lse f32; k, v bf16 or f32. With f32 KV all products are f32; with bf16 KV the weights and q may be
//            rounded to bf16 before the products; sums f32
// Edges      a row with no visible key: out = 0, lse = -inf (merge: unchanged); spans wholly in the future are skipped
// Determinism a row's result depends on its own q and the span list only, not on its place in the block, other items, or
//            threads (so how a prompt is cut into blocks changes no bit as long as the spans are cut alike)
// Tolerance  1e-5 relative f32; 2e-2 of max|v| bf16
// Workspace  workspace_bytes(desc): per-worker scratch for max_workers() workers
// Cost       flops 4 G D * (visible pairs); compute-bound
// Source     FlashAttention (arXiv 2205.14135)
#pragma once

#include <cstddef>
#include <span>

#include "kernels/common/paged.h"

namespace skv::kernels {

struct AttnPrefillDesc {
  DType dtype = DType::bf16;
  int32_t head_dim = 0;
  int32_t group = 0;
  float scale = 0.0f;
};

struct AttnPrefillItem {
  const float* q = nullptr;
  int64_t q_stride = 0;  // floats between tokens
  int32_t n_q = 0;
  int64_t pos = 0;
  const KvSpan* spans = nullptr;
  int32_t n_spans = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  float* lse = nullptr;
  int64_t lse_stride = 0;
  bool merge = false;
};

bool attn_prefill_supports(const AttnPrefillDesc& desc);
std::size_t attn_prefill_workspace_bytes(const AttnPrefillDesc& desc);
void attn_prefill_ref(const AttnPrefillDesc&, std::span<const AttnPrefillItem>, void* workspace);
void attn_prefill_cpu(const AttnPrefillDesc&, std::span<const AttnPrefillItem>, void* workspace);

}  // namespace skv::kernels
