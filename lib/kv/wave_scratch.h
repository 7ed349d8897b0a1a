// Scratch of one wave of a decode step, carved from Context::decode_scratch: lists, and data (see arena.h).
#pragma once

#include "kernels/ops.h"
#include "lib/kv/arena.h"
#include "lib/kv/layout.h"

namespace skv::kv {

// Data: chunks picked for the items of a wave and where they lie: [items, k] each, counts [items].
struct Picks {
  int32_t *ids, *n_ids, *slots, *miss_chunks, *miss_slots, *n_miss;
};

// Runs that one token may attend to besides slots: outliers or sinks, and exact tokens.
inline constexpr int64_t kWaveRuns = 2;

// Item i = token * kv_heads + head.
struct WaveScratch {
  // Lists:
  kernels::KvRun* runs;  // [items, kWaveRuns]
  kernels::BasisSegment* segments;
  kernels::LandmarkScoreItem* score_items;
  kernels::TopkSelectItem* topk_items;
  kernels::SlotUpdateItem* slot_items;
  kernels::ChunkFetchItem* fetch_items;
  kernels::KeyRebuildItem* rebuild_items;
  kernels::AttnDecodeItem* attn_items;
  kernels::AttnRemainderItem* remainder_items;
  kernels::GuardSampleItem* sample_items;
  kernels::GuardGrowItem* grow_items;
  void** turned_sinks;   // streaming only: [tokens], pages in sinks
  // Data:
  float* scores;       // [items, n_chunks]
  Picks picks;
  // Accuracy guard or estimated remainder only:
  float* log_mass;     // [items, group, n_chunks]
  float* lse;          // [items, group]
  // Accuracy guard only:
  Picks extra;             // what it adds to the selection
  int32_t *union_ids, *n_union_ids;  // all that is selected then, ascending
  int32_t *candidates, *n_candidates;
  int32_t *sample_chunks, *n_samples;  // [items, kGuardSamples]; [items]
  float* sample_weights;   // [items, kGuardSamples]
  char* sample_keys;       // [items, kGuardSamples] of block_bytes
  float* missed;           // [items, group]
  // Streaming only:
  char* sinks;         // [tokens] of sink_scratch_bytes
  void* workspace;
};

// Chunks sampled by the accuracy guard: 1024 tokens, as many as make 95 of 100 estimates of a layer good to a fifth on the
// demo model's traces (tests/bench/run.sh accuracy-attention).
inline int32_t guard_samples(const Policy& policy) { return 1024 / policy.chunk; }
// The guard wants the bound to hold for its estimate times this: one sample in a hundred is as much lower than the truth.
inline constexpr float kGuardMargin = 2.5f;

inline bool needs_mass(const Policy& policy) { return policy.guarded() || policy.estimates_rest; }

kernels::LandmarkScoreDesc score_desc(const Layout& layout);
kernels::AttnDecodeDesc attn_desc(const Layout& layout);
kernels::GuardGrowDesc grow_desc(const Layout& layout);
kernels::AttnRemainderDesc remainder_desc(const Layout& layout);

// For n_tokens tokens of sequences up to n tokens long.
WaveScratch carve_wave(Arenas* arenas, const Layout& layout, int64_t n_tokens, int64_t n);
ScratchBytes wave_bytes(const Layout& layout, int64_t n_tokens, int64_t n);

}  // namespace skv::kv
