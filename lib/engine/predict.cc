#include "lib/engine/predict.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "lib/engine/buffers.h"
#include "lib/engine/token_pages.h"
#include "lib/kv/store.h"

namespace skv::engine {

namespace {

TierBytes sum(TierBytes a, const TierBytes& b) {
  for (std::size_t tier = 0; tier < a.size(); ++tier) a[tier] += b[tier];
  return a;
}

TierBytes highest(TierBytes a, const TierBytes& b) {
  for (std::size_t tier = 0; tier < a.size(); ++tier) a[tier] = std::max(a[tier], b[tier]);
  return a;
}

}  // namespace

TierBytes tier_sums(const skv_memory_table& table) {
  TierBytes sums{};
  for (std::size_t tier = 0; tier < sums.size(); ++tier) {
    for (int64_t bytes : table.bytes[tier]) sums[tier] += bytes;
  }
  return sums;
}

Predictor::Predictor(const model::Config& model, const SessionConfig& session, const model::Forward& forward)
    : model_(model), session_(session), forward_(forward), geometry_(geometry_of(model)) {}

skv_memory_table Predictor::held(std::span<const int64_t> lengths) const {
  skv_memory_table table = kv::held_bytes(geometry_, session_.policy, lengths);
  auto& host = table.bytes[SKV_TIER_HOST];
  auto& work = table.bytes[session_.policy.work_tier];
  host[SKV_PURPOSE_WORKSPACE] += charged_bytes(DecodeBuffers::host_bytes(model_, session_.max_rows));
  work[SKV_PURPOSE_WORKSPACE] += charged_bytes(DecodeBuffers::bytes(model_, forward_, session_.max_rows));
  for (const int64_t n : lengths) {
    host[SKV_PURPOSE_TOKENS] += TokenPages::bytes(n);
    if (n > 0) work[SKV_PURPOSE_LOGITS] += charged_bytes(kept_logits_bytes(model_));
  }
  for (std::size_t tier = 0; tier < session_.queue_bytes.size(); ++tier) {
    table.bytes[tier][SKV_PURPOSE_WORKSPACE] += session_.queue_bytes[tier];
  }
  return table;
}

TierBytes Predictor::prefill_peak(std::span<const int64_t> others, int64_t length, int64_t n) const {
  std::vector<int64_t> lengths(others.begin(), others.end());
  lengths.push_back(length + n);
  TierBytes peak = tier_sums(held(lengths));
  peak[static_cast<std::size_t>(session_.policy.work_tier)] +=
      charged_bytes(PrefillBuffers::hidden_bytes(model_, n)) +
      charged_bytes(PrefillBuffers::block_bytes(model_, forward_, n, session_.prefill_block));
  // A further turn's scratch depends on how its history is kept: what is sure is counted, and a prompt that runs out
  // midway is dropped.
  if (length > 0) return peak;
  const int64_t longest = others.empty() ? 0 : *std::max_element(others.begin(), others.end());
  return sum(peak, tier_sums(kv::prefill_peak_bytes(geometry_, session_.policy, n, longest)));
}

TierBytes Predictor::peak(std::span<const int64_t> lengths) const {
  TierBytes top = sum(tier_sums(held(lengths)), tier_sums(kv::window_growth_bytes(geometry_, session_.policy, lengths)));
  // Of equal lengths the last one has most beside it.
  std::unordered_map<int64_t, std::size_t> last;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] > 0) last[lengths[i]] = i;
  }
  for (const auto& [n, i] : last) top = highest(top, prefill_peak(lengths.first(i), 0, n));
  return top;
}

}  // namespace skv::engine
