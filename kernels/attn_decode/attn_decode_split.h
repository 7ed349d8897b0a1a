// Where CUDA cuts an item's rows: blocks and spans each on their own, whatever the bound of the blocks. Lengths
// depend on the item only.
#pragma once

#include <cstdint>

namespace skv::kernels {

inline constexpr int32_t kShortSplit = 256;
inline constexpr int32_t kLongSplit = 512;
inline constexpr int64_t kLongSpans = 16384;  // rows of spans from which their splits are long

inline int32_t span_split_rows(int64_t span_rows) { return span_rows < kLongSpans ? kShortSplit : kLongSplit; }
inline int64_t split_bound(int64_t n_items, int64_t total_rows) { return total_rows / kShortSplit + 2 * n_items; }

}  // namespace skv::kernels
