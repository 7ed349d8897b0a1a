#include "tests/cuda_host/accesses.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <string>

#include "tests/cuda_host/block.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/findings.h"
#include "tests/cuda_host/shared_arena.h"

namespace skv::cuda_host {

namespace {

bool in_kernel() { return running != nullptr && running->current() != nullptr && running->current()->in_kernel; }

std::string where(std::size_t at, std::size_t bytes) {
  return "at byte " + std::to_string(at) + " of " + std::to_string(bytes);
}

// A fiber's stack, constants of the program and variables of this host thread; and what host code touches.
bool is_own(uintptr_t p) {
  if (!in_kernel() || running->on_stack(p)) return true;
  if (p - reinterpret_cast<uintptr_t>(&threadIdx) + 65536 < 131072) return true;
  static thread_local uintptr_t known_page = 0;
  if (p / 4096 == known_page) return true;
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(p), &info) == 0) return false;
  known_page = p / 4096;
  return true;
}

}  // namespace

std::atomic<bool> device_memory_only{false};

namespace {

uintptr_t stack_part(bool size) {
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return 0;
  void* begin = nullptr;
  std::size_t bytes = 0;
  pthread_attr_getstack(&attributes, &begin, &bytes);
  pthread_attr_destroy(&attributes);
  return size ? bytes : reinterpret_cast<uintptr_t>(begin);
}

}  // namespace

const uintptr_t host_stack_begin = stack_part(false), host_stack_bytes = stack_part(true);

void check_host_stack(const void* site) {
  if (in_kernel()) found("touches the host's stack", site);
}

void check_own(uintptr_t p, const void* site) {
  if (!is_own(p)) found("touches memory of the host", site);
}

void check_shared(Access access, uintptr_t p, std::size_t bytes, const void* site) {
  const uintptr_t begin = watched_begin + kSharedBorder;
  const std::size_t size = running->shared_bytes();
  if (p < begin || p + bytes > begin + size) {
    found("touches memory beyond the block's shared memory", site,
          "at byte " + std::to_string(static_cast<int64_t>(p - begin)) + " of " + std::to_string(size));
    return;
  }
  if (running->current() == nullptr) return;
  std::size_t word = 0;
  int other = -1;
  const char* wrong =
      running->shadow().access(access, running->current()->index, p - begin, bytes, &word, &other);
  if (wrong == nullptr) return;
  std::string detail = where(4 * word, size);
  if (other >= 0) {
    detail += ", thread " + std::to_string(running->current()->index) + " and thread " + std::to_string(other);
  }
  found(wrong, site, detail);
}

void check_device(const void* p, std::size_t bytes, const void* site) {
  const Located located = locate(p, bytes);
  const std::size_t at = reinterpret_cast<uintptr_t>(p) - located.begin;
  switch (located.place) {
    case Place::outside: return;
    case Place::allocated:
      if (running == nullptr && located.kind == MemoryKind::device) {
        found("host code touches device memory", site, where(at, located.bytes));
      }
      if (in_kernel() && located.kind == MemoryKind::host_list) {
        found("reads a list of the host that was not copied for the device", site, where(at, located.bytes));
      }
      return;
    case Place::freed: found("touches device memory that was freed", site, where(at, located.bytes)); return;
    case Place::beyond:
      found("touches device memory beyond an allocation", site, where(at, located.bytes));
      return;
  }
}

void set_device_memory_only(bool on) { device_memory_only = on; }

bool in_shared(const void* p, std::size_t bytes, const char* what, const void* site, std::size_t* at) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(running->shared());
  *at = reinterpret_cast<uintptr_t>(p) - begin;
  if (reinterpret_cast<uintptr_t>(p) >= begin && *at + bytes <= running->shared_bytes()) return true;
  found(what, site, "at byte " + std::to_string(static_cast<int64_t>(*at)) + " of " +
                        std::to_string(running->shared_bytes()));
  return false;
}

}  // namespace skv::cuda_host
