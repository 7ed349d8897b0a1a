// Split-KV attention of one query token. Floors: 2 n D sizeof(kv) bytes, 4 G n D flops (for G = 8 two fifths of
// what an H100 can do in f32 in the time it reads bf16 rows), and 8 G D bytes of parts written and read per split.
//
// A block of four warps takes a split and up to 8 query heads of the KV head. It asks for all that fits at once: K
// rows through cp.async into pieces of 16 rows (two pieces a warp), the first V rows into registers. Every lane takes
// two rows and a quarter of the columns, so that a query element read from shared memory serves two products; partial
// sums are swapped between lanes until each has its own rows and heads. The split's weights then meet V: neighbouring
// lanes have neighbouring columns, and a row's weights are broadcast. Several blocks share an SM: one reads K while
// another adds up V. Sums of query and key are always over the same quarters in the same order, wherever a row lies.
#include <algorithm>
#include <bit>
#include <cstddef>

#include "kernels/attn_decode/attn_decode.h"
#include "kernels/attn_decode/attn_decode_split.h"
#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/softmax.cuh"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

using cuda::kFullWarp;
using cuda::kWarp;

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kPieceRows = 16;
constexpr int kPieceChunks = 16;  // 16 bytes of a row each
constexpr int kStages = 2;        // pieces of a warp that are there or on their way
constexpr float kLog2E = 1.44269504088896340736f;

// An item's splits are consecutive: first those of its runs, then those of its blocks, of kShortSplit rows, so that the
// empty ones of a loose bound are last and change no bit.
struct DeviceItem {
  const float* q;
  KvBlocks blocks;
  int32_t first_split;
  int32_t run_splits;
  int32_t run_split;  // rows of a split of runs
  int32_t run_rows;
  int32_t first_run;
  int32_t n_runs;  // that have rows
};

struct DeviceRun {
  KvRun run;           // lists are the device's
  int32_t before;      // rows of the item's runs before it
  int32_t page_shift;  // rows_per_page is 1 << page_shift; -1: it is no power of two
};

// Rows [first, first + rows) of an item's blocks, or of its runs.
struct Split {
  bool of_runs;
  int first, rows;
};

struct Args {
  SoftmaxParts parts;
  float scale;
  int32_t row_bytes;
  int32_t chunks;      // of a row
  int32_t tiles;       // of heads
  int32_t split_room;  // rows of the longest split
  bool whole;          // rows are whole chunks
};

// Shared memory, by offsets.
struct Room {
  int pitch;      // bytes between a piece's rows: an odd number of chunks, so that eight rows lie in different banks
  int pieces;     // K; then the sums
  int q;          // [heads][columns], zeros past the end
  int weights;    // [row][heads]: logits, then weights
  int rows;       // addresses of K rows, then of V rows
  int reduced;    // per warp and head: maximum; then sum
  int bytes;
};

SKV_HD inline Room make_room(int chunks, int width, int heads, int split_room) {
  Room room{};
  const int wide = chunks < kPieceChunks ? chunks : kPieceChunks;
  room.pitch = 16 * (wide | 1);
  const int stages = kWarps * kStages * kPieceRows * room.pitch, sums = 4 * kThreads * heads * width;
  room.q = stages > sums ? stages : sums;
  room.weights = room.q + 4 * heads * chunks * width;
  room.rows = room.weights + 4 * heads * split_room;
  room.reduced = room.rows + 16 * split_room;
  room.bytes = room.reduced + 2 * 4 * kWarps * heads;
  return room;
}

__device__ __forceinline__ Split find_split(const DeviceItem& item, int index) {
  const int split = index - item.first_split;
  const bool of_runs = split < item.run_splits;
  const int length = of_runs ? item.run_split : kShortSplit;
  const int first = (of_runs ? split : split - item.run_splits) * length;
  const int64_t rows = of_runs ? item.run_rows : int64_t{*item.blocks.n_ids} * item.blocks.block_tokens;
  const int64_t left = rows - first;
  return {of_runs, first, left < length ? static_cast<int>(left) : length};
}

