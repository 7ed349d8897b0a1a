#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/common/hash_random.h"
#include "kernels/common/parallel.h"
#include "kernels/common/sgemm.h"
#include "kernels/common/workspace.h"
#include "kernels/subspace_basis/subspace_basis.h"
#include "kernels/subspace_basis/subspace_rounds.h"
#include "kernels/subspace_basis/symmetric_eigen.h"

// All products run in sgemm / dgemm, which choose the SIMD target; the rest is O((r + 32)^3) in double.
namespace skv::kernels {
namespace {

struct FullScratch {
  double* a;
  double* values;
  double* eigen;
};

FullScratch full_scratch(WorkspaceCursor& cursor, int32_t m) {
  FullScratch s;
  s.a = cursor.take<double>(static_cast<int64_t>(m) * m);
  s.values = cursor.take<double>(m);
  s.eigen = cursor.take<double>(symmetric_eigen_workspace_doubles(m));
  return s;
}

struct SubspaceScratch {
  int64_t m, k;    // k = rank + kOversample columns
  double* y;       // [m, k]
  double* z;       // [m, k]
  float* q;        // [m, k] operand of g q
  float* gq;       // [m, k]
  double* small;   // [k, k]
  double* factor;  // [k, k]
  double* norms;   // [k]
  double* values;  // [k]
  double* eigen;
  void* matmul;
};

SubspaceScratch subspace_scratch(WorkspaceCursor& cursor, int64_t m, int32_t k) {
  SubspaceScratch s;
  s.m = m;
  s.k = k;
  s.y = cursor.take<double>(m * k);
  s.z = cursor.take<double>(m * k);
  s.q = cursor.take<float>(m * k);
  s.gq = cursor.take<float>(m * k);
  s.small = cursor.take<double>(static_cast<int64_t>(k) * k);
  s.factor = cursor.take<double>(static_cast<int64_t>(k) * k);
  s.norms = cursor.take<double>(k);
  s.values = cursor.take<double>(k);
  s.eigen = cursor.take<double>(symmetric_eigen_workspace_doubles(k));
  s.matmul = cursor.take_bytes(std::max(matmul_workspace_bytes(m, k, sizeof(float)),
                                        matmul_workspace_bytes(m, k, sizeof(double))));
  return s;
}

// Largest magnitude in g by its bits; >= the bits of infinity if g holds NaN or infinity.
uint32_t largest_bits(const float* g, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(g[i]) & 0x7fffffffu);
  return largest;
}

// small = y^T y, both triangles.
void inner_products(const SubspaceScratch& s) {
  MatmulArgs<double> product{.a = s.y, .lda = s.k, .trans_a = true, .b = s.y, .ldb = s.k, .c = s.small, .ldc = s.k,
                             .m = s.k, .n = s.k, .k = s.m};
  product.upper_only = true;
  dgemm(product, s.matmul);
}

// small (upper triangle) becomes U with U^T U = D^-1 small D^-1, D = diag(norms). A column that depends on earlier
// ones gets norm 0 and a unit row and column, so that it takes no part. Returns how many did.
int64_t scaled_cholesky(const SubspaceScratch& s) {
  const int64_t k = s.k;
  for (int64_t j = 0; j < k; ++j) s.norms[j] = std::sqrt(s.small[j * k + j]);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = i; j < k; ++j) {
      const double scale = s.norms[i] * s.norms[j];
      s.small[i * k + j] = i == j ? 1.0 : scale > 0 ? s.small[i * k + j] / scale : 0.0;
    }
  int64_t dependent = 0;
  for (int64_t p = 0; p < k; ++p) {
    double* row = s.small + p * k;
    const bool drop = !(row[p] > kDependent) || !(s.norms[p] > 0.0);
    if (drop) {
      ++dependent;
      s.norms[p] = 0.0;
      row[p] = 1.0;
      std::fill(row + p + 1, row + k, 0.0);
      continue;
    }
    const double pivot = std::sqrt(row[p]);
    row[p] = pivot;
    for (int64_t j = p + 1; j < k; ++j) row[j] /= pivot;
    for (int64_t i = p + 1; i < k; ++i) {
      const double x = row[i];
      double* target = s.small + i * k;
      for (int64_t j = i; j < k; ++j) target[j] -= x * row[j];
    }
  }
  return dependent;
}

