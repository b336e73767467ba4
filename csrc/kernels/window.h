/* Average pooling, unfold and fold.  Each walks its taps outermost, so that the inner loop is a run of outputs. */

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

/* How many outputs from w on are summed together, and the column taps that reach the plane from any of them.  A window
 * may have far more taps than the plane has columns: then one output at a time, so that only taps inside are visited. */
static int64_t run_taps(const vox_window *p, int64_t w, int64_t *first, int64_t *last) {
  int64_t n = vox_min(p->kernel[2] > p->spatial[2] ? 1 : RUN, p->output[2] - w);
  *first = vox_max(0, p->pad[2] - (w + n - 1) * p->stride[2]);
  *last = vox_min(p->kernel[2], p->spatial[2] + p->pad[2] - w * p->stride[2]);
  return n;
}

static void avg_pool(const vox_window *p, int64_t plane, int64_t row, int64_t rows, const void *x_, void *y_) {
  const int64_t *size = p->spatial, *out = p->output, *pad = p->pad, *step = p->stride;
  const real *x = (const real *)x_ + plane * size[0] * size[1] * size[2];
  real sum[RUN];
  for (; rows > 0; rows--, row++) {
    int64_t d = row / out[1], h = row % out[1], d0, d1, h0, h1;
    vox_inside(size[0], 1, d * step[0] - pad[0], p->kernel[0], &d0, &d1);
    vox_inside(size[1], 1, h * step[1] - pad[1], p->kernel[1], &h0, &h1);
    real *y = (real *)y_ + (plane * out[0] * out[1] + row) * out[2];
    for (int64_t w = 0, n; w < out[2]; w += n) {
      int64_t t0, t1;
      n = run_taps(p, w, &t0, &t1);
      for (int64_t i = 0; i < n; i++) sum[i] = 0;
      for (int64_t td = d0; td < d1; td++)
        for (int64_t th = h0; th < h1; th++) {
          const real *line = x + ((d * step[0] - pad[0] + td) * size[1] + h * step[1] - pad[1] + th) * size[2];
          for (int64_t tw = t0; tw < t1; tw++) {
            int64_t first, last, at = w * step[2] - pad[2] + tw;
            vox_inside(size[2], step[2], at, n, &first, &last);
            for (int64_t i = first; i < last; i++) sum[i] += line[at + i * step[2]];
          }
        }
      for (int64_t i = 0; i < n; i++) y[w + i] = sum[i] / avg_divisor(p, d, h, w + i);
    }
  }
}

static void avg_pool_grad(const vox_window *p, int64_t plane, const void *dy_, void *dx_) {
  const int64_t *size = p->spatial, *out = p->output, *pad = p->pad, *step = p->stride;
  const real *dy = (const real *)dy_ + plane * out[0] * out[1] * out[2];
  real *dx = (real *)dx_ + plane * size[0] * size[1] * size[2];
  memset(dx, 0, (size_t)(size[0] * size[1] * size[2]) * sizeof(real));
  real share[RUN];
  for (int64_t row = 0; row < out[0] * out[1]; row++) {
    int64_t d = row / out[1], h = row % out[1], d0, d1, h0, h1;
    vox_inside(size[0], 1, d * step[0] - pad[0], p->kernel[0], &d0, &d1);
    vox_inside(size[1], 1, h * step[1] - pad[1], p->kernel[1], &h0, &h1);
    for (int64_t w = 0, n; w < out[2]; w += n) {
      int64_t t0, t1;
      n = run_taps(p, w, &t0, &t1);
      for (int64_t i = 0; i < n; i++) share[i] = dy[row * out[2] + w + i] / avg_divisor(p, d, h, w + i);
      for (int64_t td = d0; td < d1; td++)
        for (int64_t th = h0; th < h1; th++) {
          real *line = dx + ((d * step[0] - pad[0] + td) * size[1] + h * step[1] - pad[1] + th) * size[2];
          for (int64_t tw = t0; tw < t1; tw++) {
            int64_t first, last, at = w * step[2] - pad[2] + tw;
            vox_inside(size[2], step[2], at, n, &first, &last);
            for (int64_t i = first; i < last; i++) line[at + i * step[2]] += share[i];
          }
        }
    }
  }
}

/* Rows [row, row + rows) of one plane's (tap, position) matrix. */
static void unfold(const vox_window *p, int64_t plane, int64_t row, int64_t rows, const void *x_, void *columns) {
  const int64_t *size = p->spatial, *out = p->output;
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  const real *x = (const real *)x_ + plane * size[0] * size[1] * size[2];
  for (; rows > 0; rows--, row++) {
    int64_t off_w = row % p->kernel[2] * p->dilation[2] - p->pad[2];
    int64_t off_h = row / p->kernel[2] % p->kernel[1] * p->dilation[1] - p->pad[1];
    int64_t off_d = row / p->kernel[2] / p->kernel[1] * p->dilation[0] - p->pad[0];
    real *to = (real *)columns + (plane * taps + row) * out[0] * out[1] * out[2];
    for (int64_t d = 0; d < out[0]; d++)
      for (int64_t h = 0; h < out[1]; h++, to += out[2]) {
        int64_t z = d * p->stride[0] + off_d, line = h * p->stride[1] + off_h;
        if (z < 0 || z >= size[0] || line < 0 || line >= size[1])
          memset(to, 0, (size_t)out[2] * sizeof(real));
        else
          gather_line(x + (z * size[1] + line) * size[2], size[2], p->stride[2], off_w, out[2], to);
      }
  }
}

/* The adjoint of unfold: each column element is added where it came from, in the order of (tap, position). */
static void fold(const vox_window *p, int64_t plane, const void *columns, void *x_) {
  const int64_t *size = p->spatial, *out = p->output;
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  real *x = (real *)x_ + plane * size[0] * size[1] * size[2];
  const real *from = (const real *)columns + plane * taps * out[0] * out[1] * out[2];
  memset(x, 0, (size_t)(size[0] * size[1] * size[2]) * sizeof(real));
  for (int64_t tap = 0; tap < taps; tap++) {
    int64_t off_w = tap % p->kernel[2] * p->dilation[2] - p->pad[2];
    int64_t off_h = tap / p->kernel[2] % p->kernel[1] * p->dilation[1] - p->pad[1];
    int64_t off_d = tap / p->kernel[2] / p->kernel[1] * p->dilation[0] - p->pad[0];
    int64_t first, last;
    vox_inside(size[2], p->stride[2], off_w, out[2], &first, &last);
    for (int64_t d = 0; d < out[0]; d++)
      for (int64_t h = 0; h < out[1]; h++, from += out[2]) {
        int64_t z = d * p->stride[0] + off_d, line = h * p->stride[1] + off_h;
        if (z < 0 || z >= size[0] || line < 0 || line >= size[1]) continue;
        real *to = x + (z * size[1] + line) * size[2];
        for (int64_t w = first; w < last; w++) to[w * p->stride[2] + off_w] += from[w];
      }
  }
}
