// Where CUDA cuts an item's rows: blocks and runs each on their own, whatever the bound of the blocks. Lengths
// depend on the item only.
#pragma once

#include <cstdint>

namespace skv::kernels {

inline constexpr int32_t kShortSplit = 256;
inline constexpr int32_t kLongSplit = 512;
inline constexpr int64_t kLongRuns = 16384;  // rows of runs from which their splits are long

inline int32_t run_split_rows(int64_t run_rows) { return run_rows < kLongRuns ? kShortSplit : kLongSplit; }
inline int64_t split_bound(int64_t n_items, int64_t total_rows) { return total_rows / kShortSplit + 2 * n_items; }

}  // namespace skv::kernels
