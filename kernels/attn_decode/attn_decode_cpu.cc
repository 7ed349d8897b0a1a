#include "kernels/attn_decode/attn_decode.h"

#include <algorithm>

#include "kernels/attn_decode/attn_decode_split.h"
#include "kernels/common/parallel.h"
#include "kernels/common/softmax_parts.h"
#include "kernels/common/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attn_decode/attn_decode_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/common/row_tile-inl.h"
#include "kernels/common/softmax_tile-inl.h"

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
  int32_t run;        // used when block_row is past the blocks
  int32_t run_row;    // past the run's first
};

struct Plan {
  int64_t n_splits = 0;
  int64_t* first_split = nullptr;  // [n_items + 1]
  Split* splits = nullptr;
  float* q = nullptr;         // [n_items, G, padded_dim], times scale
  SoftmaxParts parts;         // one a split
};

std::size_t lay_out(const AttnDecodeDesc& desc, int64_t n_items, int64_t max_splits, void* workspace, Plan* plan) {
  plan->parts.group = desc.group;
  plan->parts.head_dim = desc.head_dim;
  WorkspaceCursor cursor(workspace);
  plan->first_split = cursor.take<int64_t>(n_items + 1);
  plan->splits = cursor.take<Split>(max_splits);
  plan->q = cursor.take<float>(n_items * desc.group * plan->parts.padded_dim());
  plan->parts.base = cursor.take<float>(max_splits * plan->parts.part_floats());
  return cursor.bytes();
}

int64_t block_rows(const AttnDecodeItem& item) {
  return item.blocks.n_ids == nullptr ? 0 : int64_t{*item.blocks.n_ids} * item.blocks.block_tokens;
}

int64_t total_rows(const AttnDecodeItem& item) {
  int64_t rows = block_rows(item);
  for (int32_t i = 0; i < item.n_runs; ++i) rows += item.runs[i].n;
  return rows;
}

void cut_item(const AttnDecodeItem& item, int32_t index, Plan* plan) {
  const int64_t total = total_rows(item), in_blocks = block_rows(item);
  int32_t run = 0;
  int64_t before = in_blocks;  // rows before runs[run]
  for (int64_t row = 0; row < total; row += kSplitRows) {
    while (row >= in_blocks && row >= before + item.runs[run].n) before += item.runs[run++].n;
    plan->splits[plan->n_splits++] = {index, static_cast<int32_t>(std::min(kSplitRows, total - row)), row, run,
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
      float* to = plan->q + (i * desc.group + g) * plan->parts.padded_dim();
      const float* from = item.q + int64_t{g} * desc.head_dim;
      std::fill(to, to + plan->parts.padded_dim(), 0.0f);
      for (int32_t d = 0; d < desc.head_dim; ++d) to[d] = from[d] * desc.scale;
    }
  }
  plan->first_split[n_items] = plan->n_splits;
}

void merge_item(const AttnDecodeDesc& desc, const Plan& plan, const AttnDecodeItem& item, int64_t index) {
  for (int32_t g = 0; g < desc.group; ++g) {
    merge_softmax_head(plan.parts, g, plan.first_split[index], plan.first_split[index + 1], item.merge,
                       item.out + int64_t{g} * desc.head_dim, item.lse == nullptr ? nullptr : item.lse + g);
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
      : item_(item), dim_(dim), in_blocks_(block_rows(item)),
        block_row_(split.block_row), run_(split.run), run_row_(split.run_row), left_(split.rows) {}

  void fill(RowTile<T>* tile) {
    tile->n = 0;
    while (left_ > 0 && tile->n < kTileRows) {
      const T *k, *v;
      const int64_t n = std::min<int64_t>(neighbours(&k, &v), std::min<int64_t>(left_, kTileRows - tile->n));
      for (int64_t i = 0; i < n; ++i, ++tile->n) {
        tile->k[tile->n] = k + i * dim_;
        tile->v[tile->n] = v + i * dim_;
      }
      left_ -= n;
      if (block_row_ < in_blocks_) block_row_ += n;
      else run_row_ += static_cast<int32_t>(n);
    }
  }

 private:
  // How many rows lie one after another from here on: to the end of the block, or of the page or run.
  int64_t neighbours(const T** k, const T** v) {
    if (block_row_ < in_blocks_) {
      const KvBlocks& b = item_.blocks;
      const int64_t row = block_row_ % b.block_tokens;
      const int64_t at = b.ids[block_row_ / b.block_tokens] * b.block_bytes;
      *k = static_cast<const T*>(offset_bytes(b.k, at)) + row * dim_;
      *v = static_cast<const T*>(offset_bytes(b.v, at)) + row * dim_;
      return b.block_tokens - row;
    }
    while (run_row_ >= item_.runs[run_].n) ++run_, run_row_ = 0;
    const KvRun& r = item_.runs[run_];
    const int32_t row = r.first + run_row_;
    const int64_t row_bytes = dim_ * static_cast<int64_t>(sizeof(T));
    *k = static_cast<const T*>(r.k_row(row, row_bytes));
    *v = static_cast<const T*>(r.v_row(row, row_bytes));
    return std::min(r.rows_per_page - row % r.rows_per_page, r.n - run_row_);
  }

  const AttnDecodeItem& item_;
  int64_t dim_, in_blocks_, block_row_;
  int32_t run_, run_row_;
  int64_t left_;
};

template <class T>
void attend_split(const AttnDecodeDesc& desc, const AttnDecodeItem& item, const Split& split, const float* q,
                  std::size_t padded_dim, const SoftmaxPart& out) {
  const auto dim = static_cast<std::size_t>(desc.head_dim);
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
               std::size_t padded_dim, const SoftmaxPart& out) {
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
  const std::size_t here = lay_out(desc, n_items, total_rows / kSplitRows + n_items, nullptr, &plan);
  const int64_t floats = split_bound(n_items, total_rows) * plan.parts.part_floats();  // CUDA: parts only
  return std::max(here, static_cast<std::size_t>(floats) * sizeof(float));
}

void attn_decode_cpu(const AttnDecodeDesc& desc, std::span<const AttnDecodeItem> items, void* workspace) {
  Plan plan;
  make_plan(desc, items, workspace, &plan);
  const int64_t padded_dim = plan.parts.padded_dim();
  const auto run = HWY_DYNAMIC_DISPATCH(run_split);
  parallel_for(plan.n_splits, [&](int64_t s, int) {
    const Split& split = plan.splits[s];
    plan.parts.clear(s);
    run(desc, items[static_cast<std::size_t>(split.item)], split, plan.q + split.item * desc.group * padded_dim,
        static_cast<std::size_t>(padded_dim), plan.parts.at(s));
  });
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    merge_item(desc, plan, items[static_cast<std::size_t>(i)], i);
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
