// Once a segment and layer. Floors at m = 1,024, r = 160: store 26 M double multiply-adds and 1 MB, load 1 MB, prior
// the same again and 0.34 GFLOP of f32: a few microseconds each, so the kernels below are plain tiles of 32 x 32.
#include <algorithm>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/ptx.cuh"
#include "kernels/common/cuda/warp.cuh"
#include "kernels/key_basis/key_basis.h"
#include "kernels/key_basis/key_basis_cuda.h"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

constexpr int kTile = 32;
constexpr int kPitch = kTile + 1;  // a column of a tile lies in 32 banks
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int kPerLane = kTile / kWarps;
constexpr std::size_t kSharedBytes = 2 * kTile * kPitch * sizeof(float);

struct Shape {
  int m, r, head_dim;
  __device__ int64_t stored_at(int i, int j) const {  // of P[i, j]
    return (int64_t{i / head_dim} * r + j) * head_dim + i % head_dim;
  }
};

// Elements of bf16 or f32.
template <class T>
__device__ __forceinline__ float load(const void* p, int64_t i) {
  if constexpr (sizeof(T) == 4)
    return static_cast<const float*>(p)[i];
  else
    return bf16_to_f32(static_cast<const uint16_t*>(p)[i]);
}

template <class T>
__device__ __forceinline__ void store(void* p, int64_t i, float v) {
  if constexpr (sizeof(T) == 4)
    static_cast<float*>(p)[i] = v;
  else
    static_cast<uint16_t*>(p)[i] = f32_to_bf16(v);
}

// sum[k] = row `lane` of a times column warp + k * kWarps of b, over r terms: lanes are rows, so that stores down a
// column of the result are contiguous. read_a fills row `at` of the tile of a, read_b row `at` of that of b, which is
// kept turned over; both give zeros outside.
template <class ReadA, class ReadB>
__device__ __forceinline__ void tile_product(int r, const ReadA& read_a, const ReadB& read_b, float* shared,
                                             double (&sum)[kPerLane]) {
  float* a = shared;                   // [row, l]
  float* b = shared + kTile * kPitch;  // [column, l]
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp, warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  for (int l0 = 0; l0 < r; l0 += kTile) {
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) {
      const int at = warp + k * kWarps;
      read_a(at, l0, lane, a);
      read_b(at, l0, lane, b);
    }
    __syncthreads();
    for (int l = 0; l < kTile; ++l) {
      const double x = a[lane * kPitch + l];
#pragma unroll
      for (int k = 0; k < kPerLane; ++k) sum[k] += x * b[(warp + k * kWarps) * kPitch + l];
    }
    __syncthreads();
  }
}

// B = (V Q)^T by head.
template <class T>
__global__ void store_vectors(Shape shape, const float* vectors, const float* rotation, void* basis) {
  SKV_SHARED(shared);
  const int r = shape.r;
  const int i0 = static_cast<int>(blockIdx.x) * kTile, j0 = static_cast<int>(blockIdx.y) * kTile;
  double sum[kPerLane] = {};
  tile_product(
      r,
      [&](int at, int l0, int lane, float* a) {
        const bool in = i0 + at < shape.m && l0 + lane < r;
        a[at * kPitch + lane] = in ? vectors[int64_t{i0 + at} * r + l0 + lane] : 0.0f;
      },
      [&](int at, int l0, int lane, float* b) {
        const bool in = l0 + at < r && j0 + lane < r;
        b[lane * kPitch + at] = in ? rotation[int64_t{l0 + at} * r + j0 + lane] : 0.0f;
      },
      reinterpret_cast<float*>(shared), sum);
  const int i = i0 + static_cast<int>(threadIdx.x) % cuda::kWarp;
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) {
    const int j = j0 + static_cast<int>(threadIdx.x) / cuda::kWarp + k * kWarps;
    if (i < shape.m && j < r) store<T>(basis, shape.stored_at(i, j), static_cast<float>(sum[k]));
  }
}

// mu and eigenvalues.
template <class T>
__global__ void store_rest(Shape shape, BasisStoreArgs args, float* eigenvalues) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < shape.r) eigenvalues[i] = args.eigenvalues[i] * args.eigenvalue_scale;
  if (i >= shape.m) return;
  const bool centered = args.center != nullptr && args.sum != nullptr;
  const double mu = centered ? args.center[i] + args.sum[i] / static_cast<double>(args.n) : 0.0;
  store<T>(args.basis, int64_t{shape.m} * shape.r + i, static_cast<float>(mu));
}

