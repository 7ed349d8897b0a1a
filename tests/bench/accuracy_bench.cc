// What each configuration of the KV manager costs in accuracy: on traces of the demo model and on synthetic ones, against
// exact attention in double.
//   accuracy_bench MODEL_DIR [--tokens N] [--questions N] [--budget F] [--seed N] [--trace NAME] [--small]
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "tests/bench/accuracy_measure.h"
#include "tests/bench/model_trace.h"
#include "tests/bench/synthetic_trace.h"

namespace skv::bench {
namespace {

constexpr int64_t kLeastTokens = 9216;  // for 1,024 needles in chunks of their own

struct Options {
  std::string model;
  int64_t tokens = 16384;
  int32_t questions = 48;
  double budget = 0.015625;
  uint64_t seed = 1;
  std::string trace;  // "" = all
  bool small = false;
};

std::optional<Options> parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--small") {
      o.small = true;
    } else if (name.rfind("--", 0) != 0 && o.model.empty()) {
      o.model = name;
    } else if (i + 1 == argc) {
      return std::nullopt;
    } else if (name == "--tokens") {
      o.tokens = std::atoll(argv[++i]);
    } else if (name == "--questions") {
      o.questions = std::atoi(argv[++i]);
    } else if (name == "--budget") {
      o.budget = std::atof(argv[++i]);
    } else if (name == "--seed") {
      o.seed = std::strtoull(argv[++i], nullptr, 0);
    } else if (name == "--trace") {
      o.trace = argv[++i];
    } else {
      return std::nullopt;
    }
  }
  const bool long_enough = o.tokens >= (o.small ? 2048 : kLeastTokens);
  if (o.model.empty() || !long_enough || o.questions < 1 || !(o.budget > 0.0 && o.budget < 1.0)) return std::nullopt;
  return o;
}

void print(const Trace& trace, const AccuracyRun& run, const Options& options) {
  const AccuracyRow row = run.row();
  const char* commit = std::getenv("SKV_COMMIT");
  std::printf("{\"bench\": \"accuracy\", \"trace\": \"%s\", \"config\": \"%s\", \"tokens\": %lld, \"budget\": %.6g, "
              "\"seed\": %llu, \"steps\": %lld, \"recall\": %.4f, \"recall_p5\": %.4f, \"error\": %.5f, "
              "\"error_median\": %.5f, \"hit_rate\": %.3f, \"bytes_read\": %.0f, \"tokens_attended\": %.1f, "
              "\"fast_bytes_per_token\": %.1f, \"slow_bytes_per_token\": %.1f",
              trace.name.c_str(), run.name().c_str(), static_cast<long long>(trace.n_prompt), options.budget,
              static_cast<unsigned long long>(options.seed), static_cast<long long>(row.steps), row.recall, row.recall_p5,
              row.error, row.error_median, row.hit_rate, row.bytes_read, row.tokens_attended, row.fast_bytes,
              row.slow_bytes);
  if (row.base_error >= 0.0) {
    std::printf(", \"base\": \"%s\", \"error_to_base\": %.5f", run.base().c_str(), row.base_error);
  }
  if (row.guard_free >= 0.0) {
    std::printf(", \"guard_near_layer\": %.4f, \"guard_near_head\": %.4f, \"guard_kept\": %.4f, \"guard_not_capped\": %.4f",
                row.guard_layer, row.guard_head, row.guard_kept, row.guard_free);
  }
  std::printf(", \"commit\": \"%s\"}\n", commit ? commit : "unknown");
  std::fflush(stdout);
}

// All configurations side by side, so that exact attention is computed once a step.
void evaluate(const Trace& trace, const Options& options) {
  std::vector<std::unique_ptr<AccuracyRun>> runs;
  for (const AccuracyConfig& config : accuracy_configs(trace.n_prompt, options.budget)) {
    runs.push_back(std::make_unique<AccuracyRun>(trace, config));
  }
  const auto base_of = [&](const AccuracyRun& run) -> const Layers* {
    for (const auto& other : runs) {
      if (!run.base().empty() && other->name() == run.base()) return &other->outputs();
    }
    return nullptr;
  };
  for (const Question& question : trace.questions) {
    for (int64_t step = 0; step < question.n; ++step) {
      for (const auto& run : runs) run->step(question, step);
      if (step < question.answer) continue;
      for (int32_t layer = 0; layer < trace.geometry.layers; ++layer) {
        const Exact exact = attend_exactly(trace, question, layer, step);
        for (const auto& run : runs) run->measure(layer, exact, base_of(*run));
      }
    }
    if (&question == &trace.questions.back()) break;
    for (const auto& run : runs) run->end_question();
  }
  for (const auto& run : runs) print(trace, *run, options);
}

// The steps before the answer too: a question's own tokens look for many facts at once.
Trace from_the_start(Trace trace, const char* name) {
  trace.name = name;
  for (Question& question : trace.questions) question.answer = 0;
  return trace;
}

void run(const Options& options) {
  const auto wanted = [&](const std::string& name) { return options.trace.empty() || options.trace == name; };
  if (wanted("answers") || wanted("reading") || wanted("extraction-16")) {
    ModelTraceOptions model;
    model.model = options.model;
    model.tokens = options.tokens;
    model.questions = options.questions;
    model.facts = options.small ? 0 : 700;  // a crowded document: many facts compete
    model.reading_steps = options.small ? 8 : 96;
    model.seed = options.seed;
    ModelTraces traces = model_traces(model);
    const auto evaluate_if = [&](Trace trace, const char* name) {
      trace.name = name;
      if (wanted(name)) evaluate(trace, options);
    };
    evaluate_if(traces.questions, "answers");
    evaluate_if(extraction_trace(traces.questions, options.small ? 2 : 16), "extraction-16");
    if (wanted("reading")) evaluate(from_the_start(std::move(traces.reading), "reading"), options);
  }
  for (const char* family : synthetic_families()) {
    if (!wanted(family)) continue;
    if (options.small && std::string(family) == "extraction") continue;  // its needles want a longer prompt
    SyntheticOptions synthetic;
    synthetic.family = family;
    synthetic.tokens = options.tokens;
    synthetic.steps = options.small ? (std::string(family) == "shift" ? 0 : 8) : 0;
    synthetic.seed = options.seed;
    evaluate(synthetic_trace(synthetic), options);
  }
}

}  // namespace
}  // namespace skv::bench

int main(int argc, char** argv) {
  const auto options = skv::bench::parse(argc, argv);
  if (!options) {
    std::fprintf(stderr,
                 "usage: %s MODEL_DIR [--tokens N (9216 or more)] [--questions N] [--budget F] [--seed N] [--trace NAME] "
                 "[--small]\n",
                 argv[0]);
    return 2;
  }
  try {
    skv::bench::run(*options);
  } catch (const skv::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
