// landmark_score: how much each chunk could matter to a KV head's queries.
//
// Computes   p[g,j] = softmax_j(scale * dot(q[g,:], L[j,:])) over the j not excluded; s[j] = max_g p[g,j]
// Shapes     per item (one query token of one sequence and KV head): q [G, D] contiguous; L [n, D] paged rows;
//            excluded bitset [ceil(n / 64)] or null; s [n]
// Types      q f32; L bf16 or f32; sums f32
// Strides    L rows contiguous (row_bytes = D * element), pages 16-byte aligned; nothing is read past row D - 1
// Edges      excluded j: s = -1; all excluded or n = 0: nothing else written; equal scores: equal s;
//            NaN in q: NaN in this item's s only
// Determinism bit-equal for equal inputs, whatever the other items, the thread count and the page size
// Tolerance  |s - ref| <= 2e-3 * max(ref) bf16, 1e-5 f32 ; top-k set equals the reference's but for ties within it
// Workspace  workspace_bytes(desc, sum of n over items)
// Cost       bytes ~ n * (D * sizeof(L) + 8 G + 4), flops ~ 2 G n D; bandwidth-bound for G <= 16
// Source     ShadowKV (arXiv 2410.21465) Alg. 2 lines 1-3
#pragma once

#include <cstddef>
#include <span>

#include "kernels/common/paged.h"

namespace skv::kernels {

struct LandmarkScoreDesc {
  DType dtype = DType::bf16;
  int32_t head_dim = 0;
  int32_t group = 0;
  float scale = 0.0f;
};

struct LandmarkScoreItem {
  const float* q = nullptr;
  PagedRows landmarks;
  const uint64_t* excluded = nullptr;
  int32_t n = 0;
  float* scores = nullptr;
};

bool landmark_score_supports(const LandmarkScoreDesc& desc);
std::size_t landmark_score_workspace_bytes(const LandmarkScoreDesc& desc, int64_t total_chunks);
using LandmarkScoreFn = void (*)(const LandmarkScoreDesc&, std::span<const LandmarkScoreItem>, void* workspace);
void landmark_score_ref(const LandmarkScoreDesc&, std::span<const LandmarkScoreItem>, void* workspace);
void landmark_score_cpu(const LandmarkScoreDesc&, std::span<const LandmarkScoreItem>, void* workspace);

}  // namespace skv::kernels
