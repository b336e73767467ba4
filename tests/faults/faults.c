/* Preloaded into a process under test: the n-th large allocation, or the n-th new thread, is refused.
 *
 * Only allocations of at least `LARGE` bytes, and all aligned ones, which this library alone asks for, are counted: the
 * interpreter's own small objects are not what is tested. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { LARGE = 4096 };
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static _Atomic long allocations_left, threads_left, fired;

/* From now on the n-th is refused, once; 0: none. */
void fault_allocation(long n) { fired = 0, allocations_left = n; }
/* From now on the n-th and every one after it; 0: none. */
void fault_threads(long n) { fired = 0, threads_left = n; }
long fault_fired(void) { return fired; }

static int refuse(size_t bytes) {
  if (bytes < LARGE || allocations_left <= 0 || atomic_fetch_sub(&allocations_left, 1) != 1) return 0;
  fired++;
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t n) { return refuse(n) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return refuse(n * size) ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return refuse(n) ? NULL : __libc_realloc(p, n); }
int posix_memalign(void **p, size_t alignment, size_t n) {
  void *block = refuse(n + LARGE) ? NULL : __libc_memalign(alignment, n);
  if (block) *p = block;
  return block ? 0 : ENOMEM;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
  static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
  if (threads_left > 0) {
    if (threads_left == 1) return fired++, EAGAIN;
    threads_left--;
  }
  return real(thread, attributes, body, argument);
}
