#include "kernels/guard_grow/guard_grow.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/parallel.h"
#include "kernels/common/workspace.h"
#include "kernels/guard_grow/guard_grow_plan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/guard_grow/guard_grow_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/common/row_tile-inl.h"

#ifndef SKV_KERNELS_GUARD_GROW_SCRATCH
#define SKV_KERNELS_GUARD_GROW_SCRATCH
namespace skv::kernels {

// One item's. A tile is 64 keys, always of whole chunks; its terms are kept relative to its largest.
inline constexpr int32_t kGrowTile = 64;

struct GuardGrowScratch {
  float* q = nullptr;        // [G, q_stride], times scale, zeros after head_dim
  float* top = nullptr;      // [G, tiles]
  double* mass = nullptr;    // [G, max_samples], e
  double* total = nullptr;   // [G]
  double* missed = nullptr;  // [G], sums of e
  double* longer = nullptr;  // [G], missed with one chunk fewer taken
  int32_t* order = nullptr;  // [max_samples]
  int64_t q_stride = 0, tiles = 0, max_samples = 0;
  std::size_t bytes = 0;
};

inline GuardGrowScratch lay_out_grow(const GuardGrowDesc& desc, int32_t max_samples, void* workspace) {
  GuardGrowScratch s;
  s.q_stride = (int64_t{desc.head_dim} + 15) / 16 * 16;
  s.tiles = (int64_t{max_samples} * desc.chunk + kGrowTile - 1) / kGrowTile;
  s.max_samples = max_samples;
  WorkspaceCursor cursor(workspace);
  s.q = cursor.take<float>(desc.group * s.q_stride);
  s.top = cursor.take<float>(desc.group * s.tiles);
  s.mass = cursor.take<double>(desc.group * s.max_samples);
  s.total = cursor.take<double>(desc.group);
  s.missed = cursor.take<double>(desc.group);
  s.longer = cursor.take<double>(desc.group);
  s.order = cursor.take<int32_t>(s.max_samples);
  s.bytes = cursor.bytes();
  return s;
}

}  // namespace skv::kernels
#endif  // SKV_KERNELS_GUARD_GROW_SCRATCH

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

static_assert(kTileRows == kGrowTile);
constexpr float kNone = -std::numeric_limits<float>::infinity();

// mass[i] = sum over chunk i of exp(w + log_weight - top) of a tile's n logits w of one head; returns top. Of both,
// what lies past n up to a whole vector may be anything.
HWY_INLINE float sum_chunks(float* w, const float* log_weight, int32_t n, int32_t chunk, double* mass) {
  const F32 d;
  const auto lanes = static_cast<int32_t>(hn::Lanes(d));
  for (int32_t r = n; r % lanes != 0; ++r) w[r] = kNone;
  VF largest = hn::Set(d, kNone);
  for (int32_t r = 0; r < n; r += lanes) {
    const VF x = hn::Add(hn::LoadU(d, w + r), hn::LoadU(d, log_weight + r));
    hn::StoreU(x, d, w + r);
    largest = hn::Max(x, largest);  // of a NaN and a number the second
  }
  const float top = max_of_lanes(d, largest);
  const VF shift = hn::Set(d, top == kNone ? 0.0f : top);
  for (int32_t r = 0; r < n; r += lanes) hn::StoreU(exp(d, hn::Sub(hn::LoadU(d, w + r), shift)), d, w + r);
  for (int32_t r = 0; r < n; r += chunk) {
    double sum = 0;
    for (int32_t t = r; t < r + chunk; ++t) sum += w[t];
    mass[r / chunk] = sum;
  }
  return top;
}

