// key_rebuild on a GPU.
//
// Floor: bytes n C (r a + 2 D) of A and slots; 2 n C r D flops, which are 66 a byte at r = 160, D = 128 and bf16, so
// bandwidth-bound on tensor cores. b (r D 2 bytes a block) comes from the L2 cache.
//
// A block has the rows of several chunks, 64 or 128, and goes through the rank in panels of 64 columns of A and rows
// of b, three of them on their way at a time (the whole of r <= 192 at once). int8 codes enter products as they are,
// for they are exact in bf16; their row's scale is applied to the sums. Sums then pass through shared memory to
// threads that each rotate a few pairs of a chunk's consecutive tokens: the rotation of its first token is the
// product of the two tabulated ones, the next tokens' are that times the tabulated rotation by their distance, so
// that tables are hardly read.
#include "kernels/key_rebuild/key_rebuild.h"

#include <algorithm>

#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/mma_tile.cuh"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

constexpr int kPanel = 64;  // of the rank
constexpr int kStages = 3;
constexpr int kWarpRows = 32;     // of two warps, which share out the columns
constexpr int kThreads = 256;     // at most
constexpr int kUnitRows = 8;      // tokens that one thread rotates, where the chunk is a multiple of them
constexpr int kStepColumns = 32;  // what products take of a panel at a time

// What a row of the tile is, in shared memory.
struct Row {
  const void* a;
  float scale;
  int segment;
  int position;
  int slot_row;  // of the slot region
};

// Bytes of shared memory, and where things are in it.
struct Plan {
  int rows;                            // of a tile
  int a_stride, b_stride, out_stride;  // of a row, bytes

  __host__ __device__ Plan(int threads, int dim, bool coded)
      : rows(threads / 64 * kWarpRows),
        a_stride(cuda::PaddedTile::stride_of(kPanel * (coded ? 1 : 2))),
        b_stride(cuda::PaddedTile::stride_of(2 * dim)),
        out_stride(4 * (dim + 8)) {}
  __host__ __device__ int stage_bytes() const { return rows * a_stride + kPanel * b_stride; }
  __host__ __device__ int rows_at() const {
    const int panels = kStages * stage_bytes(), out = rows * out_stride;
    return panels > out ? panels : out;
  }
  __host__ __device__ int bytes() const { return rows_at() + rows * static_cast<int>(sizeof(Row)); }
};

// One tile of one item.
struct Tile {
  const KeyRebuildDesc& desc;
  const KeyRebuildItem& item;
  Plan plan;
  unsigned char* memory;
  int n_rows;
  bool vectors;  // rows of A may be read 16 bytes at a time

  __device__ __forceinline__ Row* rows() const { return reinterpret_cast<Row*>(memory + plan.rows_at()); }
  __device__ __forceinline__ cuda::PaddedTile a(int panel) const {
    return {memory + panel % kStages * plan.stage_bytes(), plan.a_stride};
  }
  __device__ __forceinline__ cuda::PaddedTile b(int panel) const {
    return {a(panel).memory + plan.rows * plan.a_stride, plan.b_stride};
  }
  __device__ __forceinline__ float* out(int row) const {
    return reinterpret_cast<float*>(memory + row * plan.out_stride);
  }
  __device__ __forceinline__ int panels() const { return (desc.rank + kPanel - 1) / kPanel; }
  // Columns of a panel that products take: those beyond the rank are zeros.
  __device__ __forceinline__ int width(int panel) const {
    const int left = desc.rank - panel * kPanel;
    return left >= kPanel ? kPanel : (left + kStepColumns - 1) / kStepColumns * kStepColumns;
  }
};

__device__ __forceinline__ int segment_of(const KeyRebuildItem& item, int chunk) {
  int s = item.n_segments - 1;
  while (s > 0 && item.segments[s].first_chunk > chunk) --s;
  return s;
}

