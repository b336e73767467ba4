/* Max-pooling of rows of one plane, of any element type:
 *
 *   y[p] = max over taps t inside the plane of  x[p * stride - pad + t * dilation],   index[p] = where
 *
 * Taps are visited row-major; one replaces the maximum if it is greater or not a number, so a tie keeps the first and a
 * NaN stays.  Padding is never looked at.  Includers define `elem` and ELEM_IS_FLOAT; where they also define
 * ELEM_VECTORS, windows that lie inside their rows go through vectors of `real` == elem. */

typedef struct pool_rows {
  const elem *first;            /* first row that the window sees, in the first slice that it sees */
  int64_t slices, slice_stride; /* in elements, dilation included */
  int64_t rows, row_stride;
  int64_t at;                   /* index of `first` in the plane */
} pool_rows;

static inline int is_nan(elem v) {
#if ELEM_IS_FLOAT
  return v != v;
#else
  (void)v;
  return 0;
#endif
}

/* One window: columns first_col + j * dilation for j < taps, all inside. */
static inline void max_window(const pool_rows *r, int64_t first_col, int64_t taps, int64_t dilation, elem *y,
                              int64_t *index) {
  elem best = r->first[first_col];
  int64_t where = first_col;
  for (int64_t s = 0; s < r->slices; s++)
    for (int64_t h = 0; h < r->rows; h++)
      for (int64_t j = 0; j < taps; j++) {
        int64_t at = s * r->slice_stride + h * r->row_stride + first_col + j * dilation;
        elem v = r->first[at];
        if (v > best || is_nan(v)) {
          best = v;
          where = at;
        }
      }
  *y = best;
  if (index) *index = r->at + where;
}

#ifdef ELEM_VECTORS
INLINE vec load_step(const real *p, int64_t step, int64_t n) {
  if (step == 1) return n == LANES ? v_load(p) : v_load_n(p, n);
  if (step == 2) return v_load_stride2(p, n);
  vec v = v_zero();
  for (int64_t i = 0; i < n; i++) v[i] = p[i * step];
  return v;
}

/* n <= LANES neighbouring windows from column `col` on, all their taps inside. */
INLINE void max_windows(const pool_rows *r, int64_t col, int64_t taps, int64_t dilation, int64_t step, int64_t n,
                        int with_index, real *y, int64_t *index) {
  vec best = load_step(r->first + col, step, n);
  ivec where = {0};
  for (int64_t s = 0; s < r->slices; s++)
    for (int64_t h = 0; h < r->rows; h++) {
      int64_t at = s * r->slice_stride + h * r->row_stride;
      for (int64_t j = 0; j < taps; j++, at += dilation) {
        vec v = load_step(r->first + at + col, step, n);
        vmask better = v_replaces(v, best);
        best = v_select(better, v, best);
        if (with_index) where = v_select_int(better, (ivec){0} + (lane_int)at, where);
      }
    }
  if (n == LANES)
    v_store(y, best);
  else
    v_store_n(y, best, n);
  if (with_index) v_store_index(index, r->at + col, step, where, n);
}

INLINE void max_row(const pool_rows *r, int64_t col, int64_t taps, int64_t dilation, int64_t step, int64_t count,
                    int with_index, real *y, int64_t *index) {
  for (int64_t i = 0; i < count; i += LANES)
    max_windows(r, col + i * step, taps, dilation, step, vox_min(LANES, count - i), with_index, y + i,
                with_index ? index + i : 0);
}
#endif

/* Taps of an axis that lie inside, for the window at `start`: most windows are, and then no division is needed. */
static inline void axis_taps(int64_t size, int64_t dilation, int64_t start, int64_t taps, int64_t *first, int64_t *last) {
  *first = 0;
  *last = taps;
  if (start < 0 || start + (taps - 1) * dilation >= size) vox_inside(size, dilation, start, taps, first, last);
}

static void max_pool(const vox_window *p, const vox_box *box, const void *x_, void *y_, int64_t *indices) {
  const int64_t *size = p->spatial, *out = p->output;
  const elem *x = (const elem *)x_ + box->plane * size[0] * size[1] * size[2];
  const int64_t taps = p->kernel[2], step = p->stride[2], dilation = p->dilation[2], span = (taps - 1) * dilation;
  /* columns whose windows lie inside the row: the first tap from `inner` on, the last tap before `outer` */
  int64_t inner, outer, ignored;
  vox_inside(size[2], step, -p->pad[2], out[2], &inner, &ignored);
  vox_inside(size[2], step, span - p->pad[2], out[2], &ignored, &outer);
  inner = vox_min(vox_max(inner, box->first[2]), box->last[2]);
  outer = vox_max(inner, vox_min(outer, box->last[2]));

  const int64_t height = box->last[1] - box->first[1], rows = (box->last[0] - box->first[0]) * height;
  for (int64_t i = 0; i < rows; i++) {
    int64_t slice = box->first[0] + i / height, row = box->first[1] + i % height;
    int64_t d = slice * p->stride[0] - p->pad[0], h = row * p->stride[1] - p->pad[1];
    int64_t d0, d1, h0, h1;
    axis_taps(size[0], p->dilation[0], d, p->kernel[0], &d0, &d1);
    axis_taps(size[1], p->dilation[1], h, p->kernel[1], &h0, &h1);
    pool_rows r = {.slices = d1 - d0, .rows = h1 - h0};
    r.at = ((d + d0 * p->dilation[0]) * size[1] + h + h0 * p->dilation[1]) * size[2];
    r.first = x + r.at;
    /* a single slice or row has no neighbour, and its stride may not be representable */
    r.slice_stride = r.slices > 1 ? p->dilation[0] * size[1] * size[2] : 0;
    r.row_stride = r.rows > 1 ? p->dilation[1] * size[2] : 0;
    const int64_t start = ((box->plane * out[0] + slice) * out[1] + row) * out[2];
    elem *y = (elem *)y_ + start;
    int64_t *index = indices ? indices + start : 0;

    int64_t vectors = 0;
#ifdef ELEM_VECTORS
    int64_t reach = (r.slices - 1) * r.slice_stride + (r.rows - 1) * r.row_stride + span;
    if (reach <= INT32_MAX) {
      vectors = outer - inner;
      int64_t col = inner * step - p->pad[2];
      real *to = y + inner;
      int64_t *places = index ? index + inner : 0;
      /* common windows with their sizes known to the compiler */
      if (taps == 2 && step == 2 && dilation == 1 && index)
        max_row(&r, col, 2, 1, 2, vectors, 1, to, places);
      else if (taps == 2 && step == 2 && dilation == 1)
        max_row(&r, col, 2, 1, 2, vectors, 0, to, places);
      else if (taps == 3 && step == 2 && dilation == 1 && index)
        max_row(&r, col, 3, 1, 2, vectors, 1, to, places);
      else if (step == 1 && index)
        max_row(&r, col, taps, dilation, 1, vectors, 1, to, places);
      else if (index)
        max_row(&r, col, taps, dilation, step, vectors, 1, to, places);
      else
        max_row(&r, col, taps, dilation, step, vectors, 0, to, places);
    }
#endif
    for (int64_t w = box->first[2]; w < box->last[2]; w++) {
      if (w == inner) w += vectors;
      if (w >= box->last[2]) break;
      int64_t first, last, col = w * step - p->pad[2];
      vox_inside(size[2], dilation, col, taps, &first, &last);
      max_window(&r, col + first * dilation, last - first, dilation, y + w, index ? index + w : 0);
    }
  }
}
