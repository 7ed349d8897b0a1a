// Kernel views of a layer's pages.
#pragma once

#include "kernels/attn_decode/attn_decode.h"
#include "kernels/common/digest_format.h"
#include "kernels/common/paged.h"
#include "lib/kv/layout.h"
#include "lib/kv/sequence.h"

namespace skv::kv {

// Rows of one KV head, one a chunk.
kernels::DigestRows digest_rows(const Layout& layout, const Layer& layer, int32_t head);
kernels::DigestRows value_mean_rows(const Layout& layout, const Layer& layer, int32_t head);
kernels::PagedRows table_rows(const Layout& layout, const Layer& layer, int32_t head);
kernels::PagedRows value_rows(const Layout& layout, const Layer& layer, int32_t head);
kernels::PagedRows key_rows(const Layout& layout, const Layer& layer, int32_t head);
// Shared by the heads: row c is the block of C rows of r.
kernels::PagedRows lowrank_rows(const Layout& layout, const Layer& layer);

// Exact tokens [from, to) of one head, split at pages; returns the count written (at most exact_span_bound).
int32_t exact_spans(const Layout& layout, const Layer& layer, int32_t head, int64_t from, int64_t to,
                    kernels::KvSpan* spans);
int64_t exact_span_bound(int64_t n_tokens);
// All outlier blocks of one head, a span a page.
int32_t outlier_spans(const Layout& layout, const Layer& layer, int32_t head, kernels::KvSpan* spans);
// The same rows as one run. Exact runs of one range have the same page list for all heads.
kernels::KvRun exact_run(const Layout& layout, const Layer& layer, int32_t head, int64_t from, int64_t to);
kernels::KvRun outlier_run(const Layout& layout, const Layer& layer, int32_t head);
// K and V block of outlier i of a head.
kernels::KvSpan outlier_block(const Layout& layout, const Layer& layer, int32_t head, int64_t i);

// Segments as key_rebuild wants them for one head; returns the count.
int32_t head_segments(const Layout& layout, const Layer& layer, int32_t head, kernels::BasisSegment* segments);

void* slot_keys(const Layout& layout, const Layer& layer, int32_t head);
void* slot_values(const Layout& layout, const Layer& layer, int32_t head);
int32_t* chunk_of_slot(const Layer& layer, int32_t head);
uint32_t* slot_last_used(const Layout& layout, const Layer& layer, int32_t head);

// Of a head: int64 [2] for slot_update, then double [3] for guard_grow.
int64_t* slot_totals(const Layout& layout, const Layer& layer, int32_t head);

// The device's bits, and the host's.
inline uint64_t* excluded_data(const Layer& layer, int32_t head) {
  return layer.excluded.as<uint64_t>() + head * layer.excluded_words;
}
inline uint64_t* excluded_bits(Layer& layer, int32_t head) {
  return layer.excluded_bits.data() + head * layer.excluded_words;
}

}  // namespace skv::kv
