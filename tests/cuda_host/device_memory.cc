#include "tests/cuda_host/device_memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace skv::cuda_host {

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kGuard = 64 << 10;               // readable, so that a stray access is told and not fatal

struct Allocation {
  MemoryKind kind;
  std::size_t bytes;
  bool freed;
};

std::mutex mutex;
std::map<uintptr_t, Allocation>& allocations() {
  static auto* map = new std::map<uintptr_t, Allocation>;
  return *map;
}
std::atomic<uint64_t> version{1};

uintptr_t reserve() {
#if defined(__SANITIZE_ADDRESS__)
  return ~uintptr_t{0} - kMemoryReserved;  // nobody's
#else
  void* p = mmap(nullptr, kMemoryReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? ~uintptr_t{0} - kMemoryReserved : reinterpret_cast<uintptr_t>(p);
#endif
}

#if !defined(__SANITIZE_ADDRESS__)
std::size_t pages(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Ends at the guard but for 256-byte alignment, as cudaMalloc's is.
uintptr_t take(std::size_t bytes) {
  static uintptr_t next = 0;
  if (next == 0) next = memory_begin;
  const std::size_t span = pages(bytes) + 2 * kGuard;
  if (memory_begin + kMemoryReserved - next < span) return 0;
  if (mprotect(reinterpret_cast<void*>(next), span, PROT_READ | PROT_WRITE) != 0) return 0;
  const uintptr_t at = next + kGuard;
  next += span;
  return at;
}
#endif

}  // namespace

const uintptr_t memory_begin = reserve();

void* allocate_memory(MemoryKind kind, std::size_t bytes) {
  const std::lock_guard lock(mutex);
#if defined(__SANITIZE_ADDRESS__)
  void* p = nullptr;
  if (posix_memalign(&p, 256, bytes) != 0) return nullptr;
#else
  void* p = reinterpret_cast<void*>(take(bytes));
  if (p == nullptr) return nullptr;
#endif
  std::memset(p, 0xff, bytes);
  allocations()[reinterpret_cast<uintptr_t>(p)] = {kind, bytes, false};
  ++version;
  return p;
}

bool free_memory(MemoryKind kind, void* p) {
  const std::lock_guard lock(mutex);
  const auto at = allocations().find(reinterpret_cast<uintptr_t>(p));
  if (at == allocations().end() || at->second.freed || at->second.kind != kind) return false;
  ++version;
#if defined(__SANITIZE_ADDRESS__)
  allocations().erase(at);
  std::free(p);
#else
  at->second.freed = true;
  madvise(p, pages(at->second.bytes), MADV_DONTNEED);
#endif
  return true;
}

std::size_t allocation_bytes(const void* p) {
  const std::lock_guard lock(mutex);
  const auto at = allocations().find(reinterpret_cast<uintptr_t>(p));
  return at == allocations().end() || at->second.freed ? 0 : at->second.bytes;
}

Located locate(const void* p, std::size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  // What the last accesses found, by the low bits of their 64 KiB.
  static thread_local struct {
    uint64_t version = 0;
    Located located;
  } recent[64];
  auto& slot = recent[begin >> 16 & 63];
  const Located& last = slot.located;
  if (slot.version == version.load(std::memory_order_acquire) && begin - last.begin < last.bytes &&
      bytes <= last.bytes - (begin - last.begin)) {
    return last;
  }
  const std::lock_guard lock(mutex);
  auto at = allocations().upper_bound(begin);
  Located found;
  if (at == allocations().begin()) {
    found.place = begin - memory_begin < kMemoryReserved ? Place::beyond : Place::outside;
    return found;
  }
  --at;
  found.begin = at->first;
  found.bytes = at->second.bytes;
  found.kind = at->second.kind;
  const std::size_t offset = begin - at->first;
  if (offset < found.bytes && bytes <= found.bytes - offset) {
    found.place = at->second.freed ? Place::freed : Place::allocated;
    if (found.place == Place::allocated) slot = {version, found};
  } else if (begin - memory_begin < kMemoryReserved) {
    found.place = Place::beyond;
  } else {
    found.place = offset < found.bytes ? Place::beyond : Place::outside;
  }
  return found;
}

}  // namespace skv::cuda_host
