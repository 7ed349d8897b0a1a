#include "kernels/attn_decode/attn_decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/parallel.h"
#include "kernels/common/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attn_decode/attn_decode_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/common/row_tile-inl.h"

#ifndef SKV_ATTN_DECODE_PLAN
#define SKV_ATTN_DECODE_PLAN
namespace skv::kernels {
namespace {

// Splits are this long whatever the batch, so that a row's result is its own.
constexpr int64_t kSplitRows = 1024;
constexpr int32_t kMaxHeadDim = 512;

// A split of one item: where its rows begin, and its partial result.
struct Split {
  int32_t item;
  int32_t rows;
  int64_t block_row;  // row among the blocks' rows, or past them all
  int32_t span;       // used when block_row is past the blocks
  int32_t span_row;
};

struct Partial {
  float* max;  // [G]
  float* sum;  // [G]
  float* acc;  // [G, padded dim]
};

struct Plan {
  std::size_t padded_dim = 0;
  int64_t partial_floats = 0;
  int64_t n_splits = 0;
  int64_t* first_split = nullptr;  // [n_items + 1]
  Split* splits = nullptr;
  float* q = nullptr;         // [n_items, G, padded_dim], times scale
  float* partials = nullptr;  // [n_splits, partial_floats]
};

Partial partial_of(const Plan& plan, int32_t group, int64_t split) {
  float* base = plan.partials + split * plan.partial_floats;
  const int64_t heads = (group + 15) / 16 * 16;
  return {base, base + heads, base + 2 * heads};
}

std::size_t lay_out(const AttnDecodeDesc& desc, int64_t n_items, int64_t max_splits, void* workspace, Plan* plan) {
  plan->padded_dim = static_cast<std::size_t>((desc.head_dim + 15) / 16 * 16);
  const auto row = static_cast<int64_t>(plan->padded_dim);
  plan->partial_floats = 2 * ((desc.group + 15) / 16 * 16) + desc.group * row;
  WorkspaceCursor cursor(workspace);
  plan->first_split = cursor.take<int64_t>(n_items + 1);
  plan->splits = cursor.take<Split>(max_splits);
  plan->q = cursor.take<float>(n_items * desc.group * row);
  plan->partials = cursor.take<float>(max_splits * plan->partial_floats);
  return cursor.bytes();
}

int64_t block_rows(const AttnDecodeItem& item) { return int64_t{item.blocks.n_ids} * item.blocks.block_tokens; }

int64_t total_rows(const AttnDecodeItem& item) {
  int64_t rows = block_rows(item);
  for (int32_t i = 0; i < item.n_spans; ++i) rows += item.spans[i].n;
  return rows;
}

void cut_item(const AttnDecodeItem& item, int32_t index, Plan* plan) {
  const int64_t total = total_rows(item), in_blocks = block_rows(item);
  int32_t span = 0;
  int64_t before = in_blocks;  // rows before spans[span]
  for (int64_t row = 0; row < total; row += kSplitRows) {
    while (row >= in_blocks && row >= before + item.spans[span].n) before += item.spans[span++].n;
    plan->splits[plan->n_splits++] = {index, static_cast<int32_t>(std::min(kSplitRows, total - row)), row, span,
                                      static_cast<int32_t>(std::max<int64_t>(row - before, 0))};
  }
}

void make_plan(const AttnDecodeDesc& desc, std::span<const AttnDecodeItem> items, void* workspace, Plan* plan) {
  const auto n_items = static_cast<int64_t>(items.size());
  int64_t max_splits = 0;
  for (const AttnDecodeItem& item : items) max_splits += (total_rows(item) + kSplitRows - 1) / kSplitRows;
  lay_out(desc, n_items, max_splits, workspace, plan);
  for (int64_t i = 0; i < n_items; ++i) {
    const AttnDecodeItem& item = items[static_cast<std::size_t>(i)];
    plan->first_split[i] = plan->n_splits;
    cut_item(item, static_cast<int32_t>(i), plan);
    for (int32_t g = 0; g < desc.group; ++g) {
      float* to = plan->q + (i * desc.group + g) * static_cast<int64_t>(plan->padded_dim);
      const float* from = item.q + int64_t{g} * desc.head_dim;
      std::fill(to, to + plan->padded_dim, 0.0f);
      for (int32_t d = 0; d < desc.head_dim; ++d) to[d] = from[d] * desc.scale;
    }
  }
  plan->first_split[n_items] = plan->n_splits;
}

// Weight of a part with maximum max in a whole with maximum whole, where both may be -inf (no visible row).
float decay_to(float max, float whole) {
  return std::isinf(whole) && whole < 0 ? 1.0f : std::exp(max - whole);
}

// Heads whose rows were all -inf, or that had none, have sum 0: out = 0, lse = -inf.
void merge_item(const AttnDecodeDesc& desc, const Plan& plan, const AttnDecodeItem& item, int64_t index) {
  const int64_t first = plan.first_split[index], last = plan.first_split[index + 1];
  for (int32_t g = 0; g < desc.group; ++g) {
    float max = -std::numeric_limits<float>::infinity();
    for (int64_t s = first; s < last; ++s) max = std::fmax(max, partial_of(plan, desc.group, s).max[g]);
    float* out = item.out + int64_t{g} * desc.head_dim;
    std::fill(out, out + desc.head_dim, 0.0f);
    double sum = 0;
    for (int64_t s = first; s < last; ++s) {
      const Partial part = partial_of(plan, desc.group, s);
      const float weight = decay_to(part.max[g], max);
      const float* acc = part.acc + g * static_cast<int64_t>(plan.padded_dim);
      sum += static_cast<double>(weight) * part.sum[g];
      for (int32_t d = 0; d < desc.head_dim; ++d) out[d] += weight * acc[d];
    }
    const float inverse = sum == 0 ? 0.0f : static_cast<float>(1.0 / sum);
    for (int32_t d = 0; d < desc.head_dim; ++d) out[d] *= inverse;
    if (item.lse != nullptr) {
      item.lse[g] = sum == 0 ? -std::numeric_limits<float>::infinity() : static_cast<float>(max + std::log(sum));
    }
  }
}

}  // namespace
}  // namespace skv::kernels
#endif  // SKV_ATTN_DECODE_PLAN

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

