/* Maxima at a stride of 1 where outputs are as many as elements: a small plane is one line, and its vectors run over the ends
 * of rows.  First along the rows, where lanes leave out what lies beyond their own row's ends; then across these maxima, with -inf
 * for rows above and below the plane.
 *
 *   along[i] = max over taps j, i + j in the row of i, of  x[i + j],   y[i] = max over taps t of  along[i + t * width]
 *
 * Of equals the first in the order of taps stays.  A load that lies in two lines of cache takes longer than all else here:
 * neighbours come from whole vectors by a permutation, which only the widest have. */

/* Of maxima along rows, in elements, with those above and below; a vector reaches beyond. */
enum { FLAT = 24 * 1024 / (int)sizeof(real), FLAT_VECTORS = FLAT / LANES + 4 };

typedef struct flat {
  int64_t n, width, gap, before, after; /* elements; positions between taps of a row, taps beside the middle one */
  int64_t period;                       /* vectors until columns repeat */
  int64_t rows, step, first, middle;    /* taps across, and from one to the next; where those of y[0] begin, and along[0] */
} flat;
static flat flat_of(const vox_window *p) {
  const int64_t width = p->spatial[2], above = p->pad[1] * width;
  flat f = {.n = p->spatial[1] * width, .width = width, .gap = p->dilation[2], .before = p->pad[2] / p->dilation[2],
            .rows = p->kernel[1], .step = p->dilation[1] * width, .middle = vox_round_up(above, LANES)};
  f.after = p->kernel[2] - 1 - f.before;
  f.first = f.middle - above;
  f.period = width;
  for (int64_t lanes = LANES; lanes > 1 && f.period % 2 == 0; lanes /= 2) f.period /= 2;
  f.period = vox_min(f.period, vox_ceil_div(f.n, LANES));
  return f;
}

static int flat_fits(const vox_window *p, const vox_box *box) {
  if (VECTOR_BYTES < 64 || p->spatial[0] > 1 || p->kernel[0] > 1) return 0;
  for (int i = 1; i < 3; i++) {
    const int64_t reach = p->dilation[i] > FLAT || p->kernel[i] > FLAT ? FLAT : (p->kernel[i] - 1) * p->dilation[i];
    if (p->stride[i] != 1 || p->output[i] != p->spatial[i] || p->pad[i] % p->dilation[i] || box->first[i] ||
        box->last[i] != p->output[i] || p->spatial[i] > FLAT || p->pad[i] > reach || reach > (i == 1 ? FLAT : LANES))
      return 0;
  }
  return (p->spatial[1] + (p->kernel[1] - 1) * p->dilation[1]) * p->spatial[2] <= FLAT - LANES;
}

INLINE ivec flat_ramp(int64_t first) {
  ivec ramp;
  for (int i = 0; i < LANES; i++) ramp[i] = (lane_int)i;
  return ramp + (lane_int)first;
}

/* Whose taps lie in their row, for each vector until they repeat, and each tap beside the middle one. */
static void flat_masks(const flat *f, vmask *inside) {
  const uvec width = (uvec){0} + (lane_int)f->width, more = (uvec){0} + (lane_int)(LANES % f->width);
  uvec left; /* positions to the left in the row */
  for (int i = 0; i < LANES; i++) left[i] = (lane_int)(i % f->width);
  for (int64_t i = 0; i < f->period; i++, left += more, left = v_min_unsigned(left, left - width)) {
    for (int64_t j = 1; j <= f->before; j++) *inside++ = v_not_below(left, (uvec){0} + (lane_int)(j * f->gap));
    for (int64_t j = 1; j <= f->after; j++) *inside++ = v_not_below(width - left - 1, (uvec){0} + (lane_int)(j * f->gap));
  }
}

