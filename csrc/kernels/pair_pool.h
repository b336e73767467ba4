/* Pooling where windows are two wide and lie side by side; the gradient of means; and where windows cover the plane that of
 * maxima for training, with what else a training step wants of the same pass.
 *
 *   y[q] = max over taps t of  x[q * kernel + t],   tap[q] = the t where it stands, the first of equals, the last NaN
 *   y[q] = sum over taps t of  x[q * kernel + t] / divisor
 *
 *   dx[at] = f(at, (g[q] where t(at) == tap[q], else 0) + add[at]),   q the window that `at` lies in
 *
 * with g = dy, or 0 where pooled, a ReLU's results that were pooled, is <= 0; and f its second argument, or 0 where output,
 * a ReLU's results that were not, is <= 0.  kernel is (1 or 2, 1 or 2, 2).  Rows are ragged. */

/* How the n windows of a vector lie: fewer than its lanes, as many, or n to either half, whose rows follow each other.  It
 * is constant, as the windows' sizes are, where these are inlined. */
enum { PART, ONE_ROW, TWO_ROWS };

typedef struct pairs {
  int64_t row, slice, plane, image; /* elements of x: to the next row and slice; of planes of y and x */
  avg_scale scale;                  /* of means */
} pairs;
static pairs pairs_of(const vox_window *p) {
  const int64_t row = p->spatial[2], slice = row * p->spatial[1];
  return (pairs){row, slice, p->output[0] * p->output[1] * p->output[2], slice * p->spatial[0],
                 avg_scale_of(avg_divisor(p, 0, 0, 0))};
}

/* Whether windows are such pairs, all inside of the plane, though they need not cover it. */
static int pairs_inside(const vox_window *p) {
  for (int i = 0; i < 3; i++)
    if (p->kernel[i] > 2 || (p->stride[i] != p->kernel[i] && p->output[i] > 1) || p->pad[i] || p->dilation[i] != 1 ||
        p->output[i] > p->spatial[i] / p->kernel[i])
      return 0;
  return p->kernel[2] == 2 && p->spatial[1] * p->spatial[2] < INT32_MAX / 2;
}

/* What is looked for: means, or maxima and of where they stand nothing, the tap as a byte, or the index in the plane. */
enum { MEANS, NO_PLACES, TAPS, INDICES };

/* n windows beside each other, the first of which is q in all planes and begins at element `first` of the plane x.  Unless with
 * care, a NaN among maxima is lost, but marked. */
INLINE void pairs_find(const int D, const int H, const int form, const int care, const int kind, const pairs *at, const real *x,
                       int64_t first, int64_t q, int64_t n, real *y, void *places, ivec *nan) {
  const int whole = form == ONE_ROW, apart = form == TWO_ROWS && 2 * n < LANES;
  vec best = v_zero(), sum[2] = {v_zero(), v_zero()};
  ivec place = {0};
  UNROLL for (int t = 0; t < D * H; t++) {
    const int64_t line = t / H * at->slice + t % H * at->row;
    const real *from = x + first + line;
    const vec low = whole ? v_load(from) : v_load_n(from, vox_min(LANES, 2 * n));
    const vec high = whole              ? v_load(from + LANES)
                     : form == TWO_ROWS ? v_load_n(from + H * at->row, 2 * n)
                     : 2 * n > LANES    ? v_load_n(from + LANES, 2 * n - LANES)
                                        : v_zero();
    if (whole) prefetch_ahead(from), prefetch_ahead(from + LANES);
    sum[0] += low, sum[1] += high;
    if (kind == MEANS) continue;
    const vec pair[2] = {v_even_mixed(low, high), v_odd_mixed(low, high)};
    if (!care) *nan = v_mark(*nan, v_unordered(low, high));
    UNROLL for (int i = 0; i < 2; i++) {
      const ivec here = (ivec){0} + (lane_int)(kind == TAPS ? 2 * t + i : line + i);
      const vmask better = care ? v_replaces(pair[i], best) : v_greater(pair[i], best);
      if (kind != NO_PLACES && t + i > 0) place = v_select_int(better, here, place);
      best = t + i == 0 ? pair[0] : care ? v_select(better, pair[i], best) : v_max(pair[i], best);
    }
  }
  if (kind == MEANS) best = avg_divide(&at->scale, v_even_mixed(sum[0], sum[1]) + v_odd_mixed(sum[0], sum[1]));
  best = v_unmixed(best);
  place = (ivec)v_unmixed((vec)place);
  const ivec upper = (ivec)v_upper((vec)place);
  y += q;
  if (form == PART || apart)
    v_store_n(y, best, n);
  else
    v_store(y, best);
  if (apart) v_store_n(y + n, v_upper(best), n);
  if (kind == TAPS) {
    uint8_t *taps = (uint8_t *)places + q;
    v_store_bytes(taps, place, form == PART || apart ? n : LANES);
    if (apart) v_store_bytes(taps + n, upper, n);
  } else if (kind == INDICES) {
    int64_t *indices = (int64_t *)places + q;
    v_store_index(indices, first, 2, place, whole ? LANES : n);
    if (form == TWO_ROWS) v_store_index(indices + n, first + H * at->row, 2, upper, n);
  }
}

