#include "kernels/topk_select/topk_select.h"

#include <memory>

#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kMax = std::numeric_limits<float>::max();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  Buffer<float> scores;
  Buffer<int32_t> ids;
  Buffer<int32_t> n_ids{1};
  int32_t k;
  Case(int32_t n, int32_t k_in) : scores(n), ids(k_in), k(k_in) {}
  TopkSelectItem item() { return {scores.data(), static_cast<int32_t>(scores.size()), k, ids.data(), n_ids.data()}; }
};

enum class Scores {
  uniform, softmax, signed_spread, negative, biased, few_values, equal, special, mostly_excluded, all_excluded,
  all_nan
};

void fill_scores(Random& rng, Scores kind, Case* c) {
  for (float& s : c->scores.span()) {
    switch (kind) {
      case Scores::uniform: s = rng.uniform(0, 1); break;
      case Scores::softmax: s = std::exp(rng.normal() * 8.0f - 30.0f); break;
      case Scores::signed_spread: s = std::exp(rng.normal() * 20.0f) * rng.pick({1.0f, -1.0f}); break;
      case Scores::negative: s = -300.0f + rng.normal() * 20.0f; break;
      case Scores::biased: s = -100.0f + rng.normal(); break;
      case Scores::few_values: s = rng.pick({-0.25f, 0.0f, -0.0f, 0.75f}); break;
      case Scores::equal: s = 0.125f; break;
      case Scores::special:
        s = rng.pick({0.0f, -0.0f, 1e-40f, kInf, -kInf, kNan, -1.0f, 1.0f, -kNan, kMax, -kMax, -1e-40f});
        break;
      case Scores::mostly_excluded: s = rng.chance(0.02) ? rng.uniform(-1, 1) : -kInf; break;
      case Scores::all_excluded: s = -kInf; break;
      case Scores::all_nan: s = kNan; break;
    }
  }
}

void run(const std::vector<TopkSelectItem>& items) {
  int64_t total = 0;
  for (const TopkSelectItem& item : items) total += item.n;
  Buffer<char> workspace(static_cast<int64_t>(topk_select_workspace_bytes(total)));
  tested_ops().topk_select(items, workspace.data());
}

void expect_reference(Case* c, const std::string& params) {
  std::vector<int32_t> ids(static_cast<std::size_t>(c->k));
  int32_t n_ids = -1;
  TopkSelectItem ref = c->item();
  ref.ids = ids.data();
  ref.n_ids = &n_ids;
  topk_select_ref(std::span(&ref, 1), nullptr);
  ASSERT_EQ(c->n_ids[0], n_ids) << params;
  for (int32_t i = 0; i < n_ids; ++i) ASSERT_EQ(c->ids[i], ids[static_cast<std::size_t>(i)]) << params << " i=" << i;
}

