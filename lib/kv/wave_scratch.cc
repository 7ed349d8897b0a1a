#include "lib/kv/wave_scratch.h"

#include <algorithm>

#include "lib/kv/seal.h"
#include "lib/kv/streaming.h"
#include "lib/kv/views.h"

namespace skv::kv {
namespace {

std::size_t op_workspace(const Layout& layout, int64_t n_items, int64_t n) {
  const Policy& policy = layout.policy;
  std::size_t bytes = kernels::attn_decode_workspace_bytes(attn_desc(layout), n_items, n_items * n);
  if (!policy.compresses()) return bytes;
  const int64_t n_chunks = ceil_div(n, policy.chunk);
  bytes = std::max(bytes, kernels::landmark_score_workspace_bytes(score_desc(layout), n_items * n_chunks));
  bytes = std::max(bytes, kernels::topk_select_workspace_bytes(n_items * n_chunks));
  int32_t slots = 0;
  for (int32_t l = 0; l < layout.geometry.layers; ++l) slots = std::max(slots, policy.slot_capacity(n, l));
  bytes = std::max(bytes, kernels::slot_update_workspace_bytes(n_items, slots));
  if (policy.guarded()) {
    bytes = std::max(bytes, kernels::guard_sample_workspace_bytes(static_cast<int32_t>(n_chunks)));
    bytes = std::max(bytes, kernels::guard_grow_workspace_bytes(grow_desc(layout), guard_samples(policy),
                                                                policy.most_selected(n)));
  }
  if (!policy.estimates_rest) return bytes;
  return std::max(bytes,
                  kernels::attn_remainder_workspace_bytes(remainder_desc(layout), n_items, n_items * n_chunks));
}

Picks carve_picks(Arena* arena, int64_t items, int64_t k) {
  Picks picks;
  picks.ids = arena->take<int32_t>(items * k);
  picks.n_ids = arena->take<int32_t>(items);
  picks.slots = arena->take<int32_t>(items * k);
  picks.miss_chunks = arena->take<int32_t>(items * k);
  picks.miss_slots = arena->take<int32_t>(items * k);
  picks.n_miss = arena->take<int32_t>(items);
  return picks;
}

void carve_guard(Arena* arena, const Layout& layout, int64_t items, int64_t k, WaveScratch* s) {
  const int64_t samples = guard_samples(layout.policy);
  s->extra = carve_picks(arena, items, k);
  s->union_ids = arena->take<int32_t>(items * k);
  s->n_union_ids = arena->take<int32_t>(items);
  s->candidates = arena->take<int32_t>(items * k);
  s->n_candidates = arena->take<int32_t>(items);
  s->sample_chunks = arena->take<int32_t>(items * samples);
  s->sample_slots = arena->take<int32_t>(samples);
  s->n_samples = arena->take<int32_t>(items);
  s->sample_weights = arena->take<float>(items * samples);
  s->sample_keys = arena->take<char>(items * samples * layout.block_bytes());
  s->missed = arena->take<float>(items * layout.geometry.group());
  s->sample_items = arena->take<kernels::GuardSampleItem>(items);
  s->grow_items = arena->take<kernels::GuardGrowItem>(items);
}

void carve_selection(Arena* arena, const Layout& layout, int64_t items, int64_t n, WaveScratch* s) {
  const int64_t k = layout.policy.most_selected(n), n_chunks = ceil_div(n, layout.policy.chunk);
  s->scores = arena->take<float>(items * n_chunks);
  s->picks = carve_picks(arena, items, k);
  if (layout.policy.weighs_channels()) {
    s->queries = arena->take<float>(items * layout.geometry.group() * layout.geometry.head_dim);
  }
  s->score_items = arena->take<kernels::LandmarkScoreItem>(items);
  s->topk_items = arena->take<kernels::TopkSelectItem>(items);
  s->slot_items = arena->take<kernels::SlotUpdateItem>(items);
  s->fetch_items = arena->take<kernels::ChunkFetchItem>(items);
  s->rebuild_items = arena->take<kernels::KeyRebuildItem>(items);
  s->segments = arena->take<kernels::BasisSegment>(items * segment_entries(layout.policy));
  if (!needs_mass(layout.policy)) return;
  const int64_t group = layout.geometry.group();
  s->log_mass = arena->take<float>(items * group * n_chunks);
  s->lse = arena->take<float>(items * group);
  s->remainder_items = arena->take<kernels::AttnRemainderItem>(items);
  if (layout.policy.guarded()) carve_guard(arena, layout, items, k, s);
}

}  // namespace

kernels::LandmarkScoreDesc score_desc(const Layout& layout) {
  return {layout.digest(), layout.geometry.group(), layout.geometry.scale, layout.policy.reduce};
}

kernels::AttnDecodeDesc attn_desc(const Layout& layout) {
  const Geometry& g = layout.geometry;
  return {layout.policy.dtype, g.head_dim, g.group(), g.scale};
}

kernels::GuardGrowDesc grow_desc(const Layout& layout) {
  const Geometry& g = layout.geometry;
  return {layout.policy.dtype, g.head_dim, g.group(), layout.policy.chunk, g.scale,
          static_cast<float>(layout.policy.max_missed), kGuardMargin};
}

kernels::AttnRemainderDesc remainder_desc(const Layout& layout) {
  return {layout.value_mean(), layout.geometry.group()};
}

// Every flush keeps an outlier at least, so where flushes are as small as chunks all chunks may be outliers.
int64_t wave_span_bound(const Layout& layout, int64_t n) {
  const int64_t n_chunks = ceil_div(n, layout.policy.chunk);
  return exact_span_bound(n) + ceil_div(n_chunks, kOutliersPerPage) + 1;
}

WaveScratch carve_wave(Arena* arena, const Layout& layout, int64_t n_tokens, int64_t n) {
  const int64_t items = n_tokens * layout.geometry.kv_heads;
  WaveScratch s = {};
  s.spans = arena->take<kernels::KvSpan>(items * wave_span_bound(layout, n));
  s.attn_items = arena->take<kernels::AttnDecodeItem>(items);
  if (layout.policy.compresses()) carve_selection(arena, layout, items, n, &s);
  if (layout.policy.streams()) s.sinks = arena->take<char>(n_tokens * sink_scratch_bytes(layout));
  s.workspace = arena->take<char>(static_cast<int64_t>(op_workspace(layout, items, n)));
  return s;
}

int64_t wave_bytes(const Layout& layout, int64_t n_tokens, int64_t n) {
  Arena counter;
  carve_wave(&counter, layout, n_tokens, n);
  return counter.used();
}

}  // namespace skv::kv