__device__ __forceinline__ void find_rows(const Split& split, const DeviceItem& item, const DeviceRun* runs,
                                          int row_bytes, const void** k, const void** v) {
  for (int r = static_cast<int>(threadIdx.x); r < split.rows; r += kThreads) {
    int row = split.first + r;
    if (!split.of_runs) {
      const KvBlocks& blocks = item.blocks;
      const int64_t at = blocks.ids[row / blocks.block_tokens] * blocks.block_bytes +
                         int64_t{row % blocks.block_tokens} * row_bytes;
      k[r] = offset_bytes(blocks.k, at);
      v[r] = offset_bytes(blocks.v, at);
    } else {
      const DeviceRun* of = runs + item.first_run;
      const DeviceRun* const last = of + item.n_runs - 1;
      while (of < last && of[1].before <= row) ++of;
      const KvRun& run = of->run;
      row += run.first - of->before;
      const int page = of->page_shift >= 0 ? row >> of->page_shift : row / run.rows_per_page;
      const int64_t at = int64_t{row - page * run.rows_per_page} * row_bytes;
      k[r] = offset_bytes(run.k_pages[page], run.k_offset_bytes + at);
      v[r] = offset_bytes(run.v_pages[page], run.v_offset_bytes + at);
    }
  }
}

// Where a warp's index-th piece lies: pieces of one tile of rows one after another, then the warp's next tile.
struct Piece {
  int tile, chunk, chunks;
};

template <int kChunks>
__device__ __forceinline__ Piece find_piece(int index, int chunks) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if constexpr (kChunks > 0 && kChunks <= kPieceChunks) return {warp + kWarps * index, 0, kChunks};
  const int slices = (chunks + kPieceChunks - 1) / kPieceChunks, first = index % slices * kPieceChunks;
  const int left = chunks - first;
  return {warp + kWarps * (index / slices), first, left < kPieceChunks ? left : kPieceChunks};
}

// Rows past the last repeat it: their logits are masked.
template <class R, int kChunks>
__device__ __forceinline__ void fetch_piece(const cuda::RowList& k, const Piece& piece, int pitch,
                                            unsigned char* to) {
  const int chunks = kChunks > 0 ? (kChunks < kPieceChunks ? kChunks : kPieceChunks) : piece.chunks;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < kPieceRows * chunks; i += kWarp) {
    const int r = i / chunks, chunk = i % chunks, row = piece.tile * kPieceRows + r;
    const void* from = k.rows[row < k.n ? row : k.n - 1];
    unsigned char* at = to + r * pitch + chunk * 16;
    if (k.whole) {
      cuda::cp_async16(at, static_cast<const char*>(from) + (piece.chunk + chunk) * 16);
    } else {
      *reinterpret_cast<uint4*>(at) = cuda::load_columns<R>(from, piece.chunk + chunk, k.dim, false);
    }
  }
}

// Lane l has rows l % 8 and l % 8 + 8 of the piece, and of its chunks every fourth from l / 8 on.
template <class R, int kHeads, int kChunks>
__device__ __forceinline__ void dot_piece(const unsigned char* piece, int pitch, int n_chunks, const float* q,
                                          int q_stride, float (&sums)[2][kHeads]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int chunks = kChunks > 0 ? (kChunks < kPieceChunks ? kChunks : kPieceChunks) : n_chunks;
  const unsigned char* row = piece + lane % 8 * pitch;
#pragma unroll(kHeads >= 4 ? 1 : 2)
  for (int chunk = lane / 8; chunk < chunks; chunk += 4) {
    float k[2][R::kWidth];
    R::widen(*reinterpret_cast<const uint4*>(row + chunk * 16), k[0]);
    R::widen(*reinterpret_cast<const uint4*>(row + 8 * pitch + chunk * 16), k[1]);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int i = 0; i < R::kWidth; i += 4) {
        const float4 x = *reinterpret_cast<const float4*>(q + h * q_stride + chunk * R::kWidth + i);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          sums[r][h] = fmaf(x.x, k[r][i], sums[r][h]);
          sums[r][h] = fmaf(x.y, k[r][i + 1], sums[r][h]);
          sums[r][h] = fmaf(x.z, k[r][i + 2], sums[r][h]);
          sums[r][h] = fmaf(x.w, k[r][i + 3], sums[r][h]);
        }
      }
    }
  }
}

