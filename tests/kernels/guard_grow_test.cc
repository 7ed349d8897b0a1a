#include <algorithm>
#include <set>

#include "tests/kernels/guard_grow_case.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void run_tested(const GuardGrowDesc& desc, const std::vector<GuardGrowItem>& items) {
  int32_t samples = 0, candidates = 0;
  for (const GuardGrowItem& item : items) {
    samples = std::max(samples, *item.n_samples);
    candidates = std::max(candidates, *item.n_candidates);
  }
  Buffer<char> workspace(static_cast<int64_t>(guard_grow_workspace_bytes(desc, samples, candidates)), 64);
  tested_ops().guard_grow(desc, items, workspace.data());
}

// Every k that there is, by the contract's words.
struct EveryK {
  std::vector<int32_t> order;               // candidates outside ids, as they are taken
  std::vector<std::vector<double>> missed;  // [k][G]
};

EveryK try_every_k(const GrowCase& c) {
  const std::vector<std::vector<double>> shares = shares_of(c);
  EveryK every;
  for (const int32_t j : c.candidates.span()) {
    if (!std::binary_search(c.picked.span().begin(), c.picked.span().end(), j)) every.order.push_back(j);
  }
  std::sort(every.order.begin(), every.order.end(), [&](int32_t a, int32_t b) {
    return c.scores[a] != c.scores[b] ? c.scores[a] > c.scores[b] : a < b;
  });
  for (std::size_t k = 0; k <= every.order.size(); ++k) {
    const std::set<int32_t> taken(every.order.begin(), every.order.begin() + static_cast<std::ptrdiff_t>(k));
    std::vector<double> missed(static_cast<std::size_t>(c.desc.group), 0.0);
    for (std::size_t g = 0; g < missed.size(); ++g) {
      for (int32_t i = 0; i < c.n_samples[0]; ++i) {
        if (!taken.contains(c.chunks[i])) missed[g] += shares[g][static_cast<std::size_t>(i)];
      }
    }
    every.missed.push_back(missed);
  }
  return every;
}

// Checks k, what was taken and what it misses.
void expect_contract(const GrowCase& c, const EveryK& every, double tolerance) {
  const auto k = static_cast<std::size_t>(c.n_extra[0]);
  ASSERT_LE(k, every.order.size()) << c.name();
  const auto largest = [&](std::size_t at) {
    return *std::max_element(every.missed[at].begin(), every.missed[at].end());
  };
  const double bound = c.desc.max_missed / c.desc.margin;
  if (k < every.order.size()) {
    ASSERT_LE(largest(k), bound + tolerance) << "k=" << k << " is too few; " << c.name();
  }
  if (k > 0) {
    ASSERT_GT(largest(k - 1), bound - tolerance) << "k=" << k << " is too many; " << c.name();
  }
  std::vector<int32_t> extra(every.order.begin(), every.order.begin() + c.n_extra[0]), ids = c.first_ids();
  std::sort(extra.begin(), extra.end());
  ids.insert(ids.end(), extra.begin(), extra.end());
  std::sort(ids.begin(), ids.end());
  ASSERT_EQ(std::vector<int32_t>(c.extra.data(), c.extra.data() + k), extra) << c.name();
  ASSERT_EQ(std::vector<int32_t>(c.ids.data(), c.ids.data() + c.n_ids[0]), ids) << c.name();
  const float most = *std::max_element(c.missed.span().begin(), c.missed.span().end());
  ASSERT_EQ(c.totals[0], GrowCase::kBefore[0] + c.n_samples[0]);
  ASSERT_EQ(c.totals[1], GrowCase::kBefore[1] + (c.desc.margin * most > c.desc.max_missed));
  ASSERT_NEAR(c.totals[2], GrowCase::kBefore[2] + most, 1e-9);
  for (int32_t g = 0; g < c.desc.group; ++g) {
    ASSERT_NEAR(c.missed[g], every.missed[k][static_cast<std::size_t>(g)], tolerance + 1e-7) << c.name();
  }
}

void compare_with_contract(GrowCase& c) {
  const EveryK every = try_every_k(c);
  c.reset();
  guard_grow_ref(c.desc, std::span(&c.item, 1), nullptr);
  expect_contract(c, every, 1e-9);
  if (::testing::Test::HasFatalFailure()) return;
  c.reset();
  run_tested(c.desc, {c.item});
  expect_contract(c, every, tolerance_of(c));
}

