/* Convolution, its gradients, and what the interface must refuse. */

static vox_conv conv_of(const fuzz_case *f) {
  static const int operations[] = {VOX_CONV, VOX_CONV_INPUT_GRAD, VOX_CONV_WEIGHT_GRAD};
  vox_conv p = {.n = f->n, .c = f->groups * f->cg, .k = f->groups * f->kg, .groups = f->groups, .type = (int32_t)f->type,
                .operation = operations[f->kind <= WEIGHT_GRAD ? f->kind : 0], .algorithm = (int32_t)f->algorithm,
                .activation = (int32_t)f->activation, .slope = 0.25, .once = f->values >> 4 & 1,
                .points = f->kind <= INPUT_GRAD && (f->values >> 5 & 3) == 0 ? 4 : 0};
  memcpy(p.spatial, f->spatial, sizeof p.spatial);
  memcpy(p.kernel, f->kernel, sizeof p.kernel);
  memcpy(p.stride, f->stride, sizeof p.stride);
  memcpy(p.pad, f->pad, sizeof p.pad);
  memcpy(p.dilation, f->dilation, sizeof p.dilation);
  memcpy(p.output, f->output, sizeof p.output);
  return p;
}

/* One call with fresh (run 0) or stale (run 1) scratch, or the library's own; the result, in output slot `slot`. */
static void *convolve(caller *c, const vox_conv *p, int64_t threads, int run, int slot, int64_t place, const void *a,
                      const void *b, const void *bias, int64_t outs) {
  const int64_t size = sizes_of[p->type], workspace = vox_conv_workspace_bytes(p, threads);
  const int64_t packed_bytes = vox_conv_packed_bytes(p), side = place < 0 ? place : AT_END;
  int64_t cursor = 0;
  int status;
  if (workspace < 0 || packed_bytes < 0) fail(c, "refused: %lld %lld", (long long)workspace, (long long)packed_bytes);
  if (workspace > 24 << 20) return NULL;
  void *out = output_block(c, slot, outs * size, place, size);
  if (run && p->once) {
    void *own = NULL;
    while ((status = vox_conv_once(p, threads, packed_bytes, workspace, a, b, bias, out, &own, &cursor)) == VOX_AGAIN)
      if (!own) fail(c, "the memory is gone");
    if (status || own) fail(c, "once: %d", status);
    check_canaries(c, out, outs * size, place);
    return out;
  }
  if (p->operation != VOX_CONV_WEIGHT_GRAD) {
    void *packed = block(c, 4, packed_bytes, side, size);
    if (!run) memset(packed, 0xff, (size_t)packed_bytes);
    if ((status = vox_conv_pack(p, b, packed))) fail(c, "pack: %d", status);
    b = packed;
  }
  void *memory = block(c, 5, workspace, side, size);
  if (!run || from_malloc) memset(memory, 0xff, (size_t)workspace);
  while ((status = vox_conv_run(p, threads, a, b, bias, out, memory, &cursor)) == VOX_AGAIN) {
  }
  if (status) fail(c, "run: %d", status);
  check_canaries(c, out, outs * size, place);
  return out;
}

/* The sum over m channels or samples and the pairs of one key, of products and of their magnitudes. */
typedef struct {
  double sum, magnitude;
} dot;
static dot dot_of(const caller *c, int64_t key, const double *a, int64_t a_step, const double *b, int64_t b_step, int64_t m) {
  dot d = {0, 0};
  for (int64_t i = 0; i < m; i++, a += a_step, b += b_step)
    for (int32_t at = c->starts[key]; at < c->starts[key + 1]; at++) {
      double product = a[c->first[at]] * b[c->second[at]];
      d.sum += product;
      d.magnitude += fabs(product);
    }
  return d;
}

/* Of the finite elements, since what the others touch is not finite; denormals round as if they were normal. */
static double plane_top(const double *p, int64_t count, double top) {
  for (int64_t i = 0; i < count; i++)
    if (fabs(p[i]) > top && isfinite(p[i])) top = fabs(p[i]);
  return top;
}
static double plane_sum(const double *p, int64_t count, double sum) {
  for (int64_t i = 0; i < count; i++) sum += isfinite(p[i]) ? fabs(p[i]) : 0;
  return sum;
}

/* A plane of results (of sample s and channel `channel` of group g, or a filter's plane) against the loops. */
typedef struct {
  const double *a, *b;          /* of the first reduced channel or sample */
  int64_t a_step, b_step, m;    /* to the next, and how many */
  int64_t a_plane, b_plane, keys;
} plane_of_sums;

