#include "lib/kv/history.h"

#include <algorithm>

#include "lib/kv/channel_weights.h"
#include "lib/kv/seal.h"
#include "lib/kv/streaming.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

struct HistoryScratch {
  // Lists:
  kernels::KvSpan* spans;              // [kv_heads, bound]
  kernels::AttnPrefillItem* items;     // [kv_heads]
  int32_t* host_ids;                   // [tile chunks]; compressed history only, like all below
  int32_t* host_counts;                // [kv_heads]
  kernels::ChunkFetchItem* fetch_items;
  kernels::KeyRebuildItem* rebuild_items;
  kernels::BasisSegment* segments;
  kernels::BlockCopyItem* copies;      // [2 tile chunks], or [kv_heads, kSelectQueries]
  int32_t* host_n_ids;                 // [kv_heads]; selected turns only, like the next two
  kernels::LandmarkScoreItem* score_items;
  kernels::TopkSelectItem* topk_items;
  // Data:
  void* attn_workspace;
  char* sinks;                         // streaming only
  float* lse;                          // [attend_tokens, q_heads]; compressed history only, like all below
  void* tile;                          // K then V, [kv_heads, tile chunks, C, d] each
  int32_t* all_ids;                    // one tile's chunk ids, shared by the heads
  int32_t* counts;                     // [kv_heads] chunks of the tile
  float* queries;                      // [kv_heads, kSelectQueries * group, d]; selected turns only, like all below
  float* scores;                       // [kv_heads, n_chunks]
  int32_t* ids;                        // [kv_heads, k]
  int32_t* n_ids;                      // [kv_heads]
  void* select_workspace;
};

int32_t tile_chunks(const Layout& layout) { return static_cast<int32_t>(kTileTokens / layout.policy.chunk); }

kernels::LandmarkScoreDesc block_score_desc(const Layout& layout) {
  const Geometry& g = layout.geometry;
  return {layout.digest(), static_cast<int32_t>(kSelectQueries) * g.group(), g.scale, layout.policy.reduce};
}

void carve_selection(Arenas* arenas, const Layout& layout, int64_t n_total, int64_t sealed, HistoryScratch* s) {
  const Geometry& g = layout.geometry;
  const int64_t n_chunks = sealed / layout.policy.chunk;
  s->host_n_ids = arenas->lists.take<int32_t>(g.kv_heads);
  s->score_items = arenas->lists.take<kernels::LandmarkScoreItem>(g.kv_heads);
  s->topk_items = arenas->lists.take<kernels::TopkSelectItem>(g.kv_heads);
  Arena* arena = &arenas->data;
  s->queries = arena->take<float>(kSelectQueries * g.q_heads * g.head_dim);
  s->scores = arena->take<float>(g.kv_heads * n_chunks);
  s->ids = arena->take<int32_t>(int64_t{g.kv_heads} * layout.policy.most_selected(n_total));
  s->n_ids = arena->take<int32_t>(g.kv_heads);
  const std::size_t bytes =
      std::max(kernels::landmark_score_workspace_bytes(block_score_desc(layout), g.kv_heads * n_chunks),
               kernels::topk_select_workspace_bytes(g.kv_heads * n_chunks));
  s->select_workspace = arena->take<char>(static_cast<int64_t>(bytes));
}

