// One sequence's tables: which pages hold what, per layer. Plain data; the operations are in seal, decode, history and
// truncate.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "lib/base/memory.h"
#include "lib/kv/page_pool.h"
#include "lib/kv/scratch.h"

namespace skv::kv {

// Basis of one segment, as key_basis.h stores it (eigenvalues: energy per token kept).
struct Basis {
  Buffer memory;
  float relative_residual = 0.0f;  // sqrt(missed / total) energy of the centred keys it was made from
};

// Chunks from first_chunk on, up to the next segment's, are coded in basis. An old basis may serve again.
struct Segment {
  int32_t first_chunk = 0;
  std::shared_ptr<Basis> basis;
};

// Exact chunks of one KV head, in the order they were found; entry i is block i % kOutliersPerPage of page i / that.
struct HeadOutliers {
  std::vector<int32_t> chunks;
  PageList pages;
};

// What the slot caches and the guard count on the device, over all steps.
struct SlotTotals {
  int64_t selected = 0;  // chunks
  int64_t missed = 0;    // those of them that had to be fetched
  double samples = 0.0;  // chunks that the guard read
  double capped = 0.0;
  double missed_mass = 0.0;
  SlotTotals& operator+=(const SlotTotals& other) {
    selected += other.selected, missed += other.missed;
    samples += other.samples, capped += other.capped, missed_mass += other.missed_mass;
    return *this;
  }
};

// A pure cache: every byte in it can be fetched or rebuilt again.
struct SlotCache {
  int32_t capacity = 0;  // per KV head
  Buffer region;         // K then V, [kv_heads, capacity, C, d] each
  Buffer table;          // chunk_of_slot int32, last_used uint32, [kv_heads, capacity] each, totals (layout.h)
};

struct Layer {
  int32_t index = 0;
  int64_t sealed = 0;   // tokens [0, sealed) are compressed; stays 0 in a dense layer
  PageList exact;       // page i holds tokens [64 i, 64 i + 64); null where nothing exact is kept
  PageList landmarks;   // page i holds chunks [cpp i, cpp (i + 1)) here and below
  PageList lowrank;
  PageList table;
  PageList values;
  PageList keys;
  PageList value_means;  // where chunks not selected are estimated
  std::vector<Segment> segments;
  std::vector<HeadOutliers> outliers;  // [kv_heads]
  Buffer excluded;                     // bitset [kv_heads, excluded_words]: outliers and chunk 0;
  std::vector<uint64_t> excluded_bits;  // the host's copy of it
  int64_t excluded_words = 0;
  Buffer channel_weights;              // [kv_heads, d] f32, then their inverses; see channel_weights.h
  SlotCache slots;
  SlotTotals counted;        // by slot caches that were given up
  double key_energy = 0.0;   // sums over projected keys, for statistics
  double missed_energy = 0.0;
};

struct Counters {
  int64_t flushes = 0;
  int64_t forced_segments = 0;
  int64_t lossy_tokens = 0;
  int64_t decode_tokens = 0;
  int64_t attended_exact = 0;  // tokens apart from selected chunks
  int64_t attention_calls = 0;
  int64_t digest_bytes = 0;    // read to score
  int64_t guard_calls = 0;
};

// A prompt being prefilled.
struct PendingPrefill {
  int64_t n = 0;              // its tokens; 0 = none
  int64_t sealed_before = 0;  // what each layer had sealed, and
  int64_t sealed_target = 0;  // will have
  Scratch scratch;
  Buffer query_energy;        // [layers, M] double, of its last queries; see channel_weights.h
};

class Sequence {
 public:
  int64_t length = 0;
  int64_t forgotten = 0;  // streaming: tokens [sinks, forgotten) are gone, a multiple of the exact page or 0
  // Tokens compressed, the same in every layer that is compressed at all.
  int64_t sealed() const {
    int64_t most = 0;
    for (const Layer& layer : layers) most = std::max(most, layer.sealed);
    return most;
  }
  std::vector<Layer> layers;
  uint32_t step_base = 0;  // the slot cache's clock before the row in progress, and
  uint32_t step_next = 0;  // after it; advanced when a row is reserved, so that a dropped row's ticks are not reused
  PendingPrefill pending;
  Buffer query_energy;      // of the last prompt, while nothing is compressed
  Counters counters;
};

}  // namespace skv::kv
