// The budget's view of the store: the same sizes as the allocations, added up.
#include <algorithm>

#include "lib/kv/decode.h"
#include "lib/kv/history.h"
#include "lib/kv/layout.h"
#include "lib/kv/page_pool.h"
#include "lib/kv/seal.h"
#include "lib/kv/store.h"
#include "lib/kv/streaming.h"

namespace skv::kv {
namespace {

struct PageCounts {
  int64_t exact = 0;
  int64_t sealed = 0;    // landmark, table, value and key or low-rank pages: as many of each
  int64_t outlier = 0;
};

// Streaming: pages of one layer that a sequence of n tokens has left behind.
int64_t forgotten_pages(const Policy& policy, int64_t n) {
  return policy.streams() ? std::max<int64_t>(first_ring_page(policy, n) - 1, 0) : 0;
}

void add_scratch(skv_tier work_tier, const ScratchBytes& bytes, MemoryTable* table) {
  table->bytes[SKV_TIER_HOST][SKV_PURPOSE_WORKSPACE] += charged_bytes(bytes.lists);
  table->bytes[work_tier][SKV_PURPOSE_WORKSPACE] += charged_bytes(bytes.data);
}

// Session-wide scratch grows beside what it replaces.
ScratchBytes replaced(const ScratchBytes& before, const ScratchBytes& after) {
  return {before.lists < after.lists ? before.lists : 0, before.data < after.data ? before.data : 0};
}

class Prediction {
 public:
  explicit Prediction(const Layout& layout) : layout_(layout) {}

  void add_sequence(int64_t n) {
    const Policy& policy = layout_.policy;
    const int64_t layers = policy.compressed_layers(layout_.geometry.layers);
    const int64_t sealed = policy.compressed_after_prompt(n);
    longest_ = std::max(longest_, n);
    largest_seal_ = std::max(largest_seal_, sealed);
    const int64_t dense = sealed == 0 ? layout_.geometry.layers : layout_.geometry.layers - layers;
    pages_.exact += dense * (ceil_div(n, kExactPageTokens) - forgotten_pages(policy, n));
    if (sealed == 0) {
      if (policy.weighs_channels()) add(policy.work_tier, SKV_PURPOSE_OTHER, charged_bytes(layout_.query_energy_bytes()));
      return;
    }
    const int64_t n_chunks = sealed / policy.chunk;
    const int64_t heads = layout_.geometry.kv_heads;
    const int64_t outliers = policy.outlier_count(static_cast<int32_t>(n_chunks)) + (policy.keeps_first_chunk ? 1 : 0);
    pages_.exact += layers * (ceil_div(n, kExactPageTokens) - sealed / kExactPageTokens);
    pages_.sealed += layers * ceil_div(n_chunks, layout_.chunks_per_page());
    pages_.outlier += layers * heads * ceil_div(outliers, kOutliersPerPage);
    add_slots(n, n_chunks);
    if (policy.low_rank) add(SKV_TIER_FAST, SKV_PURPOSE_BASIS, layers * charged_bytes(layout_.basis().bytes()));
    if (policy.weighs_channels()) {
      add(SKV_TIER_FAST, SKV_PURPOSE_BASIS, layers * charged_bytes(layout_.channel_weight_bytes()));
    }
  }

  MemoryTable total() {
    const Policy& policy = layout_.policy;
    add_pages(SKV_TIER_FAST, SKV_PURPOSE_EXACT_KV, layout_.exact_page_bytes(), pages_.exact);
    add_pages(SKV_TIER_FAST, SKV_PURPOSE_LANDMARKS, layout_.landmark_page_bytes(), pages_.sealed);
    add_pages(SKV_TIER_FAST, SKV_PURPOSE_CHUNK_TABLE, layout_.table_page_bytes(), pages_.sealed);
    add_pages(SKV_TIER_SLOW, SKV_PURPOSE_VALUES, layout_.value_page_bytes(), pages_.sealed);
    if (policy.estimates_rest) {
      add_pages(SKV_TIER_FAST, SKV_PURPOSE_LANDMARKS, layout_.value_mean_page_bytes(), pages_.sealed);
    }
    add_pages(SKV_TIER_FAST, SKV_PURPOSE_OUTLIERS, layout_.outlier_page_bytes(), pages_.outlier);
    if (policy.low_rank) {
      add_pages(SKV_TIER_FAST, SKV_PURPOSE_LOWRANK, layout_.lowrank_page_bytes(), pages_.sealed);
    } else {
      add_pages(SKV_TIER_SLOW, SKV_PURPOSE_KEYS, layout_.key_page_bytes(), pages_.sealed);
    }
    if (longest_ > 0) {
      add_scratch(policy.work_tier, decode_scratch_bytes(layout_, longest_), &table_);
    }
    if (largest_seal_ > 0) {
      add_scratch(policy.work_tier, seal_scratch_bytes(layout_, largest_seal_), &table_);
    }
    return table_;
  }

