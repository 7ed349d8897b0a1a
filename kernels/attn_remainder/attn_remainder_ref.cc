#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attn_remainder/attn_remainder.h"

namespace skv::kernels {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

double element(const AttnRemainderDesc& desc, const AttnRemainderItem& item, int32_t chunk, int64_t d) {
  const void* row = item.values.rows.row(chunk);
  if (desc.values.codec == BlockCodec::raw) return load_f32(row, desc.values.dtype, d);
  const float scale = load_f32(item.values.scales.row(chunk), DType::f16, 0);
  return static_cast<double>(scale) * static_cast<const int8_t*>(row)[d];
}

// The earlier result is one more row, of value out and log mass lse.
void attend_head(const AttnRemainderDesc& desc, const AttnRemainderItem& item, const std::vector<int32_t>& chunks,
                 const float* log_mass, float* out, float* lse) {
  const auto dim = static_cast<std::size_t>(desc.values.head_dim);
  double max = *lse;
  bool left_over = false;
  for (int32_t j : chunks) {
    max = std::fmax(max, log_mass[j]);
    left_over |= log_mass[j] != kNone;
  }
  if (!left_over) return;
  std::vector<double> sums(dim, 0.0);
  double total = 0;
  for (int32_t j : chunks) {
    if (log_mass[j] == kNone) continue;
    const double p = std::exp(log_mass[j] - max);
    total += p;
    for (std::size_t d = 0; d < dim; ++d) sums[d] += p * element(desc, item, j, static_cast<int64_t>(d));
  }
  const double before = *lse == kNone ? 0.0 : std::exp(*lse - max);
  total += before;
  for (std::size_t d = 0; d < dim; ++d) {
    const double earlier = *lse == kNone ? 0.0 : before * out[d];
    out[d] = static_cast<float>((sums[d] + earlier) / total);
  }
  *lse = static_cast<float>(max + std::log(total));
}

}  // namespace

void attn_remainder_ref(const AttnRemainderDesc& desc, std::span<const AttnRemainderItem> items, void*) {
  for (const AttnRemainderItem& item : items) {
    std::vector<int32_t> chunks;
    for (int32_t j = 0; j < item.n; ++j) {
      if (!std::binary_search(item.ids, item.ids + *item.n_ids, j)) chunks.push_back(j);
    }
    for (int32_t g = 0; g < desc.group; ++g) {
      attend_head(desc, item, chunks, item.log_mass + g * item.log_mass_stride,
                  item.out + int64_t{g} * desc.values.head_dim, item.lse + g);
    }
  }
}

}  // namespace skv::kernels
