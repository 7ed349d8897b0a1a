// gemm on a GPU: activations are rounded to the weights' type and multiplied by cuBLASLt, in pieces of rows, so that
// the workspace does not grow with the prompt.
//
// Floor: n k sizeof(w) + 4 m (k + n) bytes, 2 m n k flops; rounding adds 4 m k bytes. Few rows take the same way: a
// row's bits must not depend on the batch, so a kernel of our own for one or a few rows would have to serve all
// batches up to kGemmDecodeRows, where products count.
#include "kernels/gemm/gemm.h"

#include <algorithm>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/products.h"
#include "kernels/common/cuda/ptx.cuh"

namespace skv::kernels {
namespace {

constexpr int kThreads = 256;

template <DType kType>
__device__ __forceinline__ uint32_t rounded2(float lo, float hi) {
  if constexpr (kType == DType::bf16) return cuda::pack_bf16x2(lo, hi);
  else return cuda::float_to_f16(lo) | static_cast<uint32_t>(cuda::float_to_f16(hi)) << 16;
}

// Eight elements a thread; zeros fill a row up to the stride.
template <DType kType, bool kAligned>
__global__ void __launch_bounds__(kThreads) round_rows_kernel(const float* __restrict__ a, int64_t lda, int64_t m,
                                                              int64_t k, uint16_t* __restrict__ to, int64_t stride) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, per_row = stride / 8;
  if (i >= m * per_row) return;
  const int64_t row = i / per_row, first = (i - row * per_row) * 8;
  const float* from = a + row * lda + first;
  float x[8];
  if constexpr (kAligned) {
    const float4 lo = reinterpret_cast<const float4*>(from)[0], hi = reinterpret_cast<const float4*>(from)[1];
    x[0] = lo.x, x[1] = lo.y, x[2] = lo.z, x[3] = lo.w, x[4] = hi.x, x[5] = hi.y, x[6] = hi.z, x[7] = hi.w;
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = first + j < k ? from[j] : 0.0f;
  }
  *reinterpret_cast<uint4*>(to + i * 8) = make_uint4(rounded2<kType>(x[0], x[1]), rounded2<kType>(x[2], x[3]),
                                                     rounded2<kType>(x[4], x[5]), rounded2<kType>(x[6], x[7]));
}

// c = bias, or c += bias; zeros for no bias.
__global__ void __launch_bounds__(kThreads) preset_kernel(GemmArgs args, int64_t n, int64_t column_blocks) {
  const int64_t row = blockIdx.x / column_blocks, j = blockIdx.x % column_blocks * kThreads + threadIdx.x;
  if (j >= n) return;
  float* c = args.c + row * args.ldc + j;
  const float bias = args.bias != nullptr ? args.bias[j] : 0.0f;
  *c = args.accumulate ? *c + bias : bias;
}

void preset(cuda::Stream& stream, const GemmDesc& desc, const GemmArgs& args) {
  const int64_t column_blocks = (desc.n + kThreads - 1) / kThreads;
  cuda::launch(&preset_kernel, dim3(static_cast<unsigned>(args.m * column_blocks)), dim3(kThreads), 0, stream, args,
               desc.n, column_blocks);
}

template <DType kType>
auto rounding_kernel(bool aligned) {
  return aligned ? &round_rows_kernel<kType, true> : &round_rows_kernel<kType, false>;
}

void round_rows(cuda::Stream& stream, const GemmDesc& desc, const float* a, int64_t lda, int64_t m, void* to) {
  const int64_t stride = gemm_rounded_stride(desc), blocks = (m * (stride / 8) + kThreads - 1) / kThreads;
  const bool aligned = desc.k % 8 == 0 && lda % 4 == 0 && reinterpret_cast<uintptr_t>(a) % 16 == 0;
  const auto kernel =
      desc.w_dtype == DType::bf16 ? rounding_kernel<DType::bf16>(aligned) : rounding_kernel<DType::f16>(aligned);
  cuda::launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, a, lda, m, desc.k,
               static_cast<uint16_t*>(to), stride);
}

}  // namespace

void gemm_cuda(cuda::Stream& stream, const GemmDesc& desc, const GemmArgs& args, void* workspace) {
  if (args.m <= 0 || desc.n <= 0) return;
  if (args.bias != nullptr || (desc.k <= 0 && !args.accumulate)) preset(stream, desc, args);
  if (desc.k <= 0) return;
  cuda::MatrixProduct product;
  product.type = desc.w_dtype;
  product.transpose_b = true;
  product.n = desc.n;
  product.k = desc.k;
  product.b = args.w;
  product.ldb = desc.k;
  product.ldc = args.ldc;
  product.beta = args.accumulate || args.bias != nullptr ? 1.0f : 0.0f;
  // Pieces differ by a row at most, so that none of many rows is a piece of few.
  const bool rounded = desc.w_dtype != DType::f32;
  const int64_t pieces = rounded ? (args.m + kGemmRoundedRows - 1) / kGemmRoundedRows : 1;
  for (int64_t piece = 0, row = 0; piece < pieces; ++piece, row += product.m) {
    product.m = args.m / pieces + (piece < args.m % pieces ? 1 : 0);
    product.a = rounded ? workspace : args.a + row * args.lda;
    product.lda = rounded ? gemm_rounded_stride(desc) : args.lda;
    product.c = args.c + row * args.ldc;
    if (rounded) round_rows(stream, desc, args.a + row * args.lda, args.lda, product.m, workspace);
    cuda::matrix_product(stream, product);
  }
}

}  // namespace skv::kernels
