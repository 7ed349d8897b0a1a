// Memory-bound copies that the compiler vectorises; no Highway version is needed.
#include "kernels/kv_gather/kv_gather.h"

#include "kernels/common/parallel.h"

namespace skv::kernels {

void kv_gather_cpu(const KvGatherArgs& args) {
  const KvPageFormat& f = args.format;
  parallel_for(args.n, [&](int64_t t, int) {
    const void* page = args.pages[(args.first + t) / f.page_tokens];
    const int64_t row = (args.first + t) % f.page_tokens;
    for (int64_t h = 0; h < f.heads; ++h) {
      float* to = args.x + (t * f.heads + h) * f.head_dim;
      const int64_t from = (h * f.page_tokens + row) * f.head_dim;
      if (f.dtype == DType::f32) {
        std::memcpy(to, static_cast<const float*>(page) + from, static_cast<std::size_t>(f.head_dim) * sizeof(float));
      } else {
        const uint16_t* bits = static_cast<const uint16_t*>(page) + from;
        for (int32_t i = 0; i < f.head_dim; ++i) to[i] = bf16_to_f32(bits[i]);
      }
    }
  });
}

}  // namespace skv::kernels
