/* Convolution with one input channel a group, straight from and to the caller's arrays:
 *
 *   y[n, k, p] = act(b[k] + sum over t of  w[k, t] * x[n, k / multiplier, base(p) + off(t)])
 *
 * SIMD runs along a row of outputs.  Every output is one chain of fused additions over the taps in the order of their
 * positions, started from zero; the bias comes last.  Lanes whose tap lies outside the row load a zero by a mask, rows
 * and slices outside are skipped. */

enum { DEPTHWISE_PAIR = 8 }; /* most taps of a column phase that goes with its neighbour */

INLINE vec depthwise_result(const depthwise_planes *c, int64_t plane, vec sum) {
  if (c->bias) sum += v_set1(c->bias[plane]);
  return activate(sum, c->activation, v_set1(c->slope));
}

/* Lanes of `count` outputs from q on whose tap stands inside the row; their number where it begins is *at. */
INLINE void lanes_inside(const vox_axis *a, int64_t q, int64_t tap, int64_t count, int64_t *at, int64_t *first,
                         int64_t *last) {
  *at = q * a->step + vox_axis_offset(a, tap);
  if (a->step == 1) {
    *first = vox_min(count, vox_max(0, -*at));
    *last = vox_max(*first, vox_min(count, a->size - *at));
  } else {
    vox_inside(a->size, a->step, *at, count, first, last);
  }
}

/* Lanes [first, last) of what lies `step` apart from p on; the others are zero. */
INLINE vec load_steps(const real *p, int64_t step, int64_t first, int64_t last, vmask mask) {
  if (step == 1) return v_load_masked(p, mask);
  if (first == last) return v_zero();
  if (step == 2 && first == 0) return v_load_stride2(p, last);
  vec a = v_zero();
  for (int64_t i = first; i < last; i++) a[i] = p[i * step];
  return a;
}

/* ROWS x LANES outputs of any kernel, stride and dilation; `phases` is 2 for the neighbouring residues of a gradient at
 * stride 2, whose outputs take turns.  A tap outside is not multiplied at all, so padding meets no weight that is not
 * finite. */
INLINE void depthwise_any_tile(const int phases, const vox_phase *ph, const depthwise_planes *c, int64_t plane, int64_t d,
                               int64_t h, int64_t q, int64_t rows, int64_t count) {
  enum { ROWS = 4 };
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1];
  const real *x = c->x + (c->part + plane) / c->multiplier * c->image, *taps = c->weight + plane * c->taps;
  vec sum[2][ROWS];
  UNROLL for (int r = 0; r < phases; r++)
    UNROLL for (int j = 0; j < ROWS; j++) sum[r][j] = v_zero();
  for (int64_t td = 0; td < az->taps; td++) {
    const int64_t z = d * az->step + vox_axis_offset(az, td);
    if (z < 0 || z >= az->size) continue;
    for (int64_t th = 0; th < ay->taps; th++) {
      const real *line[ROWS];
      UNROLL for (int j = 0; j < ROWS; j++) {
        int64_t row = (h + j) * ay->step + vox_axis_offset(ay, th);
        line[j] = j < rows && row >= 0 && row < ay->size ? x + (z * ay->size + row) * ph->axis[2].size : NULL;
      }
      const real *weight = taps + ((az->index0 + td * az->index_step) * c->kernel[1] + ay->index0 +
                                        th * ay->index_step) * c->kernel[2];
      UNROLL for (int r = 0; r < phases; r++) {
        const vox_axis *ax = &ph[r].axis[2];
        for (int64_t tw = 0; tw < ax->taps; tw++) {
          int64_t at, first, last;
          lanes_inside(ax, q, tw, vox_min(count, ax->count - q), &at, &first, &last);
          const vmask mask = v_range(first, last);
          const vec w = v_set1(weight[ax->index0 + tw * ax->index_step]);
          UNROLL for (int j = 0; j < ROWS; j++)
            if (line[j]) {
              vec v = load_steps(line[j] + at, ax->step, first, last, mask);
              sum[r][j] = v_select(mask, v_fma(w, v, sum[r][j]), sum[r][j]);
            }
        }
      }
    }
  }
  const int64_t width = c->size[2];
  real *y = c->y + plane * c->plane + ((az->first + d * az->spread) * c->size[1] + ay->first + h * ay->spread) * width;
  UNROLL for (int j = 0; j < ROWS; j++)
    if (j < rows) {
      const vox_axis *ax = &ph->axis[2];
      real *line = y + j * ay->spread * width + ax->first + q * ax->spread;
      const vec a = depthwise_result(c, plane, sum[0][j]);
      if (phases == 2) {
        const vec b = depthwise_result(c, plane, sum[1][j]);
        const int64_t total = count + vox_min(count, ph[1].axis[2].count - q);
        v_store_n(line, v_zip_low(a, b), vox_min(LANES, total));
        if (total > LANES) v_store_n(line + LANES, v_zip_high(a, b), total - LANES);
      } else if (ax->spread == 1) {
        v_store_n(line, a, count);
      } else {
        for (int64_t i = 0; i < count; i++) line[i * ax->spread] = a[i];
      }
    }
}

