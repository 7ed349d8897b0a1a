// A policy resolved for one model: skv_kv_params with every default worked out and every field checked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/common/digest_format.h"
#include "kernels/landmark_score/landmark_score.h"
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
  skv_tier work_tier = SKV_TIER_HOST;  // of scratch that kernels work on; the fast tier on a GPU

  // Formats.
  bool low_rank = true;        // keys: low-rank in the fast tier, else exact in the slow tier
  kernels::BlockCodec key_codec = kernels::BlockCodec::raw;  // of A, or of exact keys
  kernels::BlockCodec value_codec = kernels::BlockCodec::raw;
  kernels::DigestKind digest = kernels::DigestKind::mean;
  kernels::BlockCodec digest_codec = kernels::BlockCodec::raw;
  bool estimates_rest = false;  // chunks not selected are attended to as mean values
  int32_t chunk = 8;
  int32_t rank = 0;

  // What is compressed, and how.
  bool centered = true;        // subtract mu before factoring
  bool rotated = true;         // equal-energy rotation Q of A's columns
  bool keeps_first_chunk = true;
  bool flushes = true;         // tokens after the first prompt are compressed too
  bool full_factorization = false;  // the full eigenproblem instead of subspace iteration
  double outlier_fraction = 0.0;
  int32_t outliers_fixed = -1; // >= 0: that many per head, once
  int32_t window = 32;
  int32_t flush = 256;         // multiple of chunk
  int64_t dense_below_fixed = -1;  // -1 = rule
  double residual_factor = 1.5;
  int32_t max_segments = 8;
  std::vector<bool> dense_layers;  // [layers], or empty: none

  // What is attended to.
  bool selected_turns = false;     // further prompts attend to selected chunks only
  kernels::ScoreReduce reduce = kernels::ScoreReduce::softmax_max;
  double budget_fraction = 0.0;
  int32_t budget_min = 0;
  int32_t budget_fixed = 0;        // 0 = fraction and minimum
  int32_t chunks_held_back = 0;    // of the budget, for what is attended to in any case
  double max_missed = 0.0;         // accuracy guard; 0 = off
  int32_t guard_cap = 0;           // tokens; 0 = rule
  std::vector<double> budget_weights;  // [layers, kv_heads], or empty: all 1
  int32_t kv_heads = 0;            // row length of budget_weights
  int32_t slots_fixed = 0;         // 0 = rule
  int32_t sinks = 0;               // streaming: first tokens kept; the ring is `window` long

  bool compresses() const {
    return kind != SKV_POLICY_FULL && kind != SKV_POLICY_STREAMING &&
           (dense_layers.empty() || std::find(dense_layers.begin(), dense_layers.end(), false) != dense_layers.end());
  }
  bool streams() const { return kind == SKV_POLICY_STREAMING; }
  bool guarded() const { return max_missed > 0.0; }
  bool is_dense(int32_t layer) const {
    return !compresses() || (!dense_layers.empty() && dense_layers[static_cast<std::size_t>(layer)]);
  }
  // Keys are coded in few bits, or their spread is measured: channels must count by what they mean to scores.
  bool weighs_channels() const;
  int32_t compressed_layers(int32_t layers) const;

  // Chunks selected per KV head and step at length n: of the budget, of a head by its weight, and what the guard may
  // let a head grow to.
  int32_t selected_chunks(int64_t n) const;
  int32_t selected_chunks(int64_t n, int32_t layer, int32_t head) const;
  int32_t selected_at_most(int64_t n, int32_t layer, int32_t head) const;
  // The most that any head of the layer selects, and any head of all.
  int32_t most_selected(int64_t n, int32_t layer) const;
  int32_t most_selected(int64_t n) const;
  // Slot capacity at length n: at least most_selected(n, layer), in steps so that it changes rarely.
  int32_t slot_capacity(int64_t n, int32_t layer) const;
  // Outliers per KV head for a prompt of n_chunks newly compressed chunks.
  int32_t outlier_count(int32_t n_chunks) const;
  // A sequence stays dense while its length is at most this.
  int64_t dense_limit(int64_t n) const;
  // How many of n tokens are compressed when a prompt ends (multiple of chunk; 0 = stays dense).
  int64_t compressed_after_prompt(int64_t n) const;

 private:
  int32_t weighted(int32_t chunks, int32_t layer, int32_t head) const;
};

// Throws Error(SKV_E_INVALID / SKV_E_UNSUPPORTED) naming field, value and range. Arrays are copied.
Policy resolve_policy(const skv_kv_params& params, const Geometry& geometry);
skv_kv_params default_kv_params();
// A policy's own row of choices. Throws Error(SKV_E_UNSUPPORTED) for a policy that is not there.
skv_kv_params preset_kv_params(skv_policy policy);

}  // namespace skv::kv
