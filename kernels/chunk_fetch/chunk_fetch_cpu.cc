#include <algorithm>
#include <cstring>

#include "kernels/chunk_fetch/chunk_fetch.h"
#include "kernels/common/parallel.h"

namespace skv::kernels {
namespace {

constexpr int32_t kPiece = 32;       // chunks a work item: enough of them for many cores when there are few heads
constexpr int64_t kLineBytes = 64;
constexpr int32_t kAhead = 2;        // blocks: each is a new place in memory, which no hardware prefetcher foresees

void prefetch(const void* block, int64_t bytes) {
  for (int64_t b = 0; b < bytes; b += kLineBytes) __builtin_prefetch(offset_bytes(block, b));
}

void fetch(const ChunkFetchItem& item, int64_t block_bytes, int32_t begin, int32_t end) {
  for (int32_t i = begin; i < end; ++i) {
    if (i + kAhead < end) prefetch(item.blocks.row(item.chunks[i + kAhead]), block_bytes);
    std::memcpy(offset_bytes(item.slot_region, item.slots[i] * block_bytes), item.blocks.row(item.chunks[i]),
                static_cast<std::size_t>(block_bytes));
  }
}

}  // namespace

bool chunk_fetch_supports(const ChunkFetchDesc& desc) {
  return desc.codec == BlockCodec::raw && (desc.dtype == DType::bf16 || desc.dtype == DType::f32) && desc.chunk > 0 &&
         desc.head_dim > 0;
}

void chunk_fetch_cpu(const ChunkFetchDesc& desc, std::span<const ChunkFetchItem> items) {
  const int64_t block_bytes = int64_t{desc.chunk} * desc.head_dim * dtype_bytes(desc.dtype);
  int32_t most = 0;
  for (const ChunkFetchItem& item : items) most = std::max(most, *item.n);
  const int64_t pieces = (int64_t{most} + kPiece - 1) / kPiece;
  parallel_for(static_cast<int64_t>(items.size()) * pieces, [&](int64_t unit, int) {
    const ChunkFetchItem& item = items[static_cast<std::size_t>(unit / pieces)];
    const auto begin = static_cast<int32_t>(unit % pieces) * kPiece;
    fetch(item, block_bytes, begin, std::min(begin + kPiece, *item.n));
  });
}

}  // namespace skv::kernels
