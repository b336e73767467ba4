/* Convolution forward and backward to the data, one item of the sum
 *
 *   y[n, k, p] = act(b[k] + sum over (c, t) of  w[k, c, t] * x[n, c, base(p) + off(t)])
 *
 * Every output is one chain of fused additions in the order of (c, t), started from zero; the bias comes last. */

/* Offset in an output channel of column 0 of a phase's line: lines count rows, then depths. */
INLINE int64_t line_offset(const vox_phase *ph, const int64_t *size, int64_t line) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1];
  const int64_t d = line / ay->count, h = line - d * ay->count;
  return ((az->first + d * az->spread) * size[1] + ay->first + h * ay->spread) * size[2] + ph->axis[2].first;
}

/* Where `pixels` pixels go, the first of which is number `skip` of lines that are `pitch` long and of which `cols` count;
 * they are a phase's lines from `line` on, from column w0 on. */
static void conv_places(const vox_phase *ph, const int64_t *size, int64_t line, int64_t w0, int64_t pitch, int64_t cols,
                        int64_t skip, int64_t pixels, place *places, int64_t *lanes) {
  const int64_t spread = ph->axis[2].spread;
  const int dense = spread == 1 && ph->axis[1].spread == 1 && ph->axis[0].spread == 1 && cols == size[2]; /* no lanes */
  int64_t row = skip / pitch, col = skip - row * pitch;
  int64_t start = line_offset(ph, size, line + row) + w0 * spread;
  for (int64_t p = 0; p < pixels; p += LANES, places++, lanes += LANES) {
    const int64_t count = vox_min(LANES, pixels - p);
    int64_t next = 0;
    *places = (place){.packed = spread == 1};
    for (int64_t i = 0, n; i < count; i += n, col += n) {
      if (col >= pitch) {
        col -= pitch;
        start = line_offset(ph, size, line + ++row) + w0 * spread;
      }
      n = vox_min(count - i, (col < cols ? cols : pitch) - col);
      if (col >= cols) continue;
      const int64_t at = start + col * spread;
      for (int64_t lane = 0; lane < n && !dense; lane++) lanes[i + lane] = at + lane * spread;
      if (!places->mask)
        places->at = at;
      else
        places->packed &= at == next;
      places->mask |= (uint32_t)((1u << n) - 1) << i;
      next = at + n;
    }
  }
}

/* Taps [*first, *last) of the window at `at` that stand inside the input: those between the ends, for steps are even. */
static void taps_inside(const vox_axis *a, int64_t at, int64_t *first, int64_t *last) {
  int64_t start = at + vox_axis_offset(a, 0), step = a->offset_step;
  if (step < 0) start = a->size - 1 - start, step = -step;
  vox_inside(a->size, vox_max(1, step), start, a->taps, first, last);
}

/* Where a weight is not finite, a zero of the border times it is a NaN, yet padding contributes nothing.  So the
 * outputs whose window leaves the input are summed once more, skipping the taps that do: those among the item's, which
 * are [begin, end) of its lines of `cols`. */
static void conv_mend_borders(const vox_conv_job *job, const vox_phase *ph, const real *x, const real *packed,
                              int64_t k_first, int64_t k_last, const finish *out, int64_t line,
                              int64_t w0, int64_t cols, int64_t begin, int64_t end) {
  const int64_t *size = job->p->operation == VOX_CONV ? job->p->output : job->p->spatial;
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  const int64_t image = az->size * ay->size * ax->size, terms = job->l->cin * ph->taps;
  for (int64_t row = 0; row * cols < end; row++)
    for (int64_t col = vox_max(0, begin - row * cols); col < vox_min(cols, end - row * cols); col++) {
      int64_t z = (line + row) / ay->count * az->step, h = (line + row) % ay->count * ay->step, w = (w0 + col) * ax->step;
      int64_t first[3], last[3];
      taps_inside(az, z, &first[0], &last[0]);
      taps_inside(ay, h, &first[1], &last[1]);
      taps_inside(ax, w, &first[2], &last[2]);
      int leaves = 0;
      for (int axis = 0; axis < 3; axis++) leaves |= last[axis] - first[axis] < ph->axis[axis].taps;
      if (!leaves) continue;
      for (int64_t k0 = k_first, m; k0 < k_last; k0 += m) {
        m = vox_panel_width(job->l->panel, job->l->cout - k0);
        for (int64_t i = 0; i < m; i++) {
          real sum = 0;
          const real *weight = packed + k0 * terms + i;
          for (int64_t c = 0; c < job->l->cin; c++, weight += ph->taps * m)
            for (int64_t td = first[0]; td < last[0]; td++)
              for (int64_t th = first[1]; th < last[1]; th++) {
                const real *row_weight = weight + (td * ay->taps + th) * ax->taps * m;
                const real *from = x + c * image + ((z + vox_axis_offset(az, td)) * ay->size + h + vox_axis_offset(ay, th)) *
                                                       ax->size + w;
                for (int64_t tw = first[2]; tw < last[2]; tw++)
                  sum = s_fma(row_weight[tw * m], from[vox_axis_offset(ax, tw)], sum);
              }
          if (out->bias) sum += out->bias[k0 + i];
          out->y[(k0 + i) * out->plane + line_offset(ph, size, line + row) + (w0 + col) * ax->spread] =
              activate(v_set1(sum), out->activation, v_set1(out->slope))[0];
        }
      }
    }
}

