// Handles, lengths, logits, sampling, truncate and the rules of a row.
#include <algorithm>
#include <cmath>
#include <set>

#include "tests/e2e/harness.h"

namespace skv::e2e {
namespace {

const Host& host() {
  static const Host shared{TinyShape{}};
  return shared;
}

std::unique_ptr<engine::Session> full_session(const AdjustSession& adjust = {}) {
  return host().session(full_kv(SKV_DTYPE_F32), adjust);
}

TEST(Handles, stale_and_foreign_ones_are_recognised) {
  const auto session = full_session([](auto& p) { p.max_sequences = 3; });
  const skv_seq a = session->open(SKV_AUTO), b = session->open(SKV_AUTO), c = session->open(SKV_AUTO);
  EXPECT_NE(a, 0u);
  EXPECT_EQ(status_of([&] { session->open(SKV_AUTO); }), SKV_E_LIMIT);
  session->close(b);
  EXPECT_EQ(status_of([&] { session->close(b); }), SKV_E_HANDLE);
  const skv_seq d = session->open(SKV_AUTO);
  EXPECT_EQ((std::set<skv_seq>{a, b, c, d}).size(), 4u) << "a closed handle came back";
  EXPECT_EQ(session->length(d), 0);
  for (const skv_seq bad : {b, skv_seq{0}, ~skv_seq{0}, a + 100, a ^ (skv_seq{1} << 40)}) {
    EXPECT_EQ(status_of([&] { session->length(bad); }), SKV_E_HANDLE) << bad;
    EXPECT_EQ(status_of([&] { session->append(bad, {}); }), SKV_E_HANDLE) << bad;
  }
}

TEST(Handles, max_tokens_bounds_prompt_and_decode) {
  const auto session = full_session();
  EXPECT_EQ(status_of([&] { session->open(0); }), SKV_E_INVALID);
  EXPECT_EQ(status_of([&] { session->open(-2); }), SKV_E_INVALID);
  EXPECT_EQ(status_of([&] { session->open(16385); }), SKV_E_LIMIT);
  const skv_seq seq = session->open(20);
  std::string message;
  EXPECT_EQ(status_of([&] { session->append(seq, host().random_tokens(21, 1)); }, &message), SKV_E_LIMIT);
  EXPECT_NE(message.find("21"), std::string::npos);
  EXPECT_NE(message.find("20"), std::string::npos);
  session->append(seq, host().random_tokens(18, 1));
  EXPECT_EQ(status_of([&] { session->append(seq, host().random_tokens(3, 1)); }), SKV_E_LIMIT);
  session->prefill({});
  std::vector<Row> rows{{seq, {1, 2, 3}}};
  decode(*session, rows);
  EXPECT_EQ(rows[0].status, SKV_E_LIMIT);
  rows = {{seq, {1, 2}}};
  decode(*session, rows);
  EXPECT_EQ(rows[0].status, SKV_OK);
}

TEST(Append, names_the_bad_token) {
  const auto session = full_session();
  const skv_seq seq = session->open(SKV_AUTO);
  for (const int32_t bad : {-1, host().vocab()}) {
    std::string message;
    EXPECT_EQ(status_of([&] { session->append(seq, Tokens{1, 2, bad, 3}); }, &message), SKV_E_INVALID);
    EXPECT_NE(message.find("token 2"), std::string::npos) << message;
  }
  EXPECT_EQ(session->queued(seq), 0);
}

// Every way in which a row can be wrong, all in one step, beside rows that are right.
TEST(Rows, each_has_its_own_status) {
  const auto session = full_session();
  const skv_seq good = start(*session, host().random_tokens(20, 1)), queued = session->open(SKV_AUTO);
  const skv_seq other = start(*session, host().random_tokens(30, 2));
  const skv_seq twin = start(*session, host().random_tokens(20, 1));
  const Logits want = decode_one(*session, twin, 7);
  session->append(queued, Tokens{1, 2, 3});
  const auto vocab = static_cast<std::size_t>(host().vocab());
  Logits logits(2 * vocab);
  const int32_t tokens[2] = {7, 8}, bad_token[2] = {7, host().vocab()};
  const auto row = [&](skv_seq seq) {
    skv_row r{};
    r.seq = seq, r.tokens = tokens, r.n_tokens = 1, r.sampled_token = 77;
    return r;
  };
  std::vector<std::pair<skv_row, skv_status>> cases;
  const auto add = [&](skv_status status, skv_seq seq, const std::function<void(skv_row&)>& spoil) {
    skv_row r = row(seq);
    spoil(r);
    cases.emplace_back(r, status);
  };
  add(SKV_E_HANDLE, 12345, [](skv_row&) {});
  add(SKV_E_STATE, queued, [](skv_row&) {});
  add(SKV_E_INVALID, other, [](skv_row& r) { r.n_tokens = 0; });
  add(SKV_E_INVALID, other, [](skv_row& r) { r.n_tokens = 65; });
  add(SKV_E_INVALID, other, [](skv_row& r) { r.tokens = nullptr; });
  add(SKV_E_INVALID, other, [](skv_row& r) { r.logits_mode = 3; });
  add(SKV_E_INVALID, other, [](skv_row& r) { r.sample = 2; });
  add(SKV_E_INVALID, other, [](skv_row& r) { r.reserved = 1; });
  add(SKV_E_INVALID, other, [](skv_row& r) { r.logits_mode = SKV_LOGITS_ALL; });
  add(SKV_E_INVALID, other, [&](skv_row& r) { r.tokens = bad_token, r.n_tokens = 2; });
  add(SKV_E_SPACE, other, [&](skv_row& r) {
    r.n_tokens = 2, r.logits_mode = SKV_LOGITS_ALL, r.logits = logits.data();
    r.logits_capacity = static_cast<int64_t>(2 * vocab) - 1;
  });
  add(SKV_OK, good, [&](skv_row& r) {
    r.logits_mode = SKV_LOGITS_LAST, r.logits = logits.data(), r.logits_capacity = static_cast<int64_t>(vocab);
  });
  add(SKV_E_INVALID, good, [](skv_row&) {});  // a second row of the same sequence
  add(SKV_OK, other, [](skv_row&) {});
  std::vector<skv_row> rows;
  std::vector<skv_error> errors(cases.size(), skv_error{sizeof(skv_error), 0, 0, {0}});
  for (std::size_t i = 0; i < cases.size(); ++i) {
    rows.push_back(cases[i].first);
    rows.back().err = &errors[i];
  }
  engine::StepAllowance none;
  none.max_prefill_tokens = 0;
  skv_step_result result{};
  session->step(rows, none, &result);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(rows[i].status, cases[i].second) << "row " << i << ": " << errors[i].message;
    EXPECT_EQ(rows[i].sampled_token, -1) << "row " << i;
    EXPECT_EQ(errors[i].status, cases[i].second) << "row " << i;
    EXPECT_EQ(errors[i].message[0] != '\0', cases[i].second != SKV_OK) << "row " << i;
  }
  EXPECT_EQ(result.n_rows_ok, 2);
  EXPECT_EQ(result.queued_tokens, 3);
  EXPECT_EQ(session->length(good), 21);
  EXPECT_EQ(session->length(other), 31);
  expect_same(Logits(logits.begin(), logits.begin() + host().vocab()), want, "the row that proceeds");
}

TEST(Rows, too_many_fail_the_whole_call) {
  const auto session = full_session([](auto& p) { p.max_rows = 8; });
  const skv_seq a = start(*session, host().random_tokens(5, 1)), b = start(*session, host().random_tokens(5, 2));
  std::vector<Row> rows{{a, host().random_tokens(5, 3)}, {b, host().random_tokens(4, 4)}};
  EXPECT_EQ(status_of([&] { decode(*session, rows); }), SKV_E_INVALID);
  EXPECT_EQ(session->length(a), 5);
  rows[1].tokens.pop_back();
  decode(*session, rows);
  EXPECT_EQ(session->length(a), 10);
  std::vector<skv_row> many(65);
  EXPECT_EQ(status_of([&] { session->step(many, {}, nullptr); }), SKV_E_INVALID);
  EXPECT_EQ(many[64].status, SKV_E_INVALID);
}

TEST(Rows, logits_modes_keep_what_they_say) {
  const auto session = full_session();
  const skv_seq seq = session->open(SKV_AUTO);
  EXPECT_EQ(status_of([&] { kept_logits(*session, seq); }), SKV_E_STATE);
  EXPECT_EQ(status_of([&] { session->sample(seq); }), SKV_E_STATE);
  prefill(*session, seq, host().random_tokens(10, 1));
  EXPECT_EQ(kept_logits(*session, seq).size(), static_cast<std::size_t>(host().vocab()));
  const int32_t token = 3;
  skv_row row{};
  row.seq = seq, row.tokens = &token, row.n_tokens = 1;
  session->step({&row, 1}, {}, nullptr);
  EXPECT_EQ(status_of([&] { kept_logits(*session, seq); }), SKV_E_STATE) << "they are of an older token";
  row.sample = 1;
  session->step({&row, 1}, {}, nullptr);
  const Logits kept = kept_logits(*session, seq);
  EXPECT_EQ(row.sampled_token, std::max_element(kept.begin(), kept.end()) - kept.begin());
}

TEST(Sampler, same_seed_same_tokens_whoever_samples) {
  const auto session = full_session();
  kernels::SampleParams params;
  params.temperature = 1.5f;
  const auto run = [&](uint64_t seed, bool in_step) {
    params.seed = seed;
    const skv_seq seq = start(*session, host().random_tokens(30, 1));
    session->set_sampler(seq, params);
    Tokens tokens{session->sample(seq)};
    while (tokens.size() < 24) {
      skv_row row{};
      row.seq = seq, row.tokens = &tokens.back(), row.n_tokens = 1, row.logits_mode = SKV_LOGITS_LAST;
      row.sample = in_step;
      session->step({&row, 1}, {}, nullptr);
      tokens.push_back(in_step ? row.sampled_token : session->sample(seq));
    }
    session->close(seq);
    return tokens;
  };
  EXPECT_EQ(run(5, true), run(5, true));
  EXPECT_EQ(run(5, true), run(5, false));
  EXPECT_NE(run(5, true), run(6, true));
}

TEST(Sampler, setting_it_restarts_the_counter) {
  const auto session = full_session();
  const skv_seq seq = start(*session, host().random_tokens(30, 1));
  kernels::SampleParams params;
  params.temperature = 2.0f;
  params.seed = 9;
  session->set_sampler(seq, params);
  Tokens first, again;
  for (int i = 0; i < 16; ++i) first.push_back(session->sample(seq));
  session->set_sampler(seq, params);
  for (int i = 0; i < 16; ++i) again.push_back(session->sample(seq));
  EXPECT_EQ(first, again);
  EXPECT_GT((std::set<int32_t>(first.begin(), first.end())).size(), 1u) << "the counter does not count";
}

TEST(Sampler, penalty_counts_every_token_of_the_sequence) {
  const auto session = full_session();
  Tokens prompt = host().random_tokens(10, 1);
  const skv_seq seq = session->open(SKV_AUTO);
  kernels::SampleParams params;
  params.repetition_penalty = 1e9f;
  session->set_sampler(seq, params);
  prefill(*session, seq, prompt);
  std::set<int32_t> seen(prompt.begin(), prompt.end());
  // Positive logits of seen ids fall to nothing and negative ones far below: greedy never repeats while ids with a
  // positive logit are left.
  for (int i = 0; i < 20; ++i) {
    const int32_t token = session->sample(seq);
    EXPECT_TRUE(seen.insert(token).second) << "token " << token << " came again at " << i;
    decode_one(*session, seq, token);
  }
}

TEST(Sampler, refuses_what_is_out_of_range) {
  const auto session = full_session();
  const skv_seq seq = session->open(SKV_AUTO);
  const auto refused = [&](auto&& spoil) {
    kernels::SampleParams params;
    spoil(params);
    return status_of([&] { session->set_sampler(seq, params); });
  };
  EXPECT_EQ(refused([](auto& p) { p.temperature = -0.1f; }), SKV_E_INVALID);
  EXPECT_EQ(refused([](auto& p) { p.temperature = NAN; }), SKV_E_INVALID);
  EXPECT_EQ(refused([](auto& p) { p.top_k = -1; }), SKV_E_INVALID);
  EXPECT_EQ(refused([](auto& p) { p.top_p = 0.0f; }), SKV_E_INVALID);
  EXPECT_EQ(refused([](auto& p) { p.min_p = 1.5f; }), SKV_E_INVALID);
  EXPECT_EQ(refused([](auto& p) { p.repetition_penalty = 0.0f; }), SKV_E_INVALID);
  EXPECT_EQ(refused([](auto&) {}), SKV_OK);
}

class Truncate : public testing::TestWithParam<PolicyCase> {};

TEST_P(Truncate, then_decode_equals_a_fresh_sequence) {
  const auto session = host().session(GetParam().kv);
  const Tokens prompt = host().random_tokens(200, 1), dropped = host().random_tokens(20, 2);
  const Tokens next = host().random_tokens(15, 3);
  const skv_seq cut = start(*session, prompt), fresh = start(*session, prompt);
  decode_each(*session, cut, dropped);
  decode_each(*session, fresh, Tokens(dropped.begin(), dropped.begin() + 8));
  session->truncate(cut, 220);
  EXPECT_FALSE(kept_logits(*session, cut).empty()) << "the length was the present one";
  session->truncate(cut, 208);
  EXPECT_EQ(session->length(cut), 208);
  EXPECT_EQ(status_of([&] { kept_logits(*session, cut); }), SKV_E_STATE);
  const std::vector<Logits> want = decode_each(*session, fresh, next), got = decode_each(*session, cut, next);
  for (std::size_t i = 0; i < next.size(); ++i) expect_same(got[i], want[i], "token " + std::to_string(i));
}

TEST_P(Truncate, to_nothing_equals_an_empty_sequence) {
  const auto session = host().session(GetParam().kv);
  const skv_seq empty = session->open(SKV_AUTO);
  const int64_t before = usage_of(*session).used.bytes[SKV_TIER_FAST][SKV_PURPOSE_EXACT_KV];
  const skv_seq cut = start(*session, host().random_tokens(300, 1));
  session->truncate(cut, 0);
  EXPECT_EQ(usage_of(*session).used.bytes[SKV_TIER_FAST][SKV_PURPOSE_EXACT_KV], before);
  const Tokens prompt = host().random_tokens(170, 2);
  prefill(*session, cut, prompt);
  prefill(*session, empty, prompt);
  expect_same(kept_logits(*session, cut), kept_logits(*session, empty), "prompt");
  expect_same(decode_one(*session, cut, 4), decode_one(*session, empty, 4), "next");
}

TEST_P(Truncate, refuses_longer_and_queued) {
  const auto session = host().session(GetParam().kv);
  const skv_seq seq = start(*session, host().random_tokens(50, 1));
  EXPECT_EQ(status_of([&] { session->truncate(seq, 51); }), SKV_E_INVALID);
  EXPECT_EQ(status_of([&] { session->truncate(seq, -1); }), SKV_E_INVALID);
  session->append(seq, Tokens{1, 2});
  EXPECT_EQ(status_of([&] { session->truncate(seq, 10); }), SKV_E_STATE);
  session->cancel(seq);
  session->truncate(seq, 10);
  EXPECT_EQ(session->length(seq), 10);
}

INSTANTIATE_TEST_SUITE_P(Policies, Truncate, testing::ValuesIn(all_policies()), policy_name);

TEST(SessionParams, each_field_is_checked_by_name) {
  const auto refused = [](const AdjustSession& spoil, const char* field, skv_status status = SKV_E_INVALID) {
    std::string message;
    EXPECT_EQ(status_of([&] { host().config(full_kv(SKV_DTYPE_BF16), spoil); }, &message), status) << field;
    EXPECT_NE(message.find(field), std::string::npos) << message;
  };
  refused([](auto& p) { p.device = 1; }, "device", SKV_E_NO_DEVICE);
  refused([](auto& p) { p.max_sequences = 0; }, "max_sequences");
  refused([](auto& p) { p.max_sequences = 65537; }, "max_sequences");
  refused([](auto& p) { p.max_rows = 65; }, "max_rows");
  refused([](auto& p) { p.prefill_block_tokens = 63; }, "prefill_block_tokens");
}

TEST(SessionParams, metadata_only_models_have_no_sessions) {
  const TinyModel files{TinyShape{}};
  const Host metadata(files.path(), 1, true);
  EXPECT_EQ(status_of([&] { metadata.session(full_kv(SKV_DTYPE_BF16)); }), SKV_E_STATE);
}

}  // namespace
}  // namespace skv::e2e
