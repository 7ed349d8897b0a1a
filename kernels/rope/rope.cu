// rope on a GPU: a block rotates one token.
//
// Floor: 8 bytes a rotated element (read and written in place) and 8 D bytes of tables a token, which stay in the L2
// cache (the low table is 0.5 MiB for 64 pairs); 6 flops a pair. Bandwidth-bound: each thread makes the rotation of
// four neighbouring pairs once and applies it to its share of the heads, several heads' loads in flight at a time.
#include "kernels/rope/rope.h"

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/runs.cuh"

namespace skv::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kHeadsAtOnce = 4;  // of one thread, in flight

struct Run {
  RopeItem item;
  int64_t begin;  // rows of the items before it
};

// kPairs neighbouring pairs of one head, as they stand in memory.
template <int kPairs>
struct Pairs {
  float x0[kPairs], x1[kPairs];
};

template <int kPairs>
__device__ __forceinline__ void load_floats(const float* from, float (&to)[kPairs]) {
  if constexpr (kPairs == 4) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else {
    for (int i = 0; i < kPairs; ++i) to[i] = from[i];
  }
}

template <int kPairs>
__device__ __forceinline__ void store_floats(float* to, const float (&from)[kPairs]) {
  if constexpr (kPairs == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  } else {
    for (int i = 0; i < kPairs; ++i) to[i] = from[i];
  }
}

// (a0, b0, a1, b1, ...) of kPairs pairs.
template <int kPairs>
__device__ __forceinline__ Pairs<kPairs> load_interleaved(const float* from) {
  float lo[kPairs], hi[kPairs];
  load_floats(from, lo);
  load_floats(from + kPairs, hi);
  Pairs<kPairs> p;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    p.x0[i] = 2 * i < kPairs ? lo[2 * i] : hi[2 * i - kPairs];
    p.x1[i] = 2 * i + 1 < kPairs ? lo[2 * i + 1] : hi[2 * i + 1 - kPairs];
  }
  return p;
}

template <int kPairs>
__device__ __forceinline__ void store_interleaved(float* to, const Pairs<kPairs>& p) {
  float lo[kPairs], hi[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    (2 * i < kPairs ? lo[2 * i] : hi[2 * i - kPairs]) = p.x0[i];
    (2 * i + 1 < kPairs ? lo[2 * i + 1] : hi[2 * i + 1 - kPairs]) = p.x1[i];
  }
  store_floats(to, lo);
  store_floats(to + kPairs, hi);
}

// cos in x0, sin in x1: the product of the two tabulated rotations, with the attention factor.
template <int kPairs>
__device__ __forceinline__ Pairs<kPairs> rotation(const RopeView& view, const RopeItem& item, int64_t pos, int pair) {
  const auto lo = load_interleaved<kPairs>(view.lo + pos % kRopeLow * view.rotary_dim + 2 * pair);
  const auto hi = load_interleaved<kPairs>(view.hi + pos / kRopeLow * view.rotary_dim + 2 * pair);
  const float factor = item.inverse ? 1.0f / view.attention_factor : view.attention_factor;
  const float sin_factor = item.inverse ? -factor : factor;
  Pairs<kPairs> r;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    r.x0[i] = (hi.x0[i] * lo.x0[i] - hi.x1[i] * lo.x1[i]) * factor;
    r.x1[i] = (hi.x1[i] * lo.x0[i] + hi.x0[i] * lo.x1[i]) * sin_factor;
  }
  return r;
}

template <int kPairs>
__device__ __forceinline__ Pairs<kPairs> rotated(const Pairs<kPairs>& x, const Pairs<kPairs>& r) {
  Pairs<kPairs> y;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    y.x0[i] = x.x0[i] * r.x0[i] - x.x1[i] * r.x1[i];
    y.x1[i] = x.x1[i] * r.x0[i] + x.x0[i] * r.x1[i];
  }
  return y;
}

