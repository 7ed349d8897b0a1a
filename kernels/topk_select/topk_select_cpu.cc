#include "kernels/topk_select/topk_select.h"

#include <algorithm>
#include <functional>

#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/topk_select/topk_select_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/common/simd-inl.h"

#ifndef SKV_TOPK_SELECT_KEYS
#define SKV_TOPK_SELECT_KEYS
namespace skv::kernels {
namespace {

// Scores as integers in the same order: -1 invalid, 0 NaN, 1 + bits for the rest (both zeros alike).
constexpr int kDigitBits = 11;
constexpr int kDigitShift = 31 - kDigitBits;
constexpr int kBuckets = 1 << kDigitBits;

struct Threshold {
  int32_t key = 0;       // keys above it are taken
  int32_t n_equal = 0;   // and so many that equal it, from the lowest index on
};

// The bucket that holds the k-th largest key, and how many keys lie above it.
struct Bucket {
  int32_t index = 0;
  int32_t above = 0;
};

Bucket find_bucket(const int32_t* counts, int32_t k) {
  int32_t above = 0;
  for (int32_t b = kBuckets - 1; b > 0; --b) {
    if (above + counts[b] >= k) return {b, above};
    above += counts[b];
  }
  return {0, above};
}

}  // namespace
}  // namespace skv::kernels
#endif  // SKV_TOPK_SELECT_KEYS

HWY_BEFORE_NAMESPACE();
namespace skv::kernels {
namespace HWY_NAMESPACE {

using I32 = hn::RebindToSigned<F32>;
using VI = hn::Vec<I32>;

HWY_INLINE VI key_of(VF score) {
  const I32 di;
  const VF zero = hn::Zero(F32());
  const VI bits = hn::And(hn::BitCast(di, score), hn::Set(di, 0x7fffffff));
  const VI valid = hn::IfThenElse(hn::RebindMask(di, hn::Lt(score, zero)), hn::Set(di, -1),
                                  hn::Add(bits, hn::Set(di, 1)));
  return hn::IfThenZeroElse(hn::RebindMask(di, hn::IsNaN(score)), valid);
}

// fn(keys, first index, count) over the row, lanes at a time; lanes past the end are invalid.
template <class Fn>
HWY_INLINE void for_each_vector(const float* scores, int32_t n, Fn&& fn) {
  const F32 d;
  const auto lanes = static_cast<int32_t>(hn::Lanes(d));
  int32_t j = 0;
  for (; j + lanes <= n; j += lanes) fn(key_of(hn::LoadU(d, scores + j)), j);
  if (j >= n) return;
  const auto left = static_cast<std::size_t>(n - j);
  const VF tail = load_n(d, scores + j, left);
  fn(key_of(hn::IfThenElse(hn::FirstN(d, left), tail, hn::Set(d, -1.0f))), j);
}

// Counts by the leading digit; returns the number of valid scores. Two tables, so that equal neighbours do not wait
// for each other's increment.
int32_t count_digits(const float* scores, int32_t n, int32_t* counts) {
  const I32 di;
  const auto lanes = static_cast<int32_t>(hn::Lanes(di));
  // One bucket more takes the invalid ones.
  alignas(64) int32_t tables[2][kBuckets + 1] = {};
  for_each_vector(scores, n, [&](VI key, int32_t) SKV_INLINE_LAMBDA {
    alignas(64) int32_t digit[HWY_MAX_BYTES / sizeof(int32_t)];
    const VI invalid = hn::Set(di, kBuckets);
    hn::Store(hn::IfThenElse(hn::Lt(key, hn::Zero(di)), invalid, hn::ShiftRight<kDigitShift>(key)), di, digit);
    for (int32_t i = 0; i < lanes; ++i) ++tables[i & 1][digit[i]];
  });
  int32_t valid = 0;
  for (int32_t b = 0; b < kBuckets; ++b) {
    counts[b] = tables[0][b] + tables[1][b];
    valid += counts[b];
  }
  return valid;
}

// Keys of one bucket, in no particular order.
int32_t gather_bucket(const float* scores, int32_t n, int32_t bucket, int32_t* keys) {
  const I32 di;
  const auto lanes = static_cast<int32_t>(hn::Lanes(di));
  int32_t found = 0;
  for_each_vector(scores, n, [&](VI key, int32_t) SKV_INLINE_LAMBDA {
    // Shifting -1 gives -1, which is no bucket.
    const auto inside = hn::Eq(hn::ShiftRight<kDigitShift>(key), hn::Set(di, bucket));
    if (hn::AllFalse(di, inside)) return;
    alignas(64) int32_t lane[HWY_MAX_BYTES / sizeof(int32_t)];
    hn::Store(key, di, lane);
    for (int32_t i = 0; i < lanes; ++i) {
      if (lane[i] >> kDigitShift == bucket) keys[found++] = lane[i];
    }
  });
  return found;
}

int32_t emit(const float* scores, int32_t n, Threshold threshold, int32_t* ids) {
  const I32 di;
  const auto lanes = static_cast<int32_t>(hn::Lanes(di));
  int32_t count = 0, equal_left = threshold.n_equal;
  for_each_vector(scores, n, [&](VI key, int32_t first) SKV_INLINE_LAMBDA {
    if (hn::AllFalse(di, hn::Gt(key, hn::Set(di, threshold.key - 1)))) return;
    alignas(64) int32_t lane[HWY_MAX_BYTES / sizeof(int32_t)];
    hn::Store(key, di, lane);
    for (int32_t i = 0; i < lanes; ++i) {
      if (lane[i] < threshold.key || (lane[i] == threshold.key && equal_left-- <= 0)) continue;
      ids[count++] = first + i;
    }
  });
  return count;
}

void select_row(const TopkSelectItem& item, int32_t* keys) {
  int32_t counts[kBuckets];
  *item.n_ids = 0;
  if (item.n <= 0 || item.k <= 0) return;
  const int32_t valid = count_digits(item.scores, item.n, counts);
  Threshold threshold;
  if (valid <= item.k) {
    threshold = {0, valid};  // all: NaN are the keys that equal 0
  } else {
    const Bucket bucket = find_bucket(counts, item.k);
    const int32_t rank = item.k - bucket.above;  // 1 = largest of the bucket
    const int32_t n = gather_bucket(item.scores, item.n, bucket.index, keys);
    std::nth_element(keys, keys + rank - 1, keys + n, std::greater<int32_t>());
    const int32_t key = keys[rank - 1];
    const auto above = static_cast<int32_t>(std::count_if(keys, keys + n, [&](int32_t x) { return x > key; }));
    threshold = {key, rank - above};
  }
  *item.n_ids = emit(item.scores, item.n, threshold, item.ids);
}

}  // namespace HWY_NAMESPACE
}  // namespace skv::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {

HWY_EXPORT(select_row);

std::size_t topk_select_workspace_bytes(int64_t total_scores) {
  return static_cast<std::size_t>(total_scores) * sizeof(int32_t);
}

void topk_select_cpu(std::span<const TopkSelectItem> items, void* workspace) {
  const auto select = HWY_DYNAMIC_DISPATCH(select_row);
  parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
    int64_t before = 0;
    for (int64_t other = 0; other < i; ++other) before += items[static_cast<std::size_t>(other)].n;
    select(items[static_cast<std::size_t>(i)], static_cast<int32_t*>(workspace) + before);
  });
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
