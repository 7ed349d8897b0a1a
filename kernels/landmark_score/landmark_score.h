// landmark_score: how much each chunk could matter to a KV head's queries, from the chunks' digests.
//
// Computes   log mass m[g,j] of chunk j for query head g, w = scale * (estimated q . k):
//              mean           ln C + w_j
//              mean_variance  ln C + w_j + scale^2 |q[g]|^2 v_j / 2
//              box            scale * sum_d max(q_d max_d, q_d min_d), the most w can be in the box: a bound of every
//                             key's w
//              keys_2bit      ln sum_t exp(w_jt)
//            s[j] = max_g softmax_j(m[g,:]) over the j not excluded, or max_g m[g,j]
//            with weights, q_d weights_d stands for q_d
// Shapes     per item (one query token of one sequence and KV head): q [G, D] contiguous; weights [D] or null; digest
//            rows of n chunks; excluded bitset [ceil(n / 64)] or null; s [n]; log_mass [G, n] or null
// Types      q f32; digests as in digest_format.h, raw ones bf16 or f32; sums f32; of int8 and 2-bit codes exact
//            integers, after q (2-bit: H q) is rounded to 16 bits of its largest element; on a GPU, beside bf16 rows,
//            each element of q may be rounded to 16 bits of itself
// Strides    rows contiguous, pages 16-byte aligned; offsets too where a row's bytes are a multiple of 16, those of
//            2-bit keys' scales 8-byte aligned; nothing is read past a row
// Edges      excluded j: s = m = -inf; all excluded or n = 0: nothing else written; equal digests: equal s; with
//            raw_max a valid j has s >= -FLT_MAX; a NaN in q or in a digest not excluded: NaN in this item's s and m
//            only (of a digest: in its own m, and every s that is normalised over it); where digests are codes an
//            infinity in q counts as NaN
// Determinism bit-equal for equal inputs, whatever the other items, the thread count and the page size
// Tolerance  |s - ref| <= 2e-3 * max(ref) bf16, int8 and 2-bit, 1e-5 f32; |m - ref| <= 1e-4 * max(1, |ref|) f32, 1e-3
//            else; both for scale |q| |k| up to 20, beyond that in proportion to it; top-k set equals the reference's
//            but for ties within it
// Workspace  workspace_bytes(desc, sum of n over items)
// Cost       bytes ~ n * (digest + 8 G + 4), flops ~ 2 G n D (2-bit: times C, box: times 2); one core reads memory at
//            half to 0.8 of its rate for G <= 4; arithmetic binds above that, and 2-bit keys always (3.4 times a
//            16-bit mean's time at G = 4)
// Source     ShadowKV (arXiv 2410.21465) Alg. 2 lines 1-3; box: Quest (arXiv 2406.10774); variance: shadowkv.md
//            section 6
#pragma once

#include <cstddef>
#include <span>

#include "kernels/common/digest_format.h"

namespace skv::kernels {

enum class ScoreReduce : uint8_t { softmax_max = 0, raw_max = 1 };

struct LandmarkScoreDesc {
  DigestFormat format;
  int32_t group = 0;
  float scale = 0.0f;
  ScoreReduce reduce = ScoreReduce::softmax_max;
};

struct LandmarkScoreItem {
  const float* q = nullptr;
  const float* weights = nullptr;
  DigestRows digest;
  const uint64_t* excluded = nullptr;
  int32_t n = 0;
  float* scores = nullptr;
  float* log_mass = nullptr;  // head g's at log_mass + g * log_mass_stride; may be null
  int64_t log_mass_stride = 0;
};

bool landmark_score_supports(const LandmarkScoreDesc& desc);
std::size_t landmark_score_workspace_bytes(const LandmarkScoreDesc& desc, int64_t total_chunks);
void landmark_score_ref(const LandmarkScoreDesc&, std::span<const LandmarkScoreItem>, void* workspace);
void landmark_score_cpu(const LandmarkScoreDesc&, std::span<const LandmarkScoreItem>, void* workspace);

}  // namespace skv::kernels
