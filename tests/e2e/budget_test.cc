// The budget is the code that allocates: what it says beforehand is what is used afterwards.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/e2e/harness.h"

namespace skv::e2e {
namespace {

constexpr int64_t kMiB = 1 << 20;

const Host& host() {
  static const Host shared{TinyShape{}};
  return shared;
}

skv_budget query(const Host& where, const engine::SessionConfig& config, const std::vector<int64_t>& lengths) {
  skv_budget budget{};
  budget.struct_size = sizeof budget;
  engine::budget_query(where.model(), config, lengths, &budget);
  return budget;
}

void expect_same_table(const skv_memory_table& predicted, const skv_memory_table& used, const std::string& what) {
  for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
    for (int purpose = 0; purpose < SKV_PURPOSE_COUNT; ++purpose) {
      EXPECT_EQ(predicted.bytes[tier][purpose], used.bytes[tier][purpose])
          << what << ": tier " << tier << ", purpose " << purpose;
    }
  }
}

std::string describe(const std::vector<int64_t>& lengths) {
  std::string text = "lengths";
  for (const int64_t n : lengths) text.append(1, ' ').append(std::to_string(n));
  return text;
}

class Budget : public testing::TestWithParam<PolicyCase> {};

TEST_P(Budget, says_what_prefilled_sequences_hold_and_need_at_the_peak) {
  const std::vector<std::vector<int64_t>> batches = {
      {}, {0}, {1}, {64}, {100}, {1000}, {5000}, {40, 700}, {700, 40, 0}, {3000, 3000}, {90, 2000, 600, 97, 128}};
  for (const auto& lengths : batches) {
    const std::string what = describe(lengths);
    const auto config = host().config(GetParam().kv);
    const skv_budget budget = query(host(), config, lengths);
    const auto session = host().session(GetParam().kv);
    for (std::size_t i = 0; i < lengths.size(); ++i) start(*session, host().random_tokens(lengths[i], i + 1));
    const skv_session_usage usage = usage_of(*session);
    expect_same_table(budget.held, usage.used, what);
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      int64_t sum = 0;
      for (const int64_t bytes : budget.held.bytes[tier]) sum += bytes;
      EXPECT_EQ(budget.held_bytes[tier], sum);
      EXPECT_GE(budget.peak_bytes[tier], usage.peak_bytes[tier]) << what << ": tier " << tier;
      EXPECT_LE(budget.peak_bytes[tier], usage.peak_bytes[tier] + std::max(kMiB, usage.peak_bytes[tier] / 100))
          << what << ": tier " << tier;
      EXPECT_GE(budget.peak_bytes[tier], budget.held_bytes[tier]);
    }
  }
}

// Decode grows in the same units: what a grown sequence holds is what a prefilled one of that length would, or a page
// less or more where the window stands at another place.
TEST_P(Budget, holds_for_sequences_grown_by_decode) {
  const auto session = host().session(GetParam().kv);
  const skv_seq seq = start(*session, host().random_tokens(200, 1));
  decode_each(*session, seq, host().random_tokens(130, 2));
  const skv_budget budget = query(host(), host().config(GetParam().kv), {330});
  const skv_session_usage usage = usage_of(*session);
  for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
    int64_t used = 0;
    for (const int64_t bytes : usage.used.bytes[tier]) used += bytes;
    EXPECT_LE(std::abs(used - budget.held_bytes[tier]), kMiB / 2) << "tier " << tier;
  }
}

TEST_P(Budget, metadata_alone_gives_the_same_answer) {
  const TinyShape shape{.bf16 = true};
  const TinyModel files(shape);
  const Host full(files.path()), metadata(files.path(), 1, true);
  const skv_budget a = query(full, full.config(GetParam().kv), {3000, 50});
  const skv_budget b = query(metadata, metadata.config(GetParam().kv), {3000, 50});
  expect_same_table(a.held, b.held, "metadata only");
  for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) EXPECT_EQ(a.peak_bytes[tier], b.peak_bytes[tier]);
  EXPECT_GT(a.weight_bytes, 0);
  EXPECT_EQ(b.weight_bytes, 0);
}

TEST_P(Budget, exactly_the_predicted_peak_is_enough) {
  const std::vector<int64_t> lengths = {2500, 700};
  const skv_budget budget = query(host(), host().config(GetParam().kv), lengths);
  const auto session = host().session(GetParam().kv, [&](auto& p) {
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      p.limit_bytes[tier] = static_cast<uint64_t>(budget.peak_bytes[tier]);
    }
  });
  for (const int64_t n : lengths) EXPECT_EQ(session->length(start(*session, host().random_tokens(n, 1))), n);
}

