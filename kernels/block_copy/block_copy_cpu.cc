#include <algorithm>
#include <cstring>

#include "kernels/block_copy/block_copy.h"
#include "kernels/common/dtype.h"
#include "kernels/common/parallel.h"

namespace skv::kernels {
namespace {

constexpr int64_t kPiece = 256 << 10;  // bytes a work item: one large copy keeps many cores busy

}  // namespace

void block_copy_cpu(std::span<const BlockCopyItem> items) {
  int64_t most = 0;
  for (const BlockCopyItem& item : items) most = std::max(most, item.bytes);
  const int64_t pieces = (most + kPiece - 1) / kPiece;
  parallel_for(static_cast<int64_t>(items.size()) * pieces, [&](int64_t unit, int) {
    const BlockCopyItem& item = items[static_cast<std::size_t>(unit / pieces)];
    const int64_t at = unit % pieces * kPiece, bytes = std::min(kPiece, item.bytes - at);
    if (bytes <= 0) return;
    std::memcpy(offset_bytes(item.to, at), offset_bytes(item.from, at), static_cast<std::size_t>(bytes));
  });
}

}  // namespace skv::kernels
