#include "lib/engine/sampler.h"

#include <algorithm>
#include <cmath>

namespace skv::engine {

namespace {

// The penalty counts an id once, so the op gets the distinct ids: its scratch is bounded by vocab, not by the
// context.
int64_t distinct_tokens(const TokenPages& tokens, int64_t n, int32_t vocab, uint64_t* seen, int32_t* out) {
  std::fill_n(seen, (vocab + 63) / 64, uint64_t{0});
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t id = tokens[i];
    const uint64_t bit = uint64_t{1} << (id % 64);
    if ((seen[id / 64] & bit) == 0) out[count++] = id;
    seen[id / 64] |= bit;
  }
  return count;
}

}  // namespace

void check_sampler(const kernels::SampleParams& p) {
  if (!(p.temperature >= 0.0f) || !std::isfinite(p.temperature)) {
    fail(SKV_E_INVALID, "temperature is %g; finite and at least 0 is allowed", static_cast<double>(p.temperature));
  }
  if (p.top_k < 0) fail(SKV_E_INVALID, "top_k is %d; 0 (all) and more are allowed", p.top_k);
  if (!(p.top_p > 0.0f && p.top_p <= 1.0f)) {
    fail(SKV_E_INVALID, "top_p is %g; above 0 to 1 is allowed", static_cast<double>(p.top_p));
  }
  if (!(p.min_p >= 0.0f && p.min_p <= 1.0f)) {
    fail(SKV_E_INVALID, "min_p is %g; 0 to 1 is allowed", static_cast<double>(p.min_p));
  }
  if (!(p.repetition_penalty > 0.0f) || !std::isfinite(p.repetition_penalty)) {
    fail(SKV_E_INVALID, "repetition_penalty is %g; finite and above 0 is allowed",
         static_cast<double>(p.repetition_penalty));
  }
}

int32_t sample_token(const Core& core, const DecodeBuffers& buffers, const SequenceState& sequence,
                     const float* logits, int64_t n_history) {
  kernels::SampleArgs args;
  args.logits = logits;
  args.vocab = core.model.vocab;
  args.params = sequence.sampler;
  args.counter = sequence.sampled;
  if (sequence.sampler.repetition_penalty != 1.0f) {
    args.history = buffers.history;
    args.n_history = distinct_tokens(sequence.tokens, n_history, args.vocab, buffers.seen, buffers.history);
  }
  const int32_t token = core.ops.sample(args, buffers.sample);
  if (token < 0) fail(SKV_E_DATA, "none of the %d logits is a number above -inf", args.vocab);
  return token;
}

}  // namespace skv::engine
