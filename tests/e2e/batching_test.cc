// A sequence's numbers do not depend on the company it keeps: other rows, other prompts, how its tokens are handed
// over.
#include <algorithm>

#include "tests/e2e/harness.h"

namespace skv::e2e {
namespace {

// Shared by all tests: making a model takes longer than running it.
const Host& host() {
  static const Host shared(TinyShape{}, 2);
  return shared;
}

struct Script {
  Tokens prompt;
  Tokens forced;  // decoded one by one
};

Script script(int64_t prompt, int64_t forced, uint64_t seed) {
  return {host().random_tokens(prompt, seed), host().random_tokens(forced, seed + 100)};
}

std::vector<Logits> run_alone(const skv_kv_params& kv, const Script& s) {
  const auto session = host().session(kv);
  std::vector<Logits> out;
  const skv_seq seq = start(*session, s.prompt);
  out.push_back(kept_logits(*session, seq));
  for (Logits& logits : decode_each(*session, seq, s.forced)) out.push_back(std::move(logits));
  return out;
}

void expect_same_run(const std::vector<Logits>& got, const std::vector<Logits>& want, const std::string& who) {
  ASSERT_EQ(got.size(), want.size()) << who;
  for (std::size_t i = 0; i < want.size() && !testing::Test::HasFatalFailure(); ++i) {
    expect_same(got[i], want[i], who + ", token " + std::to_string(i));
  }
}

class EveryPolicy : public testing::TestWithParam<PolicyCase> {};

// 40 decoded tokens cross a flush of the compressed ones.
TEST_P(EveryPolicy, sequences_joining_and_leaving_change_no_bit) {
  const Script scripts[] = {script(150, 40, 1), script(37, 30, 2), script(260, 36, 3), script(7, 25, 4)};
  const int join[] = {0, 3, 6, 9};
  const auto session = host().session(GetParam().kv);
  skv_seq seqs[4] = {};
  std::vector<Logits> got[4];
  for (int step = 0; step < 60; ++step) {
    std::vector<Row> rows;
    std::vector<int> owners;
    for (int i = 3; i >= 0; --i) {
      if (step == join[i]) {
        seqs[i] = start(*session, scripts[i].prompt);
        got[i].push_back(kept_logits(*session, seqs[i]));
      }
      const std::size_t at = got[i].size();
      if (step < join[i] || at > scripts[i].forced.size()) continue;
      rows.push_back({seqs[i], {scripts[i].forced[at - 1]}});
      owners.push_back(i);
    }
    if (step % 2 == 1) std::reverse(rows.begin(), rows.end()), std::reverse(owners.begin(), owners.end());
    decode(*session, rows);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      ASSERT_EQ(rows[r].status, SKV_OK) << rows[r].message;
      const int i = owners[r];
      got[i].push_back(rows[r].logits);
      if (got[i].size() > scripts[i].forced.size()) session->close(seqs[i]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    expect_same_run(got[i], run_alone(GetParam().kv, scripts[i]), "sequence " + std::to_string(i));
  }
}

TEST_P(EveryPolicy, prefill_in_slices_beside_decode_rows_changes_no_bit) {
  const Script first = script(140, 30, 5), second = script(300, 12, 6);
  const auto session = host().session(GetParam().kv);
  std::vector<Logits> got_first, got_second;
  const skv_seq a = start(*session, first.prompt);
  got_first.push_back(kept_logits(*session, a));
  const skv_seq b = session->open(SKV_AUTO);
  session->append(b, second.prompt);
  int slices = 0;
  for (const int32_t token : first.forced) {
    Logits logits(static_cast<std::size_t>(host().vocab()));
    skv_row row{};
    row.seq = a, row.tokens = &token, row.n_tokens = 1, row.logits_mode = SKV_LOGITS_LAST;
    row.logits = logits.data(), row.logits_capacity = static_cast<int64_t>(logits.size());
    skv_step_result result{};
    engine::StepAllowance one_unit;
    one_unit.max_prefill_tokens = 1;
    session->step({&row, 1}, one_unit, &result);
    ASSERT_EQ(row.status, SKV_OK);
    EXPECT_EQ(result.n_rows_ok, 1);
    got_first.push_back(logits);
    slices += result.prefill_progress < 1.0;
    if (result.n_prefills_done == 1) got_second.push_back(kept_logits(*session, b));
  }
  EXPECT_EQ(slices, 2 * 5 - 1);  // 300 tokens are 5 blocks of 64, in 2 layers
  ASSERT_EQ(got_second.size(), 1u);
  for (Logits& logits : decode_each(*session, b, second.forced)) got_second.push_back(std::move(logits));
  expect_same_run(got_first, run_alone(GetParam().kv, first), "decoding");
  expect_same_run(got_second, run_alone(GetParam().kv, second), "prefilling");
}

// 12 tokens do not fill the window, so that no flush falls between them.
TEST_P(EveryPolicy, rows_of_several_tokens_equal_one_by_one) {
  // Within a row nothing is flushed: its tokens see the page they fill whole, and later ones by its digest.
  if (GetParam().kv.policy == SKV_POLICY_QUEST) GTEST_SKIP() << "a page of 16 fills within the row";
  const Script s = script(200, 12, 7);
  const auto session = host().session(GetParam().kv);
  const skv_seq together = start(*session, s.prompt), apart = start(*session, s.prompt);
  std::vector<Row> rows{{together, s.forced}};
  decode(*session, rows);
  ASSERT_EQ(rows[0].status, SKV_OK) << rows[0].message;
  Logits want;
  for (const Logits& logits : decode_each(*session, apart, s.forced)) {
    want.insert(want.end(), logits.begin(), logits.end());
  }
  expect_near(rows[0].logits, want, GetParam().kv.dtype == SKV_DTYPE_F32 ? 1e-5 : 2e-2, "12 tokens");
  expect_same(kept_logits(*session, together), Logits(rows[0].logits.end() - host().vocab(), rows[0].logits.end()),
              "kept logits");
}

TEST_P(EveryPolicy, threads_change_no_bit_of_decode) {
  const Host one(TinyShape{}, 1);
  const Script s = script(180, 20, 8);
  const auto session = one.session(GetParam().kv);
  const skv_seq seq = start(*session, s.prompt);
  std::vector<Logits> got{kept_logits(*session, seq)};
  for (Logits& logits : decode_each(*session, seq, s.forced)) got.push_back(std::move(logits));
  expect_same_run(got, run_alone(GetParam().kv, s), "one thread");
}

INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicy, testing::ValuesIn(all_policies()), policy_name);

// Decoding dense sequences equals prefilling them, whatever the pieces.
TEST(FullPolicy, a_prompt_cut_anyhow_gives_the_same) {
  const Tokens prompt = host().random_tokens(230, 9);
  const auto want_session = host().session(full_kv(SKV_DTYPE_F32));
  const skv_seq want_seq = start(*want_session, prompt);
  const Logits want = kept_logits(*want_session, want_seq), want_next = decode_one(*want_session, want_seq, 3);
  const std::vector<std::vector<int64_t>> cuts = {{1}, {229}, {64}, {65, 130}, {3, 4, 100, 228},
                                                  {10, 20, 30, 40, 50}};
  for (const int32_t block : {64, 100, 512}) {
    const auto session = host().session(full_kv(SKV_DTYPE_F32), [&](auto& p) { p.prefill_block_tokens = block; });
    for (const auto& cut : cuts) {
      const skv_seq seq = session->open(SKV_AUTO);
      int64_t from = 0;
      for (std::size_t i = 0; i <= cut.size(); ++i) {
        const int64_t to = i < cut.size() ? cut[i] : static_cast<int64_t>(prompt.size());
        const Tokens piece(prompt.begin() + from, prompt.begin() + to);
        from = to;
        if (i % 2 == 1 && piece.size() <= 64) {
          std::vector<Row> rows{{seq, piece}};
          decode(*session, rows);
          ASSERT_EQ(rows[0].status, SKV_OK) << rows[0].message;
        } else {
          prefill(*session, seq, piece);
        }
      }
      const std::string what = "block " + std::to_string(block) + ", first cut " + std::to_string(cut[0]);
      expect_near(kept_logits(*session, seq), want, 1e-4, what);
      expect_near(decode_one(*session, seq, 3), want_next, 1e-4, what + ", next");
      session->close(seq);
    }
  }
}

TEST(FullPolicy, appends_before_the_turn_comes_are_one_prompt) {
  const Tokens prompt = host().random_tokens(150, 10);
  const auto session = host().session(full_kv(SKV_DTYPE_BF16));
  const skv_seq whole = start(*session, prompt);
  const skv_seq pieces = session->open(SKV_AUTO);
  session->append(pieces, Tokens(prompt.begin(), prompt.begin() + 40));
  session->append(pieces, {});
  session->append(pieces, Tokens(prompt.begin() + 40, prompt.end()));
  EXPECT_EQ(session->queued(pieces), 150);
  session->prefill({});
  EXPECT_EQ(session->length(pieces), 150);
  expect_same(kept_logits(*session, pieces), kept_logits(*session, whole), "150 tokens");
}

TEST(FullPolicy, tokens_appended_while_a_prompt_runs_queue_behind_it) {
  const Tokens prompt = host().random_tokens(200, 11);
  const auto session = host().session(full_kv(SKV_DTYPE_F32));
  const skv_seq a = session->open(SKV_AUTO), b = session->open(SKV_AUTO);
  session->append(a, Tokens(prompt.begin(), prompt.begin() + 130));
  engine::StepAllowance one_unit;
  one_unit.max_prefill_tokens = 1;
  session->step({}, one_unit, nullptr);
  session->append(a, Tokens(prompt.begin() + 130, prompt.end()));
  session->append(b, Tokens(prompt.begin(), prompt.begin() + 10));
  EXPECT_EQ(session->queued(a), 200);
  skv_step_result result{};
  std::vector<int64_t> lengths;
  while (session->queued(a) + session->queued(b) > 0) {
    session->step({}, one_unit, &result);
    if (lengths.empty() || lengths.back() != session->length(a)) lengths.push_back(session->length(a));
    EXPECT_TRUE(session->queued(a) == 0 || session->length(b) == 0) << "the younger prompt overtook";
  }
  EXPECT_EQ(lengths, (std::vector<int64_t>{0, 130, 200}));
  const skv_seq want = start(*session, prompt);
  expect_near(kept_logits(*session, a), kept_logits(*session, want), 1e-4, "two prompts");
}

}  // namespace
}  // namespace skv::e2e
