// Keys, values and queries for benchmarks of attention: cheap to make at any length, the same from the same seed.
//
// A chunk's keys scatter around a centre of their own, as real keys do. A head's queries walk: q' = c q + sqrt(1 -
// c^2) fresh, so that the best chunks of one step are partly those of the step before; c is the correlation of
// neighbours.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "lib/kv/policy.h"

namespace skv::bench {

class SyntheticKv {
 public:
  SyntheticKv(const kv::Geometry& geometry, int32_t chunk, double correlation, uint64_t seed)
      : geometry_(geometry), chunk_(chunk), correlation_(correlation), engine_(seed), noise_(kTable) {
    std::normal_distribution<float> normal;
    for (float& x : noise_) x = normal(engine_);
  }

  // Tokens [start, start + n) of a layer, rows of kv_heads * head_dim.
  void keys(int32_t layer, int64_t start, int64_t n, float* out) const { fill(2 * layer, start, n, 0.8f, 0.6f, out); }
  void values(int32_t layer, int64_t start, int64_t n, float* out) const {
    fill(2 * layer + 1, start, n, 0.0f, 1.0f, out);
  }

  // The next step's queries of all layers, [layers] of q_heads * head_dim. The heads of a group look the same way.
  const std::vector<std::vector<float>>& next_queries() {
    const auto width = static_cast<std::size_t>(geometry_.q_heads) * static_cast<std::size_t>(geometry_.head_dim);
    const bool first = queries_.empty();
    if (first) queries_.assign(static_cast<std::size_t>(geometry_.layers), std::vector<float>(width));
    const auto keep = static_cast<float>(first ? 0.0 : correlation_);
    const float fresh = std::sqrt(1.0f - keep * keep);
    for (auto& layer : queries_) walk(&layer, keep, fresh);
    return queries_;
  }

 private:
  static constexpr std::size_t kTable = 1 << 18;

  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }
  const float* row(uint64_t a, uint64_t b, uint64_t c) const {
    const uint64_t hash = mix(mix(a * 0x9E3779B97F4A7C15u + b) + c);
    return noise_.data() + hash % (kTable - static_cast<std::size_t>(geometry_.head_dim));
  }

  void fill(int32_t stream, int64_t start, int64_t n, float centre_share, float own_share, float* out) const {
    const int64_t d = geometry_.head_dim;
#pragma omp parallel for
    for (int64_t t = start; t < start + n; ++t) {
      for (int32_t h = 0; h < geometry_.kv_heads; ++h) {
        const auto place = static_cast<uint64_t>(stream * geometry_.kv_heads + h);
        const float* centre = row(place, static_cast<uint64_t>(t / chunk_), 1);
        const float* own = row(place, static_cast<uint64_t>(t), 2);
        float* to = out + ((t - start) * geometry_.kv_heads + h) * d;
        for (int64_t i = 0; i < d; ++i) to[i] = centre_share * centre[i] + own_share * own[i];
      }
    }
  }

  void walk(std::vector<float>* layer, float keep, float fresh) {
    const auto d = static_cast<std::size_t>(geometry_.head_dim);
    const auto group = static_cast<std::size_t>(geometry_.group());
    std::normal_distribution<float> normal;
    std::vector<float> shared(d);
    for (std::size_t h = 0; h < layer->size() / d; ++h) {
      if (h % group == 0) {
        for (float& x : shared) x = normal(engine_);
      }
      for (std::size_t i = 0; i < d; ++i) {
        float& q = (*layer)[h * d + i];
        q = keep * q + fresh * kContrast * (0.9f * shared[i] + 0.436f * normal(engine_));
      }
    }
  }

  static constexpr float kContrast = 1.5f;

  kv::Geometry geometry_;
  int32_t chunk_;
  double correlation_;
  std::mt19937_64 engine_;
  std::vector<float> noise_;
  std::vector<std::vector<float>> queries_;
};

}  // namespace skv::bench
