// Streams of the fake device, as late as the rules allow: what is queued runs when the host waits for it (with its
// stream, an event after it, the device, by freeing memory, by the null stream) or when another stream that is made
// to run waits for an event after it. So what only works while everything runs at once is seen to fail: a missing
// wait between streams, pinned memory that is written again too early. Or as early as they allow (set_eager).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace skv::cuda_host {

struct Work {
  enum class Kind { kernel, copy, product } kind;
  std::function<void(uint64_t order)> run;  // order: of threads and blocks
};

// Those who use streams' insides hold it. Work runs under it, one piece at a time.
extern std::mutex& streams_mutex;

class Queue {
 public:
  explicit Queue(bool eager) : eager_(eager) {}
  void push(std::function<void()> piece);
  void run_until(uint64_t count);  // pieces since the beginning
  uint64_t queued() const { return queued_; }
  uint64_t done() const { return done_; }

 private:
  const bool eager_;
  std::deque<std::function<void()>> pieces_;
  uint64_t queued_ = 0, done_ = 0;
};

// A place in a stream, which may be gone by then. The default is reached.
struct Point {
  std::shared_ptr<Queue> queue;
  uint64_t count = 0;
  bool reached() const { return queue == nullptr || queue->done() >= count; }
  void reach() const {
    if (queue != nullptr) queue->run_until(count);
  }
};

// Behind all that is queued on the stream; the null stream waits for the device and runs it at once.
void push(cudaStream_t stream, std::function<void()> piece);
Point end_of(cudaStream_t stream);
// Whether work may be queued: not where a capture has become invalid or the null stream would disturb one.
cudaError_t enter(cudaStream_t stream);
bool capturing(cudaStream_t stream);
cudaError_t invalidate(cudaStream_t stream, cudaError_t why);  // its capture; returns why

// These take the mutex themselves.
cudaError_t submit(cudaStream_t stream, Work work);  // to the stream, or the graph it captures
void finish(cudaStream_t stream);
void finish_device();

}  // namespace skv::cuda_host

struct SkvHostStream {
  std::shared_ptr<skv::cuda_host::Queue> queue;
  bool blocking = true;  // with the null stream
  std::unique_ptr<SkvHostGraph> capture;
  bool invalidated = false;

  SkvHostStream();
  ~SkvHostStream();
};
