/* Transposed convolution whose windows lie side by side, kernel == stride, two columns wide:
 *
 *   y[n, c, p * stride + t] = act(b[c] + sum over k of  w[k, c, t] * x[n, k, p])
 *
 * x     (n, k, positions), y (n, c, positions * stride), in the words of the convolution that this turns round
 * w     packed as [group][row of taps][panel of channels][k][channel, column tap]
 * Each output has one tap, so this is a product of matrices.  A tile's rows are pairs of column taps, which interleave to
 * whole lines: nothing is stored element by element.  Positions are ragged at the end of the plane alone; the panel of
 * x is filled up with zeros there. */

static void upsample_pack(const vox_conv *p, const vox_layout *l, const void *weight, void *packed) {
  const int64_t rows = p->kernel[0] * p->kernel[1], taps = 2 * rows;
  real *to = packed;
  for (int64_t group = 0; group < p->groups; group++)
    for (int64_t row = 0; row < rows; row++)
      for (int64_t c0 = 0, m; c0 < l->cout; c0 += m / 2) {
        const real *w = (const real *)weight + (group * l->cin * l->cout + c0) * taps + 2 * row;
        m = vox_panel_width(TILE_M, 2 * (l->cout - c0));
        for (int64_t k = 0; k < l->cin; k++, w += l->cout * taps)
          for (int64_t i = 0; i < m; i++) *to++ = w[i / 2 * taps + i % 2];
      }
}

/* Positions [0, count) of a block that lie in one line, and where in y the first of them goes. */
typedef struct run_of_positions {
  int64_t first, count, at;
} run_of_positions;

static void upsample_item(const vox_conv_job *job, const vox_item *it, void *workspace) {
  enum { WIDTH = TILE_V * LANES };
  const vox_conv *p = job->p;
  const vox_layout *l = job->l;
  const int64_t *in = p->output, *size = p->spatial, rows = p->kernel[0] * p->kernel[1];
  const int64_t plane = in[0] * in[1] * in[2], out_plane = size[0] * size[1] * size[2];
  const real *x = (const real *)job->x + (it->n * p->groups + it->group) * l->cin * plane;
  real *panel = workspace, *sums = panel + l->scratch, *line = sums + TILE_M * WIDTH;
  int64_t *off = (int64_t *)(sums + l->sums);
  const int64_t per_part = vox_round_up(vox_ceil_div(l->cout, l->parts), TILE_M / 2);
  const int64_t first = it->part * per_part, last = vox_min(l->cout, first + per_part);
  const int64_t end = vox_min(plane, (it->band[2] + 1) * l->band[2]);
  const vec slope = v_set1((real)p->slope);
  for (int64_t k = 0; k < l->cin; k++) off[k] = k * WIDTH;

  for (int64_t q0 = it->band[2] * l->band[2]; q0 < end; q0 += WIDTH) {
    const int64_t count = vox_min(WIDTH, end - q0), vectors = vox_ceil_div(count, LANES);
    run_of_positions runs[WIDTH];
    int64_t n_runs = 0;
    for (int64_t q = 0, n; q < count; q += n) {
      int64_t w = (q0 + q) % in[2], h = (q0 + q) / in[2] % in[1], d = (q0 + q) / in[2] / in[1];
      n = vox_min(in[2] - w, count - q);
      runs[n_runs++] = (run_of_positions){q, n, (d * p->kernel[0] * size[1] + h * p->kernel[1]) * size[2] + 2 * w};
    }
    for (int64_t k = 0; k < l->cin; k++)
      for (int64_t v = 0; v < vectors; v++)
        v_store(panel + k * WIDTH + v * LANES, v_load_n(x + k * plane + q0 + v * LANES, vox_min(LANES, count - v * LANES)));
    for (int64_t row = 0; row < rows; row++)
      for (int64_t c0 = first, m; c0 < last; c0 += m / 2) {
        m = vox_panel_width(TILE_M, 2 * (l->cout - c0));
        const real *a = (const real *)job->packed + ((it->group * rows + row) * l->cout + c0) * l->cin * 2;
        pixel_tiles(m, vectors, 0, l->cin, a, panel, off, sums, WIDTH, NULL);
        for (int64_t i = 0; i < m / 2; i++) {
          const int64_t channel = it->group * l->cout + c0 + i;
          const vec bias = v_set1(job->bias ? ((const real *)job->bias)[channel] : 0);
          for (int64_t v = 0; v < vectors; v++) {
            vec even = v_load(sums + 2 * i * WIDTH + v * LANES), odd = v_load(sums + (2 * i + 1) * WIDTH + v * LANES);
            if (job->bias) even += bias, odd += bias;
            even = activate(even, p->activation, slope);
            odd = activate(odd, p->activation, slope);
            v_store(line + 2 * v * LANES, v_zip_low(even, odd));
            v_store(line + (2 * v + 1) * LANES, v_zip_high(even, odd));
          }
          real *y = (real *)job->y + (it->n * p->groups * l->cout + channel) * out_plane +
                    (row / p->kernel[1] * size[1] + row % p->kernel[1]) * size[2];
          for (int64_t r = 0; r < n_runs; r++) {
            const real *from = line + 2 * runs[r].first;
            real *to = y + runs[r].at;
            int64_t j = 0;
            for (; j + LANES <= 2 * runs[r].count; j += LANES) v_store(to + j, v_load(from + j));
            if (j < 2 * runs[r].count) v_store_n(to + j, v_load_n(from + j, 2 * runs[r].count - j), 2 * runs[r].count - j);
          }
        }
      }
  }
}
