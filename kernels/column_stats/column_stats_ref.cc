#include "kernels/column_stats/column_stats.h"

#include <cmath>

namespace skv::kernels {

void column_mean_ref(const ColumnMeanArgs& args) {
  for (int64_t c = 0; c < args.m; ++c) {
    double sum = 0.0;
    for (int64_t t = 0; t < args.n; ++t) sum += static_cast<double>(args.x[t * args.m + c]);
    args.mean[c] = args.n > 0 ? static_cast<float>(sum / static_cast<double>(args.n)) : 0.0f;
  }
}

void column_energy_ref(const ColumnEnergyArgs& args) {
  for (int64_t t = 0; t < args.n; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const float* x = args.x + (t * args.heads + h) * args.head_dim;
      double* energy = args.energy + h / args.group * args.head_dim;
      for (int64_t i = 0; i < args.head_dim; ++i) {
        const float square = x[i] * x[i];
        if (std::isfinite(square)) energy[i] += static_cast<double>(square);
      }
    }
  }
}

}  // namespace skv::kernels
