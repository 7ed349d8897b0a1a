#include "tests/kernels/attn_decode_cases.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

void run(const AttnDecodeDesc& desc, const std::vector<AttnDecodeItem>& items) {
  int64_t rows = 0;  // at most
  for (const AttnDecodeItem& item : items) {
    rows += int64_t{item.blocks.max_ids} * item.blocks.block_tokens;
    for (int32_t i = 0; i < item.n_runs; ++i) rows += item.runs[i].n;
  }
  const auto bytes = attn_decode_workspace_bytes(desc, static_cast<int64_t>(items.size()), rows);
  Buffer<char> workspace(static_cast<int64_t>(bytes), 64);
  tested_ops().attn_decode(desc, items, workspace.data());
}

std::string describe(const DecodeCase& c, const char* what) {
  return std::string(what) + " D=" + std::to_string(c.desc.head_dim) + " G=" + std::to_string(c.desc.group) +
         " dtype=" + std::to_string(static_cast<int>(c.desc.dtype)) + " rows=" + std::to_string(c.rows);
}

// With item.merge, onto what the case's out and lse hold.
void compare_with_reference(DecodeCase* c, const char* what) {
  const AttnDecodeItem item = finish(c);
  std::vector<float> out = copy_of(*c->out), lse = copy_of(*c->lse);
  run(c->desc, {item});
  AttnDecodeItem ref = item;
  ref.out = out.data();
  ref.lse = lse.data();
  attn_decode_ref(c->desc, std::span(&ref, 1), nullptr);
  const float error = 1e-5f + c->amplitude * 0x1p-22f;
  expect_close(c->out->span(), out, error * c->max_v, describe(*c, what) + " out");
  expect_close(c->lse->span(), lse, error * std::max(1.0f, max_abs(lse)), describe(*c, what) + " lse");
}

AttnDecodeDesc make_desc(DType dtype, int32_t dim, int32_t group) {
  return {dtype, dim, group, 1.0f / std::sqrt(static_cast<float>(dim))};
}

TEST(AttnDecode, matches_reference_for_every_shape_and_fill) {
  Random rng;
  for_each_target([&] {
    for (const int32_t dim : {32, 64, 80, 96, 128, 256, 8, 20, 2, 300, 512}) {
      for (const int32_t group : {1, 2, 3, 4, 7, 8, 9, 16}) {
        if (tested_slowly() && rng.chance(0.8)) continue;  // eight orders of threads
        const auto c = make_case(rng, make_desc(rng.pick({DType::bf16, DType::f32}), dim, group));
        const Fill fill = kAllFills[rng.integer(0, 4)];
        if (rng.chance(0.5)) add_blocks(rng, c.get(), fill, rng.pick({4, 8, 16, 32}), rng.pick({0, 1, 5, 20}));
        c->spare_ids = static_cast<int32_t>(rng.integer(0, 40));
        const int64_t runs = rng.integer(c->rows == 0, 4);
        for (int64_t r = 0; r < runs; ++r) add_run(rng, c.get(), fill, static_cast<int32_t>(rng.integer(1, 90)));
        compare_with_reference(c.get(), fill_name(fill));
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  });
}

TEST(AttnDecode, matches_reference_around_tile_and_split_lengths) {
  Random rng;
  for_each_target([&] {
    for (const int32_t rows : {1, 3, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 2047, 2049, 5000}) {
      if (tested_slowly() && rows > 257) continue;
      const auto c = make_case(rng, make_desc(DType::bf16, 64, 4));
      add_blocks(rng, c.get(), Fill::normal, 8, rows / 16);
      for (int32_t left = rows - rows / 16 * 8; left > 0;) {
        const int32_t n = std::min<int32_t>(left, static_cast<int32_t>(rng.integer(0, 200)));
        add_run(rng, c.get(), Fill::normal, n);
        left -= n;
      }
      compare_with_reference(c.get(), "split");
      if (::testing::Test::HasFatalFailure()) return;
    }
  });
}

TEST(AttnDecode, keeps_logits_that_differ_by_hundreds) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::f32, 64, 4));
    for (int i = 0; i < (tested_slowly() ? 6 : 20); ++i) add_run(rng, c.get(), Fill::normal, 100);
    for (float& x : c->q->span()) x *= 100.0f;
    c->amplitude *= 100.0f;
    compare_with_reference(c.get(), "peaked");
  });
}

