/* Winograd's minimal filtering for kernels of 3, 5 or 7 taps (Lavin and Gray 2016, section 4; points after Barabasz et al.
 * 2020): along an axis, m outputs of r taps need n = m - 1 + r products instead of m * r,
 *
 *   y = At [ (G g) * (Bt d) ],
 *
 * nested over rows and columns; an axis with one tap is left alone (m = n = 1), and depth taps join the reduction:
 *
 *   Y[k] = At [ sum over (t, c) of  U[k, t, c] * V[t, c] ] A
 *
 * Tiles stand in the lanes.  A band is gathered as for the direct sum, with the tile for its step and n taps, so that
 * element (i, j) of neighbouring tiles is contiguous, and the products run on the pixel-vector tile.  The n - 1 finite
 * points are 0 and +-1 for n = 4; 0, +-sqrt(1/2) and +-sqrt(2) for n = 6, which lose several times less than 0, +-1, +-2;
 * 0, +-1, +-2 and +-1/2 for n = 8.
 *
 * At stride 2 the rows and columns of either parity are an image each, which meets every second tap at stride 1: four times
 * as many channels of 2 to 4 taps an axis.  There n is 5, with points +-1/2 and +-1, 6, or 7, with +-2 besides.
 *
 * Values that are not finite, or so large that a transform could overflow, would spread over their tile: such tiles are
 * summed again directly, tile by tile, so the result does not depend on how tiles are blocked. */

/* u = G g, r taps to n points */
INLINE void transform_weight(const int n, const int r, const vec *g, vec *u) {
  if (n % 2 == 0) u[0] = g[0];
  u[n - 1] = g[r - 1];
  if (n == 8) {
    const vec none = v_zero(), last = r > 6 ? g[6] : none, before = r > 6 ? g[5] : none;
    vec even = (g[0] + g[2]) + (g[4] + last), odd = (g[1] + g[3]) + before;
    u[1] = v_scale(-2.0 / 9, even + odd);
    u[2] = v_scale(-2.0 / 9, even - odd);
    even = v_scale_add(64, last, v_scale_add(16, g[4], v_scale_add(4, g[2], g[0])));
    odd = v_scale_add(32, before, v_scale_add(8, g[3], v_scale(2, g[1])));
    u[3] = v_scale(1.0 / 90, even + odd);
    u[4] = v_scale(1.0 / 90, even - odd);
    even = v_scale_add(1.0 / 64, last, v_scale_add(1.0 / 16, g[4], v_scale_add(0.25, g[2], g[0])));
    odd = v_scale_add(1.0 / 32, before, v_scale_add(0.125, g[3], v_scale(0.5, g[1])));
    u[5] = v_scale(32.0 / 45, even + odd);
    u[6] = v_scale(32.0 / 45, even - odd);
  } else if (n == 7) {
    vec even = v_scale_add(0.25, g[2], g[0]), odd = v_scale_add(0.25, g[3], g[1]);
    u[0] = v_scale(16.0 / 45, v_scale_add(0.5, odd, even));
    u[1] = v_scale(16.0 / 45, v_scale_add(0.5, odd, -even));
    even = g[0] + g[2], odd = g[1] + g[3];
    u[2] = v_scale(-2.0 / 9, odd + even);
    u[3] = v_scale(-2.0 / 9, odd - even);
    even = v_scale_add(4, g[2], g[0]), odd = v_scale_add(4, g[3], g[1]);
    u[4] = v_scale(1.0 / 45, v_scale_add(2, odd, even));
    u[5] = v_scale(1.0 / 45, v_scale_add(2, odd, -even));
  } else if (n == 6) {
    vec even = v_scale_add(0.5, g[2], g[0]), odd = v_set1(POINT_P) * g[1];
    if (r > 3) odd = v_fma(v_set1(POINT_P / 2), g[3], odd);
    if (r > 4) even = v_scale_add(0.25, g[4], even);
    u[1] = v_scale(-2.0 / 3, even + odd);
    u[2] = v_scale(-2.0 / 3, even - odd);
    even = v_scale_add(2, g[2], g[0]), odd = v_set1(POINT_Q) * g[1];
    if (r > 3) odd = v_fma(v_set1(2 * POINT_Q), g[3], odd);
    if (r > 4) even = v_scale_add(4, g[4], even);
    u[3] = v_scale(1.0 / 6, even + odd);
    u[4] = v_scale(1.0 / 6, even - odd);
  } else if (n == 5) {
    u[0] = v_scale(-2.0 / 3, v_scale_add(2, g[0], g[1]));
    u[1] = v_scale(-2.0 / 3, v_scale_add(-2, g[0], g[1]));
    u[2] = v_scale(2.0 / 3, g[1] + g[0]);
    u[3] = v_scale(2.0 / 3, g[1] - g[0]);
  } else if (n == 4) {
    vec even = v_scale(0.5, g[0] + g[2]), odd = v_scale(0.5, g[1]);
    u[1] = even + odd;
    u[2] = even - odd;
  }
}

/* y = At s, n products to m outputs */
INLINE void transform_output(const int m, const int n, const vec *s, vec *y) {
  if (n == 8) {
    vec even_1 = s[1] + s[2], odd_1 = s[1] - s[2], even_2 = s[3] + s[4], odd_2 = s[3] - s[4];
    vec even_h = s[5] + s[6], odd_h = s[5] - s[6];
    y[0] = (s[0] + even_1) + (even_2 + even_h);
    y[1] = v_scale_add(0.5, odd_h, v_scale_add(2, odd_2, m == 2 ? odd_1 + s[7] : odd_1));
    if (m == 2) return;
    y[2] = v_scale_add(0.25, even_h, v_scale_add(4, even_2, even_1));
    y[3] = v_scale_add(0.125, odd_h, v_scale_add(8, odd_2, odd_1 + s[7]));
  } else if (n == 7) {
    vec even_h = s[0] + s[1], odd_h = s[0] - s[1], even_1 = s[2] + s[3], odd_1 = s[2] - s[3];
    vec even_2 = s[4] + s[5], odd_2 = s[4] - s[5];
    y[0] = even_h + even_1 + even_2;
    y[1] = v_scale_add(0.5, odd_h, v_scale_add(2, odd_2, odd_1));
    y[2] = v_scale_add(0.25, even_h, v_scale_add(4, even_2, even_1));
    y[3] = v_scale_add(0.125, odd_h, v_scale_add(8, odd_2, odd_1 + s[6]));
  } else if (n == 5) {
    vec even_h = s[0] + s[1], odd_h = s[0] - s[1], even_1 = s[2] + s[3], odd_1 = s[2] - s[3];
    y[0] = even_h + even_1;
    y[1] = v_scale_add(0.5, odd_h, odd_1);
    y[2] = v_scale_add(0.25, even_h, even_1);
    y[3] = v_scale_add(0.125, odd_h, odd_1 + s[4]);
  } else if (n == 6) {
    vec even_p = s[1] + s[2], odd_p = s[1] - s[2], even_q = s[3] + s[4], odd_q = s[3] - s[4];
    y[0] = s[0] + (even_p + even_q);
    y[1] = v_fma(v_set1(POINT_P), odd_p, m == 2 ? v_fma(v_set1(POINT_Q), odd_q, s[5]) : v_set1(POINT_Q) * odd_q);
    if (m > 2) y[2] = v_scale_add(0.5, even_p, m == 3 ? v_scale_add(2, even_q, s[5]) : v_scale(2, even_q));
    if (m > 3) y[3] = v_fma(v_set1(POINT_P / 2), odd_p, v_fma(v_set1(2 * POINT_Q), odd_q, s[5]));
  } else if (n == 4) {
    y[0] = s[0] + (s[1] + s[2]);
    y[1] = (s[1] - s[2]) + s[3];
  } else {
    y[0] = s[0];
  }
}

