/* Tiles of depthwise sums for square kernels of neighbouring taps at a stride of 1 or 2, whose sizes are compiled
 * in.  Lanes whose tap lies outside the row load a zero by a mask, rows and slices outside are skipped. */

/* Neighbouring planes of each array, and what becomes of a sum. */
typedef struct depthwise_planes {
  const real *x, *weight, *bias; /* weights by ascending position of their taps */
  real *y;
  int64_t count, image, plane, taps; /* how many planes, and the distance of neighbours */
  int64_t multiplier, part;          /* planes of y that share one of x, and which of them the first is */
  const int64_t *kernel, *size;      /* of the weight, and of a plane of y */
  int activation;
  real slope;
  /* of sums over channels alone */
  int64_t channels, tap; /* planes of x that are summed to each of y; from the weight of a tap to the next */
  int64_t ahead;         /* from a line of x to what will be wanted soon */
  int begins, ends;      /* whether these are the first channels, and the last: sums wait in between */
} depthwise_planes;

/* How a tile's lines are read: whole, by masks, or by masks and so few that fewer loads have all of them. */
enum { WHOLE, MASKED, NARROW };

/* Most loads of a line, and vectors of outputs beside each other. */
enum { DEPTHWISE_LOADS = 7, DEPTHWISE_VECTORS = 2 };

/* Whether the taps beside the middle one are shifted out of its vectors and the elements before and after these: a load
 * that crosses a line of cache takes twice as long as others, and with padding the middle ones often do not. */
INLINE int depthwise_shifts(const int KW) { return TILE_M == 8 && KW == 3; }

/* Elements of a line that V vectors of outputs read, the loads that takes, and where each begins. */
INLINE int depthwise_reach(const int KW, const int S, const int V) {
  return (V * LANES - 1) * S + (S == 1 || depthwise_shifts(KW) ? KW : (KW + 1) / 2 * 2);
}
INLINE int depthwise_loads(const int KW, const int S, const int V) {
  return depthwise_shifts(KW) ? S * V + 3 - S : S == 1 ? KW : (KW + 1) / 2 * 2;
}
INLINE int depthwise_place(const int KW, const int S, const int load) {
  return depthwise_shifts(KW) ? 1 + (load - 1) * LANES : S == 1 ? load : load / 2 * 2 + load % 2 * LANES;
}

/* The masks of these loads, for a line that is read from `column` on and counts [-column, last). */
INLINE void depthwise_masks(const int KW, const int S, const int V, int64_t column, int64_t last, vmask *inside) {
  UNROLL for (int i = 0; i < depthwise_loads(KW, S, V); i++) {
    const int64_t at = depthwise_place(KW, S, i);
    inside[i] = v_range(-column - at, last - at);
  }
}

/* What V vectors of outputs read of a line for each of three taps.  At stride 2 the last is the first one output on. */
INLINE void depthwise_shifted(const int S, const int V, const int form, const real *line, const vmask *inside,
                              vec tap[3][DEPTHWISE_VECTORS]) {
  vec a[DEPTHWISE_LOADS];
  UNROLL for (int i = 0; i < depthwise_loads(3, S, V); i++) {
    const int at = depthwise_place(3, S, i), one = i == 0 || i > S * V;
    if (form == NARROW && one)
      a[i] = v_zero();
    else
      a[i] = v_opaque(form ? v_load_masked(line + at, inside[i]) : one ? v_set1(line[i ? at : 0]) : v_load(line + at));
  }
  UNROLL for (int v = 0; v < V; v++)
    if (S == 1) {
      tap[0][v] = v_after(a[v], a[v + 1]);
      tap[1][v] = a[v + 1];
      tap[2][v] = v_before(a[v + 1], a[v + 2]);
    } else {
      tap[1][v] = v_even(a[2 * v + 1], a[2 * v + 2]);
      tap[2][v] = v_odd(a[2 * v + 1], a[2 * v + 2]);
      tap[0][v] = v_after(v ? tap[2][v - 1] : a[0], tap[2][v]);
    }
}

/* The same of one vector, for tap t alone.  At stride 2 even and odd taps come from the same two vectors. */
INLINE vec depthwise_load(const int S, const int form, const real *line, const int t, const vmask *inside) {
  const real *from = line + (S == 1 ? t : t / 2 * 2);
  if (S == 1) return form ? v_load_masked(from, inside[t]) : v_load(from);
  vec a = form ? v_load_masked(from, inside[t / 2 * 2]) : v_load(from);
  vec b = form == NARROW ? a : form ? v_load_masked(from + LANES, inside[t / 2 * 2 + 1]) : v_load(from + LANES);
  return t % 2 ? v_odd(a, b) : v_even(a, b);
}

/* Tiles beside each other: the first output, how many and how many vectors wide they are, how they read, which elements
 * of a line are inside and which outputs are stored.  Only whole ones are several. */