static void check_plane(const caller *c, const vox_conv *p, const plane_of_sums *s, const void *found, int64_t at,
                        const double *bias) {
  const fuzz_case *f = &c->now;
  const double units = p->kernel[2] > 3 ? 2000 : p->points ? 25 : 150, each = p->kernel[2] > 3 ? 8 : p->points ? 0.25 : 1;
  const double sums = f->kind == WEIGHT_GRAD ? 0 : (double)(s->m * p->kernel[0]);
  const double winograd = p->algorithm == VOX_WINOGRAD ? units + each * sums : 0;
  const int exact = f->data == INTEGERS && (!winograd || p->points); /* whose points are 0 and +-1 */
  double published = 0;
  if (winograd) {
    const double least = p->type == VOX_F32 ? 0x1p-125 : 0x1p-1021;
    for (int64_t i = 0; i < s->m; i++) {
      const double *a = s->a + i * s->a_step, *b = s->b + i * s->b_step;
      published += f->kind == WEIGHT_GRAD ? plane_sum(a, s->a_plane, least) * plane_top(b, s->b_plane, least)
                                          : plane_top(a, s->a_plane, least) * plane_sum(b, s->b_plane, least);
    }
    if (bias) published += fabs(*bias);
  }
  for (int64_t key = 0; key < s->keys; key++) {
    dot d = dot_of(c, key, s->a, s->a_step, s->b, s->b_step, s->m);
    int64_t terms = (c->starts[key + 1] - c->starts[key]) * s->m;
    if (bias) {
      d.sum += *bias;
      d.magnitude += fabs(*bias);
      terms++;
    }
    if (p->activation && d.sum < 0) d.sum = p->activation == VOX_RELU ? 0 : d.sum * 0.25;
    check(c, p->type, exact, winograd, at + key, load(p->type, found, at + key), d.sum, winograd ? published : d.magnitude,
          terms);
  }
}

static void run_conv(caller *c) {
  const fuzz_case *f = &c->now;
  const vox_conv p = conv_of(f);
  const int kind = (int)f->kind, wg = kind == WEIGHT_GRAD;
  const int64_t size = sizes_of[p.type], image = volume(p.spatial), plane = volume(p.output), taps = volume(p.kernel);
  const int64_t xs = p.n * p.c * image, ws = p.k * f->cg * taps, ys = p.n * p.k * plane;
  const int64_t as = kind == INPUT_GRAD ? ys : xs, bs = wg ? ys : ws, outs = kind == CONV ? ys : wg ? ws : xs;
  const int64_t biases = wg || !f->bias ? 0 : kind == CONV ? p.k : p.c;
  const int calm = f->data == SPECIALS ? FLOATS : (int)f->data;
  make_operand(c, 0, p.type, as, f->planted ? (int)f->data : calm);
  make_operand(c, 1, p.type, bs, f->planted ? calm : (int)f->data);
  make_operand(c, 2, p.type, biases, calm);

  void *results[2];
  for (int run = 0; run < 2; run++) {
    const int64_t place = f->place[run];
    const void *a = operand(c, 0, 0, as * size, place, size), *b = operand(c, 1, 1, bs * size, place, size);
    const void *bias = biases ? operand(c, 2, 2, biases * size, place, size) : NULL;
    results[run] = convolve(c, &p, f->threads[run], run, 6 + run, place, a, b, bias, outs);
    if (!results[run]) {
      too_large++;
      return;
    }
    check_unchanged(c, 0, a, as * size);
    check_unchanged(c, 1, b, bs * size);
    if (run && f->slice >= 0 && !wg) {
      vox_conv one = p;
      one.n = 1;
      const char *sample = (const char *)a + f->slice * (as / p.n) * size;
      const void *alone = convolve(c, &one, f->threads[0], 1, 8, place, sample, b, bias, outs / p.n);
      if (alone && memcmp(alone, (char *)results[0] + f->slice * (outs / p.n) * size, (size_t)(outs / p.n * size)))
        fail(c, "sample %lld alone has other bits", (long long)f->slice);
      sliced_cases++;
    }
  }
  if (memcmp(results[0], results[1], (size_t)(outs * size))) fail(c, "bits differ between two runs");

  /* y[n, k, o] += x[n, c, position] * w[k, c, t], read in the direction that is asked for */
  const double *a = c->wide[0], *b = c->wide[1];
  find_pairs(c, kind);
  for (int64_t s = 0; s < (wg ? 1 : p.n); s++)
    for (int64_t g = 0; g < p.groups; g++)
      for (int64_t i = 0; i < (kind == INPUT_GRAD ? f->cg : f->kg); i++) {
        const int64_t k = g * f->kg + i;
        if (kind == CONV) {
          plane_of_sums sums = {a + (s * p.c + g * f->cg) * image, b + k * f->cg * taps, image, taps, f->cg, image, taps, plane};
          check_plane(c, &p, &sums, results[0], (s * p.k + k) * plane, biases ? c->wide[2] + k : NULL);
        } else if (kind == INPUT_GRAD) {
          const int64_t channel = g * f->cg + i;
          plane_of_sums sums = {a + (s * p.k + g * f->kg) * plane, b + (g * f->kg * f->cg + i) * taps, plane, f->cg * taps,
                                f->kg, plane, taps, image};
          check_plane(c, &p, &sums, results[0], (s * p.c + channel) * image, biases ? c->wide[2] + channel : NULL);
        } else {
          for (int64_t j = 0; j < f->cg; j++) {
            plane_of_sums sums = {b + k * plane, a + (g * f->cg + j) * image, p.k * plane, p.c * image, p.n, plane, image, taps};
            check_plane(c, &p, &sums, results[0], (k * f->cg + j) * taps, NULL);
          }
        }
      }
  winograd_cases += p.algorithm == VOX_WINOGRAD;
  exact_cases += f->data == INTEGERS && (p.algorithm != VOX_WINOGRAD || p.points);
}

