#include "kernels/landmark_score/landmark_score.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/parallel.h"
#include "kernels/common/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/landmark_score/landmark_score_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/common/row_tile-inl.h"

#ifndef SKV_LANDMARK_SCORE_PLAN
#define SKV_LANDMARK_SCORE_PLAN
namespace skv::kernels {
namespace {

// Rows a work unit scores. Fixed, so that sums are added in one order whatever the batch. A multiple of 64.
constexpr int32_t kUnitRows = 1024;
constexpr int32_t kMaxHeadDim = 512;

// Softmax over a whole item: s = exp((w - max) - log_sum).
struct Normaliser {
  float max = 0.0f;
  float log_sum = 0.0f;
};

// Rows [first, first + n) of one item. Head g's logits at logits + g * n; max, sum and norm one per head. Only the
// item's first unit has a norm.
struct Unit {
  int32_t item;
  int32_t first;
  int32_t n;
  int32_t first_of_item;  // index of the item's first unit
  int32_t n_of_item;
  float* max;
  float* sum;
  Normaliser* norm;
  float* logits;
};

// Items of at most kUnitRows rows are scored whole on the stack; only longer ones need units and workspace.
bool is_long(const LandmarkScoreItem& item) { return item.n > kUnitRows; }

struct Arrays {
  Unit* units;
  Normaliser* norms;
  float* floats;
};

std::size_t lay_out(int32_t group, int64_t max_units, int64_t rows, void* workspace, Arrays* arrays) {
  WorkspaceCursor cursor(workspace);
  arrays->units = cursor.take<Unit>(max_units);
  arrays->norms = cursor.take<Normaliser>(group * max_units);
  arrays->floats = cursor.take<float>(group * (rows + 2 * max_units));
  return cursor.bytes();
}

int32_t cut_long_items(const LandmarkScoreDesc& desc, std::span<const LandmarkScoreItem> items, void* workspace,
                       Unit** units) {
  int64_t max_units = 0, rows = 0;
  for (const LandmarkScoreItem& item : items) {
    if (!is_long(item)) continue;
    max_units += (item.n + kUnitRows - 1) / kUnitRows;
    rows += item.n;
  }
  Arrays arrays;
  lay_out(desc.group, max_units, rows, workspace, &arrays);
  *units = arrays.units;
  float* floats = arrays.floats;
  int32_t n_units = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!is_long(items[i])) continue;
    const int32_t first_unit = n_units, count = (items[i].n + kUnitRows - 1) / kUnitRows;
    for (int32_t u = 0; u < count; ++u, ++n_units) {
      const int32_t first = u * kUnitRows, n = std::min(kUnitRows, items[i].n - first);
      arrays.units[n_units] = {static_cast<int32_t>(i), first, n, first_unit, count, floats, floats + desc.group,
                               arrays.norms + int64_t{desc.group} * n_units, floats + 2 * desc.group};
      floats += int64_t{desc.group} * (n + 2);
    }
  }
  return n_units;
}

// fn(j) for every excluded row in [first, first + n); first is a multiple of 64.
template <class Fn>
void for_each_excluded(const LandmarkScoreItem& item, int32_t first, int32_t n, Fn&& fn) {
  if (item.excluded == nullptr) return;
  for (int32_t base = 0; base < n; base += 64) {
    uint64_t bits = item.excluded[(first + base) / 64];
    if (n - base < 64) bits &= (uint64_t{1} << (n - base)) - 1;
    for (; bits != 0; bits &= bits - 1) fn(base + std::countr_zero(bits));
  }
}

// From the parts of an item's units, unit_stride floats apart.
Normaliser normalise(const float* max, const float* sum, int32_t units, std::size_t unit_stride) {
  float whole = -std::numeric_limits<float>::infinity();
  for (int32_t u = 0; u < units; ++u) whole = std::fmax(whole, max[static_cast<std::size_t>(u) * unit_stride]);
  if (std::isinf(whole) && whole < 0) whole = 0.0f;  // all -inf: every weight is zero, not NaN
  double total = 0;
  for (int32_t u = 0; u < units; ++u) {
    const std::size_t at = static_cast<std::size_t>(u) * unit_stride;
    const double shift = std::isinf(max[at]) ? 0.0 : std::exp(static_cast<double>(max[at]) - whole);
    total += sum[at] * shift;
  }
  return {whole, total == 0 ? 0.0f : static_cast<float>(std::log(total))};
}

// Does the work for the item when given its first unit. Units of an item lie one after another, all but the last of
// full length.
void normalise_item(const LandmarkScoreDesc& desc, const Unit& unit) {
  if (unit.first != 0) return;
  const auto unit_stride = static_cast<std::size_t>(desc.group) * (kUnitRows + 2);
  for (int32_t g = 0; g < desc.group; ++g) {
    unit.norm[g] = normalise(unit.max + g, unit.sum + g, unit.n_of_item, unit_stride);
  }
}

}  // namespace
}  // namespace skv::kernels
#endif  // SKV_LANDMARK_SCORE_PLAN

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

