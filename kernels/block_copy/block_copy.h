// block_copy: moves many small blocks at once.
//
// Computes   to[0, bytes) = from[0, bytes) of every item
// Shapes     16-byte aligned, whole multiples of 16 bytes
// Edges      no items, items of 0 bytes: nothing
// Aliasing   no item writes what another reads or writes
// Cost       reads and writes the bytes once
// Source     none (storage)
#pragma once

#include <cstdint>
#include <span>

namespace skv::kernels {

struct BlockCopyItem {
  void* to = nullptr;
  const void* from = nullptr;
  int64_t bytes = 0;
};

void block_copy_ref(std::span<const BlockCopyItem>);
void block_copy_cpu(std::span<const BlockCopyItem>);

}  // namespace skv::kernels
