#include "kernels/sample/sample.h"

#include <array>
#include <memory>
#include <numeric>

#include "kernels/sample/philox.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::SampleItem;
using kernels::SampleParams;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// The tokens of all items, drawn in one call.
std::vector<int32_t> sample_all(std::vector<SampleItem> items) {
  const int64_t n = static_cast<int64_t>(items.size());
  int32_t vocab = 0;
  Buffer<int32_t> tokens(n, 4);
  for (int64_t i = 0; i < n; ++i) {
    items[i].token = &tokens[i];
    vocab = std::max(vocab, items[i].vocab);
  }
  Buffer<char> workspace(static_cast<int64_t>(kernels::sample_workspace_bytes(vocab, n)), 64);
  tested_ops().sample(items, workspace.data());
  return {tokens.data(), tokens.data() + n};
}

int32_t sample(const SampleItem& item) { return sample_all({item})[0]; }

int32_t sample_ref(SampleItem item) {
  int32_t token;
  item.token = &token;
  kernels::sample_ref({{item}}, nullptr);
  return token;
}

// What the contract gives each id, in descending order, written a second time without the reference's code.
struct Distribution {
  std::vector<int32_t> order;
  std::vector<double> p;  // by id

  explicit Distribution(const SampleItem& args) : p(static_cast<std::size_t>(args.vocab), 0.0) {
    const SampleParams& params = args.params;
    std::vector<float> l(args.logits, args.logits + args.vocab);
    std::vector<int32_t> history(args.history, args.history + args.n_history);
    std::sort(history.begin(), history.end());
    history.erase(std::unique(history.begin(), history.end()), history.end());
    for (int32_t id : history)
      l[id] = l[id] > 0 ? l[id] / params.repetition_penalty : l[id] * params.repetition_penalty;
    order.resize(l.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t x, int32_t y) { return l[x] > l[y]; });
    if (params.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(params.top_k)));
    double total = 0.0, mass = 0.0;
    for (int32_t id : order)
      total += p[id] = std::exp((static_cast<double>(l[id]) - l[order[0]]) / params.temperature);
    std::size_t kept = 0;
    while (kept < order.size() && (kept == 0 || params.top_p >= 1.0f || mass < params.top_p * total))
      mass += p[order[kept++]];
    while (kept > 1 && p[order[kept - 1]] < params.min_p * p[order[0]]) --kept;
    for (std::size_t i = kept; i < order.size(); ++i) p[order[i]] = 0.0;
    order.resize(kept);
    total = 0.0;
    for (int32_t id : order) total += p[id];
    for (double& x : p) x /= total;
  }
  // Is id the draw for u, up to `slack` of mass (sums round differently)?
  bool is_draw(int32_t id, double u, double slack) const {
    double mass = 0.0;
    for (int32_t next : order) {
      if (next == id) return u >= mass - slack && u <= mass + p[id] + slack;
      mass += p[next];
    }
    return false;
  }
};