__device__ __forceinline__ void describe_rows(const Tile& tile, int first_chunk) {
  const BlockFormat format = tile.desc.a_format();
  const int row = static_cast<int>(threadIdx.x);
  if (row >= tile.n_rows) return;
  const int i = first_chunk + row / format.chunk, t = row % format.chunk, chunk = tile.item.chunks[i];
  const void* block = tile.item.a.row(chunk);
  Row described{offset_bytes(block, t * format.row_bytes()), 1.0f, segment_of(tile.item, chunk),
                chunk * format.chunk + t, tile.item.slot(i) * format.chunk + t};
  if (format.codec == BlockCodec::int8) {
    const void* scales = offset_bytes(block, format.scales_at());
    described.scale = cuda::f16_to_float(static_cast<const uint16_t*>(scales)[t]);
  }
  tile.rows()[row] = described;
}

// Rows of b and zeros past the rank.
__device__ __forceinline__ void load_basis(const Tile& tile, int segment, int panel) {
  const auto* b = static_cast<const unsigned char*>(tile.item.segments[segment].b);
  const int chunks = tile.desc.head_dim / 8, threads = static_cast<int>(blockDim.x), n = tile.width(panel) * chunks;
  const int rows_on = threads / chunks, chunks_on = threads % chunks;
  const int valid = (tile.desc.rank - panel * kPanel) * chunks;
  b += int64_t{panel} * kPanel * chunks * 16;
  int row = static_cast<int>(threadIdx.x) / chunks, chunk = static_cast<int>(threadIdx.x) % chunks;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < n; i += threads) {
    cuda::cp_async16_zfill(tile.b(panel).at(row, chunk), i < valid ? b + int64_t{i} * 16 : b, i < valid);
    row += rows_on;
    chunk += chunks_on;
    if (chunk >= chunks) chunk -= chunks, ++row;
  }
}

// The same for A, whose rows past the tile's last one are zeros too.
template <bool kCoded>
__device__ __forceinline__ void load_rows(const Tile& tile, int panel) {
  constexpr int kPer16 = kCoded ? 16 : 8;
  const int log_chunks = (tile.width(panel) == kPanel ? 3 : 2) - (kCoded ? 1 : 0);
  const int threads = static_cast<int>(blockDim.x), n = tile.plan.rows << log_chunks;
  const Row* rows = tile.rows();
  if (tile.vectors) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < n; i += threads) {
      const int row = i >> log_chunks, chunk = i & ((1 << log_chunks) - 1), column = panel * kPanel + chunk * kPer16;
      const bool valid = row < tile.n_rows && column < tile.desc.rank;
      const void* from = valid ? offset_bytes(rows[row].a, int64_t{column} * (16 / kPer16)) : tile.item.segments[0].b;
      cuda::cp_async16_zfill(tile.a(panel).at(row, chunk), from, valid);
    }
    return;
  }
  for (int i = static_cast<int>(threadIdx.x); i < 4 * n; i += threads) {  // a word of 2 elements or 4 codes at a time
    const int row = i >> (log_chunks + 2), word = i & ((4 << log_chunks) - 1);
    const int column = panel * kPanel + word * (kPer16 / 4);
    uint32_t bits = 0;
    for (int j = 0; row < tile.n_rows && j < kPer16 / 4 && column + j < tile.desc.rank; ++j) {
      if constexpr (kCoded)
        bits |= uint32_t{static_cast<const uint8_t*>(rows[row].a)[column + j]} << (8 * j);
      else
        bits |= uint32_t{static_cast<const uint16_t*>(rows[row].a)[column + j]} << (16 * j);
    }
    *reinterpret_cast<uint32_t*>(tile.a(panel).at(row, word / 4) + word % 4 * 4) = bits;
  }
}

template <int kPairs>
using Sums = float[2][2 * kPairs][4];  // rows: two of 16; columns: kPairs of 16

// The columns of a warp: pairs of eight from this one on.
template <int kPairs>
__device__ __forceinline__ int first_pair() {
  return cuda::warp_id() % 2 * kPairs;
}
__device__ __forceinline__ int first_row() { return cuda::warp_id() / 2 * kWarpRows; }

// Two of four codes as a pair of bf16.
__device__ __forceinline__ uint32_t widen_codes(uint32_t codes, int half) {
  const uint32_t two = codes >> (16 * half);
  return cuda::pack_bf16x2(static_cast<float>(static_cast<int8_t>(two & 0xffu)),
                           static_cast<float>(static_cast<int8_t>(two >> 8 & 0xffu)));
}

