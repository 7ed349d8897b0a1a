// Policies that are rows of the same table, against an independent reading of their published rules.
#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "lib/base/status.h"
#include "tests/kv/kv_oracle.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kGeometry = {3, 6, 2, 64, 0.0f};

// Quest: pages of 16; score of a page = the largest over the query group of sum_d max(q_d min_d, q_d max_d); the best
// budget / 16 - 1 pages and the last one; layers 0 and 1 dense.
std::vector<double> quest_scores(const TraceHead& head, int32_t group, int64_t token, int64_t n_pages) {
  std::vector<double> score(static_cast<std::size_t>(n_pages), -INFINITY);
  for (int64_t page = 0; page < n_pages; ++page) {
    std::vector<double> low = head.row(page * 16).k, high = low;
    for (int32_t t = 1; t < 16; ++t) {
      const std::vector<double> key = head.row(page * 16 + t).k;
      for (std::size_t i = 0; i < key.size(); ++i) low[i] = std::min(low[i], key[i]), high[i] = std::max(high[i], key[i]);
    }
    for (int32_t g = 0; g < group; ++g) {
      double bound = 0.0;
      const float* q = head.query(token, g);
      for (std::size_t i = 0; i < low.size(); ++i) bound += std::max(q[i] * low[i], q[i] * high[i]);
      score[static_cast<std::size_t>(page)] = std::max(score[static_cast<std::size_t>(page)], bound);
    }
  }
  return score;
}

TEST(KvPolicies, quest_attends_to_the_pages_that_its_rules_name) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  skv_kv_params p = kv::preset_kv_params(SKV_POLICY_QUEST);
  p.dtype = SKV_DTYPE_F32;
  p.budget_tokens = 128;
  Bench bench(kGeometry, p);
  AttendedProbe probe(&bench);
  const Trace trace = bench.make_trace(720, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 650);
  for (int64_t t = 650; t < trace.n; ++t) {
    const auto out = bench.decode(sequence, trace, t);
    EXPECT_LT(relative_error(out[0].data(), brute_attention(bench, trace, 0, t)), 1e-5);  // dense
    EXPECT_LT(relative_error(out[1].data(), brute_attention(bench, trace, 1, t)), 1e-5);
    const int64_t full_pages = t / 16;  // the page of token t is the last one, full or not
    for (int32_t h = 0; h < 2; ++h) {
      const auto scores = quest_scores(TraceHead(bench, trace, 2, h), kGeometry.group(), t, full_pages);
      EXPECT_TRUE(are_best(probe.of(2, h).chunks, scores, 128 / 16 - 1, 1e-6)) << "token " << t;
      EXPECT_EQ(probe.of(2, h).exact_from, full_pages * 16);
      EXPECT_TRUE(probe.of(2, h).outliers.empty());
    }
    const auto want = brute_attention(bench, trace, 2, t, [&](int32_t h, int64_t j) {
      const auto& chosen = probe.of(2, h).chunks;
      return j >= full_pages * 16 || std::binary_search(chosen.begin(), chosen.end(), static_cast<int32_t>(j / 16));
    });
    EXPECT_LT(relative_error(out[2].data(), want), 1e-5) << "token " << t;
  }
}

TEST(KvPolicies, quest_takes_three_pages_at_least) {
  skv_kv_params p = kv::preset_kv_params(SKV_POLICY_QUEST);
  p.budget_tokens = 16;
  EXPECT_EQ(kv::resolve_policy(p, kGeometry).selected_chunks(10000), 2);  // and the last one
  p.budget_tokens = 1024;
  EXPECT_EQ(kv::resolve_policy(p, kGeometry).selected_chunks(10000), 63);
}

