// Softmax-weighted sums of rows: blocks make the parts of softmax_parts.h, each of its own rows, and a second kernel
// merges an item's parts in their order.
//
// A part's weights lie in shared memory, [row][heads], and so do the addresses of its rows. A thread has a few
// neighbouring elements of every step-th row in flight, and adds them up for all heads.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/ptx.cuh"
#include "kernels/common/cuda/warp.cuh"
#include "kernels/common/softmax_parts.h"

namespace skv::cuda {

// Elements of rows as a thread takes them: kWidth neighbours, in the words of one load.
struct Bf16Rows {
  static constexpr int kWidth = 8;
  using Element = uint16_t;
  using Raw = uint4;
  static __device__ __forceinline__ Raw load(const void* from) { return load_once(from); }
  static __device__ __forceinline__ Raw make(const uint32_t (&w)[4]) { return {w[0], w[1], w[2], w[3]}; }
  static __device__ __forceinline__ void widen(const Raw& raw, float (&x)[kWidth]) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};

struct F32Rows {
  static constexpr int kWidth = 4;
  using Element = uint32_t;
  using Raw = uint4;
  static __device__ __forceinline__ Raw load(const void* from) { return load_once(from); }
  static __device__ __forceinline__ Raw make(const uint32_t (&w)[4]) { return {w[0], w[1], w[2], w[3]}; }
  static __device__ __forceinline__ void widen(const Raw& raw, float (&x)[kWidth]) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = __uint_as_float(words[i]);
  }
};

struct Int8Rows {
  static constexpr int kWidth = 8;
  using Element = uint8_t;
  using Raw = uint2;
  static __device__ __forceinline__ Raw load(const void* from) { return *static_cast<const uint2*>(from); }
  static __device__ __forceinline__ Raw make(const uint32_t (&w)[2]) { return {w[0], w[1]}; }
  static __device__ __forceinline__ void widen(const Raw& raw, float (&x)[kWidth]) {
    const uint32_t words[2] = {raw.x, raw.y};
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      x[i] = static_cast<float>(static_cast<int8_t>(words[i / 4] >> (8 * (i % 4)) & 0xffu));
    }
  }
};

// The chunk-th kWidth elements of a row of dim; zeros past its end. whole: no row ends within a chunk.
template <class R>
__device__ __forceinline__ typename R::Raw load_columns(const void* row, int chunk, int dim, bool whole) {
  constexpr int kBytes = static_cast<int>(sizeof(typename R::Element));
  if (whole) return R::load(static_cast<const char*>(row) + int64_t{chunk} * R::kWidth * kBytes);
  const auto* elements = static_cast<const typename R::Element*>(row) + int64_t{chunk} * R::kWidth;
  uint32_t words[sizeof(typename R::Raw) / 4] = {};
#pragma unroll
  for (int e = 0; e < R::kWidth; ++e) {
    if (chunk * R::kWidth + e >= dim) continue;
    words[e * kBytes / 4] |= static_cast<uint32_t>(elements[e]) << (e * kBytes % 4 * 8);
  }
  return R::make(words);
}

// A thread's share of the block's rows: rows first, first + step, ..., of each the chunk-th columns of a pass. The
// rows are spread over `slots`, each of them `width` chunks wide; threads past the last slot of their warp have no
// share.
struct RowShare {
  int chunk, first, step, slot, width;
  bool active;
};

__device__ __forceinline__ RowShare row_share(int width) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int groups = kWarp / width, slot = warp * groups + lane / width;
  return {lane % width, slot, static_cast<int>(blockDim.x) / kWarp * groups, slot, width, lane / width < groups};
}

// Rows whose addresses lie in shared memory.
struct RowList {
  const void* const* rows;
  int n;
  int dim;
  bool whole;
};

template <class R>
__device__ __forceinline__ typename R::Raw fetch_row(const RowList& list, const RowShare& share, int row, int pass) {
  const int chunk = pass + share.chunk;
  if (row >= list.n || !share.active || chunk * R::kWidth >= list.dim) return {};
  return load_columns<R>(list.rows[row], chunk, list.dim, list.whole);
}

template <class R, int kAhead>
__device__ __forceinline__ void fetch_rows(const RowList& list, const RowShare& share, int pass,
                                           typename R::Raw (&ahead)[kAhead]) {
#pragma unroll
  for (int u = 0; u < kAhead; ++u) ahead[u] = fetch_row<R>(list, share, share.first + u * share.step, pass);
}

template <int kHeads>
__device__ __forceinline__ void load_weights(const float* weights, float (&w)[kHeads]) {
  if constexpr (kHeads % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kHeads; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(weights + i);
      w[i] = four.x, w[i + 1] = four.y, w[i + 2] = four.z, w[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kHeads; ++i) w[i] = weights[i];
  }
}

// sums[head][element] += weight * element over the thread's rows; ahead holds the first of them. kSparse: what a row
// holds that no head weighs counts for nothing.
template <class R, bool kSparse, int kHeads, int kAhead>
__device__ __forceinline__ void add_rows(const RowList& list, const RowShare& share, int pass, const float* weights,
                                         typename R::Raw (&ahead)[kAhead], float (&sums)[kHeads][R::kWidth]) {
  for (int first = share.first; first < list.n; first += kAhead * share.step) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int row = first + u * share.step;
      float x[R::kWidth], w[kHeads];
      R::widen(ahead[u], x);
      ahead[u] = fetch_row<R>(list, share, row + kAhead * share.step, pass);
      if (row >= list.n) continue;
      load_weights(weights + row * kHeads, w);
      if constexpr (kSparse) {
        bool any = false;
#pragma unroll
        for (int h = 0; h < kHeads; ++h) any |= w[h] != 0.0f;  // a NaN is
        if (!any) continue;
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int e = 0; e < R::kWidth; ++e) sums[h][e] = fmaf(w[h], x[e], sums[h][e]);
      }
    }
  }
}

