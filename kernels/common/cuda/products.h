// What NVIDIA's libraries compute for ops: matrix products (cuBLASLt) and symmetric eigenproblems (cuSOLVER). Hosts
// that execute kernels have fakes of both (the test harness).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/dtype.h"

namespace skv::cuda {

class Stream;    // stream.h
class Products;  // library handles and their workspaces; one a stream

// Row-major C = alpha op(A) op(B) + beta C; op(A) is [m, k], op(B) [k, n], C [m, n] f32. The algorithm is chosen from
// (type, n, k, whether m is above 64, transposes, whether all pointers and strides are multiples of 16 bytes) alone,
// without split-K, so that a row's bits do not depend on m; only where the library refuses what it chose so is one taken
// for this m. Where m, n or k is 0 nothing is done; C is not read where beta is 0.
struct MatrixProduct {
  DType type = DType::bf16;  // of A and B; f32 products are full f32, not tf32
  bool transpose_a = false;
  bool transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  int64_t lda = 0;
  const void* b = nullptr;
  int64_t ldb = 0;
  float* c = nullptr;
  int64_t ldc = 0;
  float alpha = 1.0f;
  float beta = 0.0f;
  bool operator==(const MatrixProduct&) const = default;
};
void matrix_product(Stream& stream, const MatrixProduct& product);  // kept where the stream keeps launches
// Queued now. Null, or why it is not; the stream is none the worse for that.
const char* run_product(Stream& stream, const MatrixProduct& product);

// The same in double, C = op(A) op(B): for factorisations.
struct DoubleProduct {
  bool transpose_a = false;
  bool transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  const double* a = nullptr;
  int64_t lda = 0;
  const double* b = nullptr;
  int64_t ldb = 0;
  double* c = nullptr;
  int64_t ldc = 0;
};
void double_product(Stream& stream, const DoubleProduct& product);

// Eigenvalues w [n] ascending and eigenvectors of the symmetric a [n, n], which row i of a holds on return (the
// vector of w[i]). False where it did not converge or the stream failed; waits for the answer.
bool symmetric_eigen(Stream& stream, double* a, int32_t n, double* w);

// Null where they could not be made.
Products* make_products(cudaStream_t stream);
void free_products(Products* products);
// Device memory that they hold; symmetric_eigen takes about 32 n^2 bytes more for the largest n it has seen.
int64_t products_bytes();

}  // namespace skv::cuda
