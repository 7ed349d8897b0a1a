// What the tests of attn_decode run on: items whose rows lie in guarded blocks and pages.
#pragma once

#include <memory>

#include "kernels/attn_decode/attn_decode.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {

using kernels::AttnDecodeDesc;
using kernels::AttnDecodeItem;
using kernels::KvBlocks;
using kernels::KvRun;

// One item with its own exactly placed inputs.
struct DecodeCase {
  AttnDecodeDesc desc;
  std::vector<std::unique_ptr<Buffer<char>>> storage;
  std::vector<std::vector<void*>> pages;
  std::vector<KvRun> runs;
  std::vector<int32_t> ids;
  int32_t n_ids = 0, spare_ids = 0;  // the bound exceeds the count by the spare ones
  std::unique_ptr<Buffer<float>> q, out, lse;
  AttnDecodeItem item;
  float amplitude = 0;  // the largest scale * sum |q k|: rounding of a logit is proportional to it
  float max_v = 0;
  int64_t rows = 0;

  int64_t row_bytes() const { return desc.head_dim * dtype_bytes(desc.dtype); }
};

inline void* make_rows(Random& rng, DecodeCase* c, Fill fill, int64_t rows, float scale) {
  c->storage.push_back(std::make_unique<Buffer<char>>(rows * c->row_bytes()));
  fill_rows(rng, fill, c->desc.dtype, c->storage.back()->data(), rows, c->desc.head_dim, scale);
  return c->storage.back()->data();
}

inline void measure(DecodeCase* c, const void* k, const void* v, int64_t rows) {
  const int64_t dim = c->desc.head_dim;
  for (int64_t r = 0; r < rows; ++r) {
    for (int32_t g = 0; g < c->desc.group; ++g) {
      float sum = 0;
      for (int64_t d = 0; d < dim; ++d) {
        sum += std::fabs((*c->q)[g * dim + d] * load_f32(k, c->desc.dtype, r * dim + d));
      }
      c->amplitude = std::max(c->amplitude, c->desc.scale * sum);
    }
    for (int64_t d = 0; d < dim; ++d) {
      c->max_v = std::max(c->max_v, std::fabs(load_f32(v, c->desc.dtype, r * dim + d)));
    }
  }
}

// Pages of a run: some other rows, then each part's, one part after another, NaN where the run has none. The last
// part ends with the run's rows.
inline void* const* make_pages(DecodeCase* c, const KvRun& run, int32_t others, std::span<const void* const> parts) {
  const int64_t row = c->row_bytes();
  std::vector<void*>& pages = c->pages.emplace_back(run.n_pages);
  const int32_t end = run.n > 0 ? run.first + run.n : 0;
  for (int32_t page = run.first / run.rows_per_page; page * run.rows_per_page < end; ++page) {
    const int32_t first = page * run.rows_per_page, from = std::max(first, run.first);
    const int32_t to = std::min(first + run.rows_per_page, run.first + run.n);
    int64_t at = others - run.rows_per_page;
    const int64_t rows = at + static_cast<int64_t>(parts.size()) * run.rows_per_page + to - first;
    c->storage.push_back(std::make_unique<Buffer<char>>(rows * row));
    char* data = c->storage.back()->data();
    std::memset(data, 0xff, static_cast<std::size_t>(rows * row));
    for (const void* part : parts) {
      at += run.rows_per_page;
      std::memcpy(data + (at + from - first) * row, offset_bytes(part, (from - run.first) * row),
                  static_cast<std::size_t>((to - from) * row));
    }
    pages[page] = data;
  }
  return pages.data();
}

// n rows in pages of K and V, or of K and of V. Pages without rows are null.
inline void place_run(Random& rng, DecodeCase* c, const void* k, const void* v, int32_t n, int32_t rows_per_page) {
  const auto others = static_cast<int32_t>(rng.integer(0, 3));
  KvRun run;
  run.rows_per_page = rows_per_page;
  run.first = static_cast<int32_t>(rng.integer(0, 3 * rows_per_page));
  run.n = n;
  run.n_pages = (run.first + n + rows_per_page - 1) / rows_per_page + static_cast<int32_t>(rng.integer(0, 2));
  run.k_offset_bytes = others * c->row_bytes();
  if (rng.chance(0.5)) {
    run.k_pages = run.v_pages = make_pages(c, run, others, std::vector{k, v});
    run.v_offset_bytes = (others + rows_per_page) * c->row_bytes();
  } else {
    run.k_pages = make_pages(c, run, others, std::vector{k});
    run.v_pages = make_pages(c, run, 0, std::vector{v});
  }
  c->runs.push_back(run);
}