// What a lane ends up with: one row of a tile, and half of the heads (with one head, lanes 8 to 15 and 24 to 31
// repeat others' and are no owners).
template <int kHeads>
struct Owned {
  static constexpr int kOwn = kHeads > 1 ? kHeads / 2 : 1;
  int row, head;
  bool owner;
  __device__ Owned() {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    row = lane % 8 + (lane & 16 ? 8 : 0);
    head = kHeads > 1 && (lane & 8) ? kOwn : 0;
    owner = kHeads > 1 || !(lane & 8);
  }
};

template <int kHeads>
__device__ __forceinline__ void swap_sums(const float (&sums)[2][kHeads], float (&own)[Owned<kHeads>::kOwn]) {
  constexpr int kOwn = Owned<kHeads>::kOwn;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool second_row = lane & 16, second_half = lane & 8;
  float row[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float away = second_row ? sums[0][h] : sums[1][h], kept = second_row ? sums[1][h] : sums[0][h];
    row[h] = kept + __shfl_xor_sync(kFullWarp, away, 16);
  }
#pragma unroll
  for (int h = 0; h < kOwn; ++h) {
    const float away = second_half ? row[h] : row[kHeads - kOwn + h];
    const float kept = second_half ? row[kHeads - kOwn + h] : row[h];
    own[h] = kept + __shfl_xor_sync(kFullWarp, away, 8);
  }
}

// Over the lanes that own rows of the same heads.
template <class Join>
__device__ __forceinline__ float join_rows(float x, Join&& join) {
  x = join(x, __shfl_xor_sync(kFullWarp, x, 1));
  x = join(x, __shfl_xor_sync(kFullWarp, x, 2));
  x = join(x, __shfl_xor_sync(kFullWarp, x, 4));
  return join(x, __shfl_xor_sync(kFullWarp, x, 16));
}

// The warp's logits into weights [row][kHeads]; per head the largest of them into max. Starts with kStages pieces
// asked for.
template <class R, int kHeads, int kChunks>
__device__ __forceinline__ void score_rows(const cuda::RowList& k, int chunks, const Room& room,
                                           unsigned char* shared, float scale, float* max) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int tiles = (k.n + kPieceRows - 1) / kPieceRows, slices = (chunks + kPieceChunks - 1) / kPieceChunks;
  const int pieces = tiles > warp ? ((tiles - warp - 1) / kWarps + 1) * slices : 0;
  unsigned char* const stages = shared + room.pieces + warp * kStages * kPieceRows * room.pitch;
  const float* const q = reinterpret_cast<const float*>(shared + room.q);
  float* const weights = reinterpret_cast<float*>(shared + room.weights);
  const Owned<kHeads> owned;
  constexpr int kOwn = Owned<kHeads>::kOwn;
  float sums[2][kHeads] = {}, top[kOwn];
#pragma unroll
  for (int h = 0; h < kOwn; ++h) top[h] = -INFINITY;
  for (int p = 0; p < pieces; ++p) {
    cuda::cp_async_wait<kStages - 1>();
    __syncwarp();
    const Piece piece = find_piece<kChunks>(p, chunks);
    unsigned char* const stage = stages + p % kStages * kPieceRows * room.pitch;
    dot_piece<R, kHeads, kChunks>(stage, room.pitch, piece.chunks, q + piece.chunk * R::kWidth, chunks * R::kWidth,
                                  sums);
    __syncwarp();
    if (p + kStages < pieces) fetch_piece<R, kChunks>(k, find_piece<kChunks>(p + kStages, chunks), room.pitch, stage);
    cuda::cp_async_commit();
    if (piece.chunk + piece.chunks < chunks) continue;
    float own[kOwn];
    swap_sums(sums, own);
    const int row = piece.tile * kPieceRows + owned.row;
#pragma unroll
    for (int h = 0; h < kOwn; ++h) {
      const float logit = own[h] * scale;
      if (row < k.n) top[h] = fmaxf(top[h], logit);
      if (row < k.n && owned.owner) weights[row * kHeads + owned.head + h] = logit;
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) sums[0][h] = sums[1][h] = 0.0f;
  }
