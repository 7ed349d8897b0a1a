#include <cstdint>

#include "kernels/chunk_fetch/chunk_fetch.h"

namespace skv::kernels {

void chunk_fetch_ref(const ChunkFetchDesc& desc, std::span<const ChunkFetchItem> items) {
  const int64_t block_bytes = int64_t{desc.chunk} * desc.head_dim * dtype_bytes(desc.dtype);
  for (const ChunkFetchItem& item : items) {
    for (int32_t i = 0; i < *item.n; ++i) {
      const auto* from = static_cast<const uint8_t*>(item.blocks.row(item.chunks[i]));
      auto* to = static_cast<uint8_t*>(item.slot_region) + item.slots[i] * block_bytes;
      for (int64_t b = 0; b < block_bytes; ++b) to[b] = from[b];
    }
  }
}

}  // namespace skv::kernels
