// The accuracy guard and the estimated remainder: what lies outside the selection.
//
// A digest promises a chunk's mass to within a factor of several, which is not enough to bound what is missed. So the guard
// reads the exact keys of a few chunks outside, drawn by what their digests promise, which estimates the sum without bias,
// and takes further chunks by score until enough of the sample is inside.
#include <algorithm>

#include "kernels/common/hash_random.h"
#include "lib/kv/wave.h"

namespace skv::kv {
namespace {

// Where the sample's points begin: the same for a token of a layer and head whatever else is in the batch.
float sample_offset(int64_t position, int32_t layer, int32_t head) {
  const double u = 0.5 * kernels::hash_uniform(static_cast<uint64_t>(layer) * 65536 + static_cast<uint64_t>(head),
                                               static_cast<uint64_t>(position)) + 0.5;
  return std::min(static_cast<float>(u), 0x1.fffffep-1f);
}

}  // namespace

void Wave::guard() {
  {
    const StageTimer timer(&context_.times.select_ns);
    sample();
    grow();
  }
  take(s_.extra, Turn::grown);
  attend(Pieces::extra);
}

// Candidates for growth, sampled chunks outside the selection, and the sample's keys.
void Wave::sample() {
  const int32_t samples = guard_samples(policy_);
  std::size_t n = 0;
  for_sealed([&](int64_t item, const WaveToken& token, int32_t head) {
    const int32_t n_chunks = chunks_of(layer_of(token));
    s_.topk_items[n] = {s_.scores + item * n_chunks_, n_chunks,
                        grown_at_most(token, head), s_.candidates + item * k_, s_.n_candidates + item};
    s_.sample_items[n++] = {log_mass(item),
                            n_chunks_,
                            layout_.geometry.group(),
                            n_chunks,
                            s_.picks.ids + item * k_,
                            s_.picks.n_ids + item,
                            picked_at_most(token, head),
                            sample_offset(token.position, layer_, head),
                            samples,
                            s_.sample_chunks + item * samples,
                            s_.sample_weights + item * samples,
                            s_.n_samples + item};
  });
  context_.ops.topk_select({s_.topk_items, n}, s_.workspace);
  context_.ops.guard_sample({s_.sample_items, n}, s_.workspace);
  const int64_t keys_bytes = samples * layout_.block_bytes();
  fetch_keys({s_.sample_chunks, nullptr, s_.n_samples, samples, samples},
             [&](int64_t item, const Layer&, int32_t) { return s_.sample_keys + item * keys_bytes; });
}

void Wave::grow() {
  const int32_t samples = guard_samples(policy_);
  std::size_t n = 0;
  for_sealed([&](int64_t item, const WaveToken& token, int32_t head) {
    s_.grow_items[n++] = {query(token, head),
                          s_.sample_keys + item * samples * layout_.block_bytes(),
                          s_.sample_chunks + item * samples,
                          s_.sample_weights + item * samples,
                          s_.n_samples + item,
                          s_.scores + item * n_chunks_,
                          s_.candidates + item * k_,
                          s_.n_candidates + item,
                          s_.picks.ids + item * k_,
                          s_.picks.n_ids + item,
                          grown_at_most(token, head),
                          samples,
                          s_.union_ids + item * k_,
                          s_.n_union_ids + item,
                          lse(item),
                          s_.extra.ids + item * k_,
                          s_.extra.n_ids + item,
                          s_.missed + item * layout_.geometry.group(),
                          reinterpret_cast<double*>(slot_totals(layout_, layer_of(token), head) + 2)};
  });
  context_.ops.guard_grow(grow_desc(layout_), {s_.grow_items, n}, s_.workspace);
}

void Wave::attend_remainder() {
  const StageTimer timer(&context_.times.decode_attention_ns);
  const bool grown = policy_.guarded();
  std::size_t n = 0;
  for_sealed([&](int64_t item, const WaveToken& token, int32_t head) {
    const Layer& layer = layer_of(token);
    s_.remainder_items[n++] = {log_mass(item),
                               n_chunks_,
                               chunks_of(layer),
                               (grown ? s_.union_ids : s_.picks.ids) + item * k_,
                               (grown ? s_.n_union_ids : s_.picks.n_ids) + item,
                               grown ? grown_at_most(token, head) : picked_at_most(token, head),
                               value_mean_rows(layout_, layer, head),
                               output(token, head),
                               lse(item)};
  });
  context_.ops.attn_remainder(remainder_desc(layout_), {s_.remainder_items, n}, s_.workspace);
}

}  // namespace skv::kv
