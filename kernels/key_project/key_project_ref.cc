#include <vector>

#include "kernels/key_project/key_project.h"

namespace skv::kernels {

void key_project_ref(const KeyProjectDesc& desc, const KeyProjectArgs& args, void*) {
  const int64_t dim = desc.head_dim, r = desc.rank, m = desc.kv_heads * dim;
  std::vector<float> a(static_cast<std::size_t>(r));
  for (int64_t i = 0; i < args.n; ++i) {
    const float* x = args.x + i * m;
    const int64_t c = i / desc.chunk;
    for (int64_t j = 0; j < r; ++j) {
      double sum = 0.0;
      for (int64_t d = 0; d < m; ++d) sum += (static_cast<double>(x[d]) - args.mu[d]) * args.p[d * r + j];
      void* row = args.a.row(args.first_chunk + c);
      const int64_t at = i % desc.chunk * r + j;
      store_f32(row, desc.dtype, at, static_cast<float>(sum));
      a[j] = load_f32(row, desc.dtype, at);
    }
    for (int64_t h = 0; h < desc.kv_heads; ++h) {
      double residual = 0.0, energy = 0.0;
      for (int64_t d = 0; d < dim; ++d) {
        const double centered = static_cast<double>(x[h * dim + d]) - args.mu[h * dim + d];
        double missed = centered;
        for (int64_t j = 0; j < r; ++j)
          missed -= static_cast<double>(a[j]) * load_f32(args.b, desc.dtype, (h * r + j) * dim + d);
        residual += missed * missed;
        energy += centered * centered;
      }
      const bool first = i % desc.chunk == 0;
      float* out[] = {args.residual + c * desc.kv_heads + h, args.energy + c * desc.kv_heads + h};
      *out[0] = static_cast<float>(residual + (first ? 0.0 : *out[0]));
      *out[1] = static_cast<float>(energy + (first ? 0.0 : *out[1]));
    }
  }
}

}  // namespace skv::kernels
