/* Bands whose rows are taken apart by column points: where a tile of outputs stands in one lane, element j of its row of
 * inputs is a column of its own, whose neighbouring tiles are contiguous, across rows too.  So Winograd's tiles are read,
 * transformed along their rows on the way, and with one output to a tile and no transform the taps of a direct sum. */

#define POINT_P ((real)0.70710678118654752440) /* p * q = 1 */
#define POINT_Q ((real)1.41421356237309504880)
enum { MOST_POINTS = VOX_MOST_POINTS, MOST_TAPS = 7 };

INLINE vec v_scale(double a, vec b) { return v_set1((real)a) * b; }
INLINE vec v_scale_add(double a, vec b, vec c) { return v_fma(v_set1((real)a), b, c); }

/* v = Bt d, n elements each */
INLINE void transform_input(const int n, const vec *d, vec *v) {
  if (n == 8) {
    v[0] = v_scale_add(5.25, d[4] - d[2], d[0] - d[6]);
    vec even = v_scale_add(-4.25, d[4], d[2] + d[6]), odd = v_scale_add(-4.25, d[3], d[1] + d[5]);
    v[1] = even + odd;
    v[2] = even - odd;
    even = v_scale_add(0.25, d[2], v_scale_add(-1.25, d[4], d[6]));
    odd = v_scale_add(2, d[5], v_scale_add(-2.5, d[3], v_scale(0.5, d[1])));
    v[3] = even + odd;
    v[4] = even - odd;
    even = v_scale_add(4, d[2], v_scale_add(-5, d[4], d[6]));
    odd = v_scale_add(0.5, d[5], v_scale_add(-2.5, d[3], v_scale(2, d[1])));
    v[5] = even + odd;
    v[6] = even - odd;
    v[7] = v_scale_add(5.25, d[3] - d[5], d[7] - d[1]);
  } else if (n == 7) { /* an odd number leaves out the point 0 */
    vec even = v_scale_add(4, d[0], v_scale_add(-5, d[2], d[4])), odd = v_scale_add(4, d[1], v_scale_add(-5, d[3], d[5]));
    v[0] = v_scale_add(0.5, even, odd);
    v[1] = v_scale_add(-0.5, even, odd);
    even = v_scale_add(-4.25, d[2], d[0] + d[4]), odd = v_scale_add(-4.25, d[3], d[1] + d[5]);
    v[2] = odd + even;
    v[3] = odd - even;
    even = v_scale_add(0.25, d[0], v_scale_add(-1.25, d[2], d[4]));
    odd = v_scale_add(0.25, d[1], v_scale_add(-1.25, d[3], d[5]));
    v[4] = v_scale_add(2, even, odd);
    v[5] = v_scale_add(-2, even, odd);
    v[6] = v_scale_add(5.25, d[2] - d[4], d[6] - d[0]);
  } else if (n == 6) {
    vec even = v_scale_add(-2, d[2], d[4]), odd = v_fma(v_set1(POINT_P), d[3], v_set1(-POINT_Q) * d[1]);
    v[1] = even + odd;
    v[2] = even - odd;
    even = v_scale_add(-0.5, d[2], d[4]);
    odd = v_fma(v_set1(POINT_Q), d[3], v_set1(-POINT_P) * d[1]);
    v[3] = even + odd;
    v[4] = even - odd;
    v[0] = v_scale_add(-2.5, d[2], d[0] + d[4]);
    v[5] = v_scale_add(-2.5, d[3], d[1] + d[5]);
  } else if (n == 5) {
    vec even = d[2] - d[0], odd = d[3] - d[1];
    v[0] = v_scale_add(0.5, even, odd);
    v[1] = v_scale_add(-0.5, even, odd);
    even = v_scale_add(-0.25, d[0], d[2]), odd = v_scale_add(-0.25, d[1], d[3]);
    v[2] = odd + even;
    v[3] = odd - even;
    v[4] = v_scale_add(0.25, d[0], v_scale_add(-1.25, d[2], d[4]));
  } else if (n == 4) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  } else {
    UNROLL for (int i = 0; i < n; i++) v[i] = d[i];
  }
}

/* Magnitudes as integers, which order them as numbers are ordered, with what is not a number above all. */
INLINE ivec v_magnitude(vec a) { return (ivec)a & (VOX_DOUBLE ? (lane_int)INT64_MAX : (lane_int)INT32_MAX); }

/* Whether the largest of magnitudes is so large, or not a number, that the transforms may not meet it: 2^48 leaves room
 * for their growth, for an equally large weight and for a long sum; in float64 2^492. */
INLINE int is_huge(ivec most) {
  const lane_int limit = VOX_DOUBLE ? (lane_int)INT64_C(0x5eb0000000000000) : (lane_int)0x57800000;
  lane_int any = 0;
  for (int l = 0; l < LANES; l++) any |= most[l] >= limit;
  return any != 0;
}

