#include "kernels/attn_remainder/attn_remainder.h"

#include <memory>

#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Rows, or their scales, on separately placed pages that end with their last row.
struct Pages {
  std::vector<std::unique_ptr<Buffer<char>>> buffers;
  std::vector<void*> list;
  PagedRows make(int32_t n, int32_t rows_per_page, int64_t row_bytes) {
    for (int32_t left = n; left > 0; left -= rows_per_page) {
      buffers.push_back(std::make_unique<Buffer<char>>(std::min(left, rows_per_page) * row_bytes + 32));
      list.push_back(buffers.back()->data());
    }
    return {list.data(), 32, rows_per_page, static_cast<int32_t>(row_bytes), static_cast<int32_t>(list.size())};
  }
};

struct Case {
  AttnRemainderDesc desc;
  Pages rows, scales;
  std::vector<int32_t> ids;
  int32_t n_ids = 0;
  std::unique_ptr<Buffer<float>> log_mass, out, lse;
  AttnRemainderItem item;
  float max_v = 0;  // of values, and of out before
};

enum class Values { bf16, f32, int8 };

AttnRemainderDesc make_desc(Values values, int32_t dim, int32_t group) {
  AttnRemainderDesc desc;
  desc.values.codec = values == Values::int8 ? BlockCodec::int8 : BlockCodec::raw;
  desc.values.dtype = values == Values::f32 ? DType::f32 : DType::bf16;
  desc.values.chunk = 8;
  desc.values.head_dim = dim;
  desc.group = group;
  return desc;
}

void store_value(Case* c, int32_t chunk, int32_t d, float x) {
  void* row = c->item.values.rows.row(chunk);
  if (c->desc.values.codec == BlockCodec::raw) return store_any(row, c->desc.values.dtype, d, x);
  static_cast<int8_t*>(row)[d] = static_cast<int8_t>(x);
}

void fill_values(Random& rng, Fill fill, Case* c) {
  const DigestFormat& format = c->desc.values;
  for (int32_t j = 0; j < c->item.n; ++j) {
    void* row = c->item.values.rows.row(j);
    if (format.codec == BlockCodec::raw) {
      fill_rows(rng, fill, format.dtype, row, 1, format.head_dim);
      for (int32_t d = 0; d < format.head_dim; ++d) {
        c->max_v = std::max(c->max_v, std::fabs(load_f32(row, format.dtype, d)));
      }
      continue;
    }
    const float spread = fill == Fill::zeros ? 0.0f : fill == Fill::biased ? 100.0f : 0.01f;
    const float scale = spread * std::fabs(rng.normal());
    store_f32(c->item.values.scales.row(j), DType::f16, 0, scale);
    for (int32_t d = 0; d < format.head_dim; ++d) store_value(c, j, d, static_cast<float>(rng.integer(-127, 127)));
    c->max_v = std::max(c->max_v, 127.5f * scale);
  }
}