 private:
  void add_slots(int64_t n, int64_t n_chunks) {
    const int64_t excluded = charged_bytes(layout_.geometry.kv_heads * layout_.excluded_words(n_chunks) * 8);
    for (int32_t l = 0; l < layout_.geometry.layers; ++l) {
      if (layout_.policy.is_dense(l)) continue;
      const int32_t slots = layout_.policy.slot_capacity(n, l);
      add(SKV_TIER_FAST, SKV_PURPOSE_SLOTS, charged_bytes(layout_.slot_region_bytes(slots)));
      add(SKV_TIER_FAST, SKV_PURPOSE_CHUNK_TABLE, charged_bytes(layout_.slot_table_bytes(slots)) + excluded);
    }
  }
  void add(skv_tier tier, skv_purpose purpose, int64_t bytes) { table_.bytes[tier][purpose] += bytes; }
  void add_pages(skv_tier tier, skv_purpose purpose, int64_t page_bytes, int64_t n_pages) {
    add(tier, purpose, PagePool::charged(page_bytes, n_pages));
  }

  const Layout& layout_;
  PageCounts pages_;
  int64_t longest_ = 0;
  int64_t largest_seal_ = 0;
  MemoryTable table_ = {};
};

}  // namespace

MemoryTable held_bytes(const Geometry& geometry, const Policy& policy, std::span<const int64_t> lengths) {
  const Layout layout = {geometry, policy};
  Prediction prediction(layout);
  for (const int64_t n : lengths) {
    if (n > 0) prediction.add_sequence(n);
  }
  return prediction.total();
}

MemoryTable prefill_peak_bytes(const Geometry& geometry, const Policy& policy, int64_t n, int64_t longest_other) {
  const Layout layout = {geometry, policy};
  MemoryTable table = {};
  const auto add = [&](const ScratchBytes& bytes) { add_scratch(policy.work_tier, bytes, &table); };
  add(prefill_scratch_bytes(layout, n, 0));
  if (longest_other > 0) add(replaced(decode_scratch_bytes(layout, longest_other), decode_scratch_bytes(layout, n)));
  const int64_t sealed_other = policy.compressed_after_prompt(longest_other);
  if (sealed_other > 0) {
    add(replaced(seal_scratch_bytes(layout, sealed_other),
                 seal_scratch_bytes(layout, policy.compressed_after_prompt(n))));
  }
  if (policy.weighs_channels()) {
    table.bytes[policy.work_tier][SKV_PURPOSE_OTHER] = charged_bytes(layout.query_energy_bytes());
  }
  // One layer's exact pages; those of its window are held anyway.
  const int64_t left = policy.compressed_after_prompt(n) / kExactPageTokens + forgotten_pages(policy, n);
  table.bytes[SKV_TIER_FAST][SKV_PURPOSE_EXACT_KV] = PagePool::charged(layout.exact_page_bytes(), left);
  return table;
}

MemoryTable window_growth_bytes(const Geometry& geometry, const Policy& policy, std::span<const int64_t> lengths) {
  const Layout layout = {geometry, policy};
  // The fullest window is one token short of a flush and takes one more row; it may begin anywhere in a page.
  const int64_t fullest = ceil_div(policy.window + policy.flush - 1 + kMaxRowTokens + kExactPageTokens - policy.chunk,
                                   kExactPageTokens);
  // The sinks' page, and a ring that begins anywhere in a page and takes one more row.
  const int64_t ring = int64_t{policy.window} + policy.flush + kMaxRowTokens + 2 * kExactPageTokens;
  const int64_t fullest_ring = 1 + ceil_div(ring, kExactPageTokens);
  int64_t pages = 0;
  for (const int64_t n : lengths) {
    if (policy.streams()) {
      const int64_t held = ceil_div(n, kExactPageTokens) - forgotten_pages(policy, n);
      if (forgotten_pages(policy, n) > 0) pages += geometry.layers * std::max<int64_t>(fullest_ring - held, 0);
      continue;
    }
    const int64_t sealed = policy.compressed_after_prompt(n);
    if (sealed == 0 || !policy.flushes) continue;
    const int64_t held = ceil_div(n, kExactPageTokens) - sealed / kExactPageTokens;
    pages += policy.compressed_layers(geometry.layers) * std::max<int64_t>(fullest - held, 0);
  }
  MemoryTable table = {};
  table.bytes[SKV_TIER_FAST][SKV_PURPOSE_EXACT_KV] = PagePool::charged(layout.exact_page_bytes(), pages);
  return table;
}

}  // namespace skv::kv
