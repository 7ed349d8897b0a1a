// Block subspace iteration: products in cuBLASLt (g q in f32, all else in double, which the GPUs that this is for
// multiply as fast), Cholesky and the inverse of its factor by the kernels below, the small eigenproblem in cuSOLVER.
//
// Floor at m = 1,024, k = 192: 0.4 GFLOP of f32 a round and 0.2 of double a pass of Cholesky-QR, 10 and 5 us; four
// rounds and five passes are usual. At m = 3,072, k = 512: 9.7 and 3.2 GFLOP, 0.25 and 0.1 ms. The Cholesky
// factorisation takes one launch for every 32 columns and its inverse two for every doubling: latency, not work, is
// what they cost. The order of all sums is fixed.
#include <algorithm>
#include <utility>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/warp.cuh"
#include "kernels/common/hash_random.h"
#include "kernels/ops_cuda.h"
#include "kernels/subspace_basis/subspace_basis.h"
#include "kernels/subspace_basis/subspace_rounds.h"

namespace skv::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = cuda::kWarp;
constexpr int kWarps = kThreads / kLanes;
constexpr int kTile = static_cast<int>(kCholeskyTile);
constexpr int kTileElements = kTile * kTile;
constexpr int kPerLane = kTile / kWarps;  // elements of a tile of a thread: rows warp + i * kWarps, column lane
constexpr std::size_t kTileBytes = kTileElements * sizeof(double);
static_assert(kTile == kLanes);

__device__ __forceinline__ int lane_of() { return static_cast<int>(threadIdx.x) % kLanes; }
__device__ __forceinline__ int warp_of() { return static_cast<int>(threadIdx.x) / kLanes; }
__device__ __forceinline__ int64_t thread_of() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

// The largest of all threads' bits, to thread 0. scratch: kWarps words.
__device__ uint32_t block_max_bits(uint32_t bits, uint32_t* scratch) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    const uint32_t other = __shfl_xor_sync(cuda::kFullWarp, bits, offset);
    bits = bits > other ? bits : other;
  }
  if (lane_of() == 0) scratch[warp_of()] = bits;
  __syncthreads();
  for (int w = 0; threadIdx.x == 0 && w < kWarps; ++w) bits = bits > scratch[w] ? bits : scratch[w];
  return bits;
}

// parts = the largest bits of |g| in kPartElements elements.
__global__ void search_largest(const float* g, int64_t n, uint32_t* parts) {
  SKV_SHARED(shared);
  const int64_t first = int64_t{blockIdx.x} * kPartElements;
  const int64_t end = first + kPartElements < n ? first + kPartElements : n;
  uint32_t most = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += kThreads) {
    const uint32_t bits = __float_as_uint(g[i]) & 0x7fffffffu;
    most = most > bits ? most : bits;
  }
  most = block_max_bits(most, reinterpret_cast<uint32_t*>(shared));
  if (threadIdx.x == 0) parts[blockIdx.x] = most;
}

// One block.
__global__ void report_matrix(const float* g, int m, const uint32_t* parts, int64_t n_parts, SubspaceReport* report) {
  SKV_SHARED(shared);
  double trace = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < m; i += kThreads) trace += g[int64_t{i} * m + i];
  trace = cuda::block_sum(trace, reinterpret_cast<double*>(shared));
  uint32_t most = 0;
  for (int64_t i = threadIdx.x; i < n_parts; i += kThreads) most = most > parts[i] ? most : parts[i];
  most = block_max_bits(most, reinterpret_cast<uint32_t*>(shared));
  if (threadIdx.x != 0) return;
  report->trace = trace;
  report->largest_bits = most;
}

