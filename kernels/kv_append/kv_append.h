// kv_append: new keys and values, one row a token, into exact pages.
//
// Computes   page[h][slot + t][:] = round(rows[t, h * D : (h + 1) * D]) for k and for v
// Shapes     per item (one run of one sequence): k, v rows [n, heads * D] f32 contiguous; pages hold
//            [heads][page_tokens][D] of dtype, values after keys: token i of the run lies in
//            pages[(first + i) / page_tokens] at row (first + i) % page_tokens; only those pages are looked at
// Types      dtype bf16 (round to nearest even) or f32
// Edges      n = 0: nothing, pages may be null
// Cost       reads 8 n heads D bytes, writes 2 n heads D sizeof(dtype)
// Source     none (storage)
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/dtype.h"

namespace skv::kernels {

struct KvPageFormat {
  DType dtype = DType::bf16;
  int32_t heads = 0;
  int32_t head_dim = 0;
  int32_t page_tokens = 0;
};

struct KvAppendItem {
  void* const* pages = nullptr;
  int64_t first = 0;
  int64_t n = 0;
  const float* k = nullptr;
  const float* v = nullptr;
};

void kv_append_ref(const KvPageFormat&, std::span<const KvAppendItem>);
void kv_append_cpu(const KvPageFormat&, std::span<const KvAppendItem>);

}  // namespace skv::kernels