TEST(GuardGrow, takes_the_fewest_candidates_that_keep_the_bound) {
  Random rng;
  for_each_target([&] {
    int grown = 0, all = 0;
    for (const Fill fill : kAllFills) {
      for (int trial = 0; trial < (tested_slowly() ? 2 : 40); ++trial) {
        GrowShape shape;
        shape.n = static_cast<int32_t>(rng.pick({40, 200, 900}));
        shape.candidates = static_cast<int32_t>(rng.integer(0, std::min(shape.n, 250)));
        shape.chosen = static_cast<int32_t>(rng.integer(0, std::min(shape.candidates, shape.n / 3)));
        shape.samples = std::min<int32_t>(rng.pick({0, 1, 3, 16, 17, 64, 128}), shape.n - shape.chosen);
        GuardGrowDesc desc = random_desc(rng);
        if (trial % 2 == 0) {  // where growing reaches most of what is missed
          shape = {.n = 150, .samples = 90, .candidates = 140, .chosen = 20};
          desc.max_missed = rng.uniform(0.1f, 0.5f);
        }
        const auto c = make_case(rng, desc, fill, shape);
        SCOPED_TRACE(fill_name(fill));
        compare_with_contract(*c);
        if (::testing::Test::HasFatalFailure()) return;
        grown += c->n_extra[0] > 0 && c->n_extra[0] < shape.candidates - shape.chosen;
        all += c->n_extra[0] == shape.candidates - shape.chosen;
      }
    }
    if (tested_slowly()) return;
    EXPECT_GT(grown, 20) << "the cases do not try what they should";
    EXPECT_GT(all, 10);
  });
}

