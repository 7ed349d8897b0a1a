#include "kernels/block_store/block_store.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/block_store/block_store_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/hadamard.h"
#include "kernels/common/parallel.h"
#include "kernels/common/row_codec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

// y = x * weights, or x, in f32.
template <class T>
HWY_INLINE void weigh_row(const T* x, std::size_t width, const float* weights, float* y) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= width; i += lanes) {
    const VF v = load(d, x + i);
    store(weights == nullptr ? v : hn::Mul(v, load(d, weights + i)), d, y + i);
  }
  if (i < width) {
    const std::size_t rest = width - i;
    const VF v = load_n(d, x + i, rest);
    store_n(weights == nullptr ? v : hn::Mul(v, load_n(d, weights + i, rest)), d, y + i, rest);
  }
}

template <class T>
void encode_block(const BlockFormat& format, const T* rows, const float* weights, uint8_t* block) {
  const int64_t width = format.width, row_bytes = format.row_bytes();
  const int64_t scales_at = format.scales_at(), padding_at = scales_at + 2 * format.chunk;
  auto* scales = reinterpret_cast<uint16_t*>(block + scales_at);
  alignas(64) float y[kMaxHadamard];
  for (int64_t t = 0; t < format.chunk; ++t) {
    const T* x = rows + t * width;
    uint8_t* codes = block + t * row_bytes;
    if (format.codec == BlockCodec::int8 && weights == nullptr) {
      scales[t] = encode_int8_row(x, width, reinterpret_cast<int8_t*>(codes));
      continue;
    }
    weigh_row(x, static_cast<std::size_t>(width), weights, y);
    if (format.codec == BlockCodec::int8) {
      scales[t] = encode_int8_row(y, width, reinterpret_cast<int8_t*>(codes));
    } else {
      hadamard_rows(y, 1, format.width, false);
      scales[t] = encode_int4_row(y, width, codes);
    }
  }
  std::memset(block + padding_at, 0, static_cast<std::size_t>(format.block_bytes() - padding_at));
}

void store_item(const BlockFormat& format, const BlockStoreItem& item) {
  const int64_t decoded_bytes = format.decoded_bytes();
  const float* weights = item.inverse_weights;
  int32_t chunk = item.first_chunk;
  for (int32_t s = 0; s < item.n_spans; ++s) {
    for (int32_t row = 0; row < item.spans[s].n; row += format.chunk, ++chunk) {
      const void* rows = offset_bytes(item.spans[s].k, row / format.chunk * decoded_bytes);
      auto* block = static_cast<uint8_t*>(item.blocks.row(chunk));
      if (format.codec == BlockCodec::raw) std::memcpy(block, rows, static_cast<std::size_t>(decoded_bytes));
      else if (format.dtype == DType::f32) encode_block(format, static_cast<const float*>(rows), weights, block);
      else encode_block(format, static_cast<const Bf16*>(rows), weights, block);
    }
  }
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
namespace {
HWY_EXPORT(store_item);
}  // namespace

void block_store_cpu(const BlockFormat& format, std::span<const BlockStoreItem> items) {
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    HWY_DYNAMIC_DISPATCH(store_item)(format, items[static_cast<std::size_t>(i)]);
  });
}

}  // namespace skv::kernels
#endif
