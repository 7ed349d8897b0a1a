// Public calls hand their work to one of max_concurrent dispatcher threads; only these open OpenMP regions, so a host
// with many threads (Go, thread pools) does not get one OpenMP pool per calling thread.
#pragma once

#include <functional>
#include <memory>

namespace skv {

inline constexpr int kMaxThreads = 1024;
inline constexpr int kMaxConcurrent = 64;

// Cores the process may run on, at least 1.
int available_cores();

class Executor {
 public:
  // threads: OpenMP team size of each dispatcher (0 = cores the process may run on), at most kMaxThreads.
  // Throws Error(SKV_E_INVALID) on bad numbers, Error(SKV_E_NOMEM) if the system gives no thread.
  Executor(int threads, int max_concurrent);
  // Waits for work in progress, callers in the queue included; in a child of fork() it leaks instead of waiting.
  // From one of its own jobs it cannot wait for that job: the dispatcher ends by itself after it.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Runs fn on a dispatcher thread and returns when it is done; what it throws is rethrown here.
  // Blocks while all dispatchers are busy, first come first served. From a dispatcher thread of this executor it
  // calls fn directly; never call it from inside a parallel region. Throws Error(SKV_E_FORKED) in a child of fork().
  void run(const std::function<void()>& fn);

  int threads() const { return threads_; }
  int max_concurrent() const { return max_concurrent_; }

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
  int threads_;
  int max_concurrent_;
};

}  // namespace skv
