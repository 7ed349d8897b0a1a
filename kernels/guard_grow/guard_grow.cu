// guard_grow on a GPU: a block an item.
//
// Floor      one read of n_samples C D keys; 2 G flops an element and one exp a key and head. 64 chunks of 8 bf16
//            keys of 128 are 128 KiB, for one multiprocessor. All else is a few hundred numbers, and the order of the
//            samples is found by comparing each with each
#include "kernels/guard_grow/guard_grow.h"

#include <algorithm>
#include <limits>

#include "kernels/common/cuda/warp.cuh"
#include "kernels/guard_grow/guard_grow_plan.h"

namespace skv::kernels {
namespace {

constexpr int kGrowThreads = 512;
constexpr int kGrowWarps = kGrowThreads / cuda::kWarp;
constexpr int kHeadsAtOnce = 8, kKeysAtOnce = 4;  // a lane ends up with the product of one head and one key
static_assert(kHeadsAtOnce * kKeysAtOnce == cuda::kWarp);

__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / cuda::kWarp; }
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % cuda::kWarp; }

__device__ __forceinline__ float load_key(const float* key, int32_t d) { return __ldg(key + d); }
__device__ __forceinline__ float load_key(const uint16_t* key, int32_t d) { return bf16_to_f32(__ldg(key + d)); }

// Sums of 32 values over the warp, the l-th to lane l: of each pair of halves a lane keeps one and gives one away.
__device__ __forceinline__ float spread_sums(float (&v)[cuda::kWarp]) {
#pragma unroll
  for (int step = 1; step <= 5; ++step) {
    const int half = cuda::kWarp >> step;
    const bool upper = (lane_index() & half) != 0;
#pragma unroll
    for (int i = 0; i < cuda::kWarp / 2; ++i) {
      if (i >= half) continue;
      const float kept = upper ? v[i + half] : v[i], given = upper ? v[i] : v[i + half];
      v[i] = kept + __shfl_xor_sync(cuda::kFullWarp, given, half);
    }
  }
  return v[0];
}

// Terms exp(x) in units of the largest: -inf weighs nothing, a NaN makes the sum one.
struct TermSum {
  float top = -INFINITY;
  double sum = 0.0;

  __device__ __forceinline__ void add(float x) {
    if (x > top) sum *= expf(top - x), top = x;
    if (x != -INFINITY) sum += expf(x - top);
  }
};

// s.top and s.sum of all samples, a warp a sample. q: scaled, in shared memory.
template <class T>
__device__ __forceinline__ void sum_samples(const GuardGrowDesc& desc, const GuardGrowItem& item, const float* q,
                                            const GrowSpace& s) {
  const int lane = lane_index(), h = lane / kKeysAtOnce;
  for (int32_t i = warp_index(); i < *item.n_samples; i += kGrowWarps) {
    const T* chunk = static_cast<const T*>(item.keys) + int64_t{i} * desc.chunk * desc.head_dim;
    for (int32_t head = 0; head < desc.group; head += kHeadsAtOnce) {
      TermSum terms;
      for (int32_t t = 0; t < desc.chunk; t += kKeysAtOnce) {
        float v[cuda::kWarp] = {};
#pragma unroll 2
        for (int32_t d = lane; d < desc.head_dim; d += cuda::kWarp) {
          float key[kKeysAtOnce];
#pragma unroll
          for (int k = 0; k < kKeysAtOnce; ++k) key[k] = load_key(chunk + int64_t{t + k} * desc.head_dim, d);
#pragma unroll
          for (int g = 0; g < kHeadsAtOnce; ++g) {
            const float of_head = head + g < desc.group ? q[(head + g) * desc.head_dim + d] : 0.0f;
#pragma unroll
            for (int k = 0; k < kKeysAtOnce; ++k) {
              float& sum = v[g * kKeysAtOnce + k];
              sum = fmaf(of_head, key[k], sum);
            }
          }
        }
        terms.add(spread_sums(v) + item.log_weight[i]);
      }
      float top = terms.top;
#pragma unroll
      for (int k = 1; k < kKeysAtOnce; k *= 2) top = fmaxf(top, __shfl_xor_sync(cuda::kFullWarp, top, k));
      double sum = terms.top == -INFINITY ? terms.sum : terms.sum * expf(terms.top - top);
#pragma unroll
      for (int k = 1; k < kKeysAtOnce; k *= 2) sum += __shfl_xor_sync(cuda::kFullWarp, sum, k);
      if (lane % kKeysAtOnce == 0 && head + h < desc.group) {
        s.top[(head + h) * s.max_samples + i] = top;
        s.sum[(head + h) * s.max_samples + i] = sum;
      }
    }
  }
}

