// sample: one token from each of several rows of logits.
//
// Computes   In this order: repetition penalty r on the distinct ids of history (l > 0 ? l / r : l * r);
//            temperature 0: argmax (lowest id among equals), done. Otherwise l / temperature; keep the top_k largest
//            (0 = all; ties: lower id first); softmax; top_p: the shortest prefix in descending order whose mass reaches
//            top_p (1 = all, never empty); min_p: drop p < min_p * p_max (0 = none); renormalise; draw with
//            u = counter_uniform(seed, counter): the first id, in descending order, whose cumulative mass exceeds u.
// Shapes     per item: logits [vocab] f32, not modified; history [n_history] ids; token out [1]
// Edges      NaN logits count as -inf; all -inf or NaN: token = -1; +inf: that id (lowest) wins
// Determinism depends on (logits, history, params, seed, counter) only
// Workspace  workspace_bytes(largest vocab, n_items): one row's, as a CPU takes rows one by one; a GPU needs none
// Source     nucleus sampling (arXiv 1904.09751), min-p (2407.01082); generator: Philox 4x32-10 (Salmon et al., SC 2011)
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace skv::kernels {

struct SampleParams {
  float temperature = 0.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  uint64_t seed = 0;
};

struct SampleItem {
  const float* logits = nullptr;
  int32_t vocab = 0;
  const int32_t* history = nullptr;
  int64_t n_history = 0;
  SampleParams params;
  uint64_t counter = 0;  // tokens sampled so far in this sequence
  int32_t* token = nullptr;
};

// Uniform in [0, 1) with 24 bits, from Philox keyed by seed.
float counter_uniform(uint64_t seed, uint64_t counter);

std::size_t sample_workspace_bytes(int32_t vocab, int64_t n_items);
void sample_ref(std::span<const SampleItem>, void* workspace);
void sample_cpu(std::span<const SampleItem>, void* workspace);

}  // namespace skv::kernels
