#include "tests/cuda_host/block.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread dim3 blockDim;
__thread dim3 gridDim;

namespace skv::cuda_host {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

__thread Block* running;

namespace {

constexpr std::size_t kGuard = 4096;
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 256 << 10;
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif

// Stacks of this host thread, each above an unmapped page.
class Stacks {
 public:
  ~Stacks() {
    for (char* stack : stacks_) {
#if defined(__SANITIZE_ADDRESS__)
      // Whatever is mapped at this address next must not inherit what frames have left.
      __asan_unpoison_memory_region(stack, kStackBytes);
#endif
      munmap(stack - kGuard, kGuard + kStackBytes);
    }
  }
  char* get(std::size_t i) {
    while (stacks_.size() <= i) {
      void* p = mmap(nullptr, kGuard + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) std::abort();
      mprotect(p, kGuard, PROT_NONE);
      stacks_.push_back(static_cast<char*>(p) + kGuard);
    }
    return stacks_[i];
  }

 private:
  std::vector<char*> stacks_;
};
thread_local Stacks stacks;

uint64_t next_random(uint64_t& state) {  // splitmix64
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void start_fiber(transfer_t from) { static_cast<Block*>(from.data)->enter(from.fctx); }

}  // namespace

Block::Block(const cuda::Launch& launch, uint64_t seed)
    : launch_(launch),
      random_(seed),
      order_(seed < 2 ? static_cast<int>(seed) : 2),
      threads_(static_cast<int>(launch.block.x * launch.block.y * launch.block.z)),
      fibers_(static_cast<std::size_t>(threads_)),
      warps_(static_cast<std::size_t>(threads_ + kLanes - 1) / kLanes),
      ring_(static_cast<std::size_t>(threads_)) {
  for (int i = 0; i < threads_; ++i) {
    Fiber& fiber = fibers_[static_cast<std::size_t>(i)];
    fiber.index = i;
    fiber.stack = stacks.get(static_cast<std::size_t>(i));
    const unsigned u = static_cast<unsigned>(i);
    fiber.thread = {u % launch.block.x, u / launch.block.x % launch.block.y, u / launch.block.x / launch.block.y};
  }
}

void Block::prepare(uint3 block) {
  block_ = block;
  failed_ = false;
  shadow_.reset(checks_accesses() ? launch_.shared_bytes : 0, static_cast<int>(warps_.size()));
  head_ = runnable_ = 0;
  std::fill(warps_.begin(), warps_.end(), Warp{});
  for (Fiber& fiber : fibers_) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, kStackBytes);
    fiber.asan_stack = nullptr;
#endif
    fiber.context = make_fcontext(fiber.stack + kStackBytes, kStackBytes, start_fiber);
    fiber.in_kernel = false;
    fiber.copies.clear();
    fiber.groups.clear();
    push(fiber);
  }
}

void Block::push(Fiber& fiber) {
  fiber.state = State::runnable;
  ring_[(head_ + runnable_++) % ring_.size()] = &fiber;
}

Fiber& Block::pop() {
  std::size_t last = (head_ + runnable_ - 1) % ring_.size();
  if (order_ == 2) {
    std::swap(ring_[last], ring_[(head_ + next_random(random_) % runnable_) % ring_.size()]);
  }
  --runnable_;
  if (order_ != 0) return *ring_[last];
  Fiber& fiber = *ring_[head_];
  head_ = (head_ + 1) % ring_.size();
  return fiber;
}

void Block::resume(Fiber& fiber) {
  current_ = &fiber;
  threadIdx = fiber.thread;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&asan_scheduler_, fiber.stack, kStackBytes);
#endif
  fiber.context = jump_fcontext(fiber.context, this).fctx;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(asan_scheduler_, nullptr, nullptr);
#endif
}

void Block::suspend() {
#if defined(__SANITIZE_ADDRESS__)
  Fiber& fiber = *current_;
  __sanitizer_start_switch_fiber(fiber.state == State::done ? nullptr : &fiber.asan_stack, scheduler_stack_,
                                 scheduler_stack_bytes_);
#endif
  scheduler_ = jump_fcontext(scheduler_, nullptr).fctx;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.asan_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
}

void Block::enter(boost::context::detail::fcontext_t scheduler) {
  scheduler_ = scheduler;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  launch_.call(launch_.kernel, launch_.args);
  Fiber& fiber = *current_;
  if (!fiber.copies.empty()) found("ends with a cp.async that was not waited for", launch_.kernel);
  fiber.state = State::done;
  fiber.site = nullptr;
  suspend();
}

bool Block::on_stack(uintptr_t p) const {
  return p - reinterpret_cast<uintptr_t>(current_->stack) < kStackBytes;
}

