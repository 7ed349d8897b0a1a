/* What both hosts do: open a model, run a step, and ask mimalloc about the host's own pointers. */
#ifndef HOST_MALLOC_H
#define HOST_MALLOC_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "shadowkv/shadowkv.h"
#include "tiny_checkpoint.h"

#define CHECK(condition)                                                 \
  do {                                                                   \
    if (!(condition)) {                                                  \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
      return 1;                                                          \
    }                                                                    \
  } while (0)

typedef struct host {
  skv_runtime *runtime;
  skv_model *model;
  skv_session *session;
  int uses_mimalloc;
} host;

static int host_open(host *h) {
  char directory[512];
  skv_device_info info;
  CHECK(tiny_checkpoint_make(directory) == 0);
  CHECK(skv_runtime_create(NULL, &h->runtime, NULL) == SKV_OK);
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  CHECK(skv_runtime_device_info(h->runtime, 0, &info, NULL) == SKV_OK);
  h->uses_mimalloc = strstr(info.name, "mimalloc") != NULL;
  CHECK(skv_model_open(h->runtime, directory, NULL, &h->model, NULL) == SKV_OK);
  CHECK(skv_session_create(h->model, NULL, &h->session, NULL) == SKV_OK);
  tiny_checkpoint_remove(directory);
  return 0;
}

static int host_step(host *h) {
  const int32_t prompt[5] = {3, 1, 4, 1, 5};
  int32_t token = 9;
  skv_seq seq;
  skv_row row;
  CHECK(skv_sequence_open(h->session, SKV_AUTO, &seq, NULL) == SKV_OK);
  CHECK(skv_sequence_append(h->session, seq, prompt, 5, NULL) == SKV_OK);
  CHECK(skv_session_prefill(h->session, NULL, NULL, NULL) == SKV_OK);
  memset(&row, 0, sizeof row);
  row.seq = seq;
  row.tokens = &token;
  row.n_tokens = 1;
  row.sample = 1;
  CHECK(skv_session_step(h->session, &row, 1, sizeof row, NULL, NULL, NULL) == SKV_OK);
  CHECK(row.status == SKV_OK && row.sampled_token >= 0 && row.sampled_token < 256);
  return 0;
}

static void host_close(host *h) {
  skv_session_destroy(h->session);
  skv_model_destroy(h->model);
  skv_runtime_destroy(h->runtime);
}

/* Does symbol, as the host calls it, come from a file whose name has part in it? */
static int host_symbol_is_from(const char *symbol, const char *part) {
  void *address = dlsym(RTLD_DEFAULT, symbol);
  Dl_info info;
  if (address == NULL || dladdr(address, &info) == 0) return 0;
  if (strstr(info.dli_fname, part) == NULL) fprintf(stderr, "%s is from %s\n", symbol, info.dli_fname);
  return strstr(info.dli_fname, part) != NULL;
}

typedef struct mimalloc {
  bool (*owns)(const void *p); /* of its heap region */
  void *(*alloc)(size_t bytes);
  void (*free)(void *p);
} mimalloc;

/* The copy that the library has open; 0 if there is none. */
static int host_find_mimalloc(mimalloc *m) {
  void *handle = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_NOLOAD);
  if (handle == NULL) return 0;
  *(void **)&m->owns = dlsym(handle, "mi_is_in_heap_region");
  *(void **)&m->alloc = dlsym(handle, "mi_malloc");
  *(void **)&m->free = dlsym(handle, "mi_free");
  return m->owns != NULL && m->alloc != NULL && m->free != NULL;
}

#endif
