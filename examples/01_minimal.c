/* Load a model, read a prompt, write the answer.
 *   cc -std=c99 01_minimal.c $(pkg-config --cflags --libs shadowkv) -o minimal
 *   ./minimal MODEL_DIR "The code of x is 48213. Question: what is the code of x? Answer:" [MAX_NEW] */
#include <shadowkv/shadowkv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static skv_error err = SKV_ERROR_INIT;

static void check(skv_status status) {
  if (status == SKV_OK) return;
  fprintf(stderr, "status %d: %s\n", (int)status, err.message);
  exit(1);
}

static int is_end(const skv_model_info *info, int32_t token) {
  int i;
  for (i = 0; i < info->n_end_tokens; i++) {
    if (info->end_tokens[i] == token) return 1;
  }
  return 0;
}

static void print_token(skv_model *model, int32_t token) {
  char bytes[256];
  int64_t n;
  check(skv_model_detokenize(model, &token, 1, 0, bytes, sizeof bytes, &n, &err));
  fwrite(bytes, 1, (size_t)n, stdout);
  fflush(stdout);
}

int main(int argc, char **argv) {
  skv_runtime *runtime;
  skv_model *model;
  skv_session *session;
  skv_seq seq;
  skv_model_info info;
  int32_t *prompt, token;
  int64_t n_prompt, n_bytes;
  int left;
  if (argc < 3) return fprintf(stderr, "usage: %s MODEL_DIR TEXT [MAX_NEW]\n", argv[0]), 2;
  left = argc > 3 ? atoi(argv[3]) : 64;
  n_bytes = (int64_t)strlen(argv[2]);

  check(skv_runtime_create(NULL, &runtime, &err));
  check(skv_model_open(runtime, argv[1], NULL, &model, &err));
  info.struct_size = sizeof info;
  check(skv_model_get_info(model, &info, &err));
  check(skv_session_create(model, NULL, &session, &err)); /* NULL: policy ShadowKV with its defaults */
  check(skv_sequence_open(session, SKV_AUTO, &seq, &err));

  /* A token is at least one byte, the begin token comes on top. */
  prompt = malloc(((size_t)n_bytes + 9) * sizeof *prompt);
  if (!prompt) return 1;
  prompt[0] = info.bos_token;
  check(skv_model_tokenize(model, argv[2], n_bytes, 0, prompt + 1, n_bytes + 8, &n_prompt, &err));
  if (info.bos_token >= 0) check(skv_sequence_append(session, seq, prompt, 1, &err));
  check(skv_sequence_append(session, seq, prompt + 1, n_prompt, &err));
  check(skv_session_prefill(session, NULL, NULL, &err));
  check(skv_sequence_sample(session, seq, &token, &err));

  while (left-- > 0 && !is_end(&info, token)) {
    skv_row row = {0};
    print_token(model, token);
    row.seq = seq, row.tokens = &token, row.n_tokens = 1, row.sample = 1, row.err = &err;
    check(skv_session_step(session, &row, 1, sizeof row, NULL, NULL, &err));
    check(row.status);
    token = row.sampled_token;
  }
  putchar('\n');

  free(prompt);
  skv_session_destroy(session); /* in any order: children keep their parents alive */
  skv_model_destroy(model);
  skv_runtime_destroy(runtime);
  return 0;
}
