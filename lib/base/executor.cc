#include "lib/base/executor.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "lib/base/status.h"

namespace skv {

namespace {

// Lives on the stack of the caller, who waits until it is done.
struct Job {
  const std::function<void()>* fn;
  std::exception_ptr error;
  std::condition_variable finished;
  bool done = false;
};

// Host signal handlers belong on host threads. Faults and profiling ticks belong to the thread that has them.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    for (int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF}) sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

// Which executor the calling thread dispatches for.
thread_local const void* t_dispatcher_of = nullptr;

}  // namespace

// Shared by the owner, the dispatchers and the callers inside run(), so whoever leaves last finds it alive.
struct Executor::Impl {
  const pid_t pid = getpid();
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Job*> queue;
  bool stopping = false;
  std::vector<std::thread> dispatchers;

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    for (std::thread& dispatcher : dispatchers) {
      if (dispatcher.get_id() == std::this_thread::get_id()) {
        dispatcher.detach();
      } else {
        dispatcher.join();
      }
    }
  }

  void dispatch(int threads) {
    t_dispatcher_of = this;
    omp_set_num_threads(threads);
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      Job* job = queue.front();
      queue.pop_front();
      lock.unlock();
      std::exception_ptr error;
      try {
        (*job->fn)();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      job->error = std::move(error);
      job->done = true;
      job->finished.notify_one();  // under the lock: the caller destroys the job as soon as it may look
    }
  }
};

int available_cores() {
  // The kernel's mask may be wider than cpu_set_t: EINVAL then.
  for (std::size_t cpus = CPU_SETSIZE; cpus <= (std::size_t{1} << 20); cpus *= 2) {
    const std::size_t bytes = CPU_ALLOC_SIZE(cpus);
    std::vector<unsigned long> mask(bytes / sizeof(unsigned long));
    auto* set = reinterpret_cast<cpu_set_t*>(mask.data());
    if (sched_getaffinity(0, bytes, set) == 0) return std::max(1, CPU_COUNT_S(bytes, set));
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

Executor::Executor(int threads, int max_concurrent) : threads_(threads), max_concurrent_(max_concurrent) {
  if (threads < 0 || threads > kMaxThreads) {
    fail(SKV_E_INVALID, "threads is %d; 0 (all cores) to %d are allowed", threads, kMaxThreads);
  }
  if (max_concurrent < 1 || max_concurrent > kMaxConcurrent) {
    fail(SKV_E_INVALID, "max_concurrent is %d; 1 to %d are allowed", max_concurrent, kMaxConcurrent);
  }
  if (threads == 0) threads_ = std::min(available_cores(), kMaxThreads);
  impl_ = std::make_shared<Impl>();
  impl_->dispatchers.reserve(static_cast<std::size_t>(max_concurrent));
  const BlockedSignals blocked;  // inherited by dispatchers and, from them, by OpenMP workers
  try {
    for (int i = 0; i < max_concurrent; ++i) {
      impl_->dispatchers.emplace_back([impl = impl_, team = threads_] { impl->dispatch(team); });
      pthread_setname_np(impl_->dispatchers.back().native_handle(), "skv-dispatch");
    }
  } catch (const std::system_error& error) {
    impl_->stop();
    fail(SKV_E_NOMEM, "the system refused dispatcher thread %zu of %d: %s", impl_->dispatchers.size() + 1,
         max_concurrent, error.what());
  }
}

Executor::~Executor() {
  if (getpid() == impl_->pid) {
    impl_->stop();
  } else {
    // The threads do not exist here and the lock may be held by one of them: nothing of it can be taken down.
    static_cast<void>(new std::shared_ptr<Impl>(std::move(impl_)));
  }
}

void Executor::run(const std::function<void()>& fn) {
  const std::shared_ptr<Impl> impl = impl_;
  if (getpid() != impl->pid) fail(SKV_E_FORKED, "the runtime was created before fork(); not usable in the child");
  if (t_dispatcher_of == impl.get()) return fn();
  Job job{&fn, nullptr, {}, false};
  std::unique_lock<std::mutex> lock(impl->mutex);
  if (impl->stopping) fail(SKV_E_STATE, "the runtime is being destroyed");
  impl->queue.push_back(&job);
  impl->wake.notify_one();
  job.finished.wait(lock, [&job] { return job.done; });
  lock.unlock();
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace skv
