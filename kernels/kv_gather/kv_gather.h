// kv_gather: keys of exact pages, token-major and widened, for factoring.
//
// Computes   x[t, h * D : (h + 1) * D] = widen(page[h][row(first + t)][:]) (keys only)
// Shapes     pages as in kv_append.h; x [n, heads * D] f32 contiguous
// Edges      n = 0: nothing
// Cost       reads n heads D sizeof(dtype), writes 4 n heads D bytes
// Source     none (storage)
#pragma once

#include <cstdint>

#include "kernels/kv_append/kv_append.h"

namespace skv::kernels {

struct KvGatherArgs {
  KvPageFormat format;
  void* const* pages = nullptr;
  int64_t first = 0;
  int64_t n = 0;
  float* x = nullptr;
};

void kv_gather_ref(const KvGatherArgs&);
void kv_gather_cpu(const KvGatherArgs&);

}  // namespace skv::kernels
