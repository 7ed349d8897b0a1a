// Scratch of one seal, carved from Context::seal_scratch.
#pragma once

#include "kernels/ops.h"
#include "lib/kv/arena.h"
#include "lib/kv/layout.h"

namespace skv::kv {

// Tokens un-rotated and multiplied at a time: few enough for a CPU's caches, many enough to fill a GPU.
inline int64_t factor_block(const Policy& policy) { return policy.work_tier == SKV_TIER_HOST ? 512 : 4096; }

struct SealScratch {
  // Lists:
  float* score;            // [kv_heads, n_chunks]: cosines, then outlier scores
  int32_t* ids;            // [kv_heads, n_outliers]
  int32_t* n_ids;          // [kv_heads]
  kernels::BlockCopyItem* copies;  // [kv_heads, 2]
  kernels::KvSpan* key_spans;    // [kv_heads, bound]
  kernels::KvSpan* value_spans;  // [kv_heads, bound], k holds the values
  kernels::LandmarkBuildItem* landmark_items;
  kernels::TopkSelectItem* topk_items;
  kernels::BlockStoreItem* store_items;
  double* key_energy;    // [M]; channel weights only, and
  double* query_energy;  // [M]
  float* weights;        // [2 M]
  // Low-rank keys only:
  float* host_rotation;  // [r, r]
  float* host_axes;      // [M, r]
  float* residual;       // [n_chunks, kv_heads]
  float* energy;         // [n_chunks, kv_heads]
  // Data:
  float* score_data;
  int32_t* ids_data;
  int32_t* n_ids_data;
  void* topk_workspace;
  float* x;              // [factor_block, M]; low-rank keys or channel weights only
  double* channel_energy;  // [M]; channel weights only
  // Low-rank keys only:
  float* gram;      // [M, M]
  double* sum;      // [M]
  float* center;    // [M]
  float* mu;        // [M], as stored
  float* vectors;   // [M, r]
  float* p;         // [M, r]
  float* rotation;  // [r, r]
  float* eigenvalues;  // [r]
  float* residual_data;
  float* energy_data;
  void* workspace;
};

SealScratch carve_seal(Arenas* arenas, const Layout& layout, int64_t n_tokens);

}  // namespace skv::kv
