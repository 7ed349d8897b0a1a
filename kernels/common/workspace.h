// Lays arrays out in a caller's workspace. With a null base it only counts, so the function that lays out also
// answers how many bytes it needs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace skv::kernels {

class WorkspaceCursor {
 public:
  explicit WorkspaceCursor(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t n) {
    return static_cast<T*>(take_bytes(static_cast<std::size_t>(n) * sizeof(T)));
  }
  void* take_bytes(std::size_t bytes) {
    void* p = base_ ? base_ + used_ : nullptr;
    used_ += (bytes + 63) / 64 * 64;
    return p;
  }
  std::size_t bytes() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

}  // namespace skv::kernels