constexpr __host__ __device__ int64_t shared_sum_bytes(int threads, int heads, int element_width) {
  return int64_t{4} * threads * heads * element_width;
}

// Adds up the shares of a pass in the order of their slots, into rows of `stride` floats. shared: shared_sum_bytes,
// that nobody uses any more; free again when the call returns.
template <class R, int kHeads>
__device__ __forceinline__ void store_sums(const RowShare& share, int pass, const float (&sums)[kHeads][R::kWidth],
                                           float* shared, int heads, float* out, int64_t stride) {
  constexpr int kQuads = R::kWidth / 4;
  const int slot_floats = kHeads * R::kWidth * share.width;
  if (share.active) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int i = 0; i < kQuads; ++i) {
        float* to = shared + share.slot * slot_floats + ((h * kQuads + i) * share.width + share.chunk) * 4;
        *reinterpret_cast<float4*>(to) = {sums[h][4 * i], sums[h][4 * i + 1], sums[h][4 * i + 2], sums[h][4 * i + 3]};
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < slot_floats; i += static_cast<int>(blockDim.x)) {
    float sum = 0.0f;
    for (int slot = 0; slot < share.step; ++slot) sum += shared[slot * slot_floats + i];
    const int quad = i / (4 * share.width), chunk = pass + i / 4 % share.width;
    const int head = quad / kQuads, column = chunk * R::kWidth + quad % kQuads * 4 + i % 4;
    if (head < heads && column < stride) out[head * stride + column] = sum;
  }
  __syncthreads();
}

// One item and head of the merge: parts [first, last).
struct MergeItem {
  float* out;  // [group, head_dim]
  float* lse;  // [group]; may be null without earlier
  int32_t first;
  int32_t last;
  int32_t earlier;  // joined to what out and lse hold
};

inline constexpr int kMergeThreads = 256;
inline constexpr int kMergeParts = 256;  // whose weights are in shared memory at a time
inline constexpr int kMergeBytes = 128 + kMergeParts * 4 + kMergeThreads * 16;

__device__ __forceinline__ float part_weight(float max, float whole) {
  return whole == -INFINITY ? 1.0f : expf(max - whole);
}

// One block per item and head.
static __global__ void __launch_bounds__(kMergeThreads)
    merge_parts(kernels::SoftmaxParts parts, const MergeItem* items) {
  SKV_SHARED(shared);
  float* const scratch = reinterpret_cast<float*>(shared);
  float* const weights = scratch + 32;
  float4* const sums = reinterpret_cast<float4*>(weights + kMergeParts);
  const MergeItem item = items[blockIdx.x / static_cast<unsigned>(parts.group)];
  const int g = static_cast<int>(blockIdx.x % static_cast<unsigned>(parts.group));
  const int thread = static_cast<int>(threadIdx.x);
  const float lse = item.earlier ? item.lse[g] : -INFINITY;
  const bool joined = lse != -INFINITY;
  float max = lse, sum = 0.0f;
  for (int s = item.first + thread; s < item.last; s += kMergeThreads) max = fmaxf(max, parts.at(s).max[g]);
  max = block_max(joined ? fmaxf(max, lse) : max, scratch);
  for (int s = item.first + thread; s < item.last; s += kMergeThreads) {
    const kernels::SoftmaxPart part = parts.at(s);
    sum += part_weight(part.max[g], max) * part.sum[g];
  }
  sum = block_sum(sum, scratch);
  if (item.earlier && sum == 0.0f) return;
  const float before = joined ? part_weight(lse, max) : 0.0f;
  sum += before;

  // Four columns of every rows-th part to a thread.
  const int quads = (parts.head_dim + 3) / 4, rows = kMergeThreads / quads, row = thread / quads;
  float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int begin = item.first; begin < item.last; begin += kMergeParts) {
    const int n = item.last - begin < kMergeParts ? item.last - begin : kMergeParts;
    if (thread < n) {  // nothing was written of a part that weighs nothing
      const kernels::SoftmaxPart part = parts.at(begin + thread);
      weights[thread] = part.sum[g] == 0.0f ? 0.0f : part_weight(part.max[g], max);
    }
    __syncthreads();
#pragma unroll 4
    for (int s = row; s < n; s += rows) {
      const float w = row < rows ? weights[s] : 0.0f;
      const float* acc = parts.at(begin + s).acc + g * parts.padded_dim();
      const float4 x = w == 0.0f ? float4{} : reinterpret_cast<const float4*>(acc)[thread % quads];
      total.x = fmaf(w, x.x, total.x), total.y = fmaf(w, x.y, total.y);
      total.z = fmaf(w, x.z, total.z), total.w = fmaf(w, x.w, total.w);
    }
    __syncthreads();
  }
  sums[thread] = total;
  __syncthreads();
  const float* const columns = reinterpret_cast<const float*>(sums);
  float* const out = item.out + int64_t{g} * parts.head_dim;
  for (int d = thread; d < parts.head_dim; d += kMergeThreads) {
    float x = joined ? out[d] * before : 0.0f;
    for (int r = 0; r < rows; ++r) x += columns[r * quads * 4 + d];
    out[d] = sum == 0.0f ? 0.0f : x / sum;
  }
  if (thread == 0 && item.lse != nullptr) item.lse[g] = sum == 0.0f ? -INFINITY : max + logf(sum);
}

}  // namespace skv::cuda
