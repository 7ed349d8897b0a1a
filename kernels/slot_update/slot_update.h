// slot_update: map selected chunks to slots of the cache; say which must be filled.
//
// Computes   For each id in ids (ascending, distinct): if table(id) >= 0 it is a hit and keeps its slot; otherwise it
//            takes a victim: an empty slot (chunk_of_slot = -1, lowest slot first), else the slot least recently
//            selected (smallest last_used, then lowest slot), never one selected in this call. The victim's old chunk
//            gets table = -1. Every selected slot gets last_used = step. Slots never move. totals[0] += *n_ids,
//            totals[1] += *n_miss.
// Shapes     per item (one sequence and KV head): table paged rows of int16 (slot of chunk, -1 none), one a chunk;
//            chunk_of_slot int32 [n_slots]; last_used uint32 [n_slots]; ids int32 [n_ids];
//            slots out int32 [n_ids] (slot of ids[i]); miss_chunks, miss_slots out int32 [n_ids]; n_miss out [1]
// Preconditions n_ids <= n_slots <= 32767; step larger than every last_used
// Edges      n_ids = 0: n_miss = 0
// Determinism exact
// Workspace  workspace_bytes(n_items, max n_slots)
// Cost       O(n_ids + n_slots) per item
// Source     libshadowkv design (slots as a pure cache); the published system moves hits instead
#pragma once

#include <cstddef>
#include <span>

#include "kernels/common/paged.h"

namespace skv::kernels {

struct SlotUpdateItem {
  PagedRows table;  // row_bytes = 2
  int32_t* chunk_of_slot = nullptr;
  uint32_t* last_used = nullptr;
  int32_t n_slots = 0;
  uint32_t step = 0;
  const int32_t* ids = nullptr;
  const int32_t* n_ids = nullptr;  // data, as topk_select wrote it
  int32_t max_ids = 0;             // bound of *n_ids
  int32_t* slots = nullptr;
  int32_t* miss_chunks = nullptr;
  int32_t* miss_slots = nullptr;
  int32_t* n_miss = nullptr;
  int64_t* totals = nullptr;  // [2], may be null
};

// For the implementations.
SKV_HD inline void add_slot_totals(const SlotUpdateItem& item, int32_t n_ids, int32_t n_miss) {
  if (item.totals == nullptr) return;
  item.totals[0] += n_ids;
  item.totals[1] += n_miss;
}

std::size_t slot_update_workspace_bytes(int64_t n_items, int32_t max_slots);
void slot_update_ref(std::span<const SlotUpdateItem>, void* workspace);
void slot_update_cpu(std::span<const SlotUpdateItem>, void* workspace);

}  // namespace skv::kernels