HistoryScratch carve_history(Arenas* arenas, const Layout& layout, int64_t n_total, int64_t sealed) {
  Arena &lists = arenas->lists, &data = arenas->data;
  const Geometry& g = layout.geometry;
  const kernels::AttnPrefillDesc desc = {layout.policy.dtype, g.head_dim, g.group(), g.scale};
  HistoryScratch s = {};
  const int64_t outlier_pages = sealed / layout.policy.chunk / kOutliersPerPage + 2;
  s.spans = lists.take<kernels::KvSpan>(g.kv_heads * (exact_span_bound(n_total - sealed) + outlier_pages));
  s.items = lists.take<kernels::AttnPrefillItem>(g.kv_heads);
  s.attn_workspace = data.take<char>(static_cast<int64_t>(kernels::attn_prefill_workspace_bytes(desc)));
  if (layout.policy.streams()) s.sinks = data.take<char>(sink_scratch_bytes(layout));
  if (sealed == 0) return s;
  s.host_ids = lists.take<int32_t>(tile_chunks(layout));
  s.host_counts = lists.take<int32_t>(g.kv_heads);
  s.fetch_items = lists.take<kernels::ChunkFetchItem>(g.kv_heads);
  s.rebuild_items = lists.take<kernels::KeyRebuildItem>(g.kv_heads);
  s.segments = lists.take<kernels::BasisSegment>(g.kv_heads * segment_entries(layout.policy));
  s.copies = lists.take<kernels::BlockCopyItem>(std::max<int64_t>(2 * tile_chunks(layout), g.kv_heads * kSelectQueries));
  s.lse = data.take<float>(attend_tokens(layout.policy) * g.q_heads);
  s.tile = data.take<char>(int64_t{2} * g.kv_heads * tile_chunks(layout) * layout.block_bytes());
  s.all_ids = data.take<int32_t>(tile_chunks(layout));
  s.counts = data.take<int32_t>(g.kv_heads);
  if (layout.policy.selected_turns) carve_selection(arenas, layout, n_total, sealed, &s);
  return s;
}

class BlockAttention {
 public:
  BlockAttention(Context& context, Sequence& sequence, int32_t layer, int64_t n_total)
      : context_(context), layout_(context.layout), layer_(sequence.layers[static_cast<std::size_t>(layer)]),
        ring_start_(ring_start(context.policy(), sequence, sequence.length)) {
    Arenas arenas = sequence.pending.scratch.arenas();
    s_ = carve_history(&arenas, layout_, n_total, layer_.sealed);
    span_stride_ = exact_span_bound(n_total - layer_.sealed) + layer_.sealed / layout_.policy.chunk / kOutliersPerPage + 2;
  }

  void dense(int64_t pos, int64_t n, const float* q, float* out) {
    start(pos, n, q, out);
    const auto n_chunks = static_cast<int32_t>(layer_.sealed / layout_.policy.chunk);
    for (int32_t first = 0; first < n_chunks; first += tile_chunks(layout_)) {
      const int32_t count = std::min(tile_chunks(layout_), n_chunks - first);
      for (int32_t i = 0; i < count; ++i) s_.host_ids[i] = first + i;
      context_.ops.upload(s_.all_ids, s_.host_ids, int64_t{count} * 4);
      for (int32_t h = 0; h < heads(); ++h) s_.host_counts[h] = count;
      decode_tile([&](int32_t) { return s_.all_ids; });
      overlay_outliers(first, count);
      attend_tile(int64_t{first} * layout_.policy.chunk);
    }
    attend_exact();
  }

  // A prompt of policy streaming attends to sinks, ring and itself.
  void streamed(int64_t pos, int64_t n, const float* q, float* out) {
    start(pos, n, q, out);
    const int32_t sinks = layout_.policy.sinks;
    const bool gap = ring_start_ > sinks;
    if (gap && sinks > 0) turn_sinks(context_, layer_, ring_start_, s_.sinks);
    attend([&](int32_t h, kernels::KvSpan* list) {
      int32_t count = 0;
      if (gap && sinks > 0) list[count++] = sink_span(layout_, layer_, h, s_.sinks);
      return count + exact_spans(layout_, layer_, h, gap ? ring_start_ : 0, pos_ + n_, list + count);
    });
  }

  // Blocks of kSelectQueries queries: outliers, the chunks selected for the block, exact tokens.
  void selected(int64_t pos, int64_t n, const float* q, float* out) {
    const int64_t row = int64_t{layout_.geometry.q_heads} * layout_.geometry.head_dim;
    for (int64_t at = 0; at < n; at += kSelectQueries) {
      start(pos + at, std::min(kSelectQueries, n - at), q + at * row, out + at * row);
      const int32_t k = select_chunks();
      for (int32_t first = 0; first < k; first += tile_chunks(layout_)) {
        for (int32_t h = 0; h < heads(); ++h) {
          s_.host_counts[h] = std::clamp(s_.host_n_ids[h] - first, 0, tile_chunks(layout_));
        }
        decode_tile([&](int32_t h) { return s_.ids + int64_t{h} * k + first; });
        attend_tile(0);  // all of it lies before the block, in whatever order
      }
      attend_outliers();
      attend_exact();
    }
  }

