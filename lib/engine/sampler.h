// Sampling for a sequence: checks parameters, hands the op its history and counter.
#pragma once

#include "lib/engine/buffers.h"
#include "lib/engine/core.h"
#include "lib/engine/sequence_table.h"

namespace skv::engine {

// Throws Error(SKV_E_INVALID) naming the field.
void check_sampler(const kernels::SampleParams& params);
// The next token after the first n_history tokens of the sequence, drawn from logits [vocab]. The caller counts the
// draw. Throws Error(SKV_E_DATA) if no logit is finite.
int32_t sample_token(const Core& core, const DecodeBuffers& buffers, const SequenceState& sequence,
                     const float* logits, int64_t n_history);

}  // namespace skv::engine
