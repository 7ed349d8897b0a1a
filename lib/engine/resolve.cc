// skv_session_params to SessionConfig: every field checked once, with its name and range in the message.
#include <cmath>

#include "lib/base/status.h"
#include "lib/engine/session.h"

namespace skv::engine {

namespace {

int32_t checked(const char* field, int32_t value, int32_t lowest, int32_t highest) {
  if (value < lowest || value > highest) {
    fail(SKV_E_INVALID, "%s is %d; %d to %d are allowed", field, value, lowest, highest);
  }
  return value;
}

}  // namespace

kv::Geometry geometry_of(const model::Config& config) {
  kv::Geometry geometry;
  geometry.layers = config.layers;
  geometry.q_heads = config.q_heads;
  geometry.kv_heads = config.kv_heads;
  geometry.head_dim = config.head_dim;
  geometry.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  return geometry;
}

SessionConfig resolve_session(const skv_session_params& params, const skv_kv_params& kv, const Runtime& runtime,
                              const model::Config& config) {
  SessionConfig out;
  out.threads = runtime.threads();
  const device::Device& device = runtime.device(params.device);
  out.device = params.device;
  out.queue_bytes = device.queue_bytes();
  out.max_sequences = checked("max_sequences", params.max_sequences, 1, 65536);
  out.max_rows = checked("max_rows", params.max_rows, 1, 64);
  out.prefill_block = checked("prefill_block_tokens", params.prefill_block_tokens, 64, 8192);
  out.policy = kv::resolve_policy(kv, geometry_of(config));
  out.policy.work_tier = device.work_tier;
  for (int tier = 0; tier < SKV_TIER_COUNT; ++tier) out.limit_bytes[tier] = params.limit_bytes[tier];
  return out;
}

}  // namespace skv::engine