/* One 4 x 4 tile of dy, output channels in the lanes, pixels `col` and lines `line` apart, to 6 x 6 points. */
static void winograd_dy(const real *dy, int64_t line, int64_t col, real *u, int64_t stride) {
  vec rows[6][4], g[4], out[6];
  UNROLL for (int j = 0; j < 4; j++) {
    UNROLL for (int i = 0; i < 4; i++) g[i] = v_load(dy + i * line + j * col);
    transform_weight(6, 4, g, out);
    UNROLL for (int i = 0; i < 6; i++) rows[i][j] = out[i];
  }
  UNROLL for (int i = 0; i < 6; i++) {
    transform_weight(6, 4, rows[i], out);
    UNROLL for (int j = 0; j < 6; j++) v_store(u + (i * 6 + j) * stride, out[j]);
  }
}

/* 6 x 6 sums, `stride` apart, to 9 taps. */
INLINE void winograd_weight_output(const real *s, int64_t stride, vec *to) {
  vec rows[3][6], d[6];
  UNROLL for (int j = 0; j < 6; j++) {
    UNROLL for (int i = 0; i < 6; i++) d[i] = v_load(s + (i * 6 + j) * stride);
    transform_output(3, 6, d, to);
    UNROLL for (int i = 0; i < 3; i++) rows[i][j] = to[i];
  }
  UNROLL for (int i = 0; i < 3; i++) transform_output(3, 6, rows[i], to + i * 3);
}

INLINE int has_huge(const real *p, int64_t n) {
  ivec most = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) most = v_max_int(most, v_magnitude(v_load(p + i)));
  if (i < n) most = v_max_int(most, v_magnitude(v_load_n(p + i, n - i)));
  return is_huge(most);
}

/* Strides of the caller's weights as this problem reads them; the input gradient swaps the channels' roles and turns the
 * kernel round. */
typedef struct weight_view {
  const real *first; /* output channel 0, input channel 0 and tap 0 of the group */
  int64_t out, in, tap;
} weight_view;

enum { PACK_AHEAD = 4 }; /* channels */

static weight_view view_weight(const vox_conv *p, const vox_layout *l, int64_t group, const void *weight) {
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  const real *w = (const real *)weight + group * l->cin * l->cout * taps;
  if (p->operation == VOX_CONV) return (weight_view){w, l->cin * taps, taps, 1};
  return (weight_view){w + taps - 1, taps, l->cout * taps, -1};
}

/* A vector of filters, each `plane` elements from `from` + apart[lane] on, to their points, `stride` apart: all taps, or every
 * second from (row, column) on; returns the larger of `most` and their magnitudes. */
INLINE ivec winograd_filters(const int kh, const int kw, const int nh, const int nw, const int every, int row, int column,
                             int turned, int64_t lanes, const real *from, const int64_t *apart, real *to, int64_t stride,
                             ivec most) {
  const int plane = kh * kw, th = (kh + every - 1) / every, tw = (kw + every - 1) / every;
  real taps[MOST_TAPS * MOST_TAPS][LANES];
  vec rows[MOST_POINTS][MOST_TAPS], line[MOST_POINTS], g[MOST_TAPS];
  for (int t = 0; t < plane; t += LANES) {
    const int here = (int)vox_min(LANES, plane - t);
    vec square[LANES];
    UNROLL for (int i = 0; i < LANES; i++) square[i] = i < lanes ? v_load_n(from + apart[i] + t, here) : v_zero();
    v_transpose(square);
    for (int i = 0; i < here; i++) {
      most = v_max_int(most, v_magnitude(square[i]));
      v_store(taps[turned ? plane - 1 - t - i : t + i], square[i]);
    }
  }
  for (int j = 0; j < tw; j++) {
    const int x = j * every + column;
    for (int i = 0, y = row; i < th; i++, y += every) g[i] = x < kw && y < kh ? v_load(taps[y * kw + x]) : v_zero();
    transform_weight(nh, th, g, line);
    for (int i = 0; i < nh; i++) rows[i][j] = line[i];
  }
  for (int i = 0; i < nh; i++) {
    transform_weight(nw, tw, rows[i], line);
    for (int j = 0; j < nw; j++, to += stride) {
      if (lanes == LANES)
        v_store(to, line[j]);
      else
        v_store_n(to, line[j], lanes);
    }
  }
  return most;
}

/* The forms of 3 x 3 taps, whose loops are constants. */
typedef ivec filters_form(int row, int column, int turned, const real *from, const int64_t *apart, real *to, int64_t stride,
                          ivec most);
#define FORM(nh, nw, every)                                                                                                  \
  static ivec filters_##nh##nw(int row, int column, int turned, const real *from, const int64_t *apart, real *to,            \
                               int64_t stride, ivec most) {                                                                  \
    return winograd_filters(3, 3, nh, nw, every, row, column, turned, LANES, from, apart, to, stride, most);                 \
  }
FORM(6, 6, 1)
FORM(6, 4, 1)
FORM(5, 5, 2)
FORM(4, 4, 1)
#undef FORM

