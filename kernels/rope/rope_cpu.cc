#include "kernels/rope/rope.h"

#include <algorithm>

#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope/rope_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

constexpr int32_t kBlockPairs = 128;  // rotations prepared at a time: one token's, for head_dim up to 256
constexpr int64_t kTokensPerTask = 8;

// cos and sin of one token's pairs, times the attention factor; for the inverse divided by it, the angle negated.
struct Rotation {
  HWY_ALIGN float c[kBlockPairs];
  HWY_ALIGN float s[kBlockPairs];
};

void prepare(const float* HWY_RESTRICT lo, const float* HWY_RESTRICT hi, int32_t n, float factor, bool inverse,
             Rotation& out) {
  const D d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  const float sin_factor = inverse ? -factor : factor;
  int32_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto cl = hn::Zero(d), sl = cl, ch = cl, sh = cl;
    hn::LoadInterleaved2(d, lo + 2 * i, cl, sl);
    hn::LoadInterleaved2(d, hi + 2 * i, ch, sh);
    const auto c = hn::NegMulAdd(sh, sl, hn::Mul(ch, cl)), s = hn::MulAdd(sh, cl, hn::Mul(ch, sl));
    hn::Store(hn::Mul(c, hn::Set(d, factor)), d, out.c + i);
    hn::Store(hn::Mul(s, hn::Set(d, sin_factor)), d, out.s + i);
  }
  for (; i < n; ++i) {
    const float cl = lo[2 * i], sl = lo[2 * i + 1], ch = hi[2 * i], sh = hi[2 * i + 1];
    out.c[i] = (ch * cl - sh * sl) * factor;
    out.s[i] = (sh * cl + ch * sl) * sin_factor;
  }
}

// Pairs (x0[i], x1[i]).
void rotate_halves(const Rotation& r, int32_t n, float* HWY_RESTRICT x0, float* HWY_RESTRICT x1) {
  const D d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  int32_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto a = hn::LoadU(d, x0 + i), b = hn::LoadU(d, x1 + i), c = hn::Load(d, r.c + i), s = hn::Load(d, r.s + i);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, x0 + i);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, x1 + i);
  }
  for (; i < n; ++i) {
    const float a = x0[i], b = x1[i];
    x0[i] = a * r.c[i] - b * r.s[i];
    x1[i] = b * r.c[i] + a * r.s[i];
  }
}

// Pairs (x[2 i], x[2 i + 1]).
void rotate_interleaved(const Rotation& r, int32_t n, float* HWY_RESTRICT x) {
  const D d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  int32_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto a = hn::Zero(d), b = a;
    hn::LoadInterleaved2(d, x + 2 * i, a, b);
    const auto c = hn::Load(d, r.c + i), s = hn::Load(d, r.s + i);
    hn::StoreInterleaved2(hn::NegMulAdd(b, s, hn::Mul(a, c)), hn::MulAdd(a, s, hn::Mul(b, c)), d, x + 2 * i);
  }
  for (; i < n; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * r.c[i] - b * r.s[i];
    x[2 * i + 1] = b * r.c[i] + a * r.s[i];
  }
}

void rotate_token(const RopeView& view, const RopeItem& item, int64_t token) {
  const int64_t p = item.pos + token;
  const float* lo = view.lo + p % kRopeLow * view.rotary_dim;
  const float* hi = view.hi + p / kRopeLow * view.rotary_dim;
  const float factor = item.inverse ? 1.0f / view.attention_factor : view.attention_factor;
  const int32_t pairs = view.rotary_dim / 2;
  Rotation rotation;
  for (int32_t first = 0; first < pairs; first += kBlockPairs) {
    const int32_t n = std::min(kBlockPairs, pairs - first);
    prepare(lo + 2 * first, hi + 2 * first, n, factor, item.inverse, rotation);
    for (int32_t h = 0; h < item.heads; ++h) {
      float* head = item.x + token * item.row_stride + int64_t{h} * item.head_dim;
      if (view.interleaved) rotate_interleaved(rotation, n, head + 2 * first);
      else rotate_halves(rotation, n, head + first, head + first + pairs);
    }
  }
}

// Tasks count tokens across items, so that many short runs share the workers as one long run does.
void Run(const RopeView& view, std::span<const RopeItem> items) {
  int64_t total = 0;
  for (const RopeItem& item : items) total += item.n;
  parallel_for((total + kTokensPerTask - 1) / kTokensPerTask, [&](int64_t task, int) {
    int64_t begin = task * kTokensPerTask, end = begin + kTokensPerTask;  // relative to the item in hand
    for (const RopeItem& item : items) {
      for (int64_t token = std::max<int64_t>(begin, 0); token < std::min(end, item.n); ++token) {
        rotate_token(view, item, token);
      }
      begin -= item.n;
      end -= item.n;
      if (end <= 0) return;
    }
  });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(Run);

void rope_cpu(const RopeView& view, std::span<const RopeItem> items) {
  if (view.rotary_dim == 0) return;
  HWY_DYNAMIC_DISPATCH(Run)(view, items);
}

}  // namespace skv::kernels
#endif
