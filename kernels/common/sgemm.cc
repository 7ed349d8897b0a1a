#include "kernels/common/sgemm.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/common/sgemm.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/parallel.h"

#ifndef SKV_KERNELS_COMMON_SGEMM_LIMITS
#define SKV_KERNELS_COMMON_SGEMM_LIMITS
namespace skv::kernels {
inline constexpr int64_t kMaxPanel = 128;  // rows or columns of a panel on any target: bounds the padding
}  // namespace skv::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart
namespace hn = hwy::HWY_NAMESPACE;

// Rows of the register tile: with two vectors of columns, 2 * kTileRows accumulators fill the register file.
#if HWY_TARGET <= HWY_AVX3
inline constexpr int64_t kTileRows = 12;
#else
inline constexpr int64_t kTileRows = 6;
#endif
inline constexpr int64_t kItemRows = 96;  // of one parallel item: its packed rows stay in the L2 cache
inline constexpr int64_t kItemCols = 256;
static_assert(kItemRows % kTileRows == 0);
static_assert(2 * HWY_MAX_BYTES / sizeof(float) <= kMaxPanel && kTileRows <= kMaxPanel);

// Panels of `width` rows of the operand, k-major inside a panel, padded with zeros: dst[panel][k][width].
template <class T>
void pack_panel(const T* src, int64_t stride_row, int64_t stride_k, int64_t rows, int64_t kc, int64_t width, T* dst) {
  if (rows < width) std::memset(dst, 0, static_cast<std::size_t>(kc * width) * sizeof(T));
  if (stride_row == 1) {
    for (int64_t k = 0; k < kc; ++k)
      std::memcpy(dst + k * width, src + k * stride_k, static_cast<std::size_t>(rows) * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < kc; ++k) dst[k * width + i] = src[i * stride_row + k * stride_k];
}

// One register tile: kTileRows x 2 vectors, kc terms.
template <class T>
HWY_INLINE void tile(const T* HWY_RESTRICT a, const T* HWY_RESTRICT b, int64_t kc, T* HWY_RESTRICT c, int64_t ldc,
                     bool accumulate) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V acc0[kTileRows], acc1[kTileRows];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kTileRows; ++i) acc0[i] = acc1[i] = hn::Zero(d);
  for (int64_t k = 0; k < kc; ++k) {
    const V b0 = hn::Load(d, b + k * 2 * lanes);
    const V b1 = hn::Load(d, b + k * 2 * lanes + lanes);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kTileRows; ++i) {
      const V x = hn::Set(d, a[k * kTileRows + i]);
      acc0[i] = hn::MulAdd(x, b0, acc0[i]);
      acc1[i] = hn::MulAdd(x, b1, acc1[i]);
    }
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kTileRows; ++i) {
    T* row = c + i * ldc;
    if (accumulate) {
      acc0[i] = hn::Add(hn::LoadU(d, row), acc0[i]);
      acc1[i] = hn::Add(hn::LoadU(d, row + lanes), acc1[i]);
    }
    hn::StoreU(acc0[i], d, row);
    hn::StoreU(acc1[i], d, row + lanes);
  }
}

// A tile that sticks out of c goes through a buffer, so that every element sees the same arithmetic.
template <class T>
void edge_tile(const T* a, const T* b, int64_t kc, T* c, int64_t ldc, int64_t rows, int64_t cols, bool accumulate) {
  HWY_ALIGN T buffer[kTileRows * 2 * HWY_MAX_BYTES / sizeof(T)];
  const int64_t width = 2 * static_cast<int64_t>(hn::Lanes(hn::ScalableTag<T>()));
  if (accumulate) {
    std::memset(buffer, 0, sizeof(buffer));
    for (int64_t i = 0; i < rows; ++i) std::copy_n(c + i * ldc, cols, buffer + i * width);
  }
  tile(a, b, kc, buffer, width, accumulate);
  for (int64_t i = 0; i < rows; ++i) std::copy_n(buffer + i * width, cols, c + i * ldc);
}

// Waking a team costs more than a small block of work.
template <class Fn>
void loop_items(bool parallel, int64_t n, Fn&& fn) {
  if (parallel) return parallel_for(n, fn);
  for (int64_t i = 0; i < n; ++i) fn(i, 0);
}

template <class T>
bool worth_a_team(const MatmulArgs<T>& args) {
  return args.m * args.n * std::min(args.k, kMatmulDepth) >= int64_t{1} << 22;
}

template <class T>
struct Packed {
  T* a;
  T* b;
  int64_t width;  // columns of a b panel
};