/* Panels of m output channels, [panel][parity, depth tap, channel][m], of each position: of output channels [k0, k1) and
 * input channels [c0, c1).  Positions are `stride` apart: a group's panels, so that one position's weights are one stream, or
 * those that an item packs itself.  A vector holds neighbouring elements of the panel's two axes, of which m or LANES divides
 * the other.  Where an input channel's weights lie side by side, all panels of it are read before the next. */
static int winograd_pack(const vox_conv *p, const vox_layout *l, int64_t group, int64_t k0, int64_t k1, int64_t c0, int64_t c1,
                         const void *weight, int64_t stride, void *packed) {
  const weight_view w = view_weight(p, l, group, weight);
  const int kh = (int)p->kernel[1], kw = (int)p->kernel[2], every = (int)p->stride[2];
  const int nh = (int)vox_winograd_points(p, l->tile, 1), nw = (int)vox_winograd_points(p, l->tile, 2);
  const int64_t plane = kh * kw, lowest = w.tap < 0 ? (plane - 1) * w.tap : 0;
  const int64_t slices = vox_parities(p) * p->kernel[0], of_channel = (l->fused ? l->positions : 1) * slices * (c1 - c0);
  filters_form *const filters = nw == 6 ? filters_66 : nh == 6 ? filters_64 : nh == 5 ? filters_55 : filters_44;
  const int by_in = w.in > w.out;
  ivec most = {0};
  for (int64_t k = k0, wide; k < k1; k += wide) {
    const int64_t m = vox_panel_width(l->panel, k1 - k), count = (c1 - c0) * m, step = vox_max(m, LANES);
    const int64_t ahead = l->late && !by_in ? m * w.out : PACK_AHEAD * w.in; /* the next panel, or the next channels */
    int64_t apart[LANES];
    wide = by_in && m == l->panel ? (k1 - k) / m * m : m;
    for (int i = 0; i < LANES; i++) apart[i] = i / m * w.in + i % m * w.out;
    for (int64_t t = 0; t < slices; t++) {
      const int64_t parity = t / p->kernel[0], td = t % p->kernel[0];
      const int row = (int)vox_parity(p, parity, 1), column = (int)vox_parity(p, parity, 2);
      for (int64_t e0 = 0; e0 < count; e0 += step)
        for (int64_t at = k; at < k + wide; at += m) {
          real *u = (real *)packed + (at - k0) * of_channel + t * count;
          const real *first = w.first + at * w.out + c0 * w.in + td * plane * w.tap + lowest;
          for (int64_t e = e0; e < vox_min(e0 + step, count); e += LANES) {
            const real *from = first + e / m * w.in + e % m * w.out;
            const int64_t lanes = vox_min(LANES, count - e);
            for (int i = 0; i < lanes; i++) prefetch(from + apart[i] + ahead);
            if (lanes < LANES || kh != 3)
              most = winograd_filters(kh, kw, nh, nw, every, row, column, w.tap < 0, lanes, from, apart, u + e, stride, most);
            else
              most = filters(row, column, w.tap < 0, from, apart, u + e, stride, most);
          }
        }
    }
  }
  return is_huge(most);
}

/* Asks for a share of the filters of output channels [k0, k1) and input channels [c0, c1), which are packed next. */
static void prefetch_filters(const vox_conv *p, const vox_layout *l, int64_t group, int64_t k0, int64_t k1, int64_t c0,
                             int64_t c1, int64_t share, int64_t shares, int64_t here, const void *weight) {
  const weight_view w = view_weight(p, l, group, weight);
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  const int by_in = w.in > w.out;
  const int64_t rows = by_in ? c1 - c0 : k1 - k0, row = (by_in ? k1 - k0 : c1 - c0) * taps;
  const real *first = w.first + k0 * w.out + c0 * w.in - (w.tap < 0 ? taps - 1 : 0);
  const int64_t apart = by_in ? w.in : w.out, line = VOX_ALIGN / (int64_t)sizeof(real), lines = vox_ceil_div(row, line);
  int64_t at = vox_even_first(rows * lines, shares, share), end = vox_even_first(rows * lines, shares, share + here);
  for (int64_t r = lines ? at / lines : 0; at < end; r++)
    for (int64_t i = at - r * lines; i < lines && at < end; i++, at++) prefetch(first + r * apart + i * line);
}

/* The transform along the columns of tiles that lie side by side, to V: positions `stride` apart. */
INLINE void winograd_input(const int nh, int64_t nw, const real *from, const int64_t *off, int64_t tiles, real *v,
                           int64_t stride) {
  for (int64_t j = 0; j < nw; j++)
    for (int64_t t = 0; t < tiles; t += LANES) {
      vec d[MOST_POINTS], line[MOST_POINTS];
      UNROLL for (int i = 0; i < nh; i++) d[i] = v_load(from + off[i * nw + j] + t);
      transform_input(nh, d, line);
      UNROLL for (int i = 0; i < nh; i++) v_store(v + (i * nw + j) * stride + t, line[i]);
    }
}

/* From mw vectors, of a column each, to those of a line of outputs. */
INLINE void winograd_zip(const int mw, const vec *columns, vec *line) {
  if (mw == 4) {
    vec even_low = v_zip_low(columns[0], columns[2]), even_high = v_zip_high(columns[0], columns[2]);
    vec odd_low = v_zip_low(columns[1], columns[3]), odd_high = v_zip_high(columns[1], columns[3]);
    line[0] = v_zip_low(even_low, odd_low);
    line[1] = v_zip_high(even_low, odd_low);
    line[2] = v_zip_low(even_high, odd_high);
    line[3] = v_zip_high(even_high, odd_high);
  } else if (mw == 2) {
    line[0] = v_zip_low(columns[0], columns[1]);
    line[1] = v_zip_high(columns[0], columns[1]);
  } else {
    line[0] = columns[0];
  }
}

/* Where the lines of a vector of tiles go: vector j of line i to at[j] + i * pitch, unless at[j] is negative.  What lies
 * `next` further will be written soon. */
typedef struct winograd_place {
  int64_t at[4], pitch, next;
  int16_t whole, streams;      /* no vector lies in two rows of tiles; past the caches */
  int16_t cut;                 /* of vector j, only the first `lines` and of these `count` outputs exist */
  int8_t lines[4], count[4];
} winograd_place;
_Static_assert(sizeof(winograd_place) <= 8 * sizeof(int64_t), "the layout counts so many");

