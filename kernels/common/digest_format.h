// Digests: what is kept of a chunk's keys to judge how much it could matter, one row a chunk and KV head.
//
//   mean           the mean of the C keys: D elements of dtype, or (int8) D codes as in block_format.h and an f16 scale
//   mean_variance  the same, and an f16 variance v = 1/(C D) sum_t |k_t - mean|^2
//   box            the largest, then the smallest element by element: 2 D elements of dtype (exact, so a true bound)
//   keys_2bit      every key on its own: y = H k, H of hadamard.h; u = -1.5, -0.5, 0.5 or 1.5 as y lies below -t,
//                  below 0, below t or above, t = 0.9957 rms(y) (the best uniform step for a normal y); code = u + 1.5,
//                  D / 4 bytes a key: byte b holds elements b, b + D / 4, b + 2 D / 4, b + 3 D / 4 from the low bits
//                  up; an f16 scale |y| / |u| a key, which keeps its length: the estimate <q, scale * u> of <q, y> is 6 %
//                  short on average, and masses made of it are nearest to the truth (an unbiased scale overstates them:
//                  exp of the noise; either selects the same)
//
// Rows, scales and variances lie in arrays of their own, so that rows stay 16-byte aligned. A zero key has scale 0. A
// chunk with a key that is not finite has NaN in its row (raw), scale or variance.
#pragma once

#include "kernels/common/block_format.h"
#include "kernels/common/paged.h"

namespace skv::kernels {

enum class DigestKind : uint8_t { mean = 0, mean_variance = 1, box = 2, keys_2bit = 3 };

struct DigestFormat {
  DigestKind kind = DigestKind::mean;
  BlockCodec codec = BlockCodec::raw;  // raw or int8; int8 for the means only
  DType dtype = DType::bf16;           // of the keys, and of raw rows
  int32_t chunk = 0;
  int32_t head_dim = 0;

  SKV_HD int64_t row_bytes() const {
    if (kind == DigestKind::keys_2bit) return int64_t{chunk} * head_dim / 4;
    const int64_t elements = kind == DigestKind::box ? 2 * head_dim : head_dim;
    return codec == BlockCodec::int8 ? elements : elements * dtype_bytes(dtype);
  }
  SKV_HD int64_t scale_bytes() const {  // of one chunk; 0 = none
    if (kind == DigestKind::keys_2bit) return 2 * chunk;
    return codec == BlockCodec::int8 ? 2 : 0;
  }
  SKV_HD int64_t variance_bytes() const { return kind == DigestKind::mean_variance ? 2 : 0; }
  SKV_HD int64_t chunk_bytes() const { return row_bytes() + scale_bytes() + variance_bytes(); }
};

// Row c of each is chunk c's. scales and variances are unused (no pages) where the format has none.
struct DigestRows {
  PagedRows rows;
  PagedRows scales;
  PagedRows variances;
};

}  // namespace skv::kernels
