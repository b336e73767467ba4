/* Gradients of max-pools by indices, for one plane.  Each index is compared with the places of its own window, and the kernel
 * returns 0, and leaves dx half-written, where one lies elsewhere.
 *
 * Windows two wide that lie side by side:
 *
 *   dx[at] = dy[q] where at is the index of q, else 0
 *
 * dy, indices  (d, h, w); dx (d * D, h * H, w * 2), D and H 1 or 2, fewer than 2^31 elements
 * dx is written line by line and never read back. */

/* n windows, whose first element in the plane is `first` and in memory dx.  `whole` vectors are read and written, also where
 * n is less: the rest is of the next rows, whose turn comes.  Returns the lanes whose index lies elsewhere. */
INLINE vmask spread_windows(const int D, const int H, const int whole, const int ahead, const real *dy, const int64_t *indices,
                            int64_t first, int64_t row, int64_t slice, int64_t n, real *dx, ivec *beyond) {
  const vec g = v_load_n(dy, whole ? LANES : n);
  ivec high, at = v_load_index(indices, whole ? LANES : n, &high);
  vmask found = v_range(0, 0);
  ivec ramp;
  if (ahead) prefetch_ahead(dy), prefetch_ahead(indices), prefetch_ahead(indices + LANES / 2);
  for (int i = 0; i < LANES; i++) ramp[i] = (lane_int)(2 * i);
  at = v_minus_int(at, ramp + (lane_int)first);
  *beyond |= high;
  UNROLL for (int t = 0; t < D * H; t++) {
    const int64_t line = t / H * slice + t % H * row;
    const vmask even = v_equal_int(at, (ivec){0} + (lane_int)line), odd = v_equal_int(at, (ivec){0} + (lane_int)(line + 1));
    const vec a = v_select(even, g, v_zero()), b = v_select(odd, g, v_zero());
    if (ahead) prefetch_write_ahead(dx + line), prefetch_write_ahead(dx + line + LANES);
    found |= even | odd;
    v_store_n(dx + line, v_zip_low(a, b), whole ? LANES : vox_min(LANES, 2 * n));
    if (2 * n > LANES) v_store_n(dx + line + LANES, v_zip_high(a, b), whole ? LANES : 2 * n - LANES);
  }
  return v_range(0, n) & ~found;
}

INLINE int spread_plane(const int D, const int H, const int ahead, const int64_t pooled[3], const real *dy, const int64_t *indices, real *dx) {
  const int64_t width = pooled[2], row = 2 * width, slice = row * pooled[1] * H, n = vox_min(width, LANES);
  for (int64_t d = 0; d < pooled[0]; d++)
    for (int64_t h = 0; h < pooled[1]; h++, dy += width, indices += width) {
      const int64_t first = d * D * slice + h * H * row;
      vmask outside = v_range(0, 0);
      ivec beyond = {0};
      if ((pooled[1] - h) * width < LANES)
        outside = spread_windows(D, H, 0, 0, dy, indices, first, row, slice, n, dx + first, &beyond);
      else /* the last vector of a row goes back over the one before it */
        for (int64_t next = 0; next < width; next += LANES) {
          const int64_t w = next ? vox_min(next, width - LANES) : 0, at = first + 2 * w;
          outside |= spread_windows(D, H, 1, ahead, dy + w, indices + w, at, row, slice, n, dx + at, &beyond);
        }
      if (v_any(outside) || v_any_int(beyond)) return 0;
    }
  return 1;
}

INLINE int spread_pairs(const int ahead, const int64_t pooled[3], const int64_t spatial[3], const real *dy,
                        const int64_t *indices, real *dx) {
  const int deep = spatial[0] > pooled[0];
  if (spatial[1] > pooled[1])
    return deep ? spread_plane(2, 2, ahead, pooled, dy, indices, dx) : spread_plane(1, 2, ahead, pooled, dy, indices, dx);
  return deep ? spread_plane(2, 1, ahead, pooled, dy, indices, dx) : spread_plane(1, 1, ahead, pooled, dy, indices, dx);
}
/* Large planes come from beyond the caches; small ones lose a tenth by being asked for. */
enum { LARGE_PLANE = 1 << 16 };
NOINLINE int spread_small(const int64_t pooled[3], const int64_t spatial[3], const real *dy, const int64_t *indices, real *dx) {
  return spread_pairs(0, pooled, spatial, dy, indices, dx);
}
NOINLINE int spread_large(const int64_t pooled[3], const int64_t spatial[3], const real *dy, const int64_t *indices, real *dx) {
  return spread_pairs(1, pooled, spatial, dy, indices, dx);
}

/* Windows of 3x3 that are two apart and padded by one, in a slice:
 *
 *   dx[at] = sum of dy[q] over the windows q whose index is `at`, in their order
 *
 * dy, indices  (ceil(h / 2), ceil(w / 2)); dx (h, w), w <= MOST_WIDE, fewer than 2^31 elements
 * Lanes are every second element of dx.  Each is compared with the indices of the windows over it, so no addition waits for
 * one before that has to land in memory.  The row that the next windows see as well waits in scratch. */
enum { MOST_WIDE = 512, FEWEST_LANES = 16 }; /* with fewer, one element after the other is faster */

