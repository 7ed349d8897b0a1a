#include <cstring>
#include <vector>

#include "kernels/common/row_codec.h"
#include "kernels/key_project/key_project.h"

namespace skv::kernels {
namespace {

// Stores row t of a block and puts what was stored back into a.
void store_row(const BlockFormat& format, std::vector<float>& a, void* block, int64_t t) {
  if (format.codec == BlockCodec::raw) {
    for (int64_t j = 0; j < format.width; ++j) {
      store_f32(block, format.dtype, t * format.width + j, a[j]);
      a[j] = load_f32(block, format.dtype, t * format.width + j);
    }
    return;
  }
  if (t == 0) std::memset(block, 0, static_cast<std::size_t>(format.block_bytes()));
  auto* codes = static_cast<int8_t*>(block) + t * format.width;
  const uint16_t scale = encode_int8_row_ref(a.data(), format.width, codes);
  std::memcpy(static_cast<int8_t*>(block) + format.scales_at() + 2 * t, &scale, sizeof(scale));
  decode_int8_row_ref(codes, scale, format.width, a.data());
}

}  // namespace

void key_project_ref(const KeyProjectDesc& desc, const KeyProjectArgs& args, void*) {
  const int64_t dim = desc.head_dim, r = desc.rank, m = desc.kv_heads * dim;
  std::vector<float> a(static_cast<std::size_t>(r));
  for (int64_t i = 0; i < args.n; ++i) {
    const float* x = args.x + i * m;
    const int64_t c = i / desc.chunk;
    for (int64_t j = 0; j < r; ++j) {
      double sum = 0.0;
      for (int64_t d = 0; d < m; ++d) sum += (static_cast<double>(x[d]) - args.mu[d]) * args.p[d * r + j];
      a[j] = static_cast<float>(sum);
    }
    store_row(desc.a_format(), a, args.a.row(args.first_chunk + c), i % desc.chunk);
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
