#include "kernels/landmark_score/landmark_score.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "kernels/common/hadamard.h"
#include "kernels/common/parallel.h"
#include "kernels/landmark_score/landmark_score_plan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/landmark_score/landmark_score_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/landmark_score/landmark_keys-inl.h"
#include "kernels/landmark_score/landmark_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {
namespace {

// Log masses of heads [head, head + heads) against rows [first, first + n), -inf where a row is excluded.
void mass_of_heads(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, int32_t first, int32_t n, int head,
                   int heads, float* mass, std::size_t stride) {
  QueryRows q;
  load_queries(desc, item.q + int64_t{head} * desc.format.head_dim, item.weights, heads, &q);
  if (desc.format.kind == DigestKind::keys_2bit) {
    key_mass(desc, item, first, n, &q, heads, mass, stride);
  } else if (desc.format.codec == BlockCodec::int8) {
    row_mass<int8_t>(desc, item, first, n, q, heads, mass, stride);
  } else if (desc.format.dtype == DType::bf16) {
    row_mass<Bf16>(desc, item, first, n, q, heads, mass, stride);
  } else {
    row_mass<float>(desc, item, first, n, q, heads, mass, stride);
  }
  for (int g = 0; g < heads; ++g) {
    float* row = mass + static_cast<std::size_t>(g) * stride;
    for_each_excluded(item, first, n, [&](int32_t j) { row[j] = -std::numeric_limits<float>::infinity(); });
  }
}

ScorePart part_of(const float* mass, int32_t n) {
  const F32 d;
  const float none = -std::numeric_limits<float>::infinity();
  const std::size_t lanes = hn::Lanes(d), rows = static_cast<std::size_t>(n);
  const auto lanes_at = [&](std::size_t j) SKV_INLINE_LAMBDA {
    if (j + lanes <= rows) return hn::LoadU(d, mass + j);
    return hn::IfThenElse(hn::FirstN(d, rows - j), load_n(d, mass + j, rows - j), hn::Set(d, none));
  };
  VF top = hn::Set(d, none);
  for (std::size_t j = 0; j < rows; j += lanes) top = hn::Max(lanes_at(j), top);
  const float max = max_of_lanes(d, top);
  const VF shift = hn::Set(d, max == none ? 0.0f : max);
  VF total = hn::Zero(d);
  for (std::size_t j = 0; j < rows; j += lanes) total = hn::Add(total, exp(d, hn::Sub(lanes_at(j), shift)));
  return {max, sum_of_lanes(d, total)};
}

// scores[j] = fn(j, count), count of them from j on; the larger of that and what is there if join. A NaN stays.
template <class Fn>
HWY_INLINE void reduce_heads(int32_t n, bool join, float* scores, Fn&& fn) {
  const F32 d;
  const std::size_t lanes = hn::Lanes(d), rows = static_cast<std::size_t>(n);
  for (std::size_t j = 0; j < rows; j += lanes) {
    const std::size_t count = std::min(lanes, rows - j);
    VF s = fn(j, count);
    if (join) {
      const VF before = count == lanes ? hn::LoadU(d, scores + j) : load_n(d, scores + j, count);
      s = hn::IfThenElse(hn::Or(hn::IsNaN(before), hn::Gt(before, s)), before, s);
    }
    if (count == lanes) hn::StoreU(s, d, scores + j);
    else store_n(s, d, scores + j, count);
  }
}

// The largest of the heads' exp((m - max) - log_sum). One exp a row, and equal masses give equal scores wherever they
// stand.
void softmax_scores(const float* mass, std::size_t stride, const Normaliser* norm, int heads, int32_t n, bool join,
                    float* scores) {
  const F32 d;
  bool poisoned = false;  // vector max may drop a NaN
  for (int g = 0; g < heads; ++g) poisoned |= std::isnan(norm[g].log_sum);
  if (poisoned) return std::fill(scores, scores + n, std::numeric_limits<float>::quiet_NaN());
  reduce_heads(n, join, scores, [&](std::size_t j, std::size_t count) SKV_INLINE_LAMBDA {
    VF best = hn::Set(d, -std::numeric_limits<float>::infinity());
    for (int g = 0; g < heads; ++g) {
      const float* from = mass + static_cast<std::size_t>(g) * stride + j;
      const VF m = count == hn::Lanes(d) ? hn::LoadU(d, from) : load_n(d, from, count);
      best = hn::Max(best, hn::Sub(hn::Sub(m, hn::Set(d, norm[g].max)), hn::Set(d, norm[g].log_sum)));
    }
    return exp(d, best);
  });
}

// The largest of the heads' m, finite from below: -inf is for the excluded.
void raw_scores(const float* mass, std::size_t stride, int heads, int32_t n, bool join, float* scores) {
  const F32 d;
  reduce_heads(n, join, scores, [&](std::size_t j, std::size_t count) SKV_INLINE_LAMBDA {
    VF best = hn::Set(d, -FLT_MAX);
    for (int g = 0; g < heads; ++g) {
      const float* from = mass + static_cast<std::size_t>(g) * stride + j;
      const VF m = count == hn::Lanes(d) ? hn::LoadU(d, from) : load_n(d, from, count);
      best = hn::IfThenElse(hn::Or(hn::IsNaN(best), hn::Gt(best, m)), best, m);
    }
    return best;
  });
}

void exclude_scores(const LandmarkScoreItem& item, int32_t first, int32_t n) {
  float* scores = item.scores + first;
  for_each_excluded(item, first, n, [&](int32_t j) { scores[j] = -std::numeric_limits<float>::infinity(); });
}

// First pass over a unit of a long item.
void measure_unit(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, const ScoreUnit& unit) {
  const auto stride = static_cast<std::size_t>(unit.mass_stride);
  for (int32_t g = 0; g < desc.group; g += kTileHeads) {
    const int heads = std::min(kTileHeads, desc.group - g);
    mass_of_heads(desc, item, unit.first, unit.n, g, heads, unit.mass + g * unit.mass_stride, stride);
    for (int h = g; h < g + heads; ++h) unit.parts[h] = part_of(unit.mass + h * unit.mass_stride, unit.n);
  }
}

// Second pass, when the item's norm is known.
void finish_unit(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, const ScoreUnit& unit,
                 const Normaliser* norm) {
  for (int32_t g = 0; g < desc.group; g += kTileHeads) {
    softmax_scores(unit.mass + g * unit.mass_stride, static_cast<std::size_t>(unit.mass_stride), norm + g,
                   std::min(kTileHeads, desc.group - g), unit.n, g > 0, item.scores + unit.first);
  }
  exclude_scores(item, unit.first, unit.n);
}

// Rows [first, first + n), n <= kUnitRows, in one go: a whole short item, or any part of one that is not normalised.
void score_at_once(const LandmarkScoreDesc& desc, const LandmarkScoreItem& item, int32_t first, int32_t n) {
  alignas(64) float held[kTileHeads * kUnitRows];
  float* scores = item.scores + first;
  for (int32_t g = 0; g < desc.group; g += kTileHeads) {
    const int heads = std::min(kTileHeads, desc.group - g);
    const bool keep = item.log_mass != nullptr;
    float* mass = keep ? item.log_mass + g * item.log_mass_stride + first : held;
    const std::size_t stride = keep ? static_cast<std::size_t>(item.log_mass_stride) : kUnitRows;
    mass_of_heads(desc, item, first, n, g, heads, mass, stride);
    if (desc.reduce == ScoreReduce::raw_max) {
      raw_scores(mass, stride, heads, n, g > 0, scores);
      continue;
    }
    Normaliser norm[kTileHeads];
    for (int h = 0; h < heads; ++h) {
      const ScorePart part = part_of(mass + static_cast<std::size_t>(h) * stride, n);
      norm[h] = normalise(&part, 1, 0);
    }
    softmax_scores(mass, stride, norm, heads, n, g > 0, scores);
  }
  exclude_scores(item, first, n);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(measure_unit);
HWY_EXPORT(finish_unit);
HWY_EXPORT(score_at_once);

bool landmark_score_supports(const LandmarkScoreDesc& desc) {
  const DigestFormat& format = desc.format;
  if (desc.group <= 0 || format.chunk <= 0 || format.head_dim <= 0) return false;
  if (format.dtype != DType::bf16 && format.dtype != DType::f32) return false;
  const bool raw = format.codec == BlockCodec::raw;
  const int32_t dim = format.head_dim;
  switch (format.kind) {
    case DigestKind::mean:
    case DigestKind::mean_variance: return dim <= kMaxScoreRow && (raw || format.codec == BlockCodec::int8);
    case DigestKind::box: return raw && dim <= kMaxScoreRow / 2;
    case DigestKind::keys_2bit:
      return raw && dim <= kMaxKeyDim && dim % 16 == 0 && hadamard_supports(dim) && format.chunk % 4 == 0 &&
             format.chunk <= kMaxKeyChunk;
  }
  return false;
}

std::size_t landmark_score_workspace_bytes(const LandmarkScoreDesc& desc, int64_t total_chunks) {
  // Only items longer than a unit are cut, and for those ceil(n / unit) <= 2 floor(n / unit).
  return std::max(lay_out_scores(desc, 2 * (total_chunks / kUnitRows), total_chunks, nullptr).bytes,
                  lay_out_device_scores(desc, 2 * (total_chunks / kSplitRows), total_chunks, nullptr).bytes);
}

void landmark_score_cpu(const LandmarkScoreDesc& desc, std::span<const LandmarkScoreItem> items, void* workspace) {
  ScoreUnit* units = nullptr;
  const int64_t n_units = cut_long_items(desc, items, workspace, &units);
  const auto measure = HWY_DYNAMIC_DISPATCH(measure_unit);
  const auto finish = HWY_DYNAMIC_DISPATCH(finish_unit);
  const auto at_once = HWY_DYNAMIC_DISPATCH(score_at_once);
  const bool raw = desc.reduce == ScoreReduce::raw_max;
  parallel_for(n_units + static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    if (i >= n_units) {
      const LandmarkScoreItem& item = items[static_cast<std::size_t>(i - n_units)];
      if (!is_long(item)) at_once(desc, item, 0, item.n);
      return;
    }
    const LandmarkScoreItem& item = items[static_cast<std::size_t>(units[i].item)];
    if (raw) at_once(desc, item, units[i].first, units[i].n);
    else measure(desc, item, units[i]);
  });
  if (raw) return;
  parallel_for(n_units, [&](int64_t i, int) { normalise_item(desc, units[i]); });
  parallel_for(n_units, [&](int64_t i, int) {
    const ScoreUnit& unit = units[i];
    finish(desc, items[static_cast<std::size_t>(unit.item)], unit, units[unit.first_of_item].norm);
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
