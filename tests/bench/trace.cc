#include "tests/bench/trace.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "kernels/common/dtype.h"
#include "kernels/rope/rope_tables.h"

namespace skv::bench {

namespace {

constexpr int64_t kBlock = 512;  // tokens a prefill call

const float* row(const std::vector<float>& rows, int64_t i, int64_t width) { return rows.data() + i * width; }

double dot(const float* a, const float* b, int64_t d) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < d; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// Rows of one layer's keys or values that a step sees: the prompt's, then the question's.
class History {
 public:
  History(const std::vector<float>& prompt, int64_t n_prompt, const std::vector<float>& later, int64_t width)
      : prompt_(prompt), n_prompt_(n_prompt), later_(later), width_(width) {}
  const float* operator[](int64_t token) const {
    return token < n_prompt_ ? row(prompt_, token, width_) : row(later_, token - n_prompt_, width_);
  }

 private:
  const std::vector<float>& prompt_;
  int64_t n_prompt_;
  const std::vector<float>& later_;
  int64_t width_;
};

// Row `weights` [tokens] and `output` [d] of one query head, whose KV head's dims begin at `offset`.
void attend_head(const float* q, const History& k, const History& v, int64_t offset, int64_t d, double scale,
                 int64_t tokens, double* weights, double* output) {
  double peak = -INFINITY, sum = 0.0;
  for (int64_t j = 0; j < tokens; ++j) {
    weights[j] = scale * dot(q, k[j] + offset, d);
    peak = std::max(peak, weights[j]);
  }
  for (int64_t j = 0; j < tokens; ++j) sum += weights[j] = std::exp(weights[j] - peak);
  for (int64_t j = 0; j < tokens; ++j) {
    weights[j] /= sum;
    const float* value = v[j] + offset;
    for (int64_t i = 0; i < d; ++i) output[i] += weights[j] * static_cast<double>(value[i]);
  }
}

}  // namespace

std::shared_ptr<const RopeTables> copy_rope(const kernels::RopeView& rope) {
  const int64_t pairs = rope.rotary_dim / 2;
  auto tables = std::make_shared<RopeTables>();
  tables->lo.assign(rope.lo, rope.lo + kernels::rope_lo_floats(pairs));
  tables->hi.assign(rope.hi, rope.hi + kernels::rope_hi_floats(pairs, rope.hi_rows));
  tables->view = rope;
  tables->view.lo = tables->lo.data();
  tables->view.hi = tables->hi.data();
  return tables;
}

std::shared_ptr<const RopeTables> plain_rope(double theta, int32_t head_dim, int64_t max_positions) {
  const int32_t pairs = head_dim / 2, hi_rows = kernels::rope_hi_rows(max_positions);
  std::vector<double> frequencies(static_cast<std::size_t>(pairs));
  for (int32_t i = 0; i < pairs; ++i) frequencies[static_cast<std::size_t>(i)] = std::pow(theta, -double(i) / pairs);
  auto tables = std::make_shared<RopeTables>();
  tables->lo.resize(static_cast<std::size_t>(kernels::rope_lo_floats(pairs)));
  tables->hi.resize(static_cast<std::size_t>(kernels::rope_hi_floats(pairs, hi_rows)));
  kernels::rope_fill_tables(frequencies, hi_rows, tables->lo.data(), tables->hi.data());
  tables->view.lo = tables->lo.data();
  tables->view.hi = tables->hi.data();
  tables->view.hi_rows = hi_rows;
  tables->view.rotary_dim = head_dim;
  return tables;
}

void append_prompt(kv::Store& store, kv::Sequence* sequence, const Trace& trace) {
  const int64_t width = trace.kv_width();
  std::vector<float> ignored(static_cast<std::size_t>(kPromptQueries * trace.q_width()));
  store.begin_prefill(sequence, trace.n_prompt);
  for (int32_t layer = 0; layer < trace.geometry.layers; ++layer) {
    const auto l = static_cast<std::size_t>(layer);
    for (int64_t at = 0; at < trace.n_prompt; at += kBlock) {
      store.prefill_append(sequence, layer, at, std::min(kBlock, trace.n_prompt - at),
                           row(trace.prompt->k[l], at, width), row(trace.prompt->v[l], at, width));
    }
    store.prefill_attend(sequence, layer, trace.n_prompt - kPromptQueries, kPromptQueries, trace.prompt_q[l].data(),
                         ignored.data());
    store.prefill_finish_layer(sequence, layer);
  }
  store.prefill_commit(sequence);
}

void append_step(kv::Store& store, kv::Sequence* sequence, const Trace& trace, const Question& question, int64_t step,
                 Layers* outputs) {
  const kv::DecodeRow batch{sequence, 0, 1};
  outputs->resize(static_cast<std::size_t>(trace.geometry.layers));
  store.decode_reserve(sequence, 1);
  for (int32_t layer = 0; layer < trace.geometry.layers; ++layer) {
    const auto l = static_cast<std::size_t>(layer);
    (*outputs)[l].resize(static_cast<std::size_t>(trace.q_width()));
    store.decode_append(layer, {&batch, 1}, row(question.k[l], step, trace.kv_width()),
                        row(question.v[l], step, trace.kv_width()));
    store.decode_attend(layer, {&batch, 1}, row(question.q[l], step, trace.q_width()), (*outputs)[l].data());
  }
  store.decode_commit(sequence, 1);
}

Exact attend_exactly(const Trace& trace, const Question& question, int32_t layer, int64_t step) {
  const auto l = static_cast<std::size_t>(layer);
  const kv::Geometry& g = trace.geometry;
  const int64_t d = g.head_dim;
  const History k(trace.prompt->k[l], trace.n_prompt, question.k[l], trace.kv_width());
  const History v(trace.prompt->v[l], trace.n_prompt, question.v[l], trace.kv_width());
  Exact exact;
  exact.tokens = trace.n_prompt + step + 1;
  exact.weights.resize(static_cast<std::size_t>(g.q_heads * exact.tokens));
  exact.output.resize(static_cast<std::size_t>(trace.q_width()));
  const float* q = row(question.q[l], step, trace.q_width());
#pragma omp parallel for
  for (int32_t head = 0; head < g.q_heads; ++head) {
    attend_head(q + head * d, k, v, head / g.group() * d, d, static_cast<double>(g.scale), exact.tokens,
                exact.weights.data() + head * exact.tokens, exact.output.data() + head * d);
  }
  return exact;
}

std::vector<double> chunk_mass(const Trace& trace, const Exact& exact, int32_t kv_head, int32_t chunk) {
  std::vector<double> mass(static_cast<std::size_t>((exact.tokens + chunk - 1) / chunk));
  const int32_t group = trace.geometry.group();
  for (int32_t g = 0; g < group; ++g) {
    const double* weights = exact.weights.data() + (kv_head * group + g) * exact.tokens;
    for (int64_t j = 0; j < exact.tokens; ++j) mass[static_cast<std::size_t>(j / chunk)] += weights[j] / group;
  }
  return mass;
}

double largest_sum(std::vector<double> mass, int64_t count) {
  const auto n = std::min<std::ptrdiff_t>(count, std::ssize(mass));
  std::partial_sort(mass.begin(), mass.begin() + n, mass.end(), std::greater<>());
  double sum = 0.0;
  for (std::ptrdiff_t i = 0; i < n; ++i) sum += mass[static_cast<std::size_t>(i)];
  return sum;
}

void round_to_bf16(std::vector<float>* x) {
  for (float& value : *x) value = bf16_to_f32(f32_to_bf16(value));
}

}  // namespace skv::bench