/* Scratch of one channel:
 *
 *   [depth tap][row residue][column point][rows + halo][cols] */
static band points_band(const vox_phase *ph, int64_t rows, int64_t cols) {
  const vox_axis *ay = &ph->axis[1];
  band b = {.rows = rows, .cols = cols, .pitch = cols, .slots_h = vox_axis_slots(ay), .slots_w = ph->axis[2].taps};
  b.lines = rows + vox_axis_halo(ay);
  b.filled = ph->axis[0].taps * b.slots_h * b.slots_w * b.lines * cols;
  b.plane = odd_lines(b.filled);
  return b;
}

/* Where tap i of point j's column lies, of each channel and depth tap; a gradient's taps go backwards. */
static void points_offsets(const vox_phase *ph, const band *b, int64_t channels, int64_t *off) {
  const vox_axis *ay = &ph->axis[1];
  const int64_t depths = ph->axis[0].taps, slice = b->filled / depths, low = vox_axis_low(ay), points = b->slots_w;
  for (int64_t c = 0; c < channels; c++)
    for (int64_t td = 0; td < depths; td++)
      for (int64_t i = 0; i < ay->taps; i++)
        for (int64_t j = 0; j < points; j++) {
          const int64_t column = ph->axis[2].offset_step < 0 ? points - 1 - j : j;
          *off++ = c * b->plane + td * slice +
                   ((i % b->slots_h * points + column) * b->lines + vox_axis_shift(ay, i) - low) * b->pitch;
        }
}

/* What the first of an axis's taps in the input's order reads for output 0, and how far apart they are, as the outputs of a
 * tile are; a gradient's only tap says nothing of that. */
INLINE int64_t points_first(const vox_axis *a, int64_t *apart) {
  *apart = vox_max(1, a->offset_step < 0 ? -a->offset_step : a->offset_step);
  return a->offset0 + (a->offset_step < 0 ? (a->taps - 1) * a->offset_step : 0);
}

/* Where row r of a band goes: rows of tiles stand `pitch` apart, the rows of one tile `slot`. */
typedef struct points_lines {
  int64_t first, last; /* rows that are not padding */
  int64_t pitch, slot, plane; /* `plane` from column point to column point */
  int shift; /* 1 << shift rows to a tile */
} points_lines;
INLINE int64_t points_line(const points_lines *to, int64_t r) {
  return (r & ((1 << to->shift) - 1)) * to->slot + (r >> to->shift) * to->pitch;
}

/* From mw vectors of a row, an element of LANES tiles each. */
INLINE void points_split(const int mw, const vec *in, vec *out) {
  if (mw == 1) {
    out[0] = in[0];
    return;
  }
  vec even_low = v_even(in[0], in[1]), odd_low = v_odd(in[0], in[1]);
  if (mw == 2) {
    out[0] = even_low, out[1] = odd_low;
    return;
  }
  vec even_high = v_even(in[2], in[3]), odd_high = v_odd(in[2], in[3]);
  out[0] = v_even(even_low, even_high), out[1] = v_even(odd_low, odd_high);
  out[2] = v_odd(even_low, even_high), out[3] = v_odd(odd_low, odd_high);
}

/* Up to a vector of neighbouring tiles of each row: d[j] of tile i lies at x[(i * mw + j) * D] and is 0 outside of
 * [-at, size - at); its point j goes to to[j * plane + i].  D is 1 or 2; what lies `next` further will be wanted soon.
 * Returns the larger of `most` and the magnitudes that were read. */