bool Block::run(uint3 block) {
  prepare(block);
  const SharedArena arena(launch_.shared_bytes);
  shared_ = arena.begin();
  blockIdx = block;
  blockDim = launch_.block;
  gridDim = launch_.grid;
  running = this;
  bool more = true;
  while (more && !failed_) {
    while (runnable_ > 0 && !failed_) resume(pop());
    more = !failed_ && settle();
  }
  running = nullptr;
  return !failed_;
}

// Nobody can run on: the block is done, or all wait at one barrier, or it is stuck.
bool Block::settle() {
  std::size_t done = 0, waiting = 0, here = 0;
  for (const Fiber& fiber : fibers_) {
    done += fiber.state == State::done;
    waiting += fiber.state == State::barrier;
    here += fiber.state == State::barrier && fiber.site == fibers_[0].site;
  }
  if (done == fibers_.size()) return false;
  if (here == fibers_.size()) {
    release_barrier();
    return true;
  }
  failed_ = true;
  describe_stuck(waiting == fibers_.size());
  return false;
}

void Block::release_barrier() {
  votes_ = 0;
  for (Fiber& fiber : fibers_) votes_ += fiber.predicate != 0;
  shadow_.pass_barrier();
  for (Fiber& fiber : fibers_) push(fiber);
}

// Each place where threads wait, with one of them.
void Block::describe_stuck(bool at_barriers) {
  std::string text = at_barriers ? "divergent barrier:" : "stuck:";
  std::vector<const Fiber*> told;
  int parts = 0;
  for (const Fiber& fiber : fibers_) {
    bool known = false;
    for (const Fiber* other : told) known |= other->state == fiber.state && other->site == fiber.site;
    if (known) continue;
    told.push_back(&fiber);
    int n = 0;
    for (const Fiber& other : fibers_) n += other.state == fiber.state && other.site == fiber.site;
    text += (parts++ > 0 ? "; " : " ") + std::to_string(n) + " threads (" + std::to_string(fiber.index) + " ...) ";
    if (fiber.state == State::done) {
      text += "have ended";
      continue;
    }
    text += std::string("wait at ") + fiber.operation + " " + source_line(fiber.site);
    if (fiber.state == State::warp_operation) {
      char lanes[64];
      std::snprintf(lanes, sizeof lanes, " with mask %08x, lanes there %08x", fiber.mask,
                    warps_[static_cast<std::size_t>(fiber.index / kLanes)].arrived);
      text += lanes;
    }
  }
  current_ = nullptr;
  found(text.c_str(), nullptr);
}

void Block::barrier(const char* operation, const void* site, int predicate) {
  Fiber& fiber = *current_;
  fiber.state = State::barrier;
  fiber.operation = operation;
  fiber.site = site;
  fiber.predicate = predicate;
  suspend();
}

void Block::warp_operation(const char* operation, const void* site, unsigned mask, void* argument, Combine combine) {
  Fiber& fiber = *current_;
  const int warp = fiber.index / kLanes, lane = fiber.index % kLanes;
  if ((mask >> lane & 1u) == 0) {
    found((std::string(operation) + " by a lane that is not in its mask").c_str(), site);
    return;
  }
  fiber.state = State::warp_operation;
  fiber.operation = operation;
  fiber.site = site;
  fiber.mask = mask;
  fiber.argument = argument;
  Warp& all = warps_[static_cast<std::size_t>(warp)];
  const bool joins = all.together != 0 && all.together == all.arrived && all.site == site &&
                     all.operation == operation && all.mask == mask;
  all.arrived |= 1u << lane;
  if (joins) {
    all.together = all.arrived;
    all.arguments[lane] = argument;
  } else {
    gather(warp, fiber);
  }
  if (all.together != mask) return suspend();
  combine(all.arguments, mask);
  all.arrived &= ~mask;
  all.together = 0;
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1u) != 0 && i != lane) push(fibers_[static_cast<std::size_t>(warp * kLanes + i)]);
  }
  fiber.state = State::runnable;
}

// Those that wait where the fiber does.
void Block::gather(int warp, const Fiber& fiber) {
  Warp& all = warps_[static_cast<std::size_t>(warp)];
  all.together = 0;
  all.site = fiber.site;
  all.operation = fiber.operation;
  all.mask = fiber.mask;
  std::fill(std::begin(all.arguments), std::end(all.arguments), nullptr);
  for (int i = 0; i < kLanes && warp * kLanes + i < threads_; ++i) {
    const Fiber& other = fibers_[static_cast<std::size_t>(warp * kLanes + i)];
    if ((all.arrived & all.mask) >> i & 1u && other.site == all.site && other.operation == all.operation &&
        other.mask == all.mask) {
      all.together |= 1u << i;
      all.arguments[i] = other.argument;
    }
  }
}

}  // namespace skv::cuda_host