/* Returns whether there was a NaN that is lost. */
INLINE int pairs_rows(const int D, const int H, const int care, const int kind, const vox_window *p, const vox_box *box,
                      const real *x, real *y, void *places) {
  const pairs at = pairs_of(p);
  /* held apart, since for all that is known a byte that is stored changes them */
  const int64_t width = p->output[2], left = box->first[2], right = box->last[2], end = box->last[1];
  const int all = right - left == width;
  ivec nan = {0};
  x += box->plane * at.image;
  const int64_t down = H * at.row, narrow = all ? end - 1 : 0; /* rows from which on there is no second one */
  for (int64_t d = box->first[0]; d < box->last[0]; d++) {
    int64_t h = box->first[1], line = d * D * at.slice + h * down;
    int64_t q = box->plane * at.plane + (d * p->output[1] + h) * width;
    if (2 * width <= LANES)
      for (; h < narrow; h += 2, line += 2 * down, q += 2 * width)
        pairs_find(D, H, TWO_ROWS, care, kind, &at, x, line, q, width, y, places, &nan);
    for (; h < end; h++, line += down, q += width) {
      int64_t w = left;
      /* a whole vector runs on into the next rows, whose turn comes */
      const int64_t room = all ? (end - h) * width : right;
      for (; w < right && w + LANES <= room; w += LANES)
        pairs_find(D, H, ONE_ROW, care, kind, &at, x, line + 2 * w, q + w, LANES, y, places, &nan);
      if (w < right) pairs_find(D, H, PART, care, kind, &at, x, line + 2 * w, q + w, right - w, y, places, &nan);
    }
  }
  return v_any_int(nan);
}

INLINE int pairs_box(const int care, const int kind, const vox_window *p, const vox_box *box, const void *x, void *y,
                     void *places) {
  switch (2 * p->kernel[0] + p->kernel[1]) {
  case 3: return pairs_rows(1, 1, care, kind, p, box, x, y, places);
  case 4: return pairs_rows(1, 2, care, kind, p, box, x, y, places);
  case 5: return pairs_rows(2, 1, care, kind, p, box, x, y, places);
  default: return pairs_rows(2, 2, care, kind, p, box, x, y, places);
  }
}
static int pairs_values(const vox_window *p, const vox_box *box, const void *x, void *y) {
  return pairs_box(0, NO_PLACES, p, box, x, y, 0);
}
static int pairs_indices(const vox_window *p, const vox_box *box, const void *x, void *y, void *indices) {
  return pairs_box(0, INDICES, p, box, x, y, indices);
}
static void max_pool_taps(const vox_window *p, const vox_box *box, const void *x, void *y, void *taps) {
  if (pairs_box(0, TAPS, p, box, x, y, taps)) pairs_box(1, TAPS, p, box, x, y, taps);
}

