// sample on a GPU: a block draws one token.
//
// Floor: 4 bytes a logit once, from the L2 cache, where the product before has left them; an SM takes in about 64
// bytes a clock at best. Greedy is that one pass. A draw takes three as a rule: the maximum, a histogram, and a
// gathering of the few candidates that decide.
//
// Nothing is sorted but those candidates. Ids are ordered by a 64-bit number (logit, then lower id), weights are
// fixed-point integers, so sums are exact and in any order the same: a token does not depend on how threads meet. The
// histogram counts ids and mass by the distance from the maximum; top_k, top_p and the draw each ask for the id at
// which a count or a mass is reached, and that lies in one bin. A bin with more ids than the block has threads (many
// equal logits, a high temperature) is split again by the bits of the order.
#include "kernels/sample/sample.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/cuda/warp.cuh"
#include "kernels/sample/philox.h"

namespace skv::kernels {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kAhead = 2;               // vectors of four logits that a thread has in flight
constexpr uint32_t kWindow = 1u << 18;  // ids whose marks of the history are in shared memory at a time
constexpr float kFarthest = 43.0f;      // e^-43 of the maximum's weight is below the smallest weight at any vocab

// A block's shared memory; [n] elements with n threads.
struct Shared {
  uint64_t* scratch;  // [32] of sums
  uint64_t* slots;    // [4] results of one thread, for all
  uint64_t* list;     // [n]
  uint32_t* counts;   // [n] ids of a bin
  uint32_t* low;      // [n] mass of a bin
  uint32_t* high;     // [n]
  uint32_t* marks;    // a bit for each id of the window: it is in the history
};

std::size_t shared_bytes(unsigned threads, int32_t largest_penalised) {
  const uint32_t marked = std::min(kWindow, static_cast<uint32_t>(largest_penalised));
  return 36 * sizeof(uint64_t) + std::size_t{threads} * 20 + (marked + 31) / 32 * 4;
}

__device__ __forceinline__ Shared carve(unsigned char* base) {
  Shared s;
  s.scratch = reinterpret_cast<uint64_t*>(base);
  s.slots = s.scratch + 32;
  s.list = s.slots + 4;
  s.counts = reinterpret_cast<uint32_t*>(s.list + blockDim.x);
  s.low = s.counts + blockDim.x;
  s.high = s.low + blockDim.x;
  s.marks = s.high + blockDim.x;
  return s;
}

struct Row {
  const SampleItem* item;
  const float* logits;
  uint32_t vocab;
  bool penalised;
  float penalty;
  float temperature;
  float best;  // largest logit

  __device__ bool aligned() const { return reinterpret_cast<uintptr_t>(logits) % 16 == 0; }
  __device__ int id_bits() const { return 32 - __clz(static_cast<int>(vocab)); }
  // Of weights: a power of two, such that vocab times it is below 2^63.
  __device__ float unit() const { return __uint_as_float(static_cast<uint32_t>(127 + 62 - id_bits()) << 23); }
};

// Keys are ordered as floats are; both zeros are one.
__device__ __forceinline__ uint32_t key_of(float l) {
  const uint32_t u = __float_as_uint(l == 0.0f ? 0.0f : l);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
// What comes first is largest.
__device__ __forceinline__ uint64_t order_of(const Row& row, float l, uint32_t id) {
  return uint64_t{key_of(l)} << row.id_bits() | (((1u << row.id_bits()) - 1u) - id);
}
__device__ __forceinline__ int32_t id_of(const Row& row, uint64_t order) {
  const uint32_t mask = (1u << row.id_bits()) - 1u;
  return static_cast<int32_t>(mask - (static_cast<uint32_t>(order) & mask));
}
__device__ __forceinline__ float logit_at(const Row& row, uint64_t order) {
  return logit_of(static_cast<uint32_t>(order >> row.id_bits()));
}

// How far below the maximum, in units of the temperature.
__device__ __forceinline__ float distance(const Row& row, float l) { return (row.best - l) / row.temperature; }
__device__ __forceinline__ uint64_t weight(const Row& row, float l) {
  return static_cast<uint64_t>(expf(-distance(row, l)) * row.unit());
}
// Never smaller for a smaller logit: distance and product are rounded monotonely.
__device__ __forceinline__ uint32_t bin_of(const Row& row, float l) {
  const float last = static_cast<float>(blockDim.x - 1);
  return static_cast<uint32_t>(fminf(distance(row, l) * (last / kFarthest), last));
}

// Marks the history's ids in [begin, end).
__device__ void mark_history(const Row& row, const Shared& s, uint32_t begin, uint32_t end) {
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < (end - begin + 31) / 32; i += blockDim.x) s.marks[i] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < row.item->n_history; i += blockDim.x) {
    const int32_t id = row.item->history[i];
    if (id < 0 || static_cast<uint32_t>(id) < begin || static_cast<uint32_t>(id) >= end) continue;
    const uint32_t at = static_cast<uint32_t>(id) - begin;
    atomicOr(&s.marks[at / 32], 1u << at % 32);
  }
  __syncthreads();
}

