#include "tests/bench/accuracy_measure.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"

namespace skv::bench {
namespace {

constexpr double kLeastMissed = 0.001;  // below this an estimate is not judged

bool near(double estimate, double truth) { return estimate >= 0.8 * truth && estimate <= 1.25 * truth; }

double quantile(std::vector<double> x, double q) {
  if (x.empty()) return 0.0;
  const auto at = x.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(x.size() - 1));
  std::nth_element(x.begin(), at, x.end());
  return *at;
}

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : -1.0;
}

}  // namespace

AccuracyRun::AccuracyRun(const Trace& trace, const AccuracyConfig& config)
    : trace_(trace), config_(config), policy_(kv::resolve_policy(config.params, trace.geometry)) {
  store_ = std::make_unique<kv::Store>(trace.geometry, policy_, trace.rope->view, kernels::cpu_ops(), account_);
  store_->set_probe([this](const kv::Selection& s) {
    Head& head = heads_[{s.layer, s.head}];
    head.exact_from = s.exact_from;
    head.chunks.assign(s.chunks.begin(), s.chunks.end());
    head.outliers.assign(s.outliers.begin(), s.outliers.end());
    head.estimated.assign(s.estimated_miss.begin(), s.estimated_miss.end());
    head.capped = s.capped;
  });
  sequence_ = store_->open();
  append_prompt(*store_, sequence_, trace);
  const auto per_token = [&](skv_tier tier) {
    return static_cast<double>(account_.used(tier)) / static_cast<double>(trace.n_prompt);
  };
  fast_bytes_ = per_token(SKV_TIER_FAST), slow_bytes_ = per_token(SKV_TIER_SLOW);
}

AccuracyRun::~AccuracyRun() = default;

void AccuracyRun::step(const Question& question, int64_t step) {
  append_step(*store_, sequence_, trace_, question, step, &outputs_);
}

void AccuracyRun::end_question() { store_->truncate(sequence_, trace_.n_prompt); }

// Per query head of a KV head: true mass of the tokens attended to.
std::vector<double> AccuracyRun::attended_mass(const Exact& exact, const Head& head, int32_t kv_head) const {
  std::vector<std::pair<int64_t, int64_t>> ranges = {{head.exact_from, exact.tokens}};
  const int64_t chunk = policy_.chunk;
  for (const auto* list : {&head.chunks, &head.outliers}) {
    for (const int32_t c : *list) ranges.emplace_back(c * chunk, (c + 1) * chunk);
  }
  if (policy_.streams() && head.exact_from > policy_.sinks) ranges.emplace_back(0, policy_.sinks);
  if (policy_.streams() && head.exact_from <= policy_.sinks) ranges.front().first = 0;
  const int32_t group = trace_.geometry.group();
  std::vector<double> mass(static_cast<std::size_t>(group), 0.0);
  for (int32_t g = 0; g < group; ++g) {
    const double* weights = exact.weights.data() + (kv_head * group + g) * exact.tokens;
    for (const auto& [from, to] : ranges) {
      for (int64_t t = from; t < to; ++t) mass[static_cast<std::size_t>(g)] += weights[t];
    }
  }
  return mass;
}

void AccuracyRun::measure(int32_t layer, const Exact& exact, const Layers* base) {
  const auto l = static_cast<std::size_t>(layer);
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < exact.output.size(); ++i) {
    const double o = outputs_[l][i];
    error += (o - exact.output[i]) * (o - exact.output[i]);
    norm += exact.output[i] * exact.output[i];
    if (base) base_square_ += std::pow(o - (*base)[l][i], 2.0);
  }
  error_square_ += error, norm_square_ += norm;
  errors_.push_back(std::sqrt(error / norm));
  ++steps_;
  const int32_t group = trace_.geometry.group();
  for (int32_t h = 0; h < trace_.geometry.kv_heads; ++h) {
    double mean = 0.0;
    for (const double mass : attended_mass(exact, heads_.at({layer, h}), h)) mean += mass / group;
    recalls_.push_back(mean);
  }
  if (policy_.guarded()) measure_guard(layer, exact);
}

void AccuracyRun::measure_guard(int32_t layer, const Exact& exact) {
  const kv::Geometry& g = trace_.geometry;
  double estimated = 0.0, measured = 0.0;
  for (int32_t h = 0; h < g.kv_heads; ++h) {
    const Head& head = heads_.at({layer, h});
    const std::vector<double> mass = attended_mass(exact, head, h);
    double most = 0.0;
    for (std::size_t i = 0; i < mass.size(); ++i) {
      const double missed = 1.0 - mass[i];
      most = std::max(most, missed);
      estimated += head.estimated[i] / g.q_heads, measured += missed / g.q_heads;
      if (missed <= kLeastMissed) continue;
      ++guard_.heads;
      guard_.heads_near += near(head.estimated[i], missed);
    }
    ++guard_.calls;
    if (head.capped) continue;
    ++guard_.free;
    guard_.kept += most <= 1.25 * policy_.max_missed;
  }
  if (measured <= kLeastMissed) return;
  ++guard_.layers;
  guard_.layers_near += near(estimated, measured);
}

AccuracyRow AccuracyRun::row() const {
  AccuracyRow row;
  skv_kv_stats stats = {};
  store_->stats(sequence_, &stats);
  row.steps = steps_;
  for (const double r : recalls_) row.recall += r / static_cast<double>(recalls_.size());
  row.recall_p5 = quantile(recalls_, 0.05);
  row.error = std::sqrt(error_square_ / norm_square_);
  row.error_median = quantile(errors_, 0.5);
  if (!config_.base.empty()) row.base_error = std::sqrt(base_square_ / norm_square_);
  row.hit_rate = share(stats.slot_hits, stats.selected_chunks);
  row.bytes_read = static_cast<double>(stats.bytes_read) / static_cast<double>(stats.decode_tokens);
  row.tokens_attended = static_cast<double>(stats.attended_tokens) / static_cast<double>(stats.attention_calls);
  row.fast_bytes = fast_bytes_, row.slow_bytes = slow_bytes_;
  if (policy_.guarded()) {
    row.guard_layer = share(guard_.layers_near, guard_.layers);
    row.guard_head = share(guard_.heads_near, guard_.heads);
    row.guard_kept = share(guard_.kept, guard_.free);
    row.guard_free = share(guard_.free, guard_.calls);
  }
  return row;
}

}  // namespace skv::bench
