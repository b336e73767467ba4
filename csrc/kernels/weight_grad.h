/* Convolution backward to the weights:
 *
 *   dw[k][c, t] = sum over samples n and outputs p of  dy[n, k, p] * x[n, c, p * stride + off(t)]
 *
 * Output channels stand in the lanes.  The pixels are cut into chunks by shape alone; a chunk's products are summed from
 * zero and added to the element's one accumulator, chunk after chunk, so an element has one writer and one order
 * whatever the threads. */

/* The chunk's dy, channels [k0, k0 + lanes) of one group, as [pixel][lanes]; absent channels are zero. */
static void dy_pack(const real *dy, int64_t plane, int64_t channels, int64_t lanes, const vox_axis *axis, int64_t d,
                    int64_t h0, int64_t rows, int64_t w0, int64_t cols, real *to) {
  if (channels < lanes) memset(to, 0, (size_t)(rows * cols * lanes) * sizeof(real));
  for (int64_t k = 0; k < channels; k++)
    for (int64_t h = 0; h < rows; h++) {
      const real *from = dy + k * plane + (d * axis[1].count + h0 + h) * axis[2].count + w0;
      real *lane = to + h * cols * lanes + k;
      for (int64_t w = 0; w < cols; w++) lane[w * lanes] = from[w];
    }
}

static void weight_item(const vox_weight_job *job, int64_t item, void *workspace) {
  const vox_conv *p = job->p;
  const vox_weight_layout *l = job->l;
  const vox_phase *ph = &l->phase;
  const vox_axis *a = ph->axis;
  const int direct = p->algorithm == VOX_DIRECT;
  const int64_t part = item % l->panel_parts, block = item / l->panel_parts % l->blocks;
  const int64_t group = item / l->panel_parts / l->blocks;
  const int64_t c0 = block * l->block, channels = vox_min(l->block, l->cin - c0), rows = channels * ph->taps;
  const int64_t per_part = vox_ceil_div(l->panels, l->panel_parts);
  const int64_t first = part * per_part, last = vox_min(l->panels, first + per_part);
  const int64_t image = a[0].size * a[1].size * a[2].size, plane = a[0].count * a[1].count * a[2].count;
  const int64_t tile = TILE_ROWS * l->lanes;
  real *scratch = workspace, *packed = scratch + l->scratch;
  int64_t *off = (int64_t *)(packed + l->packed), *row = off + l->offsets;
  real *sums = (real *)job->sums + ((group * l->blocks + block) * l->panels) * l->rows * l->lanes;

  if (job->stage == 0)
    memset(sums + first * l->rows * l->lanes, 0, (size_t)((last - first) * l->rows * l->lanes) * sizeof(real));
  int64_t chunk = job->stage * l->chunks_per_stage;
  const int64_t end = vox_min(l->chunks, chunk + l->chunks_per_stage);
  for (; chunk < end; chunk++) {
    int64_t w0 = chunk % l->bands[2] * l->band[2], h0 = chunk / l->bands[2] % l->bands[1] * l->band[1];
    int64_t d = chunk / l->bands[2] / l->bands[1] % a[0].count, n = chunk / l->bands[2] / l->bands[1] / a[0].count;
    int64_t lines = vox_min(l->band[1], a[1].count - h0), cols = vox_min(l->band[2], a[2].count - w0);
    int64_t pixels = lines * cols;
    const real *x = (const real *)job->x + ((n * p->groups + group) * l->cin + c0) * image;
    const real *dy = (const real *)job->dy + (n * p->groups + group) * l->cout * plane;
    if (direct) {
      band b = band_of(ph, lines, cols);
      band_copy(ph, &b, d, h0, w0, x, channels, scratch);
      band_offsets(ph, &b, channels, row);
      for (int64_t i = 0; i < pixels; i++) off[i] = i / cols * b.pitch + i % cols;
    } else {
      for (int64_t i = 0; i < pixels; i++) off[i] = i;
      for (int64_t i = 0; i < rows; i++) row[i] = i % TILE_ROWS * pixels;
    }
    /* rows that fill up the last tile repeat its first; their sums are never read */
    for (int64_t i = rows; i < l->rows; i++) row[i] = row[i - i % TILE_ROWS];
    for (int64_t k = first; k < last; k++)
      dy_pack(dy + k * l->lanes * plane, plane, vox_min(l->lanes, l->cout - k * l->lanes), l->lanes, a, d, h0, lines, w0,
              cols, packed + (k - first) * pixels * l->lanes);
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
      if (!direct) {
        /* the panel's pixels run over whole lines, which is what a chunk is unless it is cut along w */
        int64_t q0 = (d * a[1].count + h0) * a[2].count + w0;
        panel_pack(ph, q0, pixels, x, r, vox_min(TILE_ROWS, rows - r), pixels, scratch);
      }
      for (int64_t k = first; k < last; k++)
        row_tiles(l->lanes / LANES, pixels, scratch, row + r, off, packed + (k - first) * pixels * l->lanes,
                  sums + k * l->rows * l->lanes + r / TILE_ROWS * tile);
    }
  }
}

