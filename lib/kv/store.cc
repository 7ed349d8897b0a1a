#include "lib/kv/store.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "lib/base/status.h"
#include "lib/kv/channel_weights.h"
#include "lib/kv/context.h"
#include "lib/kv/decode.h"
#include "lib/kv/history.h"
#include "lib/kv/seal.h"
#include "lib/kv/streaming.h"
#include "lib/kv/truncate.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

// What is compressed once a prompt has taken the sequence to `total` tokens.
int64_t target_after_prompt(const Policy& policy, int64_t sealed, int64_t total) {
  if (sealed == 0) return policy.compressed_after_prompt(total);
  const bool due = policy.flushes && total - sealed >= policy.window + policy.flush;
  return due ? (total - policy.window) / policy.chunk * policy.chunk : sealed;
}

// The same after decoding: one flush at a time.
int64_t target_after_decode(const Policy& policy, int64_t sealed, int64_t total) {
  if (sealed == 0) return policy.compressed_after_prompt(total);
  const bool due = policy.flushes && total - sealed >= policy.window + policy.flush;
  return due ? sealed + policy.flush : sealed;
}

// Streaming: what the ring has left behind at the sequence's length.
void forget(const Policy& policy, Sequence* sequence) noexcept {
  const int64_t before = sequence->forgotten / kExactPageTokens, now = first_ring_page(policy, sequence->length);
  if (now <= before) return;
  for (Layer& layer : sequence->layers) forget_pages(policy, layer, before, sequence->length);
  sequence->forgotten = now * kExactPageTokens;
}

// Digests, missing chunks, sampled keys, and all that is attended to.
int64_t bytes_read(const Layout& layout, int64_t digest_bytes, int64_t attended, const SlotTotals& slots) {
  const Policy& policy = layout.policy;
  const int64_t per_key = (policy.low_rank ? layout.lowrank_block() : layout.key_block()).block_bytes();
  return digest_bytes + slots.missed * (layout.value_block().block_bytes() + per_key) +
         static_cast<int64_t>(slots.samples) * per_key +
         2 * attended * layout.geometry.head_dim * layout.element();
}

}  // namespace

struct Store::Impl {
  Impl(const Geometry& g, const Policy& p, const kernels::RopeView& rope, const kernels::Ops& ops, MemoryAccount& account)
      : context(g, p, rope, ops, account) {}
  Context context;
  std::vector<std::unique_ptr<Sequence>> sequences;  // destroyed before the pools
};

Store::Store(const Geometry& geometry, const Policy& policy, const kernels::RopeView& rope, const kernels::Ops& ops,
             MemoryAccount& account)
    : impl_(std::make_unique<Impl>(geometry, policy, rope, ops, account)) {}

Store::~Store() = default;

const Policy& Store::policy() const { return impl_->context.policy(); }
const Geometry& Store::geometry() const { return impl_->context.geometry(); }
const StageTimes& Store::times() const { return impl_->context.times; }

Sequence* Store::open() {
  auto sequence = std::make_unique<Sequence>();
  init_layers(impl_->context, *sequence);
  impl_->sequences.push_back(std::move(sequence));
  return impl_->sequences.back().get();
}

void Store::close(Sequence* sequence) noexcept {
  std::erase_if(impl_->sequences, [&](const auto& s) { return s.get() == sequence; });
}

int64_t Store::length(const Sequence* sequence) const { return sequence->length; }

void Store::begin_prefill(Sequence* sequence, int64_t n) {
  Context& context = impl_->context;
  if (sequence->pending.n != 0 || n <= 0) fail(SKV_E_INTERNAL, "begin_prefill of %lld tokens out of turn", (long long)n);
  const int64_t total = sequence->length + n, sealed = sequence->sealed();
  PendingPrefill pending;
  pending.n = n;
  pending.sealed_before = sealed;
  pending.sealed_target = target_after_prompt(context.policy(), sealed, total);
  ensure_scratch(context, &pending.scratch, prefill_scratch_bytes(context.layout, total, sealed));
  ensure_scratch(context, &context.decode_scratch, decode_scratch_bytes(context.layout, total));
  if (pending.sealed_target > sealed) {
    ensure_scratch(context, &context.seal_scratch, seal_scratch_bytes(context.layout, pending.sealed_target - sealed));
  }
  if (sealed > 0) ensure_slots(context, *sequence, total);
  if (sealed == 0 && context.policy().weighs_channels()) {
    pending.query_energy =
        Buffer(context.account, context.policy().work_tier, SKV_PURPOSE_OTHER, context.layout.query_energy_bytes());
    context.ops.fill(pending.query_energy.data(), 0, pending.query_energy.bytes());
  }
  sequence->pending = std::move(pending);
}

