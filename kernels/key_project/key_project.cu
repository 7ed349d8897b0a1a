// Floor per 4,096 rows at m = 1,024, r = 160: 2.7 GFLOP of f32 products (60 us at 45 TFLOP/s), 16 MB of x, and 67 MB
// to and from the centred keys, which stay in a 50 MB L2 for the most part (22 us at 3 TB/s). Coordinates are coded a
// warp a row; energies and residuals are summed a warp a chunk and head, in a fixed order.
#include <algorithm>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/row_codec.cuh"
#include "kernels/common/cuda/warp.cuh"
#include "kernels/key_project/key_project.h"
#include "kernels/key_project/key_project_cuda.h"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;

__device__ __forceinline__ int lane_of() { return static_cast<int>(threadIdx.x) % cuda::kWarp; }
__device__ __forceinline__ int64_t warp_of() {
  return int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / cuda::kWarp;
}

template <class T>
__device__ __forceinline__ float widened(T v) {
  if constexpr (sizeof(T) == 4)
    return v;
  else
    return bf16_to_f32(v);
}

template <class T>
__device__ __forceinline__ T narrowed(float v) {
  if constexpr (sizeof(T) == 4)
    return v;
  else
    return f32_to_bf16(v);
}

struct Shape {
  int kv_heads, head_dim, rank, chunk;
  __host__ __device__ int m() const { return kv_heads * head_dim; }
};

// out [r, m] = b, stored by head.
template <class T>
__global__ void widen_b(Shape shape, const T* b, float* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int m = shape.m();
  if (i >= int64_t{shape.rank} * m) return;
  const int row = static_cast<int>(i / m), column = static_cast<int>(i % m), head = column / shape.head_dim;
  out[i] = widened(b[(int64_t{head} * shape.rank + row) * shape.head_dim + column % shape.head_dim]);
}

// squares[chunk, head] = ||rows||^2 over its columns; with mu, rows = x - mu, stored; without, rows = x as it is.
template <bool kCenter>
__global__ void sum_squares(Shape shape, const float* x, const float* mu, int64_t chunks, float* rows,
                            float* squares) {
  const int64_t item = warp_of();
  if (item >= chunks * shape.kv_heads) return;
  constexpr int kAhead = 4;
  const int64_t m = shape.m();
  const int64_t begin = item / shape.kv_heads * shape.chunk * m + item % shape.kv_heads * shape.head_dim;
  const int column0 = static_cast<int>(item % shape.kv_heads) * shape.head_dim;
  float sum = 0.0f;
  for (int d = lane_of(); d < shape.head_dim; d += cuda::kWarp) {
    const float center = kCenter ? mu[column0 + d] : 0.0f;
    for (int t = 0; t < shape.chunk; t += kAhead) {
      float v[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) v[i] = t + i < shape.chunk ? x[begin + (t + i) * m + d] : center;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const float c = kCenter ? v[i] - center : v[i];
        sum = t + i < shape.chunk ? fmaf(c, c, sum) : sum;
        if (kCenter && t + i < shape.chunk) rows[begin + (t + i) * m + d] = c;
      }
    }
  }
  sum = cuda::warp_sum(sum);
  if (lane_of() == 0) squares[item] = sum;
}

