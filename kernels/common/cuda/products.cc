#include "kernels/common/cuda/products.h"

#include <cublasLt.h>
#include <cusolverDn.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <mutex>
#include <new>
#include <tuple>
#include <vector>

#include "kernels/common/cuda/graphs.h"
#include "kernels/common/cuda/stream.h"

namespace skv::cuda {
namespace {

constexpr std::size_t kProductWorkspace = std::size_t{32} << 20;
constexpr int kCandidates = 8;
constexpr int64_t kFewRows = 64;      // algorithms are chosen as if m were this,
constexpr int64_t kManyRows = 4096;   // or this
constexpr int64_t kVectorBytes = 16;  // what fast algorithms want pointers and strides to be multiples of

// A product in row-major terms with the libraries' types.
struct Problem {
  cudaDataType_t in, out;
  cublasComputeType_t compute;
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  void* c;
  int64_t ldc;
  const void* alpha;
  const void* beta;

  int64_t in_bytes() const { return in == CUDA_R_64F ? 8 : in == CUDA_R_32F ? 4 : 2; }
  int64_t out_bytes() const { return out == CUDA_R_64F ? 8 : 4; }
  bool few_rows() const { return m <= kFewRows; }
  bool aligned() const {
    const auto address = [](const void* p) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(p)); };
    const int64_t strides = lda * in_bytes() | ldb * in_bytes() | ldc * out_bytes();
    const int64_t all = address(a) | address(b) | address(c) | strides;
    return all % kVectorBytes == 0;
  }
};

// The same problem as algorithms are chosen for it: m and strides that stand for all.
Problem representative(Problem p) {
  const bool aligned = p.aligned();
  const auto stride = [&](int64_t columns) { return (columns + 7) / 8 * 8 + (aligned ? 0 : 1); };
  p.m = p.few_rows() ? kFewRows : kManyRows;
  p.lda = stride(p.transpose_a ? p.m : p.k);
  p.ldb = stride(p.transpose_b ? p.k : p.n);
  p.ldc = stride(p.n);
  return p;
}

// Descriptors of C^T = op(B)^T op(A)^T: the libraries' matrices are column-major, which is how a row-major matrix
// looks when transposed. Nothing in them is allocated.
struct Descriptors {
  cublasLtMatmulDescOpaque_t op;
  cublasLtMatrixLayoutOpaque_t a, b, c;

  cublasStatus_t init(const Problem& p) {
    const cudaDataType_t scale = p.compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
    const cublasOperation_t op_a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const auto dim = [](int64_t n) { return static_cast<uint64_t>(n); };
    const cublasStatus_t steps[] = {
        cublasLtMatmulDescInit(&op, p.compute, scale),
        cublasLtMatmulDescSetAttribute(&op, CUBLASLT_MATMUL_DESC_TRANSA, &op_b, sizeof(op_b)),
        cublasLtMatmulDescSetAttribute(&op, CUBLASLT_MATMUL_DESC_TRANSB, &op_a, sizeof(op_a)),
        cublasLtMatrixLayoutInit(&a, p.in, dim(p.transpose_a ? p.m : p.k), dim(p.transpose_a ? p.k : p.m), p.lda),
        cublasLtMatrixLayoutInit(&b, p.in, dim(p.transpose_b ? p.k : p.n), dim(p.transpose_b ? p.n : p.k), p.ldb),
        cublasLtMatrixLayoutInit(&c, p.out, dim(p.n), dim(p.m), p.ldc)};
    for (const cublasStatus_t status : steps) {
      if (status != CUBLAS_STATUS_SUCCESS) return status;
    }
    return CUBLAS_STATUS_SUCCESS;
  }
};

// The library's two words for an algorithm that does not do a problem.
bool refused(cublasStatus_t status) {
  return status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
}

bool splits_k(const cublasLtMatmulAlgo_t& algorithm) {
  int32_t parts = 1;
  uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
  std::size_t written = 0;
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof(parts), &written);
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof(scheme),
                                       &written);
  return parts > 1 || scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
}

}  // namespace

