// A CUDA device gives what the CPU gives: the same host calls, with device 1 named. Built beside a CUDA module: the one that
// executes its kernels on the host (tests/cuda_host), or the real one (tests/gpu).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "tests/e2e/harness.h"

namespace skv::e2e {
namespace {

void on_device(skv_session_params& params) { params.device = 1; }

// Of the largest logit, where both attend to the same: bf16 products on one side only.
constexpr double kNear = 3e-2;
// In the mean square, where a chunk that scores like another may be chosen by rounding alone. Unrelated logits: 1.4.
constexpr double kAlike = 0.15;

struct Pair {
  explicit Pair(const Host& host, const skv_kv_params& kv) : cpu(host.session(kv)), gpu(host.session(kv, on_device)) {}
  void start(const Tokens& prompt) { a = e2e::start(*cpu, prompt), b = e2e::start(*gpu, prompt); }
  void append(const Tokens& tokens) { prefill(*cpu, a, tokens), prefill(*gpu, b, tokens); }
  void compare(const Logits& got, const Logits& want, const std::string& what) const {
    if (same_chunks) return expect_near(got, want, kNear, what);
    double error = 0, energy = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      error += std::pow(double{got[i]} - want[i], 2);
      energy += std::pow(double{want[i]}, 2);
    }
    EXPECT_LE(std::sqrt(error / energy), kAlike) << what;
  }
  void expect_kept(const std::string& what) { compare(kept_logits(*gpu, b), kept_logits(*cpu, a), what); }
  void decode_row(const Tokens& tokens, const std::string& what) {
    std::vector<Row> want{{a, tokens}}, got{{b, tokens}};
    decode(*cpu, want);
    decode(*gpu, got);
    ASSERT_EQ(got[0].status, SKV_OK) << what << ": " << got[0].message;
    compare(got[0].logits, want[0].logits, what);
  }
  std::unique_ptr<engine::Session> cpu, gpu;
  skv_seq a = 0, b = 0;
  bool same_chunks = true;
};

// Prompt, decode rows of one and of several tokens with flushes in between, a cut, a further turn.
void expect_alike(const skv_kv_params& kv, bool same_chunks) {
  const Host host{TinyShape{}};
  Pair pair(host, kv);
  pair.same_chunks = same_chunks;
  pair.start(host.random_tokens(170, 1));
  pair.expect_kept("prompt");
  for (uint64_t i = 0; i < 3; ++i) pair.decode_row(host.random_tokens(1, 2 + i), "token " + std::to_string(i));
  for (uint64_t i = 0; i < 3; ++i) pair.decode_row(host.random_tokens(14, 9 + i), "row " + std::to_string(i));
  const skv_kv_stats want = stats_of(*pair.cpu, pair.a), got = stats_of(*pair.gpu, pair.b);
  EXPECT_EQ(got.n_compressed, want.n_compressed);
  EXPECT_EQ(got.n_flushes, want.n_flushes);
  EXPECT_EQ(got.attention_calls, want.attention_calls);
  EXPECT_EQ(got.selected_chunks > 0, want.selected_chunks > 0);
  EXPECT_NEAR(got.key_energy, want.key_energy, 1e-2);
  const int64_t cut = pair.cpu->length(pair.a) - 9;
  pair.cpu->truncate(pair.a, cut);
  pair.gpu->truncate(pair.b, cut);
  pair.append(host.random_tokens(40, 20));
  pair.expect_kept("second turn");
  pair.decode_row(host.random_tokens(1, 30), "after the second turn");
}

class Device : public testing::TestWithParam<PolicyCase> {};

TEST_P(Device, answers_like_the_cpu_where_all_is_selected) {
  skv_kv_params kv = GetParam().kv;
  if (kv.policy != SKV_POLICY_FULL && kv.policy != SKV_POLICY_STREAMING) kv.budget_tokens = 4096;
  expect_alike(kv, true);
}

TEST_P(Device, answers_much_like_the_cpu_on_a_budget) {
  if (GetParam().kv.policy == SKV_POLICY_FULL || GetParam().kv.policy == SKV_POLICY_STREAMING) {
    GTEST_SKIP() << "it selects nothing";
  }
  expect_alike(GetParam().kv, false);
}

INSTANTIATE_TEST_SUITE_P(Policies, Device, testing::ValuesIn(all_policies()), policy_name);

TEST(DeviceBatch, rows_are_bit_equal_whoever_else_is_there) {
  const Host host{TinyShape{}};
  const skv_kv_params kv = small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_LOWRANK);
  const auto session = host.session(kv, on_device);
  const skv_seq alone = start(*session, host.random_tokens(150, 1)), beside = start(*session, host.random_tokens(150, 1));
  const skv_seq other = start(*session, host.random_tokens(60, 2));
  for (int32_t token = 1; token < 4; ++token) {
    const Logits want = decode_one(*session, alone, token);
    std::vector<Row> rows{{other, {7, 8}}, {beside, {token}}};
    decode(*session, rows);
    ASSERT_EQ(rows[1].status, SKV_OK) << rows[1].message;
    expect_same(rows[1].logits, want, "token " + std::to_string(token));
  }
}

