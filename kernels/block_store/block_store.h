// block_store: encode whole chunks of one KV head into blocks; the inverse of chunk_fetch.
//
// Computes   block[first_chunk + j] = encode(rows [j * C, (j + 1) * C) of the item's spans), j < n
// Shapes     per item: spans (rows at k; v is not read) hold whole chunks, n * C rows of D in all; blocks paged rows
// Types      codec raw: bytes as they are, dtype of the rows
// Strides    rows contiguous; blocks 16-byte aligned
// Edges      n = 0: nothing
// Cost       bytes 2 n C D sizeof(dtype)
// Source     ShadowKV Alg. 1 (value offload)
#pragma once

#include <span>

#include "kernels/chunk_fetch/chunk_fetch.h"

namespace skv::kernels {

struct BlockStoreItem {
  const KvSpan* spans = nullptr;
  int32_t n_spans = 0;
  PagedRows blocks;
  int32_t first_chunk = 0;
};

using BlockStoreFn = void (*)(const ChunkFetchDesc&, std::span<const BlockStoreItem>);
void block_store_ref(const ChunkFetchDesc&, std::span<const BlockStoreItem>);
void block_store_cpu(const ChunkFetchDesc&, std::span<const BlockStoreItem>);

}  // namespace skv::kernels