// factor = D^-1 U^-1, upper triangular, zeros below.
void invert_factor(const SubspaceScratch& s) {
  const int64_t k = s.k;
  std::fill_n(s.factor, k * k, 0.0);
  for (int64_t i = k - 1; i >= 0; --i) {
    double* row = s.factor + i * k;
    row[i] = 1.0;
    for (int64_t p = i + 1; p < k; ++p) {
      const double x = s.small[i * k + p];
      const double* other = s.factor + p * k;
      for (int64_t j = p; j < k; ++j) row[j] -= x * other[j];
    }
    const double inverse = 1.0 / s.small[i * k + i];
    for (int64_t j = i; j < k; ++j) row[j] *= inverse;
  }
  for (int64_t i = 0; i < k; ++i) {
    const double inverse = s.norms[i] > 0.0 ? 1.0 / s.norms[i] : 0.0;
    for (int64_t j = i; j < k; ++j) s.factor[i * k + j] *= inverse;
  }
}

double distance_to_identity(const SubspaceScratch& s) {
  double distance = 0.0;
  for (int64_t i = 0; i < s.k; ++i)
    for (int64_t j = i; j < s.k; ++j)
      distance = std::max(distance, std::fabs(s.small[i * s.k + j] - (i == j ? 1.0 : 0.0)));
  return distance;
}

// y = an orthonormal basis of its columns by repeated Cholesky-QR: the first pass copes with a condition number of
// 1e6, the second makes the result accurate (one will do between rounds). Directions that y lacks are filled with
// fixed pseudo-random ones.
void orthonormalize(SubspaceScratch& s, int max_passes) {
  for (int pass = 0; pass < max_passes; ++pass) {
    inner_products(s);
    const bool last = distance_to_identity(s) < kAccurate;
    const int64_t dependent = scaled_cholesky(s);
    invert_factor(s);
    dgemm({.a = s.y, .lda = s.k, .b = s.factor, .ldb = s.k, .c = s.z, .ldc = s.k, .m = s.m, .n = s.k, .k = s.k},
          s.matmul);
    std::swap(s.y, s.z);
    if (dependent > 0) {
      const double scale = std::sqrt(3.0 / static_cast<double>(s.m));  // unit columns
      for (int64_t j = 0; j < s.k; ++j) {
        if (s.norms[j] > 0.0) continue;
        for (int64_t i = 0; i < s.m; ++i)
          s.y[i * s.k + j] =
              scale * hash_uniform(static_cast<uint64_t>(pass + 1), static_cast<uint64_t>(i * s.k + j));
      }
    } else if (last) {
      return;
    }
  }
}

// gq = g (scale q). scale, a power of two near 1 / max|g|, keeps the product in range for any finite g.
void multiply_g(const SubspaceBasisArgs& args, const SubspaceScratch& s, double scale) {
  for (int64_t i = 0; i < s.m * s.k; ++i) s.q[i] = static_cast<float>(s.y[i] * scale);
  sgemm({.a = args.g, .lda = s.m, .b = s.q, .ldb = s.k, .c = s.gq, .ldc = s.k, .m = s.m, .n = s.k, .k = s.m},
        s.matmul);
}

