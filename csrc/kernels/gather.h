/* How input reaches the tiles: as a zero-bordered band of rows (direct), or as a panel of one row per (channel, tap)
 * (im2col).  Both serve the forward pass, the input gradient and the weight gradient. */

/* to[i] = line[(i + low) * step + residue] for i < count, 0 outside the line's `size` elements. */
INLINE void gather_line(const real *line, int64_t size, int64_t step, int64_t at, int64_t count, real *to) {
  int64_t first, last;
  if (step == 1) { /* most lines are short, and not worth a division */
    for (int64_t i = 0; i < count; i += LANES, at += LANES) {
      vec a;
      if (at >= 0 && at + LANES <= size)
        a = v_load(line + at);
      else if (at + LANES <= 0 || at >= size)
        a = v_zero();
      else
        a = v_load_range(line + at, -at, size - at, v_zero());
      if (i + LANES <= count)
        v_store(to + i, a);
      else
        v_store_n(to + i, a, count - i);
    }
    return;
  }
  vox_inside(size, step, at, count, &first, &last);
  for (int64_t i = 0; i < first; i++) to[i] = 0;
  if (step == 2) {
    for (int64_t i = first; i < last; i += LANES) {
      int64_t n = vox_min(LANES, last - i);
      v_store_n(to + i, v_load_stride2(line + (at + 2 * i), n), n);
    }
  } else if (step == 4) {
    for (int64_t i = first; i < last; i += LANES) {
      int64_t n = vox_min(LANES, last - i);
      v_store_n(to + i, v_load_stride4(line + (at + 4 * i), n), n);
    }
  } else {
    for (int64_t i = first; i < last; i++) to[i] = line[at + i * step];
  }
  for (int64_t i = last; i < count; i++) to[i] = 0;
}

/* How a column of lines is read and written: whole, by masks, or by masks and all of it from the first vector, or from the
 * first half of the vectors. */
enum { GATHER_WHOLE, GATHER_MASKED, GATHER_NARROW, GATHER_HALF };

/* to[r * slot + l * pitch + i] = x[l * row + at + r + i * S] for r < R, l < lines, i < n <= LANES; 0 outside a line's
 * `size` elements.  R is 1 or S.  What lies `next` further will be wanted soon: lines are too short for the processor to
 * guess. */
INLINE void gather_column(const int S, const int R, const int form, const real *x, int64_t row, int64_t lines,
                          int64_t size, int64_t at, int64_t n, real *to, int64_t pitch, int64_t slot, int64_t next) {
  vmask inside[4];
  const vmask stored = v_range(0, n);
  UNROLL for (int j = 0; j < S; j++) inside[j] = v_range(-at - j * LANES, size - at - j * LANES);
  const real *from = x + at;
  for (int64_t l = 0; l < lines; l++, from += row, to += pitch) {
    vec in[4], out[4];
    UNROLL for (int j = 0; j < S; j++) {
      const real *p = from + j * LANES;
      if (S > 1) prefetch(p + next);
      in[j] = form == GATHER_WHOLE ? v_load(p) : form == GATHER_NARROW && j ? in[0] : v_load_masked(p, inside[j]);
    }
    if (S == 1) {
      out[0] = in[0];
    } else if (S == 2) {
      out[0] = v_even(in[0], in[1]);
      if (R == 2) out[1] = v_odd(in[0], in[1]);
    } else {
      vec even_low = v_even(in[0], in[1]), even_high = v_even(in[2], in[3]);
      out[0] = v_even(even_low, even_high);
      if (R == 4) {
        vec odd_low = v_odd(in[0], in[1]), odd_high = v_odd(in[2], in[3]);
        out[1] = v_even(odd_low, odd_high);
        out[2] = v_odd(even_low, even_high), out[3] = v_odd(odd_low, odd_high);
      }
    }
    UNROLL for (int r = 0; r < R; r++)
      if (form == GATHER_WHOLE)
        v_store(to + r * slot, out[r]);
      else
        v_store_masked(to + r * slot, out[r], stored);
  }
}

