// Floor: n C D elements of device memory read once (2 KB a chunk of 8 x 128 bf16). A warp has a chunk: it comes into
// shared memory by cp.async, and a lane owns pairs of columns, so that means and boxes need no other lane. keys_2bit
// is bound by its rotations: counting instructions, some 50 cycles of a multiprocessor a key against 20 to read it.
#include "kernels/landmark_build/landmark_build.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/cuda/hadamard.cuh"
#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/row_codec.cuh"
#include "kernels/common/cuda/runs.cuh"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

using cuda::kFullWarp;
using cuda::kWarp;

constexpr int kMaxWarps = 8;  // of a block
constexpr int kSharedBytes = 40 << 10;
constexpr int kRows = 8;        // keys whose products with the mean are summed over the warp together
constexpr int kMaxQuarter = 2;  // bytes of a key's codes a lane has: 256 / 4 / 32

// One chunk's keys [chunk, dim] and a row of floats, in shared memory of this warp.
template <class T>
struct Chunk {
  const T* k;
  float* row;
  const float* weights;  // null: ones
  int chunk, dim;

  __device__ float2 pair(int t, int p) const { return load_pair(k + t * dim + 2 * p); }
  __device__ float2 weighted(float2 x, int p) const {
    if (weights == nullptr) return x;
    return {x.x * weights[2 * p], x.y * weights[2 * p + 1]};
  }

 private:
  __device__ static float2 load_pair(const float* at) { return *reinterpret_cast<const float2*>(at); }
  __device__ static float2 load_pair(const uint16_t* at) {
    const uint32_t both = *reinterpret_cast<const uint32_t*>(at);
    return {__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u)};
  }
};

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }

__device__ __forceinline__ void store_pair(float* row, int p, float2 x) { reinterpret_cast<float2*>(row)[p] = x; }
__device__ __forceinline__ void store_pair(uint16_t* row, int p, float2 x) {
  reinterpret_cast<uint32_t*>(row)[p] = cuda::pack_bf16x2(x.x, x.y);
}

// row = the column means, NaN where a key is not finite. Each key is scaled before it is added, so that finite keys
// have finite means. box: also the weighted column extremes, NaN likewise.
template <class T>
__device__ __forceinline__ void reduce_columns(const Chunk<T>& c, bool box, T* to) {
  const float scale = 1.0f / static_cast<float>(c.chunk);
  for (int p = lane_id(); p < c.dim / 2; p += kWarp) {
    float2 sum = {0.0f, 0.0f}, high = {-INFINITY, -INFINITY}, low = {INFINITY, INFINITY};
#pragma unroll 4
    for (int t = 0; t < c.chunk; ++t) {
      const float2 x = c.pair(t, p);
      sum.x = fmaf(x.x, scale, sum.x), sum.y = fmaf(x.y, scale, sum.y);
      high.x = fmaxf(high.x, x.x), high.y = fmaxf(high.y, x.y);
      low.x = fminf(low.x, x.x), low.y = fminf(low.y, x.y);
    }
    const float2 nan_or_zero = {sum.x * 0.0f, sum.y * 0.0f};
    c.row[2 * p] = sum.x + nan_or_zero.x;
    c.row[2 * p + 1] = sum.y + nan_or_zero.y;
    if (!box) continue;
    high = c.weighted(high, p), low = c.weighted(low, p);
    store_pair(to, p, {high.x + nan_or_zero.x, high.y + nan_or_zero.y});
    store_pair(to + c.dim, p, {low.x + nan_or_zero.x, low.y + nan_or_zero.y});
  }
}

// Sums of v[0], ..., v[2 N - 1] over the warp, 16 / N lanes each, in order: half of them leave a lane at each step.
template <int N>
__device__ __forceinline__ float split_sums(const float (&v)[2 * N]) {
  const bool upper = (lane_id() & (2 * N)) != 0;
  float rest[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float kept = upper ? v[i + N] : v[i], sent = upper ? v[i] : v[i + N];
    rest[i] = kept + __shfl_xor_sync(kFullWarp, sent, 2 * N);
  }
  if constexpr (N > 1) return split_sums<N / 2>(rest);
  else return rest[0] + __shfl_xor_sync(kFullWarp, rest[0], 1);
}

