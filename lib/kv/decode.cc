#include "lib/kv/decode.h"

#include <algorithm>
#include <vector>

#include "lib/kv/seal.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

constexpr int64_t kMinScratchBytes = int64_t{4} << 20;

// One query token of one row.
struct Token {
  Sequence* sequence;
  int64_t row;       // of q and out
  int64_t position;  // its own; it attends to [0, position]
  uint32_t step;     // of the slot cache's clock
};

// Pieces one token may attend to: exact pages, and pages of outliers. Every flush keeps an outlier at least, so where
// flushes are as small as chunks all chunks may be outliers.
int64_t span_bound(const Layout& layout, int64_t n) {
  const int64_t n_chunks = ceil_div(n, layout.policy.chunk);
  return exact_span_bound(n) + ceil_div(n_chunks, kOutliersPerPage);
}

// Everything one wave of tokens needs; item i = token * kv_heads + head.
struct WaveScratch {
  float* scores;
  int32_t *ids, *n_ids, *slots, *miss_chunks, *miss_slots, *n_miss;
  kernels::KvSpan* spans;
  kernels::BasisSegment* segments;
  kernels::LandmarkScoreItem* score_items;
  kernels::TopkSelectItem* topk_items;
  kernels::SlotUpdateItem* slot_items;
  kernels::ChunkFetchItem* fetch_items;  // values, then exact keys
  kernels::KeyRebuildItem* rebuild_items;
  kernels::AttnDecodeItem* attn_items;
  void* workspace;
};

kernels::LandmarkScoreDesc score_desc(const Layout& layout) {
  const Geometry& g = layout.geometry;
  return {layout.policy.dtype, g.head_dim, g.group(), g.scale};
}

kernels::AttnDecodeDesc attn_desc(const Layout& layout) {
  const Geometry& g = layout.geometry;
  return {layout.policy.dtype, g.head_dim, g.group(), g.scale};
}

std::size_t op_workspace(const Layout& layout, int64_t n_items, int64_t n) {
  std::size_t bytes = kernels::attn_decode_workspace_bytes(attn_desc(layout), n_items, n_items * n);
  if (!layout.policy.compresses()) return bytes;
  const int64_t n_chunks = ceil_div(n, layout.policy.chunk);
  bytes = std::max(bytes, kernels::landmark_score_workspace_bytes(score_desc(layout), n_items * n_chunks));
  bytes = std::max(bytes, kernels::topk_select_workspace_bytes(n_items * n_chunks));
  return std::max(bytes, kernels::slot_update_workspace_bytes(n_items, layout.policy.slot_capacity(n)));
}

WaveScratch carve_wave(Arena* arena, const Layout& layout, int64_t n_tokens, int64_t n) {
  const int64_t items = n_tokens * layout.geometry.kv_heads;
  WaveScratch s = {};
  s.spans = arena->take<kernels::KvSpan>(items * span_bound(layout, n));
  s.attn_items = arena->take<kernels::AttnDecodeItem>(items);
  if (layout.policy.compresses()) {
    const int64_t k = layout.policy.selected_chunks(n);
    s.scores = arena->take<float>(items * ceil_div(n, layout.policy.chunk));
    s.ids = arena->take<int32_t>(items * k);
    s.n_ids = arena->take<int32_t>(items);
    s.slots = arena->take<int32_t>(items * k);
    s.miss_chunks = arena->take<int32_t>(items * k);
    s.miss_slots = arena->take<int32_t>(items * k);
    s.n_miss = arena->take<int32_t>(items);
    s.score_items = arena->take<kernels::LandmarkScoreItem>(items);
    s.topk_items = arena->take<kernels::TopkSelectItem>(items);
    s.slot_items = arena->take<kernels::SlotUpdateItem>(items);
    s.fetch_items = arena->take<kernels::ChunkFetchItem>(2 * items);
    s.rebuild_items = arena->take<kernels::KeyRebuildItem>(items);
    s.segments = arena->take<kernels::BasisSegment>(items * segment_entries(layout.policy));
  }
  s.workspace = arena->take<char>(static_cast<int64_t>(op_workspace(layout, items, n)));
  return s;
}

int64_t wave_bytes(const Layout& layout, int64_t n_tokens, int64_t n) {
  Arena counter;
  carve_wave(&counter, layout, n_tokens, n);
  return counter.used();
}

