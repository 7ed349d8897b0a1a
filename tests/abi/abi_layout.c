/* Size of every public struct and offset of every field, as text; with a file: compares, and says where they differ. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "shadowkv/shadowkv.h"

static char g_text[65536];
static int g_used;

#define STRUCT(T) g_used += sprintf(g_text + g_used, "%s %u\n", #T, (unsigned)sizeof(T))
#define FIELD(T, f) \
  g_used += sprintf(g_text + g_used, "  %s.%s %u %u\n", #T, #f, (unsigned)offsetof(T, f), (unsigned)sizeof(((T *)0)->f))

static void print_all(void) {
#include "abi_layout_fields.inc"
}

int main(int argc, char **argv) {
  static char golden[65536];
  FILE *f;
  char *ours, *theirs;
  print_all();
  if (argc < 2) return fputs(g_text, stdout) < 0;
  f = fopen(argv[1], "rb");
  if (f == NULL) return perror(argv[1]), 1;
  golden[fread(golden, 1, sizeof golden - 1, f)] = '\0';
  fclose(f);
  if (strcmp(golden, g_text) == 0) return 0;
  for (ours = g_text, theirs = golden; *ours != '\0' && *ours == *theirs; ++ours) ++theirs;
  while (ours > g_text && ours[-1] != '\n') --ours, --theirs;
  printf("now:    %.*s\ngolden: %.*s\n", (int)strcspn(ours, "\n"), ours, (int)strcspn(theirs, "\n"), theirs);
  return 1;
}
