/* Counts what a process takes from the system, for LD_PRELOAD: nothing of the library's own counters is used.
 *
 * Counted are live bytes of the malloc family, as malloc_usable_size() says, and of anonymous private maps, rounded to
 * pages. That is all there is: the library maps large blocks itself, and small ones go through mimalloc, whose reserves
 * (32 MiB at a time, touched or not) would hide them. So dlopen() of mimalloc is refused here, and the library falls back
 * to posix_memalign, block by block. Maps of files (weights) and of stacks are not memory that grows with a context. */
/* Both names of mmap are defined below. */
#undef _FILE_OFFSET_BITS
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t alignment, size_t n);
extern void __libc_free(void *p);

static atomic_llong g_live, g_peak;

static void count(long long bytes) {
  const long long live = atomic_fetch_add(&g_live, bytes) + bytes;
  long long peak = atomic_load(&g_peak);
  while (live > peak && !atomic_compare_exchange_weak(&g_peak, &peak, live)) {
  }
}

static void *counted(void *p) {
  if (p != NULL) count((long long)malloc_usable_size(p));
  return p;
}

/* What the test asks, by dlsym. */
long long memory_interposer_live(void) { return atomic_load(&g_live); }
long long memory_interposer_peak(void) { return atomic_load(&g_peak); }
void memory_interposer_restart(void) { atomic_store(&g_peak, atomic_load(&g_live)); }

void *malloc(size_t n) { return counted(__libc_malloc(n)); }
void *calloc(size_t n, size_t size) { return counted(__libc_calloc(n, size)); }
void *memalign(size_t alignment, size_t n) { return counted(__libc_memalign(alignment, n)); }
void *aligned_alloc(size_t alignment, size_t n) { return counted(__libc_memalign(alignment, n)); }

int posix_memalign(void **out, size_t alignment, size_t n) {
  void *p = counted(__libc_memalign(alignment, n));
  if (p == NULL) return ENOMEM;
  *out = p;
  return 0;
}

void free(void *p) {
  if (p != NULL) count(-(long long)malloc_usable_size(p));
  __libc_free(p);
}

void *realloc(void *p, size_t n) {
  const long long before = p == NULL ? 0 : (long long)malloc_usable_size(p);
  void *moved = __libc_realloc(p, n);
  if (moved != NULL) count((long long)malloc_usable_size(moved) - before);
  else if (n == 0) count(-before);
  return moved;
}

static long long pages(size_t n) { return (long long)((n + 4095) / 4096 * 4096); }

/* munmap() does not say what was mapped: anonymous blocks are remembered by address. */
enum { MAX_MAPS = 65536 };
static atomic_uintptr_t g_maps[MAX_MAPS];
static atomic_llong g_map_bytes[MAX_MAPS];

static void remember(void *p, long long bytes) {
  int i;
  for (i = 0; i < MAX_MAPS; ++i) {
    uintptr_t none = 0;
    if (atomic_compare_exchange_strong(&g_maps[i], &none, (uintptr_t)p)) {
      atomic_store(&g_map_bytes[i], bytes);
      count(bytes);
      return;
    }
  }
}

static void forget(void *p) {
  int i;
  for (i = 0; i < MAX_MAPS; ++i) {
    uintptr_t wanted = (uintptr_t)p;
    if (atomic_load(&g_maps[i]) != wanted) continue;
    count(-atomic_load(&g_map_bytes[i]));
    atomic_store(&g_maps[i], 0);
    return;
  }
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
  void *p = (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
  if (p != MAP_FAILED && (flags & MAP_ANONYMOUS) != 0 && (flags & MAP_STACK) == 0) remember(p, pages(n));
  return p;
}

void *mmap64(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
  return mmap(at, n, protection, flags, fd, offset);
}

int munmap(void *p, size_t n) {
  forget(p);
  return (int)syscall(SYS_munmap, p, n);
}

void *dlopen(const char *name, int flags) {
  static void *(*next)(const char *, int);
  if (name != NULL && strstr(name, "mimalloc") != NULL) return NULL;
  if (next == NULL) *(void **)&next = dlsym(RTLD_NEXT, "dlopen");
  return next(name, flags);
}
