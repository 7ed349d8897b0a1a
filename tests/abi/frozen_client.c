/* A host that was compiled when 0.1 came out (headers in frozen_0_1, which never change after the release) and runs with
 * the library of today: every call that it makes, every field that it reads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shadowkv/shadowkv.h"
#include "tiny_checkpoint.h"

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)
#define OK(call)                                                              \
  do {                                                                        \
    skv_error e = SKV_ERROR_INIT;                                             \
    skv_error *err = &e;                                                     \
    (void)err;                                                                \
    if ((call) != SKV_OK) {                                                   \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, e.message); \
      exit(1);                                                                \
    }                                                                         \
  } while (0)

enum { VOCAB = 256, PROMPT = 700 };

static int g_log_lines;

static void on_log(void *user, skv_log_level level, const char *line) {
  (void)level;
  (void)line;
  ++*(int *)user;
}

static int32_t on_progress(void *user, int64_t done, int64_t total) {
  int64_t *last = user;
  CHECK(done >= *last && done <= total);
  *last = done;
  return 0;
}

static skv_runtime *make_runtime(void) {
  skv_runtime_params params;
  skv_runtime *runtime;
  skv_device_info info;
  int32_t n = 0;
  OK(skv_runtime_params_init(&params, sizeof params));
  CHECK(params.struct_size == sizeof params && params.threads == 0 && params.max_concurrent == 1);
  CHECK(params.log == NULL && params.log_level == SKV_LOG_WARN);
  params.threads = 1;
  params.log = on_log;
  params.log_user = &g_log_lines;
  OK(skv_runtime_create(&params, &runtime, err));
  OK(skv_runtime_device_count(runtime, &n, err));
  CHECK(n >= 1);
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  OK(skv_runtime_device_info(runtime, 0, &info, err));
  CHECK(info.kind == SKV_DEVICE_CPU && strncmp(info.name, "cpu", 3) == 0 && info.total_bytes[SKV_TIER_FAST] > 0);
  CHECK(info.limit_bytes[SKV_TIER_SLOW] == SKV_UNLIMITED && info.used_bytes[SKV_TIER_FAST] == 0);
  OK(skv_runtime_set_limit(runtime, 0, SKV_TIER_FAST, (uint64_t)1 << 30, err));
  OK(skv_runtime_device_info(runtime, 0, &info, err));
  CHECK(info.limit_bytes[SKV_TIER_FAST] == (uint64_t)1 << 30);
  return runtime;
}

static skv_model *make_model(skv_runtime *runtime, const char *path) {
  skv_model_params params;
  skv_model_info info;
  skv_model *model;
  int32_t ids[8];
  char text[8];
  int64_t n = 0;
  OK(skv_model_params_init(&params, sizeof params));
  CHECK(params.metadata_only == 0);
  OK(skv_model_open(runtime, path, &params, &model, err));
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  OK(skv_model_get_info(model, &info, err));
  CHECK(info.n_layers == 2 && info.hidden_size == 64 && info.n_q_heads == 4 && info.n_kv_heads == 2);
  CHECK(info.head_dim == 32 && info.vocab_size == VOCAB && info.has_tokenizer == 1 && info.max_positions == 32768);
  CHECK(info.bos_token == 1 && info.n_end_tokens == 1 && info.end_tokens[0] == 2 && info.weight_bytes > 0);
  CHECK(strcmp(info.architecture, "LlamaForCausalLM") == 0 && strcmp(info.chat_format, "") == 0);
  OK(skv_model_tokenize(model, "a b", 3, 0, ids, 8, &n, err));
  CHECK(n == 3 && ids[0] == 'a' && ids[1] == ' ' && ids[2] == 'b');
  OK(skv_model_detokenize(model, ids, n, 0, text, 8, &n, err));
  CHECK(n == 3 && memcmp(text, "a b", 3) == 0);
  return model;
}

static skv_session *make_session(skv_model *model, skv_kv_params *kv, skv_session_params *params) {
  skv_session *session;
  OK(skv_kv_params_init(kv, sizeof *kv));
  CHECK(kv->policy == SKV_POLICY_SHADOWKV && kv->dtype == SKV_DTYPE_BF16 && kv->keys == SKV_KEYS_LOWRANK);
  CHECK(kv->chunk_tokens == 8 && kv->rank == SKV_AUTO && kv->budget_fraction == 0.015625);
  CHECK(kv->window_tokens == 32 && kv->flush_tokens == 256 && kv->max_segments == 8);
  kv->dense_below_tokens = 300;
  kv->budget_tokens = 64;
  OK(skv_session_params_init(params, sizeof *params));
  CHECK(params->device == 0 && params->max_sequences == 64 && params->max_rows == 64 && params->kv == NULL);
  params->max_sequences = 2;
  params->kv = kv;
  OK(skv_session_create(model, params, &session, err));
  return session;
}

static void run_sequence(skv_session *session, skv_seq seq) {
  int32_t prompt[PROMPT], token, i;
  int64_t length = 0, queued = 0, last = 0;
  float *logits = malloc(VOCAB * sizeof *logits);
  skv_status prefill = SKV_E_INTERNAL;
  skv_row row;
  skv_step_result result;
  for (i = 0; i < PROMPT; ++i) prompt[i] = i * 31 % VOCAB;
  OK(skv_sequence_append(session, seq, prompt, PROMPT, err));
  OK(skv_sequence_length(session, seq, &length, &queued, err));
  CHECK(length == 0 && queued == PROMPT);
  OK(skv_session_prefill(session, on_progress, &last, err));
  CHECK(last == 2 * PROMPT);
  OK(skv_sequence_prefill_status(session, seq, &prefill, err));
  CHECK(prefill == SKV_OK);
  OK(skv_sequence_logits(session, seq, logits, VOCAB, err));
  OK(skv_sequence_sample(session, seq, &token, err));
  for (i = 0; i < VOCAB; ++i) CHECK(isfinite(logits[i]) && logits[i] <= logits[token]);
  memset(&row, 0, sizeof row);
  row.seq = seq;
  row.tokens = &token;
  row.n_tokens = 1;
  row.logits_mode = SKV_LOGITS_LAST;
  row.logits = logits;
  row.logits_capacity = VOCAB;
  row.sample = 1;
  memset(&result, 0, sizeof result);
  result.struct_size = sizeof result;
  OK(skv_session_step(session, &row, 1, sizeof row, NULL, &result, err));
  CHECK(row.status == SKV_OK && result.n_rows_ok == 1 && result.queued_tokens == 0);
  for (i = 0; i < VOCAB; ++i) CHECK(logits[i] <= logits[row.sampled_token]);
  free(logits);
}

static void read_statistics(skv_session *session, skv_seq seq) {
  skv_kv_stats stats;
  skv_session_usage usage;
  memset(&stats, 0, sizeof stats);
  stats.struct_size = sizeof stats;
  OK(skv_sequence_stats(session, seq, &stats, err));
  CHECK(stats.is_dense == 0 && stats.n_tokens == PROMPT + 1 && stats.n_compressed + stats.n_exact == PROMPT + 1);
  CHECK(stats.decode_tokens == 1 && stats.selected_chunks > 0 && stats.attention_calls == 2 * 2);
  CHECK(stats.key_energy > 0 && stats.key_energy <= 1);
  memset(&usage, 0, sizeof usage);
  usage.struct_size = sizeof usage;
  OK(skv_session_get_usage(session, &usage, err));
  CHECK(usage.n_sequences == 1 && usage.peak_bytes[SKV_TIER_FAST] > 0);
  CHECK(usage.used.bytes[SKV_TIER_SLOW][SKV_PURPOSE_VALUES] > 0);
  CHECK(usage.limit_bytes[SKV_TIER_FAST] == SKV_UNLIMITED && usage.prefill_forward_ns > 0);
}

static void plan(skv_model *model, const skv_session_params *params) {
  const int64_t lengths[2] = {1000, 20000};
  skv_budget budget;
  skv_budget_plan_io io;
  memset(&budget, 0, sizeof budget);
  budget.struct_size = sizeof budget;
  OK(skv_budget_query(model, params, lengths, 2, 0, &budget, err));
  CHECK(budget.held_bytes[SKV_TIER_SLOW] > 0 && budget.peak_bytes[SKV_TIER_HOST] >= budget.held_bytes[SKV_TIER_HOST]);
  memset(&io, 0, sizeof io);
  io.struct_size = sizeof io;
  io.n_sequences = 1;
  memset(io.limit_bytes, 0xff, sizeof io.limit_bytes);
  OK(skv_budget_plan(model, params, &io, err));
  CHECK(io.fits == 1 && io.n_tokens == 32768);
}

int main(void) {
  char path[512];
  skv_kv_params kv;
  skv_session_params params;
  skv_sampler_params sampler;
  skv_runtime *runtime;
  skv_model *model;
  skv_session *session;
  skv_seq seq;
  CHECK(skv_version() >= ((uint32_t)SKV_VERSION_MAJOR << 16 | SKV_VERSION_MINOR << 8 | SKV_VERSION_PATCH));
  CHECK(strncmp(skv_version_string(), "0.", 2) == 0);
  CHECK(tiny_checkpoint_make(path) == 0);
  runtime = make_runtime();
  model = make_model(runtime, path);
  session = make_session(model, &kv, &params);
  OK(skv_sequence_open(session, SKV_AUTO, &seq, err));
  OK(skv_sampler_params_init(&sampler, sizeof sampler));
  CHECK(sampler.temperature == 0 && sampler.top_p == 1 && sampler.repetition_penalty == 1);
  OK(skv_sequence_set_sampler(session, seq, &sampler, err));
  run_sequence(session, seq);
  read_statistics(session, seq);
  OK(skv_sequence_truncate(session, seq, 100, err));
  OK(skv_sequence_cancel(session, seq, err));
  OK(skv_sequence_close(session, seq, err));
  CHECK(skv_sequence_close(session, seq, NULL) == SKV_E_HANDLE);
  plan(model, &params);
  skv_session_interrupt(session);
  skv_runtime_destroy(runtime);
  skv_model_destroy(model);
  skv_session_destroy(session);
  tiny_checkpoint_remove(path);
  puts("the 0.1 client runs");
  return 0;
}
