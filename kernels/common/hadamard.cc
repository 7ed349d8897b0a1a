#include "kernels/common/hadamard.h"

#include <bit>
#include <cmath>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/common/hadamard.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/hadamard-inl.h"
#include "kernels/common/orthogonal.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

void rotate_rows(float* x, int64_t n, int32_t width, bool inverse) {
  const F32 d;
  const VF norm = hn::Set(d, 1.0f / std::sqrt(static_cast<float>(width)));
  for (int64_t row = 0; row < n; ++row, x += width) hadamard_row(d, x, width, inverse, norm);
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
namespace {

constexpr int32_t kCores[] = {12, 20};

struct CoreTable {
  alignas(64) float columns[2][2][kCoreStride * kCoreStride] = {};  // of 12, 20; as it is, transposed

  CoreTable() {
    for (int c = 0; c < 2; ++c) {
      const int32_t b = kCores[c];
      float q[kCoreStride * kCoreStride];
      fixed_orthogonal(b, q);
      for (int32_t i = 0; i < b; ++i)
        for (int32_t j = 0; j < b; ++j) {
          const float sign = q[i * b + j] < 0.0f ? -1.0f : 1.0f;
          columns[c][0][j * kCoreStride + i] = sign;
          columns[c][1][i * kCoreStride + j] = sign;
        }
    }
  }
};

HWY_EXPORT(rotate_rows);

}  // namespace

int32_t hadamard_core_order(int32_t width) {
  const int32_t odd = width >> std::countr_zero(static_cast<uint32_t>(width));
  return odd == 1 ? 1 : 4 * odd;
}

const float* hadamard_core(int32_t order, bool transposed) {
  static const CoreTable table;
  return table.columns[order == kCores[1]][transposed];
}

bool hadamard_supports(int32_t width) {
  if (width < 16 || width > kMaxHadamard) return false;
  const int32_t core = hadamard_core_order(width);
  return (core == 1 || core == kCores[0] || core == kCores[1]) && width % core == 0;
}

void hadamard_rows_ref(float* x, int64_t n, int32_t width, bool inverse) {
  const int32_t b = hadamard_core_order(width);
  const double norm = 1.0 / std::sqrt(static_cast<double>(width));
  std::vector<double> h(static_cast<std::size_t>(width) * width), y(static_cast<std::size_t>(width));
  for (int32_t i = 0; i < width; ++i) {
    for (int32_t j = 0; j < width; ++j) {
      const auto overlap = static_cast<uint32_t>(i / b) & static_cast<uint32_t>(j / b);
      const double core = b == 1 ? 1.0 : hadamard_core(b, inverse)[j % b * kCoreStride + i % b];
      h[static_cast<std::size_t>(i) * width + j] = (std::popcount(overlap) % 2 ? -norm : norm) * core;
    }
  }
  for (int64_t row = 0; row < n; ++row, x += width) {
    for (int32_t i = 0; i < width; ++i) {
      y[i] = 0.0;
      for (int32_t j = 0; j < width; ++j) y[i] += h[static_cast<std::size_t>(i) * width + j] * x[j];
    }
    for (int32_t i = 0; i < width; ++i) x[i] = static_cast<float>(y[i]);
  }
}

void hadamard_rows(float* x, int64_t n, int32_t width, bool inverse) {
  HWY_DYNAMIC_DISPATCH(rotate_rows)(x, n, width, inverse);
}

}  // namespace skv::kernels
#endif
