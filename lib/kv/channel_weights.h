// Weights of key channels. A few channels may carry a bias a hundred times the spread of the rest; a code of few bits
// with one scale a row would then keep the bias and lose the rest. So keys are divided by w before they are coded, and queries (or
// decoded keys) multiplied by it: q . k is the same, and w = sqrt(rms of keys / rms of queries), channel by channel, gives
// each channel's error the same weight in it. Rounded to powers of two, so that scaling itself rounds nothing.
#pragma once

#include "lib/kv/context.h"
#include "lib/kv/seal_scratch.h"

namespace skv::kv {

inline constexpr int64_t kWeightQueries = 64;  // of a prompt's end, whose energy counts

// Weights of a layer that is sealed for the first time, from keys [0, to) and energy [M] of queries (data, squares summed
// over each KV head's group; null or zeros: as if all channels of a query were alike).
void make_channel_weights(const Context& context, Layer& layer, int64_t to, const double* energy, SealScratch* scratch);

// [head_dim] of one head; null where the policy needs none.
const float* channel_weights(const Layout& layout, const Layer& layer, int32_t head);
const float* inverse_channel_weights(const Layout& layout, const Layer& layer, int32_t head);

// The same for what exact key blocks are coded with: null where they are raw.
inline const float* key_block_weights(const Layout& layout, const Layer& layer, int32_t head) {
  return layout.policy.key_codec == kernels::BlockCodec::raw ? nullptr : channel_weights(layout, layer, head);
}

}  // namespace skv::kv
