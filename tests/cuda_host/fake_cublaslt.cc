// cuBLASLt's calls on the fake device: products (fake_product.h) are queued as the library's kernels are. A call that
// breaks the library's rules is refused, or found where the library would not look.
#include <cublasLt.h>

#include <cstring>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/cuda_host/fake_device.h"
#include "tests/cuda_host/fake_product.h"
#include "tests/cuda_host/fake_streams.h"
#include "tests/cuda_host/findings.h"

using namespace skv::cuda_host;

struct SkvHostBlas {
  std::set<std::tuple<int, uint32_t, int>> loaded;  // kernels: order, strides, type
};

namespace {

Algorithm opened(const cublasLtMatmulAlgo_t& from) {
  Algorithm algorithm{};
  std::memcpy(&algorithm, &from, sizeof(algorithm));
  return algorithm;
}

bool fits(const cublasLtMatrixLayoutOpaque_t& layout) {
  return layout.rows > 0 && layout.cols > 0 && layout.ld >= static_cast<int64_t>(layout.rows);
}

bool types_served(const cublasLtMatmulDescOpaque_t& desc, cudaDataType_t in, cudaDataType_t out) {
  if (desc.compute == CUBLAS_COMPUTE_64F) return desc.scale == CUDA_R_64F && in == CUDA_R_64F && out == CUDA_R_64F;
  return desc.scale == CUDA_R_32F && in != CUDA_R_64F && out == CUDA_R_32F;
}

cublasStatus_t shape_of(const cublasLtMatmulDescOpaque_t& desc, const cublasLtMatrixLayoutOpaque_t& a,
                        const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& c,
                        const cublasLtMatrixLayoutOpaque_t& d, Shape* shape) {
  const bool ta = desc.op_a == CUBLAS_OP_T, tb = desc.op_b == CUBLAS_OP_T;
  const uint64_t depth = ta ? a.rows : a.cols;
  const bool sizes = depth == (tb ? b.cols : b.rows) && d.rows == (ta ? a.cols : a.rows) &&
                     d.cols == (tb ? b.rows : b.cols) && c.rows == d.rows && c.cols == d.cols;
  if (!sizes || !fits(a) || !fits(b) || !fits(c) || !fits(d)) return CUBLAS_STATUS_INVALID_VALUE;
  if (a.type != b.type || c.type != d.type || !types_served(desc, a.type, d.type)) return CUBLAS_STATUS_NOT_SUPPORTED;
  *shape = {a.type, d.type, ta, tb, d.rows, d.cols, depth, a.ld, b.ld, c.ld, d.ld};
  return CUBLAS_STATUS_SUCCESS;
}

bool aligned_to(const void* p, uint64_t alignment) { return reinterpret_cast<uintptr_t>(p) % alignment == 0; }

// Nobody looks at these before the kernel runs.
void check_promises(const Shape& s, const Algorithm& algorithm, const void* const (&pointers)[4]) {
  if (algorithm.transpose_a != s.transpose_a || algorithm.transpose_b != s.transpose_b || algorithm.type != s.in) {
    found("an algorithm of another product", nullptr);
  }
  for (int i = 0; i < 4; ++i) {
    if (!aligned_to(pointers[i], algorithm.alignments[i])) lose_device(cudaErrorMisalignedAddress);
  }
}

// Kernels are loaded when they are first used, which a capture does not survive.
bool load(SkvHostBlas& blas, const Algorithm& algorithm, cudaDataType_t type, cudaStream_t stream) {
  if (!blas.loaded.emplace(algorithm.backwards, algorithm.stride, type).second) return true;
  const std::lock_guard lock(streams_mutex);
  if (!capturing(stream)) return true;
  invalidate(stream, cudaErrorStreamCaptureUnsupported);
  return false;
}

template <class T>
cublasStatus_t take(const void* value, std::size_t bytes, T* to) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(to, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t give(T from, void* value, std::size_t bytes, std::size_t* written) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(value, &from, sizeof(T));
  *written = sizeof(T);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown status";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = state() == cudaSuccess ? new SkvHostBlas : nullptr;
  return *handle == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t desc, cublasComputeType_t compute, cudaDataType_t scale) {
  *desc = {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return take(value, bytes, &desc->op_a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return take(value, bytes, &desc->op_b);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type, uint64_t rows,
                                        uint64_t cols, int64_t ld) {
  *layout = {type, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
  *preference = {0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    std::size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return take(value, bytes, &preference->most_workspace);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return take(value, bytes, &preference->reduction_schemes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return take(value, bytes, &preference->alignments[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return take(value, bytes, &preference->alignments[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return take(value, bytes, &preference->alignments[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return take(value, bytes, &preference->alignments[3]);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                                              int n_wanted, cublasLtMatmulHeuristicResult_t* results, int* n_found) {
  *n_found = 0;
  Shape shape{};
  const cublasStatus_t status = shape_of(*desc, *a, *b, *c, *d, &shape);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  for (const Algorithm& algorithm : listed(shape, *preference)) {
    if (*n_found == n_wanted) break;
    cublasLtMatmulHeuristicResult_t& result = results[(*n_found)++];
    result = {};
    std::memcpy(&result.algo, &algorithm, sizeof(algorithm));
    result.workspaceSize = algorithm.workspace;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                                    std::size_t bytes, std::size_t* written) {
  const int split_k = opened(*algorithm).split_k;
  switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM: return give(int32_t{split_k}, value, bytes, written);
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME: return give(uint32_t{split_k > 1}, value, bytes, written);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* chosen, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  Shape s{};
  const cublasStatus_t status = shape_of(*desc, *a_layout, *b_layout, *c_layout, *d_layout, &s);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const Algorithm algorithm = opened(*chosen);
  if (algorithm.rank < planted().refused_algorithms) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (planted().exact_algorithms && algorithm.columns != s.columns) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_bytes < algorithm.workspace || !aligned_to(workspace, 256)) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_bytes > 0) check_workspace(workspace, workspace_bytes);
  if (!aligned_strides(s, algorithm.stride)) return CUBLAS_STATUS_NOT_SUPPORTED;
  check_promises(s, algorithm, {a, b, c, d});
  if (!load(*handle, algorithm, s.in, stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
  const cudaError_t error = submit(
      stream, {Work::Kind::product, product(s, algorithm, alpha, a, b, beta, c, d, workspace)});
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
}
