// Blocks: the rows of one chunk of one head, coded, one block a chunk. Values, exact keys and low-rank coordinates are
// kept in them.
//
//   block = [C rows of codes][C f16 scales], padded to 16 bytes; raw blocks have no scales
//   raw   rows of dtype
//   int8  code in [-127, 127];           x = scale * code;            scale = max|x| / 127
//   int4  y = H x, H of hadamard.h; two codes a byte, element i of the first half of a row in the low four bits of byte
//         i, element width / 2 + i in the high ones; code in [0, 15];  y = scale * (code - 7.5);  scale = max|y| / 8
//
// A scale is rounded up to f16, so that |decoded - given| <= scale / 2 for every element (of x, or of y for int4) but for
// f32 rounding. A row of zeros has scale 0 and comes back as zeros. A row with a NaN, an infinity, or a maximum too large
// for an f16 scale (65504 * 127 and 65504 * 8) has scale NaN and comes back as NaN in every element: damage is carried,
// never hidden.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace skv::kernels {

enum class BlockCodec : uint8_t { raw = 0, int8 = 1, int4 = 2 };

struct BlockFormat {
  BlockCodec codec = BlockCodec::raw;
  DType dtype = DType::bf16;  // of decoded rows, and of raw ones
  int32_t chunk = 0;          // C, rows of a block
  int32_t width = 0;          // elements of a row: head_dim, or the rank

  SKV_HD int64_t row_bytes() const {  // of codes
    if (codec == BlockCodec::raw) return width * dtype_bytes(dtype);
    return codec == BlockCodec::int8 ? width : width / 2;
  }
  SKV_HD int64_t scales_at() const { return chunk * row_bytes(); }
  SKV_HD int64_t block_bytes() const {
    return codec == BlockCodec::raw ? scales_at() : (scales_at() + 2 * chunk + 15) / 16 * 16;
  }
  SKV_HD int64_t decoded_bytes() const { return int64_t{chunk} * width * dtype_bytes(dtype); }
};

}  // namespace skv::kernels
