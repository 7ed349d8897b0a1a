// Views that several ops share. All offsets int64; ids and counts int32.
//
// Lists that describe a launch (items, spans, segments, arrays of page pointers) are host memory, and an op is done with
// them when its call returns. All else that they point to is data: device memory or pinned host memory where the backend
// is a GPU, and then read and written in the order of the calls. So a count or an id that an op wrote is read by a later
// op through a pointer, and the host gives only a bound of it.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/host_device.h"

namespace skv::kernels {

// Rows spread over pages of equal size. Row i is at
//   pages[i / rows_per_page] + offset_bytes + (i % rows_per_page) * row_bytes.
// One page holds the rows of every head one head after another; offset_bytes selects the head.
struct PagedRows {
  void* const* pages = nullptr;
  int64_t offset_bytes = 0;
  int32_t rows_per_page = 1;
  int32_t row_bytes = 0;
  int32_t n_pages = 0;
  SKV_HD void* row(int64_t i) const {
    return skv::offset_bytes(pages[i / rows_per_page], offset_bytes + (i % rows_per_page) * row_bytes);
  }
};

// n consecutive tokens of one KV head: k and v rows of head_dim elements, contiguous. pos is the position of row 0
// (only causal ops read it).
struct KvSpan {
  const void* k = nullptr;
  const void* v = nullptr;
  int32_t n = 0;
  int64_t pos = 0;
};

// Blocks of equal token count out of one region: block ids[i] starts at k + ids[i] * block_bytes (v likewise).
struct KvBlocks {
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t block_bytes = 0;
  int32_t block_tokens = 0;
  const int32_t* ids = nullptr;
  const int32_t* n_ids = nullptr;  // data; null = 0
  int32_t max_ids = 0;             // bound of *n_ids
};

// A low-rank segment of keys: chunks from first_chunk on (up to the next segment's) are A b + mu, per KV head.
struct BasisSegment {
  const void* b = nullptr;   // [r, head_dim] of one head, dtype of the op's desc
  const void* mu = nullptr;  // [head_dim] of one head
  int32_t first_chunk = 0;
};

}  // namespace skv::kernels
