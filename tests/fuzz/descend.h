/* An optimiser's step over several arrays. */

static void run_descend(caller *c) {
  enum { DATA, GRAD, MEAN, ARRAYS = 3 };
  const fuzz_case *f = &c->now;
  const int type = (int)f->type, adam = f->algorithm == VOX_ADAM, exact = f->data == INTEGERS && !adam;
  const int64_t size = sizes_of[type], arrays = f->n, all = (arrays + 1) / 2 * f->cg + arrays / 2 * f->kg;
  /* powers of two, so that integers stay exact, and a denominator that cannot be small */
  const vox_descent d = {.rule = (int32_t)f->algorithm, .nesterov = (int32_t)f->indexed, .momentum = 0.5, .second = 0.75,
                         .eps = 1, .weight_decay = f->accumulate & 1 ? 0.25 : 0, .shrink = f->accumulate & 2 ? 0.5 : 1};
  const int has_mean = adam || f->bias;
  char *found[2][ARRAYS], *square[2];
  for (int i = 0; i < ARRAYS; i++) make_operand(c, i, type, all, (int)f->data);
  for (int run = 0; run < 2; run++) {
    const int64_t place = f->place[run];
    const char *grad = operand(c, GRAD, 8, all * size, place, size);
    for (int i = 0; i < ARRAYS; i++) {
      found[run][i] = output_block(c, 2 * i + run, all * size, place, size);
      memcpy(found[run][i], c->masters[i], (size_t)(all * size));
    }
    square[run] = output_block(c, 6 + run, all * size, place, size);
    for (int64_t i = 0; i < all; i++)
      if (type == VOX_F32)
        ((float *)square[run])[i] = (float)fabs(c->wide[MEAN][i]);
      else
        ((double *)square[run])[i] = fabs(c->wide[MEAN][i]);
    vox_learned learned[8];
    for (int64_t i = 0, at = 0; i < arrays; i++) {
      learned[i] = (vox_learned){i % 2 ? f->kg : f->cg, found[run][DATA] + at * size, grad + at * size,
                                 has_mean ? found[run][MEAN] + at * size : NULL, adam ? square[run] + at * size : NULL,
                                 i % 2 ? 0.25 : 0.5, 1.25};
      at += learned[i].size;
    }
    int64_t cursor = 0;
    while (vox_descend(type, f->threads[run], &d, arrays, learned, &cursor) == VOX_AGAIN) {
    }
    for (int i = 0; i < ARRAYS; i++) check_canaries(c, found[run][i], all * size, place);
    check_canaries(c, square[run], all * size, place);
    check_unchanged(c, GRAD, grad, all * size);
    if (!has_mean) check_unchanged(c, MEAN, found[run][MEAN], all * size);
  }
  for (int i = 0; i < ARRAYS; i++)
    if (memcmp(found[0][i], found[1][i], (size_t)(all * size))) fail(c, "bits of array %d differ between two runs", i);
  if (memcmp(square[0], square[1], (size_t)(all * size))) fail(c, "bits of the squares differ between two runs");
  for (int64_t i = 0, array = 0, end = f->cg; i < all; i++) {
    while (i >= end) end += ++array % 2 ? f->kg : f->cg;
    const double rate = array % 2 ? 0.25 : 0.5, p = c->wide[DATA][i] * d.shrink, g = c->wide[GRAD][i] + d.weight_decay * p;
    const double old = has_mean ? c->wide[MEAN][i] : 0, known = fabs(c->wide[GRAD][i]) + d.weight_decay * fabs(p) + fabs(old);
    const double m = adam ? old + 0.5 * (g - old) : 0.5 * old + g, s = 0.75 * fabs(old) + 0.25 * g * g;
    double step = adam ? m / (1.25 * sqrt(s) + 1) : !has_mean ? g : d.nesterov ? g + 0.5 * m : m;
    const double divisor = adam ? 1.25 * sqrt(s) + 1 : 1;
    if (has_mean) check(c, type, exact, 0, i, load(type, found[0][MEAN], i), m, 2 * known, 4);
    if (adam) check(c, type, 0, 0, i, load(type, square[0], i), s, fabs(old) + known * known, 8);
    check(c, type, exact, 0, i, load(type, found[0][DATA], i), p - rate * step, fabs(p) + 2 * known / divisor, 16);
  }
  exact_cases += exact;
}
