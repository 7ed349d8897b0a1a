#include "lib/kv/policy.h"

#include <algorithm>
#include <cmath>

namespace skv::kv {
namespace {

constexpr int32_t kSlotStep = 16;
constexpr int32_t kMostSlots = 32767;    // slot numbers are int16
constexpr int32_t kGuardGrowth = 4;      // budgets that the guard may select, unless told
constexpr int32_t kQuestLeastPages = 3;  // as Quest's code; the last page is one of them

int32_t chunks_of(int64_t tokens, int32_t chunk) {
  return static_cast<int32_t>((tokens + chunk - 1) / chunk);
}

}  // namespace

bool Policy::weighs_channels() const {
  const auto raw = kernels::BlockCodec::raw;
  return compresses() && (digest == kernels::DigestKind::keys_2bit || digest == kernels::DigestKind::mean_variance ||
                          digest_codec != raw || (!low_rank && key_codec != raw));
}

int32_t Policy::compressed_layers(int32_t layers) const {
  int32_t n = 0;
  for (int32_t l = 0; l < layers; ++l) n += !is_dense(l);
  return n;
}

int32_t Policy::selected_chunks(int64_t n) const {
  const auto share = static_cast<int32_t>(std::llround(budget_fraction * static_cast<double>(n) / chunk));
  int32_t chunks = budget_fixed > 0 ? chunks_of(budget_fixed, chunk) : std::max(share, chunks_of(budget_min, chunk));
  if (kind == SKV_POLICY_QUEST) chunks = std::max(chunks, kQuestLeastPages);
  return std::max(chunks - chunks_held_back, 0);
}

int32_t Policy::weighted(int32_t chunks, int32_t layer, int32_t head) const {
  if (budget_weights.empty()) return chunks;
  const double weight = budget_weights[static_cast<std::size_t>(layer * kv_heads + head)];
  return static_cast<int32_t>(std::min<int64_t>(std::llround(weight * chunks), kMostSlots));
}

int32_t Policy::selected_chunks(int64_t n, int32_t layer, int32_t head) const {
  return weighted(selected_chunks(n), layer, head);
}

int32_t Policy::selected_at_most(int64_t n, int32_t layer, int32_t head) const {
  const int32_t selected = selected_chunks(n, layer, head);
  if (!guarded()) return selected;
  const int32_t cap = guard_cap > 0 ? chunks_of(guard_cap, chunk) : kGuardGrowth * selected_chunks(n);
  return std::max(selected, std::min(weighted(cap, layer, head), kMostSlots));
}

int32_t Policy::most_selected(int64_t n, int32_t layer) const {
  if (is_dense(layer)) return 0;
  if (budget_weights.empty()) return selected_at_most(n, layer, 0);
  int32_t most = 0;
  for (int32_t h = 0; h < kv_heads; ++h) most = std::max(most, selected_at_most(n, layer, h));
  return most;
}

int32_t Policy::most_selected(int64_t n) const {
  if (budget_weights.empty()) return selected_at_most(n, 0, 0);
  const auto layers = static_cast<int32_t>(budget_weights.size()) / kv_heads;
  int32_t most = 0;
  for (int32_t l = 0; l < layers; ++l) most = std::max(most, most_selected(n, l));
  return most;
}

int32_t Policy::slot_capacity(int64_t n, int32_t layer) const {
  const int32_t selected = std::max(most_selected(n, layer), 1);
  if (slots_fixed > 0) return std::max(slots_fixed, selected);
  return std::min((selected + kSlotStep - 1) / kSlotStep * kSlotStep, std::max(selected, kMostSlots));
}

int32_t Policy::outlier_count(int32_t n_chunks) const {
  if (outliers_fixed >= 0) return std::min(outliers_fixed, n_chunks);
  return static_cast<int32_t>(std::ceil(outlier_fraction * n_chunks));
}

int64_t Policy::dense_limit(int64_t n) const {
  if (dense_below_fixed >= 0) return dense_below_fixed;
  const int64_t budget = int64_t{most_selected(n)} * chunk;
  const int64_t outliers = int64_t{outlier_count(static_cast<int32_t>(n / chunk))} * chunk;
  return std::max<int64_t>(4096, 2 * (budget + outliers + window));
}

int64_t Policy::compressed_after_prompt(int64_t n) const {
  if (!compresses() || n <= dense_limit(n)) return 0;
  if (kind == SKV_POLICY_PUBLISHED) {
    // The published code keeps the last 4 chunks and the remainder, then rounds down to whole groups of 8 chunks.
    const int64_t chunks = (n / chunk - 4) / 8 * 8;
    return std::max<int64_t>(chunks, 0) * chunk;
  }
  const int64_t compressed = (n - window) / chunk * chunk;
  return compressed < 2 * chunk ? 0 : compressed;
}

}  // namespace skv::kv
