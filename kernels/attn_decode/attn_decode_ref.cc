#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attn_decode/attn_decode.h"

namespace skv::kernels {
namespace {

struct Rows {  // neighbours
  const void* k;
  const void* v;
  int64_t n;
};

std::vector<Rows> list_rows(const AttnDecodeDesc& desc, const AttnDecodeItem& item) {
  std::vector<Rows> rows;
  const int32_t n_ids = item.blocks.n_ids == nullptr ? 0 : *item.blocks.n_ids;
  for (int32_t i = 0; i < n_ids; ++i) {
    const int64_t at = item.blocks.ids[i] * item.blocks.block_bytes;
    rows.push_back({offset_bytes(item.blocks.k, at), offset_bytes(item.blocks.v, at), item.blocks.block_tokens});
  }
  const int64_t row_bytes = desc.head_dim * dtype_bytes(desc.dtype);
  for (int32_t i = 0; i < item.n_runs; ++i) {
    const KvRun& run = item.runs[i];
    for (int32_t row = run.first; row < run.first + run.n; ++row) {
      rows.push_back({run.k_row(row, row_bytes), run.v_row(row, row_bytes), 1});
    }
  }
  return rows;
}

void attend(const AttnDecodeDesc& desc, const std::vector<Rows>& rows, const float* q, bool merge, float* out,
            float* lse) {
  const int64_t dim = desc.head_dim;
  const double none = -std::numeric_limits<double>::infinity();
  std::vector<double> logits, sums(static_cast<std::size_t>(dim), 0.0);
  double max = none, sum = 0;
  for (const Rows& some : rows) {
    for (int64_t i = 0; i < some.n; ++i) {
      double dot = 0;
      for (int64_t d = 0; d < dim; ++d) dot += static_cast<double>(q[d]) * load_f32(some.k, desc.dtype, i * dim + d);
      logits.push_back(desc.scale * dot);
      max = std::fmax(max, logits.back());
    }
  }
  std::size_t next = 0;
  for (const Rows& some : rows) {
    for (int64_t i = 0; i < some.n; ++i) {
      const double w = logits[next++];
      if (w == none) continue;
      const double p = std::exp(w - max);
      sum += p;
      for (int64_t d = 0; d < dim; ++d) {
        sums[static_cast<std::size_t>(d)] += p * load_f32(some.v, desc.dtype, i * dim + d);
      }
    }
  }
  if (merge && sum == 0) return;
  if (merge && *lse != none) {  // the earlier result is a row of value out and logit lse
    const double whole = std::fmax(max, *lse), before = std::exp(*lse - whole);
    const double decay = max == none ? 1.0 : std::exp(max - whole);
    sum = sum * decay + before;
    for (int64_t d = 0; d < dim; ++d) {
      sums[static_cast<std::size_t>(d)] = sums[static_cast<std::size_t>(d)] * decay + before * out[d];
    }
    max = whole;
  }
  for (int64_t d = 0; d < dim; ++d) {
    out[d] = sum == 0 ? 0.0f : static_cast<float>(sums[static_cast<std::size_t>(d)] / sum);
  }
  if (lse != nullptr) *lse = static_cast<float>(sum == 0 ? none : max + std::log(sum));
}

}  // namespace

void attn_decode_ref(const AttnDecodeDesc& desc, std::span<const AttnDecodeItem> items, void*) {
  for (const AttnDecodeItem& item : items) {
    const std::vector<Rows> rows = list_rows(desc, item);
    for (int32_t g = 0; g < desc.group; ++g) {
      const int64_t at = int64_t{g} * desc.head_dim;
      attend(desc, rows, item.q + at, item.merge, item.out + at, item.lse ? item.lse + g : nullptr);
    }
  }
}

}  // namespace skv::kernels
