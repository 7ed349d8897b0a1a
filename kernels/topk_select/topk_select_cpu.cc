#include "kernels/topk_select/topk_select.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "kernels/common/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/topk_select/topk_select_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/common/simd-inl.h"

#ifndef SKV_TOPK_SELECT_KEYS
#define SKV_TOPK_SELECT_KEYS
namespace skv::kernels {
namespace {

// Scores as integers in the same order: the bits of positive ones, those of negative ones mirrored, both zeros alike.
// NaN takes the place of -inf, below every number; -inf, which is invalid, goes to the very bottom, into a bucket
// that it shares with none.
constexpr int32_t kInvalidKey = std::numeric_limits<int32_t>::min();
constexpr int32_t kNanKey = kInvalidKey + 0x7fffff;
constexpr int kDigitBits = 12;  // sign, exponent and three bits of the mantissa
constexpr int kDigitShift = 32 - kDigitBits;
constexpr int kBuckets = 1 << kDigitBits;
static_assert((kNanKey >> kDigitShift) != (kInvalidKey >> kDigitShift));

// A score below which every number's key lies below key; NaN is below none. For kNanKey that is -inf, for the
// smallest keys a NaN, both of which let every score through.
inline float score_of(int32_t key) { return std::bit_cast<float>(key < 0 ? key ^ 0x7fffffff : key); }

struct Threshold {
  int32_t key = 0;       // keys above it are taken
  int32_t n_equal = 0;   // and so many that equal it, from the lowest index on
};

// The bucket that holds the k-th largest key, and how many keys lie above it.
struct Bucket {
  int32_t digit = 0;
  int32_t above = 0;
};

// Keys by their leading digit, in [kMinDigit, -kMinDigit); the invalid ones have kMinDigit. Two tables, so that equal
// neighbours do not wait for each other's increment.
constexpr int32_t kMinDigit = kInvalidKey >> kDigitShift;
struct Counts {
  alignas(64) int32_t table[2][kBuckets] = {};
  int32_t of(int32_t digit) const { return table[0][digit - kMinDigit] + table[1][digit - kMinDigit]; }
};

// k is at most the number of valid keys.
Bucket find_bucket(const Counts& counts, int32_t k) {
  int32_t above = 0, digit = -kMinDigit - 1;
  for (; digit > kMinDigit + 1 && above + counts.of(digit) < k; --digit) above += counts.of(digit);
  return {digit, above};
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
  const F32 d;
  const I32 di;
  const VI bits = hn::BitCast(di, hn::Add(score, hn::Zero(d)));  // -0 + 0 = 0
  const VI mirrored = hn::Xor(bits, hn::And(hn::BroadcastSignBit(bits), hn::Set(di, 0x7fffffff)));
  const auto invalid = hn::RebindMask(di, hn::Eq(score, hn::Set(d, -std::numeric_limits<float>::infinity())));
  const VI valid = hn::IfThenElse(hn::RebindMask(di, hn::IsNaN(score)), hn::Set(di, kNanKey), mirrored);
  return hn::IfThenElse(invalid, hn::Set(di, kInvalidKey), valid);
}

// fn(scores, first index) over the row, lanes at a time; lanes past the end are invalid.
template <class Fn>
HWY_INLINE void for_each_vector(const float* scores, int32_t n, Fn&& fn) {
  const F32 d;
  const auto lanes = static_cast<int32_t>(hn::Lanes(d));
  int32_t j = 0;
  for (; j + lanes <= n; j += lanes) fn(hn::LoadU(d, scores + j), j);
  if (j >= n) return;
  const auto left = static_cast<std::size_t>(n - j);
  const VF tail = load_n(d, scores + j, left);
  fn(hn::IfThenElse(hn::FirstN(d, left), tail, hn::Set(d, -std::numeric_limits<float>::infinity())), j);
}

// Returns the number of valid scores.
int32_t count_digits(const float* scores, int32_t n, Counts* counts) {
  const I32 di;
  const auto lanes = static_cast<int32_t>(hn::Lanes(di));
  for_each_vector(scores, n, [&](VF score, int32_t) SKV_INLINE_LAMBDA {
    alignas(64) int32_t digit[HWY_MAX_BYTES / sizeof(int32_t)];
    hn::Store(hn::ShiftRight<kDigitShift>(key_of(score)), di, digit);
    for (int32_t i = 0; i < lanes; ++i) ++counts->table[i & 1][digit[i] - kMinDigit];
  });
  return (n + lanes - 1) / lanes * lanes - counts->of(kMinDigit);
}

// Keys of one bucket, in no particular order.
int32_t gather_bucket(const float* scores, int32_t n, int32_t digit, int32_t* keys) {
  const I32 di;
  const auto lanes = static_cast<int32_t>(hn::Lanes(di));
  int32_t found = 0;
  const VF lowest = hn::Set(F32(), score_of(digit * (1 << kDigitShift)));
  for_each_vector(scores, n, [&](VF score, int32_t) SKV_INLINE_LAMBDA {
    if (hn::AllTrue(F32(), hn::Lt(score, lowest))) return;
    const VI key = key_of(score);
    const auto inside = hn::Eq(hn::ShiftRight<kDigitShift>(key), hn::Set(di, digit));
    if (hn::AllFalse(di, inside)) return;
    alignas(64) int32_t lane[HWY_MAX_BYTES / sizeof(int32_t)];
    hn::Store(key, di, lane);
    for (int32_t i = 0; i < lanes; ++i) {
      if (lane[i] >> kDigitShift == digit) keys[found++] = lane[i];
    }
  });
  return found;
}

int32_t emit(const float* scores, int32_t n, Threshold threshold, int32_t* ids) {
  const I32 di;
  const auto lanes = static_cast<int32_t>(hn::Lanes(di));
  int32_t count = 0, equal_left = threshold.n_equal;
  const VF lowest = hn::Set(F32(), score_of(threshold.key));
  for_each_vector(scores, n, [&](VF score, int32_t first) SKV_INLINE_LAMBDA {
    if (hn::AllTrue(F32(), hn::Lt(score, lowest))) return;
    alignas(64) int32_t lane[HWY_MAX_BYTES / sizeof(int32_t)];
    hn::Store(key_of(score), di, lane);
    for (int32_t i = 0; i < lanes; ++i) {
      if (lane[i] < threshold.key || (lane[i] == threshold.key && equal_left-- <= 0)) continue;
      ids[count++] = first + i;
    }
  });
  return count;
}

void select_row(const TopkSelectItem& item, int32_t* keys) {
  *item.n_ids = 0;
  if (item.n <= 0 || item.k <= 0) return;
  Counts counts;
  const int32_t valid = count_digits(item.scores, item.n, &counts);
  Threshold threshold;
  if (valid <= item.k) {
    threshold = {kNanKey, valid};  // all
  } else {
    const Bucket bucket = find_bucket(counts, item.k);
    const int32_t rank = item.k - bucket.above;  // 1 = largest of the bucket
    const int32_t n = gather_bucket(item.scores, item.n, bucket.digit, keys);
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