/* The sum of each channel; or the gradient through a ReLU, and its sums if they are asked for. */
static void run_channels(caller *c) {
  const fuzz_case *f = &c->now;
  const int type = (int)f->type, relu = f->kind == RELU_GRAD;
  const int64_t size = sizes_of[type], count = f->cg, k = f->kg, all = f->n * k * count, outs = relu ? all : k;
  void *out[2], *sums[2];
  make_operand(c, 0, type, all, (int)f->data);
  if (relu) make_operand(c, 1, type, all, (int)f->data);
  for (int run = 0; run < 2; run++) {
    const int64_t place = f->place[run], threads = f->threads[run];
    int64_t cursor = 0;
    const void *dy = operand(c, 0, 0, all * size, place, size);
    const void *y = relu ? operand(c, 1, 1, all * size, place, size) : NULL;
    out[run] = output_block(c, 6 + run, outs * size, place, size);
    sums[run] = !relu ? out[run] : f->bias ? output_block(c, 2 + run, k * size, place, size) : NULL;
    while ((relu ? vox_relu_grad(type, threads, f->n, k, count, y, dy, out[run], sums[run], &cursor)
                 : vox_conv_bias_grad(type, threads, f->n, k, count, dy, out[run], &cursor)) == VOX_AGAIN) {
    }
    check_canaries(c, out[run], outs * size, place);
    if (sums[run]) check_canaries(c, sums[run], k * size, place);
    check_unchanged(c, 0, dy, all * size);
    if (relu) check_unchanged(c, 1, y, all * size);
  }
  if (memcmp(out[0], out[1], (size_t)(outs * size))) fail(c, "bits differ between two runs");
  if (sums[0] && memcmp(sums[0], sums[1], (size_t)(k * size))) fail(c, "sums differ between two runs");
  for (int64_t i = 0; i < k; i++) {
    double sum = 0, magnitude = 0;
    for (int64_t s = 0; s < f->n; s++)
      for (int64_t j = (s * k + i) * count; j < (s * k + i + 1) * count; j++) {
        const double v = relu && c->wide[1][j] <= 0 ? 0 : c->wide[0][j];
        if (relu) check(c, type, 1, 0, j, load(type, out[0], j), v, 0, 1);
        sum += v;
        magnitude += fabs(v);
      }
    if (sums[0]) check(c, type, f->data == INTEGERS, 0, i, load(type, sums[0], i), sum, magnitude, f->n * count);
  }
  exact_cases += f->data == INTEGERS;
}

/* Values that are wrong for every size, and those too large for the sums of two of them. */
static const int64_t wrong[] = {0, -1, INT64_MIN, INT64_MAX};