void expect_nothing(const DecodeCase& c) {
  for (float x : c.out->span()) ASSERT_EQ(x, 0.0f);
  for (float x : c.lse->span()) ASSERT_EQ(x, -std::numeric_limits<float>::infinity());
}

TEST(AttnDecode, gives_zero_and_minus_infinity_without_rows) {
  Random rng;
  for_each_target([&] {
    const auto empty = make_case(rng, make_desc(DType::bf16, 80, 3));
    finish(empty.get());
    const auto hollow = make_case(rng, make_desc(DType::bf16, 80, 3));
    for (int i = 0; i < 3; ++i) add_run(rng, hollow.get(), Fill::normal, 0);
    finish(hollow.get());
    run(empty->desc, {empty->item, hollow->item});
    for (const DecodeCase* c : {empty.get(), hollow.get()}) expect_nothing(*c);
  });
}

TEST(AttnDecode, gives_zero_when_every_logit_is_minus_infinity) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::f32, 32, 2));
    for (float& x : c->q->span()) x = std::fabs(x) + 0.1f;
    add_run(rng, c.get(), Fill::normal, 1500);
    set_keys(*c, c->runs[0], -std::numeric_limits<float>::infinity());
    run(c->desc, {finish(c.get())});
    expect_nothing(*c);
  });
}

TEST(AttnDecode, ignores_rows_whose_logit_is_minus_infinity) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::f32, 32, 2));
    for (float& x : c->q->span()) x = std::fabs(x) + 0.1f;
    add_run(rng, c.get(), Fill::normal, 70);
    add_run(rng, c.get(), Fill::normal, 64);
    set_keys(*c, c->runs[0], -std::numeric_limits<float>::infinity());
    compare_with_reference(c.get(), "first tile masked");
  });
}

TEST(AttnDecode, keeps_nan_of_a_query_in_its_item) {
  Random rng;
  for_each_target([&] {
    std::vector<std::unique_ptr<DecodeCase>> cases;
    std::vector<AttnDecodeItem> items;
    for (int i = 0; i < 3; ++i) {
      cases.push_back(make_case(rng, make_desc(DType::bf16, 64, 4)));
      add_run(rng, cases.back().get(), Fill::normal, tested_slowly() ? 300 : 1100);
      items.push_back(finish(cases.back().get()));
    }
    (*cases[1]->q)[64 + 5] = std::numeric_limits<float>::quiet_NaN();
    run(cases[0]->desc, items);
    for (int64_t d = 0; d < 64; ++d) ASSERT_TRUE(std::isnan((*cases[1]->out)[64 + d]));
    ASSERT_TRUE(std::isnan((*cases[1]->lse)[1]));
    for (const int other : {0, 2}) {
      for (float x : cases[other]->out->span()) ASSERT_TRUE(std::isfinite(x));
    }
  });
}

TEST(AttnDecode, result_depends_neither_on_threads_nor_on_other_items) {
  Random rng;
  for_each_target([&] {
    std::vector<std::unique_ptr<DecodeCase>> cases;
    std::vector<AttnDecodeItem> items;
    for (const int32_t runs : {tested_slowly() ? 9 : 30, 1, 0, 7}) {
      cases.push_back(make_case(rng, make_desc(DType::bf16, 64, 5)));
      add_blocks(rng, cases.back().get(), Fill::normal, 8, 13);
      for (int32_t r = 0; r < runs; ++r) add_run(rng, cases.back().get(), Fill::normal, 99);
      items.push_back(finish(cases.back().get()));
    }
    with_threads(3, [&] { run(cases[0]->desc, items); });
    for (const auto& c : cases) {
      std::vector<float> out(c->out->size()), lse(c->lse->size());
      AttnDecodeItem alone = c->item;
      alone.out = out.data();
      alone.lse = lse.data();
      with_threads(1, [&] { run(c->desc, {alone}); });
      expect_same_bytes(out.data(), c->out->data(), out.size() * 4, "out");
      expect_same_bytes(lse.data(), c->lse->data(), lse.size() * 4, "lse");
      alone.lse = nullptr;
      run(c->desc, {alone});
      expect_same_bytes(out.data(), c->out->data(), out.size() * 4, "out without lse");
    }
  });
}

