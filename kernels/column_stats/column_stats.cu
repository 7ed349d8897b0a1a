// column_mean and column_energy on a GPU: a block sums eight neighbouring columns over all rows.
//
// Floor: 4 bytes and one double addition an element: bandwidth-bound where there are columns for all SMs (1,024 make
// 128 blocks); neighbouring blocks read the other sectors of the same lines at about the same time. Two threads cover
// a row's 32 bytes, 256 rows are under way at once, and each thread keeps four rows in flight. The order of additions
// follows from the shape alone.
#include "kernels/column_stats/column_stats.h"

#include "kernels/common/cuda/launch.h"

namespace skv::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kColumns = 8;                       // of one block
constexpr int kRows = kThreads / (kColumns / 4);  // at once
constexpr int kInFlight = 4;                      // rows of one thread
constexpr std::size_t kSharedBytes = sizeof(double) * kThreads * 4;

// Four neighbouring columns of a row; those past `left` are zeros.
__device__ __forceinline__ float4 load4(const float* x, int64_t left, bool aligned) {
  if (aligned) return *reinterpret_cast<const float4*>(x);
  return make_float4(x[0], left > 1 ? x[1] : 0.0f, left > 2 ? x[2] : 0.0f, left > 3 ? x[3] : 0.0f);
}

struct Itself {
  __device__ __forceinline__ double operator()(float x) const { return static_cast<double>(x); }
};

// The f32 square, 0 where that is not finite.
struct FiniteSquare {
  __device__ __forceinline__ double operator()(float x) const {
    const float square = x * x;
    return square < INFINITY ? static_cast<double>(square) : 0.0;
  }
};

// sum[j] += term(column j) over this thread's rows: threadIdx.x / 2, and every kRows-th after it.
template <class Term>
__device__ __forceinline__ void add_rows(const Term& term, const float* x, int64_t n, int64_t stride, int64_t left,
                                         bool aligned, double (&sum)[4]) {
  if (left <= 0) return;
  for (int64_t t = threadIdx.x / 2; t < n; t += int64_t{kInFlight} * kRows) {
    float4 v[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t row = t + int64_t{i} * kRows;
      v[i] = row < n ? load4(x + row * stride, left, aligned) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      sum[0] += term(v[i].x);
      sum[1] += term(v[i].y);
      sum[2] += term(v[i].z);
      sum[3] += term(v[i].w);
    }
  }
}

// The block's sum of column threadIdx.x % kColumns. parts: [kThreads / 2][kColumns].
__device__ __forceinline__ double column_sum(const double (&sum)[4], double* parts) {
  const int row = static_cast<int>(threadIdx.x) / 2, side = static_cast<int>(threadIdx.x) % 2;
#pragma unroll
  for (int j = 0; j < 4; ++j) parts[row * kColumns + side * 4 + j] = sum[j];
  for (int rows = kRows / 2; rows > 0; rows /= 2) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < rows * kColumns; i += kThreads) {
      parts[i] += parts[i + rows * kColumns];
    }
  }
  __syncthreads();
  return parts[threadIdx.x % kColumns];
}

__global__ void __launch_bounds__(kThreads) column_mean_kernel(ColumnMeanArgs args, bool aligned) {
  SKV_SHARED(shared);
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x % 2 * 4;
  double sum[4] = {};
  add_rows(Itself(), args.x + column, args.n, args.m, args.m - column, aligned, sum);
  const double total = column_sum(sum, reinterpret_cast<double*>(shared));
  const int64_t own = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  if (threadIdx.x < kColumns && own < args.m) {
    args.mean[own] = args.n > 0 ? static_cast<float>(total / static_cast<double>(args.n)) : 0.0f;
  }
}

// Grid: column blocks of a head, groups of heads.
__global__ void __launch_bounds__(kThreads) column_energy_kernel(ColumnEnergyArgs args, bool aligned) {
  SKV_SHARED(shared);
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x % 2 * 4;
  const int64_t stride = int64_t{args.heads} * args.head_dim;
  double sum[4] = {};
  for (int h = 0; h < args.group; ++h) {
    const int64_t head = int64_t{blockIdx.y} * args.group + h;
    add_rows(FiniteSquare(), args.x + head * args.head_dim + column, args.n, stride, args.head_dim - column, aligned,
             sum);
  }
  const double total = column_sum(sum, reinterpret_cast<double*>(shared));
  const int64_t own = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  if (threadIdx.x < kColumns && own < args.head_dim) args.energy[int64_t{blockIdx.y} * args.head_dim + own] += total;
}

bool in_fours(const float* x, int64_t width) { return width % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0; }

unsigned column_blocks(int64_t columns) { return static_cast<unsigned>((columns + kColumns - 1) / kColumns); }

}  // namespace

void column_mean_cuda(cuda::Stream& stream, const ColumnMeanArgs& args) {
  cuda::launch(&column_mean_kernel, dim3(column_blocks(args.m)), dim3(kThreads), kSharedBytes, stream, args,
               in_fours(args.x, args.m));
}

void column_energy_cuda(cuda::Stream& stream, const ColumnEnergyArgs& args) {
  if (args.n <= 0) return;
  const dim3 grid(column_blocks(args.head_dim), static_cast<unsigned>(args.heads / args.group));
  cuda::launch(&column_energy_kernel, grid, dim3(kThreads), kSharedBytes, stream, args,
               in_fours(args.x, args.head_dim));
}

}  // namespace skv::kernels