inline std::vector<char> random_rows(Random& rng, const DecodeCase& c, Fill fill, int32_t n, float scale) {
  std::vector<char> rows(static_cast<std::size_t>(n * c.row_bytes()));
  fill_rows(rng, fill, c.desc.dtype, rows.data(), n, c.desc.head_dim, scale);
  return rows;
}

inline void add_run(Random& rng, DecodeCase* c, Fill fill, int32_t n) {
  const float key_scale = fill == Fill::extremes ? 1e-3f : fill == Fill::biased ? 0.1f : 1.0f;
  const std::vector<char> k = random_rows(rng, *c, fill, n, key_scale), v = random_rows(rng, *c, fill, n, 1.0f);
  measure(c, k.data(), v.data(), n);
  place_run(rng, c, k.data(), v.data(), n, std::max(n / 40, rng.pick({1, 3, 8, 64, 100})));
  c->rows += n;
}

// All keys of a run.
inline void set_keys(const DecodeCase& c, const KvRun& run, float x) {
  for (int32_t i = run.first; i < run.first + run.n; ++i) {
    void* row = const_cast<void*>(run.k_row(i, c.row_bytes()));
    for (int32_t d = 0; d < c.desc.head_dim; ++d) store_f32(row, c.desc.dtype, d, x);
  }
}

inline void add_blocks(Random& rng, DecodeCase* c, Fill fill, int32_t block_tokens, int32_t n_ids) {
  const int32_t slots = n_ids + 3;
  const float key_scale = fill == Fill::extremes ? 1e-3f : fill == Fill::biased ? 0.1f : 1.0f;
  KvBlocks& b = c->item.blocks;
  b.k = make_rows(rng, c, fill, int64_t{slots} * block_tokens, key_scale);
  b.v = make_rows(rng, c, fill, int64_t{slots} * block_tokens, 1.0f);
  measure(c, b.k, b.v, int64_t{slots} * block_tokens);
  b.block_bytes = int64_t{block_tokens} * c->desc.head_dim * dtype_bytes(c->desc.dtype);
  b.block_tokens = block_tokens;
  for (int32_t i = 0; i < slots; ++i) c->ids.push_back(i);
  for (int32_t i = slots - 1; i > 0; --i) std::swap(c->ids[i], c->ids[rng.integer(0, i)]);
  c->ids.resize(n_ids);
  c->rows += int64_t{n_ids} * block_tokens;
}

inline std::unique_ptr<DecodeCase> make_case(Random& rng, const AttnDecodeDesc& desc) {
  auto c = std::make_unique<DecodeCase>();
  c->desc = desc;
  const int64_t n = int64_t{desc.group} * desc.head_dim;
  c->q = std::make_unique<Buffer<float>>(n);
  c->out = std::make_unique<Buffer<float>>(n);
  c->lse = std::make_unique<Buffer<float>>(desc.group);
  fill_rows(rng, Fill::normal, DType::f32, c->q->data(), desc.group, desc.head_dim);
  return c;
}

inline std::vector<float> copy_of(const Buffer<float>& x) { return {x.data(), x.data() + x.size()}; }

inline AttnDecodeItem& finish(DecodeCase* c) {
  c->item.q = c->q->data();
  c->item.runs = c->runs.data();
  c->item.n_runs = static_cast<int32_t>(c->runs.size());
  c->item.blocks.ids = c->ids.data();
  c->n_ids = static_cast<int32_t>(c->ids.size());
  c->item.blocks.n_ids = &c->n_ids;
  c->item.blocks.max_ids = c->n_ids + c->spare_ids;
  c->item.out = c->out->data();
  c->item.lse = c->lse->data();
  return c->item;
}

}  // namespace skv::test