INLINE void winograd_put(const int mh, const int mw, vec lines[4][4], const winograd_place *to, real *y) {
  const int64_t pitch = to->pitch, next = to->next;
  const int streams = to->streams;
  int64_t at[4];
  UNROLL for (int j = 0; j < mw; j++) at[j] = to->at[j];
  UNROLL for (int j = 0; j < mw; j++) {
    if (at[j] < 0) continue;
    if (streams) {
      UNROLL for (int i = 0; i < mh; i++) v_stream(y + at[j] + i * pitch, lines[i][j]);
      continue;
    }
    if (next) UNROLL for (int i = 0; i < mh; i++) prefetch_write(y + at[j] + i * pitch + next);
    if (to->cut) {
      UNROLL for (int i = 0; i < mh; i++)
        if (i < to->lines[j]) v_store_n(y + at[j] + i * pitch, lines[i][j], to->count[j]);
      continue;
    }
    UNROLL for (int i = 0; i < mh; i++) v_store(y + at[j] + i * pitch, lines[i][j]);
  }
}

/* Lines of products that are transformed along the rows already, to mh lines of mw vectors of outputs. */
INLINE void winograd_lines(const int mh, const int mw, const int nw, const vec rows[MOST_POINTS][MOST_POINTS], vec bias,
                           int activation, vec slope, const winograd_place *to, real *y) {
  vec columns[MOST_POINTS], lines[4][4];
  UNROLL for (int i = 0; i < mh; i++) {
    transform_output(mw, nw, rows[i], columns);
    UNROLL for (int j = 0; j < mw; j++) columns[j] = activate(columns[j] + bias, activation, slope);
    winograd_zip(mw, columns, lines[i]);
  }
  winograd_put(mh, mw, lines, to, y);
}

/* One channel of products s, positions `stride` apart, to outputs. */
INLINE void winograd_output(const int mh, const int mw, const int nh, const int nw, const real *s, int64_t stride, vec bias,
                            int activation, vec slope, const winograd_place *to, real *y) {
  vec rows[MOST_POINTS][MOST_POINTS], d[MOST_POINTS], line[MOST_POINTS];
  UNROLL for (int j = 0; j < nw; j++) {
    UNROLL for (int i = 0; i < nh; i++) d[i] = v_load(s + (i * nw + j) * stride);
    transform_output(mh, nh, d, line);
    UNROLL for (int i = 0; i < mh; i++) rows[i][j] = line[i];
  }
  winograd_lines(mh, mw, nw, rows, bias, activation, slope, to, y);
}

/* Sums of few terms are made for so many output channels and neighbouring vectors of 4 x 4 tiles at once as registers hold
 * of a column of points, and transformed along it; so little is left that L1 keeps it until they are all there. */
enum { FUSED_M = 4, FUSED_N = 6, FUSED_K = 2, FUSED_Q = 2, FUSED_LINES = FUSED_M * FUSED_N * LANES };

/* Sums of `depth` terms for K output channels and Q vectors, [channel][vector][line of outputs][point]; from the weights of
 * one channel, [position][term], to the next's `channel`. */
INLINE void winograd_fused(const int K, const int Q, const int depth, const real *u, int64_t channel, const real *v,
                           int64_t stride, const int64_t *off, real *kept) {
  for (int j = 0; j < FUSED_N; j++, u += depth, v += stride, kept += LANES) {
    vec s[FUSED_K][FUSED_Q][FUSED_N], line[FUSED_M];
    UNROLL for (int i = 0; i < FUSED_N; i++) {
      const real *weight = u + i * FUSED_N * depth, *x = v + i * FUSED_N * stride;
      UNROLL for (int t = 0; t < depth; t++) {
        vec tiles[FUSED_Q];
        UNROLL for (int q = 0; q < Q; q++) tiles[q] = v_opaque(v_load(x + off[t] + q * LANES));
        UNROLL for (int k = 0; k < K; k++) {
          const vec w = v_opaque(v_set1(weight[k * channel + t]));
          UNROLL for (int q = 0; q < Q; q++) s[k][q][i] = t ? v_fma(w, tiles[q], s[k][q][i]) : w * tiles[q];
        }
      }
    }
    UNROLL for (int k = 0; k < K; k++)
      UNROLL for (int q = 0; q < Q; q++) {
        transform_output(FUSED_M, FUSED_N, s[k][q], line);
        UNROLL for (int i = 0; i < FUSED_M; i++)
          v_store(kept + (k * FUSED_Q + q) * FUSED_LINES + i * FUSED_N * LANES, line[i]);
      }
  }
}

static void winograd_fused_sums(int64_t k, int64_t q, int64_t depth, const real *u, int64_t channel, const real *v,
                                int64_t stride, const int64_t *off, real *kept) {
#define FUSED(k, q, depth)                                         \
  case (k * 4 + q) * 8 + depth:                                    \
    winograd_fused(k, q, depth, u, channel, v, stride, off, kept); \
    return
#define EACH_DEPTH(k, q) \
  FUSED(k, q, 1);        \
  FUSED(k, q, 2);        \
  FUSED(k, q, 3);        \
  FUSED(k, q, 4);        \
  FUSED(k, q, 5);        \
  FUSED(k, q, 6)
  switch ((k * 4 + q) * 8 + depth) {
    EACH_DEPTH(1, 1);
    EACH_DEPTH(1, 2);
    EACH_DEPTH(2, 1);
    EACH_DEPTH(2, 2);
  }
#undef EACH_DEPTH
#undef FUSED
}

NOINLINE void winograd_fused_output(const real *kept, vec bias, int activation, vec slope, const winograd_place *to, real *y) {
  vec rows[MOST_POINTS][MOST_POINTS];
  UNROLL for (int i = 0; i < FUSED_M; i++)
    UNROLL for (int j = 0; j < FUSED_N; j++) rows[i][j] = v_load(kept + (i * FUSED_N + j) * LANES);
  winograd_lines(FUSED_M, FUSED_M, FUSED_N, rows, bias, activation, slope, to, y);
}

