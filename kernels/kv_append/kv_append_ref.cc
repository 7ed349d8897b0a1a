#include "kernels/kv_append/kv_append.h"

namespace skv::kernels {

void kv_append_ref(const KvAppendArgs& args) {
  const int64_t half = int64_t{args.heads} * args.page_tokens * args.head_dim;
  for (int64_t t = 0; t < args.n; ++t) {
    void* page = args.pages[(args.first + t) / args.page_tokens];
    const int64_t row = (args.first + t) % args.page_tokens;
    for (int64_t h = 0; h < args.heads; ++h) {
      for (int64_t i = 0; i < args.head_dim; ++i) {
        const int64_t from = (t * args.heads + h) * args.head_dim + i;
        const int64_t to = (h * args.page_tokens + row) * args.head_dim + i;
        store_f32(page, args.dtype, to, args.k[from]);
        store_f32(page, args.dtype, half + to, args.v[from]);
      }
    }
  }
}

}  // namespace skv::kernels
