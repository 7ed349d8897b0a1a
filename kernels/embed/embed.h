// embed: y[i, :] = widen(table[ids[i], :])
// Shapes     table [vocab, n] of dtype; ids [m] in [0, vocab) (checked by the caller); y [m, n] f32
// Cost       reads and writes m n elements
#pragma once

#include "kernels/common/dtype.h"

namespace skv::kernels {

void embed_ref(const void* table, DType dtype, int64_t n, const int32_t* ids, int64_t m, float* y);
void embed_cpu(const void* table, DType dtype, int64_t n, const int32_t* ids, int64_t m, float* y);

}  // namespace skv::kernels
