// Shared memory of one block: NaN everywhere, and where accesses are not looked at by AddressSanitizer, in the middle
// of a larger region whose borders are watched.
#pragma once

#include <cstddef>
#include <cstdint>

namespace skv::cuda_host {

inline constexpr std::size_t kMaxShared = 227 << 10;
inline constexpr std::size_t kSharedBorder = 32 << 10;

class SharedArena {
 public:
  explicit SharedArena(std::size_t bytes);
  ~SharedArena();
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;
  unsigned char* begin() const { return begin_; }

 private:
  unsigned char* begin_ = nullptr;
  void* allocated_ = nullptr;
};

// The region on this host thread while a block runs, borders included; empty otherwise.
extern __thread uintptr_t watched_begin;
extern __thread std::size_t watched_bytes;

}  // namespace skv::cuda_host
