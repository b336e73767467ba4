/* Average pooling of some planes.
 *
 *   y[p] = (sum over taps t inside the plane of  x[p * stride - pad + t]) / divisor[p]
 *
 * Rows are added first, whole, into a band of scratch with zeros at both ends, so that then no window along the row is
 * ragged.  Windows alone in their row are summed by lanes.  The order of an element's
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

/* to[i] = sum over slices and rows of from[i], i < n, over the divisor if there is one; what follows to the next whole vector
 * is set to zero. */
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
