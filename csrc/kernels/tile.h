/* The two register tiles that all convolutions run on.  Sizes are compile-time constants after inlining, so the
 * accumulators are registers; `*_tiles` pick the instance. */

enum { MOST_M = 16, MOST_V = 6 };

/* Where the lanes of a vector of pixels go in an output channel: those of `mask`, in their order from `at` on where they
 * are `packed`, else each to its own offset. */
typedef struct place {
  int64_t at;
  uint32_t mask;
  int32_t packed;
} place;

/* The end of a sum: y = act(sum + bias). */
typedef struct finish {
  real *y;              /* of the tile's first output channel */
  int64_t plane;        /* from one channel to the next */
  const real *bias;     /* of the first channel, or NULL */
  const place *places;  /* of the tile's vectors */
  const int64_t *lanes; /* offsets of the tile's pixels, where they are not packed */
  const int64_t *pairs; /* where given, pixel_tile interleaves rows 2 i and 2 i + 1 to one channel's line, whose vector z goes
                         * to pairs[z] instead of places or, where that is below 0, to where c has those rows */
  int activation;
  real slope;
} finish;

INLINE vec activate(vec y, int activation, vec slope) {
  if (activation == VOX_RELU) return v_if_negative(y, v_zero());
  if (activation == VOX_LEAKY_RELU) return v_if_negative(y, slope * y);
  return y;
}

INLINE void v_scatter(real *y, const int64_t *lanes, vec a, uint32_t mask) {
  for (; mask; mask &= mask - 1) y[lanes[__builtin_ctz(mask)]] = a[__builtin_ctz(mask)];
}

/* The end of M / 2 channels of two columns each, as `pairs` says.  c may be written, too. */
INLINE void pixel_pairs(const int M, const int V, vec sum[MOST_M][MOST_V], real *c, int64_t ldc, const finish *end) {
  const vec slope = v_set1(end->slope);
  UNROLL for (int i = 0; i < M / 2; i++)
    UNROLL for (int v = 0; v < V; v++) {
      vec even = sum[2 * i][v], odd = sum[2 * i + 1][v];
      if (end->bias) {
        const vec b = v_set1(end->bias[i]);
        even += b, odd += b;
      }
      even = activate(even, end->activation, slope);
      odd = activate(odd, end->activation, slope);
      const int64_t low = end->pairs[2 * v], high = end->pairs[2 * v + 1];
      real *y = end->y + i * end->plane, *line = c + 2 * i * ldc + 2 * v * LANES;
      v_store(low >= 0 ? y + low : line, v_zip_low(even, odd));
      v_store(high >= 0 ? y + high : line + LANES, v_zip_high(even, odd));
    }
}

/* Pixel-vector tile:  c[i][v] (+)= sum over t < n of  a[t][i] * b[off[t] + v]
 *
 * a     n x M weights, packed, contiguous
 * b     V * LANES pixels are read at b + off[t] for each t; no alignment is needed
 * c     M rows of V * LANES elements, pitch ldc; started from zero unless `accumulate`
 * end   where given, the sums are finished and go there instead of to c
 * n may be 0.  Nothing is ragged here: callers keep b and c wide enough; end's places say which lanes count. */
