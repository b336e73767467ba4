/* The one allocator: aligned, counted, and keeping what is given back for later requests, since fresh pages cost more
 * than the arithmetic of many a layer. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "problem.h"

enum { MOST_KEPT = 128, LEAST_REST = 4096 }; /* pieces; bytes of one that is cut off */
static const int64_t HUGE_PAGE = 2 << 20, SHARED = (int64_t)256 << 20;

/* Memory comes from the system in regions, which begin with a line that says so much of them.  Requests share one, of which
 * only what they have reached takes memory; where pieces lie side by side, what they leave can serve a larger one.  Requests
 * that are large beside it have regions of their own, and later, smaller ones may take a piece. */
typedef struct region {
  int64_t size, used; /* bytes with this line: of addresses, and up to the end of the last piece */
  int shared;
} region;

/* Each piece begins with a line, too: */
typedef struct piece {
  int64_t size; /* bytes with this line */
  region *region;
  int64_t age;        /* when it was given back */
  int64_t gone;       /* while it is kept: bytes whose pages the system has back */
  struct piece *next; /* the next one that is kept, by address */
} piece;
_Static_assert(sizeof(region) <= VOX_ALIGN && sizeof(piece) <= VOX_ALIGN, "both begin with one line");

/* Of a region that is not shared a piece is at least this part: so much at most can a small one that stays hold back. */
enum { LEAST_PART = 8 };

static struct {
  pthread_mutex_t lock;
  int64_t live, peak, kept, limit; /* bytes: handed out, most of that so far, kept in pages of ours, most of these */
  int64_t count, clock;            /* pieces kept, times that one was given back */
  piece *first;                    /* kept, by address */
  region *growing;                 /* the shared one that is not full, or NULL */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .limit = (int64_t)256 << 20};

/* A child finds the pool whole, whatever other threads were about when it was forked. */
static void before_fork(void) { pthread_mutex_lock(&pool.lock); }
static void after_fork(void) { pthread_mutex_unlock(&pool.lock); }
static void after_fork_in_child(void) { pthread_mutex_init(&pool.lock, NULL); }
static void register_fork_handlers(void) { pthread_atfork(before_fork, after_fork, after_fork_in_child); }

/* These with the lock held. */

static int ends_region(const piece *p) { return (char *)p + p->size == (char *)p->region + p->region->used; }
static int is_region(const piece *p) { return (char *)p == (char *)p->region + VOX_ALIGN && ends_region(p); }

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

/* The smallest piece that serves; what it has over is kept, unless that is less than a page. */
static piece *find_kept(int64_t total) {
  piece **best = NULL;
  for (piece **link = &pool.first; *link; link = &(*link)->next) {
    const piece *p = *link;
    const int allowed = p->region->shared || p->region->size / LEAST_PART <= total;
    if (p->size >= total && allowed && (!best || p->size < (*best)->size)) best = link;
  }
  if (!best) return NULL;
  piece *p = take_out(best);
  const int64_t over = p->size - total, gone = vox_max(0, p->gone - total);
  p->gone = 0;
  if (over > LEAST_REST) {
    piece *rest = (piece *)((char *)p + total);
    *rest = (piece){.size = over, .region = p->region, .age = p->age, .gone = gone};
    p->size = total;
    keep(rest, best);
  }
  return p;
}

/* More of the shared region, from the piece on that was its last. */
static piece *grow(int64_t total) {
  region *r = pool.growing;
  piece **last = NULL;
  if (!r) return NULL;
  for (piece **link = &pool.first; *link; link = &(*link)->next)
    if ((*link)->region == r && ends_region(*link)) last = link;
  const int64_t before = last ? r->used - (*last)->size : r->used;
  if (before + total > r->size) return NULL;
  if (last) take_out(last);
#if defined(MADV_HUGEPAGE)
  if (r->used < 2 * HUGE_PAGE && before + total >= 2 * HUGE_PAGE) madvise(r, (size_t)r->size, MADV_HUGEPAGE);
#endif
  piece *p = (piece *)((char *)r + before);
  *p = (piece){.size = total, .region = r};
  r->used = before + total;
  return p;
}

/* The whole pages of a piece behind its line; the next owner finds zeros there.  0 where the system does not take them. */
static int discard(const piece *p, int64_t page) {
  const int64_t start = vox_round_up((intptr_t)p + VOX_ALIGN, page), end = (intptr_t)p + p->size;
  return end - end % page <= start || !madvise((void *)start, (size_t)(end - end % page - start), MADV_DONTNEED);
}

