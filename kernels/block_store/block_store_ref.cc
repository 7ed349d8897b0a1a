#include "kernels/block_store/block_store.h"

#include <vector>

#include "kernels/common/hadamard.h"
#include "kernels/common/row_codec.h"

namespace skv::kernels {
namespace {

void encode_row(const BlockFormat& format, const float* weights, const void* rows, int64_t row, uint8_t* block,
                int64_t t) {
  std::vector<float> x(static_cast<std::size_t>(format.width));
  for (int64_t i = 0; i < format.width; ++i) {
    x[i] = load_f32(rows, format.dtype, row * format.width + i);
    if (weights != nullptr) x[i] *= weights[i];
  }
  uint8_t* codes = block + t * format.row_bytes();
  auto* scales = reinterpret_cast<uint16_t*>(block + format.scales_at());
  switch (format.codec) {
    case BlockCodec::raw:
      for (int64_t i = 0; i < format.width; ++i) store_f32(block, format.dtype, t * format.width + i, x[i]);
      break;
    case BlockCodec::int8:
      scales[t] = encode_int8_row_ref(x.data(), format.width, reinterpret_cast<int8_t*>(codes));
      break;
    case BlockCodec::int4:
      hadamard_rows_ref(x.data(), 1, format.width, false);
      scales[t] = encode_int4_row_ref(x.data(), format.width, codes);
      break;
  }
}

}  // namespace

void block_store_ref(const BlockFormat& format, std::span<const BlockStoreItem> items) {
  const int64_t used_bytes = format.scales_at() + (format.codec == BlockCodec::raw ? 0 : 2 * format.chunk);
  for (const BlockStoreItem& item : items) {
    int64_t row = 0;
    for (int32_t s = 0; s < item.n_spans; ++s) {
      for (int32_t i = 0; i < item.spans[s].n; ++i, ++row) {
        auto* block = static_cast<uint8_t*>(item.blocks.row(item.first_chunk + row / format.chunk));
        encode_row(format, item.inverse_weights, item.spans[s].k, i, block, row % format.chunk);
        for (int64_t b = used_bytes; b < format.block_bytes(); ++b) block[b] = 0;
      }
    }
  }
}

}  // namespace skv::kernels