INLINE void pixel_tile(const int M, const int V, int accumulate, int64_t n, const real *a, const real *b,
                       const int64_t *off, real *c, int64_t ldc, const finish *end) {
  vec sum[MOST_M][MOST_V]; /* constant bounds: a variable-length array would live on the stack */
  UNROLL for (int i = 0; i < M; i++)
    UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_zero();
  if (accumulate)
    UNROLL for (int i = 0; i < M; i++)
      UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_load(c + i * ldc + v * LANES);
  if (end && end->pairs)
    UNROLL for (int i = 0; i < M / 2; i++)
      UNROLL for (int z = 0; z < 2 * V; z++) prefetch_write(end->y + i * end->plane + vox_max(0, end->pairs[z]));
  else if (end)
    UNROLL for (int i = 0; i < M; i++)
      UNROLL for (int v = 0; v < V; v++) prefetch_write(end->y + i * end->plane + end->places[v].at);
  for (int64_t t = 0; t < n; t++, a += M) {
    const real *x = b + off[t];
    prefetch_weights(a);
    if (M < V) { /* the fewer operands are held, the others pass */
      vec weight[MOST_M];
      UNROLL for (int i = 0; i < M; i++) weight[i] = v_opaque(v_set1(a[i]));
      UNROLL for (int v = 0; v < V; v++) {
        const vec pixel = v_opaque(v_load(x + v * LANES));
        UNROLL for (int i = 0; i < M; i++) sum[i][v] = v_fma(weight[i], pixel, sum[i][v]);
      }
    } else {
      vec pixel[MOST_V];
      UNROLL for (int v = 0; v < V; v++) pixel[v] = v_load(x + v * LANES);
      UNROLL for (int i = 0; i < M; i++) {
        const vec weight = v_set1(a[i]);
        UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_fma(weight, pixel[v], sum[i][v]);
      }
    }
  }
  if (!end) {
    UNROLL for (int i = 0; i < M; i++)
      UNROLL for (int v = 0; v < V; v++) v_store(c + i * ldc + v * LANES, sum[i][v]);
    return;
  }
  if (end->pairs) {
    pixel_pairs(M, V, sum, c, ldc, end);
    return;
  }
  if (end->bias)
    UNROLL for (int i = 0; i < M; i++) {
      vec bias = v_set1(end->bias[i]);
      UNROLL for (int v = 0; v < V; v++) sum[i][v] += bias;
    }
  if (end->activation) {
    const vec slope = v_set1(end->slope);
    UNROLL for (int i = 0; i < M; i++)
      UNROLL for (int v = 0; v < V; v++) sum[i][v] = activate(sum[i][v], end->activation, slope);
  }
  UNROLL for (int v = 0; v < V; v++) {
    const place to = end->places[v];
    real *y = end->y + to.at;
    if (to.packed && to.mask == ALL_LANES)
      UNROLL for (int i = 0; i < M; i++) v_store(y + i * end->plane, sum[i][v]);
    else if (to.packed)
      UNROLL for (int i = 0; i < M; i++) v_store_lanes(y + i * end->plane, sum[i][v], to.mask);
    else
      UNROLL for (int i = 0; i < M; i++) v_scatter(end->y + i * end->plane, end->lanes + v * LANES, sum[i][v], to.mask);
  }
}

/* 32 vector registers hold 8 x 3 sums with their operands, 16 hold 4 x 3. */
#if defined(VOX_ISA_avx512) || defined(__aarch64__)
#define TILE_M 8
#define TILE_ROWS 8
#define TILE_ODD_ROWS 9
#define TILE_PLANES 3
#define CHANNEL_T 14
#else
#define TILE_M 4
#define TILE_ROWS 6
#define TILE_ODD_ROWS 5
#define TILE_PLANES 2
#define CHANNEL_T 6
#endif
/* Most terms of Winograd's sums that go on to outputs at once: with 16 registers of 32 bytes it gains nothing. */
#if defined(VOX_ISA_avx512)
#define FUSED_DEPTH 6
#else
#define FUSED_DEPTH 0
#endif
#define TILE_V 3
#define CHANNEL_V 2
#define NARROW_V 6
#define TILE_K 2

/* Of so many vectors of pixels, those of the next tile, `most` wide: no vector stays alone that could be one of two, for which
 * as many weights are loaded. */
INLINE int64_t tile_vectors(int64_t left, int64_t most) { return left == most + 1 ? most - 1 : vox_min(left, most); }