static void pairs_means(const vox_window *p, const vox_box *box, const void *x, void *y) {
  vox_box one = *box;
  for (; one.plane < box->plane + box->planes; one.plane++) pairs_box(0, MEANS, p, &one, x, y, 0);
}

/* dx of so many planes, row by row in the order of memory: what vectors write beyond a row, the next rows write again. */
static void pairs_means_grad(const vox_window *p, int64_t planes, const real *dy, real *dx) {
  const pairs at = pairs_of(p);
  const int64_t width = p->output[2], reach = vox_round_up(width, LANES), *size = p->spatial;
  const real *dx_end = dx + planes * at.image, *dy_end = dy + planes * at.plane;
  for (int64_t i = 0; i < planes; i++, dy += at.plane)
    for (int64_t z = 0; z < size[0]; z++)
      for (int64_t row = 0; row < size[1]; row++, dx += at.row) {
        const int64_t d = z >> (p->kernel[0] == 2), h = row >> (p->kernel[1] == 2);
        const int64_t n = d < p->output[0] && h < p->output[1] ? width : 0;
        const real *from = dy + (n ? (d * p->output[1] + h) * width : 0);
        const int whole = dy_end - from >= reach && dx_end - dx >= 2 * reach;
        for (int64_t w = 0; w < n; w += LANES) {
          const int64_t left = 2 * (n - w);
          const vec g = avg_divide(&at.scale, whole ? v_load(from + w) : v_load_n(from + w, vox_min(LANES, n - w))) + v_zero();
          if (whole) {
            v_store(dx + 2 * w, v_zip_low(g, g));
            if (left > LANES) v_store(dx + 2 * w + LANES, v_zip_high(g, g));
          } else {
            v_store_n(dx + 2 * w, v_zip_low(g, g), vox_min(LANES, left));
            if (left > LANES) v_store_n(dx + 2 * w + LANES, v_zip_high(g, g), vox_min(LANES, left - LANES));
          }
        }
        for (int64_t w = 2 * n; w < at.row; w++) dx[w] = 0;
      }
}

/* n elements of dx and what they add to the channel's sum. */
INLINE vec taps_store(const int alone, const int whole, vec v, int64_t n, const real *add, const real *output, real *dx) {
  if (!alone && add) v += whole ? v_load(add) : v_load_n(add, n);
  if (!alone && output) v = v_if_positive(whole ? v_load(output) : v_load_n(output, n), v);
  if (whole)
    v_store(dx, v);
  else
    v_store_n(dx, v, n);
  return v;
}

/* One row of windows from q on, whose first element of dx is `to`, of output `seen` and of what is added `plus`; `alone`:
 * there is nothing to add and no output. */