/* The same for i < pitch: a column's masks serve all its lines. */
INLINE void gather_lines(const int S, const int R, const real *x, int64_t row, int64_t lines, int64_t size,
                         int64_t at, real *to, int64_t pitch, int64_t slot, int64_t next) {
  for (int64_t i = 0; i < pitch; i += LANES, at += S * LANES) {
    const int64_t n = vox_min(LANES, pitch - i);
    if (n == LANES && at >= 0 && at + S * LANES <= size)
      gather_column(S, R, GATHER_WHOLE, x, row, lines, size, at, n, to + i, pitch, slot, next);
    else if (S > 1 && S * n <= LANES)
      gather_column(S, R, GATHER_NARROW, x, row, lines, size, at, n, to + i, pitch, slot, next);
    else
      gather_column(S, R, GATHER_MASKED, x, row, lines, size, at, n, to + i, pitch, slot, next);
  }
}

/* A band: outputs d, [h0, h0 + rows), [w0, w0 + cols) of a phase.  Scratch of one channel:
 *
 *   [depth tap][row residue][column residue][rows + halo][pitch],  pitch = cols + halo
 *
 * De-interleaving by residues makes the pixels of a tap contiguous whatever the stride, across rows too, so a tile may
 * run over row ends; what it computes between cols and pitch is not stored. */
typedef struct band {
  int64_t rows, cols, lines, pitch, slots_h, slots_w;
  int64_t filled, plane; /* elements of a channel, and from one channel to the next */
} band;

/* Elements, rounded up to an odd number of cache lines: strides that keep neighbours out of the same sets. */
INLINE int64_t odd_lines(int64_t elements) {
  const int64_t line = VOX_ALIGN / (int64_t)sizeof(real);
  return (vox_round_up(elements, line) / line | 1) * line;
}

static band band_of(const vox_phase *ph, int64_t rows, int64_t cols) {
  band b = {.rows = rows, .cols = cols};
  b.slots_h = vox_axis_slots(&ph->axis[1]);
  b.slots_w = vox_axis_slots(&ph->axis[2]);
  b.lines = rows + vox_axis_halo(&ph->axis[1]);
  b.pitch = cols + vox_axis_halo(&ph->axis[2]);
  b.filled = ph->axis[0].taps * b.slots_h * b.slots_w * b.lines * b.pitch;
  b.plane = odd_lines(b.filled);
  return b;
}

static void band_copy(const vox_phase *ph, const band *b, int64_t d, int64_t h0, int64_t w0, const real *x,
                      int64_t channels, real *scratch) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  const int64_t image = az->size * ay->size * ax->size, low_h = vox_axis_low(ay), low_w = vox_axis_low(ax);
  const int64_t step = ax->step, pitch = b->pitch, slot = b->lines * pitch, row = ay->step * ax->size;
  /* residues that are read at once */
  const int together = ax->offset_step == 1 && b->slots_w == step && (step == 2 || step == 4) ? (int)step : 1;
  for (int64_t c = 0; c < channels; c++) {
    real *to = scratch + c * b->plane;
    for (int64_t td = 0; td < az->taps; td++) {
      const int64_t z = d * az->step + vox_axis_offset(az, td);
      for (int64_t sh = 0; sh < b->slots_h; sh++) {
        const int64_t top = (h0 + low_h) * ay->step + ay->offset0 + vox_axis_residue(ay, sh);
        int64_t first = 0, last = 0; /* lines that are not padding */
        if (z >= 0 && z < az->size) vox_inside(ay->size, ay->step, top, b->lines, &first, &last);
        const real *from = x + c * image + (z * ay->size + top + first * ay->step) * ax->size;
        for (int64_t sw = 0; sw < b->slots_w; sw += together, to += together * slot) {
          const int64_t at = (w0 + low_w) * step + ax->offset0 + vox_axis_residue(ax, sw);
          for (int r = 0; r < together && (first > 0 || last < b->lines); r++) {
            memset(to + r * slot, 0, (size_t)(first * pitch) * sizeof(real));
            memset(to + r * slot + last * pitch, 0, (size_t)((b->lines - last) * pitch) * sizeof(real));
          }
          real *line = to + first * pitch;
          if (step == 1 && last - first > 1)
            gather_lines(1, 1, from, row, last - first, ax->size, at, line, pitch, slot, image);
          else if (step == 2 && together == 2)
            gather_lines(2, 2, from, row, last - first, ax->size, at, line, pitch, slot, image);
          else if (step == 2)
            gather_lines(2, 1, from, row, last - first, ax->size, at, line, pitch, slot, image);
          else if (together == 4)
            gather_lines(4, 4, from, row, last - first, ax->size, at, line, pitch, slot, image);
          else
            for (int64_t i = first; i < last; i++, line += pitch)
              gather_line(from + (i - first) * row, ax->size, step, at, pitch, line);
        }
      }
    }
  }
}