TEST(AttnDecode, the_bound_of_the_blocks_changes_no_bit) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::bf16, 64, 4));
    add_blocks(rng, c.get(), Fill::normal, 8, 40);
    add_run(rng, c.get(), Fill::normal, 700);
    run(c->desc, {finish(c.get())});
    const std::vector<float> out = copy_of(*c->out), lse = copy_of(*c->lse);
    for (const int32_t spare : {30, 96, 130, 150, 300}) {
      c->spare_ids = spare;
      run(c->desc, {finish(c.get())});
      expect_same_bytes(c->out->data(), out.data(), out.size() * 4, "out");
      expect_same_bytes(c->lse->data(), lse.data(), lse.size() * 4, "lse");
    }
    c->ids.clear();
    compare_with_reference(c.get(), "no blocks of many");
  });
}

TEST(AttnDecode, how_runs_and_pages_cut_the_rows_changes_no_bit) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(rng.pick({DType::bf16, DType::f32}), 80, 5));
    add_blocks(rng, c.get(), Fill::normal, 8, 13);
    const int32_t rows = tested_slowly() ? 300 : 2500;
    const std::vector<char> k = random_rows(rng, *c, Fill::normal, rows, 1.0f);
    const std::vector<char> v = random_rows(rng, *c, Fill::normal, rows, 1.0f);
    std::vector<float> out, lse;
    for (const int32_t rows_per_page : {rows, 64, 24, rows / 30}) {
      const int32_t longest = rows_per_page == rows ? rows : rng.pick({rows, rows / 2, rows / 9});
      c->runs.clear();
      for (int32_t at = 0, n = 0; at < rows; at += n) {
        n = std::min(rows - at, longest == rows ? rows : static_cast<int32_t>(rng.integer(0, longest)));
        place_run(rng, c.get(), k.data() + at * c->row_bytes(), v.data() + at * c->row_bytes(), n, rows_per_page);
      }
      run(c->desc, {finish(c.get())});
      if (out.empty()) out = copy_of(*c->out), lse = copy_of(*c->lse);
      expect_same_bytes(c->out->data(), out.data(), out.size() * 4, describe(*c, "out"));
      expect_same_bytes(c->lse->data(), lse.data(), lse.size() * 4, describe(*c, "lse"));
    }
  });
}

TEST(AttnDecode, matches_reference_over_many_pages) {
  Random rng;
  int variant = 0;
  for_each_target([&] {
    if (tested_slowly() && variant++ % 4 != 0) return;
    const auto c = make_case(rng, make_desc(DType::bf16, 8, 1));
    while (c->rows < 17000) add_run(rng, c.get(), Fill::normal, rng.pick({640, 8, 11000}));
    compare_with_reference(c.get(), "pages");
  });
}