 private:
  int32_t heads() const { return layout_.geometry.kv_heads; }

  void start(int64_t pos, int64_t n, const float* q, float* out) {
    pos_ = pos, n_ = n, q_ = q, out_ = out;
    merged_ = false;
  }

  // One pass of the block's queries over spans(head) -> count, merged into what earlier passes gave.
  template <class Spans>
  void attend(Spans&& spans) {
    const Geometry& g = layout_.geometry;
    for (int32_t h = 0; h < heads(); ++h) {
      kernels::AttnPrefillItem& item = s_.items[h];
      kernels::KvSpan* list = s_.spans + h * span_stride_;
      const int64_t head = int64_t{h} * g.group() * g.head_dim;
      item.q = q_ + head;
      item.q_stride = int64_t{g.q_heads} * g.head_dim;
      item.n_q = static_cast<int32_t>(n_);
      item.pos = pos_;
      item.spans = list;
      item.n_spans = spans(h, list);
      item.out = out_ + head;
      item.out_stride = item.q_stride;
      item.lse = s_.lse ? s_.lse + int64_t{h} * g.group() : nullptr;
      item.lse_stride = g.q_heads;
      item.merge = merged_;
    }
    context_.ops.attn_prefill({layout_.policy.dtype, g.head_dim, g.group(), g.scale},
                              {s_.items, static_cast<std::size_t>(heads())}, s_.attn_workspace);
    merged_ = true;
  }

  void* tile_keys(int32_t head) const {
    return offset_bytes(s_.tile, int64_t{head} * tile_chunks(layout_) * layout_.block_bytes());
  }
  void* tile_values(int32_t head) const { return tile_keys(heads() + head); }

  // Keys and values of ids(head)[0, host_counts[head]) into the tile.
  template <class Ids>
  void decode_tile(Ids&& ids) {
    const Policy& policy = layout_.policy;
    const auto n_heads = static_cast<std::size_t>(heads());
    context_.ops.upload(s_.counts, s_.host_counts, int64_t{heads()} * 4);
    for (int32_t h = 0; h < heads(); ++h) {
      s_.fetch_items[h] = {value_rows(layout_, layer_, h), tile_values(h), ids(h), nullptr, s_.counts + h,
                           s_.host_counts[h], nullptr};
    }
    context_.ops.chunk_fetch(layout_.value_block(), {s_.fetch_items, n_heads});
    if (!policy.low_rank) {
      for (int32_t h = 0; h < heads(); ++h) {
        s_.fetch_items[h] = {key_rows(layout_, layer_, h), tile_keys(h), ids(h), nullptr, s_.counts + h,
                             s_.host_counts[h], key_block_weights(layout_, layer_, h)};
      }
      return context_.ops.chunk_fetch(layout_.key_block(), {s_.fetch_items, n_heads});
    }
    for (int32_t h = 0; h < heads(); ++h) {
      kernels::BasisSegment* segments = s_.segments + h * segment_entries(policy);
      const int32_t n_segments = head_segments(layout_, layer_, h, segments);
      s_.rebuild_items[h] = {lowrank_rows(layout_, layer_), segments, n_segments, ids(h), nullptr, s_.counts + h,
                             s_.host_counts[h], tile_keys(h)};
    }
    context_.ops.key_rebuild(rebuild_desc(context_), {s_.rebuild_items, n_heads});
  }

  // Outliers are exact: their bytes replace the decoded ones.
  void overlay_outliers(int32_t first, int32_t count) {
    const int64_t bytes = layout_.block_bytes();
    for (int32_t h = 0; h < heads(); ++h) {
      std::size_t n = 0;
      const std::vector<int32_t>& chunks = layer_.outliers[static_cast<std::size_t>(h)].chunks;
      for (std::size_t i = 0; i < chunks.size(); ++i) {
        if (chunks[i] < first || chunks[i] >= first + count) continue;
        const kernels::KvSpan block = outlier_block(layout_, layer_, h, static_cast<int64_t>(i));
        const int64_t at = (chunks[i] - first) * bytes;
        s_.copies[n++] = {offset_bytes(tile_keys(h), at), block.k, bytes};
        s_.copies[n++] = {offset_bytes(tile_values(h), at), block.v, bytes};
      }
      context_.ops.block_copy({s_.copies, n});
    }
  }

