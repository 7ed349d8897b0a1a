// Looks at accesses of kernels, wherever they come from: the compiler's callbacks, atomics, hardware instructions.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/shared_arena.h"
#include "tests/cuda_host/shared_shadow.h"

namespace skv::cuda_host {

void check_shared(Access access, uintptr_t p, std::size_t bytes, const void* site);
void check_device(const void* p, std::size_t bytes, const void* site);
void check_own(uintptr_t p, const void* site);
void check_host_stack(const void* site);
// The stack of the program's first thread: no GPU sees what lies there, whatever else the host shows it.
extern const uintptr_t host_stack_begin, host_stack_bytes;
extern std::atomic<bool> device_memory_only;

// p..p+bytes by the fiber that runs, or by host code between kernels; site is where.
inline void check_access(Access access, const void* p, std::size_t bytes, const void* site) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  if (at - watched_begin < watched_bytes) return check_shared(access, at, bytes, site);
  if (at - memory_begin < kMemoryReserved) return check_device(p, bytes, site);
  if (at - host_stack_begin < host_stack_bytes) return check_host_stack(site);
  if (device_memory_only.load(std::memory_order_relaxed)) check_own(at, site);
}
// Whether p..p+bytes is shared memory of the running block; told if not. *at: the offset in it.
bool in_shared(const void* p, std::size_t bytes, const char* what, const void* site, std::size_t* at);

}  // namespace skv::cuda_host
