// The remainder's weighted sum. Floors: n (value bytes + 4 G) bytes, 2 n G D flops; 8 G D bytes of parts written and
// read per 512 chunks, and of every split the whole list of ids is looked over, from the L2 cache.
//
// A block of four warps takes a split and up to 8 query heads. The first value rows are under way while the block
// reads its log masses, masks what was selected and makes weights of the rest in shared memory; then it adds up the
// rows as attn_decode does its values, leaving out those that no head weighs.
#include <cstddef>
#include <type_traits>

#include "kernels/attn_remainder/attn_remainder.h"
#include "kernels/attn_remainder/attn_remainder_split.h"
#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/softmax.cuh"
#include "kernels/ops_cuda.h"

namespace skv::kernels {
namespace {

using cuda::kWarp;

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRoom = kRemainderSplit;
constexpr float kLog2E = 1.44269504088896340736f;

struct Split {
  int32_t item;
  int32_t first;  // chunk
};

struct Args {
  SoftmaxParts parts;
  int32_t tiles;  // of heads
  bool whole;     // rows are whole widths
};

// Shared memory, by offsets.
struct Room {
  int weights;   // [chunk][heads]: log masses, then weights
  int rows;      // addresses
  int selected;  // flags
  int reduced;   // per warp and head: maximum; then sum
  int bytes;
};

SKV_HD inline Room make_room(int width, int heads) {
  Room room{};
  room.weights = static_cast<int>(cuda::shared_sum_bytes(kThreads, heads, width));
  room.rows = room.weights + 4 * heads * kRoom;
  room.selected = room.rows + 8 * kRoom;
  room.reduced = room.selected + 4 * kRoom;
  room.bytes = room.reduced + 2 * 4 * kWarps * heads;
  return room;
}

// Flags of the chunks [first, first + n) that are in ids. Every thread looks over its part of the list, whose ends
// tell whether that reaches into the split at all.
__device__ __forceinline__ void flag_selected(const int32_t* ids, int n_ids, int first, int n, int* selected) {
  const int share = (n_ids + kThreads - 1) / kThreads, begin = static_cast<int>(threadIdx.x) * share;
  const int end = begin + share < n_ids ? begin + share : n_ids;
  if (begin >= end || ids[begin] >= first + n || ids[end - 1] < first) return;
  for (int i = begin; i < end; ++i) {
    const int at = ids[i] - first;
    if (at >= 0 && at < n) selected[at] = 1;
  }
}

// Log masses of heads [first_head, first_head + heads) into weights, and the thread's largest of each. The thread has
// every kThreads-th chunk, here and in weigh.
template <int kHeads>
__device__ __forceinline__ void load_masses(const AttnRemainderItem& item, int first, int n, int first_head,
                                            int heads, const int* selected, float* weights, float (&top)[kHeads]) {
#pragma unroll
  for (int h = 0; h < kHeads; ++h) top[h] = -INFINITY;
  for (int j = static_cast<int>(threadIdx.x); j < n; j += kThreads) {
    const float* mass = item.log_mass + first_head * item.log_mass_stride + first + j;
    const bool out = selected[j] != 0;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float x = out || h >= heads ? -INFINITY : mass[h * item.log_mass_stride];
      weights[j * kHeads + h] = x;
      top[h] = fmaxf(top[h], x);
    }
  }
}

// Log masses to weights, times the rows' scales; the thread's sums of those without scales.
template <bool kScaled, int kHeads>
__device__ __forceinline__ void weigh(const AttnRemainderItem& item, int first, int n, const float* max,
                                      float* weights, float (&total)[kHeads]) {
  float shift[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float top = -INFINITY;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, max[w * kHeads + h]);
    shift[h] = top == -INFINITY ? 0.0f : top;
    total[h] = 0.0f;
  }
  for (int j = static_cast<int>(threadIdx.x); j < n; j += kThreads) {
    float scale = 1.0f;
    if (kScaled) scale = cuda::f16_to_float(*static_cast<const uint16_t*>(item.values.scales.row(first + j)));
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float p = cuda::exp2_approx((weights[j * kHeads + h] - shift[h]) * kLog2E);
      total[h] += p;
      weights[j * kHeads + h] = p == 0.0f ? 0.0f : p * scale;
    }
  }
}

template <int kHeads>
__device__ __forceinline__ void store_totals(const SoftmaxPart& part, int first_head, int heads, const float* max,
                                             const float* sum) {
  const int h = static_cast<int>(threadIdx.x);
  if (h >= heads) return;
  float top = -INFINITY, total = 0.0f;
  for (int w = 0; w < kWarps; ++w) {
    top = fmaxf(top, max[w * kHeads + h]);
    total += sum[w * kHeads + h];
  }
  part.max[first_head + h] = top;
  part.sum[first_head + h] = total;
}

