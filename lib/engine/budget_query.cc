#include <algorithm>
#include <cinttypes>

#include "lib/base/status.h"
#include "lib/device/device.h"
#include "lib/engine/predict.h"
#include "lib/engine/team_scope.h"

namespace skv::engine {

void budget_query(const model::Model& model, const SessionConfig& config, std::span<const int64_t> lengths,
                  skv_budget* out) {
  const model::Config& m = model.config();
  if (static_cast<int64_t>(lengths.size()) > config.max_sequences) {
    fail(SKV_E_LIMIT, "%zu sequences; max_sequences allows %d", lengths.size(), config.max_sequences);
  }
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0) fail(SKV_E_INVALID, "length %zu is %" PRId64 "; it cannot be negative", i, lengths[i]);
    if (lengths[i] > m.max_positions) {
      fail(SKV_E_LIMIT, "length %zu is %" PRId64 "; the model allows %" PRId64, i, lengths[i], m.max_positions);
    }
  }
  const TeamScope team(config.threads);
  const auto forward = model::make_forward(model, kernels::cpu_ops());
  const Predictor predictor(m, config, *forward);
  out->reserved = 0;
  out->held = predictor.held(lengths);
  const TierBytes held = tier_sums(out->held), peak = predictor.peak(lengths);
  std::fill_n(out->held_bytes, SKV_TIER_SLOTS, 0);
  std::fill_n(out->peak_bytes, SKV_TIER_SLOTS, 0);
  std::copy(held.begin(), held.end(), out->held_bytes);
  std::copy(peak.begin(), peak.end(), out->peak_bytes);
  out->weight_bytes = model.weights() == nullptr ? 0 : model.weights()->mapped_bytes();
}

}  // namespace skv::engine