/* ROWS x LANES positions of two neighbouring column phases of a gradient at stride 2, of all planes, by masked loads:
 * their results take turns in 2 * LANES elements of a row.  `whole`: all rows that are read lie inside. */
INLINE void depthwise_pair_tile(const int ROWS, const int whole, const vox_phase *ph, const depthwise_planes *c,
                                const vmask inside[2][DEPTHWISE_PAIR], int64_t d, int64_t h, int64_t q, int64_t rows) {
  enum { MOST_ROWS = 4 };
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1];
  const int64_t width = c->size[2], height = ay->size, pitch = ph->axis[2].size;
  const int64_t total = vox_min(LANES, ph[0].axis[2].count - q) + vox_min(LANES, ph[1].axis[2].count - q);
  const vmask low = v_range(0, total), high = v_range(0, total - LANES);
  const int64_t at = ((az->first + d * az->spread) * c->size[1] + ay->first + h * ay->spread) * width + 2 * q;
  const int64_t first = h + ay->offset0;
  for (int64_t plane = 0; plane < c->count; plane++) {
    vec sum[2][MOST_ROWS];
    UNROLL for (int r = 0; r < 2; r++)
      UNROLL for (int j = 0; j < ROWS; j++) sum[r][j] = v_zero();
    for (int64_t td = 0; td < az->taps; td++) {
      const int64_t z = d + vox_axis_offset(az, td);
      if (z < 0 || z >= az->size) continue;
      for (int64_t th = 0; th < ay->taps; th++) {
        const real *line = c->x + plane * c->image + (z * height + first + th) * pitch + q;
        const real *weight = c->weight + plane * c->taps + ((az->index0 + td * az->index_step) * c->kernel[1] +
                             ay->index0 + th * ay->index_step) * c->kernel[2];
        UNROLL for (int r = 0; r < 2; r++) {
          const vox_axis *ax = &ph[r].axis[2];
          for (int64_t tw = 0; tw < ax->taps; tw++) {
            const vec w = v_set1(weight[ax->index0 + tw * ax->index_step]);
            const real *from = line + ax->offset0 + tw;
            UNROLL for (int j = 0; j < ROWS; j++)
              if (whole || (uint64_t)(first + th + j) < (uint64_t)height)
                sum[r][j] = v_fma(w, v_load_masked(from + j * pitch, inside[r][tw]), sum[r][j]);
          }
        }
      }
    }
    real *y = c->y + plane * c->plane + at;
    UNROLL for (int j = 0; j < ROWS; j++)
      if (j < rows) {
        const vec a = depthwise_result(c, plane, sum[0][j]), b = depthwise_result(c, plane, sum[1][j]);
        real *to = y + j * ay->spread * width;
        prefetch_write(to + ROWS * ay->spread * width);
        prefetch_write(to + ROWS * ay->spread * width + LANES);
        v_store_masked(to, v_zip_low(a, b), low);
        v_store_masked(to + LANES, v_zip_high(a, b), high);
      }
  }
}