#pragma unroll
  for (int h = 0; h < kOwn; ++h) {
    const float most = join_rows(top[h], [](float a, float b) { return fmaxf(a, b); });
    if (lane % 8 == 0 && lane < 16 && owned.owner) max[warp * kHeads + owned.head + h] = most;
  }
}

// Logits that the lane itself wrote into weights, and per warp and head their sum; the block's maxima replace the
// warp's.
template <int kHeads>
__device__ __forceinline__ void weigh_rows(int n, float* weights, const float* max, float* sum) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const Owned<kHeads> owned;
  constexpr int kOwn = Owned<kHeads>::kOwn;
  float shift[kOwn], total[kOwn] = {};
#pragma unroll
  for (int h = 0; h < kOwn; ++h) {
    float top = -INFINITY;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, max[w * kHeads + owned.head + h]);
    shift[h] = top == -INFINITY ? 0.0f : top;
  }
  for (int row = warp * kPieceRows + owned.row; row < n && owned.owner; row += kWarps * kPieceRows) {
#pragma unroll
    for (int h = 0; h < kOwn; ++h) {
      float* const at = weights + row * kHeads + owned.head + h;
      const float p = cuda::exp2_approx((*at - shift[h]) * kLog2E);
      total[h] += p;
      *at = p;
    }
  }
  __syncwarp();
#pragma unroll
  for (int h = 0; h < kOwn; ++h) {
    const float whole = join_rows(total[h], [](float a, float b) { return a + b; });
    if (lane % 8 == 0 && lane < 16 && owned.owner) sum[warp * kHeads + owned.head + h] = whole;
  }
}

template <int kHeads>
__device__ __forceinline__ void load_query(const float* q, int dim, int columns, int heads, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * columns; i += kThreads) {
    const int h = i / columns, d = i % columns;
    to[i] = h < heads && d < dim ? q[int64_t{h} * dim + d] : 0.0f;
  }
}

// The maxima and sums of the split's heads: of all warps, or of none where it has no rows.
template <int kHeads>
__device__ __forceinline__ void store_totals(const SoftmaxPart& part, int first_head, int heads, const float* max,
                                             const float* sum) {
  const int h = static_cast<int>(threadIdx.x);
  if (h >= heads) return;
  float top = -INFINITY, total = 0.0f;
  for (int w = 0; max != nullptr && w < kWarps; ++w) {
    top = fmaxf(top, max[w * kHeads + h]);
    total += sum[w * kHeads + h];
  }
  part.max[first_head + h] = top;
  part.sum[first_head + h] = total;
}

