// ShadowKV through the engine: where its budget covers everything it is full attention, and its statistics add up.
#include <cmath>

#include "tests/e2e/harness.h"

namespace skv::e2e {
namespace {

// Every chunk is selected, keys and values are exact: nothing is left out.
skv_kv_params everything_selected() {
  skv_kv_params kv = small_shadowkv(SKV_DTYPE_F32, SKV_KEYS_EXACT);
  kv.budget_tokens = 4096;
  return kv;
}

struct Geometry {
  const char* name;
  TinyShape shape;
  int32_t chunk;
};

class WholeBudget : public testing::TestWithParam<Geometry> {};

TEST_P(WholeBudget, with_exact_keys_equals_full_attention) {
  const Host host(GetParam().shape);
  skv_kv_params kv = everything_selected();
  kv.chunk_tokens = GetParam().chunk;
  kv.window_tokens = 24;
  const auto selecting = host.session(kv), dense = host.session(full_kv(SKV_DTYPE_F32));
  const Tokens prompt = host.random_tokens(333, 1), next = host.random_tokens(100, 2);
  const Tokens turn = host.random_tokens(90, 3);
  const skv_seq a = start(*selecting, prompt), b = start(*dense, prompt);
  expect_near(kept_logits(*selecting, a), kept_logits(*dense, b), 1e-5, "prompt");
  for (std::size_t i = 0; i < next.size(); ++i) {
    const Logits want = decode_one(*dense, b, next[i]);
    expect_near(decode_one(*selecting, a, next[i]), want, 1e-5, "token " + std::to_string(i));
  }
  prefill(*selecting, a, turn);
  prefill(*dense, b, turn);
  expect_near(kept_logits(*selecting, a), kept_logits(*dense, b), 1e-5, "second turn");
  expect_near(decode_one(*selecting, a, 1), decode_one(*dense, b, 1), 1e-5, "after the second turn");
  EXPECT_GT(stats_of(*selecting, a).n_compressed, 400);
  EXPECT_GT(stats_of(*selecting, a).n_flushes, 0);
  EXPECT_EQ(stats_of(*dense, b).n_compressed, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Models, WholeBudget,
    testing::Values(Geometry{"gqa", {}, 8}, Geometry{"mqa_80", {.kv_heads = 1, .head_dim = 80, .seed = 2}, 4},
                    Geometry{"mha_64", {.layers = 3, .q_heads = 3, .kv_heads = 3, .head_dim = 64, .seed = 3}, 16},
                    Geometry{"wide_group", {.q_heads = 10, .kv_heads = 2, .head_dim = 32, .seed = 4}, 32},
                    Geometry{"head_256", {.q_heads = 2, .kv_heads = 1, .head_dim = 256, .seed = 5}, 8}),
    [](const auto& info) { return std::string(info.param.name); });

class Compressing : public testing::TestWithParam<PolicyCase> {};

TEST_P(Compressing, statistics_add_up) {
  const Host host{TinyShape{}};
  const auto session = host.session(GetParam().kv);
  const skv_seq seq = start(*session, host.random_tokens(1000, 1));
  constexpr int64_t kSteps = 25;
  skv_kv_stats stats = stats_of(*session, seq);
  EXPECT_EQ(stats.is_dense, 0);
  EXPECT_EQ(stats.n_tokens, 1000);
  EXPECT_EQ(stats.n_compressed % 8, 0);
  EXPECT_EQ(stats.n_compressed + stats.n_exact, 1000);
  EXPECT_EQ(stats.budget_tokens, 48);
  EXPECT_EQ(stats.decode_tokens, 0);
  decode_each(*session, seq, Tokens(kSteps, 7));
  stats = stats_of(*session, seq);
  const int64_t calls = kSteps * 2 * 2;  // layers, KV heads
  EXPECT_EQ(stats.decode_tokens, kSteps);
  EXPECT_EQ(stats.attention_calls, calls);
  EXPECT_EQ(stats.selected_chunks, calls * 6);  // 48 tokens of 8
  EXPECT_GT(stats.slot_hits, 0) << "the same token again and again selects some chunk again";
  EXPECT_LE(stats.slot_hits, stats.selected_chunks);
  // Selected chunks, the window with what was decoded, outliers: all of it, and far from everything.
  const int64_t outlier_tokens = stats.n_outlier_chunks * 8 * kSteps;
  EXPECT_GE(stats.attended_tokens, calls * 48 + outlier_tokens);
  EXPECT_LE(stats.attended_tokens, calls * (48 + 128) + outlier_tokens);
  EXPECT_GT(stats.bytes_read, 0);
  EXPECT_GT(stats.key_energy, GetParam().kv.keys == SKV_KEYS_EXACT ? 0.999999 : 0.5);
  EXPECT_LE(stats.key_energy, 1.0);
}

TEST_P(Compressing, reads_far_fewer_bytes_than_full_attention) {
  const Host host{TinyShape{}};
  const auto sparse = host.session(GetParam().kv), dense = host.session(full_kv(GetParam().kv.dtype));
  const Tokens prompt = host.random_tokens(4000, 2), next = host.random_tokens(10, 3);
  const skv_seq a = start(*sparse, prompt), b = start(*dense, prompt);
  decode_each(*sparse, a, next);
  decode_each(*dense, b, next);
  EXPECT_LT(stats_of(*sparse, a).bytes_read * 3, stats_of(*dense, b).bytes_read);
  EXPECT_EQ(stats_of(*dense, b).attended_tokens, 2 * 2 * (10 * 4000 + 55));
}

TEST_P(Compressing, long_generation_goes_on_past_every_boundary) {
  const Host host{TinyShape{.max_positions = 2048}};
  const auto session = host.session(GetParam().kv);
  const skv_seq seq = start(*session, host.random_tokens(30, 4));
  Tokens tokens{session->sample(seq)};
  while (session->length(seq) < 700) {
    const Logits logits = decode_one(*session, seq, tokens.back());
    for (const float x : logits) ASSERT_TRUE(std::isfinite(x)) << "at length " << session->length(seq);
    tokens.push_back(session->sample(seq));
  }
  const skv_kv_stats stats = stats_of(*session, seq);
  EXPECT_EQ(stats.is_dense, 0);
  if (GetParam().kv.policy == SKV_POLICY_SHADOWKV) {
    EXPECT_GT(stats.n_flushes, 10);
    EXPECT_LE(stats.n_exact, 16 + 32);
  }
}

std::vector<PolicyCase> compressing_policies() {
  std::vector<PolicyCase> all = all_policies();
  // Of one budget and one chunk size: the guard, quest and streaming have their own (tests/kv).
  std::erase_if(all, [](const PolicyCase& p) {
    return (p.kv.policy != SKV_POLICY_SHADOWKV && p.kv.policy != SKV_POLICY_PUBLISHED) || p.kv.max_missed_mass > 0.0;
  });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Policies, Compressing, testing::ValuesIn(compressing_policies()), policy_name);

TEST(Usage, stages_take_time_and_sequences_are_counted) {
  const Host host{TinyShape{}};
  const auto session = host.session(small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_LOWRANK));
  const skv_seq seq = start(*session, host.random_tokens(500, 1));
  decode_each(*session, seq, host.random_tokens(5, 2));
  const skv_session_usage usage = usage_of(*session);
  EXPECT_EQ(usage.n_sequences, 1);
  for (const int64_t ns : {usage.prefill_forward_ns, usage.prefill_attention_ns, usage.compress_ns,
                           usage.decode_forward_ns, usage.decode_select_ns, usage.decode_fetch_ns,
                           usage.decode_attention_ns, usage.logits_ns}) {
    EXPECT_GT(ns, 0);
  }
  EXPECT_EQ(usage.limit_bytes[SKV_TIER_FAST], SKV_UNLIMITED);
}

}  // namespace
}  // namespace skv::e2e
