// swiglu: y[i, j] = silu(g[i, j]) * u[i, j], silu(x) = x / (1 + exp(-x))
// Shapes     gu [m, 2 n] rows hold g then u; y [m, n]; y may alias the start of nothing (separate buffers)
// Types      f32; relative error <= 2e-6 for |g| <= 80; saturates to 0 and g beyond, never NaN from finite input
// Source     GLU variants (arXiv 2002.05202)
#pragma once

#include <cstdint>

namespace skv::kernels {

void swiglu_ref(const float* gu, int64_t m, int64_t n, float* y);
void swiglu_cpu(const float* gu, int64_t m, int64_t n, float* y);

}  // namespace skv::kernels