// Landmark rows from first on, across pages.
template <class T>
class LandmarkCursor {
 public:
  LandmarkCursor(const PagedRows& rows, int32_t first, int32_t n)
      : rows_(rows), page_(first / rows.rows_per_page), row_(first % rows.rows_per_page), left_(n) {}

  int fill(const T** out) {
    int n = 0;
    for (; left_ > 0 && n < kTileRows; ++n, --left_, ++row_) {
      if (row_ == rows_.rows_per_page) row_ = 0, ++page_;
      const int64_t at = rows_.offset_bytes + int64_t{row_} * rows_.row_bytes;
      out[n] = static_cast<const T*>(offset_bytes(rows_.pages[page_], at));
    }
    return n;
  }

 private:
  const PagedRows& rows_;
  int32_t page_, row_, left_;
};

template <class T>
void unit_logits(const LandmarkScoreItem& item, int32_t first, int32_t n, const float* q, std::size_t q_stride,
                 int heads, std::size_t dim, float* logits, std::size_t stride) {
  LandmarkCursor<T> cursor(item.landmarks, first, n);
  const T* rows[2][kTileRows];
  int count = cursor.fill(rows[0]), turn = 0;
  for (int32_t done = 0; count > 0; turn ^= 1) {
    const int next = cursor.fill(rows[turn ^ 1]);
    alignas(64) float w[kTileHeads * kTileRows];
    tile_logits(rows[turn], count, q, q_stride, heads, dim, w, Ahead<T>{rows[turn ^ 1], next});
    for (int g = 0; g < heads; ++g) {
      std::memcpy(logits + static_cast<std::size_t>(g) * stride + done, w + g * kTileRows,
                  static_cast<std::size_t>(count) * sizeof(float));
    }
    done += count;
    count = next;
  }
}

// Excluded rows get logit -inf; max and the sum of exp(w - max) over the others.
void unit_sums(const LandmarkScoreItem& item, int32_t first, int32_t n, float* logits, float* max, float* sum) {
  const F32 d;
  const float none = -std::numeric_limits<float>::infinity();
  const std::size_t lanes = hn::Lanes(d), rows = static_cast<std::size_t>(n);
  for_each_excluded(item, first, n, [&](int32_t j) { logits[j] = none; });
  const auto lanes_at = [&](std::size_t j) SKV_INLINE_LAMBDA {
    if (j + lanes <= rows) return hn::LoadU(d, logits + j);
    return hn::IfThenElse(hn::FirstN(d, rows - j), load_n(d, logits + j, rows - j), hn::Set(d, none));
  };
  VF top = hn::Set(d, none);
  for (std::size_t j = 0; j < rows; j += lanes) top = hn::Max(lanes_at(j), top);
  *max = max_of_lanes(d, top);
  const VF shift = hn::Set(d, *max == none ? 0.0f : *max);
  VF total = hn::Zero(d);
  for (std::size_t j = 0; j < rows; j += lanes) total = hn::Add(total, exp(d, hn::Sub(lanes_at(j), shift)));
  *sum = sum_of_lanes(d, total);
}

// scores[j] = max over heads of exp((w - max) - log_sum), joined to what is there when join is set. One exp a row,
// and equal logits give equal scores wherever they stand.
void unit_scores(const float* logits, std::size_t stride, const Normaliser* norm, int heads, int32_t n, bool join,
                 float* scores) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d), rows = static_cast<std::size_t>(n);
  bool poisoned = false;  // vector max may drop a NaN
  for (int g = 0; g < heads; ++g) poisoned |= std::isnan(norm[g].log_sum);
  if (poisoned) return std::fill(scores, scores + n, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t j = 0; j < rows; j += lanes) {
    const std::size_t count = std::min(lanes, rows - j);
    const auto take = [&](const float* p) SKV_INLINE_LAMBDA {
      return count == lanes ? hn::LoadU(d, p) : load_n(d, p, count);
    };
    VF best = hn::Set(d, -std::numeric_limits<float>::infinity());
    for (int g = 0; g < heads; ++g) {
      const VF w = take(logits + static_cast<std::size_t>(g) * stride + j);
      best = hn::Max(best, hn::Sub(hn::Sub(w, hn::Set(d, norm[g].max)), hn::Set(d, norm[g].log_sum)));
    }
    VF s = exp(d, best);
    if (join) {
      const VF before = take(scores + j);
      s = hn::IfThenElse(hn::Or(hn::IsNaN(before), hn::Gt(before, s)), before, s);
    }
    if (count == lanes) hn::StoreU(s, d, scores + j);
    else store_n(s, d, scores + j, count);
  }
}

