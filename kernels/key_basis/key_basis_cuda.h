// The workspace of gram_prior in key_basis.cu, which gram_prior_workspace_bytes counts too.
#pragma once

#include <cstdint>

#include "kernels/common/workspace.h"
#include "kernels/key_basis/key_basis.h"

namespace skv::kernels {

struct GramPriorCudaScratch {
  int64_t ld;       // of rows: whole 16 bytes
  float* vectors;   // [m, ld]
  float* weighted;  // [m, ld], times eigenvalues and weight
};

inline GramPriorCudaScratch gram_prior_cuda_scratch(WorkspaceCursor& cursor, const KeyBasisDesc& desc) {
  GramPriorCudaScratch s;
  s.ld = (desc.rank + 3) / 4 * 4;
  s.vectors = cursor.take<float>(desc.width() * s.ld);
  s.weighted = cursor.take<float>(desc.width() * s.ld);
  return s;
}

}  // namespace skv::kernels
