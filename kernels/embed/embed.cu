// embed on a GPU: a block widens up to 1,024 elements of one row.
//
// Floor: sizeof(dtype) + 4 bytes an element: bandwidth-bound.
#include "kernels/embed/embed.h"

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/ptx.cuh"

namespace skv::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kElements = 8;  // of one thread

template <DType kType>
__device__ __forceinline__ float widened(uint16_t bits) {
  return kType == DType::bf16 ? bf16_to_f32(bits) : cuda::f16_to_float(bits);
}

template <DType kType>
__device__ __forceinline__ float2 widened2(uint32_t bits) {
  return make_float2(widened<kType>(static_cast<uint16_t>(bits)), widened<kType>(static_cast<uint16_t>(bits >> 16)));
}

template <DType kType>
__device__ __forceinline__ void widen8(const void* row, int64_t first, float* y) {
  float4* to = reinterpret_cast<float4*>(y + first);
  if constexpr (kType == DType::f32) {
    const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(row) + first);
    const float4 a = from[0], b = from[1];
    to[0] = a;
    to[1] = b;
  } else {
    const uint4 v = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(row) + first);
    const float2 a = widened2<kType>(v.x), b = widened2<kType>(v.y);
    const float2 c = widened2<kType>(v.z), d = widened2<kType>(v.w);
    to[0] = make_float4(a.x, a.y, b.x, b.y);
    to[1] = make_float4(c.x, c.y, d.x, d.y);
  }
}

// Blocks count column blocks of one row, then rows.
template <DType kType, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    embed_kernel(const void* __restrict__ table, int64_t n, int64_t column_blocks, const int32_t* __restrict__ ids,
                 float* __restrict__ y_rows) {
  const int64_t i = blockIdx.x / column_blocks, block = blockIdx.x % column_blocks;
  const int64_t first = (block * kThreads + threadIdx.x) * kElements;
  if (first >= n) return;
  const void* row = offset_bytes(table, int64_t{ids[i]} * n * dtype_bytes(kType));
  float* y = y_rows + i * n;
  if constexpr (kAligned) {
    widen8<kType>(row, first, y);
  } else {
    for (int64_t j = first; j < first + kElements && j < n; ++j) {
      if constexpr (kType == DType::f32) y[j] = static_cast<const float*>(row)[j];
      else y[j] = widened<kType>(static_cast<const uint16_t*>(row)[j]);
    }
  }
}

template <DType kType>
auto kernel_for(bool aligned) {
  return aligned ? &embed_kernel<kType, true> : &embed_kernel<kType, false>;
}

bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void embed_cuda(cuda::Stream& stream, const void* table, DType dtype, int64_t n, const int32_t* ids, int64_t m,
                float* y) {
  if (m <= 0 || n <= 0) return;
  const int64_t column_blocks = (n + kThreads * kElements - 1) / (kThreads * kElements);
  const bool aligned = n % kElements == 0 && aligned16(table) && aligned16(y);
  const auto kernel = dtype == DType::f32    ? kernel_for<DType::f32>(aligned)
                      : dtype == DType::bf16 ? kernel_for<DType::bf16>(aligned)
                                             : kernel_for<DType::f16>(aligned);
  cuda::launch(kernel, dim3(static_cast<unsigned>(m * column_blocks)), dim3(kThreads), 0, stream, table, n,
               column_blocks, ids, y);
}

}  // namespace skv::kernels
