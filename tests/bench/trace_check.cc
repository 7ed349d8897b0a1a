// The traces are what they claim: the model's are its true activations, the synthetic ones have the difficulty that
// their family names. Prints the figures that the bounds are about.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include <gtest/gtest.h>

#include "kernels/common/dtype.h"
#include "kernels/ops.h"
#include "tests/bench/model_trace.h"
#include "tests/bench/synthetic_trace.h"

namespace skv::bench {
namespace {

constexpr int32_t kChunk = 8;

double relative_error(const float* a, const std::vector<double>& b) {
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(error / norm);
}

Trace small(const char* family, int64_t tokens = 8192, int64_t steps = 32) {
  SyntheticOptions options;
  options.family = family;
  options.tokens = tokens;
  options.steps = steps;
  return synthetic_trace(options);
}

const ModelTraces& demo() {
  static const ModelTraces traces = [] {
    ModelTraceOptions options;
    options.model = SKV_DEMO_MODEL;
    options.tokens = 3072;
    options.questions = 16;
    options.reading_steps = 80;  // more than a decode call takes at once
    return model_traces(options);
  }();
  return traces;
}

// Share of the prompt's mass that its best `count` chunks hold (the last tokens left out, as a window would): mean
// over KV heads and every fourth step from `answer` on.
double best_chunks(const Trace& trace, int32_t layer, int64_t count) {
  double sum = 0.0;
  int n = 0;
  for (const Question& question : trace.questions) {
    for (int64_t step = question.answer; step < question.n; step += 4) {
      const Exact exact = attend_exactly(trace, question, layer, step);
      for (int32_t h = 0; h < trace.geometry.kv_heads; ++h, ++n) {
        std::vector<double> mass = chunk_mass(trace, exact, h, kChunk);
        mass.resize(static_cast<std::size_t>((trace.n_prompt - 32) / kChunk));
        sum += largest_sum(mass, count) / largest_sum(mass, std::ssize(mass));
      }
    }
  }
  return sum / n;
}

// Mass of a query head's best tokens, and of a KV head's best chunks: means over heads and every eighth step.
struct Best {
  double tokens_24 = 0.0, tokens_256 = 0.0, chunks_64 = 0.0;
};

Best best(const Trace& trace) {
  Best sum;
  const Question& question = trace.questions[0];
  const kv::Geometry& g = trace.geometry;
  double steps = 0.0;
  for (int64_t step = 0; step < question.n; step += 8, ++steps) {
    const Exact exact = attend_exactly(trace, question, 0, step);
    for (int32_t h = 0; h < g.q_heads; ++h) {
      const auto row = exact.weights.begin() + h * exact.tokens;
      sum.tokens_24 += largest_sum({row, row + exact.tokens}, 24) / g.q_heads;
      sum.tokens_256 += largest_sum({row, row + exact.tokens}, 256) / g.q_heads;
    }
    for (int32_t h = 0; h < g.kv_heads; ++h) {
      sum.chunks_64 += largest_sum(chunk_mass(trace, exact, h, kChunk), 64) / g.kv_heads;
    }
  }
  const Best mean{sum.tokens_24 / steps, sum.tokens_256 / steps, sum.chunks_64 / steps};
  std::printf("%s, %lld tokens: mass of the best 24 tokens %.2f, of 256 tokens %.2f, of 64 chunks %.2f\n",
              trace.name.c_str(), static_cast<long long>(trace.n_prompt), mean.tokens_24, mean.tokens_256,
              mean.chunks_64);
  return mean;
}

// Rows of `heads` heads before RoPE; the first is at this position.
std::vector<float> unrotated(const Trace& trace, std::vector<float> rows, int32_t heads, int64_t position) {
  const int64_t width = int64_t{heads} * trace.geometry.head_dim;
  const kernels::RopeItem undo = {rows.data(), width, std::ssize(rows) / width, heads, trace.geometry.head_dim, position,
                                  true};
  kernels::rope_cpu(trace.rope->view, {&undo, 1});
  return rows;
}
std::vector<float> unrotated_prompt(const Trace& trace) {
  return unrotated(trace, trace.prompt->k[0], trace.geometry.kv_heads, 0);
}

// |a - b| / |a|
float distance(const float* a, const float* b, int64_t n) {
  float difference = 0.0f, norm = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += a[i] * a[i];
  }
  return std::sqrt(difference / norm);
}

struct Moments {
  double mean = 0.0, spread = 0.0;  // norm of the mean key; root mean square of the distance to it
};

Moments moments(const std::vector<float>& k, const Trace& trace, int32_t head) {
  const int64_t d = trace.geometry.head_dim, width = trace.kv_width(), n = trace.n_prompt;
  Moments result;
  double variance = 0.0, squares = 0.0;
  for (int64_t i = head * d; i < (head + 1) * d; ++i) {
    double first = 0.0, second = 0.0;
    for (int64_t t = 0; t < n; ++t) first += double{k[t * width + i]} / n;
    for (int64_t t = 0; t < n; ++t) second += std::pow(double{k[t * width + i]} - first, 2) / n;
    squares += first * first;
    variance += second;
  }
  result.mean = std::sqrt(squares);
  result.spread = std::sqrt(variance);
  return result;
}

// X'X of every eighth of tokens [from, to).
std::vector<double> gram(const std::vector<float>& k, int64_t width, int64_t from, int64_t to) {
  std::vector<double> g(static_cast<std::size_t>(width * width));
  for (int64_t t = from; t < to; t += 8) {
    const float* x = k.data() + t * width;
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t j = 0; j < width; ++j) g[i * width + j] += double{x[i]} * double{x[j]};
    }
  }
  return g;
}

