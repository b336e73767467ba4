/* An optimiser's step: arrays of any sizes, cut into pieces that are shared out. */
#include "../problem.h"

enum { PIECE = 1 << 14 };

typedef struct {
  const vox_unit *unit;
  const vox_descent *descent;
  const vox_learned *learned;
} descend_call;

static void descend_body(void *context, int64_t item, int64_t slot) {
  const descend_call *call = context;
  const vox_learned *a = call->learned;
  (void)slot;
  for (int64_t pieces; item >= (pieces = vox_ceil_div(a->size, PIECE)); a++) item -= pieces;
  call->unit->descend(call->descent, a, item * PIECE, vox_min(a->size, (item + 1) * PIECE));
}

int vox_descend(int32_t type, int64_t threads, const vox_descent *descent, int64_t count, const vox_learned *learned,
                int64_t *cursor) {
  const descend_call call = {vox_unit_used(type), descent, learned};
  int64_t items = 0;
  if (!call.unit || count < 0 || (descent->rule != VOX_SGD && descent->rule != VOX_ADAM)) return VOX_INVALID;
  for (int64_t i = 0; i < count; i++) {
    if (learned[i].size < 0 || (descent->rule == VOX_ADAM && learned[i].size && (!learned[i].mean || !learned[i].square)))
      return VOX_INVALID;
    if (__builtin_add_overflow(items, vox_ceil_div(learned[i].size, PIECE), &items)) return VOX_OVERFLOW;
  }
  return vox_parallel(items, threads, vox_slice_end(), descend_body, (void *)&call, cursor);
}
