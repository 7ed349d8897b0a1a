// Attention written down again in double, for what one head attends to: rows of any origin, each with a bonus on its logit.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "tests/kv/kv_harness.h"

namespace skv::test {

struct OracleRow {
  std::vector<double> k, v;
  double bonus = 0.0;  // ln of how many such rows it stands for
};

struct OracleResult {
  std::vector<double> out;  // [head_dim]
  double lse = 0.0;
};
OracleResult oracle_attention(const float* q, const std::vector<OracleRow>& rows, double scale);

// What the store says it attends to, by layer and head, of the last decoded token.
struct Attended {
  int64_t exact_from = 0;
  std::vector<int32_t> chunks, outliers;
  std::vector<float> estimated_miss;  // of the query heads, under the accuracy guard
  bool capped = false;
};
class AttendedProbe {
 public:
  explicit AttendedProbe(Bench* bench);
  const Attended& of(int32_t layer, int32_t head) const { return last_.at({layer, head}); }

 private:
  std::map<std::pair<int32_t, int32_t>, Attended> last_;
};

// Rows of one head of a trace, layer 0 or any.
class TraceHead {
 public:
  TraceHead(const Bench& bench, const Trace& trace, int32_t layer, int32_t head)
      : geometry_(bench.geometry()), trace_(trace), layer_(static_cast<std::size_t>(layer)), head_(head) {}
  OracleRow row(int64_t token) const;
  // Mean key and mean value of a chunk.
  OracleRow mean(int64_t chunk, int32_t chunk_tokens) const;
  // Mean squared distance, per element, of a chunk's keys, each element divided by its weight, to their mean.
  double variance(int64_t chunk, int32_t chunk_tokens, const float* weights) const;
  // Query of group member g at a token.
  const float* query(int64_t token, int32_t g) const;
  double dot(int64_t token, int32_t g, const std::vector<double>& k) const;

 private:
  const kv::Geometry& geometry_;
  const Trace& trace_;
  std::size_t layer_;
  int32_t head_;
};

// All rows that `attended` names at a token: outliers, selected chunks, exact tokens.
std::vector<OracleRow> attended_rows(const TraceHead& head, const Attended& attended, int32_t chunk_tokens, int64_t token);

// Scores of the chunks before the exact tokens: softmax over a query head's log masses (up to a constant of the head),
// largest over the query group; outliers take no part and have 0.
std::vector<double> chunk_scores(const Attended& attended, int32_t chunk_tokens, int32_t group,
                                 const std::function<double(int32_t g, int64_t chunk)>& log_mass);

// Whether `chosen` (ascending) are k of the best scores. Which of two scores is better the store may see otherwise where
// they are apart by less than `tolerance` of their size: random inputs bring such a pair up sooner or later.
testing::AssertionResult are_best(const std::vector<int32_t>& chosen, const std::vector<double>& scores, std::size_t k,
                                  double tolerance);

}  // namespace skv::test
