// guard_sample on a GPU: a block an item, a warp a run of its chunks, 32 at a time.
//
// Floor      three reads of G rows of n f32 (the sums, the lengths' sum, the points), from L2 after the first, at
//            what one multiprocessor takes: 256 KiB each of 16K chunks and 4 heads
// Points     a chunk's points are those before its end less those before its begin. Lengths are f32 not below
//            0.1 / N' and add up to about 1, so sums of them in double are exact for up to 2^24 chunks: whatever the
//            order, a border is the same from either side, and the last border is the total, before which all points
//            lie
#include "kernels/guard_sample/guard_sample.h"

#include <algorithm>
#include <climits>

#include "kernels/common/cuda/warp.cuh"

namespace skv::kernels {
namespace {

constexpr int kSampleThreads = 1024;
constexpr int kSampleWarps = kSampleThreads / cuda::kWarp;
constexpr int kHeadsAtOnce = 8;

// The softmax of one head: exp(m - max) * factor is its share of a chunk's length.
struct HeadShare {
  float max = 0.0f;
  float factor = 0.0f;
};

// Of a warp or a lane: the largest of a head's log masses and the sum of exp(m - max).
struct MassSum {
  double sum = 0.0;
  float max = -INFINITY;

  __device__ __forceinline__ void add(float m) {  // -inf: not counted
    if (m > max) sum *= expf(max - m), max = m;
    if (m != -INFINITY) sum += expf(m - max);
  }
  __device__ __forceinline__ double relative_to(float whole) const {
    return sum == 0.0 ? 0.0 : sum * expf(max - whole);
  }
};

struct SampleShared {
  double length[kSampleWarps];
  double sum[kSampleWarps][kHeadsAtOnce];
  float max[kSampleWarps][kHeadsAtOnce];
  int32_t open[kSampleWarps];
  int32_t kept[kSampleWarps];
};

__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / cuda::kWarp; }
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % cuda::kWarp; }

// The first of ids that is not below chunk.
__device__ __forceinline__ int32_t lower_bound(const int32_t* ids, int32_t n, int32_t chunk) {
  int32_t begin = 0;
  while (begin < n) {
    const int32_t middle = begin + (n - begin) / 2;
    if (ids[middle] < chunk) begin = middle + 1;
    else n = middle;
  }
  return begin;
}

// The chunks of a warp, 32 at a time in ascending order, and which of them may be drawn.
class WarpChunks {
 public:
  __device__ __forceinline__ explicit WarpChunks(const GuardSampleItem& item) : item_(item) {
    const int32_t groups = (item.n + cuda::kWarp - 1) / cuda::kWarp;
    const int32_t share = (groups + kSampleWarps - 1) / kSampleWarps;
    next_ = min(warp_index() * share, groups) * cuda::kWarp;
    end_ = min((warp_index() + 1) * share, groups) * cuda::kWarp;
    n_ids_ = *item.n_ids;
    id_ = lower_bound(item.ids, n_ids_, next_);
  }
  // The whole warp: chunk becomes this lane's, open the bits of the lanes whose chunk may be drawn.
  __device__ __forceinline__ bool next(int32_t* chunk, unsigned* open) {
    if (next_ >= end_) return false;
    const int32_t j = next_ + lane_index(), at = id_ + lane_index();
    const int32_t id = at < n_ids_ ? item_.ids[at] : INT_MAX;
    const bool here = id < next_ + cuda::kWarp;  // at most 32 are
    const unsigned chosen = __reduce_or_sync(cuda::kFullWarp, here ? 1u << (id - next_) : 0u);
    *open = __ballot_sync(cuda::kFullWarp, j < item_.n && item_.log_mass[min(j, item_.n - 1)] != -INFINITY) & ~chosen;
    *chunk = j;
    id_ += __popc(__ballot_sync(cuda::kFullWarp, here));
    next_ += cuda::kWarp;
    return true;
  }

 private:
  const GuardSampleItem& item_;
  int32_t next_ = 0, end_ = 0, id_ = 0, n_ids_ = 0;
};

__device__ __forceinline__ bool is_mine(unsigned lanes) { return (lanes >> lane_index() & 1u) != 0; }