void Store::prefill_append(Sequence* sequence, int32_t layer_index, int64_t start, int64_t n, const float* k,
                           const float* v) {
  Context& context = impl_->context;
  Layer& layer = sequence->layers[static_cast<std::size_t>(layer_index)];
  const int64_t first = sequence->length + start;
  layer.exact.grow(std::max(layer.exact.size(), ceil_div(first + n, kExactPageTokens)));
  const kernels::KvAppendItem item = {layer.exact.data(), first, n, k, v};
  context.ops.kv_append(context.layout.exact_page(), {&item, 1});
}

void Store::prefill_attend(Sequence* sequence, int32_t layer, int64_t start, int64_t n, const float* q, float* out) {
  PendingPrefill& pending = sequence->pending;
  if (pending.query_energy.bytes() > 0) {
    const Geometry& g = geometry();
    const int64_t skipped = std::clamp<int64_t>(pending.n - kWeightQueries - start, 0, n);
    impl_->context.ops.column_energy({q + skipped * g.q_heads * g.head_dim, n - skipped, g.q_heads, g.group(), g.head_dim,
                                      pending.query_energy.as<double>() + int64_t{layer} * g.key_width()});
  }
  attend_block(impl_->context, *sequence, layer, sequence->length + start, n, q, out);
}

void Store::prefill_finish_layer(Sequence* sequence, int32_t layer_index) {
  Context& context = impl_->context;
  Layer& layer = sequence->layers[static_cast<std::size_t>(layer_index)];
  const PendingPrefill& pending = sequence->pending;
  // Pages that the sequence had before stay until commit, so that abort can go back to them.
  const int64_t kept = ceil_div(sequence->length, kExactPageTokens);
  if (context.policy().streams()) forget_pages(context.policy(), layer, kept, sequence->length + pending.n);
  if (context.policy().is_dense(layer_index) || pending.sealed_target == layer.sealed) return;
  prepare_layer(context, layer, pending.sealed_target, sequence->length + pending.n);
  run_seal(context, *sequence, layer, pending.sealed_target);
  drop_sealed_pages(layer, kept);
}

void Store::prefill_commit(Sequence* sequence) noexcept {
  const PendingPrefill& pending = sequence->pending;
  for (Layer& layer : sequence->layers) {
    if (layer.sealed > pending.sealed_before) drop_sealed_pages(layer, pending.sealed_before / kExactPageTokens);
  }
  sequence->length += pending.n;
  if (sequence->sealed() == 0) sequence->query_energy = std::move(sequence->pending.query_energy);
  else sequence->query_energy.reset();
  if (impl_->context.policy().streams()) forget(impl_->context.policy(), sequence);
  sequence->pending = PendingPrefill{};
}

void Store::prefill_abort(Sequence* sequence) noexcept {
  if (sequence->pending.n == 0) return;
  for (Layer& layer : sequence->layers) {
    unseal(impl_->context, layer, sequence->pending.sealed_before);
    trim_layer(impl_->context, layer, sequence->length);
  }
  sequence->pending = PendingPrefill{};
}

void Store::decode_reserve(Sequence* sequence, int32_t n) {
  Context& context = impl_->context;
  if (sequence->pending.n != 0 || n < 1 || n > kMaxRowTokens) {
    fail(SKV_E_INTERNAL, "decode_reserve of %d tokens out of turn", n);
  }
  const int64_t total = sequence->length + n, sealed = sequence->sealed();
  const int64_t target = target_after_decode(context.policy(), sealed, total);
  ensure_scratch(context, &context.decode_scratch, decode_scratch_bytes(context.layout, total));
  if (sealed > 0) ensure_slots(context, *sequence, total);
  try {
    for (Layer& layer : sequence->layers) {
      layer.exact.grow(std::max(layer.exact.size(), ceil_div(total, kExactPageTokens)));
    }
    if (target > sealed) prepare_seal(context, *sequence, target, total);
  } catch (...) {
    for (Layer& layer : sequence->layers) trim_layer(context, layer, sequence->length);
    throw;
  }
  sequence->step_base = sequence->step_next;
  sequence->step_next += static_cast<uint32_t>(n);
}

