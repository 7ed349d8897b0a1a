#include "examples/shell/shell_settings.h"

namespace shell {

skv_session_params session_params(const Settings& settings, skv_kv_params* kv) {
  skv_kv_params_init(kv, sizeof *kv);
  kv->policy = settings.policy;
  kv->keys = settings.keys;
  kv->dtype = settings.dtype;
  kv->chunk_tokens = settings.chunk;
  kv->rank = settings.rank;
  if (settings.budget_tokens != SKV_AUTO) kv->budget_tokens = settings.budget_tokens;
  if (settings.budget_fraction >= 0) {
    kv->budget_fraction = settings.budget_fraction;
    kv->budget_min_tokens = settings.chunk;
  }
  skv_session_params params;
  skv_session_params_init(&params, sizeof params);
  params.max_sequences = 1;
  params.kv = kv;
  return params;
}

}  // namespace shell
