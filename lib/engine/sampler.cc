#include "lib/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <utility>

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

void Sampler::add(const SequenceState& sequence, const float* logits, int64_t n_history) {
  kernels::SampleItem item;
  item.logits = logits;
  item.vocab = core_.model.vocab;
  item.params = sequence.sampler;
  item.counter = sequence.sampled;
  item.token = buffers_.tokens + count_++;
  if (sequence.sampler.repetition_penalty == 1.0f) {
    items_[n_items_++] = item;
    return;
  }
  // There is room for one history: it is used before the next one comes.
  item.history = buffers_.history;
  item.n_history = distinct_tokens(sequence.tokens, n_history, item.vocab, buffers_.host_seen, buffers_.host_history);
  core_.ops.upload(buffers_.history, buffers_.host_history, item.n_history * 4);
  core_.ops.sample({&item, 1}, buffers_.sample);
}

void Sampler::run() {
  if (n_items_ > 0) core_.ops.sample({items_, std::exchange(n_items_, 0)}, buffers_.sample);
  if (count_ > 0) core_.ops.download(buffers_.host_tokens, buffers_.tokens, static_cast<int64_t>(count_) * 4);
  core_.queue.check();
}

int32_t Sampler::token(int32_t i) const {
  if (buffers_.host_tokens[i] < 0) {
    fail(SKV_E_DATA, "none of the %d logits is a number above -inf", core_.model.vocab);
  }
  return buffers_.host_tokens[i];
}

}  // namespace skv::engine
