// Scratch memory handed out in order. Without a base it only counts: the same carving code sizes the buffer and fills it.
#pragma once

#include <cstdint>

namespace skv::kv {

class Arena {
 public:
  Arena() = default;
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t n) {
    used_ = (used_ + 63) / 64 * 64;
    T* at = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += n * static_cast<int64_t>(sizeof(T));
    return at;
  }
  int64_t used() const { return used_; }

 private:
  char* base_ = nullptr;
  int64_t used_ = 0;
};

// What the host writes and ops are done with when they return (lists of items and spans), and data that kernels work on:
// two memories on a GPU.
struct Arenas {
  Arena lists;
  Arena data;
};

struct ScratchBytes {
  int64_t lists = 0;
  int64_t data = 0;
  bool within(const ScratchBytes& other) const { return lists <= other.lists && data <= other.data; }
};
inline ScratchBytes used(const Arenas& arenas) { return {arenas.lists.used(), arenas.data.used()}; }

}  // namespace skv::kv
