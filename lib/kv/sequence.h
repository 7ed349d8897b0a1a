// One sequence's tables: which pages hold what, per layer. Plain data; the operations are in seal, decode, history and
// truncate.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lib/base/memory.h"
#include "lib/kv/page_pool.h"

namespace skv::kv {

// Basis of one segment: B [kv_heads, r, d], mu [M] in the KV dtype, eigenvalues [r] f32 (energy per token kept).
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

// A pure cache: every byte in it can be fetched or rebuilt again.
struct SlotCache {
  int32_t capacity = 0;  // per KV head
  Buffer region;         // K then V, [kv_heads, capacity, C, d] each
  Buffer table;          // chunk_of_slot int32, then last_used uint32, [kv_heads, capacity] each
};

struct Layer {
  int64_t sealed = 0;   // tokens [0, sealed) are compressed
  PageList exact;       // page i holds tokens [64 i, 64 i + 64); null where nothing exact is kept
  PageList landmarks;   // page i holds chunks [cpp i, cpp (i + 1)) here and below
  PageList lowrank;
  PageList table;
  PageList values;
  PageList keys;
  std::vector<Segment> segments;
  std::vector<HeadOutliers> outliers;  // [kv_heads]
  Buffer excluded;                     // bitset [kv_heads, excluded_words]: outliers and chunk 0
  int64_t excluded_words = 0;
  SlotCache slots;
  double key_energy = 0.0;   // sums over projected keys, for statistics
  double missed_energy = 0.0;
};

struct Counters {
  int64_t flushes = 0;
  int64_t forced_segments = 0;
  int64_t lossy_tokens = 0;
  int64_t decode_tokens = 0;
  int64_t selected_chunks = 0;
  int64_t slot_hits = 0;
  int64_t attended_tokens = 0;
  int64_t attention_calls = 0;
  int64_t bytes_read = 0;
};

// A prompt being prefilled.
struct PendingPrefill {
  int64_t n = 0;              // its tokens; 0 = none
  int64_t sealed_before = 0;  // what each layer had sealed, and
  int64_t sealed_target = 0;  // will have
  Buffer scratch;
};

class Sequence {
 public:
  int64_t length = 0;
  int64_t sealed() const { return layers.empty() ? 0 : layers.front().sealed; }
  std::vector<Layer> layers;
  uint32_t step_base = 0;  // the slot cache's clock before the row in progress, and
  uint32_t step_next = 0;  // after it; advanced when a row is reserved, so that a dropped row's ticks are not reused
  PendingPrefill pending;
  Counters counters;
};

}  // namespace skv::kv
