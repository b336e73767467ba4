/* Winograd's minimal filtering for kernels of 3 taps at stride 1 (Lavin and Gray 2016, section 4; points after Barabasz et
 * al. 2020): along an axis, m outputs of 3 taps need n = m + 2 products instead of 3 m,
 *
 *   y = At [ (G g) * (Bt d) ],
 *
 * nested over rows and columns; an axis with one tap is left alone (m = n = 1), and depth taps join the reduction:
 *
 *   Y[k] = At [ sum over (t, c) of  U[k, t, c] * V[t, c] ] A
 *
 * Tiles stand in the lanes.  A band is gathered as for the direct sum, with the tile for its step and n taps, so that
 * element (i, j) of neighbouring tiles is contiguous, and the products run on the pixel-vector tile.  For m = 4 the
 * points are 0, +-sqrt(1/2), +-sqrt(2) and infinity, which lose several times less than 0, +-1, +-2.
 *
 * Values that are not finite, or so large that a transform could overflow, would spread over their tile: such tiles are
 * summed again directly, tile by tile, so the result does not depend on how tiles are blocked. */

#define POINT_P ((real)0.70710678118654752440) /* p * q = 1 */
#define POINT_Q ((real)1.41421356237309504880)
enum { MOST_POINTS = 6 };

INLINE int points_of(int m) { return m == 1 ? 1 : m + 2; }

/* v = Bt d, points_of(m) elements each */
INLINE void transform_input(const int m, const vec *d, vec *v) {
  if (m == 4) {
    vec even = v_fma(v_set1(-2), d[2], d[4]), odd = v_fma(v_set1(POINT_P), d[3], v_set1(-POINT_Q) * d[1]);
    v[1] = even + odd;
    v[2] = even - odd;
    even = v_fma(v_set1((real)-0.5), d[2], d[4]);
    odd = v_fma(v_set1(POINT_Q), d[3], v_set1(-POINT_P) * d[1]);
    v[3] = even + odd;
    v[4] = even - odd;
    v[0] = v_fma(v_set1((real)-2.5), d[2], d[0] + d[4]);
    v[5] = v_fma(v_set1((real)-2.5), d[3], d[1] + d[5]);
  } else if (m == 2) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  } else {
    v[0] = d[0];
  }
}

/* u = G g, three taps (one for m = 1) */
INLINE void transform_weight(const int m, const vec *g, vec *u) {
  if (m == 4) {
    const vec third = v_set1((real)(-2.0 / 3)), sixth = v_set1((real)(1.0 / 6));
    vec even = v_fma(v_set1((real)0.5), g[2], g[0]), odd = v_set1(POINT_P) * g[1];
    u[0] = g[0];
    u[1] = (even + odd) * third;
    u[2] = (even - odd) * third;
    even = v_fma(v_set1(2), g[2], g[0]);
    odd = v_set1(POINT_Q) * g[1];
    u[3] = (even + odd) * sixth;
    u[4] = (even - odd) * sixth;
    u[5] = g[2];
  } else if (m == 2) {
    vec even = (g[0] + g[2]) * v_set1((real)0.5), odd = g[1] * v_set1((real)0.5);
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
  } else {
    u[0] = g[0];
  }
}

/* u = G g for 4 taps and 3 outputs, at the points of m = 4: the weight gradient's filter is a tile of dy */
INLINE void transform_dy(const vec *g, vec *u) {
  const vec third = v_set1((real)(-2.0 / 3)), sixth = v_set1((real)(1.0 / 6));
  vec even = v_fma(v_set1((real)0.5), g[2], g[0]), odd = v_fma(v_set1(POINT_P / 2), g[3], v_set1(POINT_P) * g[1]);
  u[0] = g[0];
  u[1] = (even + odd) * third;
  u[2] = (even - odd) * third;
  even = v_fma(v_set1(2), g[2], g[0]);
  odd = v_fma(v_set1(2 * POINT_Q), g[3], v_set1(POINT_Q) * g[1]);
  u[3] = (even + odd) * sixth;
  u[4] = (even - odd) * sixth;
  u[5] = g[3];
}