INLINE ivec points_column(const int mw, const int nw, const int D, const int form, const real *x, int64_t row, int64_t size,
                          int64_t at, int64_t n, const points_lines *lines, real *to, int64_t next, ivec most) {
  enum { MOST_LOADS = 8 };
  const int transforms = nw > 3; /* which huge values may not meet */
  const int loads = mw * D, used = form == GATHER_NARROW ? D : form == GATHER_HALF ? loads / 2 : loads;
  const int reads = form == GATHER_NARROW ? (nw + mw - 1) / mw : 1; /* the next from the next tile on */
  const vmask stored = v_range(0, n);
  vmask inside[MOST_POINTS], beyond[MOST_POINTS];
  UNROLL for (int s = 0; s < reads; s++)
    UNROLL for (int j = 0; j < used; j++)
      inside[s * used + j] = v_range(-at - s * loads - j * LANES, size - at - s * loads - j * LANES);
  UNROLL for (int j = mw; j < nw; j++) {
    const int64_t first = at + (mw * (LANES - 1) + j) * D;
    beyond[j] = v_range(0, first >= 0 && first < size);
  }
  for (int64_t r = lines->first; r < lines->last; r++, x += row) {
    vec d[MOST_POINTS + 4], v[MOST_POINTS];
    UNROLL for (int s = 0; s < reads; s++) {
      vec in[MOST_LOADS];
      UNROLL for (int j = 0; j < loads; j++) {
        const real *p = x + s * loads + j * LANES;
        if (j >= used) {
          in[j] = form == GATHER_HALF ? v_zero() : in[j - used];
          continue;
        }
        if (s == 0) prefetch(p + next);
        in[j] = form == GATHER_WHOLE ? v_load(p) : v_load_masked(p, inside[s * used + j]);
        if (transforms) most = v_max_int(most, v_magnitude(in[j]));
      }
      if (D == 2) UNROLL for (int j = 0; j < mw; j++) in[j] = v_even(in[2 * j], in[2 * j + 1]);
      points_split(mw, in, d + s * mw);
    }
    UNROLL for (int j = reads * mw; j < nw; j++) { /* the next tile's, and one element behind the last tile */
      const real *p = x + (mw * (LANES - 1) + j) * D;
      const vec after = form == GATHER_WHOLE ? v_set1(*p) : form == GATHER_HALF ? v_zero() : v_load_masked(p, beyond[j]);
      if (transforms && form != GATHER_HALF) most = v_max_int(most, v_magnitude(after));
      d[j] = v_before(d[j - mw], after);
    }
    transform_input(nw, d, v);
    real *line = to + points_line(lines, r);
    UNROLL for (int j = 0; j < nw; j++)
      if (form == GATHER_WHOLE)
        v_store(line + j * lines->plane, v[j]);
      else
        v_store_masked(line + j * lines->plane, v[j], stored);
  }
  return most;
}

/* The same at any distance D between a tile's elements. */
INLINE ivec points_apart(const int mw, const int nw, int64_t D, const real *x, int64_t row, int64_t size, int64_t at,
                         int64_t n, const points_lines *lines, real *to, ivec most) {
  for (int64_t r = lines->first; r < lines->last; r++, x += row) {
    vec d[MOST_POINTS], v[MOST_POINTS];
    real column[LANES];
    for (int j = 0; j < nw; j++) {
      gather_line(x - at, size, mw * D, at + j * D, n, column);
      d[j] = v_load_n(column, n);
      most = v_max_int(most, v_magnitude(d[j]));
    }
    transform_input(nw, d, v);
    for (int j = 0; j < nw; j++) v_store_n(to + points_line(lines, r) + j * lines->plane, v[j], n);
  }
  return most;
}

INLINE ivec points_columns(const int mw, const int nw, const vox_axis *ax, int64_t D, const real *x, int64_t row, int64_t at,
                           int64_t cols, const points_lines *lines, real *to, int64_t next, ivec most) {
  const int64_t size = ax->size;
  x += at;
  for (int64_t i = 0; i < cols; i += LANES, at += LANES * ax->step, x += LANES * ax->step, to += LANES) {
    const int64_t n = vox_min(LANES, cols - i);
    const int whole = n == LANES && at >= 0 && at + D * (mw * (LANES - 1) + nw - 1) < size;
    const int narrow = n < LANES && n * mw <= LANES, rest = mw == 4 && n <= LANES / 2;
#define COLUMN(D, FORM) points_column(mw, nw, D, FORM, x, row, size, at, n, lines, to, next, most)
    if (D == 1 || nw == 3) /* a direct sum's taps are neighbours */
      most = whole ? COLUMN(1, GATHER_WHOLE) : narrow ? COLUMN(1, GATHER_NARROW)
             : rest && size - at <= 2 * LANES ? COLUMN(1, GATHER_HALF) : COLUMN(1, GATHER_MASKED);
    else if (D == 2)
      most = narrow ? COLUMN(2, GATHER_NARROW)
             : rest && size - at <= 4 * LANES ? COLUMN(2, GATHER_HALF) : COLUMN(2, GATHER_MASKED);
    else
      most = points_apart(mw, nw, D, x, row, size, at, n, lines, to, most);
#undef COLUMN
  }
  return most;
}

/* A band of one channel to the scratch, which holds zeros where the padding is; whether the band has a value that the
 * transforms may not meet. */
