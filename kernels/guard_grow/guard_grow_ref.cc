#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/guard_grow/guard_grow.h"

namespace skv::kernels {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

// One query head: what each sample stands for, and all mass, in units of the largest term.
struct HeadMass {
  std::vector<double> sample;
  double total = 0;
};

double dot(const GuardGrowDesc& desc, const float* q, const void* keys, int64_t row) {
  double sum = 0;
  const int64_t dim = desc.head_dim;
  for (int64_t d = 0; d < dim; ++d) sum += double{q[d]} * load_f32(keys, desc.dtype, row * dim + d);
  return sum;
}

HeadMass mass_of_head(const GuardGrowDesc& desc, const GuardGrowItem& item, int32_t g) {
  const int64_t rows = int64_t{*item.n_samples} * desc.chunk;
  const float* q = item.q + int64_t{g} * desc.head_dim;
  std::vector<double> x(static_cast<std::size_t>(rows));
  double max = item.lse[g];
  for (int64_t r = 0; r < rows; ++r) {
    double& term = x[static_cast<std::size_t>(r)];
    term = desc.scale * dot(desc, q, item.keys, r) + item.log_weight[r / desc.chunk];
    max = std::fmax(max, term);
  }
  const auto relative = [&](double term) { return term == kNone ? 0.0 : std::exp(term - max); };
  HeadMass mass{std::vector<double>(static_cast<std::size_t>(*item.n_samples), 0.0), relative(item.lse[g])};
  for (int64_t r = 0; r < rows; ++r) {
    mass.sample[static_cast<std::size_t>(r / desc.chunk)] += relative(x[static_cast<std::size_t>(r)]);
  }
  for (const double e : mass.sample) mass.total += e;
  return mass;
}

// Candidates that are not picked, the best first.
std::vector<int32_t> further_candidates(const GuardGrowItem& item) {
  std::vector<int32_t> further;
  for (int32_t i = 0; i < *item.n_candidates; ++i) {
    const int32_t c = item.candidates[i];
    if (std::find(item.picked, item.picked + *item.n_picked, c) == item.picked + *item.n_picked) further.push_back(c);
  }
  std::stable_sort(further.begin(), further.end(), [&](int32_t a, int32_t b) {
    const float x = item.scores[a], y = item.scores[b];
    return std::isnan(y) ? !std::isnan(x) : x > y;
  });
  return further;
}

// extra and missed.
void choose_extra(const GuardGrowDesc& desc, const GuardGrowItem& item) {
  *item.n_extra = 0;
  std::fill(item.missed, item.missed + desc.group, 0.0f);
  if (*item.n_samples == 0) return;
  std::vector<HeadMass> heads;
  for (int32_t g = 0; g < desc.group; ++g) heads.push_back(mass_of_head(desc, item, g));
  const std::vector<int32_t> further = further_candidates(item);
  std::vector<bool> taken(static_cast<std::size_t>(*item.n_samples), false);
  for (std::size_t k = 0;; ++k) {
    bool enough = true;
    for (int32_t g = 0; g < desc.group; ++g) {
      const HeadMass& head = heads[static_cast<std::size_t>(g)];
      double missed = 0;
      for (std::size_t i = 0; i < taken.size(); ++i) missed += taken[i] ? 0.0 : head.sample[i];
      if (head.total != 0) missed /= head.total;
      item.missed[g] = static_cast<float>(missed);
      enough = enough && desc.margin * missed <= desc.max_missed;
    }
    if (enough || k == further.size()) break;
    for (std::size_t i = 0; i < taken.size(); ++i) taken[i] = taken[i] || item.chunks[i] == further[k];
    item.extra[(*item.n_extra)++] = further[k];
  }
  std::sort(item.extra, item.extra + *item.n_extra);
}

}  // namespace

void guard_grow_ref(const GuardGrowDesc& desc, std::span<const GuardGrowItem> items, void*) {
  for (const GuardGrowItem& item : items) {
    choose_extra(desc, item);
    *item.n_ids = *item.n_picked + *item.n_extra;
    std::merge(item.picked, item.picked + *item.n_picked, item.extra, item.extra + *item.n_extra, item.ids);
    if (item.totals == nullptr) continue;
    std::vector<float> missed(item.missed, item.missed + desc.group);
    std::replace_if(missed.begin(), missed.end(), [](float m) { return std::isnan(m); }, 1.0f);
    const float most = *std::max_element(missed.begin(), missed.end());
    item.totals[0] += *item.n_samples;
    item.totals[1] += desc.margin * most > desc.max_missed;
    item.totals[2] += most;
  }
}

}  // namespace skv::kernels
