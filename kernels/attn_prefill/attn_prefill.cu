// attn_prefill on a GPU.
//
// Floor: 4 G D flops a visible pair on tensor cores; K and V of a KV head once a block of 128 query rows, mostly from
// the L2 cache: 128 flops a byte of it. So compute-bound; beside the products (mma.sync) count the reads of shared
// memory, of which 32 query rows share each (two fifths of the products' time at the A100's rates), and the
// exponentials (a quarter of it at D = 128).
//
// Query rows (token, head) of a KV head are tiled together. A block walks over tiles of 64 keys, which the host cut
// from the span list: every row meets the same tiles in the same order whatever block it is in, and a tile that it
// does not see changes no bit of it. Tiles are loaded one ahead of their use.
#include "kernels/attn_prefill/attn_prefill.h"

#include <algorithm>
#include <climits>

#include "kernels/attn_prefill/attn_prefill_keys.cuh"
#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/mma_tile.cuh"
#include "kernels/common/cuda/warp.cuh"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

// A warp's query rows, in shared memory because registers are short.
struct Reach {
  int row_in_block, first_row;
  int first_token, last_token;
  int block_last_token;
};

template <int kDim, int kRowTiles>
struct Layout {
  using Tile = cuda::SharedTile<kDim>;
  static constexpr int kRows = kWarps * 16 * kRowTiles;
  static constexpr int kQueryBytes = kRows * Tile::kStride;
  static constexpr int kTileBytes = kTileKeys * Tile::kStride;
  static constexpr int kBytes = kQueryBytes + 4 * kTileBytes + 2 * kTileKeys * static_cast<int>(sizeof(int)) +
                                kWarps * static_cast<int>(sizeof(Reach));

  unsigned char* memory;

  __device__ __forceinline__ Tile q(int row) const { return {memory, row * Tile::kStride}; }
  __device__ __forceinline__ Tile k(int stage) const { return {memory, kQueryBytes + stage * kTileBytes}; }
  __device__ __forceinline__ Tile v(int stage) const { return {memory, kQueryBytes + (2 + stage) * kTileBytes}; }
  __device__ __forceinline__ int* at(int stage) const {
    return reinterpret_cast<int*>(memory + kQueryBytes + 4 * kTileBytes) + stage * kTileKeys;
  }
  __device__ __forceinline__ Reach& reach() const {  // of this warp
    return reinterpret_cast<Reach*>(at(2))[cuda::warp_id()];
  }
};

// Query rows: row i is head i % group of token i / group. Rows past the last one are computed as if they were of its
// token, and not written.
__device__ __forceinline__ int row_count(const Work& work, int group) { return work.item.n_q * group; }
__device__ __forceinline__ int token_of(const Work& work, int group, int row) {
  return min(row, row_count(work, group) - 1) / group;
}

// q * scale * log2(e), rounded once; zeros past the last row.
template <int kDim, int kRowTiles>
__device__ __forceinline__ void load_queries(const Layout<kDim, kRowTiles>& shared, const Work& work, int group,
                                             int first_row, float scale) {
  const int warp = cuda::warp_id();
#pragma unroll 2
  for (int i = warp; i < Layout<kDim, kRowTiles>::kRows; i += kWarps) {
    const int row = first_row + i, token = row / group, head = row % group;
    const bool there = row < row_count(work, group);
    const float* q = work.item.q + token * work.item.q_stride + int64_t{head} * kDim;
    for (int pair = cuda::lane_id(); pair < kDim / 2; pair += 32) {
      const float x = there ? q[2 * pair] : 0.0f, y = there ? q[2 * pair + 1] : 0.0f;
      *reinterpret_cast<uint32_t*>(shared.q(0).at(i, pair / 4) + pair % 4 * 4) =
          cuda::pack_bf16x2(x * scale, y * scale);
    }
  }
}