static void pixel_tiles(int64_t m, int64_t v, int accumulate, int64_t n, const real *a, const real *b,
                        const int64_t *off, real *c, int64_t ldc, const finish *end) {
  switch (m * 8 + v) {
#if TILE_M == 8
  case 8 * 8 + 1: pixel_tile(8, 1, accumulate, n, a, b, off, c, ldc, end); return;
  case 8 * 8 + 2: pixel_tile(8, 2, accumulate, n, a, b, off, c, ldc, end); return;
  case 8 * 8 + 3: pixel_tile(8, 3, accumulate, n, a, b, off, c, ldc, end); return;
  case 4 * 8 + 4: pixel_tile(4, 4, accumulate, n, a, b, off, c, ldc, end); return;
  case 4 * 8 + 5: pixel_tile(4, 5, accumulate, n, a, b, off, c, ldc, end); return;
  case 4 * 8 + 6: pixel_tile(4, 6, accumulate, n, a, b, off, c, ldc, end); return;
  case 16 * 8 + 1: pixel_tile(16, 1, accumulate, n, a, b, off, c, ldc, end); return;
#else
  case 8 * 8 + 1: pixel_tile(8, 1, accumulate, n, a, b, off, c, ldc, end); return;
#endif
  case 4 * 8 + 1: pixel_tile(4, 1, accumulate, n, a, b, off, c, ldc, end); return;
  case 4 * 8 + 2: pixel_tile(4, 2, accumulate, n, a, b, off, c, ldc, end); return;
  case 4 * 8 + 3: pixel_tile(4, 3, accumulate, n, a, b, off, c, ldc, end); return;
  case 2 * 8 + 1: pixel_tile(2, 1, accumulate, n, a, b, off, c, ldc, end); return;
  case 2 * 8 + 2: pixel_tile(2, 2, accumulate, n, a, b, off, c, ldc, end); return;
  case 2 * 8 + 3: pixel_tile(2, 3, accumulate, n, a, b, off, c, ldc, end); return;
  case 2 * 8 + 4: pixel_tile(2, 4, accumulate, n, a, b, off, c, ldc, end); return;
  case 2 * 8 + 5: pixel_tile(2, 5, accumulate, n, a, b, off, c, ldc, end); return;
  case 2 * 8 + 6: pixel_tile(2, 6, accumulate, n, a, b, off, c, ldc, end); return;
  case 1 * 8 + 1: pixel_tile(1, 1, accumulate, n, a, b, off, c, ldc, end); return;
  case 1 * 8 + 2: pixel_tile(1, 2, accumulate, n, a, b, off, c, ldc, end); return;
  case 1 * 8 + 3: pixel_tile(1, 3, accumulate, n, a, b, off, c, ldc, end); return;
  case 1 * 8 + 4: pixel_tile(1, 4, accumulate, n, a, b, off, c, ldc, end); return;
  case 1 * 8 + 5: pixel_tile(1, 5, accumulate, n, a, b, off, c, ldc, end); return;
  case 1 * 8 + 6: pixel_tile(1, 6, accumulate, n, a, b, off, c, ldc, end); return;
  }
}

/* Terms of a sum: `count` that follow each other, from `first` on, in each of `channels` and there in each of `depths`, which
 * begin so far apart. */
typedef struct tile_terms {
  int64_t first, count, depths, depth, channels, channel;
} tile_terms;

/* What the low bits of an offset say: so many of a tile's first, or last, pixels have no such term, for it is padding. */
enum { EDGE_NONE, EDGE_FIRST, EDGE_FIRST_TWO, EDGE_LAST, EDGE_LAST_TWO, EDGE_BITS = 3 };

/* sum[j] += w * x[j * S] for from <= j < to. */
INLINE void channel_terms(const int V, const int S, const int from, const int to, const vec *weight, const real *x,
                          vec sum[CHANNEL_T][CHANNEL_V]) {
  UNROLL for (int j = from; j < to; j++) {
    const vec pixel = v_set1(x[j * S]);
    UNROLL for (int v = 0; v < V; v++) sum[j][v] = v_fma(weight[v], pixel, sum[j][v]);
  }
}

/* Channel-vector tile, for few pixels:  c[i][j] (+)= sum over terms t of  a[t][i] * b[off[t] + j * S],  i < V * LANES, j < T
 *
 * a     rows of V * LANES weights, packed, contiguous; the pixels are broadcast
 * off   where there are edges, times 1 << EDGE_BITS, and what these say
 * sums  T rows of V * LANES elements, started from zero unless `accumulate` */
INLINE void channel_tile(const int V, const int T, const int S, const int edges, int accumulate, const tile_terms *terms,
                         const real *a, const real *b, const int64_t *off, real *sums) {
  vec sum[CHANNEL_T][CHANNEL_V];
  UNROLL for (int j = 0; j < T; j++)
    UNROLL for (int v = 0; v < V; v++) sum[j][v] = v_zero();
  if (accumulate)
    UNROLL for (int j = 0; j < T; j++)
      UNROLL for (int v = 0; v < V; v++) sum[j][v] = v_load(sums + (j * V + v) * LANES);
  for (int64_t i = 0; i < terms->channels * terms->depths; i++) {
    const int64_t begin = terms->first + i / terms->depths * terms->channel + i % terms->depths * terms->depth;
    const real *w = a + begin * V * LANES;
    for (int64_t t = begin; t < begin + terms->count; t++, w += V * LANES) {
      const int64_t edge = edges ? off[t] & ((1 << EDGE_BITS) - 1) : EDGE_NONE;
      const real *x = p_opaque(b + (edges ? off[t] >> EDGE_BITS : off[t]));
      vec weight[CHANNEL_V];
      UNROLL for (int v = 0; v < V; v++) prefetch_weights(w + v * LANES);
      UNROLL for (int v = 0; v < V; v++) weight[v] = v_load(w + v * LANES);
      if (edge == EDGE_NONE)
        channel_terms(V, S, 0, T, weight, x, sum);
      else if (edge == EDGE_FIRST)
        channel_terms(V, S, 1, T, weight, x, sum);
      else if (edge == EDGE_LAST)
        channel_terms(V, S, 0, T - 1, weight, x, sum);
      else if (edge == EDGE_FIRST_TWO)
        channel_terms(V, S, 2, T, weight, x, sum);
      else
        channel_terms(V, S, 0, T - 2, weight, x, sum);
    }
  }
  UNROLL for (int j = 0; j < T; j++)
    UNROLL for (int v = 0; v < V; v++) v_store(sums + (j * V + v) * LANES, sum[j][v]);
}