/* The outputs of an item: pixels [0, pixels), in lines of `pitch` of which `cols` count, from (line, w0) on; the first is
 * number `skip` of its line. */
typedef struct conv_box {
  band b;
  int64_t d, h0, w0, q0, line, lines, pitch, cols, pixels, skip;
} conv_box;

/* Returns 0 where this phase has none. */
static int conv_box_of(const vox_conv_job *job, const vox_phase *ph, const vox_item *it, conv_box *o) {
  const vox_layout *l = job->l;
  *o = (conv_box){0};
  if (job->p->algorithm == VOX_DIRECT && !l->in_place) {
    o->d = it->band[0];
    o->h0 = it->band[1] * l->band[1];
    o->w0 = it->band[2] * l->band[2];
    if (o->d >= ph->axis[0].count || o->h0 >= ph->axis[1].count || o->w0 >= ph->axis[2].count) return 0;
    o->lines = vox_min(l->band[1], ph->axis[1].count - o->h0);
    o->cols = vox_min(l->band[2], ph->axis[2].count - o->w0);
    o->b = (l->dense ? points_band : band_of)(ph, o->lines, o->cols);
    o->pitch = o->b.pitch;
    o->pixels = (o->lines - 1) * o->pitch + o->cols;
    o->line = o->d * ph->axis[1].count + o->h0;
    return 1;
  }
  const int64_t width = l->in_place ? l->band[2] : l->vectors * LANES, end = (it->band[2] + 1) * width;
  const int64_t total = ph->axis[0].count * ph->axis[1].count * ph->axis[2].count;
  o->q0 = it->band[2] * width;
  if (o->q0 >= total) return 0;
  o->pixels = (l->in_place && it->band[2] + 1 == l->bands[2] ? total : vox_min(end, total)) - o->q0;
  o->pitch = o->cols = ph->axis[2].count;
  o->line = o->q0 / o->pitch;
  o->lines = (o->q0 + o->pixels - 1) / o->pitch - o->line + 1;
  o->skip = o->q0 - o->line * o->pitch; /* belong to the tile before */
  return 1;
}

/* What an item reads of x and of the packed weights, which outputs channels it writes, and where its sums go. */
typedef struct conv_part {
  const real *x, *packed;
  int64_t k_first, k_last;
  const int64_t *size;
  int64_t group;
  finish out;
} conv_part;

static conv_part conv_part_of(const vox_conv_job *job, const vox_phase *ph, const vox_item *it) {
  const vox_conv *p = job->p;
  const vox_layout *l = job->l;
  const int64_t input = ph->axis[0].size * ph->axis[1].size * ph->axis[2].size;
  const int64_t per_part = vox_round_up(vox_ceil_div(l->cout, l->parts), l->panel);
  conv_part c = {.x = (const real *)job->x + (it->n * p->groups + it->group) * l->cin * input,
                 .packed = (const real *)job->packed + ((ph->before * p->groups) + it->group * ph->taps) * l->cin * l->cout,
                 .k_first = it->part * per_part, .group = it->group, .size = p->operation == VOX_CONV ? p->output : p->spatial};
  const int64_t first_channel = it->group * l->cout, plane = c.size[0] * c.size[1] * c.size[2];
  c.k_last = vox_min(l->cout, c.k_first + per_part);
  c.out = (finish){.y = (real *)job->y + (it->n * p->groups * l->cout + first_channel) * plane,
                   .plane = plane,
                   .bias = job->bias ? (const real *)job->bias + first_channel : NULL,
                   .activation = p->activation,
                   .slope = (real)p->slope};
  return c;
}