/* The gradient to the weights of one output channel whose dy is not finite, summed term by term so that padding
 * contributes nothing. */
static void weight_mend(const vox_weight_job *job, int64_t group, int64_t k, real *dw) {
  const vox_weight_layout *l = job->l;
  const vox_axis *a = l->phase.axis;
  const int64_t image = a[0].size * a[1].size * a[2].size, plane = a[0].count * a[1].count * a[2].count;
  const int64_t groups = job->p->groups;
  for (int64_t c = 0; c < l->cin; c++)
    for (int64_t td = 0; td < a[0].taps; td++)
      for (int64_t th = 0; th < a[1].taps; th++)
        for (int64_t tw = 0; tw < a[2].taps; tw++, dw++) {
          int64_t d0, d1, h0, h1, w0, w1;
          vox_inside(a[0].size, a[0].step, vox_axis_offset(&a[0], td), a[0].count, &d0, &d1);
          vox_inside(a[1].size, a[1].step, vox_axis_offset(&a[1], th), a[1].count, &h0, &h1);
          vox_inside(a[2].size, a[2].step, vox_axis_offset(&a[2], tw), a[2].count, &w0, &w1);
          real sum = 0;
          for (int64_t n = 0; n < job->p->n; n++) {
            const real *x = (const real *)job->x + ((n * groups + group) * l->cin + c) * image;
            const real *dy = (const real *)job->dy + ((n * groups + group) * l->cout + k) * plane;
            for (int64_t d = d0; d < d1; d++)
              for (int64_t h = h0; h < h1; h++) {
                const real *g = dy + (d * a[1].count + h) * a[2].count;
                const real *line = x + ((d * a[0].step + vox_axis_offset(&a[0], td)) * a[1].size + h * a[1].step +
                                        vox_axis_offset(&a[1], th)) * a[2].size;
                for (int64_t w = w0; w < w1; w++)
                  sum = s_fma(g[w], line[w * a[2].step + vox_axis_offset(&a[2], tw)], sum);
              }
          }
          *dw = sum;
        }
}

/* The item's accumulators, [panel][row][lanes], to dw[k][row]. */
static void weight_finish(const vox_weight_job *job, int64_t item) {
  const vox_conv *p = job->p;
  const vox_weight_layout *l = job->l;
  const vox_axis *a = l->phase.axis;
  const int64_t group = item / l->cout, k = item % l->cout, taps = l->phase.taps;
  const int64_t plane = a[0].count * a[1].count * a[2].count;
  real *dw = (real *)job->dw + (group * l->cout + k) * l->cin * taps;
  if (p->n == 0) {
    memset(dw, 0, (size_t)(l->cin * taps) * sizeof(real));
    return;
  }
  int leaves = 0;
  for (int i = 0; i < 3; i++)
    leaves |= a[i].offset0 < 0 || (a[i].count - 1) * a[i].step + vox_axis_offset(&a[i], a[i].taps - 1) >= a[i].size;
  if (leaves)
    for (int64_t n = 0; n < p->n; n++)
      if (has_nonfinite((const real *)job->dy + ((n * p->groups + group) * l->cout + k) * plane, plane)) {
        weight_mend(job, group, k, dw);
        return;
      }
  for (int64_t block = 0; block < l->blocks; block++) {
    int64_t rows = vox_min(l->block, l->cin - block * l->block) * taps;
    const real *sums = (const real *)job->sums +
                       ((group * l->blocks + block) * l->panels + k / l->lanes) * l->rows * l->lanes + k % l->lanes;
    for (int64_t r = 0; r < rows; r++) *dw++ = sums[r * l->lanes];
  }
}

/* Sum of dy (n, k, size) over n and size for one channel. */
static void bias_grad(int64_t n, int64_t k, int64_t size, int64_t channel, const void *dy, void *out) {
  real total = 0;
  for (int64_t s = 0; s < n; s++) {
    const real *g = (const real *)dy + (s * k + channel) * size;
    vec sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES)
      UNROLL for (int v = 0; v < 4; v++) sum[v] += v_load(g + i + v * LANES);
    for (; i < size; i += LANES) sum[0] += v_load_n(g + i, vox_min(LANES, size - i));
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    real lanes = 0;
    for (int v = 0; v < LANES; v++) lanes += sum[0][v];
    total += lanes;
  }
  ((real *)out)[channel] = total;
}