void logits_of(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, int32_t first, int32_t n, int head,
               int heads, float* logits, std::size_t stride) {
  constexpr std::size_t kPad = 16;
  alignas(64) float q[kTileHeads * (kMaxHeadDim + kPad)];
  const std::size_t q_stride = round_up(static_cast<std::size_t>(desc.head_dim), kPad);
  for (int g = 0; g < heads; ++g) {
    float* to = q + static_cast<std::size_t>(g) * q_stride;
    const float* from = item.q + int64_t{head + g} * desc.head_dim;
    for (int32_t i = 0; i < desc.head_dim; ++i) to[i] = from[i] * desc.scale;
    std::fill(to + desc.head_dim, to + q_stride, 0.0f);
  }
  const auto dim = static_cast<std::size_t>(desc.head_dim);
  if (desc.dtype == DType::bf16) unit_logits<Bf16>(item, first, n, q, q_stride, heads, dim, logits, stride);
  else unit_logits<float>(item, first, n, q, q_stride, heads, dim, logits, stride);
}

void score_unit(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, const Unit& unit) {
  for (int32_t g = 0; g < desc.group; g += kTileHeads) {
    const int heads = std::min(kTileHeads, desc.group - g);
    const auto stride = static_cast<std::size_t>(unit.n);
    float* logits = unit.logits + static_cast<std::size_t>(g) * stride;
    logits_of(desc, item, unit.first, unit.n, g, heads, logits, stride);
    for (int h = 0; h < heads; ++h) {
      unit_sums(item, unit.first, unit.n, logits + static_cast<std::size_t>(h) * stride, unit.max + g + h,
                unit.sum + g + h);
    }
  }
}

void finish_unit(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, const Unit& unit,
                 const Normaliser* norm) {
  float* scores = item.scores + unit.first;
  for (int32_t g = 0; g < desc.group; g += kTileHeads) {
    const int heads = std::min(kTileHeads, desc.group - g);
    const auto stride = static_cast<std::size_t>(unit.n);
    unit_scores(unit.logits + int64_t{g} * unit.n, stride, norm + g, heads, unit.n, g > 0, scores);
  }
  for_each_excluded(item, unit.first, unit.n, [&](int32_t j) { scores[j] = -1.0f; });
}

void score_short_item(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item) {
  alignas(64) float logits[kTileHeads * kUnitRows];
  for (int32_t g = 0; g < desc.group; g += kTileHeads) {
    const int heads = std::min(kTileHeads, desc.group - g);
    logits_of(desc, item, 0, item.n, g, heads, logits, kUnitRows);
    Normaliser norm[kTileHeads];
    for (int h = 0; h < heads; ++h) {
      float max, sum;
      unit_sums(item, 0, item.n, logits + h * kUnitRows, &max, &sum);
      norm[h] = normalise(&max, &sum, 1, 0);
    }
    unit_scores(logits, kUnitRows, norm, heads, item.n, g > 0, item.scores);
  }
  for_each_excluded(item, 0, item.n, [&](int32_t j) { item.scores[j] = -1.0f; });
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(score_unit);
HWY_EXPORT(finish_unit);
HWY_EXPORT(score_short_item);

bool landmark_score_supports(const LandmarkScoreDesc& desc) {
  return (desc.dtype == DType::bf16 || desc.dtype == DType::f32) && desc.head_dim > 0 &&
         desc.head_dim <= kMaxHeadDim && desc.group > 0;
}

std::size_t landmark_score_workspace_bytes(const LandmarkScoreDesc& desc, int64_t total_chunks) {
  Arrays arrays;
  // Only items longer than a unit are cut, and for those ceil(n / unit) <= 2 floor(n / unit).
  return lay_out(desc.group, 2 * (total_chunks / kUnitRows), total_chunks, nullptr, &arrays);
}

void landmark_score_cpu(const LandmarkScoreDesc& desc, std::span<const LandmarkScoreItem> items, void* workspace) {
  Unit* units = nullptr;
  const int64_t n_units = cut_long_items(desc, items, workspace, &units);
  const auto score = HWY_DYNAMIC_DISPATCH(score_unit);
  const auto finish = HWY_DYNAMIC_DISPATCH(finish_unit);
  const auto score_whole = HWY_DYNAMIC_DISPATCH(score_short_item);
  parallel_for(n_units + static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    if (i < n_units) return score(desc, items[static_cast<std::size_t>(units[i].item)], units[i]);
    const LandmarkScoreItem& item = items[static_cast<std::size_t>(i - n_units)];
    if (!is_long(item)) score_whole(desc, item);
  });
  parallel_for(n_units, [&](int64_t i, int) { normalise_item(desc, units[i]); });
  parallel_for(n_units, [&](int64_t i, int) {
    const Unit& unit = units[i];
    finish(desc, items[static_cast<std::size_t>(unit.item)], unit, units[unit.first_of_item].norm);
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
