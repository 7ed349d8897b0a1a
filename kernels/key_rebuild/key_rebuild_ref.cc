#include <cstring>
#include <vector>

#include "kernels/common/row_codec.h"
#include "kernels/key_rebuild/key_rebuild.h"

namespace skv::kernels {
namespace {

const BasisSegment& segment_of(const KeyRebuildItem& item, int32_t chunk) {
  int32_t s = 0;
  while (s + 1 < item.n_segments && item.segments[s + 1].first_chunk <= chunk) ++s;
  return item.segments[s];
}

// Row t of a block of A.
void load_row(const BlockFormat& format, const void* block, int64_t t, std::vector<float>& a) {
  if (format.codec == BlockCodec::raw) {
    for (int64_t j = 0; j < format.width; ++j) a[j] = load_f32(block, format.dtype, t * format.width + j);
    return;
  }
  const auto* codes = static_cast<const int8_t*>(block);
  uint16_t scale;
  std::memcpy(&scale, codes + format.scales_at() + 2 * t, sizeof(scale));
  decode_int8_row_ref(codes + t * format.width, scale, format.width, a.data());
}

void rotate(const RopeView& rope, int64_t position, std::vector<double>& k) {
  const int32_t half = rope.rotary_dim / 2;
  const float* lo = rope.lo + position % kRopeLow * half * 2;
  const float* hi = rope.hi + position / kRopeLow * half * 2;
  for (int32_t i = 0; i < half; ++i) {
    const double cl = lo[2 * i], sl = lo[2 * i + 1], ch = hi[2 * i], sh = hi[2 * i + 1];
    const double c = rope.attention_factor * (ch * cl - sh * sl), s = rope.attention_factor * (sh * cl + ch * sl);
    double& x = k[rope.interleaved ? 2 * i : i];
    double& y = k[rope.interleaved ? 2 * i + 1 : i + half];
    const double rotated = x * c - y * s;
    y = y * c + x * s;
    x = rotated;
  }
}

}  // namespace

void key_rebuild_ref(const KeyRebuildDesc& desc, std::span<const KeyRebuildItem> items) {
  const int64_t r = desc.rank, dim = desc.head_dim;
  std::vector<double> k(static_cast<std::size_t>(dim));
  std::vector<float> a(static_cast<std::size_t>(r));
  for (const KeyRebuildItem& item : items) {
    for (int32_t i = 0; i < *item.n; ++i) {
      const int32_t chunk = item.chunks[i];
      const BasisSegment& segment = segment_of(item, chunk);
      for (int64_t t = 0; t < desc.chunk; ++t) {
        load_row(desc.a_format(), item.a.row(chunk), t, a);
        for (int64_t d = 0; d < dim; ++d) {
          k[d] = load_f32(segment.mu, desc.dtype, d);
          for (int64_t j = 0; j < r; ++j)
            k[d] += static_cast<double>(a[j]) * load_f32(segment.b, desc.dtype, j * dim + d);
        }
        rotate(desc.rope, static_cast<int64_t>(chunk) * desc.chunk + t, k);
        const int64_t row = (static_cast<int64_t>(item.slot(i)) * desc.chunk + t) * dim;
        for (int64_t d = 0; d < dim; ++d)
          store_f32(item.slot_region, desc.dtype, row + d, static_cast<float>(k[d]));
      }
    }
  }
}

}  // namespace skv::kernels