template <int kDim, int kRowTiles>
__device__ __forceinline__ void load_tile(const Layout<kDim, kRowTiles>& shared, int stage, const Work& work,
                                          const KeyTile tile) {
  constexpr int kChunks = kDim / 8, kSteps = kTileKeys * kChunks / kThreads, kRowsAtOnce = kThreads / kChunks;
  static_assert(kTileKeys * kChunks % kThreads == 0 && kThreads >= kTileKeys);
  constexpr bool kWholeRows = kThreads % kChunks == 0;  // then a thread stays in its column
  const int n = tile.n, thread = static_cast<int>(threadIdx.x), own_row = static_cast<int>(threadIdx.x / kChunks);
  const auto row_of = [&](int i) {
    if constexpr (kWholeRows)
      return own_row + i * kRowsAtOnce;
    else
      return static_cast<int>((threadIdx.x + i * kThreads) / kChunks);
  };
  const auto chunk_of = [](int i) {
    return static_cast<int>((threadIdx.x + (kWholeRows ? 0 : i * kThreads)) % kChunks);
  };
  const auto place = [&](const cuda::SharedTile<kDim>& to, int i) {
    if constexpr (kWholeRows)
      return to.at(own_row + i * kRowsAtOnce % 8, chunk_of(i), i * kRowsAtOnce / 8 * 8, 0);
    else
      return to.at(row_of(i), chunk_of(i));
  };
  const auto copy = [&](int i, const void* k, const void* v) {
    cuda::cp_async16_zfill(place(shared.k(stage), i), k, row_of(i) < n);
    cuda::cp_async16_zfill(place(shared.v(stage), i), v, row_of(i) < n);
  };
  if (tile.first_n == n) {  // one piece: rows on end
    if (thread < kTileKeys) shared.at(stage)[thread] = thread < n ? tile.at + thread : INT_MAX;
    const void *k = offset_bytes(tile.k, thread * 16), *v = offset_bytes(tile.v, thread * 16);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) copy(i, offset_bytes(k, i * kThreads * 16), offset_bytes(v, i * kThreads * 16));
    return;
  }
  if (thread < kTileKeys) {
    RowCursor cursor(work, tile);
    if (thread < n) cursor.seek(thread);
    shared.at(stage)[thread] = thread < n ? cursor.piece.at + thread - cursor.begin : INT_MAX;
  }
  RowCursor cursor(work, tile);
#pragma unroll 1
  for (int i = 0; i < kSteps; ++i) {
    const int row = row_of(i);
    if (row < n) cursor.seek(row);
    const int64_t offset = row < n ? (row - cursor.begin) * int64_t{2 * kDim} + chunk_of(i) * 16 : 0;
    copy(i, offset_bytes(cursor.piece.k, offset), offset_bytes(cursor.piece.v, offset));
  }
}

// A warp's 16 * kRowTiles rows. Each thread holds its columns of rows fragment_row() and + 8 of every 16.
template <int kDim, int kRowTiles>
struct Sums {
  float acc[kRowTiles][kDim / 8][4];
  float max[kRowTiles][2];  // of scores, in powers of two
  float sum[kRowTiles][2];  // of weights, this thread's columns only
};

template <int kRowTiles>
using Scores = float[kRowTiles][kTileKeys / 8][4];
template <int kRowTiles>
using Weights = uint32_t[kRowTiles][kTileKeys / 16][4];  // as A of 16 keys each

template <int kDim, int kRowTiles>
__device__ __forceinline__ void score(const cuda::SharedTile<kDim>& q, const cuda::SharedTile<kDim>& k,
                                      Scores<kRowTiles>& s) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) cuda::load_a(a[m], q, m * 16, step * 2);
#pragma unroll
    for (int pair = 0; pair < kTileKeys / 16; ++pair) {
      uint32_t b[4];
      cuda::load_b_of_rows(b, k, pair * 16, step * 2);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) cuda::multiply_pair(s[m][2 * pair], s[m][2 * pair + 1], a[m], b);
    }
  }
}

// Scores of keys that a row does not see become -inf, whatever they were.
template <int kRowTiles>
__device__ __forceinline__ void hide(const int* at, const Work& work, int group, int row, Scores<kRowTiles>& s) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int low = token_of(work, group, row + m * 16 + cuda::fragment_row());
    const int high = token_of(work, group, row + m * 16 + cuda::fragment_row() + 8);