TEST(GuardGrow, serves_every_head_dim_and_chunk) {
  Random rng;
  for_each_target([&] {
    for (const int32_t dim : {32, 64, 80, 96, 128, 256}) {
      for (const int32_t chunk : {4, 8, 16, 32}) {
        for (const DType dtype : {DType::bf16, DType::f32}) {
          if (tested_slowly() && rng.chance(0.7)) continue;
          const auto group = static_cast<int32_t>(rng.integer(1, 9));
          const GuardGrowDesc desc = make_desc(dtype, dim, group, chunk, 0.2f);
          ASSERT_TRUE(guard_grow_supports(desc));
          const auto c = make_case(rng, desc, Fill::normal, {});
          compare_with_contract(*c);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  });
  EXPECT_FALSE(guard_grow_supports(make_desc(DType::f16, 64, 4, 8, 0.1f)));
  EXPECT_FALSE(guard_grow_supports(make_desc(DType::f32, 0, 4, 8, 0.1f)));
  EXPECT_FALSE(guard_grow_supports(make_desc(DType::f32, 64, 0, 8, 0.1f)));
  EXPECT_FALSE(guard_grow_supports(make_desc(DType::f32, 64, 4, 3, 0.1f)));
  EXPECT_FALSE(guard_grow_supports(make_desc(DType::f32, 64, 4, 128, 0.1f)));
}

// Every chunk that is not selected sampled, each for itself: missed is what attention to the selection leaves out.
TEST(GuardGrow, missed_is_the_exact_missed_mass_when_every_chunk_is_sampled) {
  Random rng;
  for_each_target([&] {
    for (const Fill fill : {Fill::normal, Fill::biased}) {
      GrowShape shape{.n = 90, .samples = 70, .candidates = 60, .chosen = 20};
      const auto c = make_case(rng, make_desc(DType::f32, 64, 5, 8, 0.25f), fill, shape);
      std::fill(c->log_weight.span().begin(), c->log_weight.span().end(), 0.0f);
      std::vector<std::vector<double>> logits(5);  // of all tokens, those of the selected chunks first
      std::vector<float> selected(20 * 8 * 64);
      fill_rows(rng, fill, DType::f32, selected.data(), 20 * 8, 64);
      for (int32_t g = 0; g < 5; ++g) {
        auto& x = logits[static_cast<std::size_t>(g)];
        for (int64_t r = 0; r < 20 * 8; ++r) x.push_back(logit(*c, g, selected.data(), r));
        double max = *std::max_element(x.begin(), x.end()), sum = 0;
        for (const double v : x) sum += std::exp(v - max);
        c->lse[g] = static_cast<float>(max + std::log(sum));
        for (int64_t r = 0; r < 70 * 8; ++r) x.push_back(logit(*c, g, c->keys.data(), r));
      }
      c->reset();
      run_tested(c->desc, {c->item});
      for (int32_t g = 0; g < 5; ++g) {
        const auto& x = logits[static_cast<std::size_t>(g)];
        const double max = *std::max_element(x.begin(), x.end());
        double attended = 0, all = 0;
        for (std::size_t r = 0; r < x.size(); ++r) {
          const double p = std::exp(x[r] - max);
          const int32_t chunk = r < 160 ? -1 : c->chunks[static_cast<int64_t>(r / 8) - 20];
          all += p;
          if (chunk < 0 || std::binary_search(c->ids.data(), c->ids.data() + c->n_ids[0], chunk)) attended += p;
        }
        ASSERT_NEAR(c->missed[g], 1 - attended / all, tolerance_of(*c)) << fill_name(fill);
      }
    }
  });
}

TEST(GuardGrow, leaves_ids_alone_when_nothing_is_to_do) {
  Random rng;
  for_each_target([&] {
    for (int trial = 0; trial < (tested_slowly() ? 6 : 30); ++trial) {
      GuardGrowDesc desc = random_desc(rng);
      desc.max_missed = 1.6f;  // above margin * 1
      GrowShape shape;
      if (trial % 3 == 1) shape.samples = 0, desc.max_missed = 0.0f;
      const auto c = make_case(rng, desc, Fill::normal, shape);
      if (trial % 3 == 2) {  // all the mass there is lies in the selection
        c->desc.max_missed = 0.0f;
        for (float& w : c->log_weight.span()) w = -kInf;
      }
      run_tested(c->desc, {c->item});
      ASSERT_EQ(c->n_extra[0], 0) << c->name();
      ASSERT_EQ(std::vector<int32_t>(c->ids.data(), c->ids.data() + c->n_ids[0]), c->first_ids()) << c->name();
      if (trial % 3 != 0) {
        for (const float m : c->missed.span()) ASSERT_EQ(m, 0.0f) << c->name();
      }
    }
  });
}

TEST(GuardGrow, takes_all_candidates_when_they_are_not_enough_and_says_what_is_missed) {
  Random rng;
  for_each_target([&] {
    // Samples outside the candidates hold more than the bound.
    const auto c = make_case(rng, make_desc(DType::bf16, 64, 3, 8, 1e-4f), Fill::normal,
                             {.n = 400, .samples = 64, .candidates = 30, .chosen = 10});
    for (int32_t g = 0; g < 3; ++g) c->lse[g] -= 10.0f;
    compare_with_contract(*c);
    EXPECT_EQ(c->n_extra[0], 20);
    EXPECT_EQ(c->n_ids[0], 30);
    for (int32_t i = 0; i < 30; ++i) EXPECT_EQ(c->ids[i], c->candidates[i]);
    for (const float m : c->missed.span()) EXPECT_GT(m, c->desc.max_missed);
  });
}

TEST(GuardGrow, margin_asks_for_more) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::f32, 32, 2, 4, 0.3f), Fill::normal,
                             {.n = 120, .samples = 100, .candidates = 120, .chosen = 10});
    std::fill(c->log_weight.span().begin(), c->log_weight.span().end(), 0.0f);  // no chunk that counts for many
    std::fill(c->lse.span().begin(), c->lse.span().end(), 0.0f);
    std::vector<int32_t> taken;
    for (const float margin : {1.0f, 1.5f, 3.0f, 10.0f}) {
      c->desc.margin = margin;
      compare_with_contract(*c);
      taken.push_back(c->n_extra[0]);
      for (const float m : c->missed.span()) EXPECT_LE(m * margin, 0.3f + 1e-4f);
    }
    // A heavy chunk may serve two margins that are near to each other.
    EXPECT_TRUE(std::is_sorted(taken.begin(), taken.end()));
    EXPECT_GT(taken.back(), taken.front());
  });
}

