/* Pooling, its gradients, unfold and fold, and scatter. */

static vox_window window_of(const fuzz_case *f) {
  vox_window p = {.planes = f->n, .type = (int32_t)f->type, .count_include_pad = (int32_t)f->count_include_pad,
                  .divisor = f->divisor};
  memcpy(p.spatial, f->spatial, sizeof p.spatial);
  memcpy(p.kernel, f->kernel, sizeof p.kernel);
  memcpy(p.stride, f->stride, sizeof p.stride);
  memcpy(p.pad, f->pad, sizeof p.pad);
  memcpy(p.pad_after, f->pad_after, sizeof p.pad_after);
  memcpy(p.dilation, f->dilation, sizeof p.dilation);
  memcpy(p.output, f->output, sizeof p.output);
  return p;
}

/* What the mean of each output divides by, in order of the outputs. */
static double divisor_at(const fuzz_case *f, int64_t o) {
  const int64_t at[3] = {o / f->output[2] / f->output[1], o / f->output[2] % f->output[1], o % f->output[2]};
  double count = 1;
  if (f->divisor) return (double)f->divisor;
  for (int i = 0; i < 3; i++) {
    int64_t start = (at[i] ? at[i] * f->stride[i] : 0) - f->pad[i], inside = 0;
    for (int64_t t = 0; t < f->kernel[i]; t++)
      inside += f->count_include_pad ? start + t < f->spatial[i] + f->pad_after[i]
                                     : start + t >= 0 && start + t < f->spatial[i];
    count *= (double)inside;
  }
  return count;
}

/* Whether element i replaces element `best` as the maximum. */
static int replaces(int type, const void *p, int64_t i, int64_t best) {
  switch (type) {
#define GREATER(t) return ((const t *)p)[i] > ((const t *)p)[best]
  case VOX_F32: return ((const float *)p)[i] > ((const float *)p)[best] || isnan(((const float *)p)[i]);
  case VOX_F64: return ((const double *)p)[i] > ((const double *)p)[best] || isnan(((const double *)p)[i]);
  case VOX_I8: GREATER(int8_t);
  case VOX_U8: GREATER(uint8_t);
  case VOX_I16: GREATER(int16_t);
  case VOX_U16: GREATER(uint16_t);
  case VOX_I32: GREATER(int32_t);
  case VOX_U32: GREATER(uint32_t);
  case VOX_I64: GREATER(int64_t);
  default: GREATER(uint64_t);
#undef GREATER
  }
}

static int same_element(int type, const void *found, int64_t i, const void *from, int64_t j) {
  const int64_t size = sizes_of[type];
  if (!memcmp((const char *)found + i * size, (const char *)from + j * size, (size_t)size)) return 1;
  return type <= VOX_F64 && isnan(load(type, found, i)) && isnan(load(type, from, j)); /* a payload may be quieted */
}

static void run_window_once(caller *c, const vox_window *p, int64_t threads, const void *x, void *y, int64_t *indices) {
  int64_t cursor = 0;
  int status;
  do
    switch (c->now.kind) {
    case MAX_POOL: status = vox_max_pool(p, threads, x, y, indices, &cursor); break;
    case AVG_POOL: status = vox_avg_pool(p, threads, x, y, &cursor); break;
    case AVG_POOL_GRAD: status = vox_avg_pool_grad(p, threads, x, y, &cursor); break;
    case UNFOLD: status = vox_unfold(p, threads, x, y, &cursor); break;
    default: status = vox_fold(p, threads, x, y, &cursor);
    }
  while (status == VOX_AGAIN);
  if (status) fail(c, "refused: %d", status);
}

static void check_plane_of_windows(const caller *c, const char *x, const void *y, const int64_t *indices, int64_t s);

