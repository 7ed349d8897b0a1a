// A session used by two threads, destroyed or interrupted while it works, sessions side by side, and fork().
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "fail_fixture.h"

namespace failing {

using Concurrency = WithSession;
using namespace std::chrono_literals;

// Stays in the session until let go, from within a progress callback.
struct Gate {
  std::atomic<bool> inside{false}, open{false};
  static int32_t wait(void* user, int64_t, int64_t) {
    auto* gate = static_cast<Gate*>(user);
    gate->inside = true;
    while (!gate->open) std::this_thread::sleep_for(1ms);
    return 0;
  }
  void wait_inside() const {
    while (!inside) std::this_thread::sleep_for(1ms);
  }
};

TEST_F(Concurrency, a_second_thread_in_a_session_is_told_so) {
  append(300);
  Gate gate;
  skv_status first = SKV_E_INTERNAL;
  std::thread worker([&] { first = skv_session_prefill(session, Gate::wait, &gate, nullptr); });
  gate.wait_inside();
  skv_seq other = 0;
  auto stats = sized<skv_kv_stats>();
  auto usage = sized<skv_session_usage>();
  skv_row r = row(&token);
  EXPECT_EQ(skv_sequence_open(session, SKV_AUTO, &other, nullptr), SKV_E_BUSY);
  EXPECT_EQ(skv_sequence_append(session, seq, &token, 1, nullptr), SKV_E_BUSY);
  EXPECT_EQ(skv_sequence_cancel(session, seq, nullptr), SKV_E_BUSY);
  EXPECT_EQ(skv_sequence_truncate(session, seq, 0, nullptr), SKV_E_BUSY);
  EXPECT_EQ(skv_sequence_sample(session, seq, &token, nullptr), SKV_E_BUSY);
  EXPECT_EQ(skv_sequence_stats(session, seq, &stats, nullptr), SKV_E_BUSY);
  EXPECT_EQ(skv_session_get_usage(session, &usage, nullptr), SKV_E_BUSY);
  EXPECT_EQ(skv_session_prefill(session, nullptr, nullptr, nullptr), SKV_E_BUSY);
  EXPECT_EQ(skv_session_step(session, &r, 1, sizeof r, nullptr, nullptr, nullptr), SKV_E_BUSY);
  EXPECT_EQ(r.status, SKV_E_BUSY);
  EXPECT_EQ(skv_sequence_close(session, seq, nullptr), SKV_E_BUSY);
  gate.open = true;
  worker.join();
  EXPECT_EQ(first, SKV_OK);
  EXPECT_EQ(length(), 300) << "and nothing of it was disturbed";
}

TEST_F(Concurrency, interrupt_stops_a_prefill_which_can_go_on) {
  append(2000);
  Gate gate;
  skv_status first = SKV_OK;
  std::thread worker([&] { first = skv_session_prefill(session, Gate::wait, &gate, nullptr); });
  gate.wait_inside();
  skv_session_interrupt(session);
  gate.open = true;
  worker.join();
  EXPECT_EQ(first, SKV_E_INTERRUPTED);
  EXPECT_EQ(length(), 0);
  EXPECT_EQ(skv_session_prefill(session, nullptr, nullptr, nullptr), SKV_OK) << "an interrupt is not remembered";
  EXPECT_EQ(length(), 2000);
}

TEST_F(Concurrency, progress_can_cancel) {
  append(2000);
  const auto refuse = [](void*, int64_t, int64_t) -> int32_t { return 1; };
  EXPECT_EQ(skv_session_prefill(session, refuse, nullptr, nullptr), SKV_E_INTERRUPTED);
  EXPECT_EQ(skv_sequence_cancel(session, seq, nullptr), SKV_OK);
  int64_t queued = -1;
  EXPECT_EQ(skv_sequence_length(session, seq, nullptr, &queued, nullptr), SKV_OK);
  EXPECT_EQ(queued, 0);
}

TEST_F(Concurrency, progress_runs_on_the_calling_thread) {
  append(600);
  std::thread::id seen;
  const auto note = [](void* user, int64_t, int64_t) -> int32_t {
    *static_cast<std::thread::id*>(user) = std::this_thread::get_id();
    return 0;
  };
  EXPECT_EQ(skv_session_prefill(session, note, &seen, nullptr), SKV_OK);
  EXPECT_EQ(seen, std::this_thread::get_id());
}

TEST_F(Concurrency, destroy_interrupts_and_waits_for_the_call) {
  append(30000);  // far longer than the test may take
  std::atomic<int> calls{0};
  std::atomic<bool> returned{false};
  const auto count = [](void* user, int64_t, int64_t) -> int32_t {
    ++*static_cast<std::atomic<int>*>(user);
    return 0;
  };
  skv_status first = SKV_OK;
  std::thread worker([&] {
    first = skv_session_prefill(session, count, &calls, nullptr);
    returned = true;
  });
  while (calls < 1) std::this_thread::sleep_for(1ms);
  skv_session_destroy(session);
  const int at_destroy = calls;
  EXPECT_EQ(skv_session_prefill(session, nullptr, nullptr, nullptr), SKV_E_HANDLE);
  worker.join();
  EXPECT_EQ(first, SKV_E_INTERRUPTED);
  EXPECT_EQ(calls, at_destroy) << "the call went on after destroy had returned";
}

skv_session* g_signalled = nullptr;

TEST_F(Concurrency, interrupt_from_a_signal_handler) {
  append(30000);
  g_signalled = session;
  struct sigaction action {}, before {};
  action.sa_handler = [](int) { skv_session_interrupt(g_signalled); };
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  const auto raise_it = [](void*, int64_t done, int64_t) -> int32_t {
    if (done > 0) raise(SIGUSR1);
    return 0;
  };
  EXPECT_EQ(skv_session_prefill(session, raise_it, nullptr, nullptr), SKV_E_INTERRUPTED);
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
}

TEST_F(Concurrency, sessions_run_in_parallel_with_the_results_of_one_alone) {
  constexpr int kThreads = 4;
  std::array<std::vector<int32_t>, kThreads> said;
  const auto talk = [&](int i) {
    skv_session* mine = nullptr;
    skv_seq s = 0;
    const auto prompt = some_tokens(200);
    int32_t next = 0;
    ASSERT_EQ(skv_session_create(model, nullptr, &mine, nullptr), SKV_OK);
    ASSERT_EQ(skv_sequence_open(mine, SKV_AUTO, &s, nullptr), SKV_OK);
    ASSERT_EQ(skv_sequence_append(mine, s, prompt.data(), 200, nullptr), SKV_OK);
    ASSERT_EQ(skv_session_prefill(mine, nullptr, nullptr, nullptr), SKV_OK);
    ASSERT_EQ(skv_sequence_sample(mine, s, &next, nullptr), SKV_OK);
    for (int step = 0; step < 20; ++step) {
      said[static_cast<std::size_t>(i)].push_back(next);
      skv_row r = row_of(s, &next);
      r.sample = 1;
      ASSERT_EQ(skv_session_step(mine, &r, 1, sizeof r, nullptr, nullptr, nullptr), SKV_OK);
      ASSERT_EQ(r.status, SKV_OK);
      next = r.sampled_token;
    }
    skv_session_destroy(mine);
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(talk, i);
  for (std::thread& thread : threads) thread.join();
  for (const auto& one : said) EXPECT_EQ(one, said[0]);
  EXPECT_EQ(said[0].size(), 20u);
}

TEST_F(Concurrency, handles_made_and_dropped_by_many_threads) {
  std::atomic<int> bad{0};
  std::atomic<skv_model*> shared{nullptr};
  const auto churn = [&] {
    for (int i = 0; i < 100; ++i) {
      skv_model* made = nullptr;
      skv_model_params params;
      skv_model_params_init(&params, sizeof params);
      params.metadata_only = 1;
      if (skv_model_open(runtime, directory.path.c_str(), &params, &made, nullptr) != SKV_OK) ++bad;
      // Whoever had published one loses it under the feet of those that read it.
      skv_model_destroy(shared.exchange(made));
      auto info = sized<skv_model_info>();
      const skv_status status = skv_model_get_info(shared, &info, nullptr);
      if (status == SKV_OK ? info.n_layers != 2 : status != SKV_E_HANDLE) ++bad;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(churn);
  for (std::thread& thread : threads) thread.join();
  skv_model_destroy(shared);
  EXPECT_EQ(bad, 0);
}

TEST_F(Concurrency, child_of_fork_is_told_so_and_may_begin_anew) {
  prefill(20);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int32_t n = 0;
    auto info = sized<skv_model_info>();
    skv_row r = row(&token);
    int failed = 0;
    failed |= (skv_runtime_device_count(runtime, &n, nullptr) != SKV_E_FORKED) << 0;
    failed |= (skv_model_get_info(model, &info, nullptr) != SKV_E_FORKED) << 1;
    failed |= (skv_session_step(session, &r, 1, sizeof r, nullptr, nullptr, nullptr) != SKV_E_FORKED) << 2;
    failed |= (r.status != SKV_E_FORKED) << 3;
    skv_session_interrupt(session);
    skv_session_destroy(session);
    skv_model_destroy(model);
    skv_runtime_destroy(runtime);
    failed |= (skv_session_prefill(session, nullptr, nullptr, nullptr) != SKV_E_HANDLE) << 4;
    skv_runtime* fresh = make_runtime();
    skv_model* opened = nullptr;
    failed |= (skv_model_open(fresh, directory.path.c_str(), nullptr, &opened, nullptr) != SKV_OK) << 5;
    _exit(failed);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0) << "bits say which check failed";
  skv_row r = row(&token);
  EXPECT_EQ(skv_session_step(session, &r, 1, sizeof r, nullptr, nullptr, nullptr), SKV_OK) << "the parent goes on";
}

TEST_F(Concurrency, child_of_fork_during_a_call_does_not_hang) {
  append(300);
  Gate gate;
  std::thread worker([&] { skv_session_prefill(session, Gate::wait, &gate, nullptr); });
  gate.wait_inside();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    const bool told = skv_session_prefill(session, nullptr, nullptr, nullptr) == SKV_E_FORKED;
    skv_session_destroy(session);
    skv_model_destroy(model);
    skv_runtime_destroy(runtime);
    _exit(told ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  gate.open = true;
  worker.join();
}

}  // namespace failing
