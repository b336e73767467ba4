/* Gradients of max-pools by indices, for some planes.  Each index is compared with the places of its own window, and the kernel
 * returns 0, and leaves dx half-written, where one lies elsewhere.
 *
 * Windows two wide that lie side by side:
 *
 *   dx[at] = dy[q] where at is the index of q, else 0
 *
 * dy, indices  (d, h, w); dx (d * D, h * H, w * 2), D and H 1 or 2, fewer than 2^31 elements
 * dx is written line by line and never read back. */

/* Large planes come from beyond the caches; small ones lose a tenth by being asked for.  What no cache would keep goes past
 * them, where all vectors are whole. */
enum { NEAR, AHEAD, PAST, LARGE_PLANE = 1 << 16 };

/* n windows, whose first element in the plane is `first` and in memory dx.  `whole` vectors are read and written, also where
 * n is less: the rest is of the next rows, whose turn comes.  Returns the lanes whose index lies elsewhere. */
INLINE vmask spread_windows(const int D, const int H, const int whole, const int way, const real *dy, const int64_t *indices,
                            int64_t first, int64_t row, int64_t slice, int64_t n, real *dx, ivec *beyond) {
  const vec g = v_load_n(dy, whole ? LANES : n);
  ivec high, at = v_load_index(indices, whole ? LANES : n, &high);
  vmask found = v_range(0, 0);
  ivec ramp;
  if (way) prefetch_ahead(dy), prefetch_ahead(indices), prefetch_ahead(indices + LANES / 2);
  for (int i = 0; i < LANES; i++) ramp[i] = (lane_int)(2 * i);
  at = v_minus_int(at, ramp + (lane_int)first);
  *beyond |= high;
  UNROLL for (int t = 0; t < D * H; t++) {
    const int64_t line = t / H * slice + t % H * row;
    const vmask even = v_equal_int(at, (ivec){0} + (lane_int)line), odd = v_equal_int(at, (ivec){0} + (lane_int)(line + 1));
    const vec a = v_select(even, g, v_zero()), b = v_select(odd, g, v_zero());
    found |= even | odd;
    if (way == PAST) {
      v_stream(dx + line, v_zip_low(a, b)), v_stream(dx + line + LANES, v_zip_high(a, b));
      continue;
    }
    if (way == AHEAD) prefetch_write_ahead(dx + line), prefetch_write_ahead(dx + line + LANES);
    v_store_n(dx + line, v_zip_low(a, b), whole ? LANES : vox_min(LANES, 2 * n));
    if (2 * n > LANES) v_store_n(dx + line + LANES, v_zip_high(a, b), whole ? LANES : 2 * n - LANES);
  }
  return v_range(0, n) & ~found;
}

INLINE int spread_plane(const int D, const int H, const int way, const int64_t pooled[3], const real *dy,
                        const int64_t *indices, real *dx) {
  const int64_t width = pooled[2], row = 2 * width, slice = row * pooled[1] * H, n = vox_min(width, LANES);
  for (int64_t d = 0; d < pooled[0]; d++)
    for (int64_t h = 0; h < pooled[1]; h++, dy += width, indices += width) {
      const int64_t first = d * D * slice + h * H * row;
      vmask outside = v_range(0, 0);
      ivec beyond = {0};
      if ((pooled[1] - h) * width < LANES)
        outside = spread_windows(D, H, 0, NEAR, dy, indices, first, row, slice, n, dx + first, &beyond);
      else /* the last vector of a row goes back over the one before it */
        for (int64_t next = 0; next < width; next += LANES) {
          const int64_t w = next ? vox_min(next, width - LANES) : 0, at = first + 2 * w;
          outside |= spread_windows(D, H, 1, way, dy + w, indices + w, at, row, slice, n, dx + at, &beyond);
        }
      if (v_any(outside) || v_any_int(beyond)) return 0;
    }
  return 1;
}

INLINE int spread_pairs(const int way, const int64_t pooled[3], const int64_t spatial[3], const real *dy,
                        const int64_t *indices, real *dx) {
  const int deep = spatial[0] > pooled[0];
  if (spatial[1] > pooled[1])
    return deep ? spread_plane(2, 2, way, pooled, dy, indices, dx) : spread_plane(1, 2, way, pooled, dy, indices, dx);
  return deep ? spread_plane(2, 1, way, pooled, dy, indices, dx) : spread_plane(1, 1, way, pooled, dy, indices, dx);
}
NOINLINE int spread_near(const int64_t pooled[3], const int64_t spatial[3], const real *dy, const int64_t *indices, real *dx) {
  return spread_pairs(NEAR, pooled, spatial, dy, indices, dx);
}
NOINLINE int spread_ahead(const int64_t pooled[3], const int64_t spatial[3], const real *dy, const int64_t *indices, real *dx) {
  return spread_pairs(AHEAD, pooled, spatial, dy, indices, dx);
}
NOINLINE int spread_past(const int64_t pooled[3], const int64_t spatial[3], const real *dy, const int64_t *indices, real *dx) {
  const int done = spread_pairs(PAST, pooled, spatial, dy, indices, dx);
  v_stream_end();
  return done;
}

