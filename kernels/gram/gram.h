// gram: second moments of keys about a provisional centre, accumulated block by block.
//
// Computes   g += (X - 1 c^T)^T (X - 1 c^T);  sum += 1^T (X - 1 c^T)
// Shapes     x [n, m] f32, row stride ldx; c [m]; g [m, m] symmetric, both triangles valid on return; sum [m] double
// Types      products and sums f32 per call, g f32 (blocks of at most 4,096 rows a call keep the error at 1e-6 relative,
//            1.5e-5 for rows that repeat and so round alike). On a GPU x - c is rounded to bf16 first: an error of at
//            most 8e-3 sqrt(g[i, i] g[j, j]) of what is added; sums are those of unrounded rows.
//            Subtracting c first is what keeps a bias of 100 times the spread harmless
// gram_center: the true mean is c + sum / n; g -= n d d^T with d = sum / n makes g the Gram matrix of centred keys.
// Workspace  gram_workspace_bytes(n, m), the largest need of any backend
// Cost       flops 2 n m^2; compute-bound
// Source     shadowkv.md section 2 (replaces the published fp32 SVD)
#pragma once

#include <cstddef>
#include <cstdint>

namespace skv::kernels {

struct GramArgs {
  const float* x = nullptr;
  int64_t ldx = 0;
  int64_t n = 0;
  int32_t m = 0;
  const float* center = nullptr;
  float* g = nullptr;
  double* sum = nullptr;
};

std::size_t gram_workspace_bytes(int64_t n, int32_t m);
void gram_ref(const GramArgs&, void* workspace);
void gram_cpu(const GramArgs&, void* workspace);
void gram_center_ref(float* g, const double* sum, int64_t n, int32_t m);
void gram_center_cpu(float* g, const double* sum, int64_t n, int32_t m);

}  // namespace skv::kernels
