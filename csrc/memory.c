/* The one allocator: aligned, counted, and keeping what is given back for later requests, since fresh pages cost more
 * than the arithmetic of many a layer. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "problem.h"

enum { MOST_KEPT = 128 };
static const int64_t HUGE_PAGE = 2 << 20;

/* Memory comes from the system in regions, each of the size of the request that found no room, and a later, smaller one
 * may take a piece.  Each piece begins with a line that says so much of it: */
typedef struct piece {
  int64_t size, region; /* bytes of the piece with this line, and of its region */
  int64_t age;          /* when it was given back */
  int64_t gone;         /* while it is kept: bytes whose pages the system has back */
  struct piece *next;   /* the next one that is kept, by address */
  int first;            /* whether it begins its region */
} piece;
_Static_assert(sizeof(piece) <= VOX_ALIGN, "a piece begins with one line");

/* A piece is at least this part of its region: so much at most can a small one that stays hold back. */
enum { LEAST_PART = 8 };

static struct {
  pthread_mutex_t lock;
  int64_t live, peak, kept, limit; /* bytes: handed out, most of that so far, kept in pages of ours, most of these */
  int64_t count, clock;            /* pieces kept, times that one was given back */
  piece *first;                    /* kept, by address */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .limit = (int64_t)256 << 20};

/* A child finds the pool whole, whatever other threads were about when it was forked. */
static void before_fork(void) { pthread_mutex_lock(&pool.lock); }
static void after_fork(void) { pthread_mutex_unlock(&pool.lock); }
static void after_fork_in_child(void) { pthread_mutex_init(&pool.lock, NULL); }
static void register_fork_handlers(void) { pthread_atfork(before_fork, after_fork, after_fork_in_child); }

/* These five with the lock held. */

static void keep(piece *p, piece **link) {
  p->next = *link;
  *link = p;
  pool.kept += p->size - p->gone;
  pool.count++;
}

static piece *take_out(piece **link) {
  piece *p = *link;
  *link = p->next;
  pool.kept -= p->size - p->gone;
  pool.count--;
  return p;
}

/* The smallest piece that serves; what it has over is kept, unless that is less than an eighth, or a page. */
static piece *find_kept(int64_t total) {
  piece **best = NULL;
  for (piece **link = &pool.first; *link; link = &(*link)->next) {
    const piece *p = *link;
    if (p->size >= total && p->region / LEAST_PART <= total && (!best || p->size < (*best)->size)) best = link;
  }
  if (!best) return NULL;
  piece *p = take_out(best);
  const int64_t over = p->size - total, gone = vox_max(0, p->gone - total);
  p->gone = 0;
  if (over > total / 8 + 4096) {
    piece *rest = (piece *)((char *)p + total);
    *rest = (piece){.size = over, .region = p->region, .age = p->age, .gone = gone};
    p->size = total;
    keep(rest, best);
  }
  return p;
}

/* Of a region that is in use no piece can go, but its whole pages can: the next owner finds zeros there.  The oldest such
 * piece's; 0 if there is none. */
static int return_pages(void) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  piece *oldest = NULL;
  int64_t bytes = 0;
  for (piece *p = pool.first; p; p = p->next) {
    const int64_t whole = p->size - VOX_ALIGN - 2 * page; /* no more of them are partial, wherever it lies */
    if (whole > p->gone && (!oldest || p->age < oldest->age)) oldest = p, bytes = whole;
  }
  if (!oldest) return 0;
  const int64_t start = vox_round_up((intptr_t)oldest + VOX_ALIGN, page), end = (intptr_t)oldest + oldest->size;
  if (madvise((void *)start, (size_t)(end - end % page - start), MADV_DONTNEED)) return 0;
  pool.kept -= bytes - oldest->gone;
  oldest->gone = bytes;
  return 1;
}

/* Join what lies beside each other in a region; then the oldest whole regions go that are too many.  Returns these. */
static piece *give_back(piece *p) {
  piece **link = &pool.first, **before = NULL, *out = NULL;
  for (; *link && (uintptr_t)*link < (uintptr_t)p; link = &(*link)->next) before = link;
  p->age = ++pool.clock;
  if (*link && (char *)p + p->size == (char *)*link && !(*link)->first) {
    piece *upper = take_out(link);
    p->size += upper->size;
    p->gone += upper->gone;
  }
  if (before && (char *)*before + (*before)->size == (char *)p && !p->first) {
    piece *lower = take_out(before);
    lower->size += p->size;
    lower->gone += p->gone;
    lower->age = p->age;
    p = lower;
    link = before;
  }
  keep(p, link);
  while (pool.count > MOST_KEPT || pool.kept > pool.limit) {
    piece **oldest = NULL;
    for (link = &pool.first; *link; link = &(*link)->next)
      if ((*link)->size == (*link)->region && (!oldest || (*link)->age < (*oldest)->age)) oldest = link;
    if (!oldest) break;
    p = take_out(oldest);
    p->next = out;
    out = p;
  }
  while (pool.kept > pool.limit && return_pages()) {
  }
  return out;
}

static void return_to_system(piece *p) {
  while (p) {
    piece *next = p->next;
    free(p);
    p = next;
  }
}

/* A region of its own.  Memory that pages of 2 MiB can hold asks for them. */
static piece *fresh(int64_t total) {
  const int64_t align = total >= 2 * HUGE_PAGE ? HUGE_PAGE : VOX_ALIGN;
  void *region; /* aligned_alloc of C11 wants multiples of such an alignment */
  if (posix_memalign(&region, (size_t)align, (size_t)total)) return NULL;
#if defined(MADV_HUGEPAGE)
  if (align == HUGE_PAGE) madvise(region, (size_t)(total - total % HUGE_PAGE), MADV_HUGEPAGE);
#endif
  *(piece *)region = (piece){.size = total, .region = total, .first = 1};
  return region;
}

void *vox_alloc(int64_t bytes) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  int64_t total;
  if (bytes < 0 || __builtin_add_overflow(bytes, 2 * VOX_ALIGN - 1, &total)) return NULL;
  total -= total % VOX_ALIGN;
  pthread_once(&once, register_fork_handlers);
  pthread_mutex_lock(&pool.lock);
  piece *p = find_kept(total);
  pthread_mutex_unlock(&pool.lock);
  if (!p) p = fresh(total);
  if (!p) {
    vox_release_memory();
    p = fresh(total);
  }
  if (!p) return NULL;
  pthread_mutex_lock(&pool.lock);
  pool.live += p->size;
  pool.peak = vox_max(pool.peak, pool.live);
  pthread_mutex_unlock(&pool.lock);
  return (char *)p + VOX_ALIGN;
}

void vox_free(void *memory) {
  if (!memory) return;
  piece *p = (piece *)((char *)memory - VOX_ALIGN);
  pthread_mutex_lock(&pool.lock);
  pool.live -= p->size;
  piece *out = give_back(p);
  pthread_mutex_unlock(&pool.lock);
  return_to_system(out);
}

void vox_release_memory(void) {
  piece *out = NULL;
  pthread_mutex_lock(&pool.lock);
  for (piece **link = &pool.first; *link;) {
    if ((*link)->size == (*link)->region) {
      piece *p = take_out(link);
      p->next = out;
      out = p;
    } else {
      link = &(*link)->next;
    }
  }
  while (return_pages()) {
  }
  pthread_mutex_unlock(&pool.lock);
  return_to_system(out);
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