__device__ __forceinline__ float4 load4(const Row& row, uint32_t first) {
  const float* l = row.logits + first;
  if (row.aligned() && first + 4 <= row.vocab) return *reinterpret_cast<const float4*>(l);
  const uint32_t left = row.vocab - first;
  return make_float4(l[0], left > 1 ? l[1] : 0.0f, left > 2 ? l[2] : 0.0f, left > 3 ? l[3] : 0.0f);
}

// With the penalty; NaN as -inf. at: of the window.
__device__ __forceinline__ float adjusted(const Row& row, const Shared& s, uint32_t at, float l) {
  if (row.penalised && (s.marks[at / 32] >> at % 32 & 1u) != 0) {
    l = l > 0.0f ? l / row.penalty : l * row.penalty;
  }
  return l == l ? l : -INFINITY;
}

// fn(id, logit) for every id, this thread's in ascending order. fn holds no barrier.
template <class Fn>
__device__ __forceinline__ void for_each_logit(const Row& row, const Shared& s, Fn fn) {
  const uint32_t vocab = row.vocab, step = 4 * blockDim.x;
  for (uint32_t begin = 0; begin < vocab; begin += kWindow) {
    const uint32_t end = vocab - begin < kWindow ? vocab : begin + kWindow;
    if (row.penalised && vocab > kWindow) mark_history(row, s, begin, end);
    for (uint32_t first = begin + 4 * threadIdx.x; first < end; first += kAhead * step) {
      float4 v[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        v[a] = first + a * step < end ? load4(row, first + a * step) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const float l[4] = {v[a].x, v[a].y, v[a].z, v[a].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t id = first + a * step + j;
          if (id < end) fn(id, adjusted(row, s, id - begin, l[j]));
        }
      }
    }
  }
}

// The sum over this and all threads before it.
template <class T>
__device__ __forceinline__ T block_scan(T x, T* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp, lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  const int warps = static_cast<int>(blockDim.x) / cuda::kWarp;
  const auto warp_scan = [lane](T v) {
#pragma unroll
    for (int offset = 1; offset < cuda::kWarp; offset *= 2) {
      const T other = __shfl_up_sync(cuda::kFullWarp, v, static_cast<unsigned>(offset));
      if (lane >= offset) v += other;
    }
    return v;
  };
  x = warp_scan(x);
  if (lane == cuda::kWarp - 1) scratch[warp] = x;
  __syncthreads();
  const T sums = warp_scan(lane < warps ? scratch[lane] : T(0));
  const T before = __shfl_sync(cuda::kFullWarp, sums, warp > 0 ? warp - 1 : 0);
  __syncthreads();
  return warp > 0 ? x + before : x;
}

// The first id in order; 0: all logits are -inf.
__device__ __forceinline__ uint64_t find_best(const Row& row, const Shared& s) {
  float best = -INFINITY;
  uint32_t best_id = 0;
  for_each_logit(row, s, [&](uint32_t id, float l) {
    if (l > best) best = l, best_id = id;
  });
  uint64_t order = best > -INFINITY ? order_of(row, best, best_id) : 0;
  const auto warp_max = [](uint64_t x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const uint64_t other = __shfl_xor_sync(cuda::kFullWarp, x, offset);
      if (other > x) x = other;
    }
    return x;
  };
  order = warp_max(order);
  const unsigned warp = threadIdx.x / cuda::kWarp, lane = threadIdx.x % cuda::kWarp;
  if (lane == 0) s.scratch[warp] = order;
  __syncthreads();
  order = warp_max(lane < blockDim.x / cuda::kWarp ? s.scratch[lane] : 0);
  __syncthreads();
  return order;
}

// --- Bins ---

__device__ __forceinline__ void clear_bins(const Shared& s) {
  __syncthreads();
  s.counts[threadIdx.x] = s.low[threadIdx.x] = s.high[threadIdx.x] = 0;
  __syncthreads();
}

