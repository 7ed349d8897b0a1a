// Figures of one configuration on one trace.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/memory.h"
#include "tests/bench/accuracy_configs.h"
#include "tests/bench/trace.h"

namespace skv::bench {

struct AccuracyRow {
  int64_t steps = 0;           // decode steps counted, times layers
  double recall = 0.0;         // share of the true attention mass that lies in tokens attended to, mean over KV heads
  double recall_p5 = 0.0;      // its 5th percentile
  double error = 0.0;          // |o - o_exact| / |o_exact| over all steps and heads, root of the sums of squares
  double error_median = 0.0;   // median over steps and layers
  double base_error = -1.0;    // the same against the base configuration's output; -1 = no base
  double hit_rate = 0.0;       // of selected chunks, those found in their slot
  double bytes_read = 0.0;     // per decoded token, all layers
  double tokens_attended = 0.0;  // per KV head and step
  double fast_bytes = 0.0;     // fast tier, per token of context, all layers
  double slow_bytes = 0.0;
  // Accuracy guard, where it is on: over steps of a layer whose measured missed mass (mean over heads) is above 0.001,
  // the share whose estimate is within [0.8, 1.25] of it, and the same per query head; of KV heads' steps that were not
  // capped, the share whose measured missed mass is at most 1.25 times the bound, and how many they are of all.
  double guard_layer = -1.0, guard_head = -1.0, guard_kept = -1.0, guard_free = -1.0;
};

// A store that is fed one step at a time, and what it attends to.
class AccuracyRun {
 public:
  AccuracyRun(const Trace& trace, const AccuracyConfig& config);
  ~AccuracyRun();

  const std::string& name() const { return config_.name; }
  const std::string& base() const { return config_.base; }
  const Layers& outputs() const { return outputs_; }

  void step(const Question& question, int64_t step);
  // Counts the last step of a layer against exact attention; base: the outputs of the base run, or null.
  void measure(int32_t layer, const Exact& exact, const Layers* base);
  void end_question();
  AccuracyRow row() const;

 private:
  struct Head {
    int64_t exact_from = 0;
    std::vector<int32_t> chunks, outliers;
    std::vector<float> estimated;
    bool capped = false;
  };
  std::vector<double> attended_mass(const Exact& exact, const Head& head, int32_t kv_head) const;
  void measure_guard(int32_t layer, const Exact& exact);

  const Trace& trace_;
  AccuracyConfig config_;
  kv::Policy policy_;
  MemoryAccount account_;
  std::unique_ptr<kv::Store> store_;
  kv::Sequence* sequence_;
  double fast_bytes_ = 0.0, slow_bytes_ = 0.0;
  Layers outputs_;
  std::map<std::pair<int32_t, int32_t>, Head> heads_;
  std::vector<double> recalls_, errors_;
  double error_square_ = 0.0, base_square_ = 0.0, norm_square_ = 0.0;
  int64_t steps_ = 0;
  struct {
    int64_t layers = 0, layers_near = 0, heads = 0, heads_near = 0, calls = 0, free = 0, kept = 0;
  } guard_;
};

}  // namespace skv::bench
