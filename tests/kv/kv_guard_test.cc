// The accuracy guard and the estimated remainder against their formulas in double.
#include <algorithm>
#include <cmath>

#include "tests/kv/kv_oracle.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kGeometry = {1, 6, 2, 64, 0.0f};
constexpr int32_t kChunk = 8;
constexpr double kMargin = 2.5;  // kv.h, max_missed_mass

// ln of the mass that a chunk's digest stands for, for one query head; weights of channels: see channel_weights.h.
double log_mass(const Bench& bench, const TraceHead& head, int64_t token, int32_t g, int64_t chunk, const float* weights) {
  const double s = bench.geometry().scale;
  const double mass = std::log(double{kChunk}) + s * head.dot(token, g, head.mean(chunk, kChunk).k);
  if (weights == nullptr) return mass;
  const float* q = head.query(token, g);
  double qq = 0.0;
  for (int32_t i = 0; i < kGeometry.head_dim; ++i) qq += std::pow(double{q[i]} * weights[i], 2.0);
  return mass + 0.5 * s * s * qq * head.variance(chunk, kChunk, weights);
}

bool contains(const std::vector<int32_t>& list, int64_t chunk) {
  return std::count(list.begin(), list.end(), static_cast<int32_t>(chunk)) > 0;
}

TEST(KvRemainder, unselected_chunks_count_as_their_means) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  for (const skv_digest digest : {SKV_DIGEST_MEAN, SKV_DIGEST_MEAN_VARIANCE}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
    p.digest = digest;
    p.unselected = SKV_UNSELECTED_ESTIMATED;
    Bench bench(kGeometry, p);
    AttendedProbe probe(&bench);
    const Trace trace = bench.make_trace(620, {}, kv_seed());
    kv::Sequence* sequence = bench.store().open();
    bench.prefill(sequence, trace, 0, 600);
    for (int64_t t = 600; t < trace.n; ++t) {
      const auto out = bench.decode(sequence, trace, t);
      for (int32_t qh = 0; qh < 6; ++qh) {
        const TraceHead head(bench, trace, 0, qh / 3);
        const Attended& attended = probe.of(0, qh / 3);
        const float* weights = bench.store().channel_weights(sequence, 0, qh / 3);
        ASSERT_EQ(weights != nullptr, digest == SKV_DIGEST_MEAN_VARIANCE);
        std::vector<OracleRow> rows = attended_rows(head, attended, kChunk, t);
        for (int64_t j = 0; j < attended.exact_from / kChunk; ++j) {
          if (contains(attended.chunks, j) || contains(attended.outliers, j)) continue;
          OracleRow row = head.mean(j, kChunk);
          const double logit = bench.geometry().scale * head.dot(t, qh % 3, row.k);
          row.bonus = log_mass(bench, head, t, qh % 3, j, weights) - logit;
          rows.push_back(row);
        }
        const auto want = oracle_attention(head.query(t, qh % 3), rows, bench.geometry().scale);
        // Variances are kept in f16.
        EXPECT_LT(relative_error(out[0].data() + qh * 64, want.out), weights ? 1e-3 : 2e-5) << "token " << t << " head " << qh;
      }
    }
  }
}

// Smooth keys: the remainder must bring the output nearer to full attention than dropping it does.
TEST(KvRemainder, is_nearer_to_full_attention_than_nothing) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  double error[2] = {};
  for (const skv_unselected unselected : {SKV_UNSELECTED_DROPPED, SKV_UNSELECTED_ESTIMATED}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_BF16);
    p.digest = SKV_DIGEST_MEAN_VARIANCE;
    p.digest_codec = SKV_CODEC_INT8;
    p.unselected = unselected;
    Bench bench(kGeometry, p);
    Trace trace = bench.make_trace(640, {}, kv_seed());
    for (float& q : trace.q[0]) q *= 0.4f;  // much mass outside the selection
    kv::Sequence* sequence = bench.store().open();
    bench.prefill(sequence, trace, 0, 600);
    for (int64_t t = 600; t < trace.n; ++t) {
      error[unselected] += relative_error(bench.decode(sequence, trace, t)[0].data(), brute_attention(bench, trace, 0, t));
    }
  }
  EXPECT_LT(error[1], 0.7 * error[0]);
}

// Share of a query head's attention mass outside what is attended to, over all keys in double.
double missed_mass(const Bench& bench, const TraceHead& head, const Attended& attended, int64_t token, int32_t g) {
  std::vector<OracleRow> all;
  for (int64_t t = 0; t <= token; ++t) all.push_back(head.row(t));
  const double scale = bench.geometry().scale;
  const double whole = oracle_attention(head.query(token, g), all, scale).lse;
  const double part = oracle_attention(head.query(token, g), attended_rows(head, attended, kChunk, token), scale).lse;
  return 1.0 - std::exp(part - whole);
}

