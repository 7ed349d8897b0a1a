#include "kernels/swiglu/swiglu.h"

#include <cmath>

namespace skv::kernels {

void swiglu_ref(const float* gu, int64_t m, int64_t n, float* y) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const double g = static_cast<double>(gu[i * 2 * n + j]);
      const double u = static_cast<double>(gu[i * 2 * n + n + j]);
      y[i * n + j] = static_cast<float>(g / (1.0 + std::exp(-g)) * u);
    }
  }
}

}  // namespace skv::kernels
