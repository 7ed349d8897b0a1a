#include "kernels/guard_sample/guard_sample.h"

#include <memory>
#include <set>

#include "tests/kernels/kernel_test.h"

namespace skv::kernels {
namespace {

using namespace skv::test;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

enum class Masses { normal, steep, biased, ties, equal, dominated };
constexpr Masses kMasses[] = {Masses::normal, Masses::steep,  Masses::biased,
                              Masses::ties,   Masses::equal, Masses::dominated};

struct Case {
  Buffer<float> log_mass;
  Buffer<int32_t> ids, n_ids{1}, chunks, n_chunks{1};
  Buffer<float> log_weight;
  GuardSampleItem item;

  Case(int32_t group, int32_t n, int32_t chosen, int32_t n_samples, int64_t stride)
      : log_mass(group == 0 ? 0 : (group - 1) * stride + n), ids(chosen), chunks(n_samples), log_weight(n_samples) {
    n_ids[0] = chosen;
    item = {log_mass.data(), stride, group, n, ids.data(), n_ids.data(), chosen, 0.0f, n_samples,
            chunks.data(), log_weight.data(), n_chunks.data()};
  }
  float& mass(int32_t g, int32_t j) { return log_mass[g * item.log_mass_stride + j]; }
  std::string name() const {
    return "group=" + std::to_string(item.group) + " n=" + std::to_string(item.n) + " chosen=" +
           std::to_string(n_ids[0]) + " samples=" + std::to_string(item.n_samples) + " u=" + std::to_string(item.u);
  }
};

float draw_mass(Random& rng, Masses kind, int32_t j) {
  switch (kind) {
    case Masses::normal: return 2.0f * rng.normal();
    case Masses::steep: return 30.0f * rng.normal();
    case Masses::biased: return 700.0f + rng.normal();
    case Masses::ties: return rng.pick({-250.0f, -249.0f, -251.5f});
    case Masses::equal: return -400.0f;
    case Masses::dominated: return j == 3 ? 300.0f : 285.0f + rng.normal();
  }
  return 0.0f;
}

// excluded: share of the chunks.
std::unique_ptr<Case> make_case(Random& rng, Masses kind, int32_t group, int32_t n, int32_t n_samples,
                                double excluded) {
  const auto chosen = static_cast<int32_t>(n == 0 ? 0 : rng.integer(0, n / 4));
  auto c = std::make_unique<Case>(group, n, chosen, n_samples, n + rng.integer(0, 3));
  std::fill(c->log_mass.span().begin(), c->log_mass.span().end(), kNan);  // between rows too
  for (int32_t j = 0; j < n; ++j) {
    const bool out = rng.chance(excluded);
    for (int32_t g = 0; g < group; ++g) c->mass(g, j) = out ? -kInf : draw_mass(rng, kind, j);
  }
  std::set<int32_t> ids;
  while (static_cast<int32_t>(ids.size()) < chosen) ids.insert(static_cast<int32_t>(rng.integer(0, n - 1)));
  std::copy(ids.begin(), ids.end(), c->ids.data());
  c->item.u = rng.pick({0.0f, 0x1.fffffep-1f, rng.uniform(0, 1), rng.uniform(0, 1)});
  return c;
}

void run_tested(const std::vector<GuardSampleItem>& items) {
  int32_t most = 0;
  for (const GuardSampleItem& item : items) most = std::max(most, item.n);
  Buffer<char> workspace(static_cast<int64_t>(guard_sample_workspace_bytes(most)), 64);
  tested_ops().guard_sample(items, workspace.data());
}

struct Samples {
  std::vector<int32_t> chunks;
  std::vector<float> log_weight;
};

Samples result_of(const Case& c) {
  const int32_t n = c.n_chunks[0];
  return {{c.chunks.data(), c.chunks.data() + n}, {c.log_weight.data(), c.log_weight.data() + n}};
}

// The contract's p, written a second time: 0 of chunks that cannot be drawn.
std::vector<double> lengths(Case& c, int32_t* open) {
  std::vector<double> p(static_cast<std::size_t>(c.item.n), 0.0);
  std::vector<bool> may(p.size());
  *open = 0;
  for (int32_t j = 0; j < c.item.n; ++j) {
    const bool chosen = std::binary_search(c.item.ids, c.item.ids + c.n_ids[0], j);
    may[static_cast<std::size_t>(j)] = !chosen && c.mass(0, j) != -kInf;
    *open += may[static_cast<std::size_t>(j)];
  }
  double total = 0;
  for (int32_t g = 0; g < c.item.group; ++g) {
    const auto counts = [&](std::size_t j) { return may[j] && std::isfinite(c.mass(g, static_cast<int32_t>(j))); };
    double max = -HUGE_VAL, sum = 0;
    for (std::size_t j = 0; j < p.size(); ++j) {
      if (counts(j)) max = std::max<double>(max, c.mass(g, static_cast<int32_t>(j)));
    }
    for (std::size_t j = 0; j < p.size(); ++j) {
      if (counts(j)) sum += std::exp(c.mass(g, static_cast<int32_t>(j)) - max);
    }
    for (std::size_t j = 0; j < p.size(); ++j) {
      if (counts(j)) p[j] += 0.9 / c.item.group * std::exp(c.mass(g, static_cast<int32_t>(j)) - max) / sum;
    }
  }
  for (std::size_t j = 0; j < p.size(); ++j) total += p[j] += may[j] ? 0.1 / *open : 0.0;
  for (double& x : p) x /= total;
  return p;
}

// Whether the samples are those of the contract, but for points within `slack` of a border.
void expect_contract(Case& c, double slack, double weight_tolerance) {
  int32_t open = 0;
  const std::vector<double> p = lengths(c, &open);
  const Samples got = result_of(c);
  const auto n = static_cast<double>(c.item.n_samples);
  if (open <= c.item.n_samples) {
    std::vector<int32_t> all;
    for (int32_t j = 0; j < c.item.n; ++j) {
      if (p[static_cast<std::size_t>(j)] > 0) all.push_back(j);
    }
    ASSERT_EQ(got.chunks, all) << c.name();
    for (const float w : got.log_weight) ASSERT_EQ(w, 0.0f) << c.name();
    return;
  }
  const auto points_before = [&](double border) {  // i with (i + u) / n < border
    return std::clamp(std::ceil(border * n - c.item.u), 0.0, n);
  };
  double begin = 0, drawn = 0;
  std::size_t at = 0;
  for (int32_t j = 0; j < c.item.n; ++j) {
    const double length = p[static_cast<std::size_t>(j)], end = begin + length;
    const bool sampled = at < got.chunks.size() && got.chunks[at] == j;
    double count = 0;
    if (sampled) {
      count = std::round(std::exp(static_cast<double>(got.log_weight[at])) * n * length);
      ASSERT_GE(count, 1) << "chunk " << j << " " << c.name();
      const double want = std::log(count / (n * length));
      ASSERT_NEAR(got.log_weight[at], want, weight_tolerance) << "chunk " << j << " " << c.name();
      ++at;
    }
    ASSERT_LE(count, points_before(end + slack) - points_before(begin - slack)) << "chunk " << j << " " << c.name();
    ASSERT_GE(count, points_before(end - slack) - points_before(begin + slack)) << "chunk " << j << " " << c.name();
    drawn += count;
    begin = end;
  }
  ASSERT_EQ(at, got.chunks.size()) << "not ascending, or a chunk that cannot be drawn; " << c.name();
  ASSERT_EQ(drawn, n) << c.name();
}

void compare_with_contract(Case& c) {
  guard_sample_ref(std::span(&c.item, 1), nullptr);
  expect_contract(c, 1e-11, 1e-6);
  if (::testing::Test::HasFatalFailure()) return;
  c.n_chunks[0] = -1;
  run_tested({c.item});
  expect_contract(c, 1e-6, 1e-5);
}

TEST(GuardSample, draws_where_the_points_fall_for_every_kind_of_masses) {
  Random rng;
  for_each_target([&] {
    for (const Masses kind : kMasses) {
      for (const int32_t n : {1, 7, 16, 127, 128, 129, 200, 1000, 5003}) {
        for (const int32_t samples : {1, 2, 16, 64, 128}) {
          if (tested_slowly() && (n == 7 || n == 127 || n == 200 || !rng.chance(0.15))) continue;
          const auto group = static_cast<int32_t>(rng.integer(1, 9));
          const auto c = make_case(rng, kind, group, n, samples, rng.pick({0.0, 0.1, 0.9}));
          SCOPED_TRACE("masses " + std::to_string(static_cast<int>(kind)));
          compare_with_contract(*c);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  });
}

// Over u the estimates of a sum average to the sum, whatever is summed: here one chunk at a time, the hardest.
// Between two borders' fractions of a step no point crosses one, so the integral over u is a sum over those pieces.
TEST(GuardSample, estimates_are_unbiased) {
  Random rng;
  for_each_target([&] {
    for (const Masses kind : kMasses) {
      const int32_t n = tested_slowly() ? 20 : 260, samples = tested_slowly() ? 3 : rng.pick({5, 32});
      if (tested_slowly() && kind != Masses::normal) continue;
      const auto c = make_case(rng, kind, static_cast<int32_t>(rng.integer(1, 5)), n, samples, 0.1);
      int32_t open = 0;
      const std::vector<double> p = lengths(*c, &open);
      std::vector<double> cuts = {0.0, 1.0}, mean(p.size(), 0.0);
      double end = 0;
      for (const double length : p) {
        end += length;
        if (length > 0) cuts.push_back(std::fmod(end * c->item.n_samples, 1.0));
      }
      std::sort(cuts.begin(), cuts.end());
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        c->item.u = static_cast<float>((cuts[i] + cuts[i + 1]) / 2);
        if (c->item.u >= 1.0f) continue;
        run_tested({c->item});
        const Samples got = result_of(*c);
        for (std::size_t s = 0; s < got.chunks.size(); ++s) {
          const double weight = std::exp(double{got.log_weight[s]});
          mean[static_cast<std::size_t>(got.chunks[s])] += (cuts[i + 1] - cuts[i]) * weight;
        }
      }
      for (std::size_t j = 0; j < p.size(); ++j) {
        ASSERT_NEAR(mean[j], p[j] > 0 ? 1.0 : 0.0, 1e-3) << "chunk " << j << " " << c->name();
      }
    }
  });
}

TEST(GuardSample, takes_all_chunks_with_weight_one_when_they_are_few) {
  Random rng;
  for_each_target([&] {
    for (const int32_t n : {0, 1, 2, 63, 64, 130}) {
      const auto c = make_case(rng, Masses::steep, 3, n, 130, 0.2);
      run_tested({c->item});
      std::vector<int32_t> want;
      for (int32_t j = 0; j < n; ++j) {
        const bool chosen = std::binary_search(c->item.ids, c->item.ids + c->n_ids[0], j);
        if (c->mass(0, j) != -kInf && !chosen) want.push_back(j);
      }
      EXPECT_EQ(result_of(*c).chunks, want) << c->name();
      for (const float w : result_of(*c).log_weight) EXPECT_EQ(w, 0.0f);
    }
  });
}

TEST(GuardSample, gives_nothing_where_nothing_can_be_drawn) {
  Random rng;
  for_each_target([&] {
    for (const int32_t n : {0, 1, 300}) {
      const auto excluded = make_case(rng, Masses::normal, 2, n, 8, 1.0);
      run_tested({excluded->item});
      EXPECT_EQ(excluded->n_chunks[0], 0);
      Case chosen(2, n, n, 8, n);
      for (int32_t j = 0; j < n; ++j) chosen.ids[j] = j, chosen.mass(0, j) = chosen.mass(1, j) = 1.0f;
      run_tested({chosen.item});
      EXPECT_EQ(chosen.n_chunks[0], 0);
      const auto none = make_case(rng, Masses::normal, 2, n, 0, 0.0);
      run_tested({none->item});
      EXPECT_EQ(none->n_chunks[0], 0);
    }
  });
}

// Damaged chunks and heads keep the uniform part: they are drawn now and then, and disturb nobody else.
TEST(GuardSample, counts_nan_and_infinity_by_the_uniform_part) {
  Random rng;
  for_each_target([&] {
    const int32_t n = tested_slowly() ? 150 : 500;
    for (int trial = 0; trial < (tested_slowly() ? 8 : 40); ++trial) {
      const auto c = make_case(rng, rng.pick({Masses::normal, Masses::biased}), 4, n, 60, 0.1);
      for (int32_t g = 0; g < 4; ++g) {
        for (int32_t j = 0; j < n; ++j) {
          if (c->mass(0, j) == -kInf || !rng.chance(0.1)) continue;
          c->mass(g, j) = g == 0 ? rng.pick({kNan, -kNan, kInf}) : rng.pick({kNan, kInf, -kInf});
        }
      }
      const int dead = trial % 4;  // heads with nothing left
      for (int32_t g = 4 - dead; g < 4; ++g) {
        for (int32_t j = 0; j < n; ++j) c->mass(g, j) = rng.pick({-kInf, kNan});
      }
      compare_with_contract(*c);
      if (::testing::Test::HasFatalFailure()) return;
    }
    const auto c = make_case(rng, Masses::normal, 3, 400, 50, 0.0);
    std::fill(c->log_mass.span().begin(), c->log_mass.span().end(), kNan);
    compare_with_contract(*c);  // all uniform
    EXPECT_GT(c->n_chunks[0], 40);
  });
}

TEST(GuardSample, result_depends_neither_on_threads_stride_nor_other_items) {
  Random rng;
  for_each_target([&] {
    std::vector<std::unique_ptr<Case>> cases;
    std::vector<GuardSampleItem> items;
    for (const int32_t n : {tested_slowly() ? 1200 : 3000, 5, 0, 128, 700}) {
      cases.push_back(make_case(rng, rng.pick({Masses::normal, Masses::steep}), 4, n, 32, 0.1));
      items.push_back(cases.back()->item);
    }
    with_threads(3, [&] { run_tested(items); });
    for (const auto& c : cases) {
      Case alone(4, c->item.n, c->n_ids[0], 32, c->item.log_mass_stride + 5);
      alone.item.u = c->item.u;
      std::copy(c->ids.span().begin(), c->ids.span().end(), alone.ids.data());
      for (int32_t g = 0; g < 4; ++g) {
        for (int32_t j = 0; j < c->item.n; ++j) alone.mass(g, j) = c->mass(g, j);
      }
      with_threads(1, [&] { run_tested({alone.item}); });
      EXPECT_EQ(result_of(alone).chunks, result_of(*c).chunks) << c->name();
      EXPECT_EQ(result_of(alone).log_weight, result_of(*c).log_weight) << c->name();
    }
  });
}

void bench() {
  Random rng;
  const int32_t n = bench_small() ? 1024 : 16384, heads = 8, samples = 64, chosen = n / 64;
  for_each_bench_target([&](const char* variant) {
    for (const int32_t group : {4, 1, 8}) {
      const int64_t layer = int64_t{heads} * group * n;
      const int32_t layers = bench_layers(layer * 4, 4);
      std::vector<float> mass(static_cast<std::size_t>(layers * layer)), log_weight(heads * samples);
      for (float& m : mass) m = 3.0f * rng.uniform(-2, 2);
      std::vector<int32_t> ids, chunks(heads * samples), n_chunks(heads);
      for (int32_t i = 0; i < chosen; ++i) ids.push_back(i * 64 + 7);
      std::vector<GuardSampleItem> items(heads);
      std::vector<char> workspace(guard_sample_workspace_bytes(n));
      const BenchRow row{.op = "guard_sample", .variant = variant,
                         .shape = std::to_string(heads * group) + "/8 heads, 64 samples, " + std::to_string(n) +
                                  " chunks",
                         .tokens = int64_t{n} * 8, .layers = layers, .working_set_bytes = layers * layer * 4,
                         .bytes = 4.0 * static_cast<double>(layer)};
      run_bench(row, [&](int64_t i) {
        for (int32_t h = 0; h < heads; ++h) {
          const float* head = mass.data() + (i % layers) * layer + int64_t{h} * group * n;
          items[static_cast<std::size_t>(h)] = {head, n, group, n, ids.data(), &chosen, chosen, rng.uniform(0, 1),
                                                samples, chunks.data() + h * samples, log_weight.data() + h * samples,
                                                n_chunks.data() + h};
        }
        tested_ops().guard_sample(items, workspace.data());
      });
    }
  });
}

}  // namespace
}  // namespace skv::kernels

SKV_KERNEL_TEST_MAIN(skv::kernels::bench)