static void run_window(caller *c) {
  const fuzz_case *f = &c->now;
  const vox_window p = window_of(f);
  const int kind = (int)f->kind, type = (int)f->type;
  const int64_t size = sizes_of[type], image = volume(f->spatial), plane = volume(f->output);
  const int64_t wide = kind == UNFOLD || kind == FOLD ? volume(f->kernel) * plane : plane;
  const int back = kind == FOLD || kind == AVG_POOL_GRAD;
  const int64_t in = back ? wide : image, out = back ? image : wide, ins = p.planes * in, outs = p.planes * out;
  make_operand(c, 0, type, ins, (int)f->data);

  char *y[2];
  int64_t *indices[2];
  for (int run = 0; run < 2; run++) {
    const int64_t place = f->place[run];
    const char *x = operand(c, 0, 0, ins * size, place, size);
    y[run] = output_block(c, 6 + run, outs * size, place, size);
    indices[run] = f->indexed ? output_block(c, 2 + run, outs * 8, place, 8) : NULL;
    run_window_once(c, &p, f->threads[run], x, y[run], indices[run]);
    check_canaries(c, y[run], outs * size, place);
    if (f->indexed) check_canaries(c, indices[run], outs * 8, place);
    check_unchanged(c, 0, x, ins * size);
    if (run && f->slice >= 0) {
      vox_window one = p;
      one.planes = 1;
      char *alone = output_block(c, 8, out * size, place, size);
      run_window_once(c, &one, f->threads[0], x + f->slice * in * size, alone, NULL);
      if (memcmp(alone, y[0] + f->slice * out * size, (size_t)(out * size)))
        fail(c, "plane %lld alone has other bits", (long long)f->slice);
      sliced_cases++;
    }
  }
  if (memcmp(y[0], y[1], (size_t)(outs * size))) fail(c, "bits differ between two runs");
  if (f->indexed && memcmp(indices[0], indices[1], (size_t)outs * 8)) fail(c, "indices differ between two runs");

  find_pairs(c, back);
  for (int64_t s = 0; s < p.planes; s++)
    check_plane_of_windows(c, c->masters[0] + s * in * size, y[0] + s * out * size, f->indexed ? indices[0] + s * out : NULL, s);
  exact_cases += f->data == INTEGERS || kind == MAX_POOL || kind == UNFOLD;
}

/* Plane s: x and y, indices that of the plane. */
static void check_plane_of_windows(const caller *c, const char *x, const void *y, const int64_t *indices, int64_t s) {
  const fuzz_case *f = &c->now;
  const int kind = (int)f->kind, type = (int)f->type;
  const int64_t plane = volume(f->output), image = volume(f->spatial), taps = volume(f->kernel);
  const double *wide = c->wide[0] + s * (kind == FOLD ? taps * plane : kind == AVG_POOL_GRAD ? plane : image);
  if (kind == UNFOLD)
    for (int64_t o = 0; o < plane; o++)
      for (int64_t t = 0, at = c->starts[o]; t < taps; t++) {
        static const double zero = 0;
        int inside = at < c->starts[o + 1] && c->second[at] == t;
        if (!same_element(type, y, t * plane + o, inside ? (const void *)x : &zero, inside ? c->first[at] : 0))
          fail(c, "plane %lld, column element of tap %lld, output %lld", (long long)s, (long long)t, (long long)o);
        at += inside;
      }
  if (kind == MAX_POOL)
    for (int64_t o = 0; o < plane; o++) {
      int64_t best = c->first[c->starts[o]];
      for (int32_t at = c->starts[o]; at < c->starts[o + 1]; at++)
        if (replaces(type, x, c->first[at], best)) best = c->first[at];
      if (!same_element(type, y, o, x, best)) fail(c, "plane %lld, maximum %lld", (long long)s, (long long)o);
      if (indices && indices[o] != best)
        fail(c, "index %lld is %lld, not %lld", (long long)o, (long long)indices[o], (long long)best);
    }
  if (kind == AVG_POOL)
    for (int64_t o = 0; o < plane; o++) {
      double sum = 0, magnitude = 0, by = divisor_at(f, o);
      for (int32_t at = c->starts[o]; at < c->starts[o + 1]; at++) {
        sum += wide[c->first[at]];
        magnitude += fabs(wide[c->first[at]]);
      }
      /* of integers the sum is exact and the division its only rounding, to float through double as well */
      const double mean = type == VOX_F64 ? sum / by : (double)(float)(sum / (double)(float)by);
      const int exact = f->data == INTEGERS;
      check(c, type, exact, 0, o, load(type, y, o), exact ? mean : sum / by, magnitude / by, c->starts[o + 1] - c->starts[o]);
    }
  if (kind == AVG_POOL_GRAD || kind == FOLD)
    for (int64_t i = 0; i < image; i++) {
      double sum = 0, magnitude = 0;
      for (int32_t at = c->starts[i]; at < c->starts[i + 1]; at++) {
        int64_t o = c->first[at];
        double v = kind == FOLD ? wide[c->second[at] * plane + o] : wide[o] / divisor_at(f, o);
        sum += v;
        magnitude += fabs(v);
      }
      check(c, type, kind == FOLD && f->data == INTEGERS, 0, i, load(type, y, i), sum, magnitude,
            c->starts[i + 1] - c->starts[i]);
    }
}