template <bool kCoded, int kPairs>
__device__ __forceinline__ void multiply_step(const cuda::PaddedTile& a, const cuda::PaddedTile& b, int column,
                                              int pairs, Sums<kPairs>& sums) {
  uint32_t codes[2][4];
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    if constexpr (kCoded) cuda::load_a(codes[m], a, first_row() + m * 16, column / 16);
  }
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t rows[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      if constexpr (kCoded) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rows[m][i] = widen_codes(codes[m][2 * step + i % 2], i / 2);
      } else {
        cuda::load_a(rows[m], a, first_row() + m * 16, column / 8 + step * 2);
      }
    }
    // A lane has four codes on end where the product expects two of the lower and two of the upper eight columns, so
    // the rows of b are taken in that order.
    const int i = cuda::lane_id() % 16, lane_row = kCoded ? i % 8 / 2 * 4 + i / 8 * 2 + i % 2 : i;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      if (first_pair<kPairs>() + pair >= pairs) continue;
      uint32_t basis[4];
      cuda::ldmatrix_x4_trans(
          basis, b.at(lane_row + column + step * 16, cuda::lane_id() / 16 + (first_pair<kPairs>() + pair) * 2));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        cuda::multiply_pair(sums[m][2 * pair], sums[m][2 * pair + 1], rows[m], basis);
      }
    }
  }
}

// All products of a tile with one segment's b.
template <bool kCoded, int kPairs>
__device__ __forceinline__ void multiply(const Tile& tile, int segment, bool has_basis, Sums<kPairs>& sums) {
  const int panels = tile.panels(), pairs = tile.desc.head_dim / 16;
  for (int panel = 0; panel < kStages; ++panel) {
    if (panel < panels) {
      if (!has_basis) load_basis(tile, segment, panel);
      load_rows<kCoded>(tile, panel);
    }
    cuda::cp_async_commit();
  }
  for (int panel = 0; panel < panels; ++panel) {
    cuda::cp_async_wait<kStages - 1>();
    __syncthreads();
    if (first_row() < tile.n_rows) {
#pragma unroll
      for (int column = 0; column < kPanel; column += kStepColumns) {
        if (column < tile.width(panel)) {
          multiply_step<kCoded, kPairs>(tile.a(panel), tile.b(panel), column, pairs, sums);
        }
      }
    }
    if (panel + kStages < panels) {
      __syncthreads();  // all are done with the panel whose place the next one takes
      load_basis(tile, segment, panel + kStages);
      load_rows<kCoded>(tile, panel + kStages);
    }
    cuda::cp_async_commit();
  }
}

// Sums, scaled and centred, to the tile of f32 rows.
template <int kPairs>
__device__ __forceinline__ void spill_sums(const Tile& tile, int segment, const Sums<kPairs>& sums) {
  const auto* mu = static_cast<const uint32_t*>(tile.item.segments[segment].mu);
  const int pairs = tile.desc.head_dim / 16;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int low = first_row() + m * 16 + cuda::fragment_row(), high = low + 8;
    const float low_scale = low < tile.n_rows ? tile.rows()[low].scale : 0.0f;
    const float high_scale = high < tile.n_rows ? tile.rows()[high].scale : 0.0f;
#pragma unroll
    for (int j = 0; j < 2 * kPairs; ++j) {
      if (first_pair<kPairs>() + j / 2 >= pairs) continue;
      const int column = (first_pair<kPairs>() * 2 + j) * 8 + cuda::fragment_column();
      const uint32_t centre = mu[column / 2];
      const float x = bf16_to_f32(static_cast<uint16_t>(centre)),
                  y = bf16_to_f32(static_cast<uint16_t>(centre >> 16));
      const float(&sum)[4] = sums[m][j];
      *reinterpret_cast<float2*>(tile.out(low) + column) =
          make_float2(fmaf(sum[0], low_scale, x), fmaf(sum[1], low_scale, y));
      *reinterpret_cast<float2*>(tile.out(high) + column) =
          make_float2(fmaf(sum[2], high_scale, x), fmaf(sum[3], high_scale, y));
    }
  }
}

template <int kN>
__device__ __forceinline__ void load_floats(const float* from, float (&to)[kN]) {
  if constexpr (kN % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kN; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(from + i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) to[i] = from[i];
  }
}

