// The symmetric eigenproblem in double, for subspace_basis.
#pragma once

#include <cstdint>

namespace skv::kernels {

int64_t symmetric_eigen_workspace_doubles(int32_t n);

// a [n, n] symmetric, contiguous: replaced by orthonormal eigenvectors, one a row; values [n] ascending.
// LAPACK's dsyevd where it is built in, else symmetric_eigen_ql. False: no convergence (a holds NaN or infinity).
bool symmetric_eigen(int32_t n, double* a, double* values, double* workspace);

// Householder tridiagonalisation and implicit QL; needs no library.
bool symmetric_eigen_ql(int32_t n, double* a, double* values, double* workspace);

}  // namespace skv::kernels
