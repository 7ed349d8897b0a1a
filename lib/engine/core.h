// What the parts of a session share.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>

#include "lib/engine/session.h"
#include "lib/kv/store.h"
#include "lib/model/forward.h"

namespace skv::engine {

struct EngineTimes {
  int64_t prefill_forward_ns = 0;
  int64_t decode_forward_ns = 0;
  int64_t logits_ns = 0;
};

struct Core {
  const model::Config& model;
  const SessionConfig& session;
  const device::Queue& queue;
  const kernels::Ops& ops;  // the queue's
  MemoryAccount& account;   // the session's
  const model::Forward& forward;
  kv::Store& store;
  const std::atomic<bool>& interrupted;
  EngineTimes times;
};

// Adds the time of its scope to a counter.
class Timed {
 public:
  explicit Timed(int64_t& total_ns) : total_ns_(total_ns), start_(std::chrono::steady_clock::now()) {}
  ~Timed() {
    total_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count();
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  int64_t& total_ns_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace skv::engine
