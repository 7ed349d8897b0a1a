// The k best scores of a row. Floor: 4 n bytes, once; at one block a row it is the latency of some twenty barriers
// and, beyond what shared memory holds, of reading the row again.
//
// One block a row (common/cuda/select.cuh): scores become keys in their order while the first digits are counted, and stay
// in shared memory as far as they fit; then the threshold, then the ids in order.
#include <algorithm>
#include <cstddef>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/select.cuh"
#include "kernels/ops_cuda.h"
#include "kernels/topk_select/topk_select.h"

namespace skv::kernels {
namespace {

constexpr int kManyThreads = 1024, kFewThreads = 256;
constexpr int kFew = 2048;           // scores that few threads manage
constexpr int kMostCached = 32768;   // keys in shared memory

// Unsigned order is that of scores, both zeros alike. NaN has the place of -inf, which is invalid and has key 0.
__device__ __forceinline__ uint32_t key_of(float score) {
  if (score != score) return 0x007fffffu;
  if (score == -INFINITY) return 0;
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 + 0 = 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__global__ void __launch_bounds__(kManyThreads) select_rows(const TopkSelectItem* items, int cached) {
  SKV_SHARED(shared);
  const TopkSelectItem item = items[blockIdx.x];
  if (item.n <= 0 || item.k <= 0) {
    if (threadIdx.x == 0) *item.n_ids = 0;
    return;
  }
  uint32_t* const keys = reinterpret_cast<uint32_t*>(shared + cuda::kSelectBytes);
  const int in_cache = item.n < cached ? item.n : cached;
#pragma unroll 8
  for (int j = static_cast<int>(threadIdx.x); j < in_cache; j += static_cast<int>(blockDim.x)) {
    keys[j] = key_of(item.scores[j]);
  }
  __syncthreads();
  const auto key = [&](int j, uint32_t* x) {
    *x = j < in_cache ? keys[j] : key_of(item.scores[j]);
    return *x != 0;
  };
  const cuda::Threshold threshold = cuda::select_largest(item.n, item.k, key, shared);
  const auto take = [&](int j) {
    uint32_t x;
    const bool valid = key(j, &x);
    return cuda::judge(threshold, valid, x);
  };
  const int taken = cuda::for_each_taken(
      item.n, threshold.equal, take, [&](int j, int rank) { item.ids[rank] = j; }, reinterpret_cast<int*>(shared));
  if (threadIdx.x == 0) *item.n_ids = taken;
}

}  // namespace

void topk_select_cuda(cuda::Stream& stream, std::span<const TopkSelectItem> items, void*) {
  int32_t most = 0;
  for (const TopkSelectItem& item : items) most = std::max(most, item.n);
  cuda::Lists lists(stream);
  const auto list = lists.copy(items);
  if (!stream.ok()) return;
  const auto room = static_cast<int>(stream.most_shared_bytes() / 4) - cuda::kSelectBytes / 4;
  const int threads = most <= kFew ? kFewThreads : kManyThreads, cached = std::min({most, kMostCached, room});
  cuda::launch(&select_rows, dim3(static_cast<unsigned>(items.size())), dim3(static_cast<unsigned>(threads)),
               static_cast<std::size_t>(cuda::kSelectBytes + 4 * cached), stream, list.device(), cached);
}

}  // namespace skv::kernels