// In double nothing overflows or vanishes. NaN or an infinity where a key is not finite.
template <class T>
__device__ __forceinline__ float careful_cosine(const Chunk<T>& c, int t) {
  double product = 0.0, norm2 = 0.0, mean2 = 0.0;
  for (int p = lane_id(); p < c.dim / 2; p += kWarp) {
    const float2 x = c.pair(t, p);
    const double x0 = x.x, x1 = x.y, m0 = c.row[2 * p], m1 = c.row[2 * p + 1];
    product += x0 * m0 + x1 * m1;
    norm2 += x0 * x0 + x1 * x1;
    mean2 += m0 * m0 + m1 * m1;
  }
  product = cuda::warp_sum(product), norm2 = cuda::warp_sum(norm2), mean2 = cuda::warp_sum(mean2);
  if (norm2 == 0.0 || mean2 == 0.0) return 0.0f;
  return static_cast<float>(product / (sqrt(norm2) * sqrt(mean2)));
}

// Whether a sum of squares in f32 lost nothing that matters to over- or underflow.
__device__ __forceinline__ bool is_plain(float norm2) { return norm2 > 1e-24f && norm2 < 3.4028234e38f; }

// Of the keys in c with the means in its row; the warp's. -1 where a key is not finite.
template <class T>
__device__ __forceinline__ float lowest_cosine(const Chunk<T>& c) {
  float squares = 0.0f;
  for (int p = lane_id(); p < c.dim / 2; p += kWarp) {
    const float m0 = c.row[2 * p], m1 = c.row[2 * p + 1];
    squares = fmaf(m1, m1, fmaf(m0, m0, squares));
  }
  const float mean2 = cuda::warp_sum(squares), mean_norm = sqrtf(mean2);
  float lowest = 2.0f;
  bool finite = true;
#pragma unroll 1
  for (int first = 0; first < c.chunk; first += kRows) {
    float v[2 * kRows] = {};  // of each row its product with the mean, then with itself
    for (int p = lane_id(); p < c.dim / 2; p += kWarp) {
      const float m0 = c.row[2 * p], m1 = c.row[2 * p + 1];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float2 x = c.pair(first + r < c.chunk ? first + r : c.chunk - 1, p);
        v[2 * r] = fmaf(x.y, m1, fmaf(x.x, m0, v[2 * r]));
        v[2 * r + 1] = fmaf(x.y, x.y, fmaf(x.x, x.x, v[2 * r + 1]));
      }
    }
    const float sum = split_sums<kRows>(v), other = __shfl_xor_sync(kFullWarp, sum, 2);
    const bool square = (lane_id() & 2) != 0, here = first + lane_id() / 4 < c.chunk;
    const float product = square ? other : sum, norm2 = square ? sum : other;
    const bool plain = is_plain(mean2) && is_plain(norm2);
    if (here && plain) lowest = fminf(lowest, product / (sqrtf(norm2) * mean_norm));
    for (unsigned rest = __ballot_sync(kFullWarp, here && !plain) & 0x11111111u; rest != 0; rest &= rest - 1) {
      const float cosine = careful_cosine(c, first + (__ffs(static_cast<int>(rest)) - 1) / 4);
      finite = finite && isfinite(cosine);
      lowest = fminf(lowest, cosine);
    }
  }
  lowest = -cuda::warp_max(-lowest);
  return finite ? lowest : -1.0f;
}

// The weighted means, as they are.
template <class T>
__device__ __forceinline__ void write_mean(const Chunk<T>& c, T* to) {
  for (int p = lane_id(); p < c.dim / 2; p += kWarp) {
    store_pair(to, p, c.weighted({c.row[2 * p], c.row[2 * p + 1]}, p));
  }
}

// The same in int8; returns the scale.
template <class T>
__device__ __forceinline__ uint16_t write_mean_codes(const Chunk<T>& c, uint16_t* to) {
  const auto weighted_mean = [&](int p) { return c.weighted({c.row[2 * p], c.row[2 * p + 1]}, p); };
  uint32_t most = 0;
  for (int p = lane_id(); p < c.dim / 2; p += kWarp) {
    const float2 x = weighted_mean(p);
    most = cuda::larger(most, cuda::larger(cuda::abs_bits(x.x), cuda::abs_bits(x.y)));
  }
  const uint16_t bits = cuda::int8_scale(__reduce_max_sync(kFullWarp, most));
  const float scale = cuda::f16_to_float(bits);
  for (int p = lane_id(); p < c.dim / 2; p += kWarp) {
    const float2 x = weighted_mean(p);
    const int low = cuda::int8_code(x.x, scale) & 0xff, high = cuda::int8_code(x.y, scale) & 0xff;
    to[p] = static_cast<uint16_t>(low | high << 8);
  }
  return bits;
}

