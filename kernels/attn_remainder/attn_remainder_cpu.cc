#include "kernels/attn_remainder/attn_remainder.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/attn_remainder/attn_remainder_split.h"
#include "kernels/common/parallel.h"
#include "kernels/common/softmax_parts.h"
#include "kernels/common/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attn_remainder/attn_remainder_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/common/digest_rows-inl.h"
#include "kernels/common/row_codec-inl.h"
#include "kernels/common/row_tile-inl.h"
#include "kernels/common/softmax_tile-inl.h"

#ifndef SKV_ATTN_REMAINDER_PLAN
#define SKV_ATTN_REMAINDER_PLAN
namespace skv::kernels {
namespace {

// Splits are this long whatever the batch, so that an item's result is its own.
constexpr int32_t kSplitChunks = 1024;
constexpr int32_t kMaxHeadDim = 512;

// Stands in for rows of no weight, so that what they hold is never read.
alignas(64) constexpr float kZeroRow[kMaxHeadDim] = {};

// Chunks [first, first + n) of an item.
struct Split {
  int32_t item;
  int32_t first;
  int32_t n;
};

struct Plan {
  int64_t n_splits = 0;
  int64_t* first_split = nullptr;  // [n_items + 1]
  Split* splits = nullptr;
  SoftmaxParts parts;  // one a split
};

std::size_t lay_out(const AttnRemainderDesc& desc, int64_t n_items, int64_t max_splits, void* workspace, Plan* plan) {
  plan->parts.group = desc.group;
  plan->parts.head_dim = desc.values.head_dim;
  WorkspaceCursor cursor(workspace);
  plan->first_split = cursor.take<int64_t>(n_items + 1);
  plan->splits = cursor.take<Split>(max_splits);
  plan->parts.base = cursor.take<float>(max_splits * plan->parts.part_floats());
  return cursor.bytes();
}

void make_plan(const AttnRemainderDesc& desc, std::span<const AttnRemainderItem> items, void* workspace, Plan* plan) {
  const auto n_items = static_cast<int64_t>(items.size());
  int64_t max_splits = 0;
  for (const AttnRemainderItem& item : items) max_splits += (item.n + kSplitChunks - 1) / kSplitChunks;
  lay_out(desc, n_items, max_splits, workspace, plan);
  for (int64_t i = 0; i < n_items; ++i) {
    const int32_t n = items[static_cast<std::size_t>(i)].n;
    plan->first_split[i] = plan->n_splits;
    for (int32_t first = 0; first < n; first += kSplitChunks) {
      plan->splits[plan->n_splits++] = {static_cast<int32_t>(i), first, std::min(kSplitChunks, n - first)};
    }
  }
  plan->first_split[n_items] = plan->n_splits;
}

}  // namespace
}  // namespace skv::kernels
#endif  // SKV_ATTN_REMAINDER_PLAN

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

// An int8 code, for the tile functions, which widen elements by load(). The row's scale goes into its weight.
struct Code {
  int8_t value;
};
HWY_INLINE VF load(F32 d, const Code* p) { return load_codes(d, reinterpret_cast<const int8_t*>(p)); }

// A tile of chunks: [first, first + n), those of them that were selected, and the scales of int8 rows.
struct ChunkTile {
  int32_t first = 0;
  int n = 0;
  int n_selected = 0;
  int selected[kTileRows];
  alignas(64) float scales[kTileRows + kHalfPad];
};

// Weights of heads [g, g + heads) of the tile; false if no chunk has one. used = rows but where there is no weight.
// Weights of coded rows are multiplied by the scales.
template <class T>
HWY_INLINE bool weigh_chunks(const AttnRemainderItem& item, const ChunkTile& tile, int g, int heads,
                             const SoftmaxPart& out, const T* const* rows, float* w, float* decay, const T** used) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int h = 0; h < heads; ++h) {
    float* logits = w + h * kTileRows;
    std::memcpy(logits, item.log_mass + (g + h) * item.log_mass_stride + tile.first,
                static_cast<std::size_t>(tile.n) * sizeof(float));
    for (int i = 0; i < tile.n_selected; ++i) logits[tile.selected[i]] = -std::numeric_limits<float>::infinity();
    decay[h] = weigh(logits, tile.n, out.max + g + h, out.sum + g + h);
  }
  alignas(64) float weight[kTileRows];
  for (int r = 0; r < tile.n; r += lanes) {
    VF sum = hn::Load(d, w + r);
    for (int h = 1; h < heads; ++h) sum = hn::Add(sum, hn::Load(d, w + h * kTileRows + r));
    hn::Store(sum, d, weight + r);
    if (!std::is_same_v<T, Code>) continue;
    const VF scale = hn::IfThenZeroElse(hn::Eq(sum, hn::Zero(d)), hn::Load(d, tile.scales + r));
    for (int h = 0; h < heads; ++h) {
      hn::Store(hn::Mul(hn::Load(d, w + h * kTileRows + r), scale), d, w + h * kTileRows + r);
    }
  }
  bool any = false;
  for (int r = 0; r < tile.n; ++r) {
    const bool counts = weight[r] != 0.0f;  // a NaN does
    used[r] = counts ? rows[r] : reinterpret_cast<const T*>(kZeroRow);
    any |= counts;
  }
  return any;
}

