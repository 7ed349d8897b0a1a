#include "kernels/sample/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sample/sample_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"
#include "kernels/common/workspace.h"

#ifndef SKV_KERNELS_SAMPLE_CANDIDATE
#define SKV_KERNELS_SAMPLE_CANDIDATE
namespace skv::kernels {

struct SampleCandidate {
  float logit;
  float weight;
  int32_t id;
};

struct SampleScratch {
  float* logits;
  float* weights;
  uint64_t* seen;  // a bit per id
  SampleCandidate* candidates;
};

inline SampleScratch sample_scratch(WorkspaceCursor& cursor, int32_t vocab) {
  SampleScratch s;
  s.logits = cursor.take<float>(vocab);
  s.weights = cursor.take<float>(vocab);
  s.seen = cursor.take<uint64_t>(vocab / 64 + 1);
  s.candidates = cursor.take<SampleCandidate>(vocab);
  return s;
}

}  // namespace skv::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace skv::kernels::HWY_NAMESPACE {
namespace {  // helpers of the same name in other ops must stay apart

// Copies with NaN as -inf and returns the largest.
float copy_logits(const float* src, int64_t n, float* dst) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const VF lowest = hn::Neg(hn::Inf(d));
  VF largest = lowest;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const VF x = load(d, src + i);
    const VF clean = hn::IfThenElse(hn::IsNaN(x), lowest, x);
    store(clean, d, dst + i);
    largest = hn::Max(largest, clean);
  }
  float best = max_of_lanes(d, largest);
  for (; i < n; ++i) {
    dst[i] = std::isnan(src[i]) ? -std::numeric_limits<float>::infinity() : src[i];
    best = std::max(best, dst[i]);
  }
  return best;
}

float largest_logit(const float* logits, int64_t n) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  VF largest = hn::Neg(hn::Inf(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) largest = hn::Max(largest, load(d, logits + i));
  float best = max_of_lanes(d, largest);
  for (; i < n; ++i) best = std::max(best, logits[i]);
  return best;
}

void softmax_weights(const float* logits, int64_t n, float best, float temperature, float* weights) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const VF shift = hn::Set(d, best), divisor = hn::Set(d, temperature);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    store(exp(d, hn::Div(hn::Sub(load(d, logits + i), shift), divisor)), d, weights + i);
  if (i < n) {
    const auto count = static_cast<std::size_t>(n - i);
    store_n(exp(d, hn::Div(hn::Sub(load_n(d, logits + i, count), shift), divisor)), d, weights + i, count);
  }
}

}  // namespace
}  // namespace skv::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace skv::kernels {
namespace {

HWY_EXPORT(copy_logits);
HWY_EXPORT(largest_logit);
HWY_EXPORT(softmax_weights);

// The order of the contract; ids differ, so it is strict.
bool before(const SampleCandidate& x, const SampleCandidate& y) {
  return x.logit > y.logit || (x.logit == y.logit && x.id < y.id);
}

void apply_penalty(const SampleItem& item, const SampleScratch& s) {
  const float penalty = item.params.repetition_penalty;
  std::fill_n(s.seen, item.vocab / 64 + 1, 0);
  for (int64_t i = 0; i < item.n_history; ++i) {
    const int32_t id = item.history[i];
    if (id < 0 || id >= item.vocab) continue;
    const uint64_t bit = uint64_t{1} << (id % 64);
    if (s.seen[id / 64] & bit) continue;
    s.seen[id / 64] |= bit;
    float& l = s.logits[id];
    l = l > 0 ? l / penalty : l * penalty;
  }
}

double mass_of(const SampleCandidate* begin, const SampleCandidate* end) {
  double sum = 0.0;
  for (; begin != end; ++begin) sum += begin->weight;
  return sum;
}

// Where the cumulative mass in descending order first passes target (strictly, or reaches it): the candidate there,
// with every earlier one before it in memory. Halves the range instead of sorting it: linear in n.
SampleCandidate* select_by_mass(SampleCandidate* begin, SampleCandidate* end, double target, bool strictly) {
  constexpr int64_t kSortAt = 32;
  const auto passes = [&](double mass) { return strictly ? mass > target : mass >= target; };
  double mass = 0.0;
  while (end - begin > kSortAt) {
    SampleCandidate* middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, before);
    const double left = mass_of(begin, middle);
    if (passes(mass + left)) {
      end = middle;
    } else {
      mass += left;
      begin = middle;
    }
  }
  std::sort(begin, end, before);
  for (; begin + 1 < end; ++begin)
    if (passes(mass += begin->weight)) break;
  return begin;
}

// [candidates, end) after top_k, top_p and min_p.
SampleCandidate* filter(const SampleParams& params, float best, SampleCandidate* candidates, SampleCandidate* end) {
  if (params.top_k > 0 && params.top_k < end - candidates) {
    std::nth_element(candidates, candidates + params.top_k - 1, end, before);
    end = candidates + params.top_k;
  }
  if (params.top_p < 1.0f) end = select_by_mass(candidates, end, params.top_p * mass_of(candidates, end), false) + 1;
  if (params.min_p > 0.0f) {
    const double least = std::log(static_cast<double>(params.min_p));  // on logits: no rounding decides a tie
    end = std::partition(candidates, end, [&](const SampleCandidate& c) {
      return c.logit == best || (static_cast<double>(c.logit) - best) / params.temperature >= least;
    });
  }
  return end;
}

int32_t sample_row(const SampleItem& item, void* workspace) {
  const SampleParams& params = item.params;
  WorkspaceCursor cursor(workspace);
  const SampleScratch s = sample_scratch(cursor, item.vocab);
  float best = HWY_DYNAMIC_DISPATCH(copy_logits)(item.logits, item.vocab, s.logits);
  if (params.repetition_penalty != 1.0f && item.n_history > 0) {
    apply_penalty(item, s);
    best = HWY_DYNAMIC_DISPATCH(largest_logit)(s.logits, item.vocab);
  }
  if (best == -std::numeric_limits<float>::infinity()) return -1;
  if (!(params.temperature > 0.0f) || std::isinf(best))
    return static_cast<int32_t>(std::find(s.logits, s.logits + item.vocab, best) - s.logits);
  HWY_DYNAMIC_DISPATCH(softmax_weights)(s.logits, item.vocab, best, params.temperature, s.weights);
  SampleCandidate* end = s.candidates;
  for (int32_t i = 0; i < item.vocab; ++i)
    if (s.weights[i] > 0.0f) *end++ = {s.logits[i], s.weights[i], i};
  end = filter(params, best, s.candidates, end);
  const double u = counter_uniform(params.seed, item.counter);
  return select_by_mass(s.candidates, end, u * mass_of(s.candidates, end), true)->id;
}

}  // namespace

std::size_t sample_workspace_bytes(int32_t vocab, int64_t n_items) {
  if (n_items <= 0) return 0;
  WorkspaceCursor cursor(nullptr);
  sample_scratch(cursor, vocab);
  return cursor.bytes();
}

void sample_cpu(std::span<const SampleItem> items, void* workspace) {
  for (const SampleItem& item : items) *item.token = sample_row(item, workspace);
}

}  // namespace skv::kernels
#endif  // HWY_ONCE
