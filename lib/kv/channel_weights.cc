#include "lib/kv/channel_weights.h"

#include <algorithm>
#include <cmath>

#include "lib/kv/seal_scratch.h"

namespace skv::kv {
namespace {

constexpr int64_t kSampledBlocks = 16;  // of kFactorBlock tokens, spread over the sealed range
constexpr double kLeastShare = 1e-4;    // of a head's largest channel: what is smaller counts as that

// energy [M] = sum of squares of each column over blocks spread over [0, to).
void key_energy(const Context& context, const Layer& layer, int64_t to, float* x, double* energy) {
  const Geometry& g = context.geometry();
  const int64_t m = g.key_width(), n_blocks = ceil_div(to, kFactorBlock);
  const int64_t step = ceil_div(n_blocks, kSampledBlocks);
  std::fill(energy, energy + m, 0.0);
  for (int64_t block = 0; block < n_blocks; block += step) {
    const int64_t first = block * kFactorBlock, n = std::min(kFactorBlock, to - first);
    context.ops.kv_gather({context.policy().dtype, g.kv_heads, g.head_dim, kExactPageTokens, layer.exact.data(), first, n,
                           x});
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t c = 0; c < m; ++c) {
        const double square = double{x[t * m + c]} * x[t * m + c];
        if (std::isfinite(square)) energy[c] += square;
      }
    }
  }
}

// A channel's share of its head's largest energy, none below the least; 1 where there is no energy at all.
template <class T>
double share(const T* energy, int32_t channel, int32_t n) {
  const T largest = *std::max_element(energy, energy + n);
  return largest > 0 ? std::max(static_cast<double>(energy[channel] / largest), kLeastShare * kLeastShare) : 1.0;
}

}  // namespace

void add_query_energy(const Geometry& g, const float* q, int64_t n, float* energy) {
  for (int64_t t = 0; t < n; ++t) {
    for (int32_t head = 0; head < g.q_heads; ++head) {
      const float* row = q + (t * g.q_heads + head) * g.head_dim;
      float* to = energy + int64_t{head / g.group()} * g.head_dim;
      for (int32_t i = 0; i < g.head_dim; ++i) to[i] += std::isfinite(row[i] * row[i]) ? row[i] * row[i] : 0.0f;
    }
  }
}

void make_channel_weights(const Context& context, Layer& layer, int64_t to, const float* energy, float* x,
                          double* keys) {
  const Geometry& g = context.geometry();
  const int64_t m = g.key_width();
  key_energy(context, layer, to, x, keys);
  float* weights = layer.channel_weights.as<float>();
  for (int64_t first = 0; first < m; first += g.head_dim) {
    for (int32_t i = 0; i < g.head_dim; ++i) {
      const double k = share(keys + first, i, g.head_dim);
      const double q = energy ? share(energy + first, i, g.head_dim) : 1.0;
      const auto exponent = static_cast<int>(std::lround(0.25 * std::log2(k / q)));
      weights[first + i] = std::ldexp(1.0f, exponent);
      weights[m + first + i] = std::ldexp(1.0f, -exponent);
    }
  }
}

const float* channel_weights(const Layout& layout, const Layer& layer, int32_t head) {
  if (!layout.policy.weighs_channels()) return nullptr;
  return layer.channel_weights.as<float>() + int64_t{head} * layout.geometry.head_dim;
}

const float* inverse_channel_weights(const Layout& layout, const Layer& layer, int32_t head) {
  return channel_weights(layout, layer, layout.policy.weighs_channels() ? layout.geometry.kv_heads + head : 0);
}

void weigh_queries(const Layout& layout, const Layer& layer, int32_t head, const float* q, float* out) {
  const int32_t d = layout.geometry.head_dim;
  const float* weights = channel_weights(layout, layer, head);
  for (int32_t g = 0; g < layout.geometry.group(); ++g) {
    for (int32_t i = 0; i < d; ++i) out[g * d + i] = q[g * d + i] * weights[i];
  }
}

}  // namespace skv::kv
