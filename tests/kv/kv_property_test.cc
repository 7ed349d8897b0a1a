// Properties that hold whatever the numbers: the slot cache is invisible, rows do not see each other, cuts and rolling
// compression cost little, moved keys open a segment, undone work leaves no trace.
#include <algorithm>

#include "tests/kv/kv_configs.h"
#include "tests/kv/kv_harness.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kSmall = {2, 4, 2, 32, 0.0f};
using Outputs = std::vector<std::vector<std::vector<float>>>;  // [step][layer][..]

Outputs decode_all(Bench& bench, kv::Sequence* sequence, const Trace& trace, int64_t from, bool clear = false) {
  Outputs out;
  for (int64_t t = from; t < trace.n; ++t) {
    if (clear) bench.store().clear_slots(sequence);
    out.push_back(bench.decode(sequence, trace, t));
  }
  return out;
}

class EveryConfig : public ::testing::TestWithParam<KvConfig> {
 protected:
  EveryConfig() : trace_("SKV_TEST_SEED=" + std::to_string(kv_seed())) {}
  skv_kv_params params() const { return GetParam().params; }
  std::string trace_;
};
INSTANTIATE_TEST_SUITE_P(Configs, EveryConfig, ::testing::ValuesIn(kv_configs(SKV_DTYPE_BF16)),
                         [](const auto& info) { return info.param.name; });

TEST_P(EveryConfig, outputs_are_the_same_bits_for_any_slot_capacity_and_with_cold_slots) {
  SCOPED_TRACE(trace_);
  if (params().policy == SKV_POLICY_STREAMING) GTEST_SKIP() << "no slots";
  Outputs reference;
  for (const int32_t slots : {SKV_AUTO, 9, 40}) {
    skv_kv_params p = params();
    p.slot_chunks = slots;
    Bench bench(kSmall, p);
    const Trace trace = bench.make_trace(700, {24, 0.1f}, kv_seed());
    for (const bool clear : {false, true}) {
      kv::Sequence* sequence = bench.store().open();
      bench.prefill(sequence, trace, 0, 500);
      const Outputs out = decode_all(bench, sequence, trace, 500, clear);
      if (reference.empty()) reference = out;
      EXPECT_TRUE(out == reference) << slots << " slots, cleared " << clear;
      skv_kv_stats stats = {};
      bench.store().stats(sequence, &stats);
      EXPECT_EQ(clear, stats.slot_hits == 0);  // otherwise nothing was cached and the test proves nothing
      EXPECT_EQ(stats.n_flushes > 0, params().policy != SKV_POLICY_PUBLISHED);
      bench.store().close(sequence);
    }
  }
}

TEST_P(EveryConfig, a_row_does_not_see_the_other_rows_of_its_batch) {
  SCOPED_TRACE(trace_);
  Bench alone(kSmall, params()), together(kSmall, params());
  const Trace a = alone.make_trace(700, {24, 0.1f}, kv_seed());
  const Trace b = alone.make_trace(900, {24, 0.1f}, kv_seed() + 1);
  kv::Sequence* lone = alone.store().open();
  alone.prefill(lone, a, 0, 500);
  const Outputs expected = decode_all(alone, lone, a, 500);

  kv::Sequence* first = together.store().open();
  kv::Sequence* second = together.store().open();
  together.prefill(first, a, 0, 500);
  together.prefill(second, b, 0, 40);
  const std::size_t width = 4 * 32, m = 2 * 32;
  for (int64_t step = 0; step < 200; ++step) {
    const bool joined = step % 3 != 0;  // the other row comes and goes, three tokens at a time
    const int64_t other = 40 + step / 3 * 6 + (step % 3 == 2 ? 3 : 0);
    std::vector<kv::DecodeRow> rows = {{first, 0, 1}};
    if (joined) rows.push_back({second, 1, 3});
    for (const kv::DecodeRow& row : rows) together.store().decode_reserve(row.sequence, row.n);
    for (std::size_t l = 0; l < 2; ++l) {
      auto batch = [&](const std::vector<float>& x, const std::vector<float>& y, std::size_t w) {
        std::vector<float> out(x.begin() + static_cast<std::ptrdiff_t>((500 + step) * static_cast<int64_t>(w)),
                               x.begin() + static_cast<std::ptrdiff_t>((501 + step) * static_cast<int64_t>(w)));
        out.insert(out.end(), y.begin() + static_cast<std::ptrdiff_t>(other * static_cast<int64_t>(w)),
                   y.begin() + static_cast<std::ptrdiff_t>((other + 3) * static_cast<int64_t>(w)));
        return out;
      };
      std::vector<float> out(4 * width);
      const auto layer = static_cast<int32_t>(l);
      together.store().decode_append(layer, rows, batch(a.k[l], b.k[l], m).data(), batch(a.v[l], b.v[l], m).data());
      together.store().decode_attend(layer, rows, batch(a.q[l], b.q[l], width).data(), out.data());
      out.resize(width);
      ASSERT_TRUE(out == expected[static_cast<std::size_t>(step)][l]) << "step " << step;
    }
    for (const kv::DecodeRow& row : rows) together.store().decode_commit(row.sequence, row.n);
  }
}