template <class T>
void sum_tiles(const GuardGrowDesc& desc, const GuardGrowItem& item, const T* keys, const GuardGrowScratch& s) {
  const auto dim = static_cast<std::size_t>(desc.head_dim), q_stride = static_cast<std::size_t>(s.q_stride);
  const int32_t per_tile = kGrowTile / desc.chunk;
  alignas(64) float w[kTileHeads * kTileRows], log_weight[kTileRows] = {};
  const T *rows[kTileRows], *next[kTileRows];
  for (int32_t first = 0, tile = 0; first < *item.n_samples; first += per_tile, ++tile) {
    const int32_t n = std::min(per_tile, *item.n_samples - first) * desc.chunk;
    for (int32_t r = 0; r < n; ++r, keys += dim) {
      rows[r] = keys;
      log_weight[r] = item.log_weight[first + r / desc.chunk];
    }
    Ahead<T> ahead{next, std::clamp(*item.n_samples - first - per_tile, 0, per_tile) * desc.chunk};
    for (int32_t r = 0; r < ahead.n; ++r) next[r] = keys + static_cast<std::size_t>(r) * dim;
    for (int32_t g = 0; g < desc.group; g += kTileHeads) {
      const int32_t heads = std::min(kTileHeads, desc.group - g);
      tile_logits(rows, n, s.q + g * s.q_stride, q_stride, heads, dim, w, ahead);
      ahead.n = 0;
      for (int32_t h = 0; h < heads; ++h) {
        double* mass = s.mass + (g + h) * s.max_samples + first;
        s.top[(g + h) * s.tiles + tile] = sum_chunks(w + h * kTileRows, log_weight, n, desc.chunk, mass);
      }
    }
  }
}