// 64-bit sums by 32-bit atomics, which shared memory has in hardware: whoever makes the low half wrap carries.
__device__ __forceinline__ void add_to_bin(const Shared& s, uint32_t bin, uint64_t mass) {
  atomicAdd(&s.counts[bin], 1u);
  const uint32_t low = static_cast<uint32_t>(mass), before = atomicAdd(&s.low[bin], low);
  const uint32_t high = static_cast<uint32_t>(mass >> 32) + (before + low < before ? 1u : 0u);
  if (high > 0) atomicAdd(&s.high[bin], high);
}

__device__ __forceinline__ uint64_t own_mass(const Shared& s) {
  return uint64_t{s.high[threadIdx.x]} << 32 | s.low[threadIdx.x];
}

// Every id that has weight, by distance.
__device__ void count_all(const Row& row, const Shared& s) {
  clear_bins(s);
  for_each_logit(row, s, [&](uint32_t, float l) {
    const uint64_t mass = weight(row, l);
    if (mass > 0) add_to_bin(s, bin_of(row, l), mass);
  });
  __syncthreads();
}

// Those of orders [lo, hi], 2^shift orders a bin.
__device__ void count_range(const Row& row, const Shared& s, uint64_t lo, uint64_t hi, int shift) {
  clear_bins(s);
  for_each_logit(row, s, [&](uint32_t id, float l) {
    const uint64_t order = order_of(row, l, id);
    if (order < lo || order > hi) return;
    const uint64_t mass = weight(row, l);
    if (mass > 0) add_to_bin(s, static_cast<uint32_t>((hi - order) >> shift), mass);
  });
  __syncthreads();
}

// A measure is a number of ids or a mass.
struct Target {
  bool ids;
  uint64_t value;  // at least 1
};

struct Bin {
  uint32_t index, n;      // ids in it
  uint32_t count_before;  // of all ids before it in order
  uint64_t mass_before;
};

// The bin in which the target is reached, the bins' first having count and mass before it.
__device__ Bin find_bin(const Shared& s, uint32_t count, uint64_t mass, Target target) {
  const uint32_t n = s.counts[threadIdx.x];
  const uint64_t own = own_mass(s);
  const uint64_t count_through = count + block_scan(uint64_t{n}, s.scratch);
  const uint64_t mass_through = mass + block_scan(own, s.scratch);
  const uint64_t through = target.ids ? count_through : mass_through, part = target.ids ? n : own;
  if (through >= target.value && through - part < target.value) {
    s.slots[0] = threadIdx.x;
    s.slots[1] = n;
    s.slots[2] = count_through - n;
    s.slots[3] = mass_through - own;
  }
  __syncthreads();
  const Bin bin = {static_cast<uint32_t>(s.slots[0]), static_cast<uint32_t>(s.slots[1]),
                   static_cast<uint32_t>(s.slots[2]), s.slots[3]};
  __syncthreads();
  return bin;
}

// The smallest key up to the maximum's for which holds(logit) is true, where it is true for all larger ones and for
// the maximum. Of one warp: each round a lane tests one of 32 keys.
template <class Holds>
__device__ __forceinline__ uint32_t smallest_key(const Row& row, Holds holds) {
  uint64_t lo = key_of(-3.402823466e38f), hi = key_of(row.best);
  while (lo < hi) {
    const uint64_t step = (hi - lo + 31) / 32, own = lo + step * (threadIdx.x % cuda::kWarp);
    const unsigned held = __ballot_sync(cuda::kFullWarp, own >= hi || holds(logit_of(static_cast<uint32_t>(own))));
    if (held == 0) {
      lo += 31 * step + 1;
      continue;
    }
    const int first = __ffs(static_cast<int>(held)) - 1;
    hi = lo + step * first < hi ? lo + step * first : hi;
    if (first > 0) lo += step * (first - 1) + 1;
  }
  return static_cast<uint32_t>(hi);
}

// The orders that a bin of count_all can hold.
__device__ void find_edges(const Row& row, const Shared& s, uint32_t bin, uint64_t& lo, uint64_t& hi) {
  if (threadIdx.x < cuda::kWarp) {
    const uint32_t lowest = smallest_key(row, [&](float l) { return bin_of(row, l) <= bin; });
    const uint32_t next =
        bin == 0 ? key_of(row.best) + 1 : smallest_key(row, [&](float l) { return bin_of(row, l) < bin; });
    if (threadIdx.x == 0) {
      s.slots[0] = uint64_t{lowest} << row.id_bits();
      s.slots[1] = (uint64_t{next} << row.id_bits()) - 1;
    }
  }
  __syncthreads();
  lo = s.slots[0];
  hi = s.slots[1];
  __syncthreads();
}

