// guard_sample: a few chunks outside a selection, drawn by the mass that their digests promise, with the weights that
// make sums over them unbiased estimates of sums over all.
//
// Computes   over the N' chunks j < n that are neither in ids nor excluded (log_mass[0,j] = -inf):
//            p_j = 0.9 mean_g softmax_j(log_mass[g,:]) + 0.1 / N', over their sum (which is 1 but for the edges); the
//            points (i + u) / n_samples, i < n_samples, fall on chunk j c_j times, chunks laid end to end in order of
//            j with lengths p_j;
//            chunks = those with c_j > 0, ascending; log_weight = ln(c_j / (n_samples p_j)).
//            N' <= n_samples: all of them, log_weight 0
// Shapes     per item (one query token, one KV head): log_mass [G, n] (landmark_score's); ids [*n_ids] ascending;
//            chunks, log_weight out [n_samples]; n_chunks out [1]
// Types      f32; cumulative sums double
// Edges      N' = 0 or n_samples = 0: n_chunks = 0. A log mass of NaN or +inf is 0 in that head's softmax, and so is
//            every one of a head that has nothing else but -inf: the chunk, or the head, counts by the uniform part
// Determinism exact for equal inputs, whatever the other items and the thread count
// Tolerance  p 1e-5 relative; chunks those of the reference but for points within 1e-6 of a border
// Workspace  workspace_bytes(max n): two rows a worker
// Cost       one exp a chunk and query head
// Source     systematic importance sampling; shadowkv.md section 6 says what for
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace skv::kernels {

struct GuardSampleItem {
  const float* log_mass = nullptr;
  int64_t log_mass_stride = 0;
  int32_t group = 0;
  int32_t n = 0;
  const int32_t* ids = nullptr;
  const int32_t* n_ids = nullptr;
  int32_t max_ids = 0;  // bound of *n_ids
  float u = 0.0f;       // in [0, 1)
  int32_t n_samples = 0;
  int32_t* chunks = nullptr;
  float* log_weight = nullptr;
  int32_t* n_chunks = nullptr;
};

std::size_t guard_sample_workspace_bytes(int32_t max_n);
void guard_sample_ref(std::span<const GuardSampleItem>, void* workspace);
void guard_sample_cpu(std::span<const GuardSampleItem>, void* workspace);

}  // namespace skv::kernels