// s.mass and s.top of all samples.
void sum_samples(const GuardGrowDesc& desc, const GuardGrowItem& item, const GuardGrowScratch& s) {
  if (desc.dtype == DType::f32) sum_tiles(desc, item, static_cast<const float*>(item.keys), s);
  else sum_tiles(desc, item, static_cast<const Bf16*>(item.keys), s);
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
namespace {

HWY_EXPORT(sum_samples);
constexpr double kNothing = -std::numeric_limits<double>::infinity();

void scale_queries(const GuardGrowDesc& desc, const GuardGrowItem& item, const GuardGrowScratch& s) {
  for (int32_t g = 0; g < desc.group; ++g) {
    const float* from = item.q + int64_t{g} * desc.head_dim;
    float* to = s.q + g * s.q_stride;
    std::fill(to + desc.head_dim, to + s.q_stride, 0.0f);
    for (int32_t d = 0; d < desc.head_dim; ++d) to[d] = from[d] * desc.scale;
  }
}

// Brings the tiles of a head to one scale, that of its largest term, and adds all up.
void finish_head(const GuardGrowDesc& desc, const GuardGrowItem& item, const GuardGrowScratch& s, int32_t g) {
  const int32_t n = *item.n_samples, per_tile = kGrowTile / desc.chunk;
  const float* top = s.top + g * s.tiles;
  double* mass = s.mass + g * s.max_samples;
  const double lse = item.lse[g];
  double max = lse;
  for (int32_t t = 0; t * per_tile < n; ++t) max = std::fmax(max, top[t]);
  s.total[g] = lse == kNothing ? 0.0 : std::exp(lse - max);
  for (int32_t first = 0; first < n; first += per_tile) {
    const double tile_top = top[first / per_tile];
    const double factor = tile_top == kNothing ? 1.0 : std::exp(tile_top - max);  // of -inf all sums are 0 or NaN
    for (int32_t i = first; i < std::min(first + per_tile, n); ++i) s.total[g] += mass[i] *= factor;
  }
}

// The order in which candidates are taken.
struct Better {
  const float* scores;
  bool operator()(int32_t a, int32_t b) const {
    const float x = scores[a], y = scores[b];
    if (x > y || (std::isnan(y) && !std::isnan(x))) return true;
    return a < b && (x == y || (std::isnan(x) && std::isnan(y)));
  }
};

// s.order = the samples that growing can reach, in the order it reaches them; s.missed = the sums over the others.
int32_t order_samples(const GuardGrowDesc& desc, const GuardGrowItem& item, const GuardGrowScratch& s) {
  int32_t n = 0;
  std::fill(s.missed, s.missed + desc.group, 0.0);
  for (int32_t i = 0; i < *item.n_samples; ++i) {
    const int32_t c = item.chunks[i];
    if (std::binary_search(item.candidates, item.candidates + *item.n_candidates, c) &&
        !std::binary_search(item.picked, item.picked + *item.n_picked, c)) {
      s.order[n++] = i;
    } else {
      for (int32_t g = 0; g < desc.group; ++g) s.missed[g] += s.mass[g * s.max_samples + i];
    }
  }
  const Better better{item.scores};
  std::sort(s.order, s.order + n, [&](int32_t a, int32_t b) { return better(item.chunks[a], item.chunks[b]); });
  return n;
}

double share(double part, double whole) { return whole == 0 ? 0.0 : part / whole; }

bool within_bound(const GuardGrowDesc& desc, const double* missed, const double* total) {
  for (int32_t g = 0; g < desc.group; ++g) {
    if (!(desc.margin * share(missed[g], total[g]) <= desc.max_missed)) return false;  // NaN is not
  }
  return true;
}

// The sample whose chunk is the last that must be taken; -1: none need be; *n_samples: all candidates, and it is not
// enough. missed changes at samples only, and falls with each, so going back from all of them finds the smallest k.
int32_t last_needed(const GuardGrowDesc& desc, const GuardGrowItem& item, const GuardGrowScratch& s) {
  int32_t n = order_samples(desc, item, s);
  if (!within_bound(desc, s.missed, s.total)) return *item.n_samples;
  for (; n > 0; --n) {
    for (int32_t g = 0; g < desc.group; ++g) s.longer[g] = s.missed[g] + s.mass[g * s.max_samples + s.order[n - 1]];
    if (!within_bound(desc, s.longer, s.total)) return s.order[n - 1];
    std::copy(s.longer, s.longer + desc.group, s.missed);
  }
  return -1;
}

// Candidates that are not picked, all or those not after `last`, into extra.
void take_extra(const GuardGrowItem& item, bool all, int32_t last) {
  const Better better{item.scores};
  int32_t n = 0, old = 0;
  for (int32_t i = 0; i < *item.n_candidates; ++i) {  // without branches, which nobody could foresee
    const int32_t c = item.candidates[i];
    const bool chosen = old < *item.n_picked && item.picked[old] == c;
    item.extra[n] = c;
    n += !chosen & (all || !better(last, c));
    old += chosen;
  }
  *item.n_extra = n;
}

// extra and missed.
void choose_extra(const GuardGrowDesc& desc, const GuardGrowItem& item, const GuardGrowScratch& s) {
  *item.n_extra = 0;
  std::fill(item.missed, item.missed + desc.group, 0.0f);
  if (*item.n_samples <= 0) return;
  scale_queries(desc, item, s);
  HWY_DYNAMIC_DISPATCH(sum_samples)(desc, item, s);
  for (int32_t g = 0; g < desc.group; ++g) finish_head(desc, item, s, g);
  const int32_t last = last_needed(desc, item, s);
  for (int32_t g = 0; g < desc.group; ++g) item.missed[g] = static_cast<float>(share(s.missed[g], s.total[g]));
  if (last < 0) return;
  const bool all = last == *item.n_samples;
  take_extra(item, all, all ? -1 : item.chunks[last]);
}

void grow_item(const GuardGrowDesc& desc, const GuardGrowItem& item, const GuardGrowScratch& s) {
  choose_extra(desc, item, s);
  *item.n_ids = *item.n_picked + *item.n_extra;
  std::merge(item.picked, item.picked + *item.n_picked, item.extra, item.extra + *item.n_extra, item.ids);
  add_totals(desc, item);
}

}  // namespace

bool guard_grow_supports(const GuardGrowDesc& desc) {
  return (desc.dtype == DType::bf16 || desc.dtype == DType::f32) && desc.head_dim > 0 && desc.group > 0 &&
         desc.chunk >= 4 && desc.chunk <= kGrowTile && kGrowTile % desc.chunk == 0;
}

std::size_t guard_grow_workspace_bytes(const GuardGrowDesc& desc, int32_t n_samples, int32_t) {
  return std::max(lay_out_grow(desc, n_samples, nullptr).bytes * static_cast<std::size_t>(max_workers()),
                  lay_out_grow_space(desc, n_samples, nullptr).bytes * std::size_t{kGrowBlocks});
}

void guard_grow_cpu(const GuardGrowDesc& desc, std::span<const GuardGrowItem> items, void* workspace) {
  int32_t most = 0;
  for (const GuardGrowItem& item : items) most = std::max(most, item.max_samples);
  const auto stride = static_cast<int64_t>(lay_out_grow(desc, most, nullptr).bytes);
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int worker) {
    const GuardGrowScratch s = lay_out_grow(desc, most, offset_bytes(workspace, worker * stride));
    grow_item(desc, items[static_cast<std::size_t>(i)], s);
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