double cosine(const std::vector<double>& a, const std::vector<double>& b) {
  double ab = 0.0, aa = 0.0, bb = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
  return ab / std::sqrt(aa * bb);
}

// How alike the two halves of a prompt are in the directions of their keys.
double halves_alike(const Trace& trace) {
  const std::vector<float> k = unrotated_prompt(trace);
  const int64_t n = trace.n_prompt, width = trace.kv_width();
  return cosine(gram(k, width, 0, n / 2), gram(k, width, n / 2, n));
}

TEST(ModelTrace, AnswersAreRight) {
  int64_t right = 0, asked = 0;
  for (const Question& question : demo().questions.questions) right += question.right, asked += question.asked;
  std::printf("greedy answer tokens: %lld of %lld right\n", static_cast<long long>(right),
              static_cast<long long>(asked));
  EXPECT_EQ(asked, 16 * 6);
  EXPECT_GE(right, asked * 9 / 10);
}

TEST(ModelTrace, KeysAndValuesAreBf16) {
  for (const Layers* rows :
       {&demo().questions.prompt->k, &demo().questions.prompt->v, &demo().reading.questions[0].k}) {
    for (const std::vector<float>& layer : *rows) {
      const auto rounded = [](float x) { return bf16_to_f32(f32_to_bf16(x)) == x; };
      EXPECT_TRUE(std::all_of(layer.begin(), layer.end(), rounded));
    }
  }
}

TEST(ModelTrace, RecordedRowsGiveTheRunsAttention) {
  double worst = 0.0;
  for (const Trace* trace : {&demo().questions, &demo().reading}) {
    for (std::size_t i = 0; i < trace->questions.size(); i += 5) {
      const Question& question = trace->questions[i];
      for (int32_t layer = 0; layer < trace->geometry.layers; ++layer) {
        for (int64_t step = 0; step < question.n; step += 11) {
          const Exact exact = attend_exactly(*trace, question, layer, step);
          const float* run = question.attention[static_cast<std::size_t>(layer)].data() + step * trace->q_width();
          worst = std::max(worst, relative_error(run, exact.output));
        }
      }
    }
  }
  std::printf("attention from recorded rows against the run's: relative error at most %.2g\n", worst);
  EXPECT_LE(worst, 2e-2);
}

