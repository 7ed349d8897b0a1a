#include "kernels/sample/sample.h"

#include <numeric>

#include "kernels/sample/philox.h"
#include "tests/kernels/kernel_test.h"

namespace skv::test {
namespace {

using kernels::SampleArgs;
using kernels::SampleParams;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

int32_t sample_cpu(const SampleArgs& args) {
  Buffer<char> workspace(static_cast<int64_t>(kernels::sample_workspace_bytes(args.vocab)), 64);
  return kernels::sample_cpu(args, workspace.data());
}

// What the contract gives each id, in descending order, written a second time without the reference's code.
struct Distribution {
  std::vector<int32_t> order;
  std::vector<double> p;  // by id

  Distribution(const SampleArgs& args) : p(static_cast<std::size_t>(args.vocab), 0.0) {
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
  EXPECT_EQ(kernels::philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffffu;
  EXPECT_EQ(kernels::philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(kernels::philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
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

TEST(Sample, every_draw_is_the_one_its_uniform_number_selects) {
  Random rng;
  for_each_target([&] {
    for (int trial = 0; trial < 300; ++trial) {
      const int32_t vocab = static_cast<int32_t>(rng.integer(1, trial % 50 == 0 ? 20000 : 300));
      Buffer<float> logits(vocab);
      fill_rows(rng, rng.pick({Fill::normal, Fill::ties, Fill::zeros}), DType::f32, logits.data(), 1, vocab, 3.0f);
      if (rng.chance(0.3))
        for (int32_t i = 0; i < vocab; i += 2) logits[i] = std::round(logits[i]);  // many equal logits
      std::vector<int32_t> history;
      for (int64_t i = rng.integer(0, 20); i > 0; --i)
        history.push_back(static_cast<int32_t>(rng.integer(0, vocab - 1)));
      SampleArgs args{logits.data(), vocab, history.data(), static_cast<int64_t>(history.size()), {}, 0};
      args.params = {rng.pick({0.3f, 1.0f, 2.0f}), static_cast<int32_t>(rng.pick({0, 0, 1, 2, 40, 100000})),
                     rng.pick({1.0f, 0.9f, 0.5f}), rng.pick({0.0f, 0.05f}), rng.pick({1.0f, 1.3f, 0.8f}),
                     static_cast<uint64_t>(rng.integer(0, 1000))};
      args.counter = static_cast<uint64_t>(rng.integer(0, 1 << 30));
      const Distribution distribution(args);
      const double u = kernels::counter_uniform(args.params.seed, args.counter);
      const int32_t got = sample_cpu(args), want = kernels::sample_ref(args, nullptr);
      ASSERT_TRUE(distribution.is_draw(got, u, 1e-5)) << "vocab=" << vocab << " got " << got << " want " << want;
      ASSERT_TRUE(distribution.is_draw(want, u, 1e-9)) << "vocab=" << vocab << " reference " << want;
      ASSERT_EQ(sample_cpu(args), got);
    }
  });
}

TEST(Sample, frequencies_follow_the_exact_probabilities) {
  Random rng;
  const int32_t vocab = 40, draws = 20000;
  std::vector<float> logits(vocab);
  for (float& l : logits) l = rng.normal();
  SampleArgs args{
      logits.data(), vocab, nullptr, 0, {.temperature = 0.8f, .top_k = 30, .top_p = 0.95f, .min_p = 0.02f}, 0};
  args.params.seed = 99;
  const Distribution distribution(args);
  std::vector<int> counts(vocab, 0);
  for (int i = 0; i < draws; ++i) {
    args.counter = static_cast<uint64_t>(i);
    ++counts[static_cast<std::size_t>(sample_cpu(args))];
  }
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
  };
  for_each_target([&] {
    for (Edge edge : edges) {
      // Past one vector, so that the vector loop and the tail both see it.
      const std::vector<float> pad(37, -kInfinity);
      for (bool padded : {false, true}) {
        if (padded) edge.logits.insert(edge.logits.end(), pad.begin(), pad.end());
        for (uint64_t counter = 0; counter < 20; ++counter) {
          const SampleArgs args{edge.logits.data(), static_cast<int32_t>(edge.logits.size()), edge.history.data(),
                                static_cast<int64_t>(edge.history.size()), edge.params, counter};
          if (edge.history.size() == 3 && edge.history[1] == 2 && padded) continue;  // 2 is an id now
          EXPECT_EQ(sample_cpu(args), edge.want) << edge.name << ", padded " << padded;
          EXPECT_EQ(kernels::sample_ref(args, nullptr), edge.want) << edge.name << ", reference";
        }
      }
    }
  });
}

TEST(Sample, depends_on_seed_and_counter) {
  std::vector<float> logits(1000, 0.0f);
  SampleArgs args{logits.data(), 1000, nullptr, 0, {.temperature = 1.0f}, 0};
  int same = 0;
  for (uint64_t i = 0; i < 50; ++i) {
    args.params.seed = i;
    args.counter = 7;
    const int32_t one = sample_cpu(args);
    args.counter = 8;
    const int32_t two = sample_cpu(args);
    args.params.seed = i + (uint64_t{1} << 40);
    same += (one == two) + (two == sample_cpu(args));
  }
  EXPECT_LT(same, 5);
}

void bench() {
  Random rng;
  const int32_t vocab = bench_small() ? 1000 : 128256, layers = bench_layers(vocab * 4);
  std::vector<float> logits(static_cast<std::size_t>(layers) * vocab);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = i < 1000000 ? 2.0f * rng.normal() : logits[i - 999983];
  Buffer<char> workspace(static_cast<int64_t>(kernels::sample_workspace_bytes(vocab)), 64);
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
        kernels::sample_cpu({logits.data() + sample % layers * vocab, vocab, nullptr, 0, params,
                             static_cast<uint64_t>(sample)},
                            workspace.data());
      });
    });
  }
}

}  // namespace
}  // namespace skv::test

SKV_KERNEL_TEST_MAIN(skv::test::bench)
