// Coded keys and values: with everything selected, attention equals attention over the decoded rows, and over nothing else.
#include <algorithm>
#include <cmath>

#include "kernels/common/hadamard.h"
#include "kernels/common/row_codec.h"
#include "tests/kv/kv_oracle.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kSmall = {1, 4, 2, 64, 0.0f};

// A row as it comes back from its codec; keys are divided by weights of their channels first.
void code(skv_codec codec, std::vector<double>* row, const float* weights = nullptr) {
  if (codec == SKV_CODEC_RAW) return;
  std::vector<float> x(row->begin(), row->end());
  for (std::size_t i = 0; i < x.size() && weights; ++i) x[i] /= weights[i];
  const auto n = static_cast<int64_t>(x.size());
  if (codec == SKV_CODEC_INT8) {
    std::vector<int8_t> codes(x.size());
    const uint16_t scale = kernels::encode_int8_row_ref(x.data(), n, codes.data());
    kernels::decode_int8_row_ref(codes.data(), scale, n, x.data());
  } else {
    std::vector<uint8_t> codes(x.size() / 2);
    // The store's own rotation: an element next to a border between codes may fall to either side of it, by its last bit.
    kernels::hadamard_rows(x.data(), 1, static_cast<int32_t>(n), false);
    const uint16_t scale = kernels::encode_int4_row_ref(x.data(), n, codes.data());
    kernels::decode_int4_row_ref(codes.data(), scale, n, x.data());
    kernels::hadamard_rows_ref(x.data(), 1, static_cast<int32_t>(n), true);
  }
  for (std::size_t i = 0; i < x.size() && weights; ++i) x[i] *= weights[i];
  row->assign(x.begin(), x.end());
}

// Largest relative error against attention over decoded rows, and against attention over the rows as given.
struct Errors {
  double decoded = 0.0;
  double given = 0.0;
};

Errors measure(const kv::Geometry& geometry, const skv_kv_params& params, skv_codec keys, skv_codec values) {
  Bench bench(geometry, params);
  AttendedProbe probe(&bench);
  const Trace trace = bench.make_trace(470, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 350, 100);
  Errors errors;
  for (int64_t t = 350; t < trace.n; ++t) {
    const auto out = bench.decode(sequence, trace, t);
    if (t % 10 != 0) continue;
    for (int32_t h = 0; h < geometry.kv_heads; ++h) {
      const TraceHead head(bench, trace, 0, h);
      const Attended& attended = probe.of(0, h);
      std::vector<OracleRow> rows;
      for (int64_t j = 0; j <= t; ++j) {
        rows.push_back(head.row(j));
        const bool outlier = std::count(attended.outliers.begin(), attended.outliers.end(), j / params.chunk_tokens) > 0;
        if (j >= attended.exact_from || outlier) continue;
        code(keys, &rows.back().k, bench.store().channel_weights(sequence, 0, h));
        code(values, &rows.back().v);
      }
      const float* got = out[0].data() + int64_t{h} * geometry.group() * geometry.head_dim;
      errors.decoded =
          std::max(errors.decoded, relative_error(got, oracle_attention(head.query(t, 0), rows, bench.geometry().scale).out));
    }
    errors.given = std::max(errors.given, relative_error(out[0].data(), brute_attention(bench, trace, 0, t)));
  }
  return errors;
}

TEST(KvCodec, whole_budget_equals_attention_over_the_decoded_rows) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  for (const int32_t d : {64, 80, 128}) {
    for (const skv_codec keys : {SKV_CODEC_RAW, SKV_CODEC_INT8, SKV_CODEC_INT4}) {
      for (const skv_codec values : {SKV_CODEC_RAW, SKV_CODEC_INT8, SKV_CODEC_INT4}) {
        SCOPED_TRACE("d " + std::to_string(d) + " keys " + std::to_string(keys) + " values " + std::to_string(values));
        skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
        p.budget_tokens = 4096;
        p.key_codec = keys;
        p.value_codec = values;
        kv::Geometry geometry = kSmall;
        geometry.head_dim = d;
        const Errors errors = measure(geometry, p, keys, values);
        EXPECT_LT(errors.decoded, 2e-5);
        const bool raw = keys == SKV_CODEC_RAW && values == SKV_CODEC_RAW;
        EXPECT_EQ(errors.given > 1e-4, !raw) << errors.given;  // or the codec was not in use
        EXPECT_LT(errors.given, keys == SKV_CODEC_INT4 || values == SKV_CODEC_INT4 ? 0.6 : 0.05);
      }
    }
  }
}

// A prompt in two turns attends densely to what the store has kept of the first.
TEST(KvCodec, a_further_prompt_attends_to_decoded_history) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
  p.key_codec = SKV_CODEC_INT8;
  p.value_codec = SKV_CODEC_INT4;
  p.outlier_fraction = 0.0;
  p.flush_tokens = 1024;
  Bench bench(kSmall, p);
  const Trace trace = bench.make_trace(700, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 600, 256);
  const auto out = bench.prefill(sequence, trace, 600, 100, 64);
  skv_kv_stats stats = {};
  bench.store().stats(sequence, &stats);
  ASSERT_EQ(stats.n_compressed, 584);
  for (const int64_t t : {600, 650, 699}) {
    const TraceHead head(bench, trace, 0, 1);
    std::vector<OracleRow> rows;
    for (int64_t j = 0; j <= t; ++j) {
      rows.push_back(head.row(j));
      if (j < 8 || j >= 584) continue;  // chunk 0 is kept exact
      code(SKV_CODEC_INT8, &rows.back().k, bench.store().channel_weights(sequence, 0, 1));
      code(SKV_CODEC_INT4, &rows.back().v);
    }
    const auto want = oracle_attention(head.query(t, 0), rows, bench.geometry().scale);
    EXPECT_LT(relative_error(out[0].data() + (t - 600) * 4 * 64 + 2 * 64, want.out), 2e-5) << t;
  }
}