// Before RoPE a token's key and query in the first layer are the same wherever it stands: what is read after the
// prompt, from the same small vocabulary, must match the prompt's, which it does only at its true position.
TEST(ModelTrace, StepsFollowThePrompt) {
  const Trace& trace = demo().reading;
  const kv::Geometry& g = trace.geometry;
  const Question& reading = trace.questions[0];
  constexpr float kSame = 1e-2f;  // keys are rounded to bf16 after RoPE
  const std::vector<float> k = unrotated_prompt(trace);
  const std::vector<float> q = unrotated(trace, trace.prompt_q[0], g.q_heads, trace.n_prompt - kPromptQueries);
  const std::vector<float> later_k = unrotated(trace, reading.k[0], g.kv_heads, trace.n_prompt);
  const std::vector<float> later_q = unrotated(trace, reading.q[0], g.q_heads, trace.n_prompt);
  int64_t matched = 0, twins = 0, unlike = 0;
  for (int64_t step = 0; step < reading.n; ++step) {
    bool found = false;
    for (int64_t t = 0; t < trace.n_prompt; ++t) {
      if (distance(&later_k[step * trace.kv_width()], &k[t * trace.kv_width()], trace.kv_width()) > kSame) continue;
      found = true;
      const int64_t row = t - (trace.n_prompt - kPromptQueries);
      if (row < 0) continue;
      ++twins;
      unlike += distance(&later_q[step * trace.q_width()], &q[row * trace.q_width()], trace.q_width()) > 1e-3f;
    }
    matched += found;
  }
  std::printf(
      "of %lld tokens after the prompt %lld have the key of one in it; %lld pairs of such queries, %lld unlike\n",
      static_cast<long long>(reading.n), static_cast<long long>(matched), static_cast<long long>(twins),
      static_cast<long long>(unlike));
  EXPECT_EQ(reading.n, 80);
  EXPECT_GE(matched, 72);
  EXPECT_GE(twins, 20);
  EXPECT_EQ(unlike, 0);
}

TEST(ModelTrace, ReplayThroughAFullStoreIsExactAttention) {
  const Trace& trace = demo().questions;
  skv_kv_params params = kv::default_kv_params();
  params.policy = SKV_POLICY_FULL;
  MemoryAccount account;
  kv::Store store(trace.geometry, kv::resolve_policy(params, trace.geometry), trace.rope->view, kernels::cpu_ops(),
                  account);
  kv::Sequence* sequence = store.open();
  append_prompt(store, sequence, trace);
  double worst = 0.0;
  for (std::size_t i = 0; i < 2; ++i) {
    const Question& question = trace.questions[i];
    Layers outputs;
    for (int64_t step = 0; step < question.n; ++step) {
      append_step(store, sequence, trace, question, step, &outputs);
      if (step % 7 != 0) continue;
      for (int32_t layer = 0; layer < trace.geometry.layers; ++layer) {
        const Exact exact = attend_exactly(trace, question, layer, step);
        worst = std::max(worst, relative_error(outputs[static_cast<std::size_t>(layer)].data(), exact.output));
      }
    }
    store.truncate(sequence, trace.n_prompt);
  }
  store.close(sequence);
  std::printf("replay of policy full against exact attention: relative error at most %.2g\n", worst);
  EXPECT_LE(worst, 2e-2);
}

TEST(ModelTrace, QuestionsAskedTogetherSpreadTheMass) {
  const Trace together = extraction_trace(demo().questions, 16);
  ASSERT_EQ(together.questions.size(), 1u);
  ASSERT_EQ(together.geometry.q_heads, 16 * demo().questions.geometry.q_heads);
  // The middle layer is the one that looks facts up.
  const double one = best_chunks(demo().questions, 1, 6), all = best_chunks(together, 1, 6);
  std::printf(
      "demo model, layer 1, answers: the best 6 of %lld chunks hold %.2f of the prompt's mass for one question, "
      "%.2f for 16 together\n",
      static_cast<long long>(together.n_prompt / kChunk), one, all);
  EXPECT_GE(one, 0.5);
  EXPECT_LE(all, 0.35);
  // Query head g of question j in KV head h's group is that question's own.
  const Trace& alone = demo().questions;
  const int64_t d = alone.geometry.head_dim, step = 3, j = 5, h = 2, g = 1;
  const float* merged = together.questions[0].q[1].data() + step * together.q_width() + (h * 32 + j * 2 + g) * d;
  const float* own = alone.questions[j].q[1].data() + step * alone.q_width() + (h * 2 + g) * d;
  EXPECT_TRUE(std::equal(own, own + d, merged));
}

TEST(SyntheticTrace, BiasIsAHundredSpreadsBeforeRope) {
  const Trace biased = small("bias100", 2048, 8), plain = small("plain", 2048, 8);
  const std::vector<float> k = unrotated_prompt(biased), k_plain = unrotated_prompt(plain);
  for (int32_t h = 0; h < biased.geometry.kv_heads; ++h) {
    const Moments with = moments(k, biased, h), without = moments(k_plain, plain, h);
    std::printf("head %d: bias %.1f spreads; plain %.2f; rounding to bf16 adds %.2f of the spread\n", h,
                with.mean / with.spread, without.mean / without.spread, with.spread / without.spread - 1.0);
    EXPECT_NEAR(with.mean / with.spread, 100.0, 10.0);
    EXPECT_LE(without.mean / without.spread, 1.0);
    // After RoPE most of it is gone into the spread, or the rotation did nothing.
    const Moments rotated = moments(biased.prompt->k[0], biased, h);
    EXPECT_LE(rotated.mean / rotated.spread, 2.0);
  }
}

