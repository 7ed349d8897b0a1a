/* The way lib/base opens mimalloc leaves a C host its own malloc. Links nothing of the library.
 * Exit 77 (skipped): no mimalloc here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void expect(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "FAILED: %s\n", what);
  ++failures;
}

static void *symbol_of(void *library, const char *name) {
  void *found = dlsym(library, name);
  expect(found != NULL, name);
  return found;
}

int main(void) {
  void *library, *own, *hosts, *address;
  void *(*mi_malloc_aligned)(size_t, size_t);
  void (*mi_free)(void *);
  unsigned char (*mi_is_in_heap_region)(const void *);
  Dl_info where;

  library = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return 77;
  /* By way of memcpy: ISO C has no cast from an object pointer to a function pointer. */
  address = symbol_of(library, "mi_malloc_aligned");
  memcpy(&mi_malloc_aligned, &address, sizeof address);
  address = symbol_of(library, "mi_free");
  memcpy(&mi_free, &address, sizeof address);
  address = symbol_of(library, "mi_is_in_heap_region");
  memcpy(&mi_is_in_heap_region, &address, sizeof address);
  if (failures > 0) return 1;

  own = mi_malloc_aligned(1000, 64);
  hosts = malloc(1000);
  expect(own != NULL && mi_is_in_heap_region(own), "mimalloc's block is mimalloc's");
  expect(hosts != NULL && !mi_is_in_heap_region(hosts), "malloc's block is not mimalloc's");
  expect(dlsym(RTLD_DEFAULT, "mi_malloc") == NULL, "mimalloc's names are not visible to the program");
  address = dlsym(RTLD_DEFAULT, "malloc");
  expect(dladdr(address, &where) != 0 && strstr(where.dli_fname, "mimalloc") == NULL,
         "malloc does not lead to mimalloc");
  mi_free(own);
  free(hosts);
  return failures > 0;
}
