/* Max-pooling of rows of one plane, of any element type:
 *
 *   y[p] = max over taps t inside the plane of  x[p * stride - pad + t * dilation],   index[p] = where
 *
 * Taps are visited row-major; one replaces the maximum if it is greater or not a number, so a tie keeps the first and a
 * NaN stays.  Padding is never looked at.  Includers define `elem` and ELEM_IS_FLOAT; where they also define
 * ELEM_VECTORS, rows go through vectors of `real` == elem, LANES neighbouring windows at a time. */

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

/* Taps of an axis that lie inside, for the window at `start`: most windows are, and then no division is needed. */
static inline void axis_taps(int64_t size, int64_t dilation, int64_t start, int64_t taps, int64_t *first, int64_t *last) {
  *first = 0;
  *last = taps;
  if (start < 0 || start + (taps - 1) * dilation >= size) vox_inside(size, dilation, start, taps, first, last);
}

/* What windows in output row (slice, row) see of the plane x. */
static inline pool_rows pool_rows_of(const vox_window *p, const elem *x, int64_t slice, int64_t row) {
  const int64_t *size = p->spatial;
  int64_t d = slice * p->stride[0] - p->pad[0], h = row * p->stride[1] - p->pad[1], d0, d1, h0, h1;
  axis_taps(size[0], p->dilation[0], d, p->kernel[0], &d0, &d1);
  axis_taps(size[1], p->dilation[1], h, p->kernel[1], &h0, &h1);
  pool_rows r = {.slices = d1 - d0, .rows = h1 - h0};
  r.at = ((d + d0 * p->dilation[0]) * size[1] + h + h0 * p->dilation[1]) * size[2];
  r.first = x + r.at;
  /* a single slice or row has no neighbour, and its stride may not be representable */
  r.slice_stride = r.slices > 1 ? p->dilation[0] * size[1] * size[2] : 0;
  r.row_stride = r.rows > 1 ? p->dilation[1] * size[2] : 0;
  return r;
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
/* How a maximum is kept: the fast way loses a NaN, but sees that there was one. */
enum { FAST = 0, CAREFUL = 1 };

enum { MOST_LOADS = 16 };
/* LANES windows beside each other, of which n are wanted: taps before `low` or from `high` on, counted from the first
 * window's first, are outside of the row.  The first inside of each window is `start`. */
typedef struct pool_block {
  int64_t col, low, high, n;
  int64_t taps, step, dilation;
  ivec start;
  const vmask *inside; /* at step 1, the lanes of each of the first MOST_LOADS taps that are in the row */
} pool_block;

/* Taps [base, base + form) of a row, LANES windows each, as they lie in memory from the block's first column on; outside of
 * the row -inf. */
INLINE void pool_load(const pool_block *b, const real *from_col, int64_t base, const int form, const int edge, vec *raw) {
  const vec least = v_set1(-(real)__builtin_inff());
  const int64_t at = base * b->dilation;
  if (form == ONE_BY_ONE) {
    raw[0] = least;
    for (int64_t i = vox_ceil_div(vox_max(0, b->low - at), b->step); i < LANES && at + i * b->step < b->high; i++)
      raw[0][i] = from_col[at + i * b->step];
    return;
  }
  UNROLL for (int i = 0; i < form; i++) {
    const int64_t from = at + i * LANES;
    const real *p = from_col + from;
    if (!edge)
      raw[i] = v_load(p);
    else if (form == 1 && base < MOST_LOADS)
      raw[i] = v_load_masked_or(p, b->inside[base], least);
    else
      raw[i] = v_load_range(p, b->low - from, b->high - from, least);
  }
}

/* What a fast maximum might have lost: a NaN among the vectors of a load, two of them at a time. */
INLINE ivec pool_nan(const int form, const vec *raw, ivec nan) {
  nan = v_mark(nan, v_unordered(raw[0], raw[form >= 2]));
  return form > 2 ? v_mark(nan, v_unordered(raw[2], raw[form - 1])) : nan;
}

/* From one row that a window sees to the next, by slices. */
INLINE int64_t next_row(const pool_rows *r, int64_t i, int64_t *h) {
  if (++*h < r->rows) return i + r->row_stride;
  *h = 0;
  return i + r->slice_stride - (r->rows - 1) * r->row_stride;
}

/* One row's taps against the best before, or, if they are the `first`, instead of it.  `where`, if `places` are wanted,
 * counts from a window's first tap in its first row. */
INLINE void max_taps(const pool_block *b, const real *row, int64_t at, const int form, const int edge, const int care,
                     const int places, const int first, vec *best, ivec *where, ivec *nan) {
  const int wide = form ? form : 1;
  const real *from = p_opaque(row + b->col);
  for (int64_t base = 0; base < b->taps; base += wide) {
    vec raw[MOST_SHUFFLED], tap[MOST_SHUFFLED];
    pool_load(b, from, base, form, edge, raw);
    if (!care) *nan = pool_nan(form, raw, *nan);
    pool_taps(form, raw, tap);
    UNROLL for (int j = 0; j < wide; j++) {
      if (base + j >= b->taps) break;
      if (first && base + j == 0) {
        *best = tap[0];
        continue;
      }
      vmask better = care ? v_replaces(tap[j], *best) : v_greater(tap[j], *best);
      *best = care ? v_select(better, tap[j], *best) : v_max(tap[j], *best);
      if (places) *where = v_select_int(better, (ivec){0} + (lane_int)(at + (base + j) * b->dilation), *where);
    }
  }
}

/* Maxima of one block and where they stand. */
INLINE vec max_windows(const pool_rows *r, const pool_block *b, const int form, const int edge, const int care,
                       const int places, ivec *where, ivec *nan) {
  vec best = v_zero();
  *where = edge && places ? b->start : (ivec){0};
  max_taps(b, r->first, 0, form, edge, care, places, 1, &best, where, nan);
  for (int64_t i = 1, h = 0, at = 0; i < r->slices * r->rows; i++) {
    at = next_row(r, at, &h);
    max_taps(b, r->first + at, at, form, edge, care, places, 0, &best, where, nan);
  }
  return best;
}

/* Some rows of one slice of a plane x; y and index are the plane's. */
typedef struct pool_group {
  const vox_window *p;
  const real *x;
  real *y;
  int64_t *index;
  int64_t slice, first, last;
  int64_t inside; /* windows in rows before this one do not reach below the plane */
  int64_t col, blocks; /* the first block's first output, and how many blocks that lie inside */
  int overlap;         /* rows are shared by windows, and reduced once for all of them */
} pool_group;

/* `count` rows of some blocks beside each other, whose windows lie inside the plane or, if it is one row, where r says:
 * r.first and r.at move on by `jump`.  Returns whether there was a NaN. */
INLINE int max_run(const pool_group *g, pool_block b, pool_rows r, int64_t row, int64_t count, const int form,
                   const int edge, const int care, const int places) {
  const int64_t width = g->p->output[2], jump = count > 1 ? g->p->stride[1] * g->p->spatial[2] : 0;
  const int64_t start = b.col, blocks = edge ? 1 : g->blocks;
  int64_t line = (g->slice * g->p->output[1] + row) * width + g->col;
  ivec nan = {0};
  for (int64_t i = 0; i < count; i++, line += width, r.first += jump, r.at += jump) {
    b.col = start;
    for (int64_t at = line; at < line + blocks * LANES; at += LANES, b.col += b.step * LANES) {
      ivec where;
      const vec best = max_windows(&r, &b, form, edge, care, places, &where, &nan);
      if (places) v_store_index(g->index + at, r.at + b.col, b.step, where, edge ? b.n : LANES);
      if (edge)
        v_store_n(g->y + at, best, b.n);
      else
        v_store(g->y + at, best);
    }
  }
  return v_any_int(nan);
}

/* Blocks in all rows of a group.  Returns whether there was a NaN. */
INLINE int max_block(const pool_group *g, pool_block b, const int64_t taps, const int64_t step, const int64_t dilation,
                     const int form, const int edge, const int care, const int places) {
  int nan = 0;
  b.taps = taps;
  b.step = step;
  b.dilation = dilation;
  for (int64_t row = g->first, end; row < g->last; row = end) {
    pool_rows r = pool_rows_of(g->p, g->x, g->slice, row);
    end = r.rows == g->p->kernel[1] ? vox_min(g->last, vox_max(row + 1, g->inside)) : row + 1;
    if (r.slices == 1 && r.rows == 2 && taps == 2) {
      r.slices = 1;
      r.rows = 2;
      nan |= max_run(g, b, r, row, end - row, form, edge, care, places);
    } else {
      nan |= max_run(g, b, r, row, end - row, form, edge, care, places);
    }
  }
  return nan;
}

/* Where windows share rows, and with places are one slice: each row's maxima are found once, and then rows are compared
 * among themselves.  Taps keep their order, in which of equals the first stays. */
enum { MOST_LINES = 64 };

static int rows_overlap(const vox_window *p) {
  const int64_t *taps = p->kernel, *step = p->stride, *dilation = p->dilation;
  if (taps[1] > MOST_LINES || dilation[1] > MOST_LINES || (taps[1] - 1) * dilation[1] < step[1]) return 0;
  return (taps[1] - 1) * dilation[1] < MOST_LINES / 2 && step[2] <= MOST_SHUFFLED && (step[2] == 1 || dilation[2] == 1);
}

/* The maxima of a block's windows in one row, and where they stand behind a window's first column. */
INLINE vec max_line(const pool_block *b, const real *row, const int form, const int edge, const int places, ivec *where,
                    ivec *nan) {
  const int64_t taps = b->taps, dilation = b->dilation;
  const real *from = p_opaque(row + b->col);
  const int near = form == 1 && (taps - 1) * dilation <= LANES; /* the first load and the last hold all elements */
  vec best = v_zero(), first = v_zero();
  *where = edge && places ? b->start : (ivec){0};
  for (int64_t base = 0; base < taps; base += form) {
    vec raw[MOST_SHUFFLED], tap[MOST_SHUFFLED];
    pool_load(b, from, base, form, edge, raw);
    if (base == 0) first = raw[0];
    if (!near)
      *nan = pool_nan(form, raw, *nan);
    else if (base == taps - 1)
      *nan = v_mark(*nan, v_unordered(first, raw[0]));
    pool_taps(form, raw, tap);
    UNROLL for (int j = 0; j < form; j++) {
      if (base + j >= taps) break;
      const ivec here = (ivec){0} + (lane_int)((base + j) * dilation);
      if (places && base + j) *where = v_select_int(v_greater(tap[j], best), here, *where);
      best = base + j == 0 ? tap[0] : v_max(tap[j], best);
    }
  }
  return best;
}

/* Outputs below each other, `width` apart, of `rows` lines each that are `dilation` apart, from one to the next `step`. */
typedef struct pool_column {
  const vec *line;
  const ivec *place;
  int64_t step, dilation, high; /* high: elements from a line to the next that a window sees */
  int64_t count, n, width;
} pool_column;

/* Their maxima; unless those lines are the `first`, also of what earlier slices left there.  The window of the first output
 * begins at element `at` of the plane, the next one's below `jump` further, and beside it `across`. */
INLINE void max_of_lines(pool_column c, const int64_t rows, const int edge, const int places, int first, int64_t at,
                         int64_t jump, int64_t across, real *y, int64_t *index) {
  for (int64_t h = 0; h < c.count; h++, c.line += c.step, y += c.width) {
    vec best = c.line[0];
    if (places) {
      ivec where = c.place[0];
      for (int64_t t = 1; t < rows; t++) {
        const vec line = c.line[t * c.dilation];
        where = v_select_int(v_greater(line, best), c.place[t * c.dilation] + (lane_int)(t * c.high), where);
        best = v_max(line, best);
      }
      v_store_index(index, at, across, where, edge ? c.n : LANES);
      c.place += c.step, index += c.width, at += jump;
    } else {
      for (int64_t t = 1; t < rows; t++) best = v_max(c.line[t * c.dilation], best);
      if (!first) best = v_max(best, edge ? v_load_n(y, c.n) : v_load(y));
    }
    if (edge)
      v_store_n(y, best, c.n);
    else
      v_store(y, best);
  }
}

/* Blocks in all rows of a group.  Returns whether there was a NaN. */
INLINE int max_overlap(const pool_group *g, pool_block b, const int form, const int64_t taps, const int64_t dilation,
                       const int edge, const int places) {
  const vox_window *p = g->p;
  const int64_t *size = p->spatial, *out = p->output, step = p->stride[1], high = p->dilation[1];
  const int64_t top = vox_max(0, g->first * step - p->pad[1]);
  const int64_t end = vox_min(size[1], (g->last - 1) * step - p->pad[1] + (p->kernel[1] - 1) * high + 1);
  /* windows in rows from `full` on do not reach above the plane */
  const int64_t width = size[2], full = vox_ceil_div(p->pad[1], step);
  int64_t d0, d1, h0, h1, col = g->col;
  ivec nan = {0};
  vec line[MOST_LINES];
  ivec place[MOST_LINES];
  vox_inside(size[0], p->dilation[0], g->slice * p->stride[0] - p->pad[0], p->kernel[0], &d0, &d1);
  b.taps = taps;
  b.dilation = dilation;
  for (int64_t left = edge ? 1 : g->blocks; left; left--, b.col += form * LANES, col += LANES)
    for (int64_t d = d0; d < d1; d++) {
      const int64_t slice = g->slice * p->stride[0] - p->pad[0] + d * p->dilation[0];
      const real *from = g->x + (slice * size[1] + top) * size[2];
      for (int64_t row = 0; row < end - top; row++, from += width)
        line[row] = max_line(&b, from, form, edge, places, &place[row], &nan);
      int64_t to = (g->slice * out[1] + g->first) * out[2] + col;
      for (int64_t h = g->first, count; h < g->last; h += count, to += count * out[2]) {
        int64_t at = h * step - p->pad[1] - top, rows = p->kernel[1];
        count = vox_min(g->inside, g->last) - h;
        if (h < full || count < 1) {
          vox_inside(size[1], high, h * step - p->pad[1], rows, &h0, &h1);
          at += h0 * high, rows = h1 - h0, count = 1;
        }
        const pool_column c = {line + at, place + at, step, high, high * size[2], count, b.n, out[2]};
        const int64_t first = (slice * size[1] + top + at) * size[2] + b.col, jump = step * size[2];
        int64_t *index = places ? g->index + to : 0;
        if (rows == 3)
          max_of_lines(c, 3, edge, places, d == d0, first, jump, form, g->y + to, index);
        else if (rows == 5)
          max_of_lines(c, 5, edge, places, d == d0, first, jump, form, g->y + to, index);
        else
          max_of_lines(c, rows, edge, places, d == d0, first, jump, form, g->y + to, index);
      }
    }
  return v_any_int(nan);
}
INLINE int max_overlap_fast(const pool_group *g, const pool_block *b, const int edge, const int places) {
  const int64_t taps = b->taps, step = b->step;
  if (step == 1 && taps == 3 && b->dilation == 1) return max_overlap(g, *b, 1, 3, 1, edge, places);
  if (step == 1 && taps == 5 && b->dilation == 1) return max_overlap(g, *b, 1, 5, 1, edge, places);
  if (step == 1) return max_overlap(g, *b, 1, taps, b->dilation, edge, places);
  if (step == 2 && taps == 3) return max_overlap(g, *b, 2, 3, 1, edge, places);
  if (step == 2) return max_overlap(g, *b, 2, taps, 1, edge, places);
  if (step == 3) return max_overlap(g, *b, 3, taps, 1, edge, places);
  return max_overlap(g, *b, 4, taps, 1, edge, places);
}

/* In the form that serves; common windows have their sizes known to the compiler. */
INLINE int max_block_fast(pool_group *g, const pool_block *b, const int edge, const int places) {
  const int64_t taps = b->taps, step = b->step, dilation = b->dilation;
  if (step == 1 && dilation == 1 && taps == 3) return max_block(g, *b, 3, 1, 1, 1, edge, FAST, places);
  if (step == 1) return max_block(g, *b, taps, 1, dilation, 1, edge, FAST, places);
  if (dilation == 1 && step == 2 && taps == 2) return max_block(g, *b, 2, 2, 1, 2, edge, FAST, places);
  if (dilation == 1 && step == 2 && taps == 3) return max_block(g, *b, 3, 2, 1, 2, edge, FAST, places);
  if (dilation == 1 && step == 2) return max_block(g, *b, taps, 2, 1, 2, edge, FAST, places);
  if (dilation == 1 && step == 3) return max_block(g, *b, taps, 3, 1, 3, edge, FAST, places);
  if (dilation == 1 && step == 4) return max_block(g, *b, taps, 4, 1, 4, edge, FAST, places);
  return max_block(g, *b, taps, step, dilation, ONE_BY_ONE, 1, FAST, places);
}
INLINE void max_block_any(pool_group *g, pool_block b, const int edge, const int places) {
  if (g->overlap ? !max_overlap_fast(g, &b, edge, places) : !max_block_fast(g, &b, edge, places)) return;
  const int64_t blocks = edge ? 1 : g->blocks;
  for (int64_t i = 0; i < blocks; i++, g->col += LANES, b.col += b.step * LANES, b.low = -b.col, b.high -= b.step * LANES)
    if (b.step == 2 && b.dilation == 1)
      max_block(g, b, b.taps, 2, 1, 2, 1, CAREFUL, places);
    else
      max_block(g, b, b.taps, b.step, b.dilation, ONE_BY_ONE, 1, CAREFUL, places);
}
static void values_inside(pool_group *g, const pool_block *b) { max_block_any(g, *b, 0, 0); }
static void values_at_edge(pool_group *g, const pool_block *b) { max_block_any(g, *b, 1, 0); }
static void places_inside(pool_group *g, const pool_block *b) { max_block_any(g, *b, 0, 1); }
static void places_at_edge(pool_group *g, const pool_block *b) { max_block_any(g, *b, 1, 1); }

/* Outputs [first, last) along the row, in all rows of a group, which one block after the other finds in the cache. */
static void max_group(pool_group *g, int64_t first, int64_t last) {
  const vox_window *p = g->p;
  const int64_t taps = p->kernel[2], step = p->stride[2], dilation = p->dilation[2];
  const int shuffled = step == 1 || (step <= MOST_SHUFFLED && dilation == 1);
  const int64_t wide = shuffled ? step : 1, more = taps <= wide ? 0 : vox_ceil_div(taps, wide) - 1;
  const int64_t reach = more * wide * dilation + wide * LANES;
  const int64_t loads = step == 1 ? vox_min(MOST_LOADS, taps) : 0;
  vmask inside[MOST_LOADS];
  for (int64_t done = first, next; done < last; done = next) {
    int64_t col = done * step - p->pad[2];
    pool_block b = {.col = col, .low = -col, .high = p->spatial[2] - col, .n = vox_min(LANES, last - done), .taps = taps,
                    .step = step, .dilation = dilation};
    b.inside = inside;
    for (int64_t i = 0; i < loads; i++) inside[i] = v_range(b.low - i * dilation, b.high - i * dilation);
    g->col = done;
    if (!shuffled || b.n < LANES || b.low > 0 || b.high < reach) {
      for (int i = 0; g->index && b.low > i * step && i < LANES; i++)
        b.start[i] = (lane_int)(dilation == 1 ? b.low - i * step : vox_round_up(b.low - i * step, dilation));
      (g->index ? places_at_edge : values_at_edge)(g, &b);
      next = done + b.n;
    } else {
      g->blocks = vox_min((last - done) / LANES, (b.high - reach) / (LANES * step) + 1);
      next = done + g->blocks * LANES;
      (g->index ? places_inside : values_inside)(g, &b);
    }
  }
}
#endif

static void max_plane(const vox_window *p, const vox_box *box, const void *x_, void *y_, void *places) {
  int64_t *indices = places;
  const int64_t *size = p->spatial, *out = p->output, from = box->plane * out[0] * out[1] * out[2];
  const elem *x = (const elem *)x_ + box->plane * size[0] * size[1] * size[2];
  const int64_t taps = p->kernel[2], step = p->stride[2], dilation = p->dilation[2];
#ifdef ELEM_VECTORS
  if (pairs_inside(p) && !(indices ? pairs_indices(p, box, x_, y_, indices) : pairs_values(p, box, x_, y_))) return;
  /* in lanes, where an index within the window fits into one, and the walk over its taps meets few outside */
  const int64_t depth = vox_min(size[0], (p->kernel[0] - 1) * p->dilation[0] + 1);
  if (depth * size[1] * size[2] <= INT32_MAX && (taps - 1) * dilation < 2 * size[2]) {
    enum { GROUP_BYTES = 16 * 1024, LEAST_OVERLAPPING = 8 };
    int64_t rows = vox_max(1, GROUP_BYTES / (int64_t)sizeof(real) / (size[2] * vox_min(size[1], p->stride[1])));
    int64_t ignored, span = (p->kernel[1] - 1) * p->dilation[1];
    pool_group g = {.p = p, .x = x, .y = (real *)y_ + from, .index = indices ? indices + from : 0};
    vox_inside(size[1], p->stride[1], span - p->pad[1], out[1], &ignored, &g.inside);
    g.overlap = (!indices || p->kernel[0] == 1) && rows_overlap(p);
    if (g.overlap) rows = vox_min(vox_max(rows, LEAST_OVERLAPPING), (MOST_LINES - 1 - span) / p->stride[1] + 1);
    for (g.slice = box->first[0]; g.slice < box->last[0]; g.slice++)
      for (g.first = box->first[1]; g.first < box->last[1]; g.first = g.last) {
        g.last = vox_min(g.first + rows, box->last[1]);
        max_group(&g, box->first[2], box->last[2]);
      }
    return;
  }
#endif
  for (int64_t slice = box->first[0]; slice < box->last[0]; slice++)
    for (int64_t row = box->first[1]; row < box->last[1]; row++) {
      const pool_rows r = pool_rows_of(p, x, slice, row);
      const int64_t at = from + (slice * out[1] + row) * out[2];
      for (int64_t w = box->first[2]; w < box->last[2]; w++) {
        int64_t first, last, col = w * step - p->pad[2];
        axis_taps(size[2], dilation, col, taps, &first, &last);
        max_window(&r, col + first * dilation, last - first, dilation, (elem *)y_ + at + w, indices ? indices + at + w : 0);
      }
    }
}

static void max_pool(const vox_window *p, const vox_box *box, const void *x, void *y, void *places) {
  vox_box one = *box;
  const int64_t last = box->plane + box->planes;
#ifdef ELEM_VECTORS
  if (!places && flat_fits(p, box)) {
    flat_planes(p, box, x, y);
    return;
  }
#endif
  for (; one.plane < last; one.plane++) max_plane(p, &one, x, y, places);
}
