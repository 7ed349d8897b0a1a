#include <cstdint>
#include <vector>

#include "kernels/chunk_fetch/chunk_fetch.h"
#include "kernels/common/hadamard.h"
#include "kernels/common/row_codec.h"

namespace skv::kernels {
namespace {

void decode_block(const BlockFormat& format, const uint8_t* block, const float* weights, void* to) {
  if (format.codec == BlockCodec::raw) {
    for (int64_t b = 0; b < format.block_bytes(); ++b) static_cast<uint8_t*>(to)[b] = block[b];
    return;
  }
  const int64_t width = format.width;
  const auto* scales = reinterpret_cast<const uint16_t*>(block + format.scales_at());
  std::vector<float> x(static_cast<std::size_t>(format.chunk * width));
  for (int64_t t = 0; t < format.chunk; ++t) {
    const uint8_t* codes = block + t * format.row_bytes();
    float* row = x.data() + t * width;
    if (format.codec == BlockCodec::int4) decode_int4_row_ref(codes, scales[t], width, row);
    else decode_int8_row_ref(reinterpret_cast<const int8_t*>(codes), scales[t], width, row);
  }
  if (format.codec == BlockCodec::int4) hadamard_rows_ref(x.data(), format.chunk, format.width, true);
  for (int64_t i = 0; i < format.chunk * width; ++i) {
    store_f32(to, format.dtype, i, weights == nullptr ? x[i] : x[i] * weights[i % width]);
  }
}

}  // namespace

void chunk_fetch_ref(const BlockFormat& format, std::span<const ChunkFetchItem> items) {
  for (const ChunkFetchItem& item : items) {
    for (int32_t i = 0; i < *item.n; ++i) {
      decode_block(format, static_cast<const uint8_t*>(item.blocks.row(item.chunks[i])), item.weights,
                   offset_bytes(item.slot_region, item.slot(i) * format.decoded_bytes()));
    }
  }
}

}  // namespace skv::kernels