/* The maxima along the rows of a plane x; returns whether there was a NaN. */
INLINE int flat_rows(const flat *f, const int64_t before, const int64_t after, const int64_t gap, const vmask *inside,
                     const real *x, real *along) {
  vec last = v_zero(), here = v_load_n(x, vox_min(LANES, f->n));
  const vmask *at = inside, *end = inside + f->period * (before + after);
  ivec nan = {0};
  for (int64_t i = 0; i < f->n; i += LANES, along += LANES) {
    const int64_t beyond = f->n - i - LANES;
    const vec next = beyond >= LANES ? v_load(x + i + LANES) : beyond > 0 ? v_load_n(x + i + LANES, beyond) : v_zero();
    vec best = here;
    nan = v_mark(nan, v_unordered(here, here));
    for (int64_t j = 1; j <= before; j++)
      best = v_max_masked(*at++, best, v_pick(last, here, flat_ramp(LANES - j * gap)), best);
    for (int64_t j = 1; j <= after; j++)
      best = v_max_masked(*at++, v_pick(here, next, flat_ramp(j * gap)), best, best);
    v_store(along, beyond >= 0 ? best : v_from_lane(LANES + beyond, v_set1(-(real)__builtin_inff()), best));
    last = here, here = next;
    if (at == end) at = inside;
  }
  return v_any_int(nan);
}
static int flat_find(const flat *f, const vmask *inside, const real *x, real *along) {
  along += f->middle;
  if (f->gap == 1 && f->before == 1 && f->after == 1) return flat_rows(f, 1, 1, 1, inside, x, along);
  if (f->gap == 1 && f->before == 2 && f->after == 2) return flat_rows(f, 2, 2, 1, inside, x, along);
  return flat_rows(f, f->before, f->after, f->gap, inside, x, along);
}

/* What lies above a plane's maxima and below them. */
static void flat_border(const flat *f, vec *along) {
  const int64_t end = f->middle + f->n, last = vox_ceil_div(f->first + f->n + (f->rows - 1) * f->step, LANES) + 2;
  for (int64_t i = 0; i < last; i++)
    if (i * LANES < f->middle || (i + 1) * LANES > end) along[i] = v_set1(-(real)__builtin_inff());
}

/* Across rows, few of which the compiler knows: each tap's vector goes on with the next. */
enum { FLAT_ROWS = 5 };
INLINE void flat_across(const int rows, const flat *f, const real *along, real *y) {
  const real *from[FLAT_ROWS];
  vec here[FLAT_ROWS];
  ivec shift[FLAT_ROWS];
  UNROLL for (int t = 0; t < rows; t++) {
    const int64_t at = f->first + t * f->step;
    from[t] = along + at / LANES * LANES, here[t] = v_load(from[t]), shift[t] = flat_ramp(at % LANES);
  }
  for (int64_t i = 0; i < f->n; i += LANES) {
    vec best = v_zero();
    UNROLL for (int t = 0; t < rows; t++) {
      const vec next = v_load(from[t] + i + LANES), tap = v_pick(here[t], next, shift[t]);
      best = t ? v_max(tap, best) : tap;
      here[t] = next;
    }
    if (i + LANES <= f->n)
      v_store(y + i, best);
    else
      v_store_n(y + i, best, f->n - i);
  }
}
static void flat_values(const flat *f, const real *along, real *y) {
  if (f->rows == 3) {
    flat_across(3, f, along, y);
  } else if (f->rows == 5) {
    flat_across(5, f, along, y);
  } else {
    for (int64_t i = 0; i < f->n; i += LANES) {
      const real *from = along + f->first + i;
      vec best = v_load(from);
      for (int64_t t = 1; t < f->rows; t++) best = v_max(v_load(from + t * f->step), best);
      v_store_n(y + i, best, vox_min(LANES, f->n - i));
    }
  }
}

static void max_plane(const vox_window *p, const vox_box *box, const void *x, void *y, void *places);

/* Whole planes; one with a NaN goes the careful way. */
static void flat_planes(const vox_window *p, const vox_box *box, const void *x, void *y) {
  vox_box one = *box;
  const int64_t last = box->plane + box->planes;
  const flat f = flat_of(p);
  vec along[2][FLAT_VECTORS]; /* of two planes in turns: what was stored just now is read late */
  int nan = 0;
  vmask inside[FLAT_VECTORS * LANES];
  flat_masks(&f, inside);
  flat_border(&f, along[0]), flat_border(&f, along[1]);
  for (int64_t i = one.plane; i <= last; i++) {
    const int found = i < last && flat_find(&f, inside, (const real *)x + i * f.n, (real *)along[i % 2]);
    one.plane = i - 1;
    if (nan)
      max_plane(p, &one, x, y, 0);
    else if (i > box->plane)
      flat_values(&f, (const real *)along[(i - 1) % 2], (real *)y + (i - 1) * f.n);
    nan = found;
  }
}