NOINLINE void depthwise_pair(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3]) {
  enum { ROWS = 4 };
  const vox_axis *ay = &ph->axis[1];
  for (int64_t q = from[2]; q < to[2]; q += LANES) {
    vmask inside[2][DEPTHWISE_PAIR];
    for (int r = 0; r < 2; r++)
      for (int64_t t = 0; t < ph[r].axis[2].taps; t++) {
        const int64_t at = q + ph[r].axis[2].offset0 + t;
        inside[r][t] = v_range(-at, ph[r].axis[2].size - at);
      }
    for (int64_t d = from[0]; d < to[0]; d++)
      for (int64_t h = from[1]; h < to[1]; h += ROWS) {
        const int64_t first = h + ay->offset0, rows = vox_min(ROWS, to[1] - h);
        if (first >= 0 && first + ay->taps - 1 + ROWS <= ay->size)
          depthwise_pair_tile(ROWS, 1, ph, c, inside, d, h, q, rows);
        else
          depthwise_pair_tile(ROWS, 0, ph, c, inside, d, h, q, rows);
      }
  }
}

/* Whether two column phases can go together so: undilated, of few taps. */
static int depthwise_pairs(const vox_phase *ph) {
  for (int r = 0; r < 2; r++) {
    const vox_axis *a = ph[r].axis;
    if (a[1].offset_step > 1 || a[2].offset_step > 1 || a[2].taps > DEPTHWISE_PAIR) return 0;
  }
  return 1;
}

/* Of the gradient of a 3 x 3 kernel at a stride of 2: all four phases together.  Along an axis one phase has one tap, the
 * even one where the padding is odd; the other has two, the first and the last of the turned weights.  So a position sees
 * two lines and two columns of x, the first of which is where the even phase begins.
 *
 * 2 x (2 * LANES) results, from the position's line of x and first row of y on.
 * top       number of the line
 * rows      rows of y that are stored */
INLINE void depthwise_quad_tile(const int ODD_H, const int ODD_W, const int form, const vox_phase *ph,
                                const depthwise_planes *c, const real *x, const real *weight, const vec *held, real *y,
                                int64_t d, int64_t top, int64_t rows, const vmask inside[2], const vmask stored[2],
                                const vec bias) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1];
  const int64_t pitch = ph->axis[2].size;
  vec sum[2][2] = {{v_zero(), v_zero()}, {v_zero(), v_zero()}};
  for (int64_t td = 0; td < (held ? 1 : az->taps); td++) {
    const int64_t z = d + vox_axis_offset(az, td);
    if (z < 0 || z >= az->size) continue;
    UNROLL for (int i = 0; i < 2; i++) {
      if ((uint64_t)(top + i) >= (uint64_t)ay->size) continue;
      const real *line = x + (z * ay->size + top + i) * pitch;
      UNROLL for (int t = 0; t < 2; t++) {
        const vec v = v_opaque(form ? v_load_masked(line + t, inside[t]) : v_load(line + t));
        UNROLL for (int r = 0; r < 2; r++)
          UNROLL for (int s = 0; s < 2; s++) {
            const int one_h = r != ODD_H, one_w = s != ODD_W;
            const int tap = (one_h ? 1 : 2 * i) * 3 + (one_w ? 1 : 2 * t);
            if ((one_h && i == ODD_H) || (one_w && t == ODD_W)) continue;
            sum[r][s] = v_fma(held ? held[tap] : v_set1(weight[td * az->index_step * 9 + tap]), v, sum[r][s]);
          }
      }
    }
  }
  UNROLL for (int r = 0; r < 2; r++)
    if (r < rows) {
      UNROLL for (int s = 0; s < 2; s++) {
        if (c->bias) sum[r][s] += bias;
        sum[r][s] = activate(sum[r][s], c->activation, v_set1(c->slope));
      }
      real *to = y + r * c->size[2];
      const vec low = v_zip_low(sum[r][0], sum[r][1]), high = v_zip_high(sum[r][0], sum[r][1]);
      if (form) {
        v_store_masked(to, low, stored[0]);
        v_store_masked(to + LANES, high, stored[1]);
      } else {
        v_store(to, low);
        v_store(to + LANES, high);
      }
    }
}

