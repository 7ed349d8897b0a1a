#include "tests/kv/kv_harness.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels/ops.h"
#include "kernels/rope/rope_tables.h"

namespace skv::test {
namespace {

constexpr int64_t kMaxPositions = 1 << 16;

}  // namespace

uint64_t kv_seed() {
  static const uint64_t value = [] {
    const char* env = std::getenv("SKV_TEST_SEED");
    return env ? std::strtoull(env, nullptr, 0) : static_cast<uint64_t>(std::random_device{}());
  }();
  return value;
}

Bench::Bench(const kv::Geometry& geometry, const skv_kv_params& params, uint64_t limit_fast)
    : geometry_(geometry), policy_(kv::resolve_policy(params, geometry)) {
  geometry_.scale = 1.0f / std::sqrt(static_cast<float>(geometry.head_dim));
  const int32_t pairs = geometry.head_dim / 2;
  std::vector<double> inv_freq(static_cast<std::size_t>(pairs));
  for (int32_t i = 0; i < pairs; ++i) inv_freq[static_cast<std::size_t>(i)] = std::pow(10000.0, -double(i) / pairs);
  const int32_t hi_rows = kernels::rope_hi_rows(kMaxPositions);
  rope_lo_.resize(static_cast<std::size_t>(kernels::rope_lo_floats(pairs)));
  rope_hi_.resize(static_cast<std::size_t>(kernels::rope_hi_floats(pairs, hi_rows)));
  kernels::rope_fill_tables(inv_freq, hi_rows, rope_lo_.data(), rope_hi_.data());
  rope_.lo = rope_lo_.data();
  rope_.hi = rope_hi_.data();
  rope_.hi_rows = hi_rows;
  rope_.rotary_dim = geometry.head_dim;
  account_.set_limit(SKV_TIER_FAST, limit_fast);
  store_ = std::make_unique<kv::Store>(geometry_, policy_, rope_, kernels::cpu_ops(), account_);
}

Bench::~Bench() = default;

Trace Bench::make_trace(int64_t n, const TraceShape& shape, uint64_t seed) const {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  const int64_t m = geometry_.key_width(), qw = int64_t{geometry_.q_heads} * geometry_.head_dim;
  const int64_t r = shape.rank > 0 ? shape.rank : m;
  Trace trace;
  trace.n = n;
  auto random = [&](int64_t count) {
    std::vector<float> x(static_cast<std::size_t>(count));
    for (float& value : x) value = normal(engine);
    return x;
  };
  for (int32_t l = 0; l < geometry_.layers; ++l) {
    const std::vector<float> first = random(r * m), second = random(r * m), bias = random(m);
    std::vector<float> k(static_cast<std::size_t>(n * m));
    for (int64_t t = 0; t < n; ++t) {
      const std::vector<float> a = random(r);
      const std::vector<float>& basis = shape.shift_at >= 0 && t >= shape.shift_at ? second : first;
      for (int64_t c = 0; c < m; ++c) {
        double x = 0.0;
        for (int64_t j = 0; j < r; ++j) x += double{a[static_cast<std::size_t>(j)]} * basis[static_cast<std::size_t>(j * m + c)];
        x /= std::sqrt(static_cast<double>(r));
        k[static_cast<std::size_t>(t * m + c)] =
            static_cast<float>(x + shape.noise * normal(engine) + shape.bias * bias[static_cast<std::size_t>(c)]);
      }
    }
    const kernels::RopeItem turn = {k.data(), m, n, geometry_.kv_heads, geometry_.head_dim, 0, false};
    kernels::ref_ops().rope(rope_, {&turn, 1});
    trace.k.push_back(std::move(k));
    trace.v.push_back(random(n * m));
    std::vector<float> q = random(n * qw);
    for (float& x : q) x *= 2.0f;  // attention with some contrast
    trace.q.push_back(std::move(q));
  }
  return trace;
}

std::vector<std::vector<float>> Bench::prefill(kv::Sequence* sequence, const Trace& trace, int64_t from, int64_t n,
                                               int64_t block) {
  const int64_t m = geometry_.key_width(), qw = int64_t{geometry_.q_heads} * geometry_.head_dim;
  std::vector<std::vector<float>> out(static_cast<std::size_t>(geometry_.layers));
  store_->begin_prefill(sequence, n);
  for (int32_t l = 0; l < geometry_.layers; ++l) {
    auto& o = out[static_cast<std::size_t>(l)];
    o.resize(static_cast<std::size_t>(n * qw));
    for (int64_t at = 0; at < n; at += block) {
      const int64_t count = std::min(block, n - at);
      const auto layer = static_cast<std::size_t>(l);
      store_->prefill_append(sequence, l, at, count, trace.k[layer].data() + (from + at) * m,
                             trace.v[layer].data() + (from + at) * m);
      store_->prefill_attend(sequence, l, at, count, trace.q[layer].data() + (from + at) * qw, o.data() + at * qw);
    }
    store_->prefill_finish_layer(sequence, l);
  }
  store_->prefill_commit(sequence);
  return out;
}

std::vector<std::vector<float>> Bench::decode(kv::Sequence* sequence, const Trace& trace, int64_t from, int32_t n) {
  const int64_t m = geometry_.key_width(), qw = int64_t{geometry_.q_heads} * geometry_.head_dim;
  std::vector<std::vector<float>> out;
  store_->decode_reserve(sequence, n);
  const kv::DecodeRow row = {sequence, 0, n};
  for (int32_t l = 0; l < geometry_.layers; ++l) {
    const auto layer = static_cast<std::size_t>(l);
    out.emplace_back(static_cast<std::size_t>(n * qw));
    store_->decode_append(l, {&row, 1}, trace.k[layer].data() + from * m, trace.v[layer].data() + from * m);
    store_->decode_attend(l, {&row, 1}, trace.q[layer].data() + from * qw, out.back().data());
  }
  store_->decode_commit(sequence, n);
  return out;
}

std::vector<double> brute_attention(const Bench& bench, const Trace& trace, int32_t layer, int64_t at,
                                    const std::function<bool(int32_t, int64_t)>& visible) {
  const kv::Geometry& g = bench.geometry();
  const int64_t d = g.head_dim, m = g.key_width();
  const auto l = static_cast<std::size_t>(layer);
  std::vector<double> out(static_cast<std::size_t>(g.q_heads * d));
  for (int32_t qh = 0; qh < g.q_heads; ++qh) {
    const int32_t h = qh / g.group();
    const float* q = trace.q[l].data() + (at * g.q_heads + qh) * d;
    std::vector<double> logits(static_cast<std::size_t>(at + 1), -INFINITY);
    double peak = -INFINITY;
    for (int64_t j = 0; j <= at; ++j) {
      if (!visible(h, j)) continue;
      double dot = 0.0;
      for (int64_t i = 0; i < d; ++i) dot += double{q[i]} * trace.k[l][static_cast<std::size_t>(j * m + h * d + i)];
      logits[static_cast<std::size_t>(j)] = dot * g.scale;
      peak = std::max(peak, dot * g.scale);
    }
    double sum = 0.0;
    for (int64_t j = 0; j <= at; ++j) {
      const double w = std::exp(logits[static_cast<std::size_t>(j)] - peak);
      sum += w;
      for (int64_t i = 0; i < d && w > 0.0; ++i) {
        out[static_cast<std::size_t>(qh * d + i)] += w * trace.v[l][static_cast<std::size_t>(j * m + h * d + i)];
      }
    }
    for (int64_t i = 0; i < d; ++i) out[static_cast<std::size_t>(qh * d + i)] /= sum;
  }
  return out;
}

std::vector<double> brute_attention(const Bench& bench, const Trace& trace, int32_t layer, int64_t at) {
  return brute_attention(bench, trace, layer, at, [](int32_t, int64_t) { return true; });
}

double relative_error(const float* a, const std::vector<double>& b) {
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(error / norm);
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  return relative_error(a.data(), std::vector<double>(b.begin(), b.end()));
}

skv_kv_params small_params(skv_policy policy, skv_key_store keys, skv_dtype dtype) {
  skv_kv_params p = kv::default_kv_params();
  p.policy = policy;
  p.keys = keys;
  p.dtype = dtype;
  p.dense_below_tokens = 64;
  p.budget_tokens = 64;
  p.window_tokens = 16;
  p.flush_tokens = 64;
  p.outlier_fraction = 0.02;
  return p;
}

}  // namespace skv::test