/* A problem with one field broken is refused before any pointer is followed: all of them are null. */
static void run_refused(caller *c) {
  const fuzz_case *f = &c->now;
  vox_conv p = conv_of(f);
  vox_window w = {.planes = 1, .type = (int32_t)f->type};
  memcpy(w.spatial, p.spatial, sizeof p.spatial);
  memcpy(w.kernel, p.kernel, sizeof p.kernel);
  memcpy(w.stride, p.stride, sizeof p.stride);
  memcpy(w.dilation, p.dilation, sizeof p.dilation);
  memcpy(w.output, p.output, sizeof p.output);
  int64_t axis = f->broken % 3, bad = wrong[f->how % 3], cursor = 0;
  switch (f->broken / 3) {
  case 0: p.spatial[axis] = w.spatial[axis] = bad; break;
  case 1: p.kernel[axis] = w.kernel[axis] = bad; break;
  case 2: p.stride[axis] = w.stride[axis] = bad; break;
  case 3: p.dilation[axis] = w.dilation[axis] = bad; break;
  case 4: p.output[axis] = w.output[axis] = bad; break;
  case 5: p.pad[axis] = w.pad[axis] = bad < 0 ? bad : -2; break;
  case 6: p.type = w.type = axis ? VOX_U64 + (int32_t)axis : -1; break;
  case 7: p.operation = axis ? 2 + (int32_t)axis : -1; break;
  case 8: p.algorithm = axis ? 90 + (int32_t)axis : -1; break;
  case 9: p.groups = bad; break;
  case 10:
    p.groups = 2;
    p.k = 2, p.c = 3 + 2 * axis;
    break;
  case 11: *(axis == 0 ? &p.n : axis == 1 ? &p.c : &p.k) = -1 - axis; break;
  case 12: p.output[axis] = p.stride[axis] = INT64_MAX >> f->how; break;
  case 13: p.kernel[axis] = p.dilation[axis] = INT64_MAX >> f->how; break;
  case 14: p.spatial[axis] = p.pad[axis] = INT64_MAX - f->how; break;
  default: *(axis == 0 ? &p.n : axis == 1 ? &p.c : &p.k) = INT64_MAX / 4 * 2, p.groups = 1;
  }
  if (vox_conv_workspace_bytes(&p, 1) >= 0) fail(c, "a workspace for the impossible");
  if (vox_conv_packed_bytes(&p) > 0) fail(c, "packed weights for the impossible");
  if (vox_conv_pack(&p, NULL, NULL) >= 0 || vox_conv_run(&p, 1, NULL, NULL, NULL, NULL, NULL, &cursor) >= 0)
    fail(c, "the impossible was accepted");
  int64_t tile[3];
  double gain;
  if (vox_conv_winograd_tile(&p, tile, &gain) >= 0) fail(c, "a tile for the impossible");
  if (f->broken / 3 > 6) return;
  if (vox_max_pool(&w, 1, NULL, NULL, NULL, &cursor) >= 0 || vox_avg_pool(&w, 1, NULL, NULL, &cursor) >= 0 ||
      vox_avg_pool_grad(&w, 1, NULL, NULL, &cursor) >= 0 || vox_unfold(&w, 1, NULL, NULL, &cursor) >= 0 ||
      vox_fold(&w, 1, NULL, NULL, &cursor) >= 0)
    fail(c, "an impossible window was accepted");
}

/* Sizes of any magnitude: counted exactly or refused, and no arithmetic overflows (which a sanitizer sees). */
static void run_sizes(caller *c) {
  const fuzz_case *f = &c->now;
  vox_conv p = conv_of(f);
  p.operation = (int32_t)(f->how % 3);
  int64_t tile[3], packed = vox_conv_packed_bytes(&p), one = vox_conv_workspace_bytes(&p, 1);
  int64_t four = vox_conv_workspace_bytes(&p, 4);
  double gain;
  vox_conv_winograd_tile(&p, tile, &gain);
  if (one >= 0 && four >= 0 && four < one) fail(c, "four threads want less than one");
  __int128 bytes = sizes_of[p.type];
  const int64_t factors[] = {p.k, p.c / p.groups, p.kernel[0], p.kernel[1], p.kernel[2]};
  for (int i = 0; i < 5; i++) bytes = bytes > (__int128)1 << 62 && factors[i] ? bytes : bytes * factors[i];
  /* where weights serve once, what is packed may refer to them instead */
  const int once = p.once || p.operation == VOX_CONV_INPUT_GRAD;
  if (packed > 0 && packed < bytes && !(once && packed == 64)) fail(c, "packed weights of %lld bytes", (long long)packed);
  if (packed > 0 && p.algorithm != VOX_WINOGRAD && packed - (int64_t)bytes > 64) fail(c, "%lld bytes", (long long)packed);
}
