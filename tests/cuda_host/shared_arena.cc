#include "tests/cuda_host/shared_arena.h"

#include <cstdlib>
#include <cstring>
#include <memory>

namespace skv::cuda_host {

__thread uintptr_t watched_begin;
__thread std::size_t watched_bytes;

SharedArena::SharedArena(std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  if (posix_memalign(&allocated_, 128, bytes == 0 ? 1 : bytes) != 0) std::abort();
  begin_ = static_cast<unsigned char*>(allocated_);
#else
  struct Region {
    alignas(128) unsigned char bytes[2 * kSharedBorder + kMaxShared];
  };
  static thread_local const std::unique_ptr<Region> region = std::make_unique<Region>();
  begin_ = region->bytes + kSharedBorder;
  watched_begin = reinterpret_cast<uintptr_t>(region->bytes);
  watched_bytes = 2 * kSharedBorder + bytes;
#endif
  std::memset(begin_, 0xff, bytes);
}

SharedArena::~SharedArena() {
  watched_bytes = 0;
  std::free(allocated_);
}

}  // namespace skv::cuda_host
