#include "lib/api/guard.h"
#include "lib/api/struct_io.h"
#include "lib/kv/policy.h"

using namespace skv::api;

skv_status skv_kv_params_init(skv_kv_params* params, uint32_t struct_size) {
  return guarded(nullptr, [&] { write_defaults(params, struct_size, skv::kv::default_kv_params(), "params"); });
}

skv_status skv_kv_params_preset(skv_kv_params* params, uint32_t struct_size, skv_policy policy) {
  return guarded(nullptr, [&] { write_defaults(params, struct_size, skv::kv::preset_kv_params(policy), "params"); });
}
