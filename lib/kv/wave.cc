#include "lib/kv/wave.h"

#include <algorithm>

#include "lib/kv/streaming.h"

namespace skv::kv {

Wave::Wave(Context& context, int32_t layer, std::span<const WaveToken> tokens, int64_t n, const float* q, float* out)
    : context_(context), layout_(context.layout), policy_(context.policy()), layer_(layer), tokens_(tokens), q_(q),
      out_(out) {
  Arenas arenas = context.decode_scratch.arenas();
  s_ = carve_wave(&arenas, layout_, static_cast<int64_t>(tokens.size()), n);
  if (policy_.compresses()) k_ = policy_.most_selected(n);
  if (policy_.streams()) sink_bytes_ = sink_scratch_bytes(layout_);
  n_chunks_ = ceil_div(n, policy_.chunk);
  for (const WaveToken& token : tokens) any_sealed_ |= layer_of(token).sealed > 0;
}

void Wave::run() {
  if (any_sealed_) {
    score();
    take(s_.picks, Turn::picked);
  }
  attend(Pieces::all);
  if (any_sealed_ && policy_.guarded()) guard();
  if (any_sealed_ && policy_.estimates_rest) attend_remainder();
  count();
  if (context_.probe) probe();
}

// Scores, and the best chunks: as many as the budget.
void Wave::score() {
  const StageTimer timer(&context_.times.select_ns);
  std::size_t n = 0;
  for_sealed([&](int64_t item, const WaveToken& token, int32_t head) {
    const Layer& layer = layer_of(token);
    float* scores = s_.scores + item * n_chunks_;
    s_.score_items[n] = {query(token, head),
                         channel_weights(layout_, layer, head),
                         digest_rows(layout_, layer, head),
                         excluded_data(layer, head),
                         chunks_of(layer),
                         scores,
                         log_mass(item),
                         n_chunks_};
    s_.topk_items[n++] = {scores, chunks_of(layer), picked_at_most(token, head), s_.picks.ids + item * k_,
                          s_.picks.n_ids + item};
  });
  context_.ops.landmark_score(score_desc(layout_), {s_.score_items, n}, s_.workspace);
  context_.ops.topk_select({s_.topk_items, n}, s_.workspace);
}

void Wave::take(const Picks& picks, Turn turn) {
  update_slots(picks, turn);
  const StageTimer timer(&context_.times.fetch_ns);
  // Keys come from fast memory, values from the slow one: beside each other, and the keys first, for values take longer.
  context_.ops.begin_aside();
  fetch_keys({picks.miss_chunks, picks.miss_slots, picks.n_miss, static_cast<int32_t>(k_), k_},
             [&](int64_t, const Layer& layer, int32_t head) { return slot_keys(layout_, layer, head); });
  context_.ops.end_aside();
  fetch_values(picks, turn);
  context_.ops.join();
}

void Wave::update_slots(const Picks& picks, Turn turn) {
  const StageTimer timer(&context_.times.select_ns);
  std::size_t n = 0;
  for_sealed([&](int64_t item, const WaveToken& token, int32_t head) {
    const Layer& layer = layer_of(token);
    kernels::SlotUpdateItem& slots = s_.slot_items[n++];
    slots.table = table_rows(layout_, layer, head);
    slots.chunk_of_slot = chunk_of_slot(layer, head);
    slots.last_used = slot_last_used(layout_, layer, head);
    slots.n_slots = layer.slots.capacity;
    slots.step = 2 * token.step + static_cast<uint32_t>(turn);
    slots.ids = picks.ids + item * k_;
    slots.n_ids = picks.n_ids + item;
    slots.max_ids = at_most(turn, token, head);
    slots.slots = picks.slots + item * k_;
    slots.miss_chunks = picks.miss_chunks + item * k_;
    slots.miss_slots = picks.miss_slots + item * k_;
    slots.n_miss = picks.n_miss + item;
    slots.totals = slot_totals(layout_, layer, head);
  });
  context_.ops.slot_update({s_.slot_items, n}, s_.workspace);
}

void Wave::fetch_values(const Picks& picks, Turn turn) {
  std::size_t n = 0;
  for_sealed([&](int64_t item, const WaveToken& token, int32_t head) {
    const Layer& layer = layer_of(token);
    s_.fetch_items[n++] = {value_rows(layout_, layer, head), slot_values(layout_, layer, head),
                           picks.miss_chunks + item * k_,    picks.miss_slots + item * k_,
                           picks.n_miss + item,              at_most(turn, token, head),
                           nullptr};
  });
  context_.ops.chunk_fetch(layout_.value_block(), {s_.fetch_items, n});
}

// Outliers and the window; for streaming the sinks and the ring.
int32_t Wave::exact_pieces(int64_t item, const WaveToken& token, int32_t head, kernels::KvRun* runs) const {
  const Layer& layer = layer_of(token);
  const int64_t end = token.position + 1;
  int32_t n = 0;
  int64_t from = layer.sealed;
  if (policy_.streams()) {
    from = ring_start(policy_, *token.sequence, token.position);
    if (from <= policy_.sinks) from = 0;
    else if (policy_.sinks > 0) runs[n++] = sink_run(layout_, layer, head, s_.turned_sinks + item / heads());
  } else if (layer.sealed > 0) {
    runs[n++] = outlier_run(layout_, layer, head);
  }
  runs[n++] = exact_run(layout_, layer, head, from, end);
  return n;
}

void Wave::turn_all_sinks() const {
  for_items([&](int64_t item, const WaveToken& token, int32_t head) {
    const int64_t from = ring_start(policy_, *token.sequence, token.position);
    if (head != 0 || from <= policy_.sinks) return;
    turn_sinks(context_, layer_of(token), from, sinks_of(item));
    s_.turned_sinks[item / heads()] = turned_sinks(layout_, sinks_of(item));
  });
}

void Wave::attend(Pieces pieces) {
  const StageTimer timer(&context_.times.decode_attention_ns);
  if (policy_.streams() && policy_.sinks > 0) turn_all_sinks();
  const Picks& picks = pieces == Pieces::extra ? s_.extra : s_.picks;
  for_items([&](int64_t i, const WaveToken& token, int32_t head) {
    const Layer& layer = layer_of(token);
    kernels::AttnDecodeItem item;
    kernels::KvRun* runs = s_.runs + i * kWaveRuns;
    item.q = query(token, head);
    item.runs = runs;
    item.out = output(token, head);
    item.lse = lse(i);
    item.merge = pieces == Pieces::extra;
    if (pieces == Pieces::all) item.n_runs = exact_pieces(i, token, head, runs);
    if (layer.sealed > 0) {
      item.blocks = {slot_keys(layout_, layer, head), slot_values(layout_, layer, head), layout_.block_bytes(),
                     policy_.chunk, picks.slots + i * k_, picks.n_ids + i,
                     pieces == Pieces::extra ? grown_at_most(token, head) : picked_at_most(token, head)};
    }
    s_.attn_items[i] = item;
  });
  context_.ops.attn_decode(attn_desc(layout_), {s_.attn_items, tokens_.size() * static_cast<std::size_t>(heads())},
                           s_.workspace);
}

}  // namespace skv::kv
