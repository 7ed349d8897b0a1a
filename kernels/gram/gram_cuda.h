// The workspace of gram.cu, which gram_workspace_bytes counts too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common/workspace.h"

namespace skv::kernels {

inline constexpr int64_t kGramRows = 4096;   // of one product
inline constexpr int64_t kGramSumRows = 64;  // summed by one block

struct GramCudaScratch {
  int64_t ld;          // of rows: whole 16 bytes
  uint16_t* centered;  // [kGramRows, ld] bf16
  double* partial;     // [kGramRows / kGramSumRows, m] sums of columns
};

inline GramCudaScratch gram_cuda_scratch(WorkspaceCursor& cursor, int64_t n, int64_t m) {
  const int64_t rows = std::min(n, kGramRows);
  GramCudaScratch s;
  s.ld = (m + 7) / 8 * 8;
  s.centered = cursor.take<uint16_t>(rows * s.ld);
  s.partial = cursor.take<double>((rows + kGramSumRows - 1) / kGramSumRows * m);
  return s;
}

}  // namespace skv::kernels