skv_budget_plan_io plan_io(int32_t n_sequences, int64_t n_tokens, uint64_t fast, uint64_t slow, uint64_t host_bytes) {
  skv_budget_plan_io io{};
  io.struct_size = sizeof io;
  io.n_sequences = n_sequences;
  io.n_tokens = n_tokens;
  std::fill(std::begin(io.limit_bytes), std::end(io.limit_bytes), SKV_UNLIMITED);
  io.limit_bytes[SKV_TIER_FAST] = fast;
  io.limit_bytes[SKV_TIER_SLOW] = slow;
  io.limit_bytes[SKV_TIER_HOST] = host_bytes;
  return io;
}

bool fits(const engine::SessionConfig& config, const skv_budget_plan_io& io, int32_t n_sequences, int64_t n_tokens) {
  const std::vector<int64_t> lengths(static_cast<std::size_t>(n_sequences), n_tokens);
  const skv_budget budget = query(host(), config, lengths);
  for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
    if (static_cast<uint64_t>(budget.peak_bytes[tier]) > io.limit_bytes[tier]) return false;
  }
  return true;
}

TEST_P(Budget, plan_finds_the_longest_context_that_fits) {
  const auto config = host().config(GetParam().kv);
  for (const int32_t n_sequences : {1, 3}) {
    for (const uint64_t fast : {1 * kMiB, 2 * kMiB, 3 * kMiB}) {
      skv_budget_plan_io io = plan_io(n_sequences, 0, fast, 8 * kMiB, 16 * kMiB);
      engine::budget_plan(host().model(), config, &io);
      ASSERT_EQ(io.fits, io.n_tokens > 0);
      EXPECT_TRUE(io.fits == 0 || fits(config, io, n_sequences, io.n_tokens)) << io.n_tokens;
      ASSERT_LT(io.n_tokens, 16384) << "limits too wide to be a test";
      EXPECT_FALSE(fits(config, io, n_sequences, io.n_tokens + 1)) << io.n_tokens;
      EXPECT_EQ(io.n_sequences, n_sequences);
    }
  }
}

TEST_P(Budget, plan_finds_the_largest_batch_that_fits) {
  if (GetParam().kv.policy == SKV_POLICY_STREAMING) GTEST_SKIP() << "all sequences fit: it forgets";
  const auto config = host().config(GetParam().kv);
  skv_budget_plan_io io = plan_io(0, 1500, 3 * kMiB, 64 * kMiB, 64 * kMiB);
  engine::budget_plan(host().model(), config, &io);
  ASSERT_EQ(io.fits, 1);
  EXPECT_TRUE(fits(config, io, io.n_sequences, 1500));
  ASSERT_LT(io.n_sequences, 16) << "limits too wide to be a test";
  EXPECT_FALSE(fits(config, io, io.n_sequences + 1, 1500));
  io = plan_io(0, 1500, 1000, 1000, SKV_UNLIMITED);
  engine::budget_plan(host().model(), config, &io);
  EXPECT_EQ(io.fits, 0);
  EXPECT_EQ(io.n_sequences, 0);
}

TEST_P(Budget, plan_slots_fit_and_one_more_does_not) {
  const skv_policy policy = GetParam().kv.policy;
  if (policy == SKV_POLICY_FULL || policy == SKV_POLICY_STREAMING) GTEST_SKIP() << "it has no slots";
  const auto config = host().config(GetParam().kv);
  skv_budget_plan_io io = plan_io(2, 0, 5 * kMiB, 8 * kMiB, 16 * kMiB);
  engine::budget_plan(host().model(), config, &io);
  ASSERT_EQ(io.fits, 1);
  EXPECT_GE(io.slot_chunks, GetParam().kv.budget_tokens / GetParam().kv.chunk_tokens);
  auto more = config;
  more.policy.slots_fixed = io.slot_chunks;
  EXPECT_TRUE(fits(more, io, 2, io.n_tokens)) << io.slot_chunks;
  more.policy.slots_fixed = io.slot_chunks + 1;
  EXPECT_TRUE(io.slot_chunks >= io.n_tokens / 8 || !fits(more, io, 2, io.n_tokens)) << io.slot_chunks;
}

