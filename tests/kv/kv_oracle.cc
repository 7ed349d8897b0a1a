#include "tests/kv/kv_oracle.h"

#include <algorithm>
#include <cmath>

namespace skv::test {

OracleResult oracle_attention(const float* q, const std::vector<OracleRow>& rows, double scale) {
  std::vector<double> logits;
  double peak = -INFINITY;
  for (const OracleRow& row : rows) {
    double dot = 0.0;
    for (std::size_t i = 0; i < row.k.size(); ++i) dot += double{q[i]} * row.k[i];
    logits.push_back(scale * dot + row.bonus);
    peak = std::max(peak, logits.back());
  }
  OracleResult result;
  result.out.assign(rows.front().k.size(), 0.0);
  double sum = 0.0;
  for (std::size_t j = 0; j < rows.size(); ++j) {
    const double w = std::exp(logits[j] - peak);
    sum += w;
    for (std::size_t i = 0; i < result.out.size(); ++i) result.out[i] += w * rows[j].v[i];
  }
  for (double& x : result.out) x /= sum;
  result.lse = peak + std::log(sum);
  return result;
}

AttendedProbe::AttendedProbe(Bench* bench) {
  bench->store().set_probe([this](const kv::Selection& s) {
    Attended& a = last_[{s.layer, s.head}];
    a.exact_from = s.exact_from;
    a.chunks.assign(s.chunks.begin(), s.chunks.end());
    a.outliers.assign(s.outliers.begin(), s.outliers.end());
    a.estimated_miss.assign(s.estimated_miss.begin(), s.estimated_miss.end());
    a.capped = s.capped;
  });
}

OracleRow TraceHead::row(int64_t token) const {
  const int64_t d = geometry_.head_dim, at = (token * geometry_.kv_heads + head_) * d;
  const auto cut = [&](const std::vector<float>& x) {
    return std::vector<double>(x.begin() + at, x.begin() + at + d);
  };
  return {cut(trace_.k[layer_]), cut(trace_.v[layer_]), 0.0};
}

OracleRow TraceHead::mean(int64_t chunk, int32_t chunk_tokens) const {
  OracleRow mean = row(chunk * chunk_tokens);
  for (int32_t t = 1; t < chunk_tokens; ++t) {
    const OracleRow next = row(chunk * chunk_tokens + t);
    for (std::size_t i = 0; i < mean.k.size(); ++i) mean.k[i] += next.k[i], mean.v[i] += next.v[i];
  }
  for (std::size_t i = 0; i < mean.k.size(); ++i) mean.k[i] /= chunk_tokens, mean.v[i] /= chunk_tokens;
  return mean;
}

double TraceHead::variance(int64_t chunk, int32_t chunk_tokens, const float* weights) const {
  const std::vector<double> centre = mean(chunk, chunk_tokens).k;
  double sum = 0.0;
  for (int32_t t = 0; t < chunk_tokens; ++t) {
    const std::vector<double> k = row(chunk * chunk_tokens + t).k;
    for (std::size_t i = 0; i < k.size(); ++i) sum += std::pow((k[i] - centre[i]) / weights[i], 2.0);
  }
  return sum / chunk_tokens / static_cast<double>(centre.size());
}

const float* TraceHead::query(int64_t token, int32_t g) const {
  return trace_.q[layer_].data() +
         (token * geometry_.q_heads + head_ * geometry_.group() + g) * geometry_.head_dim;
}

double TraceHead::dot(int64_t token, int32_t g, const std::vector<double>& k) const {
  const float* q = query(token, g);
  double sum = 0.0;
  for (std::size_t i = 0; i < k.size(); ++i) sum += double{q[i]} * k[i];
  return sum;
}

std::vector<OracleRow> attended_rows(const TraceHead& head, const Attended& attended, int32_t chunk_tokens,
                                     int64_t token) {
  std::vector<OracleRow> rows;
  for (const auto* list : {&attended.outliers, &attended.chunks}) {
    for (const int32_t chunk : *list) {
      for (int32_t t = 0; t < chunk_tokens; ++t) rows.push_back(head.row(int64_t{chunk} * chunk_tokens + t));
    }
  }
  for (int64_t t = attended.exact_from; t <= token; ++t) rows.push_back(head.row(t));
  return rows;
}

std::vector<double> chunk_scores(const Attended& attended, int32_t chunk_tokens, int32_t group,
                                 const std::function<double(int32_t g, int64_t chunk)>& log_mass) {
  std::vector<double> scores(static_cast<std::size_t>(attended.exact_from / chunk_tokens), 0.0);
  for (int32_t g = 0; g < group; ++g) {
    std::vector<double> w(scores.size(), -INFINITY);
    double peak = -INFINITY, sum = 0.0;
    for (std::size_t j = 0; j < w.size(); ++j) {
      if (std::count(attended.outliers.begin(), attended.outliers.end(), static_cast<int32_t>(j))) continue;
      w[j] = log_mass(g, static_cast<int64_t>(j));
      peak = std::max(peak, w[j]);
    }
    for (const double x : w) sum += std::exp(x - peak);
    for (std::size_t j = 0; j < w.size(); ++j) scores[j] = std::max(scores[j], std::exp(w[j] - peak) / sum);
  }
  return scores;
}

testing::AssertionResult are_best(const std::vector<int32_t>& chosen, const std::vector<double>& scores, std::size_t k,
                                  double tolerance) {
  if (chosen.size() != k) return testing::AssertionFailure() << chosen.size() << " chosen of " << k;
  std::size_t found = 0;
  double lowest_in = INFINITY, highest_out = -INFINITY;
  for (std::size_t j = 0; j < scores.size(); ++j) {
    const bool in = std::binary_search(chosen.begin(), chosen.end(), static_cast<int32_t>(j));
    found += in;
    if (in) lowest_in = std::min(lowest_in, scores[j]);
    else highest_out = std::max(highest_out, scores[j]);
  }
  if (found != k) return testing::AssertionFailure() << found << " different ids in range, of " << k;
  if (k == 0 || k == scores.size() || lowest_in >= highest_out - tolerance * std::abs(highest_out)) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "chosen with " << lowest_in << ", left out with " << highest_out;
}

}  // namespace skv::test
