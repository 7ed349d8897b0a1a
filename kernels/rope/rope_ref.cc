#include "kernels/rope/rope.h"

namespace skv::kernels {
namespace {

void rotate_head(const RopeView& view, bool inverse, const float* lo, const float* hi, float* head) {
  const int32_t pairs = view.rotary_dim / 2;
  const double factor = static_cast<double>(view.attention_factor);
  for (int32_t i = 0; i < pairs; ++i) {
    const double cl = lo[2 * i], sl = lo[2 * i + 1], ch = hi[2 * i], sh = hi[2 * i + 1];
    const double c = ch * cl - sh * sl;
    const double s = (sh * cl + ch * sl) * (inverse ? -1.0 : 1.0);
    float* p0 = head + (view.interleaved ? 2 * i : i);
    float* p1 = head + (view.interleaved ? 2 * i + 1 : i + pairs);
    const double x0 = *p0, x1 = *p1, a = inverse ? 1.0 / factor : factor;
    *p0 = static_cast<float>(a * (x0 * c - x1 * s));
    *p1 = static_cast<float>(a * (x1 * c + x0 * s));
  }
}

}  // namespace

void rope_ref(const RopeView& view, std::span<const RopeItem> items) {
  for (const RopeItem& item : items) {
    for (int64_t t = 0; t < item.n; ++t) {
      const int64_t p = item.pos + t;
      const float* lo = view.lo + (p % kRopeLow) * view.rotary_dim;
      const float* hi = view.hi + (p / kRopeLow) * view.rotary_dim;
      for (int32_t h = 0; h < item.heads; ++h) {
        rotate_head(view, item.inverse, lo, hi, item.x + t * item.row_stride + int64_t{h} * item.head_dim);
      }
    }
  }
}

}  // namespace skv::kernels
