#include "kernels/slot_update/slot_update.h"

namespace skv::kernels {
namespace {

int16_t& table_entry(const SlotUpdateItem& item, int32_t chunk) {
  return *static_cast<int16_t*>(item.table.row(chunk));
}

bool better_victim(const SlotUpdateItem& item, int32_t slot, int32_t best) {
  if (item.last_used[slot] == item.step && item.chunk_of_slot[slot] >= 0) return false;
  if (best < 0) return true;
  const bool empty = item.chunk_of_slot[slot] < 0, best_empty = item.chunk_of_slot[best] < 0;
  if (empty != best_empty) return empty;
  return !empty && item.last_used[slot] < item.last_used[best];
}

void update(const SlotUpdateItem& item) {
  *item.n_miss = 0;
  for (int32_t i = 0; i < *item.n_ids; ++i) {
    item.slots[i] = table_entry(item, item.ids[i]);
    if (item.slots[i] >= 0) item.last_used[item.slots[i]] = item.step;
  }
  for (int32_t i = 0; i < *item.n_ids; ++i) {
    if (item.slots[i] >= 0) continue;
    int32_t victim = -1;
    for (int32_t slot = 0; slot < item.n_slots; ++slot) {
      if (better_victim(item, slot, victim)) victim = slot;
    }
    if (item.chunk_of_slot[victim] >= 0) table_entry(item, item.chunk_of_slot[victim]) = -1;
    item.chunk_of_slot[victim] = item.ids[i];
    item.last_used[victim] = item.step;
    table_entry(item, item.ids[i]) = static_cast<int16_t>(victim);
    item.slots[i] = victim;
    item.miss_chunks[*item.n_miss] = item.ids[i];
    item.miss_slots[*item.n_miss] = victim;
    ++*item.n_miss;
  }
  add_slot_totals(item, *item.n_ids, *item.n_miss);
}

}  // namespace

void slot_update_ref(std::span<const SlotUpdateItem> items, void*) {
  for (const SlotUpdateItem& item : items) update(item);
}

}  // namespace skv::kernels
