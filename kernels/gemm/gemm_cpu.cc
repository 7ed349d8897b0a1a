// Highway GEMM: every c[i, j] is one chain of vector products along k, in ascending order, reduced once at the end.
// So a row's bits depend neither on m nor on how rows, columns and k are blocked here, and w needs no transposing.
#include "kernels/gemm/gemm.h"

#include <algorithm>

#include "kernels/common/parallel.h"
#include "kernels/common/workspace.h"
#include "kernels/gemm/gemm_onednn.h"

#include <hwy/cache_control.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm/gemm_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

// 4 x 4 accumulators need 32 vector registers, 4 x 2 fit 16.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kTileCols = 4;
#else
constexpr int kTileCols = 2;
#endif
constexpr int kTileRows = 4;
constexpr int64_t kFewRows = 16;     // up to here reading w counts, above it products do
constexpr int64_t kBlockRows = 64;   // rows of a that share one widening of w
constexpr int64_t kBlockCols = 32;   // columns a task owns; its accumulators stay in L2
constexpr int64_t kBlockDepth = 1024;  // a widened w panel (kTileCols x kBlockDepth) stays in L1

int64_t lanes() { return static_cast<int64_t>(hn::Lanes(F32())); }

// Rows of a packed panel. Not a power of two: rows of a that lie 4 KiB or 16 KiB apart share few cache sets.
constexpr int64_t kPanelStride = kBlockDepth + 16;

// One worker's scratch: accumulators waiting between two blocks of k, packed a, widened w.
struct Scratch {
  float* parked;   // [kBlockRows * kBlockCols] vectors
  float* a_panel;  // [kBlockRows, kPanelStride]
  float* w_panel;  // [kTileCols, kPanelStride]
  std::size_t bytes;

  explicit Scratch(void* base) {
    WorkspaceCursor cursor(base);
    parked = cursor.take<float>(kBlockRows * kBlockCols * lanes());
    a_panel = cursor.take<float>(kBlockRows * kPanelStride);
    w_panel = cursor.take<float>(kTileCols * kPanelStride);
    bytes = cursor.bytes();
  }
};

template <int kRows>
using Tile = VF[kRows][kTileCols];

template <int kRows>
HWY_INLINE void clear(Tile<kRows>& acc) {
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (int c = 0; c < kTileCols; ++c) acc[r][c] = hn::Zero(F32());
  }
}

template <int kRows>
HWY_INLINE void multiply_add(const VF (&a)[kRows], const VF (&w)[kTileCols], Tile<kRows>& acc) {
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (int c = 0; c < kTileCols; ++c) acc[r][c] = hn::MulAdd(a[r], w[c], acc[r][c]);
  }
}

// The weights that the next tile will read. Hardware prefetchers lose the track at every change of rows.
struct Ahead {
  const char* w = nullptr;  // its first column; null: no next tile
  int64_t column_bytes = 0;
  int64_t element_bytes = 0;
};

// acc += a[rows, 0..k) * w[cols, 0..k) lane by lane; a last partial vector is filled with zeros.
template <int kRows, bool kPrefetch, class T>
HWY_INLINE void accumulate(const float* HWY_RESTRICT a, int64_t lda, const T* const (&w)[kTileCols], int64_t k,
                           const Ahead& ahead, Tile<kRows>& acc) {
  const F32 d;
  const int64_t step = lanes(), full = k - k % step;
  VF av[kRows], wv[kTileCols];
  for (int64_t p = 0; p < full; p += step) {
    HWY_UNROLL(4)
    for (int c = 0; c < kTileCols; ++c) wv[c] = load(d, w[c] + p);
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) av[r] = hn::LoadU(d, a + r * lda + p);
    if constexpr (kPrefetch) {
      HWY_UNROLL(4)
      for (int c = 0; c < kTileCols; ++c) hwy::Prefetch(ahead.w + c * ahead.column_bytes + p * ahead.element_bytes);
    }
    multiply_add<kRows>(av, wv, acc);
  }
  if (full == k) return;
  const std::size_t rest = static_cast<std::size_t>(k - full);
  HWY_UNROLL(4)
  for (int c = 0; c < kTileCols; ++c) wv[c] = load_n(d, w[c] + full, rest);
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) av[r] = load_n(d, a + r * lda + full, rest);
  multiply_add<kRows>(av, wv, acc);
}

// What one tile reads and adds to: columns [col, col + n_cols) of rows [row, row + kRows).
struct Output {
  const GemmArgs& args;
  int64_t row;
  int64_t col;
  int n_cols;
  const float* a;  // row's elements in this block of k
  int64_t a_stride;
  Ahead ahead;
};

