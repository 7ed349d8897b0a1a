// topk_select: the k best scores of a row, ids ascending.
//
// Computes   ids = the min(k, valid) indices j with the largest score; a score of -inf is invalid (an excluded chunk)
// Shapes     per item: scores [n], ids [k]
// Edges      ties (+0 and -0 too): the lower index wins; fewer valid than k: all of them; NaN is valid, below every
//            number (chosen last)
// Determinism exact; equals a stable sort
// Workspace  workspace_bytes(sum of n over items); may be 0
// Cost       reads n floats twice; no sort of the whole row
// Source     ShadowKV Alg. 2 line 4
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace skv::kernels {

struct TopkSelectItem {
  const float* scores = nullptr;
  int32_t n = 0;
  int32_t k = 0;
  int32_t* ids = nullptr;    // out [k]
  int32_t* n_ids = nullptr;  // out [1]
};

std::size_t topk_select_workspace_bytes(int64_t total_scores);
void topk_select_ref(std::span<const TopkSelectItem>, void* workspace);
void topk_select_cpu(std::span<const TopkSelectItem>, void* workspace);

}  // namespace skv::kernels
