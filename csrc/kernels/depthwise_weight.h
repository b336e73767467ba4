/* The gradient to the weight of one channel:
 *
 *   dw[k][t] = sum over n, p of  dy[n, k, p] * x[n, k, base(p) + off(t)]
 *
 * Each pair of an output's and an input's slice is summed in registers, by lanes, and then added to the sums of the
 * channel, [tap][LANES]; the order follows from the shape. */

/* ROWS rows of dy by LANES columns, of which those of `present` are there: all products with KH x KW taps.  A lane that
 * has no dy should not meet an x either, which might be infinite. */
INLINE void depthwise_weight_tile(const int KH, const int KW, const int S, const int ROWS, const int form,
                                  const vox_phase *ph, const real *dy, const real *x, int64_t row, int64_t column,
                                  vmask present, const vmask *inside, vec *sum) {
  const int64_t width = ph->axis[2].size, pitch = ph->axis[2].count;
  const int shifts = depthwise_shifts(KW);
  enum { MOST_ROWS = 8 };
  vec g[MOST_ROWS];
  UNROLL for (int j = 0; j < ROWS; j++) g[j] = form ? v_load_masked(dy + j * pitch, present) : v_load(dy + j * pitch);
  UNROLL for (int i = 0; i < (ROWS - 1) * S + KH; i++) {
    if ((uint64_t)(row + i) >= (uint64_t)ph->axis[1].size) continue;
    const real *line = x + (row + i) * width + column;
    vec tap[3][DEPTHWISE_VECTORS], one;
    if (shifts) depthwise_shifted(S, 1, form, line, inside, tap);
    UNROLL for (int t = 0; t < KW; t++) {
      if (!shifts) one = v_opaque(depthwise_load(S, form, line, t, inside));
      UNROLL for (int j = 0; j < ROWS; j++)
        if (i >= j * S && i < j * S + KH) {
          const int at = (i - j * S) * KW + t;
          sum[at] = v_fma(g[j], shifts ? tap[t % 3][0] : one, sum[at]);
        }
    }
  }
}

/* One slice of dy with one of x: KH x KW taps, the first of which is (th, 0). */
INLINE void depthwise_weight_slice(const int KH, const int KW, const int S, const vox_phase *ph, const real *dy,
                                   const real *x, int64_t th, real *sums) {
  enum { ROWS = 4, MOST_TAPS = 9 };
  const vox_axis *ay = &ph->axis[1], *ax = &ph->axis[2];
  const int64_t reach = depthwise_reach(KW, S, 1);
  const int64_t top = vox_axis_offset(ay, th), whole_rows = ay->count - ay->count % ROWS;
  vec sum[MOST_TAPS];
  vmask inside[DEPTHWISE_LOADS];
  UNROLL for (int t = 0; t < KH * KW; t++) sum[t] = v_zero();
  for (int64_t w = 0; w < ax->count; w += LANES) {
    const int64_t column = w * S + ax->offset0, count = vox_min(LANES, ax->count - w);
    const vmask present = v_range(0, count);
    depthwise_masks(KW, S, 1, column, vox_min(ax->size - column, KW + (count - 1) * S), inside);
    const real *g = dy + w;
    int64_t h = 0;
    if (count == LANES && column >= 0 && column + reach <= ax->size)
      for (; h < whole_rows; h += ROWS)
        depthwise_weight_tile(KH, KW, S, ROWS, WHOLE, ph, g + h * ax->count, x, h * S + top, column, present, inside, sum);
    else
      for (; h < whole_rows; h += ROWS)
        depthwise_weight_tile(KH, KW, S, ROWS, MASKED, ph, g + h * ax->count, x, h * S + top, column, present, inside, sum);
    for (; h < ay->count; h++)
      depthwise_weight_tile(KH, KW, S, 1, MASKED, ph, g + h * ax->count, x, h * S + top, column, present, inside, sum);
  }
  UNROLL for (int t = 0; t < KH * KW; t++) v_store(sums + t * LANES, v_load(sums + t * LANES) + sum[t]);
}