/* The tile forms that exist, as compile-time constants. */
static void winograd_outputs(const int64_t *m, int64_t nh, int64_t nw, const real *s, int64_t stride, vec bias, int activation,
                             vec slope, const winograd_place *to, real *y) {
#define FORM(mh, mw, nh, nw)                                                                \
  case ((mh * 16 + mw) * 16 + nh) * 16 + nw:                                                 \
    winograd_output(mh, mw, nh, nw, s, stride, bias, activation, slope, to, y);                 \
    return
  switch (((m[1] * 16 + m[2]) * 16 + nh) * 16 + nw) {
    FORM(4, 4, 6, 6);
    FORM(4, 2, 6, 4);
    FORM(2, 2, 4, 4);
    FORM(1, 4, 1, 6);
    FORM(1, 2, 1, 4);
    FORM(4, 4, 8, 8);
    FORM(4, 2, 8, 6);
    FORM(2, 2, 6, 6);
    FORM(1, 4, 1, 8);
    FORM(1, 2, 1, 6);
    FORM(2, 2, 8, 8);
    FORM(4, 4, 5, 5);
    FORM(4, 4, 7, 7);
    FORM(1, 2, 1, 8);
  }
#undef FORM
}

/* One image of an item: a sample, and for a dilated axis one residue of its outputs.  `d`, `h0` and `w0` are the first
 * output depth, tile row and tile column. */
typedef struct winograd_image {
  vox_phase phase;
  int64_t n, d, h0, w0, depths, rows, cols;
} winograd_image;
_Static_assert(sizeof(winograd_image) <= VOX_IMAGE_WORDS * sizeof(int64_t), "the layout counts so many");

/* Neighbouring lanes of a vector of tiles that lie in one row of tiles. */
typedef struct winograd_run {
  int64_t from;  /* lane 0's place in the scratch, if the row began early enough */
  int64_t y;     /* first output, counted from channel 0 of sample 0 */
  int32_t lane;  /* the first */
  int32_t lines; /* outputs along the rows: fewer than a tile's at the image's end, 0 where nothing is to be stored */
  int64_t count; /* outputs along the columns, of all the run's tiles */
  int64_t joined; /* runs of the vector from this one on whose tiles lie side by side in the scratch, too */
} winograd_run;

/* What an item works on: the tiles of its images stand densely in the lanes, rows after rows, depths after depths. */
typedef struct winograd_block {
  winograd_image *images;
  winograd_run *runs;
  int64_t *first; /* run of each vector, and one beyond the last */
  points_row *rows; /* where they are read as they lie: all of four tiles, no more than fill the vectors */
  int64_t count, slices, tiles; /* images, depths that are read, tiles of a depth */
  int64_t slice, vectors;       /* elements of a depth in the scratch, vectors of tiles */
} winograd_block;

static void winograd_runs(const vox_conv_job *job, const band *b, winograd_block *block) {
  const int64_t *size = job->p->operation == VOX_CONV ? job->p->output : job->p->spatial;
  const int64_t plane = size[0] * size[1] * size[2], channels = job->p->groups * job->l->cout;
  const int64_t mh = job->l->tile[1], mw = job->l->tile[2];
  winograd_run *run = block->runs, *head = run;
  int64_t t = 0;
  for (int64_t i = 0; i < block->count; i++) {
    const winograd_image *image = &block->images[i];
    const vox_axis *az = &image->phase.axis[0], *ay = &image->phase.axis[1], *ax = &image->phase.axis[2];
    for (int64_t z = 0; z < block->slices; z++) {
      const int64_t depth = image->d * az->step + vox_axis_offset(az, z), in = (image->n * job->p->groups * job->l->cin);
      if (job->l->squares && depth >= 0 && depth < az->size)
        points_row_list(ay, ax->size, image->h0, image->rows, (in * az->size + depth) * ay->size * ax->size,
                        block->rows + t / ROW_TILES);
      for (int64_t row = 0; row < b->rows; row++)
        for (int64_t col = 0, lanes; col < b->cols; col += lanes, t += lanes, run++) {
          const int64_t lane = t % LANES, h = (image->h0 + row) * mh, w = (image->w0 + col) * mw;
          lanes = vox_min(LANES - lane, b->cols - col);
          if (lane == 0) block->first[t / LANES] = run - block->runs;
          *run = (winograd_run){.from = (i * block->slices + z) * block->slice + row * b->pitch + col - lane, .lane = (int32_t)lane};
          if (lane == 0 || run->from != head->from) head = run;
          head->joined++;
          if (z >= image->depths || row >= image->rows || col >= image->cols) continue;
          run->lines = (int32_t)vox_min(mh, ay->outputs - h);
          run->count = vox_min(vox_min(lanes, image->cols - col) * mw, ax->outputs - w);
          run->y = image->n * channels * plane +
                   ((az->first + (image->d + z) * az->spread) * size[1] + ay->first + h * ay->spread) * size[2] + ax->first +
                   w * ax->spread;
        }
    }
  }
  block->vectors = vox_ceil_div(t, LANES);
  block->first[block->vectors] = run - block->runs;
}

/* Whether each vector of the four lines of 4 x 4 tiles lies in one row of tiles, and where these go, from channel 0 of sample
 * 0. */
static void winograd_places(const winograd_block *block, int64_t q, winograd_place *place) {
  for (int j = 0; j < 4; j++) place->at[j] = -LANES;
  place->whole = place->streams = 1;
  place->cut = 0;
  for (int64_t r = block->first[q]; r < block->first[q + 1]; r++) {
    const winograd_run *run = &block->runs[r];
    const int64_t first = 4 * run->lane;
    if (!run->lines) continue;
    place->whole &= first % LANES == 0;
    place->cut |= run->lines < 4 || run->count % LANES;
    for (int64_t at = 0; place->whole && at < run->count; at += LANES) {
      const int64_t j = (first + at) / LANES;
      place->at[j] = run->y + at;
      place->lines[j] = (int8_t)run->lines;
      place->count[j] = (int8_t)vox_min(LANES, run->count - at);
    }
  }
}

