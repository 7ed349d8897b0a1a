// Work that the host lists as runs of equal units: where a unit lies, and the runs of chunks that spans hold.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>

#include "kernels/common/cuda/stream.h"
#include "kernels/common/paged.h"

namespace skv::cuda {

// The last of n >= 1 runs, in the order of their begin, that begins at unit or before it.
template <class Run>
__device__ __forceinline__ const Run& run_of(const Run* runs, int32_t n, int64_t unit) {
  int32_t low = 0, high = n;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (runs[middle].begin <= unit) low = middle;
    else high = middle;
  }
  return runs[low];
}

// Whole chunks of one span of an item.
struct ChunkRun {
  const void* rows = nullptr;  // the span's first row
  int64_t begin = 0;           // chunks of all runs before it
  int32_t item = 0;
  int32_t first = 0;           // its first chunk, of the item's
};

struct ChunkRuns {
  const ChunkRun* runs = nullptr;  // on the device
  int32_t n = 0;
  int64_t chunks = 0;  // of all runs
};

// Items with spans of whole chunks (span.n a multiple of chunk), read at k.
template <class Item>
ChunkRuns list_chunk_runs(Lists& lists, std::span<const Item> items, int32_t chunk) {
  int32_t n = 0;
  for (const Item& item : items) {
    for (int32_t s = 0; s < item.n_spans; ++s) n += item.spans[s].n >= chunk ? 1 : 0;
  }
  const Staged<ChunkRun> list = lists.make<ChunkRun>(n);
  ChunkRuns runs{list.device(), 0, 0};
  for (std::size_t i = 0; i < items.size() && list.size() > 0; ++i) {
    int32_t first = 0;
    for (int32_t s = 0; s < items[i].n_spans; ++s) {
      const int32_t chunks = items[i].spans[s].n / chunk;
      if (chunks == 0) continue;
      list[runs.n++] = {items[i].spans[s].k, runs.chunks, static_cast<int32_t>(i), first};
      runs.chunks += chunks;
      first += chunks;
    }
  }
  return runs;
}

}  // namespace skv::cuda
