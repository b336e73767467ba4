/* One element type, any of the ten, without vectors: what pooling needs beside the floating kernels.  The build defines
 * VOX_ELEM, ELEM_IS_FLOAT and VOX_UNIT, the table's symbol. */
#include <string.h>

#include "problem.h"

typedef VOX_ELEM elem;
#include "kernels/max_pool.h"

/* out[index] = or += value, in order, for one plane.  Returns whether every index was inside of it.  Aligned: the loop is
 * slower by a fifth where it straddles two lines of code. */
__attribute__((aligned(64), noinline)) static int scatter_plane(int64_t count, int64_t size, int accumulate,
                                                                const elem *values, const int64_t *indices, elem *out) {
  int inside = 1;
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
/* out[index] += value for some planes in turns: what is added at one place has to land there before the next is, while the
 * other planes go on. */
enum { IN_TURNS = 4, SMALL_BYTES = 8 * 1024 };
__attribute__((aligned(64), noinline)) static int scatter_planes(int64_t count, int64_t size, const elem *values,
                                                                 const int64_t *indices, elem *out) {
  int inside = 1;
  for (int64_t i = 0; i < count; i++, values++, indices++)
    for (int j = 0; j < IN_TURNS; j++) {
      const uint64_t at = (uint64_t)indices[j * count];
      elem *plane = out + j * size;
      if (at < (uint64_t)size)
        plane[at] = (elem)(plane[at] + values[j * count]);
      else
        inside = 0;
    }
  return inside;
}
static int scatter(int64_t planes, int64_t count, int64_t size, int accumulate, const void *values_, const int64_t *indices,
                   void *out_) {
  const elem *values = values_;
  elem *out = out_;
  const int small = accumulate && size * (int64_t)sizeof(elem) <= SMALL_BYTES;
  int inside = 1;
  for (int64_t n; planes; planes -= n, values += n * count, indices += n * count, out += n * size) {
    n = small && planes >= IN_TURNS ? IN_TURNS : 1;
    memset(out, 0, (size_t)(n * size) * sizeof(elem));
    inside &= n > 1 ? scatter_planes(count, size, values, indices, out)
                    : scatter_plane(count, size, accumulate, values, indices, out);
  }
  return inside;
}

const vox_elem_unit VOX_UNIT = {.size = sizeof(elem), .max_pool = max_pool, .scatter = scatter};
