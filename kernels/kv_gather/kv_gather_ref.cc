#include "kernels/kv_gather/kv_gather.h"

namespace skv::kernels {

void kv_gather_ref(const KvGatherArgs& args) {
  for (int64_t t = 0; t < args.n; ++t) {
    const void* page = args.pages[(args.first + t) / args.page_tokens];
    const int64_t row = (args.first + t) % args.page_tokens;
    for (int64_t h = 0; h < args.heads; ++h) {
      for (int64_t i = 0; i < args.head_dim; ++i) {
        args.x[(t * args.heads + h) * args.head_dim + i] =
            load_f32(page, args.dtype, (h * args.page_tokens + row) * args.head_dim + i);
      }
    }
  }
}

}  // namespace skv::kernels