template <int kRows>
HWY_INLINE void write(const Output& out, const Tile<kRows>& acc) {
  const F32 d;
  for (int r = 0; r < kRows; ++r) {
    float* c = out.args.c + (out.row + r) * out.args.ldc + out.col;
    for (int j = 0; j < out.n_cols; ++j) {
      float sum = sum_of_lanes(d, acc[r][j]);
      if (out.args.bias != nullptr) sum += out.args.bias[out.col + j];
      c[j] = out.args.accumulate ? c[j] + sum : sum;
    }
  }
}

// Where accumulators wait between two blocks of k.
template <int kRows>
HWY_INLINE void park(const Tile<kRows>& acc, float* HWY_RESTRICT memory) {
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (int c = 0; c < kTileCols; ++c) store(acc[r][c], F32(), memory + (r * kTileCols + c) * lanes());
  }
}

template <int kRows>
HWY_INLINE void resume(const float* HWY_RESTRICT memory, Tile<kRows>& acc) {
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (int c = 0; c < kTileCols; ++c) acc[r][c] = load(F32(), memory + (r * kTileCols + c) * lanes());
  }
}

struct Depth {
  int64_t begin;
  int64_t end;
  bool first;
  bool last;
};

// Not inlined: several tile heights in one function crowd each other out of registers.
template <int kRows, bool kPrefetch, class T>
HWY_NOINLINE void run_tile(const Output& out, const T* const (&w)[kTileCols], const Depth& depth, float* parked) {
  Tile<kRows> acc;
  if (depth.first) clear<kRows>(acc);
  else resume<kRows>(parked, acc);
  accumulate<kRows, kPrefetch>(out.a, out.a_stride, w, depth.end - depth.begin, out.ahead, acc);
  if (depth.last) write<kRows>(out, acc);
  else park<kRows>(acc, parked);
}

template <int kRows, class T>
void run_tile(const Output& out, const T* const (&w)[kTileCols], const Depth& depth, float* parked) {
  if (out.ahead.w != nullptr) run_tile<kRows, true>(out, w, depth, parked);
  else run_tile<kRows, false>(out, w, depth, parked);
}

// All rows [row, row_end) against kTileCols columns.
template <class T>
void run_rows(Output out, int64_t row_end, const T* const (&w)[kTileCols], const Depth& depth, float* parked) {
  for (; out.row + kTileRows <= row_end; out.row += kTileRows) {
    run_tile<kTileRows>(out, w, depth, parked);
    out.a += kTileRows * out.a_stride;
    out.ahead.w = nullptr;  // once is enough
    parked += kTileRows * kBlockCols * lanes();
  }
  switch (row_end - out.row) {
    case 3: return run_tile<3>(out, w, depth, parked);
    case 2: return run_tile<2>(out, w, depth, parked);
    case 1: return run_tile<1>(out, w, depth, parked);
    default: return;
  }
}

// Columns past n repeat the last one; their sums are not written.
template <class T>
void point_at_columns(const T* w, int64_t ldw, int n_cols, const T* (&columns)[kTileCols]) {
  for (int c = 0; c < kTileCols; ++c) columns[c] = w + std::min(c, n_cols - 1) * ldw;
}

// panel[r, 0..k) = rows[r, 0..k) in f32.
template <class T>
void pack(const T* rows, int64_t stride, int64_t n_rows, int64_t k, float* HWY_RESTRICT panel) {
  const F32 d;
  const int64_t step = lanes();
  for (int64_t r = 0; r < n_rows; ++r, rows += stride, panel += kPanelStride) {
    int64_t p = 0;
    for (; p + step <= k; p += step) store(load(d, rows + p), d, panel + p);
    const std::size_t rest = static_cast<std::size_t>(k - p);
    if (rest > 0) store_n(load_n(d, rows + p, rest), d, panel + p, rest);
  }
}

template <class T>
Ahead ahead_of(const T* w, int64_t ldw, int64_t n_cols) {
  if (n_cols < kTileCols) return Ahead();
  return Ahead{reinterpret_cast<const char*>(w), ldw * static_cast<int64_t>(sizeof(T)), sizeof(T)};
}

