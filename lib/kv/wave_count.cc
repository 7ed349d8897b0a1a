// What a wave did, for statistics and for those who watch.
#include <algorithm>
#include <vector>

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

// Chunks selected and missed are counted where they are decided: slot_update, guard_grow.
void Wave::count() const {
  const int64_t per_chunk =
      layout_.digest().chunk_bytes() + (policy_.estimates_rest ? layout_.value_mean().chunk_bytes() : 0);
  for_items([&](int64_t, const WaveToken& token, int32_t head) {
    Counters& c = token.sequence->counters;
    const Layer& layer = layer_of(token);
    c.attended_exact += attended_exact(token, head);
    ++c.attention_calls;
    if (layer.sealed == 0) return;
    c.digest_bytes += chunks_of(layer) * per_chunk;
    c.guard_calls += policy_.guarded();
  });
}

namespace {

std::vector<int32_t> read_list(const kernels::Ops& ops, const int32_t* ids, const int32_t* n_ids) {
  int32_t n = 0;
  ops.download(&n, n_ids, 4);
  std::vector<int32_t> list(static_cast<std::size_t>(n));
  ops.download(list.data(), ids, int64_t{n} * 4);
  return list;
}

}  // namespace

void Wave::probe_item(int64_t item, const WaveToken& token, int32_t head) const {
  const kernels::Ops& ops = context_.ops;
  const Layer& layer = layer_of(token);
  const bool guarded = policy_.guarded();
  std::vector<int32_t> chunks;
  std::vector<float> missed(static_cast<std::size_t>(layout_.geometry.group()));
  Selection selection;
  selection.sequence = token.sequence;
  selection.layer = layer_;
  selection.head = head;
  selection.position = token.position;
  selection.exact_from = policy_.streams() ? ring_start(policy_, *token.sequence, token.position) : layer.sealed;
  if (layer.sealed > 0) {
    chunks = guarded ? read_list(ops, s_.union_ids + item * k_, s_.n_union_ids + item)
                     : read_list(ops, s_.picks.ids + item * k_, s_.picks.n_ids + item);
    selection.chunks = chunks;
    selection.outliers = layer.outliers[static_cast<std::size_t>(head)].chunks;
    ops.download(&selection.n_fetched, s_.picks.n_miss + item, 4);
    if (guarded) {
      int32_t extra = 0;
      ops.download(&extra, s_.extra.n_miss + item, 4);
      selection.n_fetched += extra;
      const auto group = static_cast<int64_t>(missed.size());
      ops.download(missed.data(), s_.missed + item * group, group * 4);
      selection.estimated_miss = missed;
      selection.capped = kGuardMargin * *std::max_element(missed.begin(), missed.end()) >
                         static_cast<float>(policy_.max_missed);
    }
  }
  context_.probe(selection);
}

void Wave::probe() const {
  for_items([&](int64_t i, const WaveToken& token, int32_t head) { probe_item(i, token, head); });
}

}  // namespace skv::kv