// kChunks > 0: rows are so many whole chunks.
template <class R, int kHeads, int kChunks>
__global__ void __launch_bounds__(kThreads, 4)
    attend(Args args, const DeviceItem* items, const int32_t* item_of_split, const DeviceRun* runs) {
  SKV_SHARED(shared);
  const int index = static_cast<int>(blockIdx.x) / args.tiles, tile = static_cast<int>(blockIdx.x) % args.tiles;
  const DeviceItem item = items[item_of_split[index]];
  const Split split = find_split(item, index);
  const SoftmaxPart part = args.parts.at(index);
  const int chunks = kChunks > 0 ? kChunks : args.chunks, dim = args.parts.head_dim, first_head = tile * kHeads;
  const int heads = args.parts.group - first_head < kHeads ? args.parts.group - first_head : kHeads;
  const int rows = split.rows;
  if (rows <= 0) return store_totals<kHeads>(part, first_head, heads, nullptr, nullptr);

  const Room room = make_room(chunks, R::kWidth, kHeads, args.split_room);
  const void** const addresses = reinterpret_cast<const void**>(shared + room.rows);
  float* const weights = reinterpret_cast<float*>(shared + room.weights);
  float* const max = reinterpret_cast<float*>(shared + room.reduced);
  float* const sum = max + kWarps * kHeads;
  find_rows(split, item, runs, args.row_bytes, addresses, addresses + args.split_room);
  __syncthreads();
  const bool whole = kChunks > 0 || args.whole;
  const cuda::RowList k = {addresses, rows, dim, whole}, v = {addresses + args.split_room, rows, dim, whole};
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int p = 0; p < kStages; ++p) {
    const Piece piece = find_piece<kChunks>(p, chunks);
    unsigned char* const stage = shared + room.pieces + (warp * kStages + p) * kPieceRows * room.pitch;
    if (piece.tile * kPieceRows < rows) fetch_piece<R, kChunks>(k, piece, room.pitch, stage);
    cuda::cp_async_commit();
  }
  const cuda::RowShare share = cuda::row_share(chunks < kWarp ? chunks : kWarp);
  typename R::Raw ahead[kHeads == 8 || kChunks == 0 ? 4 : 8];
  cuda::fetch_rows<R>(v, share, 0, ahead);
  load_query<kHeads>(item.q + int64_t{first_head} * dim, dim, chunks * R::kWidth, heads,
                     reinterpret_cast<float*>(shared + room.q));
  __syncthreads();
  score_rows<R, kHeads, kChunks>(k, chunks, room, shared, args.scale, max);
  __syncthreads();
  weigh_rows<kHeads>(rows, weights, max, sum);
  __syncthreads();
  store_totals<kHeads>(part, first_head, heads, max, sum);
  float* const acc = part.acc + first_head * args.parts.padded_dim();
  for (int pass = 0; pass < chunks; pass += kWarp) {
    if (pass > 0) cuda::fetch_rows<R>(v, share, pass, ahead);
    float sums[kHeads][R::kWidth] = {};
    cuda::add_rows<R, false>(v, share, pass, weights, ahead, sums);
    cuda::store_sums<R>(share, pass, sums, reinterpret_cast<float*>(shared + room.pieces), heads, acc,
                        args.parts.padded_dim());
  }
}

using Attend = void (*)(Args, const DeviceItem*, const int32_t*, const DeviceRun*);

// A kernel and the shape that it is made for.
struct Choice {
  Attend kernel;
  int heads;
  int width;
};

template <int kChunks>
Choice choose_for_dim(int32_t group) {
  using R = cuda::Bf16Rows;
  if (group == 1) return {attend<R, 1, kChunks>, 1, R::kWidth};
  if (group == 2) return {attend<R, 2, kChunks>, 2, R::kWidth};
  if (group <= 4) return {attend<R, 4, kChunks>, 4, R::kWidth};
  return {attend<R, 8, kChunks>, 8, R::kWidth};
}

Choice choose(const AttnDecodeDesc& desc) {
  if (desc.dtype == DType::f32) return {attend<cuda::F32Rows, 4, 0>, 4, cuda::F32Rows::kWidth};
  if (desc.head_dim == 128) return choose_for_dim<16>(desc.group);
  if (desc.head_dim == 64) return choose_for_dim<8>(desc.group);
  if (desc.group <= 4) return {attend<cuda::Bf16Rows, 4, 0>, 4, cuda::Bf16Rows::kWidth};
  return {attend<cuda::Bf16Rows, 8, 0>, 8, cuda::Bf16Rows::kWidth};
}

struct Extent {
  int64_t block_rows = 0;  // at most
  int64_t run_rows = 0;
  int32_t runs = 0;  // that have rows
  int32_t run_splits() const {
    const int64_t length = run_split_rows(run_rows);
    return static_cast<int32_t>((run_rows + length - 1) / length);
  }
  int32_t splits() const {
    return run_splits() + static_cast<int32_t>((block_rows + kShortSplit - 1) / kShortSplit);
  }
};

