#include "kernels/kv_gather/kv_gather.h"

namespace skv::kernels {

void kv_gather_ref(const KvGatherArgs& args) {
  const KvPageFormat& f = args.format;
  for (int64_t t = 0; t < args.n; ++t) {
    const void* page = args.pages[(args.first + t) / f.page_tokens];
    const int64_t row = (args.first + t) % f.page_tokens;
    for (int64_t h = 0; h < f.heads; ++h) {
      for (int64_t i = 0; i < f.head_dim; ++i) {
        args.x[(t * f.heads + h) * f.head_dim + i] =
            load_f32(page, f.dtype, (h * f.page_tokens + row) * f.head_dim + i);
      }
    }
  }
}

}  // namespace skv::kernels
