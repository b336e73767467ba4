/* Gradient of a max-pool whose windows are two wide and lie side by side, for one plane:
 *
 *   dx[at] = dy[q] where at is the index of q, else 0
 *
 * dy, indices  (d, h, w); dx (d * step[0], h * step[1], w * 2), steps of 1 or 2, fewer than 2^31 elements
 * Each index is compared with the places of its own window, so dx is written line by line and never read back.  w is
 * ragged.  Returns 0, and leaves dx half-written, where an index lies outside its window. */

static int spread(const int64_t pooled[3], const int64_t step[3], const void *values, const int64_t *indices, void *out) {
  const real *dy = values;
  const int64_t width = 2 * pooled[2], area = width * pooled[1] * step[1];
  ivec ramp;
  for (int i = 0; i < LANES; i++) ramp[i] = (lane_int)(2 * i);
  for (int64_t d = 0; d < pooled[0]; d++)
    for (int64_t h = 0; h < pooled[1]; h++, dy += pooled[2], indices += pooled[2])
      for (int64_t w = 0; w < pooled[2]; w += LANES) {
        const int64_t n = vox_min(LANES, pooled[2] - w), first = d * step[0] * area + h * step[1] * width + 2 * w;
        const vec g = v_load_n(dy + w, n);
        const ivec at = v_load_index(indices + w, first, n);
        const vmask wanted = v_range(0, n);
        vmask found = v_range(0, 0);
        for (int64_t z = 0; z < step[0]; z++)
          for (int64_t y = 0; y < step[1]; y++) {
            const int64_t line = z * area + y * width;
            const ivec place = ramp + (lane_int)line;
            const vmask even = v_equal_int(at, place), odd = v_equal_int(at, place + 1);
            const vec a = v_select(even, g, v_zero()), b = v_select(odd, g, v_zero());
            real *to = (real *)out + first + line;
            found |= even | odd;
            v_store_n(to, v_zip_low(a, b), vox_min(LANES, 2 * n));
            if (2 * n > LANES) v_store_n(to + LANES, v_zip_high(a, b), 2 * n - LANES);
          }
        if (v_any(wanted & ~found)) return 0;
      }
  return 1;
}
