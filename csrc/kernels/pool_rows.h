/* Windows beside each other along one row, in vectors: what maxima and means have in common. */

/* How the taps of neighbouring windows reach the lanes: de-interleaved from as many loads as the stride has steps, or,
 * for rare strides, one element at a time. */
enum { ONE_BY_ONE = 0, MOST_SHUFFLED = 4 };

/* What lies in memory, with windows in the lanes: one vector for each tap. */
INLINE void pool_taps(const int form, const vec *raw, vec *tap) {
  if (form == 2) {
    tap[0] = v_even(raw[0], raw[1]);
    tap[1] = v_odd(raw[0], raw[1]);
  } else if (form == 3) {
    UNROLL for (int j = 0; j < 3; j++) tap[j] = v_third(raw[0], raw[1], raw[2], j);
  } else if (form == 4) {
    vec even[2] = {v_even(raw[0], raw[1]), v_even(raw[2], raw[3])}, odd[2] = {v_odd(raw[0], raw[1]), v_odd(raw[2], raw[3])};
    tap[0] = v_even(even[0], even[1]);
    tap[1] = v_even(odd[0], odd[1]);
    tap[2] = v_odd(even[0], even[1]);
    tap[3] = v_odd(odd[0], odd[1]);
  } else {
    tap[0] = raw[0];
  }
}

/* Scratch of one item, in elements: some rows with what lies beside them, and what vectors reach beyond the last. */
enum { BAND = 4096, BEYOND = 8 * LANES };

INLINE vec fold_two(const int mean, vec a, vec best) { return mean ? best + a : v_max(a, best); }

/* LANES windows of `taps` elements, the first at `from`: each one's sum, or its maximum where there is no NaN.  Whole
 * vectors are read, `form` of them at a time. */
INLINE vec fold_taps(const int mean, const int form, const real *from, int64_t taps, int64_t dilation) {
  vec all = v_zero();
  for (int64_t base = 0; base < taps; base += form) {
    vec raw[MOST_SHUFFLED], tap[MOST_SHUFFLED];
    UNROLL for (int i = 0; i < form; i++) raw[i] = v_load(from + base * dilation + i * LANES);
    pool_taps(form, raw, tap);
    UNROLL for (int j = 0; j < form; j++) {
      if (base + j >= taps) break;
      all = base + j == 0 ? tap[0] : fold_two(mean, tap[j], all);
    }
  }
  return all;
}

/* Elements that windows [0, n) of a strip read, whole vectors of them. */
static inline int64_t strip_pitch(int64_t n, int64_t taps, int64_t step, int64_t dilation) {
  return vox_round_up(vox_round_up(n, LANES) * step + (taps - 1) * dilation, LANES);
}

/* `fill` before and behind what a row of a band will hold: n elements from `left` on. */
INLINE void fill_ends(real *row, int64_t left, int64_t n, int64_t pitch, vec fill) {
  for (int64_t i = 0; i < left; i += LANES) v_store(row + i, fill);
  for (int64_t i = left + n / LANES * LANES; i < pitch; i += LANES) v_store(row + i, fill);
}