/* Its sums, turned to rows of `count` pixels, one for each channel and `pitch` apart; with bias and activation if `end` is
 * given. */
NOINLINE void channel_finish(const real *sums, int64_t count, real *rows, int64_t pitch, const finish *end) {
  for (int v = 0; v < CHANNEL_V; v++)
    for (int64_t j = 0; j < count; j += LANES) {
      const int64_t here = vox_min(LANES, count - j);
      vec a[LANES];
      for (int i = 0; i < LANES; i++) a[i] = i < here ? v_load(sums + ((j + i) * CHANNEL_V + v) * LANES) : v_zero();
      if (end && end->bias) {
        const vec bias = v_load(end->bias + v * LANES);
        for (int i = 0; i < LANES; i++) a[i] += bias;
      }
      if (end && end->activation)
        for (int i = 0; i < LANES; i++) a[i] = activate(a[i], end->activation, v_set1(end->slope));
      v_transpose(a);
      for (int i = 0; i < LANES; i++) v_store_n(rows + (v * LANES + i) * pitch + j, a[i], here);
    }
}

/* Of so many pixels, those of the next tile. */
INLINE int64_t channels_tile(int64_t count) { return vox_pixels_of_tile(count, CHANNEL_T); }

/* One tile of so many pixels, `step` apart; where there are `edges` it may be 2. */
static void channel_sums(int64_t pixels, int64_t step, int edges, int accumulate, const tile_terms *terms, const real *a,
                         const real *b, const int64_t *off, real *sums) {
#define TILE(T, S, edges)                                                        \
  case (T * 2 + S - 1) * 2 + edges:                                              \
    channel_tile(CHANNEL_V, T, S, edges, accumulate, terms, a, b, off, sums); \
    return
#define EACH(T)  \
  TILE(T, 1, 0); \
  TILE(T, 1, 1); \
  TILE(T, 2, 1)
  switch ((pixels * 2 + step - 1) * 2 + edges) {
#if CHANNEL_T == 14
    EACH(14);
    EACH(12);
    EACH(10);
    EACH(8);
#endif
    EACH(CHANNEL_T / 2); /* the odd one */
    EACH(6);
    EACH(4);
    TILE(2, 1, 0);
    TILE(1, 1, 0);
  }
#undef EACH
#undef TILE
}

/* `count` pixels.  Where `kept` is given the sums are there, or added to what is there, in the tiles' own order; where
 * `rows` is given they are finished. */
static void channel_tiles(int64_t count, int accumulate, int64_t n, const real *a, const real *b, const int64_t *off,
                          real *kept, real *rows, int64_t pitch, const finish *end) {
  const tile_terms terms = {0, n, 1, 0, 1, 0};
  real alone[CHANNEL_T * CHANNEL_V * LANES];
  for (int64_t j = 0, here; j < count; j += here) {
    real *sums = kept ? kept + j * CHANNEL_V * LANES : alone;
    here = channels_tile(count - j);
    if (here % 2 && j > 0 && !kept) /* an odd one at the end is found twice */
      j--, here++;
    else if (here % 2 && here > 1)
      here--;
    channel_sums(here, 1, 0, accumulate, &terms, a, b + j, off, sums);
    if (rows) channel_finish(sums, here, rows + j, pitch, end);
  }
}

/* Weight-gradient tile:  c[i][v] (+)= sum over p < n of  x[row[i] + off[p]] * d[p][v]
 *
 * x     one element is read, and broadcast, for each row and pixel
 * row   M offsets, one for each (channel, tap); off: n offsets, one for each pixel
 * d     n x (V * LANES) gradients of the output, packed, contiguous
 * c     M x (V * LANES) sums, contiguous.  The n products of one call are summed from zero, then stored
 *       or, to `accumulate`, added */
