#include "kernels/landmark_score/landmark_score.h"

#include <memory>

#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

// One item: landmarks on separately placed pages, each exactly as long as its rows.
struct Case {
  LandmarkScoreDesc desc;
  std::vector<std::unique_ptr<Buffer<char>>> pages;
  std::vector<void*> page_list;
  std::unique_ptr<Buffer<uint64_t>> excluded;
  std::unique_ptr<Buffer<float>> q, scores;
  LandmarkScoreItem item;
  float amplitude = 0;  // the largest scale * sum |q l|: rounding of a logit is proportional to it
};

LandmarkScoreDesc make_desc(DType dtype, int32_t dim, int32_t group) {
  return {dtype, dim, group, 1.0f / std::sqrt(static_cast<float>(dim))};
}

const void* row_of(const Case& c, int32_t j) { return c.item.landmarks.row(j); }

void measure(Case* c) {
  for (int32_t j = 0; j < c->item.n; ++j) {
    for (int32_t g = 0; g < c->desc.group; ++g) {
      float sum = 0;
      for (int32_t d = 0; d < c->desc.head_dim; ++d) {
        sum += std::fabs((*c->q)[g * c->desc.head_dim + d] * load_f32(row_of(*c, j), c->desc.dtype, d));
      }
      if (std::isfinite(sum)) c->amplitude = std::max(c->amplitude, c->desc.scale * sum);
    }
  }
}

std::unique_ptr<Case> make_case(Random& rng, const LandmarkScoreDesc& desc, Fill fill, int32_t n, double exclude) {
  auto c = std::make_unique<Case>();
  c->desc = desc;
  c->q = std::make_unique<Buffer<float>>(int64_t{desc.group} * desc.head_dim);
  c->scores = std::make_unique<Buffer<float>>(n);
  fill_rows(rng, Fill::normal, DType::f32, c->q->data(), desc.group, desc.head_dim);
  const auto row_bytes = static_cast<int32_t>(desc.head_dim * dtype_bytes(desc.dtype));
  const auto rows_per_page = static_cast<int32_t>(rng.pick({1, 7, 64, 100}));
  const float scale = fill == Fill::extremes ? 1e-3f : fill == Fill::biased ? 0.1f : 1.0f;
  for (int32_t left = n; left > 0; left -= rows_per_page) {
    const int32_t rows = std::min(left, rows_per_page);
    c->pages.push_back(std::make_unique<Buffer<char>>(int64_t{rows} * row_bytes + 32));
    c->page_list.push_back(c->pages.back()->data());
    fill_rows(rng, fill, desc.dtype, c->pages.back()->data() + 32, rows, desc.head_dim, scale);
  }
  c->item = {c->q->data(), {c->page_list.data(), 32, rows_per_page, row_bytes}, nullptr, n, c->scores->data()};
  if (exclude > 0) {
    c->excluded = std::make_unique<Buffer<uint64_t>>((n + 63) / 64);
    for (uint64_t& word : c->excluded->span()) {
      word = 0;
      for (int b = 0; b < 64; ++b) word |= static_cast<uint64_t>(rng.chance(exclude)) << b;  // bits past n too
    }
    c->item.excluded = c->excluded->data();
  }
  measure(c.get());
  return c;
}

bool is_excluded(const Case& c, int32_t j) {
  return c.item.excluded != nullptr && ((c.item.excluded[j / 64] >> (j % 64)) & 1u) != 0;
}

void run_cpu(const LandmarkScoreDesc& desc, const std::vector<LandmarkScoreItem>& items) {
  int64_t total = 0;
  for (const LandmarkScoreItem& item : items) total += item.n;
  Buffer<char> workspace(static_cast<int64_t>(landmark_score_workspace_bytes(desc, total)), 64);
  landmark_score_cpu(desc, items, workspace.data());
}

void compare_with_reference(Case* c, const char* what) {
  run_cpu(c->desc, {c->item});
  std::vector<float> want(static_cast<std::size_t>(c->item.n));
  LandmarkScoreItem ref = c->item;
  ref.scores = want.data();
  landmark_score_ref(c->desc, std::span(&ref, 1), nullptr);
  const float error = 1e-5f + c->amplitude * 0x1p-21f;
  float max = 0;
  for (float s : want) max = std::max(max, s);
  expect_close(c->scores->span(), want, error * max,
               std::string(what) + " D=" + std::to_string(c->desc.head_dim) + " G=" + std::to_string(c->desc.group) +
                   " dtype=" + std::to_string(static_cast<int>(c->desc.dtype)) + " n=" + std::to_string(c->item.n) +
                   " rows_per_page=" + std::to_string(c->item.landmarks.rows_per_page));
}