template <class T>
void pack_block(const MatmulArgs<T>& args, int64_t k0, int64_t kc, const Packed<T>& packed) {
  const int64_t a_panels = (args.m + kTileRows - 1) / kTileRows;
  const int64_t b_panels = (args.n + packed.width - 1) / packed.width;
  const int64_t a_row = args.trans_a ? 1 : args.lda, a_k = args.trans_a ? args.lda : 1;
  const int64_t b_col = args.trans_b ? args.ldb : 1, b_k = args.trans_b ? 1 : args.ldb;
  constexpr int64_t kPanels = 4;  // per item
  loop_items(worth_a_team(args), (a_panels + b_panels + kPanels - 1) / kPanels, [&](int64_t item, int) HWY_ATTR {
    for (int64_t p = item * kPanels; p < std::min((item + 1) * kPanels, a_panels + b_panels); ++p) {
      if (p < a_panels) {
        const int64_t i0 = p * kTileRows;
        pack_panel(args.a + i0 * a_row + k0 * a_k, a_row, a_k, std::min(kTileRows, args.m - i0), kc, kTileRows,
                   packed.a + i0 * kMatmulDepth);
      } else {
        const int64_t j0 = (p - a_panels) * packed.width;
        pack_panel(args.b + j0 * b_col + k0 * b_k, b_col, b_k, std::min(packed.width, args.n - j0), kc, packed.width,
                   packed.b + j0 * kMatmulDepth);
      }
    }
  });
}

struct Item {
  int64_t i_begin, i_end, j_begin, j_end, k_begin, kc;
};

template <class T>
void multiply_item(const MatmulArgs<T>& args, const Item& item, bool accumulate, const Packed<T>& packed) {
  for (int64_t j = item.j_begin; j < item.j_end; j += packed.width) {
    for (int64_t i = item.i_begin; i < item.i_end; i += kTileRows) {
      if (args.upper_only && j + packed.width <= i) break;
      const int64_t rows = std::min(kTileRows, args.m - i), cols = std::min(packed.width, args.n - j);
      const T* a = packed.a + i * kMatmulDepth + item.k_begin * kTileRows;
      const T* b = packed.b + j * kMatmulDepth + item.k_begin * packed.width;
      T* c = args.c + i * args.ldc + j;
      if (rows == kTileRows && cols == packed.width) tile(a, b, item.kc, c, args.ldc, accumulate);
      else edge_tile(a, b, item.kc, c, args.ldc, rows, cols, accumulate);
    }
  }
}

template <class T>
void multiply_block(const MatmulArgs<T>& args, int64_t kc, bool accumulate, const Packed<T>& packed) {
  const int64_t row_items = (args.m + kItemRows - 1) / kItemRows;
  const int64_t col_items = (args.n + kItemCols - 1) / kItemCols;
  loop_items(worth_a_team(args), row_items * col_items, [&](int64_t item, int) HWY_ATTR {
    const int64_t i_begin = item / col_items * kItemRows, i_end = std::min(i_begin + kItemRows, args.m);
    const int64_t j_begin = item % col_items * kItemCols, j_end = std::min(j_begin + kItemCols, args.n);
    for (int64_t k0 = 0; k0 < kc; k0 += kMatmulBlock)
      multiply_item(args, {i_begin, i_end, j_begin, j_end, k0, std::min(kMatmulBlock, kc - k0)}, accumulate || k0 > 0,
                    packed);
  });
}

template <class T>
void matmul(const MatmulArgs<T>& args, void* workspace) {
  if (args.m <= 0 || args.n <= 0) return;
  if (args.k <= 0 && !args.accumulate)
    for (int64_t i = 0; i < args.m; ++i) std::fill_n(args.c + i * args.ldc, args.n, T(0));
  Packed<T> packed;
  packed.width = 2 * static_cast<int64_t>(hn::Lanes(hn::ScalableTag<T>()));
  packed.b = static_cast<T*>(workspace);
  packed.a = packed.b + (args.n + packed.width - 1) / packed.width * packed.width * kMatmulDepth;
  for (int64_t k0 = 0; k0 < args.k; k0 += kMatmulDepth) {
    const int64_t kc = std::min(kMatmulDepth, args.k - k0);
    pack_block(args, k0, kc, packed);
    multiply_block(args, kc, args.accumulate || k0 > 0, packed);
  }
}

void sgemm_simd(const MatmulArgs<float>& args, void* workspace) { matmul(args, workspace); }
void dgemm_simd(const MatmulArgs<double>& args, void* workspace) { matmul(args, workspace); }

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
HWY_EXPORT(sgemm_simd);
HWY_EXPORT(dgemm_simd);

std::size_t matmul_workspace_bytes(int64_t m, int64_t n, std::size_t element_bytes) {
  return static_cast<std::size_t>((m + n + 2 * kMaxPanel) * kMatmulDepth) * element_bytes;
}

void sgemm(const MatmulArgs<float>& args, void* workspace) { HWY_DYNAMIC_DISPATCH(sgemm_simd)(args, workspace); }
void dgemm(const MatmulArgs<double>& args, void* workspace) { HWY_DYNAMIC_DISPATCH(dgemm_simd)(args, workspace); }

}  // namespace skv::kernels
#endif  // HWY_ONCE