class Products {
 public:
  explicit Products(cudaStream_t stream) {
    ready_ = cublasLtCreate(&blas_) == CUBLAS_STATUS_SUCCESS &&
             cusolverDnCreate(&solver_) == CUSOLVER_STATUS_SUCCESS &&
             cusolverDnSetStream(solver_, stream) == CUSOLVER_STATUS_SUCCESS &&
             cusolverDnCreateParams(&params_) == CUSOLVER_STATUS_SUCCESS &&
             cudaMalloc(&workspace_, kProductWorkspace) == cudaSuccess &&
             cudaMalloc(reinterpret_cast<void**>(&info_), sizeof(int)) == cudaSuccess;
  }
  ~Products() {
    cudaFree(workspace_);
    cudaFree(solver_workspace_);
    cudaFree(info_);
    if (params_ != nullptr) cusolverDnDestroyParams(params_);
    if (solver_ != nullptr) cusolverDnDestroy(solver_);
    if (blas_ != nullptr) cublasLtDestroy(blas_);
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  bool ready() const { return ready_; }
  const char* multiply(Stream& stream, const Problem& p);  // null, or why not
  bool eigen(Stream& stream, double* a, int64_t n, double* w);

 private:
  using Key = std::tuple<int, int64_t, int64_t, bool, bool, bool, bool>;
  using Algorithms = std::vector<cublasLtMatmulAlgo_t>;

  Algorithms algorithms(const Problem& p);
  Algorithms choose(const Problem& shape, bool aligned) const;
  cublasStatus_t run(Stream& stream, const Problem& p, Descriptors& d, const Algorithms& algorithms);
  bool grow_solver_workspace(Stream& stream, std::size_t device_bytes, std::size_t host_bytes);

  bool ready_ = false;
  cublasLtHandle_t blas_ = nullptr;
  cusolverDnHandle_t solver_ = nullptr;
  cusolverDnParams_t params_ = nullptr;
  void* workspace_ = nullptr;
  void* solver_workspace_ = nullptr;
  std::size_t solver_bytes_ = 0;
  std::vector<char> solver_host_;
  int* info_ = nullptr;
  std::map<Key, Algorithms> known_;
};

// Best first, none where the library finds none. A second one serves only where the first refuses the true m and strides.
Products::Algorithms Products::choose(const Problem& p, bool aligned) const {
  const std::lock_guard lock(capture_mutex());
  Algorithms chosen;
  Descriptors d;
  cublasLtMatmulPreferenceOpaque_t preference;
  if (d.init(p) != CUBLAS_STATUS_SUCCESS ||
      cublasLtMatmulPreferenceInit(&preference) != CUBLAS_STATUS_SUCCESS) {
    return chosen;
  }
  const uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
  const auto at_least = static_cast<uint32_t>(aligned ? kVectorBytes : p.in_bytes());
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kProductWorkspace);
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, scheme);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, at_least);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, at_least);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, std::max<uint32_t>(at_least, 4));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, std::max<uint32_t>(at_least, 4));
  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> found{};
  int n_found = 0;
  cublasLtMatmulAlgoGetHeuristic(blas_, &d.op, &d.b, &d.a, &d.c, &d.c, &preference, kCandidates, found.data(),
                                 &n_found);
  for (int i = 0; i < n_found; ++i) {
    if (found[i].state == CUBLAS_STATUS_SUCCESS && !splits_k(found[i].algo)) chosen.push_back(found[i].algo);
  }
  return chosen;
}

Products::Algorithms Products::algorithms(const Problem& p) {
  const Key key{p.in, p.n, p.k, p.few_rows(), p.transpose_a, p.transpose_b, p.aligned()};
  const auto it = known_.find(key);
  if (it != known_.end()) return it->second;
  Algorithms chosen = choose(representative(p), p.aligned());
  if (!chosen.empty()) known_.emplace(key, chosen);  // else the library may do better next time
  return chosen;
}

cublasStatus_t Products::run(Stream& stream, const Problem& p, Descriptors& d, const Algorithms& algorithms) {
  cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
  for (const cublasLtMatmulAlgo_t& algorithm : algorithms) {
    status = cublasLtMatmul(blas_, &d.op, p.alpha, p.b, &d.b, p.a, &d.a, p.beta, p.c, &d.c, p.c, &d.c, &algorithm,
                            workspace_, kProductWorkspace, stream.handle());
    if (!refused(status)) break;
  }
  return status;
}

