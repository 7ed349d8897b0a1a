// Blocks of query rows (tokens x group) against tiles of 64 keys, streaming softmax, all products f32.
//
// A row's bits must not depend on its place in the block, so each output is one chain over keys in span order
// whatever microkernel computes it, tiles are cut by walking the span list from its start, and keys that a row cannot
// see take no part in any of its sums (rather than entering with weight 0: a NaN there would spread).
#include "kernels/attn_prefill/attn_prefill.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attn_prefill/attn_prefill_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/attn_prefill/attn_prefill_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {

// One block of query rows of one item while it walks over the keys.
struct Block {
  const AttnPrefillDesc& desc;
  const AttnPrefillItem& item;
  int64_t first_token;
  int64_t n_tokens;
  PrefillScratch scratch;

  int64_t rows() const { return n_tokens * desc.group; }
  int64_t first_pos() const { return item.pos + first_token; }
  int64_t last_pos() const { return first_pos() + n_tokens - 1; }
};

void load_queries(const Block& block) {
  const int64_t dim = block.desc.head_dim;
  for (int64_t r = 0; r < block.rows(); ++r) {
    const int64_t token = block.first_token + r / block.desc.group, g = r % block.desc.group;
    const float* q = block.item.q + token * block.item.q_stride + g * dim;
    float* to = block.scratch.q + r * dim;
    for (int64_t i = 0; i < dim; ++i) to[i] = q[i] * block.desc.scale;
    block.scratch.max[r] = -std::numeric_limits<float>::infinity();
    block.scratch.sum[r] = 0.0f;
  }
  std::fill_n(block.scratch.acc, block.rows() * padded(block.desc.head_dim), 0.0f);
}

// The first rows of the tile that the token at pos may see.
int32_t visible(const KeyTile& tile, int64_t pos) {
  return static_cast<int32_t>(std::upper_bound(tile.pos, tile.pos + tile.n, pos) - tile.pos);
}

template <class T>
void pack_tile(const Block& block, const KeyTile& tile) {
  transpose_keys<T>(tile, block.desc.head_dim, block.scratch.keys);
  widen_values<T>(tile, block.desc.head_dim, block.scratch.values);
}

void attend_tile(const Block& block, const KeyTile& tile) {
  const int64_t group = block.desc.group, dim = block.desc.head_dim, dim_padded = padded(block.desc.head_dim);
  const PrefillScratch& s = block.scratch;
  const int64_t first_row = std::max<int64_t>(0, tile.pos[0] - block.first_pos()) * group;
  const int64_t n_rows = block.rows() - first_row;
  const int64_t columns = padded(tile.n);
  multiply<false>(Matrix{s.q + first_row * dim, dim}, Matrix{s.keys, kTileKeys}, n_rows, columns, dim,
                  s.scores + first_row * kTileKeys, kTileKeys);
  const Matrix values{s.values, dim_padded};
  if (tile.pos[tile.n - 1] <= block.first_pos()) {
    for (int64_t r = 0; r < block.rows(); ++r) soften_row(s, r, tile.n, dim_padded);
    multiply<true>(Matrix{s.scores, kTileKeys}, values, block.rows(), dim_padded, tile.n, s.acc, dim_padded);
    return;
  }
  for (int64_t row = first_row; row < block.rows(); row += group) {
    const int32_t n = visible(tile, block.first_pos() + row / group);
    for (int64_t r = row; r < row + group; ++r) soften_row(s, r, n, dim_padded);
    multiply<true>(Matrix{s.scores + row * kTileKeys, kTileKeys}, values, group, dim_padded, n,
                   s.acc + row * dim_padded, dim_padded);
  }
}

// out and lse of one row from its sums, combined with what they held if the item merges.
void finish_row(const Block& block, int64_t r) {
  const int64_t dim = block.desc.head_dim, token = block.first_token + r / block.desc.group, g = r % block.desc.group;
  const AttnPrefillItem& item = block.item;
  const float* acc = block.scratch.acc + r * padded(block.desc.head_dim);
  const float max = block.scratch.max[r], sum = block.scratch.sum[r];
  float* out = item.out + token * item.out_stride + g * dim;
  float* lse = item.lse == nullptr ? nullptr : item.lse + token * item.lse_stride + g;
  if (sum == 0.0f) {  // nothing visible, or every score -inf
    if (item.merge) return;
    std::fill_n(out, dim, 0.0f);
    if (lse != nullptr) *lse = -std::numeric_limits<float>::infinity();
    return;
  }
  const float own = max + std::log(sum);
  if (!item.merge || *lse == -std::numeric_limits<float>::infinity()) {
    for (int64_t i = 0; i < dim; ++i) out[i] = acc[i] / sum;
    if (lse != nullptr) *lse = own;
    return;
  }
  const float top = std::max(own, *lse), old_weight = std::exp(*lse - top), new_weight = std::exp(own - top);
  const float total = old_weight + new_weight, old_share = old_weight / total, new_share = new_weight / total / sum;
  for (int64_t i = 0; i < dim; ++i) out[i] = out[i] * old_share + acc[i] * new_share;
  *lse = top + std::log(total);
}

void run_block(const Block& block) {
  load_queries(block);
  TileCursor cursor(block.desc, block.item);
  KeyTile tile;
  while (cursor.next(block.last_pos(), tile)) {
    if (block.desc.dtype == DType::bf16) pack_tile<Bf16>(block, tile);
    else pack_tile<float>(block, tile);
    attend_tile(block, tile);
  }
  for (int64_t r = 0; r < block.rows(); ++r) finish_row(block, r);
}

void Run(const AttnPrefillDesc& desc, std::span<const AttnPrefillItem> items, void* workspace) {
  const int64_t tokens = block_tokens(desc.group);
  const int64_t worker_bytes = static_cast<int64_t>(PrefillScratch(desc, nullptr).bytes);
  int64_t longest = 0;
  for (const AttnPrefillItem& item : items) longest = std::max<int64_t>(longest, item.n_q);
  const int64_t blocks = (longest + tokens - 1) / tokens, n_items = static_cast<int64_t>(items.size());
  // Later tokens see more keys: handing the longest work out first keeps the last worker from trailing.
  parallel_for(blocks * n_items, [&](int64_t task, int worker) {
    const AttnPrefillItem& item = items[static_cast<std::size_t>(task % n_items)];
    const int64_t first = (blocks - 1 - task / n_items) * tokens;
    if (first >= item.n_q) return;
    run_block(Block{desc, item, first, std::min<int64_t>(tokens, item.n_q - first),
                    PrefillScratch(desc, static_cast<char*>(workspace) + worker * worker_bytes)});
  });
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(Run);

bool attn_prefill_supports(const AttnPrefillDesc& desc) {
  return (desc.dtype == DType::bf16 || desc.dtype == DType::f32) && desc.head_dim >= 1 && desc.head_dim <= 512 &&
         desc.group >= 1;
}

std::size_t attn_prefill_workspace_bytes(const AttnPrefillDesc& desc) {
  return PrefillScratch(desc, nullptr).bytes * static_cast<std::size_t>(max_workers());
}

void attn_prefill_cpu(const AttnPrefillDesc& desc, std::span<const AttnPrefillItem> items, void* workspace) {
  if (items.empty()) return;
  HWY_DYNAMIC_DISPATCH(Run)(desc, items, workspace);
}

}  // namespace skv::kernels
#endif
