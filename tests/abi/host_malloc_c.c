/* A C host keeps its own malloc, before, during and after it uses the library. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "host_malloc.h"

int main(void) {
  static const size_t sizes[] = {1, 16, 100, 4096, 100000, 3000000};
  host h;
  mimalloc m;
  void *before[6], *after[6], *probe;
  int i;
  for (i = 0; i < 6; ++i) before[i] = malloc(sizes[i]);
  CHECK(host_open(&h) == 0);
  CHECK(host_step(&h) == 0);
  for (i = 0; i < 6; ++i) after[i] = malloc(sizes[i]);
  CHECK(host_symbol_is_from("malloc", "libc.so"));
  CHECK(host_symbol_is_from("free", "libc.so"));
  CHECK(host_symbol_is_from("posix_memalign", "libc.so"));
  CHECK(dlsym(RTLD_DEFAULT, "mi_malloc") == NULL);
  if (h.uses_mimalloc) {
    CHECK(host_find_mimalloc(&m));
    probe = m.alloc(100);
    CHECK(m.owns(probe)); /* or the checks below could not fail */
    m.free(probe);
    for (i = 0; i < 6; ++i) CHECK(!m.owns(before[i]) && !m.owns(after[i]));
  }
  host_close(&h);
  for (i = 0; i < 6; ++i) free(before[i]), free(after[i]);
  printf("host malloc is libc's; library: %s\n", h.uses_mimalloc ? "mimalloc" : "posix_memalign");
  return 0;
}