TEST_P(EveryConfig, a_row_of_many_tokens_equals_one_token_at_a_time) {
  SCOPED_TRACE(trace_);
  Bench bench(kSmall, params());
  const Trace trace = bench.make_trace(564, {24, 0.1f}, kv_seed());
  kv::Sequence* one = bench.store().open();
  kv::Sequence* many = bench.store().open();
  bench.prefill(one, trace, 0, 500);
  bench.prefill(many, trace, 0, 500);
  const Outputs single = decode_all(bench, one, trace, 500);
  const auto row = bench.decode(many, trace, 500, 64);
  // Before the first flush of either the states are the same: at 80 exact tokens, or quest's page of 16.
  const std::size_t same = params().policy == SKV_POLICY_QUEST ? 12 : 50;
  for (std::size_t t = 0; t < same; ++t) {
    for (std::size_t l = 0; l < 2; ++l) {
      const std::vector<float> got(row[l].begin() + static_cast<std::ptrdiff_t>(t * 128),
                                   row[l].begin() + static_cast<std::ptrdiff_t>((t + 1) * 128));
      ASSERT_TRUE(got == single[t][l]) << "token " << t;
    }
  }
}

TEST_P(EveryConfig, abort_at_any_point_leaves_the_sequence_as_it_was) {
  SCOPED_TRACE(trace_);
  for (const int64_t prompt : {40, 300, 500}) {
    Bench bench(kSmall, params()), clean(kSmall, params());
    const Trace trace = bench.make_trace(1500, {24, 0.1f}, kv_seed());
    kv::Sequence* sequence = bench.store().open();
    kv::Sequence* untouched = clean.store().open();
    bench.prefill(sequence, trace, 0, prompt);
    clean.prefill(untouched, trace, 0, prompt);
    for (int stop = 0; stop < 3; ++stop) {
      bench.store().begin_prefill(sequence, 900);
      for (int32_t l = 0; l < (stop == 0 ? 1 : 2); ++l) {
        const auto layer = static_cast<std::size_t>(l);
        bench.store().prefill_append(sequence, l, 0, 900, trace.k[layer].data() + prompt * 64,
                                     trace.v[layer].data() + prompt * 64);
        if (stop == 2 || l == 0) bench.store().prefill_finish_layer(sequence, l);
      }
      bench.store().prefill_abort(sequence);
      EXPECT_EQ(bench.store().length(sequence), prompt);
    }
    for (int64_t t = prompt; t < prompt + 200; ++t) {
      ASSERT_TRUE(bench.decode(sequence, trace, t) == clean.decode(untouched, trace, t)) << prompt << " " << t;
    }
  }
}

TEST_P(EveryConfig, truncating_inside_the_window_leaves_no_trace) {
  SCOPED_TRACE(trace_);
  Bench bench(kSmall, params());
  const Trace trace = bench.make_trace(550, {24, 0.1f}, kv_seed());  // short of a flush
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 500);
  const Outputs first = decode_all(bench, sequence, trace, 500);
  bench.store().truncate(sequence, 500);
  EXPECT_TRUE(decode_all(bench, sequence, trace, 500) == first);
}

// Prompts in two parts, and tokens compressed as they are generated, against the one-shot form: how much worse is the
// attention over everything (the whole context selected, so that only the keys' form matters)?
double mean_error(Bench& bench, const Trace& trace, const std::vector<int64_t>& cuts, int64_t end) {
  kv::Sequence* sequence = bench.store().open();
  int64_t at = 0;
  for (const int64_t cut : cuts) {
    bench.prefill(sequence, trace, at, cut - at, 256);
    at = cut;
  }
  for (; at < end; ++at) bench.decode(sequence, trace, at);
  double sum = 0.0;
  for (; at < trace.n; ++at) {
    sum += relative_error(bench.decode(sequence, trace, at)[0].data(), brute_attention(bench, trace, 0, at));
  }
  bench.store().close(sequence);
  return sum / static_cast<double>(trace.n - end);
}

TEST(KvProperty, cuts_and_rolling_compression_cost_little) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  const kv::Geometry geometry = {1, 4, 2, 32, 0.0f};
  for (const skv_key_store keys : {SKV_KEYS_LOWRANK, SKV_KEYS_EXACT}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, keys, SKV_DTYPE_F32);
    p.budget_tokens = 1 << 14;
    p.rank = 16;
    Bench bench(geometry, p);
    const Trace trace = bench.make_trace(1300, {16, 0.2f}, kv_seed());
    const double once = mean_error(bench, trace, {1200}, 1200);
    const double twice = mean_error(bench, trace, {700, 1200}, 1200);
    const double rolled = mean_error(bench, trace, {600}, 1200);
    if (keys == SKV_KEYS_EXACT) {
      EXPECT_LT(std::max({once, twice, rolled}), 1e-4);
    } else {
      EXPECT_GT(once, 1e-3);  // the noise is not in the rank, or nothing is measured
      EXPECT_LT(twice, 1.2 * once);
      EXPECT_LT(rolled, 1.3 * once);
    }
  }
}

