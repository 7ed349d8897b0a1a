// Hard limits: whatever would pass one fails alone with SKV_E_BUDGET and changes nothing.
#include <algorithm>
#include <cstring>

#include "tests/e2e/harness.h"

namespace skv::e2e {
namespace {

int64_t tier_sum(const skv_memory_table& table, skv_tier tier) {
  int64_t sum = 0;
  for (const int64_t bytes : table.bytes[tier]) sum += bytes;
  return sum;
}

skv_budget query(const Host& host, const skv_kv_params& kv, const std::vector<int64_t>& lengths) {
  skv_budget budget{};
  engine::budget_query(host.model(), host.config(kv), lengths, &budget);
  return budget;
}

// A shape whose exact pages come one at a time (lib/kv/page_pool.cc), so that the next page is the next refusal.
TinyShape one_page_regions(const skv_kv_params& kv) {
  return kv.dtype == SKV_DTYPE_F32 ? TinyShape{.q_heads = 2, .kv_heads = 2, .head_dim = 96}
                                   : TinyShape{.q_heads = 4, .kv_heads = 4, .head_dim = 64};
}

class Limits : public testing::TestWithParam<PolicyCase> {
 protected:
  const Host host_{TinyShape{}};
};

// Nothing more of a tier from now on, over all sessions of this runtime.
void freeze(const Host& host, skv_tier tier) {
  host.account().set_limit(tier, static_cast<uint64_t>(host.account().used(tier)));
}
void thaw(const Host& host, skv_tier tier) { host.account().set_limit(tier, SKV_UNLIMITED); }

// Exact pages hold 64 tokens: the sequence of 64 needs a new one, those of 10 do not.
TEST_P(Limits, a_row_without_memory_fails_alone) {
  const Host host{one_page_regions(GetParam().kv)};
  const auto session = host.session(GetParam().kv);
  const skv_seq full = start(*session, host.random_tokens(64, 1));
  const skv_seq roomy = start(*session, host.random_tokens(10, 2)), twin = start(*session, host.random_tokens(10, 2));
  const Logits want = decode_one(*session, twin, 5), kept = kept_logits(*session, full);
  const skv_memory_table before = usage_of(*session).used;
  freeze(host, SKV_TIER_FAST);
  std::vector<Row> rows{{full, {5}}, {roomy, {5}}};
  decode(*session, rows);
  thaw(host, SKV_TIER_FAST);
  EXPECT_EQ(rows[0].status, SKV_E_BUDGET);
  EXPECT_NE(rows[0].message.find("limit"), std::string::npos) << rows[0].message;
  ASSERT_EQ(rows[1].status, SKV_OK) << rows[1].message;
  expect_same(rows[1].logits, want, "the row that proceeds");
  EXPECT_EQ(session->length(full), 64);
  EXPECT_EQ(session->length(roomy), 11);
  expect_same(kept_logits(*session, full), kept, "kept logits of the row that failed");
  const skv_memory_table after = usage_of(*session).used;
  EXPECT_EQ(std::memcmp(&before, &after, sizeof before), 0);
  rows = {{full, {5}}};
  decode(*session, rows);
  EXPECT_EQ(rows[0].status, SKV_OK) << rows[0].message;
}

// Whatever memory decode must have on its way through flushes, being refused it once is as if nothing had been.
// (Segments and chunks that a flush would like to keep exact are taken only while memory allows: none are wanted
// here.)
TEST_P(Limits, refused_once_at_every_length_decode_goes_on_unchanged) {
  const Host host{one_page_regions(GetParam().kv)};
  skv_kv_params kv = GetParam().kv;
  kv.residual_factor = 1e6;
  const auto session = host.session(kv);
  const Tokens prompt = host.random_tokens(80, 3), next = host.random_tokens(150, 4);
  const skv_seq alone = start(*session, prompt), refused = start(*session, prompt);
  const std::vector<Logits> want = decode_each(*session, alone, next);
  int refusals = 0;
  for (std::size_t i = 0; i < next.size(); ++i) {
    const skv_memory_table before = usage_of(*session).used;
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) freeze(host, tier);
    std::vector<Row> rows{{refused, {next[i]}}};
    decode(*session, rows);
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) thaw(host, tier);
    if (rows[0].status != SKV_OK) {
      ASSERT_EQ(rows[0].status, SKV_E_BUDGET) << rows[0].message;
      ASSERT_EQ(session->length(refused), static_cast<int64_t>(80 + i));
      const skv_memory_table after = usage_of(*session).used;
      EXPECT_EQ(std::memcmp(&before, &after, sizeof before), 0) << "token " << i;
      ++refusals;
      decode(*session, rows);
      ASSERT_EQ(rows[0].status, SKV_OK) << rows[0].message;
    }
    expect_same(rows[0].logits, want[i], "token " + std::to_string(i));
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(refusals, 0);
}

TEST_P(Limits, append_admits_what_fits_and_refuses_the_next_page) {
  for (const int64_t n : {64, 640, 2048}) {
    const skv_budget budget = query(host_, GetParam().kv, {n});
    const auto session = host_.session(GetParam().kv, [&](auto& p) {
      for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
        p.limit_bytes[tier] = static_cast<uint64_t>(budget.peak_bytes[tier]);
      }
    });
    const skv_seq seq = session->open(SKV_AUTO);
    const skv_memory_table before = usage_of(*session).used;
    std::string message;
    EXPECT_EQ(status_of([&] { session->append(seq, host_.random_tokens(n + 512, 1)); }, &message), SKV_E_BUDGET);
    EXPECT_NE(message.find("limit is"), std::string::npos) << message;
    const skv_memory_table after = usage_of(*session).used;
    EXPECT_EQ(std::memcmp(&before, &after, sizeof before), 0);
    EXPECT_EQ(session->queued(seq), 0);
    session->append(seq, host_.random_tokens(n, 1));
    session->prefill({});
    EXPECT_EQ(session->length(seq), n);
  }
}

