// Exact selection within one block: the k largest of n 32-bit keys, ties to the lower index, and lists in order of
// index.
//
// Three rounds find the k-th largest key, eleven bits at a time, by counting digits in shared memory. Every count is
// an integer, so nothing depends on the order of threads or on how many there are.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/cuda/warp.cuh"

namespace skv::cuda {

// Keys above key are taken, and the first `equal` of those that equal it.
struct Threshold {
  uint32_t key;
  int equal;
};

inline constexpr int kTakeAll = 0x7fffffff;
inline constexpr int kDigitBits = 11;
inline constexpr int kDigits = 1 << kDigitBits;
inline constexpr int kDigitCopies = 4;     // counters of each digit, so that equal ones of a warp wait less
inline constexpr int kSelectScratch = 64;  // ints of shared memory
inline constexpr int kSelectBytes = 4 * (kDigits * kDigitCopies + kSelectScratch);  // of shared memory

// Sums over all threads before this one, and over all threads. scratch: 32 ints, free again when the call returns.
struct BlockPrefix {
  int before, total;
};

__device__ __forceinline__ BlockPrefix block_prefix(int x, int* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  int upto = x;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int below = __shfl_up_sync(kFullWarp, upto, offset);
    if (lane >= offset) upto += below;
  }
  if (lane == kWarp - 1) scratch[warp] = upto;
  __syncthreads();
  const int of_warp = lane < warps ? scratch[lane] : 0;
  const int earlier = warp_sum(lane < warp ? of_warp : 0), total = warp_sum(of_warp);
  __syncthreads();
  return {earlier + upto - x, total};
}

// One round: of the keys whose digits so far are prefix's, the digit that holds the k-th largest of them.
struct Digit {
  int digit, above, equal;  // so many keys have a larger digit; so many have it
  int total;                // of all keys of the round; digit is void where that is below k
};

template <class Key>
__device__ __forceinline__ Digit count_digits(int n, int k, const Key& key, uint32_t prefix, int prefix_shift,
                                              int shift, int* counts, int* scratch) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < kDigits * kDigitCopies; i += threads) counts[i] = 0;
  __syncthreads();
#pragma unroll 4
  for (int j = thread; j < n; j += threads) {
    uint32_t x;
    if (!key(j, &x) || (prefix_shift < 32 && x >> prefix_shift != prefix)) continue;
    const uint32_t digit = x >> shift & (kDigits - 1);
    atomicAdd(&counts[digit * kDigitCopies + static_cast<uint32_t>(thread % kDigitCopies)], 1);
  }
  __syncthreads();
  // Thread t has the t-th run of digits from the largest down.
  const int run = (kDigits + threads - 1) / threads, first = kDigits - 1 - thread * run;
  const auto count = [&](int digit) {
    int sum = 0;
#pragma unroll
    for (int c = 0; c < kDigitCopies; ++c) sum += counts[digit * kDigitCopies + c];
    return sum;
  };
  int mine = 0;
  for (int i = 0; i < run && first - i >= 0; ++i) mine += count(first - i);
  const BlockPrefix keys = block_prefix(mine, scratch);
  if (keys.before < k && k <= keys.before + mine) {
    int above = keys.before, i = 0;
    for (int here; above + (here = count(first - i)) < k; ++i) above += here;
    scratch[0] = first - i, scratch[1] = above, scratch[2] = count(first - i);
  }
  __syncthreads();
  Digit found = {0, 0, 0, keys.total};
  if (keys.total >= k) found = {scratch[0], scratch[1], scratch[2], keys.total};
  __syncthreads();
  return found;
}

// key(j, &x): whether index j has a key at all, and which. k > 0. All are taken where there are no more than k.
// shared: kSelectBytes, free again when the call returns.
template <class Key>
__device__ __forceinline__ Threshold select_largest(int n, int k, const Key& key, void* shared) {
  int* const scratch = static_cast<int*>(shared);
  int* const counts = scratch + kSelectScratch;
  uint32_t prefix = 0;
  for (int shift = 32 - kDigitBits, above_shift = 32;;) {
    const Digit found = count_digits(n, k, key, prefix, above_shift, shift, counts, scratch);
    if (found.total <= k) return {prefix << shift, kTakeAll};  // first round only: nothing is left out
    const int bits = above_shift - shift;
    prefix = prefix << bits | static_cast<uint32_t>(found.digit);
    k -= found.above;
    if (found.equal == k) return {prefix << shift, kTakeAll};
    if (shift == 0) return {prefix, k};
    above_shift = shift;
    shift = shift > kDigitBits ? shift - kDigitBits : 0;
  }
}

enum class Take { no, equal, yes };

__device__ __forceinline__ Take judge(const Threshold& threshold, bool valid, uint32_t key) {
  if (!valid || key < threshold.key) return Take::no;
  return key > threshold.key ? Take::yes : Take::equal;
}

// put(j, rank) for every j of [0, n) with take(j) == yes and for the first `equal` with take(j) == equal, rank
// counting them in order of j; returns how many. scratch: kSelectScratch ints, free again when the call returns.
template <class TakeFn, class Put>
__device__ __forceinline__ int for_each_taken(int n, int equal, const TakeFn& take, const Put& put, int* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int share = (n + kWarp * warps - 1) / (kWarp * warps) * kWarp;  // a warp's, in whole rows of lanes
  const int begin = warp * share < n ? warp * share : n, end = begin + share < n ? begin + share : n;
  int sure = 0, ties = 0;
#pragma unroll 4
  for (int first = begin; first < end; first += kWarp) {
    const Take t = first + lane < end ? take(first + lane) : Take::no;
    sure += __popc(__ballot_sync(kFullWarp, t == Take::yes));
    ties += __popc(__ballot_sync(kFullWarp, t == Take::equal));
  }
  if (lane == 0) scratch[warp] = sure, scratch[kWarp + warp] = ties;
  __syncthreads();
  const int all_sure = lane < warps ? scratch[lane] : 0, all_ties = lane < warps ? scratch[kWarp + lane] : 0;
  sure = warp_sum(lane < warp ? all_sure : 0), ties = warp_sum(lane < warp ? all_ties : 0);
  const int total_ties = warp_sum(all_ties), total = warp_sum(all_sure) + (total_ties < equal ? total_ties : equal);
  const unsigned lower = (1u << lane) - 1;
  for (int first = begin; first < end; first += kWarp) {
    const Take t = first + lane < end ? take(first + lane) : Take::no;
    const unsigned yes = __ballot_sync(kFullWarp, t == Take::yes), same = __ballot_sync(kFullWarp, t == Take::equal);
    const int ties_before = ties + __popc(same & lower);
    if (t == Take::yes || (t == Take::equal && ties_before < equal)) {
      put(first + lane, sure + __popc(yes & lower) + (ties_before < equal ? ties_before : equal));
    }
    sure += __popc(yes), ties += __popc(same);
  }
  __syncthreads();
  return total;
}

}  // namespace skv::cuda