// A folder with nothing but Llama-3.1-8B's shape in it.
class LlamaFolder {
 public:
  LlamaFolder() {
    std::filesystem::create_directories(path_);
    std::ofstream(path_ + "/config.json") << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
      "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336, "rms_norm_eps": 1e-05,
      "rope_theta": 500000.0, "hidden_act": "silu", "max_position_embeddings": 131072, "torch_dtype": "bfloat16"})";
  }
  ~LlamaFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = testing::TempDir() + "llama_8b_" + std::to_string(getpid());
};

TEST(BudgetQuery, llama_8b_with_int8_keys_and_landmarks_keeps_to_its_share_of_fast_memory) {
  const LlamaFolder folder;
  const Host metadata(folder.path(), 1, true);
  skv_kv_params kv = kv::default_kv_params();
  kv.key_codec = kv.digest_codec = SKV_CODEC_INT8;
  const auto config = metadata.config(kv);
  for (const int64_t n : {32768, 65536, 124928}) {
    const skv_budget one = query(metadata, config, {n});
    const auto fast = static_cast<double>(one.held_bytes[SKV_TIER_FAST]);
    EXPECT_LE(fast, 9.4 * 1024 * static_cast<double>(n) + 0.36e9) << n << " tokens";
    // Both halves of the figure are needed, or it says nothing.
    EXPECT_GT(fast, 9.0 * 1024 * static_cast<double>(n)) << n << " tokens";
    kv.key_codec = kv.digest_codec = SKV_CODEC_RAW;
    EXPECT_GT(query(metadata, metadata.config(kv), {n}).held_bytes[SKV_TIER_FAST], 1.6 * fast);
    kv.key_codec = kv.digest_codec = SKV_CODEC_INT8;
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Budget, testing::ValuesIn(all_policies()), policy_name);

// Low-rank keys save memory where the rank is small beside the key width.
TEST(BudgetPlan, names_the_key_store_that_goes_farther) {
  for (const skv_key_store given : {SKV_KEYS_LOWRANK, SKV_KEYS_EXACT}) {
    const skv_key_store other = given == SKV_KEYS_LOWRANK ? SKV_KEYS_EXACT : SKV_KEYS_LOWRANK;
    const auto config = host().config(small_shadowkv(SKV_DTYPE_BF16, given));
    skv_budget_plan_io io = plan_io(1, 0, 5 * kMiB, 3 * kMiB, 64 * kMiB);
    engine::budget_plan(host().model(), config, &io);
    skv_budget_plan_io with_other = plan_io(1, 0, 5 * kMiB, 3 * kMiB, 64 * kMiB);
    engine::budget_plan(host().model(), host().config(small_shadowkv(SKV_DTYPE_BF16, other)), &with_other);
    EXPECT_EQ(io.n_tokens_other_keys, with_other.n_tokens);
    EXPECT_NE(io.n_tokens, with_other.n_tokens);
    EXPECT_EQ(io.keys, io.n_tokens >= with_other.n_tokens ? given : other);
    EXPECT_EQ(io.rank, given == SKV_KEYS_LOWRANK ? 24 : 0);
  }
}

TEST(BudgetPlan, refuses_questions_without_an_unknown) {
  const auto config = host().config(full_kv(SKV_DTYPE_BF16));
  skv_budget_plan_io both = plan_io(1, 100, SKV_UNLIMITED, SKV_UNLIMITED, SKV_UNLIMITED);
  skv_budget_plan_io neither = plan_io(0, 0, SKV_UNLIMITED, SKV_UNLIMITED, SKV_UNLIMITED);
  EXPECT_EQ(status_of([&] { engine::budget_plan(host().model(), config, &both); }), SKV_E_INVALID);
  EXPECT_EQ(status_of([&] { engine::budget_plan(host().model(), config, &neither); }), SKV_E_INVALID);
  skv_budget_plan_io unlimited = plan_io(1, 0, SKV_UNLIMITED, SKV_UNLIMITED, SKV_UNLIMITED);
  engine::budget_plan(host().model(), config, &unlimited);
  EXPECT_EQ(unlimited.n_tokens, host().model().config().max_positions);
}

TEST(BudgetQuery, refuses_lengths_that_no_sequence_can_have) {
  const auto config = host().config(full_kv(SKV_DTYPE_BF16));
  EXPECT_EQ(status_of([&] { query(host(), config, {16385}); }), SKV_E_LIMIT);
  EXPECT_EQ(status_of([&] { query(host(), config, {-1}); }), SKV_E_INVALID);
  EXPECT_EQ(status_of([&] { query(host(), config, std::vector<int64_t>(17, 1)); }), SKV_E_LIMIT);
}

}  // namespace
}  // namespace skv::e2e