INLINE void taps_spread(const int D, const int H, const int alone, const int form, const vox_taps_job *job, const pairs *at,
                        int64_t q, int64_t to, int64_t seen, int64_t plus, int64_t n, vec sum[2]) {
  const int whole = form == ONE_ROW, split = form == TWO_ROWS && 2 * n < LANES;
  const int64_t high = form == TWO_ROWS ? H * at->row : LANES, left = form == TWO_ROWS ? 2 * n : 2 * n - LANES;
  const real *dy = (const real *)job->dy + q, *pooled = job->pooled ? (const real *)job->pooled + q : 0;
  const real *add = job->add ? (const real *)job->add + plus : 0;
  const real *output = job->output ? (const real *)job->output + seen : 0;
  real *dx = (real *)job->out + to;
  const uint8_t *places = job->taps + q;
  vec g = form == PART ? v_load_n(dy, n) : split ? v_halves(v_load_n(dy, n), v_load_n(dy + n, n)) : v_load(dy);
  if (pooled) {
    const vec y = form == PART ? v_load_n(pooled, n)
                  : split      ? v_halves(v_load_n(pooled, n), v_load_n(pooled + n, n))
                               : v_load(pooled);
    g = v_if_positive(y, g);
  }
  const ivec tap = split ? (ivec)v_halves((vec)v_load_bytes(places, n), (vec)v_load_bytes(places + n, n))
                         : v_load_bytes(places, form == PART ? n : LANES);
  UNROLL for (int t = 0; t < D * H; t++) {
    const int64_t line = t / H * at->slice + t % H * at->row;
    const vec even = v_select(v_equal_int(tap, (ivec){0} + (lane_int)(2 * t)), g, v_zero());
    const vec odd = v_select(v_equal_int(tap, (ivec){0} + (lane_int)(2 * t + 1)), g, v_zero());
    const real *a = add ? add + line : 0, *o = output ? output + line : 0;
    sum[0] += taps_store(alone, whole, v_zip_low(even, odd), vox_min(LANES, 2 * n), a, o, dx + line);
    if (whole || left > 0)
      sum[1] += taps_store(alone, whole, v_zip_high(even, odd), left, a ? a + high : 0, o ? o + high : 0, dx + line + high);
  }
}

INLINE real taps_channel(const int D, const int H, const int alone, const vox_taps_job *job, int64_t channel) {
  const pairs at = pairs_of(job->p);
  /* held apart, since for all that is known what is stored changes them */
  const int64_t depth = job->p->output[0], rows = job->p->output[1], width = job->p->output[2], down = H * at.row;
  const int64_t narrow = 2 * width <= LANES ? rows - 1 : 0; /* rows from which on there is no second one */
  real total = 0;
  for (int64_t s = 0; s < job->n; s++) {
    const int64_t plane = s * job->k + channel, here = channel * at.image;
    int64_t q = plane * at.plane;
    vec sum[2] = {{0}};
    for (int64_t d = 0; d < depth; d++) {
      const int64_t line = here + d * D * at.slice;
      int64_t h = 0, to = plane * at.image - here + line;
      int64_t seen = s * job->output_stride + line, plus = s * job->add_stride + line;
      for (; h < narrow; h += 2, q += 2 * width, to += 2 * down, seen += 2 * down, plus += 2 * down)
        taps_spread(D, H, alone, TWO_ROWS, job, &at, q, to, seen, plus, width, sum);
      for (; h < rows; h++, q += width, to += down, seen += down, plus += down) {
        int64_t w = 0;
        for (; w + LANES <= width; w += LANES)
          taps_spread(D, H, alone, ONE_ROW, job, &at, q + w, to + 2 * w, seen + 2 * w, plus + 2 * w, LANES, sum);
        if (w < width)
          taps_spread(D, H, alone, PART, job, &at, q + w, to + 2 * w, seen + 2 * w, plus + 2 * w, width - w, sum);
      }
    }
    total += v_sum(sum[0] + sum[1]);
  }
  return total;
}

/* One channel, all samples. */
static void max_pool_taps_grad(const vox_taps_job *job, int64_t channel) {
  const int alone = !job->add && !job->output;
  real sum = 0;
  switch (2 * (2 * job->p->kernel[0] + job->p->kernel[1]) + alone) {
  case 6: sum = taps_channel(1, 1, 0, job, channel); break;
  case 7: sum = taps_channel(1, 1, 1, job, channel); break;
  case 8: sum = taps_channel(1, 2, 0, job, channel); break;
  case 9: sum = taps_channel(1, 2, 1, job, channel); break;
  case 10: sum = taps_channel(2, 1, 0, job, channel); break;
  case 11: sum = taps_channel(2, 1, 1, job, channel); break;
  case 12: sum = taps_channel(2, 2, 0, job, channel); break;
  case 13: sum = taps_channel(2, 2, 1, job, channel); break;
  }
  if (job->sums) ((real *)job->sums)[channel] = sum;
}
