#include "kernels/embed/embed.h"

#include <algorithm>

#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/embed/embed_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

constexpr int64_t kElementsPerTask = 16384;

template <class T>
void widen_row(const T* HWY_RESTRICT row, int64_t n, float* HWY_RESTRICT y) {
  const F32 d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(load(d, row + i), d, y + i);
  const std::size_t rest = static_cast<std::size_t>(n - i);
  if (rest > 0) store_n(load_n(d, row + i, rest), d, y + i, rest);
}

template <class T>
void widen_rows(const T* table, int64_t n, const int32_t* ids, int64_t m, float* y) {
  const int64_t rows = std::max<int64_t>(1, kElementsPerTask / n);
  parallel_for((m + rows - 1) / rows, [&](int64_t task, int) {
    const int64_t end = std::min((task + 1) * rows, m);
    for (int64_t i = task * rows; i < end; ++i) {
      widen_row(table + static_cast<int64_t>(ids[i]) * n, n, y + i * n);
    }
  });
}

void Run(const void* table, DType dtype, int64_t n, const int32_t* ids, int64_t m, float* y) {
  with_dtype(dtype, table, [&](const auto* rows) { widen_rows(rows, n, ids, m, y); });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(Run);

void embed_cpu(const void* table, DType dtype, int64_t n, const int32_t* ids, int64_t m, float* y) {
  if (m <= 0 || n <= 0) return;
  HWY_DYNAMIC_DISPATCH(Run)(table, dtype, n, ids, m, y);
}

}  // namespace skv::kernels
#endif
