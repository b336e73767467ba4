/* Average pooling and its gradient, of one plane or, where there is one window a plane, of some.
 *
 *   y[p] = (sum over taps t inside the plane of  x[p * stride - pad + t]) / divisor[p],   dx the transpose of that
 *
 * Rows are added first, whole, into a band of scratch with zeros at both ends, so that then no window along the row is
 * ragged; the gradient goes the same way back.  Windows alone in their row are summed by lanes.  The order of an element's
 * additions depends on the window alone, not on the box. */

/* The outputs among n from w on that share their divisor: those whose windows count all columns. */
static void avg_alike(const vox_window *p, int64_t w, int64_t n, int64_t *first, int64_t *last) {
  const int64_t before = p->count_include_pad ? p->pad[2] : 0, after = p->count_include_pad ? p->pad_after[2] : 0;
  *first = 0, *last = n;
  if (!p->divisor)
    vox_inside(p->spatial[2] + before + after - p->kernel[2] + 1, p->stride[2], w * p->stride[2] - p->pad[2] + before, n, first,
               last);
}

/* y[i] = sum[i] / divisor of output (d, h, w + i), for i < n; sum may be y. */
static void avg_divide_row(const vox_window *p, int64_t d, int64_t h, int64_t w, int64_t n, const real *sum, real *y) {
  int64_t first, last;
  avg_alike(p, w, n, &first, &last);
  for (int64_t i = 0; i < first; i++) y[i] = sum[i] / avg_divisor(p, d, h, w + i);
  if (first < last) {
    const avg_scale scale = avg_scale_of(avg_divisor(p, d, h, w + first));
    for (int64_t i = first, m; i < last; i += m) {
      m = vox_min(LANES, last - i);
      v_store_n(y + i, avg_divide(&scale, v_load_n(sum + i, m)), m);
    }
  }
  for (int64_t i = last; i < n; i++) y[i] = sum[i] / avg_divisor(p, d, h, w + i);
}

/* ------------------------------------------------------------------------------------------ windows alone in their row */

/* The elements of the plane that a window sees: slices of rows of columns, fewer and longer where they adjoin. */
typedef struct avg_box {
  int64_t first, slices, rows, columns;
} avg_box;
static avg_box avg_box_of(const vox_window *p, int64_t d, int64_t h, int64_t w) {
  const int64_t *size = p->spatial, at[3] = {d, h, w};
  int64_t from[3], count[3];
  for (int i = 0; i < 3; i++) {
    const int64_t start = at[i] * p->stride[i] - p->pad[i];
    from[i] = vox_max(0, start);
    count[i] = vox_min(size[i], start + p->kernel[i]) - from[i];
  }
  avg_box b = {(from[0] * size[1] + from[1]) * size[2] + from[2], count[0], count[1], count[2]};
  if (b.columns == size[2]) {
    b.columns *= b.rows, b.rows = 1;
    if (count[1] == size[1]) b.columns *= b.slices, b.slices = 1;
  }
  return b;
}

/* What is left of a row of so many columns behind its whole vectors, in some of the lanes. */
INLINE vec avg_rest(const real *row, int64_t columns) {
  if (columns < LANES) return v_load_n(row, columns);
  return v_from_lane(LANES - columns % LANES, v_load(row + columns - LANES), v_zero());
}

