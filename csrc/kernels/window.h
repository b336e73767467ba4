/* Average pooling, unfold and fold.  Each walks its taps outermost, so that the inner loop is a run of outputs.
 * The order of an element's additions does not depend on the box. */

enum { RUN = 256 }; /* outputs of a row that are summed at a time: small enough for any stack */

/* Elements that the window at output (d, h, w) is divided by; padding included they may be more than an integer holds. */
static real avg_divisor(const vox_window *p, int64_t d, int64_t h, int64_t w) {
  if (p->divisor) return (real)p->divisor;
  const int64_t at[3] = {d, h, w};
  double count = 1;
  for (int i = 0; i < 3; i++) {
    int64_t start = at[i] * p->stride[i] - p->pad[i];
    int64_t end = vox_min(start + p->kernel[i], p->spatial[i] + p->pad_after[i]);
    count *= (double)(p->count_include_pad ? end - start : vox_min(end, p->spatial[i]) - vox_max(start, 0));
  }
  return (real)count;
}

/* How many outputs, of those in [w, end), are summed together, and the column taps by which any of them reaches columns
 * [from, to).  A window may have far more taps than there are columns: then one output at a time, so that only taps
 * inside are visited. */
static int64_t run_taps(const vox_window *p, int64_t from, int64_t to, int64_t w, int64_t end, int64_t *first,
                        int64_t *last) {
  int64_t n = vox_min(p->kernel[2] > p->spatial[2] ? 1 : RUN, end - w);
  *first = vox_max(0, from + p->pad[2] - (w + n - 1) * p->stride[2]);
  *last = vox_min(p->kernel[2], to + p->pad[2] - w * p->stride[2]);
  return n;
}

/* y[i] = sum[i] / divisor of output (d, h, w + i); windows that lie within the row share theirs. */
static void avg_divide(const vox_window *p, int64_t d, int64_t h, int64_t w, int64_t n, const real *sum, real *y) {
  int64_t first, last; /* windows of which neither end leaves the row */
  vox_inside(p->spatial[2] - p->kernel[2] + 1, p->stride[2], w * p->stride[2] - p->pad[2], n, &first, &last);
  if (p->divisor) first = 0, last = n;
  for (int64_t i = 0; i < first; i++) y[i] = sum[i] / avg_divisor(p, d, h, w + i);
  if (first < last) {
    const real divisor = avg_divisor(p, d, h, w + first);
    for (int64_t i = first; i < last; i++) y[i] = sum[i] / divisor;
  }
  for (int64_t i = last; i < n; i++) y[i] = sum[i] / avg_divisor(p, d, h, w + i);
}

/* The sum of a box of x, by lanes. */
static real box_sum(const real *x, int64_t slices, int64_t slice, int64_t rows, int64_t row, int64_t columns) {
  vec sum = v_zero();
  for (int64_t d = 0; d < slices; d++)
    for (int64_t h = 0; h < rows; h++)
      for (int64_t w = 0; w < columns; w += LANES)
        sum += v_load_n(x + d * slice + h * row + w, vox_min(LANES, columns - w));
  return v_sum(sum);
}

static void avg_pool(const vox_window *p, const vox_box *box, const void *x_, void *y_) {
  const int64_t *size = p->spatial, *out = p->output, *pad = p->pad, *step = p->stride;
  const real *x = (const real *)x_ + box->plane * size[0] * size[1] * size[2];
  real sum[RUN];
  for (int64_t d = box->first[0]; d < box->last[0]; d++)
    for (int64_t h = box->first[1]; h < box->last[1]; h++) {
      int64_t d0, d1, h0, h1;
      vox_inside(size[0], 1, d * step[0] - pad[0], p->kernel[0], &d0, &d1);
      vox_inside(size[1], 1, h * step[1] - pad[1], p->kernel[1], &h0, &h1);
      real *y = (real *)y_ + ((box->plane * out[0] + d) * out[1] + h) * out[2];
      if (out[2] == 1) { /* one window a row: its own elements are the lanes */
        const int64_t column = vox_max(0, -pad[2]), columns = vox_min(size[2], p->kernel[2] - pad[2]) - column;
        const real *from = x + ((d * step[0] - pad[0] + d0) * size[1] + h * step[1] - pad[1] + h0) * size[2] + column;
        sum[0] = box_sum(from, d1 - d0, size[1] * size[2], h1 - h0, size[2], columns);
        avg_divide(p, d, h, 0, 1, sum, y);
        continue;
      }
      for (int64_t w = box->first[2], n; w < box->last[2]; w += n) {
        int64_t t0, t1;
        n = run_taps(p, 0, size[2], w, box->last[2], &t0, &t1);
        for (int64_t i = 0; i < n; i++) sum[i] = 0;
        for (int64_t td = d0; td < d1; td++)
          for (int64_t th = h0; th < h1; th++) {
            const real *line = x + ((d * step[0] - pad[0] + td) * size[1] + h * step[1] - pad[1] + th) * size[2];
            for (int64_t tw = t0; tw < t1; tw++) {
              int64_t first, last, at = w * step[2] - pad[2] + tw;
              vox_inside(size[2], step[2], at, n, &first, &last);
              if (step[2] == 1)
                for (int64_t i = first; i < last; i++) sum[i] += line[at + i];
              else if (step[2] == 2)
                for (int64_t i = first; i < last; i += LANES) {
                  const int64_t lanes = vox_min(LANES, last - i);
                  v_store_n(sum + i, v_load_n(sum + i, lanes) + v_load_stride2(line + at + 2 * i, lanes), lanes);
                }
              else
                for (int64_t i = first; i < last; i++) sum[i] += line[at + i * step[2]];
            }
          }
        avg_divide(p, d, h, w, n, sum, y + w);
      }
    }
}