// --- The list of candidates ---

struct List {
  uint64_t lo;  // its orders are [lo, some larger one], descending
  uint32_t n;
  uint32_t count_before;  // of all ids before it
  uint64_t mass_before;
  uint64_t mass;
  bool bins_of_all;  // the bins are still count_all's
};

__device__ __forceinline__ uint64_t listed_weight(const Row& row, const Shared& s, const List& list) {
  return threadIdx.x < list.n ? weight(row, logit_at(row, s.list[threadIdx.x])) : 0;
}

// Bitonic, descending; the number of threads is a power of two.
__device__ void sort_list(const Shared& s) {
  const unsigned i = threadIdx.x;
  for (unsigned run = 2; run <= blockDim.x; run *= 2) {
    for (unsigned apart = run / 2; apart > 0; apart /= 2) {
      __syncthreads();
      const unsigned other = i ^ apart;
      if (other < i) continue;
      const uint64_t a = s.list[i], b = s.list[other];
      if ((a < b) == ((i & run) == 0)) {
        s.list[i] = b;
        s.list[other] = a;
      }
    }
  }
  __syncthreads();
}

// All ids with weight of orders [lo, hi]: list.n of them.
__device__ void gather(const Row& row, const Shared& s, uint64_t lo, uint64_t hi, List& list) {
  uint32_t* n = reinterpret_cast<uint32_t*>(s.slots);
  s.list[threadIdx.x] = 0;
  if (threadIdx.x == 0) *n = 0;
  __syncthreads();
  for_each_logit(row, s, [&](uint32_t id, float l) {
    const uint64_t order = order_of(row, l, id);
    if (order >= lo && order <= hi && weight(row, l) > 0) s.list[atomicAdd(n, 1u)] = order;
  });
  sort_list(s);
  list.lo = lo;
  list.mass = cuda::block_sum(listed_weight(row, s, list), s.scratch);
}

// Makes the list one that holds the id at which the target is reached.
__device__ void fill_list(const Row& row, const Shared& s, Target target, List& list) {
  if (!list.bins_of_all) count_all(row, s);
  list.bins_of_all = true;
  Bin bin = find_bin(s, 0, 0, target);
  uint64_t lo, hi;
  find_edges(row, s, bin.index, lo, hi);
  while (bin.n > blockDim.x) {
    const int shift =
        max(0, 64 - __clzll(static_cast<long long>(hi - lo)) - (31 - __clz(static_cast<int>(blockDim.x))));
    count_range(row, s, lo, hi, shift);
    list.bins_of_all = false;
    bin = find_bin(s, bin.count_before, bin.mass_before, target);
    hi -= uint64_t{bin.index} << shift;
    const uint64_t least = hi - ((uint64_t{1} << shift) - 1);
    lo = lo > least ? lo : least;
  }
  // From the first id on, if there is room: then later targets find theirs here too.
  if (bin.count_before + bin.n <= blockDim.x) {
    bin.n += bin.count_before;
    bin.count_before = 0;
    bin.mass_before = 0;
    hi = ~uint64_t{0};
  }
  list.n = bin.n;
  list.count_before = bin.count_before;
  list.mass_before = bin.mass_before;
  gather(row, s, lo, hi, list);
}

struct Found {
  uint64_t order;  // of the id at which the target is reached
  uint64_t mass;   // through it
};

__device__ Found locate(const Row& row, const Shared& s, Target target, List& list) {
  const uint64_t before = target.ids ? list.count_before : list.mass_before;
  const uint64_t listed = target.ids ? list.n : list.mass;
  if (target.value <= before || target.value > before + listed) fill_list(row, s, target, list);
  const uint64_t own = listed_weight(row, s, list);
  const uint64_t mass = list.mass_before + block_scan(own, s.scratch);
  const uint64_t through = target.ids ? uint64_t{list.count_before} + threadIdx.x + 1 : mass;
  if (threadIdx.x < list.n && through >= target.value && through - (target.ids ? 1 : own) < target.value) {
    s.slots[0] = s.list[threadIdx.x];
    s.slots[1] = mass;
  }
  __syncthreads();
  const Found found = {s.slots[0], s.slots[1]};
  __syncthreads();
  return found;
}

