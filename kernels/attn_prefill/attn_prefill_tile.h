// Tiles of keys and per-worker scratch of attn_prefill_cpu: the parts that no SIMD target changes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attn_prefill/attn_prefill.h"
#include "kernels/common/workspace.h"

namespace skv::kernels {

inline constexpr int32_t kTileKeys = 64;
inline constexpr int64_t kBlockQueryRows = 128;  // rows (tokens x group) that share one packing of a tile
inline constexpr int64_t kPad = 16;              // columns are padded to the widest vector of f32

inline constexpr int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

inline int64_t block_tokens(int32_t group) { return std::max<int64_t>(1, kBlockQueryRows / group); }

// Scratch of one worker.
struct PrefillScratch {
  float* q;       // [rows, head_dim], scaled
  float* keys;    // [head_dim, kTileKeys]: the tile's keys, transposed
  float* values;  // [kTileKeys, padded head_dim]
  float* scores;  // [rows, kTileKeys], then the weights
  float* acc;     // [rows, padded head_dim], sum of weight x value so far
  float* max;     // [rows], largest score so far
  float* sum;     // [rows], sum of weights so far
  std::size_t bytes;

  PrefillScratch(const AttnPrefillDesc& desc, void* base) {
    const int64_t rows = block_tokens(desc.group) * desc.group, dim = padded(desc.head_dim);
    WorkspaceCursor cursor(base);
    q = cursor.take<float>(rows * desc.head_dim);
    keys = cursor.take<float>(dim * kTileKeys);
    values = cursor.take<float>(kTileKeys * dim);
    scores = cursor.take<float>(rows * kTileKeys);
    acc = cursor.take<float>(rows * dim);
    max = cursor.take<float>(rows);
    sum = cursor.take<float>(rows);
    bytes = cursor.bytes();
  }
};

// Rows of consecutive positions in ascending order, so that what a query sees of a tile is its first rows.
struct KeyTile {
  int32_t n = 0;
  const void* k[kTileKeys];
  const void* v[kTileKeys];
  int64_t pos[kTileKeys];
};

// Walks an item's spans and cuts them into tiles: after 64 rows, and wherever positions do not ascend. Only the
// span list decides where; rows past the last position that anyone may see are left out, which shortens tiles at their end.
class TileCursor {
 public:
  TileCursor(const AttnPrefillDesc& desc, const AttnPrefillItem& item)
      : spans_(item.spans), n_spans_(item.n_spans), row_bytes_(desc.head_dim * dtype_bytes(desc.dtype)) {}

  bool next(int64_t last_pos, KeyTile& tile) {
    tile.n = 0;
    while (span_ < n_spans_ && tile.n < kTileKeys) {
      const KvSpan& span = spans_[span_];
      const int64_t begin = span.pos + row_;
      const int64_t n_visible = std::min<int64_t>(span.n - row_, last_pos - begin + 1);
      if (n_visible <= 0) {
        if (tile.n > 0 && span.n > 0) break;
        next_span();
        continue;
      }
      if (tile.n > 0 && begin <= tile.pos[tile.n - 1]) break;
      const int32_t n = static_cast<int32_t>(std::min<int64_t>(n_visible, kTileKeys - tile.n));
      append(span, n, tile);
      row_ += n;
      if (row_ == span.n) next_span();
    }
    return tile.n > 0;
  }

 private:
  void next_span() {
    ++span_;
    row_ = 0;
  }
  void append(const KvSpan& span, int32_t n, KeyTile& tile) const {
    for (int32_t i = 0; i < n; ++i) {
      tile.k[tile.n] = offset_bytes(span.k, (row_ + i) * row_bytes_);
      tile.v[tile.n] = offset_bytes(span.v, (row_ + i) * row_bytes_);
      tile.pos[tile.n++] = span.pos + row_ + i;
    }
  }

  const KvSpan* spans_;
  int32_t n_spans_;
  int64_t row_bytes_;
  int32_t span_ = 0;
  int64_t row_ = 0;
};

}  // namespace skv::kernels