double most_missed(const Bench& bench, const TraceHead& head, const Attended& attended, int64_t token) {
  double most = 0.0;
  for (int32_t g = 0; g < kGeometry.group(); ++g) most = std::max(most, missed_mass(bench, head, attended, token, g));
  return most;
}

skv_kv_params guard_params(double max_missed_mass) {
  skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
  p.digest = SKV_DIGEST_KEYS_2BIT;
  p.max_missed_mass = max_missed_mass;
  p.max_budget_tokens = 400;
  return p;
}

// With no more chunks outside than the guard samples, its estimate is the truth.
TEST(KvGuard, knows_what_is_missed_where_it_samples_everything) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  Bench bench(kGeometry, guard_params(0.3));
  AttendedProbe probe(&bench);
  const Trace trace = bench.make_trace(540, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 500);
  int grown = 0;
  double spared = 0.0;
  for (int64_t t = 500; t < trace.n; ++t) {
    const auto out = bench.decode(sequence, trace, t);
    for (int32_t h = 0; h < 2; ++h) {
      const TraceHead head(bench, trace, 0, h);
      const Attended& attended = probe.of(0, h);
      for (int32_t g = 0; g < 3; ++g) {
        EXPECT_NEAR(attended.estimated_miss[static_cast<std::size_t>(g)], missed_mass(bench, head, attended, t, g), 1e-4);
      }
      EXPECT_FALSE(attended.capped);
      EXPECT_LE(kMargin * most_missed(bench, head, attended, t), 0.3 + 3e-4);
      EXPECT_TRUE(std::is_sorted(attended.chunks.begin(), attended.chunks.end()));
      if (attended.chunks.size() > 8) {
        ++grown;  // without its lightest chunk
        double least = 1.0;
        for (const int32_t chunk : attended.chunks) {
          Attended fewer = attended;
          std::erase(fewer.chunks, chunk);
          least = std::min(least, kMargin * most_missed(bench, head, fewer, t));
        }
        spared += least;
      }
      const auto rows = attended_rows(head, attended, kChunk, t);
      const auto attention = oracle_attention(head.query(t, 1), rows, bench.geometry().scale);
      EXPECT_LT(relative_error(out[0].data() + (h * 3 + 1) * 64, attention.out), 1e-5) << "token " << t;
    }
  }
  ASSERT_GT(grown, 10) << "the bound never bit: the test proves nothing";
  // Nothing is taken after the bound is kept, so without the last chunk it is not; the lightest is about as light.
  EXPECT_GT(spared / grown, 0.3 * 0.9) << "more was taken than needed";
  skv_kv_stats stats = {};
  bench.store().stats(sequence, &stats);
  EXPECT_EQ(stats.guard_calls, 80);
  EXPECT_EQ(stats.guard_capped, 0);
  EXPECT_GT(stats.missed_mass, 0.0);
}

TEST(KvGuard, estimates_without_bias_where_it_samples_a_part) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  Bench bench(kGeometry, guard_params(0.9));
  AttendedProbe probe(&bench);
  const Trace trace = bench.make_trace(4060, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 4000, 512);
  double estimated = 0.0, measured = 0.0;
  int near = 0, steps = 0;
  for (int64_t t = 4000; t < trace.n; ++t) {
    bench.decode(sequence, trace, t);
    for (int32_t h = 0; h < 2; ++h) {
      const TraceHead head(bench, trace, 0, h);
      for (int32_t g = 0; g < 3; ++g, ++steps) {
        const double truth = missed_mass(bench, head, probe.of(0, h), t, g);
        const double estimate = probe.of(0, h).estimated_miss[static_cast<std::size_t>(g)];
        estimated += estimate, measured += truth;
        near += estimate > 0.8 * truth && estimate < 1.25 * truth;
      }
    }
  }
  EXPECT_NEAR(estimated / measured, 1.0, 0.03);
  EXPECT_GE(near, steps * 9 / 10) << "of " << steps;
}

TEST(KvGuard, stops_at_the_cap_and_counts_it) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  for (const skv_key_store keys : {SKV_KEYS_LOWRANK, SKV_KEYS_EXACT}) {
    skv_kv_params p = guard_params(1e-6);
    p.keys = keys;
    p.dtype = SKV_DTYPE_BF16;
    p.max_budget_tokens = 160;
    Bench bench(kGeometry, p);
    AttendedProbe probe(&bench);
    const Trace trace = bench.make_trace(620, {24, 0.1f}, kv_seed());
    kv::Sequence* sequence = bench.store().open();
    bench.prefill(sequence, trace, 0, 600);
    for (int64_t t = 600; t < trace.n; ++t) {
      bench.decode(sequence, trace, t);
      for (int32_t h = 0; h < 2; ++h) {
        EXPECT_EQ(probe.of(0, h).chunks.size(), 20u);
        EXPECT_TRUE(probe.of(0, h).capped);
      }
    }
    skv_kv_stats stats = {};
    bench.store().stats(sequence, &stats);
    EXPECT_EQ(stats.guard_capped, stats.guard_calls);
  }
}

}  // namespace
}  // namespace skv::test