// A row of coordinates into its block, and what was stored back into a: the residual is that of the stored keys.
template <class T>
__global__ void code_rows(BlockFormat format, PagedRows pages, int64_t first_chunk, int64_t n, float* a, int64_t ld) {
  const int64_t row = warp_of();
  if (row >= n) return;
  const int t = static_cast<int>(row % format.chunk), width = format.width;
  void* block = pages.row(first_chunk + row / format.chunk);
  float* from = a + row * ld;
  if (format.codec == BlockCodec::raw) {
    T* to = static_cast<T*>(block) + int64_t{t} * width;
    for (int j = lane_of(); j < width; j += cuda::kWarp) {
      const T v = narrowed<T>(from[j]);
      to[j] = v;
      from[j] = widened(v);
    }
    return;
  }
  int8_t* codes = static_cast<int8_t*>(block) + int64_t{t} * width;
  const uint16_t scale = cuda::encode_int8_row(from, width, codes);
  __syncwarp();  // codes are read, and a is overwritten, by other lanes
  cuda::decode_int8_row(codes, scale, width, from);
  auto* scales = static_cast<unsigned char*>(block) + format.scales_at();
  if (lane_of() < 2) scales[2 * t + lane_of()] = static_cast<unsigned char>(scale >> (8 * lane_of()));
  if (t > 0) return;
  const int64_t used = format.scales_at() + 2 * format.chunk;  // padding, by the first row's warp
  for (int64_t i = used + lane_of(); i < format.block_bytes(); i += cuda::kWarp) {
    static_cast<unsigned char*>(block)[i] = 0;
  }
}

unsigned blocks_of(int64_t n, int64_t size) { return static_cast<unsigned>((n + size - 1) / size); }

template <class T>
void project_block(cuda::Stream& stream, const KeyProjectDesc& desc, const KeyProjectArgs& args,
                   const PagedRows& pages, const KeyProjectCudaScratch& s, int64_t begin, int64_t n) {
  const Shape shape{desc.kv_heads, desc.head_dim, desc.rank, desc.chunk};
  const int64_t m = shape.m(), r = desc.rank, first = begin / desc.chunk, chunks = n / desc.chunk;
  const int64_t cells = chunks * desc.kv_heads, rows = std::max(n, kProjectLeastRows);
  cuda::launch(sum_squares<true>, blocks_of(cells, kWarps), kThreads, 0, stream, shape, args.x + begin * m, args.mu,
               chunks, s.centered, args.energy + first * desc.kv_heads);
  cuda::MatrixProduct product;
  product.type = DType::f32;
  product.m = rows;
  product.n = r;
  product.k = product.lda = m;
  product.a = s.centered;
  product.b = args.p;
  product.ldb = r;
  product.c = s.a;
  product.ldc = s.ld;
  cuda::matrix_product(stream, product);
  cuda::launch(code_rows<T>, blocks_of(n, kWarps), kThreads, 0, stream, desc.a_format(), pages,
               args.first_chunk + first, n, s.a, s.ld);
  product.n = product.ldb = product.ldc = m;
  product.k = r;
  product.a = s.a;
  product.lda = s.ld;
  product.b = s.b;
  product.c = s.centered;
  product.alpha = -1.0f;
  product.beta = 1.0f;
  cuda::matrix_product(stream, product);
  cuda::launch(sum_squares<false>, blocks_of(cells, kWarps), kThreads, 0, stream, shape,
               static_cast<const float*>(s.centered), nullptr, chunks, nullptr,
               args.residual + first * desc.kv_heads);
}

template <class T>
void project(cuda::Stream& stream, const KeyProjectDesc& desc, const KeyProjectArgs& args, void* workspace) {
  cuda::Lists lists(stream);
  PagedRows pages = args.a;
  lists.localize(pages);
  WorkspaceCursor cursor(workspace);
  const KeyProjectCudaScratch s = key_project_cuda_scratch(cursor, desc, args.n);
  const Shape shape{desc.kv_heads, desc.head_dim, desc.rank, desc.chunk};
  cuda::launch(widen_b<T>, blocks_of(int64_t{desc.rank} * shape.m(), kThreads), kThreads, 0, stream, shape,
               static_cast<const T*>(args.b), s.b);
  for (int64_t begin = 0; begin < args.n; begin += s.block)
    project_block<T>(stream, desc, args, pages, s, begin, std::min(s.block, args.n - begin));
}

}  // namespace

void key_project_cuda(cuda::Stream& stream, const KeyProjectDesc& desc, const KeyProjectArgs& args, void* workspace) {
  if (args.n <= 0) return;
  if (desc.dtype == DType::bf16)
    project<uint16_t>(stream, desc, args, workspace);
  else
    project<float>(stream, desc, args, workspace);
}

}  // namespace skv::kernels
