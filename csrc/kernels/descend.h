/* One step of an optimiser over elements [first, last) of an array, in one pass over all that it reads and writes.
 *
 *   p *= shrink;  g += weight_decay * p
 *
 *   VOX_SGD    v = momentum * v + g, or g where there is no v;   p -= rate * v, with nesterov  rate * (g + momentum * v)
 *   VOX_ADAM   m += (1 - momentum) * (g - m);  s = second * s + (1 - second) * g * g;   p -= rate * m / (scale * sqrt(s) + eps)
 *
 * Every element is on its own, so the cuts do not matter.  The end is ragged. */

static void descend(const vox_descent *d, const vox_learned *a, int64_t first, int64_t last) {
  const vec shrink = v_set1((real)d->shrink), decay = v_set1((real)d->weight_decay), momentum = v_set1((real)d->momentum);
  const vec second = v_set1((real)d->second), eps = v_set1((real)d->eps), rate = v_set1((real)-a->rate);
  const vec fresh = v_set1((real)(1 - d->momentum)), of_squares = v_set1((real)(1 - d->second)), scale = v_set1((real)a->scale);
  real *data = a->data, *mean = a->mean, *square = a->square;
  for (int64_t i = first; i < last; i += LANES) {
    const int64_t n = vox_min(LANES, last - i);
    const vec p = v_load_n(data + i, n) * shrink;
    vec g = v_fma(decay, p, v_load_n((const real *)a->grad + i, n));
    if (d->rule == VOX_ADAM) {
      vec m = v_load_n(mean + i, n), s = v_load_n(square + i, n);
      m = v_fma(fresh, g - m, m);
      s = v_fma(of_squares, g * g, second * s);
      v_store_n(mean + i, m, n);
      v_store_n(square + i, s, n);
      g = m / v_fma(scale, v_sqrt(s), eps);
    } else if (mean) {
      const vec v = v_fma(momentum, v_load_n(mean + i, n), g);
      v_store_n(mean + i, v, n);
      g = d->nesterov ? v_fma(momentum, v, g) : v;
    }
    v_store_n(data + i, v_fma(rate, g, p), n);
  }
}