// Eigenvectors of q^T g q, turned back by q: the best basis and eigenvalues inside span(q).
bool rayleigh_ritz(const SubspaceBasisArgs& args, SubspaceScratch& s, double scale) {
  const int64_t k = s.k, r = args.rank;
  for (int64_t i = 0; i < s.m * k; ++i) s.z[i] = s.gq[i];
  dgemm({.a = s.y, .lda = k, .trans_a = true, .b = s.z, .ldb = k, .c = s.small, .ldc = k, .m = k, .n = k, .k = s.m},
        s.matmul);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < i; ++j)
      s.small[i * k + j] = s.small[j * k + i] = 0.5 * (s.small[i * k + j] + s.small[j * k + i]);
  if (!symmetric_eigen(static_cast<int32_t>(k), s.small, s.values, s.eigen)) return false;
  const double* leading = s.small + (k - r) * k;  // rows ascend
  dgemm({.a = s.y, .lda = k, .b = leading, .ldb = k, .trans_b = true, .c = s.z, .ldc = r, .m = s.m, .n = r, .k = k},
        s.matmul);
  for (int64_t j = 0; j < r; ++j)
    args.eigenvalues[j] = static_cast<float>(std::max(s.values[k - 1 - j] / scale, 0.0));
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t j = 0; j < r; ++j) args.v[i * r + j] = static_cast<float>(s.z[i * r + r - 1 - j]);
  return true;
}

// Trace of q^T g q (times scale): what the basis holds of the trace of g.
double captured_trace(const SubspaceScratch& s) {
  double sum = 0.0;
  for (int64_t i = 0; i < s.m * s.k; ++i) sum += s.y[i] * s.gq[i];
  return sum;
}

// y = orth((g - shift) y), given gq = g y.
void advance(SubspaceScratch& s, double shift, bool accurate) {
  for (int64_t i = 0; i < s.m * s.k; ++i) s.y[i] = s.gq[i] - shift * s.y[i];
  orthonormalize(s, accurate ? kAccuratePasses : 1);
}

bool subspace_iteration(const SubspaceBasisArgs& args, SubspaceScratch& s, uint32_t largest) {
  struct Solver {
    const SubspaceBasisArgs& args;
    SubspaceScratch& s;
    double scale;
    void multiply_g() { kernels::multiply_g(args, s, scale); }
    double captured_trace() const { return kernels::captured_trace(s); }
    void advance(double shift, bool accurate) { kernels::advance(s, shift, accurate); }
  } solver{args, s, range_scale(largest)};
  double trace = 0.0;
  for (int64_t i = 0; i < s.m; ++i) trace += solver.scale * args.g[i * s.m + i];
  for (int64_t i = 0; i < s.m * s.k; ++i) s.y[i] = hash_uniform(0, static_cast<uint64_t>(i));
  iterate_subspace(solver, trace, s.m - s.k);
  return rayleigh_ritz(args, s, solver.scale);
}

bool full_problem(const SubspaceBasisArgs& args, const FullScratch& s) {
  const int64_t m = args.m, r = args.rank;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < m; ++j)
      s.a[i * m + j] = 0.5 * (static_cast<double>(args.g[i * m + j]) + args.g[j * m + i]);
  if (!symmetric_eigen(args.m, s.a, s.values, s.eigen)) return false;
  for (int64_t j = 0; j < r; ++j) {
    args.eigenvalues[j] = static_cast<float>(std::max(s.values[m - 1 - j], 0.0));
    for (int64_t i = 0; i < m; ++i) args.v[i * r + j] = static_cast<float>(s.a[(m - 1 - j) * m + i]);
  }
  return true;
}

}  // namespace

std::size_t subspace_basis_workspace_bytes(int32_t m, int32_t rank, BasisMethod method) {
  WorkspaceCursor cpu(nullptr), cuda(nullptr);
  if (uses_full(m, rank, method)) {
    full_scratch(cpu, m);
    full_cuda_scratch(cuda, m);
  } else {
    subspace_scratch(cpu, m, rank + kOversample);
    subspace_cuda_scratch(cuda, m, rank + kOversample);
  }
  return std::max(cpu.bytes(), cuda.bytes());
}

bool subspace_basis_cpu(const SubspaceBasisArgs& args, void* workspace) {
  const uint32_t largest = largest_bits(args.g, static_cast<int64_t>(args.m) * args.m);
  if (largest >= kInfinityBits) return false;
  WorkspaceCursor cursor(workspace);
  if (uses_full(args.m, args.rank, args.method)) return full_problem(args, full_scratch(cursor, args.m));
  SubspaceScratch scratch = subspace_scratch(cursor, args.m, args.rank + kOversample);
  return subspace_iteration(args, scratch, largest);
}

}  // namespace skv::kernels
