// Matrix products as cuBLASLt has them, on the fake device: column-major, in plain loops. Algorithms differ as the
// library's do: in the order of their f32 sums (so in the bits of a result), in the alignment that they need, in which
// of them is listed first for how many columns.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <functional>
#include <type_traits>
#include <vector>

namespace skv::cuda_host {

// D [rows, columns] = op(A) [rows, depth] op(B) [depth, columns].
struct Shape {
  cudaDataType_t in, out;
  bool transpose_a, transpose_b;
  uint64_t rows, columns, depth;
  int64_t lda, ldb, ldc, ldd;
};

bool aligned_strides(const Shape& shape, uint32_t alignment);  // all of them, in bytes

struct Algorithm {
  uint64_t columns;        // of the D it was listed for
  uint64_t workspace;      // bytes that it writes to
  uint32_t stride;         // that all of these are multiples of, in bytes
  uint8_t alignments[4];   // of A, B, C, D
  cudaDataType_t type;
  int16_t rank;  // in the list
  int16_t split_k;
  bool transpose_a, transpose_b;
  bool backwards;  // its sums
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t) && std::is_trivial_v<Algorithm>);

std::vector<Algorithm> listed(const Shape& shape, const cublasLtMatmulPreferenceOpaque_t& wanted);

// What is to be queued.
std::function<void(uint64_t order)> product(const Shape& shape, const Algorithm& algorithm, const void* alpha,
                                            const void* a, const void* b, const void* beta, const void* c, void* d,
                                            void* workspace);

}  // namespace skv::cuda_host
