// Promises of lib/base/executor.h. Under TSan every team has one thread: libgomp is not instrumented.
#include "lib/base/executor.h"

#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lib/base/status.h"

namespace skv {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr int kTeam = 1;
#else
constexpr int kTeam = 3;
#endif

template <class Fn>
skv_status status_of(Fn&& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.code();
  }
  return SKV_OK;
}

// A door that jobs wait behind.
class Gate {
 public:
  void open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

// True once the thread sleeps in the kernel, which a caller does when its job is in the queue.
bool becomes_idle(long tid) {
  const std::string path = "/proc/self/task/" + std::to_string(tid) + "/stat";
  for (int i = 0; i < 5000; ++i) {
    char state = '?';
    std::FILE* stat = std::fopen(path.c_str(), "r");
    if (stat != nullptr) {
      if (std::fscanf(stat, "%*d (%*[^)]) %c", &state) != 1) state = '?';
      std::fclose(stat);
    }
    if (state == 'S') return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

TEST(Executor, RunsOnADispatcherWithItsOwnTeam) {
  Executor executor(kTeam, 1);
  std::thread::id where;
  int threads = 0;
  int team = 0;
  executor.run([&] {
    where = std::this_thread::get_id();
    threads = omp_get_max_threads();
#pragma omp parallel
    {
#pragma omp single
      team = omp_get_num_threads();
    }
  });
  EXPECT_NE(where, std::this_thread::get_id());
  EXPECT_EQ(threads, kTeam);
  EXPECT_EQ(team, kTeam);
  EXPECT_EQ(executor.threads(), kTeam);
}

TEST(Executor, ManyCallersUseNoMoreThreadsThanDispatchers) {
  Executor executor(1, 2);
  std::mutex mutex;
  std::vector<std::thread::id> seen;
  std::atomic<int> inside{0}, most{0}, runs{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 12; ++c) {
    callers.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        executor.run([&] {
          const int now = ++inside;
          int before = most;
          while (before < now && !most.compare_exchange_weak(before, now)) {
          }
          {
            const std::lock_guard<std::mutex> lock(mutex);
            const auto id = std::this_thread::get_id();
            if (std::find(seen.begin(), seen.end(), id) == seen.end()) seen.push_back(id);
          }
          ++runs;
          --inside;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(runs, 1200);
  EXPECT_LE(most, 2);
  EXPECT_LE(seen.size(), 2u);
}

TEST(Executor, MaxConcurrentJobsReallyRunTogether) {
  Executor executor(1, 3);
  std::mutex mutex;
  std::condition_variable changed;
  int arrived = 0;
  // Each job waits for the other two: with fewer dispatchers this hangs and the test times out.
  const auto job = [&] {
    std::unique_lock<std::mutex> lock(mutex);
    ++arrived;
    changed.notify_all();
    changed.wait(lock, [&] { return arrived == 3; });
  };
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) callers.emplace_back([&] { executor.run(job); });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(arrived, 3);
}

TEST(Executor, CallersAreServedInTheOrderTheyCame) {
  Executor executor(1, 1);
  Gate gate;
  std::vector<int> order;
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c) {
    std::atomic<long> tid{0};
    callers.emplace_back([&, c] {
      tid = syscall(SYS_gettid);
      executor.run([&, c] {
        if (c == 0) gate.wait();
        order.push_back(c);  // one dispatcher: no race
      });
    });
    while (tid == 0) std::this_thread::yield();
    ASSERT_TRUE(becomes_idle(tid));
  }
  gate.open();
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5}));
}

TEST(Executor, CarriesExceptionsBackAndGoesOn) {
  Executor executor(1, 1);
  try {
    executor.run([] { fail(SKV_E_BUDGET, "limit %d", 7); });
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), SKV_E_BUDGET);
    EXPECT_STREQ(error.what(), "limit 7");
  }
  EXPECT_THROW(executor.run([] { throw std::out_of_range("x"); }), std::out_of_range);
  EXPECT_THROW(executor.run([] { throw 42; }), int);
  bool ran = false;
  executor.run([&] { ran = true; });
  EXPECT_TRUE(ran);
}