/* The box of a plane x of the input, set to zero. */
static void clear_box(const vox_window *p, const vox_box *box, real *x) {
  for (int64_t z = box->first[0]; z < box->last[0]; z++)
    for (int64_t row = box->first[1]; row < box->last[1]; row++)
      memset(x + (z * p->spatial[1] + row) * p->spatial[2] + box->first[2], 0,
             (size_t)(box->last[2] - box->first[2]) * sizeof(real));
}

static void avg_pool_grad(const vox_window *p, const vox_box *box, const void *dy_, void *dx_) {
  const int64_t *size = p->spatial, *out = p->output, *pad = p->pad, *step = p->stride;
  const int64_t *from = box->first, *to = box->last;
  const real *dy = (const real *)dy_ + box->plane * out[0] * out[1] * out[2];
  real *dx = (real *)dx_ + box->plane * size[0] * size[1] * size[2];
  real share[RUN];
  clear_box(p, box, dx);
  for (int64_t row = 0; row < out[0] * out[1]; row++) {
    int64_t d = row / out[1], h = row % out[1], d0, d1, h0, h1;
    vox_inside(to[0] - from[0], 1, d * step[0] - pad[0] - from[0], p->kernel[0], &d0, &d1);
    vox_inside(to[1] - from[1], 1, h * step[1] - pad[1] - from[1], p->kernel[1], &h0, &h1);
    if (d0 == d1 || h0 == h1) continue;
    for (int64_t w = 0, n; w < out[2]; w += n) {
      int64_t t0, t1;
      n = run_taps(p, from[2], to[2], w, out[2], &t0, &t1);
      if (t0 >= t1) continue;
      for (int64_t i = 0; i < n; i++) share[i] = dy[row * out[2] + w + i] / avg_divisor(p, d, h, w + i);
      for (int64_t td = d0; td < d1; td++)
        for (int64_t th = h0; th < h1; th++) {
          real *line = dx + ((d * step[0] - pad[0] + td) * size[1] + h * step[1] - pad[1] + th) * size[2];
          for (int64_t tw = t0; tw < t1; tw++) {
            int64_t first, last, at = w * step[2] - pad[2] + tw;
            vox_inside(to[2] - from[2], step[2], at - from[2], n, &first, &last);
            for (int64_t i = first; i < last; i++) line[at + i * step[2]] += share[i];
          }
        }
    }
  }
}

/* Rows (tap, slice, row) of one plane of columns. */
static void unfold(const vox_window *p, const vox_box *box, const void *x_, void *columns) {
  const int64_t *size = p->spatial, *out = p->output;
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  const real *x = (const real *)x_ + box->plane * size[0] * size[1] * size[2];
  for (int64_t tap = box->first[0]; tap < box->last[0]; tap++) {
    int64_t off_w = tap % p->kernel[2] * p->dilation[2] - p->pad[2];
    int64_t off_h = tap / p->kernel[2] % p->kernel[1] * p->dilation[1] - p->pad[1];
    int64_t off_d = tap / p->kernel[2] / p->kernel[1] * p->dilation[0] - p->pad[0];
    for (int64_t d = box->first[1]; d < box->last[1]; d++)
      for (int64_t h = box->first[2]; h < box->last[2]; h++) {
        real *to = (real *)columns + (((box->plane * taps + tap) * out[0] + d) * out[1] + h) * out[2];
        int64_t z = d * p->stride[0] + off_d, line = h * p->stride[1] + off_h;
        if (z < 0 || z >= size[0] || line < 0 || line >= size[1])
          memset(to, 0, (size_t)out[2] * sizeof(real));
        else
          gather_line(x + (z * size[1] + line) * size[2], size[2], p->stride[2], off_w, out[2], to);
      }
  }
}

/* The adjoint of unfold: each column element is added where it came from, in the order of (tap, position). */
static void fold(const vox_window *p, const vox_box *box, const void *columns, void *x_) {
  const int64_t *size = p->spatial, *out = p->output, *from = box->first, *to = box->last;
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  real *x = (real *)x_ + box->plane * size[0] * size[1] * size[2];
  clear_box(p, box, x);
  for (int64_t tap = 0; tap < taps; tap++) {
    const int64_t off[3] = {tap / p->kernel[2] / p->kernel[1] * p->dilation[0] - p->pad[0],
                            tap / p->kernel[2] % p->kernel[1] * p->dilation[1] - p->pad[1],
                            tap % p->kernel[2] * p->dilation[2] - p->pad[2]};
    int64_t first[3], last[3];
    for (int i = 0; i < 3; i++) vox_inside(to[i] - from[i], p->stride[i], off[i] - from[i], out[i], &first[i], &last[i]);
    for (int64_t d = first[0]; d < last[0]; d++)
      for (int64_t h = first[1]; h < last[1]; h++) {
        const real *column = (const real *)columns + (((box->plane * taps + tap) * out[0] + d) * out[1] + h) * out[2];
        real *line = x + ((d * p->stride[0] + off[0]) * size[1] + h * p->stride[1] + off[1]) * size[2];
        for (int64_t w = first[2]; w < last[2]; w++) line[w * p->stride[2] + off[2]] += column[w];
      }
  }
}
