// Floor per 4,096 rows at m = 1,024: 25 MB read and written to centre and narrow (8 us at 3 TB/s), 8.6 GFLOP of bf16
// products (about 15 us). The product's sums are the library's; everything else is added in a fixed order.
#include <algorithm>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/ptx.cuh"
#include "kernels/common/cuda/warp.cuh"
#include "kernels/gram/gram.h"
#include "kernels/gram/gram_cuda.h"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

constexpr int kLanes = cuda::kWarp;
constexpr int kWarps = 8;
constexpr int kColumnsPerLane = 4;
constexpr int kBlockColumns = kLanes * kColumnsPerLane;
constexpr int kRowsPerWarp = static_cast<int>(kGramSumRows) / kWarps;
constexpr int kTile = 32;

// out = bf16(x - 1 c^T) and, before rounding, the sums of kGramSumRows rows of each column.
__global__ void center_rows(const float* x, int64_t ldx, const float* center, int64_t n, int m, uint16_t* out,
                            int64_t ld, double* partial) {
  SKV_SHARED(shared);
  double* sums = reinterpret_cast<double*>(shared);  // [kWarps, kBlockColumns]
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t first = int64_t{blockIdx.y} * kGramSumRows + warp * kRowsPerWarp;
#pragma unroll
  for (int i = 0; i < kColumnsPerLane; ++i) {
    const int slot = i * kLanes + lane;
    const int column = static_cast<int>(blockIdx.x) * kBlockColumns + slot;
    double total = 0.0;
    if (column < m) {
      const float c = center[column];
      float v[kRowsPerWarp];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) v[r] = first + r < n ? x[(first + r) * ldx + column] : c;
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) {
        const float d = v[r] - c;
        total += first + r < n ? static_cast<double>(d) : 0.0;
        if (first + r < n) out[(first + r) * ld + column] = f32_to_bf16(d);
      }
    }
    sums[warp * kBlockColumns + slot] = total;
  }
  __syncthreads();
  const int column = static_cast<int>(blockIdx.x) * kBlockColumns + static_cast<int>(threadIdx.x);
  if (static_cast<int>(threadIdx.x) >= kBlockColumns || column >= m) return;
  double total = 0.0;
  for (int w = 0; w < kWarps; ++w) total += sums[w * kBlockColumns + static_cast<int>(threadIdx.x)];
  partial[int64_t{blockIdx.y} * m + column] = total;
}

__global__ void add_sums(const double* partial, int parts, int m, double* sum) {
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (column >= m) return;
  double total = 0.0;
  for (int p = 0; p < parts; ++p) total += partial[int64_t{p} * m + column];
  sum[column] += total;
}

// The lower triangle becomes the upper one's mirror image: whatever order a library sums in, g stays symmetric.
__global__ void mirror(float* g, int m) {
  if (blockIdx.x < blockIdx.y) return;
  SKV_SHARED(shared);
  float* tile = reinterpret_cast<float*>(shared);  // [kTile, kTile + 1]
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int row0 = static_cast<int>(blockIdx.y) * kTile, column0 = static_cast<int>(blockIdx.x) * kTile;
  for (int r = warp; r < kTile; r += kWarps) {
    const int row = row0 + r, column = column0 + lane;
    if (row < m && column < m) tile[r * (kTile + 1) + lane] = g[int64_t{row} * m + column];
  }
  __syncthreads();
  for (int r = warp; r < kTile; r += kWarps) {
    const int row = column0 + r, column = row0 + lane;
    if (row < m && column < row) g[int64_t{row} * m + column] = tile[lane * (kTile + 1) + r];
  }
}

__global__ void center_gram(float* g, const double* sum, double scale, int m) {
  const int64_t i = blockIdx.y;
  const int j = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (j < m) g[i * m + j] = static_cast<float>(g[i * m + j] - sum[i] * sum[j] * scale);
}

unsigned blocks_of(int64_t n, int64_t size) { return static_cast<unsigned>((n + size - 1) / size); }

}  // namespace

void gram_cuda(cuda::Stream& stream, const GramArgs& args, void* workspace) {
  if (args.n <= 0 || args.m <= 0) return;
  WorkspaceCursor cursor(workspace);
  const GramCudaScratch s = gram_cuda_scratch(cursor, args.n, args.m);
  constexpr int kThreads = kWarps * kLanes;
  for (int64_t t = 0; t < args.n; t += kGramRows) {
    const int64_t rows = std::min(kGramRows, args.n - t);
    const dim3 grid(blocks_of(args.m, kBlockColumns), blocks_of(rows, kGramSumRows));
    cuda::launch(center_rows, grid, kThreads, kWarps * kBlockColumns * sizeof(double), stream, args.x + t * args.ldx,
                 args.ldx, args.center, rows, args.m, s.centered, s.ld, s.partial);
    cuda::launch(add_sums, blocks_of(args.m, kThreads), kThreads, 0, stream, s.partial, static_cast<int>(grid.y),
                 args.m, args.sum);
    cuda::MatrixProduct product;
    product.transpose_a = true;
    product.m = product.n = product.ldc = args.m;
    product.k = rows;
    product.a = product.b = s.centered;
    product.lda = product.ldb = s.ld;
    product.c = args.g;
    product.beta = 1.0f;
    cuda::matrix_product(stream, product);
  }
  const unsigned tiles = blocks_of(args.m, kTile);
  cuda::launch(mirror, dim3(tiles, tiles), kThreads, kTile * (kTile + 1) * sizeof(float), stream, args.g, args.m);
}

void gram_center_cuda(cuda::Stream& stream, float* g, const double* sum, int64_t n, int32_t m) {
  if (n <= 0 || m <= 0) return;
  constexpr int kThreads = 256;
  cuda::launch(center_gram, dim3(blocks_of(m, kThreads), static_cast<unsigned>(m)), kThreads, 0, stream, g, sum,
               1.0 / static_cast<double>(n), m);
}

}  // namespace skv::kernels