// A head's log mass of a chunk that may be drawn, -inf where it counts for nothing.
__device__ __forceinline__ float counted_mass(const GuardSampleItem& item, int32_t head, int32_t chunk) {
  const float m = item.log_mass[head * item.log_mass_stride + chunk];
  return m < INFINITY ? m : -INFINITY;
}

// shares[g] of all heads; returns how many chunks may be drawn. Warps' numbers of them in shared->open.
__device__ __forceinline__ int32_t measure_heads(const GuardSampleItem& item, SampleShared* shared,
                                                 HeadShare* shares) {
  int32_t open_here = 0;
  for (int32_t head = 0; head < max(item.group, 1); head += kHeadsAtOnce) {
    const int32_t heads = min(kHeadsAtOnce, item.group - head);
    MassSum sums[kHeadsAtOnce];
    WarpChunks chunks(item);
    int32_t j = 0;
    unsigned open = 0;
    open_here = 0;
    while (chunks.next(&j, &open)) {
      open_here += __popc(open);
#pragma unroll
      for (int h = 0; h < kHeadsAtOnce; ++h) {
        if (h < heads && is_mine(open)) sums[h].add(counted_mass(item, head + h, j));
      }
    }
#pragma unroll
    for (int h = 0; h < kHeadsAtOnce; ++h) {
      const float max = cuda::warp_max(sums[h].max);
      const double sum = cuda::warp_sum(sums[h].relative_to(max));
      if (lane_index() == 0) shared->sum[warp_index()][h] = sum, shared->max[warp_index()][h] = max;
    }
    if (lane_index() == 0) shared->open[warp_index()] = open_here;
    __syncthreads();
    if (warp_index() < heads) {
      static_assert(kSampleWarps == cuda::kWarp, "a lane a warp");
      const MassSum part{shared->sum[lane_index()][warp_index()], shared->max[lane_index()][warp_index()]};
      const float max = cuda::warp_max(part.max);
      const double sum = cuda::warp_sum(part.relative_to(max));
      const float share = 0.9f / static_cast<float>(item.group);
      const bool none = max == -INFINITY;
      if (lane_index() == 0) {
        shares[head + warp_index()] = {none ? 0.0f : max, none ? 0.0f : static_cast<float>(share / sum)};
      }
    }
    __syncthreads();
  }
  return cuda::warp_sum(shared->open[lane_index()]);
}

__device__ __forceinline__ float length_of(const GuardSampleItem& item, const HeadShare* shares, int32_t chunk,
                                           float uniform) {
  float length = 0.0f;
#pragma unroll 4
  for (int32_t g = 0; g < item.group; ++g) {
    length = fmaf(expf(counted_mass(item, g, chunk) - shares[g].max), shares[g].factor, length);
  }
  return length + uniform;
}

// How many of the points (i + u) step lie before border.
__device__ __forceinline__ int32_t points_before(double border, double u, double step, int32_t n) {
  int32_t i = static_cast<int32_t>(fmin(fmax(ceil(border / step - u), 0.0), static_cast<double>(n)));
  while (i > 0 && (i - 1 + u) * step >= border) --i;
  while (i < n && (i + u) * step < border) ++i;
  return i;
}

// Chunks that a point falls on, each at the place of its first point; the other places stay as they are.
__device__ __forceinline__ void place_points(const GuardSampleItem& item, const HeadShare* shares,
                                             int32_t open_chunks, SampleShared* shared) {
  const float uniform = 0.1f / static_cast<float>(open_chunks);
  double at = 0.0, step = 0.0;
  int32_t points = 0;
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {  // first the sums, from one and the same code, then the points
    WarpChunks chunks(item);
    int32_t j = 0;
    unsigned open = 0;
    while (chunks.next(&j, &open)) {
      const float length = is_mine(open) ? length_of(item, shares, j, uniform) : 0.0f;
      double end = length;
#pragma unroll
      for (int distance = 1; distance < cuda::kWarp; distance *= 2) {
        const double before = __shfl_up_sync(cuda::kFullWarp, end, distance);
        if (lane_index() >= distance) end += before;
      }
      end += at;
      at = __shfl_sync(cuda::kFullWarp, end, cuda::kWarp - 1);
      if (pass == 0) continue;
      const int32_t before_end = points_before(end, item.u, step, item.n_samples);
      int32_t before_begin = __shfl_up_sync(cuda::kFullWarp, before_end, 1);
      if (lane_index() == 0) before_begin = points;
      points = __shfl_sync(cuda::kFullWarp, before_end, cuda::kWarp - 1);
      const int32_t count = before_end - before_begin;
      if (length > 0.0f && count > 0) {
        item.chunks[before_begin] = j;
        item.log_weight[before_begin] = static_cast<float>(log(count * step / length));
      }
    }
    if (pass == 1) break;
    if (lane_index() == 0) shared->length[warp_index()] = at;
    __syncthreads();
    const double of_lane = shared->length[lane_index()];
    step = cuda::warp_sum(of_lane) / item.n_samples;
    at = cuda::warp_sum(lane_index() < warp_index() ? of_lane : 0.0);
    points = points_before(at, item.u, step, item.n_samples);
  }
}

