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

void carve_guard(Arenas* arenas, const Layout& layout, int64_t items, int64_t k, WaveScratch* s) {
  const int64_t samples = guard_samples(layout.policy);
  s->sample_items = arenas->lists.take<kernels::GuardSampleItem>(items);
  s->grow_items = arenas->lists.take<kernels::GuardGrowItem>(items);
  Arena& data = arenas->data;
  s->extra = carve_picks(&data, items, k);
  s->union_ids = data.take<int32_t>(items * k);
  s->n_union_ids = data.take<int32_t>(items);
  s->candidates = data.take<int32_t>(items * k);
  s->n_candidates = data.take<int32_t>(items);
  s->sample_chunks = data.take<int32_t>(items * samples);
  s->n_samples = data.take<int32_t>(items);
  s->sample_weights = data.take<float>(items * samples);
  s->sample_keys = data.take<char>(items * samples * layout.block_bytes());
  s->missed = data.take<float>(items * layout.geometry.group());
}

void carve_selection(Arenas* arenas, const Layout& layout, int64_t items, int64_t n, WaveScratch* s) {
  const int64_t k = layout.policy.most_selected(n), n_chunks = ceil_div(n, layout.policy.chunk);
  Arena &lists = arenas->lists, &data = arenas->data;
  s->score_items = lists.take<kernels::LandmarkScoreItem>(items);
  s->topk_items = lists.take<kernels::TopkSelectItem>(items);
  s->slot_items = lists.take<kernels::SlotUpdateItem>(items);
  s->fetch_items = lists.take<kernels::ChunkFetchItem>(items);
  s->rebuild_items = lists.take<kernels::KeyRebuildItem>(items);
  s->segments = lists.take<kernels::BasisSegment>(items * segment_entries(layout.policy));
  s->scores = data.take<float>(items * n_chunks);
  s->picks = carve_picks(&data, items, k);
  if (!needs_mass(layout.policy)) return;
  const int64_t group = layout.geometry.group();
  s->remainder_items = lists.take<kernels::AttnRemainderItem>(items);
  s->log_mass = data.take<float>(items * group * n_chunks);
  s->lse = data.take<float>(items * group);
  if (layout.policy.guarded()) carve_guard(arenas, layout, items, k, s);
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

WaveScratch carve_wave(Arenas* arenas, const Layout& layout, int64_t n_tokens, int64_t n) {
  const int64_t items = n_tokens * layout.geometry.kv_heads;
  WaveScratch s = {};
  s.runs = arenas->lists.take<kernels::KvRun>(items * kWaveRuns);
  s.attn_items = arenas->lists.take<kernels::AttnDecodeItem>(items);
  if (layout.policy.compresses()) carve_selection(arenas, layout, items, n, &s);
  if (layout.policy.streams()) {
    s.turned_sinks = arenas->lists.take<void*>(n_tokens);
    s.sinks = arenas->data.take<char>(n_tokens * sink_scratch_bytes(layout));
  }
  s.workspace = arenas->data.take<char>(static_cast<int64_t>(op_workspace(layout, items, n)));
  return s;
}

ScratchBytes wave_bytes(const Layout& layout, int64_t n_tokens, int64_t n) {
  Arenas counter;
  carve_wave(&counter, layout, n_tokens, n);
  return used(counter);
}

}  // namespace skv::kv