class Wave {
 public:
  Wave(Context& context, int32_t layer, std::span<const Token> tokens, int64_t n, const float* q, float* out)
      : context_(context), layout_(context.layout), layer_(layer), tokens_(tokens), q_(q), out_(out),
        bound_(span_bound(context.layout, n)) {
    Arena arena(context.decode_scratch.data());
    s_ = carve_wave(&arena, layout_, static_cast<int64_t>(tokens.size()), n);
    if (layout_.policy.compresses()) k_ = layout_.policy.selected_chunks(n);
    n_chunks_ = ceil_div(n, layout_.policy.chunk);
  }

  void run() {
    select();
    fetch();
    attend();
    count();
  }

 private:
  int32_t heads() const { return layout_.geometry.kv_heads; }
  Layer& layer_of(const Token& token) const { return token.sequence->layers[static_cast<std::size_t>(layer_)]; }
  const float* query(const Token& token, int32_t head) const {
    const Geometry& g = layout_.geometry;
    return q_ + token.row * g.q_heads * g.head_dim + int64_t{head} * g.group() * g.head_dim;
  }

  // fn(item, token, head) for the tokens whose layer is compressed.
  template <class Fn>
  void for_sealed(Fn&& fn) const {
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      if (layer_of(tokens_[t]).sealed == 0) continue;
      for (int32_t h = 0; h < heads(); ++h) fn(static_cast<int64_t>(t) * heads() + h, tokens_[t], h);
    }
  }

  void select() {
    const StageTimer timer(&context_.times.select_ns);
    std::size_t n = 0;
    for_sealed([&](int64_t item, const Token& token, int32_t head) {
      const Layer& layer = layer_of(token);
      const auto n_chunks = static_cast<int32_t>(layer.sealed / layout_.policy.chunk);
      const int32_t k = layout_.policy.selected_chunks(token.position + 1);
      float* scores = s_.scores + item * n_chunks_;
      int32_t* ids = s_.ids + item * k_;
      s_.score_items[n] = {query(token, head), landmark_rows(layout_, layer, head), excluded_bits(layer, head), n_chunks,
                           scores};
      s_.topk_items[n] = {scores, n_chunks, k, ids, s_.n_ids + item};
      kernels::SlotUpdateItem& slots = s_.slot_items[n];
      slots.table = table_rows(layout_, layer, head);
      slots.chunk_of_slot = chunk_of_slot(layer, head);
      slots.last_used = slot_last_used(layout_, layer, head);
      slots.n_slots = layer.slots.capacity;
      slots.step = token.step;
      slots.ids = ids;
      slots.n_ids = s_.n_ids + item;
      slots.slots = s_.slots + item * k_;
      slots.miss_chunks = s_.miss_chunks + item * k_;
      slots.miss_slots = s_.miss_slots + item * k_;
      slots.n_miss = s_.n_miss + item;
      ++n;
    });
    if (n == 0) return;
    context_.ops.landmark_score(score_desc(layout_), {s_.score_items, n}, s_.workspace);
    context_.ops.topk_select({s_.topk_items, n}, s_.workspace);
    context_.ops.slot_update({s_.slot_items, n}, s_.workspace);
  }

  void fetch() {
    const StageTimer timer(&context_.times.fetch_ns);
    const Policy& policy = layout_.policy;
    std::size_t n_fetch = 0, n_rebuild = 0;
    for_sealed([&](int64_t item, const Token& token, int32_t head) {
      const Layer& layer = layer_of(token);
      const int32_t* chunks = s_.miss_chunks + item * k_;
      const int32_t* slots = s_.miss_slots + item * k_;
      const int32_t* n = s_.n_miss + item;
      s_.fetch_items[n_fetch++] = {value_rows(layout_, layer, head), slot_values(layout_, layer, head), chunks, slots, n};
      if (!policy.low_rank) {
        s_.fetch_items[n_fetch++] = {key_rows(layout_, layer, head), slot_keys(layout_, layer, head), chunks, slots, n};
        return;
      }
      kernels::BasisSegment* segments = s_.segments + item * segment_entries(policy);
      const int32_t n_segments = head_segments(layout_, layer, head, segments);
      s_.rebuild_items[n_rebuild++] = {lowrank_rows(layout_, layer), segments, n_segments, chunks, slots, n,
                                       slot_keys(layout_, layer, head)};
    });
    if (n_fetch == 0) return;
    const int32_t d = layout_.geometry.head_dim;
    context_.ops.chunk_fetch({kernels::BlockCodec::raw, policy.dtype, policy.chunk, d}, {s_.fetch_items, n_fetch});
    if (n_rebuild == 0) return;
    context_.ops.key_rebuild({policy.dtype, policy.rank, policy.chunk, d, context_.rope},
                             {s_.rebuild_items, n_rebuild});
  }

  void attend() {
    const StageTimer timer(&context_.times.decode_attention_ns);
    const Geometry& g = layout_.geometry;
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      const Token& token = tokens_[t];
      const Layer& layer = layer_of(token);
      for (int32_t h = 0; h < heads(); ++h) {
        const int64_t i = static_cast<int64_t>(t) * heads() + h;
        kernels::AttnDecodeItem item;
        kernels::KvSpan* spans = s_.spans + i * bound_;
        item.q = query(token, h);
        item.spans = spans;
        if (layer.sealed > 0) {
          item.n_spans = outlier_spans(layout_, layer, h, spans);
          item.blocks = {slot_keys(layout_, layer, h), slot_values(layout_, layer, h), layout_.block_bytes(),
                         layout_.policy.chunk, s_.slots + i * k_, s_.n_ids[i]};
        }
        item.n_spans += exact_spans(layout_, layer, h, layer.sealed, token.position + 1, spans + item.n_spans);
        item.out = out_ + token.row * g.q_heads * g.head_dim + int64_t{h} * g.group() * g.head_dim;
        s_.attn_items[i] = item;
      }
    }
    context_.ops.attn_decode(attn_desc(layout_), {s_.attn_items, tokens_.size() * static_cast<std::size_t>(heads())},
                             s_.workspace);
  }

  void count() const {
    const int64_t row = layout_.geometry.head_dim * layout_.element();
    const Policy& policy = layout_.policy;
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      const Layer& layer = layer_of(tokens_[t]);
      Counters& c = tokens_[t].sequence->counters;
      for (int32_t h = 0; h < heads(); ++h) {
        const std::size_t i = t * static_cast<std::size_t>(heads()) + static_cast<std::size_t>(h);
        int64_t attended = tokens_[t].position + 1 - layer.sealed;
        if (layer.sealed > 0) {
          const auto outliers = static_cast<int64_t>(layer.outliers[static_cast<std::size_t>(h)].chunks.size());
          attended += (s_.n_ids[i] + outliers) * policy.chunk;
          c.selected_chunks += s_.n_ids[i];
          c.slot_hits += s_.n_ids[i] - s_.n_miss[i];
          const int64_t key_bytes =
              policy.low_rank ? int64_t{policy.chunk} * policy.rank * layout_.element() : layout_.block_bytes();
          c.bytes_read += layer.sealed / policy.chunk * row + s_.n_miss[i] * (layout_.block_bytes() + key_bytes);
        }
        c.attended_tokens += attended;
        c.bytes_read += 2 * attended * row;
        ++c.attention_calls;
      }
    }
  }

  Context& context_;
  const Layout& layout_;
  int32_t layer_;
  std::span<const Token> tokens_;
  const float* q_;
  float* out_;
  int64_t bound_;
  int64_t k_ = 0;
  int64_t n_chunks_ = 0;
  WaveScratch s_;
};

}  // namespace