/* Of a region that is in use no piece can go, but its pages can.  The oldest such piece's; 0 if there is none. */
static int return_pages(void) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  piece *oldest = NULL;
  int64_t bytes = 0;
  for (piece *p = pool.first; p; p = p->next) {
    const int64_t whole = p->size - VOX_ALIGN - 2 * page; /* no more of them are partial, wherever it lies */
    if (whole > p->gone && (!oldest || p->age < oldest->age)) oldest = p, bytes = whole;
  }
  if (!oldest) return 0;
  if (!discard(oldest, page)) return 0;
  pool.kept -= bytes - oldest->gone;
  oldest->gone = bytes;
  return 1;
}

/* A region that is one piece, to be returned to the system with those that are `out` already. */
static piece *take_region(piece **link, piece *out) {
  piece *p = take_out(link);
  if (p->region == pool.growing) pool.growing = NULL;
  p->next = out;
  return p;
}

/* Join what lies side by side, which is never in two regions, for these begin with their lines; then the oldest whole regions
 * go that are too many.  Returns these. */
static piece *give_back(piece *p) {
  piece **link = &pool.first, **before = NULL, *out = NULL;
  for (; *link && (uintptr_t)*link < (uintptr_t)p; link = &(*link)->next) before = link;
  p->age = ++pool.clock;
  if (*link && (char *)p + p->size == (char *)*link) {
    piece *upper = take_out(link);
    p->size += upper->size;
    p->gone += upper->gone;
  }
  if (before && (char *)*before + (*before)->size == (char *)p) {
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
      if (is_region(*link) && (!oldest || (*link)->age < (*oldest)->age)) oldest = link;
    if (!oldest) break;
    out = take_region(oldest, out);
  }
  while (pool.kept > pool.limit && return_pages()) {
  }
  return out;
}

static void return_to_system(piece *p) {
  while (p) {
    piece *next = p->next;
    free(p->region);
    p = next;
  }
}

/* A new region, shared if the request is small beside it and there is room for that.  Memory that pages of 2 MiB can hold asks
 * for them. */
static piece *fresh(int64_t total) {
  void *memory = NULL;
  int shared = total <= SHARED / LEAST_PART;
  if (total > INT64_MAX - VOX_ALIGN) return NULL;
  /* aligned_alloc of C11 wants multiples of such an alignment */
  if (shared && posix_memalign(&memory, (size_t)HUGE_PAGE, (size_t)SHARED)) shared = 0;
  const int64_t size = shared ? SHARED : total + VOX_ALIGN, align = size >= 2 * HUGE_PAGE ? HUGE_PAGE : VOX_ALIGN;
  if (!shared && posix_memalign(&memory, (size_t)align, (size_t)size)) return NULL;
#if defined(MADV_HUGEPAGE)
  if (total >= 2 * HUGE_PAGE) madvise(memory, (size_t)(size - size % HUGE_PAGE), MADV_HUGEPAGE);
#endif
  region *r = memory;
  piece *p = (piece *)((char *)memory + VOX_ALIGN);
  *r = (region){.size = size, .used = total + VOX_ALIGN, .shared = shared};
  *p = (piece){.size = total, .region = r};
  return p;
}

void *vox_alloc(int64_t bytes) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  int64_t total;
  if (bytes < 0 || __builtin_add_overflow(bytes, 2 * VOX_ALIGN - 1, &total)) return NULL;
  total -= total % VOX_ALIGN;
  pthread_once(&once, register_fork_handlers);
  pthread_mutex_lock(&pool.lock);
  piece *p = find_kept(total), *made = NULL;
  if (!p && total <= SHARED / LEAST_PART) p = grow(total);
  pthread_mutex_unlock(&pool.lock);
  if (!p) p = made = fresh(total);
  if (!p) {
    vox_release_memory();
    p = made = fresh(total);
  }
  if (!p) return NULL;
  pthread_mutex_lock(&pool.lock);
  if (made && made->region->shared) pool.growing = made->region;
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
  const int64_t page = sysconf(_SC_PAGESIZE);
  piece *out = NULL;
  pthread_mutex_lock(&pool.lock);
  for (piece **link = &pool.first; *link;) {
    piece *p = *link;
    if (is_region(p)) {
      out = take_region(link, out);
    } else if (p->region->shared && ends_region(p) && discard(p, page)) { /* as if it had never been reached */
      p->region->used -= take_out(link)->size;
    } else {
      link = &p->next;
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
