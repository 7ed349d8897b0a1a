// The fake device's memory: allocations of one reserved range of addresses (of malloc under AddressSanitizer, which
// then finds what this registry would).
#pragma once

#include <cstddef>
#include <cstdint>

namespace skv::cuda_host {

enum class MemoryKind { device, pinned, host_list };  // host_list: kernels must not touch it

void* allocate_memory(MemoryKind kind, std::size_t bytes);  // filled with 0xff; null: none left
bool free_memory(MemoryKind kind, void* p);                 // false: no such allocation

std::size_t allocation_bytes(const void* p);               // 0: no such allocation

inline constexpr std::size_t kMemoryReserved = std::size_t{1} << 40;  // addresses; never used twice
extern const uintptr_t memory_begin;

enum class Place { outside, allocated, freed, beyond };  // beyond: in the range, in no allocation
struct Located {
  Place place = Place::outside;
  MemoryKind kind = MemoryKind::device;
  uintptr_t begin = 0;
  std::size_t bytes = 0;  // of the allocation it is in, or of the nearest before it
};
// Of [p, p + bytes), which must lie in one allocation to be allocated.
Located locate(const void* p, std::size_t bytes);

}  // namespace skv::cuda_host
