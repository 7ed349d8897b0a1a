#include "kernels/rope/rope_tables.h"

#include <cmath>

namespace skv::kernels {
namespace {

void fill(const std::vector<double>& inv_freq, int32_t rows, double step, float* table) {
  for (int32_t row = 0; row < rows; ++row) {
    for (double frequency : inv_freq) {
      const double angle = static_cast<double>(row) * step * frequency;
      *table++ = static_cast<float>(std::cos(angle));
      *table++ = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace

void rope_fill_tables(const std::vector<double>& inv_freq, int32_t hi_rows, float* lo, float* hi) {
  fill(inv_freq, kRopeLow, 1.0, lo);
  fill(inv_freq, hi_rows, static_cast<double>(kRopeLow), hi);
}

}  // namespace skv::kernels
