#include "lib/kv/views.h"

namespace skv::kv {
namespace {

// Rows of one head, those of all heads beginning at first_bytes of a page.
kernels::PagedRows rows_of(const Layout& layout, const PageList& pages, int32_t head, int64_t row_bytes,
                           int64_t first_bytes = 0) {
  kernels::PagedRows rows;
  rows.pages = pages.data();
  rows.rows_per_page = layout.chunks_per_page();
  rows.n_pages = static_cast<int32_t>(pages.size());
  rows.row_bytes = static_cast<int32_t>(row_bytes);
  rows.offset_bytes = first_bytes + int64_t{head} * rows.rows_per_page * row_bytes;
  return rows;
}

// A page: the rows of all heads, then their scales, then their variances.
kernels::DigestRows digest_of(const Layout& layout, const kernels::DigestFormat& format, const PageList& pages,
                              int32_t head) {
  const int64_t scales = layout.per_head_page_bytes(format.row_bytes());
  const int64_t variances = scales + layout.per_head_page_bytes(format.scale_bytes());
  kernels::DigestRows rows;
  rows.rows = rows_of(layout, pages, head, format.row_bytes());
  if (format.scale_bytes() > 0) rows.scales = rows_of(layout, pages, head, format.scale_bytes(), scales);
  if (format.variance_bytes() > 0) rows.variances = rows_of(layout, pages, head, format.variance_bytes(), variances);
  return rows;
}

}  // namespace

kernels::DigestRows digest_rows(const Layout& layout, const Layer& layer, int32_t head) {
  return digest_of(layout, layout.digest(), layer.landmarks, head);
}

kernels::DigestRows value_mean_rows(const Layout& layout, const Layer& layer, int32_t head) {
  return digest_of(layout, layout.value_mean(), layer.value_means, head);
}

kernels::PagedRows table_rows(const Layout& layout, const Layer& layer, int32_t head) {
  return rows_of(layout, layer.table, head, 2);
}

kernels::PagedRows value_rows(const Layout& layout, const Layer& layer, int32_t head) {
  return rows_of(layout, layer.values, head, layout.value_block().block_bytes());
}

kernels::PagedRows key_rows(const Layout& layout, const Layer& layer, int32_t head) {
  return rows_of(layout, layer.keys, head, layout.key_block().block_bytes());
}

kernels::PagedRows lowrank_rows(const Layout& layout, const Layer& layer) {
  return rows_of(layout, layer.lowrank, 0, layout.lowrank_block().block_bytes());
}

int64_t exact_span_bound(int64_t n_tokens) { return n_tokens / kExactPageTokens + 2; }

int32_t exact_spans(const Layout& layout, const Layer& layer, int32_t head, int64_t from, int64_t to,
                    kernels::KvSpan* spans) {
  const int64_t row_bytes = layout.geometry.head_dim * layout.element();
  const int64_t half = layout.exact_page_bytes() / 2;
  int32_t n = 0;
  for (int64_t at = from; at < to;) {
    const int64_t row = at % kExactPageTokens;
    const int64_t count = std::min<int64_t>(kExactPageTokens - row, to - at);
    const void* page = layer.exact[at / kExactPageTokens];
    const int64_t offset = (int64_t{head} * kExactPageTokens + row) * row_bytes;
    spans[n++] = {offset_bytes(page, offset), offset_bytes(page, half + offset), static_cast<int32_t>(count), at};
    at += count;
  }
  return n;
}

int32_t outlier_spans(const Layout& layout, const Layer& layer, int32_t head, kernels::KvSpan* spans) {
  const auto n = static_cast<int64_t>(layer.outliers[static_cast<std::size_t>(head)].chunks.size());
  int32_t count = 0;
  for (int64_t i = 0; i < n; i += kOutliersPerPage) {
    spans[count] = outlier_block(layout, layer, head, i);
    spans[count++].n = static_cast<int32_t>(std::min<int64_t>(kOutliersPerPage, n - i)) * layout.policy.chunk;
  }
  return count;
}

kernels::KvRun exact_run(const Layout& layout, const Layer& layer, int32_t head, int64_t from, int64_t to) {
  const int64_t first_page = from / kExactPageTokens;
  kernels::KvRun run;
  run.k_pages = run.v_pages = layer.exact.data() + first_page;
  run.k_offset_bytes = int64_t{head} * kExactPageTokens * layout.geometry.head_dim * layout.element();
  run.v_offset_bytes = layout.exact_page_bytes() / 2 + run.k_offset_bytes;
  run.n_pages = static_cast<int32_t>(ceil_div(to, kExactPageTokens) - first_page);
  run.rows_per_page = kExactPageTokens;
  run.first = static_cast<int32_t>(from % kExactPageTokens);
  run.n = static_cast<int32_t>(to - from);
  return run;
}

kernels::KvRun outlier_run(const Layout& layout, const Layer& layer, int32_t head) {
  const HeadOutliers& outliers = layer.outliers[static_cast<std::size_t>(head)];
  kernels::KvRun run;
  run.k_pages = run.v_pages = outliers.pages.data();
  run.v_offset_bytes = layout.outlier_page_bytes() / 2;
  run.n_pages = static_cast<int32_t>(outliers.pages.size());
  run.rows_per_page = kOutliersPerPage * layout.policy.chunk;
  run.n = static_cast<int32_t>(outliers.chunks.size()) * layout.policy.chunk;
  return run;
}

kernels::KvSpan outlier_block(const Layout& layout, const Layer& layer, int32_t head, int64_t i) {
  const HeadOutliers& outliers = layer.outliers[static_cast<std::size_t>(head)];
  const void* page = outliers.pages[i / kOutliersPerPage];
  const int64_t offset = i % kOutliersPerPage * layout.block_bytes();
  const int64_t half = layout.outlier_page_bytes() / 2;
  return {offset_bytes(page, offset), offset_bytes(page, half + offset), layout.policy.chunk,
          int64_t{outliers.chunks[static_cast<std::size_t>(i)]} * layout.policy.chunk};
}

int32_t head_segments(const Layout& layout, const Layer& layer, int32_t head, kernels::BasisSegment* segments) {
  const kernels::KeyBasisDesc basis = layout.basis();
  const int64_t row = int64_t{basis.head_dim} * layout.element();
  int32_t n = 0;
  for (const Segment& segment : layer.segments) {
    const void* base = segment.basis->memory.data();
    segments[n++] = {offset_bytes(base, head * basis.rank * row), offset_bytes(base, basis.mu_at() + head * row),
                     segment.first_chunk};
  }
  return n;
}

void* slot_keys(const Layout& layout, const Layer& layer, int32_t head) {
  return offset_bytes(layer.slots.region.data(), int64_t{head} * layer.slots.capacity * layout.block_bytes());
}

void* slot_values(const Layout& layout, const Layer& layer, int32_t head) {
  const int64_t heads = layout.geometry.kv_heads + head;
  return offset_bytes(layer.slots.region.data(), heads * layer.slots.capacity * layout.block_bytes());
}

int32_t* chunk_of_slot(const Layer& layer, int32_t head) {
  return layer.slots.table.as<int32_t>() + int64_t{head} * layer.slots.capacity;
}

int64_t* slot_totals(const Layout& layout, const Layer& layer, int32_t head) {
  const int64_t tables = int64_t{layout.geometry.kv_heads} * layer.slots.capacity * 8;
  return static_cast<int64_t*>(
      offset_bytes(layer.slots.table.data(), tables + int64_t{head} * Layout::kSlotTotalsBytes));
}

uint32_t* slot_last_used(const Layout& layout, const Layer& layer, int32_t head) {
  const int64_t heads = layout.geometry.kv_heads + head;
  return layer.slots.table.as<uint32_t>() + heads * layer.slots.capacity;
}

}  // namespace skv::kv