template <class R, int kHeads>
__global__ void __launch_bounds__(kThreads, 4)
    attend(Args args, const AttnRemainderItem* items, const Split* splits) {
  SKV_SHARED(shared);
  constexpr bool kScaled = std::is_same_v<R, cuda::Int8Rows>;
  const int index = static_cast<int>(blockIdx.x) / args.tiles, tile = static_cast<int>(blockIdx.x) % args.tiles;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const Split split = splits[index];
  const AttnRemainderItem item = items[split.item];
  const SoftmaxPart part = args.parts.at(index);
  const int dim = args.parts.head_dim, first_head = tile * kHeads, first = split.first;
  const int heads = args.parts.group - first_head < kHeads ? args.parts.group - first_head : kHeads;
  const int n = item.n - first < kRoom ? item.n - first : kRoom;
  const int n_ids = item.n_ids == nullptr ? 0 : *item.n_ids;
  const Room room = make_room(R::kWidth, kHeads);
  float* const weights = reinterpret_cast<float*>(shared + room.weights);
  const void** const rows = reinterpret_cast<const void**>(shared + room.rows);
  int* const selected = reinterpret_cast<int*>(shared + room.selected);
  float* const max = reinterpret_cast<float*>(shared + room.reduced);
  float* const sum = max + kWarps * kHeads;
  for (int j = thread; j < n; j += kThreads) {
    rows[j] = item.values.rows.row(first + j);
    selected[j] = 0;
  }
  __syncthreads();
  const int chunks = (dim + R::kWidth - 1) / R::kWidth;
  const cuda::RowList list = {rows, n, dim, args.whole};
  const cuda::RowShare share = cuda::row_share(chunks < kWarp ? chunks : kWarp);
  typename R::Raw ahead[kHeads == 8 ? 4 : kHeads == 4 ? 6 : 8];
  cuda::fetch_rows<R>(list, share, 0, ahead);
  flag_selected(item.ids, n_ids, first, n, selected);
  __syncthreads();
  float of_thread[kHeads];
  load_masses<kHeads>(item, first, n, first_head, heads, selected, weights, of_thread);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float top = cuda::warp_max(of_thread[h]);
    if (lane == 0) max[warp * kHeads + h] = top;
  }
  __syncthreads();
  weigh<kScaled, kHeads>(item, first, n, max, weights, of_thread);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float total = cuda::warp_sum(of_thread[h]);
    if (lane == 0) sum[warp * kHeads + h] = total;
  }
  __syncthreads();
  store_totals<kHeads>(part, first_head, heads, max, sum);
  float* const acc = part.acc + first_head * args.parts.padded_dim();
  for (int pass = 0; pass < chunks; pass += kWarp) {
    if (pass > 0) cuda::fetch_rows<R>(list, share, pass, ahead);
    float sums[kHeads][R::kWidth] = {};
    cuda::add_rows<R, true>(list, share, pass, weights, ahead, sums);
    cuda::store_sums<R>(share, pass, sums, reinterpret_cast<float*>(shared), heads, acc, args.parts.padded_dim());
  }
}

// A kernel and the shape that it is made for.
struct Choice {
  void (*kernel)(Args, const AttnRemainderItem*, const Split*);
  int heads;
  int width;
};

template <class R>
Choice choose_for_rows(int32_t group) {
  if (group == 1) return {attend<R, 1>, 1, R::kWidth};
  if (group == 2) return {attend<R, 2>, 2, R::kWidth};
  if (group <= 4) return {attend<R, 4>, 4, R::kWidth};
  return {attend<R, 8>, 8, R::kWidth};
}

Choice choose(const AttnRemainderDesc& desc) {
  if (desc.values.codec == BlockCodec::int8) return choose_for_rows<cuda::Int8Rows>(desc.group);
  if (desc.values.dtype == DType::bf16) return choose_for_rows<cuda::Bf16Rows>(desc.group);
  return {attend<cuda::F32Rows, 4>, 4, cuda::F32Rows::kWidth};
}

}  // namespace

void attn_remainder_cuda(cuda::Stream& stream, const AttnRemainderDesc& desc,
                         std::span<const AttnRemainderItem> items, void* workspace) {
  int64_t n_splits = 0;
  for (const AttnRemainderItem& item : items) n_splits += remainder_splits(item.n);
  const auto n_items = static_cast<int64_t>(items.size());
  cuda::Lists lists(stream);
  const auto list = lists.copy(items);
  const auto merges = lists.make<cuda::MergeItem>(n_items);
  const auto splits = lists.make<Split>(n_splits);
  for (AttnRemainderItem& item : list) lists.localize(item.values);
  if (!stream.ok()) return;
  int64_t next = 0;
  for (int64_t i = 0; i < n_items; ++i) {
    const AttnRemainderItem& item = items[static_cast<std::size_t>(i)];
    const auto first_part = static_cast<int32_t>(next);
    for (int32_t first = 0; first < item.n; first += kRemainderSplit)
      splits[next++] = {static_cast<int32_t>(i), first};
    merges[i] = {item.out, item.lse, first_part, static_cast<int32_t>(next), 1};
  }
  const Choice choice = choose(desc);
  Args args{};
  args.parts = {static_cast<float*>(workspace), desc.group, desc.values.head_dim};
  args.tiles = (desc.group + choice.heads - 1) / choice.heads;
  args.whole = desc.values.head_dim % choice.width == 0;
  const Room room = make_room(choice.width, choice.heads);
  cuda::launch(choice.kernel, dim3(static_cast<unsigned>(n_splits * args.tiles)), dim3(kThreads),
               static_cast<std::size_t>(room.bytes), stream, args, list.device(), splits.device());
  cuda::launch(&cuda::merge_parts, dim3(static_cast<unsigned>(n_items * desc.group)), dim3(cuda::kMergeThreads),
               cuda::kMergeBytes, stream, args.parts, merges.device());
}

}  // namespace skv::kernels