__global__ void multiply_parts(const double* y, const float* gq, int64_t n, double* parts) {
  SKV_SHARED(shared);
  const int64_t first = int64_t{blockIdx.x} * kPartElements;
  const int64_t end = first + kPartElements < n ? first + kPartElements : n;
  double sum = 0.0;
  for (int64_t i = first + threadIdx.x; i < end; i += kThreads) sum += y[i] * static_cast<double>(gq[i]);
  sum = cuda::block_sum(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block.
__global__ void report_sum(const double* parts, int64_t n_parts, SubspaceReport* report) {
  SKV_SHARED(shared);
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < n_parts; i += kThreads) sum += parts[i];
  sum = cuda::block_sum(sum, reinterpret_cast<double*>(shared));
  if (threadIdx.x == 0) report->sum = sum;
}

// One block.
__global__ void report_pass(const double* distances, const double* kept, int k, SubspaceReport* report) {
  SKV_SHARED(shared);
  double* most = reinterpret_cast<double*>(shared);
  double distance = 0.0, dependent = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < k; i += kThreads) {
    distance = fmax(distance, distances[i]);
    dependent += kept[i] == 0.0 ? 1.0 : 0.0;
  }
  dependent = cuda::block_sum(dependent, most);
  most[threadIdx.x] = distance;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 0; i < kThreads; ++i) distance = fmax(distance, most[i]);
  report->distance = distance;
  report->dependent = static_cast<int32_t>(dependent);
}

__global__ void fill_random(double* y, int64_t n) {
  const int64_t i = thread_of();
  if (i < n) y[i] = hash_uniform(0, static_cast<uint64_t>(i));
}

// Columns that depend on earlier ones become fixed pseudo-random ones of about unit length. A block a column.
__global__ void replace_dependent(double* y, int m, int k, const double* kept, uint64_t stream, double scale) {
  if (kept[blockIdx.x] != 0.0) return;
  for (int i = static_cast<int>(threadIdx.x); i < m; i += kThreads) {
    const int64_t at = int64_t{i} * k + blockIdx.x;
    y[at] = scale * hash_uniform(stream, static_cast<uint64_t>(at));
  }
}

__global__ void narrow(const double* y, double scale, int64_t n, float* q) {
  const int64_t i = thread_of();
  if (i < n) q[i] = static_cast<float>(y[i] * scale);
}

__global__ void widen(const float* gq, int64_t n, double* z) {
  const int64_t i = thread_of();
  if (i < n) z[i] = gq[i];
}

__global__ void shift_product(double* y, const float* gq, double shift, int64_t n) {
  const int64_t i = thread_of();
  if (i < n) y[i] = gq[i] - shift * y[i];
}

// scaled = D^-1 small D^-1 with ones on the diagonal, D = diag(norms); the identity beyond k. A block a row.
__global__ void scale_small(const double* small, int k, int ld, double* scaled, double* norms, double* distances) {
  SKV_SHARED(shared);
  double* most = reinterpret_cast<double*>(shared);
  const int i = static_cast<int>(blockIdx.x);
  const double norm = i < k ? sqrt(small[int64_t{i} * ld + i]) : 1.0;
  double distance = 0.0;
  for (int j = static_cast<int>(threadIdx.x); j < ld; j += kThreads) {
    double value = i == j ? 1.0 : 0.0;
    if (i < k && j < k && i != j) {
      const double x = small[int64_t{i} * ld + j], scale = norm * sqrt(small[int64_t{j} * ld + j]);
      value = scale > 0.0 ? x / scale : 0.0;
      distance = fmax(distance, fabs(x));
    } else if (i < k && i == j) {
      distance = fmax(distance, fabs(small[int64_t{i} * ld + i] - 1.0));
    }
    scaled[int64_t{i} * ld + j] = value;
  }
  most[threadIdx.x] = distance;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int t = 0; t < kThreads; ++t) distance = fmax(distance, most[t]);
  distances[i] = distance;
  norms[i] = norm;
}

__device__ __forceinline__ void load_tile(const double* matrix, int ld, int row, int column, double (&v)[kPerLane]) {
  const double* tile = matrix + (int64_t{row} * ld + column) * kTile;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) v[i] = tile[int64_t{warp_of() + i * kWarps} * ld + lane_of()];
}

__device__ __forceinline__ void store_tile(double* matrix, int ld, int row, int column, const double (&v)[kPerLane]) {
  double* tile = matrix + (int64_t{row} * ld + column) * kTile;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) tile[int64_t{warp_of() + i * kWarps} * ld + lane_of()] = v[i];
}

__device__ __forceinline__ void put_tile(double* tile, const double (&v)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) tile[(warp_of() + i * kWarps) * kTile + lane_of()] = v[i];
}

