#include "kernels/gram/gram.h"

namespace skv::kernels {

void gram_ref(const GramArgs& args, void*) {
  const int64_t m = args.m;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = i; j < m; ++j) {
      double dot = 0.0;
      for (int64_t t = 0; t < args.n; ++t) {
        const float* x = args.x + t * args.ldx;
        dot += (static_cast<double>(x[i]) - args.center[i]) * (static_cast<double>(x[j]) - args.center[j]);
      }
      args.g[i * m + j] = args.g[j * m + i] = static_cast<float>(args.g[i * m + j] + dot);
    }
    for (int64_t t = 0; t < args.n; ++t)
      args.sum[i] += static_cast<double>(args.x[t * args.ldx + i]) - args.center[i];
  }
}

void gram_center_ref(float* g, const double* sum, int64_t n, int32_t m) {
  for (int64_t i = 0; n > 0 && i < m; ++i)
    for (int64_t j = 0; j < m; ++j)
      g[i * m + j] = static_cast<float>(g[i * m + j] - sum[i] * sum[j] / static_cast<double>(n));
}

}  // namespace skv::kernels
