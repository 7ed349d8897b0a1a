// column_mean, column_energy: first and second moments of columns.
//
// Computes   column_mean: mean[c] = 1/n sum_t x[t, c]
//            column_energy: energy[(h / group) * D + i] += sum_t x[t, h * D + i]^2; squares that are not finite in
//            f32 count as 0
// Shapes     mean: x [n, m] f32 contiguous, mean [m] f32; energy: x [n, heads, D] f32 contiguous, energy
//            [heads / group, D] double
// Types      sums double
// Edges      n = 0: mean 0, energy unchanged
// Determinism depends on x only, not on threads
// Tolerance  1e-6 of max|x| and 1e-6 relative
// Cost       reads x once
// Source     shadowkv.md section 2 (centring); weights of key channels are this library's
#pragma once

#include <cstdint>

namespace skv::kernels {

struct ColumnMeanArgs {
  const float* x = nullptr;
  int64_t n = 0;
  int32_t m = 0;
  float* mean = nullptr;
};

struct ColumnEnergyArgs {
  const float* x = nullptr;
  int64_t n = 0;
  int32_t heads = 0;
  int32_t group = 1;  // heads that share an entry
  int32_t head_dim = 0;
  double* energy = nullptr;
};

void column_mean_ref(const ColumnMeanArgs&);
void column_mean_cpu(const ColumnMeanArgs&);
void column_energy_ref(const ColumnEnergyArgs&);
void column_energy_cpu(const ColumnEnergyArgs&);

}  // namespace skv::kernels
