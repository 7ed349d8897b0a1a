// Prompt blocks attend to what came before them: exact tokens directly, compressed history tile by tile (keys rebuilt or
// read, values fetched, streaming softmax), or only to the chunks selected for each block of queries.
#pragma once

#include "lib/kv/context.h"

namespace skv::kv {

inline constexpr int64_t kTileTokens = 4096;        // compressed history held decoded at a time
inline constexpr int64_t kSelectQueries = 64;       // queries that share one selection (policy.selected_turns)
// Queries that share one pass over the history: what a CPU's caches hold, or enough to fill a GPU.
inline int64_t attend_tokens(const Policy& policy) { return policy.work_tier == SKV_TIER_HOST ? 512 : 4096; }

// Queries [n] at positions first_pos.. of one sequence against everything up to each of them.
void attend_block(Context& context, Sequence& sequence, int32_t layer, int64_t first_pos, int64_t n, const float* q,
                  float* out);

// Scratch of a prefill that ends at length n_total, over a history of which sealed tokens are compressed.
ScratchBytes prefill_scratch_bytes(const Layout& layout, int64_t n_total, int64_t sealed);

}  // namespace skv::kv
