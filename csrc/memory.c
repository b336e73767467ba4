/* The one allocator: aligned, counted, and keeping what is given back for the next request, since fresh pages cost more
 * than the arithmetic of many a layer. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "problem.h"

enum { MOST_KEPT = 64 };
static const int64_t HUGE_PAGE = 2 << 20;

/* Each block is preceded by a line that holds its size. */
static struct {
  pthread_mutex_t lock;
  int64_t live, peak, kept, limit; /* bytes: handed out, most of that so far, kept, most to be kept */
  int count;
  char *block[MOST_KEPT]; /* oldest first */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .limit = (int64_t)256 << 20};

static int64_t size_of(const char *block) { return *(const int64_t *)block; }

/* A child finds the pool whole, whatever other threads were about when it was forked. */
static void before_fork(void) { pthread_mutex_lock(&pool.lock); }
static void after_fork(void) { pthread_mutex_unlock(&pool.lock); }
static void after_fork_in_child(void) { pthread_mutex_init(&pool.lock, NULL); }
static void register_fork_handlers(void) { pthread_atfork(before_fork, after_fork, after_fork_in_child); }

/* With the lock held. */
static char *take_out(int i) {
  char *block = pool.block[i];
  pool.kept -= size_of(block);
  pool.count--;
  for (; i < pool.count; i++) pool.block[i] = pool.block[i + 1];
  return block;
}

/* The smallest kept block that serves and does not waste more than an eighth, or a page. */
static char *find_kept(int64_t total) {
  int best = -1;
  for (int i = 0; i < pool.count; i++) {
    const int64_t size = size_of(pool.block[i]);
    if (size >= total && size - total <= total / 8 + 4096 && (best < 0 || size < size_of(pool.block[best]))) best = i;
  }
  return best < 0 ? NULL : take_out(best);
}

/* Memory that pages of 2 MiB can hold asks for them. */
static char *fresh(int64_t total) {
  const int64_t align = total >= 2 * HUGE_PAGE ? HUGE_PAGE : VOX_ALIGN;
  void *block; /* aligned_alloc of C11 wants multiples of such an alignment */
  if (posix_memalign(&block, (size_t)align, (size_t)total)) return NULL;
#if defined(MADV_HUGEPAGE)
  if (align == HUGE_PAGE) madvise(block, (size_t)(total - total % HUGE_PAGE), MADV_HUGEPAGE);
#endif
  return block;
}

void *vox_alloc(int64_t bytes) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  int64_t total;
  if (bytes < 0 || __builtin_add_overflow(bytes, 2 * VOX_ALIGN - 1, &total)) return NULL;
  total -= total % VOX_ALIGN;
  pthread_once(&once, register_fork_handlers);
  pthread_mutex_lock(&pool.lock);
  char *block = find_kept(total);
  pthread_mutex_unlock(&pool.lock);
  if (!block) {
    block = fresh(total);
    if (!block) {
      vox_release_memory();
      block = fresh(total);
    }
    if (!block) return NULL;
    *(int64_t *)block = total;
  }
  pthread_mutex_lock(&pool.lock);
  pool.live += size_of(block);
  pool.peak = vox_max(pool.peak, pool.live);
  pthread_mutex_unlock(&pool.lock);
  return block + VOX_ALIGN;
}

void vox_free(void *memory) {
  if (!memory) return;
  char *block = (char *)memory - VOX_ALIGN, *out[MOST_KEPT + 1];
  const int64_t size = size_of(block);
  int outs = 0;
  pthread_mutex_lock(&pool.lock);
  pool.live -= size;
  if (size > pool.limit) {
    out[outs++] = block;
  } else {
    while (pool.count == MOST_KEPT || pool.kept + size > pool.limit) out[outs++] = take_out(0);
    pool.block[pool.count++] = block;
    pool.kept += size;
  }
  pthread_mutex_unlock(&pool.lock);
  while (outs) free(out[--outs]);
}

void vox_release_memory(void) {
  char *out[MOST_KEPT];
  int outs = 0;
  pthread_mutex_lock(&pool.lock);
  while (pool.count) out[outs++] = take_out(pool.count - 1);
  pthread_mutex_unlock(&pool.lock);
  while (outs) free(out[--outs]);
}

static int64_t read_under_lock(const int64_t *value) {
  pthread_mutex_lock(&pool.lock);
  const int64_t result = *value;
  pthread_mutex_unlock(&pool.lock);
  return result;
}

int64_t vox_live_bytes(void) { return read_under_lock(&pool.live); }
int64_t vox_kept_bytes(void) { return read_under_lock(&pool.kept); }
int64_t vox_peak_bytes(void) { return read_under_lock(&pool.peak); }
void vox_reset_peak(void) {
  pthread_mutex_lock(&pool.lock);
  pool.peak = pool.live;
  pthread_mutex_unlock(&pool.lock);
}
