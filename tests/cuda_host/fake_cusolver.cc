// cuSOLVER on the fake device: the symmetric eigenproblem, column-major, queued as the library's kernels are.
#include <cusolverDn.h>

#include <cstring>
#include <vector>

#include "kernels/subspace_basis/symmetric_eigen.h"
#include "tests/cuda_host/fake_device.h"
#include "tests/cuda_host/fake_streams.h"
#include "tests/cuda_host/findings.h"

using namespace skv;
using namespace skv::cuda_host;

struct SkvHostSolver {
  cudaStream_t stream = nullptr;
};
struct SkvHostSolverParams {};

namespace {

constexpr std::size_t kHostWorkspace = 4096;

std::size_t device_workspace_bytes(int64_t n) { return static_cast<std::size_t>(16 * n * n + 256); }

bool served(cusolverEigMode_t mode, cublasFillMode_t triangle, int64_t n, cudaDataType_t a_type, int64_t lda,
            cudaDataType_t w_type, cudaDataType_t compute_type) {
  return mode == CUSOLVER_EIG_MODE_VECTOR && triangle == CUBLAS_FILL_MODE_LOWER && n > 0 && lda >= n &&
         a_type == CUDA_R_64F && w_type == CUDA_R_64F && compute_type == CUDA_R_64F;
}

// What lies above the diagonal is not read. 0, or what the library says where it does not converge.
int solve(double* a, int64_t lda, int64_t n, double* w) {
  const auto size = static_cast<std::size_t>(n);
  std::vector<double> full(size * size), work(static_cast<std::size_t>(
                                             kernels::symmetric_eigen_workspace_doubles(static_cast<int32_t>(n))));
  for (std::size_t column = 0; column < size; ++column) {
    for (std::size_t row = column; row < size; ++row) {
      const double x = a[column * static_cast<std::size_t>(lda) + row];
      full[column * size + row] = full[row * size + column] = x;
    }
  }
  if (!kernels::symmetric_eigen(static_cast<int32_t>(n), full.data(), w, work.data())) return 1;
  for (int64_t column = 0; column < n; ++column) {
    std::memcpy(a + column * lda, full.data() + column * n, size * sizeof(double));
  }
  return 0;
}

}  // namespace

extern "C" {

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  *handle = state() == cudaSuccess ? new SkvHostSolver : nullptr;
  return *handle == nullptr ? CUSOLVER_STATUS_EXECUTION_FAILED : CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  delete handle;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params) {
  *params = new SkvHostSolverParams;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
  delete params;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t mode,
                                             cublasFillMode_t triangle, int64_t n, cudaDataType_t a_type, const void*,
                                             int64_t lda, cudaDataType_t w_type, const void*,
                                             cudaDataType_t compute_type, std::size_t* device_bytes,
                                             std::size_t* host_bytes) {
  if (planted().eigenproblems_refused) return CUSOLVER_STATUS_EXECUTION_FAILED;
  if (!served(mode, triangle, n, a_type, lda, w_type, compute_type)) return CUSOLVER_STATUS_INVALID_VALUE;
  *device_bytes = device_workspace_bytes(n);
  *host_bytes = kHostWorkspace;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t, cusolverEigMode_t mode,
                                  cublasFillMode_t triangle, int64_t n, cudaDataType_t a_type, void* a, int64_t lda,
                                  cudaDataType_t w_type, void* w, cudaDataType_t compute_type, void* device_workspace,
                                  std::size_t device_bytes, void* host_workspace, std::size_t host_bytes, int* info) {
  const bool enough = device_bytes >= device_workspace_bytes(n) && host_bytes >= kHostWorkspace;
  if (!enough || !served(mode, triangle, n, a_type, lda, w_type, compute_type)) return CUSOLVER_STATUS_INVALID_VALUE;
  check_workspace(device_workspace, device_bytes);
  if (handle->stream == nullptr) found("an eigenproblem on the null stream", nullptr);
  std::memset(host_workspace, 0xff, kHostWorkspace);
  const auto run = [=](uint64_t) {
    std::memset(device_workspace, 0xff, device_workspace_bytes(n));
    *info = solve(static_cast<double*>(a), lda, n, static_cast<double*>(w));
  };
  const cudaError_t error = submit(handle->stream, {Work::Kind::product, run});
  return error == cudaSuccess ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_EXECUTION_FAILED;
}
}
