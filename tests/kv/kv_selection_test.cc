// What is attended is what the rules say: the policies against an independent reading of them, in double.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "tests/kv/kv_harness.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kGeometry = {1, 6, 2, 64, 0.0f};

// Sets of chunks for one head, by the paper's rules (means, smallest cosine, softmax, max over the group).
class Rules {
 public:
  Rules(const Bench& bench, const Trace& trace, int64_t n_compressed, int32_t n_outliers, bool keep_first)
      : bench_(bench), trace_(trace), chunk_(bench.policy().chunk), n_chunks_(n_compressed / chunk_) {
    for (int32_t h = 0; h < kGeometry.kv_heads; ++h) outliers_.push_back(find_outliers(h, n_outliers, keep_first));
  }

  std::set<int64_t> attended(int32_t head, int64_t at, int32_t k) const {
    std::set<int64_t> chosen = outliers_[static_cast<std::size_t>(head)];
    std::vector<double> score(static_cast<std::size_t>(n_chunks_), -1.0);
    for (int32_t g = 0; g < kGeometry.group(); ++g) add_group_member(head, head * kGeometry.group() + g, at, &score);
    std::vector<int64_t> order(static_cast<std::size_t>(n_chunks_));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
    });
    for (int32_t i = 0; i < k && score[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] >= 0.0; ++i) {
      chosen.insert(order[static_cast<std::size_t>(i)]);
    }
    return chosen;
  }

 private:
  double key(int64_t t, int32_t head, int32_t i) const {
    return trace_.k[0][static_cast<std::size_t>((t * kGeometry.kv_heads + head) * kGeometry.head_dim + i)];
  }
  std::vector<double> mean(int32_t head, int64_t j) const {
    std::vector<double> m(static_cast<std::size_t>(kGeometry.head_dim));
    for (int32_t i = 0; i < kGeometry.head_dim; ++i) {
      for (int32_t t = 0; t < chunk_; ++t) m[static_cast<std::size_t>(i)] += key(j * chunk_ + t, head, i) / chunk_;
    }
    return m;
  }

  std::set<int64_t> find_outliers(int32_t head, int32_t count, bool keep_first) const {
    std::vector<std::pair<double, int64_t>> worst;
    for (int64_t j = keep_first ? 1 : 0; j < n_chunks_; ++j) {
      const std::vector<double> m = mean(head, j);
      double least = 1.0;
      for (int32_t t = 0; t < chunk_; ++t) {
        double dot = 0.0, kk = 0.0, mm = 0.0;
        for (int32_t i = 0; i < kGeometry.head_dim; ++i) {
          const double x = key(j * chunk_ + t, head, i), y = m[static_cast<std::size_t>(i)];
          dot += x * y, kk += x * x, mm += y * y;
        }
        least = std::min(least, dot / std::sqrt(kk * mm));
      }
      worst.emplace_back(least, j);
    }
    std::sort(worst.begin(), worst.end());
    std::set<int64_t> ids;
    for (int32_t i = 0; i < count; ++i) ids.insert(worst[static_cast<std::size_t>(i)].second);
    if (keep_first) ids.insert(0);
    return ids;
  }

  void add_group_member(int32_t head, int32_t q_head, int64_t at, std::vector<double>* score) const {
    std::vector<double> logits(static_cast<std::size_t>(n_chunks_), -INFINITY);
    double peak = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j < n_chunks_; ++j) {
      if (outliers_[static_cast<std::size_t>(head)].count(j)) continue;
      const std::vector<double> m = mean(head, j);
      double dot = 0.0;
      for (int32_t i = 0; i < kGeometry.head_dim; ++i) {
        dot += m[static_cast<std::size_t>(i)] *
               trace_.q[0][static_cast<std::size_t>((at * kGeometry.q_heads + q_head) * kGeometry.head_dim + i)];
      }
      logits[static_cast<std::size_t>(j)] = dot * bench_.geometry().scale;
      peak = std::max(peak, logits[static_cast<std::size_t>(j)]);
    }
    for (const double x : logits) sum += std::exp(x - peak);
    for (std::size_t j = 0; j < logits.size(); ++j) {
      if (logits[j] > -INFINITY) (*score)[j] = std::max((*score)[j], std::exp(logits[j] - peak) / sum);
    }
  }

  const Bench& bench_;
  const Trace& trace_;
  int32_t chunk_;
  int64_t n_chunks_;
  std::vector<std::set<int64_t>> outliers_;
};

void expect_rules(const skv_kv_params& params, int64_t prompt, int64_t compressed, int32_t n_outliers, bool keep_first) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  Bench bench(kGeometry, params);
  const Trace trace = bench.make_trace(prompt + 20, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, prompt);
  skv_kv_stats stats = {};
  bench.store().stats(sequence, &stats);
  ASSERT_EQ(stats.n_compressed, compressed);
  const Rules rules(bench, trace, compressed, n_outliers, keep_first);
  const int32_t chunk = bench.policy().chunk;
  for (int64_t t = prompt; t < trace.n; ++t) {
    const auto out = bench.decode(sequence, trace, t);
    std::vector<std::set<int64_t>> sets;
    for (int32_t h = 0; h < 2; ++h) sets.push_back(rules.attended(h, t, bench.policy().selected_chunks(t + 1)));
    const auto want = brute_attention(bench, trace, 0, t, [&](int32_t h, int64_t j) {
      return j >= compressed || sets[static_cast<std::size_t>(h)].count(j / chunk) > 0;
    });
    EXPECT_LT(relative_error(out[0].data(), want), 1e-4) << "token " << t;
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
