#include "kernels/common/orthogonal.h"

#include <cmath>
#include <initializer_list>

namespace skv::kernels {
namespace {

bool is_prime(int32_t n) {
  if (n < 2) return false;
  for (int32_t d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return true;
}

// +1 for a non-zero square modulo the prime p, -1 for a non-square, 0 for 0: x^((p - 1) / 2).
int legendre(int64_t x, int64_t p) {
  x = (x % p + p) % p;
  if (x == 0) return 0;
  int64_t power = 1;
  for (int64_t e = (p - 1) / 2; e > 0; e /= 2, x = x * x % p)
    if (e & 1) power = power * x % p;
  return power == 1 ? 1 : -1;
}

// Kronecker product of Sylvester's matrix of order 2^a and one of Paley's two constructions from a prime p.
struct Hadamard {
  int32_t order = 0;
  int32_t core = 1;    // order of Paley's matrix: p + 1 if p = 3 mod 4, 2 (p + 1) if p = 1 mod 4; 1 if there is none
  int32_t prime = 0;

  int entry(int32_t i, int32_t j) const {
    const auto overlap = static_cast<uint32_t>(i / core) & static_cast<uint32_t>(j / core);
    const int sylvester = __builtin_parity(overlap) ? -1 : 1;
    if (core == 1) return sylvester;
    return sylvester * (core == prime + 1 ? paley1(i % core, j % core) : paley2(i % core, j % core));
  }

 private:
  int paley1(int32_t i, int32_t j) const {
    if (i == 0) return 1;
    if (j == 0) return -1;
    return i == j ? 1 : legendre(j - i, prime);
  }
  int paley2(int32_t i, int32_t j) const {
    const int32_t u = i / 2, v = j / 2;
    const bool odd_i = i % 2, odd_j = j % 2;
    if (u == v) return odd_i || odd_j ? -1 : 1;
    return (odd_i && odd_j ? -1 : 1) * (u == 0 || v == 0 ? 1 : legendre(u - v, prime));
  }
};

bool find_hadamard(int32_t order, Hadamard* h) {
  *h = {order, 1, 0};
  if ((order & (order - 1)) == 0) return true;
  for (int32_t core = order; core % 4 == 0; core /= 2) {
    h->core = core;
    for (const int32_t p : {core - 1, core / 2 - 1}) {
      h->prime = p;
      if (is_prime(p) && p % 4 == (p == core - 1 ? 3 : 1)) return true;
    }
  }
  return false;
}

constexpr int32_t kMaxExtra = 64;  // orders up to 16,384 are at most this far apart

// m = (s + d)^-1 for the trailing block d [extra, extra] of the matrix, each sign of the diagonal s chosen so that
// its pivot is at least 1: Gauss-Jordan without exchanges is then stable.
void feedback(const Hadamard& h, int32_t r, double scale, double (*m)[kMaxExtra]) {
  const int32_t extra = h.order - r;
  double d[kMaxExtra][kMaxExtra];
  for (int32_t i = 0; i < extra; ++i)
    for (int32_t j = 0; j < extra; ++j) {
      d[i][j] = scale * h.entry(r + i, r + j);
      m[i][j] = i == j;
    }
  for (int32_t p = 0; p < extra; ++p) {
    const double pivot = d[p][p] + (d[p][p] < 0 ? -1.0 : 1.0);
    for (int32_t j = 0; j < extra; ++j) {
      d[p][j] = (j == p ? pivot : d[p][j]) / pivot;
      m[p][j] /= pivot;
    }
    for (int32_t i = 0; i < extra; ++i) {
      if (i == p) continue;
      const double factor = d[i][p];
      for (int32_t j = 0; j < extra; ++j) {
        d[i][j] -= factor * d[p][j];
        m[i][j] -= factor * m[p][j];
      }
    }
  }
}

}  // namespace

// With U = [[A, B], [C, D]] orthogonal and S a diagonal of signs, A - B (S + D)^-1 C is orthogonal too (the outputs
// of D fed back as -S times its inputs): few rows and columns too many are folded into the rest without spoiling its
// flatness.
void fixed_orthogonal(int32_t r, float* q) {
  Hadamard h;
  for (int32_t order = r; !find_hadamard(order, &h); ++order) {}
  const int32_t extra = h.order - r;
  const double scale = 1.0 / std::sqrt(static_cast<double>(h.order));
  double m[kMaxExtra][kMaxExtra];
  feedback(h, r, scale, m);
  for (int32_t j = 0; j < r; ++j) {
    double correction[kMaxExtra];
    for (int32_t a = 0; a < extra; ++a) {
      correction[a] = 0.0;
      for (int32_t b = 0; b < extra; ++b) correction[a] += m[a][b] * scale * h.entry(r + b, j);
    }
    for (int32_t i = 0; i < r; ++i) {
      double value = scale * h.entry(i, j);
      for (int32_t a = 0; a < extra; ++a) value -= scale * h.entry(i, r + a) * correction[a];
      q[static_cast<int64_t>(i) * r + j] = static_cast<float>(value);
    }
  }
}

}  // namespace skv::kernels
