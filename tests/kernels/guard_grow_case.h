// Random items of guard_grow, and what the contract says of them, computed a second time in double.
#pragma once

#include <memory>

#include "kernels/guard_grow/guard_grow.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {

using kernels::GuardGrowDesc;
using kernels::GuardGrowItem;

struct GrowShape {
  int32_t n = 200;  // chunks of the sequence
  int32_t samples = 16, candidates = 60, chosen = 10;
};

struct GrowCase {
  static constexpr double kBefore[] = {5.0, 7.0, 0.25};  // totals
  GuardGrowDesc desc;
  GrowShape shape;
  Buffer<float> q, log_weight, scores, lse, missed;
  Buffer<double> totals{3};
  Buffer<char> keys;
  Buffer<int32_t> chunks, n_samples{1}, candidates, n_candidates{1}, picked, n_picked{1}, ids, n_ids{1}, extra,
      n_extra{1};
  GuardGrowItem item;

  GrowCase(const GuardGrowDesc& d, const GrowShape& s)
      : desc(d), shape(s), q(int64_t{d.group} * d.head_dim), log_weight(s.samples), scores(s.n), lse(d.group),
        missed(d.group), keys(int64_t{s.samples} * d.chunk * d.head_dim * dtype_bytes(d.dtype)), chunks(s.samples),
        candidates(s.candidates), picked(s.chosen), ids(s.candidates), extra(s.candidates) {
    n_samples[0] = s.samples, n_candidates[0] = s.candidates, n_picked[0] = s.chosen;
    item.q = q.data(), item.keys = keys.data(), item.scores = scores.data(), item.lse = lse.data();
    item.chunks = chunks.data(), item.log_weight = log_weight.data();
    item.n_samples = n_samples.data(), item.max_samples = s.samples;
    item.candidates = candidates.data(), item.n_candidates = n_candidates.data(), item.max_candidates = s.candidates;
    item.picked = picked.data(), item.n_picked = n_picked.data();
    item.ids = ids.data(), item.n_ids = n_ids.data();
    item.extra = extra.data(), item.n_extra = n_extra.data(), item.missed = missed.data();
    item.totals = totals.data();
  }
  void reset() {
    n_ids[0] = n_extra[0] = -1;
    std::copy_n(kBefore, 3, totals.data());
    std::fill(ids.span().begin(), ids.span().end(), -1);
  }
  std::vector<int32_t> first_ids() const { return {picked.span().begin(), picked.span().end()}; }
  std::string name() const {
    return std::string(desc.dtype == DType::f32 ? "f32" : "bf16") + " dim=" + std::to_string(desc.head_dim) +
           " group=" + std::to_string(desc.group) + " chunk=" + std::to_string(desc.chunk) +
           " samples=" + std::to_string(shape.samples) + " candidates=" + std::to_string(shape.candidates) +
           " chosen=" + std::to_string(shape.chosen) + " bound=" + std::to_string(desc.max_missed) +
           " margin=" + std::to_string(desc.margin);
  }
};

inline std::vector<int32_t> draw_distinct(Random& rng, std::vector<int32_t> from, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    std::swap(from[static_cast<std::size_t>(i)],
              from[static_cast<std::size_t>(rng.integer(i, static_cast<int64_t>(from.size()) - 1))]);
  }
  from.resize(static_cast<std::size_t>(count));
  std::sort(from.begin(), from.end());
  return from;
}

inline double logit(const GrowCase& c, int32_t g, const void* keys, int64_t row) {
  double sum = 0;
  for (int64_t i = 0; i < c.desc.head_dim; ++i) {
    sum += double{c.q[g * c.desc.head_dim + i]} * load_f32(keys, c.desc.dtype, row * c.desc.head_dim + i);
  }
  return sum * c.desc.scale;
}

// Of one head: logarithms of what every sampled key stands for.
inline std::vector<double> terms_of(const GrowCase& c, int32_t g) {
  std::vector<double> x;
  for (int64_t r = 0; r < int64_t{c.n_samples[0]} * c.desc.chunk; ++r) {
    x.push_back(logit(c, g, c.keys.data(), r) + c.log_weight[r / c.desc.chunk]);
  }
  return x;
}

