#include "kernels/subspace_basis/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#ifdef SKV_HAVE_LAPACK
extern "C" void dsyevd_(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w,
                        double* work, const int* lwork, int* iwork, const int* liwork, int* info,
                        std::size_t jobz_len, std::size_t uplo_len);
#endif

namespace skv::kernels {
namespace {

// a = Q T Q^T with T tridiagonal (diagonal d, off-diagonal e[i] between i and i + 1). Row k of a keeps reflector k in
// columns k + 1 .. n - 1, scaled so that it is I - v v^T.
void tridiagonalize(int64_t n, double* a, double* d, double* e, double* p) {
  constexpr double kNegligible = 1e-290;
  for (int64_t k = 0; k + 1 < n; ++k) {
    double* v = a + k * n;
    double largest = 0.0;
    for (int64_t i = k + 1; i < n; ++i) largest = std::max(largest, std::fabs(v[i]));
    d[k] = v[k];
    e[k] = 0.0;
    if (!(largest >= kNegligible)) {
      std::fill(v + k + 1, v + n, 0.0);  // no reflection
      continue;
    }
    double norm2 = 0.0;  // of v / largest, so that squares of small entries do not underflow
    for (int64_t i = k + 1; i < n; ++i) {
      v[i] /= largest;
      norm2 += v[i] * v[i];
    }
    const double alpha = v[k + 1] > 0 ? -std::sqrt(norm2) : std::sqrt(norm2);
    e[k] = alpha * largest;
    const double scale = 1.0 / std::sqrt(norm2 - alpha * v[k + 1]);
    v[k + 1] -= alpha;
    for (int64_t i = k + 1; i < n; ++i) v[i] *= scale;
    double vp = 0.0;
    for (int64_t i = k + 1; i < n; ++i) {
      p[i] = 0.0;
      for (int64_t j = k + 1; j < n; ++j) p[i] += a[i * n + j] * v[j];
      vp += v[i] * p[i];
    }
    for (int64_t i = k + 1; i < n; ++i) p[i] -= 0.5 * vp * v[i];
    for (int64_t i = k + 1; i < n; ++i) {
      double* row = a + i * n;
      const double vi = v[i], pi = p[i];
      for (int64_t j = k + 1; j < n; ++j) row[j] -= vi * p[j] + pi * v[j];
    }
  }
  d[n - 1] = a[n * n - 1];
  e[n - 1] = 0.0;
}

// z = Q^T: reflectors applied from the left to the identity, so that rows of z can be rotated by QL.
void form_transposed(int64_t n, const double* a, double* z, double* dots) {
  std::fill_n(z, n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) z[i * n + i] = 1.0;
  for (int64_t k = 0; k + 1 < n; ++k) {
    const double* v = a + k * n;
    std::fill_n(dots, n, 0.0);
    for (int64_t i = k + 1; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) dots[j] += v[i] * z[i * n + j];
    for (int64_t i = k + 1; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) z[i * n + j] -= v[i] * dots[j];
  }
}

void rotate_rows(double* upper, double* lower, int64_t n, double c, double s) {
  for (int64_t j = 0; j < n; ++j) {
    const double x = upper[j], y = lower[j];
    upper[j] = c * x - s * y;
    lower[j] = s * x + c * y;
  }
}

// One implicit QL step with Wilkinson's shift on rows l..m of the tridiagonal matrix.
void ql_step(int64_t n, int64_t l, int64_t m, double* d, double* e, double* z) {
  const double half = (d[l + 1] - d[l]) / (2.0 * e[l]);
  const double root = std::hypot(half, 1.0);
  double g = d[m] - d[l] + e[l] / (half + std::copysign(root, half));
  double s = 1.0, c = 1.0, p = 0.0;
  for (int64_t i = m - 1; i >= l; --i) {
    const double f = s * e[i], b = c * e[i];
    const double r = std::hypot(f, g);
    e[i + 1] = r;
    if (r == 0.0) {  // the matrix splits here
      d[i + 1] -= p;
      e[m] = 0.0;
      return;
    }
    s = f / r;
    c = g / r;
    g = d[i + 1] - p;
    const double t = (d[i] - g) * s + 2.0 * c * b;
    p = s * t;
    d[i + 1] = g + p;
    g = c * t - b;
    rotate_rows(z + i * n, z + (i + 1) * n, n, c, s);
  }
  d[l] -= p;
  e[l] = g;
  e[m] = 0.0;
}

bool diagonalize(int64_t n, double* d, double* e, double* z) {
  constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
  constexpr int kMaxSteps = 60;  // 2 are usual
  double norm = 0.0;
  for (int64_t i = 0; i < n; ++i) norm = std::max(norm, std::fabs(d[i]) + std::fabs(e[i]));
  for (int64_t l = 0; l < n; ++l) {
    for (int step = 0;; ++step) {
      int64_t m = l;
      while (m + 1 < n && !(std::fabs(e[m]) <= kEpsilon * norm)) ++m;
      if (m == l) break;
      if (step == kMaxSteps) return false;
      ql_step(n, l, m, d, e, z);
    }
  }
  return true;
}

void sort_ascending(int64_t n, double* values, double* vectors) {
  for (int64_t i = 0; i + 1 < n; ++i) {
    const int64_t least = std::min_element(values + i, values + n) - values;
    if (least == i) continue;
    std::swap(values[i], values[least]);
    std::swap_ranges(vectors + i * n, vectors + (i + 1) * n, vectors + least * n);
  }
}

}  // namespace

bool symmetric_eigen_ql(int32_t n32, double* a, double* values, double* workspace) {
  const int64_t n = n32;
  double* z = workspace;
  double* e = z + n * n;
  double* scratch = e + n;
  tridiagonalize(n, a, values, e, scratch);
  form_transposed(n, a, z, scratch);
  if (!diagonalize(n, values, e, z)) return false;
  sort_ascending(n, values, z);
  std::copy_n(z, n * n, a);
  return std::all_of(values, values + n, [](double v) { return std::isfinite(v); });
}

#ifdef SKV_HAVE_LAPACK

int64_t symmetric_eigen_workspace_doubles(int32_t n) {
  const int64_t m = n;
  return 1 + 6 * m + 2 * m * m + (3 + 5 * m + 1) / 2;  // dsyevd's work, then its iwork
}

bool symmetric_eigen(int32_t n32, double* a, double* values, double* workspace) {
  const int n = n32;
  const int64_t m = n;
  if (!std::all_of(a, a + m * m, [](double v) { return std::isfinite(v); })) return false;
  const int lwork = static_cast<int>(std::min<int64_t>(1 + 6 * m + 2 * m * m, std::numeric_limits<int>::max()));
  const int liwork = 3 + 5 * n;
  int info = 0;
  // Column-major eigenvectors are rows to us; the input is symmetric, so its layout does not matter.
  dsyevd_("V", "U", &n, a, &n, values, workspace, &lwork, reinterpret_cast<int*>(workspace + 1 + 6 * m + 2 * m * m),
          &liwork, &info, 1, 1);
  return info == 0;
}

#else

int64_t symmetric_eigen_workspace_doubles(int32_t n) { return static_cast<int64_t>(n) * n + 2 * n; }

bool symmetric_eigen(int32_t n, double* a, double* values, double* workspace) {
  return symmetric_eigen_ql(n, a, values, workspace);
}

#endif

}  // namespace skv::kernels
