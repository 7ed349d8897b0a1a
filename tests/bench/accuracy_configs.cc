#include "tests/bench/accuracy_configs.h"

#include <algorithm>
#include <cmath>

#include "lib/kv/policy.h"

namespace skv::bench {
namespace {

constexpr auto kRaw = SKV_CODEC_RAW;
constexpr auto kInt8 = SKV_CODEC_INT8;
constexpr auto kInt4 = SKV_CODEC_INT4;

class Builder {
 public:
  Builder(skv_policy policy, int32_t budget_tokens) : p_(kv::preset_kv_params(policy)) {
    p_.budget_tokens = budget_tokens;
    p_.dense_below_tokens = 0;
    p_.n_dense_layers = 0;  // every layer is measured
  }
  Builder& keys(skv_key_store store, skv_codec codec = kRaw) {
    p_.keys = store;
    p_.key_codec = codec;
    return *this;
  }
  Builder& values(skv_codec codec) {
    p_.value_codec = codec;
    return *this;
  }
  Builder& digest(skv_digest digest, skv_codec codec = kRaw) {
    p_.digest = digest;
    p_.digest_codec = codec;
    return *this;
  }
  Builder& estimated() {
    p_.unselected = SKV_UNSELECTED_ESTIMATED;
    return *this;
  }
  Builder& guard(double max_missed_mass) {
    p_.max_missed_mass = max_missed_mass;
    p_.max_budget_tokens = 8 * p_.budget_tokens;
    return *this;
  }
  // The guard's estimate alone: it has no room to grow.
  Builder& watched() {
    p_.max_missed_mass = 0.999;
    p_.max_budget_tokens = p_.budget_tokens;
    return *this;
  }
  Builder& window(int32_t tokens) {
    p_.window_tokens = tokens;
    return *this;
  }
  operator skv_kv_params() const { return p_; }

 private:
  skv_kv_params p_;
};

}  // namespace

std::vector<AccuracyConfig> accuracy_configs(int64_t tokens, double budget) {
  const auto b = std::max(16, static_cast<int32_t>(std::lround(budget * static_cast<double>(tokens) / 16)) * 16);
  const auto low = SKV_KEYS_LOWRANK, exact = SKV_KEYS_EXACT;
  const auto mean = SKV_DIGEST_MEAN, variance = SKV_DIGEST_MEAN_VARIANCE, bits = SKV_DIGEST_KEYS_2BIT;
  const auto make = [b](skv_policy policy = SKV_POLICY_SHADOWKV) { return Builder(policy, b); };
  return {
      {"published", make(SKV_POLICY_PUBLISHED), ""},
      {"low-rank", make().keys(low), ""},
      {"low-rank int8", make().keys(low, kInt8).values(kInt8).digest(mean, kInt8), ""},
      {"low-rank int8, 2-bit", make().keys(low, kInt8).values(kInt8).digest(bits), ""},
      {"low-rank int8, 2-bit, int4 values", make().keys(low, kInt8).values(kInt4).digest(bits), ""},
      {"low-rank int8, estimated", make().keys(low, kInt8).values(kInt8).digest(variance, kInt8).estimated(), ""},
      {"low-rank int8, 2-bit, estimated", make().keys(low, kInt8).values(kInt8).digest(bits).estimated(), ""},
      {"exact", make().keys(exact), ""},
      {"exact, int8 values", make().keys(exact).values(kInt8), "exact"},
      {"exact, int4 values", make().keys(exact).values(kInt4), "exact"},
      {"exact int8 keys", make().keys(exact, kInt8), "exact"},
      {"exact int4 keys", make().keys(exact, kInt4), "exact"},
      {"exact, int8 means", make().keys(exact).digest(mean, kInt8), ""},
      {"exact, mean + variance", make().keys(exact).digest(variance), ""},
      {"exact, box", make().keys(exact).digest(SKV_DIGEST_BOX), ""},
      {"exact, 2-bit", make().keys(exact).digest(bits), ""},
      {"exact, estimated", make().keys(exact).estimated(), ""},
      {"exact, variance, estimated", make().keys(exact).digest(variance, kInt8).estimated(), ""},
      {"exact, 2-bit, estimated", make().keys(exact).digest(bits).estimated(), ""},
      {"guard watches, 2-bit", make().keys(exact).digest(bits).watched(), ""},
      {"guard watches, variance", make().keys(exact).digest(variance).watched(), ""},
      {"guard 0.1, 2-bit", make().keys(exact).digest(bits).guard(0.1), ""},
      {"guard 0.05, 2-bit", make().keys(exact).digest(bits).guard(0.05), ""},
      {"guard 0.1, variance", make().keys(exact).digest(variance).guard(0.1), ""},
      {"quest", make(SKV_POLICY_QUEST), ""},
      {"streaming", make(SKV_POLICY_STREAMING).window(b), ""},
  };
}

}  // namespace skv::bench
