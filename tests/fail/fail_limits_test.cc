// Hard limits: what would pass one fails alone with SKV_E_BUDGET, and nothing changed.
#include <cstring>

#include "fail_fixture.h"

namespace failing {

using Limits = WithSession;

TEST_F(Limits, append_that_cannot_fit_is_refused_with_both_numbers) {
  auto budget = sized<skv_budget>();
  const int64_t n = 5000;
  ASSERT_EQ(skv_budget_query(model, nullptr, &n, 1, 0, &budget, nullptr), SKV_OK);
  const uint64_t limit = static_cast<uint64_t>(budget.peak_bytes[SKV_TIER_FAST]) - 1;
  skv_session_params params;
  skv_session* tight = nullptr;
  skv_seq s = 0;
  ASSERT_EQ(skv_session_params_init(&params, sizeof params), SKV_OK);
  params.limit_bytes[SKV_TIER_FAST] = limit;
  ASSERT_EQ(skv_session_create(model, &params, &tight, nullptr), SKV_OK);
  ASSERT_EQ(skv_sequence_open(tight, SKV_AUTO, &s, nullptr), SKV_OK);
  const auto tokens = some_tokens(n);
  skv_error err = make_error();
  EXPECT_EQ(skv_sequence_append(tight, s, tokens.data(), n, &err), SKV_E_BUDGET);
  EXPECT_NE(std::strstr(err.message, std::to_string(limit).c_str()), nullptr) << err.message;
  int64_t queued = -1;
  EXPECT_EQ(skv_sequence_length(tight, s, nullptr, &queued, nullptr), SKV_OK);
  EXPECT_EQ(queued, 0);
  EXPECT_EQ(skv_sequence_append(tight, s, tokens.data(), 500, nullptr), SKV_OK);
  EXPECT_EQ(skv_session_prefill(tight, nullptr, nullptr, nullptr), SKV_OK);
  skv_session_destroy(tight);
}

TEST_F(Limits, a_limit_at_the_predicted_peak_lets_the_prompt_through) {
  for (const int64_t n : {int64_t{700}, int64_t{5000}}) {
    auto budget = sized<skv_budget>();
    ASSERT_EQ(skv_budget_query(model, nullptr, &n, 1, 0, &budget, nullptr), SKV_OK);
    skv_session_params params;
    skv_session* exact = nullptr;
    skv_seq s = 0;
    ASSERT_EQ(skv_session_params_init(&params, sizeof params), SKV_OK);
    for (skv_tier tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      params.limit_bytes[tier] = static_cast<uint64_t>(budget.peak_bytes[tier]);
    }
    ASSERT_EQ(skv_session_create(model, &params, &exact, nullptr), SKV_OK);
    ASSERT_EQ(skv_sequence_open(exact, SKV_AUTO, &s, nullptr), SKV_OK);
    const auto tokens = some_tokens(n);
    skv_error err = make_error();
    EXPECT_EQ(skv_sequence_append(exact, s, tokens.data(), n, &err), SKV_OK) << err.message;
    EXPECT_EQ(skv_session_prefill(exact, nullptr, nullptr, &err), SKV_OK) << err.message;
    auto usage = sized<skv_session_usage>();
    EXPECT_EQ(skv_session_get_usage(exact, &usage, nullptr), SKV_OK);
    for (skv_tier tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      EXPECT_LE(usage.peak_bytes[tier], budget.peak_bytes[tier]) << "tier " << tier;
      int64_t used = 0;
      for (skv_purpose p = 0; p < SKV_PURPOSE_COUNT; ++p) used += usage.used.bytes[tier][p];
      EXPECT_EQ(used, budget.held_bytes[tier]) << "tier " << tier;
    }
    skv_session_destroy(exact);
  }
}

TEST_F(Limits, decode_row_at_the_limit_fails_alone) {
  skv_seq other = 0;
  ASSERT_EQ(skv_sequence_open(session, SKV_AUTO, &other, nullptr), SKV_OK);
  prefill(100);
  // The runtime's limits count as well, and may be tightened at any time.
  auto usage = sized<skv_session_usage>();
  ASSERT_EQ(skv_runtime_set_limit(runtime, 0, SKV_TIER_FAST, 1, nullptr), SKV_OK);
  int steps = 0;
  skv_row r = row(&token);
  do {
    ASSERT_EQ(skv_session_step(session, &r, 1, sizeof r, nullptr, nullptr, nullptr), SKV_OK);
  } while (r.status == SKV_OK && ++steps < 10000);
  EXPECT_EQ(r.status, SKV_E_BUDGET);
  EXPECT_EQ(length(), 100 + steps);
  ASSERT_EQ(skv_session_get_usage(session, &usage, nullptr), SKV_OK);
  ASSERT_EQ(skv_runtime_set_limit(runtime, 0, SKV_TIER_FAST, SKV_UNLIMITED, nullptr), SKV_OK);
  ASSERT_EQ(skv_session_step(session, &r, 1, sizeof r, nullptr, nullptr, nullptr), SKV_OK);
  EXPECT_EQ(r.status, SKV_OK) << "the row changed nothing, so it goes on when there is room";
}

TEST_F(Limits, session_that_cannot_have_its_workspaces) {
  skv_session_params params;
  skv_session* none = nullptr;
  ASSERT_EQ(skv_session_params_init(&params, sizeof params), SKV_OK);
  params.limit_bytes[SKV_TIER_HOST] = 1000;
  EXPECT_EQ(skv_session_create(model, &params, &none, nullptr), SKV_E_BUDGET);
  EXPECT_EQ(none, nullptr);
}

}  // namespace failing