TEST(Executor, EachOfManyCallersGetsItsOwnException) {
  Executor executor(1, 3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 8; ++c) {
    callers.emplace_back([&, c] {
      for (int i = 0; i < 50; ++i) {
        try {
          executor.run([c, i] { throw Error(SKV_E_DATA, "m", c * 1000 + i); });
          ++wrong;
        } catch (const Error& error) {
          if (error.native() != c * 1000 + i) ++wrong;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Executor, NestedRunStaysOnTheSameThread) {
  Executor executor(1, 1);
  std::thread::id outer, inner;
  bool thrown = false;
  executor.run([&] {
    outer = std::this_thread::get_id();
    executor.run([&] { inner = std::this_thread::get_id(); });
    try {
      executor.run([] { throw std::runtime_error("inner"); });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
  });
  EXPECT_EQ(outer, inner);
  EXPECT_TRUE(thrown);
}

TEST(Executor, OneExecutorMayCallAnother) {
  Executor first(1, 1), second(1, 1);
  std::thread::id outer, inner;
  first.run([&] {
    outer = std::this_thread::get_id();
    second.run([&] { inner = std::this_thread::get_id(); });
  });
  EXPECT_NE(outer, inner);
}

TEST(Executor, RefusesBadNumbers) {
  EXPECT_EQ(status_of([] { Executor(-1, 1); }), SKV_E_INVALID);
  EXPECT_EQ(status_of([] { Executor(kMaxThreads + 1, 1); }), SKV_E_INVALID);
  EXPECT_EQ(status_of([] { Executor(1, 0); }), SKV_E_INVALID);
  EXPECT_EQ(status_of([] { Executor(1, kMaxConcurrent + 1); }), SKV_E_INVALID);
}

TEST(Executor, ZeroThreadsMeansTheCoresOfTheAffinityMask) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(available_cores(), CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  std::thread([first] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(available_cores(), 1);
    EXPECT_EQ(Executor(0, 1).threads(), 1);
  }).join();
}

TEST(Executor, HostSignalsStayOffDispatchersAndTheCallersMaskIsKept) {
  sigset_t before, inside, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  Executor executor(1, 1);
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  executor.run([&] { pthread_sigmask(SIG_SETMASK, nullptr, &inside); });
  EXPECT_EQ(sigismember(&before, SIGUSR1), sigismember(&after, SIGUSR1));
  EXPECT_EQ(sigismember(&inside, SIGUSR1), 1);
  EXPECT_EQ(sigismember(&inside, SIGALRM), 1);
  EXPECT_EQ(sigismember(&inside, SIGSEGV), 0);
}

TEST(Executor, DestructionWaitsForRunningAndQueuedCalls) {
  auto executor = std::make_unique<Executor>(1, 1);
  Executor* raw = executor.get();
  Gate gate;
  std::atomic<int> done{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) {
    std::atomic<long> tid{0};
    callers.emplace_back([&] {
      tid = syscall(SYS_gettid);
      raw->run([&] {
        gate.wait();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        ++done;
      });
    });
    while (tid == 0) std::this_thread::yield();
    ASSERT_TRUE(becomes_idle(tid));
  }
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    gate.open();
  });
  executor.reset();
  EXPECT_EQ(done, 3);
  opener.join();
  for (std::thread& caller : callers) caller.join();
}

TEST(Executor, MayBeDestroyedByItsOwnJob) {
  auto executor = std::make_unique<Executor>(1, 2);
  Executor* raw = executor.get();
  bool after = false;
  raw->run([&] {
    executor.reset();
    after = true;
  });
  EXPECT_TRUE(after);
}

// Runs body in a child of fork() that has 20 seconds; 0 if body returned true.
template <class Fn>
int in_child(Fn&& body) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGALRM, SIG_DFL);
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, nullptr);
    alarm(20);
    _exit(body() ? 0 : 1);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child ? status : -1;
}

TEST(Executor, AChildOfForkIsRefusedAndDoesNotHang) {
  auto executor = std::make_unique<Executor>(1, 2);
  executor->run([] {});
  EXPECT_EQ(in_child([&] {
    bool ran = false;
    const bool refused = status_of([&] { executor->run([&] { ran = true; }); }) == SKV_E_FORKED;
    executor.reset();
    return refused && !ran;
  }), 0);
  bool ran = false;
  executor->run([&] { ran = true; });
  EXPECT_TRUE(ran);
}

TEST(Executor, ForkWhileADispatcherWorksDoesNotHangTheChild) {
  auto executor = std::make_unique<Executor>(1, 1);
  Gate gate;
  std::atomic<bool> started{false};
  std::thread caller([&, raw = executor.get()] {
    raw->run([&] {
      started = true;
      gate.wait();
    });
  });
  while (!started) std::this_thread::yield();
  EXPECT_EQ(in_child([&] {
    executor.reset();
    return true;
  }), 0);
  gate.open();
  caller.join();
}

TEST(Executor, ForkInsideAJobIsRefusedInTheChildToo) {
  Executor executor(1, 1);
  int status = -1;
  executor.run([&] {
    status = in_child([&] { return status_of([&] { executor.run([] {}); }) == SKV_E_FORKED; });
  });
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace skv