// Mass of all ids of that order and before it.
__device__ uint64_t mass_through(const Row& row, const Shared& s, uint64_t order, const List& list) {
  uint64_t own = 0;
  if (list.n > 0 && list.count_before == 0 && list.lo <= order) {
    if (threadIdx.x < list.n && s.list[threadIdx.x] >= order) own = listed_weight(row, s, list);
  } else {
    for_each_logit(row, s, [&](uint32_t id, float l) { own += order_of(row, l, id) >= order ? weight(row, l) : 0; });
  }
  return cuda::block_sum(own, s.scratch);
}

// The last order that min_p keeps. Decided on logits, in double: no rounding decides a tie.
__device__ uint64_t last_by_min_p(const Row& row, const Shared& s) {
  if (threadIdx.x < cuda::kWarp) {
    const double least = log(static_cast<double>(row.item->params.min_p)), best = static_cast<double>(row.best);
    const double temperature = static_cast<double>(row.temperature);
    const uint32_t key =
        smallest_key(row, [&](float l) { return (static_cast<double>(l) - best) / temperature >= least; });
    if (threadIdx.x == 0) s.slots[0] = uint64_t{key} << row.id_bits();
  }
  __syncthreads();
  const uint64_t order = s.slots[0];
  __syncthreads();
  return order;
}

__device__ int32_t draw(const Row& row, const Shared& s) {
  const SampleParams& params = row.item->params;
  count_all(row, s);
  List list = {};
  list.bins_of_all = true;
  const uint64_t alive = cuda::block_sum(uint64_t{s.counts[threadIdx.x]}, s.scratch);
  uint64_t total = cuda::block_sum(own_mass(s), s.scratch), last = 0;  // of what is kept; its last order
  if (params.top_k > 0 && static_cast<uint64_t>(params.top_k) < alive) {
    const Found found = locate(row, s, {true, static_cast<uint64_t>(params.top_k)}, list);
    last = found.order;
    total = found.mass;
  }
  if (params.top_p < 1.0f) {
    const double wanted = ceil(static_cast<double>(params.top_p) * static_cast<double>(total));
    const uint64_t mass = wanted >= 1.0 ? static_cast<uint64_t>(wanted) : 1;
    const Found found = locate(row, s, {false, mass < total ? mass : total}, list);
    last = found.order;
    total = found.mass;
  }
  if (params.min_p > 0.0f) {
    const uint64_t order = last_by_min_p(row, s);
    if (order > last) total = mass_through(row, s, order, list);
  }
  const double u = static_cast<double>(philox_uniform(params.seed, row.item->counter));
  const uint64_t target = static_cast<uint64_t>(u * static_cast<double>(total)) + 1;
  return id_of(row, locate(row, s, {false, target}, list).order);
}

__global__ void __launch_bounds__(kMaxThreads) sample_kernel(const SampleItem* items) {
  SKV_SHARED(base);
  const Shared s = carve(base);
  const SampleItem& item = items[blockIdx.x];
  Row row;
  row.item = &item;
  row.logits = item.logits;
  row.vocab = static_cast<uint32_t>(item.vocab);
  row.penalty = item.params.repetition_penalty;
  row.penalised = row.penalty != 1.0f && item.n_history > 0;
  row.temperature = item.params.temperature;
  if (row.penalised && row.vocab <= kWindow) mark_history(row, s, 0, row.vocab);
  const uint64_t best = find_best(row, s);
  row.best = logit_at(row, best);
  int32_t token = best == 0 ? -1 : id_of(row, best);
  if (best != 0 && row.temperature > 0.0f && row.best < INFINITY) token = draw(row, s);
  if (threadIdx.x == 0) *item.token = token;
}

// A power of two, for sort_list; small rows leave most of a large block idle.
unsigned threads_for(int32_t vocab) { return vocab <= 1024 ? 128 : vocab <= 8192 ? 256 : kMaxThreads; }

}  // namespace

void sample_cuda(cuda::Stream& stream, std::span<const SampleItem> items, void*) {
  int32_t vocab = 0, penalised = 0;
  for (const SampleItem& item : items) {
    vocab = std::max(vocab, item.vocab);
    if (item.params.repetition_penalty != 1.0f && item.n_history > 0) penalised = std::max(penalised, item.vocab);
  }
  cuda::Lists lists(stream);
  const auto list = lists.copy(items);
  const unsigned threads = threads_for(vocab);
  cuda::launch(&sample_kernel, dim3(static_cast<unsigned>(list.size())), dim3(threads),
               shared_bytes(threads, penalised), stream, list.device());
}

}  // namespace skv::kernels