TEST(LandmarkScore, matches_reference_for_every_shape_and_fill) {
  Random rng;
  for_each_target([&] {
    for (const int32_t dim : {32, 64, 80, 96, 128, 256, 8, 20, 2}) {
      for (const int32_t group : {1, 2, 3, 4, 7, 8, 9, 16}) {
        const Fill fill = kAllFills[rng.integer(0, 4)];
        const auto n = static_cast<int32_t>(rng.integer(1, 300));
        const auto c = make_case(rng, make_desc(rng.pick({DType::bf16, DType::f32}), dim, group), fill, n,
                                 rng.pick({0.0, 0.05, 0.9}));
        compare_with_reference(c.get(), fill_name(fill));
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  });
}

TEST(LandmarkScore, matches_reference_around_tile_and_unit_lengths) {
  Random rng;
  for_each_target([&] {
    for (const int32_t n : {1, 2, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3333}) {
      const auto c = make_case(rng, make_desc(DType::bf16, 64, rng.pick({4, 10})), Fill::normal, n,
                               rng.pick({0.0, 0.1}));
      compare_with_reference(c.get(), "lengths");
      if (::testing::Test::HasFatalFailure()) return;
    }
  });
}

TEST(LandmarkScore, writes_minus_one_and_nothing_else_where_all_is_excluded) {
  Random rng;
  for_each_target([&] {
    for (const int32_t n : {1, 70, 1500}) {
      const auto c = make_case(rng, make_desc(DType::bf16, 64, 4), Fill::normal, n, 1.0);
      run_cpu(c->desc, {c->item});
      for (float s : c->scores->span()) ASSERT_EQ(s, -1.0f);
    }
    const auto none = make_case(rng, make_desc(DType::bf16, 64, 4), Fill::normal, 0, 0.0);
    run_cpu(none->desc, {none->item});
  });
}

TEST(LandmarkScore, does_not_let_excluded_landmarks_reach_the_others) {
  Random rng;
  for_each_target([&] {
    for (const int32_t n : {200, 2500}) {
      const auto c = make_case(rng, make_desc(DType::f32, 64, 4), Fill::normal, n, 0.1);
      for (int32_t j = 0; j < n; ++j) {
        const float nan = std::numeric_limits<float>::quiet_NaN();
        if (is_excluded(*c, j)) store_f32(c->item.landmarks.row(j), DType::f32, 3, nan);
      }
      compare_with_reference(c.get(), "NaN in excluded rows");
    }
  });
}

TEST(LandmarkScore, keeps_nan_of_a_query_in_its_item) {
  Random rng;
  for_each_target([&] {
    for (const int32_t n : {90, 1100}) {
      std::vector<std::unique_ptr<Case>> cases;
      std::vector<LandmarkScoreItem> items;
      for (int i = 0; i < 3; ++i) {
        cases.push_back(make_case(rng, make_desc(DType::bf16, 64, 12), Fill::normal, n, 0.1));
        items.push_back(cases.back()->item);
      }
      (*cases[1]->q)[64 * rng.pick({0, 2, 11}) + 63] = std::numeric_limits<float>::quiet_NaN();
      run_cpu(cases[0]->desc, items);
      for (int32_t j = 0; j < n; ++j) {
        for (const int other : {0, 2}) ASSERT_TRUE(std::isfinite((*cases[other]->scores)[j]));
        const float s = (*cases[1]->scores)[j];
        ASSERT_TRUE(is_excluded(*cases[1], j) ? s == -1.0f : std::isnan(s)) << j << " " << s;
      }
    }
  });
}

TEST(LandmarkScore, gives_zero_when_every_logit_is_minus_infinity) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::f32, 32, 2), Fill::normal, 1100, 0.0);
    for (float& x : c->q->span()) x = std::fabs(x) + 0.1f;
    for (int32_t j = 0; j < c->item.n; ++j) {
      for (int32_t d = 0; d < 32; ++d) {
        store_f32(c->item.landmarks.row(j), DType::f32, d, -std::numeric_limits<float>::infinity());
      }
    }
    run_cpu(c->desc, {c->item});
    for (float s : c->scores->span()) ASSERT_EQ(s, 0.0f);
  });
}

TEST(LandmarkScore, gives_equal_scores_to_equal_landmarks_wherever_they_stand) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::bf16, 80, 6), Fill::normal, 5000, 0.0);
    const std::vector<int32_t> twins = {0, 1, 63, 64, 1023, 1024, 2050, 4997, 4998, 4999};
    for (const int32_t j : twins) std::memcpy(c->item.landmarks.row(j), c->item.landmarks.row(0), 160);
    run_cpu(c->desc, {c->item});
    for (const int32_t j : twins) ASSERT_EQ((*c->scores)[j], (*c->scores)[0]) << j;
  });
}

