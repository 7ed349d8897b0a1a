#include "tests/cuda_host/fake_product.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "kernels/common/dtype.h"

namespace skv::cuda_host {

namespace {

constexpr uint32_t kVector = 16;  // bytes that a fast algorithm reads at once
constexpr uint64_t kFastWorkspace = uint64_t{1} << 20;

uint32_t bytes_of(cudaDataType_t type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }

DType dtype_of(cudaDataType_t type) {
  return type == CUDA_R_32F ? DType::f32 : type == CUDA_R_16F ? DType::f16 : DType::bf16;
}

// A stored matrix as [outer, inner], the order that the loops below read. Its elements of one `inner`, or of one
// `outer`, lie together.
template <class Sum>
std::vector<Sum> opened(const void* matrix, cudaDataType_t type, int64_t ld, int64_t n_outer, int64_t n_inner,
                        bool inner_by_inner) {
  std::vector<Sum> open(static_cast<std::size_t>(n_outer * n_inner));
  for (int64_t outer = 0; outer < n_outer; ++outer) {
    for (int64_t inner = 0; inner < n_inner; ++inner) {
      const int64_t at = inner_by_inner ? inner * ld + outer : outer * ld + inner;
      Sum& element = open[static_cast<std::size_t>(outer * n_inner + inner)];
      if constexpr (std::is_same_v<Sum, double>) element = static_cast<const double*>(matrix)[at];
      else element = load_f32(matrix, dtype_of(type), at);
    }
  }
  return open;
}

template <class Sum>
struct Operands {
  Sum alpha, beta;
  const void *a, *b;
  const Sum* c;
  Sum* d;
};

// Of the i-th term of n, in the order of the algorithm's sums. With split-K that is another one each time.
int64_t term(const Algorithm& algorithm, uint64_t order, int64_t i, int64_t n) {
  const int64_t turned = algorithm.split_k > 1 ? (i + static_cast<int64_t>(order % 1021)) % n : i;
  return algorithm.backwards ? n - 1 - turned : turned;
}

template <class Sum>
void multiply(const Shape& s, const Algorithm& algorithm, const Operands<Sum>& x, uint64_t order) {
  const auto rows = static_cast<int64_t>(s.rows), columns = static_cast<int64_t>(s.columns);
  const auto depth = static_cast<int64_t>(s.depth);
  const std::vector<Sum> a = opened<Sum>(x.a, s.in, s.lda, depth, rows, s.transpose_a);
  const std::vector<Sum> b = opened<Sum>(x.b, s.in, s.ldb, depth, columns, !s.transpose_b);
  std::vector<Sum> sums(s.rows);
  for (int64_t column = 0; column < columns; ++column) {
    std::fill(sums.begin(), sums.end(), Sum{0});
    for (int64_t i = 0; i < depth; ++i) {
      const int64_t l = term(algorithm, order, i, depth);
      const Sum factor = b[static_cast<std::size_t>(l * columns + column)];
      const Sum* row = a.data() + l * rows;
      for (int64_t r = 0; r < rows; ++r) sums[static_cast<std::size_t>(r)] += row[r] * factor;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const Sum before = x.beta == Sum{0} ? Sum{0} : x.beta * x.c[column * s.ldc + r];
      x.d[column * s.ldd + r] = x.alpha * sums[static_cast<std::size_t>(r)] + before;
    }
  }
}

template <class Sum>
std::function<void(uint64_t)> product_of(const Shape& s, const Algorithm& algorithm, const void* alpha,
                                         const void* a, const void* b, const void* beta, const void* c, void* d,
                                         void* workspace) {
  const Operands<Sum> x{*static_cast<const Sum*>(alpha), *static_cast<const Sum*>(beta), a, b,
                        static_cast<const Sum*>(c), static_cast<Sum*>(d)};
  return [=](uint64_t order) {
    if (algorithm.workspace > 0) {  // which holds nothing for anybody else
      std::memset(workspace, 0xff, 64);
      std::memset(static_cast<char*>(workspace) + algorithm.workspace - 64, 0xff, 64);
    }
    multiply(s, algorithm, x, order);
  };
}

}  // namespace

bool aligned_strides(const Shape& s, uint32_t alignment) {
  const int64_t in = s.lda * bytes_of(s.in) | s.ldb * bytes_of(s.in);
  const int64_t out = s.ldc * bytes_of(s.out) | s.ldd * bytes_of(s.out);
  return (in | out) % alignment == 0;
}

// All may rely on what the caller promises of pointers.
std::vector<Algorithm> listed(const Shape& s, const cublasLtMatmulPreferenceOpaque_t& wanted) {
  Algorithm plain{};
  plain.columns = s.columns;
  plain.stride = 1;
  bool fast = aligned_strides(s, kVector);
  for (int i = 0; i < 4; ++i) {
    plain.alignments[i] = static_cast<uint8_t>(std::min(wanted.alignments[i], kVector));
    fast = fast && plain.alignments[i] == kVector;
  }
  plain.type = s.in;
  plain.split_k = 1;
  plain.transpose_a = s.transpose_a;
  plain.transpose_b = s.transpose_b;
  plain.backwards = s.columns / 16 % 5 < 3;
  std::vector<Algorithm> list;
  if (wanted.reduction_schemes != CUBLASLT_REDUCTION_SCHEME_NONE) {
    list.push_back(plain);
    list.back().split_k = 4;
  }
  if (fast) {
    list.push_back(plain);
    list.back().stride = kVector;
    list.back().workspace = std::min(kFastWorkspace, wanted.most_workspace);
    plain.backwards = !plain.backwards;
  }
  list.push_back(plain);
  for (std::size_t i = 0; i < list.size(); ++i) list[i].rank = static_cast<int16_t>(i);
  return list;
}

std::function<void(uint64_t)> product(const Shape& s, const Algorithm& algorithm, const void* alpha, const void* a,
                                      const void* b, const void* beta, const void* c, void* d, void* workspace) {
  return s.in == CUDA_R_64F ? product_of<double>(s, algorithm, alpha, a, b, beta, c, d, workspace)
                            : product_of<float>(s, algorithm, alpha, a, b, beta, c, d, workspace);
}

}  // namespace skv::cuda_host
