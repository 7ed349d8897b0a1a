#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/subspace_basis/subspace_basis.h"

namespace skv::kernels {
namespace {

// One rotation that zeroes a[p][q]; the rows of v are rotated along.
void jacobi_rotate(std::vector<double>& a, std::vector<double>& v, int64_t m, int64_t p, int64_t q) {
  const double apq = a[p * m + q];
  if (apq == 0.0) return;
  const double theta = (a[q * m + q] - a[p * m + p]) / (2.0 * apq);
  const double t = std::copysign(1.0, theta) / (std::fabs(theta) + std::hypot(theta, 1.0));
  const double c = 1.0 / std::hypot(t, 1.0), s = t * c;
  const auto rotate = [&](double& x, double& y) {
    const double old = x;
    x = c * old - s * y;
    y = s * old + c * y;
  };
  for (int64_t i = 0; i < m; ++i) rotate(a[i * m + p], a[i * m + q]);
  for (int64_t i = 0; i < m; ++i) rotate(a[p * m + i], a[q * m + i]);
  for (int64_t i = 0; i < m; ++i) rotate(v[p * m + i], v[q * m + i]);
}

double off_diagonal(const std::vector<double>& a, int64_t m) {
  double sum = 0.0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < m; ++j) sum += i == j ? 0.0 : a[i * m + j] * a[i * m + j];
  return std::sqrt(sum);
}

}  // namespace

bool subspace_basis_ref(const SubspaceBasisArgs& args, void*) {
  const int64_t m = args.m;
  std::vector<double> a(args.g, args.g + m * m), v(static_cast<std::size_t>(m * m), 0.0);
  if (!std::all_of(a.begin(), a.end(), [](double x) { return std::isfinite(x); })) return false;
  for (int64_t i = 0; i < m; ++i) v[i * m + i] = 1.0;
  double norm = 0.0;
  for (double x : a) norm = std::hypot(norm, x);
  for (int sweep = 0; sweep < 40 && off_diagonal(a, m) > 1e-14 * norm; ++sweep)
    for (int64_t p = 0; p < m; ++p)
      for (int64_t q = p + 1; q < m; ++q) jacobi_rotate(a, v, m, p, q);
  std::vector<int64_t> order(static_cast<std::size_t>(m));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return a[x * m + x] > a[y * m + y]; });
  for (int64_t j = 0; j < args.rank; ++j) {
    args.eigenvalues[j] = static_cast<float>(std::max(a[order[j] * m + order[j]], 0.0));
    for (int64_t i = 0; i < m; ++i) args.v[i * args.rank + j] = static_cast<float>(v[order[j] * m + i]);
  }
  return true;
}

}  // namespace skv::kernels