typedef struct depthwise_run {
  int64_t left, tiles, vectors, form;
  vmask inside[DEPTHWISE_LOADS], stored[DEPTHWISE_VECTORS];
} depthwise_run;

/* The tiles from w on, or before it: the last begins early enough to be full, where there is room.  Returns where the
 * next begin. */
INLINE int64_t depthwise_next_run(const int KW, const int S, const int WIDEST, const vox_axis *ax, int64_t from,
                                  int64_t to, int64_t w, depthwise_run *q) {
  const int two = WIDEST == 2 && to - w > LANES;
  const int64_t wide = two ? 2 * LANES : LANES, left = vox_max(from, vox_min(w, to - wide)), count = to - left;
  const int64_t column = left * S + ax->offset0, last = ax->size - column;
  const int64_t reach = two ? depthwise_reach(KW, S, 2) : depthwise_reach(KW, S, 1);
  const int narrow = depthwise_shifts(KW) ? column == -1 && ax->size <= S * wide : S == 2 && count <= LANES / 2;
  const int whole = column >= 0 && reach <= last && count >= wide;
  q->left = left;
  q->tiles = whole ? vox_min(count, (last - reach) / S + wide) / wide : 1;
  q->vectors = wide / LANES;
  q->form = whole ? WHOLE : narrow ? NARROW : MASKED;
  const int64_t begin = whole ? 0 : column, end = whole ? reach : last; /* for all of the run */
  if (two)
    depthwise_masks(KW, S, 2, begin, end, q->inside);
  else
    depthwise_masks(KW, S, 1, begin, end, q->inside);
  UNROLL for (int v = 0; v < DEPTHWISE_VECTORS; v++) q->stored[v] = v_range(-v * LANES, count - v * LANES);
  return left + q->tiles * wide;
}

/* Tiles of ROWS outputs below each other by V vectors beside each other of a KH x KW kernel at a stride of S: a run, as
 * many below each other as rows [from, to) take, in all planes; the last begins early enough to be full where there is
 * room.  A row of x is loaded once and serves all outputs that see it.
 *
 * slices    depth taps [slices[0], slices[1]) lie inside
 * ragged    of some tile more rows lie outside than the usual padding has, or fewer than ROWS are stored
 * sums      each plane of y is a sum over the same channels, a group's
 * kept      where sums wait, stepped by each tile */
