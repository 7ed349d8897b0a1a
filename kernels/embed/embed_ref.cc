#include "kernels/embed/embed.h"

namespace skv::kernels {

void embed_ref(const void* table, DType dtype, int64_t n, const int32_t* ids, int64_t m, float* y) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) y[i * n + j] = load_f32(table, dtype, static_cast<int64_t>(ids[i]) * n + j);
  }
}

}  // namespace skv::kernels
