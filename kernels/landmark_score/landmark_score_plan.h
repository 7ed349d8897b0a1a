// How landmark_score_cpu cuts its items into units of work, and what it and landmark_score_cuda keep between their
// passes: the parts that no SIMD target changes.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include "kernels/common/workspace.h"
#include "kernels/landmark_score/landmark_score.h"

namespace skv::kernels {

// Rows a work unit scores. Fixed, so that sums are added in one order whatever the batch. A multiple of 64.
inline constexpr int32_t kUnitRows = 1024;

inline constexpr int32_t kMaxScoreRow = 512;  // elements of a digest row that is not 2-bit
inline constexpr int32_t kMaxKeyDim = 256;    // head_dim of 2-bit keys
inline constexpr int32_t kMaxKeyChunk = 32;

// What one unit and head contribute to a softmax: the largest log mass m and the sum of exp(m - max).
struct ScorePart {
  float max = 0.0f;
  float sum = 0.0f;
};

// Softmax over a whole item: s = exp((m - max) - log_sum).
struct Normaliser {
  float max = 0.0f;
  float log_sum = 0.0f;
};

// Rows [first, first + n) of one item. Head g's log masses at mass + g * mass_stride. parts and norm: one a head; the
// norm of an item is that of its first unit. A raw_max needs none of these.
struct ScoreUnit {
  int32_t item = 0;
  int32_t first = 0;
  int32_t n = 0;
  int32_t first_of_item = 0;  // index of the item's first unit
  int32_t n_of_item = 0;
  ScorePart* parts = nullptr;
  Normaliser* norm = nullptr;
  float* mass = nullptr;
  int64_t mass_stride = 0;
};

struct ScorePlan {
  ScoreUnit* units = nullptr;
  ScorePart* parts = nullptr;
  Normaliser* norms = nullptr;
  float* mass = nullptr;
  std::size_t bytes = 0;
};

// Items of at most kUnitRows rows are scored whole on the stack; only longer ones need units and workspace.
inline bool is_long(const LandmarkScoreItem& item) { return item.n > kUnitRows; }

inline ScorePlan lay_out_scores(const LandmarkScoreDesc& desc, int64_t max_units, int64_t rows, void* workspace) {
  ScorePlan plan;
  const int64_t heads = desc.reduce == ScoreReduce::raw_max ? 0 : desc.group;
  WorkspaceCursor cursor(workspace);
  plan.units = cursor.take<ScoreUnit>(max_units);
  plan.parts = cursor.take<ScorePart>(heads * max_units);
  plan.norms = cursor.take<Normaliser>(heads * max_units);
  plan.mass = cursor.take<float>(heads * rows);
  plan.bytes = cursor.bytes();
  return plan;
}

// Rows that a block of a GPU scores. Fixed, as kUnitRows.
inline constexpr int32_t kSplitRows = 256;

struct DeviceScorePlan {
  ScorePart* parts = nullptr;
  float* mass = nullptr;
  std::size_t bytes = 0;
};

// splits: of the items longer than one, in all.
inline DeviceScorePlan lay_out_device_scores(const LandmarkScoreDesc& desc, int64_t splits, int64_t rows,
                                             void* workspace) {
  DeviceScorePlan plan;
  const int64_t heads = desc.reduce == ScoreReduce::raw_max ? 0 : desc.group;
  WorkspaceCursor cursor(workspace);
  plan.parts = cursor.take<ScorePart>(heads * splits);
  plan.mass = cursor.take<float>(heads * rows);
  plan.bytes = cursor.bytes();
  return plan;
}

// Log masses that the caller wants are kept where he wants them, others in the workspace.
inline int64_t cut_long_items(const LandmarkScoreDesc& desc, std::span<const LandmarkScoreItem> items,
                              void* workspace, ScoreUnit** units) {
  int64_t max_units = 0, rows = 0;
  for (const LandmarkScoreItem& item : items) {
    if (!is_long(item)) continue;
    max_units += (item.n + kUnitRows - 1) / kUnitRows;
    rows += item.n;
  }
  ScorePlan plan = lay_out_scores(desc, max_units, rows, workspace);
  const bool raw = desc.reduce == ScoreReduce::raw_max;
  int32_t n_units = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const LandmarkScoreItem& item = items[i];
    if (!is_long(item)) continue;
    const int32_t first_unit = n_units, count = (item.n + kUnitRows - 1) / kUnitRows;
    for (int32_t u = 0; u < count; ++u, ++n_units) {
      ScoreUnit& unit = plan.units[n_units] = {};
      unit.item = static_cast<int32_t>(i);
      unit.first = u * kUnitRows;
      unit.n = std::min(kUnitRows, item.n - unit.first);
      unit.first_of_item = first_unit;
      unit.n_of_item = count;
      if (raw) continue;
      unit.parts = plan.parts + int64_t{n_units} * desc.group;
      unit.norm = plan.norms + int64_t{n_units} * desc.group;
      unit.mass = item.log_mass != nullptr ? item.log_mass + unit.first : plan.mass;
      unit.mass_stride = item.log_mass != nullptr ? item.log_mass_stride : unit.n;
      plan.mass += int64_t{unit.n} * desc.group;
    }
  }
  *units = plan.units;
  return n_units;
}

// fn(j) for every excluded row in [first, first + n), counted from first; first is a multiple of 64.
template <class Fn>
void for_each_excluded(const LandmarkScoreItem& item, int32_t first, int32_t n, Fn&& fn) {
  if (item.excluded == nullptr) return;
  for (int32_t base = 0; base < n; base += 64) {
    uint64_t bits = item.excluded[(first + base) / 64];
    if (n - base < 64) bits &= (uint64_t{1} << (n - base)) - 1;
    for (; bits != 0; bits &= bits - 1) fn(base + std::countr_zero(bits));
  }
}

// Of one head, from an item's units, whose parts lie `stride` apart.
inline Normaliser normalise(const ScorePart* parts, int32_t units, int64_t stride) {
  float whole = -std::numeric_limits<float>::infinity();
  for (int32_t u = 0; u < units; ++u) whole = std::fmax(whole, parts[u * stride].max);
  if (std::isinf(whole) && whole < 0) whole = 0.0f;  // all -inf: every weight is zero, not NaN
  double total = 0;
  for (int32_t u = 0; u < units; ++u) {
    const ScorePart& part = parts[u * stride];
    total += part.sum * (std::isinf(part.max) ? 0.0 : std::exp(static_cast<double>(part.max) - whole));
  }
  return {whole, total == 0 ? 0.0f : static_cast<float>(std::log(total))};
}

// Does the work for the item when given its first unit: units of an item lie one after another.
inline void normalise_item(const LandmarkScoreDesc& desc, const ScoreUnit& unit) {
  if (unit.first != 0) return;
  for (int32_t g = 0; g < desc.group; ++g) unit.norm[g] = normalise(unit.parts + g, unit.n_of_item, desc.group);
}

}  // namespace skv::kernels