TEST(Philox, gives_the_published_vectors) {  // Random123, kat_vectors
  using Block = std::array<uint32_t, 4>;
  const auto philox = [](const Block& counter, const std::array<uint32_t, 2>& key) {
    const auto block = kernels::philox4x32({{counter[0], counter[1], counter[2], counter[3]}}, {{key[0], key[1]}});
    return Block{block.word[0], block.word[1], block.word[2], block.word[3]};
  };
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffffu;
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(CounterUniform, is_in_the_unit_interval_and_fills_it_evenly) {
  std::vector<int> bins(64, 0);
  for (uint64_t i = 0; i < 64000; ++i) {
    const float u = kernels::counter_uniform(17, i);
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    ++bins[static_cast<std::size_t>(u * 64)];
  }
  double chi2 = 0.0;
  for (int n : bins) chi2 += (n - 1000.0) * (n - 1000.0) / 1000.0;
  EXPECT_LT(chi2, 115.0);  // 63 degrees of freedom: 1 in 10,000, and the stream is fixed
  EXPECT_EQ(kernels::counter_uniform(0, 0), static_cast<float>(0x6627e8d5u >> 8) * 0x1p-24f);
}

// A random row and how to sample it.
struct Draw {
  Buffer<float> logits;
  Buffer<int32_t> history;
  SampleItem item;

  Draw(Random& rng, int32_t vocab) : logits(vocab, rng.pick({4, 16})), history(rng.integer(0, 20), 4) {
    fill_rows(rng, rng.pick({Fill::normal, Fill::ties, Fill::zeros}), DType::f32, logits.data(), 1, vocab, 3.0f);
    if (rng.chance(0.3))
      for (int32_t i = 0; i < vocab; i += 2) logits[i] = std::round(logits[i]);  // many equal logits
    if (vocab > 1 && rng.chance(0.2)) logits[rng.integer(0, vocab - 1)] = -kInfinity;
    if (rng.chance(0.2)) logits[rng.integer(0, vocab - 1)] = -1e30f;
    for (int32_t& id : history.span()) id = static_cast<int32_t>(rng.integer(0, vocab - 1));
    item = {logits.data(), vocab, history.data(), history.size(), {}, 0, nullptr};
    item.params = {rng.pick({0.0f, 0.3f, 1.0f, 2.0f, 50.0f}), rng.pick({0, 0, 1, 2, 40, 100000}),
                   rng.pick({1.0f, 0.9f, 0.5f}), rng.pick({0.0f, 0.05f}), rng.pick({1.0f, 1.3f, 0.8f}),
                   static_cast<uint64_t>(rng.integer(0, 1000))};
    item.counter = static_cast<uint64_t>(rng.integer(0, 1 << 30));
  }
};

void expect_is_draw(const SampleItem& item, int32_t got) {
  const int32_t want = sample_ref(item);
  const std::string name = "vocab=" + std::to_string(item.vocab) + " got " + std::to_string(got) + " want " +
                           std::to_string(want) + " t " + std::to_string(item.params.temperature) + " k " +
                           std::to_string(item.params.top_k) + " p " + std::to_string(item.params.top_p) + " min " +
                           std::to_string(item.params.min_p);
  if (item.params.temperature == 0.0f) {
    ASSERT_EQ(got, want) << name;
    return;
  }
  const Distribution distribution(item);
  const double u = kernels::counter_uniform(item.params.seed, item.counter);
  ASSERT_TRUE(distribution.is_draw(got, u, 1e-5)) << name;
  ASSERT_TRUE(distribution.is_draw(want, u, 1e-9)) << name;
}

TEST(Sample, every_draw_is_the_one_its_uniform_number_selects) {
  Random rng;
  for_each_target([&] {
    for (int trial = 0; trial < (tested_slowly() ? 6 : 100); ++trial) {
      std::vector<std::unique_ptr<Draw>> draws;
      std::vector<SampleItem> items;
      for (int64_t i = rng.integer(1, 5); i > 0; --i) {
        const int64_t most = !tested_slowly() && trial % 20 == 0 ? 20000 : trial % 5 == 0 ? 2000 : 300;
        draws.push_back(std::make_unique<Draw>(rng, static_cast<int32_t>(rng.integer(1, most))));
        items.push_back(draws.back()->item);
      }
      const std::vector<int32_t> got = sample_all(items);
      for (std::size_t i = 0; i < items.size(); ++i) expect_is_draw(items[i], got[i]);
      if (HasFatalFailure()) return;
      EXPECT_EQ(sample(items.back()), got.back());
    }
  });
}

// Rows so long and so flat that what decides is never a handful of ids.
TEST(Sample, equal_logits_and_high_temperatures_of_a_long_row) {
  Random rng;
  const int32_t vocab = tested_slowly() ? 8200 : 40000;
  for_each_target([&] {
    for (int trial = 0; trial < (tested_slowly() ? 2 : 12); ++trial) {
      Draw draw(rng, vocab);
      if (trial % 3 == 0) std::fill_n(draw.logits.data(), vocab, 1.5f);
      if (trial % 3 == 1)
        for (float& l : draw.logits.span()) l = rng.uniform(-1e-4f, 1e-4f);
      SampleParams& params = draw.item.params;
      params.temperature = rng.pick({1.0f, 1e6f});
      params.top_k = rng.pick({0, 5000});
      params.min_p = rng.pick({0.0f, 0.99999f});
      expect_is_draw(draw.item, sample(draw.item));
      if (HasFatalFailure()) return;
    }
  });
}

TEST(Sample, the_history_of_a_vocabulary_past_2_to_the_18) {
  const int32_t vocab = (1 << 18) + 77;
  Buffer<float> logits(vocab);
  Buffer<int32_t> history(3, 4);
  std::fill_n(logits.data(), vocab, 0.0f);
  logits[5] = 4.0f;
  logits[vocab - 1] = 5.0f;
  logits[1 << 18] = 3.0f;
  history[0] = 5;
  history[1] = vocab - 1;
  history[2] = vocab;
  const SampleItem item{logits.data(), vocab, history.data(), 3, {.repetition_penalty = 2.0f}, 0, nullptr};
  int variants = 0;
  for_each_target([&] {
    if (tested_slowly() && variants++ > 0) return;  // a second of work each
    EXPECT_EQ(sample(item), 1 << 18);
  });
}

TEST(Sample, frequencies_follow_the_exact_probabilities) {
  Random rng;
  const int32_t vocab = 40, draws = tested_slowly() ? 200 : 20000;
  Buffer<float> logits(vocab);
  for (float& l : logits.span()) l = rng.normal();
  const SampleParams params{.temperature = 0.8f, .top_k = 30, .top_p = 0.95f, .min_p = 0.02f};
  SampleItem args{logits.data(), vocab, nullptr, 0, params, 0, nullptr};
  args.params.seed = 99;
  const Distribution distribution(args);
  std::vector<int> counts(vocab, 0);
  std::vector<SampleItem> items;
  for (; args.counter < static_cast<uint64_t>(draws); ++args.counter) items.push_back(args);
  for (int32_t id : sample_all(items)) ++counts[static_cast<std::size_t>(id)];
  double chi2 = 0.0, cells = -1.0;
  for (int32_t id = 0; id < vocab; ++id) {
    const double expected = distribution.p[id] * draws;
    if (expected == 0.0) {
      EXPECT_EQ(counts[id], 0) << "filtered id " << id << " was drawn";
      continue;
    }
    chi2 += (counts[id] - expected) * (counts[id] - expected) / expected;
    ++cells;
  }
  EXPECT_LT(chi2, cells + 5.0 * std::sqrt(2.0 * cells)) << cells << " degrees of freedom";
}

struct Edge {
  const char* name;
  std::vector<float> logits;
  std::vector<int32_t> history;
  SampleParams params;
  int32_t want;
};

TEST(Sample, edges_of_every_filter) {
  const Edge edges[] = {
      {"greedy takes the lowest id among equals", {1, 3, 3, 2}, {}, {}, 1},
      {"negative temperature is greedy", {1, 3, 3, 2}, {}, {.temperature = -1.0f}, 1},
      {"top_k 1", {1, 3, 3, 2}, {}, {.temperature = 5.0f, .top_k = 1}, 1},
      {"tiny top_p keeps one", {1, 3, 3, 2}, {}, {.temperature = 5.0f, .top_p = 1e-9f}, 1},
      {"top_p 0 keeps one", {1, 3, 2, 2}, {}, {.temperature = 5.0f, .top_p = 0.0f}, 1},
      {"min_p 1 keeps only the best", {1, 3, 2.9999f, 2}, {}, {.temperature = 5.0f, .min_p = 1.0f}, 1},
      {"tiny temperature is greedy", {1, 3, 2.99f, 2}, {}, {.temperature = 1e-30f}, 1},
      {"penalty divides positive logits, once", {4, 3}, {0, 0, 0}, {.repetition_penalty = 1.5f}, 1},
      {"penalty is not applied twice", {4, 2}, {0, 0, 0}, {.repetition_penalty = 1.5f}, 0},
      {"penalty multiplies negative logits", {-2, -2.5f}, {0}, {.repetition_penalty = 1.5f}, 1},
      {"penalty below 1 rewards", {2, 3}, {0}, {.repetition_penalty = 0.5f}, 0},
      {"foreign ids in the history are ignored", {1, 2}, {-1, 2, 1000000}, {.repetition_penalty = 9.0f}, 1},
      {"NaN is never drawn", {kNaN, 1, kNaN}, {}, {.temperature = 1.0f}, 1},
      {"NaN is never the maximum", {kNaN, -5, kNaN}, {}, {}, 1},
      {"all NaN", {kNaN, kNaN}, {}, {}, -1},
      {"all -inf", {-kInfinity, -kInfinity, kNaN}, {}, {.temperature = 1.0f}, -1},
      {"lowest +inf wins", {1, kInfinity, kInfinity, 5}, {}, {.temperature = 1.0f}, 1},
      {"lowest +inf wins greedily", {1, kInfinity, kInfinity, 5}, {}, {}, 1},
      {"-inf is never drawn", {-kInfinity, -700, -kInfinity}, {}, {.temperature = 100.0f}, 1},
      {"one id", {-3}, {}, {.temperature = 1.0f}, 0},
      {"zeros of both signs are equal", {-1, -0.0f, 0.0f}, {}, {}, 1},
      {"zeros of both signs are equal when drawing", {-1, -0.0f, 0.0f}, {}, {.temperature = 1.0f, .top_k = 1}, 1},
      {"min_p above 1 keeps the best", {1, 3, 2}, {}, {.temperature = 5.0f, .min_p = 1.5f}, 1},
      {"logits of the largest magnitude", {-3e38f, 3e38f, -3e38f}, {}, {.temperature = 1e3f}, 1},
      {"an infinite temperature takes all logits for equal", {1, 3, 2}, {}, {.temperature = 3e38f, .top_k = 1}, 1},
  };
  for_each_target([&] {
    for (const Edge& edge : edges) {
      // Past one vector, so that the vector loop and the tail both see it.
      for (int64_t pad : {0, 37}) {
        const int64_t n = static_cast<int64_t>(edge.logits.size());
        const int64_t n_history = static_cast<int64_t>(edge.history.size());
        if (n_history == 3 && edge.history[1] == 2 && pad > 0) continue;  // 2 is an id now
        Buffer<float> logits(n + pad, 4);
        Buffer<int32_t> history(n_history, 4);
        std::fill_n(std::copy(edge.logits.begin(), edge.logits.end(), logits.data()), pad, -kInfinity);
        std::copy(edge.history.begin(), edge.history.end(), history.data());
        std::vector<SampleItem> items;
        for (uint64_t counter = 0; counter < (tested_slowly() ? 2u : 20u); ++counter) {
          items.push_back({logits.data(), static_cast<int32_t>(n + pad), history.data(), n_history, edge.params,
                           counter, nullptr});
        }
        for (int32_t got : sample_all(items)) EXPECT_EQ(got, edge.want) << edge.name << ", " << pad << " more";
        EXPECT_EQ(sample_ref(items[0]), edge.want) << edge.name << ", reference";
      }
    }
  });
}

TEST(Sample, depends_on_seed_and_counter) {
  Buffer<float> logits(1000);
  std::fill_n(logits.data(), 1000, 0.0f);
  SampleItem args{logits.data(), 1000, nullptr, 0, {.temperature = 1.0f}, 0, nullptr};
  int same = 0;
  for (uint64_t i = 0; i < (tested_slowly() ? 15u : 50u); ++i) {
    std::vector<SampleItem> items(3, args);
    for (SampleItem& item : items) item.params.seed = i;
    items[0].counter = 7;
    items[1].counter = items[2].counter = 8;
    items[2].params.seed += uint64_t{1} << 40;
    const std::vector<int32_t> got = sample_all(items);
    same += (got[0] == got[1]) + (got[1] == got[2]);
  }
  EXPECT_LT(same, 5);
}

void bench() {
  Random rng;
  const int32_t vocab = bench_small() ? 1000 : 128256, layers = bench_layers(vocab * 4);
  Buffer<float> logits(int64_t{layers} * vocab);
  for (int64_t i = 0; i < logits.size(); ++i) logits[i] = i < 1000000 ? 2.0f * rng.normal() : logits[i - 999983];
  Buffer<char> workspace(static_cast<int64_t>(kernels::sample_workspace_bytes(vocab, 1)), 64);
  Buffer<int32_t> token(1, 4);
  const SampleParams greedy, nucleus{.temperature = 0.8f, .top_k = 0, .top_p = 0.95f},
      all{.temperature = 0.8f, .top_k = 50, .top_p = 0.9f, .min_p = 0.05f};
  const char* names[] = {"greedy", "top_p", "top_k+top_p+min_p"};
  int which = 0;
  for (const SampleParams& params : {greedy, nucleus, all}) {
    const char* name = names[which++];
    for_each_bench_target([&](const char* variant) {
      const BenchRow row{.op = "sample", .variant = variant, .shape = std::to_string(vocab) + " " + name, .tokens = 1,
                         .layers = layers, .working_set_bytes = static_cast<int64_t>(4 * logits.size()),
                         .bytes = 4.0 * vocab};
      run_bench(row, [&](int64_t sample) {
        const SampleItem item{logits.data() + sample % layers * vocab, vocab, nullptr, 0, params,
                              static_cast<uint64_t>(sample), token.data()};
        tested_ops().sample({{item}}, workspace.data());
      });
    });
  }
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