/* Max-pooling by windows side by side that keeps where in them each maximum stands, and the way back. */
static void run_pool_taps(caller *c) {
  const fuzz_case *f = &c->now;
  vox_window p = window_of(f);
  const int type = (int)f->type;
  const int64_t size = sizes_of[type], k = f->kg, planes = f->n * k, image = volume(f->spatial), plane = volume(f->output);
  const int64_t ins = planes * image, outs = planes * plane, taps = volume(f->kernel);
  const int64_t apart = (k + 1) * image, near = k * image + 3; /* samples of the ReLU's results, and of what is added */
  p.planes = planes;
  make_operand(c, 0, type, f->n * apart, (int)f->data);
  make_operand(c, 1, type, outs, (int)f->data);
  make_operand(c, 2, type, f->n * near, (int)f->data);
  char *y[2], *dx[2], *sums[2];
  uint8_t *tap[2];
  for (int run = 0; run < 2; run++) {
    const int64_t place = f->place[run];
    const char *x = operand(c, 0, 0, f->n * apart * size, place, size), *dy = operand(c, 1, 1, outs * size, place, size);
    const char *add = f->accumulate & 4 ? operand(c, 2, 2, f->n * near * size, place, size) : NULL;
    int64_t cursor = 0;
    y[run] = output_block(c, 3, outs * size, place, size);
    tap[run] = output_block(c, 4 + run, outs, place, 1);
    while (vox_max_pool_taps(&p, f->threads[run], x, y[run], tap[run], &cursor) == VOX_AGAIN) {
    }
    check_canaries(c, tap[run], outs, place);
    check_canaries(c, y[run], outs * size, place);
    dx[run] = output_block(c, 6 + run, ins * size, place, size);
    sums[run] = f->bias ? output_block(c, 8 + run, k * size, place, size) : NULL;
    cursor = 0;
    while (vox_max_pool_taps_grad(&p, f->threads[run], k, f->accumulate & 1 ? y[run] : NULL, dy, tap[run],
                                  f->accumulate & 2 ? x : NULL, apart, add, near, dx[run], sums[run],
                                  &cursor) == VOX_AGAIN) {
    }
    check_canaries(c, dx[run], ins * size, place);
    if (f->bias) check_canaries(c, sums[run], k * size, place);
    check_unchanged(c, 0, x, f->n * apart * size);
    check_unchanged(c, 1, dy, outs * size);
    if (add) check_unchanged(c, 2, add, f->n * near * size);
  }
  if (memcmp(tap[0], tap[1], (size_t)outs)) fail(c, "taps differ between two runs");
  if (memcmp(dx[0], dx[1], (size_t)(ins * size))) fail(c, "bits differ between two runs");
  if (f->bias && memcmp(sums[0], sums[1], (size_t)(k * size))) fail(c, "sums differ between two runs");
  for (int64_t channel = 0; channel < k; channel++) {
    double total = 0, all = 0;
    for (int64_t s = 0; s < f->n; s++)
      for (int64_t o = 0, q = (s * k + channel) * plane; o < plane; o++, q++) {
        const int64_t first = (s * k + channel) * image, added = s * near + channel * image;
        int64_t at[8], best = 0;
        for (int64_t t = 0; t < taps; t++) {
          const int64_t w = o % f->output[2] * 2 + t % 2, h = o / f->output[2] % f->output[1] * f->kernel[1] + t / 2 % f->kernel[1];
          const int64_t d = o / f->output[2] / f->output[1] * f->kernel[0] + t / 2 / f->kernel[1];
          at[t] = (d * f->spatial[1] + h) * f->spatial[2] + w;
          if (replaces(type, c->masters[0], first + at[t], first + at[best])) best = t;
        }
        if (tap[0][q] != best) fail(c, "output %lld: tap %d, not %lld", (long long)q, tap[0][q], (long long)best);
        if (!same_element(type, y[1], q, c->masters[0], first + at[best])) fail(c, "maximum %lld", (long long)q);
        for (int64_t t = 0; t < taps; t++) {
          const double x = c->wide[0][first + at[t]], output = c->wide[0][s * apart + channel * image + at[t]];
          double v = t != best || (f->accumulate & 1 && x <= 0) ? 0 : c->wide[1][q], magnitude = fabs(v);
          if (f->accumulate & 4) v += c->wide[2][added + at[t]], magnitude += fabs(c->wide[2][added + at[t]]);
          if (f->accumulate & 2 && output <= 0) v = magnitude = 0;
          check(c, type, f->data == INTEGERS || !(f->accumulate & 4), 0, first + at[t], load(type, dx[0], first + at[t]), v,
                magnitude, 2);
          total += v;
          all += magnitude;
        }
      }
    if (f->bias) check(c, type, f->data == INTEGERS, 0, channel, load(type, sums[0], channel), total, all, f->n * image + 2);
  }
  exact_cases += f->data == INTEGERS;
}

