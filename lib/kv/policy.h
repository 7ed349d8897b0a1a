// A policy resolved for one model: skv_kv_params with every default worked out and every field checked.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "shadowkv/kv.h"

namespace skv::kv {

// What lib/kv knows of a model.
struct Geometry {
  int32_t layers = 0;
  int32_t q_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 0.0f;  // softmax scale, 1 / sqrt(head_dim)
  int32_t group() const { return q_heads / kv_heads; }
  int32_t key_width() const { return kv_heads * head_dim; }  // M
};

struct Policy {
  skv_policy kind = SKV_POLICY_SHADOWKV;
  DType dtype = DType::bf16;
  bool low_rank = true;        // keys: low-rank in the fast tier, else exact in the slow tier
  bool centered = true;        // subtract mu before factoring
  bool rotated = true;         // equal-energy rotation Q of A's columns
  bool keeps_first_chunk = true;
  bool flushes = true;         // tokens after the first prompt are compressed too
  bool full_factorization = false;  // the full eigenproblem instead of subspace iteration
  bool selected_turns = false;      // further prompts attend to selected chunks only
  int32_t chunk = 8;
  int32_t rank = 0;
  double budget_fraction = 0.0;
  int32_t budget_min = 0;
  int32_t budget_fixed = 0;    // 0 = fraction and minimum
  double outlier_fraction = 0.0;
  int32_t outliers_fixed = -1; // >= 0: that many per head, once
  int32_t window = 32;
  int32_t flush = 256;         // multiple of chunk
  int64_t dense_below_fixed = -1;  // -1 = rule
  double residual_factor = 1.5;
  int32_t max_segments = 8;
  int32_t slots_fixed = 0;     // 0 = rule

  bool compresses() const { return kind != SKV_POLICY_FULL; }
  // Chunks selected per KV head and step at length n.
  int32_t selected_chunks(int64_t n) const;
  // Slot capacity at length n: at least selected_chunks(n), in steps so that it changes rarely.
  int32_t slot_capacity(int64_t n) const;
  // Outliers per KV head for a prompt of n_chunks newly compressed chunks.
  int32_t outlier_count(int32_t n_chunks) const;
  // A sequence stays dense while its length is at most this.
  int64_t dense_limit(int64_t n) const;
  // How many of n tokens are compressed when a prompt ends (multiple of chunk; 0 = stays dense).
  int64_t compressed_after_prompt(int64_t n) const;
};

// Throws Error(SKV_E_INVALID / SKV_E_UNSUPPORTED) naming field, value and range.
Policy resolve_policy(const skv_kv_params& params, const Geometry& geometry);
skv_kv_params default_kv_params();

}  // namespace skv::kv
