#include "lib/api/handle.h"

#include <unistd.h>

namespace skv::api {

namespace {

static_assert(sizeof(uintptr_t) == 8, "handles carry 64 bits");
static_assert(std::atomic<uint64_t>::is_always_lock_free, "interrupt must be safe in a signal handler");

// Low half of a shell's state.
constexpr uint64_t kLive = uint64_t{1} << 31;
constexpr uint64_t kClaimed = uint64_t{1} << 30;  // being filled, or closed and not yet taken
constexpr uint64_t kPins = kClaimed - 1;
constexpr uint64_t kLow = 0xffffffffu;

// Handle: kind (3 bits, so it is never a pointer to anything aligned), index (16), generation (32), a mark (13) that
// keeps it out of every address space in use.
constexpr int kIndexShift = 3, kGenerationShift = 19, kMarkShift = 51;
constexpr uint64_t kMark = 0x15a7;

uint64_t generation_of(uint64_t state) { return state >> 32; }

}  // namespace

uintptr_t ShellTable::encode(uint64_t index, uint64_t generation) const noexcept {
  return kMark << kMarkShift | generation << kGenerationShift | index << kIndexShift | static_cast<uint64_t>(kind_);
}

Shell* ShellTable::locate(uintptr_t handle) const noexcept {
  if (handle >> kMarkShift != kMark || (handle & 7) != static_cast<uint64_t>(kind_)) return nullptr;
  const uint64_t index = handle >> kIndexShift & 0xffff;
  Block* block = blocks_[index / kPerBlock].load(std::memory_order_acquire);
  return block == nullptr ? nullptr : &block->shells[index % kPerBlock];
}

ShellTable::Block* ShellTable::block(int i) {
  Block* present = blocks_[i].load(std::memory_order_acquire);
  if (present != nullptr) return present;
  auto made = std::make_unique<Block>();
  if (!blocks_[i].compare_exchange_strong(present, made.get(), std::memory_order_acq_rel)) return present;
  return made.release();  // never freed: a stale handle may look at it at any time
}

uintptr_t ShellTable::add(void* object) {
  for (int b = 0; b < kBlocks; ++b) {
    Block* shells = block(b);
    if (shells->in_use.load(std::memory_order_relaxed) >= kPerBlock) continue;
    for (int i = 0; i < kPerBlock; ++i) {
      Shell& shell = shells->shells[i];
      uint64_t state = shell.state.load(std::memory_order_acquire);
      if ((state & kLow) != 0 || !shell.state.compare_exchange_strong(state, state | kClaimed)) continue;
      shells->in_use.fetch_add(1, std::memory_order_relaxed);
      shell.in_use = &shells->in_use;
      shell.object = object;
      shell.pid = getpid();
      shell.state.store(state | kLive, std::memory_order_release);
      return encode(static_cast<uint64_t>(b * kPerBlock + i), generation_of(state));
    }
  }
  fail(SKV_E_LIMIT, "%d handles of one kind are open; that is all there are", kBlocks * kPerBlock);
}

Shell* ShellTable::pin(uintptr_t handle) noexcept {
  Shell* shell = locate(handle);
  if (shell == nullptr) return nullptr;
  const uint64_t generation = handle >> kGenerationShift & kLow;
  uint64_t state = shell->state.load(std::memory_order_acquire);
  do {
    if (generation_of(state) != generation || (state & kLive) == 0) return nullptr;
  } while (!shell->state.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel));
  return shell;
}

Shell* ShellTable::close(uintptr_t handle) noexcept {
  Shell* shell = locate(handle);
  if (shell == nullptr) return nullptr;
  const uint64_t generation = handle >> kGenerationShift & kLow;
  uint64_t state = shell->state.load(std::memory_order_acquire);
  do {
    if (generation_of(state) != generation || (state & kLive) == 0) return nullptr;
  } while (!shell->state.compare_exchange_weak(state, state ^ kLive ^ kClaimed, std::memory_order_acq_rel));
  return shell;
}

bool ShellTable::pinned(const Shell* shell) noexcept {
  return (shell->state.load(std::memory_order_acquire) & kPins) != 0;
}

bool ShellTable::forked(const Shell* shell) noexcept { return shell->pid != getpid(); }

void* ShellTable::unpin(Shell* shell) noexcept {
  // In a child of fork() threads that held pins or locks are gone: what the parent made is left alone.
  const bool usable = !forked(shell);
  const uint64_t left = shell->state.fetch_sub(1, std::memory_order_acq_rel) - 1;
  return (left & kLow) == kClaimed && usable ? take(shell) : nullptr;
}

void* ShellTable::take(Shell* shell) noexcept {
  void* object = shell->object;
  shell->object = nullptr;
  shell->in_use->fetch_sub(1, std::memory_order_relaxed);
  const uint64_t next = (generation_of(shell->state.load(std::memory_order_relaxed)) + 1) & kLow;
  shell->state.store(next << 32, std::memory_order_release);
  return object;
}

}  // namespace skv::api
