/* The arithmetic ceiling:  s[i] = s[i] * a + b, `iterations` times, on registers alone.
 *
 * PROBE_CHAINS independent chains hide the latency of an fma on any machine with up to PROBE_CHAINS of them in flight,
 * and leave registers for a and b where there are 16.  The values stay within [0, 1]: none is denormal.  Returns the
 * multiplications and additions done; *sink takes a value that depends on all of them. */
enum { PROBE_CHAINS = 12 };

static int64_t probe_fma(int64_t iterations, double *sink) {
  vec sum[PROBE_CHAINS], a = v_set1((real)0.5), b = v_set1((real)0.25), total = v_zero();
  UNROLL for (int i = 0; i < PROBE_CHAINS; i++) sum[i] = v_set1((real)i / PROBE_CHAINS);
  for (int64_t n = 0; n < iterations; n++)
    UNROLL for (int i = 0; i < PROBE_CHAINS; i++) sum[i] = v_fma(sum[i], a, b);
  UNROLL for (int i = 0; i < PROBE_CHAINS; i++) total += sum[i];
  *sink = total[0];
  return iterations * PROBE_CHAINS * LANES * 2;
}

/* The ceiling of memory:  to[i] = from[i] for the whole vectors of count elements, `iterations` times.
 *
 * from and to do not overlap.  The barrier makes each pass happen.  Returns the bytes read and written. */
static int64_t probe_copy(int64_t iterations, int64_t count, const void *from, void *to) {
  const real *source = from;
  real *target = to;
  const int64_t whole = count / LANES * LANES;
  for (int64_t n = 0; n < iterations; n++) {
    for (int64_t i = 0; i < whole; i += LANES) v_store(target + i, v_load(source + i));
    __asm__ volatile("" ::: "memory");
  }
  return iterations * whole * (int64_t)sizeof(real) * 2;
}
