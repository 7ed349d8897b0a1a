#include "kernels/gram/gram.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gram/gram_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/parallel.h"
#include "kernels/common/sgemm.h"
#include "kernels/common/workspace.h"
#include "kernels/gram/gram_cuda.h"

#ifndef SKV_KERNELS_GRAM_SCRATCH
#define SKV_KERNELS_GRAM_SCRATCH
namespace skv::kernels {
namespace {

constexpr int64_t kGramColumns = 128;  // of one parallel item

struct GramScratch {
  float* centered;
  void* matmul;
};

inline GramScratch gram_scratch(WorkspaceCursor& cursor, int64_t n, int64_t m) {
  GramScratch s;
  s.centered = cursor.take<float>(std::min(n, kMatmulDepth) * m);
  s.matmul = cursor.take_bytes(matmul_workspace_bytes(m, m, sizeof(float)));
  return s;
}

}  // namespace
}  // namespace skv::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart
namespace hn = hwy::HWY_NAMESPACE;

// out = x - 1 c^T for columns [begin, end) of a block of rows, and the columns' sums.
void center_columns(const float* x, int64_t ldx, const float* center, int64_t rows, int64_t begin, int64_t end,
                    int64_t m, float* out, double* sum) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  // f32 sums over 16 rows, then double: the error stays that of 16 additions.
  constexpr int64_t kRows = 16;
  for (int64_t t0 = 0; t0 < rows; t0 += kRows) {
    const int64_t t1 = std::min(t0 + kRows, rows);
    int64_t j = begin;
    for (; j + lanes <= end; j += lanes) {
      const auto c = hn::LoadU(d, center + j);
      auto total = hn::Zero(d);
      for (int64_t t = t0; t < t1; ++t) {
        const auto v = hn::Sub(hn::LoadU(d, x + t * ldx + j), c);
        hn::StoreU(v, d, out + t * m + j);
        total = hn::Add(total, v);
      }
      HWY_ALIGN float lane[HWY_MAX_BYTES / sizeof(float)];
      hn::Store(total, d, lane);
      for (int64_t i = 0; i < lanes; ++i) sum[j + i] += lane[i];
    }
    for (; j < end; ++j) {
      float total = 0.0f;
      for (int64_t t = t0; t < t1; ++t) total += out[t * m + j] = x[t * ldx + j] - center[j];
      sum[j] += total;
    }
  }
}

void gram_simd(const GramArgs& args, void* workspace) {
  const int64_t m = args.m;
  WorkspaceCursor cursor(workspace);
  const GramScratch scratch = gram_scratch(cursor, args.n, m);
  MatmulArgs<float> product;
  product.a = product.b = scratch.centered;
  product.lda = product.ldb = product.ldc = product.m = product.n = m;
  product.trans_a = true;
  product.c = args.g;
  product.accumulate = true;
  product.upper_only = true;
  for (int64_t t = 0; t < args.n; t += kMatmulDepth) {
    const int64_t rows = std::min(kMatmulDepth, args.n - t);
    parallel_for((m + kGramColumns - 1) / kGramColumns, [&](int64_t item, int) HWY_ATTR {
      center_columns(args.x + t * args.ldx, args.ldx, args.center, rows, item * kGramColumns,
                     std::min((item + 1) * kGramColumns, m), m, scratch.centered, args.sum);
    });
    product.k = rows;
    sgemm(product, scratch.matmul);
  }
  parallel_for(m, [&](int64_t i, int) HWY_ATTR {
    for (int64_t j = 0; j < i; ++j) args.g[i * m + j] = args.g[j * m + i];
  });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
HWY_EXPORT(gram_simd);

std::size_t gram_workspace_bytes(int64_t n, int32_t m) {
  WorkspaceCursor cpu(nullptr), cuda(nullptr);
  gram_scratch(cpu, n, m);
  gram_cuda_scratch(cuda, n, m);
  return std::max(cpu.bytes(), cuda.bytes());
}

void gram_cpu(const GramArgs& args, void* workspace) {
  if (args.n > 0 && args.m > 0) HWY_DYNAMIC_DISPATCH(gram_simd)(args, workspace);
}

void gram_center_cpu(float* g, const double* sum, int64_t n, int32_t m) {
  if (n <= 0) return;
  const double scale = 1.0 / static_cast<double>(n);
  parallel_for(m, [&](int64_t i, int) {
    for (int64_t j = 0; j < m; ++j) g[i * m + j] = static_cast<float>(g[i * m + j] - sum[i] * sum[j] * scale);
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