static void run_scatter(caller *c) {
  const fuzz_case *f = &c->now;
  const int type = (int)f->type;
  const int64_t size = sizes_of[type], count = volume(f->output), cells = volume(f->spatial), values = f->n * count;
  const int64_t outs = f->n * cells;
  make_operand(c, 0, type, values, (int)f->data);
  int64_t *at = malloc((size_t)(values + 1) * sizeof *at), *last = malloc((size_t)outs * sizeof *last);
  double *sums = calloc((size_t)outs * 2 + 1, sizeof *sums);
  if (!at || !last || !sums) abort();
  memset(last, 0xff, (size_t)outs * sizeof *last);
  /* each in its own window, where shapes are those of windows, but for one that may stray, in its plane or beyond */
  const int own = f->stride[2] > 0 && draw(c, 4) > 0;
  const int64_t stray = own && draw(c, 2) ? -1 : draw(c, values + 1);
  const int64_t lost = draw(c, 4) ? -1 : PICK(c, values - 1, draw(c, values + 1));
  for (int64_t i = 0; i < values; i++) {
    const int64_t q = i % count, of[3] = {q / f->output[2] / f->output[1], q / f->output[2] % f->output[1], q % f->output[2]};
    int64_t place = 0;
    for (int axis = 0; axis < 3; axis++) {
      const int64_t start = of[axis] * f->stride[axis] - f->pad[axis], first = start < 0 ? 0 : start;
      const int64_t end = start + f->kernel[axis] < f->spatial[axis] ? start + f->kernel[axis] : f->spatial[axis];
      place = place * f->spatial[axis] + (own ? first + draw(c, end - first) : 0);
    }
    at[i] = own && i != stray ? place : own && place + 2 < cells && draw(c, 2) ? place + draw(c, 3) : draw(c, cells);
    int64_t to = i / count * cells + at[i];
    last[to] = i;
    if (!f->accumulate) continue;
    sums[2 * to] += c->wide[0][i];
    sums[2 * to + 1] += fabs(c->wide[0][i]);
  }
  if (lost >= 0 && lost < values)
    at[lost] = PICK(c, -1, cells, cells + at[lost] % f->spatial[2], INT64_MIN, INT64_MAX, at[lost] + (1LL << 32),
                    at[lost] - (1LL << 32));
  char *out[2];
  for (int run = 0; run < 2; run++) {
    int64_t cursor = 0, place = f->place[run];
    const void *from = operand(c, 0, 0, values * size, place, size);
    int64_t *indices = memcpy(block(c, 2, values * 8, place, 8), at, (size_t)values * 8);
    out[run] = output_block(c, 6 + run, outs * size, place, size);
    int status;
    do {
      status = vox_scatter(type, f->threads[run], f->n, f->output, f->spatial, (int32_t)f->accumulate, from, indices, out[run],
                           &cursor);
    } while (status == VOX_AGAIN);
    check_canaries(c, out[run], outs * size, place);
    if (status != (lost >= 0 && lost < values ? VOX_OUTSIDE : VOX_OK)) fail(c, "status %d", status);
  }
  if (lost >= 0 && lost < values) {
    free(at), free(last), free(sums);
    return;
  }
  if (memcmp(out[0], out[1], (size_t)(outs * size))) fail(c, "bits differ between two runs");
  for (int64_t i = 0; i < outs; i++) {
    static const uint64_t zero = 0;
    if (f->accumulate)
      check(c, type, f->data == INTEGERS, 0, i, load(type, out[0], i), sums[2 * i], sums[2 * i + 1], count);
    else if (!same_element(type, out[0], i, last[i] < 0 ? (const void *)&zero : c->masters[0], last[i] < 0 ? 0 : last[i]))
      fail(c, "cell %lld", (long long)i);
  }
  free(at), free(last), free(sums);
  exact_cases += f->data == INTEGERS || !f->accumulate;
}
