// block_store: encode whole chunks of one KV head into blocks; the inverse of chunk_fetch.
//
// Computes   block[first_chunk + j] = encode(rows [j * C, (j + 1) * C) of the item's spans * inverse_weights), j < n,
//            as block_format.h says
// Shapes     per item: spans (rows at k; v is not read) hold whole chunks, n * C rows of D in all; blocks paged rows;
//            inverse_weights [D] f32 or null (ones), for every row; not with raw; D <= 512 with them
// Types      rows of format.dtype; codes from f32 arithmetic
// Strides    rows contiguous; blocks 16-byte aligned
// Edges      n = 0: nothing. Rows that are not finite: see block_format.h. Padding bytes are written as zeros
// Determinism a block depends on its rows and the weights only
// Tolerance  int8 bit-equal to the reference; int4: scales 1e-3 relative (or the next f16), decoded values within the
//            error bound of block_format.h
// Cost       bytes n (C D sizeof(dtype) + block)
// Source     ShadowKV Alg. 1 (value offload)
#pragma once

#include <span>

#include "kernels/common/block_format.h"
#include "kernels/common/paged.h"

namespace skv::kernels {

struct BlockStoreItem {
  const KvSpan* spans = nullptr;
  int32_t n_spans = 0;
  PagedRows blocks;
  int32_t first_chunk = 0;
  const float* inverse_weights = nullptr;
};

void block_store_ref(const BlockFormat&, std::span<const BlockStoreItem>);
void block_store_cpu(const BlockFormat&, std::span<const BlockStoreItem>);

}  // namespace skv::kernels
