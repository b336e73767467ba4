/* The two register tiles that all convolutions run on.  Sizes are compile-time constants after inlining, so the
 * accumulators are registers; `*_tiles` pick the instance. */

/* Pixel-vector tile:  c[i][v] (+)= sum over t < n of  a[t][i] * b[off[t] + v]
 *
 * a     n x M weights, packed, contiguous
 * b     V * LANES pixels are read at b + off[t] for each t; no alignment is needed
 * c     M rows of V * LANES elements, pitch ldc; started from zero unless `accumulate`
 * n may be 0.  Nothing is ragged here: callers keep b and c wide enough. */
INLINE void pixel_tile(const int M, const int V, int accumulate, int64_t n, const real *a, const real *b,
                       const int64_t *off, real *c, int64_t ldc) {
  vec sum[M][V];
  UNROLL for (int i = 0; i < M; i++)
    UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_zero();
  if (accumulate)
    UNROLL for (int i = 0; i < M; i++)
      UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_load(c + i * ldc + v * LANES);
  for (int64_t t = 0; t < n; t++, a += M) {
    const real *x = b + off[t];
    vec pixel[V];
    UNROLL for (int v = 0; v < V; v++) pixel[v] = v_load(x + v * LANES);
    UNROLL for (int i = 0; i < M; i++) {
      vec weight = v_set1(a[i]);
      UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_fma(weight, pixel[v], sum[i][v]);
    }
  }
  UNROLL for (int i = 0; i < M; i++)
    UNROLL for (int v = 0; v < V; v++) v_store(c + i * ldc + v * LANES, sum[i][v]);
}

/* 32 vector registers hold 8 x 3 sums with their operands, 16 hold 4 x 3. */
#if defined(VOX_ISA_avx512) || defined(__aarch64__)
#define TILE_M 8
#define TILE_ROWS 8
#else
#define TILE_M 4
#define TILE_ROWS 6
#endif
#define TILE_V 3
#define NARROW_V 6
#define TILE_K 2

static void pixel_tiles(int64_t m, int64_t v, int accumulate, int64_t n, const real *a, const real *b,
                        const int64_t *off, real *c, int64_t ldc) {
  switch (m * 8 + v) {
#if TILE_M == 8
  case 8 * 8 + 1: pixel_tile(8, 1, accumulate, n, a, b, off, c, ldc); return;
  case 8 * 8 + 2: pixel_tile(8, 2, accumulate, n, a, b, off, c, ldc); return;
  case 8 * 8 + 3: pixel_tile(8, 3, accumulate, n, a, b, off, c, ldc); return;
  case 4 * 8 + 4: pixel_tile(4, 4, accumulate, n, a, b, off, c, ldc); return;
  case 4 * 8 + 5: pixel_tile(4, 5, accumulate, n, a, b, off, c, ldc); return;
  case 4 * 8 + 6: pixel_tile(4, 6, accumulate, n, a, b, off, c, ldc); return;
#endif
  case 4 * 8 + 1: pixel_tile(4, 1, accumulate, n, a, b, off, c, ldc); return;
  case 4 * 8 + 2: pixel_tile(4, 2, accumulate, n, a, b, off, c, ldc); return;
  case 4 * 8 + 3: pixel_tile(4, 3, accumulate, n, a, b, off, c, ldc); return;
  case 2 * 8 + 1: pixel_tile(2, 1, accumulate, n, a, b, off, c, ldc); return;
  case 2 * 8 + 2: pixel_tile(2, 2, accumulate, n, a, b, off, c, ldc); return;
  case 2 * 8 + 3: pixel_tile(2, 3, accumulate, n, a, b, off, c, ldc); return;
  case 2 * 8 + 4: pixel_tile(2, 4, accumulate, n, a, b, off, c, ldc); return;
  case 2 * 8 + 5: pixel_tile(2, 5, accumulate, n, a, b, off, c, ldc); return;
  case 2 * 8 + 6: pixel_tile(2, 6, accumulate, n, a, b, off, c, ldc); return;
  case 1 * 8 + 1: pixel_tile(1, 1, accumulate, n, a, b, off, c, ldc); return;
  case 1 * 8 + 2: pixel_tile(1, 2, accumulate, n, a, b, off, c, ldc); return;
  case 1 * 8 + 3: pixel_tile(1, 3, accumulate, n, a, b, off, c, ldc); return;
  case 1 * 8 + 4: pixel_tile(1, 4, accumulate, n, a, b, off, c, ldc); return;
  case 1 * 8 + 5: pixel_tile(1, 5, accumulate, n, a, b, off, c, ldc); return;
  case 1 * 8 + 6: pixel_tile(1, 6, accumulate, n, a, b, off, c, ldc); return;
  }
}

/* Output channels of the panel that starts where `left` channels remain: full panels first, then 4, 2, 1, so that no
 * weight is padding. */
INLINE int64_t panel_width(int64_t left) {
  return left >= TILE_M ? TILE_M : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Weight-gradient tile:  c[i][v] += sum over p < n of  x[row[i] + off[p]] * d[p][v]
 *
 * x     one element is read, and broadcast, for each row and pixel
 * row   M offsets, one for each (channel, tap); off: n offsets, one for each pixel
 * d     n x (V * LANES) gradients of the output, packed, contiguous
 * c     M x (V * LANES) sums, contiguous.  The n products of one call are summed from zero, then added. */
INLINE void row_tile(const int M, const int V, int64_t n, const real *x, const int64_t *row, const int64_t *off,
                     const real *d, real *c) {
  vec sum[M][V];
  const real *at[M];
  UNROLL for (int i = 0; i < M; i++) at[i] = x + row[i];
  UNROLL for (int i = 0; i < M; i++)
    UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_zero();
  for (int64_t p = 0; p < n; p++, d += V * LANES) {
    int64_t o = off[p];
    vec g[V];
    UNROLL for (int v = 0; v < V; v++) g[v] = v_load(d + v * LANES);
    UNROLL for (int i = 0; i < M; i++) {
      vec pixel = v_set1(at[i][o]);
      UNROLL for (int v = 0; v < V; v++) sum[i][v] = v_fma(pixel, g[v], sum[i][v]);
    }
  }
  UNROLL for (int i = 0; i < M; i++)
    UNROLL for (int v = 0; v < V; v++) {
      real *to = c + (i * V + v) * LANES;
      v_store(to, v_load(to) + sum[i][v]);
    }
}

static void row_tiles(int64_t v, int64_t n, const real *x, const int64_t *row, const int64_t *off, const real *d,
                      real *c) {
  if (v == 1)
    row_tile(TILE_ROWS, 1, n, x, row, off, d, c);
  else
    row_tile(TILE_ROWS, TILE_K, n, x, row, off, d, c);
}
