#include "lib/kv/channel_weights.h"

#include <algorithm>
#include <cmath>

#include "lib/kv/seal_scratch.h"

namespace skv::kv {
namespace {

constexpr int64_t kSampledBlocks = 16, kSampledBlock = 512;  // that many, of so many tokens, spread over what is sealed
constexpr double kLeastShare = 1e-4;    // of a head's largest channel: what is smaller counts as that

// Sums of squares of each column over blocks spread over [0, to), into the scratch.
void measure_keys(const Context& context, const Layer& layer, int64_t to, SealScratch* s) {
  const Geometry& g = context.geometry();
  const int64_t bytes = int64_t{g.key_width()} * 8, n_blocks = ceil_div(to, kSampledBlock);
  const int64_t step = ceil_div(n_blocks, kSampledBlocks);
  context.ops.fill(s->channel_energy, 0, bytes);
  for (int64_t block = 0; block < n_blocks; block += step) {
    const int64_t first = block * kSampledBlock, n = std::min(kSampledBlock, to - first);
    context.ops.kv_gather({context.layout.exact_page(), layer.exact.data(), first, n, s->x});
    context.ops.column_energy({s->x, n, g.kv_heads, 1, g.head_dim, s->channel_energy});
  }
  context.ops.download(s->key_energy, s->channel_energy, bytes);
}

// A channel's share of its head's largest energy, none below the least; 1 where there is no energy at all.
double share(const double* energy, int32_t channel, int32_t n) {
  const double largest = *std::max_element(energy, energy + n);
  return largest > 0 ? std::max(energy[channel] / largest, kLeastShare * kLeastShare) : 1.0;
}

}  // namespace

void make_channel_weights(const Context& context, Layer& layer, int64_t to, const double* energy, SealScratch* s) {
  const Geometry& g = context.geometry();
  const int64_t m = g.key_width();
  measure_keys(context, layer, to, s);
  if (energy) context.ops.download(s->query_energy, energy, m * 8);
  else std::fill_n(s->query_energy, m, 0.0);
  for (int64_t first = 0; first < m; first += g.head_dim) {
    for (int32_t i = 0; i < g.head_dim; ++i) {
      const double k = share(s->key_energy + first, i, g.head_dim);
      const double q = share(s->query_energy + first, i, g.head_dim);
      const auto exponent = static_cast<int>(std::lround(0.25 * std::log2(k / q)));
      s->weights[first + i] = std::ldexp(1.0f, exponent);
      s->weights[m + first + i] = std::ldexp(1.0f, -exponent);
    }
  }
  context.ops.upload(layer.channel_weights.data(), s->weights, 2 * m * 4);
}

const float* channel_weights(const Layout& layout, const Layer& layer, int32_t head) {
  if (!layout.policy.weighs_channels()) return nullptr;
  return layer.channel_weights.as<float>() + int64_t{head} * layout.geometry.head_dim;
}

const float* inverse_channel_weights(const Layout& layout, const Layer& layer, int32_t head) {
  return channel_weights(layout, layer, layout.policy.weighs_channels() ? layout.geometry.kv_heads + head : 0);
}

}  // namespace skv::kv
