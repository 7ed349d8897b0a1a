// The raw allocator under Buffer. Debian's libmimalloc exports malloc and operator new: linking it would replace the
// host's allocator, so it is opened with RTLD_LOCAL and used through pointers.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <limits>

#include "lib/base/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace skv {

namespace {

constexpr std::size_t kAlignment = 64;
// Blocks that hold at least two whole huge pages wherever they start.
constexpr std::size_t kHugePageThreshold = 4 * 1024 * 1024;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Saturates instead of wrapping: no allocation of that size can succeed, and no limit below it lets it pass.
std::size_t round_up(std::size_t n, std::size_t unit) {
  constexpr std::size_t kMax = std::numeric_limits<int64_t>::max();
  return n > kMax - unit ? kMax : (n + unit - 1) / unit * unit;
}

std::size_t block_bytes(std::size_t n) {
  return round_up(n, n >= kMapThreshold ? page_bytes() : kAlignment);
}

struct SmallAllocator {
  void* (*alloc_aligned)(std::size_t bytes, std::size_t alignment) = nullptr;
  void (*free)(void* p) = nullptr;
  char name[32] = "posix_memalign";
};

void* system_alloc_aligned(std::size_t bytes, std::size_t alignment) {
  void* p = nullptr;
  return posix_memalign(&p, alignment, bytes) == 0 ? p : nullptr;
}

// Sanitizers only watch blocks of the allocator they replace.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kTryMimalloc = false;
#else
constexpr bool kTryMimalloc = true;
#endif

SmallAllocator open_small_allocator() {
  SmallAllocator system;
  system.alloc_aligned = system_alloc_aligned;
  system.free = std::free;
  if (!kTryMimalloc) return system;
  void* library = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen("libmimalloc.so", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return system;
  SmallAllocator found;
  found.alloc_aligned = reinterpret_cast<decltype(found.alloc_aligned)>(dlsym(library, "mi_malloc_aligned"));
  found.free = reinterpret_cast<decltype(found.free)>(dlsym(library, "mi_free"));
  const auto version = reinterpret_cast<int (*)()>(dlsym(library, "mi_version"));
  if (!found.alloc_aligned || !found.free || !version) {
    dlclose(library);
    return system;
  }
  const int v = version();
  std::snprintf(found.name, sizeof found.name, "mimalloc %d.%d.%d", v / 100, v / 10 % 10, v % 10);
  return found;  // never closed: blocks and its per-thread state outlive every owner we could name
}

const SmallAllocator& small_allocator() {
  static const SmallAllocator allocator = open_small_allocator();
  return allocator;
}

void* map_block(std::size_t bytes) {
  const std::size_t mapped = block_bytes(bytes);
  void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  // A hint: where huge pages are off, ordinary ones serve.
  if (bytes >= kHugePageThreshold) madvise(p, mapped, MADV_HUGEPAGE);
#if defined(__SANITIZE_ADDRESS__)
  const std::size_t usable = round_up(bytes, kAlignment);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(p) + usable, mapped - usable);
#endif
  return p;
}

void unmap_block(void* p, std::size_t bytes) {
  const std::size_t mapped = block_bytes(bytes);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(p, mapped);
#endif
  munmap(p, mapped);
}

}  // namespace

int64_t charged_bytes(int64_t n) {
  return n <= 0 ? 0 : static_cast<int64_t>(block_bytes(static_cast<std::size_t>(n)));
}

void* host_alloc(std::size_t bytes) {
  if (bytes >= kMapThreshold) return map_block(bytes);
  return small_allocator().alloc_aligned(bytes == 0 ? kAlignment : block_bytes(bytes), kAlignment);
}

void host_free(void* p, std::size_t bytes) noexcept {
  if (p == nullptr) return;
  if (bytes >= kMapThreshold) {
    unmap_block(p, bytes);
  } else {
    small_allocator().free(p);
  }
}

const char* host_allocator_name() { return small_allocator().name; }

}  // namespace skv