/* `tiles` beside each other from column q on, in rows [from, to) of all planes. */
INLINE void depthwise_quad_tiles(const int ODD_H, const int ODD_W, const int DEEP, const int form, const vox_phase *ph,
                                 const depthwise_planes *c, int64_t d, int64_t from, int64_t to, int64_t q, int64_t tiles,
                                 const vmask inside[2], const vmask stored[2]) {
  const vox_axis *az = &ph->axis[0];
  const int64_t width = c->size[2], top = ph->axis[1].offset0;
  for (int64_t plane = 0; plane < c->count; plane++) {
    const vec bias = v_set1(c->bias ? c->bias[plane] : 0);
    const real *weight = c->weight + plane * c->taps + az->index0 * 9;
    const real *x = c->x + plane * c->image + q + ph->axis[2].offset0;
    real *y = c->y + plane * c->plane + ((az->first + d * az->spread) * c->size[1] + 2 * from) * width + 2 * q;
    vec held[9];
    UNROLL for (int t = 0; t < 9; t++) held[t] = DEEP ? v_zero() : v_opaque(v_set1(weight[t]));
    for (int64_t h = from; h < to; h++, y += 2 * width)
      for (int64_t tile = 0; tile < (form ? 1 : tiles); tile++)
        depthwise_quad_tile(ODD_H, ODD_W, form, ph, c, x + tile * LANES, weight, DEEP ? NULL : held,
                            y + 2 * tile * LANES, d, h + top, c->size[1] - 2 * h, inside, stored, bias);
  }
}

/* Positions [from, to). */
INLINE void depthwise_quads(const int ODD_H, const int ODD_W, const int DEEP, const vox_phase *ph,
                            const depthwise_planes *c, const int64_t from[3], const int64_t to[3]) {
  const vox_axis *ax = &ph->axis[2];
  for (int64_t d = from[0]; d < to[0]; d++)
    for (int64_t q = from[2], tiles; q < to[2]; q += tiles * LANES) {
      const int64_t at = q + ax->offset0, left = vox_min(c->size[2] - 2 * q, 2 * (to[2] - q));
      vmask inside[2], stored[2];
      for (int i = 0; i < 2; i++) {
        inside[i] = v_range(-at - i, ax->size - at - i);
        stored[i] = v_range(0, left - i * LANES);
      }
      tiles = at < 0 ? 0 : vox_min(left / 2, ax->size - at - 1) / LANES;
      if (tiles > 0)
        depthwise_quad_tiles(ODD_H, ODD_W, DEEP, WHOLE, ph, c, d, from[1], to[1], q, tiles, inside, stored);
      else
        depthwise_quad_tiles(ODD_H, ODD_W, DEEP, MASKED, ph, c, d, from[1], to[1], q, tiles = 1, inside, stored);
    }
}