// Brings a head's samples to one scale, that of its largest term, and adds all up. The whole warp.
__device__ __forceinline__ void finish_head(const GuardGrowItem& item, const GrowSpace& s, int32_t g) {
  const int32_t n = *item.n_samples;
  const float* top = s.top + g * s.max_samples;
  const float lse = item.lse[g];
  float max = lse;
  for (int32_t i = lane_index(); i < n; i += cuda::kWarp) max = fmaxf(max, top[i]);
  max = cuda::warp_max(max);
  double total = 0.0;
  for (int32_t i = lane_index(); i < n; i += cuda::kWarp) {
    const double factor = top[i] == -INFINITY ? 1.0 : exp(static_cast<double>(top[i]) - max);  // sums are 0 or NaN
    const double mass = s.sum[g * s.max_samples + i] * factor;
    s.mass[g * s.max_samples + i] = mass;
    total += mass;
  }
  total = cuda::warp_sum(total) + (lse == -INFINITY ? 0.0 : exp(static_cast<double>(lse) - max));
  if (lane_index() == 0) s.total[g] = total;
}

__device__ __forceinline__ bool contains(const int32_t* ids, int32_t n, int32_t id) {
  int32_t begin = 0, end = n;
  while (begin < end) {
    const int32_t middle = begin + (end - begin) / 2;
    if (ids[middle] < id) begin = middle + 1;
    else end = middle;
  }
  return begin < n && ids[begin] == id;
}

// Whether candidate a is taken before candidate b.
__device__ __forceinline__ bool is_before(const float* scores, int32_t a, int32_t b) {
  const float x = scores[a], y = scores[b];
  const bool x_none = x != x, y_none = y != y;
  if (x > y || (y_none && !x_none)) return true;
  return a < b && (x == y || (x_none && y_none));
}

// s.order; returns how many samples it has.
__device__ __forceinline__ int32_t order_samples(const GuardGrowItem& item, const GrowSpace& s) {
  const int32_t n = *item.n_samples;
  int32_t reached = 0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += kGrowThreads) {
    const int32_t c = item.chunks[i];
    s.reachable[i] = contains(item.candidates, *item.n_candidates, c) && !contains(item.picked, *item.n_picked, c);
  }
  __syncthreads();
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += kGrowThreads) {
    if (s.reachable[i] == 0) continue;
    int32_t rank = 0;
    for (int32_t k = 0; k < n; ++k) {
      rank += s.reachable[k] != 0 && k != i && is_before(item.scores, item.chunks[k], item.chunks[i]) ? 1 : 0;
    }
    s.order[rank] = i;
  }
  for (int32_t i = lane_index(); i < n; i += cuda::kWarp) reached += s.reachable[i];
  __syncthreads();
  return cuda::warp_sum(reached);
}

__device__ __forceinline__ double share_of(double part, double whole) { return whole == 0.0 ? 0.0 : part / whole; }

__device__ __forceinline__ bool within_bound(const GuardGrowDesc& desc, double missed, double total) {
  return desc.margin * share_of(missed, total) <= desc.max_missed;  // NaN is not
}