// Walks a split's rows, a tile at a time.
template <class T>
class RowCursor {
 public:
  RowCursor(const AttnDecodeItem& item, const Split& split, int64_t dim)
      : item_(item), dim_(dim), in_blocks_(int64_t{item.blocks.n_ids} * item.blocks.block_tokens),
        block_row_(split.block_row), span_(split.span), span_row_(split.span_row), left_(split.rows) {}

  void fill(RowTile<T>* tile) {
    tile->n = 0;
    while (left_ > 0 && tile->n < kTileRows) {
      const T *k, *v;
      const int64_t n = std::min<int64_t>(run(&k, &v), std::min<int64_t>(left_, kTileRows - tile->n));
      for (int64_t i = 0; i < n; ++i, ++tile->n) {
        tile->k[tile->n] = k + i * dim_;
        tile->v[tile->n] = v + i * dim_;
      }
      left_ -= n;
      if (block_row_ < in_blocks_) block_row_ += n;
      else span_row_ += n;
    }
  }

 private:
  // The rows from here to the end of the block or span.
  int64_t run(const T** k, const T** v) {
    if (block_row_ < in_blocks_) {
      const KvBlocks& b = item_.blocks;
      const int64_t row = block_row_ % b.block_tokens;
      const int64_t at = b.ids[block_row_ / b.block_tokens] * b.block_bytes;
      *k = static_cast<const T*>(offset_bytes(b.k, at)) + row * dim_;
      *v = static_cast<const T*>(offset_bytes(b.v, at)) + row * dim_;
      return b.block_tokens - row;
    }
    while (span_row_ >= item_.spans[span_].n) ++span_, span_row_ = 0;
    const KvSpan& s = item_.spans[span_];
    *k = static_cast<const T*>(s.k) + span_row_ * dim_;
    *v = static_cast<const T*>(s.v) + span_row_ * dim_;
    return s.n - span_row_;
  }

  const AttnDecodeItem& item_;
  int64_t dim_, in_blocks_, block_row_;
  int32_t span_;
  int64_t span_row_, left_;
};