/* Windows beside each other and their gradients, vector by vector: the one at hand and the next. */
typedef struct over_windows {
  ivec at, next_at, beyond;
  vec g, next_g;
} over_windows;

INLINE void over_step(const real *dy, const int64_t *indices, int64_t n, int64_t slice, over_windows *w) {
  ivec high = {0};
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

/* n elements of dx from those of even columns and of odd ones. */
INLINE void over_store(const int whole, const vec pair[2], int64_t n, real *dx) {
  if (whole) {
    v_store(dx, v_zip_low(pair[0], pair[1]));
    v_store(dx + LANES, v_zip_high(pair[0], pair[1]));
    return;
  }
  v_store_n(dx, v_zip_low(pair[0], pair[1]), vox_min(LANES, n));
  if (n > LANES) v_store_n(dx + LANES, v_zip_high(pair[0], pair[1]), vox_min(LANES, n - LANES));
}

NOINLINE int spread_over(const int64_t pooled[3], const int64_t spatial[3], int64_t slice, const real *dy, const int64_t *indices,
                       real *dx) {
  enum { BLOCKS = MOST_WIDE / 2 / LANES };
  const int64_t rows = pooled[1], width = pooled[2], high = spatial[1], wide = spatial[2];
  const int64_t blocks = vox_ceil_div(width, LANES);
  vec pending[BLOCKS][2];
  over_columns columns[BLOCKS];
  over_windows w = {.beyond = {0}};
  ivec ramp;
  uvec most = {0};
  vmask outside = v_range(0, 0);
  for (int i = 0; i < LANES; i++) ramp[i] = (lane_int)(2 * i);
  for (int64_t b = 0; b < blocks; b++) {
    for (int i = 0; i < LANES; i++) {
      const int64_t q = b * LANES + i, from = vox_max(0, 2 * q - 1);
      columns[b].first[i] = (lane_int)from;
      columns[b].count[i] = (lane_int)(q < width ? vox_min(wide, 2 * q + 2) - from : -1);
    }
    pending[b][0] = pending[b][1] = v_zero();
  }
  for (int64_t p = 0; p < rows; p++, dy += width, indices += width) {
    const lane_int top = (lane_int)((2 * p - 1) * wide);
    over_step(dy, indices, width, slice, &w);
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t next = (b + 1) * LANES, left = wide - 2 * b * LANES;
      over_step(dy + next, indices + next, width - next, slice, &w);
      /* is each index in its window */
      uvec near = (uvec)v_minus_int(w.at, columns[b].first + top), least = near;
      UNROLL for (int r = 1; r < 3; r++) {
        near -= (lane_int)wide;
        least = v_min_unsigned(least, near);
      }
      outside |= v_not_below(least, columns[b].count);
      most = v_max_unsigned(most, (uvec)w.at);
      /* an odd column is the last of its window and the first of the next one */
      const ivec beside_at = (ivec)v_before((vec)w.at, (vec)w.next_at);
      const vec beside_g = v_before(w.g, w.next_g);
      vec sum[3][2] = {{pending[b][0], pending[b][1]}};
      ivec place = ramp + (lane_int)(top + 2 * b * LANES);
      UNROLL for (int r = 0; r < 3; r++, place += (lane_int)wide) {
        const vmask even = v_equal_int(w.at, place), odd = v_equal_int(w.at, place + 1), first = v_equal_int(beside_at, place + 1);
        sum[r][0] = r ? v_select(even, w.g, v_zero()) : v_add_masked(sum[r][0], even, w.g);
        sum[r][1] = r ? v_select(odd, w.g, v_zero()) : v_add_masked(sum[r][1], odd, w.g);
        sum[r][1] = v_add_masked(sum[r][1], first, beside_g);
      }
      pending[b][0] = sum[2][0], pending[b][1] = sum[2][1];
      real *to = dx + 2 * p * wide + 2 * b * LANES;
      if (p > 0 && left >= 2 * LANES) {
        over_store(1, sum[0], left, to - wide);
        over_store(1, sum[1], left, to);
      } else {
        if (p > 0) over_store(0, sum[0], left, to - wide);
        over_store(0, sum[1], left, to);
      }
      if (p + 1 == rows && 2 * p + 1 < high) over_store(0, sum[2], left, to + wide);
    }
    if (v_any(outside)) return 0;
  }
  return !v_any_int(w.beyond) && !v_any(v_not_below(most, (uvec){0} + (lane_int)(high * wide)));
}

/* dx of the plane's windows in this form, if all indices lie in them. */
static int spread(const int64_t pooled[3], const int64_t spatial[3], int form, const void *dy_, const int64_t *indices, void *dx_) {
  const int64_t windows = pooled[1] * pooled[2], size = spatial[1] * spatial[2];
  const real *dy = dy_;
  real *dx = dx_;
  if (form == SPREAD_APART)
    return (spatial[0] * size * (int64_t)sizeof(real) < LARGE_PLANE ? spread_small : spread_large)(pooled, spatial, dy, indices, dx);
  if (LANES < FEWEST_LANES || spatial[2] > MOST_WIDE) return 0;
  for (int64_t d = 0; d < pooled[0]; d++)
    if (!spread_over(pooled, spatial, d * size, dy + d * windows, indices + d * windows, dx + d * size)) return 0;
  return 1;
}