__device__ __forceinline__ void get_tile(const double* tile, double (&v)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) v[i] = tile[(warp_of() + i * kWarps) * kTile + lane_of()];
}

// sum += a b, or a^T b, of tiles in shared memory.
template <bool kTransposed>
__device__ __forceinline__ void add_product(const double* a, const double* b, double (&sum)[kPerLane]) {
#pragma unroll 8
  for (int l = 0; l < kTile; ++l) {
    const double x = b[l * kTile + lane_of()];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int row = warp_of() + i * kWarps;
      sum[i] += (kTransposed ? a[l * kTile + row] : a[row * kTile + l]) * x;
    }
  }
}

// One warp: d (upper triangle) becomes U with U^T U = d, zeros below; reciprocals those of its diagonal, or 0 for a
// row whose column depends on earlier ones: that row becomes a unit row and takes no part.
__device__ __forceinline__ void factor_tile(double* d, const double* norms, double* reciprocals) {
  const int c = lane_of();
  for (int i = 0; i < kTile; ++i) {
    const double pivot = d[i * kTile + i];
    const bool drop = !(pivot > kDependent) || !(norms[i] > 0.0);
    const double root = drop ? 1.0 : sqrt(pivot);
    const double above = d[i * kTile + c];
    __syncwarp();
    const double value = c < i ? 0.0 : c == i ? root : drop ? 0.0 : above / root;
    d[i * kTile + c] = value;
    if (c == i) reciprocals[i] = drop ? 0.0 : 1.0 / root;
    __syncwarp();
    for (int r = i + 1; r < kTile; ++r) {
      if (r <= c) d[r * kTile + c] -= d[i * kTile + r] * value;
    }
    __syncwarp();
  }
}

// One warp: t becomes U^-T t, a column a lane.
__device__ __forceinline__ void solve_tile(const double* u, const double* reciprocals, double* t) {
  const int c = lane_of();
  for (int i = 0; i < kTile; ++i) {
    const double x = t[i * kTile + c] * reciprocals[i];
    t[i * kTile + c] = x;
    for (int r = i + 1; r < kTile; ++r) t[r * kTile + c] -= u[i * kTile + r] * x;
  }
}

// One warp: t = U^-1, a column a lane.
__device__ __forceinline__ void invert_tile(const double* u, double* t) {
  const int c = lane_of();
  for (int i = 0; i < kTile; ++i) t[i * kTile + c] = i == c ? 1.0 : 0.0;
  for (int i = kTile - 1; i >= 0; --i) {
    const double x = t[i * kTile + c] / u[i * kTile + i];
    t[i * kTile + c] = x;
    for (int r = 0; r < i; ++r) t[r * kTile + c] -= u[r * kTile + i] * x;
  }
}

// Row p of tiles of the Cholesky factor, given those above it. Block x makes tile (p, p + x); each of them factors
// tile (p, p) for itself, which costs less than a launch between. Block 0 also inverts it, and says which columns are
// kept.
__global__ void cholesky_row(const double* scaled, const double* norms, int p, int ld, double* upper, double* inverse,
                             double* kept) {
  SKV_SHARED(shared);
  double* a = reinterpret_cast<double*>(shared);
  double* b = a + kTileElements;
  double* d = b + kTileElements;
  double* t = d + kTileElements;
  double* reciprocals = t + kTileElements;
  const int column = p + static_cast<int>(blockIdx.x);
  double diagonal[kPerLane] = {}, sum[kPerLane] = {}, next_a[kPerLane] = {}, next_b[kPerLane] = {};
  if (p > 0) {
    load_tile(upper, ld, 0, p, next_a);
    load_tile(upper, ld, 0, column, next_b);
  }
  for (int q = 0; q < p; ++q) {
    put_tile(a, next_a);
    put_tile(b, next_b);
    __syncthreads();
    if (q + 1 < p) {
      load_tile(upper, ld, q + 1, p, next_a);
      load_tile(upper, ld, q + 1, column, next_b);
    }
    add_product<true>(a, a, diagonal);
    add_product<true>(a, b, sum);
    __syncthreads();
  }
  load_tile(scaled, ld, p, p, next_a);
  load_tile(scaled, ld, p, column, next_b);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    next_a[i] -= diagonal[i];
    next_b[i] -= sum[i];
  }
  put_tile(d, next_a);
  put_tile(t, next_b);
  __syncthreads();
  if (warp_of() == 0) {
    factor_tile(d, norms + p * kTile, reciprocals);
    if (column > p)
      solve_tile(d, reciprocals, t);
    else
      invert_tile(d, t);
  }
  __syncthreads();
  get_tile(t, sum);
  if (column > p) {
    store_tile(upper, ld, p, column, sum);
    return;
  }
  get_tile(d, diagonal);
  store_tile(upper, ld, p, p, diagonal);
  store_tile(inverse, ld, p, p, sum);
  if (warp_of() == 0) {
    const int i = p * kTile + lane_of();
    kept[i] = reciprocals[lane_of()] == 0.0 ? 0.0 : 1.0 / norms[i];
  }
}