// StreamingLLM by re-encoding: keys before RoPE, rotated by their places in the cache [sinks, ring, prompt or token].
class StreamingOracle {
 public:
  StreamingOracle(const Bench& bench, const Trace& trace) : bench_(bench), plain_(trace) {
    const kv::Geometry& g = bench.geometry();
    for (std::size_t l = 0; l < plain_.k.size(); ++l) {
      const kernels::RopeItem items[] = {
          {plain_.k[l].data(), g.key_width(), trace.n, g.kv_heads, g.head_dim, 0, true},
          {plain_.q[l].data(), int64_t{g.q_heads} * g.head_dim, trace.n, g.q_heads, g.head_dim, 0, true}};
      kernels::ref_ops().rope(bench.rope(), items);
    }
  }

  // Output of query `token` attending to `cached` tokens (ascending, its own last).
  std::vector<double> attend(int32_t layer, int64_t token, const std::vector<int64_t>& cached) const {
    const kv::Geometry& g = bench_.geometry();
    std::vector<double> out;
    for (int32_t qh = 0; qh < g.q_heads; ++qh) {
      const TraceHead head(bench_, plain_, layer, qh / g.group());
      std::vector<OracleRow> rows;
      for (std::size_t place = 0; place < cached.size(); ++place) {
        OracleRow row = head.row(cached[place]);
        rotate(&row.k, static_cast<int64_t>(place));
        rows.push_back(row);
      }
      const float* q = head.query(token, qh % g.group());
      std::vector<double> rotated(q, q + g.head_dim);
      rotate(&rotated, static_cast<int64_t>(cached.size()) - 1);
      const std::vector<float> query(rotated.begin(), rotated.end());
      const auto result = oracle_attention(query.data(), rows, g.scale);
      out.insert(out.end(), result.out.begin(), result.out.end());
    }
    return out;
  }

 private:
  void rotate(std::vector<double>* x, int64_t place) const {
    const std::size_t half = x->size() / 2;
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(place) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
      const double a = (*x)[i], b = (*x)[i + half];
      (*x)[i] = a * std::cos(angle) - b * std::sin(angle);
      (*x)[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
  }

  const Bench& bench_;
  Trace plain_;
};

std::vector<int64_t> cache_at(int64_t token, int64_t ring_start, int32_t sinks) {
  std::vector<int64_t> cached;
  for (int64_t t = 0; t <= token; ++t) {
    if (t < sinks || t >= ring_start) cached.push_back(t);
  }
  return cached;
}

skv_kv_params streaming_params(skv_dtype dtype) {
  skv_kv_params p = kv::preset_kv_params(SKV_POLICY_STREAMING);
  p.dtype = dtype;
  p.window_tokens = 90;
  p.flush_tokens = 32;
  return p;
}

TEST(KvPolicies, streaming_equals_re_encoding_the_cache) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  Bench bench(kGeometry, streaming_params(SKV_DTYPE_F32));
  const Trace trace = bench.make_trace(460, {}, kv_seed());
  const StreamingOracle oracle(bench, trace);
  kv::Sequence* sequence = bench.store().open();
  const auto prompt = bench.prefill(sequence, trace, 0, 60, 32);
  const auto width = kGeometry.q_heads * kGeometry.head_dim;
  EXPECT_LT(relative_error(prompt[1].data() + 59 * width, brute_attention(bench, trace, 1, 59)), 1e-5);
  for (int64_t t = 60; t < 400; ++t) {  // from before the ring is full to long after
    const auto out = bench.decode(sequence, trace, t);
    if (t % 7 != 0) continue;
    const auto cached = cache_at(t, t - 90, 4);
    EXPECT_LE(cached.size(), std::size_t{4 + 90 + 1});
    EXPECT_LT(relative_error(out[2].data(), oracle.attend(2, t, cached)), 2e-5) << "token " << t;
  }
  // A further prompt: sinks, the ring as it stood, and the prompt itself, densely.
  const auto turn = bench.prefill(sequence, trace, 400, 60, 25);
  for (const int64_t t : {400, 430, 459}) {
    EXPECT_LT(relative_error(turn[0].data() + (t - 400) * width, oracle.attend(0, t, cache_at(t, 310, 4))), 2e-5) << t;
  }
}