INLINE void depthwise_tiles(const int KH, const int KW, const int S, const int ROWS, const int V, const int sums,
                            const int form, const int ragged, const vox_phase *ph, const depthwise_planes *c,
                            const depthwise_run *q, const int64_t slices[2], int64_t d, int64_t from, int64_t to,
                            real **kept) {
  enum { MOST_ROWS = 7, HELD = 25 };
  const int reads = (ROWS - 1) * S + KH, shifts = depthwise_shifts(KW);
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  const int64_t height = ay->size, width = ax->size, slice = az->offset_step * height * width, pitch = ax->count;
  const real *source = c->x + (d * az->step + az->offset0) * height * width + q->left * S + ax->offset0;
  const real *weight = c->weight;
  const int64_t next = sums ? c->tap : 1, filter = az->taps * KH * KW;
  real *target = c->y + d * ay->count * pitch + q->left;
  for (int64_t plane = 0, part = c->part; plane < c->count; plane++, weight += c->taps, target += c->plane) {
    for (int64_t h = from; h < to; h += ROWS) {
      const int64_t row = vox_max(from, vox_min(h, to - ROWS)), top = row * S + ay->offset0, rows = to - row;
      const real *x = source + top * width;
      real *y = target + row * pitch;
      for (int64_t tile = 0; tile < (form && !ragged ? 1 : q->tiles); tile++) {
        vec sum[MOST_ROWS][DEPTHWISE_VECTORS];
        UNROLL for (int j = 0; j < ROWS; j++)
          UNROLL for (int v = 0; v < V; v++) sum[j][v] = v_zero();
        if (sums && !c->begins)
          UNROLL for (int i = 0; i < ROWS * V; i++) sum[i / V][i % V] = v_load(*kept + i * LANES);
        const real *below = x + reads * width + tile * V * S * LANES + KW / 2;
        if (!sums && shifts && S == 1 && form != NARROW) /* at a stride of 2 what the tile below reads is too much to ask for */
          UNROLL for (int j = 0; j < ROWS; j++, below = p_opaque(below + width))
            UNROLL for (int v = 0; v < V; v++) prefetch_near(below + v * LANES);
        const int64_t depth = slices[1] - slices[0], visits = sums ? c->channels * depth : depth;
        const real *channel = x + slices[0] * slice, *of_channel = weight + slices[0] * next * KH * KW;
        for (int64_t visit = 0, td = 0; visit < visits; visit++, td++) {
          if (sums && td == depth) td = 0, channel += c->image, of_channel += filter;
          const real *line = channel + td * slice + tile * V * S * LANES, *taps = of_channel + td * next * KH * KW;
          if (sums && td == depth - 1) {
            const real *soon = line + c->ahead + KW / 2;
            UNROLL for (int j = 0; j < ROWS; j++, soon = p_opaque(soon + width))
              UNROLL for (int v = 0; v < V; v++) prefetch(soon + v * LANES);
          }
          vec held[HELD];
          if (KH * KW <= HELD)
            UNROLL for (int t = 0; t < KH * KW; t++) held[t] = v_opaque(v_set1(taps[t * next]));
          /* or the compiler makes a loop each for tiles with and without rows outside, of two vectors too large ones */
          const int64_t first = V == 2 && form != NARROW ? i_opaque(top) : top;
          UNROLL for (int i = 0; i < reads; i++, line = p_opaque(line + width)) {
            const int doubtful = ragged || i < KH / 2 || i >= reads - KH / 2;
            if (doubtful && (uint64_t)(first + i) >= (uint64_t)height) continue;
            vec tap[3][DEPTHWISE_VECTORS], one;
            if (shifts) depthwise_shifted(S, V, form, line, q->inside, tap);
            UNROLL for (int t = 0; t < KW; t++) {
              if (!shifts) one = v_opaque(depthwise_load(S, form, line, t, q->inside)); /* once, not for each product */
              UNROLL for (int j = 0; j < ROWS; j++)
                if (i >= j * S && i < j * S + KH) {
                  const int at = (i - j * S) * KW + t;
                  const vec w = KH * KW <= HELD ? held[at] : v_set1(taps[at]);
                  UNROLL for (int v = 0; v < V; v++) sum[j][v] = v_fma(w, shifts ? tap[t % 3][v] : one, sum[j][v]);
                }
            }
          }
        }
        if (sums && !c->ends) {
          UNROLL for (int i = 0; i < ROWS * V; i++) v_store(*kept + i * LANES, sum[i / V][i % V]);
          *kept += ROWS * V * LANES;
          continue;
        }
        if (sums && !c->begins) *kept += ROWS * V * LANES;
        if (c->bias)
          UNROLL for (int j = 0; j < ROWS; j++)
            UNROLL for (int v = 0; v < V; v++) sum[j][v] += v_set1(c->bias[plane]);
        if (c->activation)
          UNROLL for (int j = 0; j < ROWS; j++)
            UNROLL for (int v = 0; v < V; v++) sum[j][v] = activate(sum[j][v], c->activation, v_set1(c->slope));
        real *line = y + tile * V * LANES;
        UNROLL for (int j = 0; j < ROWS; j++, line += pitch)
          if (!ragged || j < rows)
            UNROLL for (int v = 0; v < V; v++) {
              if (form)
                v_store_masked(line + v * LANES, sum[j][v], q->stored[v]);
              else
                v_store(line + v * LANES, sum[j][v]);
            }
      }
    }
    if (!sums && ++part == c->multiplier) part = 0, source += c->image;
  }
}

/* Outputs [from, to) of a phase, run by run of tiles, whose masks and taps are then found once. */
INLINE void depthwise_fixed(const int KH, const int KW, const int S, const int ROWS, const int WIDEST, const int sums,
                            const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3],
                            real **kept) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1];
  const int64_t top = from[1] * S + ay->offset0, end = (to[1] - 1) * S + ay->offset0 + KH;
  const int ragged = top < -(KH / 2) || end > ay->size + KH / 2 || to[1] - from[1] < ROWS;
  for (int64_t d = from[0]; d < to[0]; d++) {
    int64_t slices[2];
    vox_inside(az->size, vox_max(1, az->offset_step), d * az->step + az->offset0, az->taps, &slices[0], &slices[1]);
    for (int64_t w = from[2]; w < to[2];) {
      depthwise_run q = {0};
      w = depthwise_next_run(KW, S, WIDEST, &ph->axis[2], from[2], to[2], w, &q);
#define TILES(v, form, ragged)                                                                                           \
  depthwise_tiles(KH, KW, S, ROWS, v, sums, form, ragged, ph, c, &q, slices, d, from[1], to[1], kept)
      if (WIDEST == 2 && q.vectors == 2) {
        if (ragged)
          TILES(2, MASKED, 1);
        else if (q.form == WHOLE)
          TILES(2, WHOLE, 0);
        else if (q.form == MASKED)
          TILES(2, MASKED, 0);
        else
          TILES(2, NARROW, 0);
      } else if (ragged) {
        TILES(1, MASKED, 1);
      } else if (q.form == WHOLE) {
        TILES(1, WHOLE, 0);
      } else if (q.form == NARROW && (S == 2 || depthwise_shifts(KW))) {
        TILES(1, NARROW, 0);
      } else {
        TILES(1, MASKED, 0);
      }
#undef TILES
    }
  }
}