INLINE void row_tile(const int M, const int V, int accumulate, int64_t n, const real *x, const int64_t *row,
                     const int64_t *off, const real *d, real *c) {
  vec sum[MOST_M][MOST_V];
  const real *at[MOST_M];
  UNROLL for (int i = 0; i < M; i++) at[i] = x + row[i];
  UNROLL for (int i = 0; i < M; i++)
    UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_zero();
  for (int64_t p = 0; p < n; p++, d += V * LANES) {
    int64_t o = off[p];
    vec g[MOST_V];
    UNROLL for (int v = 0; v < V; v++) g[v] = v_load(d + v * LANES);
    UNROLL for (int i = 0; i < M; i++) {
      vec pixel = v_set1(at[i][o]);
      UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_fma(pixel, g[v], sum[i][v]);
    }
  }
  UNROLL for (int i = 0; i < M; i++)
    UNROLL for (int v = 0; v < V; v++) {
      real *to = c + (i * V + v) * LANES;
      v_store(to, accumulate ? v_load(to) + sum[i][v] : sum[i][v]);
    }
}

/* Rows come in multiples of the taps, and channels in powers of two: one of two tiles leaves less of itself empty. */
static void row_tiles(int64_t m, int64_t v, int accumulate, int64_t n, const real *x, const int64_t *row,
                      const int64_t *off, const real *d, real *c) {
  if (m == TILE_ROWS && v == 1)
    row_tile(TILE_ROWS, 1, accumulate, n, x, row, off, d, c);
  else if (m == TILE_ROWS)
    row_tile(TILE_ROWS, TILE_K, accumulate, n, x, row, off, d, c);
  else if (v == 1)
    row_tile(TILE_ODD_ROWS, 1, accumulate, n, x, row, off, d, c);
  else
    row_tile(TILE_ODD_ROWS, TILE_K, accumulate, n, x, row, off, d, c);
}

/* The same tile with pixels in the lanes, for rows so few that they would not repay the packing of d, which is read where
 * it lies:  c[i][k] = sum over h, w of  x[row[i] + h * pitch + w] * d[k * plane + h * width + w],  by lanes. */
INLINE void plane_tile(const int M, const int K, int64_t lines, int64_t cols, const real *x, int64_t pitch,
                       const int64_t *row, const real *d, int64_t width, int64_t plane, vec *c) {
  vec sum[MOST_M * MOST_V];
  const real *at[MOST_M];
  const int64_t whole = cols - cols % LANES;
  const vmask rest = v_range(0, cols - whole);
  UNROLL for (int i = 0; i < M; i++) at[i] = x + row[i];
  UNROLL for (int i = 0; i < M * K; i++) sum[i] = v_zero();
  for (int64_t h = 0; h < lines; h++) {
    const real *line = d + h * width;
    int64_t o = h * pitch;
    for (int64_t w = 0; w < whole; w += LANES, o += LANES) {
      vec g[MOST_V];
      UNROLL for (int k = 0; k < K; k++) prefetch(line + (K + k) * plane + w); /* the planes of the next call */
      UNROLL for (int k = 0; k < K; k++) g[k] = v_opaque(v_load(line + k * plane + w));
      UNROLL for (int i = 0; i < M; i++) {
        const vec v = v_opaque(v_load(at[i] + o));
        UNROLL for (int k = 0; k < K; k++) sum[i * K + k] = v_fma(g[k], v, sum[i * K + k]);
      }
    }
    if (whole == cols) continue;
    /* a lane that has no d should not meet an x either, which might be infinite */
    vec g[MOST_V];
    UNROLL for (int k = 0; k < K; k++) g[k] = v_load_masked(line + k * plane + whole, rest);
    UNROLL for (int i = 0; i < M; i++) {
      const vec v = v_opaque(v_load_masked(at[i] + o, rest));
      UNROLL for (int k = 0; k < K; k++) sum[i * K + k] = v_fma(g[k], v, sum[i * K + k]);
    }
  }
  UNROLL for (int i = 0; i < M * K; i++) c[i] = sum[i];
}

NOINLINE void plane_tiles(int64_t planes, int64_t lines, int64_t cols, const real *x, int64_t pitch, const int64_t *row,
                          const real *d, int64_t width, int64_t plane, vec *c) {
  switch (planes) {
#if TILE_PLANES == 3
  case 3: plane_tile(TILE_ODD_ROWS, 3, lines, cols, x, pitch, row, d, width, plane, c); return;
#endif
  case 2: plane_tile(TILE_ODD_ROWS, 2, lines, cols, x, pitch, row, d, width, plane, c); return;
  case 1: plane_tile(TILE_ODD_ROWS, 1, lines, cols, x, pitch, row, d, width, plane, c); return;
  }
}
