/* The input gradient of a convolution whose columns lie two apart: all phases of a band in one item.
 *
 *   dx[2 q + r] = sum over the taps of phase r of  w * dy[q + offset],   r = 0 and 1, of each row and depth phase */

/* One of two neighbouring column phases of a gradient at stride 2, whose outputs take turns. */
typedef struct conv_column {
  vox_phase phase;
  conv_part part;
  int64_t cols;    /* of the item's, those that it has */
  int64_t *off;    /* where its taps are in the band */
  real *rows;      /* its sums, in the order of the band's pixels, l->columns an output channel */
  int sums;        /* it has some */
  int column;      /* which of the two this is */
} conv_column;

/* An item's pairs, one for each row and depth phase. */
typedef struct conv_pairs {
  const vox_layout *l;
  conv_box box;
  int64_t lines_of_depth;
  conv_column columns[VOX_MOST_PAIRS][2];
} conv_pairs;

/* Offset in an output channel of the first of a pair's outputs of line i of the item, or -1 where the pair has no such line. */
INLINE int64_t conv_pair_line(const conv_pairs *item, const conv_column *columns, int64_t i) {
  const conv_box *o = &item->box;
  const vox_axis *az = &columns->phase.axis[0], *ay = &columns->phase.axis[1];
  const int64_t d = (o->line + i) / item->lines_of_depth, h = (o->line + i) % item->lines_of_depth, *size = columns->part.size;
  if (d >= az->count || h >= ay->count) return -1;
  return ((az->first + d * az->spread) * size[1] + ay->first + h * ay->spread) * size[2] + 2 * o->w0;
}

/* Outputs of m channels from k on of a pair, whose sums are `row` elements into their rows: stored one by one they would take
 * as long as their sums. */
static void conv_zip(const conv_pairs *item, const conv_column *columns, int64_t k, int64_t m, int64_t row) {
  const conv_box *o = &item->box;
  const int64_t ld = item->l->columns;
  const finish *out = &columns->part.out;
  const int even = columns[0].sums, odd = columns[1].sums;
  for (int64_t i = 0; i < o->lines; i++) {
    const int64_t skipped = i * o->pitch - o->skip, from = vox_max(0, -skipped), to = vox_min(o->cols, o->pixels - skipped);
    const int64_t n = to - from + vox_max(0, vox_min(columns[1].cols, to) - from), at = conv_pair_line(item, columns, i);
    const int64_t whole = n / (2 * LANES) * LANES, rest = n - 2 * whole;
    const real *a = columns[0].rows + row + skipped + from, *b = columns[1].rows + row + skipped + from;
    real *y = out->y + k * out->plane + at + 2 * from;
    for (int64_t c = 0; c < m && at >= 0; c++, a += ld, b += ld, y += out->plane) {
      const vec alone = activate(v_set1(out->bias ? out->bias[k + c] : 0), out->activation, v_set1(out->slope));
      for (int64_t j = 0; j < whole; j += LANES) {
        const vec v = even ? v_load(a + j) : alone, w = odd ? v_load(b + j) : alone;
        v_store(y + 2 * j, v_zip_low(v, w));
        v_store(y + 2 * j + LANES, v_zip_high(v, w));
      }
      if (!rest) continue;
      const vec v = even ? v_load(a + whole) : alone, w = odd ? v_load(b + whole) : alone;
      v_store_n(y + 2 * whole, v_zip_low(v, w), vox_min(LANES, rest));
      if (rest > LANES) v_store_n(y + 2 * whole + LANES, v_zip_high(v, w), rest - LANES);
    }
  }
}

/* Asks for the outputs of m channels from k on whose lines begin among `width` pixels from p0 on. */
static void conv_zip_soon(const conv_pairs *item, const conv_column *columns, int64_t k, int64_t m, int64_t p0, int64_t width) {
  enum { LINE = 64 / sizeof(real) };
  const conv_box *o = &item->box;
  for (int64_t i = vox_ceil_div(p0 + o->skip, o->pitch); i < o->lines && i * o->pitch - o->skip < p0 + width; i++) {
    const int64_t at = conv_pair_line(item, columns, i);
    const real *y = columns->part.out.y + k * columns->part.out.plane + at;
    for (int64_t c = 0; c < m && at >= 0; c++, y += columns->part.out.plane)
      for (int64_t j = 0; j < 2 * o->cols; j += LINE) prefetch_write(y + j);
  }
}