TEST(SyntheticTrace, MassIsWhereTheFamilySays) {
  const Best plain = best(small("plain")), heavy = best(small("heavy")), few = best(small("extraction_few"));
  const Best extraction = best(small("extraction", 16384));
  EXPECT_LE(plain.tokens_24, 0.65);
  EXPECT_GE(heavy.tokens_24, 0.75);
  EXPECT_GE(few.tokens_24, 0.6);
  EXPECT_GE(few.chunks_64, 0.8);
  EXPECT_GE(extraction.tokens_256, 0.75);  // 256 tokens hold most of it ...
  EXPECT_LE(extraction.tokens_24, 0.3);    // ... in like parts
  EXPECT_LE(extraction.chunks_64, 0.5);
}

TEST(SyntheticTrace, ShiftChangesTheSubspace) {
  const double plain = halves_alike(small("plain", 4096, 8)), shift = halves_alike(small("shift", 4096, 8));
  std::printf("cosine of the halves' Gram matrices: plain %.2f, shift %.2f\n", plain, shift);
  EXPECT_GE(plain, 0.9);
  EXPECT_LE(shift, 0.5);
}

TEST(SyntheticTrace, OutlierKeysAreTenTimesAsLong) {
  const Trace trace = small("outliers", 8192, 8);
  const int64_t d = trace.geometry.head_dim, rows = trace.n_prompt * trace.geometry.kv_heads;
  int64_t outliers = 0;
  double largest = 0.0;
  for (int64_t row = 0; row < rows; ++row) {
    const float* k = trace.prompt->k[0].data() + row * d;
    double squares = 0.0;
    for (int64_t i = 0; i < d; ++i) squares += double{k[i]} * double{k[i]};
    const double length = std::sqrt(squares / static_cast<double>(d));
    outliers += length > 5.0;
    largest = std::max(largest, length);
  }
  std::printf("outliers: %lld of %lld keys, the longest %.1f\n", static_cast<long long>(outliers),
              static_cast<long long>(rows), largest);
  EXPECT_GE(outliers, rows / 1000);
  EXPECT_LE(outliers, rows * 3 / 1000);
  EXPECT_NEAR(largest, 10.0, 1.5);
}

// Hit rates mean something: a step's best chunks are partly, not all, those of the step before.
TEST(SyntheticTrace, NeighbouringStepsWantSimilarChunks) {
  const Trace trace = small("plain", 4096);
  const Question& question = trace.questions[0];
  std::set<int64_t> before;
  double shared = 0.0;
  for (int64_t step = 0; step < question.n; ++step) {
    const std::vector<double> mass = chunk_mass(trace, attend_exactly(trace, question, 0, step), 0, kChunk);
    std::vector<int64_t> order(mass.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
    std::partial_sort(order.begin(), order.begin() + 64, order.end(),
                      [&](auto a, auto b) { return mass[a] > mass[b]; });
    const std::set<int64_t> now(order.begin(), order.begin() + 64);
    for (const int64_t chunk : now) shared += before.count(chunk) > 0;
    before = now;
  }
  shared /= 64.0 * static_cast<double>(question.n - 1);
  std::printf("share of the best 64 chunks that the step before wanted too: %.2f\n", shared);
  EXPECT_GE(shared, 0.3);
  EXPECT_LE(shared, 0.9);
}

TEST(SyntheticTrace, SameSeedSameTrace) {
  for (const char* family : synthetic_families()) {
    const int64_t tokens = std::string(family) == "extraction" ? 8960 : 2048;  // room for its 1,024 marked tokens
    const Trace a = small(family, tokens, 4), b = small(family, tokens, 4);
    EXPECT_EQ(a.prompt->k[0], b.prompt->k[0]) << family;
    EXPECT_EQ(a.questions[0].q[0], b.questions[0].q[0]) << family;
    const auto finite = [](float x) { return std::isfinite(x); };
    EXPECT_TRUE(std::all_of(a.questions[0].q[0].begin(), a.questions[0].q[0].end(), finite)) << family;
  }
}

}  // namespace
}  // namespace skv::bench
