// kv_append on a GPU: a block stores one token's keys and values.
//
// Floor: 8 + 2 sizeof(dtype) bytes for each element of a key: bandwidth-bound. Each thread reads 32 bytes and writes
// 16 (bf16); heads lie page_tokens rows apart, so a token's stores are runs of head_dim elements.
#include "kernels/kv_append/kv_append.h"

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/ptx.cuh"
#include "kernels/common/cuda/runs.cuh"

namespace skv::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kElements = 8;  // of one thread at a time

struct Run {
  int64_t begin;       // rows of the items before it
  void* const* pages;  // from the run's first on
  int64_t first;       // row of its first token, counted from that page
  const float* k;
  const float* v;
};

template <DType kType>
__device__ __forceinline__ void store8(void* page, int64_t at, float4 a, float4 b) {
  if constexpr (kType == DType::f32) {
    float4* to = reinterpret_cast<float4*>(static_cast<float*>(page) + at);
    to[0] = a;
    to[1] = b;
  } else {
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(page) + at) =
        make_uint4(cuda::pack_bf16x2(a.x, a.y), cuda::pack_bf16x2(a.z, a.w), cuda::pack_bf16x2(b.x, b.y),
                   cuda::pack_bf16x2(b.z, b.w));
  }
}

template <DType kType>
__global__ void __launch_bounds__(kThreads) kv_append_kernel(KvPageFormat format, const Run* runs, int n_runs) {
  const int64_t row = blockIdx.x;
  const Run run = cuda::run_of(runs, n_runs, row);
  const int64_t token = row - run.begin, slot = run.first + token;
  void* page = run.pages[slot / format.page_tokens];
  const int64_t page_row = slot % format.page_tokens, width = int64_t{format.heads} * format.head_dim;
  const int per_head = format.head_dim / kElements, per_token = format.heads * per_head;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * per_token; i += kThreads) {
    const bool value = i >= per_token;
    const int piece = value ? i - per_token : i, head = piece / per_head;
    const int column = (piece - head * per_head) * kElements;
    const float* from = (value ? run.v : run.k) + token * width + int64_t{piece} * kElements;
    const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
    const int64_t head_row = (int64_t{value ? format.heads : 0} + head) * format.page_tokens + page_row;
    store8<kType>(page, head_row * format.head_dim + column, a, b);
  }
}

int64_t pages_of(const KvAppendItem& item, int32_t page_tokens) {
  return item.n <= 0 ? 0 : (item.first + item.n - 1) / page_tokens - item.first / page_tokens + 1;
}

}  // namespace

void kv_append_cuda(cuda::Stream& stream, const KvPageFormat& format, std::span<const KvAppendItem> items) {
  int64_t n_pages = 0, n_runs = 0, rows = 0;
  for (const KvAppendItem& item : items) {
    n_pages += pages_of(item, format.page_tokens);
    n_runs += item.n > 0;
  }
  if (n_runs == 0) return;
  // Only the pages that are written go along: a sequence may have thousands. Their list is complete before another is
  // begun, as a full part of the staging memory goes to the device at once.
  cuda::Lists lists(stream);
  auto pages = lists.make<void*>(n_pages);
  if (pages.size() == 0) return;
  void** next_page = pages.begin();
  for (const KvAppendItem& item : items) {
    const int64_t n = pages_of(item, format.page_tokens);
    for (int64_t i = 0; i < n; ++i) *next_page++ = item.pages[item.first / format.page_tokens + i];
  }
  auto runs = lists.make<Run>(n_runs);
  if (runs.size() == 0) return;
  Run* next = runs.begin();
  void* const* at = pages.device();
  for (const KvAppendItem& item : items) {
    if (item.n <= 0) continue;
    *next++ = {rows, at, item.first % format.page_tokens, item.k, item.v};
    at += pages_of(item, format.page_tokens);
    rows += item.n;
  }
  const auto kernel = format.dtype == DType::f32 ? &kv_append_kernel<DType::f32> : &kv_append_kernel<DType::bf16>;
  cuda::launch(kernel, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, stream, format, runs.device(),
               static_cast<int>(n_runs));
}

}  // namespace skv::kernels