/* y = At s for those, 3 elements */
INLINE void transform_dw(const vec *s, vec *y) {
  vec even_p = s[1] + s[2], odd_p = s[1] - s[2], even_q = s[3] + s[4], odd_q = s[3] - s[4];
  y[0] = s[0] + (even_p + even_q);
  y[1] = v_fma(v_set1(POINT_P), odd_p, v_set1(POINT_Q) * odd_q);
  y[2] = v_fma(v_set1((real)0.5), even_p, v_fma(v_set1(2), even_q, s[5]));
}

/* One 4 x 4 tile of dy, output channels in the lanes, pixels `col` and lines `line` apart, to 6 x 6 points. */
static void winograd_dy(const real *dy, int64_t line, int64_t col, real *u, int64_t stride) {
  vec rows[6][4], g[4], out[6];
  UNROLL for (int j = 0; j < 4; j++) {
    UNROLL for (int i = 0; i < 4; i++) g[i] = v_load(dy + i * line + j * col);
    transform_dy(g, out);
    UNROLL for (int i = 0; i < 6; i++) rows[i][j] = out[i];
  }
  UNROLL for (int i = 0; i < 6; i++) {
    transform_dy(rows[i], out);
    UNROLL for (int j = 0; j < 6; j++) v_store(u + (i * 6 + j) * stride, out[j]);
  }
}

/* 6 x 6 sums, `stride` apart, to 9 vectors of taps. */
static void winograd_weight_output(const real *s, int64_t stride, real *to) {
  vec rows[3][6], d[6], out[3];
  UNROLL for (int j = 0; j < 6; j++) {
    UNROLL for (int i = 0; i < 6; i++) d[i] = v_load(s + (i * 6 + j) * stride);
    transform_dw(d, out);
    UNROLL for (int i = 0; i < 3; i++) rows[i][j] = out[i];
  }
  UNROLL for (int i = 0; i < 3; i++) {
    transform_dw(rows[i], out);
    UNROLL for (int j = 0; j < 3; j++) v_store(to + (i * 3 + j) * LANES, out[j]);
  }
}

/* Elements, rounded up to an odd number of cache lines: strides that keep neighbours out of the same sets. */
INLINE int64_t odd_lines(int64_t elements) {
  const int64_t line = VOX_ALIGN / (int64_t)sizeof(real);
  return (vox_round_up(elements, line) / line | 1) * line;
}

/* y = At s, m elements */
INLINE void transform_output(const int m, const vec *s, vec *y) {
  if (m == 4) {
    vec even_p = s[1] + s[2], odd_p = s[1] - s[2], even_q = s[3] + s[4], odd_q = s[3] - s[4];
    y[0] = s[0] + (even_p + even_q);
    y[1] = v_fma(v_set1(POINT_P), odd_p, v_set1(POINT_Q) * odd_q);
    y[2] = v_fma(v_set1((real)0.5), even_p, v_set1(2) * even_q);
    y[3] = v_fma(v_set1(POINT_P / 2), odd_p, v_fma(v_set1(2 * POINT_Q), odd_q, s[5]));
  } else if (m == 2) {
    y[0] = s[0] + (s[1] + s[2]);
    y[1] = (s[1] - s[2]) + s[3];
  } else {
    y[0] = s[0];
  }
}

/* Whether one of n elements is so large, or not a number, that the transforms may not meet it: 2^56 leaves room for
 * their growth, for an equally large weight and for a long sum. */
INLINE int has_huge(const real *p, int64_t n) {
#if VOX_DOUBLE
  const lane_int sign = INT64_MAX, limit = INT64_C(0x5f30000000000000); /* 2^500 */
#else
  const lane_int sign = INT32_MAX, limit = 0x5b800000; /* 2^56 */
#endif
  ivec found = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) found |= ((ivec)v_load(p + i) & sign) >= limit;
  if (i < n) found |= ((ivec)v_load_n(p + i, n - i) & sign) >= limit;
  lane_int any = 0;
  for (int l = 0; l < LANES; l++) any |= found[l];
  return any != 0;
}

/* Strides of the caller's weights as this problem reads them; the input gradient swaps the channels' roles and turns the
 * kernel round. */
