#include "kernels/block_store/block_store.h"

namespace skv::kernels {

void block_store_ref(const ChunkFetchDesc& desc, std::span<const BlockStoreItem> items) {
  const int64_t row_elements = desc.head_dim;
  for (const BlockStoreItem& item : items) {
    int64_t row = 0;
    for (int32_t s = 0; s < item.n_spans; ++s) {
      for (int32_t i = 0; i < item.spans[s].n; ++i, ++row) {
        void* block = item.blocks.row(item.first_chunk + row / desc.chunk);
        for (int64_t e = 0; e < row_elements; ++e) {
          const float value = load_f32(item.spans[s].k, desc.dtype, i * row_elements + e);
          store_f32(block, desc.dtype, (row % desc.chunk) * row_elements + e, value);
        }
      }
    }
  }
}

}  // namespace skv::kernels