#pragma unroll
    for (int j = 0; j < kTileKeys / 8; ++j) {
      const int2 key = *reinterpret_cast<const int2*>(at + j * 8 + cuda::fragment_column());
      s[m][j][0] = key.x <= low ? s[m][j][0] : -INFINITY;
      s[m][j][1] = key.y <= low ? s[m][j][1] : -INFINITY;
      s[m][j][2] = key.x <= high ? s[m][j][2] : -INFINITY;
      s[m][j][3] = key.y <= high ? s[m][j][3] : -INFINITY;
    }
  }
}

// Turns scores into weights and brings the running maximum, sum and accumulator up to date.
template <int kDim, int kRowTiles>
__device__ __forceinline__ void soften(Scores<kRowTiles>& s, Weights<kRowTiles>& weights,
                                       Sums<kDim, kRowTiles>& rows) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = rows.max[m][h];
#pragma unroll
      for (int j = 0; j < kTileKeys / 8; ++j) top = fmaxf(top, fmaxf(s[m][j][2 * h], s[m][j][2 * h + 1]));
      top = fmaxf(top, __shfl_xor_sync(cuda::kFullWarp, top, 1));
      top = fmaxf(top, __shfl_xor_sync(cuda::kFullWarp, top, 2));
      // While every score is -inf the weights are exp(-inf) = 0, not exp(-inf + inf) = NaN.
      const float shift = top == -INFINITY ? 0.0f : top;
      factor[h] = cuda::exp2_approx(rows.max[m][h] - shift);
      rows.max[m][h] = top;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kTileKeys / 8; ++j) {
        s[m][j][2 * h] = cuda::exp2_approx(s[m][j][2 * h] - shift);
        s[m][j][2 * h + 1] = cuda::exp2_approx(s[m][j][2 * h + 1] - shift);
        sum += s[m][j][2 * h] + s[m][j][2 * h + 1];
      }
      rows.sum[m][h] = fmaf(rows.sum[m][h], factor[h], sum);
    }
#pragma unroll
    for (int j = 0; j < kTileKeys / 16; ++j) cuda::pack_a(weights[m][j], s[m][2 * j], s[m][2 * j + 1]);
    // The maximum seldom rises after the first tiles; a factor of 1 changes no bit.
    if (!__any_sync(cuda::kFullWarp, factor[0] != 1.0f || factor[1] != 1.0f)) continue;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) rows.acc[m][j][e] *= factor[e / 2];
    }
  }
}

// The sign bits of a pair's infinities and NaN.
__device__ __forceinline__ uint32_t damage(uint32_t pair) {
  return ((pair & 0x7f807f80u) + 0x00800080u) & 0x80008000u;
}

// Weights times values. kClean takes infinities and NaN as zeros.
template <bool kClean, int kDim, int kRowTiles>
__device__ __forceinline__ void accumulate(const Weights<kRowTiles>& weights, const cuda::SharedTile<kDim>& v,
                                           Sums<kDim, kRowTiles>& rows) {
#pragma unroll
  for (int step = 0; step < kTileKeys / 16; ++step) {
#pragma unroll
    for (int pair = 0; pair < kDim / 16; ++pair) {
      uint32_t b[4];
      cuda::load_b(b, v, step * 16, pair * 2);
      if constexpr (kClean) {
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i] &= ~((damage(b[i]) >> 15) * 0xffffu);
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        cuda::multiply_pair(rows.acc[m][2 * pair], rows.acc[m][2 * pair + 1], weights[m][step], b);
      }
    }
  }
}

template <int kDim>
__device__ __forceinline__ bool any_damage(const cuda::SharedTile<kDim>& v) {
  uint32_t found = 0;
  for (int i = cuda::lane_id(); i < kTileKeys * kDim / 8; i += 32) {
    const uint4 x = *reinterpret_cast<const uint4*>(v.at(i / (kDim / 8), i % (kDim / 8)));
    found |= damage(x.x) | damage(x.y) | damage(x.z) | damage(x.w);
  }
  return __any_sync(cuda::kFullWarp, found != 0);
}