const char* Products::multiply(Stream& stream, const Problem& p) {
  Descriptors d;
  cublasStatus_t status = d.init(p);
  if (status == CUBLAS_STATUS_SUCCESS) status = run(stream, p, d, algorithms(p));
  // Rather an algorithm for this m alone than none.
  if (refused(status)) status = run(stream, p, d, choose(p, p.aligned()));
  return status == CUBLAS_STATUS_SUCCESS ? nullptr : cublasLtGetStatusString(status);
}

bool Products::grow_solver_workspace(Stream& stream, std::size_t device_bytes, std::size_t host_bytes) {
  if (host_bytes > solver_host_.size()) solver_host_.resize(host_bytes);
  if (device_bytes <= solver_bytes_) return true;
  stream.wait();  // an earlier call may still use the old one
  cudaFree(solver_workspace_);
  solver_workspace_ = nullptr;
  solver_bytes_ = 0;
  if (!stream.check(cudaMalloc(&solver_workspace_, device_bytes), "eigenproblem workspace")) return false;
  solver_bytes_ = device_bytes;
  return true;
}

bool Products::eigen(Stream& stream, double* a, int64_t n, double* w) {
  stream.handle();  // what is kept comes first
  if (!stream.ok()) return false;
  std::size_t device_bytes = 0, host_bytes = 0;
  cusolverStatus_t status =
      cusolverDnXsyevd_bufferSize(solver_, params_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F,
                                  a, n, CUDA_R_64F, w, CUDA_R_64F, &device_bytes, &host_bytes);
  if (status == CUSOLVER_STATUS_SUCCESS) {
    if (!grow_solver_workspace(stream, device_bytes, host_bytes)) return false;
    const std::lock_guard lock(capture_mutex());
    // Column-major eigenvectors are rows to us; the input is symmetric, so its layout does not matter.
    status = cusolverDnXsyevd(solver_, params_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, n, CUDA_R_64F, a, n,
                              CUDA_R_64F, w, CUDA_R_64F, solver_workspace_, device_bytes, solver_host_.data(),
                              host_bytes, info_);
  }
  if (status != CUSOLVER_STATUS_SUCCESS) {
    stream.fail("eigenproblem", "cuSOLVER refused it");
    return false;
  }
  int info = 1;
  stream.download(&info, info_, sizeof(info));
  return stream.ok() && info == 0;
}

namespace {

constexpr char kNoHandles[] = "the stream has no library handles";

}  // namespace

const char* run_product(Stream& stream, const MatrixProduct& p) {
  if (stream.products() == nullptr) return kNoHandles;
  const cudaDataType_t in = p.type == DType::f32 ? CUDA_R_32F : p.type == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
  return stream.products()->multiply(stream, {in, CUDA_R_32F, CUBLAS_COMPUTE_32F, p.transpose_a, p.transpose_b, p.m,
                                              p.n, p.k, p.a, p.lda, p.b, p.ldb, p.c, p.ldc, &p.alpha, &p.beta});
}

void double_product(Stream& stream, const DoubleProduct& p) {
  stream.handle();
  if (!stream.ok() || p.m <= 0 || p.n <= 0 || p.k <= 0) return;
  const double alpha = 1.0, beta = 0.0;
  const char* why = kNoHandles;
  if (Products* products = stream.products()) {
    why = products->multiply(stream, {CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F, p.transpose_a, p.transpose_b, p.m,
                                      p.n, p.k, p.a, p.lda, p.b, p.ldb, p.c, p.ldc, &alpha, &beta});
  }
  if (why != nullptr) stream.fail("matrix product", why);
}

bool symmetric_eigen(Stream& stream, double* a, int32_t n, double* w) {
  if (stream.ok() && stream.products() == nullptr) stream.fail("eigenproblem", kNoHandles);
  return stream.ok() && n > 0 && stream.products()->eigen(stream, a, n, w);
}

// Making and destroying handles may wait for the device.
Products* make_products(cudaStream_t stream) {
  const std::lock_guard lock(capture_mutex());
  Products* products = new (std::nothrow) Products(stream);
  if (products != nullptr && products->ready()) return products;
  delete products;
  return nullptr;
}

void free_products(Products* products) {
  const std::lock_guard lock(capture_mutex());
  delete products;
}

int64_t products_bytes() { return static_cast<int64_t>(kProductWorkspace); }

}  // namespace skv::cuda