// p [m, r] from B: tiles turned over in shared memory. The blocks of the first column of tiles widen mu too.
template <class T>
__global__ void load_basis(Shape shape, const void* basis, float* p, float* mu) {
  SKV_SHARED(shared);
  float* tile = reinterpret_cast<float*>(shared);  // [j, i]
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp, warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  const int i0 = static_cast<int>(blockIdx.x) * kTile, j0 = static_cast<int>(blockIdx.y) * kTile;
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) {
    const int j = warp + k * kWarps;
    if (i0 + lane < shape.m && j0 + j < shape.r)
      tile[j * kPitch + lane] = load<T>(basis, shape.stored_at(i0 + lane, j0 + j));
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) {
    const int i = warp + k * kWarps;
    if (i0 + i < shape.m && j0 + lane < shape.r) p[int64_t{i0 + i} * shape.r + j0 + lane] = tile[lane * kPitch + i];
  }
  if (blockIdx.y == 0 && warp == 0 && i0 + lane < shape.m)
    mu[i0 + lane] = load<T>(basis, int64_t{shape.m} * shape.r + i0 + lane);
}

// vectors = P Q^T from the stored P; weighted = vectors diag(eigenvalues) weight. Padding columns are not written.
template <class T>
__global__ void prior_vectors(Shape shape, const void* basis, const float* rotation, const float* eigenvalues,
                              float weight, GramPriorCudaScratch s) {
  SKV_SHARED(shared);
  const int r = shape.r;
  const int i0 = static_cast<int>(blockIdx.x) * kTile, j0 = static_cast<int>(blockIdx.y) * kTile;
  double sum[kPerLane] = {};
  // Lanes are columns here, so that rows of the result are contiguous: V^T = Q P^T.
  tile_product(
      r,
      [&](int at, int l0, int lane, float* q) {
        const bool in = j0 + at < r && l0 + lane < r;
        q[at * kPitch + lane] = in ? rotation[int64_t{j0 + at} * r + l0 + lane] : 0.0f;
      },
      [&](int at, int l0, int lane, float* p) {
        const bool in = l0 + at < r && i0 + lane < shape.m;
        p[lane * kPitch + at] = in ? load<T>(basis, shape.stored_at(i0 + lane, l0 + at)) : 0.0f;
      },
      reinterpret_cast<float*>(shared), sum);
  const int j = j0 + static_cast<int>(threadIdx.x) % cuda::kWarp;
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) {
    const int i = i0 + static_cast<int>(threadIdx.x) / cuda::kWarp + k * kWarps;
    if (i >= shape.m || j >= r) continue;
    const float v = static_cast<float>(sum[k]);
    s.vectors[i * s.ld + j] = v;
    s.weighted[i * s.ld + j] = v * eigenvalues[j] * weight;
  }
}

Shape shape_of(const KeyBasisDesc& desc) { return {desc.width(), desc.rank, desc.head_dim}; }

unsigned blocks_of(int64_t n, int64_t size) { return static_cast<unsigned>((n + size - 1) / size); }

dim3 tiles_of(const KeyBasisDesc& desc) { return {blocks_of(desc.width(), kTile), blocks_of(desc.rank, kTile), 1}; }

template <class T>
void store_basis(cuda::Stream& stream, const KeyBasisDesc& desc, const BasisStoreArgs& args) {
  const Shape shape = shape_of(desc);
  cuda::launch(store_vectors<T>, tiles_of(desc), kThreads, kSharedBytes, stream, shape, args.vectors, args.rotation,
               args.basis);
  cuda::launch(store_rest<T>, blocks_of(std::max(shape.m, shape.r), kThreads), kThreads, 0, stream, shape, args,
               static_cast<float*>(offset_bytes(args.basis, desc.eigenvalues_at())));
}

}  // namespace

void basis_store_cuda(cuda::Stream& stream, const KeyBasisDesc& desc, const BasisStoreArgs& args) {
  if (desc.dtype == DType::bf16)
    store_basis<uint16_t>(stream, desc, args);
  else
    store_basis<float>(stream, desc, args);
}

void basis_load_cuda(cuda::Stream& stream, const KeyBasisDesc& desc, const BasisLoadArgs& args) {
  const auto kernel = desc.dtype == DType::bf16 ? load_basis<uint16_t> : load_basis<float>;
  cuda::launch(kernel, tiles_of(desc), kThreads, kTile * kPitch * sizeof(float), stream, shape_of(desc), args.basis,
               args.p, args.mu);
}

void gram_prior_cuda(cuda::Stream& stream, const KeyBasisDesc& desc, const GramPriorArgs& args, void* workspace) {
  WorkspaceCursor cursor(workspace);
  const GramPriorCudaScratch s = gram_prior_cuda_scratch(cursor, desc);
  const auto kernel = desc.dtype == DType::bf16 ? prior_vectors<uint16_t> : prior_vectors<float>;
  cuda::launch(kernel, tiles_of(desc), kThreads, kSharedBytes, stream, shape_of(desc), args.basis, args.rotation,
               static_cast<const float*>(offset_bytes(args.basis, desc.eigenvalues_at())), args.weight, s);
  cuda::MatrixProduct product;
  product.type = DType::f32;
  product.transpose_b = true;
  product.m = product.n = product.ldc = desc.width();
  product.k = desc.rank;
  product.a = s.weighted;
  product.b = s.vectors;
  product.lda = product.ldb = s.ld;
  product.c = args.gram;
  product.beta = 1.0f;
  cuda::matrix_product(stream, product);
}

}  // namespace skv::kernels
