// What is attended is what the rules say: the policies against an independent reading of them, in double.
#include <algorithm>
#include <cmath>

#include "tests/kv/kv_oracle.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kGeometry = {1, 6, 2, 64, 0.0f};

// The paper's outliers: the chunks with the smallest cosine of one of their keys to their mean. Larger is odder.
std::vector<double> oddness(const TraceHead& head, int64_t n_chunks, int32_t chunk_tokens) {
  std::vector<double> scores;
  for (int64_t j = 0; j < n_chunks; ++j) {
    const std::vector<double> mean = head.mean(j, chunk_tokens).k;
    double least = 1.0;
    for (int32_t t = 0; t < chunk_tokens; ++t) {
      const std::vector<double> key = head.row(j * chunk_tokens + t).k;
      double dot = 0.0, kk = 0.0, mm = 0.0;
      for (std::size_t i = 0; i < key.size(); ++i) {
        dot += key[i] * mean[i], kk += key[i] * key[i], mm += mean[i] * mean[i];
      }
      least = std::min(least, dot / std::sqrt(kk * mm));
    }
    scores.push_back(1.0 - least);
  }
  return scores;
}

void expect_outliers(std::vector<int32_t> outliers, std::vector<double> odd, int32_t count, bool keep_first) {
  if (keep_first) {
    const auto first = std::find(outliers.begin(), outliers.end(), 0);
    ASSERT_NE(first, outliers.end());
    outliers.erase(first);
    odd[0] = -INFINITY;
  }
  std::sort(outliers.begin(), outliers.end());
  EXPECT_TRUE(are_best(outliers, odd, static_cast<std::size_t>(count), 1e-5));
}

// One head's selection by the paper's rules: the softmax of q with the means, the largest over the group; no outliers.
void expect_selection(const Bench& bench, const TraceHead& head, const Attended& attended, int64_t token) {
  const int32_t chunk = bench.policy().chunk, k = bench.policy().selected_chunks(token + 1);
  const auto scores = chunk_scores(attended, chunk, kGeometry.group(), [&](int32_t g, int64_t j) {
    return bench.geometry().scale * head.dot(token, g, head.mean(j, chunk).k);
  });
  EXPECT_TRUE(are_best(attended.chunks, scores, static_cast<std::size_t>(k), 1e-4)) << "token " << token;
  for (const int32_t j : attended.chunks) {
    EXPECT_EQ(std::count(attended.outliers.begin(), attended.outliers.end(), j), 0) << "an outlier was selected";
  }
}

void expect_rules(const skv_kv_params& params, int64_t prompt, int64_t compressed, int32_t n_outliers,
                  bool keep_first) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  Bench bench(kGeometry, params);
  AttendedProbe probe(&bench);
  const Trace trace = bench.make_trace(prompt + 20, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, prompt);
  skv_kv_stats stats = {};
  bench.store().stats(sequence, &stats);
  ASSERT_EQ(stats.n_compressed, compressed);
  const int32_t chunk = bench.policy().chunk;
  std::vector<std::vector<double>> odd;
  for (int32_t h = 0; h < kGeometry.kv_heads; ++h) {
    odd.push_back(oddness(TraceHead(bench, trace, 0, h), compressed / chunk, chunk));
  }
  for (int64_t t = prompt; t < trace.n; ++t) {
    const auto out = bench.decode(sequence, trace, t);
    for (int32_t h = 0; h < kGeometry.kv_heads; ++h) {
      const Attended& attended = probe.of(0, h);
      ASSERT_EQ(attended.exact_from, compressed);
      expect_outliers(attended.outliers, odd[static_cast<std::size_t>(h)], n_outliers, keep_first);
      expect_selection(bench, TraceHead(bench, trace, 0, h), attended, t);
    }
    const auto want = brute_attention(bench, trace, 0, t, [&](int32_t h, int64_t j) {
      const Attended& a = probe.of(0, h);
      const auto id = static_cast<int32_t>(j / chunk);
      return j >= compressed || std::count(a.chunks.begin(), a.chunks.end(), id) > 0 ||
             std::count(a.outliers.begin(), a.outliers.end(), id) > 0;
    });
    EXPECT_LT(relative_error(out[0].data(), want), 1e-5) << "token " << t;
  }
  bench.store().stats(sequence, &stats);
  const int64_t per_call = int64_t{bench.policy().selected_chunks(trace.n)} * 20 * 2;
  EXPECT_EQ(stats.selected_chunks, per_call);
}

TEST(KvSelection, shadowkv_attends_to_what_its_rules_say) {
  skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
  // 1000 tokens, window 16: 984 compressed = 123 chunks; ceil(0.02 * 123) = 3 outliers and chunk 0.
  expect_rules(p, 1000, 984, 3, true);
  p.chunk_tokens = 16;
  expect_rules(p, 1000, 976, 2, true);  // 61 chunks
}

TEST(KvSelection, published_attends_to_what_the_paper_says) {
  skv_kv_params p = small_params(SKV_POLICY_PUBLISHED, SKV_KEYS_EXACT, SKV_DTYPE_F32);
  // 1000 tokens = 125 chunks; less 4 local ones, down to a multiple of 8: 120 chunks; 48 outliers; no chunk 0 rule.
  expect_rules(p, 1000, 960, 48, false);
}

TEST(KvSelection, published_never_compresses_what_it_generates) {
  Bench bench(kGeometry, small_params(SKV_POLICY_PUBLISHED, SKV_KEYS_EXACT, SKV_DTYPE_F32));
  const Trace trace = bench.make_trace(1400, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 1000);
  for (int64_t t = 1000; t < trace.n; ++t) bench.decode(sequence, trace, t);
  skv_kv_stats stats = {};
  bench.store().stats(sequence, &stats);
  EXPECT_EQ(stats.n_compressed, 960);
  EXPECT_EQ(stats.n_exact, 440);
}

TEST(KvSelection, shadowkv_flushes_at_the_window_and_flush_sizes) {
  Bench bench(kGeometry, small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_BF16));
  const Trace trace = bench.make_trace(400, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  skv_kv_stats stats = {};
  int64_t compressed = 0;
  for (int64_t t = 0; t < trace.n; ++t) {  // from one token on, no prompt at all
    bench.decode(sequence, trace, t);
    bench.store().stats(sequence, &stats);
    if (compressed == 0) {
      EXPECT_EQ(stats.n_compressed, t + 1 <= 64 ? 0 : 48);  // dense up to 64, then all but the window of 16
    } else {
      EXPECT_EQ(stats.n_compressed, compressed + (t + 1 - compressed >= 16 + 64 ? 64 : 0));
    }
    compressed = stats.n_compressed;
    EXPECT_EQ(stats.n_exact + stats.n_compressed, t + 1);
  }
  EXPECT_GT(stats.n_flushes, 4);
}

}  // namespace
}  // namespace skv::test