/* The item's sums, which go to their places in the output; places and offsets are there where the image before had the `same`.
 * Returns whether an Inf or a NaN is among weights that it packs itself. */
static int conv_sums(const vox_conv_job *job, const vox_phase *ph, const conv_box *o, const conv_part *c, void *workspace,
                     int same) {
  const vox_layout *l = job->l;
  const int direct = job->p->algorithm == VOX_DIRECT;
  const int64_t width = l->vectors * LANES, terms = l->cin * ph->taps;
  const int64_t input = ph->axis[0].size * ph->axis[1].size * ph->axis[2].size;
  real *scratch = workspace, *sums = scratch + l->scratch;
  int64_t *off = (int64_t *)(sums + l->sums), *lanes = off + l->taps;
  place *places = (place *)(lanes + l->columns);
  finish out = c->out;
  out.places = places;
  out.lanes = lanes;
  if (!same) conv_places(ph, c->size, o->line, o->w0, o->pitch, o->cols, o->skip, o->pixels, places, lanes);

  int nonfinite = 0;
  int64_t c0 = 0;
  do {
    int64_t channels = vox_min(l->block, l->cin - c0), depth = terms ? channels * ph->taps : 0;
    int last = c0 + channels >= l->cin || terms == 0;
    if (depth && direct) {
      if (l->dense) {
        /* padding is the same in all channels */
        if (c0 == 0) memset(scratch, 0, (size_t)(channels * o->b.plane) * sizeof(real));
        for (int64_t i = 0; i < channels; i++)
          points_rows(ph, job->p->stride, &o->b, o->d, o->h0, o->w0, c->x + (c0 + i) * input, scratch + i * o->b.plane);
      } else {
        band_copy(ph, &o->b, o->d, o->h0, o->w0, c->x + c0 * input, channels, scratch);
      }
      /* tiles may run past the last channel's end by less than a tile */
      memset(scratch + channels * o->b.plane, 0, (size_t)width * sizeof(real));
      if (c0 == 0 && !same) (l->dense ? points_offsets : band_offsets)(ph, &o->b, channels, off);
    } else if (depth) {
      panel_pack(ph, o->q0, o->pixels, c->x + c0 * input, 0, depth, width, scratch);
      if (c0 == 0)
        for (int64_t t = 0; t < depth; t++) off[t] = t * width;
    }
    /* A panel of weights stays in L1 while it meets all pixels, and the outputs are written along their lines. */
    for (int64_t k0 = c->k_first, m; k0 < c->k_last; k0 += m) {
      m = vox_panel_width(l->panel, l->cout - k0);
      finish end = out;
      end.y += k0 * out.plane;
      if (out.bias) end.bias += k0;
      const real *panel = l->late ? sums + l->packing : c->packed + k0 * terms + c0 * ph->taps * m;
      if (l->late && depth)
        nonfinite |= conv_pack(job->p, l, ph, c->group, k0, m, c0, channels, job->weight, sums + l->packing);
      if (l->by_channels) { /* of whole rows */
        channel_tiles(o->pixels, c0 > 0, depth, panel, scratch, off,
                      l->block < l->cin ? sums + (k0 - c->k_first) * l->columns : NULL, last ? end.y + places->at : NULL,
                      end.plane, &end);
        continue;
      }
      for (int64_t p0 = 0, here; p0 < o->pixels; p0 += here * LANES) {
        here = tile_vectors(vox_ceil_div(o->pixels - p0, LANES), l->vectors);
        end.places = places + p0 / LANES;
        end.lanes = lanes + p0;
        pixel_tiles(m, here, c0 > 0, depth, panel, scratch + p0, off, sums + (k0 - c->k_first) * l->columns + p0,
                    l->columns, last ? &end : NULL);
      }
    }
    c0 += channels;
  } while (c0 < l->cin && terms);
  return nonfinite;
}

