#include "kernels/rms_norm/rms_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_norm/rms_norm_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kSumBlock = 256;           // f32 sums this long, added up in double
constexpr int64_t kElementsPerTask = 16384;  // below this a second thread costs more than it saves

float sum_of_squares(const float* HWY_RESTRICT x, int64_t n) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d), sum1 = sum0;
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

void norm_row(const float* x, const float* HWY_RESTRICT w, float eps, int64_t n, float* y) {
  double squares = 0.0;
  for (int64_t i = 0; i < n; i += kSumBlock) {
    squares += static_cast<double>(sum_of_squares(x + i, std::min(kSumBlock, n - i)));
  }
  const double mean = squares / static_cast<double>(n) + static_cast<double>(eps);
  const float scale = static_cast<float>(1.0 / std::sqrt(mean));
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto scales = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), scales), hn::LoadU(d, w + i)), d, y + i);
  }
  for (; i < n; ++i) y[i] = x[i] * scale * w[i];
}

void Run(const float* x, const float* w, float eps, int64_t m, int64_t n, float* y) {
  const int64_t rows = std::max<int64_t>(1, kElementsPerTask / n);
  parallel_for((m + rows - 1) / rows, [&](int64_t task, int) {
    const int64_t end = std::min((task + 1) * rows, m);
    for (int64_t row = task * rows; row < end; ++row) norm_row(x + row * n, w, eps, n, y + row * n);
  });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(Run);

void rms_norm_cpu(const float* x, const float* w, float eps, int64_t m, int64_t n, float* y) {
  if (m <= 0 || n <= 0) return;
  HWY_DYNAMIC_DISPATCH(Run)(x, w, eps, m, n, y);
}

}  // namespace skv::kernels
#endif