// With graphs a step of a batch that came before is launched as a whole, with what changed set anew: lists, counts, pages.
TEST_P(Device, steps_are_bit_equal_with_and_without_graphs) {
  const Host host{TinyShape{}};
  setenv("SHADOWKV_CUDA_GRAPHS", "0", 1);
  const auto plain = host.session(GetParam().kv, on_device);
  unsetenv("SHADOWKV_CUDA_GRAPHS");
  const auto graphs = host.session(GetParam().kv, on_device);
  skv_seq first[2], second[2];
  for (const auto& [session, sequence] : {std::pair{plain.get(), 0}, std::pair{graphs.get(), 1}}) {
    first[sequence] = start(*session, host.random_tokens(150, 1));
    second[sequence] = start(*session, host.random_tokens(40, 2));
  }
  for (int32_t token = 1; token < 24; ++token) {
    std::vector<Row> want{{first[0], {token}}}, got{{first[1], {token}}};
    if (token % 5 != 0) want.push_back({second[0], {token + 1}}), got.push_back({second[1], {token + 1}});
    decode(*plain, want);
    decode(*graphs, got);
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(got[i].status, SKV_OK) << got[i].message;
      expect_same(got[i].logits, want[i].logits, "token " + std::to_string(token));
    }
  }
}

TEST(DeviceSample, greedy_and_seeded_tokens_are_the_cpus) {
  const Host host{TinyShape{}};
  Pair pair(host, full_kv(SKV_DTYPE_F32));
  pair.start(host.random_tokens(40, 1));
  EXPECT_EQ(pair.gpu->sample(pair.b), pair.cpu->sample(pair.a));
  kernels::SampleParams params;
  params.temperature = 0.8f, params.top_k = 20, params.top_p = 0.9f, params.repetition_penalty = 1.2f, params.seed = 5;
  pair.cpu->set_sampler(pair.a, params);
  pair.gpu->set_sampler(pair.b, params);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(pair.gpu->sample(pair.b), pair.cpu->sample(pair.a)) << i;
}

// What the session counts is what it predicted, and goes back to nothing.
TEST(DeviceMemory, held_bytes_are_those_of_the_budget_query) {
  const Host host{TinyShape{}};
  const skv_kv_params kv = small_shadowkv(SKV_DTYPE_BF16, SKV_KEYS_LOWRANK);
  const engine::SessionConfig config = host.config(kv, on_device);
  skv_budget budget{};
  const int64_t lengths[] = {150};
  engine::budget_query(host.model(), config, lengths, &budget);
  {
    const auto session = host.session(kv, on_device);
    start(*session, host.random_tokens(150, 1));
    const skv_session_usage usage = usage_of(*session);
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      for (int purpose = 0; purpose < SKV_PURPOSE_COUNT; ++purpose) {
        EXPECT_EQ(usage.used.bytes[tier][purpose], budget.held.bytes[tier][purpose]) << tier << " " << purpose;
      }
      EXPECT_LE(usage.peak_bytes[tier], budget.peak_bytes[tier]) << tier;
    }
    EXPECT_GT(usage.used.bytes[SKV_TIER_FAST][SKV_PURPOSE_LANDMARKS], 0);
    EXPECT_GT(usage.used.bytes[SKV_TIER_SLOW][SKV_PURPOSE_VALUES], 0);
  }
  EXPECT_EQ(host.account(1).used(SKV_TIER_FAST), 0);
  EXPECT_EQ(host.account(1).used(SKV_TIER_SLOW), 0);
}

// A limit that the prompt would pass refuses it and leaves the session as it was.
TEST(DeviceMemory, limits_refuse_and_lose_nothing) {
  const Host host{TinyShape{}};
  const skv_kv_params kv = full_kv(SKV_DTYPE_BF16);
  const auto free = host.session(kv, on_device);
  const int64_t empty = free->length(start(*free, {1, 2, 3})) > 0 ? usage_of(*free).peak_bytes[SKV_TIER_FAST] : 0;
  const auto limited = host.session(kv, [&](skv_session_params& params) {
    params.device = 1;
    params.limit_bytes[SKV_TIER_FAST] = static_cast<uint64_t>(empty) + (1 << 16);
  });
  const skv_seq seq = start(*limited, {1, 2, 3});
  const Logits before = kept_logits(*limited, seq);
  EXPECT_EQ(status_of([&] { prefill(*limited, seq, host.random_tokens(4000, 1)); }), SKV_E_BUDGET);
  EXPECT_EQ(limited->length(seq), 3);
  expect_same(kept_logits(*limited, seq), before, "kept logits");
}

}  // namespace
}  // namespace skv::e2e
