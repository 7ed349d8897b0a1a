// What the backends of subspace_basis share: when they iterate, and how far.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/common/workspace.h"
#include "kernels/subspace_basis/subspace_basis.h"

namespace skv::kernels {

inline constexpr int32_t kOversample = 32;
inline constexpr int kPlainRounds = 3;
inline constexpr int kMaxBlocks = 12;      // of kDegree further rounds
inline constexpr double kSettled = 1e-4;   // relative growth of the captured trace over the last round or block
inline constexpr int kAccuratePasses = 8;  // of Cholesky-QR at most; 3 are usual
inline constexpr int kDegree = 4;
inline constexpr double kChebyshevRoots[kDegree] = {0.9238795325112867, -0.9238795325112867, 0.3826834323650898,
                                                    -0.3826834323650898};  // cos((2 j + 1) pi / 8)
inline constexpr double kAccurate = 1e-7;    // distance to orthonormal that the pass which sees it squares
inline constexpr double kDependent = 1e-12;  // squared sine of the angle to the earlier columns
inline constexpr uint32_t kInfinityBits = 0x7f800000u;

inline bool uses_full(int32_t m, int32_t rank, BasisMethod method) {
  return method == BasisMethod::full || rank + kOversample >= m;
}

// A power of two near 1 / the largest magnitude, from its bits: it keeps products in range for any finite g.
inline double range_scale(uint32_t largest_bits) {
  return std::ldexp(1.0, -std::clamp(static_cast<int>(largest_bits >> 23) - 127, -100, 100));
}

// Three plain rounds settle a decaying spectrum. Where the captured trace still grows (slow power laws), further
// rounds multiply by the factors of a Chebyshev polynomial that is small on [0, cut]: one factor a round, since a
// whole polynomial between two orthonormalisations would drown the small directions in f32 noise of the large ones.
//
// Solver   multiply_g()              gq = g (scale y)
//          captured_trace()          of y^T gq: what the basis holds of the trace of g (times scale); means something
//                                    from the second round on, when y is orthonormal
//          advance(shift, accurate)  y = orth(gq - shift y)
// trace is that of g times scale; others is the number of eigenvalues outside the basis.
template <class Solver>
void iterate_subspace(Solver& solver, double trace, int64_t others) {
  double before = 0.0;
  for (int round = 0; round < kPlainRounds; ++round) {
    solver.multiply_g();
    if (round + 1 == kPlainRounds) before = solver.captured_trace();
    solver.advance(0.0, round + 1 == kPlainRounds);
  }
  for (int block = 0;; ++block) {
    solver.multiply_g();
    const double now = solver.captured_trace();
    if (now - before <= kSettled * now || block == kMaxBlocks) return;
    before = now;
    const double cut = std::max(0.0, (trace - now) / static_cast<double>(others));  // their mean
    for (int j = 0; j < kDegree; ++j) {
      if (j > 0) solver.multiply_g();
      solver.advance(0.5 * cut * (1.0 + kChebyshevRoots[j]), j + 1 == kDegree);
    }
  }
}

inline constexpr int64_t kCholeskyTile = 32;
inline constexpr int64_t kPartElements = 4096;  // summed, or searched, by one block

// What the host waits for.
struct SubspaceReport {
  double trace;           // of g
  double sum;             // of parts
  double distance;        // of y^T y to the identity
  int32_t dependent;      // columns
  uint32_t largest_bits;  // of |g|; NaN is above infinity
};

// Device arrays of subspace_basis.cu. Matrices of order k have row stride ld, whole tiles of kCholeskyTile.
struct SubspaceCudaScratch {
  int64_t ld;
  double* y;          // [m, k]
  double* z;          // [m, k]
  float* q;           // [m, k] operand of g q
  float* gq;          // [m, k]
  double* small;      // [k, ld] y^T y; later the small eigenproblem [k, k]
  double* scaled;     // [ld, ld]
  double* upper;      // [ld, ld] Cholesky factor
  double* inverse;    // [ld, ld] its inverse
  double* half;       // [ld, ld] half of a product of three
  double* norms;      // [ld]
  double* distances;  // [ld] of rows of y^T y to those of the identity
  double* kept;       // [ld] 1 / norm, or 0 for columns that depend on earlier ones
  double* values;     // [k]
  double* parts;      // of blocks: sums, or bits of maxima
  SubspaceReport* report;
};

inline int64_t part_count(int64_t n) { return (n + kPartElements - 1) / kPartElements; }

inline SubspaceCudaScratch subspace_cuda_scratch(WorkspaceCursor& cursor, int64_t m, int64_t k) {
  SubspaceCudaScratch s;
  s.ld = (k + kCholeskyTile - 1) / kCholeskyTile * kCholeskyTile;
  s.y = cursor.take<double>(m * k);
  s.z = cursor.take<double>(m * k);
  s.q = cursor.take<float>(m * k);
  s.gq = cursor.take<float>(m * k);
  s.small = cursor.take<double>(k * s.ld);
  s.scaled = cursor.take<double>(s.ld * s.ld);
  s.upper = cursor.take<double>(s.ld * s.ld);
  s.inverse = cursor.take<double>(s.ld * s.ld);
  s.half = cursor.take<double>(s.ld * s.ld);
  s.norms = cursor.take<double>(s.ld);
  s.distances = cursor.take<double>(s.ld);
  s.kept = cursor.take<double>(s.ld);
  s.values = cursor.take<double>(k);
  s.parts = cursor.take<double>(std::max(part_count(m * m), part_count(m * k)));
  s.report = cursor.take<SubspaceReport>(1);
  return s;
}

struct FullCudaScratch {
  double* a;       // [m, m]
  double* values;  // [m]
  double* parts;
  SubspaceReport* report;
};

inline FullCudaScratch full_cuda_scratch(WorkspaceCursor& cursor, int64_t m) {
  FullCudaScratch s;
  s.a = cursor.take<double>(m * m);
  s.values = cursor.take<double>(m);
  s.parts = cursor.take<double>(part_count(m * m));
  s.report = cursor.take<SubspaceReport>(1);
  return s;
}

}  // namespace skv::kernels