/* Windows of 3x3 that are `step` apart, 1 or 2, and padded by one, in a slice whose first element has index `slice`:
 *
 *   dx[at] = sum of dy[q] over the windows q whose index is `at`, in their order
 *
 * dy, indices  (ceil(h / step), ceil(w / step)); dx (h, w), w <= MOST_WIDE, fewer than 2^31 elements
 * Lanes are every element of a row of dx, or every second one.  Each is compared with the indices of the windows over it, so no
 * addition waits for one before that has to land in memory.  Rows that the next windows see as well wait in scratch.
 * A vector that runs on into the next row takes that row's first windows for those beyond its last: of more than a vector of
 * windows these see no column so far to the right. */
enum { MOST_WIDE = 512, FEWEST_LANES = 16 };
/* Whether this is faster than one element after the other: where few lanes of so many windows stay empty. */
static int over_fits(int64_t width, int64_t wide) {
  return LANES >= FEWEST_LANES && wide <= MOST_WIDE && width > LANES && 8 * width >= 7 * vox_round_up(width, LANES);
}

/* Windows beside each other and their gradients, vector by vector: the one at hand, the last and the next. */
typedef struct over_windows {
  ivec last_at, at, next_at, beyond;
  vec last_g, g, next_g;
} over_windows;

INLINE void over_step(const real *dy, const int64_t *indices, int64_t n, int64_t slice, over_windows *w) {
  ivec high = {0};
  w->last_at = w->at, w->last_g = w->g;
  w->at = w->next_at, w->g = w->next_g;
  w->next_at = (ivec){0}, w->next_g = v_zero();
  if (n <= 0) return;
  w->next_at = n < LANES ? v_load_index(indices, n, &high) : v_load_index(indices, LANES, &high);
  w->next_at = v_minus_int(w->next_at, (ivec){0} + (lane_int)slice);
  w->next_g = n < LANES ? v_load_n(dy, n) : v_load(dy);
  w->beyond |= high;
}

/* A vector's windows: the first column of each that is in the row, and how many are. */
typedef struct over_columns {
  ivec first;
  uvec count;
} over_columns;

/* n elements of dx from those of each column, or from those of even columns and of odd ones. */
INLINE void over_store(const int step, const vec *sum, int64_t n, real *dx) {
  const vec low = step == 1 ? sum[0] : v_zip_low(sum[0], sum[1]), high = step == 1 ? sum[0] : v_zip_high(sum[0], sum[1]);
  if (n >= step * LANES) {
    v_store(dx, low);
    if (step == 2) v_store(dx + LANES, high);
    return;
  }
  v_store_n(dx, low, vox_min(LANES, n));
  if (step == 2 && n > LANES) v_store_n(dx + LANES, high, n - LANES);
}

