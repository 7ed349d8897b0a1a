// kv_gather on a GPU: a thread widens eight elements of one key.
//
// Floor: sizeof(dtype) + 4 bytes an element: bandwidth-bound.
#include "kernels/kv_gather/kv_gather.h"

#include "kernels/common/cuda/launch.h"

namespace skv::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kElements = 8;

template <DType kType>
__device__ __forceinline__ void load8(const void* page, int64_t at, float4& a, float4& b) {
  if constexpr (kType == DType::f32) {
    const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(page) + at);
    a = from[0];
    b = from[1];
  } else {
    const uint4 v = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(page) + at);
    a = make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                    __uint_as_float(v.y & 0xffff0000u));
    b = make_float4(__uint_as_float(v.z << 16), __uint_as_float(v.z & 0xffff0000u), __uint_as_float(v.w << 16),
                    __uint_as_float(v.w & 0xffff0000u));
  }
}

// Threads count pieces of eight elements through x. pages: from the first token's on; first: its row there.
template <DType kType>
__global__ void __launch_bounds__(kThreads) kv_gather_kernel(KvPageFormat format, void* const* __restrict__ pages,
                                                             int64_t first, int64_t pieces, float* __restrict__ x) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= pieces) return;
  const int per_head = format.head_dim / kElements, per_token = format.heads * per_head;
  const int64_t token = i / per_token, slot = first + token;
  const int piece = static_cast<int>(i - token * per_token), head = piece / per_head;
  const int column = (piece - head * per_head) * kElements;
  const int64_t row = int64_t{head} * format.page_tokens + slot % format.page_tokens;
  float4 a, b;
  load8<kType>(pages[slot / format.page_tokens], row * format.head_dim + column, a, b);
  float4* to = reinterpret_cast<float4*>(x + i * kElements);
  to[0] = a;
  to[1] = b;
}

}  // namespace

void kv_gather_cuda(cuda::Stream& stream, const KvGatherArgs& args) {
  const KvPageFormat& format = args.format;
  const int64_t pieces = args.n * format.heads * (format.head_dim / kElements);
  if (pieces <= 0) return;
  const int64_t first_page = args.first / format.page_tokens;
  const int64_t n_pages = (args.first + args.n - 1) / format.page_tokens - first_page + 1;
  cuda::Lists lists(stream);
  void* const* pages = lists.shared(args.pages + first_page, n_pages);
  const auto kernel = format.dtype == DType::f32 ? &kv_gather_kernel<DType::f32> : &kv_gather_kernel<DType::bf16>;
  cuda::launch(kernel, dim3(static_cast<unsigned>((pieces + kThreads - 1) / kThreads)), dim3(kThreads), 0, stream,
               format, pages, args.first % format.page_tokens, pieces, args.x);
}

}  // namespace skv::kernels