TEST(LandmarkScore, result_depends_neither_on_threads_pages_nor_other_items) {
  Random rng;
  for_each_target([&] {
    std::vector<std::unique_ptr<Case>> cases;
    std::vector<LandmarkScoreItem> items;
    for (const int32_t n : {5000, 3, 0, 1024, 1500}) {
      cases.push_back(make_case(rng, make_desc(DType::bf16, 64, 5), Fill::normal, n, 0.02));
      items.push_back(cases.back()->item);
    }
    with_threads(3, [&] { run_cpu(cases[0]->desc, items); });
    for (const auto& c : cases) {
      std::vector<float> scores(static_cast<std::size_t>(c->item.n));
      Buffer<char> flat(int64_t{c->item.n} * 128);
      for (int32_t j = 0; j < c->item.n; ++j) std::memcpy(flat.data() + j * 128, row_of(*c, j), 128);
      void* page = flat.data();
      LandmarkScoreItem alone = c->item;
      alone.landmarks = {&page, 0, std::max(c->item.n, 1), 128};
      alone.scores = scores.data();
      with_threads(1, [&] { run_cpu(c->desc, {alone}); });
      expect_same_bytes(scores.data(), c->scores->data(), scores.size() * 4, "alone, on one page");
    }
  });
}

TEST(LandmarkScore, reads_pages_past_two_to_the_31_elements) {
  Random rng;
  constexpr int64_t kOffset = (int64_t{1} << 32) + 4096;
  SparseRegion region(kOffset + (64 << 10));
  fill_rows(rng, Fill::normal, DType::bf16, region.at(kOffset), 100, 128);
  void* page = region.at(0);
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::bf16, 128, 4), Fill::normal, 100, 0.0);
    c->item.landmarks = {&page, kOffset, 100, 256};
    compare_with_reference(c.get(), "far rows");
  });
}

void bench_shape(const char* variant, int32_t group, int64_t tokens, int32_t chunk) {
  constexpr int32_t kHeads = 8, kDim = 128, kRowsPerPage = 256;
  const auto n = static_cast<int32_t>(tokens / chunk);
  const int64_t head_bytes = int64_t{kRowsPerPage} * kDim * 2, page_bytes = kHeads * head_bytes;
  const int64_t pages = (n + kRowsPerPage - 1) / kRowsPerPage, layer_bytes = pages * page_bytes;
  const int32_t layers = bench_layers(layer_bytes, 16);
  SparseRegion data(static_cast<std::size_t>(layers * layer_bytes), true);
  for (int64_t i = 0; i < layers * layer_bytes / 2; ++i) {
    store_f32(data.at(0), DType::bf16, i, static_cast<float>((i * 2654435761u >> 7) & 255) / 256.0f - 0.5f);
  }
  const LandmarkScoreDesc desc{DType::bf16, kDim, group, 0.088f};
  std::vector<void*> page_list;
  for (int64_t p = 0; p < layers * pages; ++p) page_list.push_back(data.at(p * page_bytes));
  std::vector<float> q(static_cast<std::size_t>(kHeads * group * kDim)), scores(static_cast<std::size_t>(kHeads * n));
  std::vector<LandmarkScoreItem> items(kHeads);
  std::vector<char> workspace(landmark_score_workspace_bytes(desc, int64_t{kHeads} * n));
  Random rng;
  const BenchRow row{.op = "landmark_score", .variant = variant,
      .shape = std::to_string(kHeads * group) + "/8/128 bf16, chunk " + std::to_string(chunk), .tokens = tokens,
      .layers = layers, .working_set_bytes = layers * layer_bytes,
      .bytes = static_cast<double>(kHeads) * n * kDim * 2};
  run_bench(row, [&](int64_t i) {
    for (float& x : q) x = rng.normal();
    for (int32_t h = 0; h < kHeads; ++h) {
      items[static_cast<std::size_t>(h)] = {q.data() + h * group * kDim,
          {page_list.data() + (i % layers) * pages, h * head_bytes, kRowsPerPage, kDim * 2}, nullptr, n,
          scores.data() + int64_t{h} * n};
    }
    landmark_score_cpu(desc, items, workspace.data());
  });
}

void bench() {
  const int64_t tokens = bench_small() ? 4096 : 131072;
  for_each_bench_target([&](const char* variant) {
    for (const int32_t group : {1, 4, 8}) bench_shape(variant, group, tokens, 8);
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
