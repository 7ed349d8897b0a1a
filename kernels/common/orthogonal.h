// The fixed rotation Q of shadowkv.md section 2: columns of A Q carry nearly equal energy whatever the spectrum of A,
// so that one scale a row serves an int8 code.
#pragma once

#include <cstdint>

namespace skv::kernels {

// q [r, r] row-major, orthogonal, the same bits on every machine; 1 <= r <= 16384. Where a Hadamard matrix of order r
// is built (2^a times 1, p + 1 or 2 (p + 1), p prime: 160 is one) every |q[i, j]| is 1 / sqrt(r); otherwise nearly
// so.
void fixed_orthogonal(int32_t r, float* q);

}  // namespace skv::kernels