// s.beyond and s.needed of a head: what is missed falls with every sample taken, so going back from all of them finds
// the fewest. The whole warp.
__device__ __forceinline__ void count_needed(const GuardGrowDesc& desc, const GuardGrowItem& item, const GrowSpace& s,
                                             int32_t reached, int32_t g) {
  const double* mass = s.mass + g * s.max_samples;
  const double total = s.total[g];
  double missed = 0.0;
  for (int32_t i = lane_index(); i < *item.n_samples; i += cuda::kWarp) missed += s.reachable[i] != 0 ? 0.0 : mass[i];
  missed = cuda::warp_sum(missed);
  if (lane_index() == 0) s.beyond[g] = missed;
  int32_t needed = within_bound(desc, missed, total) ? 0 : reached + 1;
  for (int32_t left = reached; left > 0 && needed == 0; left -= cuda::kWarp) {
    const int32_t rank = left - 1 - lane_index();
    double sum = rank >= 0 ? mass[s.order[rank]] : 0.0;
#pragma unroll
    for (int distance = 1; distance < cuda::kWarp; distance *= 2) {
      const double before = __shfl_up_sync(cuda::kFullWarp, sum, distance);
      if (lane_index() >= distance) sum += before;
    }
    sum += missed;
    const unsigned short_of = __ballot_sync(cuda::kFullWarp, rank >= 0 && !within_bound(desc, sum, total));
    if (short_of != 0) needed = left - (__ffs(static_cast<int>(short_of)) - 1);
    missed = __shfl_sync(cuda::kFullWarp, sum, cuda::kWarp - 1);
  }
  if (lane_index() == 0) s.needed[g] = needed;
}

// missed[g] once `taken` samples are taken. The whole warp.
__device__ __forceinline__ void write_missed(const GuardGrowItem& item, const GrowSpace& s, int32_t reached,
                                             int32_t taken, int32_t g) {
  const double* mass = s.mass + g * s.max_samples;
  double missed = 0.0;
  for (int32_t r = taken + lane_index(); r < reached; r += cuda::kWarp) missed += mass[s.order[r]];
  missed = cuda::warp_sum(missed) + s.beyond[g];
  if (lane_index() == 0) item.missed[g] = static_cast<float>(share_of(missed, s.total[g]));
}

enum class Take { none, up_to, all };

// ids and extra: candidates that are picked, and those not after `last` or all, in one pass; both counts at once in a
// 64-bit sum. counts: [kGrowWarps] in shared memory.
__device__ __forceinline__ void write_ids(const GuardGrowItem& item, Take take, int32_t last,
                                          unsigned long long* counts) {
  const unsigned earlier = (1u << lane_index()) - 1u;
  int32_t n_ids = 0, n_extra = 0;
  for (int32_t first = 0; first < *item.n_candidates; first += kGrowThreads) {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x);
    const int32_t c = i < *item.n_candidates ? item.candidates[i] : -1;
    const bool picked = c >= 0 && contains(item.picked, *item.n_picked, c);
    const bool extra = c >= 0 && !picked && take != Take::none &&
                       (take == Take::all || !is_before(item.scores, last, c));
    const unsigned ids_here = __ballot_sync(cuda::kFullWarp, picked || extra);
    const unsigned extra_here = __ballot_sync(cuda::kFullWarp, extra);
    if (lane_index() == 0) {
      counts[warp_index()] = static_cast<unsigned long long>(__popc(ids_here)) << 32 | __popc(extra_here);
    }
    __syncthreads();
    const unsigned long long of_lane = lane_index() < kGrowWarps ? counts[lane_index()] : 0;
    const unsigned long long before = cuda::warp_sum(lane_index() < warp_index() ? of_lane : 0ull);
    const unsigned long long whole = cuda::warp_sum(of_lane);
    if (picked || extra) item.ids[n_ids + static_cast<int32_t>(before >> 32) + __popc(ids_here & earlier)] = c;
    if (extra) item.extra[n_extra + static_cast<int32_t>(before & 0xffffffffu) + __popc(extra_here & earlier)] = c;
    n_ids += static_cast<int32_t>(whole >> 32);
    n_extra += static_cast<int32_t>(whole & 0xffffffffu);
    __syncthreads();
  }
  if (threadIdx.x == 0) *item.n_ids = n_ids, *item.n_extra = n_extra;
}

