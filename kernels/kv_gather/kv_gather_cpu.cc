// Memory-bound copies that the compiler vectorises; no Highway version is needed.
#include "kernels/kv_gather/kv_gather.h"

#include "kernels/common/parallel.h"

namespace skv::kernels {

void kv_gather_cpu(const KvGatherArgs& args) {
  parallel_for(args.n, [&](int64_t t, int) {
    const void* page = args.pages[(args.first + t) / args.page_tokens];
    const int64_t row = (args.first + t) % args.page_tokens;
    for (int64_t h = 0; h < args.heads; ++h) {
      float* to = args.x + (t * args.heads + h) * args.head_dim;
      const int64_t from = (h * args.page_tokens + row) * args.head_dim;
      if (args.dtype == DType::f32) {
        std::memcpy(to, static_cast<const float*>(page) + from, static_cast<std::size_t>(args.head_dim) * sizeof(float));
      } else {
        const uint16_t* bits = static_cast<const uint16_t*>(page) + from;
        for (int32_t i = 0; i < args.head_dim; ++i) to[i] = bf16_to_f32(bits[i]);
      }
    }
  });
}

}  // namespace skv::kernels
