/* Gradient of a max-pool whose windows are two wide and lie side by side, for one plane:
 *
 *   dx[at] = dy[q] where at is the index of q, else 0
 *
 * dy, indices  (d, h, w); dx (d * D, h * H, w * 2), D and H 1 or 2, fewer than 2^31 elements
 * Each index is compared with the places of its own window, so dx is written line by line and never read back.  Returns 0,
 * and leaves dx half-written, where an index lies outside its window. */

/* n windows, whose first element in the plane is `first` and in memory dx.  `whole` vectors are read and written, also where
 * n is less: the rest is of the next rows, whose turn comes.  Returns the lanes whose index lies elsewhere. */
INLINE vmask spread_windows(const int D, const int H, const int whole, const real *dy, const int64_t *indices,
                            int64_t first, int64_t row, int64_t slice, int64_t n, real *dx, ivec *beyond) {
  const vec g = v_load_n(dy, whole ? LANES : n);
  ivec high, at = v_load_index(indices, whole ? LANES : n, &high);
  vmask found = v_range(0, 0);
  ivec ramp;
  for (int i = 0; i < LANES; i++) ramp[i] = (lane_int)(2 * i);
  at = v_minus_int(at, ramp + (lane_int)first);
  *beyond |= high;
  UNROLL for (int t = 0; t < D * H; t++) {
    const int64_t line = t / H * slice + t % H * row;
    const vmask even = v_equal_int(at, (ivec){0} + (lane_int)line), odd = v_equal_int(at, (ivec){0} + (lane_int)(line + 1));
    const vec a = v_select(even, g, v_zero()), b = v_select(odd, g, v_zero());
    found |= even | odd;
    v_store_n(dx + line, v_zip_low(a, b), whole ? LANES : vox_min(LANES, 2 * n));
    if (2 * n > LANES) v_store_n(dx + line + LANES, v_zip_high(a, b), whole ? LANES : 2 * n - LANES);
  }
  return v_range(0, n) & ~found;
}

INLINE int spread_plane(const int D, const int H, const int64_t pooled[3], const real *dy, const int64_t *indices, real *dx) {
  const int64_t width = pooled[2], row = 2 * width, slice = row * pooled[1] * H, n = vox_min(width, LANES);
  for (int64_t d = 0; d < pooled[0]; d++)
    for (int64_t h = 0; h < pooled[1]; h++, dy += width, indices += width) {
      const int64_t first = d * D * slice + h * H * row;
      vmask outside = v_range(0, 0);
      ivec beyond = {0};
      if ((pooled[1] - h) * width < LANES)
        outside = spread_windows(D, H, 0, dy, indices, first, row, slice, n, dx + first, &beyond);
      else /* the last vector of a row goes back over the one before it */
        for (int64_t next = 0; next < width; next += LANES) {
          const int64_t w = next ? vox_min(next, width - LANES) : 0, at = first + 2 * w;
          outside |= spread_windows(D, H, 1, dy + w, indices + w, at, row, slice, n, dx + at, &beyond);
        }
      if (v_any(outside) || v_any_int(beyond)) return 0;
    }
  return 1;
}

static int spread(const int64_t pooled[3], const int64_t spatial[3], const void *dy, const int64_t *indices, void *dx) {
  const int deep = spatial[0] > pooled[0];
  if (spatial[1] > pooled[1])
    return deep ? spread_plane(2, 2, pooled, dy, indices, dx) : spread_plane(1, 2, pooled, dy, indices, dx);
  return deep ? spread_plane(2, 1, pooled, dy, indices, dx) : spread_plane(1, 1, pooled, dy, indices, dx);
}
