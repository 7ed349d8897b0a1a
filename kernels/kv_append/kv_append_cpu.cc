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

void append_token(const KvAppendArgs& args, int64_t t) {
  const int64_t half = int64_t{args.heads} * args.page_tokens * args.head_dim;
  void* page = args.pages[(args.first + t) / args.page_tokens];
  const int64_t row = (args.first + t) % args.page_tokens;
  for (int64_t h = 0; h < args.heads; ++h) {
    const int64_t from = (t * args.heads + h) * args.head_dim;
    const int64_t to = (h * args.page_tokens + row) * args.head_dim;
    narrow_row(args.k + from, args.dtype, page, to, args.head_dim);
    narrow_row(args.v + from, args.dtype, page, half + to, args.head_dim);
  }
}

}  // namespace

void kv_append_cpu(const KvAppendArgs& args) {
  constexpr int64_t kTokensPerItem = 64;
  if (args.n <= kTokensPerItem) {
    for (int64_t t = 0; t < args.n; ++t) append_token(args, t);
    return;
  }
  parallel_for((args.n + kTokensPerItem - 1) / kTokensPerItem, [&](int64_t item, int) {
    const int64_t end = std::min(args.n, (item + 1) * kTokensPerItem);
    for (int64_t t = item * kTokensPerItem; t < end; ++t) append_token(args, t);
  });
}

}  // namespace skv::kernels
