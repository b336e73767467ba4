/* One element type, any of the ten, without vectors: what pooling needs beside the floating kernels.  The build defines
 * VOX_ELEM, ELEM_IS_FLOAT and VOX_UNIT, the table's symbol. */
#include <string.h>

#include "problem.h"

typedef VOX_ELEM elem;
#include "kernels/max_pool.h"

/* out[index] = or += value, in order, for one plane.  Returns whether every index was inside of it.  Aligned: the loop is
 * slower by a fifth where it straddles two lines of code. */
__attribute__((aligned(64))) static int scatter(int64_t count, int64_t size, int accumulate, const void *values_,
                                                const int64_t *indices, void *out_) {
  const elem *values = values_;
  elem *out = out_;
  int inside = 1;
  memset(out, 0, (size_t)size * sizeof(elem));
  if (accumulate) {
    for (int64_t i = 0; i < count; i++) {
      const uint64_t at = (uint64_t)indices[i];
      if (at < (uint64_t)size)
        out[at] = (elem)(out[at] + values[i]);
      else
        inside = 0;
    }
  } else {
    for (int64_t i = 0; i < count; i++) {
      const uint64_t at = (uint64_t)indices[i];
      if (at < (uint64_t)size)
        out[at] = values[i];
      else
        inside = 0;
    }
  }
  return inside;
}

const vox_elem_unit VOX_UNIT = {.size = sizeof(elem), .max_pool = max_pool, .scatter = scatter};