// An item that has samples; returns the last candidate to take.
template <class T>
__device__ __forceinline__ int32_t grow_item(const GuardGrowDesc& desc, const GuardGrowItem& item, const GrowSpace& s,
                                             float* q, Take* take) {
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < desc.group * desc.head_dim; i += kGrowThreads) {
    q[i] = item.q[i] * desc.scale;
  }
  __syncthreads();
  sum_samples<T>(desc, item, q, s);
  __syncthreads();
  for (int32_t g = warp_index(); g < desc.group; g += kGrowWarps) finish_head(item, s, g);
  const int32_t reached = order_samples(item, s);  // a barrier in it
  for (int32_t g = warp_index(); g < desc.group; g += kGrowWarps) count_needed(desc, item, s, reached, g);
  __syncthreads();
  int32_t needed = 0;
  for (int32_t g = 0; g < desc.group; ++g) needed = max(needed, s.needed[g]);
  const int32_t taken = min(needed, reached);
  for (int32_t g = warp_index(); g < desc.group; g += kGrowWarps) write_missed(item, s, reached, taken, g);
  *take = needed > reached ? Take::all : needed > 0 ? Take::up_to : Take::none;
  return taken > 0 ? item.chunks[s.order[taken - 1]] : -1;
}

template <class T>
__global__ void __launch_bounds__(kGrowThreads) grow_items(const GuardGrowDesc desc, const GuardGrowItem* items,
                                                           const int32_t n_items, const GrowSpace spaces) {
  SKV_SHARED(shared);
  auto* counts = reinterpret_cast<unsigned long long*>(shared);
  auto* q = reinterpret_cast<float*>(shared + kGrowWarps * sizeof(unsigned long long));
  const GrowSpace space = spaces.of_block(static_cast<int64_t>(blockIdx.x));
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < n_items; i += static_cast<int32_t>(gridDim.x)) {
    const GuardGrowItem& item = items[i];
    Take take = Take::none;
    int32_t last = -1;
    if (*item.n_samples > 0) {
      last = grow_item<T>(desc, item, space, q, &take);
    } else {
      for (int32_t g = static_cast<int32_t>(threadIdx.x); g < desc.group; g += kGrowThreads) item.missed[g] = 0.0f;
    }
    write_ids(item, take, last, counts);
    __syncthreads();
    if (threadIdx.x == 0) add_totals(desc, item);
  }
}

}  // namespace

void guard_grow_cuda(cuda::Stream& stream, const GuardGrowDesc& desc, std::span<const GuardGrowItem> items,
                     void* workspace) {
  cuda::Lists lists(stream);
  const auto list = lists.copy(items);
  const auto n = static_cast<int32_t>(list.size());
  int32_t max_samples = 0;
  for (const GuardGrowItem& item : list) max_samples = std::max(max_samples, item.max_samples);
  const GrowSpace spaces = lay_out_grow_space(desc, max_samples, workspace);
  const auto shared = kGrowWarps * sizeof(unsigned long long) +
                      static_cast<std::size_t>(desc.group) * static_cast<std::size_t>(desc.head_dim) * sizeof(float);
  const dim3 grid(static_cast<uint32_t>(std::min(n, kGrowBlocks)));
  if (desc.dtype == DType::f32) {
    cuda::launch(grow_items<float>, grid, dim3(kGrowThreads), shared, stream, desc, list.device(), n, spaces);
  } else {
    cuda::launch(grow_items<uint16_t>, grid, dim3(kGrowThreads), shared, stream, desc, list.device(), n, spaces);
  }
}

}  // namespace skv::kernels
