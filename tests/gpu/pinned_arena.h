// Pinned host memory in powers of two, for programs whose every allocation a GPU must be able to read. What is asked for
// while the arena itself is being made, and where there is no GPU to make it for, comes from malloc.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>

namespace skv::test {

class PinnedArena {
 public:
  static constexpr std::size_t kBytes = std::size_t{4} << 30;

  // Null when the arena is full.
  void* take(std::size_t bytes) {
    if (making()) return std::malloc(bytes);
    const int order = order_of(bytes + kHeader);
    const std::lock_guard lock(mutex_);
    if (base_ == nullptr && (failed_ || !make())) return std::malloc(bytes);
    char* block = nullptr;
    if (free_[order] != nullptr) {
      block = free_[order];
      free_[order] = *reinterpret_cast<char**>(block + kHeader);
    } else if (used_ + (std::size_t{1} << order) <= kBytes) {
      block = base_ + used_;
      used_ += std::size_t{1} << order;
    } else {
      return nullptr;
    }
    *reinterpret_cast<int*>(block) = order;
    return block + kHeader;
  }
  void put(void* p) noexcept {
    if (static_cast<char*>(p) < base_ || static_cast<char*>(p) >= base_ + kBytes) return std::free(p);
    char* block = static_cast<char*>(p) - kHeader;
    const int order = *reinterpret_cast<int*>(block);
    const std::lock_guard lock(mutex_);
    *reinterpret_cast<char**>(p) = free_[order];
    free_[order] = block;
  }

 private:
  static constexpr std::size_t kHeader = 64;  // keeps what is handed out aligned
  static int order_of(std::size_t bytes) {
    int order = 7;
    while ((std::size_t{1} << order) < bytes) ++order;
    return order;
  }
  static bool& making() {
    static thread_local bool making = false;
    return making;
  }
  bool make() {
    making() = true;
    void* base = nullptr;
    const bool made = cudaHostAlloc(&base, kBytes, cudaHostAllocPortable) == cudaSuccess;
    making() = false;
    base_ = made ? static_cast<char*>(base) : nullptr;
    failed_ = !made;
    return made;
  }
  char* base_ = nullptr;
  bool failed_ = false;
  std::size_t used_ = 0;
  char* free_[64] = {};
  std::mutex mutex_;
};

inline PinnedArena& pinned_arena() {
  static PinnedArena arena;
  return arena;
}

}  // namespace skv::test