typedef struct weight_view {
  const real *first; /* output channel 0, input channel 0 and tap 0 of the group */
  int64_t out, in, tap;
} weight_view;

static weight_view view_weight(const vox_conv *p, const vox_layout *l, int64_t group, const void *weight) {
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  const real *w = (const real *)weight + group * l->cin * l->cout * taps;
  if (p->operation == VOX_CONV) return (weight_view){w, l->cin * taps, taps, 1};
  return (weight_view){w + taps - 1, taps, l->cout * taps, -1};
}

/* One panel of m output channels: [position][depth tap, channel][m].  A vector holds neighbouring elements of the last
 * two axes. */
static int winograd_pack(const vox_conv *p, const vox_layout *l, int64_t group, int64_t k0, int64_t m, const void *weight,
                         void *packed) {
  const weight_view w = view_weight(p, l, group, weight);
  const int mh = (int)l->tile[1], mw = (int)l->tile[2], nh = points_of(mh), nw = points_of(mw);
  const int64_t kh = p->kernel[1], kw = p->kernel[2], plane = kh * kw, count = l->cin * m;
  const int64_t stride = p->kernel[0] * count;
  real taps[9][LANES] = {{0}};
  int huge = 0;
  for (int64_t td = 0; td < p->kernel[0]; td++) {
    real *u = (real *)packed + td * count;
    for (int64_t e = 0; e < count; e += LANES) {
      int64_t lanes = vox_min(LANES, count - e);
      for (int64_t i = 0; i < lanes; i++) {
        const real *from = w.first + (k0 + (e + i) % m) * w.out + (e + i) / m * w.in + td * plane * w.tap;
        for (int64_t t = 0; t < plane; t++) taps[t][i] = from[t * w.tap];
      }
      huge |= has_huge(taps[0], plane * LANES);
      vec rows[MOST_POINTS][3], line[MOST_POINTS], g[3];
      for (int64_t j = 0; j < kw; j++) {
        for (int64_t i = 0; i < kh; i++) g[i] = v_load(taps[i * kw + j]);
        transform_weight(mh, g, line);
        for (int i = 0; i < nh; i++) rows[i][j] = line[i];
      }
      for (int i = 0; i < nh; i++) {
        transform_weight(mw, rows[i], line);
        for (int j = 0; j < nw; j++) {
          real *to = u + (i * nw + j) * stride + e;
          if (lanes == LANES)
            v_store(to, line[j]);
          else
            v_store_n(to, line[j], lanes);
        }
      }
    }
  }
  return huge;
}

/* One channel and depth tap of a band, at `off` from `from`, to V: positions `stride` apart. */
INLINE void winograd_input(const int mh, const int mw, const real *from, const int64_t *off, int64_t pixels, real *v,
                           int64_t stride) {
  const int nh = points_of(mh), nw = points_of(mw);
  for (int64_t p = 0; p < pixels; p += LANES) {
    vec rows[MOST_POINTS][MOST_POINTS], d[MOST_POINTS], line[MOST_POINTS];
    UNROLL for (int j = 0; j < nw; j++) {
      UNROLL for (int i = 0; i < nh; i++) d[i] = v_load(from + off[i * nw + j] + p);
      transform_input(mh, d, line);
      UNROLL for (int i = 0; i < nh; i++) rows[i][j] = line[i];
    }
    UNROLL for (int i = 0; i < nh; i++) {
      transform_input(mw, rows[i], line);
      UNROLL for (int j = 0; j < nw; j++) v_store(v + (i * nw + j) * stride + p, line[j]);
    }
  }
}

/* One channel of products s, positions `stride` apart, back to outputs: `to` gets mh lines of mw * LANES outputs, the
 * tiles' columns interleaved. */
