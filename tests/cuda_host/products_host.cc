// Matrix products and eigenproblems where the host executes kernels: plain loops with double sums, queued as a
// library's kernels are, so that what the kernels around them do is tested against the same contract. No
// algorithm of cuBLASLt or cuSOLVER is tried here.
#include <cmath>
#include <cstddef>
#include <vector>

#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/stream.h"
#include "kernels/subspace_basis/symmetric_eigen.h"
#include "tests/cuda_host/fake_streams.h"

namespace skv::cuda {

class Products {};

namespace {

// A read of stored element (row, column) of a matrix, transposed or not.
template <class Load>
double element(const Load& load, bool transposed, int64_t ld, int64_t row, int64_t column) {
  return load(transposed ? column * ld + row : row * ld + column);
}

template <class Product, class LoadA, class LoadB, class Store>
void multiply(const Product& p, const LoadA& load_a, const LoadB& load_b, const Store& store) {
  std::vector<double> b(static_cast<std::size_t>(p.k * p.n)), row(static_cast<std::size_t>(p.n));
  for (int64_t l = 0; l < p.k; ++l)
    for (int64_t j = 0; j < p.n; ++j) b[l * p.n + j] = element(load_b, p.transpose_b, p.ldb, l, j);
  for (int64_t i = 0; i < p.m; ++i) {
    row.assign(row.size(), 0.0);
    for (int64_t l = 0; l < p.k; ++l) {
      const double a = element(load_a, p.transpose_a, p.lda, i, l);
      for (int64_t j = 0; j < p.n; ++j) row[j] += a * b[l * p.n + j];
    }
    for (int64_t j = 0; j < p.n; ++j) store(i * p.ldc + j, row[j]);
  }
}

// Null, or why not.
template <class Run>
const char* queue(Stream& stream, const Run& run) {
  using cuda_host::Work;
  if (stream.products() == nullptr) return "the stream has no library handles";
  const cudaError_t error = cuda_host::submit(stream.handle(), {Work::Kind::product, [run](uint64_t) { run(); }});
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* run_product(Stream& stream, const MatrixProduct& p) {
  return queue(stream, [p] {
    multiply(
        p, [&](int64_t i) { return double{load_f32(p.a, p.type, i)}; },
        [&](int64_t i) { return double{load_f32(p.b, p.type, i)}; },
        [&](int64_t i, double sum) {
          p.c[i] = static_cast<float>(p.alpha * sum + (p.beta == 0.0f ? 0.0 : double{p.beta} * p.c[i]));
        });
  });
}

void double_product(Stream& stream, const DoubleProduct& p) {
  stream.handle();
  if (!stream.ok() || p.m <= 0 || p.n <= 0 || p.k <= 0) return;
  const char* why = queue(stream, [p] {
    multiply(
        p, [&](int64_t i) { return p.a[i]; }, [&](int64_t i) { return p.b[i]; },
        [&](int64_t i, double sum) { p.c[i] = sum; });
  });
  if (why != nullptr) stream.fail("matrix product", why);
}

bool symmetric_eigen(Stream& stream, double* a, int32_t n, double* w) {
  if (stream.ok() && stream.products() == nullptr) stream.fail("eigenproblem", "the stream has no library handles");
  if (!stream.ok() || n <= 0) return false;
  const cudaStream_t handle = stream.handle();
  if (!stream.check(cudaStreamSynchronize(handle), "eigenproblem")) return false;
  std::vector<double> work(static_cast<std::size_t>(kernels::symmetric_eigen_workspace_doubles(n)));
  return kernels::symmetric_eigen(n, a, w, work.data());
}

Products* make_products(cudaStream_t) { return new Products; }
void free_products(Products* products) { delete products; }
int64_t products_bytes() { return 0; }

}  // namespace skv::cuda