TEST(AttnDecode, merges_onto_any_earlier_result) {
  Random rng;
  const float none = -std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for_each_target([&] {
    for (const int32_t dim : {32, 64, 80, 96, 128, 256}) {
      for (const int32_t rows : {1, 70, 1500}) {
        if (tested_slowly() && (rows > 70 || rng.chance(0.5))) continue;
        const auto c = make_case(rng, make_desc(rng.pick({DType::bf16, DType::f32}), dim, 6));
        add_run(rng, c.get(), kAllFills[rng.integer(0, 4)], rows);
        c->item.merge = true;
        fill_rows(rng, Fill::normal, DType::f32, c->out->data(), 6, dim);
        const float before[] = {none, nan, 700.0f, -700.0f, rng.normal(), 5.0f};
        std::copy(std::begin(before), std::end(before), c->lse->data());
        std::fill(c->out->data(), c->out->data() + dim, nan);  // counts for nothing
        c->max_v = std::max(c->max_v, 5.0f);
        compare_with_reference(c.get(), "merge");
        if (::testing::Test::HasFatalFailure()) return;
        for (int32_t d = 0; d < 2 * dim; ++d) ASSERT_EQ(std::isnan((*c->out)[d]), d >= dim);
      }
    }
  });
}

TEST(AttnDecode, merge_without_new_rows_changes_no_bit) {
  Random rng;
  for_each_target([&] {
    std::vector<std::unique_ptr<DecodeCase>> cases;
    std::vector<AttnDecodeItem> items;
    for (int i = 0; i < 2; ++i) {  // no rows, and rows whose logits are all -inf
      cases.push_back(make_case(rng, make_desc(DType::f32, 80, 4)));
      DecodeCase* c = cases.back().get();
      if (i == 1) add_run(rng, c, Fill::normal, 70);
      for (float& x : c->q->span()) x = std::fabs(x) + 0.1f;
      if (i == 1) set_keys(*c, c->runs[0], -std::numeric_limits<float>::infinity());
      for (float& x : c->out->span()) x = rng.pick({-0.0f, rng.normal(), std::numeric_limits<float>::quiet_NaN()});
      for (float& x : c->lse->span()) x = rng.pick({rng.normal() * 100.0f, -std::numeric_limits<float>::infinity()});
      c->item.merge = true;
      items.push_back(finish(c));
    }
    std::vector<std::vector<float>> before;
    for (const auto& c : cases) before.push_back(copy_of(*c->out)), before.push_back(copy_of(*c->lse));
    run(cases[0]->desc, items);
    for (std::size_t i = 0; i < 2; ++i) {
      expect_same_bytes(cases[i]->out->data(), before[2 * i].data(), before[2 * i].size() * 4, "out");
      expect_same_bytes(cases[i]->lse->data(), before[2 * i + 1].data(), before[2 * i + 1].size() * 4, "lse");
    }
  });
}

// The item's runs in two calls: [0, cut), then the rest with merge, beside other items or alone.
void run_in_two(DecodeCase* c, int32_t cut, const std::vector<AttnDecodeItem>& others) {
  AttnDecodeItem head = finish(c), tail = c->item;
  head.n_runs = cut;
  head.merge = false;
  tail.blocks = {};
  tail.runs += cut;
  tail.n_runs -= cut;
  tail.merge = true;
  for (const AttnDecodeItem& item : {head, tail}) {
    std::vector<AttnDecodeItem> items = others;
    items.push_back(item);
    run(c->desc, items);
  }
}