template <int kN>
__device__ __forceinline__ void store_bf16(uint16_t* to, const float (&from)[kN]) {
  if constexpr (kN == 8) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(cuda::pack_bf16x2(from[0], from[1]), cuda::pack_bf16x2(from[2], from[3]),
                   cuda::pack_bf16x2(from[4], from[5]), cuda::pack_bf16x2(from[6], from[7]));
  } else if constexpr (kN == 4) {
    *reinterpret_cast<uint2*>(to) =
        make_uint2(cuda::pack_bf16x2(from[0], from[1]), cuda::pack_bf16x2(from[2], from[3]));
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) to[i] = f32_to_bf16(from[i]);
  }
}

// The rotation of a position, times the attention factor: cos and sin of kPairs pairs.
template <int kPairs>
__device__ __forceinline__ void rotation(const RopeView& rope, int position, int pair, float (&c)[kPairs],
                                         float (&s)[kPairs]) {
  float lo[2 * kPairs], hi[2 * kPairs];
  load_floats(rope.lo + int64_t{position % kRopeLow} * rope.rotary_dim + 2 * pair, lo);
  load_floats(rope.hi + int64_t{position / kRopeLow} * rope.rotary_dim + 2 * pair, hi);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float cl = lo[2 * i], sl = lo[2 * i + 1], ch = hi[2 * i], sh = hi[2 * i + 1];
    c[i] = rope.attention_factor * (ch * cl - sh * sl);
    s[i] = rope.attention_factor * (sh * cl + ch * sl);
  }
}

// n tokens on end from a row on: kGroup pairs, pair and those after it.
template <int kGroup>
__device__ __forceinline__ void rotate_pairs(const Tile& tile, int row, int n, int pair) {
  const RopeView& rope = tile.desc.rope;
  const int half = rope.rotary_dim / 2;
  float c[kGroup], s[kGroup];
  rotation<kGroup>(rope, tile.rows()[row].position, pair, c, s);
  auto* to = static_cast<uint16_t*>(tile.item.slot_region) + int64_t{tile.rows()[row].slot_row} * tile.desc.head_dim;
  for (int t = 0; t < n; ++t, to += tile.desc.head_dim) {
    float step[2 * kGroup], x[kGroup], y[kGroup], both[2 * kGroup];
    load_floats(rope.lo + t * rope.rotary_dim + 2 * pair, step);
    if (rope.interleaved) {
      load_floats(tile.out(row + t) + 2 * pair, both);
#pragma unroll
      for (int i = 0; i < kGroup; ++i) x[i] = both[2 * i], y[i] = both[2 * i + 1];
    } else {
      load_floats(tile.out(row + t) + pair, x);
      load_floats(tile.out(row + t) + half + pair, y);
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const float cos = c[i] * step[2 * i] - s[i] * step[2 * i + 1],
                  sin = s[i] * step[2 * i] + c[i] * step[2 * i + 1];
      const float rotated = x[i] * cos - y[i] * sin;
      y[i] = y[i] * cos + x[i] * sin;
      x[i] = rotated;
      both[2 * i] = x[i], both[2 * i + 1] = y[i];
    }
    if (rope.interleaved) {
      store_bf16(to + 2 * pair, both);
    } else {
      store_bf16(to + pair, x);
      store_bf16(to + half + pair, y);
    }
  }
}

// Elements that are not rotated: 2 * kGroup of n tokens on end.
template <int kGroup>
__device__ __forceinline__ void pass_on(const Tile& tile, int row, int n, int column) {
  auto* to = static_cast<uint16_t*>(tile.item.slot_region) + int64_t{tile.rows()[row].slot_row} * tile.desc.head_dim;
  for (int t = 0; t < n; ++t, to += tile.desc.head_dim) {
    float x[2 * kGroup];
    load_floats(tile.out(row + t) + column, x);
    store_bf16(to + column, x);
  }
}

// The segment's rows of the tile into their slots.
template <int kGroup>
__device__ __forceinline__ void write_keys(const Tile& tile, int segment) {
  const int chunk = tile.desc.chunk, unit = chunk % kUnitRows == 0 ? kUnitRows : chunk;
  const int groups = tile.desc.head_dim / (2 * kGroup), rotated = tile.desc.rope.rotary_dim / (2 * kGroup);
  const int n = tile.n_rows / unit * groups;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    const int row = i / groups * unit, group = i % groups;
    if (tile.rows()[row].segment != segment) continue;
    if (group < rotated)
      rotate_pairs<kGroup>(tile, row, unit, group * kGroup);
    else
      pass_on<kGroup>(tile, row, unit, group * 2 * kGroup);
  }
}

