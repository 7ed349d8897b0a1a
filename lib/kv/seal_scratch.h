// Scratch of one seal, carved from Context::seal_scratch.
#pragma once

#include "kernels/ops.h"
#include "lib/kv/arena.h"
#include "lib/kv/layout.h"

namespace skv::kv {

inline constexpr int64_t kFactorBlock = 512;  // tokens un-rotated and multiplied at a time

struct SealScratch {
  float* min_cosine;       // [kv_heads, n_chunks]
  float* outlier_score;    // [kv_heads, n_chunks]
  int32_t* outlier_ids;    // [kv_heads, n_outliers]
  int32_t* n_outlier_ids;  // [kv_heads]
  kernels::KvSpan* key_spans;    // [kv_heads, bound]
  kernels::KvSpan* value_spans;  // [kv_heads, bound], k holds the values
  kernels::LandmarkBuildItem* landmark_items;
  kernels::TopkSelectItem* topk_items;
  kernels::BlockStoreItem* store_items;
  void* topk_workspace;
  float* x;              // [kFactorBlock, M]; low-rank keys or channel weights only
  double* channel_energy;  // [M]; channel weights only
  // Low-rank keys only:
  float* gram;      // [M, M]
  double* sum;      // [M]
  float* center;    // [M]
  float* mu;        // [M], as stored
  float* vectors;   // [M, r]
  float* weighted;  // [M, r]
  float* p;         // [M, r]
  float* rotation;  // [r, r]
  float* eigenvalues;  // [r]
  float* residual;  // [n_chunks, kv_heads]
  float* energy;    // [n_chunks, kv_heads]
  void* workspace;
};

SealScratch carve_seal(Arena* arena, const Layout& layout, int64_t n_tokens);

}  // namespace skv::kv
