#include "examples/shell/cache_settings.h"

#include <algorithm>

#include "examples/shell/shell_api.h"

namespace shell {

namespace {

template <class T>
void put(const std::optional<T>& setting, T* field) {
  if (setting) *field = *setting;
}

void put_budget(const CacheSettings& settings, skv_kv_params* kv) {
  put(settings.budget_tokens, &kv->budget_tokens);
  if (settings.budget_fraction) {
    kv->budget_fraction = *settings.budget_fraction;
    kv->budget_min_tokens = kv->chunk_tokens;
    kv->budget_tokens = SKV_AUTO;
  }
}

}  // namespace

skv_kv_params kv_params(const CacheSettings& settings) {
  skv_kv_params kv{};
  check([&](skv_error*) { return skv_kv_params_preset(&kv, sizeof kv, settings.policy); });
  put(settings.dtype, &kv.dtype);
  put(settings.keys, &kv.keys);
  put(settings.key_codec, &kv.key_codec);
  put(settings.value_codec, &kv.value_codec);
  put(settings.digest, &kv.digest);
  put(settings.digest_codec, &kv.digest_codec);
  put(settings.unselected, &kv.unselected);
  put(settings.max_missed_mass, &kv.max_missed_mass);
  put(settings.rank, &kv.rank);
  put(settings.chunk, &kv.chunk_tokens);
  put(settings.window, &kv.window_tokens);
  // A preset's flush may be one of its own, smaller chunks.
  kv.flush_tokens = std::max(kv.flush_tokens, kv.chunk_tokens);
  put_budget(settings, &kv);
  if (settings.dense_layers) {
    kv.dense_layers = settings.dense_layers->data();
    kv.n_dense_layers = static_cast<int32_t>(settings.dense_layers->size());
  }
  return kv;
}

}  // namespace shell
