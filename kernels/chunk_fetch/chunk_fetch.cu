// Floor: block bytes over the host link (PCIe 5: 55 GB/s), n * C * D * sizeof(dtype) written to device memory, many
// times faster. Reads in flight are what fills the link (bandwidth times some 2 us, 110 KB): a warp has a chunk, its
// lanes read 16 bytes each, up to four times before the first is used, and there are 512 warps. Few multiprocessors
// do; the rest of the GPU stays free.
#include "kernels/chunk_fetch/chunk_fetch.h"

#include <algorithm>

#include "kernels/common/cuda/hadamard.cuh"
#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/row_codec.cuh"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

using cuda::kFullWarp;
using cuda::kWarp;

constexpr int kWarps = 8;          // of a block
constexpr int kAtOnce = 4;         // 16-byte reads of a lane
constexpr int kStageBytes = 1024;  // int4: codes a warp reads at a time, whole rows
constexpr int kMaxBlocks = 64;
constexpr int kMaxBlocksCore = 128;  // int4 with a factor of order 12 or 20: three times the arithmetic

struct Work {
  const ChunkFetchItem* items;
  int32_t n_items;
};

__device__ __forceinline__ float4 four(const float* x) { return {x[0], x[1], x[2], x[3]}; }

// K elements, K * sizeof(element) aligned up to 16 bytes. NaN as the reference has it, which no instruction gives.
template <int K>
__device__ __forceinline__ void store_run(float* to, const float (&x)[K], bool nan) {
  float y[K];
#pragma unroll
  for (int i = 0; i < K; ++i) y[i] = nan ? __uint_as_float(0x7fc00000u) : x[i];
  if constexpr (K == 1) *to = y[0];
  else if constexpr (K == 2) *reinterpret_cast<float2*>(to) = {y[0], y[1]};
  else {
#pragma unroll
    for (int i = 0; i < K; i += 4) *reinterpret_cast<float4*>(to + i) = four(y + i);
  }
}

template <int K>
__device__ __forceinline__ void store_run(uint16_t* to, const float (&x)[K], bool nan) {
  if constexpr (K == 1) {
    *to = nan ? uint16_t{0x7fc0} : f32_to_bf16(x[0]);
  } else {
    uint32_t pairs[K / 2];
#pragma unroll
    for (int i = 0; i < K / 2; ++i) pairs[i] = nan ? 0x7fc07fc0u : cuda::pack_bf16x2(x[2 * i], x[2 * i + 1]);
    if constexpr (K == 2) *reinterpret_cast<uint32_t*>(to) = pairs[0];
    else if constexpr (K == 4) *reinterpret_cast<uint2*>(to) = {pairs[0], pairs[1]};
    else {
#pragma unroll
      for (int i = 0; i < K / 2; i += 4) {
        *reinterpret_cast<uint4*>(to + 2 * i) = {pairs[i], pairs[i + 1], pairs[i + 2], pairs[i + 3]};
      }
    }
  }
}

template <int K>
__device__ __forceinline__ void weigh(float (&x)[K], const float* weights) {
  if (weights == nullptr) return;
#pragma unroll
  for (int i = 0; i < K; ++i) x[i] *= weights[i];
}

__device__ __forceinline__ void copy_block(const uint8_t* block, uint8_t* slot, int64_t bytes) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (bytes % 16 != 0) {
    for (int64_t i = 2 * lane; i < bytes; i += 2 * kWarp) {
      *reinterpret_cast<uint16_t*>(slot + i) = *reinterpret_cast<const uint16_t*>(block + i);
    }
    return;
  }
  for (int64_t at = 16 * lane; at < bytes; at += 16 * kWarp * kAtOnce) {
    uint4 v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (at + 16 * kWarp * i < bytes) v[i] = cuda::load_once(block + at + 16 * kWarp * i);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (at + 16 * kWarp * i < bytes) *reinterpret_cast<uint4*>(slot + at + 16 * kWarp * i) = v[i];
    }
  }
}

__device__ __forceinline__ float code_at(const uint4& v, int i) {
  const uint32_t word = i < 4 ? v.x : i < 8 ? v.y : i < 12 ? v.z : v.w;
  return static_cast<float>(static_cast<int8_t>(word >> (8 * (i % 4)) & 0xffu));
}

// 16 codes from element `at` of n rows on, whose scales the lanes hold. All lanes call; here: whether this one has
// codes. Rows of whole vectors have one scale a vector.
template <bool kWhole, class T>
__device__ __forceinline__ void decode_vector(const uint4& codes, int at, int n, int width, float lane_scale,
                                              bool here, const float* weights, T* to) {
  if constexpr (kWhole) {
    const int row = at / width;
    const float scale = __shfl_sync(kFullWarp, lane_scale, here ? row : 0);
    if (!here) return;
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) x[i] = code_at(codes, i) * scale;
    if (weights != nullptr) weigh(x, weights + (at - row * width));
    store_run(to + at, x, isnan(scale));
  } else {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int row = (at + i) / width;
      const bool inside = here && row < n;
      const float scale = __shfl_sync(kFullWarp, lane_scale, inside ? row : 0);
      if (!inside) continue;
      float x[1] = {code_at(codes, i) * scale};
      if (weights != nullptr) weigh(x, weights + (at + i - row * width));
      store_run(to + at + i, x, isnan(scale));
    }
  }
}

