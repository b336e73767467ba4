/* Transposed convolution whose windows lie side by side, kernel == stride, two columns wide:
 *
 *   y[n, c, p * stride + t] = act(b[c] + sum over k of  w[k, c, t] * x[n, k, p])
 *
 * x     (n, k, positions), y (n, c, positions * stride), in the words of the convolution that this turns round
 * w     packed as [group][row of taps][panel of channels][k][channel, column tap]
 * Each output has one tap, so this is a product of matrices.  A tile's rows are pairs of column taps, which interleave to
 * whole lines: nothing is stored element by element.  Positions are ragged at the end of the plane alone; the panel of
 * x is filled up with zeros there. */

/* A few k at a time, so that what is read and what is written are whole lines. */
static void upsample_pack(const vox_conv *p, const vox_layout *l, const void *weight, void *packed) {
  enum { BLOCK = 16, HALF = LANES / 2 };
  const int64_t rows = p->kernel[0] * p->kernel[1], taps = 2 * rows, step = l->cout * taps, row_step = l->cout * l->cin * 2;
  for (int64_t group = 0; group < p->groups; group++)
    for (int64_t k0 = 0; k0 < l->cin; k0 += BLOCK)
      for (int64_t c0 = 0, m; c0 < l->cout; c0 += m / 2) {
        const real *w = (const real *)weight + (group * l->cin + k0) * step + c0 * taps;
        real *to = (real *)packed + group * rows * row_step + c0 * l->cin * 2;
        m = vox_panel_width(TILE_M, 2 * (l->cout - c0));
        to += k0 * m;
        for (int64_t k = 0; k < vox_min(BLOCK, l->cin - k0); k++, w += step, to += m)
          if (m == TILE_M && taps == 4 && LANES > 2)
            UNROLL for (int i = 0; i < TILE_M; i += HALF) { /* a vector has both rows of some channels */
              const vec both = v_pairs(v_load(w + 2 * i));
              memcpy(to + i, &both, HALF * sizeof(real));
              memcpy(to + row_step + i, (const real *)&both + HALF, HALF * sizeof(real));
            }
          else
            for (int64_t row = 0; row < rows; row++)
              for (int64_t i = 0; i < m; i += 2) memcpy(to + row * row_step + i, w + i / 2 * taps + 2 * row, 2 * sizeof *w);
      }
}

/* Outputs that a vector of interleaved sums leaves in a row by itself, of a block's line of them. */
typedef struct piece {
  int64_t from, count, at;
} piece;

/* Where the outputs of the `count` positions from q0 on go, for the first row of taps: at[z] if vector z of them stays within
 * one row, else -1, and its pieces.  Returns how many pieces that makes. */
static int64_t upsample_places(const vox_conv *p, int64_t q0, int64_t count, int64_t *at, piece *pieces) {
  const int64_t *in = p->output, *size = p->spatial;
  int64_t n = 0, q = 0;
  for (int64_t z = 0; q < count; z++) {
    const int64_t end = vox_min(count, (z + 1) * (LANES / 2));
    for (at[z] = -1; q < end;) {
      const int64_t w = (q0 + q) % in[2], h = (q0 + q) / in[2] % in[1], d = (q0 + q) / in[2] / in[1];
      const int64_t here = vox_min(in[2] - w, end - q), to = (d * p->kernel[0] * size[1] + h * p->kernel[1]) * size[2] + 2 * w;
      if (2 * here == LANES)
        at[z] = to;
      else
        pieces[n++] = (piece){2 * q, 2 * here, to};
      q += here;
    }
  }
  return n;
}

static void upsample_item(const vox_conv_job *job, const vox_item *it, void *workspace) {
  enum { WIDTH = TILE_V * LANES };
  const vox_conv *p = job->p;
  const vox_layout *l = job->l;
  const int64_t *in = p->output, *size = p->spatial, rows = p->kernel[0] * p->kernel[1];
  const int64_t plane = in[0] * in[1] * in[2], out_plane = size[0] * size[1] * size[2];
  const real *x = (const real *)job->x + (it->n * p->groups + it->group) * l->cin * plane;
  real *panel = workspace, *sums = panel + l->scratch;
  int64_t *off = (int64_t *)(sums + l->sums);
  const int64_t per_part = vox_round_up(vox_ceil_div(l->cout, l->parts), TILE_M / 2);
  const int64_t first = it->part * per_part, last = vox_min(l->cout, first + per_part);
  const int64_t end = vox_min(plane, (it->band[2] + 1) * l->band[2]);
  for (int64_t k = 0; k < l->cin; k++) off[k] = k * WIDTH;

  for (int64_t q0 = it->band[2] * l->band[2]; q0 < end; q0 += WIDTH) {
    const int64_t count = vox_min(WIDTH, end - q0), vectors = vox_ceil_div(count, LANES);
    int64_t at[2 * TILE_V];
    piece pieces[WIDTH];
    const int64_t n_pieces = upsample_places(p, q0, count, at, pieces), whole = vox_ceil_div(2 * count, LANES);
    if (whole < 2 * vectors) at[whole] = -1; /* there is nothing in it, and it has no piece */
    for (int64_t k = 0; k < l->cin; k++)
      for (int64_t v = 0; v < vectors; v++)
        v_store(panel + k * WIDTH + v * LANES, v_load_n(x + k * plane + q0 + v * LANES, vox_min(LANES, count - v * LANES)));
    for (int64_t row = 0; row < rows; row++)
      for (int64_t c0 = first, m; c0 < last; c0 += m / 2) {
        m = vox_panel_width(TILE_M, 2 * (l->cout - c0));
        const real *a = (const real *)job->packed + ((it->group * rows + row) * l->cout + c0) * l->cin * 2;
        const int64_t channel = it->group * l->cout + c0;
        real *y = (real *)job->y + (it->n * p->groups * l->cout + channel) * out_plane +
                  (row / p->kernel[1] * size[1] + row % p->kernel[1]) * size[2];
        const finish end_of_sums = {.y = y, .plane = out_plane, .pairs = at, .activation = p->activation, .slope = (real)p->slope,
                                    .bias = job->bias ? (const real *)job->bias + channel : NULL};
        pixel_tiles(m, vectors, 0, l->cin, a, panel, off, sums, WIDTH, &end_of_sums);
        for (int64_t i = 0; i < m / 2; i++, y += out_plane)
          for (int64_t r = 0; r < n_pieces; r++)
            v_store_n(y + pieces[r].at, v_load_n(sums + 2 * i * WIDTH + pieces[r].from, pieces[r].count), pieces[r].count);
      }
  }
}