// bf16 ones where a pair has a NaN or the given infinity.
__device__ __forceinline__ uint32_t ones(uint32_t pair, uint32_t infinity) {
  const uint32_t low = pair & 0xffffu, high = pair >> 16;
  return ((low & 0x7fffu) > 0x7f80u || low == infinity ? 0x3f80u : 0u) |
         ((high & 0x7fffu) > 0x7f80u || high == infinity ? 0x3f800000u : 0u);
}

// Infinities and NaN among a tile's values, for the rows that see them: a product would carry them, times a weight of
// 0, into all others too. Rare, so small rather than fast.
template <int kDim, int kRowTiles>
__device__ __forceinline__ void spread_damage(const cuda::SharedTile<kDim>& v, const int* at, const Work& work,
                                              int group, int row, Sums<kDim, kRowTiles>& sums) {
  for (int step = 0; step < 2 * (kTileKeys / 16); ++step) {
    const bool negative = step % 2 != 0;
    const int first = step / 2 * 16;
    uint32_t sees[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = token_of(work, group, row + m * 16 + cuda::fragment_row() + i % 2 * 8);
        const int key = first + i / 2 * 8 + cuda::fragment_column();
        sees[m][i] = (at[key] <= token ? 0x3f80u : 0u) | (at[key + 1] <= token ? 0x3f800000u : 0u);
      }
    }
#pragma unroll
    for (int pair = 0; pair < kDim / 16; ++pair) {
      uint32_t b[4];
      cuda::load_b(b, v, first, pair * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i) b[i] = ones(b[i], negative ? 0xff80u : 0x7f80u);
      if (!__any_sync(cuda::kFullWarp, (b[0] | b[1] | b[2] | b[3]) != 0)) continue;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        float hits[2][4] = {};
        cuda::multiply_pair(hits[0], hits[1], sees[m], b);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          if (hits[e / 4][e % 4] > 0.0f) sums.acc[m][2 * pair + e / 4][e % 4] += negative ? -INFINITY : INFINITY;
        }
      }
    }
  }
}

// What becomes of one row's sums: out = acc * share (+ out * old_share where it joins what was there).
struct Outcome {
  float share, old_share, lse;
  bool empty;  // nothing visible, or every score -inf
  bool joins;
};

__device__ __forceinline__ Outcome settle(float sum, float lse, bool merge, float before) {
  const bool empty = sum == 0.0f;
  if (empty) return {0.0f, 0.0f, -INFINITY, true, false};
  if (!merge || before == -INFINITY) return {1.0f / sum, 0.0f, lse, false, false};
  const float top = fmaxf(lse, before), old_weight = expf(before - top), weight = expf(lse - top);
  const float total = old_weight + weight;
  return {weight / total / sum, old_weight / total, top + logf(total), false, true};
}

__device__ __forceinline__ float settled(const Outcome& outcome, float acc, float out) {
  const float own = outcome.empty ? 0.0f : acc * outcome.share;
  return outcome.joins ? fmaf(out, outcome.old_share, own) : own;
}

// This thread's columns of one row of out, and its lse.
template <int kDim>
__device__ __forceinline__ void write_row(const AttnPrefillItem& item, int token, int head,
                                          const float (&acc)[kDim / 8][4], int half, float max, float sum,
                                          float before) {
  const Outcome outcome = settle(sum, fmaf(max, kLn2, logf(sum)), item.merge, before);
  if (outcome.empty && item.merge) return;
  float* out = item.out + token * item.out_stride + int64_t{head} * kDim + cuda::fragment_column();
#pragma unroll
  for (int j = 0; j < kDim / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float old = outcome.joins ? out[j * 8 + e] : 0.0f;
      out[j * 8 + e] = settled(outcome, half == 0 ? acc[j][e] : acc[j][2 + e], old);
    }
  }
  if (item.lse != nullptr && cuda::lane_id() % 4 == 0) item.lse[token * item.lse_stride + head] = outcome.lse;
}

