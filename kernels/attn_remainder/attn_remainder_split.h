// Where CUDA cuts an item's chunks.
#pragma once

#include <cstdint>

namespace skv::kernels {

inline constexpr int32_t kRemainderSplit = 512;

inline int64_t remainder_splits(int32_t n) { return (n + kRemainderSplit - 1) / kRemainderSplit; }
inline int64_t remainder_split_bound(int64_t n_items, int64_t chunks) { return chunks / kRemainderSplit + n_items; }

}  // namespace skv::kernels