// Log masses of a given spread around a bias, a few of them excluded for all heads; ids a share of the others.
std::unique_ptr<Case> make_case(Random& rng, const AttnRemainderDesc& desc, Fill fill, int32_t n, float bias = 0.0f,
                                float spread = 3.0f, double selected = 0.05, double excluded = 0.03) {
  auto c = std::make_unique<Case>();
  c->desc = desc;
  const int32_t stride = n + static_cast<int32_t>(rng.integer(0, 5));
  const int32_t rows_per_page = rng.pick({n < 400 ? 1 : 100, 37, 64, 256});
  c->log_mass = std::make_unique<Buffer<float>>(int64_t{desc.group} * stride);
  c->out = std::make_unique<Buffer<float>>(int64_t{desc.group} * desc.values.head_dim);
  c->lse = std::make_unique<Buffer<float>>(desc.group);
  c->item.n = n;
  c->item.values.rows = c->rows.make(n, rows_per_page, desc.values.row_bytes());
  if (desc.values.codec == BlockCodec::int8) c->item.values.scales = c->scales.make(n, rows_per_page, 2);
  fill_values(rng, fill, c.get());
  for (int32_t g = 0; g < desc.group; ++g) {
    for (int32_t j = 0; j < stride; ++j) (*c->log_mass)[int64_t{g} * stride + j] = bias + spread * rng.normal();
  }
  for (int32_t j = 0; j < n; ++j) {
    if (rng.chance(selected)) c->ids.push_back(j);
    else if (rng.chance(excluded)) {
      for (int32_t g = 0; g < desc.group; ++g) (*c->log_mass)[int64_t{g} * stride + j] = -kInf;
    }
  }
  fill_rows(rng, Fill::normal, DType::f32, c->out->data(), desc.group, desc.values.head_dim);
  for (float& x : c->lse->span()) x = bias + spread * rng.normal();
  c->max_v = std::max(c->max_v, max_abs(c->out->span()));
  c->n_ids = static_cast<int32_t>(c->ids.size());
  c->item.log_mass = c->log_mass->data();
  c->item.log_mass_stride = stride;
  c->item.ids = c->ids.data();
  c->item.n_ids = &c->n_ids;
  c->item.max_ids = c->n_ids + static_cast<int32_t>(rng.integer(0, 9));
  c->item.out = c->out->data();
  c->item.lse = c->lse->data();
  return c;
}

void run(const AttnRemainderDesc& desc, const std::vector<AttnRemainderItem>& items) {
  int64_t chunks = 0;
  for (const AttnRemainderItem& item : items) chunks += item.n;
  const auto bytes = attn_remainder_workspace_bytes(desc, static_cast<int64_t>(items.size()), chunks);
  Buffer<char> workspace(static_cast<int64_t>(bytes), 64);
  tested_ops().attn_remainder(desc, items, workspace.data());
}

std::vector<float> copy_of(const Buffer<float>& x) { return {x.data(), x.data() + x.size()}; }

void compare_with_reference(Case* c, const std::string& what) {
  std::vector<float> out = copy_of(*c->out), lse = copy_of(*c->lse);
  AttnRemainderItem ref = c->item;
  ref.out = out.data();
  ref.lse = lse.data();
  attn_remainder_ref(c->desc, std::span(&ref, 1), nullptr);
  run(c->desc, {c->item});
  const std::string params = what + " D=" + std::to_string(c->desc.values.head_dim) +
      " G=" + std::to_string(c->desc.group) + " n=" + std::to_string(c->item.n) +
      " codec=" + std::to_string(static_cast<int>(c->desc.values.codec)) +
      " dtype=" + std::to_string(static_cast<int>(c->desc.values.dtype));
  expect_close(c->out->span(), out, 1e-5f * c->max_v, params + " out");
  for (std::size_t g = 0; g < lse.size(); ++g) {
    const float tolerance = 1e-5f * std::max(1.0f, std::isfinite(lse[g]) ? std::fabs(lse[g]) : 1.0f);
    expect_close({c->lse->data() + g, 1}, {&lse[g], 1}, tolerance, params + " lse");
  }
}