template <int kDim, int kRowTiles>
__device__ __forceinline__ void finish(const Work& work, int group, int row, const Sums<kDim, kRowTiles>& sums) {
  const AttnPrefillItem& item = work.item;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = sums.sum[m][h];
      sum += __shfl_xor_sync(cuda::kFullWarp, sum, 1);
      sum += __shfl_xor_sync(cuda::kFullWarp, sum, 2);
      const int i = row + m * 16 + h * 8 + cuda::fragment_row(), token = i / group, head = i % group;
      const bool there = i < row_count(work, group);
      const float before = item.merge && there ? item.lse[token * item.lse_stride + head] : 0.0f;
      __syncwarp();  // four lanes have read an lse that one of them writes
      if (there) write_row<kDim>(item, token, head, sums.acc[m], h, sums.max[m][h], sum, before);
    }
  }
}

// One tile for one warp.
template <int kDim, int kRowTiles>
__device__ __forceinline__ void attend(const Layout<kDim, kRowTiles>& shared, int stage, const Work& work, int group,
                                       Sums<kDim, kRowTiles>& sums) {
  const int* at = shared.at(stage);
  Scores<kRowTiles> s = {};
  score<kDim, kRowTiles>(shared.q(shared.reach().row_in_block), shared.k(stage), s);
  const bool part_hidden = at[kTileKeys - 1] > shared.reach().first_token;  // or not there
  if (part_hidden) hide<kRowTiles>(at, work, group, shared.reach().first_row, s);
  Weights<kRowTiles> weights;
  soften<kDim, kRowTiles>(s, weights, sums);
  if (part_hidden && any_damage<kDim>(shared.v(stage))) {
    spread_damage<kDim, kRowTiles>(shared.v(stage), at, work, group, shared.reach().first_row, sums);
    accumulate<true, kDim, kRowTiles>(weights, shared.v(stage), sums);
  } else {
    accumulate<false, kDim, kRowTiles>(weights, shared.v(stage), sums);
  }
}

// Blocks of the last query rows come first: they have the longest way to go.
template <int kDim, int kRowTiles>
__global__ void __launch_bounds__(kThreads, 2)
    attn_prefill_kernel(int group, float scale, const Work* list, int n_items, int n_blocks) {
  SKV_SHARED(memory);
  const Layout<kDim, kRowTiles> shared{memory};
  const int block = static_cast<int>(blockIdx.x), first_row = (n_blocks - 1 - block / n_items) * shared.kRows;
  const Work& work = list[block % n_items];
  const int rows = row_count(work, group);
  if (first_row >= rows) return;
  const int row_in_block = cuda::warp_id() * 16 * kRowTiles, row = first_row + row_in_block;
  const int last_token = token_of(work, group, first_row + shared.kRows - 1);
  if (cuda::lane_id() == 0) {  // a warp past the last row sees nothing
    shared.reach() = {row_in_block, row, token_of(work, group, row),
                      row < rows ? token_of(work, group, row + 16 * kRowTiles - 1) : INT_MIN, last_token};
  }
  load_queries(shared, work, group, first_row, scale);
  Sums<kDim, kRowTiles> sums = {};
#pragma unroll
  for (int i = 0; i < 2 * kRowTiles; ++i) sums.max[i / 2][i % 2] = -INFINITY;
  if (threadIdx.x == 0) shared.at(0)[0] = INT_MAX;  // no tile is there yet
  int next = next_tile(work, 0, last_token);
  for (int stage = 0; next >= 0; stage ^= 1) {
    cuda::cp_async_wait<0>();
    __syncthreads();  // the tile is there for all, and all are done with the one before it
    if (next < work.n_tiles) {
      load_tile(shared, stage ^ 1, work, work.tiles[next]);
      next = next_tile(work, next + 1, shared.reach().block_last_token);
    } else {
      next = -1;
    }
    cuda::cp_async_commit();
    if (shared.at(stage)[0] <= shared.reach().last_token) attend(shared, stage, work, group, sums);
  }
  finish<kDim, kRowTiles>(work, group, shared.reach().first_row, sums);
}

