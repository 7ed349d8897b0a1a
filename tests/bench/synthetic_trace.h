// Synthetic traces: what real models do to keys, one difficulty at a time, the same from the same seed.
//
// Common to all: pre-RoPE keys of all heads together have a steep spectrum (rank 40 of 256 holds 98 % of their energy in
// plain) and follow the text at three speeds (tens of tokens, a few, one), not aligned with chunks; queries walk,
// neighbouring steps correlate by 0.925, and a group's heads look nearly the same way; logits of ordinary keys have a
// standard deviation of 2 within a step; values are channels of unlike scale with a constant part.
//
//   plain           nothing else
//   outliers        two keys in a thousand, per head, are 10 times as long as the others, in the quarter of the RoPE
//                   planes that queries hardly use: their own logits stay within a few units
//   heavy           24 tokens per head that raise every query's logit by 8 to 12: they hold most of the mass
//   bias100         a constant 100 times the keys' spread (by norm, per head), in six RoPE planes, before RoPE;
//   queries
//                   use these planes so little that it moves logits by 1.5
//   shift           keys live in another subspace from the middle of the prompt on, and in a third from decode step
//   96
//                   on; queries ask within the subspace of their own time. `answer` is 128 steps before the end,
//                   after the first flush of the default window
//   extraction      each step's queries belong to one of 4 topics, for 8 steps at a time; a topic has 256 tokens,
//   each
//                   in a chunk of its own, of logits about 8 (standard deviation 0.6): as much mass in any of them
//   extraction_few  the same with 24 tokens of logit 10: all fit in a small budget, if they are found
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "tests/bench/trace.h"

namespace skv::bench {

struct SyntheticOptions {
  std::string family = "plain";
  int64_t tokens = 16384;  // of the prompt
  int64_t steps = 0;       // 0 = 96; shift: 448
  int32_t kv_heads = 2;
  int32_t group = 4;
  int32_t head_dim = 128;
  uint64_t seed = 1;
};

std::span<const char* const> synthetic_families();

// One layer, one question. Throws SKV_E_INVALID for an unknown family, or tokens too few for its needles.
Trace synthetic_trace(const SyntheticOptions& options);

}  // namespace skv::bench
