/* Packed weights of convolution forward and backward to the data (docs/kernels.md). */

/* Weights of TILE_M output channels, `out` apart, and of cin input channels, `in` apart, with n <= LANES taps in a row of
 * each: those of tap j and channel c go to to[j] + c * step[j], as many rows as a vector has lanes turned at once.  What lies
 * `ahead`, if anything, will be wanted soon. */
INLINE void conv_pack_squares(const real *w, int64_t out, int64_t in, int64_t cin, int64_t n, int64_t ahead, real *const *to,
                              const int64_t *step) {
  enum { TOGETHER = LANES / TILE_M, LINE = 64 / sizeof(real) };
  for (int64_t c0 = 0; c0 < cin; c0 += TOGETHER) {
    for (int64_t c = c0; ahead && c < c0 + TOGETHER; c++)
      for (int64_t i = 0; i < TILE_M * out; i += LINE) prefetch(w + c * in + ahead + i);
    vec square[LANES];
    UNROLL for (int r = 0; r < LANES; r++) {
      const int64_t c = c0 + r / TILE_M;
      square[r] = c < cin ? v_load_n(w + c * in + r % TILE_M * out, n) : v_zero();
    }
    v_transpose(square);
    for (int s = 0; s < TOGETHER && c0 + s < cin; s++)
      for (int64_t j = 0; j < n; j++)
        memcpy(to[j] + (c0 + s) * step[j], (const real *)&square[j] + s * TILE_M, TILE_M * sizeof(real));
  }
}

/* TILE_M output channels of a panel of m, [row][m], whose `rows` weights are a row each, `out` apart. */
static void conv_pack_rows(const real *w, int64_t out, int64_t rows, int64_t m, real *packed) {
  const int64_t rest = rows % LANES;
  int64_t step[LANES];
  real *to[LANES];
  for (int j = 0; j < LANES; j++) to[j] = packed + j * m, step[j] = LANES * m;
  conv_pack_squares(w, out, LANES, rows / LANES, LANES, 0, to, step);
  for (int j = 0; j < LANES; j++) to[j] += (rows - rest) * m;
  conv_pack_squares(w + rows - rest, out, LANES, 1, rest, 0, to, step);
}

/* One panel of m output channels of a phase, [cin * taps][m], of the channels from from_c on, from weight (k, c / groups,
 * kernel).  The input gradient swaps the roles of k and c.  Returns whether an Inf or a NaN is among them. */
static int conv_pack(const vox_conv *p, const vox_layout *l, const vox_phase *ph, int64_t group, int64_t k0, int64_t m,
                     int64_t from_c, int64_t cin, const void *weight, void *packed) {
  enum { AHEAD = 8, LINE = 64 / sizeof(real) };
  const int64_t *kernel = p->kernel;
  const int64_t taps = kernel[0] * kernel[1] * kernel[2], step = ph->taps * m, together = vox_max(4, 16 / taps);
  const int forward = p->operation == VOX_CONV, squares = m % TILE_M == 0 && LANES % TILE_M == 0 && ph->taps == taps;
  const int64_t out_stride = forward ? l->cin * taps : taps, in_stride = forward ? taps : l->cout * taps;
  const real *w = (const real *)weight + group * l->cin * l->cout * taps + k0 * out_stride + from_c * in_stride;
  const vox_axis *a = ph->axis;
  if (squares && forward) {
    for (int64_t i = 0; i < m; i += TILE_M)
      conv_pack_rows(w + i * out_stride, out_stride, cin * taps, m, (real *)packed + i);
    return has_nonfinite(packed, cin * step);
  }
  for (int64_t t = 0; squares && m == TILE_M && taps > 1 && t < taps; t += LANES) {
    real *to[LANES];
    int64_t steps[LANES];
    for (int64_t j = 0; j < LANES; j++) to[j] = (real *)packed + (t + j) * TILE_M, steps[j] = step;
    /* the next panel's, which an item packs as soon as it is through with this one: a gradient's channels lie far apart, each a
     * few lines of memory, and no processor guesses where the next one is */
    conv_pack_squares(w + t, out_stride, in_stride, cin, vox_min(LANES, taps - t), t ? 0 : m * out_stride, to, steps);
    if (t + LANES >= taps) return has_nonfinite(packed, cin * step);
  }
  for (int64_t c0 = 0; c0 < cin; c0 += together) {
    const int64_t channels = vox_min(together, cin - c0);
    real *block = (real *)packed + c0 * step;
    if (!forward)
      for (int64_t c = c0 + AHEAD; c < vox_min(cin, c0 + AHEAD + together); c++)
        for (int64_t i = 0; i < m * taps; i += LINE) prefetch(w + c * in_stride + i);
    for (int64_t td = 0; td < a[0].taps; td++)
      for (int64_t th = 0; th < a[1].taps; th++)
        for (int64_t tw = 0; tw < a[2].taps; tw++, block += m) {
          const int64_t id = a[0].index0 + td * a[0].index_step, ih = a[1].index0 + th * a[1].index_step;
          const int64_t iw = a[2].index0 + tw * a[2].index_step;
          const real *from = w + c0 * in_stride + (id * kernel[1] + ih) * kernel[2] + iw;
          real *to = block;
          for (int64_t c = 0; c < channels; c++, from += in_stride, to += step)
            if (m == TILE_M && out_stride == 1)
              memcpy(to, from, TILE_M * sizeof(real));
            else if (out_stride == 1)
              memcpy(to, from, (size_t)m * sizeof(real));
            else if (m == TILE_M)
              UNROLL for (int i = 0; i < TILE_M; i++) to[i] = from[i * out_stride];
            else
              for (int64_t i = 0; i < m; i++) to[i] = from[i * out_stride];
        }
  }
  return has_nonfinite(packed, cin * step);
}