/* Where each tap of `channels` channels lies in the scratch. */
static void band_offsets(const vox_phase *ph, const band *b, int64_t channels, int64_t *off) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  int64_t low_h = vox_axis_low(ay), low_w = vox_axis_low(ax);
  for (int64_t td = 0; td < az->taps; td++)
    for (int64_t th = 0; th < ay->taps; th++)
      for (int64_t tw = 0; tw < ax->taps; tw++) {
        int64_t line = ((td * b->slots_h + th % b->slots_h) * b->slots_w + tw % b->slots_w) * b->lines;
        *off++ = (line + vox_axis_shift(ay, th) - low_h) * b->pitch + vox_axis_shift(ax, tw) - low_w;
      }
  for (int64_t i = 0; i < (channels - 1) * ph->taps; i++, off++) *off = off[-ph->taps] + b->plane;
}

/* The same of a phase that is one of several whose band this is: `all` reads what any of them does, step by step. */
static void band_offsets_within(const vox_phase *ph, const vox_phase *all, const band *b, int64_t channels, int64_t *off) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  for (int64_t td = 0; td < az->taps; td++)
    for (int64_t th = 0; th < ay->taps; th++)
      for (int64_t tw = 0; tw < ax->taps; tw++) {
        const int64_t z = vox_axis_offset(az, td) - all->axis[0].offset0, h = vox_axis_offset(ay, th) - all->axis[1].offset0;
        *off++ = (z * b->lines + h) * b->pitch + vox_axis_offset(ax, tw) - all->axis[2].offset0;
      }
  for (int64_t i = 0; i < (channels - 1) * ph->taps; i++, off++) *off = off[-ph->taps] + b->plane;
}

/* A panel: rows [row0, row0 + rows) of the (channel, tap) matrix, each of `width` elements of which the first `count`
 * are the outputs [q0, q0 + count) of the phase, in flat order, and the rest zero. */
static void panel_pack(const vox_phase *ph, int64_t q0, int64_t count, const real *x, int64_t row0, int64_t rows,
                       int64_t width, real *panel) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  int64_t image = az->size * ay->size * ax->size;
  int64_t start_w = q0 % ax->count, start_h = q0 / ax->count % ay->count, start_d = q0 / ax->count / ay->count;
  for (int64_t r = row0; r < row0 + rows; r++, panel += width) {
    int64_t tap = r % ph->taps, tw = tap % ax->taps, th = tap / ax->taps % ay->taps, td = tap / ax->taps / ay->taps;
    const real *channel = x + r / ph->taps * image;
    int64_t off_d = vox_axis_offset(az, td), off_h = vox_axis_offset(ay, th), off_w = vox_axis_offset(ax, tw);
    int64_t d = start_d, h = start_h, w = start_w, done = 0;
    while (done < count) {
      int64_t n = vox_min(ax->count - w, count - done);
      int64_t z = d * az->step + off_d, row = h * ay->step + off_h;
      if (z < 0 || z >= az->size || row < 0 || row >= ay->size)
        memset(panel + done, 0, (size_t)n * sizeof(real));
      else
        gather_line(channel + (z * ay->size + row) * ax->size, ax->size, ax->step, w * ax->step + off_w, n, panel + done);
      done += n;
      w = 0;
      if (++h == ay->count) h = 0, d++;
    }
    memset(panel + count, 0, (size_t)(width - count) * sizeof(real));
  }
}

/* Whether an Inf or a NaN is among n elements; by their bits, so that no floating-point flag is raised. */
static int has_nonfinite(const void *values, int64_t n) {
  const real *p = values;
#if VOX_DOUBLE
  const lane_int exponent = INT64_C(0x7ff0000000000000);
#else
  const lane_int exponent = 0x7f800000;
#endif
  ivec found = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) found |= (((ivec)v_load(p + i) & exponent) == exponent);
  if (i < n) found |= (((ivec)v_load_n(p + i, n - i) & exponent) == exponent);
  lane_int any = 0;
  for (int l = 0; l < LANES; l++) any |= found[l];
  return any != 0;
}