// Few rows: w is read once from memory, straight through and widened on the fly; nothing is packed or parked.
template <class T>
void run_few_rows(const GemmDesc& desc, const GemmArgs& args, const T* w, int64_t col, int64_t col_end) {
  for (int64_t j = col; j < col_end; j += kTileCols) {
    const int n_cols = static_cast<int>(std::min<int64_t>(kTileCols, col_end - j));
    const T* columns[kTileCols];
    point_at_columns(w + j * desc.k, desc.k, n_cols, columns);
    const Ahead ahead = ahead_of(w + (j + kTileCols) * desc.k, desc.k, desc.n - j - kTileCols);
    const Depth whole{0, desc.k, true, true};
    run_rows<T>(Output{args, 0, j, n_cols, args.a, args.lda, ahead}, args.m, columns, whole, nullptr);
  }
}

// Rows [row, row_end) x columns [col, col_end) of c.
template <class T>
void run_block(const GemmDesc& desc, const GemmArgs& args, const T* w, int64_t row, int64_t row_end, int64_t col,
               int64_t col_end, const Scratch& scratch) {
  for (int64_t p = 0; p == 0 || p < desc.k; p += kBlockDepth) {
    const int64_t end = std::min(p + kBlockDepth, desc.k);
    const Depth depth{p, end, p == 0, end == desc.k};
    pack(args.a + row * args.lda + p, args.lda, row_end - row, end - p, scratch.a_panel);
    for (int64_t j = col; j < col_end; j += kTileCols) {
      const int n_cols = static_cast<int>(std::min<int64_t>(kTileCols, col_end - j));
      pack(w + j * desc.k + p, desc.k, n_cols, end - p, scratch.w_panel);
      const float* columns[kTileCols];
      point_at_columns<float>(scratch.w_panel, kPanelStride, n_cols, columns);
      const Ahead ahead = ahead_of(w + (j + kTileCols) * desc.k + p, desc.k, desc.n - j - kTileCols);
      run_rows<float>(Output{args, row, j, n_cols, scratch.a_panel, kPanelStride, ahead}, row_end, columns, depth,
                      scratch.parked + (j - col) * kTileRows * lanes());
    }
  }
}

// Columns a task owns: long runs for the prefetch, yet several tasks for every worker.
int64_t few_rows_block(int64_t n) {
  return std::clamp<int64_t>(n / (8 * max_workers()) / kTileCols, 1, 16) * kTileCols;
}

template <class T>
void run_all(const GemmDesc& desc, const GemmArgs& args, const T* w, void* workspace) {
  const bool few_rows = args.m <= kFewRows;
  const int64_t block_cols = few_rows ? few_rows_block(desc.n) : kBlockCols;
  const int64_t col_blocks = (desc.n + block_cols - 1) / block_cols;
  const int64_t row_blocks = (args.m + kBlockRows - 1) / kBlockRows;
  const std::size_t worker_bytes = Scratch(nullptr).bytes;
  parallel_for(col_blocks * row_blocks, [&](int64_t task, int worker) {
    const int64_t row = task / col_blocks * kBlockRows, col = task % col_blocks * block_cols;
    const int64_t col_end = std::min(col + block_cols, desc.n);
    if (few_rows) return run_few_rows(desc, args, w, col, col_end);
    const Scratch scratch(static_cast<char*>(workspace) + static_cast<std::size_t>(worker) * worker_bytes);
    run_block(desc, args, w, row, std::min(row + kBlockRows, args.m), col, col_end, scratch);
  });
}

std::size_t ScratchBytes() { return Scratch(nullptr).bytes; }

void Run(const GemmDesc& desc, const GemmArgs& args, void* workspace) {
  with_dtype(desc.w_dtype, args.w, [&](const auto* w) { run_all(desc, args, w, workspace); });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(ScratchBytes);
HWY_EXPORT(Run);

std::size_t gemm_workspace_bytes(const GemmDesc& desc, int64_t m) {
  const std::size_t highway = HWY_DYNAMIC_DISPATCH(ScratchBytes)() * static_cast<std::size_t>(max_workers());
  const int64_t rounded_rows = desc.w_dtype == DType::f32 ? 0 : std::clamp<int64_t>(m, 0, kGemmRoundedRows);
  const std::size_t rounded = static_cast<std::size_t>(2 * rounded_rows * gemm_rounded_stride(desc));
  const std::size_t bytes = std::max(highway, rounded);
  return m <= kGemmDecodeRows ? bytes : std::max(bytes, gemm_onednn_workspace_bytes(desc));
}

void gemm_cpu(const GemmDesc& desc, const GemmArgs& args, void* workspace) {
  if (args.m <= 0 || desc.n <= 0) return;
  if (args.m > kGemmDecodeRows && gemm_onednn(desc, args, workspace)) return;
  HWY_DYNAMIC_DISPATCH(Run)(desc, args, workspace);
}

}  // namespace skv::kernels
#endif