// A sum of finite squares that overflows is far above the largest f16 in any case; NaN means stay NaN.
template <class T>
__device__ __forceinline__ uint16_t variance_of(const Chunk<T>& c) {
  float sum = 0.0f;
  for (int p = lane_id(); p < c.dim / 2; p += kWarp) {
    const float m0 = c.row[2 * p], m1 = c.row[2 * p + 1];
#pragma unroll 4
    for (int t = 0; t < c.chunk; ++t) {
      float2 x = c.pair(t, p);
      x = c.weighted({x.x - m0, x.y - m1}, p);
      sum = fmaf(x.y, x.y, fmaf(x.x, x.x, sum));
    }
  }
  const float variance = cuda::warp_sum(sum) / static_cast<float>(c.chunk * c.dim);
  return cuda::float_to_f16(variance > 65504.0f ? 65504.0f : variance);
}

// Codes of the rotated key in c's row; returns its f16 scale.
template <class T>
__device__ __forceinline__ uint16_t quantise_key(const Chunk<T>& c, uint8_t* packed) {
  const int quarter = c.dim / 4;
  float y[kMaxQuarter][4], squares = 0.0f, energy = 0.0f;
#pragma unroll
  for (int j = 0; j < kMaxQuarter; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int b = lane_id() + j * kWarp;
      y[j][i] = b < quarter ? c.row[i * quarter + b] : 0.0f;
      squares = fmaf(y[j][i], y[j][i], squares);
    }
  }
  const float norm2 = cuda::warp_sum(squares);
  const float t = 0.9957f * sqrtf(norm2 / static_cast<float>(c.dim));
#pragma unroll
  for (int j = 0; j < kMaxQuarter; ++j) {
    const int b = lane_id() + j * kWarp;
    if (b >= quarter) continue;
    int byte = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float x = y[j][i];
      const int code = x < -t ? 0 : x < 0.0f ? 1 : x < t ? 2 : 3;
      energy += code == 1 || code == 2 ? 0.25f : 2.25f;
      byte |= code << (2 * i);
    }
    packed[b] = static_cast<uint8_t>(byte);
  }
  energy = cuda::warp_sum(energy);
  if (norm2 == 0.0f) return 0;
  const uint16_t scale = cuda::float_to_f16(sqrtf(norm2 / energy));
  constexpr uint16_t kExponent = 0x7c00u;
  return (scale & kExponent) == kExponent ? cuda::kNanScale : scale;
}

template <bool kWalsh, class T>
__device__ __forceinline__ void write_keys(const Chunk<T>& c, const cuda::Hadamard& h, uint8_t* codes,
                                           uint16_t* scales) {
  [[maybe_unused]] const uint32_t signs = cuda::hadamard_signs(h);
#pragma unroll 1
  for (int t = 0; t < c.chunk; ++t) {
    for (int p = lane_id(); p < c.dim / 2; p += kWarp) store_pair(c.row, p, c.weighted(c.pair(t, p), p));
    if constexpr (kWalsh) cuda::walsh_row(h.width, c.row, h.norm);
    else cuda::hadamard_row(h, signs, c.row, h.norm);
    const uint16_t scale = quantise_key(c, codes + t * (c.dim / 4));
    if (lane_id() == 0) scales[t] = scale;
    __syncwarp();  // the row is read
  }
}

struct Work {
  const LandmarkBuildItem* items;
  cuda::ChunkRuns runs;
};

