#include "lib/engine/session_impl.h"

#include <algorithm>
#include <cinttypes>

#include "lib/engine/team_scope.h"

namespace skv::engine {

namespace {

const char* const kTierNames[SKV_TIER_COUNT] = {"fast", "slow", "host"};

// Weights belong to the device, not to the session: the next one finds them there.
std::shared_ptr<const model::Resident> resident_of(const model::Model& model, const device::Device& device,
                                                   MemoryAccount& account, const kernels::Ops& ops) {
  if (device.work_tier == SKV_TIER_HOST) return std::make_shared<const model::Resident>(model);
  return model.resident(account, ops);
}

}  // namespace

Session::Impl::Impl(Runtime& runtime, const model::Model& model, const SessionConfig& session,
                    const std::atomic<bool>& interrupted)
    : config(session),
      runtime_account(runtime.account(session.device)),
      account(runtime_account, config),
      device_queue(runtime.device(session.device).make_queue(account)),
      resident(resident_of(model, runtime.device(session.device), runtime_account, device_queue->ops())),
      forward(model::make_forward(model.config(), resident, device_queue->ops())),
      store(geometry_of(model.config()), config.policy, resident->rope(), device_queue->ops(), account),
      core{model.config(), config, *device_queue, device_queue->ops(), account, *forward, store, interrupted, {}},
      predictor(model.config(), config, *forward),
      table(config.max_sequences),
      queue(core),
      decode(core) {}

Session::Impl::~Impl() {
  table.for_each([&](SequenceState& sequence) { close(sequence); });
}

void Session::Impl::close(SequenceState& sequence) noexcept {
  queue.drop(sequence);
  store.close(sequence.kv);
  sequence.kv = nullptr;
}

void Session::Impl::admit(const SequenceState& sequence, int64_t n) const {
  // Queued before it, so done before it.
  std::vector<int64_t> others;
  table.for_each([&](const SequenceState& other) {
    if (&other != &sequence) others.push_back(other.tokens.size());
  });
  const TeamScope team(config.threads);
  const TierBytes peak = predictor.prefill_peak(others, sequence.length, sequence.queued() + n);
  const MemoryAccount* const accounts[] = {&account, &runtime_account};
  for (const MemoryAccount* owner : accounts) {
    for (skv_tier tier = 0; tier < SKV_TIER_COUNT; ++tier) {
      const int64_t beside = owner->used(tier) - account.used(tier);  // other sessions and models
      const int64_t needed = beside + peak[static_cast<std::size_t>(tier)];
      const uint64_t limit = owner->limit(tier);
      if (static_cast<uint64_t>(std::max<int64_t>(needed, 0)) > limit) {
        fail(SKV_E_BUDGET,
             "%" PRId64 " tokens would take the %s tier to %" PRId64 " bytes; the %s's limit is %" PRIu64,
             sequence.tokens.size() + n, kTierNames[tier], needed, owner == &account ? "session" : "runtime", limit);
      }
    }
  }
}

int64_t Session::Impl::queued_tokens() const {
  int64_t n = 0;
  table.for_each([&](const SequenceState& sequence) { n += sequence.queued(); });
  return n;
}

int64_t Session::Impl::queued_work() const {
  const PrefillJob* job = queue.running();
  return queued_tokens() * core.model.layers - (job == nullptr ? 0 : job->done());
}

}  // namespace skv::engine
