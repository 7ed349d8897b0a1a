// The int8 and int4 codes of one row, as block_format.h says; scalar references. Encoders return the row's f16 scale.
//
//   int8  code = x / scale rounded to nearest, ties to even
//   int4  code = floor(y / scale + 8), at most 15; y already rotated (hadamard.h); n even
//
// Quotients are f32, so that SIMD versions (row_codec-inl.h) give the same bits; a decoded element is exact in f32. A
// row of zeros, or of numbers so small that max / 127 (max / 8) underflows, has scale 0 and decodes to +0. A scale of
// NaN goes with codes 0.
#pragma once

#include <cstdint>

namespace skv::kernels {

uint16_t encode_int8_row_ref(const float* x, int64_t n, int8_t* codes);
void decode_int8_row_ref(const int8_t* codes, uint16_t scale, int64_t n, float* x);
uint16_t encode_int4_row_ref(const float* y, int64_t n, uint8_t* packed);
void decode_int4_row_ref(const uint8_t* packed, uint16_t scale, int64_t n, float* y);

}  // namespace skv::kernels