TEST(AttnRemainder, matches_reference_for_every_format_shape_and_fill) {
  Random rng;
  for_each_target([&] {
    for (const Values values : {Values::bf16, Values::f32, Values::int8}) {
      for (const int32_t dim : {32, 64, 80, 96, 128, 256, 20, 2, 300, 512}) {
        for (const int32_t group : {1, 2, 3, 4, 7, 8, 9, 16}) {
          if (tested_slowly() && rng.chance(0.85)) continue;  // eight orders of threads
          const Fill fill = kAllFills[rng.integer(0, 4)];
          const auto n = static_cast<int32_t>(rng.integer(1, 300));
          const auto c = make_case(rng, make_desc(values, dim, group), fill, n, rng.pick({0.0f, 400.0f, -400.0f}));
          compare_with_reference(c.get(), fill_name(fill));
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  });
}

TEST(AttnRemainder, matches_reference_around_tile_and_split_lengths) {
  Random rng;
  for_each_target([&] {
    for (const int32_t n : {1, 3, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 2047, 2049, 5000}) {
      if (tested_slowly() && n > 1025) continue;
      for (const double selected : {0.0, 0.05, 0.95}) {
        const Values values = rng.pick({Values::bf16, Values::f32, Values::int8});
        const auto c = make_case(rng, make_desc(values, 64, 4), Fill::normal, n, 0.0f, 3.0f, selected);
        compare_with_reference(c.get(), "lengths");
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  });
}

TEST(AttnRemainder, keeps_log_masses_that_differ_by_hundreds) {
  Random rng;
  for_each_target([&] {
    for (const Values values : {Values::bf16, Values::f32, Values::int8}) {
      const auto c =
          make_case(rng, make_desc(values, 64, 4), Fill::normal, tested_slowly() ? 700 : 3000, 50.0f, 300.0f);
      compare_with_reference(c.get(), "peaked");
    }
  });
}

TEST(AttnRemainder, equals_the_remainder_alone_where_nothing_was_attended_before) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(Values::bf16, 80, 3), Fill::normal, 1500);
    std::fill(c->out->data(), c->out->data() + c->out->size(), kNan);
    std::fill(c->lse->data(), c->lse->data() + 3, -kInf);
    compare_with_reference(c.get(), "alone");
    for (float x : c->out->span()) ASSERT_TRUE(std::isfinite(x));
  });
}

TEST(AttnRemainder, changes_no_bit_when_nothing_is_left_over) {
  Random rng;
  for_each_target([&] {
    for (const Values values : {Values::bf16, Values::int8}) {
      const AttnRemainderDesc desc = make_desc(values, 64, 5);
      std::vector<std::unique_ptr<Case>> cases;
      cases.push_back(make_case(rng, desc, Fill::normal, 0));
      cases.push_back(make_case(rng, desc, Fill::normal, 1100, 0.0f, 3.0f, 1.0));
      cases.push_back(make_case(rng, desc, Fill::normal, 1100, 0.0f, 3.0f, 0.5, 1.0));
      for (const auto& c : cases) {
        for (float& x : c->out->span()) x = rng.pick({-0.0f, rng.normal(), kNan});
        for (float& x : c->lse->span()) x = rng.pick({rng.normal() * 100.0f, -kInf, kNan});
        const std::vector<float> out = copy_of(*c->out), lse = copy_of(*c->lse);
        run(desc, {c->item});
        expect_same_bytes(c->out->data(), out.data(), out.size() * 4, "out");
        expect_same_bytes(c->lse->data(), lse.data(), lse.size() * 4, "lse");
      }
    }
  });
}

void poison_value(Case* c, int32_t chunk) {
  if (c->desc.values.codec == BlockCodec::int8) {
    store_f32(c->item.values.scales.row(chunk), DType::f16, 0, kNan);
    return;
  }
  for (int32_t d = 0; d < c->desc.values.head_dim; ++d) {
    store_f32(c->item.values.rows.row(chunk), c->desc.values.dtype, d, kNan);
  }
}

TEST(AttnRemainder, ignores_values_of_chunks_that_are_selected_or_excluded) {
  Random rng;
  for_each_target([&] {
    for (const Values values : {Values::bf16, Values::f32, Values::int8}) {
      const auto c = make_case(rng, make_desc(values, 96, rng.pick({4, 11})), Fill::normal, 1500);
      for (int32_t id : c->ids) poison_value(c.get(), id);
      for (int32_t j = 0; j < 1500; ++j) {
        if (c->item.log_mass[j] == -kInf) poison_value(c.get(), j);
      }
      compare_with_reference(c.get(), "poisoned");
      for (float x : c->out->span()) ASSERT_TRUE(std::isfinite(x));
    }
  });
}

TEST(AttnRemainder, keeps_nan_in_its_item) {
  Random rng;
  for_each_target([&] {
    for (const Values values : {Values::bf16, Values::f32, Values::int8}) {
      const AttnRemainderDesc desc = make_desc(values, 64, 4);
      std::vector<std::unique_ptr<Case>> cases;
      std::vector<AttnRemainderItem> items;
      if (tested_slowly() && rng.chance(0.5)) continue;
      for (int i = 0; i < 4; ++i) {
        cases.push_back(make_case(rng, desc, Fill::normal, 1100, 0.0f, 3.0f, 0.0, 0.0));
        items.push_back(cases.back()->item);
      }
      (*cases[1]->log_mass)[items[1].log_mass_stride + 1050] = kNan;
      poison_value(cases[2].get(), 700);
      run(desc, items);
      for (int64_t d = 0; d < 64; ++d) ASSERT_TRUE(std::isnan((*cases[1]->out)[64 + d]));
      ASSERT_TRUE(std::isnan((*cases[1]->lse)[1]));
      for (float x : cases[2]->out->span()) ASSERT_TRUE(std::isnan(x));
      for (const int other : {0, 3}) {
        for (float x : cases[static_cast<std::size_t>(other)]->out->span()) ASSERT_TRUE(std::isfinite(x));
      }
    }
  });
}

TEST(AttnRemainder, result_depends_neither_on_threads_nor_on_other_items) {
  Random rng;
  for_each_target([&] {
    const AttnRemainderDesc desc = make_desc(rng.pick({Values::bf16, Values::f32, Values::int8}), 64, 5);
    std::vector<std::unique_ptr<Case>> cases;
    std::vector<AttnRemainderItem> items;
    std::vector<std::vector<float>> before;
    for (const int32_t n : {tested_slowly() ? 1300 : 5000, 3, 0, 1024, 600}) {
      cases.push_back(make_case(rng, desc, Fill::normal, n));
      items.push_back(cases.back()->item);
      before.push_back(copy_of(*cases.back()->out));
      before.push_back(copy_of(*cases.back()->lse));
    }
    with_threads(3, [&] { run(desc, items); });
    for (std::size_t i = 0; i < cases.size(); ++i) {
      AttnRemainderItem alone = items[i];
      alone.out = before[2 * i].data();
      alone.lse = before[2 * i + 1].data();
      with_threads(1, [&] { run(desc, {alone}); });
      expect_same_bytes(alone.out, items[i].out, before[2 * i].size() * 4, "out");
      expect_same_bytes(alone.lse, items[i].lse, before[2 * i + 1].size() * 4, "lse");
    }
  });
}

TEST(AttnRemainder, supports_rows_of_means_only) {
  EXPECT_TRUE(attn_remainder_supports(make_desc(Values::bf16, 128, 4)));
  EXPECT_TRUE(attn_remainder_supports(make_desc(Values::int8, 80, 1)));
  AttnRemainderDesc desc = make_desc(Values::bf16, 128, 4);
  desc.values.kind = DigestKind::box;
  EXPECT_FALSE(attn_remainder_supports(desc));
  desc = make_desc(Values::bf16, 128, 4);
  desc.values.codec = BlockCodec::int4;
  EXPECT_FALSE(attn_remainder_supports(desc));
  EXPECT_FALSE(attn_remainder_supports(make_desc(Values::bf16, 1024, 4)));
  EXPECT_FALSE(attn_remainder_supports(make_desc(Values::bf16, 128, 0)));
}

struct BenchData {
  static constexpr int32_t kHeads = 8, kGroup = 4, kDim = 128, kRowsPerPage = 256;
  AttnRemainderDesc desc;
  int32_t n, layers;
  int64_t value_bytes;  // of all heads and one layer; scales likewise
  std::unique_ptr<SparseRegion> rows, scales;
  std::vector<void*> row_pages, scale_pages;
};

BenchData make_bench(Values values, int32_t n) {
  BenchData b;
  b.desc = make_desc(values, BenchData::kDim, BenchData::kGroup);
  b.n = n;
  const int64_t per_page = int64_t{BenchData::kHeads} * BenchData::kRowsPerPage, row = b.desc.values.row_bytes();
  const int64_t pages = n / BenchData::kRowsPerPage;
  b.value_bytes = pages * per_page * row;
  b.layers = bench_layers(b.value_bytes, 16);
  b.rows = std::make_unique<SparseRegion>(static_cast<std::size_t>(b.layers * b.value_bytes), true);
  b.scales = std::make_unique<SparseRegion>(static_cast<std::size_t>(b.layers * pages * per_page * 2), true);
  for (int64_t i = 0; i < b.layers * b.value_bytes / 2; ++i) {
    store_f32(b.rows->at(0), DType::bf16, i, static_cast<float>((i * 2654435761u >> 7) & 255) / 256.0f - 0.5f);
  }
  for (int64_t i = 0; i < b.layers * pages * per_page; ++i) store_f32(b.scales->at(0), DType::f16, i, 0.01f);
  for (int64_t p = 0; p < b.layers * pages; ++p) {
    b.row_pages.push_back(b.rows->at(p * per_page * row));
    b.scale_pages.push_back(b.scales->at(p * per_page * 2));
  }
  return b;
}

void bench_shape(const char* variant, Values values, int32_t n) {
  const BenchData b = make_bench(values, n);
  constexpr int32_t kHeads = BenchData::kHeads, kGroup = BenchData::kGroup, kDim = BenchData::kDim;
  const int64_t row = b.desc.values.row_bytes();
  Random rng;
  std::vector<float> mass(static_cast<std::size_t>(kHeads * kGroup * n)), out(kHeads * kGroup * kDim, 0.0f);
  std::vector<float> lse(kHeads * kGroup);
  for (float& m : mass) m = 3.0f * rng.normal();
  std::vector<int32_t> ids;
  for (int32_t j = 0; j < n; j += 64) ids.push_back(j);
  const std::vector<int32_t> n_ids = {static_cast<int32_t>(ids.size())};
  std::vector<AttnRemainderItem> items(kHeads);
  std::vector<char> workspace(attn_remainder_workspace_bytes(b.desc, kHeads, int64_t{kHeads} * n));
  const char* shape = values == Values::int8 ? "32/8/128 int8, chunk 8" : "32/8/128 bf16, chunk 8";
  const BenchRow bench_row{.op = "attn_remainder", .variant = variant, .shape = shape,
      .tokens = int64_t{n} * 8, .layers = b.layers, .working_set_bytes = b.layers * b.value_bytes,
      .bytes = static_cast<double>(kHeads) * n * (static_cast<double>(b.desc.values.chunk_bytes()) + 4.0 * kGroup)};
  run_bench(bench_row, [&](int64_t i) {
    const int32_t pages = n / BenchData::kRowsPerPage;
    const int64_t page = (i % b.layers) * pages;
    std::fill(lse.begin(), lse.end(), 5.0f);
    for (int32_t h = 0; h < kHeads; ++h) {
      AttnRemainderItem& item = items[static_cast<std::size_t>(h)];
      const int64_t rows_at = int64_t{h} * BenchData::kRowsPerPage;
      item = {mass.data() + int64_t{h} * kGroup * n, n, n, ids.data(), n_ids.data(),
          n_ids[0],
          {{b.row_pages.data() + page, rows_at * row, BenchData::kRowsPerPage, static_cast<int32_t>(row), pages},
           {b.scale_pages.data() + page, rows_at * 2, BenchData::kRowsPerPage, 2, pages}, {}},
          out.data() + h * kGroup * kDim, lse.data() + h * kGroup};
    }
    tested_ops().attn_remainder(b.desc, items, workspace.data());
  });
}

void bench() {
  const int32_t n = bench_small() ? 512 : 16384;
  for_each_bench_target([&](const char* variant) {
    for (const Values values : {Values::bf16, Values::int8}) bench_shape(variant, values, n);
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