/* Asks for the first `pixels` of channels `plane` apart, of cin of them as many as m of the panels' `all` channels from k on
 * are: what the next item reads in place comes from far away, a few lines of memory at a time. */
INLINE void conv_fetch(const real *x, int64_t plane, int64_t cin, int64_t k, int64_t m, int64_t all, int64_t pixels) {
  enum { LINE = 64 / sizeof(real) };
  for (int64_t c = k * cin / all; c < (k + m) * cin / all; c++)
    for (int64_t i = 0; i < pixels; i += LINE) prefetch(x + c * plane + i);
}

/* The sums of one of a pair's columns for m output channels from k0 on, over `depth` taps of input channels, to its rows from
 * `row` on; meanwhile the outputs of `soon` pairs are asked for. */
static void conv_column_sums(const conv_pairs *item, const conv_column *c, const real *from, const real *panel, int64_t depth,
                             int64_t k0, int64_t m, int64_t row, int accumulate, int last, int64_t soon) {
  const vox_layout *l = item->l;
  const conv_box *o = &item->box;
  place places[MOST_V];
  for (int64_t v = 0; v < MOST_V; v++) places[v] = (place){.at = v * LANES, .mask = ALL_LANES, .packed = 1};
  finish end = c->part.out;
  end.places = places;
  end.plane = l->columns;
  if (end.bias) end.bias += k0;
  if (l->by_channels) {
    channel_tiles(o->pixels, 0, depth, panel, from, c->off, NULL, c->rows + row, l->columns, &end);
    return;
  }
  for (int64_t p0 = 0, v; p0 < o->pixels; p0 += v * LANES) {
    v = tile_vectors(vox_ceil_div(o->pixels - p0, LANES), l->vectors);
    /* in place a last tile that is not full begins earlier, and finds some sums twice */
    const int64_t at = l->in_place ? vox_min(p0, o->pixels - v * LANES) : p0;
    end.y = c->rows + row + at;
    for (int64_t q = 0; q < soon; q++) conv_zip_soon(item, c - c->column + 2 * q, k0, m, p0, v * LANES);
    pixel_tiles(m, v, accumulate, depth, panel, from + at, c->off, end.y, l->columns, last ? &end : NULL);
  }
}

/* An item of all phases of a gradient whose columns lie two apart: one band serves them, and of each panel of output channels
 * the sums of two columns meet in L1. */
