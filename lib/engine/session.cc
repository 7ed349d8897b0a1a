#include "lib/engine/session.h"

#include <algorithm>
#include <cinttypes>

#include "lib/engine/decode_rows.h"
#include "lib/engine/sampler.h"
#include "lib/engine/session_impl.h"

namespace skv::engine {

namespace {

void check_logits(const SequenceState& sequence) {
  if (!sequence.has_logits) fail(SKV_E_STATE, "the sequence keeps no logits of its last token");
}

}  // namespace

Session::Session(std::shared_ptr<Runtime> runtime, std::shared_ptr<const model::Model> model,
                 const SessionConfig& config)
    : runtime_(std::move(runtime)), model_(std::move(model)) {
  if (model_->weights() == nullptr) fail(SKV_E_STATE, "the model is open for its metadata only: no weights to run");
  runtime_->executor().run([&] { impl_ = std::make_unique<Impl>(*runtime_, *model_, config, interrupted_); });
}

Session::~Session() = default;

skv_seq Session::open(int64_t max_tokens) {
  const int64_t longest = model_->config().max_positions;
  if (max_tokens == SKV_AUTO) max_tokens = longest;
  if (max_tokens < 1) fail(SKV_E_INVALID, "max_tokens is %" PRId64 "; SKV_AUTO or at least 1 is allowed", max_tokens);
  if (max_tokens > longest) {
    fail(SKV_E_LIMIT, "max_tokens is %" PRId64 "; the model allows %" PRId64, max_tokens, longest);
  }
  impl_->table.check_room();
  auto state = std::make_unique<SequenceState>(impl_->account);
  state->max_tokens = max_tokens;
  state->kv = impl_->store.open();
  kv::Sequence* const opened = state->kv;
  try {
    return impl_->table.add(std::move(state));
  } catch (...) {
    impl_->store.close(opened);
    throw;
  }
}

void Session::close(skv_seq seq) { impl_->close(*impl_->table.remove(seq)); }

void Session::append(skv_seq seq, std::span<const int32_t> tokens) {
  SequenceState& sequence = impl_->table.get(seq);
  if (tokens.empty()) return;
  check_tokens(tokens, model_->config().vocab);
  const auto n = static_cast<int64_t>(tokens.size());
  if (n > sequence.max_tokens - sequence.tokens.size()) {
    fail(SKV_E_LIMIT, "the sequence would have %" PRId64 " tokens; its max_tokens is %" PRId64,
         sequence.tokens.size() + n, sequence.max_tokens);
  }
  impl_->admit(sequence, n);
  const int64_t before = sequence.tokens.size();
  sequence.tokens.append(tokens);
  try {
    impl_->queue.push(sequence);
  } catch (...) {
    sequence.tokens.truncate(before);
    throw;
  }
  sequence.prefill_failure = {};
}

void Session::cancel(skv_seq seq) { impl_->queue.drop(impl_->table.get(seq)); }

int64_t Session::length(skv_seq seq) const { return impl_->table.get(seq).length; }

int64_t Session::queued(skv_seq seq) const { return impl_->table.get(seq).queued(); }

void Session::truncate(skv_seq seq, int64_t length) {
  SequenceState& sequence = impl_->table.get(seq);
  if (sequence.queued() > 0) {
    fail(SKV_E_STATE, "%" PRId64 " prompt tokens of the sequence are queued", sequence.queued());
  }
  if (length < 0 || length > sequence.length) {
    fail(SKV_E_INVALID, "length is %" PRId64 "; 0 to the present %" PRId64 " are allowed", length, sequence.length);
  }
  if (length == sequence.length) return;
  runtime_->executor().run([&] {
    impl_->core.queue.check();
    impl_->store.truncate(sequence.kv, length);
  });
  sequence.length = length;
  sequence.tokens.truncate(length);
  sequence.logits.reset();
  sequence.has_logits = false;
}

void Session::set_sampler(skv_seq seq, const kernels::SampleParams& params) {
  SequenceState& sequence = impl_->table.get(seq);
  check_sampler(params);
  sequence.sampler = params;
  sequence.sampled = 0;
}

int32_t Session::sample(skv_seq seq) {
  SequenceState& sequence = impl_->table.get(seq);
  check_logits(sequence);
  Timed timed(impl_->core.times.logits_ns);
  Sampler sampler(impl_->core, impl_->decode.buffers());
  sampler.add(sequence, sequence.logits.as<float>(), sequence.length);
  sampler.run();
  const int32_t token = sampler.token(0);
  ++sequence.sampled;
  return token;
}

void Session::copy_logits(skv_seq seq, float* out, int64_t capacity) const {
  const SequenceState& sequence = impl_->table.get(seq);
  check_logits(sequence);
  if (capacity < model_->config().vocab) {
    fail(SKV_E_SPACE, "capacity is %" PRId64 " floats; %d are needed", capacity, model_->config().vocab);
  }
  impl_->core.ops.download(out, sequence.logits.data(), kept_logits_bytes(model_->config()));
  impl_->core.queue.check();
}

skv_status Session::prefill_status(skv_seq seq, skv_error* detail) const {
  const Failure& failure = impl_->table.get(seq).prefill_failure;
  if (failure.status != SKV_OK) fill_error(failure, detail);
  return failure.status;
}

void Session::kv_stats(skv_seq seq, skv_kv_stats* out) const {
  impl_->store.stats(impl_->table.get(seq).kv, out);
}

void Session::usage(skv_session_usage* out) const {
  const MemoryAccount& account = impl_->account;
  out->n_sequences = impl_->table.count();
  out->used = {};
  for (skv_tier tier = 0; tier < SKV_TIER_SLOTS; ++tier) {
    const bool known = tier < SKV_TIER_COUNT;
    out->peak_bytes[tier] = known ? account.peak(tier) : 0;
    out->limit_bytes[tier] = known ? account.limit(tier) : SKV_UNLIMITED;
    for (skv_purpose purpose = 0; known && purpose < SKV_PURPOSE_COUNT; ++purpose) {
      out->used.bytes[tier][purpose] = account.used(tier, purpose);
    }
  }
  const kv::StageTimes& kv = impl_->store.times();
  const EngineTimes& engine = impl_->core.times;
  out->prefill_forward_ns = engine.prefill_forward_ns;
  out->prefill_attention_ns = kv.prefill_attention_ns;
  out->compress_ns = kv.compress_ns;
  out->decode_forward_ns = engine.decode_forward_ns;
  out->decode_select_ns = kv.select_ns;
  out->decode_fetch_ns = kv.fetch_ns;
  out->decode_attention_ns = kv.decode_attention_ns;
  out->logits_ns = engine.logits_ns;
}

}  // namespace skv::engine