INLINE void winograd_output(const int mh, const int mw, const real *s, int64_t stride, vec bias, int activation, vec slope,
                            real *to) {
  const int nh = points_of(mh), nw = points_of(mw);
  vec rows[MOST_POINTS][MOST_POINTS], d[MOST_POINTS], line[MOST_POINTS];
  UNROLL for (int j = 0; j < nw; j++) {
    UNROLL for (int i = 0; i < nh; i++) d[i] = v_load(s + (i * nw + j) * stride);
    transform_output(mh, d, line);
    UNROLL for (int i = 0; i < mh; i++) rows[i][j] = line[i];
  }
  UNROLL for (int i = 0; i < mh; i++, to += mw * LANES) {
    transform_output(mw, rows[i], line);
    UNROLL for (int j = 0; j < mw; j++) line[j] = activate(line[j] + bias, activation, slope);
    if (mw == 4) {
      vec even_low = v_zip_low(line[0], line[2]), even_high = v_zip_high(line[0], line[2]);
      vec odd_low = v_zip_low(line[1], line[3]), odd_high = v_zip_high(line[1], line[3]);
      v_store(to, v_zip_low(even_low, odd_low));
      v_store(to + LANES, v_zip_high(even_low, odd_low));
      v_store(to + 2 * LANES, v_zip_low(even_high, odd_high));
      v_store(to + 3 * LANES, v_zip_high(even_high, odd_high));
    } else if (mw == 2) {
      v_store(to, v_zip_low(line[0], line[1]));
      v_store(to + LANES, v_zip_high(line[0], line[1]));
    } else {
      v_store(to, line[0]);
    }
  }
}

/* The tile forms that exist, as compile-time constants. */
static void winograd_inputs(int mh, int mw, const real *from, const int64_t *off, int64_t pixels, real *v, int64_t stride) {
  switch (mh * 8 + mw) {
  case 4 * 8 + 4: winograd_input(4, 4, from, off, pixels, v, stride); return;
  case 4 * 8 + 2: winograd_input(4, 2, from, off, pixels, v, stride); return;
  case 2 * 8 + 2: winograd_input(2, 2, from, off, pixels, v, stride); return;
  case 1 * 8 + 4: winograd_input(1, 4, from, off, pixels, v, stride); return;
  case 1 * 8 + 2: winograd_input(1, 2, from, off, pixels, v, stride); return;
  }
}
static void winograd_outputs(int mh, int mw, const real *s, int64_t stride, vec bias, int activation, vec slope, real *to) {
  switch (mh * 8 + mw) {
  case 4 * 8 + 4: winograd_output(4, 4, s, stride, bias, activation, slope, to); return;
  case 4 * 8 + 2: winograd_output(4, 2, s, stride, bias, activation, slope, to); return;
  case 2 * 8 + 2: winograd_output(2, 2, s, stride, bias, activation, slope, to); return;
  case 1 * 8 + 4: winograd_output(1, 4, s, stride, bias, activation, slope, to); return;
  case 1 * 8 + 2: winograd_output(1, 2, s, stride, bias, activation, slope, to); return;
  }
}

typedef struct winograd_place {
  const vox_phase *ph;
  const vox_item *it;
  int64_t d, h0, w0;     /* depth, first tile row and column of the band */
  const int64_t *size;   /* of the output */
  int64_t channels, plane;
} winograd_place;

/* Lines of the tiles [p, p + LANES) of a band, cut to what exists, to output channel `channel`. */
static void winograd_store(const vox_conv_job *job, const winograd_place *at, const band *b, int64_t channel, int64_t p,
                           const real *lines) {
  const vox_axis *az = &at->ph->axis[0], *ay = &at->ph->axis[1], *ax = &at->ph->axis[2];
  const int64_t mh = job->l->tile[1], mw = job->l->tile[2];
  real *y = (real *)job->y + (at->it->n * at->channels + channel) * at->plane +
            (az->first + at->d * az->spread) * at->size[1] * at->size[2];
  for (int64_t lane = 0, end; lane < LANES; lane = end) {
    int64_t row = (p + lane) / b->pitch, col = (p + lane) - row * b->pitch;
    end = vox_min(LANES, (row + 1) * b->pitch - p);
    if (row >= b->rows) return;
    if (col >= b->cols) continue;
    int64_t h = (at->h0 + row) * mh, w = (at->w0 + col) * mw;
    int64_t count = vox_min(vox_min(end - lane, b->cols - col) * mw, ax->outputs - w);
    for (int64_t i = 0; i < vox_min(mh, ay->outputs - h); i++) {
      const real *from = lines + (i * LANES + lane) * mw;
      real *to = y + (ay->first + (h + i) * ay->spread) * at->size[2] + ax->first + w * ax->spread;
      if (ax->spread == 1) {
        int64_t j = 0;
        for (; j + LANES <= count; j += LANES) v_store(to + j, v_load(from + j));
        if (j < count) v_store_n(to + j, v_load_n(from + j, count - j), count - j);
      } else {
        for (int64_t j = 0; j < count; j++) to[j * ax->spread] = from[j];
      }
    }
  }
}

