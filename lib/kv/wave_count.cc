// What a wave did, for statistics and for those who watch.
#include <algorithm>

#include "lib/kv/streaming.h"
#include "lib/kv/wave.h"

namespace skv::kv {

// Tokens attended to apart from selected chunks.
int64_t Wave::attended_exact(const WaveToken& token, int32_t head) const {
  const Layer& layer = layer_of(token);
  const int64_t all = token.position + 1;
  if (policy_.streams()) {
    const int64_t from = ring_start(policy_, *token.sequence, token.position);
    return all - std::max<int64_t>(from - policy_.sinks, 0);
  }
  if (layer.sealed == 0) return all;
  const auto outliers = static_cast<int64_t>(layer.outliers[static_cast<std::size_t>(head)].chunks.size());
  return all - layer.sealed + outliers * policy_.chunk;
}

void Wave::count() const {
  const int64_t row = layout_.geometry.head_dim * layout_.element();
  const int64_t per_chunk =
      layout_.digest().chunk_bytes() + (policy_.estimates_rest ? layout_.value_mean().chunk_bytes() : 0);
  const int64_t per_key = (policy_.low_rank ? layout_.lowrank_block() : layout_.key_block()).block_bytes();
  const int64_t per_miss = layout_.value_block().block_bytes() + per_key;
  for_items([&](int64_t i, const WaveToken& token, int32_t head) {
    Counters& c = token.sequence->counters;
    int64_t attended = attended_exact(token, head);
    const Layer& layer = layer_of(token);
    if (layer.sealed > 0) {
      const bool guarded = policy_.guarded();
      const int64_t selected = s_.picks.n_ids[i] + (guarded ? s_.extra.n_ids[i] : 0);
      const int64_t missing = s_.picks.n_miss[i] + (guarded ? s_.extra.n_miss[i] : 0);
      attended += selected * policy_.chunk;
      c.selected_chunks += selected;
      c.slot_hits += selected - missing;
      c.bytes_read += chunks_of(layer) * per_chunk + missing * per_miss;
      if (guarded) c.bytes_read += s_.n_samples[i] * per_key, count_guard(i, &c);
    }
    c.attended_tokens += attended;
    c.bytes_read += 2 * attended * row;
    ++c.attention_calls;
  });
}

float Wave::most_missed(int64_t item) const {
  const int32_t group = layout_.geometry.group();
  return *std::max_element(s_.missed + item * group, s_.missed + (item + 1) * group);
}

void Wave::count_guard(int64_t item, Counters* c) const {
  const float missed = most_missed(item);
  ++c->guard_calls;
  c->guard_capped += kGuardMargin * missed > static_cast<float>(policy_.max_missed);
  c->missed_mass += missed;
}

void Wave::probe() const {
  const auto group = static_cast<std::size_t>(layout_.geometry.group());
  for_items([&](int64_t i, const WaveToken& token, int32_t head) {
    const Layer& layer = layer_of(token);
    Selection selection;
    selection.sequence = token.sequence;
    selection.layer = layer_;
    selection.head = head;
    selection.position = token.position;
    selection.exact_from = policy_.streams() ? ring_start(policy_, *token.sequence, token.position) : layer.sealed;
    if (layer.sealed > 0) {
      selection.chunks = {s_.picks.ids + i * k_, static_cast<std::size_t>(s_.picks.n_ids[i])};
      selection.outliers = layer.outliers[static_cast<std::size_t>(head)].chunks;
      selection.n_fetched = s_.picks.n_miss[i];
      if (policy_.guarded()) {
        selection.chunks = {s_.union_ids + i * k_, static_cast<std::size_t>(s_.n_union_ids[i])};
        selection.n_fetched += s_.extra.n_miss[i];
        selection.estimated_miss = {s_.missed + static_cast<std::size_t>(i) * group, group};
        selection.capped = kGuardMargin * most_missed(i) > static_cast<float>(policy_.max_missed);
      }
    }
    context_.probe(selection);
  });
}

}  // namespace skv::kv
