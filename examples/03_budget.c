/* How much memory would it take? Answered from a model's metadata, before any weight is mapped.
 *   ./budget MODEL_DIR TOKENS LIMIT_MIB */
#include <inttypes.h>
#include <shadowkv/shadowkv.h>
#include <stdio.h>
#include <stdlib.h>

static skv_error err = SKV_ERROR_INIT;

static void check(skv_status status) {
  if (status == SKV_OK) return;
  fprintf(stderr, "status %d: %s\n", (int)status, err.message);
  exit(1);
}

static void report(skv_model *model, const char *name, skv_policy policy, skv_key_store keys, int64_t n, int64_t limit) {
  skv_kv_params kv;
  skv_session_params params;
  skv_budget budget;
  skv_budget_plan_io plan = {0};
  int tier;
  check(skv_kv_params_init(&kv, sizeof kv));
  kv.policy = policy;
  kv.keys = keys;
  check(skv_session_params_init(&params, sizeof params));
  params.kv = &kv;

  budget.struct_size = sizeof budget;
  check(skv_budget_query(model, &params, &n, 1, 0, &budget, &err));
  printf("%-22s fast %10" PRId64 " slow %10" PRId64 " host %10" PRId64 " bytes", name, budget.held_bytes[SKV_TIER_FAST],
         budget.held_bytes[SKV_TIER_SLOW], budget.held_bytes[SKV_TIER_HOST]);

  plan.struct_size = sizeof plan;
  plan.n_sequences = 1; /* n_tokens stays 0: find the longest context */
  for (tier = 0; tier < SKV_TIER_SLOTS; tier++) plan.limit_bytes[tier] = (uint64_t)limit;
  check(skv_budget_plan(model, &params, &plan, &err));
  printf("; longest context within the limit: %" PRId64 "\n", plan.fits ? plan.n_tokens : 0);
}

int main(int argc, char **argv) {
  skv_runtime *runtime;
  skv_model *model;
  skv_model_params open_params;
  int64_t n, limit;
  if (argc < 4) return fprintf(stderr, "usage: %s MODEL_DIR TOKENS LIMIT_MIB\n", argv[0]), 2;
  n = atoll(argv[2]);
  limit = atoll(argv[3]) * 1024 * 1024;
  check(skv_runtime_create(NULL, &runtime, &err));
  check(skv_model_params_init(&open_params, sizeof open_params));
  open_params.metadata_only = 1;
  check(skv_model_open(runtime, argv[1], &open_params, &model, &err));
  printf("one sequence of %" PRId64 " tokens; limit %s MiB a tier\n", n, argv[3]);
  report(model, "full", SKV_POLICY_FULL, SKV_KEYS_EXACT, n, limit);
  report(model, "shadowkv, low-rank", SKV_POLICY_SHADOWKV, SKV_KEYS_LOWRANK, n, limit);
  report(model, "shadowkv, exact keys", SKV_POLICY_SHADOWKV, SKV_KEYS_EXACT, n, limit);
  skv_model_destroy(model);
  skv_runtime_destroy(runtime);
  return 0;
}
