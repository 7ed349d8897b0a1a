#include "kernels/guard_sample/guard_sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/parallel.h"
#include "kernels/common/workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/guard_sample/guard_sample_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/common/simd-inl.h"

#ifndef SKV_KERNELS_GUARD_SAMPLE_ROWS
#define SKV_KERNELS_GUARD_SAMPLE_ROWS
namespace skv::kernels {

// Both are multiples of every vector's lanes.
inline constexpr int32_t kSampleBlock = 32;     // chunks passed over at once where no point falls on them
inline constexpr int32_t kSampleSumBlock = 256;  // f32 terms added before their sum becomes a double

struct GuardSampleRows {
  float* length = nullptr;  // p of every chunk before division by the sum; below 0: not to be drawn
  float* weight = nullptr;  // exp of one head's log masses, less their largest
  double* block = nullptr;  // sums of lengths
  std::size_t bytes = 0;
};

inline GuardSampleRows lay_out_sample_rows(int32_t n, void* workspace) {
  const int64_t blocks = (int64_t{n} + kSampleBlock - 1) / kSampleBlock;
  WorkspaceCursor cursor(workspace);
  GuardSampleRows rows;
  rows.length = cursor.take<float>(blocks * kSampleBlock);
  rows.weight = cursor.take<float>(blocks * kSampleBlock);
  rows.block = cursor.take<double>(blocks);
  rows.bytes = cursor.bytes();
  return rows;
}

}  // namespace skv::kernels
#endif  // SKV_KERNELS_GUARD_SAMPLE_ROWS

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// fn(first index) for every vector that begins in [begin, end).
template <class Fn>
HWY_INLINE void for_each_vector(int32_t begin, int32_t end, Fn&& fn) {
  const auto lanes = static_cast<int32_t>(hn::Lanes(F32()));
  for (int32_t j = begin; j < end; j += lanes) fn(j);
}

// Elements of a row of n from j on, -inf past its end.
HWY_INLINE VF load_row(const float* row, int32_t j, int32_t n) {
  const F32 d;
  if (j + static_cast<int32_t>(hn::Lanes(d)) <= n) return hn::LoadU(d, row + j);
  const auto left = static_cast<std::size_t>(n - j);
  return hn::IfThenElse(hn::FirstN(d, left), load_n(d, row + j, left), hn::Set(d, -kInfinity));
}

// length = 0 where a chunk may be drawn, -1 elsewhere; how many may be.
int32_t mark_open(const GuardSampleItem& item, float* length) {
  const F32 d;
  std::size_t open = 0;
  for_each_vector(0, item.n, [&](int32_t j) SKV_INLINE_LAMBDA {
    const auto excluded = hn::Eq(load_row(item.log_mass, j, item.n), hn::Set(d, -kInfinity));
    open += hn::CountTrue(d, hn::Not(excluded));
    hn::StoreU(hn::IfThenElseZero(excluded, hn::Set(d, -1.0f)), d, length + j);
  });
  for (int32_t i = 0; i < *item.n_ids; ++i) {
    const int32_t j = item.ids[i];
    if (j < 0 || j >= item.n || length[j] < 0.0f) continue;
    length[j] = -1.0f;
    --open;
  }
  return static_cast<int32_t>(open);
}

// Log masses where they count, -inf where not: chosen, excluded, NaN or +inf.
HWY_INLINE VF counted(VF mass, VF length) {
  const F32 d;
  const auto counts = hn::And(hn::Ge(length, hn::Zero(d)), hn::Lt(mass, hn::Inf(d)));
  return hn::IfThenElse(counts, mass, hn::Set(d, -kInfinity));
}

// length += share * softmax of the row.
void add_softmax(const float* row, int32_t n, float share, const GuardSampleRows& rows) {
  const F32 d;
  VF largest = hn::Set(d, -kInfinity);
  for_each_vector(0, n, [&](int32_t j) SKV_INLINE_LAMBDA {
    largest = hn::Max(largest, counted(load_row(row, j, n), hn::LoadU(d, rows.length + j)));
  });
  const float max = max_of_lanes(d, largest);
  if (max == -kInfinity) return;
  double sum = 0;
  for (int32_t b = 0; b < n; b += kSampleSumBlock) {
    VF part = hn::Zero(d);
    for_each_vector(b, std::min(b + kSampleSumBlock, n), [&](int32_t j) SKV_INLINE_LAMBDA {
      const VF mass = counted(load_row(row, j, n), hn::LoadU(d, rows.length + j));
      const VF weight = exp(d, hn::Sub(mass, hn::Set(d, max)));
      hn::StoreU(weight, d, rows.weight + j);
      part = hn::Add(part, weight);
    });
    sum += sum_of_lanes(d, part);
  }
  const VF factor = hn::Set(d, static_cast<float>(share / sum));
  for_each_vector(0, n, [&](int32_t j) SKV_INLINE_LAMBDA {
    const VF length = hn::LoadU(d, rows.length + j);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, rows.weight + j), factor, length), d, rows.length + j);
  });
}