static void pairs_item(const vox_conv_job *job, const vox_phase *first, const vox_item *it, void *workspace) {
  const vox_conv *p = job->p;
  const vox_layout *l = job->l;
  const int64_t waits = l->block < l->cin, per_part = vox_round_up(vox_ceil_div(l->cout, l->parts), l->panel);
  const int64_t rows = vox_min(p->stride[1], p->spatial[1]), pairs = vox_min(p->stride[0], p->spatial[0]) * rows;
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  conv_pairs item = {.l = l, .lines_of_depth = first->axis[1].count};
  conv_box *o = &item.box;
  vox_phase both;
  if (!conv_box_of(job, first, it, o)) return;
  vox_conv_both(p, &both);
  if (!l->in_place) {
    o->b = band_of(&both, o->lines, o->cols);
    o->pitch = o->b.pitch;
    o->pixels = (o->lines - 1) * o->pitch + o->cols;
  }
  const int64_t input = both.axis[0].size * both.axis[1].size * both.axis[2].size;
  real *scratch = workspace, *sums = scratch + l->scratch, *packing = sums + l->packing;
  int64_t *off = (int64_t *)(sums + l->sums);
  int any = 0, nonfinite = 0;
  for (int64_t q = 0; q < pairs; q++)
    for (int r = 0; r < 2; r++) {
      conv_column *c = &item.columns[q][r];
      c->column = r;
      const int64_t residue[3] = {q / rows, q % rows, r};
      vox_conv_phase(p, residue, &c->phase);
      c->part = conv_part_of(job, &c->phase, it);
      c->cols = vox_max(0, vox_min(o->cols, c->phase.axis[2].count - o->w0));
      c->off = off;
      c->rows = sums + (waits ? (2 * q + r) * per_part : r * l->panel) * l->columns;
      c->sums = c->phase.taps && l->cin && c->cols && (l->in_place || o->d < c->phase.axis[0].count);
      off += l->block * c->phase.taps;
      if (!c->sums) continue;
      any = 1;
      if (l->in_place)
        for (int64_t i = 0; i < l->cin; i++) c->off[i] = i * input;
      else
        band_offsets_within(&c->phase, &both, &o->b, vox_min(l->block, l->cin), c->off);
    }
  tap_of_phase *of = (tap_of_phase *)off;
  for (int64_t t = 0; t < taps && l->late; t++) of[t] = tap_of_kernel(p, t);
  const conv_part *part = &item.columns[0][0].part;

  for (int64_t c0 = 0, channels; c0 == 0 || c0 < l->cin; c0 += channels) {
    channels = vox_max(1, vox_min(l->block, l->cin - c0));
    const int last = c0 + channels >= l->cin;
    if (!l->in_place && any) {
      band_copy(&both, &o->b, o->d, o->h0, o->w0, part->x + c0 * input, channels, scratch);
      /* tiles may run past the last channel's end by less than a tile */
      memset(scratch + channels * o->b.plane, 0, (size_t)(l->vectors * LANES) * sizeof(real));
    }
    for (int64_t k0 = part->k_first, m; k0 < part->k_last; k0 += m) {
      m = vox_panel_width(l->panel, l->cout - k0);
      const int64_t row = waits ? (k0 - part->k_first) * l->columns : 0;
      const real *weight = (const real *)job->weight + ((part->group * l->cin + c0) * l->cout + k0) * taps;
      if (l->in_place) /* the pixels behind these */
        conv_fetch(part->x + o->q0 + o->pixels, input, l->cin, k0 - part->k_first, m, part->k_last - part->k_first,
                   vox_min(o->pixels, input - o->q0 - o->pixels));
      for (int64_t t = 0; t < taps && l->late && l->cin; t += LANES)
        conv_pack_taps(p, l, of + t, vox_min(LANES, taps - t), weight + t, channels, m, channels * m, 0, packing);
      if (l->late && l->cin) nonfinite |= has_nonfinite(packing, channels * m * taps);
      for (int64_t q = 0; q < pairs; q++) {
        for (int r = 0; r < 2; r++) {
          const conv_column *c = &item.columns[q][r];
          if (!c->sums) continue;
          const int64_t depth = channels * c->phase.taps;
          const real *panel = l->late ? packing + c->phase.before * channels * m
                                      : c->part.packed + (k0 * l->cin + c0 * m) * c->phase.taps;
          /* lines between, which no tap reaches, come with those before */
          const int64_t soon = !last || (!r && item.columns[q][1].sums) ? 0 : l->in_place ? rows : 1;
          conv_column_sums(&item, c, l->in_place ? part->x + o->q0 : scratch, panel, depth, k0, m, row, c0 > 0, last, soon);
        }
        if (last) conv_zip(&item, item.columns[q], k0, m, row);
      }
    }
  }
  for (int64_t q = 0; q < pairs && !l->in_place; q++)
    for (int r = 0; r < 2; r++) {
      const conv_column *c = &item.columns[q][r];
      conv_box own = *o;
      own.cols = c->cols;
      own.lines = vox_min(o->lines, c->phase.axis[1].count - o->h0);
      own.line = o->d * c->phase.axis[1].count + o->h0;
      if (c->sums && own.lines > 0) conv_mend(job, &c->phase, &own, &c->part, nonfinite, workspace);
    }
}
