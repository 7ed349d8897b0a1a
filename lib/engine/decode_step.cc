#include "lib/engine/decode_step.h"

#include <algorithm>

#include "lib/engine/decode_rows.h"
#include "lib/engine/sampler.h"

namespace skv::engine {

namespace {

void set_status(skv_row& row, const Failure& failure) noexcept {
  row.status = failure.status;
  row.sampled_token = -1;
  if (failure.status != SKV_OK) fill_error(failure, row.err);
}

}  // namespace

DecodeStep::DecodeStep(Core& core)
    : core_(core), buffers_(core.account, core.session.policy.work_tier, core.model, core.forward, core.session.max_rows) {
  // No bookkeeping may fail in the middle of a step.
  const auto n = static_cast<std::size_t>(core.session.max_rows);
  batch_.reserve(n);
  ranges_.reserve(n);
  kv_rows_.reserve(n);
}

int32_t DecodeStep::run(const SequenceTable& table, std::span<skv_row> rows) {
  batch_.clear();
  claimed_.clear();
  ranges_.clear();
  kv_rows_.clear();
  n_tokens_ = n_logits_ = 0;
  try {
    check_batch(rows, core_.session.max_rows);
    claimed_.reserve(rows.size());
    for (skv_row& row : rows) prepare(table, row);
    const kernels::Recording recording(core_.ops);
    run_layers();
    compute_logits();
  } catch (...) {
    give_up(rows, current_failure());
    throw;
  }
  int32_t done = 0;
  for (Row& row : batch_) {
    finish_row(row);
    done += row.abi->status == SKV_OK;
  }
  for (SequenceState* sequence : claimed_) sequence->in_step = false;
  return done;
}

void DecodeStep::prepare(const SequenceTable& table, skv_row& abi) {
  try {
    set_status(abi, {});
    SequenceState& sequence = table.get(abi.seq);
    check_row(abi, core_.model);
    check_row_sequence(abi, sequence);
    sequence.in_step = true;
    claimed_.push_back(&sequence);
    Row row{&abi, &sequence, n_tokens_, n_logits_, logits_of(abi), false, -1, -1};
    reserve(row);
    batch_.push_back(row);
    ranges_.push_back({row.first, abi.n_tokens, sequence.length});
    kv_rows_.push_back({sequence.kv, row.first, abi.n_tokens});
    n_tokens_ += abi.n_tokens;
    n_logits_ += row.n_logits;
  } catch (...) {
    set_status(abi, current_failure());
  }
}

void DecodeStep::reserve(Row& row) {
  SequenceState& sequence = *row.sequence;
  try {
    sequence.tokens.append({row.abi->tokens, static_cast<std::size_t>(row.abi->n_tokens)});
    if (row.n_logits > 0 && !sequence.logits) {
      sequence.logits = Buffer(core_.account, core_.session.policy.work_tier, SKV_PURPOSE_LOGITS,
                               kept_logits_bytes(core_.model));
      row.new_logits = true;
    }
    core_.store.decode_reserve(sequence.kv, row.abi->n_tokens);
  } catch (...) {
    release(row);
    throw;
  }
}

void DecodeStep::release(Row& row) noexcept {
  core_.store.decode_drop(row.sequence->kv);
  row.sequence->tokens.truncate(row.sequence->length);
  if (row.new_logits) row.sequence->logits.reset();
}

void DecodeStep::run_layers() {
  if (batch_.empty()) return;
  const model::Forward& forward = core_.forward;
  RowBuffers& b = buffers_.rows;
  for (const Row& row : batch_) {
    std::copy_n(row.abi->tokens, row.abi->n_tokens, buffers_.host_ids + row.first);
  }
  core_.ops.upload(b.ids, buffers_.host_ids, n_tokens_ * 4);
  for (int32_t layer = 0; layer < core_.model.layers; ++layer) {
    if (core_.interrupted.load(std::memory_order_relaxed)) {
      fail(SKV_E_INTERRUPTED, "interrupted before layer %d", layer);
    }
    {
      Timed timed(core_.times.decode_forward_ns);
      if (layer == 0) forward.embed(b.ids, n_tokens_, buffers_.x);
      forward.qkv(layer, buffers_.x, n_tokens_, ranges_, b.q, b.k, b.v, b.forward);
    }
    core_.store.decode_append(layer, kv_rows_, b.k, b.v);
    core_.store.decode_attend(layer, kv_rows_, b.q, b.attn);
    Timed timed(core_.times.decode_forward_ns);
    forward.finish(layer, buffers_.x, b.attn, n_tokens_, b.forward);
  }
}

void DecodeStep::compute_logits() {
  if (n_logits_ == 0) return core_.queue.check();
  Timed timed(core_.times.logits_ns);
  const int64_t hidden = core_.model.hidden;
  for (const Row& row : batch_) {
    const int64_t from = row.first + row.abi->n_tokens - row.n_logits;
    core_.ops.copy(buffers_.final_x + row.first_logit * hidden, buffers_.x + from * hidden, row.n_logits * hidden * 4);
  }
  core_.forward.logits(buffers_.final_x, n_logits_, buffers_.logits, buffers_.rows.forward);
  Sampler sampler(core_, buffers_);
  for (Row& row : batch_) {
    if (row.abi->sample != 1) continue;
    row.draw = sampler.count();
    sampler.add(*row.sequence, last_logits(row), row.sequence->tokens.size());
  }
  sampler.run();
  for (Row& row : batch_) {
    if (row.draw < 0) continue;
    try {
      row.sampled = sampler.token(row.draw);
    } catch (...) {
      set_status(*row.abi, current_failure());
    }
  }
  copy_out_logits();
}

const float* DecodeStep::last_logits(const Row& row) const {
  return buffers_.logits + (row.first_logit + row.n_logits - 1) * core_.model.vocab;
}

// To those who asked for them; before anything is committed, since the device may fail until then.
void DecodeStep::copy_out_logits() {
  const int64_t vocab = core_.model.vocab;
  for (const Row& row : batch_) {
    if (row.abi->status != SKV_OK || row.abi->logits == nullptr || row.abi->logits_mode == SKV_LOGITS_NONE) continue;
    core_.ops.download(row.abi->logits, buffers_.logits + row.first_logit * vocab, row.n_logits * vocab * 4);
  }
  core_.queue.check();
}

void DecodeStep::finish_row(Row& row) {
  if (row.abi->status == SKV_OK) commit(row);
  else release(row);
}

void DecodeStep::commit(Row& row) noexcept {
  SequenceState& sequence = *row.sequence;
  core_.store.decode_commit(sequence.kv, row.abi->n_tokens);
  sequence.length += row.abi->n_tokens;
  sequence.has_logits = row.n_logits > 0;
  if (row.n_logits > 0) {
    core_.ops.copy(sequence.logits.data(), last_logits(row), kept_logits_bytes(core_.model));
  }
  row.abi->sampled_token = row.sampled;
  if (row.sampled >= 0) ++sequence.sampled;
}

void DecodeStep::give_up(std::span<skv_row> rows, const Failure& failure) noexcept {
  for (Row& row : batch_) release(row);
  for (SequenceState* sequence : claimed_) sequence->in_step = false;
  for (skv_row& row : rows) set_status(row, failure);
}

}  // namespace skv::engine
