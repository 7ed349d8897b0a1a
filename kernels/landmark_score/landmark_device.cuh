// What landmark_score's kernels share: what the host tells them, and the query heads in the forms that digests are
// read with.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common/cuda/hadamard.cuh"
#include "kernels/common/cuda/ptx.cuh"
#include "kernels/common/cuda/warp.cuh"
#include "kernels/landmark_score/landmark_score_plan.h"

namespace skv::kernels::landmark {

inline constexpr int kScoreThreads = 256;  // a row of the split each, where rows are no longer read
inline constexpr int kScoreWarps = kScoreThreads / cuda::kWarp;
inline constexpr int kWarpRows = kSplitRows / kScoreWarps;
inline constexpr int kMassStride = kSplitRows + 8;  // eight rows of four heads lie on 32 banks
static_assert(kScoreThreads == kSplitRows);

struct ScoreTask {
  LandmarkScoreItem item;
  float* mass = nullptr;  // head g's at mass + g * mass_stride; null: not kept
  int64_t mass_stride = 0;
  ScorePart* parts = nullptr;  // [splits, group]; null: one split, or no softmax
};

// Arrays of shared memory begin at *_at bytes; the rows' addresses at 0.
struct ScoreArgs {
  LandmarkScoreDesc desc;
  cuda::Hadamard hadamard;       // of 2-bit keys
  float base = 0.0f;             // of a log mass
  int32_t size = 0;              // elements of a row, or of a key
  int32_t row_units = 0;         // of 16 bytes
  int32_t query_groups = 0;      // of four units, that the queries are laid out for
  uint32_t chunk_inverse = 0;    // ceil(2^16 / chunk): k / chunk of k < 2048
  int32_t mass_at = 0;           // f32 [heads, kMassStride]
  int32_t terms_at = 0;          // HeadTerms [heads]
  int32_t query_at = 0;
  int32_t scales_at = 0;         // of keys: f16 [kSplitRows, chunk]
  int32_t logits_at = 0;         // of keys: f32 [warps, heads, 8 (chunk + 1)]
  int32_t shared_bytes = 0;
};

// Of one query head. 16-bit codes are 256 * (high's sum - high) + (low's sum - low), times step.
struct HeadTerms {
  float step = 1.0f;    // NaN if an element of the head is not finite
  float spread = 0.0f;  // scale^2 |q|^2 / 2
  float high = 0.0f;
  float low = 0.0f;
};

__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / cuda::kWarp; }
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % cuda::kWarp; }

template <class T>
__device__ __forceinline__ T* shared_array(unsigned char* shared, int32_t at) {
  return reinterpret_cast<T*>(shared + at);
}

// One query head of an item, as its call gives it.
struct Head {
  const float* q;  // null: none, all zeros
  const float* weights;
  float scale;
  int32_t dim;
  bool box;  // [max(q, 0), min(q, 0)]: its product with [max, min] is sum_d max(q_d max_d, q_d min_d)

  __device__ __forceinline__ float scaled(int32_t d) const {
    return (weights != nullptr ? q[d] * weights[d] : q[d]) * scale;
  }
  __device__ __forceinline__ float element(int32_t e) const {
    if (q == nullptr || e >= (box ? 2 * dim : dim)) return 0.0f;
    const float x = scaled(e < dim ? e : e - dim);
    if (!box) return x;
    return (e < dim ? x < 0.0f : x > 0.0f) ? 0.0f : x;  // a NaN stays in both
  }
};

__device__ __forceinline__ Head head_of(const ScoreArgs& args, const LandmarkScoreItem& item, int32_t g) {
  const int32_t dim = args.desc.format.head_dim;
  return {g < args.desc.group ? item.q + int64_t{g} * dim : nullptr, item.weights, args.desc.scale, dim,
          args.desc.format.kind == DigestKind::box};
}

// A code's two halves, as bf16 (exact): code = 256 high + low, |low| <= 128.
struct CodeHalves {
  float high;
  float low;
};

// 16-bit codes of a head's elements, of which x(e) gives the e-th. The whole warp, which shares the result.
struct Quantiser {
  float inverse = 0.0f;
  float step = 0.0f;

  template <class X>
  __device__ __forceinline__ Quantiser(int32_t size, X&& x) {
    float top = 0.0f, damage = 0.0f;
    for (int32_t e = lane_index(); e < size; e += cuda::kWarp) {
      const float v = x(e);
      top = fmaxf(top, fabsf(v));
      damage = fmaf(v, 0.0f, damage);  // 0, or NaN once an element is not finite
    }
    top = cuda::warp_max(top);
    damage = cuda::warp_sum(damage);
    const bool sound = damage == 0.0f;
    inverse = sound ? fminf(32767.0f / top, 1e38f) : 0.0f;  // zeros: 0 * 1e38
    step = sound ? 1.0f / inverse : damage;
  }
  __device__ __forceinline__ int code(float v) const { return inverse == 0.0f ? 0 : __float2int_rn(v * inverse); }
  __device__ __forceinline__ CodeHalves halves(float v) const {
    const int c = code(v), high = (c + 128) >> 8;
    return {static_cast<float>(high), static_cast<float>(c - high * 256)};
  }
};

__device__ __forceinline__ float spread_of(const ScoreArgs& args, const Head& head) {
  if (args.desc.format.kind != DigestKind::mean_variance || head.q == nullptr) return 0.0f;
  float sum = 0.0f;
  for (int32_t d = lane_index(); d < head.dim; d += cuda::kWarp) sum = fmaf(head.scaled(d), head.scaled(d), sum);
  return 0.5f * cuda::warp_sum(sum);
}

// The largest and the sum of weights of n log masses; the whole warp, which shares the result.
__device__ __forceinline__ ScorePart part_of(const float* mass, int32_t n) {
  float top = -INFINITY, sum = 0.0f;
  for (int32_t j = lane_index(); j < n; j += cuda::kWarp) top = fmaxf(top, mass[j]);
  top = cuda::warp_max(top);
  const float shift = top == -INFINITY ? 0.0f : top;
  for (int32_t j = lane_index(); j < n; j += cuda::kWarp) sum += expf(mass[j] - shift);
  return {top, cuda::warp_sum(sum)};
}

}  // namespace skv::kernels::landmark
