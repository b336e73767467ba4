/* The one allocator: aligned, counted. */
#include <stdatomic.h>
#include <stdlib.h>

#include "problem.h"

static _Atomic int64_t live, peak;

/* Each block is preceded by a line that holds its size. */
void *vox_alloc(int64_t bytes) {
  int64_t total;
  if (bytes < 0 || __builtin_add_overflow(bytes, 2 * VOX_ALIGN - 1, &total)) return NULL;
  total -= total % VOX_ALIGN;
  char *block = aligned_alloc(VOX_ALIGN, (size_t)total);
  if (!block) return NULL;
  *(int64_t *)block = total;
  int64_t now = atomic_fetch_add(&live, total) + total, before = atomic_load(&peak);
  while (now > before && !atomic_compare_exchange_weak(&peak, &before, now)) {
  }
  return block + VOX_ALIGN;
}

void vox_free(void *memory) {
  if (!memory) return;
  char *block = (char *)memory - VOX_ALIGN;
  atomic_fetch_sub(&live, *(int64_t *)block);
  free(block);
}

int64_t vox_live_bytes(void) { return atomic_load(&live); }
int64_t vox_peak_bytes(void) { return atomic_load(&peak); }
void vox_reset_peak(void) { atomic_store(&peak, atomic_load(&live)); }
