#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/guard_sample/guard_sample.h"

namespace skv::kernels {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

std::vector<int32_t> chunks_outside(const GuardSampleItem& item) {
  std::vector<int32_t> open;
  for (int32_t j = 0; j < item.n; ++j) {
    const bool chosen = std::find(item.ids, item.ids + *item.n_ids, j) != item.ids + *item.n_ids;
    if (!chosen && item.log_mass[j] != kNone) open.push_back(j);
  }
  return open;
}

// p of open[i] += share * softmax of row over open.
void add_softmax(const float* row, const std::vector<int32_t>& open, double share, std::vector<double>* p) {
  const auto mass = [&](int32_t j) {
    const double m = row[j];
    return m < std::numeric_limits<double>::infinity() ? m : kNone;
  };
  double max = kNone, sum = 0;
  for (const int32_t j : open) max = std::max(max, mass(j));
  if (max == kNone) return;
  for (const int32_t j : open) sum += std::exp(mass(j) - max);
  for (std::size_t i = 0; i < open.size(); ++i) (*p)[i] += share * std::exp(mass(open[i]) - max) / sum;
}

void emit(const GuardSampleItem& item, int32_t chunk, double weight) {
  item.chunks[*item.n_chunks] = chunk;
  item.log_weight[(*item.n_chunks)++] = static_cast<float>(std::log(weight));
}

void sample_item(const GuardSampleItem& item) {
  *item.n_chunks = 0;
  const std::vector<int32_t> open = chunks_outside(item);
  if (static_cast<int64_t>(open.size()) <= item.n_samples) {
    for (const int32_t j : open) emit(item, j, 1.0);
    return;
  }
  std::vector<double> p(open.size(), 0.1 / static_cast<double>(open.size()));
  for (int32_t g = 0; g < item.group; ++g) {
    add_softmax(item.log_mass + g * item.log_mass_stride, open, 0.9 / item.group, &p);
  }
  double total = 0, end = 0;
  for (const double length : p) total += length;
  int32_t point = 0;
  for (std::size_t i = 0; i < open.size(); ++i) {
    end += p[i];
    int32_t count = 0;
    const bool last = i + 1 == open.size();
    const auto at = [&] { return (point + double{item.u}) / item.n_samples * total; };
    for (; point < item.n_samples && (last || at() < end); ++point) ++count;
    if (count > 0) emit(item, open[i], count * total / (item.n_samples * p[i]));
  }
}

}  // namespace

void guard_sample_ref(std::span<const GuardSampleItem> items, void*) {
  for (const GuardSampleItem& item : items) sample_item(item);
}

}  // namespace skv::kernels
