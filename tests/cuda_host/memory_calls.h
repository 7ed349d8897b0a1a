// Included before everything else in kernel files whose accesses are looked at: calls of memcpy and its like go
// through tsan_hooks.cc too.
#pragma once

#include <stddef.h>

extern "C" {
void* memcpy(void* to, const void* from, size_t n) noexcept __asm__("skv_cuda_host_memcpy");
void* memmove(void* to, const void* from, size_t n) noexcept __asm__("skv_cuda_host_memmove");
void* memset(void* p, int byte, size_t n) noexcept __asm__("skv_cuda_host_memset");
}