TEST(TopkSelect, equals_a_stable_sort_for_every_kind_of_score) {
  Random rng;
  for_each_target([&] {
    for (int kind = 0; kind <= static_cast<int>(Scores::all_nan); ++kind) {
      for (const int32_t n : {1, 2, 15, 16, 17, 100, 1000, 5000}) {
        for (const int32_t k : {0, 1, 2, 16, n / 2, n - 1, n, n + 5}) {
          if (tested_slowly() && rng.chance(n > 100 ? 0.8 : 0.4)) continue;  // eight orders of threads
          Case c(n, k);
          fill_scores(rng, static_cast<Scores>(kind), &c);
          run({c.item()});
          expect_reference(&c, "kind=" + std::to_string(kind) + " n=" + std::to_string(n) +
                                   " k=" + std::to_string(k));
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  });
}

std::vector<int32_t> select(std::initializer_list<float> scores, int32_t k) {
  Case c(static_cast<int32_t>(scores.size()), k);
  std::copy(scores.begin(), scores.end(), c.scores.data());
  run({c.item()});
  return {c.ids.data(), c.ids.data() + c.n_ids[0]};
}

TEST(TopkSelect, takes_the_lower_index_among_equals) {
  for_each_target([&] {
    EXPECT_EQ(select({0.5f, -0.0f, 0.0f, 0.5f, -0.0f}, 3), (std::vector<int32_t>{0, 1, 3}));
    EXPECT_EQ(select({-0.0f, 0.0f, -1e-45f, 0.0f, 1e-45f}, 3), (std::vector<int32_t>{0, 1, 4}));
    EXPECT_EQ(select({-7.0f, -7.0f, -8.0f, -7.0f}, 2), (std::vector<int32_t>{0, 1}));
  });
}

TEST(TopkSelect, takes_nan_after_every_number_and_never_minus_infinity) {
  for_each_target([&] {
    EXPECT_EQ(select({kNan, 0.5f, -kInf, -kMax, -kNan, 3.0f}, 3), (std::vector<int32_t>{1, 3, 5}));
    EXPECT_EQ(select({kNan, 0.5f, -kInf, -kMax, -kNan, 3.0f}, 4), (std::vector<int32_t>{0, 1, 3, 5}));
    EXPECT_EQ(select({kNan, 0.5f, -kInf, -kMax, -kNan, 3.0f}, 6), (std::vector<int32_t>{0, 1, 3, 4, 5}));
    EXPECT_EQ(select({-kInf, -kInf, kNan}, 1), (std::vector<int32_t>{2}));
    EXPECT_EQ(select({-kInf, -kInf}, 2), (std::vector<int32_t>{}));
  });
}

TEST(TopkSelect, equals_a_stable_sort_for_rows_of_a_long_context) {
  Random rng;
  int variant = 0;
  for_each_target([&] {
    if (tested_slowly() && variant++ % 4 != 0) return;
    const auto kind = rng.pick({Scores::softmax, Scores::few_values, Scores::special, Scores::mostly_excluded});
    for (const int32_t k : {300, 39990}) {
      Case c(40000, k);
      fill_scores(rng, kind, &c);
      run({c.item()});
      expect_reference(&c, "long, kind=" + std::to_string(static_cast<int>(kind)) + " k=" + std::to_string(k));
    }
  });
}

TEST(TopkSelect, finds_ids_of_a_batch_of_unequal_rows) {
  Random rng;
  for_each_target([&] {
    std::vector<std::unique_ptr<Case>> cases;
    std::vector<TopkSelectItem> items;
    for (const int32_t n : {3000, 0, 1, 700, 64}) {
      cases.push_back(std::make_unique<Case>(n, 64));
      fill_scores(rng, rng.pick({Scores::few_values, Scores::softmax, Scores::negative}), cases.back().get());
      items.push_back(cases.back()->item());
    }
    with_threads(3, [&] { run(items); });
    for (const auto& c : cases) expect_reference(c.get(), "batch, n=" + std::to_string(c->scores.size()));
  });
}

void bench_shape(const char* variant, const char* kind, int32_t n, int32_t k) {
  constexpr int32_t kHeads = 8;
  const int64_t layer_bytes = int64_t{kHeads} * n * 4;
  const int32_t layers = bench_layers(layer_bytes, 16);
  std::vector<float> scores(static_cast<std::size_t>(layers * kHeads * n));
  Random rng;
  const bool masses = kind[0] == 'm';
  for (float& s : scores) s = masses ? rng.normal() * 3.0f + 2.0f : std::exp(rng.normal() * 3.0f - 10.0f);
  std::vector<int32_t> ids(kHeads * static_cast<std::size_t>(k)), n_ids(kHeads);
  std::vector<char> workspace(topk_select_workspace_bytes(int64_t{kHeads} * n));
  std::vector<TopkSelectItem> items(kHeads);
  const BenchRow row{.op = "topk_select", .variant = variant,
      .shape = "8 rows of " + std::string(kind) + ", " + std::to_string(k) + " of " + std::to_string(n),
      .tokens = int64_t{n} * 8,
      .layers = layers, .working_set_bytes = layers * layer_bytes, .bytes = static_cast<double>(layer_bytes)};
  run_bench(row, [&](int64_t i) {
    for (int32_t h = 0; h < kHeads; ++h) {
      items[static_cast<std::size_t>(h)] = {scores.data() + ((i % layers) * kHeads + h) * n, n, k,
          ids.data() + h * k, n_ids.data() + h};
    }
    tested_ops().topk_select(items, workspace.data());
  });
}

void bench() {
  const int32_t n = bench_small() ? 1024 : 16384;
  for_each_bench_target([&](const char* variant) {
    for (const char* kind : {"softmax", "masses"}) bench_shape(variant, kind, n, 256);
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
