// Cancel, close and interrupt at any moment: finished work stays, unfinished work never was.
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "tests/e2e/harness.h"

namespace skv::e2e {
namespace {

const Host& host() {
  static const Host shared{TinyShape{}};
  return shared;
}

engine::StepAllowance one_unit() {
  engine::StepAllowance allowance;
  allowance.max_prefill_tokens = 1;
  return allowance;
}

// Scratch grows with the largest work seen and is kept; everything else must be as before.
void expect_same_memory(skv_memory_table got, skv_memory_table want, const std::string& what) {
  got.bytes[SKV_TIER_HOST][SKV_PURPOSE_WORKSPACE] = want.bytes[SKV_TIER_HOST][SKV_PURPOSE_WORKSPACE] = 0;
  EXPECT_EQ(std::memcmp(&got, &want, sizeof got), 0) << what;
}

class Cancel : public testing::TestWithParam<PolicyCase> {};

// From empty, dense and compressed states: cancel after each unit, then go on as if nothing had been.
TEST_P(Cancel, after_any_unit_the_sequence_is_as_before) {
  const Tokens more = host().random_tokens(150, 2), next = host().random_tokens(20, 3);
  constexpr int kUnits = 6;  // 3 blocks in each of 2 layers
  for (const int64_t before : {0, 60, 190}) {
    const Tokens prompt = host().random_tokens(before, 1);
    const auto fresh = host().session(GetParam().kv);
    const skv_seq want_seq = fresh->open(SKV_AUTO);
    prefill(*fresh, want_seq, prompt);
    const std::vector<Logits> want = decode_each(*fresh, want_seq, next);
    for (int units = 0; units < kUnits; ++units) {
      const std::string what = std::to_string(before) + " tokens, after " + std::to_string(units) + " units";
      const auto session = host().session(GetParam().kv);
      const skv_seq seq = session->open(SKV_AUTO);
      prefill(*session, seq, prompt);
      const skv_memory_table memory = usage_of(*session).used;
      const Logits kept = before > 0 ? kept_logits(*session, seq) : Logits();
      session->append(seq, more);
      for (int i = 0; i < units; ++i) session->step({}, one_unit(), nullptr);
      session->cancel(seq);
      ASSERT_EQ(session->length(seq), before) << what;
      EXPECT_EQ(session->queued(seq), 0) << what;
      expect_same_memory(usage_of(*session).used, memory, what);
      if (before > 0) expect_same(kept_logits(*session, seq), kept, what);
      const std::vector<Logits> got = decode_each(*session, seq, next);
      for (std::size_t i = 0; i < want.size(); ++i) {
        expect_same(got[i], want[i], what + ", token " + std::to_string(i));
      }
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(Cancel, closing_a_sequence_mid_prefill_gives_everything_back) {
  const auto session = host().session(GetParam().kv);
  const skv_seq other = start(*session, host().random_tokens(50, 4));
  const skv_memory_table memory = usage_of(*session).used;
  for (int units = 0; units <= 6; ++units) {
    const skv_seq seq = session->open(SKV_AUTO);
    session->append(seq, host().random_tokens(150, 5));
    for (int i = 0; i < units; ++i) session->step({}, one_unit(), nullptr);
    session->close(seq);
    expect_same_memory(usage_of(*session).used, memory, std::to_string(units) + " units");
    EXPECT_EQ(status_of([&] { session->length(seq); }), SKV_E_HANDLE);
  }
  session->prefill({});  // nothing is left to do
  EXPECT_EQ(session->length(other), 50);
}

TEST_P(Cancel, dropping_the_session_mid_prefill_gives_everything_back) {
  const int64_t before = host().account().used(SKV_TIER_FAST) + host().account().used(SKV_TIER_HOST);
  {
    const auto session = host().session(GetParam().kv);
    const skv_seq a = start(*session, host().random_tokens(200, 6));
    session->append(a, host().random_tokens(100, 7));
    session->append(session->open(SKV_AUTO), host().random_tokens(100, 8));
    session->step({}, one_unit(), nullptr);
  }
  EXPECT_EQ(host().account().used(SKV_TIER_FAST) + host().account().used(SKV_TIER_HOST), before);
  EXPECT_EQ(host().account().used(SKV_TIER_SLOW), 0);
}

// Another thread calls interrupt() all the time until the call under test has returned for it.
class Interrupter {
 public:
  explicit Interrupter(engine::Session& session)
      : thread_([this, &session] {
          while (!stop_.load()) session.interrupt();
        }) {}
  double waited_seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  ~Interrupter() {
    stop_.store(true);
    thread_.join();
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST_P(Cancel, prefill_goes_on_after_an_interrupt_from_another_thread) {
  const Tokens prompt = host().random_tokens(300, 9), next = host().random_tokens(5, 10);
  const auto session = host().session(GetParam().kv);
  const skv_seq want_seq = start(*session, prompt);
  const Logits want = kept_logits(*session, want_seq);
  skv_seq seq = 0;
  bool interrupted = false;
  {
    Interrupter interrupter(*session);
    while (!interrupted && interrupter.waited_seconds() < 60) {
      if (seq != 0) session->close(seq);  // it was done before the other thread came
      seq = session->open(SKV_AUTO);
      session->append(seq, prompt);
      interrupted = status_of([&] { session->step({}, {}, nullptr); }) == SKV_E_INTERRUPTED;
    }
  }
  ASSERT_TRUE(interrupted);
  EXPECT_EQ(session->queued(seq), 300);
  session->prefill({});
  expect_same(kept_logits(*session, seq), want, "after the interrupt");
}

TEST_P(Cancel, a_progress_callback_stops_and_prefill_resumes) {
  const Tokens prompt = host().random_tokens(300, 11);
  const auto session = host().session(GetParam().kv);
  const skv_seq want_seq = start(*session, prompt);
  const skv_seq seq = session->open(SKV_AUTO);
  session->append(seq, prompt);
  const auto caller = std::this_thread::get_id();
  int64_t stopped_at = 0, last = 0;
  EXPECT_EQ(status_of([&] {
              session->prefill([&](int64_t done, int64_t total) {
                EXPECT_EQ(std::this_thread::get_id(), caller);
                EXPECT_EQ(total, 600);
                stopped_at = done;
                return done < 200;
              });
            }),
            SKV_E_INTERRUPTED);
  EXPECT_EQ(stopped_at, 256);
  EXPECT_EQ(session->queued(seq), 300);
  session->prefill([&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 600 - 256);
    EXPECT_GT(done, last);
    last = done;
    return true;
  });
  EXPECT_EQ(last, 600 - 256);
  expect_same(kept_logits(*session, seq), kept_logits(*session, want_seq), "resumed");
}

TEST_P(Cancel, an_interrupted_decode_step_changes_nothing) {
  const Tokens prompt = host().random_tokens(200, 12), next = host().random_tokens(30, 13);
  const auto session = host().session(GetParam().kv);
  const skv_seq seq = start(*session, prompt), alone = start(*session, prompt);
  const std::vector<Logits> want = decode_each(*session, alone, next);
  for (std::size_t i = 0; i < next.size(); ++i) {
    skv_memory_table memory{};
    bool interrupted = false;
    {
      Interrupter interrupter(*session);
      Logits logits(static_cast<std::size_t>(host().vocab()));
      skv_row row{};
      row.seq = seq, row.tokens = &next[i], row.n_tokens = 1, row.sample = 1;
      while (!interrupted && interrupter.waited_seconds() < 60) {
        session->truncate(seq, static_cast<int64_t>(200 + i));  // where a step was done before the other thread came
        memory = usage_of(*session).used;
        interrupted = status_of([&] { session->step({&row, 1}, {}, nullptr); }) == SKV_E_INTERRUPTED;
      }
      ASSERT_TRUE(interrupted);
      EXPECT_EQ(row.status, SKV_E_INTERRUPTED);
      EXPECT_EQ(row.sampled_token, -1);
    }
    ASSERT_EQ(session->length(seq), static_cast<int64_t>(200 + i));
    expect_same_memory(usage_of(*session).used, memory, "token " + std::to_string(i));
    expect_same(decode_one(*session, seq, next[i]), want[i], "token " + std::to_string(i));
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Cancel, testing::ValuesIn(all_policies()), policy_name);

}  // namespace
}  // namespace skv::e2e
