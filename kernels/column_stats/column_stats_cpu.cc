// Tasks own columns and walk down all rows, so no thread count changes an order of additions; lanes are columns, so
// no SIMD target does either.
#include "kernels/column_stats/column_stats.h"

#include <algorithm>

#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/column_stats/column_stats_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F64 = hn::ScalableTag<double>;
using HalfF32 = hn::Rebind<float, F64>;
using VD = hn::Vec<F64>;

constexpr int64_t kTaskColumns = 32;  // 128 bytes of a row

struct Itself {
  VD operator()(F64 d, hn::Vec<HalfF32> x) const { return hn::PromoteTo(d, x); }
  double operator()(float x) const { return static_cast<double>(x); }
};

// The f32 square, 0 where that is not finite.
struct FiniteSquare {
  VD operator()(F64 d, hn::Vec<HalfF32> x) const {
    const auto square = hn::Mul(x, x);
    return hn::PromoteTo(d, hn::IfThenElseZero(hn::IsFinite(square), square));
  }
  double operator()(float x) const {
    const float square = x * x;
    return square <= hwy::HighestValue<float>() ? static_cast<double>(square) : 0.0;
  }
};

// sum[c] += term(x[t, c]) over the rows, a row at a time. sum: HWY_ALIGN, at least kTaskColumns.
template <class Term>
void add_rows(const Term& term, const float* HWY_RESTRICT x, int64_t n, int64_t stride, int64_t columns,
              double* HWY_RESTRICT sum) {
  const F64 d;
  const HalfF32 half;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t t = 0; t < n; ++t, x += stride) {
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) {
      hn::Store(hn::Add(hn::Load(d, sum + c), term(d, hn::LoadU(half, x + c))), d, sum + c);
    }
    for (; c < columns; ++c) sum[c] += term(x[c]);
  }
}

void Mean(const ColumnMeanArgs& args) {
  parallel_for((args.m + kTaskColumns - 1) / kTaskColumns, [&](int64_t task, int) {
    const int64_t first = task * kTaskColumns, columns = std::min(kTaskColumns, args.m - first);
    HWY_ALIGN double sum[kTaskColumns] = {};
    add_rows(Itself(), args.x + first, args.n, args.m, columns, sum);
    for (int64_t c = 0; c < columns; ++c) {
      args.mean[first + c] = args.n > 0 ? static_cast<float>(sum[c] / static_cast<double>(args.n)) : 0.0f;
    }
  });
}

void Energy(const ColumnEnergyArgs& args) {
  const int64_t blocks = (args.head_dim + kTaskColumns - 1) / kTaskColumns, groups = args.heads / args.group;
  const int64_t stride = int64_t{args.heads} * args.head_dim;
  parallel_for(groups * blocks, [&](int64_t task, int) {
    const int64_t entry = task / blocks, first = task % blocks * kTaskColumns;
    const int64_t columns = std::min(kTaskColumns, args.head_dim - first);
    HWY_ALIGN double sum[kTaskColumns] = {};
    for (int64_t h = entry * args.group; h < (entry + 1) * args.group; ++h) {
      add_rows(FiniteSquare(), args.x + h * args.head_dim + first, args.n, stride, columns, sum);
    }
    double* energy = args.energy + entry * args.head_dim + first;
    for (int64_t c = 0; c < columns; ++c) energy[c] += sum[c];
  });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(Mean);
HWY_EXPORT(Energy);

void column_mean_cpu(const ColumnMeanArgs& args) { HWY_DYNAMIC_DISPATCH(Mean)(args); }

void column_energy_cpu(const ColumnEnergyArgs& args) { HWY_DYNAMIC_DISPATCH(Energy)(args); }

}  // namespace skv::kernels
#endif