TEST(GuardGrow, bears_masses_far_outside_the_range_of_exp) {
  Random rng;
  for_each_target([&] {
    for (const float shift : {-3000.0f, -500.0f, 500.0f, 3000.0f}) {
      const auto c = make_case(rng, make_desc(DType::f32, 64, 3, 8, 0.2f), Fill::normal, {});
      for (float& w : c->log_weight.span()) w += shift;
      for (float& l : c->lse.span()) l += shift;
      compare_with_contract(*c);
      // Apart: the selection holds all, then nothing.
      for (float& l : c->lse.span()) l = shift + 900.0f;
      c->reset();
      run_tested(c->desc, {c->item});
      for (const float m : c->missed.span()) EXPECT_EQ(m, 0.0f);
      for (float& l : c->lse.span()) l = -kInf;
      compare_with_contract(*c);
    }
    const auto none = make_case(rng, make_desc(DType::f32, 64, 3, 8, 0.0f), Fill::normal, {});
    for (float& l : none->lse.span()) l = -kInf;
    for (float& w : none->log_weight.span()) w = -kInf;  // no mass at all: none is missed
    run_tested(none->desc, {none->item});
    EXPECT_EQ(none->n_extra[0], 0);
    for (const float m : none->missed.span()) EXPECT_EQ(m, 0.0f);
  });
}

// A head that cannot be judged asks for all candidates; the other heads' shares, and other items, are what they were.
TEST(GuardGrow, takes_all_candidates_on_nan_and_keeps_it_in_its_head_and_item) {
  Random rng;
  for_each_target([&] {
    for (const int where : {0, 1, 2, 3, 4}) {
      const GuardGrowDesc desc = make_desc(DType::bf16, 80, 9, 8, 0.5f);
      std::vector<std::unique_ptr<GrowCase>> cases;
      for (int i = 0; i < 3; ++i) cases.push_back(make_case(rng, desc, Fill::normal, {}));
      GrowCase& c = *cases[1];
      if (where == 0) c.lse[7] = kNan;
      if (where == 1) c.q[7 * 80 + 79] = kNan;
      if (where == 2) store_f32(c.keys.data(), desc.dtype, (5 * 8 + 3) * 80 + 11, kNan);
      if (where == 3) c.log_weight[15] = kNan;
      if (where == 4) c.lse[7] = kInf;
      std::vector<GuardGrowItem> items;
      for (const auto& x : cases) items.push_back(x->item);
      for (const bool reference : {true, false}) {
        for (const auto& x : cases) x->reset();
        if (reference) guard_grow_ref(desc, items, nullptr);
        else run_tested(desc, items);
        EXPECT_EQ(c.n_extra[0], 50) << where;
        EXPECT_EQ(c.totals[1], GrowCase::kBefore[1] + 1) << where;
        EXPECT_EQ(c.totals[2], GrowCase::kBefore[2] + 1) << where;
        EXPECT_EQ(c.n_ids[0], 60) << where;
        for (int32_t g = 0; g < 9; ++g) {
          EXPECT_EQ(std::isnan(c.missed[g]), g == 7 || where == 2 || where == 3) << where << " " << g;
        }
        for (const float m : cases[0]->missed.span()) EXPECT_TRUE(std::isfinite(m)) << where;
        for (const float m : cases[2]->missed.span()) EXPECT_TRUE(std::isfinite(m)) << where;
      }
    }
  });
}

TEST(GuardGrow, takes_scores_of_nan_last) {
  Random rng;
  for_each_target([&] {
    const auto c = make_case(rng, make_desc(DType::f32, 32, 1, 4, 0.5f), Fill::zeros,
                             {.n = 12, .samples = 8, .candidates = 12, .chosen = 4});
    for (int32_t j = 0; j < 12; ++j) c->scores[j] = j % 2 == 0 ? kNan : -100.0f - static_cast<float>(j);
    for (float& w : c->log_weight.span()) w = 0.0f;  // eight equal samples and a selection of nothing: four are taken
    c->lse[0] = -kInf;
    for (const bool reference : {true, false}) {
      c->reset();
      if (reference) guard_grow_ref(c->desc, std::span(&c->item, 1), nullptr);
      else run_tested(c->desc, {c->item});
      std::vector<int32_t> want;
      for (const int first : {1, 0}) {
        for (int32_t j = first; j < 12; j += 2) {
          const bool picked = std::binary_search(c->picked.span().begin(), c->picked.span().end(), j);
          if (!picked && want.size() < 4) want.push_back(j);
        }
      }
      std::sort(want.begin(), want.end());
      EXPECT_EQ(std::vector<int32_t>(c->extra.data(), c->extra.data() + c->n_extra[0]), want) << reference;
      EXPECT_EQ(c->missed[0], 0.5f);
    }
  });
}

