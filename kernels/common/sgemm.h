// Products of row-major f32 and f64 matrices that the ops need inside themselves (gram, subspace_basis, key_project).
//
// Computes   c = op(a) op(b)  (+ c if accumulate), op = identity or transpose
// Shapes     op(a) [m, k], op(b) [k, n], c [m, n]; row strides lda, ldb, ldc of the matrices as stored
// Types      f32 or f64 throughout; sums over blocks of 256 terms, then over blocks: error grows with sqrt(k) / 16
// upper_only c is symmetric in exact arithmetic (a^T a, ...): elements below the diagonal are left undefined
// Aliasing   c overlaps neither a nor b; a and b may be the same matrix
// Edges      k = 0: c = 0 (or unchanged). NaN and infinity spread as the formula says
// Determinism an element's bits depend on its row of op(a), its column of op(b) and k only: not on m, n or threads
// Workspace  matmul_workspace_bytes, 64-byte aligned
// Cost       flops 2 m n k (half of it with upper_only)
#pragma once

#include <cstddef>
#include <cstdint>

namespace skv::kernels {

template <class T>
struct MatmulArgs {
  const T* a = nullptr;
  int64_t lda = 0;
  bool trans_a = false;
  const T* b = nullptr;
  int64_t ldb = 0;
  bool trans_b = false;
  T* c = nullptr;
  int64_t ldc = 0;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  bool accumulate = false;
  bool upper_only = false;
};

inline constexpr int64_t kMatmulBlock = 256;   // terms summed before a partial sum is added to c
inline constexpr int64_t kMatmulDepth = 1024;  // terms packed at a time: bounds the workspace, whole blocks

std::size_t matmul_workspace_bytes(int64_t m, int64_t n, std::size_t element_bytes);
void sgemm(const MatmulArgs<float>&, void* workspace);
void dgemm(const MatmulArgs<double>&, void* workspace);

}  // namespace skv::kernels
