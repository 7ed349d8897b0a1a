#include "kernels/kv_append/kv_append.h"

namespace skv::kernels {

void kv_append_ref(const KvPageFormat& format, std::span<const KvAppendItem> items) {
  const int64_t half = int64_t{format.heads} * format.page_tokens * format.head_dim;
  for (const KvAppendItem& item : items) {
    for (int64_t t = 0; t < item.n; ++t) {
      void* page = item.pages[(item.first + t) / format.page_tokens];
      const int64_t row = (item.first + t) % format.page_tokens;
      for (int64_t h = 0; h < format.heads; ++h) {
        for (int64_t i = 0; i < format.head_dim; ++i) {
          const int64_t from = (t * format.heads + h) * format.head_dim + i;
          const int64_t to = (h * format.page_tokens + row) * format.head_dim + i;
          store_f32(page, format.dtype, to, item.k[from]);
          store_f32(page, format.dtype, half + to, item.v[from]);
        }
      }
    }
  }
}

}  // namespace skv::kernels