// As many rows at a time as a warp has lanes for their scales.
template <bool kWhole, class T>
__device__ __forceinline__ void decode_int8_block(const BlockFormat& format, const uint8_t* block,
                                                  const float* weights, T* slot) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, width = format.width;
  const auto* scales = reinterpret_cast<const uint16_t*>(block + format.scales_at());
  for (int t0 = 0; t0 < format.chunk; t0 += kWarp) {
    const int n = format.chunk - t0 < kWarp ? format.chunk - t0 : kWarp;
    const uint8_t* codes = block + int64_t{t0} * width;
    T* to = slot + int64_t{t0} * width;
    const int vectors = (n * width + 15) / 16;
    float scale = 0.0f;
    for (int first = 0; first < vectors; first += kWarp * kAtOnce) {
      uint4 v[kAtOnce] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int vector = first + i * kWarp + lane;
        if (vector < vectors) v[i] = cuda::load_once(codes + 16 * int64_t{vector});
      }
      if (first == 0 && lane < n) scale = cuda::f16_to_float(scales[t0 + lane]);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int vector = first + i * kWarp + lane;
        if (first + i * kWarp >= vectors) break;
        decode_vector<kWhole>(v[i], 16 * vector, n, width, scale, vector < vectors, weights, to);
      }
    }
  }
}

// Twice the code less 15, exactly: put into the mantissa of 2^23.
__device__ __forceinline__ float odd_of(uint32_t code) {
  return __uint_as_float(0x4b000000u | code << 1) - 8388623.0f;
}

// One row of 32 N elements in registers: a lane has K = N / 2 bytes of codes, so K elements of either half.
template <int N, class T>
__device__ __forceinline__ void decode_walsh_row(const uint8_t* row, float scale, float norm, const float* weights,
                                                 T* to) {
  constexpr int K = N / 2, kHalf = 16 * N;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, at = lane * K;
  float v[N];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    uint32_t both;
    if constexpr (K == 1) both = row[lane];
    else if constexpr (K == 2) both = reinterpret_cast<const uint16_t*>(row)[lane] >> (8 * i);
    else both = reinterpret_cast<const uint32_t*>(row)[lane * (K / 4) + i / 4] >> (8 * (i % 4));
    v[i] = odd_of(both & 15u);
    v[K + i] = odd_of(both >> 4 & 15u);
  }
  cuda::walsh_warp(v);
  const float factor = scale * (0.5f * norm);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float x[K];
#pragma unroll
    for (int i = 0; i < K; ++i) x[i] = fmaf(v[h * K + i], factor, 0.0f);
    if (weights != nullptr) weigh(x, weights + h * kHalf + at);
    store_run(to + h * kHalf + at, x, isnan(scale));
  }
}

// The same for any width, through shared memory: x has room for a row.
template <class T>
__device__ __forceinline__ void decode_shared_row(const cuda::Hadamard& h, uint32_t signs, const uint8_t* row,
                                                  float scale, const float* weights, float* x, T* to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, half = h.width / 2;
  for (int i = lane; i < half; i += kWarp) {
    x[i] = odd_of(row[i] & 15u);
    x[half + i] = odd_of(row[i] >> 4);
  }
  cuda::hadamard_row(h, signs, x, scale * (0.5f * h.norm));
  for (int i = 2 * lane; i < h.width; i += 2 * kWarp) {
    float y[2] = {x[i], x[i + 1]};
    if (weights != nullptr) weigh(y, weights + i);
    store_run(to + i, y, isnan(scale));
  }
  __syncwarp();
}

// stage: kStageBytes, then a row of floats, of this warp.
template <bool kShared, class T>
__device__ __forceinline__ void decode_int4_block(const BlockFormat& format, const cuda::Hadamard& h, uint32_t signs,
                                                  const uint8_t* block, const float* weights, uint8_t* stage,
                                                  T* slot) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, row_bytes = format.width / 2;
  const int fitting = kStageBytes / row_bytes & ~1;  // rows are multiples of 8 bytes, two of them of 16
  const int at_once = fitting < kWarp ? fitting : kWarp;
  const auto* scales = reinterpret_cast<const uint16_t*>(block + format.scales_at());
  auto* x = reinterpret_cast<float*>(stage + kStageBytes);
  for (int t0 = 0; t0 < format.chunk; t0 += at_once) {
    const int n = format.chunk - t0 < at_once ? format.chunk - t0 : at_once;
    const uint8_t* codes = block + int64_t{t0} * row_bytes;
    const int vectors = (n * row_bytes + 15) / 16;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kStageBytes / (16 * kWarp); ++i) {
      const int vector = i * kWarp + lane;
      if (vector < vectors) reinterpret_cast<uint4*>(stage)[vector] = cuda::load_once(codes + 16 * vector);
    }
    const float lane_scale = lane < n ? cuda::f16_to_float(scales[t0 + lane]) : 0.0f;
    __syncwarp();