TEST(GuardGrow, result_depends_neither_on_threads_nor_other_items) {
  Random rng;
  for_each_target([&] {
    const GuardGrowDesc desc = make_desc(DType::bf16, 128, 4, 8, 0.1f);
    std::vector<std::unique_ptr<GrowCase>> cases;
    std::vector<GuardGrowItem> items;
    for (const int32_t samples : {128, 1, 0, 33, 64}) {
      const GrowShape shape{.n = 300, .samples = samples, .candidates = 150, .chosen = 40};
      cases.push_back(make_case(rng, desc, Fill::normal, shape));
      items.push_back(cases.back()->item);
    }
    with_threads(3, [&] { run_tested(desc, items); });
    for (const auto& c : cases) {
      const std::vector<float> missed(c->missed.data(), c->missed.data() + 4);
      const std::vector<int32_t> ids(c->ids.data(), c->ids.data() + c->n_ids[0]);
      c->reset();
      c->item.totals = nullptr;  // what else is asked for must not matter either
      with_threads(1, [&] { run_tested(desc, {c->item}); });
      expect_same_bytes(c->missed.data(), missed.data(), 16, c->name());
      EXPECT_EQ(std::vector<int32_t>(c->ids.data(), c->ids.data() + c->n_ids[0]), ids) << c->name();
    }
  });
}

void bench() {
  Random rng;
  const int32_t heads = 8, samples = 64, n = bench_small() ? 2048 : 16384, candidates = n / 16, chosen = n / 64;
  for_each_bench_target([&](const char* variant) {
    for (const int32_t group : {4, 1, 8}) {
      const GuardGrowDesc desc = make_desc(DType::bf16, 128, group, 8, 0.1f, 1.5f);
      const GrowShape shape{.n = candidates, .samples = samples, .candidates = candidates, .chosen = chosen};
      std::vector<std::unique_ptr<GrowCase>> cases;
      for (int32_t h = 0; h < heads; ++h) {
        cases.push_back(make_case(rng, desc, Fill::normal, shape));
        GrowCase& c = *cases.back();
        std::fill(c.log_weight.span().begin(), c.log_weight.span().end(), 0.0f);
        std::fill(c.lse.span().begin(), c.lse.span().end(), 7.0f);  // about a third is missed, so many are taken
      }
      const int64_t head_bytes = cases[0]->keys.size(), layer_bytes = heads * head_bytes;
      const int32_t layers = bench_layers(layer_bytes, 4);
      SparseRegion keys(static_cast<std::size_t>(layers * layer_bytes), true);
      for (int64_t i = 0; i < layers * heads; ++i) {
        std::memcpy(keys.at(i * head_bytes), cases[static_cast<std::size_t>(i % heads)]->keys.data(),
                    static_cast<std::size_t>(head_bytes));
      }
      std::vector<GuardGrowItem> items(heads);
      std::vector<char> workspace(guard_grow_workspace_bytes(desc, samples, candidates));
      const BenchRow row{.op = "guard_grow", .variant = variant,
                         .shape = std::to_string(heads * group) + "/8/128 bf16, 64 samples of 8, " +
                                  std::to_string(candidates) + " candidates",
                         .tokens = int64_t{n} * 8, .layers = layers, .working_set_bytes = layers * layer_bytes,
                         .bytes = static_cast<double>(layer_bytes)};
      run_bench(row, [&](int64_t i) {
        for (int32_t h = 0; h < heads; ++h) {
          GrowCase& c = *cases[static_cast<std::size_t>(h)];
          c.reset();
          items[static_cast<std::size_t>(h)] = c.item;
          items[static_cast<std::size_t>(h)].keys = keys.at((i % layers * heads + h) * head_bytes);
        }
        tested_ops().guard_grow(desc, items, workspace.data());
      });
    }
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