TEST(AttnDecode, two_calls_with_merge_equal_one_whatever_other_items_do) {
  Random rng;
  for_each_target([&] {
    for (const Fill fill : kAllFills) {
      if (tested_slowly() && rng.chance(0.6)) continue;
      const AttnDecodeDesc desc = make_desc(rng.pick({DType::bf16, DType::f32}), rng.pick({64, 80, 128}), 5);
      const auto c = make_case(rng, desc), other = make_case(rng, desc);
      const int most = tested_slowly() ? 30 : 150;
      add_blocks(rng, c.get(), fill, 8, rng.pick({0, 1, 40}));
      for (int i = 0; i < 20; ++i) add_run(rng, c.get(), fill, static_cast<int32_t>(rng.integer(1, most)));
      add_run(rng, other.get(), Fill::normal, tested_slowly() ? 270 : 1300);
      other->item.merge = true;
      fill_rows(rng, Fill::normal, DType::f32, other->out->data(), 5, desc.head_dim);
      fill_rows(rng, Fill::normal, DType::f32, other->lse->data(), 1, 5);
      (*other->lse)[2] = std::numeric_limits<float>::quiet_NaN();
      finish(other.get());
      const int32_t cut = static_cast<int32_t>(rng.integer(0, 20));
      run(desc, {finish(c.get())});
      const std::vector<float> whole = copy_of(*c->out), whole_lse = copy_of(*c->lse);
      with_threads(1, [&] { run_in_two(c.get(), cut, {}); });
      const std::vector<float> alone = copy_of(*c->out);
      const float error = 1e-5f + c->amplitude * 0x1p-22f;
      expect_close(alone, whole, error * c->max_v, describe(*c, fill_name(fill)) + " out");
      expect_close(c->lse->span(), whole_lse, error * std::max(1.0f, max_abs(whole_lse)), "lse");
      with_threads(3, [&] { run_in_two(c.get(), cut, {other->item, other->item}); });
      expect_same_bytes(c->out->data(), alone.data(), alone.size() * 4, "beside other items");
      if (::testing::Test::HasFatalFailure()) return;
    }
  });
}

TEST(AttnDecode, reads_blocks_past_two_to_the_31_elements) {
  if (!ops_see_all_memory()) GTEST_SKIP() << "so many addresses cannot be shown to a GPU";
  Random rng;
  constexpr int64_t kBlock = 8 * 128 * 2;
  constexpr int32_t kFar = 3 << 20;  // 6 GB, 3 * 2^30 elements
  SparseRegion k((kFar + 1) * kBlock), v((kFar + 1) * kBlock);
  for (const int32_t id : {0, 1 << 20, kFar}) {
    for (SparseRegion* region : {&k, &v}) fill_rows(rng, Fill::normal, DType::bf16, region->at(id * kBlock), 8, 128);
  }
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::bf16, 128, 4));
    c->item.blocks = {k.at(0), v.at(0), kBlock, 8};
    c->ids = {kFar, 0, 1 << 20};
    c->rows = 24;
    c->max_v = 4.0f;
    compare_with_reference(c.get(), "far blocks");
  });
}

// Full attention over pages of 64 tokens, each head's rows of a page contiguous, as the KV manager keeps them.
void bench_pages(const char* variant, int32_t heads, int32_t group, int32_t dim, DType dtype, int64_t tokens) {
  const int64_t row = dim * dtype_bytes(dtype), layer_bytes = 2 * tokens * heads * row;
  const int32_t layers = bench_layers(layer_bytes);
  constexpr int32_t kPage = 64;
  SparseRegion data(static_cast<std::size_t>(layers * layer_bytes), true);
  for (int64_t i = 0; i < layers * layer_bytes / dtype_bytes(dtype); ++i) {  // small noise, cheap to make
    const float x = static_cast<float>((i * 2654435761u >> 7) & 255) / 256.0f - 0.5f;
    store_f32(data.at(0), dtype, i, x);
  }
  const AttnDecodeDesc desc{dtype, dim, group, 1.0f / std::sqrt(static_cast<float>(dim))};
  std::vector<float> q(static_cast<std::size_t>(heads * group * dim)), out(q.size());
  std::vector<std::vector<void*>> pages(static_cast<std::size_t>(layers));
  std::vector<KvRun> runs(static_cast<std::size_t>(layers * heads));
  std::vector<std::vector<AttnDecodeItem>> items(static_cast<std::size_t>(layers));
  for (int32_t l = 0; l < layers; ++l) {
    auto& list = pages[static_cast<std::size_t>(l)];
    for (int64_t t = 0; t < tokens; t += kPage) list.push_back(data.at(l * layer_bytes + t * heads * row * 2));
    for (int32_t h = 0; h < heads; ++h) {
      KvRun& run = runs[static_cast<std::size_t>(l * heads + h)];
      const int64_t k = h * kPage * row * 2;
      run = {list.data(), list.data(), k, k + kPage * row, static_cast<int32_t>(list.size()), kPage, 0,
             static_cast<int32_t>(tokens)};
      const auto offset = static_cast<std::size_t>(h * group * dim);
      items[static_cast<std::size_t>(l)].push_back({q.data() + offset, {}, &run, 1, out.data() + offset, nullptr});
    }
  }
  std::vector<char> workspace(attn_decode_workspace_bytes(desc, heads, tokens * heads));
  Random rng;
  const BenchRow bench_row{.op = "attn_decode", .variant = variant,
      .shape = "pages 64, " + std::to_string(heads * group) + "/" + std::to_string(heads) + "/" +
               std::to_string(dim) + (dtype == DType::bf16 ? " bf16" : " f32"),
      .tokens = tokens, .layers = layers, .working_set_bytes = layers * layer_bytes,
      .bytes = static_cast<double>(layer_bytes)};
  run_bench(bench_row, [&](int64_t i) {
    for (float& x : q) x = rng.normal();
    tested_ops().attn_decode(desc, items[static_cast<std::size_t>(i % layers)], workspace.data());
  });
}