// Logits w [n] of one head become weights; returns what the head's earlier sums must be multiplied by.
HWY_INLINE float weigh(float* w, int n, float* max, float* sum) {
  const F32 d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const float none = -std::numeric_limits<float>::infinity();
  for (int r = n; r % lanes != 0; ++r) w[r] = none;
  VF top = hn::Set(d, none);
  for (int r = 0; r < n; r += lanes) top = hn::Max(hn::LoadU(d, w + r), top);
  const float whole = std::max(*max, max_of_lanes(d, top));
  const VF shift = hn::Set(d, whole == none ? 0.0f : whole);
  VF total = hn::Zero(d);
  for (int r = 0; r < n; r += lanes) {
    const VF p = exp(d, hn::Sub(hn::LoadU(d, w + r), shift));
    hn::StoreU(p, d, w + r);
    total = hn::Add(total, p);
  }
  const float decay = *max == whole ? 1.0f : decay_to(*max, whole);
  *sum = *sum * decay + sum_of_lanes(d, total);
  *max = whole;
  return decay;
}

template <class T>
void attend_split(const AttnDecodeDesc& desc, const AttnDecodeItem& item, const Split& split, const float* q,
                  std::size_t padded_dim, const Partial& out) {
  const auto dim = static_cast<std::size_t>(desc.head_dim);
  std::fill(out.max, out.max + desc.group, -std::numeric_limits<float>::infinity());
  std::fill(out.sum, out.sum + desc.group, 0.0f);
  std::fill(out.acc, out.acc + static_cast<std::size_t>(desc.group) * padded_dim, 0.0f);
  RowTile<T> tiles[2];
  RowCursor<T> cursor(item, split, desc.head_dim);
  cursor.fill(&tiles[0]);
  for (int turn = 0; tiles[turn].n > 0; turn ^= 1) {
    const RowTile<T>& tile = tiles[turn];
    RowTile<T>& next = tiles[turn ^ 1];
    cursor.fill(&next);
    for (int g = 0; g < desc.group; g += kTileHeads) {
      const int heads = std::min(kTileHeads, desc.group - g);
      const std::size_t at = static_cast<std::size_t>(g) * padded_dim;
      alignas(64) float w[kTileHeads * kTileRows];
      float decay[kTileHeads];
      tile_logits(tile.k, tile.n, q + at, padded_dim, heads, dim, w, Ahead<T>{next.k, g == 0 ? next.n : 0});
      for (int h = 0; h < heads; ++h) {
        decay[h] = weigh(w + h * kTileRows, tile.n, out.max + g + h, out.sum + g + h);
      }
      tile_weighted_sum(tile.v, tile.n, dim, w, decay, heads, out.acc + at, padded_dim,
                        Ahead<T>{next.v, g == 0 ? next.n : 0});
    }
  }
}

void run_split(const AttnDecodeDesc& desc, const AttnDecodeItem& item, const Split& split, const float* q,
               std::size_t padded_dim, const Partial& out) {
  if (desc.dtype == DType::bf16) attend_split<Bf16>(desc, item, split, q, padded_dim, out);
  else attend_split<float>(desc, item, split, q, padded_dim, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(run_split);

bool attn_decode_supports(const AttnDecodeDesc& desc) {
  return (desc.dtype == DType::bf16 || desc.dtype == DType::f32) && desc.head_dim > 0 &&
         desc.head_dim <= kMaxHeadDim && desc.group > 0;
}

std::size_t attn_decode_workspace_bytes(const AttnDecodeDesc& desc, int64_t n_items, int64_t total_rows) {
  Plan plan;
  return lay_out(desc, n_items, total_rows / kSplitRows + n_items, nullptr, &plan);
}

void attn_decode_cpu(const AttnDecodeDesc& desc, std::span<const AttnDecodeItem> items, void* workspace) {
  Plan plan;
  make_plan(desc, items, workspace, &plan);
  const int64_t q_floats = desc.group * static_cast<int64_t>(plan.padded_dim);
  const auto run = HWY_DYNAMIC_DISPATCH(run_split);
  parallel_for(plan.n_splits, [&](int64_t s, int) {
    const Split& split = plan.splits[s];
    run(desc, items[static_cast<std::size_t>(split.item)], split, plan.q + split.item * q_floats, plan.padded_dim,
        partial_of(plan, desc.group, s));
  });
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    merge_item(desc, plan, items[static_cast<std::size_t>(i)], i);
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
