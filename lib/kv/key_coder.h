// Low-rank keys: bases by block subspace iteration on centred Gram matrices, coordinates by projection, new segments
// where keys have moved.
#pragma once

#include "lib/kv/context.h"
#include "lib/kv/seal_scratch.h"

namespace skv::kv {

// Codes tokens [from, to) of a layer into its low-rank pages; fills residual and energy of the scratch (chunk j of the
// range, head). The first call of a layer makes its first basis (whose memory must be there). Returns the relative
// residual above which a chunk counts as missed.
double code_keys(Context& context, Sequence& sequence, Layer& layer, int64_t from, int64_t to, SealScratch* scratch);

}  // namespace skv::kv
