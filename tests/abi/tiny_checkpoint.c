#define _GNU_SOURCE
#include "tiny_checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One tensor of the file. fan_in 0: a norm, whose weights are near 1. */
typedef struct tensor {
  char name[96];
  int64_t rows, cols;
  int64_t fan_in;
} tensor;

enum { MAX_TENSORS = 1024 };

typedef struct checkpoint {
  tensor tensors[MAX_TENSORS];
  int n;
} checkpoint;

static void add(checkpoint *all, const char *prefix, const char *name, int64_t rows, int64_t cols) {
  tensor *t = &all->tensors[all->n++];
  snprintf(t->name, sizeof t->name, "%s%s", prefix, name);
  t->rows = rows;
  t->cols = cols;
  t->fan_in = cols;
}

static void list_tensors(checkpoint *all, const tiny_shape *s) {
  const int64_t hidden = s->hidden, q = (int64_t)s->q_heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
  int32_t layer;
  all->n = 0;
  add(all, "", "model.embed_tokens.weight", s->vocab, hidden);
  add(all, "", "lm_head.weight", s->vocab, hidden);
  add(all, "", "model.norm.weight", hidden, 0);
  for (layer = 0; layer < s->layers; ++layer) {
    char prefix[32];
    snprintf(prefix, sizeof prefix, "model.layers.%d.", layer);
    add(all, prefix, "input_layernorm.weight", hidden, 0);
    add(all, prefix, "post_attention_layernorm.weight", hidden, 0);
    add(all, prefix, "self_attn.q_proj.weight", q, hidden);
    add(all, prefix, "self_attn.k_proj.weight", kv, hidden);
    add(all, prefix, "self_attn.v_proj.weight", kv, hidden);
    add(all, prefix, "self_attn.o_proj.weight", hidden, q);
    add(all, prefix, "mlp.gate_proj.weight", s->intermediate, hidden);
    add(all, prefix, "mlp.up_proj.weight", s->intermediate, hidden);
    add(all, prefix, "mlp.down_proj.weight", hidden, s->intermediate);
  }
}

static int64_t elements(const tensor *t) { return t->cols == 0 ? t->rows : t->rows * t->cols; }

/* Uniform in [-1, 1): splitmix64. */
static float uniform(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return (float)(z >> 40) / 8388608.0f - 1.0f;
}

static float weight(const tensor *t, uint64_t *state) {
  const float u = uniform(state);
  float scale = 1.0f;
  if (t->fan_in == 0) return 1.0f + 0.1f * u;
  /* 1.7 is the square root of 3: outputs as wide as inputs. */
  while (scale * scale * (float)t->fan_in > 1.0f) scale *= 0.99f;
  return 1.7f * scale * u;
}

static void write_header(FILE *f, const checkpoint *all) {
  char *text = malloc(MAX_TENSORS * 200);
  int64_t offset = 0;
  uint64_t size;
  int i, used = 0;
  unsigned char size_bytes[8];
  for (i = 0; i < all->n; ++i) {
    const tensor *t = &all->tensors[i];
    const int64_t end = offset + elements(t) * 4;
    used += sprintf(text + used, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%" PRId64, i == 0 ? "{" : ",", t->name, t->rows);
    if (t->cols != 0) used += sprintf(text + used, ",%" PRId64, t->cols);
    used += sprintf(text + used, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", offset, end);
    offset = end;
  }
  used += sprintf(text + used, "}");
  while (used % 8 != 0) text[used++] = ' ';
  size = (uint64_t)used;
  for (i = 0; i < 8; ++i) size_bytes[i] = (unsigned char)(size >> (8 * i));
  fwrite(size_bytes, 1, 8, f);
  fwrite(text, 1, (size_t)used, f);
  free(text);
}

static void write_weights(FILE *f, const tiny_shape *shape, uint64_t seed) {
  checkpoint *all = malloc(sizeof *all);
  int i;
  list_tensors(all, shape);
  write_header(f, all);
  for (i = 0; i < all->n; ++i) {
    int64_t k;
    for (k = 0; k < elements(&all->tensors[i]); ++k) {
      const float w = weight(&all->tensors[i], &seed);
      fwrite(&w, sizeof w, 1, f);
    }
  }
  free(all);
}

static void write_config(FILE *f, const tiny_shape *s) {
  fprintf(f,
          "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":%d,\"intermediate_size\":%d,"
          "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,"
          "\"vocab_size\":%d,\"max_position_embeddings\":%d,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"
          "\"tie_word_embeddings\":false,\"bos_token_id\":1,\"eos_token_id\":2}\n",
          s->hidden, s->intermediate, s->layers, s->q_heads, s->kv_heads, s->head_dim, s->vocab, s->max_positions);
}

/* GPT-2's spelling of bytes: the printable ones are themselves, the others follow from U+0100 on. */
static void put_byte_token(FILE *f, int byte) {
  int code = byte, b;
  if (!((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)) {
    code = 256;
    for (b = 0; b < byte; ++b) {
      if (!((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174)) ++code;
    }
  }
  fprintf(f, "\"\\u%04x\":%d", (unsigned)code, byte);
}

static void write_tokenizer(FILE *f) {
  int byte;
  fprintf(f, "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,"
             "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
             "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
             "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
  for (byte = 0; byte < 256; ++byte) {
    if (byte > 0) fputc(',', f);
    put_byte_token(f, byte);
  }
  fprintf(f, "}}}\n");
}

static FILE *open_in(const char *directory, const char *name) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return fopen(path, "wb");
}

int tiny_checkpoint_write(const char *directory, const tiny_shape *shape, uint64_t seed) {
  FILE *config = open_in(directory, "config.json");
  FILE *weights = open_in(directory, "model.safetensors");
  FILE *tokenizer = open_in(directory, "tokenizer.json");
  int failed;
  if (config == NULL || weights == NULL || tokenizer == NULL) return -1;
  write_config(config, shape);
  write_weights(weights, shape, seed);
  write_tokenizer(tokenizer);
  failed = fclose(config) | fclose(weights) | fclose(tokenizer);
  return failed == 0 ? 0 : -1;
}

int tiny_checkpoint_make(char *path) {
  const tiny_shape shape = TINY_SHAPE_DEFAULT;
  const char *parent = getenv("TMPDIR");
  snprintf(path, 512, "%s/tiny_checkpoint_XXXXXX", parent == NULL ? "/tmp" : parent);
  if (mkdtemp(path) == NULL) return -1;
  return tiny_checkpoint_write(path, &shape, 7);
}

void tiny_checkpoint_remove(const char *directory) {
  static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
  char path[600];
  int i;
  for (i = 0; i < 3; ++i) {
    snprintf(path, sizeof path, "%s/%s", directory, names[i]);
    unlink(path);
  }
  rmdir(directory);
}