TEST_P(Limits, append_counts_what_others_hold_and_have_queued) {
  if (GetParam().kv.policy == SKV_POLICY_STREAMING) GTEST_SKIP() << "a sequence more takes less than a prompt's peak";
  const skv_budget two = query(host_, GetParam().kv, {600, 600});
  const skv_budget three = query(host_, GetParam().kv, {600, 600, 600});
  ASSERT_GT(three.held_bytes[SKV_TIER_FAST], two.peak_bytes[SKV_TIER_FAST]);
  const auto session = host_.session(GetParam().kv, [&](auto& p) {
    p.limit_bytes[SKV_TIER_FAST] = static_cast<uint64_t>(three.held_bytes[SKV_TIER_FAST] - 1);
  });
  const skv_seq a = start(*session, host_.random_tokens(600, 1));
  const skv_seq b = session->open(SKV_AUTO), c = session->open(SKV_AUTO);
  session->append(b, host_.random_tokens(600, 2));
  EXPECT_EQ(status_of([&] { session->append(c, host_.random_tokens(600, 3)); }), SKV_E_BUDGET);
  session->close(a);
  session->append(c, host_.random_tokens(600, 3));
  session->prefill({});
  EXPECT_EQ(session->length(b), 600);
  EXPECT_EQ(session->length(c), 600);
}

