// Floor: the bytes read and written once (device memory 3 TB/s on an H100, the host link 55 GB/s where one end is
// pinned host memory). A warp has 4 KB of one item, eight 16-byte reads of a lane before its first write.
#include "kernels/block_copy/block_copy.h"

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/ptx.cuh"
#include "kernels/common/cuda/runs.cuh"
#include "kernels/common/cuda/warp.cuh"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

using cuda::kWarp;

constexpr int kWarps = 8;   // of a block
constexpr int kAtOnce = 8;  // 16-byte copies of a lane
constexpr int64_t kPiece = 16 * kWarp * kAtOnce;

struct Copy {
  void* to;
  const void* from;
  int64_t bytes;
  int64_t begin;  // pieces of all copies before it
};

__global__ void __launch_bounds__(kWarps * kWarp) copy_pieces(const Copy* copies, int32_t n, int64_t pieces) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t piece = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (piece >= pieces) return;
  const Copy& copy = cuda::run_of(copies, n, piece);
  const int64_t at = (piece - copy.begin) * kPiece + 16 * lane;
  const auto* from = static_cast<const uint8_t*>(copy.from) + at;
  auto* to = static_cast<uint8_t*>(copy.to) + at;
  const int64_t left = copy.bytes - at;
  uint4 v[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (16 * kWarp * i < left) v[i] = cuda::load_once(from + 16 * kWarp * i);
  }
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    if (16 * kWarp * i < left) *reinterpret_cast<uint4*>(to + 16 * kWarp * i) = v[i];
  }
}

}  // namespace

void block_copy_cuda(cuda::Stream& stream, std::span<const BlockCopyItem> items) {
  cuda::Lists lists(stream);
  const auto list = lists.make<Copy>(static_cast<int64_t>(items.size()));
  int64_t pieces = 0;
  int32_t n = 0;
  for (const BlockCopyItem& item : items) {
    if (item.bytes <= 0 || list.size() == 0) continue;
    list[n++] = {item.to, item.from, item.bytes, pieces};
    pieces += (item.bytes + kPiece - 1) / kPiece;
  }
  cuda::launch(copy_pieces, static_cast<unsigned>((pieces + kWarps - 1) / kWarps), kWarps * kWarp, 0, stream,
               list.device(), n, pieces);
}

}  // namespace skv::kernels
