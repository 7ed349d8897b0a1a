// gemm: activations times a weight matrix as checkpoints store it.
//
// Computes   c[i, j] = sum_k a[i, k] * w[j, k]  (+ bias[j])  (+ c[i, j] if accumulate)
// Shapes     a [m, k] row stride lda; w [n, k] contiguous; bias [n] or null; c [m, n] row stride ldc
// Types      a, c, bias f32; w f32, bf16 or f16. m <= kGemmDecodeRows: a stays f32, w is widened, sums f32. Larger m with
//            16-bit w: a may be rounded to bf16 (hardware bf16 products); f32 w: f32 products. CUDA rounds a to the
//            type of a 16-bit w at every m (f16: what is beyond 65504 becomes infinite)
// Determinism for m <= kGemmDecodeRows a row's bits do not depend on m or on the other rows; never on threads
// Tolerance  1e-5 * sum|a w| f32; 1e-2 * sqrt(sum (a w)^2) ... against the unrounded reference where a is rounded
// Workspace  workspace_bytes(desc, m); does not grow beyond m = kGemmRoundedRows
// Cost       flops 2 m n k; bytes n k sizeof(w) + 4 m (k + n); bandwidth-bound for m below about 16
// Source     oneDNN where it has fast bf16 or f32 (m > kGemmDecodeRows), Highway otherwise; CUDA: cuBLASLt at every m,
//            its algorithm chosen from (n, k) and the side of kGemmDecodeRows that m is on
#pragma once

#include <cstddef>

#include "kernels/common/dtype.h"

namespace skv::kernels {

inline constexpr int64_t kGemmDecodeRows = 64;
inline constexpr int64_t kGemmRoundedRows = 1024;  // CUDA: rows of a that are rounded and multiplied at a time

struct GemmDesc {
  DType w_dtype = DType::bf16;
  int64_t n = 0;
  int64_t k = 0;
};

struct GemmArgs {
  const float* a = nullptr;
  int64_t lda = 0;
  const void* w = nullptr;
  const float* bias = nullptr;
  float* c = nullptr;
  int64_t ldc = 0;
  int64_t m = 0;
  bool accumulate = false;
};

// CUDA: floats between rounded rows of a, 16 bytes' worth at a time.
constexpr int64_t gemm_rounded_stride(const GemmDesc& desc) { return (desc.k + 7) / 8 * 8; }

std::size_t gemm_workspace_bytes(const GemmDesc& desc, int64_t m);
void gemm_ref(const GemmDesc&, const GemmArgs&, void* workspace);
void gemm_cpu(const GemmDesc&, const GemmArgs&, void* workspace);

}  // namespace skv::kernels
