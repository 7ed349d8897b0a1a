// chunk_fetch: decode blocks of the slow tier (one chunk of one head each) into slots. Values always; exact keys too.
//
// Computes   slot[slots[i]] = decode(block[chunks[i]]) * weights, i < *n, as block_format.h says
// Shapes     per item: blocks paged rows, one row a chunk (row_bytes = block bytes); slot region [n_slots, C, D]
//            dtype; weights [D] f32 or null (ones), for every row; not with raw; D <= 512 with them
// Types      raw: bytes as they are; int8, int4: f32 arithmetic, one rounding to dtype at the end
// Strides    blocks and slots 16-byte aligned; nothing is read past a block's end
// Edges      *n = 0: nothing. Slots within an item are distinct. A row with scale NaN decodes to NaN
// Determinism a chunk's bytes depend on its block and the weights only: not on i, the slot, other items or threads
// Tolerance  raw and int8 bit-equal to the reference; int4 1e-6 of the row's largest |value| before it is weighted
//            (f32), one rounding (bf16)
// Cost       bytes ~ n * (block + C * D * sizeof(dtype)); bandwidth-bound, int4 adds D log2 D additions a row
// Source     ShadowKV Alg. 2 line 6 (value fetch); Hadamard rotation: QuaRot (arXiv 2404.00456)
#pragma once

#include <span>

#include "kernels/common/block_format.h"
#include "kernels/common/paged.h"

namespace skv::kernels {

struct ChunkFetchItem {
  PagedRows blocks;
  void* slot_region = nullptr;
  const int32_t* chunks = nullptr;
  const int32_t* slots = nullptr;  // null: 0, 1, 2, ...
  const int32_t* n = nullptr;
  int32_t max_n = 0;  // bound of *n
  const float* weights = nullptr;
  SKV_HD int32_t slot(int32_t i) const { return slots == nullptr ? i : slots[i]; }
};

// raw and int8 of any width, int4 of those of hadamard.h that are multiples of 16; dtype f32 or bf16. The same for
// block_store.
bool chunk_fetch_supports(const BlockFormat& format);
void chunk_fetch_ref(const BlockFormat&, std::span<const ChunkFetchItem>);
void chunk_fetch_cpu(const BlockFormat&, std::span<const ChunkFetchItem>);

}  // namespace skv::kernels