/* The outputs of the tile at (row, col) of the band, summed directly in the order of (channel, tap), padding skipped. */
static void winograd_mend(const vox_conv_job *job, const winograd_place *at, const real *x, int64_t row, int64_t col,
                          int64_t k_first, int64_t k_last) {
  const vox_conv *p = job->p;
  const vox_layout *l = job->l;
  const vox_axis *az = &at->ph->axis[0], *ay = &at->ph->axis[1], *ax = &at->ph->axis[2];
  const int64_t input = az->size * ay->size * ax->size, kh = p->kernel[1], kw = p->kernel[2];
  const weight_view w = view_weight(p, l, at->it->group, job->weight);
  const vec slope = v_set1((real)p->slope);
  int64_t h_end = vox_min(ay->outputs, (at->h0 + row + 1) * l->tile[1]);
  int64_t w_end = vox_min(ax->outputs, (at->w0 + col + 1) * l->tile[2]);
  for (int64_t k = k_first; k < k_last; k++) {
    int64_t channel = at->it->group * l->cout + k;
    real *y = (real *)job->y + (at->it->n * at->channels + channel) * at->plane;
    for (int64_t h = (at->h0 + row) * l->tile[1]; h < h_end; h++)
      for (int64_t v = (at->w0 + col) * l->tile[2]; v < w_end; v++) {
        real sum = 0;
        for (int64_t c = 0; c < l->cin; c++)
          for (int64_t t = 0; t < p->kernel[0] * kh * kw; t++) {
            int64_t sz = at->d * az->step + vox_axis_offset(az, t / kw / kh);
            int64_t sh = h * ay->offset_step + ay->offset0 + t / kw % kh * ay->offset_step;
            int64_t sw = v * ax->offset_step + ax->offset0 + t % kw * ax->offset_step;
            if (sz >= 0 && sz < az->size && sh >= 0 && sh < ay->size && sw >= 0 && sw < ax->size)
              sum = s_fma(w.first[k * w.out + c * w.in + t * w.tap], x[c * input + (sz * ay->size + sh) * ax->size + sw], sum);
          }
        if (job->bias) sum += ((const real *)job->bias)[channel];
        y[((az->first + at->d * az->spread) * at->size[1] + ay->first + h * ay->spread) * at->size[2] + ax->first +
          v * ax->spread] = activate(v_set1(sum), p->activation, slope)[0];
      }
  }
}

/* Whether the patch of the tile at (row, col) holds a value that the transforms may not meet. */
static int patch_is_huge(const vox_conv_job *job, const winograd_place *at, const real *x, int64_t row, int64_t col) {
  const vox_axis *az = &at->ph->axis[0], *ay = &at->ph->axis[1], *ax = &at->ph->axis[2];
  const int64_t input = az->size * ay->size * ax->size;
  for (int64_t c = 0; c < job->l->cin; c++)
    for (int64_t td = 0; td < az->taps; td++)
      for (int64_t i = 0; i < ay->taps; i++)
        for (int64_t j = 0; j < ax->taps; j++) {
          int64_t sz = at->d * az->step + vox_axis_offset(az, td);
          int64_t sh = (at->h0 + row) * ay->step + vox_axis_offset(ay, i);
          int64_t sw = (at->w0 + col) * ax->step + vox_axis_offset(ax, j);
          if (sz >= 0 && sz < az->size && sh >= 0 && sh < ay->size && sw >= 0 && sw < ax->size &&
              has_huge(x + c * input + (sz * ay->size + sh) * ax->size + sw, 1))
            return 1;
        }
  return 0;
}