#pragma unroll 1
    for (int t = 0; t < n; ++t) {
      const float scale = __shfl_sync(kFullWarp, lane_scale, t);
      const uint8_t* row = stage + t * row_bytes;
      T* to = slot + int64_t{t0 + t} * format.width;
      if constexpr (kShared) decode_shared_row(h, signs, row, scale, weights, x, to);
      else if (format.width == 64) decode_walsh_row<2>(row, scale, h.norm, weights, to);
      else if (format.width == 128) decode_walsh_row<4>(row, scale, h.norm, weights, to);
      else decode_walsh_row<8>(row, scale, h.norm, weights, to);
    }
  }
}

enum class Decoder { raw, int8, int8_any, walsh, rotated };

Decoder decoder_of(const BlockFormat& format) {
  if (format.codec == BlockCodec::raw) return Decoder::raw;
  if (format.codec == BlockCodec::int8) return format.width % 16 == 0 ? Decoder::int8 : Decoder::int8_any;
  return format.width == 64 || format.width == 128 || format.width == 256 ? Decoder::walsh : Decoder::rotated;
}

// Warps take (place in a list, item) pairs in turn, the items one after another for each place: lists of about equal
// length end for all warps together, however far below its bound a list's length is.
template <Decoder kDecoder, class T>
__global__ void __launch_bounds__(kWarps * kWarp, 1)
    fetch(BlockFormat format, cuda::Hadamard h, Work work, int32_t max_n, int32_t warp_bytes) {
  SKV_SHARED(shared);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int32_t unit = static_cast<int32_t>(blockIdx.x) * kWarps + warp;
  const int32_t warps = static_cast<int32_t>(gridDim.x) * kWarps;
  [[maybe_unused]] const uint32_t signs = cuda::hadamard_signs(h);
  [[maybe_unused]] uint8_t* stage = shared + warp * warp_bytes;
  const int32_t step_i = warps / work.n_items, step_item = warps % work.n_items;
  for (int32_t i = unit / work.n_items, index = unit % work.n_items; i < max_n;) {
    const ChunkFetchItem& item = work.items[index];
    if (i < *item.n) {
      const auto* block = static_cast<const uint8_t*>(item.blocks.row(item.chunks[i]));
      void* slot = offset_bytes(item.slot_region, item.slot(i) * format.decoded_bytes());
      T* to = static_cast<T*>(slot);
      if constexpr (kDecoder == Decoder::raw) copy_block(block, static_cast<uint8_t*>(slot), format.block_bytes());
      else if constexpr (kDecoder == Decoder::int8) decode_int8_block<true>(format, block, item.weights, to);
      else if constexpr (kDecoder == Decoder::int8_any) decode_int8_block<false>(format, block, item.weights, to);
      else decode_int4_block<kDecoder == Decoder::rotated>(format, h, signs, block, item.weights, stage, to);
    }
    i += step_i;
    index += step_item;
    if (index >= work.n_items) index -= work.n_items, ++i;
  }
}

using FetchKernel = void (*)(BlockFormat, cuda::Hadamard, Work, int32_t, int32_t);

template <class T>
FetchKernel kernel_of(Decoder decoder) {
  switch (decoder) {
    case Decoder::int8: return fetch<Decoder::int8, T>;
    case Decoder::int8_any: return fetch<Decoder::int8_any, T>;
    case Decoder::walsh: return fetch<Decoder::walsh, T>;
    case Decoder::rotated: return fetch<Decoder::rotated, T>;
    default: return fetch<Decoder::raw, uint16_t>;
  }
}

}  // namespace

void chunk_fetch_cuda(cuda::Stream& stream, const BlockFormat& format, std::span<const ChunkFetchItem> items) {
  int32_t max_n = 0;
  for (const ChunkFetchItem& item : items) max_n = std::max(max_n, item.max_n);
  if (max_n == 0) return;
  cuda::Lists lists(stream);
  const auto list = lists.copy(items);
  for (ChunkFetchItem& item : list) lists.localize(item.blocks);
  const bool rotated = format.codec == BlockCodec::int4;
  const cuda::Hadamard h = rotated ? cuda::make_hadamard(format.width, true) : cuda::Hadamard();
  const int32_t warp_bytes = rotated ? kStageBytes + 4 * format.width : 0;
  const int64_t units = static_cast<int64_t>(items.size()) * max_n;
  const int64_t blocks = std::min<int64_t>((units + kWarps - 1) / kWarps, h.core > 1 ? kMaxBlocksCore : kMaxBlocks);
  const Decoder decoder = decoder_of(format);
  const FetchKernel kernel = format.dtype == DType::f32 ? kernel_of<float>(decoder) : kernel_of<uint16_t>(decoder);
  const Work work{list.device(), static_cast<int32_t>(items.size())};
  const auto shared_bytes = static_cast<std::size_t>(kWarps * warp_bytes);
  cuda::launch(kernel, static_cast<unsigned>(blocks), kWarps * kWarp, shared_bytes, stream, format, h, work, max_n,
               warp_bytes);
}

}  // namespace skv::kernels
