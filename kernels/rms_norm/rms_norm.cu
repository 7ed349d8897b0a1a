// rms_norm on a GPU: a block normalises one row.
//
// Floor: 8 bytes an element (w stays in caches), 4 flops: bandwidth-bound. A thread keeps what it has read of the row
// in registers for the second look; longer rows are read again, from the L2 cache. Sums are f32 over at most a few
// dozen squares and double across a block, in an order that the row's length alone decides.
#include "kernels/rms_norm/rms_norm.h"

#include "kernels/common/cuda/warp.cuh"

namespace skv::kernels {
namespace {

constexpr int kHeld = 4;  // vectors of four that a thread keeps
constexpr int kMaxThreads = 1024;

// Elements [4 i, 4 i + 4) of a row of n; zeros past its end.
template <bool kAligned>
__device__ __forceinline__ float4 load4(const float* row, int64_t i, int64_t n) {
  if constexpr (kAligned) return reinterpret_cast<const float4*>(row)[i];
  const float* x = row + 4 * i;
  const int64_t left = n - 4 * i;
  return make_float4(x[0], left > 1 ? x[1] : 0.0f, left > 2 ? x[2] : 0.0f, left > 3 ? x[3] : 0.0f);
}

template <bool kAligned>
__device__ __forceinline__ void store4(float* row, int64_t i, int64_t n, float4 v) {
  if constexpr (kAligned) {
    reinterpret_cast<float4*>(row)[i] = v;
    return;
  }
  float* y = row + 4 * i;
  const int64_t left = n - 4 * i;
  y[0] = v.x;
  if (left > 1) y[1] = v.y;
  if (left > 2) y[2] = v.z;
  if (left > 3) y[3] = v.w;
}

__device__ __forceinline__ float4 squares_added(float4 x, float4 sum) {
  return make_float4(fmaf(x.x, x.x, sum.x), fmaf(x.y, x.y, sum.y), fmaf(x.z, x.z, sum.z), fmaf(x.w, x.w, sum.w));
}

__device__ __forceinline__ float4 scaled(float4 x, float scale, float4 w) {
  return make_float4(x.x * scale * w.x, x.y * scale * w.y, x.z * scale * w.z, x.w * scale * w.w);
}

template <bool kAligned>
__global__ void __launch_bounds__(kMaxThreads)
    rms_norm_kernel(const float* __restrict__ x_rows, const float* __restrict__ w, float eps, int64_t n,
                    float* y_rows) {
  SKV_SHARED(shared);
  const float* x = x_rows + int64_t{blockIdx.x} * n;
  float* y = y_rows + int64_t{blockIdx.x} * n;
  const int64_t vectors = (n + 3) / 4, threads = blockDim.x, past_held = kHeld * threads + threadIdx.x;
  float4 held[kHeld], sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t i = j * threads + threadIdx.x;
    held[j] = i < vectors ? load4<kAligned>(x, i, n) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j) sum = squares_added(held[j], sum);
  for (int64_t i = past_held; i < vectors; i += threads) sum = squares_added(load4<kAligned>(x, i, n), sum);
  const double own = (static_cast<double>(sum.x) + static_cast<double>(sum.y)) +
                     (static_cast<double>(sum.z) + static_cast<double>(sum.w));
  const double squares = cuda::block_sum(own, reinterpret_cast<double*>(shared));
  const double mean = squares / static_cast<double>(n) + static_cast<double>(eps);
  const float scale = 1.0f / sqrtf(static_cast<float>(mean));
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t i = j * threads + threadIdx.x;
    if (i < vectors) store4<kAligned>(y, i, n, scaled(held[j], scale, load4<kAligned>(w, i, n)));
  }
  for (int64_t i = past_held; i < vectors; i += threads) {
    store4<kAligned>(y, i, n, scaled(load4<kAligned>(x, i, n), scale, load4<kAligned>(w, i, n)));
  }
}

bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void rms_norm_cuda(cuda::Stream& stream, const float* x, const float* w, float eps, int64_t m, int64_t n, float* y) {
  if (m <= 0 || n <= 0) return;
  const int64_t wanted = (n + 4 * kHeld - 1) / (4 * kHeld);
  const unsigned threads = wanted >= kMaxThreads ? kMaxThreads : static_cast<unsigned>((wanted + 31) / 32 * 32);
  const bool aligned = n % 4 == 0 && aligned16(x) && aligned16(w) && aligned16(y);
  const auto kernel = aligned ? &rms_norm_kernel<true> : &rms_norm_kernel<false>;
  cuda::launch(kernel, dim3(static_cast<unsigned>(m)), dim3(threads), 32 * sizeof(double), stream, x, w, eps, n, y);
}

}  // namespace skv::kernels
