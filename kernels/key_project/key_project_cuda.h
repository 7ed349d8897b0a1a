// The workspace of key_project.cu, which key_project_workspace_bytes counts too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common/workspace.h"
#include "kernels/key_project/key_project.h"

namespace skv::kernels {

inline constexpr int64_t kProjectRows = 4096;      // of one product
inline constexpr int64_t kProjectLeastRows = 128;  // multiplied even where fewer are given: by the same algorithm

struct KeyProjectCudaScratch {
  int64_t block;    // rows, whole chunks
  int64_t ld;       // of a: whole 16 bytes
  float* centered;  // [rows, m]; less a b once a is there
  float* a;         // [rows, ld]
  float* b;         // [r, m]
};

inline KeyProjectCudaScratch key_project_cuda_scratch(WorkspaceCursor& cursor, const KeyProjectDesc& desc,
                                                      int64_t n) {
  const int64_t m = int64_t{desc.kv_heads} * desc.head_dim;
  KeyProjectCudaScratch s;
  s.block = std::min<int64_t>(n, std::max<int64_t>(kProjectRows / desc.chunk, 1) * desc.chunk);
  s.ld = (desc.rank + 3) / 4 * 4;
  const int64_t rows = std::max(s.block, kProjectLeastRows);
  s.centered = cursor.take<float>(rows * m);
  s.a = cursor.take<float>(rows * s.ld);
  s.b = cursor.take<float>(desc.rank * m);
  return s;
}

}  // namespace skv::kernels