// Inverses of diagonal blocks of `half` tiles become inverses of blocks twice as large. With A, C the inverses of two
// neighbours and B the block of upper beside the first, the missing part is -A B C: first B C, then -A (B C). Block
// (x, y, z): tile (y, x) of the part of pair z.
template <bool kSecond>
__global__ void merge_inverses(const double* left, const double* right, int half, int tiles, int ld, double* out) {
  SKV_SHARED(shared);
  double* a = reinterpret_cast<double*>(shared);
  double* b = a + kTileElements;
  const int first = 2 * half * static_cast<int>(blockIdx.z), middle = first + half;
  const int row = first + static_cast<int>(blockIdx.y), column = middle + static_cast<int>(blockIdx.x);
  if (column >= tiles) return;
  const int begin = kSecond ? row : middle, end = kSecond ? middle : column + 1;
  double sum[kPerLane] = {}, next_a[kPerLane], next_b[kPerLane];
  load_tile(left, ld, row, begin, next_a);
  load_tile(right, ld, begin, column, next_b);
  for (int q = begin; q < end; ++q) {
    put_tile(a, next_a);
    put_tile(b, next_b);
    __syncthreads();
    if (q + 1 < end) {
      load_tile(left, ld, row, q + 1, next_a);
      load_tile(right, ld, q + 1, column, next_b);
    }
    add_product<false>(a, b, sum);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) sum[i] = kSecond ? -sum[i] : sum[i];
  store_tile(out, ld, row, column, sum);
}

// Rows of the inverse times 1 / norm: of columns as they are in y. A block a row.
__global__ void scale_rows(double* inverse, const double* kept, int ld) {
  const int64_t i = blockIdx.x;
  for (int j = static_cast<int>(threadIdx.x); j < ld; j += kThreads) inverse[i * ld + j] *= kept[i];
}

// a [n, n] becomes the mean of itself and its transpose.
__global__ void symmetrize(double* a, int n) {
  const int i = static_cast<int>(blockIdx.y), j = static_cast<int>(thread_of());
  if (j >= n || j <= i) return;
  const double mean = 0.5 * (a[int64_t{i} * n + j] + a[int64_t{j} * n + i]);
  a[int64_t{i} * n + j] = a[int64_t{j} * n + i] = mean;
}

__global__ void widen_symmetric(const float* g, int m, double* a) {
  const int64_t i = blockIdx.y, j = thread_of();
  if (j < m) a[i * m + j] = 0.5 * (static_cast<double>(g[i * m + j]) + static_cast<double>(g[j * m + i]));
}

// v[i, j] = vectors[i * row_stride + (r - 1 - j) * column_stride]; the values, which ascend, turned round likewise.
__global__ void store_leading(const double* vectors, int64_t row_stride, int64_t column_stride, const double* values,
                              double unscale, int m, int r, float* v, float* eigenvalues) {
  const int64_t at = thread_of();
  if (at < r) eigenvalues[at] = static_cast<float>(fmax(values[r - 1 - at] * unscale, 0.0));
  if (at >= int64_t{m} * r) return;
  const int64_t i = at / r, j = at % r;
  v[at] = static_cast<float>(vectors[i * row_stride + (r - 1 - j) * column_stride]);
}