NOINLINE void depthwise_quad(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3]) {
  switch ((ph->axis[0].taps != 1) * 4 + (ph->axis[1].taps == 1) * 2 + (ph->axis[2].taps == 1)) {
  case 0: depthwise_quads(0, 0, 0, ph, c, from, to); return;
  case 1: depthwise_quads(0, 1, 0, ph, c, from, to); return;
  case 2: depthwise_quads(1, 0, 0, ph, c, from, to); return;
  case 3: depthwise_quads(1, 1, 0, ph, c, from, to); return;
  case 4: depthwise_quads(0, 0, 1, ph, c, from, to); return;
  case 5: depthwise_quads(0, 1, 1, ph, c, from, to); return;
  case 6: depthwise_quads(1, 0, 1, ph, c, from, to); return;
  default: depthwise_quads(1, 1, 1, ph, c, from, to); return;
  }
}

/* Whether all phases of rows and columns can go together so. */
static int depthwise_is_quad(const vox_depthwise_job *job) {
  const vox_conv *p = job->p;
  int quad = !job->exact && p->operation == VOX_CONV_INPUT_GRAD;
  for (int i = 1; i < 3; i++) quad &= p->kernel[i] == 3 && job->phases[i] == 2 && p->stride[i] == 2 && p->dilation[i] == 1;
  return quad;
}

NOINLINE void depthwise_any(const vox_phase *ph, int64_t phases, const depthwise_planes *c, const int64_t from[3],
                          const int64_t to[3]) {
  for (int64_t plane = 0; plane < c->count; plane++)
    for (int64_t d = from[0]; d < to[0]; d++)
      for (int64_t h = from[1]; h < to[1]; h += 4)
        for (int64_t q = from[2]; q < to[2]; q += LANES) {
          const int64_t rows = vox_min(4, to[1] - h), count = vox_min(LANES, to[2] - q);
          if (phases == 2)
            depthwise_any_tile(2, ph, c, plane, d, h, q, rows, count);
          else
            depthwise_any_tile(1, ph, c, plane, d, h, q, rows, count);
        }
}

/* The size of a square kernel all of whose taps are neighbours, at a stride of 1 or 2: 3, 5 or 7, else 0. */
static int64_t depthwise_square(const vox_phase *ph, const int64_t kernel[3]) {
  const vox_axis *a = ph->axis;
  for (int i = 0; i < 3; i++)
    if (a[i].taps != kernel[i] || a[i].spread != 1 || (i > 0 && a[i].offset_step != 1)) return 0;
  const int64_t k = kernel[2];
  return kernel[1] == k && a[1].step == a[2].step && a[2].step <= 2 && (k == 3 || k == 5 || k == 7) ? k : 0;
}

/* The gradient's taps count backwards; its weights are packed in turn, so they can be counted the other way. */
static void depthwise_phase(const vox_conv *p, const int64_t residue[3], vox_phase *ph) {
  vox_conv_phase(p, residue, ph);
  if (p->operation != VOX_CONV_INPUT_GRAD) return;
  for (int i = 0; i < 3; i++) {
    vox_axis *a = &ph->axis[i];
    if (a->taps == 0) continue;
    a->index0 = p->kernel[i] - 1 - (a->index0 + (a->taps - 1) * a->index_step);
    a->offset0 = vox_axis_offset(a, a->taps - 1);
    a->offset_step = a->taps == 1 ? 1 : -a->offset_step;
  }
}

/* Rows of a tile: its sums and the weights of a kernel fit the registers. */
#if TILE_M == 8
enum { DEPTHWISE_ROWS = 7, DEPTHWISE_ROWS_5 = 4, DEPTHWISE_WIDEST = 2 };
#else
enum { DEPTHWISE_ROWS = 4, DEPTHWISE_ROWS_5 = 4, DEPTHWISE_WIDEST = 1 };
#endif

