// swiglu on a GPU: a thread makes four neighbouring elements.
//
// Floor: 12 bytes an element, one exponential and one division: bandwidth-bound.
#include "kernels/swiglu/swiglu.h"

#include "kernels/common/cuda/launch.h"

namespace skv::kernels {
namespace {

constexpr int kThreads = 256;
constexpr float kSaturated = 87.0f;  // silu(-87) is below 1e-36

// silu(g) u with the exponential of -|g| only, so that it never overflows: for g < 0 the fraction is
// exp(g) / (1 + exp(g)).
__device__ __forceinline__ float silu_times(float g, float u) {
  const float e = expf(-fabsf(g));
  const float fraction = (g < 0.0f ? e : 1.0f) / (1.0f + e);
  return (g < -kSaturated ? 0.0f : g * fraction) * u;
}

// Blocks count column blocks of one row, then rows.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(const float* __restrict__ gu, int64_t n, int64_t column_blocks, float* __restrict__ y) {
  const int64_t row = blockIdx.x / column_blocks, block = blockIdx.x % column_blocks;
  const int64_t first = (block * kThreads + threadIdx.x) * 4;
  const float *g = gu + row * 2 * n, *u = g + n;
  float* to = y + row * n;
  if constexpr (kAligned) {
    if (first >= n) return;
    const float4 a = *reinterpret_cast<const float4*>(g + first), b = *reinterpret_cast<const float4*>(u + first);
    *reinterpret_cast<float4*>(to + first) =
        make_float4(silu_times(a.x, b.x), silu_times(a.y, b.y), silu_times(a.z, b.z), silu_times(a.w, b.w));
  } else {
    for (int64_t i = first; i < first + 4 && i < n; ++i) to[i] = silu_times(g[i], u[i]);
  }
}

bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void swiglu_cuda(cuda::Stream& stream, const float* gu, int64_t m, int64_t n, float* y) {
  if (m <= 0 || n <= 0) return;
  const int64_t column_blocks = (n + 4 * kThreads - 1) / (4 * kThreads);
  const bool aligned = n % 4 == 0 && aligned16(gu) && aligned16(y);
  const auto kernel = aligned ? &swiglu_kernel<true> : &swiglu_kernel<false>;
  cuda::launch(kernel, dim3(static_cast<unsigned>(m * column_blocks)), dim3(kThreads), 0, stream, gu, n,
               column_blocks, y);
}

}  // namespace skv::kernels