// The lowest segment above this one that a row of the tile belongs to, or n_segments.
__device__ __forceinline__ int next_segment(const Tile& tile, int segment) {
  int next = tile.item.n_segments;
  for (int row = 0; row < tile.n_rows; row += tile.desc.chunk) {
    const int own = tile.rows()[row].segment;
    if (own > segment) next = min(next, own);
  }
  return next;
}

// A tile is done once for every segment that its chunks belong to, and only rows of that segment are written.
template <bool kCoded, int kPairs>
__global__ void __launch_bounds__(kThreads, kPairs <= 4 ? 2 : 1)
    key_rebuild_kernel(KeyRebuildDesc desc, const KeyRebuildItem* items, bool vectors, bool fours) {
  SKV_SHARED(memory);
  const KeyRebuildItem& item = items[blockIdx.y];
  const Plan plan(static_cast<int>(blockDim.x), desc.head_dim, kCoded);
  const int chunks = plan.rows / desc.chunk, first = static_cast<int>(blockIdx.x) * chunks, left = *item.n - first;
  if (left <= 0) return;
  const Tile tile{desc, item, plan, memory, min(left, chunks) * desc.chunk, vectors};

  bool has_basis = item.n_segments == 1;  // then b can be on its way before the chunks are known
  for (int panel = 0; has_basis && panel < min(kStages, tile.panels()); ++panel) load_basis(tile, 0, panel);
  describe_rows(tile, first);
  __syncthreads();
  for (int segment = next_segment(tile, -1); segment < item.n_segments;) {
    Sums<kPairs> sums = {};
    multiply<kCoded, kPairs>(tile, segment, has_basis, sums);
    has_basis = false;
    __syncthreads();  // the panels' place is taken by the sums
    spill_sums<kPairs>(tile, segment, sums);
    __syncthreads();
    if (fours)
      write_keys<4>(tile, segment);
    else
      write_keys<1>(tile, segment);
    segment = next_segment(tile, segment);
    if (segment < item.n_segments) __syncthreads();
  }
}

__device__ __forceinline__ float a_element(const BlockFormat& format, const void* block, int row, int column) {
  const int64_t i = int64_t{row} * format.width + column;
  if (format.codec == BlockCodec::raw) return static_cast<const float*>(block)[i];
  const auto* scales = static_cast<const uint16_t*>(offset_bytes(block, format.scales_at()));
  return cuda::f16_to_float(scales[row]) * static_cast<float>(static_cast<const int8_t*>(block)[i]);
}

// f32 keys, for precision, not for speed: a block has one chunk.
__global__ void __launch_bounds__(kThreads) key_rebuild_f32_kernel(KeyRebuildDesc desc, const KeyRebuildItem* items) {
  SKV_SHARED(memory);
  const KeyRebuildItem& item = items[blockIdx.y];
  const int i = static_cast<int>(blockIdx.x), dim = desc.head_dim, n = desc.chunk * dim;
  if (i >= *item.n) return;
  float* keys = reinterpret_cast<float*>(memory);
  const int chunk = item.chunks[i];
  const BasisSegment segment = item.segments[segment_of(item, chunk)];
  const void* block = item.a.row(chunk);
  for (int at = static_cast<int>(threadIdx.x); at < n; at += kThreads) {
    const float* b = static_cast<const float*>(segment.b) + at % dim;
    float sum = 0.0f;
    for (int j = 0; j < desc.rank; ++j) {
      sum = fmaf(a_element(desc.a_format(), block, at / dim, j), b[int64_t{j} * dim], sum);
    }
    keys[at] = sum + static_cast<const float*>(segment.mu)[at % dim];
  }
  __syncthreads();
  const RopeView& rope = desc.rope;
  float* slot = static_cast<float*>(item.slot_region) + int64_t{item.slot(i)} * n;
  for (int at = static_cast<int>(threadIdx.x); at < n / 2; at += kThreads) {
    const int t = at / (dim / 2), pair = at % (dim / 2), half = rope.rotary_dim / 2;
    if (pair >= half) {
      for (int d = t * dim + 2 * pair; d < t * dim + 2 * pair + 2; ++d) slot[d] = keys[d];
      continue;
    }
    float c[1], s[1];
    rotation<1>(rope, chunk * desc.chunk + t, pair, c, s);
    const int x = t * dim + (rope.interleaved ? 2 * pair : pair), y = rope.interleaved ? x + 1 : x + half;
    slot[x] = keys[x] * c[0] - keys[y] * s[0];
    slot[y] = keys[y] * c[0] + keys[x] * s[0];
  }
}

