// Longest context or largest batch under limits: bisection over the function that answers budget queries.
#include <algorithm>
#include <cinttypes>
#include <vector>

#include "lib/base/status.h"
#include "lib/device/device.h"
#include "lib/engine/predict.h"
#include "lib/engine/team_scope.h"

namespace skv::engine {

namespace {

// Largest i in [low, high] with good(i), for good that turns false once; low - 1 if there is none.
template <class Good>
int64_t last_good(int64_t low, int64_t high, Good&& good) {
  if (low > high || !good(low)) return low - 1;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (good(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

class Planner {
 public:
  Planner(const model::Model& model, const SessionConfig& config, const skv_budget_plan_io& io)
      : model_(model.config()), config_(config), forward_(model::make_forward(model, kernels::cpu_ops())) {
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      limit_[tier] = std::min(io.limit_bytes[tier], config.limit_bytes[tier]);
    }
  }

  bool fits(const kv::Policy& policy, int64_t n_sequences, int64_t n_tokens) const {
    SessionConfig config = config_;
    config.policy = policy;
    const Predictor predictor(model_, config, *forward_);
    const std::vector<int64_t> lengths(static_cast<std::size_t>(n_sequences), n_tokens);
    const TierBytes peak = predictor.peak(lengths);
    for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      if (static_cast<uint64_t>(peak[static_cast<std::size_t>(tier)]) > limit_[tier]) return false;
    }
    return true;
  }

  // A sequence takes less once it is compressed, so dense and compressed lengths are searched apart.
  int64_t longest(const kv::Policy& policy, int64_t n_sequences) const {
    const auto good = [&](int64_t n) { return fits(policy, n_sequences, n); };
    const auto dense = [&](int64_t n) { return policy.compressed_after_prompt(n) == 0; };
    const int64_t last_dense = policy.compresses() ? last_good(1, model_.max_positions, dense) : model_.max_positions;
    const int64_t compressed = last_good(last_dense + 1, model_.max_positions, good);
    return compressed > last_dense ? compressed : last_good(1, last_dense, good);
  }

  int64_t largest_batch(const kv::Policy& policy, int64_t n_tokens) const {
    return last_good(1, config_.max_sequences, [&](int64_t n) { return fits(policy, n, n_tokens); });
  }

  int32_t most_slots(int64_t n_sequences, int64_t n_tokens) const {
    kv::Policy policy = config_.policy;
    if (!policy.compresses() || policy.compressed_after_prompt(n_tokens) == 0) return 0;
    const int64_t low = policy.most_selected(n_tokens);
    const int64_t high = std::min<int64_t>(32767, (n_tokens + policy.chunk - 1) / policy.chunk);
    const auto good = [&](int64_t slots) {
      policy.slots_fixed = static_cast<int32_t>(slots);
      return fits(policy, n_sequences, n_tokens);
    };
    // Below low only where the capacity given is itself more than fits, which the answer excludes.
    return static_cast<int32_t>(std::max(low, last_good(low, std::max(low, high), good)));
  }

 private:
  const model::Config& model_;
  const SessionConfig& config_;
  std::unique_ptr<model::Forward> forward_;
  uint64_t limit_[SKV_TIER_COUNT] = {};
};

kv::Policy with_other_keys(kv::Policy policy) {
  policy.low_rank = !policy.low_rank;
  // The codec nearest to the one given: A has no 4-bit form.
  if (policy.low_rank && policy.key_codec == kernels::BlockCodec::int4) policy.key_codec = kernels::BlockCodec::int8;
  return policy;
}

void check_question(const skv_budget_plan_io& io, const SessionConfig& config, const model::Config& model) {
  if (io.n_sequences < 0 || io.n_tokens < 0 || (io.n_sequences == 0) == (io.n_tokens == 0)) {
    fail(SKV_E_INVALID, "n_sequences is %d and n_tokens %" PRId64 "; exactly one must be 0, to be found",
         io.n_sequences, io.n_tokens);
  }
  if (io.n_sequences > config.max_sequences) {
    fail(SKV_E_INVALID, "n_sequences is %d; max_sequences allows %d", io.n_sequences, config.max_sequences);
  }
  if (io.n_tokens > model.max_positions) {
    fail(SKV_E_INVALID, "n_tokens is %" PRId64 "; the model allows %" PRId64, io.n_tokens, model.max_positions);
  }
}

}  // namespace

void budget_plan(const model::Model& model, const SessionConfig& config, skv_budget_plan_io* io) {
  check_question(*io, config, model.config());
  const TeamScope team(config.threads);
  const Planner planner(model, config, *io);
  const kv::Policy& given = config.policy;
  const kv::Policy other = given.compresses() ? with_other_keys(given) : given;
  const bool find_tokens = io->n_tokens == 0;
  const auto answer = [&](const kv::Policy& policy) {
    return find_tokens ? planner.longest(policy, io->n_sequences) : planner.largest_batch(policy, io->n_tokens);
  };
  const int64_t found = answer(given);
  const int64_t found_other = given.compresses() ? answer(other) : found;
  if (find_tokens) io->n_tokens = found;
  else io->n_sequences = static_cast<int32_t>(found);
  io->fits = found > 0;
  io->slot_chunks = io->fits ? planner.most_slots(io->n_sequences, io->n_tokens) : 0;
  io->rank = given.compresses() && given.low_rank ? given.rank : 0;
  io->keys = (found_other > found ? other : given).low_rank ? SKV_KEYS_LOWRANK : SKV_KEYS_EXACT;
  io->n_tokens_other_keys = found_other;
}

}  // namespace skv::engine
