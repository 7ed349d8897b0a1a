// rms_norm: y[i, :] = x[i, :] / sqrt(mean(x[i, :]^2) + eps) * w
// Shapes     x, y [m, n] contiguous, may alias exactly; w [n] f32
// Types      f32, sums f32 with pairwise blocks (error <= 1e-6 relative against double)
// Edges      m = 0: nothing; zero row: zeros; NaN stays in its row
// Source     RMSNorm (arXiv 1910.07467)
#pragma once

#include <cstdint>

namespace skv::kernels {

void rms_norm_ref(const float* x, const float* w, float eps, int64_t m, int64_t n, float* y);
void rms_norm_cpu(const float* x, const float* w, float eps, int64_t m, int64_t n, float* y);

}  // namespace skv::kernels
