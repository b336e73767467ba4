/* Windows beside each other along one row, in vectors: what maxima and means have in common; and what means divide by. */

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

/* The sums of LANES windows of `taps` elements, the first at `from`.  Whole vectors are read, `form` of them at a time. */
INLINE vec sum_taps(const int form, const real *from, int64_t taps) {
  vec sum = v_zero();
  for (int64_t base = 0; base < taps; base += form) {
    vec raw[MOST_SHUFFLED], tap[MOST_SHUFFLED];
    UNROLL for (int i = 0; i < form; i++) raw[i] = v_load(from + base + i * LANES);
    pool_taps(form, raw, tap);
    UNROLL for (int j = 0; j < form; j++)
      if (base + j < taps) sum = base + j == 0 ? tap[0] : sum + tap[j];
  }
  return sum;
}

/* Elements that the window at output (d, h, w) is divided by; padding included they may be more than an integer holds. */
static real avg_divisor(const vox_window *p, int64_t d, int64_t h, int64_t w) {
  if (p->divisor) return (real)p->divisor;
  const int64_t at[3] = {d, h, w};
  double count = 1;
  for (int i = 0; i < 3; i++) {
    int64_t start = at[i] * p->stride[i] - p->pad[i];
    int64_t end = vox_min(start + p->kernel[i], p->spatial[i] + p->pad_after[i]);
    count *= (double)(p->count_include_pad ? end - start : vox_min(end, p->spatial[i]) - vox_max(start, 0));
  }
  return (real)count;
}

/* a / divisor, without a division where that has the same bits. */
typedef struct avg_scale {
  vec divisor, inverse;
  int exact;
} avg_scale;
static avg_scale avg_scale_of(real divisor) {
#if VOX_DOUBLE
  const lane_int fraction = (INT64_C(1) << 52) - 1;
#else
  const lane_int fraction = (1 << 23) - 1;
#endif
  lane_int bits;
  memcpy(&bits, &divisor, sizeof bits);
  return (avg_scale){v_set1(divisor), v_set1(1 / divisor), (bits & fraction) == 0};
}
INLINE vec avg_divide(const avg_scale *s, vec sum) { return s->exact ? sum * s->inverse : sum / s->divisor; }
