// rope_tables: fills the two tables of a RopeView from inverse frequencies (angle of position p, pair i is
// p * inv_freq[i]). The caller owns the memory, so that it is counted where the tables live.
//
//   const int32_t hi_rows = rope_hi_rows(max_positions);
//   ... lo: rope_lo_floats(inv_freq.size()) floats, hi: rope_hi_floats(inv_freq.size(), hi_rows) floats ...
//   rope_fill_tables(inv_freq, hi_rows, lo, hi);
//
// Angles are computed in double and only cos and sin are rounded to f32: their product at any position below 2^20 is
// within 1e-6 of the exact rotation (in f32 the angle itself would be off by 0.06 there).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/rope_view.h"

namespace skv::kernels {

inline constexpr int32_t rope_hi_rows(int64_t max_positions) {
  return static_cast<int32_t>((max_positions + kRopeLow - 1) / kRopeLow);
}
inline constexpr int64_t rope_lo_floats(int64_t pairs) { return 2 * pairs * kRopeLow; }
inline constexpr int64_t rope_hi_floats(int64_t pairs, int32_t hi_rows) { return 2 * pairs * hi_rows; }

void rope_fill_tables(const std::vector<double>& inv_freq, int32_t hi_rows, float* lo, float* hi);

}  // namespace skv::kernels
