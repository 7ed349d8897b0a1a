#include "tests/gpu/forced_hits.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "lib/kv/views.h"

namespace skv::gpu {

namespace {

constexpr uint32_t kTurns = 3;  // choices used by turns

}  // namespace

ForcedHits::ForcedHits(Gpu& gpu, const kv::Layout& layout, std::span<kv::Sequence* const> sequences, double rate)
    : gpu_(gpu), layout_(layout), sequences_(sequences.begin(), sequences.end()) {
  for (const kv::Sequence* sequence : sequences_) {
    for (const kv::Layer& layer : sequence->layers) most_slots_ = std::max(most_slots_, layer.slots.capacity);
  }
  for (uint32_t turn = 0; turn < kTurns; ++turn) {
    for (int32_t l = 0; l < layout_.geometry.layers; ++l) {
      for (const kv::Sequence* sequence : sequences_) {
        const kv::Layer& layer = sequence->layers[static_cast<std::size_t>(l)];
        const int64_t n_slots = int64_t{layout_.geometry.kv_heads} * layer.slots.capacity;
        std::vector<int32_t> chunk_of_slot(static_cast<std::size_t>(n_slots));
        gpu_.ops().download(chunk_of_slot.data(), layer.slots.table.data(), std::ssize(chunk_of_slot) * 4);
        choose(layer, chunk_of_slot, rate, turn);
      }
    }
  }
  ids_ = gpu_.filled(host_ids_);
  counts_ = gpu_.filled(host_counts_);
  // Slots, and chunks and slots of misses, of an item; then its number of misses.
  out_ = gpu_.empty(items_per_layer() * (3 * int64_t{most_slots_} + 1) * 4);
  const std::size_t workspace = kernels::slot_update_workspace_bytes(items_per_layer(), most_slots_);
  workspace_ = gpu_.empty(static_cast<int64_t>(workspace) + 64);
}

int64_t ForcedHits::items_per_layer() const { return std::ssize(sequences_) * layout_.geometry.kv_heads; }

// Ids that fill all slots: a share of what they hold now, and chunks that they do not hold.
void ForcedHits::choose(const kv::Layer& layer, const std::vector<int32_t>& chunk_of_slot, double rate,
                        uint32_t turn) {
  const int32_t capacity = layer.slots.capacity;
  const auto n_chunks = static_cast<int32_t>(layer.sealed / layout_.policy.chunk);
  for (int32_t h = 0; h < layout_.geometry.kv_heads; ++h) {
    std::mt19937 engine(turn + kTurns * static_cast<uint32_t>(host_counts_.size()));
    std::vector<int32_t> ids;
    std::vector<bool> taken(static_cast<std::size_t>(n_chunks));
    for (int32_t s = 0; s < capacity; ++s) {
      const int32_t chunk = chunk_of_slot[static_cast<std::size_t>(h * capacity + s)];
      if (chunk < 0) continue;
      ids.push_back(chunk);
      taken[static_cast<std::size_t>(chunk)] = true;
    }
    std::shuffle(ids.begin(), ids.end(), engine);
    const int32_t free = n_chunks - static_cast<int32_t>(ids.size());
    ids.resize(static_cast<std::size_t>(std::lround(rate * static_cast<double>(ids.size()))));
    const auto others = std::min(free, capacity - static_cast<int32_t>(ids.size()));
    for (int32_t i = 0; i < others;) {
      const auto chunk = static_cast<int32_t>(engine() % static_cast<uint32_t>(n_chunks));
      if (taken[static_cast<std::size_t>(chunk)]) continue;
      taken[static_cast<std::size_t>(chunk)] = true;
      ids.push_back(chunk);
      ++i;
    }
    std::sort(ids.begin(), ids.end());
    host_counts_.push_back(static_cast<int32_t>(ids.size()));
    ids.resize(static_cast<std::size_t>(most_slots_));
    host_ids_.insert(host_ids_.end(), ids.begin(), ids.end());
  }
}

void ForcedHits::arrange() {
  for (kv::Sequence* sequence : sequences_) ++sequence->step_next;  // a tick of the slots' clock that no step has
  const int32_t heads = layout_.geometry.kv_heads;
  int64_t choice = int64_t{turn_++ % kTurns} * layout_.geometry.layers * items_per_layer();
  for (int32_t l = 0; l < layout_.geometry.layers; ++l) {
    std::vector<kernels::SlotUpdateItem> items;
    for (const kv::Sequence* sequence : sequences_) {
      const kv::Layer& layer = sequence->layers[static_cast<std::size_t>(l)];
      for (int32_t h = 0; h < heads; ++h, ++choice) {
        if (layer.sealed == 0) continue;
        kernels::SlotUpdateItem item;
        item.table = kv::table_rows(layout_, layer, h);
        item.chunk_of_slot = kv::chunk_of_slot(layer, h);
        item.last_used = kv::slot_last_used(layout_, layer, h);
        item.n_slots = layer.slots.capacity;
        item.step = 2 * sequence->step_next;
        item.ids = ids_.as<int32_t>() + choice * most_slots_;
        item.n_ids = counts_.as<int32_t>() + choice;
        item.max_ids = layer.slots.capacity;
        item.slots = out_.as<int32_t>() + std::ssize(items) * (3 * int64_t{most_slots_} + 1);
        item.miss_chunks = item.slots + most_slots_;
        item.miss_slots = item.miss_chunks + most_slots_;
        item.n_miss = item.miss_slots + most_slots_;
        items.push_back(item);
      }
    }
    gpu_.ops().slot_update(items, workspace_.data());
  }
}

}  // namespace skv::gpu
