/* The library's own threads: started at the first call that wants them, safe under fork, never two regions at once.
 *
 * A caller opens a job, works on it itself, closes it, and waits only for workers that are inside.  A worker that
 * sleeps is woken but never waited for, so a small job costs what it costs alone.  Items are handed out in order from
 * one counter; no result depends on who takes which. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "problem.h"

enum { MOST_WORKERS = 255, CLOSED = 1 << 16 };

/* Measured on virtual machines: waking a sleeping thread takes 50 to 100 microseconds, so a worker spins for half a
 * millisecond of idleness first, what Python takes between two layers.  It yields meanwhile: the kernel sometimes puts
 * worker and caller on one processor, and then spinning alone would keep the caller from running. */
static const int64_t SPIN_NS = 500 * 1000, SPIN_BEFORE_YIELD_NS = 3000, SLICE_NS = 50 * 1000 * 1000;

static struct {
  pthread_mutex_t region; /* held by the caller whose job runs */
  pthread_mutex_t sleep;
  pthread_cond_t wake;
  _Atomic uint64_t generation; /* jobs opened so far */
  _Atomic int sleepers;
  _Atomic int state; /* workers inside, plus CLOSED while no job is open */
  int workers;       /* guarded by region */

  vox_body *body;
  void *context;
  int64_t items, threads, slice_end;
  _Atomic int64_t next;
} pool = {.region = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER,
          .state = CLOSED};

static _Atomic int64_t requested = 1;
static _Thread_local int in_region;

void vox_set_num_threads(int64_t threads) { atomic_store(&requested, vox_max(1, vox_min(threads, MOST_WORKERS + 1))); }
int64_t vox_get_num_threads(void) { return atomic_load(&requested); }

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/* The end of a call's time slice, if the call begins now. */
int64_t vox_slice_end(void) { return now_ns() + SLICE_NS; }

/* An item that was taken is always finished, so *next divides done from not begun.  At least one is taken, however
 * late: a call always gets on. */
static void work(int64_t slot) {
  do {
    int64_t item = atomic_fetch_add(&pool.next, 1);
    if (item >= pool.items) return;
    pool.body(pool.context, item, slot);
  } while (now_ns() < pool.slice_end);
}

static void wait_for(uint64_t seen) {
  int64_t start = now_ns();
  for (int64_t waited = 0; waited < SPIN_NS; waited = now_ns() - start) {
    for (int i = 0; i < 64; i++) {
      if (atomic_load(&pool.generation) != seen) return;
      pause_briefly();
    }
    if (waited > SPIN_BEFORE_YIELD_NS) sched_yield();
  }
  pthread_mutex_lock(&pool.sleep);
  atomic_fetch_add(&pool.sleepers, 1);
  while (atomic_load(&pool.generation) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
  atomic_fetch_sub(&pool.sleepers, 1);
  pthread_mutex_unlock(&pool.sleep);
}

static void *worker(void *argument) {
  const int64_t slot = (int64_t)(intptr_t)argument;
  uint64_t seen = 0;
  in_region = 1;
  for (;;) {
    wait_for(seen);
    seen = atomic_load(&pool.generation);
    if (!(atomic_fetch_add(&pool.state, 1) & CLOSED) && slot < pool.threads) work(slot);
    atomic_fetch_sub(&pool.state, 1);
  }
  return NULL;
}

static void before_fork(void) { pthread_mutex_lock(&pool.region); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&pool.region); }
/* The child has the forking thread alone: its pool starts anew. */
static void after_fork_in_child(void) {
  pthread_mutex_init(&pool.region, NULL);
  pthread_mutex_init(&pool.sleep, NULL);
  pthread_cond_init(&pool.wake, NULL);
  pool.workers = 0;
  atomic_store(&pool.sleepers, 0);
  atomic_store(&pool.state, CLOSED);
}

static void register_fork_handlers(void) { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }

/* As many workers as wanted, or as the system grants: fewer threads give the same bits.  Workers take no signal, so
 * handlers run where the program expects them. */
static void start_workers(int64_t wanted) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_fork_handlers);
  sigset_t all, before;
  pthread_attr_t attributes;
  if (pool.workers >= wanted || pthread_attr_init(&attributes)) return;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 256 * 1024);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool.workers < wanted) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, worker, (void *)(intptr_t)(pool.workers + 1))) break;
    pool.workers++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
}

int vox_parallel(int64_t items, int64_t threads, int64_t slice_end, vox_body *body, void *context, int64_t *cursor) {
  const int64_t left = items - *cursor;
  threads = vox_min(vox_min(threads, left), MOST_WORKERS + 1);
  if (threads < 2 || in_region || pthread_mutex_trylock(&pool.region)) {
    /* one thread, or inside another region: serially, in slot 0 */
    while (*cursor < items) {
      body(context, (*cursor)++, 0);
      if (now_ns() >= slice_end) break;
    }
    return *cursor < items ? VOX_AGAIN : VOX_OK;
  }
  start_workers(threads - 1);
  pool.body = body;
  pool.context = context;
  pool.items = items;
  pool.threads = threads;
  pool.slice_end = slice_end;
  atomic_store(&pool.next, *cursor);
  atomic_fetch_and(&pool.state, ~CLOSED);
  atomic_fetch_add(&pool.generation, 1);
  if (atomic_load(&pool.sleepers)) {
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
  }
  in_region = 1;
  work(0);
  in_region = 0;
  atomic_fetch_or(&pool.state, CLOSED);
  int64_t start = now_ns();
  while (atomic_load(&pool.state) & ~CLOSED) {
    pause_briefly();
    if (now_ns() - start > SPIN_BEFORE_YIELD_NS) sched_yield();
  }
  *cursor = vox_min(items, atomic_load(&pool.next));
  pthread_mutex_unlock(&pool.region);
  return *cursor < items ? VOX_AGAIN : VOX_OK;
}

int vox_share(int64_t items, int64_t threads, void (*body)(void *context, int64_t item, int64_t slot), void *context,
              int64_t *cursor) {
  if (items < 0 || threads < 1 || *cursor < 0) return VOX_INVALID;
  return vox_parallel(items, threads, vox_slice_end(), body, context, cursor);
}