template <class T>
void attend_split(const AttnRemainderDesc& desc, const AttnRemainderItem& item, const Split& split,
                  std::size_t padded_dim, const SoftmaxPart& out) {
  const auto dim = static_cast<std::size_t>(desc.values.head_dim);
  const int32_t* const ids_end = item.ids + *item.n_ids;
  const int32_t* id = std::lower_bound(item.ids, ids_end, split.first);
  DigestCursor<T> cursor(item.values.rows, split.first, split.n);
  const T* rows[2][kTileRows];
  ChunkTile tile;
  tile.first = split.first;
  tile.n = cursor.fill(rows[0], kTileRows);
  for (int turn = 0; tile.n > 0; turn ^= 1) {
    const int n_next = cursor.fill(rows[turn ^ 1], kTileRows);
    tile.n_selected = 0;
    for (; id != ids_end && *id < tile.first + tile.n; ++id) tile.selected[tile.n_selected++] = *id - tile.first;
    if (std::is_same_v<T, Code>) load_halves(item.values.scales, tile.first, tile.n, 1, tile.scales);
    for (int g = 0; g < desc.group; g += kTileHeads) {
      const int heads = std::min(kTileHeads, desc.group - g);
      alignas(64) float w[kTileHeads * kTileRows];
      float decay[kTileHeads];
      const T* used[kTileRows];
      // Without a weight no maximum has grown, so that nothing decays either.
      if (!weigh_chunks(item, tile, g, heads, out, rows[turn], w, decay, used)) continue;
      tile_weighted_sum(used, tile.n, dim, w, decay, heads, out.acc + static_cast<std::size_t>(g) * padded_dim,
                        padded_dim, Ahead<T>{rows[turn ^ 1], g == 0 ? n_next : 0});
    }
    tile.first += tile.n;
    tile.n = n_next;
  }
}

void run_split(const AttnRemainderDesc& desc, const AttnRemainderItem& item, const Split& split,
               std::size_t padded_dim, const SoftmaxPart& out) {
  if (desc.values.codec == BlockCodec::int8) attend_split<Code>(desc, item, split, padded_dim, out);
  else if (desc.values.dtype == DType::bf16) attend_split<Bf16>(desc, item, split, padded_dim, out);
  else attend_split<float>(desc, item, split, padded_dim, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(run_split);

bool attn_remainder_supports(const AttnRemainderDesc& desc) {
  const DigestFormat& values = desc.values;
  const bool raw = values.codec == BlockCodec::raw && (values.dtype == DType::bf16 || values.dtype == DType::f32);
  return values.kind == DigestKind::mean && (raw || values.codec == BlockCodec::int8) && values.head_dim > 0 &&
         values.head_dim <= kMaxHeadDim && desc.group > 0;
}

std::size_t attn_remainder_workspace_bytes(const AttnRemainderDesc& desc, int64_t n_items, int64_t total_chunks) {
  Plan plan;
  const std::size_t here = lay_out(desc, n_items, total_chunks / kSplitChunks + n_items, nullptr, &plan);
  const int64_t floats = remainder_split_bound(n_items, total_chunks) * plan.parts.part_floats();  // CUDA: parts only
  return std::max(here, static_cast<std::size_t>(floats) * sizeof(float));
}

void attn_remainder_cpu(const AttnRemainderDesc& desc, std::span<const AttnRemainderItem> items, void* workspace) {
  Plan plan;
  make_plan(desc, items, workspace, &plan);
  const auto run = HWY_DYNAMIC_DISPATCH(run_split);
  parallel_for(plan.n_splits, [&](int64_t s, int) {
    const Split& split = plan.splits[s];
    plan.parts.clear(s);
    run(desc, items[static_cast<std::size_t>(split.item)], split, static_cast<std::size_t>(plan.parts.padded_dim()),
        plan.parts.at(s));
  });
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    const AttnRemainderItem& item = items[static_cast<std::size_t>(i)];
    for (int32_t g = 0; g < desc.group; ++g) {
      merge_softmax_head(plan.parts, g, plan.first_split[i], plan.first_split[i + 1], true,
                         item.out + int64_t{g} * desc.values.head_dim, item.lse + g);
    }
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