int64_t decode_scratch_bytes(const Layout& layout, int64_t n) {
  return std::max(kMinScratchBytes, wave_bytes(layout, 1, n));
}

void attend_rows(Context& context, int32_t layer, std::span<const DecodeRow> rows, const float* q, float* out) {
  // Tokens of one sequence share its slots, so wave t takes the t-th token of every row that has one.
  Token tokens[kMaxRowTokens];
  int32_t longest = 0;
  for (const DecodeRow& row : rows) longest = std::max(longest, row.n);
  for (int32_t t = 0; t < longest; ++t) {
    std::size_t n_tokens = 0;
    int64_t n = 0;
    auto flush = [&] {
      if (n_tokens > 0) Wave(context, layer, {tokens, n_tokens}, n, q, out).run();
      n_tokens = 0, n = 0;
    };
    for (const DecodeRow& row : rows) {
      if (t >= row.n) continue;
      const Token token = {row.sequence, row.first + t, row.sequence->length + t,
                           row.sequence->step_base + static_cast<uint32_t>(t) + 1};
      const int64_t longer = std::max(n, token.position + 1);
      const bool fits = wave_bytes(context.layout, static_cast<int64_t>(n_tokens) + 1, longer) <=
                        context.decode_scratch.bytes();
      if (n_tokens == kMaxRowTokens || (n_tokens > 0 && !fits)) flush();
      tokens[n_tokens++] = token;
      n = std::max(n, token.position + 1);
    }
    flush();
  }
}

}  // namespace skv::kv