__device__ __forceinline__ float element(const float* row, int i) { return row[i]; }
__device__ __forceinline__ float element(const uint16_t* row, int i) { return bf16_to_f32(row[i]); }

constexpr int kPlainDim = 512;

struct PlainSums {
  float acc[kPlainDim / 32] = {};  // columns lane, lane + 32, ...
  float max = -INFINITY;
  float sum = 0.0f;
};

// A tile for one query row, 32 keys at a time: each lane takes one key, then the lanes share each value's columns.
template <class T>
__device__ __forceinline__ void attend_plain(const Work& work, const KeyTile& tile, int token, int dim,
                                             const float* q, PlainSums& sums) {
  const int lane = cuda::lane_id();
  RowCursor cursor(work, tile);
  for (int first = 0; first < tile.n; first += 32) {
    const int key = first + lane;
    const T *k = nullptr, *v = nullptr;
    if (key < tile.n) {
      cursor.seek(key);
      const int64_t offset = (key - cursor.begin) * int64_t{dim};
      if (cursor.piece.at + key - cursor.begin <= token) {
        k = static_cast<const T*>(cursor.piece.k) + offset;
        v = static_cast<const T*>(cursor.piece.v) + offset;
      }
    }
    float s = k == nullptr ? -INFINITY : 0.0f;
    for (int i = 0; k != nullptr && i < dim; ++i) s = fmaf(q[i], element(k, i), s);
    const float top = fmaxf(sums.max, cuda::warp_max(s)), shift = top == -INFINITY ? 0.0f : top;
    const float factor = expf(sums.max - shift), weight = expf(s - shift);
    sums.sum = fmaf(sums.sum, factor, weight);
    sums.max = top;
#pragma unroll
    for (int i = 0; i < kPlainDim / 32; ++i) sums.acc[i] *= factor;
    const int seen = __popc(__ballot_sync(cuda::kFullWarp, k != nullptr));  // positions ascend within a tile
    for (int j = 0; j < seen; ++j) {
      const float w = __shfl_sync(cuda::kFullWarp, weight, j);
      const auto address = __shfl_sync(cuda::kFullWarp, reinterpret_cast<unsigned long long>(v), j);
      const T* value = reinterpret_cast<const T*>(address);
#pragma unroll
      for (int i = 0; i < kPlainDim / 32; ++i) {
        if (i * 32 + lane < dim) sums.acc[i] = fmaf(w, element(value, i * 32 + lane), sums.acc[i]);
      }
    }
  }
}

// Any head_dim, all products f32; for precision, not for speed. A warp has one query row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    attn_prefill_plain_kernel(int dim, int group, float scale, const Work* list, int n_items) {
  SKV_SHARED(memory);
  const Work& work = list[static_cast<int>(blockIdx.x) % n_items];
  const AttnPrefillItem& item = work.item;
  const int warp = cuda::warp_id(), lane = cuda::lane_id();
  const int row = static_cast<int>(blockIdx.x) / n_items * kWarps + warp, token = row / group, head = row % group;
  if (token >= item.n_q) return;  // the whole warp, and no barrier of the block follows
  float* q = reinterpret_cast<float*>(memory) + warp * dim;
  for (int i = lane; i < dim; i += 32) q[i] = item.q[token * item.q_stride + int64_t{head} * dim + i] * scale;
  __syncwarp();

  PlainSums sums;
  for (int t = next_tile(work, 0, token); t < work.n_tiles; t = next_tile(work, t + 1, token)) {
    attend_plain<T>(work, work.tiles[t], token, dim, q, sums);
  }
  const float sum = cuda::warp_sum(sums.sum);
  float* lse = item.lse == nullptr ? nullptr : item.lse + token * item.lse_stride + head;
  const Outcome outcome = settle(sum, sums.max + logf(sum), item.merge, item.merge ? *lse : 0.0f);
  __syncwarp();  // all lanes have read the lse that one of them writes
  if (outcome.empty && item.merge) return;
  float* out = item.out + token * item.out_stride + int64_t{head} * dim;