void Store::decode_append(int32_t layer_index, std::span<const DecodeRow> rows, const float* k, const float* v) {
  const Context& context = impl_->context;
  const Geometry& g = context.geometry();
  kernels::KvAppendItem items[kMaxRowTokens];
  std::size_t n = 0;
  const auto flush = [&] { context.ops.kv_append(context.layout.exact_page(), {items, std::exchange(n, 0)}); };
  for (const DecodeRow& row : rows) {
    const Layer& layer = row.sequence->layers[static_cast<std::size_t>(layer_index)];
    const int64_t at = row.first * g.key_width();
    items[n++] = {layer.exact.data(), row.sequence->length, row.n, k + at, v + at};
    if (n == std::size(items)) flush();
  }
  flush();
}

void Store::decode_attend(int32_t layer, std::span<const DecodeRow> rows, const float* q, float* out) {
  attend_rows(impl_->context, layer, rows, q, out);
}

void Store::decode_commit(Sequence* sequence, int32_t n) noexcept {
  Context& context = impl_->context;
  sequence->length += n;
  sequence->counters.decode_tokens += n;
  const int64_t before = sequence->sealed();
  const int64_t target = target_after_decode(context.policy(), before, sequence->length);
  if (context.policy().streams()) forget(context.policy(), sequence);
  if (target == before) return;
  for (Layer& layer : sequence->layers) {
    if (context.policy().is_dense(layer.index)) continue;
    run_seal(context, *sequence, layer, target);
    drop_sealed_pages(layer, before / kExactPageTokens);
  }
  sequence->query_energy.reset();
  ++sequence->counters.flushes;
}

void Store::decode_drop(Sequence* sequence) noexcept {
  for (Layer& layer : sequence->layers) trim_layer(impl_->context, layer, sequence->length);
}

void Store::truncate(Sequence* sequence, int64_t length) {
  if (sequence->pending.n != 0 || length < 0 || length > sequence->length) {
    fail(SKV_E_INTERNAL, "truncate to %lld out of turn", static_cast<long long>(length));
  }
  if (length < sequence->length) truncate_sequence(impl_->context, *sequence, length);
}

void Store::stats(const Sequence* sequence, skv_kv_stats* out) const {
  const Policy& policy = impl_->context.policy();
  const Counters& c = sequence->counters;
  out->is_dense = sequence->sealed() == 0 && sequence->forgotten == 0;
  out->n_tokens = sequence->length;
  out->n_compressed = sequence->sealed();
  out->n_dropped = std::max<int64_t>(sequence->forgotten - kExactPageTokens, 0);
  out->n_exact = sequence->length - sequence->sealed() - out->n_dropped;
  out->n_segments = 0;
  out->n_outlier_chunks = 0;
  double energy = 0.0, missed = 0.0;
  SlotTotals slots;
  for (const Layer& layer : sequence->layers) {
    out->n_segments = std::max(out->n_segments, static_cast<int32_t>(layer.segments.size()));
    for (const HeadOutliers& head : layer.outliers) out->n_outlier_chunks += static_cast<int64_t>(head.chunks.size());
    energy += layer.key_energy;
    missed += layer.missed_energy;
    slots += slot_totals(impl_->context, layer);
  }
  out->budget_tokens = sequence->sealed() == 0 ? 0 : policy.selected_chunks(sequence->length) * policy.chunk;
  out->n_flushes = c.flushes;
  out->n_forced_segments = c.forced_segments;
  out->n_lossy_tokens = c.lossy_tokens;
  out->decode_tokens = c.decode_tokens;
  out->selected_chunks = slots.selected;
  out->slot_hits = slots.selected - slots.missed;
  out->attended_tokens = c.attended_exact + slots.selected * policy.chunk;
  out->attention_calls = c.attention_calls;
  out->bytes_read = bytes_read(impl_->context.layout, c.digest_bytes, out->attended_tokens, slots);
  out->key_energy = energy > 0.0 ? 1.0 - missed / energy : 1.0;
  out->guard_calls = c.guard_calls;
  out->guard_capped = static_cast<int64_t>(slots.capped);
  out->missed_mass = c.guard_calls > 0 ? slots.missed_mass / static_cast<double>(c.guard_calls) : 0.0;
}

const float* Store::channel_weights(const Sequence* sequence, int32_t layer, int32_t head) const {
  const Layer& l = sequence->layers[static_cast<std::size_t>(layer)];
  return l.sealed > 0 ? kv::channel_weights(impl_->context.layout, l, head) : nullptr;
}

void Store::set_probe(SelectionProbe probe) { impl_->context.probe = std::move(probe); }

void Store::clear_slots(Sequence* sequence) noexcept {
  for (const Layer& layer : sequence->layers) forget_slots(impl_->context, layer);
}

}  // namespace skv::kv