// Tiles of 128 rows read b half as often, tiles of 64 fill a GPU sooner.
constexpr int64_t kManyTiles = 4 * 132;

template <bool kCoded, int kPairs>
void launch_tiles(cuda::Stream& stream, const KeyRebuildDesc& desc, const cuda::Staged<KeyRebuildItem>& items,
                  bool vectors, int32_t max_n) {
  const auto tiles = [&](int threads) {
    const int chunks = Plan(threads, desc.head_dim, kCoded).rows / desc.chunk;
    return (int64_t{max_n} + chunks - 1) / chunks;
  };
  const bool fits = static_cast<std::size_t>(Plan(kThreads, desc.head_dim, kCoded).bytes()) <= stream.most_shared_bytes();
  const int threads = fits && tiles(kThreads / 2) * items.size() >= kManyTiles ? kThreads : kThreads / 2;
  const auto aligned = [](const float* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool fours = desc.rope.rotary_dim % 8 == 0 && aligned(desc.rope.lo) && aligned(desc.rope.hi);
  cuda::launch(key_rebuild_kernel<kCoded, kPairs>,
               dim3(static_cast<unsigned>(tiles(threads)), static_cast<unsigned>(items.size())),
               dim3(static_cast<unsigned>(threads)),
               static_cast<std::size_t>(Plan(threads, desc.head_dim, kCoded).bytes()), stream, desc, items.device(),
               vectors, fours);
}

template <bool kCoded>
void launch_codec(cuda::Stream& stream, const KeyRebuildDesc& desc, const cuda::Staged<KeyRebuildItem>& items,
                  int32_t max_n) {
  bool vectors = desc.rank % (kCoded ? 16 : 8) == 0;
  for (const KeyRebuildItem& item : items) {
    vectors = vectors && item.a.offset_bytes % 16 == 0 && item.a.row_bytes % 16 == 0;
  }
  if (desc.head_dim <= 32) return launch_tiles<kCoded, 1>(stream, desc, items, vectors, max_n);
  if (desc.head_dim <= 64) return launch_tiles<kCoded, 2>(stream, desc, items, vectors, max_n);
  if (desc.head_dim <= 96) return launch_tiles<kCoded, 3>(stream, desc, items, vectors, max_n);
  if (desc.head_dim <= 128) return launch_tiles<kCoded, 4>(stream, desc, items, vectors, max_n);
  return launch_tiles<kCoded, 8>(stream, desc, items, vectors, max_n);
}

}  // namespace

void key_rebuild_cuda(cuda::Stream& stream, const KeyRebuildDesc& desc, std::span<const KeyRebuildItem> items) {
  int32_t max_n = 0;
  for (const KeyRebuildItem& item : items) max_n = std::max(max_n, item.max_n);
  if (max_n == 0) return;
  cuda::Lists lists(stream);
  const auto list = lists.copy(items);
  for (KeyRebuildItem& item : list) {
    lists.localize(item.a);
    item.segments = lists.shared(item.segments, item.n_segments);
  }
  if (list.size() == 0) return;
  if (desc.dtype == DType::bf16) {
    if (desc.a_codec == BlockCodec::int8)
      launch_codec<true>(stream, desc, list, max_n);
    else
      launch_codec<false>(stream, desc, list, max_n);
    return;
  }
  cuda::launch(key_rebuild_f32_kernel, dim3(static_cast<unsigned>(max_n), static_cast<unsigned>(items.size())),
               dim3(kThreads), static_cast<std::size_t>(desc.chunk) * static_cast<std::size_t>(desc.head_dim) * 4,
               stream, desc, list.device());
}

}  // namespace skv::kernels