unsigned blocks_of(int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }
unsigned count(int64_t n) { return static_cast<unsigned>(n); }

class Solver {
 public:
  Solver(cuda::Stream& stream, const SubspaceBasisArgs& args, const SubspaceCudaScratch& scratch, double scale)
      : stream_(stream), args_(args), s_(scratch), m_(args.m), k_(args.rank + kOversample), scale_(scale) {}

  bool solve(double trace) {
    cuda::launch(fill_random, blocks_of(elements()), kThreads, 0, stream_, s_.y, elements());
    iterate_subspace(*this, trace, m_ - k_);
    return stream_.ok() && rayleigh_ritz();
  }

  void multiply_g() {
    cuda::launch(narrow, blocks_of(elements()), kThreads, 0, stream_, s_.y, scale_, elements(), s_.q);
    cuda::MatrixProduct product;
    product.type = DType::f32;
    product.m = product.k = product.lda = m_;
    product.n = product.ldb = product.ldc = k_;
    product.a = args_.g;
    product.b = s_.q;
    product.c = s_.gq;
    cuda::matrix_product(stream_, product);
  }

  double captured_trace() {
    const int64_t parts = part_count(elements());
    cuda::launch(multiply_parts, count(parts), kThreads, kLanes * sizeof(double), stream_, s_.y, s_.gq, elements(),
                 s_.parts);
    cuda::launch(report_sum, 1, kThreads, kLanes * sizeof(double), stream_, s_.parts, parts, s_.report);
    return report().sum;
  }

  void advance(double shift, bool accurate) {
    cuda::launch(shift_product, blocks_of(elements()), kThreads, 0, stream_, s_.y, s_.gq, shift, elements());
    orthonormalize(accurate ? kAccuratePasses : 1);
  }

 private:
  int64_t elements() const { return m_ * k_; }
  int order() const { return static_cast<int>(k_); }
  int stride() const { return static_cast<int>(s_.ld); }

  // Zeros after a failure, which end all loops.
  SubspaceReport report() {
    SubspaceReport report{};
    stream_.download(&report, s_.report, sizeof(report));
    return stream_.ok() ? report : SubspaceReport{};
  }

  // As on the CPU: the first pass copes with a condition number of 1e6, the second makes the result accurate.
  void orthonormalize(int max_passes) {
    for (int pass = 0; pass < max_passes && stream_.ok(); ++pass) {
      cuda::double_product(stream_, {true, false, k_, k_, m_, s_.y, k_, s_.y, k_, s_.small, s_.ld});
      cuda::launch(scale_small, count(s_.ld), kThreads, kThreads * sizeof(double), stream_, s_.small, order(),
                   stride(), s_.scaled, s_.norms, s_.distances);
      factor();
      cuda::double_product(stream_, {false, false, m_, k_, k_, s_.y, k_, s_.inverse, s_.ld, s_.z, k_});
      std::swap(s_.y, s_.z);
      cuda::launch(replace_dependent, count(k_), kThreads, 0, stream_, s_.y, args_.m, order(), s_.kept,
                   static_cast<uint64_t>(pass + 1), std::sqrt(3.0 / static_cast<double>(m_)));
      if (max_passes == 1) return;
      cuda::launch(report_pass, 1, kThreads, kThreads * sizeof(double), stream_, s_.distances, s_.kept, order(),
                   s_.report);
      const SubspaceReport seen = report();
      if (seen.dependent == 0 && seen.distance < kAccurate) return;
    }
  }

  // inverse = D^-1 U^-1 of scaled = U^T U.
  void factor() {
    const int tiles = stride() / kTile;
    stream_.fill(s_.inverse, 0, s_.ld * s_.ld * static_cast<int64_t>(sizeof(double)));
    for (int p = 0; p < tiles; ++p) {
      cuda::launch(cholesky_row, count(tiles - p), kThreads, 4 * kTileBytes + kTile * sizeof(double), stream_,
                   s_.scaled, s_.norms, p, stride(), s_.upper, s_.inverse, s_.kept);
    }
    for (int half = 1; half < tiles; half *= 2) {
      const dim3 grid(count(half), count(half), count((tiles + half - 1) / (2 * half)));
      cuda::launch(merge_inverses<false>, grid, kThreads, 2 * kTileBytes, stream_, s_.upper, s_.inverse, half, tiles,
                   stride(), s_.half);
      cuda::launch(merge_inverses<true>, grid, kThreads, 2 * kTileBytes, stream_, s_.inverse, s_.half, half, tiles,
                   stride(), s_.inverse);
    }
    cuda::launch(scale_rows, count(s_.ld), kThreads, 0, stream_, s_.inverse, s_.kept, stride());
  }