static int points_rows(const vox_phase *ph, const int64_t tile[3], const band *b, int64_t d, int64_t h0, int64_t w0,
                       const real *x, real *scratch) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  int64_t across, down;
  const int64_t at = w0 * ax->step + points_first(ax, &across), top = h0 * ay->step + points_first(ay, &down);
  const int64_t row = down * ax->size, image = az->size * ay->size * ax->size;
  points_lines lines = {.pitch = b->pitch, .plane = b->lines * b->pitch, .shift = __builtin_ctz((unsigned)tile[1])};
  lines.slot = b->slots_w * lines.plane;
  vox_inside(ay->size, down, top, (b->rows - 1) * tile[1] + ay->taps, &lines.first, &lines.last);
  ivec most = {0};
  for (int64_t td = 0; td < az->taps; td++, scratch += b->slots_h * lines.slot) {
    const int64_t z = d * az->step + vox_axis_offset(az, td);
    if (z < 0 || z >= az->size) continue;
    const real *from = x + (z * ay->size + top + lines.first * down) * ax->size;
#define COLUMNS(m, n)                                                                              \
  case m * 16 + n:                                                                                 \
    most = points_columns(m, n, ax, across, from, row, at, b->cols, &lines, scratch, image, most); \
    break
    switch (tile[2] * 16 + ax->taps) {
      COLUMNS(4, 6);
      COLUMNS(2, 4);
      COLUMNS(4, 8);
      COLUMNS(2, 6);
      COLUMNS(2, 8);
      COLUMNS(4, 5);
      COLUMNS(4, 7);
      COLUMNS(1, 3);
      COLUMNS(2, 3);
    }
#undef COLUMNS
  }
  return is_huge(most);
}

/* Four tiles of 4 x 4 outputs of 3 x 3 taps that are all of a row: where their first row of pixels lies, and which of the six
 * rows are no padding. */
typedef struct points_row {
  int64_t from;
  int32_t first, last;
} points_row;

enum { ROW_TILES = 4, ROW_PIXELS = 16 }; /* of such a row, whose pixels are no more */

/* Rows of four tiles that fill a vector, read where they lie and transformed along rows and columns on the way to V, positions
 * `stride` apart: nothing of it waits for a second row as it does in the scratch.  `before` columns of padding precede the
 * rows, of `width` pixels. */
INLINE ivec points_square(const int before, const points_row *rows, const real *x, int64_t width, real *v, int64_t stride,
                          ivec most) {
  enum { N = 6 };
  vec points[N][N], d[N], line[N];
  vmask inside[ROW_TILES];
  static const real padding[ROW_PIXELS];
  UNROLL for (int p = 0; p < ROW_TILES; p++) inside[p] = v_range(0, width - p * LANES % ROW_PIXELS);
  UNROLL for (int i = 0; i < N; i++) {
    vec in[ROW_TILES], column[2 * ROW_TILES]; /* from two before the first tile on */
    UNROLL for (int p = 0; p < ROW_TILES; p++) {
      const points_row *row = &rows[p * LANES / ROW_PIXELS];
      const real *from = x + row->from + i * width + p * LANES % ROW_PIXELS;
      if (i < row->first || i >= row->last) from = padding;
      in[p] = v_load_masked(from, inside[p]);
      most = v_max_int(most, v_magnitude(in[p]));
    }
    const vec even_low = v_even(in[0], in[1]), odd_low = v_odd(in[0], in[1]);
    const vec even_high = v_even(in[2], in[3]), odd_high = v_odd(in[2], in[3]);
    column[2] = v_even(even_low, even_high), column[3] = v_even(odd_low, odd_high);
    column[4] = v_odd(even_low, even_high), column[5] = v_odd(odd_low, odd_high);
    UNROLL for (int j = 0; j < 2; j++) {
      column[j] = v_on_of_four(column[j + ROW_TILES]);
      column[j + 6] = v_back_of_four(column[j + 2]);
    }
    transform_input(N, column + 2 - before, points[i]);
  }
  UNROLL for (int j = 0; j < N; j++) {
    UNROLL for (int i = 0; i < N; i++) d[i] = points[i][j];
    transform_input(N, d, line);
    UNROLL for (int i = 0; i < N; i++) v_store(v + (i * N + j) * stride, line[i]);
  }
  return most;
}

NOINLINE ivec points_squares(int64_t before, const points_row *rows, int64_t vectors, const real *x, int64_t width, real *v,
                             int64_t stride, ivec most) {
#define SQUARES(before)                                                                       \
  case before:                                                                                \
    for (int64_t q = 0; q < vectors; q++, rows += LANES / ROW_TILES, v += LANES)              \
      most = points_square(before, rows, x, width, v, stride, most);                          \
    return most
  switch (before) {
    SQUARES(0);
    SQUARES(1);
    SQUARES(2);
  }
#undef SQUARES
  return most;
}

/* The rows of tiles of a band of one slice, `from` its first pixel. */
static void points_row_list(const vox_axis *ay, int64_t width, int64_t first, int64_t count, int64_t from, points_row *rows) {
  for (int64_t r = 0; r < count; r++) {
    const int64_t top = (first + r) * ay->step + ay->offset0;
    int64_t begin, end;
    vox_inside(ay->size, 1, top, ay->taps, &begin, &end);
    rows[r] = (points_row){.from = from + top * width, .first = (int32_t)begin, .last = (int32_t)end};
  }
}
