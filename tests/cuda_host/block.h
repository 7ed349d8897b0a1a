// One block of a kernel as it runs: its fibers, and what the checkers need to know of them.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/common/cuda/stream.h"
#include "tests/cuda_host/cuda_host.h"
#include "tests/cuda_host/findings.h"
#include "tests/cuda_host/shared_arena.h"
#include "tests/cuda_host/shared_shadow.h"

namespace skv::cuda_host {

inline constexpr int kLanes = 32;

// Called once all lanes of the mask are there; lanes[i] is what lane i gave, null outside the mask.
using Combine = void (*)(void* const* lanes, unsigned mask);

struct AsyncCopy {
  unsigned char* to;
  const unsigned char* from;
  bool valid;
};

enum class State { runnable, barrier, warp_operation, done };

struct Fiber {
  boost::context::detail::fcontext_t context = nullptr;
  char* stack = nullptr;
  void* asan_stack = nullptr;
  int index = 0;
  uint3 thread{};
  State state = State::runnable;
  bool in_kernel = false;          // its arguments have been read
  const void* site = nullptr;      // of the barrier or warp operation it waits at
  const char* operation = nullptr;
  unsigned mask = 0;
  void* argument = nullptr;
  int predicate = 0;               // of the barrier
  std::vector<AsyncCopy> copies;   // in the order of issue
  std::vector<std::size_t> groups; // ends of the closed groups in copies
};

// Lanes of a warp that wait at operations; as a rule all at the same one.
struct Warp {
  unsigned arrived = 0;
  unsigned together = 0;  // of them, those at the operation that argument is for
  const void* site = nullptr;
  const char* operation = nullptr;
  unsigned mask = 0;
  void* arguments[kLanes] = {};
};

class Block {
 public:
  Block(const cuda::Launch& launch, uint64_t seed);
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  bool run(uint3 block);  // false: it could not be run to its end

  void barrier(const char* operation, const void* site, int predicate);
  void warp_operation(const char* operation, const void* site, unsigned mask, void* argument, Combine combine);
  Fiber* current() { return current_; }  // null between fibers
  unsigned char* shared() { return shared_; }
  std::size_t shared_bytes() const { return launch_.shared_bytes; }
  SharedShadow& shadow() { return shadow_; }
  const cuda::Launch& launch() const { return launch_; }
  uint3 block_index() const { return block_; }
  bool on_stack(uintptr_t p) const;  // of the current fiber
  int votes() const { return votes_; }  // true predicates at the last barrier
  int threads() const { return threads_; }
  void enter(boost::context::detail::fcontext_t scheduler);  // runs the kernel in the current fiber

 private:
  void prepare(uint3 block);
  void gather(int warp, const Fiber& fiber);
  void push(Fiber& fiber);
  Fiber& pop();
  void resume(Fiber& fiber);
  void suspend();
  bool settle();
  void release_barrier();
  void describe_stuck(bool at_barriers);

  cuda::Launch launch_;
  uint64_t random_;
  int order_;  // 0 ascending, 1 descending, 2 shuffled
  int threads_;
  uint3 block_{};
  unsigned char* shared_ = nullptr;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::vector<Fiber*> ring_;       // runnable fibers
  std::size_t head_ = 0, runnable_ = 0;
  Fiber* current_ = nullptr;
  boost::context::detail::fcontext_t scheduler_ = nullptr;
  void* asan_scheduler_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
  int votes_ = 0;
  bool failed_ = false;
  SharedShadow shadow_;
};

extern __thread Block* running;  // on this host thread; null outside kernels

}  // namespace skv::cuda_host
