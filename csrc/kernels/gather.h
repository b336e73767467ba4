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

/* to[r * slot + i] = line[at + r + i * S] for r < S, i < count, 0 outside the line: all residues of a step of 2 or 4 at
 * once. */
INLINE void gather_residues(const int S, const real *line, int64_t size, int64_t at, int64_t count, real *to, int64_t slot) {
  for (int64_t i = 0; i < count; i += LANES, at += S * LANES) {
    const int64_t n = vox_min(LANES, count - i);
    vec in[4], out[4];
    if (at >= 0 && at + S * LANES <= size)
      UNROLL for (int j = 0; j < S; j++) in[j] = v_load(line + (at + j * LANES));
    else
      UNROLL for (int j = 0; j < S; j++) {
        const int64_t start = at + j * LANES;
        in[j] = start + LANES <= 0 || start >= size ? v_zero() : v_load_range(line + start, -start, size - start, v_zero());
      }
    if (S == 2) {
      out[0] = v_even(in[0], in[1]), out[1] = v_odd(in[0], in[1]);
    } else {
      vec even_low = v_even(in[0], in[1]), odd_low = v_odd(in[0], in[1]);
      vec even_high = v_even(in[2], in[3]), odd_high = v_odd(in[2], in[3]);
      out[0] = v_even(even_low, even_high), out[1] = v_even(odd_low, odd_high);
      out[2] = v_odd(even_low, even_high), out[3] = v_odd(odd_low, odd_high);
    }
    UNROLL for (int j = 0; j < S; j++)
      if (n == LANES)
        v_store(to + j * slot + i, out[j]);
      else
        v_store_n(to + j * slot + i, out[j], n);
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

static band band_of(const vox_phase *ph, int64_t rows, int64_t cols) {
  band b = {.rows = rows, .cols = cols};
  b.slots_h = vox_axis_slots(&ph->axis[1]);
  b.slots_w = vox_axis_slots(&ph->axis[2]);
  b.lines = rows + vox_axis_halo(&ph->axis[1]);
  b.pitch = cols + vox_axis_halo(&ph->axis[2]);
  b.filled = ph->axis[0].taps * b.slots_h * b.slots_w * b.lines * b.pitch;
  /* an odd number of cache lines between channels, so that they do not fall into the same sets */
  b.plane = vox_round_up(b.filled, VOX_ALIGN / (int64_t)sizeof(real));
  if (b.plane / (VOX_ALIGN / (int64_t)sizeof(real)) % 2 == 0) b.plane += VOX_ALIGN / (int64_t)sizeof(real);
  return b;
}

/* The next channel's part of a line: lines of a band are too short for the processor to guess where the next one lies. */
INLINE void prefetch_line(const real *line, int64_t at, int64_t count) {
  enum { LINE = 64 / sizeof(real) };
  for (int64_t i = 0; i < count; i += LINE) prefetch(line + at + i);
}

static void band_copy(const vox_phase *ph, const band *b, int64_t d, int64_t h0, int64_t w0, const real *x,
                      int64_t channels, real *scratch) {
  const vox_axis *az = &ph->axis[0], *ay = &ph->axis[1], *ax = &ph->axis[2];
  int64_t image = az->size * ay->size * ax->size, low_h = vox_axis_low(ay), low_w = vox_axis_low(ax);
  const int all_residues = ax->offset_step == 1 && b->slots_w == ax->step && (ax->step == 2 || ax->step == 4);
  for (int64_t c = 0; c < channels; c++) {
    real *to = scratch + c * b->plane;
    for (int64_t td = 0; td < az->taps; td++) {
      int64_t z = d * az->step + vox_axis_offset(az, td);
      for (int64_t sh = 0; sh < b->slots_h; sh++) {
        int64_t top = (h0 + low_h) * ay->step + ay->offset0 + vox_axis_residue(ay, sh);
        if (all_residues) {
          int64_t at = (w0 + low_w) * ax->step + ax->offset0, slot = b->lines * b->pitch;
          for (int64_t i = 0; i < b->lines; i++, to += b->pitch) {
            int64_t row = top + i * ay->step;
            const real *line = x + c * image + (z * ay->size + row) * ax->size;
            prefetch_line(line + image, at, ax->step * b->pitch);
            if (z < 0 || z >= az->size || row < 0 || row >= ay->size)
              for (int64_t sw = 0; sw < b->slots_w; sw++) memset(to + sw * slot, 0, (size_t)b->pitch * sizeof(real));
            else if (ax->step == 4)
              gather_residues(4, line, ax->size, at, b->pitch, to, slot);
            else
              gather_residues(2, line, ax->size, at, b->pitch, to, slot);
          }
          to += (b->slots_w - 1) * slot;
          continue;
        }
        for (int64_t sw = 0; sw < b->slots_w; sw++) {
          int64_t at = (w0 + low_w) * ax->step + ax->offset0 + vox_axis_residue(ax, sw);
          for (int64_t i = 0; i < b->lines; i++, to += b->pitch) {
            int64_t row = top + i * ay->step;
            if (z < 0 || z >= az->size || row < 0 || row >= ay->size)
              memset(to, 0, (size_t)b->pitch * sizeof(real));
            else
              gather_line(x + c * image + (z * ay->size + row) * ax->size, ax->size, ax->step, at, b->pitch, to);
          }
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
