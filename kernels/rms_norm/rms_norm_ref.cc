#include "kernels/rms_norm/rms_norm.h"

#include <cmath>

namespace skv::kernels {

void rms_norm_ref(const float* x, const float* w, float eps, int64_t m, int64_t n, float* y) {
  for (int64_t i = 0; i < m; ++i) {
    double squares = 0.0;
    for (int64_t j = 0; j < n; ++j) squares += static_cast<double>(x[i * n + j]) * static_cast<double>(x[i * n + j]);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(eps));
    for (int64_t j = 0; j < n; ++j) {
      y[i * n + j] = static_cast<float>(static_cast<double>(x[i * n + j]) * scale * static_cast<double>(w[j]));
    }
  }
}

}  // namespace skv::kernels