Extent measure(const AttnDecodeItem& item) {
  Extent extent;
  if (item.blocks.n_ids != nullptr) extent.block_rows = int64_t{item.blocks.max_ids} * item.blocks.block_tokens;
  for (int32_t i = 0; i < item.n_runs; ++i) {
    extent.run_rows += item.runs[i].n;
    extent.runs += item.runs[i].n > 0;
  }
  return extent;
}

struct Plan {
  cuda::Staged<DeviceItem> items;
  cuda::Staged<cuda::MergeItem> merges;
  cuda::Staged<int32_t> item_of_split;
  cuda::Staged<DeviceRun> runs;
  int32_t n_splits = 0, n_runs = 0;
};

void list_runs(const AttnDecodeItem& item, cuda::Lists* lists, Plan* plan) {
  int32_t before = 0;
  for (int32_t i = 0; i < item.n_runs; ++i) {
    KvRun run = item.runs[i];
    if (run.n <= 0) continue;
    run.k_pages = lists->shared(run.k_pages, run.n_pages);
    run.v_pages = lists->shared(run.v_pages, run.n_pages);
    const auto size = static_cast<uint32_t>(run.rows_per_page);
    plan->runs[plan->n_runs++] = {run, before, std::has_single_bit(size) ? std::countr_zero(size) : -1};
    before += run.n;
  }
}

void plan_item(const AttnDecodeItem& item, int32_t index, cuda::Lists* lists, Plan* plan) {
  const Extent extent = measure(item);
  const int32_t first = plan->n_splits, end = first + extent.splits();
  plan->items[index] = {item.q, item.blocks, first, extent.run_splits(), run_split_rows(extent.run_rows),
                        static_cast<int32_t>(extent.run_rows), plan->n_runs, extent.runs};
  plan->merges[index] = {item.out, item.lse, first, end, item.merge};
  while (plan->n_splits < end) plan->item_of_split[plan->n_splits++] = index;
  list_runs(item, lists, plan);
}

}  // namespace

void attn_decode_cuda(cuda::Stream& stream, const AttnDecodeDesc& desc, std::span<const AttnDecodeItem> items,
                      void* workspace) {
  const auto n_items = static_cast<int64_t>(items.size());
  int64_t n_splits = 0, n_runs = 0;
  int32_t split_room = kShortSplit;
  for (const AttnDecodeItem& item : items) {
    const Extent extent = measure(item);
    n_splits += extent.splits();
    n_runs += extent.runs;
    split_room = std::max(split_room, run_split_rows(extent.run_rows));
  }
  cuda::Lists lists(stream);
  Plan plan = {lists.make<DeviceItem>(n_items), lists.make<cuda::MergeItem>(n_items), lists.make<int32_t>(n_splits),
               lists.make<DeviceRun>(n_runs)};
  if (!stream.ok()) return;
  for (int64_t i = 0; i < n_items; ++i) {
    plan_item(items[static_cast<std::size_t>(i)], static_cast<int32_t>(i), &lists, &plan);
  }

  const Choice choice = choose(desc);
  Args args{};
  args.parts = {static_cast<float*>(workspace), desc.group, desc.head_dim};
  args.scale = desc.scale;
  args.row_bytes = static_cast<int32_t>(desc.head_dim * dtype_bytes(desc.dtype));
  args.chunks = (desc.head_dim + choice.width - 1) / choice.width;
  args.tiles = (desc.group + choice.heads - 1) / choice.heads;
  args.split_room = split_room;
  args.whole = desc.head_dim % choice.width == 0;
  const Room room = make_room(args.chunks, choice.width, choice.heads, split_room);
  cuda::launch(choice.kernel, dim3(static_cast<unsigned>(n_splits * args.tiles)), dim3(kThreads),
               static_cast<std::size_t>(room.bytes), stream, args, plan.items.device(),
               plan.item_of_split.device(), plan.runs.device());
  cuda::launch(&cuda::merge_parts, dim3(static_cast<unsigned>(n_items * desc.group)), dim3(cuda::kMergeThreads),
               cuda::kMergeBytes, stream, args.parts, plan.merges.device());
}

}  // namespace skv::kernels