// kWalsh: head_dim is a power of two, which matters to the rotation of keys only.
template <DigestKind kKind, bool kWalsh, class T>
__global__ void __launch_bounds__(kMaxWarps * kWarp, kWalsh && sizeof(T) == 2 ? 3 : 1)
    build(DigestFormat format, cuda::Hadamard h, Work work, int32_t warp_bytes) {
  SKV_SHARED(shared);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * warps + warp;
  if (unit >= work.runs.chunks) return;
  const cuda::ChunkRun& run = cuda::run_of(work.runs.runs, work.runs.n, unit);
  const LandmarkBuildItem& item = work.items[run.item];
  const int64_t at = unit - run.begin, j = run.first + at, digest_row = item.first_chunk + j;
  const int bytes = format.chunk * format.head_dim * static_cast<int>(sizeof(T));
  uint8_t* stage = shared + warp * warp_bytes;
  const auto* keys = static_cast<const uint8_t*>(run.rows) + at * bytes;
  for (int b = 16 * lane_id(); b < bytes; b += 16 * kWarp) cuda::cp_async16(stage + b, keys + b);
  cuda::cp_async_commit();
  const Chunk<T> c{reinterpret_cast<const T*>(stage), reinterpret_cast<float*>(stage + bytes), item.inverse_weights,
                   format.chunk, format.head_dim};
  void* row = item.digest.rows.row(digest_row);
  cuda::cp_async_wait<0>();
  __syncwarp();
  const bool cosine = item.min_cosine != nullptr;
  if (kKind != DigestKind::keys_2bit || cosine) reduce_columns(c, kKind == DigestKind::box, static_cast<T*>(row));
  if (cosine) {
    const float lowest = lowest_cosine(c);
    if (lane_id() == 0) item.min_cosine[j] = lowest;
  }
  if constexpr (kKind == DigestKind::keys_2bit) {
    write_keys<kWalsh>(c, h, static_cast<uint8_t*>(row), static_cast<uint16_t*>(item.digest.scales.row(digest_row)));
  } else if constexpr (kKind != DigestKind::box) {
    if (format.codec == BlockCodec::int8) {
      const uint16_t scale = write_mean_codes(c, static_cast<uint16_t*>(row));
      if (lane_id() == 0) *static_cast<uint16_t*>(item.digest.scales.row(digest_row)) = scale;
    } else {
      write_mean(c, static_cast<T*>(row));
    }
    if constexpr (kKind == DigestKind::mean_variance) {
      const uint16_t variance = variance_of(c);
      if (lane_id() == 0) *static_cast<uint16_t*>(item.digest.variances.row(digest_row)) = variance;
    }
  }
}

using BuildKernel = void (*)(DigestFormat, cuda::Hadamard, Work, int32_t);

template <class T>
BuildKernel kernel_of(const DigestFormat& format, bool walsh) {
  switch (format.kind) {
    case DigestKind::mean_variance: return build<DigestKind::mean_variance, true, T>;
    case DigestKind::box: return build<DigestKind::box, true, T>;
    case DigestKind::keys_2bit:
      return walsh ? build<DigestKind::keys_2bit, true, T> : build<DigestKind::keys_2bit, false, T>;
    default: return build<DigestKind::mean, true, T>;
  }
}

}  // namespace

void landmark_build_cuda(cuda::Stream& stream, const DigestFormat& format, std::span<const LandmarkBuildItem> items) {
  cuda::Lists lists(stream);
  const cuda::ChunkRuns runs = cuda::list_chunk_runs(lists, items, format.chunk);
  if (runs.chunks == 0) return;
  const auto list = lists.copy(items);
  for (LandmarkBuildItem& item : list) lists.localize(item.digest);
  const bool rotated = format.kind == DigestKind::keys_2bit, f32 = format.dtype == DType::f32;
  const cuda::Hadamard h = rotated ? cuda::make_hadamard(format.head_dim, false) : cuda::Hadamard();
  const int32_t key_bytes = format.head_dim * static_cast<int32_t>(dtype_bytes(format.dtype));
  const int32_t warp_bytes = format.chunk * key_bytes + 4 * format.head_dim;
  const int32_t warps = std::clamp(kSharedBytes / warp_bytes, 1, kMaxWarps);
  const BuildKernel kernel = f32 ? kernel_of<float>(format, h.core == 1) : kernel_of<uint16_t>(format, h.core == 1);
  const Work work{list.device(), runs};
  cuda::launch(kernel, static_cast<unsigned>((runs.chunks + warps - 1) / warps), static_cast<unsigned>(warps * kWarp),
               static_cast<std::size_t>(warps * warp_bytes), stream, format, h, work, warp_bytes);
}

}  // namespace skv::kernels