// Adds the uniform part and sums the blocks; returns the whole.
double finish_lengths(int32_t n, int32_t open, const GuardSampleRows& rows) {
  const F32 d;
  const hn::ScalableTag<double> d64;
  const hn::Rebind<float, decltype(d64)> d_half;
  const std::size_t half = hn::Lanes(d64);
  const VF uniform = hn::Set(d, 0.1f / static_cast<float>(open));
  double total = 0;
  for (int32_t b = 0; b < n; b += kSampleBlock) {
    auto sum = hn::Zero(d64);
    for_each_vector(b, std::min(b + kSampleBlock, n), [&](int32_t j) SKV_INLINE_LAMBDA {
      const VF length = hn::LoadU(d, rows.length + j);
      const auto may = hn::Ge(length, hn::Zero(d));
      hn::StoreU(hn::IfThenElseZero(may, hn::Add(length, uniform)), d, rows.length + j);
      for (std::size_t i = 0; i < hn::Lanes(d); i += half) {
        sum = hn::Add(sum, hn::PromoteTo(d64, hn::LoadU(d_half, rows.length + j + i)));
      }
    });
    rows.block[b / kSampleBlock] = hn::GetLane(hn::SumOfLanes(d64, sum));
    total += rows.block[b / kSampleBlock];
  }
  return total;
}

// Lengths of the item's chunks, 0 of those that may not be drawn, and what they add up to. open: how many may; when
// all of them can be taken, lengths are below 0 or not, and no sums are made.
double lengths_of(const GuardSampleItem& item, const GuardSampleRows& rows, int32_t* open) {
  *open = mark_open(item, rows.length);
  if (*open <= item.n_samples || item.n_samples <= 0) return 0.0;
  const float share = 0.9f / static_cast<float>(item.group);
  for (int32_t g = 0; g < item.group; ++g) add_softmax(item.log_mass + g * item.log_mass_stride, item.n, share, rows);
  return finish_lengths(item.n, *open, rows);
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
namespace {

HWY_EXPORT(lengths_of);

void emit(const GuardSampleItem& item, int32_t chunk, float log_weight) {
  item.chunks[*item.n_chunks] = chunk;
  item.log_weight[(*item.n_chunks)++] = log_weight;
}

// The points from `point` on that fall on the chunks [begin, stop), laid from `at` to `end`. Returns the first past.
int32_t place_points(const GuardSampleItem& item, const float* length, int32_t begin, int32_t stop, double at,
                     double end, double total, int32_t point) {
  const double step = total / item.n_samples;
  const auto lies_before = [&](double border) { return (point + double{item.u}) * step < border; };
  while (stop > begin && length[stop - 1] <= 0.0f) --stop;
  for (int32_t j = begin; j < stop && lies_before(end); ++j) {
    if (length[j] <= 0.0f) continue;
    at = j + 1 == stop ? end : at + length[j];  // whatever the rounding, a block's points lie on its chunks
    int32_t count = 0;
    for (; point < item.n_samples && lies_before(at); ++point) ++count;
    if (count > 0) emit(item, j, static_cast<float>(std::log(count * step / length[j])));
    if (point == item.n_samples) break;
  }
  return point;
}

void sample_item(const GuardSampleItem& item, const GuardSampleRows& rows) {
  *item.n_chunks = 0;
  int32_t open = 0;
  const double total = HWY_DYNAMIC_DISPATCH(lengths_of)(item, rows, &open);
  if (item.n_samples <= 0) return;
  if (open <= item.n_samples) {
    for (int32_t j = 0; j < item.n; ++j) {
      if (rows.length[j] >= 0.0f) emit(item, j, 0.0f);
    }
    return;
  }
  double at = 0;
  for (int32_t b = 0, point = 0; b < item.n && point < item.n_samples; b += kSampleBlock) {
    const double end = at + rows.block[b / kSampleBlock];
    point = place_points(item, rows.length, b, std::min(b + kSampleBlock, item.n), at, end, total, point);
    at = end;
  }
}

}  // namespace

std::size_t guard_sample_workspace_bytes(int32_t max_n) {
  return lay_out_sample_rows(max_n, nullptr).bytes * static_cast<std::size_t>(max_workers());
}

void guard_sample_cpu(std::span<const GuardSampleItem> items, void* workspace) {
  int32_t most = 0;
  for (const GuardSampleItem& item : items) most = std::max(most, item.n);
  const auto stride = static_cast<int64_t>(lay_out_sample_rows(most, nullptr).bytes);
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int worker) {
    const GuardSampleRows rows = lay_out_sample_rows(most, offset_bytes(workspace, worker * stride));
    sample_item(items[static_cast<std::size_t>(i)], rows);
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
