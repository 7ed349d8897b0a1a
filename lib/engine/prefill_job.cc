#include "lib/engine/prefill_job.h"

#include <algorithm>
#include <utility>

namespace skv::engine {

namespace {

int64_t q_width(const model::Config& config) { return static_cast<int64_t>(config.q_heads) * config.head_dim; }

}  // namespace

PrefillJob::PrefillJob(Core& core, SequenceState& sequence)
    : core_(core),
      sequence_(sequence),
      base_(sequence.length),
      n_(sequence.queued()),
      buffers_(core.account, core.session.policy.work_tier, core.model, core.forward, n_, core.session.prefill_block),
      host_ids_(static_cast<std::size_t>(std::min<int64_t>(n_, core.session.prefill_block))) {
  if (!sequence.logits) {
    new_logits_ = Buffer(core.account, core.session.policy.work_tier, SKV_PURPOSE_LOGITS, kept_logits_bytes(core.model));
  }
  try {
    core.store.begin_prefill(sequence.kv, n_);
  } catch (...) {
    core.store.prefill_abort(sequence.kv);
    throw;
  }
}

PrefillJob::~PrefillJob() {
  if (!committed_) core_.store.prefill_abort(sequence_.kv);
}

int64_t PrefillJob::total() const { return n_ * core_.model.layers; }

PrefillJob::Block PrefillJob::next_block() const {
  const int64_t n = std::min<int64_t>(core_.session.prefill_block, n_ - start_);
  return {start_, n, start_ + n == n_};
}

int64_t PrefillJob::next_unit() const { return next_block().n; }

void PrefillJob::project(const Block& block) {
  Timed timed(core_.times.prefill_forward_ns);
  float* x = buffers_.hidden() + block.start * core_.model.hidden;
  if (layer_ == 0) {
    sequence_.tokens.copy(base_ + block.start, block.n, host_ids_.data());
    core_.ops.upload(buffers_.rows.ids, host_ids_.data(), block.n * 4);
    core_.forward.embed(buffers_.rows.ids, block.n, x);
  }
  const model::RowRange range{0, block.n, base_ + block.start};
  core_.forward.qkv(layer_, x, block.n, {&range, 1}, buffers_.rows.q, buffers_.rows.k, buffers_.rows.v,
                    buffers_.rows.forward);
}

void PrefillJob::finish_rows(float* x, const float* attn, int64_t n) {
  Timed timed(core_.times.prefill_forward_ns);
  core_.forward.finish(layer_, x, attn, n, buffers_.rows.forward);
}

void PrefillJob::attend(const Block& block) {
  const bool last_layer = layer_ == core_.model.layers - 1;
  if (last_layer && !block.last) return;
  const int64_t skipped = last_layer ? block.n - 1 : 0;
  const int64_t start = block.start + skipped, n = block.n - skipped;
  core_.store.prefill_attend(sequence_.kv, layer_, start, n, buffers_.rows.q + skipped * q_width(core_.model),
                             buffers_.rows.attn);
  finish_rows(buffers_.hidden() + start * core_.model.hidden, buffers_.rows.attn, n);
}

bool PrefillJob::run_unit() {
  const Block block = next_block();
  project(block);
  core_.store.prefill_append(sequence_.kv, layer_, block.start, block.n, buffers_.rows.k, buffers_.rows.v);
  attend(block);
  if (block.last) core_.store.prefill_finish_layer(sequence_.kv, layer_);
  done_ += block.n;
  start_ += block.n;
  if (!block.last) return false;
  start_ = 0;
  core_.queue.check();
  if (++layer_ < core_.model.layers) return false;
  compute_logits();
  commit();
  return true;
}

void PrefillJob::compute_logits() {
  Timed timed(core_.times.logits_ns);
  float* logits = (new_logits_ ? new_logits_ : sequence_.logits).as<float>();
  core_.forward.logits(buffers_.hidden() + (n_ - 1) * core_.model.hidden, 1, logits, buffers_.rows.forward);
  core_.ops.wait();
  core_.queue.check();
}

void PrefillJob::commit() noexcept {
  if (new_logits_) sequence_.logits = std::move(new_logits_);
  core_.store.prefill_commit(sequence_.kv);
  sequence_.length += n_;
  sequence_.has_logits = true;
  committed_ = true;
}

}  // namespace skv::engine
