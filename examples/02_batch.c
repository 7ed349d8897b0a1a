/* A ragged batch: sequences of different lengths join, decode together and leave, while another prompt is still being
 * read. Each answer is the one the sequence would give alone.
 *   ./batch MODEL_DIR TEXT... */
#include <shadowkv/shadowkv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SEQUENCES = 8, MAX_NEW = 16 };

typedef struct {
  skv_seq seq; /* 0: not joined yet, or left */
  int32_t token;
  int n_new;
  int reading; /* its prompt is queued or in work */
  int32_t tokens[MAX_NEW];
} reply;

static skv_error err = SKV_ERROR_INIT;

static void check(skv_status status) {
  if (status == SKV_OK) return;
  fprintf(stderr, "status %d: %s\n", (int)status, err.message);
  exit(1);
}

static void join(skv_session *session, skv_model *model, const skv_model_info *info, const char *text, reply *r) {
  int64_t n_bytes = (int64_t)strlen(text), n;
  int32_t *tokens = malloc(((size_t)n_bytes + 9) * sizeof *tokens);
  if (!tokens) exit(1);
  tokens[0] = info->bos_token;
  check(skv_model_tokenize(model, text, n_bytes, 0, tokens + 1, n_bytes + 8, &n, &err));
  check(skv_sequence_open(session, SKV_AUTO, &r->seq, &err));
  if (info->bos_token >= 0) {
    check(skv_sequence_append(session, r->seq, tokens, n + 1, &err));
  } else {
    check(skv_sequence_append(session, r->seq, tokens + 1, n, &err));
  }
  r->reading = 1;
  free(tokens);
}

/* Prompts that were finished by the last step give their first token. */
static void start_decoding(skv_session *session, reply *r) {
  int64_t queued;
  skv_status status;
  if (!r->seq || !r->reading) return;
  check(skv_sequence_length(session, r->seq, NULL, &queued, &err));
  if (queued > 0) return;
  check(skv_sequence_prefill_status(session, r->seq, &status, &err));
  check(status);
  check(skv_sequence_sample(session, r->seq, &r->token, &err));
  r->reading = 0;
}

/* One step for all: a row for each sequence that decodes, and 512 tokens' worth of reading for those that queue. */
static int step(skv_session *session, reply *replies, int n) {
  skv_row rows[MAX_SEQUENCES] = {{0}};
  int owner[MAX_SEQUENCES], n_rows = 0, i, busy = 0;
  skv_step_params params;
  check(skv_step_params_init(&params, sizeof params));
  params.max_prefill_tokens = 512;
  for (i = 0; i < n; i++) {
    reply *r = &replies[i];
    busy += r->seq != 0;
    if (!r->seq || r->reading) continue;
    r->tokens[r->n_new++] = r->token;
    owner[n_rows] = i;
    rows[n_rows].seq = r->seq, rows[n_rows].tokens = &r->token, rows[n_rows].n_tokens = 1;
    rows[n_rows++].sample = 1;
  }
  if (!busy) return 0;
  check(skv_session_step(session, rows, n_rows, sizeof rows[0], &params, NULL, &err));
  for (i = 0; i < n_rows; i++) {
    reply *r = &replies[owner[i]];
    if (rows[i].status == SKV_OK) r->token = rows[i].sampled_token;
    if (rows[i].status == SKV_OK && r->n_new < MAX_NEW) continue;
    check(skv_sequence_close(session, r->seq, &err)); /* this one leaves, the others go on */
    r->seq = 0;
  }
  return 1;
}

int main(int argc, char **argv) {
  skv_runtime *runtime;
  skv_model *model;
  skv_session *session;
  skv_model_info info;
  reply replies[MAX_SEQUENCES] = {{0}};
  int n = argc - 2, joined = 0, i, k;
  if (n < 1 || n > MAX_SEQUENCES) return fprintf(stderr, "usage: %s MODEL_DIR TEXT... (1 to 8)\n", argv[0]), 2;
  check(skv_runtime_create(NULL, &runtime, &err));
  check(skv_model_open(runtime, argv[1], NULL, &model, &err));
  info.struct_size = sizeof info;
  check(skv_model_get_info(model, &info, &err));
  check(skv_session_create(model, NULL, &session, &err));
  do {
    if (joined < n) { /* one joins at each step */
      join(session, model, &info, argv[2 + joined], &replies[joined]);
      joined++;
    }
    for (i = 0; i < joined; i++) start_decoding(session, &replies[i]);
  } while (step(session, replies, joined) || joined < n);
  for (i = 0; i < n; i++) {
    printf("%d:", i);
    for (k = 0; k < replies[i].n_new; k++) {
      char bytes[256];
      int64_t n_bytes;
      check(skv_model_detokenize(model, &replies[i].tokens[k], 1, 0, bytes, sizeof bytes, &n_bytes, &err));
      fwrite(bytes, 1, (size_t)n_bytes, stdout);
    }
    putchar('\n');
  }
  skv_session_destroy(session);
  skv_model_destroy(model);
  skv_runtime_destroy(runtime);
  return 0;
}