// Shares of all mass that the sampled chunks stand for, [G][n_samples]: computed a second time, in double.
inline std::vector<std::vector<double>> shares_of(const GrowCase& c) {
  std::vector<std::vector<double>> shares;
  for (int32_t g = 0; g < c.desc.group; ++g) {
    const std::vector<double> x = terms_of(c, g);
    std::vector<double> mass(static_cast<std::size_t>(c.n_samples[0]), 0.0);
    const double max = std::max<double>(c.lse[g], x.empty() ? -HUGE_VAL : *std::max_element(x.begin(), x.end()));
    double total = std::exp(c.lse[g] - max);
    for (std::size_t r = 0; r < x.size(); ++r) {
      mass[r / static_cast<std::size_t>(c.desc.chunk)] += std::exp(x[r] - max);
      total += std::exp(x[r] - max);
    }
    for (double& m : mass) m /= total;
    shares.push_back(mass);
  }
  return shares;
}

// The contract's, which grows with the largest terms.
inline double tolerance_of(const GrowCase& c) {
  double largest = 0;
  for (const float w : c.log_weight.span()) largest = std::max<double>(largest, std::fabs(w));
  for (int32_t g = 0; g < c.desc.group; ++g) {
    for (int64_t r = 0; r < int64_t{c.n_samples[0]} * c.desc.chunk; ++r) {
      largest = std::max(largest, std::fabs(logit(c, g, c.keys.data(), r)));
    }
  }
  return 1e-4 * std::max(1.0, largest / 500);
}

// lse about as large as what was sampled, so that shares are neither 0 nor 1.
inline void set_lse(Random& rng, GrowCase* c) {
  for (int32_t g = 0; g < c->desc.group; ++g) {
    const std::vector<double> x = terms_of(*c, g);
    const double max = x.empty() ? 0.0 : *std::max_element(x.begin(), x.end());
    double sum = x.empty();
    for (const double v : x) sum += std::exp(v - max);
    c->lse[g] = static_cast<float>(max + std::log(sum) + rng.uniform(-3, 4));
  }
}

inline std::unique_ptr<GrowCase> make_case(Random& rng, const GuardGrowDesc& desc, Fill fill,
                                           const GrowShape& shape) {
  auto c = std::make_unique<GrowCase>(desc, shape);
  fill_rows(rng, Fill::normal, DType::f32, c->q.data(), desc.group, desc.head_dim);
  fill_rows(rng, fill, desc.dtype, c->keys.data(), int64_t{shape.samples} * desc.chunk, desc.head_dim);
  std::vector<int32_t> all(static_cast<std::size_t>(shape.n));
  for (int32_t j = 0; j < shape.n; ++j) all[static_cast<std::size_t>(j)] = j;
  const std::vector<int32_t> candidates = draw_distinct(rng, all, shape.candidates);
  std::copy(candidates.begin(), candidates.end(), c->candidates.data());
  const std::vector<int32_t> picked = draw_distinct(rng, candidates, shape.chosen);
  std::copy(picked.begin(), picked.end(), c->picked.data());
  std::vector<int32_t> open;
  std::set_difference(all.begin(), all.end(), picked.begin(), picked.end(), std::back_inserter(open));
  const std::vector<int32_t> chunks = draw_distinct(rng, open, shape.samples);
  std::copy(chunks.begin(), chunks.end(), c->chunks.data());
  for (float& w : c->log_weight.span()) w = rng.chance(0.3) ? 0.0f : 1.5f * rng.normal();
  const bool ties = rng.chance(0.3);
  for (float& s : c->scores.span()) s = ties ? rng.pick({0.25f, 0.5f, -1.0f}) : rng.normal();
  set_lse(rng, c.get());
  c->reset();
  return c;
}

inline GuardGrowDesc make_desc(DType dtype, int32_t head_dim, int32_t group, int32_t chunk, float max_missed,
                               float margin = 1.0f) {
  return {dtype, head_dim, group, chunk, 1.0f / std::sqrt(static_cast<float>(head_dim)), max_missed, margin};
}

inline GuardGrowDesc random_desc(Random& rng) {
  return make_desc(rng.pick({DType::bf16, DType::f32}), static_cast<int32_t>(rng.pick({32, 64, 80, 96, 128, 256})),
                   static_cast<int32_t>(rng.integer(1, 9)), static_cast<int32_t>(rng.pick({4, 8, 16, 32})),
                   rng.pick({0.0f, 0.01f, 0.1f, 0.3f, 0.9f, 2.0f}), rng.pick({1.0f, 1.5f}));
}

}  // namespace skv::test
