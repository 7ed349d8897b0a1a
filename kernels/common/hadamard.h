// The fixed rotation H of a head that spreads a row's energy evenly over its elements before it is coded in few bits.
#pragma once

#include <cstdint>

namespace skv::kernels {

// H = S (x) Q / sqrt(2^a): Sylvester's matrix of order 2^a, Kronecker a fixed orthogonal matrix of order b
// (orthogonal.h), width = 2^a b with b = 1, 12 or 20: every entry is +-1 / sqrt(width). Widths 16 to 512 that factor
// so are supported.
bool hadamard_supports(int32_t width);

// x = H x, or x = H^T x if inverse, for n rows of width elements, contiguous. The same bits for a row whatever n is.
// NaN and infinities spread over the row.
void hadamard_rows_ref(float* x, int64_t n, int32_t width, bool inverse);
void hadamard_rows(float* x, int64_t n, int32_t width, bool inverse);  // SIMD, calling thread only

// For hadamard-inl.h: the factor b of a supported width, and Q's signs +-1 column by column, transposed or not;
// columns are kCoreStride apart, zeros after b elements. b = 1 has none.
inline constexpr int32_t kMaxHadamard = 512;
inline constexpr int32_t kCoreStride = 32;
int32_t hadamard_core_order(int32_t width);
const float* hadamard_core(int32_t order, bool transposed);

}  // namespace skv::kernels