/* The same for one tap of any kernel, stride and dilation. */
NOINLINE void depthwise_weight_tap(const vox_phase *ph, const real *dy, const real *x, int64_t th, int64_t tw, real *sums) {
  const vox_axis *ay = &ph->axis[1], *ax = &ph->axis[2];
  vec sum = v_zero();
  for (int64_t w = 0; w < ax->count; w += LANES) {
    int64_t at, first, last;
    lanes_inside(ax, w, tw, vox_min(LANES, ax->count - w), &at, &first, &last);
    if (first == last) continue;
    const vmask mask = v_range(first, last);
    for (int64_t h = 0; h < ay->count; h++) {
      const int64_t row = h * ay->step + vox_axis_offset(ay, th);
      if (row < 0 || row >= ay->size) continue;
      sum = v_fma(v_load_masked(dy + h * ax->count + w, mask),
                  load_steps(x + row * ax->size + at, ax->step, first, last, mask), sum);
    }
  }
  v_store(sums, v_load(sums) + sum);
}

typedef void depthwise_weight_band(const vox_phase *ph, const real *dy, const real *x, int64_t th, real *sums);
NOINLINE void depthwise_weight_3(const vox_phase *ph, const real *dy, const real *x, int64_t th, real *sums) {
  depthwise_weight_slice(3, 3, 1, ph, dy, x, th, sums);
}
NOINLINE void depthwise_weight_3_2(const vox_phase *ph, const real *dy, const real *x, int64_t th, real *sums) {
  depthwise_weight_slice(3, 3, 2, ph, dy, x, th, sums);
}
NOINLINE void depthwise_weight_5(const vox_phase *ph, const real *dy, const real *x, int64_t th, real *sums) {
  depthwise_weight_slice(1, 5, 1, ph, dy, x, th, sums);
}
NOINLINE void depthwise_weight_5_2(const vox_phase *ph, const real *dy, const real *x, int64_t th, real *sums) {
  depthwise_weight_slice(1, 5, 2, ph, dy, x, th, sums);
}
NOINLINE void depthwise_weight_7(const vox_phase *ph, const real *dy, const real *x, int64_t th, real *sums) {
  depthwise_weight_slice(1, 7, 1, ph, dy, x, th, sums);
}

static void depthwise_weight_item(const vox_weight_job *job, int64_t channel, void *scratch) {
  const vox_conv *p = job->p;
  const vox_phase *ph = &job->l->sum;
  const vox_axis *a = ph->axis;
  const int64_t square = depthwise_square(ph, p->kernel), kh = a[1].taps, kw = a[2].taps;
  const int64_t image = a[1].size * a[2].size, plane = a[1].count * a[2].count;
  /* a 3 x 3 kernel's sums fit the registers, of larger ones those of a row of taps */
  static depthwise_weight_band *const kernels[][2] = {
      {depthwise_weight_3, depthwise_weight_3_2}, {depthwise_weight_5, depthwise_weight_5_2}, {depthwise_weight_7, NULL}};
  depthwise_weight_band *kernel = square ? kernels[square / 2 - 1][a[2].step - 1] : NULL;
  real *sums = scratch;
  memset(sums, 0, (size_t)(ph->taps * LANES) * sizeof(real));
  for (int64_t n = 0; n < p->n; n++)
    for (int64_t d = 0; d < a[0].count; d++)
      for (int64_t td = 0; td < a[0].taps; td++) {
        const int64_t z = d * a[0].step + vox_axis_offset(&a[0], td), sample = n * p->k + channel;
        if (z < 0 || z >= a[0].size) continue;
        const real *x = (const real *)job->x + (sample * a[0].size + z) * image;
        const real *dy = (const real *)job->dy + (sample * a[0].count + d) * plane;
        real *to = sums + td * kh * kw * LANES;
        if (kernel)
          for (int64_t th = 0; th < kh; th += square == 3 ? 3 : 1) kernel(ph, dy, x, th, to + th * kw * LANES);
        else
          for (int64_t t = 0; t < kh * kw; t++) depthwise_weight_tap(ph, dy, x, t / kw, t % kw, to + t * LANES);
      }
  real *dw = (real *)job->dw + channel * ph->taps;
  for (int64_t t = 0; t < ph->taps; t++) {
    const real sum = v_sum(v_load(sums + t * LANES));
    /* a zero that stands for padding may have met a value that is not finite */
    dw[t] = sum - sum == 0 ? sum : weight_mend(job, channel, 0, 0, t);
  }
}
