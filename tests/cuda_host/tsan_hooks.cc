// The callbacks that -fsanitize=thread puts before every access of kernel code, in place of ThreadSanitizer's
// runtime.
#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/cuda_host/accesses.h"
#include "tests/cuda_host/block.h"
#include "tests/cuda_host/findings.h"

namespace skv::cuda_host {

namespace {

void aligned(Access access, void* p, std::size_t bytes, const void* site) {
  if ((reinterpret_cast<uintptr_t>(p) & (bytes - 1)) != 0 && running != nullptr) {
    found("misaligned access", site, "of " + std::to_string(bytes) + " bytes");
  }
  check_access(access, p, bytes, site);
}

}  // namespace

}  // namespace skv::cuda_host

using skv::cuda_host::Access;
using skv::cuda_host::aligned;
using skv::cuda_host::check_access;
using skv::cuda_host::running;

extern "C" {

#define SKV_HOOKS(n)                                                                                        \
  void __tsan_read##n(void* p) { aligned(Access::read, p, n, __builtin_return_address(0)); }                \
  void __tsan_write##n(void* p) { aligned(Access::write, p, n, __builtin_return_address(0)); }              \
  void __tsan_volatile_read##n(void* p) { aligned(Access::read, p, n, __builtin_return_address(0)); }       \
  void __tsan_volatile_write##n(void* p) { aligned(Access::write, p, n, __builtin_return_address(0)); }     \
  void __tsan_unaligned_read##n(void* p) { check_access(Access::read, p, n, __builtin_return_address(0)); } \
  void __tsan_unaligned_write##n(void* p) { check_access(Access::write, p, n, __builtin_return_address(0)); }
SKV_HOOKS(1)
SKV_HOOKS(2)
SKV_HOOKS(4)
SKV_HOOKS(8)
SKV_HOOKS(16)
#undef SKV_HOOKS

void __tsan_read_range(void* p, std::size_t bytes) {
  check_access(Access::read, p, bytes, __builtin_return_address(0));
}
void __tsan_write_range(void* p, std::size_t bytes) {
  check_access(Access::write, p, bytes, __builtin_return_address(0));
}
void __tsan_init() {}
// Where the kernel itself begins: what comes before reads the arguments of the launch.
void __tsan_func_entry(void*) {
  if (running == nullptr || running->current() == nullptr) return;
  const auto offset = static_cast<const char*>(__builtin_return_address(0)) -
                      static_cast<const char*>(running->launch().kernel);
  if (offset >= 0 && offset < 512) running->current()->in_kernel = true;
}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
// std::atomic in host code that shares a file with kernels.
#define SKV_ATOMICS(bits, T)                                                                              \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
  void __tsan_atomic##bits##_store(volatile T* p, T x, int) { __atomic_store_n(p, x, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_exchange(volatile T* p, T x, int) {                                             \
    return __atomic_exchange_n(p, x, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T x, int) {                                            \
    return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T x, int) {                                            \
    return __atomic_fetch_sub(p, x, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  bool __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* was, T x, int, int) {              \
    return __atomic_compare_exchange_n(p, was, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
  }
SKV_ATOMICS(8, uint8_t)
SKV_ATOMICS(32, uint32_t)
SKV_ATOMICS(64, uint64_t)
#undef SKV_ATOMICS

// Kernel files are compiled with these in place of the C library's (memory_calls.h).
void* skv_cuda_host_memcpy(void* to, const void* from, std::size_t n) {
  check_access(Access::read, from, n, __builtin_return_address(0));
  check_access(Access::write, to, n, __builtin_return_address(0));
  return __builtin_memcpy(to, from, n);
}
void* skv_cuda_host_memmove(void* to, const void* from, std::size_t n) {
  check_access(Access::read, from, n, __builtin_return_address(0));
  check_access(Access::write, to, n, __builtin_return_address(0));
  return __builtin_memmove(to, from, n);
}
void* skv_cuda_host_memset(void* p, int byte, std::size_t n) {
  check_access(Access::write, p, n, __builtin_return_address(0));
  return __builtin_memset(p, byte, n);
}
}