  // Eigenvectors of y^T g y, turned back by y: the best basis and eigenvalues inside its span.
  bool rayleigh_ritz() {
    const int64_t r = args_.rank;
    cuda::launch(widen, blocks_of(elements()), kThreads, 0, stream_, s_.gq, elements(), s_.z);
    cuda::double_product(stream_, {true, false, k_, k_, m_, s_.y, k_, s_.z, k_, s_.small, k_});
    cuda::launch(symmetrize, dim3(blocks_of(k_), count(k_)), kThreads, 0, stream_, s_.small, order());
    if (!cuda::symmetric_eigen(stream_, s_.small, order(), s_.values)) return false;
    const int64_t skipped = k_ - r;  // rows ascend
    cuda::double_product(stream_, {false, true, m_, r, k_, s_.y, k_, s_.small + skipped * k_, k_, s_.z, r});
    cuda::launch(store_leading, blocks_of(m_ * r), kThreads, 0, stream_, s_.z, r, int64_t{1}, s_.values + skipped,
                 1.0 / scale_, args_.m, args_.rank, args_.v, args_.eigenvalues);
    return stream_.ok();
  }

  cuda::Stream& stream_;
  const SubspaceBasisArgs& args_;
  SubspaceCudaScratch s_;
  int64_t m_, k_;  // k = rank + kOversample columns
  double scale_;
};

SubspaceReport examine(cuda::Stream& stream, const SubspaceBasisArgs& args, double* parts, SubspaceReport* report) {
  const int64_t n = int64_t{args.m} * args.m;
  auto* bits = reinterpret_cast<uint32_t*>(parts);
  cuda::launch(search_largest, count(part_count(n)), kThreads, kWarps * sizeof(uint32_t), stream, args.g, n, bits);
  cuda::launch(report_matrix, 1, kThreads, kLanes * sizeof(double), stream, args.g, args.m, bits, part_count(n),
               report);
  SubspaceReport seen{};
  stream.download(&seen, report, sizeof(seen));
  return seen;
}

bool full_problem(cuda::Stream& stream, const SubspaceBasisArgs& args, const FullCudaScratch& s) {
  const int64_t m = args.m, r = args.rank;
  cuda::launch(widen_symmetric, dim3(blocks_of(m), count(m)), kThreads, 0, stream, args.g, args.m, s.a);
  if (!cuda::symmetric_eigen(stream, s.a, args.m, s.values)) return false;
  const int64_t skipped = m - r;
  cuda::launch(store_leading, blocks_of(m * r), kThreads, 0, stream, s.a + skipped * m, int64_t{1}, m,
               s.values + skipped, 1.0, args.m, args.rank, args.v, args.eigenvalues);
  return stream.ok();
}

}  // namespace

bool subspace_basis_cuda(cuda::Stream& stream, const SubspaceBasisArgs& args, void* workspace) {
  WorkspaceCursor cursor(workspace);
  if (uses_full(args.m, args.rank, args.method)) {
    const FullCudaScratch s = full_cuda_scratch(cursor, args.m);
    const SubspaceReport seen = examine(stream, args, s.parts, s.report);
    return stream.ok() && seen.largest_bits < kInfinityBits && full_problem(stream, args, s);
  }
  const SubspaceCudaScratch s = subspace_cuda_scratch(cursor, args.m, args.rank + kOversample);
  const SubspaceReport seen = examine(stream, args, s.parts, s.report);
  if (!stream.ok() || seen.largest_bits >= kInfinityBits) return false;
  const double scale = range_scale(seen.largest_bits);
  return Solver(stream, args, s, scale).solve(seen.trace * scale);
}

}  // namespace skv::kernels