/* Each kernel is a function of its own, which spares the compiler one of ten thousand instructions. */
typedef void depthwise_band(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3]);
NOINLINE void depthwise_3(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3]) {
  depthwise_fixed(3, 3, 1, DEPTHWISE_ROWS, DEPTHWISE_WIDEST, 0, ph, c, from, to, NULL);
}
NOINLINE void depthwise_3_2(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3]) {
  depthwise_fixed(3, 3, 2, DEPTHWISE_ROWS, DEPTHWISE_WIDEST, 0, ph, c, from, to, NULL);
}
NOINLINE void depthwise_5(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3]) {
  depthwise_fixed(5, 5, 1, DEPTHWISE_ROWS_5, 1, 0, ph, c, from, to, NULL);
}
NOINLINE void depthwise_5_2(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3]) {
  depthwise_fixed(5, 5, 2, DEPTHWISE_ROWS_5, 1, 0, ph, c, from, to, NULL);
}
NOINLINE void depthwise_7(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3]) {
  depthwise_fixed(7, 7, 1, DEPTHWISE_ROWS_5, 1, 0, ph, c, from, to, NULL);
}

/* Planes that a tile visits one after the other before the next tile visits them: they stay in L1. */
enum { DEPTHWISE_BATCH = 16 * 1024 / sizeof(real) };

static void depthwise_item(const vox_depthwise_job *job, int64_t item) {
  const vox_conv *p = job->p;
  const int64_t *size = p->operation == VOX_CONV ? p->output : p->spatial;
  const int64_t *source = p->operation == VOX_CONV ? p->spatial : p->output;
  const int64_t together = job->phases[2] == 2 ? 2 : 1, share = vox_ceil_div(p->k, job->planes);
  const int quad = depthwise_is_quad(job);
  int64_t band[3], residue[3];
  for (int i = 2; i >= 0; i--) {
    band[i] = item % job->bands[i];
    item /= job->bands[i];
  }
  const int64_t n = item / share, first = item % share * job->planes, last = vox_min(p->k, first + job->planes);
  depthwise_planes c = {.image = source[0] * source[1] * source[2],
                        .plane = size[0] * size[1] * size[2], .taps = p->kernel[0] * p->kernel[1] * p->kernel[2],
                        .multiplier = job->multiplier, .kernel = p->kernel, .size = size,
                        .activation = p->activation, .slope = (real)p->slope};
  const int64_t batch = vox_max(1, DEPTHWISE_BATCH / (c.image + c.plane));
  for (residue[0] = 0; residue[0] < job->phases[0]; residue[0]++)
    for (residue[1] = 0; residue[1] < job->phases[1]; residue[1] += quad ? 2 : 1)
      for (residue[2] = 0; residue[2] < job->phases[2]; residue[2] += together) {
        vox_phase ph[2];
        int64_t from[3], to[3];
        depthwise_phase(p, residue, &ph[0]);
        if (together == 2) depthwise_phase(p, (const int64_t[]){residue[0], residue[1], residue[2] + 1}, &ph[1]);
        for (int i = 0; i < 3; i++) {
          from[i] = band[i] * job->band[i];
          to[i] = vox_min(ph->axis[i].count, from[i] + job->band[i]);
        }
        static depthwise_band *const kernels[][2] = {
            {depthwise_3, depthwise_3_2}, {depthwise_5, depthwise_5_2}, {depthwise_7, NULL}};
        const int64_t square = depthwise_square(ph, p->kernel);
        depthwise_band *kernel = NULL;
        if (quad)
          kernel = depthwise_quad;
        else if (!job->exact && together == 2)
          kernel = depthwise_pairs(ph) ? depthwise_pair : NULL;
        else if (!job->exact && square)
          kernel = kernels[square / 2 - 1][ph->axis[2].step - 1];
        for (int64_t k = first; k < last; k += batch) {
          c.count = vox_min(batch, last - k);
          c.part = k % job->multiplier;
          c.x = (const real *)job->x + (n * p->c + k / job->multiplier) * c.image;
          c.y = (real *)job->y + (n * p->k + k) * c.plane;
          c.weight = (const real *)job->weight + k * c.taps;
          c.bias = job->bias ? (const real *)job->bias + k : NULL;
          if (kernel)
            kernel(ph, &c, from, to);
          else
            depthwise_any(ph, together, &c, from, to);
        }
      }
}
