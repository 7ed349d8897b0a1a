#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/sample/philox.h"
#include "kernels/sample/sample.h"

namespace skv::kernels {
namespace {

struct Candidate {
  double logit;
  double weight;
  int32_t id;
};

std::vector<Candidate> sorted_candidates(const SampleItem& item) {
  std::vector<Candidate> all(static_cast<std::size_t>(item.vocab));
  for (int32_t i = 0; i < item.vocab; ++i) {
    const float l = item.logits[i];
    all[i] = {std::isnan(l) ? -std::numeric_limits<double>::infinity() : l, 0.0, i};
  }
  std::vector<bool> seen(static_cast<std::size_t>(item.vocab), false);
  for (int64_t h = 0; h < item.n_history; ++h) {
    const int32_t id = item.history[h];
    if (id < 0 || id >= item.vocab || seen[id]) continue;
    seen[id] = true;
    double& l = all[id].logit;
    // In f32, so that ties are the same ties everywhere.
    const float penalty = item.params.repetition_penalty, x = static_cast<float>(l);
    l = x > 0 ? x / penalty : x * penalty;
  }
  std::stable_sort(all.begin(), all.end(), [](const Candidate& x, const Candidate& y) { return x.logit > y.logit; });
  return all;
}

int32_t sample_row(const SampleItem& item) {
  std::vector<Candidate> kept = sorted_candidates(item);
  const SampleParams& params = item.params;
  const double best = kept.empty() ? -std::numeric_limits<double>::infinity() : kept[0].logit;
  if (best == -std::numeric_limits<double>::infinity()) return -1;
  if (!(params.temperature > 0.0f) || std::isinf(best)) return kept[0].id;
  if (params.top_k > 0 && static_cast<std::size_t>(params.top_k) < kept.size()) kept.resize(params.top_k);
  double total = 0.0;
  for (Candidate& c : kept) total += c.weight = std::exp((c.logit - best) / params.temperature);
  if (params.top_p < 1.0f) {
    std::size_t n = 0;
    for (double mass = 0.0; n < kept.size() && (n == 0 || mass < params.top_p * total); ++n) mass += kept[n].weight;
    kept.resize(n);
  }
  const double least = std::log(static_cast<double>(params.min_p));  // on logits: no rounding decides a tie
  while (params.min_p > 0.0f && kept.size() > 1 && (kept.back().logit - best) / params.temperature < least)
    kept.pop_back();
  total = 0.0;
  for (const Candidate& c : kept) total += c.weight;
  const double target = counter_uniform(params.seed, item.counter) * total;
  double mass = 0.0;
  for (const Candidate& c : kept)
    if ((mass += c.weight) > target) return c.id;
  return kept[0].id;
}

}  // namespace

float counter_uniform(uint64_t seed, uint64_t counter) { return philox_uniform(seed, counter); }

void sample_ref(std::span<const SampleItem> items, void*) {
  for (const SampleItem& item : items) *item.token = sample_row(item);
}

}  // namespace skv::kernels