// The same for every configuration, in what its codecs lose; and with a budget of everything exact raw rows lose nothing,
// whatever scored them. Streaming forgets, and published compresses a first prompt only.
TEST(KvProperty, cuts_cost_little_in_any_codec_and_a_whole_budget_loses_nothing_else) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  for (const KvConfig& config : kv_configs(SKV_DTYPE_F32)) {
    SCOPED_TRACE(config.name);
    skv_kv_params p = config.params;
    if (p.policy == SKV_POLICY_STREAMING || p.policy == SKV_POLICY_PUBLISHED) continue;
    p.budget_tokens = 1 << 14;
    p.max_budget_tokens = SKV_AUTO;
    p.n_budget_weights = 0;
    p.rank = 16;
    Bench bench({2, 4, 2, 32, 0.0f}, p);
    const Trace trace = bench.make_trace(860, {16, 0.2f}, kv_seed());
    const double once = mean_error(bench, trace, {800}, 800);
    const double twice = mean_error(bench, trace, {450, 800}, 800);
    const double rolled = mean_error(bench, trace, {400}, 800);
    const bool coded = p.keys == SKV_KEYS_LOWRANK || p.key_codec != SKV_CODEC_RAW || p.value_codec != SKV_CODEC_RAW;
    if (coded) {
      EXPECT_GT(once, 1e-4);  // or nothing is measured
      EXPECT_LT(twice, 1.2 * once);
      EXPECT_LT(rolled, 1.3 * once);
    } else {
      EXPECT_LT(std::max({once, twice, rolled}), 1e-5);
    }
  }
}

TEST(KvProperty, keys_in_a_new_subspace_open_a_segment) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  const kv::Geometry geometry = {1, 4, 2, 32, 0.0f};
  double error[2];
  for (const int32_t segments : {1, 8}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_LOWRANK, SKV_DTYPE_F32);
    p.budget_tokens = 1 << 14;
    p.rank = 20;
    p.max_segments = segments;
    p.outlier_fraction = 0.0;
    Bench bench(geometry, p);
    const Trace trace = bench.make_trace(1300, {8, 0.05f, 0.0f, 600}, kv_seed());
    kv::Sequence* sequence = bench.store().open();
    bench.prefill(sequence, trace, 0, 600, 256);
    for (int64_t at = 600; at < 1250; ++at) bench.decode(sequence, trace, at);
    double sum = 0.0;
    for (int64_t at = 1250; at < trace.n; ++at) {
      sum += relative_error(bench.decode(sequence, trace, at)[0].data(), brute_attention(bench, trace, 0, at));
    }
    error[segments == 1 ? 0 : 1] = sum;
    skv_kv_stats stats = {};
    bench.store().stats(sequence, &stats);
    EXPECT_EQ(stats.n_segments > 1, segments > 1);
    EXPECT_EQ(stats.n_forced_segments > 0, segments == 1);
  }
  EXPECT_GT(error[0], 3.0 * error[1]) << "without segments the error must be much larger";
}

TEST(KvProperty, truncating_into_compressed_history_keeps_what_the_store_keeps) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  for (const skv_key_store keys : {SKV_KEYS_EXACT, SKV_KEYS_LOWRANK}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, keys, SKV_DTYPE_F32);
    p.budget_tokens = 1 << 14;
    p.rank = 12;
    Bench bench(kSmall, p);
    const Trace trace = bench.make_trace(900, {12}, kv_seed());
    for (const int64_t cut : {451, 448, 129, 65, 5, 0}) {
      SCOPED_TRACE(cut);
      kv::Sequence* sequence = bench.store().open();
      bench.prefill(sequence, trace, 0, 600);
      for (int64_t t = 600; t < 700; ++t) bench.decode(sequence, trace, t);
      bench.store().truncate(sequence, cut);
      ASSERT_EQ(bench.store().length(sequence), cut);
      if (cut < 100) bench.prefill(sequence, trace, cut, 300, 64);
      double worst = 0.0;
      for (int64_t t = bench.store().length(sequence), end = t + 150; t < end; ++t) {
        const auto out = bench.decode(sequence, trace, t);
        for (int32_t l = 0; l < 2; ++l) {
          worst = std::max(worst, relative_error(out[static_cast<std::size_t>(l)].data(), brute_attention(bench, trace, l, t)));
        }
      }
      EXPECT_LT(worst, keys == SKV_KEYS_EXACT ? 1e-5 : 2e-3);
      bench.store().close(sequence);
    }
  }
}

}  // namespace
}  // namespace skv::test