static void conv_mend(const vox_conv_job *job, const vox_phase *ph, const conv_box *o, const conv_part *c, int nonfinite,
                      void *workspace) {
  const vox_layout *l = job->l;
  if (!(job->nonfinite || nonfinite) || !ph->taps || !l->cin) return;
  const int64_t pixels = job->p->algorithm == VOX_DIRECT ? o->lines * o->cols : o->pixels;
  real *packing = (real *)workspace + l->scratch + l->packing;
  for (int64_t k0 = c->k_first, m; k0 < c->k_last; k0 += m) {
    m = vox_panel_width(l->panel, l->cout - k0);
    const int64_t terms = l->cin * ph->taps;
    const real *packed = l->late ? packing - k0 * terms : c->packed;
    /* which panels are summed again may not depend on who packed them */
    if (!(l->late ? conv_pack(job->p, l, ph, c->group, k0, m, 0, l->cin, job->weight, packing)
                  : has_nonfinite(packed + k0 * terms, m * terms)))
      continue;
    conv_mend_borders(job, ph, c->x, packed, k0, k0 + m, &c->out, o->line, o->w0, o->cols, o->skip, o->skip + pixels);
  }
}

/* Offsets in the input of the terms of `channels` channels, for tiles in the middle of a row, for those that begin one and
 * for those that end one, which leave out what is padding. */
static void edge_offsets(const vox_phase *ph, int64_t channels, int64_t *off) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  const int64_t image = az->size * ay->size * ax->size, all = channels * ph->taps;
  int64_t end = 0;
  while (end + channels_tile(ax->count - end) < ax->count) end += channels_tile(ax->count - end);
  for (int64_t t = 0; t < ph->taps; t++, off++) {
    const int64_t tw = t % ax->taps, th = t / ax->taps % ay->taps, td = t / ax->taps / ay->taps;
    int64_t at = ((td * az->offset_step * ay->size + th * ay->offset_step) * ax->size + tw * ax->offset_step), first, last;
    vox_inside(ax->size, ax->step, vox_axis_offset(ax, tw), ax->count, &first, &last);
    const int64_t before = first == 2 ? EDGE_FIRST_TWO : first ? EDGE_FIRST : EDGE_NONE, beyond = ax->count - last;
    const int64_t after = beyond == 2 ? EDGE_LAST_TWO : beyond ? EDGE_LAST : EDGE_NONE;
    for (int64_t c = 0; c < channels; c++, at += image) {
      int64_t *to = off + c * ph->taps;
      to[0] = at * (1 << EDGE_BITS);
      to[all] = to[0] + (before || end ? before : after);
      to[2 * all] = to[0] + after;
    }
  }
}

/* An item whose tiles are of one row each, and read it where it lies.  Terms of rows and depths that are padding are left out,
 * and so are those of a row's first and last pixels. */