static void winograd_item(const vox_conv_job *job, const vox_phase *ph, const vox_item *it, void *workspace) {
  const vox_conv *p = job->p;
  const vox_layout *l = job->l;
  const int mh = (int)l->tile[1], mw = (int)l->tile[2];
  const int64_t positions = l->positions, depth = ph->axis[0].taps * l->cin;
  const int64_t input = ph->axis[0].size * ph->axis[1].size * ph->axis[2].size;
  const int64_t *size = p->operation == VOX_CONV ? p->output : p->spatial;
  winograd_place at = {.ph = ph, .it = it, .d = it->band[0], .h0 = it->band[1] * l->band[1], .w0 = it->band[2] * l->band[2],
                       .size = size, .channels = p->groups * l->cout, .plane = size[0] * size[1] * size[2]};
  if (at.d >= ph->axis[0].count || at.h0 >= ph->axis[1].count || at.w0 >= ph->axis[2].count) return;
  const int64_t rows = vox_min(l->band[1], ph->axis[1].count - at.h0), cols = vox_min(l->band[2], ph->axis[2].count - at.w0);
  const band b = band_of(ph, rows, cols);
  const int64_t pixels = vox_round_up((rows - 1) * b.pitch + cols, LANES);
  const real *x = (const real *)job->x + (it->n * p->groups + it->group) * l->cin * input;

  const int64_t v_stride = odd_lines(depth * pixels);
  real *scratch = workspace, *v = scratch + l->scratch;
  real *products = v + positions * l->columns;
  int64_t *off = (int64_t *)(products + l->sums);
  int huge = 0;
  band_offsets(ph, &b, 1, off);
  for (int64_t c = 0; c < l->cin; c++) {
    band_copy(ph, &b, at.d, at.h0, at.w0, x + c * input, 1, scratch);
    memset(scratch + b.filled, 0, LANES * sizeof(real)); /* the last tiles reach beyond it */
    huge |= has_huge(scratch, b.filled);
    for (int64_t td = 0; td < ph->axis[0].taps; td++)
      winograd_inputs(mh, mw, scratch, off + td * positions, pixels, v + (td * l->cin + c) * pixels, v_stride);
  }

  const int64_t per_part = vox_round_up(vox_ceil_div(l->cout, l->parts), TILE_M);
  const int64_t k_first = it->part * per_part, k_last = vox_min(l->cout, k_first + per_part);
  const real *u = (const real *)job->packed + it->group * positions * depth * l->cout;
  const vec slope = v_set1((real)p->slope);
  real lines[4 * 4 * LANES];
  for (int64_t r = 0; r < depth; r++) off[r] = r * pixels;
  for (int64_t kb = k_first; kb < k_last; kb += l->k_block) {
    const int64_t k_end = vox_min(k_last, kb + l->k_block), stride = (k_end - kb) * pixels;
    for (int64_t i = 0; i < positions; i++)
      for (int64_t k = kb, m; k < k_end; k += m) {
        m = panel_width(l->cout - k);
        for (int64_t p0 = 0; p0 < pixels; p0 += TILE_V * LANES)
          pixel_tiles(m, vox_min(TILE_V, (pixels - p0) / LANES), 0, depth, u + (k * positions + i * m) * depth,
                      v + i * v_stride + p0, off, products + i * stride + (k - kb) * pixels + p0, pixels, NULL);
      }
    for (int64_t k = kb; k < k_end; k++) {
      int64_t channel = it->group * l->cout + k;
      vec bias = v_set1(job->bias ? ((const real *)job->bias)[channel] : 0);
      for (int64_t p0 = 0; p0 < pixels; p0 += LANES) {
        winograd_outputs(mh, mw, products + (k - kb) * pixels + p0, stride, bias, p->activation, slope, lines);
        winograd_store(job, &at, &b, channel, p0, lines);
      }
    }
  }

  if (huge || job->nonfinite)
    for (int64_t row = 0; row < rows; row++)
      for (int64_t col = 0; col < cols; col++)
        if (job->nonfinite || patch_is_huge(job, &at, x, row, col)) winograd_mend(job, &at, x, row, col, k_first, k_last);
}