// Moves the places that hold a chunk to the front, in order.
__device__ __forceinline__ void close_gaps(const GuardSampleItem& item, SampleShared* shared) {
  int32_t kept = 0;
  for (int32_t first = 0; first < item.n_samples; first += kSampleThreads) {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x);
    const int32_t chunk = i < item.n_samples ? item.chunks[i] : -1;
    const float weight = chunk >= 0 ? item.log_weight[i] : 0.0f;
    const unsigned keep = __ballot_sync(cuda::kFullWarp, chunk >= 0);
    if (lane_index() == 0) shared->kept[warp_index()] = __popc(keep);
    __syncthreads();
    const int32_t of_lane = shared->kept[lane_index()];
    const int32_t before = cuda::warp_sum(lane_index() < warp_index() ? of_lane : 0);
    if (chunk >= 0) {
      const int32_t to = kept + before + __popc(keep & ((1u << lane_index()) - 1u));
      item.chunks[to] = chunk;
      item.log_weight[to] = weight;
    }
    kept += cuda::warp_sum(of_lane);
    __syncthreads();
  }
  if (threadIdx.x == 0) *item.n_chunks = kept;
}

__device__ __forceinline__ void take_all(const GuardSampleItem& item, int32_t open_chunks, SampleShared* shared) {
  int32_t to = cuda::warp_sum(lane_index() < warp_index() ? shared->open[lane_index()] : 0);
  WarpChunks chunks(item);
  int32_t j = 0;
  unsigned open = 0;
  while (chunks.next(&j, &open)) {
    if (is_mine(open)) {
      const int32_t place = to + __popc(open & ((1u << lane_index()) - 1u));
      item.chunks[place] = j;
      item.log_weight[place] = 0.0f;
    }
    to += __popc(open);
  }
  if (threadIdx.x == 0) *item.n_chunks = open_chunks;
}

__global__ void __launch_bounds__(kSampleThreads) sample_items(const GuardSampleItem* items) {
  SKV_SHARED(memory);
  auto* shared = reinterpret_cast<SampleShared*>(memory);
  auto* shares = reinterpret_cast<HeadShare*>(memory + sizeof(SampleShared));
  const GuardSampleItem& item = items[blockIdx.x];
  if (item.n <= 0 || item.n_samples <= 0) {
    if (threadIdx.x == 0) *item.n_chunks = 0;
    return;
  }
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < item.n_samples; i += kSampleThreads) item.chunks[i] = -1;
  const int32_t open = measure_heads(item, shared, shares);
  if (open <= item.n_samples) {
    take_all(item, open, shared);
    return;
  }
  place_points(item, shares, open, shared);
  __syncthreads();
  close_gaps(item, shared);
}

}  // namespace

void guard_sample_cuda(cuda::Stream& stream, std::span<const GuardSampleItem> items, void*) {
  cuda::Lists lists(stream);
  const auto list = lists.copy(items);
  int32_t group = 0;
  for (const GuardSampleItem& item : list) group = std::max(group, item.group);
  cuda::launch(sample_items, dim3(static_cast<uint32_t>(list.size())), dim3(kSampleThreads),
               sizeof(SampleShared) + static_cast<std::size_t>(group) * sizeof(HeadShare), stream, list.device());
}

}  // namespace skv::kernels
