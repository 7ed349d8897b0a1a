// subspace_basis: the r leading eigenvectors of a Gram matrix.
//
// Computes   v [m, r] with orthonormal columns spanning (nearly) the top-r eigenspace of g; eigenvalues [r] descending.
//            Block subspace iteration: Omega [m, r + 32] fixed pseudo-random, three rounds of Cholesky-QR(g Q), more
//            (times Chebyshev factors, at most 48) while the captured trace still grows by 1e-4, then Rayleigh-Ritz on
//            r + 32. Where r + 32 >= m, or method full: the full symmetric eigenproblem (LAPACK, cuSOLVER).
// Promise    sum(eigenvalues) >= 0.999 * that of the full solver, on spectra with any decay
// Shapes     g [m, m] f32 symmetric positive semidefinite (not modified); v [m, r] row-major; eigenvalues [r]
// Types      products f32, the small problem and Cholesky double
// Edges      g = 0 or rank deficient: still orthonormal v, eigenvalues >= 0 (tiny negatives clamped); NaN/inf in g:
//            returns false, outputs undefined
// Determinism bit-equal for equal input and build, any thread count
// Workspace  workspace_bytes(m, r, method), the largest need of any backend
// Stream     waits for the device: what was captured decides when to stop. A device that failed: returns false
// Cost       flops about 4 * 2 m^2 (r + 32) + 10 m (r + 32)^2 for a decaying spectrum: 2 GFLOP at m = 1024, r = 160;
//            4 to 8 times that for power laws slower than 1 / i
// Source     Halko et al., arXiv 0909.4061 section 4.5
#pragma once

#include <cstddef>
#include <cstdint>

namespace skv::kernels {

enum class BasisMethod : uint8_t { subspace_iteration = 0, full = 1 };

struct SubspaceBasisArgs {
  const float* g = nullptr;
  int32_t m = 0;
  int32_t rank = 0;
  BasisMethod method = BasisMethod::subspace_iteration;
  float* v = nullptr;
  float* eigenvalues = nullptr;
};

std::size_t subspace_basis_workspace_bytes(int32_t m, int32_t rank, BasisMethod method);
bool subspace_basis_ref(const SubspaceBasisArgs&, void* workspace);  // full, Jacobi rotations in double
bool subspace_basis_cpu(const SubspaceBasisArgs&, void* workspace);

}  // namespace skv::kernels
