// guard_grow: how much attention mass a selection misses, by the exact keys of sampled chunks, and which further
// chunks bring that below a bound.
//
// Computes   e[g,i] = exp(log_weight[i]) sum_t exp(scale * dot(q[g], key_it)) of sampled chunk i;
//            total[g] = exp(lse[g]) + sum_i e[g,i];
//            candidates that are not picked, by descending score (ties: lower id), are taken one by one;
//            missed[g](k) = sum of e[g,i] over the samples that are not among the k taken, / total[g];
//            k = the smallest with margin * max_g missed[g](k) <= max_missed, or all of them;
//            extra = those k, ascending; ids = picked and extra, ascending; missed[g] = missed[g](k);
//            totals += (*n_samples, 1 if margin * m > max_missed, m), m = max_g missed[g], where a NaN counts as 1
// Shapes     per item (one query token, one KV head): q [G, D]; keys [n_samples, C, D] of dtype, sample i's chunk at
//            i; chunks, log_weight [*n_samples] (guard_sample's); scores [n]; candidates [*n_candidates] ascending,
//            all picked among them; picked [*n_picked] ascending; lse [G]: ln of the mass attended to with those
//            picked; out: ids and extra, room for all candidates, n_ids [1], n_extra [1], missed [G]; in and out:
//            totals [3] or null, no two items of a call the same
// Types      q, lse, scores f32; keys bf16 or f32; sums double
// Edges      no samples: k = 0, missed 0, whatever lse; total = 0: missed 0; NaN in lse, in a sampled key or weight,
//            or lse = +inf: that head's missed is NaN, which no k brings down: all candidates are taken; a score of
//            NaN comes after every number; samples that are no candidates, or picked, stay missed whatever k
// Determinism exact for equal inputs, whatever the other items and the thread count
// Tolerance  t = 1e-4 * max(1, max |scale * dot| / 500, max |log_weight| / 500): missed t; k that of the reference
//            but where missed(k) is within t of max_missed / margin
// Workspace  workspace_bytes(desc, max_samples, max candidates): one item's scratch a worker, or a block of a GPU
// Cost       2 G n_samples C D flops, G n_samples C exp, a sort of the samples, one pass over the candidates
// Source     shadowkv.md section 6; margin: one standard sample is not enough to promise 99 of 100 steps
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/common/dtype.h"

namespace skv::kernels {

struct GuardGrowDesc {
  DType dtype = DType::bf16;
  int32_t head_dim = 0;
  int32_t group = 0;
  int32_t chunk = 0;
  float scale = 0.0f;
  float max_missed = 0.0f;
  float margin = 1.0f;
};

struct GuardGrowItem {
  const float* q = nullptr;
  const void* keys = nullptr;
  const int32_t* chunks = nullptr;
  const float* log_weight = nullptr;
  const int32_t* n_samples = nullptr;
  const float* scores = nullptr;
  const int32_t* candidates = nullptr;
  const int32_t* n_candidates = nullptr;
  const int32_t* picked = nullptr;
  const int32_t* n_picked = nullptr;
  int32_t max_candidates = 0;  // bound of *n_candidates, and so of picked, ids and extra
  int32_t max_samples = 0;     // bound of *n_samples
  int32_t* ids = nullptr;
  int32_t* n_ids = nullptr;
  const float* lse = nullptr;
  int32_t* extra = nullptr;
  int32_t* n_extra = nullptr;
  float* missed = nullptr;
  double* totals = nullptr;  // [3], may be null
};

bool guard_grow_supports(const GuardGrowDesc& desc);
std::size_t guard_grow_workspace_bytes(const GuardGrowDesc& desc, int32_t n_samples, int32_t max_candidates);
void guard_grow_ref(const GuardGrowDesc&, std::span<const GuardGrowItem>, void* workspace);
void guard_grow_cpu(const GuardGrowDesc&, std::span<const GuardGrowItem>, void* workspace);

}  // namespace skv::kernels