// Keys with a bias of 100 times their spread: int8 coordinates lose next to nothing because they are centred.
TEST(KvCodec, int8_coordinates_of_biased_keys_cost_little) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  const kv::Geometry geometry = {1, 4, 2, 128, 0.0f};
  double error[2] = {};
  for (const skv_codec codec : {SKV_CODEC_RAW, SKV_CODEC_INT8}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_LOWRANK, SKV_DTYPE_F32);
    p.budget_tokens = 4096;
    p.rank = 40;
    p.key_codec = codec;
    p.outlier_fraction = 0.0;
    Bench bench(geometry, p);
    const Trace trace = bench.make_trace(1040, {40, 0.2f, 100.0f}, kv_seed());
    kv::Sequence* sequence = bench.store().open();
    bench.prefill(sequence, trace, 0, 1000, 256);
    for (int64_t t = 1000; t < trace.n; ++t) {
      error[codec] += relative_error(bench.decode(sequence, trace, t)[0].data(), brute_attention(bench, trace, 0, t)) / 40;
    }
  }
  EXPECT_GT(error[0], 1e-3);  // the noise is not in the rank
  EXPECT_LT(error[1], 1.1 * error[0]) << error[0] << " with raw coordinates";
}

// Post-RoPE keys in few bits need their channels weighed: a bias in a few of them drowns the rest.
TEST(KvCodec, coded_exact_keys_survive_a_bias) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  const kv::Geometry geometry = {1, 4, 2, 128, 0.0f};
  skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
  p.budget_tokens = 4096;
  p.key_codec = SKV_CODEC_INT8;
  Bench bench(geometry, p);
  Trace trace = bench.make_trace(1020, {}, kv_seed());
  const int64_t m = geometry.key_width(), d = geometry.head_dim;
  // Slow rotary planes carry a bias of 100 spreads, and queries are small there.
  for (int64_t t = 0; t < trace.n; ++t) {
    for (const int64_t channel : {40, 55, 60, 104, 119, 124}) {
      for (int32_t h = 0; h < 2; ++h) trace.k[0][static_cast<std::size_t>(t * m + h * d + channel)] += 100.0f;
      for (int32_t h = 0; h < 4; ++h) trace.q[0][static_cast<std::size_t>(t * 4 * d + h * d + channel)] *= 0.01f;
    }
  }
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 1000, 256);
  double error = 0.0;
  for (int64_t t = 1000; t < trace.n; ++t) {
    error += relative_error(bench.decode(sequence, trace, t)[0].data(), brute_attention(bench, trace, 0, t)) / 20;
  }
  EXPECT_LT(error, 0.03);
  // The same rows coded as they are: one scale a row serves the bias.
  std::vector<double> plain(static_cast<std::size_t>(d));
  for (std::size_t i = 0; i < plain.size(); ++i) plain[i] = trace.k[0][i];
  std::vector<double> coded = plain;
  code(SKV_CODEC_INT8, &coded);
  double lost = 0.0;
  for (std::size_t i = 0; i < plain.size(); ++i) lost = std::max(lost, std::fabs(coded[i] - plain[i]));
  EXPECT_GT(lost, 0.2) << "the bias is too small to prove anything";
}

TEST(KvCodec, a_value_that_is_not_finite_is_carried_and_damages_nothing_else) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  for (const skv_codec codec : {SKV_CODEC_RAW, SKV_CODEC_INT8, SKV_CODEC_INT4}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
    p.value_codec = codec;
    p.outlier_fraction = 0.0;
    p.budget_tokens = 240;  // half of all: the damaged chunk is among them now and then
    Bench bench(kSmall, p), clean(kSmall, p);
    AttendedProbe probe(&bench);
    Trace trace = bench.make_trace(560, {}, kv_seed());
    kv::Sequence* untouched = clean.store().open();
    clean.prefill(untouched, trace, 0, 500);
    const int64_t bad = 243, d = 64;
    Trace damaged = trace;
    damaged.v[0][static_cast<std::size_t>(bad * 2 * d + 5)] = NAN;  // head 0
    kv::Sequence* sequence = bench.store().open();
    bench.prefill(sequence, damaged, 0, 500);
    int seen = 0;
    for (int64_t t = 500; t < 520; ++t) {
      const auto out = bench.decode(sequence, damaged, t), want = clean.decode(untouched, trace, t);
      const auto& chunks = probe.of(0, 0).chunks;
      const bool attended = std::count(chunks.begin(), chunks.end(), bad / 8) > 0;
      seen += attended;
      EXPECT_EQ(std::isnan(out[0][5]), attended) << t;
      EXPECT_TRUE(std::equal(out[0].begin() + 2 * d, out[0].end(), want[0].begin() + 2 * d));  // head 1
    }
    EXPECT_GT(seen, 0) << "never attended to: the test proves nothing";
  }
}

}  // namespace
}  // namespace skv::test