static void rows_item(const vox_conv_job *job, const vox_phase *ph, const vox_item *it, void *workspace) {
  const vox_layout *l = job->l;
  const conv_part c = conv_part_of(job, ph, it);
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  const int64_t image = az->size * ay->size * ax->size, terms = l->block * ph->taps, slice = ay->taps * ax->taps;
  const int64_t d = it->band[0], h0 = it->band[1] * l->band[1], h1 = vox_min(ay->count, h0 + l->band[1]);
  /* of the first tap of output (d, 0, 0) */
  const int64_t top = (d * az->step + vox_axis_offset(az, 0)) * ay->size + vox_axis_offset(ay, 0);
  const int64_t at = top * ax->size + vox_axis_offset(ax, 0);
  real *sums = workspace, alone[CHANNEL_T * CHANNEL_V * LANES];
  int64_t *off = (int64_t *)(sums + l->sums), first[2], last[2];
  finish end = c.out;
  edge_offsets(ph, l->block, off);
  taps_inside(az, d * az->step, &first[0], &last[0]);
  for (int64_t c0 = 0, channels; c0 < l->cin; c0 += channels) {
    channels = vox_min(l->block, l->cin - c0);
    const real *x = c.x + c0 * image;
    for (int64_t k0 = c.k_first; k0 < c.k_last; k0 += l->panel) {
      const real *panel = l->late ? sums + l->packing : c.packed + (k0 * l->cin + c0 * l->panel) * ph->taps;
      real *y = c.out.y + k0 * c.out.plane + d * ay->count * ax->count;
      if (l->late) conv_pack(job->p, l, ph, c.group, k0, l->panel, c0, channels, job->weight, sums + l->packing);
      if (c.out.bias) end.bias = c.out.bias + k0;
      for (int64_t h = h0; h < h1; h++) {
        taps_inside(ay, h * ay->step, &first[1], &last[1]);
        const int whole = last[0] - first[0] == az->taps && last[1] - first[1] == ay->taps;
        const tile_terms all = {0, channels * ph->taps, 1, 0, 1, 0};
        const tile_terms some = {first[0] * slice + first[1] * ax->taps, (last[1] - first[1]) * ax->taps, last[0] - first[0],
                                 slice, channels, ph->taps};
        for (int64_t w = 0, here; w < ax->count; w += here) {
          here = channels_tile(ax->count - w);
          const int64_t *place = off + (w == 0 ? terms : w + here == ax->count ? 2 * terms : 0);
          const int64_t waiting = (k0 - c.k_first) * l->columns + ((h - h0) * ax->count + w) * l->panel;
          real *kept = l->block < l->cin ? sums + waiting : alone;
          channel_sums(here, ax->step, 1, c0 > 0, whole ? &all : &some, panel,
                       x + (at + h * ay->step * ax->size + w * ax->step), place, kept);
          if (c0 + channels == l->cin) channel_finish(kept, here, y + h * ax->count + w, c.out.plane, &end);
        }
      }
    }
  }
}

/* An item whose outputs lie as their inputs do, pixel by pixel.  A last tile that is not full begins earlier, and finds some
 * sums twice: so nothing is read, or written, that is not the item's. */
static void pointwise_item(const vox_conv_job *job, const vox_phase *ph, const vox_item *it, void *workspace) {
  const vox_layout *l = job->l;
  const conv_part c = conv_part_of(job, ph, it);
  const int64_t plane = c.out.plane, q_first = it->band[2] * l->band[2];
  const int64_t q_last = it->band[2] + 1 < l->bands[2] ? q_first + l->band[2] : plane;
  real *sums = (real *)workspace + l->scratch;
  int64_t *off = (int64_t *)(sums + l->sums);
  place places[MOST_V];
  for (int64_t i = 0; i < l->cin; i++) off[i] = i * plane;
  for (int64_t v = 0; v < MOST_V; v++) places[v] = (place){.at = v * LANES, .mask = ALL_LANES, .packed = 1};
  finish end = c.out;
  end.places = places;
  for (int64_t k0 = c.k_first, m; k0 < c.k_last; k0 += m) {
    m = vox_panel_width(l->panel, l->cout - k0);
    const real *panel = l->late ? sums + l->packing : c.packed + k0 * l->cin;
    if (l->late) conv_pack(job->p, l, ph, c.group, k0, m, 0, l->cin, job->weight, sums + l->packing);
    real *y = c.out.y + k0 * plane;
    if (c.out.bias) end.bias = c.out.bias + k0;
    if (l->by_channels) {
      channel_tiles(q_last - q_first, 0, l->cin, panel, c.x + q_first, off, NULL, y + q_first, plane, &end);
      continue;
    }
    for (int64_t q = q_first, v; q < q_last; q += v * LANES) {
      v = tile_vectors(vox_ceil_div(q_last - q, LANES), l->vectors);
      const int64_t at = vox_min(q, q_last - v * LANES);
      end.y = y + at;
      pixel_tiles(m, v, 0, l->cin, panel, c.x + at, off, NULL, 0, &end);
    }
  }
}

static void conv_item(const vox_conv_job *job, const vox_phase *ph, const vox_item *it, void *workspace) {
  if (job->l->in_place || job->l->by_rows) {
    (job->l->in_place ? pointwise_item : rows_item)(job, ph, it, workspace);
    return;
  }
  conv_box box;
  if (!conv_box_of(job, ph, it, &box)) return;
  vox_item image = *it;
  for (int64_t i = 0; i < it->images; i++, image.n++) {
    const conv_part part = conv_part_of(job, ph, &image);
    const int nonfinite = conv_sums(job, ph, &box, &part, workspace, i > 0);
    conv_mend(job, ph, &box, &part, nonfinite, workspace);
  }
}
