// Chunks to slots. A few kB per item; the floor is the latency of its steps, about twenty barriers and six reads that
// depend on each other.
//
// One block an item: table look-ups tell hits from misses, which are listed in order; the slots least recently used
// are selected, as many as there are misses (common/cuda/select.cuh), and sorted; then miss i takes victim i.
#include <algorithm>
#include <bit>
#include <cstddef>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/select.cuh"
#include "kernels/ops_cuda.h"
#include "kernels/slot_update/slot_update.h"

namespace skv::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kSharedVictims = 1024;  // more are sorted in the workspace
constexpr int kBytes = cuda::kSelectBytes + 8 * kSharedVictims;

__device__ __forceinline__ int16_t* table_entry(const SlotUpdateItem& item, int chunk) {
  return static_cast<int16_t*>(item.table.row(chunk));
}

// Hits are marked as used; of misses, slots holds -1 - rank. Returns the number of misses.
__device__ __forceinline__ int find_misses(const SlotUpdateItem& item, int n_ids, int* scratch) {
  for (int i = static_cast<int>(threadIdx.x); i < n_ids; i += kThreads) {
    const int slot = *table_entry(item, item.ids[i]);
    item.slots[i] = slot;
    if (slot >= 0) item.last_used[slot] = item.step;
  }
  __syncthreads();
  return cuda::for_each_taken(
      n_ids, 0, [&](int i) { return item.slots[i] < 0 ? cuda::Take::yes : cuda::Take::no; },
      [&](int i, int rank) {
        item.slots[i] = -1 - rank;
        item.miss_chunks[rank] = item.ids[i];
      },
      scratch);
}

// The order of victims, best first: empty slots, then by age; 64 bits, as an empty slot is older than any age.
__device__ __forceinline__ uint64_t victim_of(const SlotUpdateItem& item, int slot) {
  const uint64_t age = item.chunk_of_slot[slot] < 0 ? 0 : uint64_t{item.last_used[slot]} + 1;
  return age << 16 | static_cast<uint64_t>(slot);
}

// The `misses` best victims, in order of slots.
__device__ __forceinline__ void select_victims(const SlotUpdateItem& item, int misses, uint64_t* victims,
                                               unsigned char* shared) {
  int* const scratch = reinterpret_cast<int*>(shared);
  const auto put = [&](int slot, int rank) { victims[rank] = victim_of(item, slot); };
  const auto empty = [&](int slot) { return item.chunk_of_slot[slot] < 0 ? cuda::Take::equal : cuda::Take::no; };
  const int found = cuda::for_each_taken(item.n_slots, misses, empty, put, scratch);
  if (found == misses) return;
  const auto key = [&](int slot, uint32_t* x) {
    const uint32_t used = item.last_used[slot];
    *x = ~used;
    return used != item.step && item.chunk_of_slot[slot] >= 0;
  };
  const cuda::Threshold threshold = cuda::select_largest(item.n_slots, misses - found, key, shared);
  const auto take = [&](int slot) {
    uint32_t x;
    const bool valid = key(slot, &x);
    return cuda::judge(threshold, valid, x);
  };
  cuda::for_each_taken(
      item.n_slots, threshold.equal, take, [&](int slot, int rank) { put(slot, found + rank); }, scratch);
}

// Bitonic; keys has room for a power of two.
__device__ __forceinline__ void sort(uint64_t* keys, int n, int padded) {
  for (int i = n + static_cast<int>(threadIdx.x); i < padded; i += kThreads) keys[i] = ~uint64_t{0};
  for (int run = 2; run <= padded; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < padded / 2; i += kThreads) {
        const int low = i / distance * 2 * distance + i % distance, high = low + distance;
        const uint64_t a = keys[low], b = keys[high];
        if ((a > b) == ((low & run) == 0)) keys[low] = b, keys[high] = a;
      }
    }
  }
  __syncthreads();
}

__device__ __forceinline__ void give_slots(const SlotUpdateItem& item, int n_ids, const uint64_t* victims) {
  for (int i = static_cast<int>(threadIdx.x); i < n_ids; i += kThreads) {
    const int miss = -1 - item.slots[i];
    if (miss < 0) continue;
    const int victim = static_cast<int>(victims[miss] & 0xffffu), chunk = item.ids[i];
    const int old = item.chunk_of_slot[victim];
    if (old >= 0) *table_entry(item, old) = -1;
    item.chunk_of_slot[victim] = chunk;
    item.last_used[victim] = item.step;
    *table_entry(item, chunk) = static_cast<int16_t>(victim);
    item.slots[i] = victim;
    item.miss_slots[miss] = victim;
  }
}

__global__ void __launch_bounds__(kThreads) update(const SlotUpdateItem* items, uint64_t* workspace, int64_t stride) {
  SKV_SHARED(shared);
  const SlotUpdateItem item = items[blockIdx.x];
  const int n_ids = *item.n_ids, misses = find_misses(item, n_ids, reinterpret_cast<int*>(shared));
  if (threadIdx.x == 0) {
    *item.n_miss = misses;
    add_slot_totals(item, n_ids, misses);
  }
  if (misses == 0) return;
  int padded = 1;
  while (padded < misses) padded *= 2;
  uint64_t* const victims = padded <= kSharedVictims ? reinterpret_cast<uint64_t*>(shared + cuda::kSelectBytes)
                                                     : workspace + blockIdx.x * stride;
  select_victims(item, misses, victims, shared);
  __syncthreads();
  sort(victims, misses, padded);
  give_slots(item, n_ids, victims);
}

}  // namespace

void slot_update_cuda(cuda::Stream& stream, std::span<const SlotUpdateItem> items, void* workspace) {
  int32_t max_slots = 0;
  for (const SlotUpdateItem& item : items) max_slots = std::max(max_slots, item.n_slots);
  cuda::Lists lists(stream);
  const auto list = lists.copy(items);
  for (SlotUpdateItem& item : list) lists.localize(item.table);
  if (!stream.ok()) return;
  const auto stride = static_cast<int64_t>(std::bit_ceil(static_cast<uint32_t>(max_slots)));
  cuda::launch(&update, dim3(static_cast<unsigned>(items.size())), dim3(kThreads), static_cast<std::size_t>(kBytes),
               stream, list.device(), static_cast<uint64_t*>(workspace), stride);
}

}  // namespace skv::kernels
