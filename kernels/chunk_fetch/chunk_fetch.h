// chunk_fetch: decode blocks of the slow tier (one chunk of one head each) into slots. Values always; exact keys too.
//
// Computes   slot[slots[i]] = decode(block[chunks[i]]), i < *n
// Shapes     per item: blocks paged rows, one row a chunk (row_bytes = block bytes); slot region [n_slots, C, D] dtype
// Types      codec raw: the block is C rows of D elements of dtype. (int8, int4: see codec ids; not implemented yet.)
// Strides    blocks and slots 16-byte aligned; nothing is read past a block's end
// Edges      *n = 0: nothing. Slots within an item are distinct
// Determinism bit-equal
// Cost       bytes ~ n * (block + C * D * sizeof(dtype)); bandwidth-bound
// Source     ShadowKV Alg. 2 line 6 (value fetch)
#pragma once

#include <span>

#include "kernels/common/paged.h"

namespace skv::kernels {

enum class BlockCodec : uint8_t { raw = 0 };

struct ChunkFetchDesc {
  BlockCodec codec = BlockCodec::raw;
  DType dtype = DType::bf16;
  int32_t chunk = 0;
  int32_t head_dim = 0;
};

struct ChunkFetchItem {
  PagedRows blocks;
  void* slot_region = nullptr;
  const int32_t* chunks = nullptr;
  const int32_t* slots = nullptr;
  const int32_t* n = nullptr;
};

bool chunk_fetch_supports(const ChunkFetchDesc& desc);
using ChunkFetchFn = void (*)(const ChunkFetchDesc&, std::span<const ChunkFetchItem>);
void chunk_fetch_ref(const ChunkFetchDesc&, std::span<const ChunkFetchItem>);
void chunk_fetch_cpu(const ChunkFetchDesc&, std::span<const ChunkFetchItem>);

}  // namespace skv::kernels