TEST(KvPolicies, streaming_needs_its_sinks_turned) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  Bench bench(kGeometry, streaming_params(SKV_DTYPE_F32));
  const Trace trace = bench.make_trace(401, {0, 0.0f, 3.0f}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 400);
  const auto out = bench.decode(sequence, trace, 400);
  const auto untouched = brute_attention(bench, trace, 0, 400, [](int32_t, int64_t j) { return j < 4 || j >= 310; });
  const StreamingOracle oracle(bench, trace);
  EXPECT_LT(relative_error(out[0].data(), oracle.attend(0, 400, cache_at(400, 310, 4))), 2e-5);
  EXPECT_GT(relative_error(out[0].data(), untouched), 1e-3) << "the test must be able to tell";
}

TEST(KvPolicies, streaming_forgets_and_says_so) {
  Bench bench(kGeometry, streaming_params(SKV_DTYPE_BF16));
  const Trace trace = bench.make_trace(900, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 600);
  skv_kv_stats stats = {};
  int64_t most = 0, least = INT64_MAX;
  for (int64_t t = 600; t < 900; ++t) {
    bench.decode(sequence, trace, t);
    most = std::max(most, bench.account().used(SKV_TIER_FAST));
    least = std::min(least, bench.account().used(SKV_TIER_FAST));
  }
  bench.store().stats(sequence, &stats);
  EXPECT_EQ(stats.n_compressed, 0);
  EXPECT_EQ(stats.n_dropped + stats.n_exact, 900);
  EXPECT_GE(stats.n_exact, 90 + 64);
  EXPECT_LE(stats.n_exact, 90 + 32 + 128 + 64);
  EXPECT_LE(most, 2 * least);
  EXPECT_NO_THROW(bench.store().truncate(sequence, 880));
  try {
    bench.store().truncate(sequence, 300);
    ADD_FAILURE() << "truncated into what is forgotten";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), SKV_E_UNSUPPORTED);
  }
  EXPECT_EQ(bench.store().length(sequence), 880);
  bench.store().truncate(sequence, 50);
  bench.decode(sequence, trace, 50);
  EXPECT_EQ(bench.store().length(sequence), 51);
}

TEST(KvPolicies, budgets_follow_their_weights) {
  skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
  const double weights[] = {1.0, 2.0, 0.5, 0.0, 0.0, 3.0};
  const int32_t dense[] = {1};
  p.budget_weights = weights;
  p.n_budget_weights = 6;
  p.dense_layers = dense;
  p.n_dense_layers = 1;
  Bench bench(kGeometry, p);
  AttendedProbe probe(&bench);
  const Trace trace = bench.make_trace(610, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 600);
  for (int64_t t = 600; t < trace.n; ++t) {
    const auto out = bench.decode(sequence, trace, t);
    EXPECT_EQ(probe.of(0, 0).chunks.size(), 8u);  // 64 tokens of 8
    EXPECT_EQ(probe.of(0, 1).chunks.size(), 16u);
    EXPECT_EQ(probe.of(2, 0).chunks.size(), 0u);
    EXPECT_EQ(probe.of(2, 1).chunks.size(), 24u);
    EXPECT_EQ(probe.of(1, 0).exact_from, 0);
    EXPECT_LT(relative_error(out[1].data(), brute_attention(bench, trace, 1, t)), 1e-5);
    for (int32_t h = 0; h < 2; ++h) {
      const TraceHead head(bench, trace, 2, h);
      const auto rows = attended_rows(head, probe.of(2, h), 8, t);
      const auto want = oracle_attention(head.query(t, 0), rows, bench.geometry().scale);
      EXPECT_LT(relative_error(out[2].data() + h * 3 * 64, want.out), 1e-5);
    }
  }
}

}  // namespace
}  // namespace skv::test
