/* Convolution backward to the weights:
 *
 *   dw[k][c, t] = sum over samples n and outputs p of  dy[n, k, p] * x[n, c, p * stride + off(t)]
 *
 * Output channels stand in the lanes.  The pixels are cut into chunks by shape alone; a chunk's products are summed from
 * zero and added to the element's one accumulator, chunk after chunk, so an element has one writer and one order
 * whatever the threads. */

/* `channels` channels of dy, rows x cols pixels from `dy` on, whose rows lie `width` apart and columns `step`, as
 * [row][column][lanes] with `pitch` columns.  Lanes without a channel are zero; pixels that are not there are left alone. */
static void dy_pack(const real *dy, int64_t plane, int64_t width, int64_t step, int64_t channels, int64_t rows,
                    int64_t cols, int64_t lanes, int64_t pitch, real *to) {
  if (cols == width && cols == pitch) cols *= rows, rows = 1;
  for (int64_t h = 0; h < rows; h++)
    for (int64_t k = 0; k < lanes; k += LANES)
      for (int64_t w = 0; w < cols; w += LANES) {
        const int64_t n = vox_min(LANES, cols - w), present = vox_max(0, vox_min(LANES, channels - k));
        const real *from = dy + k * plane + h * width + w * step;
        real *at = to + (h * pitch + w) * lanes + k;
        vec square[LANES];
        if (step > 1) {
          real line[LANES];
          for (int64_t i = 0; i < LANES; i++) {
            if (i < present) gather_line(from + i * plane, (n - 1) * step + 1, step, 0, n, line);
            square[i] = i < present ? v_load_n(line, n) : v_zero();
          }
          v_transpose(square);
          for (int64_t i = 0; i < n; i++) v_store(at + i * lanes, square[i]);
        } else if (n == LANES && present == LANES) {
          UNROLL for (int i = 0; i < LANES; i++) square[i] = v_load(from + i * plane);
          v_transpose(square);
          UNROLL for (int i = 0; i < LANES; i++) v_store(at + i * lanes, square[i]);
        } else {
          for (int64_t i = 0; i < LANES; i++) square[i] = i < present ? v_load_n(from + i * plane, n) : v_zero();
          v_transpose(square);
          for (int64_t i = 0; i < n; i++) v_store(at + i * lanes, square[i]);
        }
      }
}

