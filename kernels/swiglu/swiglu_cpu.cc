#include "kernels/swiglu/swiglu.h"

#include <algorithm>

#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/swiglu/swiglu_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

constexpr int64_t kElementsPerTask = 4096;
constexpr float kSaturated = 87.0f;  // exp stays finite and normal up to here; silu(-87) is below 1e-36

// silu(g) u = g u / (1 + exp(-g)), with the exponential of -|g| only, so that it never overflows:
// for g < 0 the fraction is exp(g) / (1 + exp(g)).
HWY_INLINE VF silu_times(F32 d, VF g, VF u) {
  const auto one = hn::Set(d, 1.0f), zero = hn::Zero(d);
  const auto e = exp(d, hn::Neg(hn::Abs(g)));
  const auto negative = hn::Lt(g, zero);
  const auto fraction = hn::Div(hn::IfThenElse(negative, e, one), hn::Add(one, e));
  const auto silu = hn::IfThenElse(hn::Lt(g, hn::Set(d, -kSaturated)), zero, hn::Mul(g, fraction));
  return hn::Mul(silu, u);
}

void run_row(const float* HWY_RESTRICT g, const float* HWY_RESTRICT u, int64_t n, float* HWY_RESTRICT y) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(silu_times(d, hn::LoadU(d, g + i), hn::LoadU(d, u + i)), d, y + i);
  }
  if (i == n) return;
  const std::size_t rest = static_cast<std::size_t>(n - i);
  store_n(silu_times(d, load_n(d, g + i, rest), load_n(d, u + i, rest)), d, y + i, rest);
}

void Run(const float* gu, int64_t m, int64_t n, float* y) {
  const int64_t rows = std::max<int64_t>(1, kElementsPerTask / n), columns = std::min(n, kElementsPerTask);
  const int64_t column_tasks = (n + columns - 1) / columns;
  parallel_for((m + rows - 1) / rows * column_tasks, [&](int64_t task, int) {
    const int64_t first = task / column_tasks * rows, begin = task % column_tasks * columns;
    const int64_t width = std::min(columns, n - begin), end = std::min(first + rows, m);
    for (int64_t row = first; row < end; ++row) {
      const float* g = gu + row * 2 * n + begin;
      run_row(g, g + n, width, y + row * n + begin);
    }
  });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(Run);

void swiglu_cpu(const float* gu, int64_t m, int64_t n, float* y) {
  if (m <= 0 || n <= 0) return;
  HWY_DYNAMIC_DISPATCH(Run)(gu, m, n, y);
}

}  // namespace skv::kernels
#endif