/* Its sum, by lanes. */
INLINE vec avg_box_lanes(const vox_window *p, const avg_box *b, const real *x) {
  vec sum[4] = {{0}};
  for (int64_t d = 0; d < b->slices; d++)
    for (int64_t h = 0; h < b->rows; h++) {
      const real *from = x + b->first + (d * p->spatial[1] + h) * p->spatial[2];
      int64_t w = 0;
      for (; w + 4 * LANES <= b->columns; w += 4 * LANES)
        UNROLL for (int i = 0; i < 4; i++) sum[i] += v_load(from + w + i * LANES);
      for (; w + LANES <= b->columns; w += LANES) sum[0] += v_load(from + w);
      if (w < b->columns) sum[1] += avg_rest(from, b->columns);
    }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
/* The same of a plane that is one window of so many whole `vectors`. */
INLINE vec avg_plane_lanes(const int vectors, int64_t image, const real *x) {
  vec sum = vectors ? avg_rest(x, vox_max(LANES, image)) : v_load_n(x, image);
  UNROLL for (int i = 0; i < vectors; i++) sum += v_load(x + i * LANES);
  return sum;
}
/* The means of LANES planes at a time, of the others one by one. */
INLINE void avg_short_planes(const int vectors, int64_t image, int64_t planes, real divisor, const real *x, real *y) {
  const avg_scale scale = avg_scale_of(divisor);
  int64_t at = 0;
  for (; at + LANES <= planes; at += LANES) {
    vec sum[LANES];
    UNROLL for (int i = 0; i < LANES; i++, x += image) sum[i] = avg_plane_lanes(vectors, image, x);
    UNROLL for (int half = LANES / 2; half; half /= 2) /* in the order of v_sum */
      UNROLL for (int i = 0; i < half; i++)
        sum[i] = v_zip_low(sum[i], sum[i + half]) + v_zip_high(sum[i], sum[i + half]);
    v_store(y + at, avg_divide(&scale, sum[0]));
  }
  for (; at < planes; at++, x += image) y[at] = v_sum(avg_plane_lanes(vectors, image, x)) / divisor;
}

/* One window a plane. */
static void avg_planes(const vox_window *p, int64_t planes, const real *x, real *y) {
  const int64_t image = p->spatial[0] * p->spatial[1] * p->spatial[2];
  const avg_box b = avg_box_of(p, 0, 0, 0);
  const real divisor = avg_divisor(p, 0, 0, 0);
  switch (b.columns == image ? image / LANES : -1) {
  case 0: avg_short_planes(0, image, planes, divisor, x, y); break;
  case 1: avg_short_planes(1, image, planes, divisor, x, y); break;
  case 2: avg_short_planes(2, image, planes, divisor, x, y); break;
  case 3: avg_short_planes(3, image, planes, divisor, x, y); break;
  case 4: avg_short_planes(4, image, planes, divisor, x, y); break;
  case 5: avg_short_planes(5, image, planes, divisor, x, y); break;
  case 6: avg_short_planes(6, image, planes, divisor, x, y); break;
  default:
    for (int64_t i = 0; i < planes; i++) y[i] = v_sum(avg_box_lanes(p, &b, x + i * image)) / divisor;
  }
}

static void avg_boxes(const vox_window *p, const vox_box *box, const real *x, real *y) {
  for (int64_t d = box->first[0]; d < box->last[0]; d++)
    for (int64_t h = box->first[1]; h < box->last[1]; h++)
      for (int64_t w = box->first[2]; w < box->last[2]; w++) {
        const avg_box b = avg_box_of(p, d, h, w);
        y[(d * p->output[1] + h) * p->output[2] + w] = v_sum(avg_box_lanes(p, &b, x)) / avg_divisor(p, d, h, w);
      }
}

/* ------------------------------------------------------------------------------------------------------------- strips */

/* Windows that are wider than this go one by one. */
enum { MOST_COLUMNS = 512, STRIP = 2 * MOST_COLUMNS };

/* Scratch of one item, in elements: some rows with what lies beside them, and what vectors reach beyond the last. */
enum { BAND = 4096, BEYOND = 8 * LANES };

/* Zeros before and behind what a row of a band will hold: n elements from `left` on. */
INLINE void clear_ends(real *row, int64_t left, int64_t n, int64_t pitch) {
  for (int64_t i = 0; i < left; i += LANES) v_store(row + i, v_zero());
  for (int64_t i = left + n / LANES * LANES; i < pitch; i += LANES) v_store(row + i, v_zero());
}

/* to[i] = sum over slices and rows of from[i], i < n, over the divisor if there is one; what follows to the next whole vector is set to zero. */
INLINE void add_rows(int64_t slices, int64_t slice, int64_t rows, int64_t row, const avg_scale *scale, const real *from,
                     int64_t n, real *to) {
  for (int64_t i = 0; i < n; i += LANES) {
    const int64_t m = vox_min(LANES, n - i);
    vec sum = v_zero();
    for (int64_t d = 0; d < slices; d++)
      for (int64_t h = 0; h < rows; h++) {
        const real *p = from + d * slice + h * row + i;
        sum += m == LANES ? v_load(p) : v_load_n(p, m);
      }
    v_store(to + i, scale ? avg_divide(scale, sum) : sum);
  }
}
static void avg_rows(int64_t slices, int64_t slice, int64_t rows, int64_t row, const avg_scale *scale, const real *from,
                     int64_t n, real *to) {
  if (slices == 1 && rows == 1)
    add_rows(1, 0, 1, 0, scale, from, n, to);
  else if (slices == 1 && rows == 2)
    add_rows(1, 0, 2, row, scale, from, n, to);
  else if (slices == 1 && rows == 3)
    add_rows(1, 0, 3, row, scale, from, n, to);
  else if (slices == 2 && rows == 2)
    add_rows(2, slice, 2, row, scale, from, n, to);
  else
    add_rows(slices, slice, rows, row, scale, from, n, to);
}

/* y[i] = sum of taps [i * step, i * step + taps) of a row of sums, i < n; over the divisor, if there is one for all. */
INLINE void add_taps(const int form, int64_t taps, int64_t step, const real *sums, const avg_scale *scale, int64_t n, real *y) {
  if (form == ONE_BY_ONE) {
    for (int64_t i = 0; i < n; i++, sums += step) {
      real sum = sums[0];
      for (int64_t j = 1; j < taps; j++) sum += sums[j];
      y[i] = sum;
    }
    return;
  }
  for (int64_t i = 0; i < n; i += LANES) {
    vec sum = sum_taps(form, sums + i * form, taps);
    if (scale) sum = avg_divide(scale, sum);
    if (i + LANES <= n)
      v_store(y + i, sum);
    else
      v_store_n(y + i, sum, n - i);
  }
}
static void avg_taps(int64_t taps, int64_t step, const real *sums, const avg_scale *scale, int64_t n, real *y) {
  if (step == 2 && taps == 2)
    add_taps(2, 2, 2, sums, scale, n, y);
  else if (step == 1 && taps == 3)
    add_taps(1, 3, 1, sums, scale, n, y);
  else if (step == 1)
    add_taps(1, taps, 1, sums, scale, n, y);
  else if (step == 2)
    add_taps(2, taps, 2, sums, scale, n, y);
  else if (step == 3)
    add_taps(3, taps, 3, sums, scale, n, y);
  else if (step == 4)
    add_taps(4, taps, 4, sums, scale, n, y);
  else
    add_taps(ONE_BY_ONE, taps, step, sums, 0, n, y);
}

/* Outputs [w, w + n) of all rows of the box. */
static void avg_strip(const vox_window *p, const vox_box *box, int64_t w, int64_t n, const real *x, real *y) {
  const int64_t *size = p->spatial, *out = p->output, *pad = p->pad, *step = p->stride, taps = p->kernel[2];
  const int64_t at = w * step[2] - pad[2], from = vox_max(0, at), to = vox_min(size[2], at + (n - 1) * step[2] + taps);
  const int shuffled = step[2] <= MOST_SHUFFLED;
  const int64_t reach = shuffled ? vox_round_up(n, LANES) * step[2] + taps - 1 : (n - 1) * step[2] + taps;
  const int64_t pitch = vox_round_up(reach, LANES);
  const int64_t group = BAND / pitch;
  int64_t first, last;
  avg_alike(p, w, n, &first, &last);
  const int alike = shuffled && first == 0 && last == n;
  real divisor = 1;
  avg_scale scale = avg_scale_of(divisor);
  real band[BAND + BEYOND];
  for (int64_t d = box->first[0]; d < box->last[0]; d++) {
    int64_t d0, d1, h0, h1;
    vox_inside(size[0], 1, d * step[0] - pad[0], p->kernel[0], &d0, &d1);
    for (int64_t top = box->first[1], end; top < box->last[1]; top = end) {
      end = vox_min(top + group, box->last[1]);
      for (int64_t h = top; h < end; h++) {
        real *row = band + (h - top) * pitch;
        vox_inside(size[1], 1, h * step[1] - pad[1], p->kernel[1], &h0, &h1);
        const real *source = x + ((d * step[0] - pad[0] + d0) * size[1] + h * step[1] - pad[1] + h0) * size[2] + from;
        if (d == box->first[0] && top == box->first[1]) clear_ends(row, from - at, to - from, pitch);
        avg_rows(d1 - d0, size[1] * size[2], h1 - h0, size[2], 0, source, to - from, row + (from - at));
      }
      for (int64_t h = top; h < end; h++) {
        real *result = y + (d * out[1] + h) * out[2] + w;
        const real count = avg_divisor(p, d, h, w);
        if (count != divisor) scale = avg_scale_of(divisor = count);
        avg_taps(taps, step[2], band + (h - top) * pitch, alike ? &scale : 0, n, result);
        if (!alike) avg_divide_row(p, d, h, w, n, result, result);
      }
    }
  }
}

static void avg_pool(const vox_window *p, const vox_box *box, const void *x_, void *y_) {
  const int64_t image = p->spatial[0] * p->spatial[1] * p->spatial[2], step = p->stride[2], taps = p->kernel[2];
  const int64_t outputs = p->output[0] * p->output[1] * p->output[2];
  const real *x = (const real *)x_ + box->plane * image;
  real *y = (real *)y_ + box->plane * outputs;
  if (outputs == 1) {
    avg_planes(p, box->planes, x, y);
    return;
  }
  if (pairs_inside(p)) {
    pairs_means(p, box, x_, y_);
    return;
  }
  for (int64_t i = 0; i < box->planes; i++, x += image, y += outputs) {
    if (p->output[2] == 1 || taps > MOST_COLUMNS) {
      avg_boxes(p, box, x, y);
      continue;
    }
    const int64_t most = step > MOST_SHUFFLED ? (STRIP - taps) / step + 1 : vox_max(1, (STRIP - taps) / (LANES * step)) * LANES;
    for (int64_t w = box->first[2], n; w < box->last[2]; w += n) {
      n = vox_min(most, box->last[2] - w);
      avg_strip(p, box, w, n, x, y);
    }
  }
}

/* ---------------------------------------------------------------------------------------------------------- gradient */

/* Outputs [*first, *last) of an axis whose windows hold an element of [from, to). */
static void outputs_over(const vox_window *p, int axis, int64_t from, int64_t to, int64_t *first, int64_t *last) {
  const int64_t step = p->stride[axis], at = from + p->pad[axis];
  *first = at < p->kernel[axis] ? 0 : (at - p->kernel[axis]) / step + 1;
  *last = vox_min(p->output[axis], (to - 1 + p->pad[axis]) / step + 1);
}

/* Zeros of the box of a plane x of the input. */
static void clear_box(const vox_window *p, const vox_box *box, real *x) {
  for (int64_t z = box->first[0]; z < box->last[0]; z++)
    for (int64_t row = box->first[1]; row < box->last[1]; row++)
      memset(x + (z * p->spatial[1] + row) * p->spatial[2] + box->first[2], 0,
             (size_t)(box->last[2] - box->first[2]) * sizeof(real));
}

/* n elements of dx from the shares of the outputs over them, of which shares[0] is the first's; dx[0] is element `at` of the
 * padded row. */
INLINE void spread_taps(const int form, int64_t taps, const real *shares, int64_t at, int64_t n, real *dx) {
  const int64_t even = vox_ceil_div(taps, 2), odd = taps / 2;
  for (int64_t i = 0; form == 1 && i < n; i += LANES)
    v_store_n(dx + i, sum_taps(1, shares + i, taps), vox_min(LANES, n - i));
  for (int64_t i = 0, to = -(at % 2); form == 2 && to < n; i += LANES, to += 2 * LANES) {
    const vec a = sum_taps(1, shares + i, even), b = sum_taps(1, shares + i + even - odd, odd);
    const vec pair[2] = {v_zip_low(a, b), v_zip_high(a, b)};
    UNROLL for (int j = 0; j < 2; j++) {
      const int64_t first = to + j * LANES;
      if (first >= 0 && first + LANES <= n)
        v_store(dx + first, pair[j]);
      else if (first < n)
        v_store_masked(dx + first, pair[j], v_range(-first, n - first));
    }
  }
}
/* a in [from, end) of the n elements of a row, and whatever behind them up to a whole vector. */
INLINE void fill_row(real *to, int64_t from, int64_t end, int64_t n, vec a) {
  end = vox_min(end, n);
  for (int64_t i = vox_max(0, from); i < end; i += LANES)
    if (i + LANES <= n)
      v_store(to + i, a);
    else
      v_store_n(to + i, a, n - i);
}
/* n elements of dx under `count` windows that do not overlap, the first at `at`: the next one overwrites a vector's tail. */
static void spread_apart(int64_t taps, int64_t step, const real *shares, int64_t at, int64_t count, int64_t n, real *dx) {
  fill_row(dx, 0, count > 0 ? at : n, n, v_zero());
  for (int64_t i = 0; i < count; i++, at += step) {
    fill_row(dx, at, at + taps, n, v_set1(shares[i]));
    fill_row(dx, at + taps, i + 1 < count ? at + step : n, n, v_zero());
  }
}

INLINE void add_share(real *to, int64_t n, vec share) {
  for (int64_t i = 0, m; i < n; i += m) {
    m = vox_min(LANES, n - i);
    v_store_n(to + i, v_load_n(to + i, m) + share, m);
  }
}

/* Whether all windows have one divisor. */
static int avg_all_alike(const vox_window *p) {
  int alike = 1;
  for (int i = 0; i < 3; i++) {
    const int64_t before = p->count_include_pad ? 0 : p->pad[i], after = p->count_include_pad ? p->pad_after[i] : 0;
    alike &= before == 0 && (p->output[i] - 1) * p->stride[i] - p->pad[i] + p->kernel[i] <= p->spatial[i] + after;
  }
  return alike || p->divisor;
}

/* A row of dx, n columns from `at` of the padded row on, from the shares of the outputs over them. */
static void spread_row(int64_t taps, int64_t step, const real *shares, int64_t at, int64_t n, real *dx) {
  if (step == 1 && taps == 3)
    spread_taps(1, 3, shares, at, n, dx);
  else if (step == 1)
    spread_taps(1, taps, shares, at, n, dx);
  else if (taps == 3)
    spread_taps(2, 3, shares, at, n, dx);
  else
    spread_taps(2, taps, shares, at, n, dx);
}

/* Columns [from, to) of all rows of the box, of windows at most two columns apart with one divisor. */
static void avg_strip_grad_alike(const vox_window *p, const vox_box *box, int64_t from, int64_t to, const real *dy, real *dx) {
  const int64_t *size = p->spatial, *out = p->output, step = p->stride[2], taps = p->kernel[2], at = from + p->pad[2];
  const int64_t halo = vox_ceil_div(taps, step) - 1, base = at / step - halo;
  const int64_t pitch = vox_round_up(vox_round_up((to - 1 + p->pad[2]) / step - at / step + 1, LANES) + halo, LANES);
  const avg_scale scale = avg_scale_of(avg_divisor(p, 0, 0, 0));
  int64_t w0, w1, d0, d1;
  outputs_over(p, 2, from, to, &w0, &w1);
  real shares[BAND + BEYOND];
  const int64_t count = vox_max(0, w1 - w0);
  clear_ends(shares, w0 - base, count, pitch);
  for (int64_t z = box->first[0]; z < box->last[0]; z++) {
    int64_t seen[2] = {0, 0};
    outputs_over(p, 0, z, z + 1, &d0, &d1);
    for (int64_t row = box->first[1]; row < box->last[1]; row++) {
      real *result = dx + (z * size[1] + row) * size[2] + from;
      int64_t first, last;
      outputs_over(p, 1, row, row + 1, &first, &last);
      if (row > box->first[1] && first == seen[0] && last == seen[1]) {
        memcpy(result, result - size[2], (size_t)(to - from) * sizeof(real));
        continue;
      }
      const int64_t slices = vox_max(0, d1 - d0), rows = vox_max(0, last - first);
      const real *source = dy + (slices && rows ? (d0 * out[1] + first) * out[2] + w0 : 0);
      avg_rows(slices, out[1] * out[2], rows, out[2], &scale, source, count, shares + (w0 - base));
      spread_row(taps, step, shares, at, to - from, result);
      seen[0] = first, seen[1] = last;
    }
  }
}

/* Columns [from, to) of all rows of the box. */
static void avg_strip_grad(const vox_window *p, const vox_box *box, int64_t from, int64_t to, const real *dy, real *dx) {
  const int64_t *size = p->spatial, *out = p->output, step = p->stride[2], taps = p->kernel[2], at = from + p->pad[2];
  const int64_t halo = vox_ceil_div(taps, step) - 1, base = at / step - halo;
  const int64_t pitch = vox_round_up(vox_round_up((to - 1 + p->pad[2]) / step - at / step + 1, LANES) + halo, LANES);
  const int64_t group = BAND / pitch;
  int64_t w0, w1, d0, d1;
  outputs_over(p, 2, from, to, &w0, &w1);
  real shares[BAND + BEYOND], sums[BAND + BEYOND];
  for (int64_t z = box->first[0]; z < box->last[0]; z++) {
    outputs_over(p, 0, z, z + 1, &d0, &d1);
    for (int64_t top = box->first[1], end; top < box->last[1]; top = end) {
      int64_t h0, h1;
      end = vox_min(top + group, box->last[1]);
      outputs_over(p, 1, top, end, &h0, &h1);
      memset(sums, 0, (size_t)((end - top) * pitch) * sizeof(real));
      for (int64_t d = d0; d < d1 && w0 < w1; d++)
        for (int64_t some = h0, next; some < h1; some = next) {
          next = vox_min(some + group, h1);
          for (int64_t h = some; h < next; h++) {
            real *row = shares + (h - some) * pitch;
            clear_ends(row, w0 - base, w1 - w0, pitch);
            avg_divide_row(p, d, h, w0, w1 - w0, dy + (d * out[1] + h) * out[2] + w0, row + (w0 - base));
          }
          for (int64_t row = top; row < end; row++) {
            int64_t first, last;
            outputs_over(p, 1, row, row + 1, &first, &last);
            first = vox_max(first, some), last = vox_min(last, next);
            for (int64_t i = 0; first < last && i < pitch; i += LANES) {
              real *sum = sums + (row - top) * pitch + i;
              vec all = v_load(sum);
              for (int64_t h = first; h < last; h++) all += v_load(shares + (h - some) * pitch + i);
              v_store(sum, all);
            }
          }
        }
      int64_t seen[2] = {0, 0};
      for (int64_t row = top; row < end; row++) {
        real *result = dx + (z * size[1] + row) * size[2] + from;
        const real *sum = sums + (row - top) * pitch;
        int64_t first, last;
        outputs_over(p, 1, row, row + 1, &first, &last);
        if (row > top && first == seen[0] && last == seen[1])
          memcpy(result, result - size[2], (size_t)(to - from) * sizeof(real));
        else if (step <= 2)
          spread_row(taps, step, sum, at, to - from, result);
        else if (taps <= step)
          spread_apart(taps, step, sum + (w0 - base), w0 * step - at, w1 - w0, to - from, result);
        else {
          memset(result, 0, (size_t)(to - from) * sizeof(real));
          for (int64_t w = w0; w < w1; w++) {
            const int64_t left = vox_max(0, w * step - at), right = vox_min(to - from, w * step - at + taps);
            add_share(result + left, right - left, v_set1(sum[w - base]));
          }
        }
        seen[0] = first, seen[1] = last;
      }
    }
  }
}

/* Output after output, for windows of any size. */
static void avg_scatter(const vox_window *p, const vox_box *box, const real *dy, real *dx) {
  const int64_t *size = p->spatial, *out = p->output;
  int64_t first[3], last[3], from[3], to[3];
  clear_box(p, box, dx);
  for (int i = 0; i < 3; i++) outputs_over(p, i, box->first[i], box->last[i], &first[i], &last[i]);
  for (int64_t d = first[0]; d < last[0]; d++)
    for (int64_t h = first[1]; h < last[1]; h++)
      for (int64_t w = first[2]; w < last[2]; w++) {
        const int64_t at[3] = {d, h, w};
        for (int i = 0; i < 3; i++) {
          const int64_t start = at[i] * p->stride[i] - p->pad[i];
          from[i] = vox_max(box->first[i], start), to[i] = vox_min(box->last[i], start + p->kernel[i]);
        }
        const vec share = v_set1(dy[(d * out[1] + h) * out[2] + w] / avg_divisor(p, d, h, w));
        for (int64_t z = from[0]; z < to[0]; z++)
          for (int64_t row = from[1]; row < to[1]; row++)
            add_share(dx + (z * size[1] + row) * size[2] + from[2], to[2] - from[2], share);
      }
}

static void avg_pool_grad(const vox_window *p, const vox_box *box, const void *dy_, void *dx_) {
  enum { COLUMNS = 256 };
  const int64_t *size = p->spatial, image = size[0] * size[1] * size[2], outputs = p->output[0] * p->output[1] * p->output[2];
  const real *dy = (const real *)dy_ + box->plane * outputs;
  real *dx = (real *)dx_ + box->plane * image;
  int uncut = 1;
  for (int i = 0; i < 3; i++) uncut &= box->first[i] == 0 && box->last[i] == size[i];
  const int whole = uncut && outputs == 1 && avg_box_of(p, 0, 0, 0).columns == image;
  const int alike = p->stride[2] <= 2 && avg_all_alike(p);
  const real divisor = avg_divisor(p, 0, 0, 0);
  if (uncut && outputs > 1 && pairs_inside(p)) {
    pairs_means_grad(p, box->planes, dy, dx);
    return;
  }
  for (int64_t i = 0; i < box->planes; i++, dy += outputs, dx += image) {
    if (whole) {
      const vec share = v_set1(dy[0] / divisor) + v_zero();
      for (int64_t j = 0, left = (box->planes - i) * image; j < image; j += LANES) /* over the next plane's begin */
        if (j + LANES <= left)
          v_store(dx + j, share);
        else
          v_store_n(dx + j, share, image - j);
    } else if (p->kernel[2] > MOST_COLUMNS) {
      avg_scatter(p, box, dy, dx);
    } else {
      for (int64_t from = box->first[2], to; from < box->last[2]; from = to) {
        to = vox_min(from + COLUMNS, box->last[2]);
        (alike ? avg_strip_grad_alike : avg_strip_grad)(p, box, from, to, dy, dx);
      }
    }
  }
}
