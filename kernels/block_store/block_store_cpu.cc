#include "kernels/block_store/block_store.h"

#include "kernels/common/parallel.h"

namespace skv::kernels {

void block_store_cpu(const ChunkFetchDesc& desc, std::span<const BlockStoreItem> items) {
  const int64_t block_bytes = int64_t{desc.chunk} * desc.head_dim * dtype_bytes(desc.dtype);
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    const BlockStoreItem& item = items[static_cast<std::size_t>(i)];
    int32_t chunk = item.first_chunk;
    for (int32_t s = 0; s < item.n_spans; ++s) {
      for (int32_t row = 0; row < item.spans[s].n; row += desc.chunk, ++chunk) {
        const void* from = offset_bytes(item.spans[s].k, row / desc.chunk * block_bytes);
        std::memcpy(item.blocks.row(chunk), from, static_cast<std::size_t>(block_bytes));
      }
    }
  });
}

}  // namespace skv::kernels
