#include <algorithm>
#include <bit>

#include "kernels/common/parallel.h"
#include "kernels/slot_update/slot_update.h"

namespace skv::kernels {
namespace {

int16_t* table_entry(const SlotUpdateItem& item, int32_t chunk) {
  return static_cast<int16_t*>(item.table.row(chunk));
}

// Slots that may be taken, as (age, slot) packed so that integer order is the contract's order: empty slots first.
int32_t collect_victims(const SlotUpdateItem& item, uint64_t* keys) {
  int32_t n = 0;
  for (int32_t slot = 0; slot < item.n_slots; ++slot) {
    const bool empty = item.chunk_of_slot[slot] < 0;
    if (!empty && item.last_used[slot] == item.step) continue;
    const uint64_t age = empty ? 0 : uint64_t{item.last_used[slot]} + 1;
    keys[n++] = age << 16 | static_cast<uint64_t>(slot);
  }
  return n;
}

void update(const SlotUpdateItem& item, uint64_t* keys) {
  int32_t misses = 0;
  for (int32_t i = 0; i < *item.n_ids; ++i) {
    const int32_t slot = *table_entry(item, item.ids[i]);
    item.slots[i] = slot;
    if (slot >= 0) item.last_used[slot] = item.step;
    else item.miss_chunks[misses++] = item.ids[i];
  }
  *item.n_miss = misses;
  add_slot_totals(item, *item.n_ids, misses);
  if (misses == 0) return;
  const int32_t n = collect_victims(item, keys);
  if (misses < n) std::nth_element(keys, keys + misses, keys + n);
  std::sort(keys, keys + misses);
  for (int32_t i = 0, miss = 0; i < *item.n_ids; ++i) {
    if (item.slots[i] >= 0) continue;
    const int32_t victim = static_cast<int32_t>(keys[miss] & 0xffffu);
    const int32_t old = item.chunk_of_slot[victim];
    if (old >= 0) *table_entry(item, old) = -1;
    item.chunk_of_slot[victim] = item.ids[i];
    item.last_used[victim] = item.step;
    *table_entry(item, item.ids[i]) = static_cast<int16_t>(victim);
    item.slots[i] = victim;
    item.miss_slots[miss++] = victim;
  }
}

}  // namespace

std::size_t slot_update_workspace_bytes(int64_t n_items, int32_t max_slots) {
  const std::size_t keys = std::bit_ceil(static_cast<std::size_t>(max_slots));  // CUDA sorts whole powers of two
  return static_cast<std::size_t>(n_items) * keys * sizeof(uint64_t);
}

void slot_update_cpu(std::span<const SlotUpdateItem> items, void* workspace) {
  int32_t max_slots = 0;
  for (const SlotUpdateItem& item : items) max_slots = std::max(max_slots, item.n_slots);
  auto* keys = static_cast<uint64_t*>(workspace);
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    update(items[static_cast<std::size_t>(i)], keys + i * max_slots);
  });
}

}  // namespace skv::kernels