// Where pairs from `pair` on stand in a head: interleaved in one piece, else in two that lie `half` apart.
template <int kPairs>
__device__ __forceinline__ Pairs<kPairs> load_pairs(const float* head, int pair, int half, bool interleaved) {
  if (interleaved) return load_interleaved<kPairs>(head + 2 * pair);
  Pairs<kPairs> p;
  load_floats(head + pair, p.x0);
  load_floats(head + half + pair, p.x1);
  return p;
}

template <int kPairs>
__device__ __forceinline__ void store_pairs(float* head, int pair, int half, bool interleaved,
                                            const Pairs<kPairs>& p) {
  if (interleaved) return store_interleaved(head + 2 * pair, p);
  store_floats(head + pair, p.x0);
  store_floats(head + half + pair, p.x1);
}

template <int kPairs>
__device__ __forceinline__ void rotate_heads(const RopeView& view, const RopeItem& item, float* token, int pair,
                                             int head, int stride, const Pairs<kPairs>& r) {
  const int half = view.rotary_dim / 2;
  for (; head < item.heads; head += stride * kHeadsAtOnce) {
    Pairs<kPairs> x[kHeadsAtOnce];
#pragma unroll
    for (int j = 0; j < kHeadsAtOnce; ++j) {
      const int h = head + j * stride;
      if (h < item.heads) x[j] = load_pairs<kPairs>(token + int64_t{h} * item.head_dim, pair, half, view.interleaved);
    }
#pragma unroll
    for (int j = 0; j < kHeadsAtOnce; ++j) {
      const int h = head + j * stride;
      if (h >= item.heads) continue;
      store_pairs(token + int64_t{h} * item.head_dim, pair, half, view.interleaved, rotated(x[j], r));
    }
  }
}

// Thread i holds group i % groups of kPairs pairs and every (kThreads / groups)-th head.
template <int kPairs>
__global__ void __launch_bounds__(kThreads) rope_kernel(RopeView view, const Run* runs, int n_runs) {
  const int64_t row = blockIdx.x;
  const Run& run = cuda::run_of(runs, n_runs, row);
  const int64_t i = row - run.begin;
  float* token = run.item.x + i * run.item.row_stride;
  const int groups = view.rotary_dim / 2 / kPairs, heads_at_once = groups < kThreads ? kThreads / groups : 1;
  const int head = static_cast<int>(threadIdx.x) / groups;
  if (head >= heads_at_once) return;
  for (int g = static_cast<int>(threadIdx.x) - head * groups; g < groups; g += kThreads) {
    const Pairs<kPairs> r = rotation<kPairs>(view, run.item, run.item.pos + i, g * kPairs);
    rotate_heads(view, run.item, token, g * kPairs, head, heads_at_once, r);
    if (groups <= kThreads) return;
  }
}

bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Whether four pairs can be moved by 16-byte accesses.
bool in_fours(const RopeView& view, std::span<const RopeItem> items) {
  if (view.rotary_dim % 8 != 0 || !aligned16(view.lo) || !aligned16(view.hi)) return false;
  for (const RopeItem& item : items) {
    if (!aligned16(item.x) || item.row_stride % 4 != 0 || item.head_dim % 4 != 0) return false;
  }
  return true;
}

}  // namespace

void rope_cuda(cuda::Stream& stream, const RopeView& view, std::span<const RopeItem> items) {
  if (view.rotary_dim == 0) return;
  cuda::Lists lists(stream);
  auto runs = lists.make<Run>(static_cast<int64_t>(items.size()));
  int n_runs = 0;
  int64_t rows = 0;
  if (runs.size() == 0) return;
  for (const RopeItem& item : items) {
    if (item.n <= 0) continue;
    runs[n_runs++] = {item, rows};
    rows += item.n;
  }
  const auto kernel = in_fours(view, items) ? &rope_kernel<4> : &rope_kernel<1>;
  cuda::launch(kernel, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, stream, view, runs.device(), n_runs);
}

}  // namespace skv::kernels