/* A chunk's sums of output channels [k_first, k_last) by `plane_tile`, whose arguments these are, to the accumulators. */
static void plane_sums(const vox_weight_layout *l, int64_t k_first, int64_t k_last, int64_t rows, int64_t lines,
                       int64_t cols, const real *x, int64_t pitch, const int64_t *row, const real *dy, int64_t width,
                       int64_t plane, int accumulate, real *sums) {
  for (int64_t k = k_first, planes; k < k_last; k += planes) {
    /* four are two and two, since one alone would read x for itself */
    planes = k_last - k == 4 ? 2 : vox_min(TILE_PLANES, k_last - k);
    real *to[TILE_PLANES];
    for (int64_t j = 0; j < planes; j++) to[j] = sums + (k + j) / l->lanes * l->rows * l->lanes + (k + j) % l->lanes;
    for (int64_t r = 0; r < rows; r += TILE_ODD_ROWS) {
      vec tile[TILE_ODD_ROWS * TILE_PLANES];
      int64_t at[TILE_ODD_ROWS];
      for (int64_t i = 0; i < TILE_ODD_ROWS; i++) at[i] = row[vox_min(r + i, rows - 1)];
      plane_tiles(planes, lines, cols, x, pitch, at, dy + k * plane, width, plane, tile);
      for (int64_t i = 0; i < vox_min(TILE_ODD_ROWS, rows - r); i++)
        for (int64_t j = 0; j < planes; j++) {
          const real sum = v_sum(tile[i * planes + j]);
          real *at_sum = to[j] + (r + i) * l->lanes;
          *at_sum = accumulate ? *at_sum + sum : sum;
        }
    }
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
  const int64_t tile = l->tile_rows * l->lanes;
  real *scratch = workspace, *packed = scratch + l->scratch;
  int64_t *off = (int64_t *)(packed + l->packed), *row = off + l->offsets;
  real *sums = (real *)job->sums + ((group * l->blocks + block) * l->panels) * l->rows * l->lanes;

  int64_t chunk = job->stage * l->chunks_per_stage;
  const int64_t end = vox_min(l->chunks, chunk + l->chunks_per_stage);
  for (; chunk < end; chunk++) {
    int64_t w0 = chunk % l->bands[2] * l->band[2], h0 = chunk / l->bands[2] % l->bands[1] * l->band[1];
    int64_t d = chunk / l->bands[2] / l->bands[1] % a[0].count, n = chunk / l->bands[2] / l->bands[1] / a[0].count;
    int64_t lines = vox_min(l->band[1], a[1].count - h0), cols = vox_min(l->band[2], a[2].count - w0);
    int64_t pixels = lines * cols;
    const real *x = (const real *)job->x + ((n * p->groups + group) * l->cin + c0) * image;
    const real *dy = (const real *)job->dy + (n * p->groups + group) * l->cout * plane;
    int64_t down = cols, across = 1; /* from pixel to pixel of what the tiles read */
    if (l->in_place) {
      x += (d * a[0].step * a[1].size + h0 * a[1].step) * a[2].size + w0 * a[2].step;
      down = a[1].step * a[2].size;
      across = a[2].step;
      for (int64_t i = 0; i < rows; i++) {
        const int64_t t = i % ph->taps, td = t / a[2].taps / a[1].taps, th = t / a[2].taps % a[1].taps;
        row[i] = i / ph->taps * image + (vox_axis_offset(&a[0], td) * a[1].size + vox_axis_offset(&a[1], th)) * a[2].size +
                 vox_axis_offset(&a[2], t % a[2].taps);
      }
    } else if (direct) {
      band b = band_of(ph, lines, cols);
      band_copy(ph, &b, d, h0, w0, x, channels, scratch);
      band_offsets(ph, &b, channels, row);
      down = b.pitch;
    } else {
      for (int64_t i = 0; i < rows; i++) row[i] = i % l->tile_rows * pixels;
    }
    if (l->by_planes) {
      plane_sums(l, first * l->lanes, vox_min(l->cout, last * l->lanes), rows, lines, cols, scratch, down, row,
                 dy + (d * a[1].count + h0) * a[2].count + w0, a[2].count, plane, chunk > 0, sums);
      continue;
    }
    for (int64_t h = 0; h < lines; h++)
      for (int64_t w = 0; w < cols; w++) off[h * cols + w] = h * down + w * across;
    /* rows that fill up the last tile repeat its first; their sums are never read */
    for (int64_t i = rows; i < l->rows; i++) row[i] = row[i - i % l->tile_rows];
    for (int64_t k = first; k < last; k++) {
      int64_t present = vox_min(l->lanes, l->cout - k * l->lanes);
      real *to = packed + (k - first) * pixels * l->lanes;
      dy_pack(dy + k * l->lanes * plane + (d * a[1].count + h0) * a[2].count + w0, plane, a[2].count, 1, present, lines,
              cols, l->lanes, cols, to);
    }
    for (int64_t r = 0; r < rows; r += l->tile_rows) {
      if (!direct) {
        /* the panel's pixels run over whole lines, which is what a chunk is unless it is cut along w */
        int64_t q0 = (d * a[1].count + h0) * a[2].count + w0;
        panel_pack(ph, q0, pixels, x, r, vox_min(l->tile_rows, rows - r), pixels, scratch);
      }
      for (int64_t k = first; k < last; k++)
        row_tiles(l->tile_rows, l->lanes / LANES, chunk > 0, pixels, l->in_place ? x : scratch, row + r, off,
                  packed + (k - first) * pixels * l->lanes, sums + k * l->rows * l->lanes + r / l->tile_rows * tile);
    }
  }
}

/* One element whose output channel has a dy that is not finite, summed term by term so that padding contributes
 * nothing. */
static real weight_mend(const vox_weight_job *job, int64_t group, int64_t k, int64_t c, int64_t tap) {
  const vox_weight_layout *l = job->l;
  const vox_axis *a = l->sum.axis;
  const int64_t image = a[0].size * a[1].size * a[2].size, plane = a[0].count * a[1].count * a[2].count;
  const int64_t groups = job->p->groups;
  const int64_t taps[3] = {tap / a[2].taps / a[1].taps, tap / a[2].taps % a[1].taps, tap % a[2].taps};
  int64_t off[3], first[3], last[3];
  for (int i = 0; i < 3; i++) {
    off[i] = vox_axis_offset(&a[i], taps[i]);
    vox_inside(a[i].size, a[i].step, off[i], a[i].count, &first[i], &last[i]);
  }
  real sum = 0;
  for (int64_t n = 0; n < job->p->n; n++) {
    const real *x = (const real *)job->x + ((n * groups + group) * l->cin + c) * image;
    const real *dy = (const real *)job->dy + ((n * groups + group) * l->cout + k) * plane;
    for (int64_t d = first[0]; d < last[0]; d++)
      for (int64_t h = first[1]; h < last[1]; h++) {
        const real *g = dy + (d * a[1].count + h) * a[2].count;
        const real *line = x + ((d * a[0].step + off[0]) * a[1].size + h * a[1].step + off[1]) * a[2].size;
        for (int64_t w = first[2]; w < last[2]; w++) sum = s_fma(g[w], line[w * a[2].step + off[2]], sum);
      }
  }
  return sum;
}

static int dy_is_finite(const vox_weight_job *job, int64_t group, int64_t k, int64_t plane) {
  const vox_conv *p = job->p;
  for (int64_t n = 0; n < p->n; n++)
    if (has_nonfinite((const real *)job->dy + ((n * p->groups + group) * job->l->cout + k) * plane, plane)) return 0;
  return 1;
}

/* The sums of row r of a panel of output channels from k0 on, points `stride` apart, to dw.  Returns whether one is not
 * finite. */
static int winograd_weight_row(const vox_weight_job *job, int64_t group, int64_t k0, int64_t r, const real *sums,
                               int64_t stride) {
  enum { TAPS = 9, VECTORS = (TAPS + LANES - 1) / LANES };
  const vox_weight_layout *l = job->l;
  const int64_t apart = l->cin * l->phase.axis[0].taps * TAPS, present = vox_min(l->lanes, l->cout - k0);
  real *dw = (real *)job->dw + (group * l->cout + k0) * apart + r * TAPS;
  int bad = 0;
  for (int64_t lane = 0; lane < present; lane += LANES) {
    vec result[VECTORS * LANES] = {{0}}, odd = v_zero();
    winograd_weight_output(sums + lane, stride, result);
    UNROLL for (int t = 0; t < TAPS; t++) odd += result[t] - result[t];
    bad |= v_any(v_unordered(odd, odd));
    UNROLL for (int t = 0; t < TAPS; t += LANES) {
      v_transpose(result + t);
      for (int64_t i = 0; i < vox_min(LANES, present - lane); i++)
        v_store_n(dw + (lane + i) * apart + t, result[t + i], vox_min(LANES, TAPS - t));
    }
  }
  return bad;
}

/* What a band of tiles has of one image's dy: fewer rows and columns at its end. */
typedef struct winograd_dy_image {
  const real *dy;
  int64_t high, wide;
} winograd_dy_image;

/* As above with Winograd's algorithm for kernels of 3 x 3 taps at stride 1: F(3 x 3, 4 x 4), the 4 x 4 tiles of dy being
 * the filter,
 *
 *   dw[k][c, td] = At [ sum over tiles of  (G dy G^T)[k] * (Bt x B)[c, td] ] A
 *
 * so that 36 products of a tile replace 144.  x is transformed with tiles in the lanes and dy with output channels in
 * the lanes, as the row tile wants them.  Images are numbered (sample, residues of dilated axes); what a residue lacks of
 * the first one's tiles are zeros of dy. */
static void winograd_weight_item(const vox_weight_job *job, int64_t item, void *workspace) {
  const vox_conv *p = job->p;
  const vox_weight_layout *l = job->l;
  const vox_phase *ph = &l->phase;
  const vox_axis *a = ph->axis;
  enum { TILE = 4 };
  const int64_t tile[3] = {1, TILE, TILE};
  const int64_t depth = a[0].taps, positions = l->positions, image = a[0].size * a[1].size * a[2].size;
  const int64_t part = item % l->panel_parts, block = item / l->panel_parts % l->blocks;
  const int64_t group = item / l->panel_parts / l->blocks;
  const int64_t c0 = block * l->block, channels = vox_min(l->block, l->cin - c0), rows = channels * depth;
  const int64_t per_part = vox_ceil_div(l->panels, l->panel_parts);
  const int64_t first = part * per_part, last = vox_min(l->panels, first + per_part);
  const int64_t down = a[1].spread, across = a[2].spread, height = p->output[1], width = p->output[2];
  const int64_t plane = a[0].count * height * width, residues[2] = {vox_min(down, height), vox_min(across, width)};
  real *scratch = workspace, *v = scratch + l->plane, *packed = scratch + l->scratch;
  int64_t *taps = (int64_t *)(packed + l->packed), *off = taps + positions * depth, *row = taps + l->offsets;
  real *sums = (real *)job->sums + (group * l->blocks + block) * l->panels * positions * l->rows * l->lanes;
  const int64_t panel = positions * l->rows * l->lanes;

  const int64_t first_chunk = job->stage * l->chunks_per_stage;
  int64_t chunk = first_chunk;
  const int64_t end = vox_min(l->chunks, chunk + l->chunks_per_stage);
  for (; chunk < end; chunk++) {
    const int64_t d = chunk % a[0].count, band_at = chunk / a[0].count;
    const int64_t w0 = band_at % l->bands[2] * l->band[2], h0 = band_at / l->bands[2] % l->bands[1] * l->band[1];
    const int64_t begin = band_at / l->bands[2] / l->bands[1] * l->images;
    const int64_t images = vox_min(l->images, p->n * residues[0] * residues[1] - begin);
    const int64_t lines = vox_min(l->band[1], a[1].count - h0), cols = vox_min(l->band[2], a[2].count - w0);
    const int64_t per_image = lines * cols, tiles = images * per_image, pitch = cols * TILE;
    vox_phase slice = *ph;
    slice.axis[0].taps = 1;
    const band b = points_band(&slice, lines, cols);
    const int64_t apart = vox_round_up(per_image, LANES), pixels = images * apart;
    const int64_t v_stride = odd_lines(rows * pixels), u_stride = odd_lines(tiles * l->lanes);
    points_offsets(&slice, &b, 1, taps);
    /* of neighbouring depths all slices but one are there from the chunk before: they take turns */
    const int ring = a[0].step == 1 && a[0].offset_step == 1, begun = ring && d > 0 && chunk > first_chunk;
    winograd_dy_image of[VOX_CHUNK_TILES];
    for (int64_t i = 0; i < images; i++) {
      const int64_t n = (begin + i) / residues[1] / residues[0];
      const int64_t residue[3] = {0, (begin + i) / residues[1] % residues[0], (begin + i) % residues[1]};
      const real *x = (const real *)job->x + ((n * p->groups + group) * l->cin + c0) * image;
      vox_winograd_phase(p, tile, residue, &slice);
      slice.axis[0].taps = 1; /* one depth at a time */
      of[i].high = vox_max(0, vox_min(lines * TILE, slice.axis[1].outputs - h0 * TILE));
      of[i].wide = vox_max(0, vox_min(pitch, slice.axis[2].outputs - w0 * TILE));
      of[i].dy = (const real *)job->dy + (n * p->groups + group) * l->cout * plane +
                 (d * height + residue[1] + h0 * TILE * down) * width + residue[2] + w0 * TILE * across;
      for (int64_t td = begun ? depth - 1 : 0; td < depth; td++) {
        slice.axis[0].offset0 = vox_axis_offset(&a[0], td);
        real *to = v + (ring ? (d + td) % depth : td) * channels * pixels + i * apart;
        if (l->squares) {
          const int64_t z = d * a[0].step + slice.axis[0].offset0;
          points_row square[VOX_CHUNK_TILES / ROW_TILES] = {{0}};
          if (z >= 0 && z < a[0].size)
            points_row_list(&slice.axis[1], a[2].size, h0, lines, z * a[1].size * a[2].size, square);
          for (int64_t c = 0; c < channels; c++)
            points_squares(-slice.axis[2].offset0, square, apart / LANES, x + c * image, a[2].size,
                           to + c * pixels, v_stride, (ivec){0});
          continue;
        }
        /* padding is the same in all channels, and the last tiles reach beyond it */
        memset(scratch, 0, (size_t)(b.filled + LANES) * sizeof(real));
        for (int64_t c = 0; c < channels; c++) {
          points_rows(&slice, tile, &b, d, h0, w0, x + c * image, scratch);
          winograd_input(TILE + 2, TILE + 2, scratch, taps, apart, to + c * pixels, v_stride);
        }
      }
    }
    for (int64_t t = 0; t < tiles; t++)
      off[t] = t / per_image * apart + t % per_image;
    /* rows that fill up the last register tile repeat its first; their sums are never read */
    for (int64_t i = 0; i < l->rows; i++) {
      const int64_t r = i < rows ? i : i - i % l->tile_rows, td = r % depth;
      row[i] = ((ring ? (d + td) % depth : td) * channels + r / depth) * pixels;
    }

    real *u = packed + vox_max(lines * TILE * pitch, positions * l->tile_rows) * l->lanes;
    for (int64_t k = first; k < last; k++) {
      int64_t present = vox_min(l->lanes, l->cout - k * l->lanes);
      for (int64_t i = 0; i < images; i++) {
        const int64_t high = i ? of[i - 1].high : lines * TILE, wide = i ? of[i - 1].wide : pitch; /* that may be stale */
        if (of[i].high < high || of[i].wide < wide)
          memset(packed, 0, (size_t)(lines * TILE * pitch * l->lanes) * sizeof(real));
        dy_pack(of[i].dy + k * l->lanes * plane, plane, down * width, across, present, of[i].high, of[i].wide, l->lanes,
                pitch, packed);
        for (int64_t t = 0; t < per_image; t++)
          for (int64_t lane = 0; lane < l->lanes; lane += LANES)
            winograd_dy(packed + (t / cols * TILE * pitch + t % cols * TILE) * l->lanes + lane, pitch * l->lanes, l->lanes,
                        u + (i * per_image + t) * l->lanes + lane, u_stride);
      }
      if (l->chunks > 1) {
        for (int64_t i = 0; i < positions; i++)
          for (int64_t r = 0; r < rows; r += l->tile_rows)
            row_tiles(l->tile_rows, l->lanes / LANES, chunk > 0, tiles, v + i * v_stride, row + r, off, u + i * u_stride,
                      sums + k * panel + (i * l->rows + r) * l->lanes);
        continue;
      }
      /* no sum waits for another chunk: the points of a few rows are finished where the cache has them */
      const int64_t sums_of_tile = l->tile_rows * l->lanes;
      int bad = 0;
      for (int64_t r = 0; r < rows; r += l->tile_rows) {
        for (int64_t i = 0; i < positions; i++)
          row_tiles(l->tile_rows, l->lanes / LANES, 0, tiles, v + i * v_stride, row + r, off, u + i * u_stride,
                    packed + i * sums_of_tile);
        for (int64_t i = 0; i < vox_min(l->tile_rows, rows - r); i++)
          bad |= winograd_weight_row(job, group, k * l->lanes, c0 * depth + r + i, packed + i * l->lanes, sums_of_tile);
      }
      if (bad) __atomic_store_n((int *)job->sums, 1, __ATOMIC_RELAXED);
    }
  }
}

/* A panel of output channels from k0 on and a piece of its (channel, depth tap) rows, to dw.  What a transform has spread
 * or made of values that are not finite is summed again. */
static void winograd_weight_finish(const vox_weight_job *job, int64_t item) {
  const vox_weight_layout *l = job->l;
  const int64_t depth = l->phase.axis[0].taps, positions = l->positions;
  const int64_t panel = item / l->finish_pieces, group = panel / l->panels, k0 = panel % l->panels * l->lanes;
  const int64_t first = item % l->finish_pieces * l->rows_per_finish;
  const int64_t last = vox_min(l->cin * depth, first + l->rows_per_finish);
  const int64_t k_first = group * l->cout + k0, k_last = k_first + vox_min(l->lanes, l->cout - k0);
  if (job->p->n == 0) { /* no item has begun the sums */
    for (int64_t k = k_first; k < k_last; k++)
      memset((real *)job->dw + (k * l->cin * depth + first) * 9, 0, (size_t)((last - first) * 9) * sizeof(real));
    return;
  }
  int bad = l->chunks == 1 && *(const int *)job->sums;
  for (int64_t r = first; r < last && l->chunks > 1; r++) {
    int64_t block = r / (l->block * depth), row = r % (l->block * depth);
    const real *sums = (const real *)job->sums +
                       (((group * l->blocks + block) * l->panels + panel % l->panels) * positions * l->rows + row) * l->lanes;
    bad |= winograd_weight_row(job, group, k0, r, sums, l->rows * l->lanes);
  }
  for (int64_t k = k_first; k < k_last && bad; k++)
    for (int64_t r = first; r < last; r++)
      for (int64_t t = 0; t < 9; t++) {
        real *dw = (real *)job->dw + (k * l->cin * depth + r) * 9 + t;
        if (*dw - *dw != 0) *dw = weight_mend(job, group, k - group * l->cout, r / depth, r % depth * 9 + t);
      }
}

/* The accumulators of one panel of output channels, [row][lanes], and a piece of its rows, to dw[k][row].  Padding's
 * zeros turn an Inf or a NaN of dy into a NaN in every row of its channel, so only rows that are not finite can want
 * mending. */
static void weight_finish(const vox_weight_job *job, int64_t item) {
  const vox_conv *p = job->p;
  const vox_weight_layout *l = job->l;
  const vox_axis *a = l->phase.axis;
  const int64_t taps = l->phase.taps, all_rows = l->cin * taps;
  const int64_t panel = item / l->finish_pieces, group = panel / l->panels, k0 = panel % l->panels * l->lanes;
  const int64_t first = item % l->finish_pieces * l->rows_per_finish, last = vox_min(all_rows, first + l->rows_per_finish);
  const int64_t plane = a[0].count * a[1].count * a[2].count;
  real *dw = (real *)job->dw + (group * l->cout + k0) * all_rows;
  const int64_t present = vox_min(l->lanes, l->cout - k0);
  if (p->n == 0) { /* no item has begun the sums */
    for (int64_t k = 0; k < present; k++) memset(dw + k * all_rows + first, 0, (size_t)(last - first) * sizeof(real));
    return;
  }
  int padded = 0;
  for (int i = 0; i < 3; i++)
    padded |= a[i].offset0 < 0 || (a[i].count - 1) * a[i].step + vox_axis_offset(&a[i], a[i].taps - 1) >= a[i].size;
  for (int64_t k = 0; k < present; k += LANES) {
    enum { UNKNOWN, FINITE, MEND };
    char state[LANES] = {UNKNOWN};
    for (int64_t r = first, n; r < last; r += n) {
      const int64_t block = r / (l->block * taps), row = r % (l->block * taps);
      const real *sums = (const real *)job->sums +
                         (((group * l->blocks + block) * l->panels + panel % l->panels) * l->rows + row) * l->lanes + k;
      vec square[LANES];
      n = vox_min(vox_min(LANES, last - r), l->block * taps - row);
      for (int64_t i = 0; i < LANES; i++) square[i] = i < n ? v_load(sums + i * l->lanes) : v_zero();
      v_transpose(square);
      for (int64_t i = 0; i < vox_min(LANES, present - k); i++) {
        real *to = dw + (k + i) * all_rows + r;
        if (n == LANES)
          v_store(to, square[i]);
        else
          v_store_n(to, square[i], n);
        if (!padded || !v_any(v_unordered(square[i] - square[i], v_zero()))) continue;
        if (state[i] == UNKNOWN) state[i] = dy_is_finite(job, group, k0 + k + i, plane) ? FINITE : MEND;
        for (int64_t j = 0; state[i] == MEND && j < n; j++)
          if (to[j] - to[j] != 0) to[j] = weight_mend(job, group, k0 + k + i, (r + j) / taps, (r + j) % taps);
      }
    }
  }
}

/* One channel of dy (n, k, size), or of dy where y is not <= 0, else 0, if there is a y; that goes to `masked`.  Returns
 * its sum over n and size. */
INLINE real channel_pass(int64_t n, int64_t k, int64_t size, int64_t channel, const real *y, const real *dy, real *masked) {
  real total = 0;
  for (int64_t s = 0; s < n; s++) {
    const int64_t at = (s * k + channel) * size;
    vec sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES)
      UNROLL for (int v = 0; v < 4; v++) {
        const int64_t p = at + i + v * LANES;
        vec g = v_load(dy + p);
        if (y) v_store(masked + p, g = v_if_positive(v_load(y + p), g));
        sum[v] += g;
      }
    for (; i < size; i += LANES) {
      const int64_t left = vox_min(LANES, size - i), p = at + i;
      vec g = v_load_n(dy + p, left);
      if (y) v_store_n(masked + p, g = v_if_positive(v_load_n(y + p, left), g), left);
      sum[0] += g;
    }
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    real lanes = 0;
    for (int v = 0; v < LANES; v++) lanes += sum[0][v];
    total += lanes;
  }
  return total;
}

static void bias_grad(int64_t n, int64_t k, int64_t size, int64_t channel, const void *dy, void *out) {
  ((real *)out)[channel] = channel_pass(n, k, size, channel, 0, dy, 0);
}

static void relu_grad(int64_t n, int64_t k, int64_t size, int64_t channel, const void *y, const void *dy, void *out,
                      void *sums) {
  real sum = channel_pass(n, k, size, channel, y, dy, out);
  if (sums) ((real *)sums)[channel] = sum;
}
