// The part of cuSOLVER that is used here, over the fake device (fake_cusolver.cc): found instead of NVIDIA's header
// through the include path.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda_host_library_types.h"

enum cusolverStatus_t {
  CUSOLVER_STATUS_SUCCESS = 0,
  CUSOLVER_STATUS_ALLOC_FAILED = 2,
  CUSOLVER_STATUS_INVALID_VALUE = 3,
  CUSOLVER_STATUS_EXECUTION_FAILED = 6,
};

enum cusolverEigMode_t {
  CUSOLVER_EIG_MODE_NOVECTOR = 0,
  CUSOLVER_EIG_MODE_VECTOR = 1,
};

typedef struct SkvHostSolver* cusolverDnHandle_t;
typedef struct SkvHostSolverParams* cusolverDnParams_t;

extern "C" {
cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle);
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle);
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream);
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params);
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params);

cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                             cusolverEigMode_t mode, cublasFillMode_t triangle, int64_t n,
                                             cudaDataType_t a_type, const void* a, int64_t lda, cudaDataType_t w_type,
                                             const void* w, cudaDataType_t compute_type, std::size_t* device_bytes,
                                             std::size_t* host_bytes);
cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t params, cusolverEigMode_t mode,
                                  cublasFillMode_t triangle, int64_t n, cudaDataType_t a_type, void* a, int64_t lda,
                                  cudaDataType_t w_type, void* w, cudaDataType_t compute_type, void* device_workspace,
                                  std::size_t device_bytes, void* host_workspace, std::size_t host_bytes, int* info);
}