/* One channel's scratch to V, `stride` from position to position: the transform along the columns. */
INLINE void winograd_transform(const int nh, int64_t nw, const winograd_block *block, const real *scratch,
                               const int64_t *off, real *v, int64_t stride) {
  for (int64_t j = 0; j < nw; j++)
    for (int64_t q = 0; q < block->vectors; q++) {
      const winograd_run *run = &block->runs[block->first[q]], *end = &block->runs[block->first[q + 1]];
      vec d[MOST_POINTS], line[MOST_POINTS];
      UNROLL for (int i = 0; i < nh; i++) d[i] = v_load(scratch + run->from + off[i * nw + j]);
      while ((run += run->joined) < end)
        UNROLL for (int i = 0; i < nh; i++) d[i] = v_from_lane(run->lane, v_load(scratch + run->from + off[i * nw + j]), d[i]);
      transform_input(nh, d, line);
      UNROLL for (int i = 0; i < nh; i++) v_store(v + (i * nw + j) * stride + q * LANES, line[i]);
    }
}
INLINE void winograd_inputs(int64_t nh, int64_t nw, const winograd_block *block, const real *scratch, const int64_t *off,
                            real *v, int64_t stride) {
  switch (nh) {
  case 8: winograd_transform(8, nw, block, scratch, off, v, stride); return;
  case 7: winograd_transform(7, nw, block, scratch, off, v, stride); return;
  case 6: winograd_transform(6, nw, block, scratch, off, v, stride); return;
  case 5: winograd_transform(5, nw, block, scratch, off, v, stride); return;
  case 4: winograd_transform(4, nw, block, scratch, off, v, stride); return;
  case 1: winograd_transform(1, nw, block, scratch, off, v, stride); return;
  }
}

/* The lines of one vector of tiles, cut to what exists, to an output channel that begins `y` elements from channel 0; where
 * rows and channels are aligned and the layout says so, past the caches. */
static void winograd_store(const vox_layout *l, const winograd_block *block, int64_t q, int64_t pitch, const int64_t spread[2],
                           int64_t plane, int streams, const real *lines, real *y) {
  for (int64_t r = block->first[q]; r < block->first[q + 1]; r++) {
    const winograd_run *run = &block->runs[r];
    for (int64_t i = 0; i < run->lines; i++) {
      const real *from = lines + (i * LANES + run->lane) * l->tile[2];
      real *to = y + run->y + i * spread[0] * pitch;
      if (spread[1] == 1) {
        int64_t j = 0;
        if (streams && run->y % LANES == 0)
          for (; j + LANES <= run->count; j += LANES) v_stream(to + j, v_load(from + j));
        for (; j + LANES <= run->count; j += LANES) {
          prefetch_write(to + plane + j);
          v_store(to + j, v_load(from + j));
        }
        if (j < run->count) {
          prefetch_write(to + plane + j);
          v_store_n(to + j, v_load_n(from + j, run->count - j), run->count - j);
        }
      } else {
        for (int64_t j = 0; j < run->count; j++) to[j * spread[1]] = from[j];
      }
    }
  }
}

/* The outputs of the tile at (row, col) of the band, summed directly in the order of (channel, tap), padding skipped. */
static void winograd_mend(const vox_conv_job *job, const vox_item *it, const winograd_image *at, const real *x, int64_t z,
                          int64_t row, int64_t col, int64_t k_first, int64_t k_last) {
  const vox_conv *p = job->p;
  const vox_layout *l = job->l;
  const vox_axis *az = &at->phase.axis[0], *ay = &at->phase.axis[1], *ax = &at->phase.axis[2];
  const int64_t input = az->size * ay->size * ax->size, kh = p->kernel[1], kw = p->kernel[2];
  const int64_t *size = p->operation == VOX_CONV ? p->output : p->spatial;
  const weight_view w = view_weight(p, l, it->group, job->weight);
  const vec slope = v_set1((real)p->slope);
  int64_t h_end = vox_min(ay->outputs, (at->h0 + row + 1) * l->tile[1]);
  int64_t w_end = vox_min(ax->outputs, (at->w0 + col + 1) * l->tile[2]);
  for (int64_t k = k_first; k < k_last; k++) {
    int64_t channel = it->group * l->cout + k;
    real *y = (real *)job->y + (at->n * p->groups * l->cout + channel) * size[0] * size[1] * size[2];
    for (int64_t h = (at->h0 + row) * l->tile[1]; h < h_end; h++)
      for (int64_t v = (at->w0 + col) * l->tile[2]; v < w_end; v++) {
        real sum = 0;
        for (int64_t c = 0; c < l->cin; c++)
          for (int64_t t = 0; t < p->kernel[0] * kh * kw; t++) {
            int64_t sz = (at->d + z) * az->step + vox_axis_offset(az, t / kw / kh);
            int64_t sh = h * ay->offset_step + ay->offset0 + t / kw % kh * (ay->offset_step / p->stride[1]);
            int64_t sw = v * ax->offset_step + ax->offset0 + t % kw * (ax->offset_step / p->stride[2]);
            if (sz >= 0 && sz < az->size && sh >= 0 && sh < ay->size && sw >= 0 && sw < ax->size)
              sum = s_fma(w.first[k * w.out + c * w.in + t * w.tap], x[c * input + (sz * ay->size + sh) * ax->size + sw], sum);
          }
        if (job->bias) sum += ((const real *)job->bias)[channel];
        y[((az->first + (at->d + z) * az->spread) * size[1] + ay->first + h * ay->spread) * size[2] + ax->first +
          v * ax->spread] = activate(v_set1(sum), p->activation, slope)[0];
      }
  }
}

/* Whether an output channel's weights hold such a value. */
static int filter_is_huge(const vox_conv *p, const vox_layout *l, int64_t group, int64_t k, const void *weight) {
  const weight_view w = view_weight(p, l, group, weight);
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2], lowest = w.tap < 0 ? 1 - taps : 0;
  for (int64_t c = 0; c < l->cin; c++)
    if (has_huge(w.first + k * w.out + c * w.in + lowest, taps)) return 1;
  return 0;
}

/* Whether the patch of the tile at (row, col) holds a value that the transforms may not meet. */
static int patch_is_huge(const vox_conv_job *job, const winograd_image *at, const real *x, int64_t z, int64_t row,
                         int64_t col) {
  const vox_axis *az = &at->phase.axis[0], *ay = &at->phase.axis[1], *ax = &at->phase.axis[2];
  const int64_t input = az->size * ay->size * ax->size, cin = job->l->cin;
  for (int64_t c = 0; c < job->l->inputs; c++)
    for (int64_t td = 0; td < az->taps; td++)
      for (int64_t i = 0; i < ay->taps; i++)
        for (int64_t j = 0; j < ax->taps; j++) {
          int64_t sz = (at->d + z) * az->step + vox_axis_offset(az, td);
          int64_t sh = (at->h0 + row) * ay->step + vox_axis_offset(ay, i) + vox_parity(job->p, c / cin, 1);
          int64_t sw = (at->w0 + col) * ax->step + vox_axis_offset(ax, j) + vox_parity(job->p, c / cin, 2);
          if (sz >= 0 && sz < az->size && sh >= 0 && sh < ay->size && sw >= 0 && sw < ax->size &&
              has_huge(x + c % cin * input + (sz * ay->size + sh) * ax->size + sw, 1))
            return 1;
        }
  return 0;
}

