// Random processes that synthetic keys, values and queries are made of.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace skv::bench {

inline constexpr int32_t kRank = 96;          // directions that keys live in
inline constexpr double kSpectrumKnee = 8.0;  // amplitude of direction i: (i + knee)^-1.5

using Engine = std::mt19937_64;

inline std::vector<float> normals(Engine& engine, int64_t n) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& value : x) value = normal(engine);
  return x;
}

// Unit variance; neighbours correlate by `keep`.
class Walk {
 public:
  Walk(Engine& engine, int64_t n, double keep)
      : keep_(static_cast<float>(keep)), fresh_(std::sqrt(1.0f - keep_ * keep_)), state_(normals(engine, n)) {}
  const std::vector<float>& next(Engine& engine) {
    for (float& x : state_) x = keep_ * x + fresh_ * normal_(engine);
    return state_;
  }

 private:
  float keep_, fresh_;
  std::vector<float> state_;
  std::normal_distribution<float> normal_;
};

// Text at three speeds: shares of variance .35, .3, .35.
class Text {
 public:
  Text(Engine& engine, int64_t n) : slow_(engine, n, 0.98), quick_(engine, n, 0.75), token_(engine, n, 0.0) {}
  std::vector<float> next(Engine& engine) {
    std::vector<float> x = slow_.next(engine);
    const std::vector<float>&quick = quick_.next(engine), &token = token_.next(engine);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.592f * x[i] + 0.548f * quick[i] + 0.592f * token[i];
    return x;
  }

 private:
  Walk slow_, quick_, token_;
};

// Directions of keys, [width, kRank], scaled so that keys have unit variance per element.
inline std::vector<float> make_basis(Engine& engine, int64_t width) {
  std::vector<float> basis = normals(engine, width * kRank);
  std::array<float, kRank> amplitude;
  float energy = 0.0f;
  for (int32_t i = 0; i < kRank; ++i) {
    const auto a = static_cast<float>(std::pow(i + kSpectrumKnee, -1.5));
    amplitude[i] = a;
    energy += a * a;
  }
  for (std::size_t i = 0; i < basis.size(); ++i) basis[i] *= amplitude[i % kRank] / std::sqrt(energy);
  return basis;
}

// to [width] += basis z
inline void add_product(const std::vector<float>& basis, const std::vector<float>& z, float* to, int64_t width) {
  for (int64_t c = 0; c < width; ++c) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < kRank; ++i) sum += basis[c * kRank + i] * z[i];
    to[c] += sum;
  }
}

}  // namespace skv::bench