#pragma unroll
  for (int i = 0; i < kPlainDim / 32; ++i) {
    const int d = i * 32 + lane;
    if (d < dim) out[d] = settled(outcome, sums.acc[i], outcome.joins ? out[d] : 0.0f);
  }
  if (lse != nullptr && lane == 0) *lse = outcome.lse;
}

int64_t most_rows(const AttnPrefillDesc& desc, std::span<const AttnPrefillItem> items) {
  int64_t rows = 0;
  for (const AttnPrefillItem& item : items) rows = std::max(rows, int64_t{item.n_q} * desc.group);
  return rows;
}

template <int kDim, int kRowTiles>
void launch_blocks(cuda::Stream& stream, const AttnPrefillDesc& desc, int64_t rows, const cuda::Staged<Work>& work) {
  using Shared = Layout<kDim, kRowTiles>;
  const int64_t blocks = (rows + Shared::kRows - 1) / Shared::kRows;
  cuda::launch(attn_prefill_kernel<kDim, kRowTiles>, dim3(static_cast<unsigned>(blocks * work.size())),
               dim3(kThreads), Shared::kBytes, stream, desc.group, desc.scale * kLog2E, work.device(),
               static_cast<int>(work.size()), static_cast<int>(blocks));
}

// Blocks of 128 rows do more with each key that they load, blocks of 64 fill a GPU sooner; a row's bits are the same.
constexpr int64_t kManyBlocks = 132;

template <int kDim>
void launch_rows(cuda::Stream& stream, const AttnPrefillDesc& desc, int64_t rows, const cuda::Staged<Work>& work) {
  if constexpr (kDim <= 128) {
    const int64_t big = Layout<kDim, 2>::kRows;
    if ((rows + big - 1) / big * work.size() >= kManyBlocks) return launch_blocks<kDim, 2>(stream, desc, rows, work);
  }
  launch_blocks<kDim, 1>(stream, desc, rows, work);
}

template <class T>
void launch_plain(cuda::Stream& stream, const AttnPrefillDesc& desc, int64_t rows, const cuda::Staged<Work>& work) {
  const int64_t blocks = (rows + kWarps - 1) / kWarps * work.size();
  cuda::launch(attn_prefill_plain_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
               static_cast<std::size_t>(kWarps * desc.head_dim) * sizeof(float), stream, desc.head_dim, desc.group,
               desc.scale, work.device(), static_cast<int>(work.size()));
}

}  // namespace

void attn_prefill_cuda(cuda::Stream& stream, const AttnPrefillDesc& desc, std::span<const AttnPrefillItem> items,
                       void*) {
  const int64_t rows = most_rows(desc, items);
  if (rows == 0) return;
  // Every head has lists of its own: those of many heads with very many keys are not staged at once.
  if (items.size() > 1 && list_bytes(items) > stream.most_staged_bytes()) {
    const std::size_t half = items.size() / 2;
    attn_prefill_cuda(stream, desc, items.first(half), nullptr);
    return attn_prefill_cuda(stream, desc, items.subspan(half), nullptr);
  }
  cuda::Lists lists(stream);
  const cuda::Staged<Work> work = make_work(lists, desc, items);
  if (work.size() == 0) return;
  if (desc.dtype == DType::f32) return launch_plain<float>(stream, desc, rows, work);
  switch (desc.head_dim) {
    case 32: return launch_rows<32>(stream, desc, rows, work);
    case 64: return launch_rows<64>(stream, desc, rows, work);
    case 80: return launch_rows<80>(stream, desc, rows, work);
    case 96: return launch_rows<96>(stream, desc, rows, work);
    case 128: return launch_rows<128>(stream, desc, rows, work);
    case 256:
      if (Layout<256, 1>::kBytes > stream.most_shared_bytes()) return launch_plain<uint16_t>(stream, desc, rows, work);
      return launch_rows<256>(stream, desc, rows, work);
    default: return launch_plain<uint16_t>(stream, desc, rows, work);
  }
}

}  // namespace skv::kernels