/* The images [it->n, it->n + it->images) of a group, numbered (sample, residues), within one band of tiles.  Where items
 * share a V, it follows a line that says whether it holds a value that the transforms may not meet. */
static void winograd_item(const vox_conv_job *job, const vox_item *it, void *workspace) {
  const vox_conv *p = job->p;
  const vox_layout *l = job->l;
  const int64_t points[3] = {1, vox_winograd_points(p, l->tile, 1), vox_winograd_points(p, l->tile, 2)};
  const int64_t positions = l->positions, taps = p->kernel[0], depth = taps * l->inputs, slices = taps * vox_parities(p);
  const int64_t *in_size = p->operation == VOX_CONV ? p->spatial : p->output;
  const int64_t *size = p->operation == VOX_CONV ? p->output : p->spatial;
  const int64_t input = in_size[0] * in_size[1] * in_size[2], plane = size[0] * size[1] * size[2];

  real *scratch = workspace, *v = scratch + l->scratch, *products = l->shares ? v : v + positions * l->columns;
  int32_t *shared_huge = it->shared;
  if (l->shares) v = (real *)((char *)it->shared + VOX_ALIGN);
  winograd_block block = {.images = (winograd_image *)(products + l->sums)};
  int64_t *off = (int64_t *)(block.images + l->images), depths = 0, rows = 0, cols = 0;
  block.first = off + l->taps;
  block.rows = (points_row *)(block.first + l->vectors);
  block.runs = (winograd_run *)(block.rows + (l->squares ? l->vectors * LANES / ROW_TILES : 0));
  if (l->squares) memset(block.rows, 0, (size_t)(l->vectors * LANES / ROW_TILES) * sizeof *block.rows);
  const int64_t h_first = vox_even_first(l->tile_rows, l->bands[1], it->band[1]);
  const int64_t h_last = vox_even_first(l->tile_rows, l->bands[1], it->band[1] + 1);
  for (int64_t i = 0; i < it->images; i++) {
    winograd_image *image = &block.images[block.count];
    const int64_t index = it->n + i, columns = l->phases[2];
    const int64_t residue[3] = {0, index / columns % l->phases[1], index % columns};
    *image = (winograd_image){.n = index / columns / l->phases[1], .d = it->band[0] * l->band[0], .h0 = h_first,
                              .w0 = it->band[2] * l->band[2]};
    vox_winograd_phase(p, l->tile, residue, &image->phase);
    const vox_axis *a = image->phase.axis;
    if (image->d >= a[0].count || image->h0 >= a[1].count || image->w0 >= a[2].count) continue;
    image->depths = vox_min(l->band[0], a[0].count - image->d);
    image->rows = vox_min(h_last, a[1].count) - h_first;
    image->cols = vox_min(l->band[2], a[2].count - image->w0);
    depths = vox_max(depths, image->depths);
    rows = vox_max(rows, image->rows);
    cols = vox_max(cols, image->cols);
    block.count++;
  }
  if (!block.count) return;
  /* depths in a row share their slices, since such a band has a step and taps one apart; else it is of one depth */
  block.slices = depths + taps - 1;
  block.tiles = rows * cols;
  for (int64_t i = 0; i < block.count; i++) block.images[i].phase.axis[0].taps = block.slices;
  const band b = points_band(&block.images[0].phase, rows, cols);
  block.slice = b.filled / block.slices;
  winograd_runs(job, &b, &block);
  const int64_t pixels = block.vectors * LANES, v_stride = odd_lines(l->inputs * pixels + LANES);
  const int64_t tiles = (block.count * block.slices - (taps - 1)) * block.tiles, outputs = vox_round_up(tiles, LANES);
  const int64_t vectors = outputs / LANES;

  int huge = 0, mends = job->nonfinite;
  const int64_t share = l->shares ? it->share : 0, shares = vox_max(1, l->shares);
  points_offsets(&block.images[0].phase, &b, 1, off);
  const int64_t c_first = share < 0 ? l->inputs : vox_even_first(l->inputs, shares, share);
  ivec most = {0};
  for (int64_t c = c_first; c < vox_even_first(l->inputs, shares, share + 1); c++) {
    if (l->squares) {
      const real *x = (const real *)job->x + (it->group * l->cin + c) * input;
      most = points_squares(-block.images[0].phase.axis[2].offset0, block.rows, block.vectors, x, in_size[2],
                            v + c * pixels, v_stride, most);
      continue;
    }
    /* padding is the same in all channels of a parity, and the last tiles reach a vector beyond */
    if (c == c_first || c % l->cin == 0) memset(scratch, 0, (size_t)(block.count * b.filled + LANES) * sizeof(real));
    for (int64_t i = 0; i < block.count; i++) {
      const winograd_image *image = &block.images[i];
      const real *x = (const real *)job->x + ((image->n * p->groups + it->group) * l->cin + c % l->cin) * input;
      vox_phase phase = image->phase;
      for (int axis = 1; axis < 3; axis++) phase.axis[axis].offset0 += vox_parity(p, c / l->cin, axis);
      huge |= points_rows(&phase, l->tile, &b, image->d, image->h0, image->w0, x, scratch + i * b.filled);
    }
    winograd_inputs(points[1], points[2], &block, scratch, off, v + c * pixels, v_stride);
  }
  huge |= is_huge(most);
  if (l->shares && share >= 0) {
    if (huge) __atomic_store_n(shared_huge, 1, __ATOMIC_RELAXED);
    return;
  }
  if (l->shares) huge = __atomic_load_n(shared_huge, __ATOMIC_RELAXED);

  const int64_t per_part = vox_round_up(vox_ceil_div(l->cout, l->parts), l->panel);
  const int64_t k_first = it->part * per_part, k_last = vox_min(l->cout, k_first + per_part);
  const real *u = (const real *)job->packed + it->group * positions * depth * l->cout;
  const int64_t spread[2] = {block.images[0].phase.axis[1].spread, block.images[0].phase.axis[2].spread};
  const vec slope = v_set1((real)p->slope);
  real lines[4 * 4 * LANES] __attribute__((aligned(VECTOR_BYTES))); /* or each load waits for two stores */
  real kept[FUSED_K * FUSED_Q * FUSED_LINES] __attribute__((aligned(VECTOR_BYTES)));
  const int streams = l->streams && is_aligned(job->y) && size[2] % LANES == 0 && plane % LANES == 0;
  winograd_place *places = (winograd_place *)(block.runs + l->runs);
  const winograd_place parts = {.at = {0, LANES, 2 * LANES, 3 * LANES}, .pitch = l->tile[2] * LANES};
  for (int64_t q = 0; q * LANES < outputs; q++) {
    places[q].pitch = size[2], places[q].next = l->fused ? FUSED_K * plane : plane;
    winograd_places(&block, q, &places[q]);
    places[q].whole &= l->tile[1] == 4 && l->tile[2] == 4 && spread[0] == 1 && spread[1] == 1;
    for (int j = 0; j < 4; j++) places[q].streams &= streams && !places[q].cut && places[q].at[j] % LANES == 0;
  }
  for (int64_t i = 0; i < depth; i++) {
    const int64_t c = i / (taps * l->cin) * l->cin + i % l->cin, t = i / l->cin % taps;
    off[i] = c * pixels + t * block.tiles;
  }
  for (int64_t kb = k_first; kb < k_last; kb += l->k_block) {
    const int64_t k_end = vox_min(k_last, kb + l->k_block), stride = odd_lines((k_end - kb) * outputs);
    int64_t c0 = 0, c1;
    do { /* a part of the sums, of weights that L2 holds */
      c1 = vox_min(c0 + l->depth_block, l->cin);
      const int64_t d0 = c0 * slices, terms_here = (c1 - c0) * slices;
      const int64_t of_channel = l->fused ? positions * depth : terms_here; /* from one channel's weights to the next's */
      const int64_t u_stride = l->fused ? depth : l->late ? odd_lines((k_end - kb) * terms_here) : l->cout * depth;
      const real *weights = l->late ? products + l->packing : u + kb * of_channel;
      if (l->late) mends |= winograd_pack(p, l, it->group, kb, k_end, c0, c1, job->weight, u_stride, products + l->packing);
      /* all output channels read what few vectors are made of from L1 */
      for (int64_t q = 0; FUSED_DEPTH > 0 && l->fused && q < vectors; q += FUSED_Q)
        for (int64_t k = kb; k < k_end; k += FUSED_K) {
          const int64_t channels = vox_min(FUSED_K, k_end - k), wide = vox_min(FUSED_Q, vectors - q);
          winograd_fused_sums(channels, wide, depth, weights + (k - kb) * of_channel, of_channel, v + q * LANES, v_stride, off,
                              kept);
          for (int64_t i = 0; i < channels * wide; i++) {
            const int64_t channel = it->group * l->cout + k + i / wide, at = q + i % wide;
            const real *sums = kept + (i / wide * FUSED_Q + i % wide) * FUSED_LINES;
            const int whole = places[at].whole;
            real *y = (real *)job->y + channel * plane;
            winograd_fused_output(sums, v_set1(job->bias ? ((const real *)job->bias)[channel] : 0), p->activation, slope,
                                  whole ? &places[at] : &parts, whole ? y : lines);
            if (!whole) winograd_store(l, &block, at, size[2], spread, plane, streams, lines, y);
          }
        }
      if (l->fused) break;
      const int ends = c1 == l->cin;
      const int64_t next_k = ends ? k_end : kb, next_end = ends ? vox_min(k_last, k_end + l->k_block) : k_end;
      const int64_t next_c = ends ? 0 : c1;
      for (int64_t i = 0; i < positions; i++) {
        int64_t first, terms;
        vox_parities_at(p, i / points[2] == points[1] - 1, i % points[2] == points[2] - 1, &first, &terms);
        first *= taps * l->cin, terms = vox_min(terms * taps * l->cin, terms_here);
        for (int64_t k = kb, m; k < k_end; k += m) {
          m = vox_panel_width(l->panel, l->cout - k);
          if (l->late && next_k < next_end)
            prefetch_filters(p, l, it->group, next_k, next_end, next_c, vox_min(next_c + l->depth_block, l->cin),
                             i * (k_end - kb) + k - kb, positions * (k_end - kb), m, job->weight);
          const real *panel = weights + i * u_stride + (k - kb) * of_channel + first * m, *from = v + i * v_stride;
          real *to = products + i * stride + (k - kb) * outputs;
          if (l->by_channels)
            channel_tiles(tiles, d0 > 0, terms, panel, from, off + d0 + first, l->kept ? to + l->kept : NULL, ends ? to : NULL,
                          outputs, NULL);
          else
            for (int64_t p0 = 0; p0 < outputs; p0 += TILE_V * LANES)
              pixel_tiles(m, vox_min(TILE_V, (outputs - p0) / LANES), d0 > 0, terms, panel, from + p0, off + d0 + first,
                          to + p0, outputs, NULL);
        }
      }
      c0 = c1;
    } while (c0 < l->cin);
    if (l->fused) continue;
    for (int64_t k = kb; k < k_end; k++) {
      int64_t channel = it->group * l->cout + k;
      vec bias = v_set1(job->bias ? ((const real *)job->bias)[channel] : 0);
      real *y = (real *)job->y + channel * plane;
      for (int64_t q = 0; q * LANES < outputs; q++) {
        const int whole = places[q].whole;
        winograd_outputs(l->tile, points[1], points[2], products + (k - kb) * outputs + q * LANES, stride, bias,
                         p->activation, slope, whole ? &places[q] : &parts, whole ? y : lines);
        if (!whole) winograd_store(l, &block, q, size[2], spread, plane, streams, lines, y);
      }
    }
  }

  if (streams) v_stream_end();
  if (!huge && !mends) return;
  for (int64_t k = k_first, m; k < k_last; k += m) {
    m = mends ? 1 : k_last - k_first;
    /* which channels are summed again may not depend on who packed them, nor on what else was packed */
    const int all = mends && filter_is_huge(p, l, it->group, k, job->weight);
    for (int64_t i = 0; i < block.count && (all || huge); i++) {
      winograd_image *image = &block.images[i];
      const real *x = (const real *)job->x + (image->n * p->groups + it->group) * l->cin * input;
      image->phase.axis[0].taps = taps;
      for (int64_t z = 0; z < image->depths; z++)
        for (int64_t row = 0; row < image->rows; row++)
          for (int64_t col = 0; col < image->cols; col++)
            if (all || patch_is_huge(job, image, x, z, row, col))
              winograd_mend(job, it, image, x, z, row, col, k, k + m);
    }
  }
}
