// Floor: block bytes over the host link (PCIe 5: 55 GB/s); rows are read from device memory many times faster. A warp
// codes a chunk into shared memory and writes the block out 16 bytes a lane, so that the link sees whole lines.
#include "kernels/block_store/block_store.h"

#include <algorithm>

#include "kernels/common/cuda/hadamard.cuh"
#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/row_codec.cuh"
#include "kernels/common/cuda/runs.cuh"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

using cuda::kWarp;

constexpr int kMaxWarps = 8;           // of a block
constexpr int kSharedBytes = 40 << 10;
constexpr int kMaxStaged = 32 << 10;   // larger blocks (rows of thousands) are coded where they lie
constexpr int kAtOnce = 4;             // 16-byte copies of a lane

__device__ __forceinline__ float element(const float* x, int64_t i) { return x[i]; }
__device__ __forceinline__ float element(const uint16_t* x, int64_t i) { return bf16_to_f32(x[i]); }

// 16-byte aligned or, 2 bytes at a time, not.
__device__ __forceinline__ void copy_bytes(const uint8_t* from, uint8_t* to, int64_t bytes) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto low_bits = reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to);
  if ((low_bits | static_cast<uintptr_t>(bytes)) % 16 != 0) {
    for (int64_t i = 2 * lane; i < bytes; i += 2 * kWarp) {
      *reinterpret_cast<uint16_t*>(to + i) = *reinterpret_cast<const uint16_t*>(from + i);
    }
    return;
  }
  for (int64_t at = 16 * lane; at < bytes; at += 16 * kWarp * kAtOnce) {
    uint4 v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (at + 16 * kWarp * i < bytes) v[i] = *reinterpret_cast<const uint4*>(from + at + 16 * kWarp * i);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (at + 16 * kWarp * i < bytes) *reinterpret_cast<uint4*>(to + at + 16 * kWarp * i) = v[i];
    }
  }
}

// row: shared memory for width floats, of this warp. block may be shared or global memory.
template <bool kInt4, class T>
__device__ __forceinline__ void encode_block(const BlockFormat& format, const cuda::Hadamard& h, uint32_t signs,
                                             const T* rows, const float* weights, float* row, uint8_t* block) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, width = format.width;
  const int64_t row_bytes = format.row_bytes(), padding_at = format.scales_at() + 2 * format.chunk;
  auto* scales = reinterpret_cast<uint16_t*>(block + format.scales_at());
  for (int64_t b = padding_at + lane; b < format.block_bytes(); b += kWarp) block[b] = 0;
#pragma unroll 1
  for (int t = 0; t < format.chunk; ++t) {
    const T* x = rows + int64_t{t} * width;
    const auto weighted = [&](int i) { return weights == nullptr ? element(x, i) : element(x, i) * weights[i]; };
    uint8_t* codes = block + t * row_bytes;
    uint16_t scale;
    __syncwarp();  // the row before shares a word of codes and the scales, perhaps
    if constexpr (kInt4) {
      for (int i = lane; i < width; i += kWarp) row[i] = weighted(i);
      cuda::hadamard_row(h, signs, row, h.norm);
      scale = cuda::encode_int4_row(row, width, codes);
    } else {
      scale = cuda::encode_int8(weighted, width, reinterpret_cast<int8_t*>(codes));
    }
    __syncwarp();
    if (lane == 0) scales[t] = scale;
  }
  __syncwarp();
}

struct Work {
  const BlockStoreItem* items;
  cuda::ChunkRuns runs;
};

template <BlockCodec kCodec, class T>
__global__ void __launch_bounds__(kMaxWarps * kWarp, 1)
    store(BlockFormat format, cuda::Hadamard h, Work work, int32_t warp_bytes, int32_t stage_bytes) {
  SKV_SHARED(shared);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * warps + warp;
  if (unit >= work.runs.chunks) return;
  const cuda::ChunkRun& run = cuda::run_of(work.runs.runs, work.runs.n, unit);
  const BlockStoreItem& item = work.items[run.item];
  const int64_t at = unit - run.begin;
  const auto* rows = static_cast<const uint8_t*>(run.rows) + at * format.decoded_bytes();
  auto* block = static_cast<uint8_t*>(item.blocks.row(item.first_chunk + run.first + at));
  if constexpr (kCodec == BlockCodec::raw) {
    copy_bytes(rows, block, format.block_bytes());
  } else {
    uint8_t* stage = shared + warp * warp_bytes;
    auto* row = reinterpret_cast<float*>(stage + stage_bytes);
    uint8_t* to = stage_bytes > 0 ? stage : block;
    encode_block<kCodec == BlockCodec::int4>(format, h, cuda::hadamard_signs(h), reinterpret_cast<const T*>(rows),
                                             item.inverse_weights, row, to);
    if (stage_bytes > 0) copy_bytes(stage, block, format.block_bytes());
  }
}

using StoreKernel = void (*)(BlockFormat, cuda::Hadamard, Work, int32_t, int32_t);

template <class T>
StoreKernel kernel_of(BlockCodec codec) {
  switch (codec) {
    case BlockCodec::int8: return store<BlockCodec::int8, T>;
    case BlockCodec::int4: return store<BlockCodec::int4, T>;
    default: return store<BlockCodec::raw, uint16_t>;
  }
}

}  // namespace

void block_store_cuda(cuda::Stream& stream, const BlockFormat& format, std::span<const BlockStoreItem> items) {
  cuda::Lists lists(stream);
  const cuda::ChunkRuns runs = cuda::list_chunk_runs(lists, items, format.chunk);
  if (runs.chunks == 0) return;
  const auto list = lists.copy(items);
  for (BlockStoreItem& item : list) lists.localize(item.blocks);
  const bool rotated = format.codec == BlockCodec::int4, coded = format.codec != BlockCodec::raw;
  const cuda::Hadamard h = rotated ? cuda::make_hadamard(format.width, false) : cuda::Hadamard();
  const int64_t block_bytes = format.block_bytes();
  const auto stage_bytes = static_cast<int32_t>(coded && block_bytes <= kMaxStaged ? block_bytes : 0);
  const int32_t warp_bytes = stage_bytes + (rotated ? 4 * format.width : 0);
  const int32_t warps = std::clamp(kSharedBytes / std::max(warp_bytes, 1), 1, kMaxWarps);
  const StoreKernel kernel =
      format.dtype == DType::f32 ? kernel_of<float>(format.codec) : kernel_of<uint16_t>(format.codec);
  const Work work{list.device(), runs};
  cuda::launch(kernel, static_cast<unsigned>((runs.chunks + warps - 1) / warps), static_cast<unsigned>(warps * kWarp),
               static_cast<std::size_t>(warps * warp_bytes), stream, format, h, work, warp_bytes, stage_bytes);
}

}  // namespace skv::kernels