// Selected chunks out of a region of slots, as ShadowKV attends.
void bench_slots(const char* variant, int32_t selected, int32_t slots) {
  constexpr int32_t kHeads = 8, kGroup = 4, kDim = 128, kChunk = 8;
  const int64_t block = int64_t{kChunk} * kDim * 2, layer_bytes = 2 * kHeads * slots * block;
  const int32_t layers = bench_layers(layer_bytes, 16);
  SparseRegion data(static_cast<std::size_t>(layers * layer_bytes), true);
  std::memset(data.at(0), 0x3c, static_cast<std::size_t>(layers * layer_bytes));
  const AttnDecodeDesc desc{DType::bf16, kDim, kGroup, 0.088f};
  std::vector<float> q(kHeads * kGroup * kDim), out(q.size());
  std::vector<int32_t> ids(static_cast<std::size_t>(kHeads * selected)), n_ids = {selected};
  std::vector<char> workspace(attn_decode_workspace_bytes(desc, kHeads, int64_t{kHeads} * selected * kChunk));
  std::vector<AttnDecodeItem> items(kHeads);
  Random rng;
  const BenchRow bench_row{.op = "attn_decode", .variant = variant,
      .shape = "slots " + std::to_string(selected) + " of " + std::to_string(slots) + ", chunk 8, 32/8/128 bf16",
      .tokens = int64_t{selected} * kChunk, .layers = layers, .working_set_bytes = layers * layer_bytes,
      .bytes = 2.0 * kHeads * selected * static_cast<double>(block)};
  run_bench(bench_row, [&](int64_t i) {
    for (float& x : q) x = rng.normal();
    for (int32_t& id : ids) id = static_cast<int32_t>(rng.integer(0, slots - 1));
    for (int32_t h = 0; h < kHeads; ++h) {
      const int64_t at = (i % layers) * layer_bytes + h * slots * block;
      const KvBlocks blocks = {data.at(at), data.at(at + layer_bytes / 2), block, kChunk, ids.data() + h * selected,
                               n_ids.data(), selected};
      items[static_cast<std::size_t>(h)] = {q.data() + h * kGroup * kDim, blocks, nullptr, 0,
                                            out.data() + h * kGroup * kDim, nullptr};
    }
    tested_ops().attn_decode(desc, items, workspace.data());
  });
}

void bench() {
  const int64_t tokens = bench_small() ? 1024 : 131072;
  for_each_bench_target([&](const char* variant) {
    bench_pages(variant, 8, 4, 128, DType::bf16, tokens);
    bench_pages(variant, 8, 1, 128, DType::bf16, tokens);
    bench_pages(variant, 8, 8, 128, DType::bf16, tokens);
    bench_pages(variant, 8, 4, 64, DType::f32, tokens);
    bench_slots(variant, 256, bench_small() ? 300 : 1024);
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