  void attend_tile(int64_t first_token) {
    attend([&](int32_t h, kernels::KvSpan* list) {
      list[0] = {tile_keys(h), tile_values(h), s_.host_counts[h] * layout_.policy.chunk, first_token};
      return 1;
    });
  }

  void attend_outliers() {
    attend([&](int32_t h, kernels::KvSpan* list) {
      const int32_t n = outlier_spans(layout_, layer_, h, list);
      for (int32_t i = 0; i < n; ++i) list[i].pos = 0;  // a page's blocks are not in order; all lie before the block
      return n;
    });
  }

  void attend_exact() {
    attend([&](int32_t h, kernels::KvSpan* list) {
      return exact_spans(layout_, layer_, h, layer_.sealed, pos_ + n_, list);
    });
  }

  // Returns the stride of ids: the most chunks that a head asks for.
  int32_t select_chunks() {
    const Geometry& g = layout_.geometry;
    const auto n_chunks = static_cast<int32_t>(layer_.sealed / layout_.policy.chunk);
    const int32_t k = layout_.policy.most_selected(pos_ + n_);
    const int64_t width = int64_t{g.group()} * g.head_dim;
    const int64_t rows = kSelectQueries * width;
    std::size_t n_copies = 0;
    for (int32_t h = 0; h < heads(); ++h) {
      float* queries = s_.queries + h * rows;
      for (int64_t t = 0; t < kSelectQueries; ++t) {
        // A short block repeats its last query, which cannot change the maximum.
        const float* from = q_ + std::min(t, n_ - 1) * g.q_heads * g.head_dim + h * width;
        s_.copies[n_copies++] = {queries + t * width, from, width * 4};
      }
      float* scores = s_.scores + int64_t{h} * n_chunks;
      s_.score_items[h] = {queries,  channel_weights(layout_, layer_, h), digest_rows(layout_, layer_, h),
                           excluded_data(layer_, h), n_chunks, scores};
      s_.topk_items[h] = {scores, n_chunks, layout_.policy.selected_chunks(pos_ + n_, layer_.index, h),
                          s_.ids + int64_t{h} * k, s_.n_ids + h};
    }
    const auto n_heads = static_cast<std::size_t>(heads());
    context_.ops.block_copy({s_.copies, n_copies});
    context_.ops.landmark_score(block_score_desc(layout_), {s_.score_items, n_heads}, s_.select_workspace);
    context_.ops.topk_select({s_.topk_items, n_heads}, s_.select_workspace);
    context_.ops.download(s_.host_n_ids, s_.n_ids, int64_t{heads()} * 4);
    return k;
  }

  Context& context_;
  const Layout& layout_;
  Layer& layer_;
  HistoryScratch s_;
  int64_t ring_start_;  // streaming: of the prompt
  int64_t span_stride_;
  int64_t pos_ = 0, n_ = 0;
  const float* q_ = nullptr;
  float* out_ = nullptr;
  bool merged_ = false;
};

}  // namespace

void attend_block(Context& context, Sequence& sequence, int32_t layer, int64_t first_pos, int64_t n, const float* q,
                  float* out) {
  const StageTimer timer(&context.times.prefill_attention_ns);
  BlockAttention block(context, sequence, layer, sequence.length + sequence.pending.n);
  const bool compressed = sequence.layers[static_cast<std::size_t>(layer)].sealed > 0;
  const int64_t row = int64_t{context.geometry().q_heads} * context.geometry().head_dim;
  const int64_t most = attend_tokens(context.policy());
  for (int64_t at = 0; at < n; at += most) {
    const int64_t count = std::min(most, n - at);
    if (context.policy().streams()) {
      block.streamed(first_pos + at, count, q + at * row, out + at * row);
    } else if (compressed && context.policy().selected_turns) {
      block.selected(first_pos + at, count, q + at * row, out + at * row);
    } else {
      block.dense(first_pos + at, count, q + at * row, out + at * row);
    }
  }
}

ScratchBytes prefill_scratch_bytes(const Layout& layout, int64_t n_total, int64_t sealed) {
  Arenas counter;
  carve_history(&counter, layout, n_total, sealed);
  return used(counter);
}

}  // namespace skv::kv
