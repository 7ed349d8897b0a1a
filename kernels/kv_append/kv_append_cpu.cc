// Memory-bound copies that the compiler vectorises; no Highway version is needed.
#include "kernels/kv_append/kv_append.h"

#include <algorithm>

#include "kernels/common/parallel.h"

namespace skv::kernels {
namespace {

void narrow_row(const float* from, DType dtype, void* base, int64_t at, int32_t n) {
  if (dtype == DType::f32) {
    std::memcpy(static_cast<float*>(base) + at, from, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  uint16_t* to = static_cast<uint16_t*>(base) + at;
  for (int32_t i = 0; i < n; ++i) to[i] = f32_to_bf16(from[i]);
}

void append_token(const KvPageFormat& format, const KvAppendItem& item, int64_t t) {
  const int64_t half = int64_t{format.heads} * format.page_tokens * format.head_dim;
  void* page = item.pages[(item.first + t) / format.page_tokens];
  const int64_t row = (item.first + t) % format.page_tokens;
  for (int64_t h = 0; h < format.heads; ++h) {
    const int64_t from = (t * format.heads + h) * format.head_dim;
    const int64_t to = (h * format.page_tokens + row) * format.head_dim;
    narrow_row(item.k + from, format.dtype, page, to, format.head_dim);
    narrow_row(item.v + from, format.dtype, page, half + to, format.head_dim);
  }
}

}  // namespace

// Tasks count tokens across items.
void kv_append_cpu(const KvPageFormat& format, std::span<const KvAppendItem> items) {
  constexpr int64_t kTokensPerTask = 64;
  int64_t total = 0;
  for (const KvAppendItem& item : items) total += item.n;
  parallel_for((total + kTokensPerTask - 1) / kTokensPerTask, [&](int64_t task, int) {
    int64_t begin = task * kTokensPerTask, end = begin + kTokensPerTask;  // relative to the item in hand
    for (const KvAppendItem& item : items) {
      for (int64_t t = std::max<int64_t>(begin, 0); t < std::min(end, item.n); ++t) append_token(format, item, t);
      begin -= item.n;
      end -= item.n;
      if (end <= 0) return;
    }
  });
}

}  // namespace skv::kernels