/* Of a tap of a gradient's kernel: the taps of phases before its own, those of its own, and its number among these. */
typedef struct tap_of_phase {
  int64_t before, taps, number;
} tap_of_phase;

static tap_of_phase tap_of_kernel(const vox_conv *p, int64_t tap) {
  const int64_t *kernel = p->kernel, at[3] = {tap / kernel[2] / kernel[1], tap / kernel[2] % kernel[1], tap % kernel[2]};
  int64_t residue[3], number = 0;
  vox_phase ph;
  for (int i = 0; i < 3; i++) residue[i] = vox_modulo(at[i] * p->dilation[i] - p->pad[i], p->stride[i]);
  vox_conv_phase(p, residue, &ph);
  for (int i = 0; i < 3; i++) number = number * ph.axis[i].taps + (at[i] - ph.axis[i].index0) / ph.axis[i].index_step;
  return (tap_of_phase){ph.before, ph.taps, number};
}

/* Up to LANES taps, from w on, of `channels` input channels and m output channels of a gradient, to where the panels of their
 * phases begin at those channels: `before` apart for each tap of the phases before. */
static void conv_pack_taps(const vox_conv *p, const vox_layout *l, const tap_of_phase *of, int64_t n, const real *w,
                           int64_t channels, int64_t m, int64_t before, int64_t own, real *packed) {
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2], row = l->cout * taps;
  real *to[LANES];
  int64_t step[LANES];
  for (int64_t j = 0; j < n; j++) {
    step[j] = of[j].taps * m;
    to[j] = packed + of[j].before * before + of[j].taps * own + of[j].number * m;
  }
  if (m == TILE_M && taps == 1)
    for (int64_t c = 0; c < channels; c++) memcpy(to[0] + c * TILE_M, w + c * row, TILE_M * sizeof(real));
  else if (taps == 1)
    for (int64_t c = 0; c < channels; c++) memcpy(to[0] + c * m, w + c * row, (size_t)m * sizeof(real));
  else if (m == TILE_M && LANES % TILE_M == 0)
    conv_pack_squares(w, taps, row, channels, n, l->late ? m * taps : 0, to, step);
  else
    for (int64_t c = 0; c < channels; c++)
      for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++) to[j][c * step[j] + i] = w[c * row + i * taps + j];
}

/* All of a gradient's weights.  Its output channels lie together, so that a few input channels at a time go to all panels, and
 * all taps to their phases.  Returns whether an Inf or a NaN is among them. */
static int conv_pack_grad(const vox_conv *p, const vox_layout *l, const void *weight, void *packed) {
  enum { BYTES = 32 * 1024, LEAST = 8 };
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2], row = l->cout * taps;
  const int64_t block = vox_round_up(vox_max(1, BYTES / (int64_t)sizeof(real) / vox_max(1, row)), LEAST);
  int nonfinite = 0;
  for (int64_t t = 0; t < taps; t += LANES) {
    const int64_t n = vox_min(LANES, taps - t);
    tap_of_phase of[LANES];
    for (int64_t j = 0; j < n; j++) of[j] = tap_of_kernel(p, t + j);
    for (int64_t c0 = 0; c0 < p->groups * l->cin; c0 += vox_min(block, l->cin - c0 % l->cin)) {
      const int64_t group = c0 / l->cin, from_c = c0 % l->cin, channels = vox_min(block, l->cin - from_c);
      const real *w = (const real *)weight + c0 * row;
      if (t == 0) nonfinite |= has_nonfinite(w, channels * row);
      for (int64_t k0 = 0, m; k0 < l->cout; k0 += m) {
        m = vox_panel_width(l->panel, l->cout - k0);
        conv_pack_taps(p, l, of, n, w + k0 * taps + t, channels, m, p->groups * l->cin * l->cout,
                       (group * l->cout + k0) * l->cin + from_c * m, packed);
      }
    }
  }
  return nonfinite;
}