INLINE int over_rows(const int step, const int64_t pooled[3], const int64_t spatial[3], int64_t slice, const real *dy,
                     const int64_t *indices, real *dx) {
  enum { BLOCKS = MOST_WIDE / LANES };
  const int64_t rows = pooled[1], width = pooled[2], high = spatial[1], wide = spatial[2];
  const int64_t blocks = vox_ceil_div(width, LANES);
  vec pending[BLOCKS][2];
  over_columns columns[BLOCKS];
  over_windows w = {.beyond = {0}};
  ivec ramp, outside = {0};
  uvec most = {0};
  for (int i = 0; i < LANES; i++) ramp[i] = (lane_int)(step * i);
  for (int64_t b = 0; b < blocks; b++) {
    const ivec middle = ramp + (lane_int)(step * b * LANES), first = v_max_int(middle - 1, (ivec){0});
    const ivec last = -v_max_int(-(middle + 2), (ivec){0} - (lane_int)wide);
    columns[b].first = first;
    columns[b].count = (uvec)v_select_int(v_range(0, width - b * LANES), last - first, (ivec){0} - 1);
    pending[b][0] = pending[b][1] = v_zero();
  }
  for (int64_t p = 0; p < rows; p++, dy += width, indices += width) {
    const lane_int top = (lane_int)((step * p - 1) * wide);
    const int64_t left = (rows - p) * width;
    w.at = w.next_at = (ivec){0}, w.g = w.next_g = v_zero();
    over_step(dy, indices, left, slice, &w);
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t next = (b + 1) * LANES, n = wide - step * b * LANES;
      over_step(dy + next, indices + next, left - next, slice, &w);
      /* is each index in its window */
      uvec near = (uvec)v_minus_int(w.at, columns[b].first + top), least = near;
      UNROLL for (int r = 1; r < 3; r++) {
        near -= (lane_int)wide;
        least = v_min_unsigned(least, near);
      }
      outside = v_mark(outside, v_not_below(least, columns[b].count));
      most = v_max_unsigned(most, (uvec)w.at);
      /* a column is seen by its own window and by those beside it; an even one of two by its own alone */
      const ivec before_at = (ivec)v_after((vec)w.last_at, (vec)w.at), beside_at = (ivec)v_before((vec)w.at, (vec)w.next_at);
      const vec before_g = v_after(w.last_g, w.g), beside_g = v_before(w.g, w.next_g);
      vec sum[3][2] = {{pending[b][0], pending[b][1]}};
      ivec place = ramp + (lane_int)(top + step * b * LANES);
      if (step == 1) sum[1][0] = pending[b][1];
      UNROLL for (int r = 0; r < 3; r++, place += (lane_int)wide) {
        if (step == 1) sum[r][0] = v_add_masked(sum[r][0], v_equal_int(before_at, place), before_g);
        sum[r][0] = v_add_masked(sum[r][0], v_equal_int(w.at, place), w.g);
        if (step == 1) sum[r][0] = v_add_masked(sum[r][0], v_equal_int(beside_at, place), beside_g);
        if (step == 2) sum[r][1] = v_add_masked(sum[r][1], v_equal_int(w.at, place + 1), w.g);
        if (step == 2) sum[r][1] = v_add_masked(sum[r][1], v_equal_int(beside_at, place + 1), beside_g);
      }
      pending[b][0] = step == 1 ? sum[1][0] : sum[2][0];
      pending[b][1] = step == 1 ? sum[2][0] : sum[2][1];
      real *to = dx + step * p * wide + step * b * LANES;
      /* a row that is written alone may run on into the next one, whose turn comes */
      if (p > 0) over_store(step, sum[0], step == 1 && p + 1 < rows ? LANES : n, to - wide);
      if (step == 2 || p + 1 == rows) over_store(step, sum[1], n, to);
      if (step == 2 && p + 1 == rows && 2 * p + 1 < high) over_store(step, sum[2], n, to + wide);
    }
    if (v_any_int(outside)) return 0;
  }
  return !v_any_int(w.beyond) && !v_any(v_not_below(most, (uvec){0} + (lane_int)(high * wide)));
}
NOINLINE int spread_close(const int64_t pooled[3], const int64_t spatial[3], int64_t slice, const real *dy,
                          const int64_t *indices, real *dx) {
  return over_rows(1, pooled, spatial, slice, dy, indices, dx);
}
NOINLINE int spread_over(const int64_t pooled[3], const int64_t spatial[3], int64_t slice, const real *dy,
                         const int64_t *indices, real *dx) {
  return over_rows(2, pooled, spatial, slice, dy, indices, dx);
}

/* dx of so many planes' windows in this form, if all indices lie in them. */
static int spread(int64_t planes, const int64_t pooled[3], const int64_t spatial[3], int form, const void *dy_,
                  const int64_t *indices, void *dx_) {
  const int64_t slice = spatial[1] * spatial[2], windows = pooled[1] * pooled[2], size = slice * spatial[0];
  const real *dy = dy_;
  real *dx = dx_;
  if (form == SPREAD_APART || form == SPREAD_PAST) {
    const int past = form == SPREAD_PAST && pooled[2] % LANES == 0 && is_aligned(dx);
    const int large = size * (int64_t)sizeof(real) >= LARGE_PLANE;
    for (; planes; planes--, dy += windows * pooled[0], indices += windows * pooled[0], dx += size)
      if (!(past ? spread_past : large ? spread_ahead : spread_near)(pooled, spatial, dy, indices, dx)) return 0;
    return 1;
  }
  if (!over_fits(pooled[2], spatial[2])) return 0;
  for (int64_t i = 0; i < planes * pooled[0]; i++, dy += windows, indices += windows, dx += slice) {
    const int64_t first = i % pooled[0] * slice;
    if (!(form == SPREAD_OVER ? spread_over : spread_close)(pooled, spatial, first, dy, indices, dx)) return 0;
  }
  return 1;
}
