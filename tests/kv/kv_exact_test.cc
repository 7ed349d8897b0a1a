// Attention through the store equals attention computed by hand wherever nothing is approximated.
#include "tests/kv/kv_harness.h"

namespace skv::test {
namespace {

constexpr kv::Geometry kSmall = {2, 4, 2, 32, 0.0f};

// Every decoded and prefilled output against brute force; returns the largest relative error.
double worst_error(Bench& bench, const Trace& trace, int64_t prompt, int64_t block) {
  kv::Sequence* sequence = bench.store().open();
  const auto width = bench.geometry().q_heads * bench.geometry().head_dim;
  const auto prefilled = bench.prefill(sequence, trace, 0, prompt, block);
  double worst = 0.0;
  for (int32_t l = 0; l < bench.geometry().layers; ++l) {
    for (int64_t t = 0; t < prompt; t += 17) {
      worst = std::max(worst, relative_error(prefilled[static_cast<std::size_t>(l)].data() + t * width,
                                             brute_attention(bench, trace, l, t)));
    }
  }
  for (int64_t t = prompt; t < trace.n; ++t) {
    const auto out = bench.decode(sequence, trace, t);
    for (int32_t l = 0; l < bench.geometry().layers; ++l) {
      worst = std::max(worst, relative_error(out[static_cast<std::size_t>(l)].data(), brute_attention(bench, trace, l, t)));
    }
  }
  bench.store().close(sequence);
  return worst;
}

TEST(KvExact, full_policy_equals_brute_force) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  Bench f32(kSmall, small_params(SKV_POLICY_FULL, SKV_KEYS_EXACT, SKV_DTYPE_F32));
  EXPECT_LT(worst_error(f32, f32.make_trace(300, {}, kv_seed()), 250, 100), 1e-5);
  Bench bf16(kSmall, small_params(SKV_POLICY_FULL, SKV_KEYS_EXACT, SKV_DTYPE_BF16));
  EXPECT_LT(worst_error(bf16, bf16.make_trace(300, {}, kv_seed()), 250, 100), 2e-2);
}

TEST(KvExact, a_prompt_cut_in_any_way_gives_the_same_bits_with_policy_full) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  Bench bench(kSmall, small_params(SKV_POLICY_FULL, SKV_KEYS_EXACT, SKV_DTYPE_BF16));
  const Trace trace = bench.make_trace(400, {}, kv_seed());
  kv::Sequence* whole = bench.store().open();
  kv::Sequence* parts = bench.store().open();
  const auto one = bench.prefill(whole, trace, 0, 399, 512);
  bench.prefill(parts, trace, 0, 1, 1);
  bench.prefill(parts, trace, 1, 130, 37);
  const auto last = bench.prefill(parts, trace, 131, 268, 64);
  const std::size_t width = 4 * 32;
  for (std::size_t l = 0; l < 2; ++l) {
    const std::vector<float> tail(one[l].begin() + 131 * static_cast<std::ptrdiff_t>(width), one[l].end());
    EXPECT_TRUE(tail == last[l]);
  }
  EXPECT_TRUE(bench.decode(whole, trace, 399) == bench.decode(parts, trace, 399));
}

// A budget as large as the context selects every chunk: with exact keys nothing is lost, for every geometry served.
TEST(KvExact, budget_of_the_whole_context_equals_full_attention) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  struct Case {
    kv::Geometry geometry;
    int32_t chunk;
    skv_dtype dtype;
    double tolerance;
  };
  const Case cases[] = {
      {{2, 4, 2, 32, 0}, 8, SKV_DTYPE_F32, 1e-5},  {{1, 8, 1, 64, 0}, 4, SKV_DTYPE_F32, 1e-5},
      {{1, 3, 3, 80, 0}, 16, SKV_DTYPE_F32, 1e-5}, {{1, 6, 2, 96, 0}, 32, SKV_DTYPE_F32, 1e-5},
      {{1, 4, 4, 128, 0}, 8, SKV_DTYPE_BF16, 2e-2}, {{1, 14, 2, 128, 0}, 8, SKV_DTYPE_F32, 1e-5},
      {{1, 2, 1, 256, 0}, 8, SKV_DTYPE_F32, 1e-5},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE("d=" + std::to_string(c.geometry.head_dim) + " C=" + std::to_string(c.chunk));
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, c.dtype);
    p.chunk_tokens = c.chunk;
    p.budget_tokens = 4096;
    Bench bench(c.geometry, p);
    EXPECT_LT(worst_error(bench, bench.make_trace(420, {}, kv_seed()), 250, 100), c.tolerance);
  }
}

// Every flush keeps at least one outlier, so with flushes of one chunk nearly all chunks are outliers.
TEST(KvExact, flushes_of_one_chunk_leave_room_for_all_their_outliers) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
  p.chunk_tokens = 4;
  p.flush_tokens = 4;
  p.budget_tokens = 4096;
  Bench bench(kSmall, p);
  EXPECT_LT(worst_error(bench, bench.make_trace(700, {}, kv_seed()), 80, 80), 1e-5);
}

TEST(KvExact, low_rank_keys_of_that_rank_equal_full_attention) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_LOWRANK, SKV_DTYPE_F32);
  p.budget_tokens = 4096;
  p.rank = 12;
  for (const float bias : {0.0f, 100.0f}) {
    SCOPED_TRACE(bias);
    Bench bench(kSmall, p);
    const double bound = bias > 0.0f ? 2e-2 : 1e-3;  // f32 keys of size 100 carry less of a spread of 1
    EXPECT_LT(worst_error(bench, bench.make_trace(420, {12, 0.0f, bias}, kv_seed()), 250, 100), bound);
  }
}

TEST(KvExact, a_further_prompt_attends_to_the_whole_compressed_history) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  for (const skv_key_store keys : {SKV_KEYS_EXACT, SKV_KEYS_LOWRANK}) {
    skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, keys, SKV_DTYPE_F32);
    p.rank = 12;
    Bench bench(kSmall, p);
    const int64_t first = 4700, second = 150;  // more history than one tile
    const Trace trace = bench.make_trace(first + second, {12}, kv_seed());
    kv::Sequence* sequence = bench.store().open();
    bench.prefill(sequence, trace, 0, first, 512);
    const auto out = bench.prefill(sequence, trace, first, second, 64);
    for (int32_t l = 0; l < 2; ++l) {
      for (int64_t t = 0; t < second; t += 29) {
        EXPECT_LT(relative_error(out[static_cast<std::size_t>(l)].data() + t * 128,
                                 brute_attention(bench, trace, l, first + t)),
                  keys == SKV_KEYS_EXACT ? 1e-5 : 1e-3);
      }
    }
  }
}

TEST(KvExact, selected_turns_with_a_whole_budget_equal_full_attention) {
  SCOPED_TRACE("SKV_TEST_SEED=" + std::to_string(kv_seed()));
  skv_kv_params p = small_params(SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, SKV_DTYPE_F32);
  p.turn_attention = SKV_TURN_SELECTED;
  p.budget_tokens = 8192;
  Bench bench(kSmall, p);
  const Trace trace = bench.make_trace(4900, {}, kv_seed());
  kv::Sequence* sequence = bench.store().open();
  bench.prefill(sequence, trace, 0, 4700, 512);
  const auto out = bench.prefill(sequence, trace, 4700, 200, 100);
  for (int64_t t = 0; t < 200; t += 13) {
    EXPECT_LT(relative_error(out[1].data() + t * 128, brute_attention(bench, trace, 1, 4700 + t)), 1e-5);
  }
}

}  // namespace
}  // namespace skv::test
