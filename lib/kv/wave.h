// One wave of a decode step in one layer: a query token of each of several sequences.
//
// Digests are scored, the best chunks get slots, missing ones are fetched, all is attended to; then the accuracy guard may
// add chunks, and what is not selected may be estimated. Parts merge by lse.
#pragma once

#include <span>

#include "lib/kv/channel_weights.h"
#include "lib/kv/context.h"
#include "lib/kv/seal.h"
#include "lib/kv/views.h"
#include "lib/kv/wave_scratch.h"

namespace skv::kv {

// One query token of one row.
struct WaveToken {
  Sequence* sequence;
  int64_t row;       // of q and out
  int64_t position;  // its own; it attends to [0, position]
  uint32_t step;     // of the slot cache's clock
};

class Wave {
 public:
  // Scratch is the context's decode scratch; n is the longest sequence, tokens of this wave included.
  Wave(Context& context, int32_t layer, std::span<const WaveToken> tokens, int64_t n, const float* q, float* out);
  void run();

 private:
  enum class Pieces { all, extra };

  int32_t heads() const { return layout_.geometry.kv_heads; }
  Layer& layer_of(const WaveToken& token) const { return token.sequence->layers[static_cast<std::size_t>(layer_)]; }
  // Bounds of what the item's lists hold, as the host knows them.
  int32_t picked_at_most(const WaveToken& token, int32_t head) const {
    return policy_.selected_chunks(token.position + 1, layer_, head);
  }
  int32_t grown_at_most(const WaveToken& token, int32_t head) const {
    return policy_.selected_at_most(token.position + 1, layer_, head);
  }
  const float* query(const WaveToken& token, int32_t head) const { return q_ + row_offset(token, head); }
  float* output(const WaveToken& token, int32_t head) const { return out_ + row_offset(token, head); }
  int64_t row_offset(const WaveToken& token, int32_t head) const {
    const Geometry& g = layout_.geometry;
    return token.row * g.q_heads * g.head_dim + int64_t{head} * g.group() * g.head_dim;
  }
  float* lse(int64_t item) const { return s_.lse ? s_.lse + item * layout_.geometry.group() : nullptr; }
  float* log_mass(int64_t item) const {
    return s_.log_mass ? s_.log_mass + item * layout_.geometry.group() * n_chunks_ : nullptr;
  }
  int32_t chunks_of(const Layer& layer) const { return static_cast<int32_t>(layer.sealed / policy_.chunk); }

  // fn(item, token, head) for every token, and for those whose layer is compressed.
  template <class Fn>
  void for_items(Fn&& fn) const {
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      for (int32_t h = 0; h < heads(); ++h) fn(static_cast<int64_t>(t) * heads() + h, tokens_[t], h);
    }
  }
  template <class Fn>
  void for_sealed(Fn&& fn) const {
    for_items([&](int64_t item, const WaveToken& token, int32_t head) {
      if (layer_of(token).sealed > 0) fn(item, token, head);
    });
  }

  void score();
  enum class Turn : uint32_t { picked = 0, grown = 1 };
  int32_t at_most(Turn turn, const WaveToken& token, int32_t head) const {
    return turn == Turn::picked ? picked_at_most(token, head) : grown_at_most(token, head);
  }
  // Slots for picked chunks, filled. What the guard adds takes its turn after, and must not displace the first.
  void take(const Picks& picks, Turn turn);
  void update_slots(const Picks& picks, Turn turn);
  void fetch_values(const Picks& picks, Turn turn);
  // Keys of item i's n[i] chunks at chunks + i * stride into slots of region(item, layer, head).
  struct KeyList {
    const int32_t* chunks;
    const int32_t* slots;  // null: 0, 1, 2, ...
    const int32_t* n;
    int32_t max_n;
    int64_t stride;  // of chunks and slots
    const int32_t* slots_of(int64_t item) const { return slots == nullptr ? nullptr : slots + item * stride; }
  };
  template <class Region>
  void fetch_keys(const KeyList& list, Region&& region);
  void attend(Pieces pieces);
  int32_t exact_pieces(int64_t item, const WaveToken& token, int32_t head, kernels::KvRun* runs) const;
  void turn_all_sinks() const;
  void* sinks_of(int64_t item) const { return s_.sinks + item / heads() * sink_bytes_; }

  // wave_guard.cc
  void guard();
  void sample();
  void grow();
  void attend_remainder();

  // wave_count.cc
  void count() const;
  int64_t attended_exact(const WaveToken& token, int32_t head) const;
  void probe() const;
  void probe_item(int64_t item, const WaveToken& token, int32_t head) const;

  Context& context_;
  const Layout& layout_;
  const Policy& policy_;
  int32_t layer_;
  std::span<const WaveToken> tokens_;
  const float* q_;
  float* out_;
  int64_t sink_bytes_ = 0;
  int64_t k_ = 0;  // room for ids of one item
  int64_t n_chunks_ = 0;
  bool any_sealed_ = false;
  WaveScratch s_;
};

template <class Region>
void Wave::fetch_keys(const KeyList& list, Region&& region) {
  std::size_t n = 0;
  if (!policy_.low_rank) {
    for_sealed([&](int64_t item, const WaveToken& token, int32_t head) {
      const Layer& layer = layer_of(token);
      s_.fetch_items[n++] = {key_rows(layout_, layer, head), region(item, layer, head), list.chunks + item * list.stride,
                             list.slots_of(item), list.n + item, list.max_n,
                             key_block_weights(layout_, layer, head)};
    });
    return context_.ops.chunk_fetch(layout_.key_block(), {s_.fetch_items, n});
  }
  for_sealed([&](int64_t item, const WaveToken& token, int32_t head) {
    const Layer& layer = layer_of(token);
    kernels::BasisSegment* segments = s_.segments + item * segment_entries(policy_);
    const int32_t n_segments = head_segments(layout_, layer, head, segments);
    s_.rebuild_items[n++] = {lowrank_rows(layout_, layer),
                             segments,
                             n_segments,
                             list.chunks + item * list.stride,
                             list.slots_of(item),
                             list.n + item,
                             list.max_n,
                             region(item, layer, head)};
  });
  context_.ops.key_rebuild(rebuild_desc(context_), {s_.rebuild_items, n});
}

}  // namespace skv::kv