// The limit falls after the append was admitted: that prompt is dropped, the others go on.
TEST_P(Limits, a_prompt_that_runs_out_is_dropped_and_others_go_on) {
  if (GetParam().kv.policy == SKV_POLICY_QUEST) GTEST_SKIP() << "the other prompt closes a page, which takes memory";
  const auto session = host_.session(GetParam().kv);
  const skv_seq large = start(*session, host_.random_tokens(40, 1)), small = session->open(SKV_AUTO);
  prefill(*session, small, host_.random_tokens(20, 2));
  const Logits kept = kept_logits(*session, large);
  session->append(large, host_.random_tokens(1500, 3));
  session->append(large, host_.random_tokens(10, 4));
  session->append(small, host_.random_tokens(12, 5));  // stays within its page
  const int64_t fast = usage_of(*session).used.bytes[SKV_TIER_FAST][SKV_PURPOSE_EXACT_KV];
  freeze(host_, SKV_TIER_FAST);
  std::string message;
  EXPECT_EQ(status_of([&] { session->prefill({}); }, &message), SKV_E_BUDGET);
  thaw(host_, SKV_TIER_FAST);
  EXPECT_EQ(session->length(large), 40);
  EXPECT_EQ(session->queued(large), 0);
  EXPECT_EQ(session->length(small), 32);
  EXPECT_EQ(usage_of(*session).used.bytes[SKV_TIER_FAST][SKV_PURPOSE_EXACT_KV], fast);
  expect_same(kept_logits(*session, large), kept, "kept logits");
  skv_error detail = SKV_ERROR_INIT;
  EXPECT_EQ(session->prefill_status(large, &detail), SKV_E_BUDGET);
  EXPECT_EQ(detail.status, SKV_E_BUDGET);
  EXPECT_EQ(detail.message, message);
  EXPECT_EQ(session->prefill_status(small, nullptr), SKV_OK);
  prefill(*session, large, host_.random_tokens(1500, 3));
  EXPECT_EQ(session->prefill_status(large, nullptr), SKV_OK);
  EXPECT_EQ(session->length(large), 1540);
}

// Refusing each tier after each unit of a prompt: the sequence stays as it was and the prompt works later.
TEST_P(Limits, running_out_after_any_unit_changes_nothing) {
  const Tokens prompt = host_.random_tokens(120, 6), more = host_.random_tokens(500, 7);
  const auto fresh = host_.session(GetParam().kv);
  const skv_seq want_seq = start(*fresh, prompt);
  prefill(*fresh, want_seq, more);
  const Logits want = kept_logits(*fresh, want_seq);
  engine::StepAllowance one_unit;
  one_unit.max_prefill_tokens = 1;
  for (skv_tier tier = 0; tier < SKV_TIER_COUNT; ++tier) {
    for (const int units : {0, 1, 7, 8, 12, 15}) {
      const std::string what = "tier " + std::to_string(tier) + ", units " + std::to_string(units);
      const auto session = host_.session(GetParam().kv);
      const skv_seq seq = start(*session, prompt);
      const int64_t used = tier_sum(usage_of(*session).used, SKV_TIER_FAST);
      session->append(seq, more);
      for (int i = 0; i < units; ++i) session->step({}, one_unit, nullptr);
      freeze(host_, tier);
      skv_step_result result{};
      session->step({}, {}, &result);
      thaw(host_, tier);
      EXPECT_EQ(result.n_prefills_failed + result.n_prefills_done, 1) << what;
      if (result.n_prefills_failed == 1) {
        ASSERT_EQ(session->length(seq), 120) << what;
        EXPECT_EQ(tier_sum(usage_of(*session).used, SKV_TIER_FAST), used) << what;
        prefill(*session, seq, more);
      }
      expect_same(kept_logits(*session, seq), want, what);
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Limits, testing::ValuesIn(all_policies()), policy_name);

TEST(SessionLimits, a_session_that_cannot_have_its_workspace_is_refused) {
  const Host host{TinyShape{}};
  const int64_t before = host.account().used(SKV_TIER_HOST);
  EXPECT_EQ(status_of([&] {
              host.session(full_kv(SKV_DTYPE_BF16), [](auto& p) { p.limit_bytes[SKV_TIER_HOST] = 1000; });
            }),
            SKV_E_BUDGET);
  EXPECT_EQ(host.account().used(SKV_TIER_HOST), before);
}

}  // namespace
}  // namespace skv::e2e
