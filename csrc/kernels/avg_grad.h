/* The gradient of average pooling: the transpose of avg_pool.h, whose bands and divisors it takes, row by row back. */

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
