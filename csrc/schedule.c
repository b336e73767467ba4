/* From a problem to its phases, bands, blocks and items: plain arithmetic on sizes, checked for overflow, no element
 * type.  The cuts aim at caches only; no result depends on them. */
#include "problem.h"

/* Aims, in bytes: the taps that a tile reads per visit stay in L1 with its weights; a band and its sums in L2. */
enum { BLOCK_TAPS = 576, PANEL_TAPS = 512, BAND_BYTES = 200 * 1024, SUM_BYTES = 512 * 1024, CHUNK_PIXELS = 256 };
enum { MOST_COLUMNS = 512, LEAST_GAIN = 22, MOST_DILATION = 64 }; /* the last for Winograd's images */
/* An item ends within some milliseconds, since nothing interrupts it: the terms of sums in it. */
enum { ITEM_TERMS = 1 << 25, TOGETHER_TERMS = 1 << 22 };
enum { PAIR_BYTES = 512 * 1024, LEAST_ROWS = 4 };

static int product(const int64_t *v, int n, int64_t *out) {
  *out = 1;
  for (int i = 0; i < n; i++)
    if (__builtin_mul_overflow(*out, v[i], out)) return VOX_OVERFLOW;
  return VOX_OK;
}

/* The invariants that protect memory; everything else is the caller's to check. */
int vox_conv_valid(const vox_conv *p) {
  if (p->type != VOX_F32 && p->type != VOX_F64) return VOX_INVALID;
  if (p->operation < VOX_CONV || p->operation > VOX_CONV_WEIGHT_GRAD) return VOX_INVALID;
  if (p->algorithm < VOX_DIRECT || p->algorithm > VOX_DEPTHWISE) return VOX_INVALID;
  if (p->n < 0 || p->c < 0 || p->k < 0 || p->groups < 1 || p->c % p->groups || p->k % p->groups) return VOX_INVALID;
  int64_t bytes = p->type == VOX_F64 ? 8 : 4, ignored;
  for (int i = 0; i < 3; i++) {
    if (p->spatial[i] < 1 || p->kernel[i] < 1 || p->stride[i] < 1 || p->dilation[i] < 1 || p->output[i] < 1 || p->pad[i] < 0)
      return VOX_INVALID;
    /* the last tap of the last window must be representable */
    int64_t reach, span;
    if (__builtin_mul_overflow(p->output[i] - 1, p->stride[i], &reach) ||
        __builtin_mul_overflow(p->kernel[i] - 1, p->dilation[i], &span) ||
        __builtin_add_overflow(reach, span, &reach) || __builtin_add_overflow(p->spatial[i], p->pad[i], &span))
      return VOX_OVERFLOW;
  }
  /* volumes first, so that no count of 0 hides one that is too large */
  const int64_t x[] = {bytes, p->spatial[0], p->spatial[1], p->spatial[2], p->c, p->n};
  const int64_t w[] = {bytes, p->kernel[0], p->kernel[1], p->kernel[2], p->c / p->groups, p->k};
  const int64_t y[] = {bytes, p->output[0], p->output[1], p->output[2], p->k, p->n};
  if (product(x, 6, &ignored) || product(w, 6, &ignored) || product(y, 6, &ignored)) return VOX_OVERFLOW;
  return VOX_OK;
}

static int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    int64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

/* x with a * x = 1 modulo m, where a and m have no common factor; 0 for m = 1. */
static int64_t inverse(int64_t a, int64_t m) {
  int64_t r0 = m, r1 = a % m, x0 = 0, x1 = 1 % m;
  while (r1) {
    int64_t q = r0 / r1, r2 = r0 - q * r1, x2 = x0 - q * x1;
    r0 = r1, r1 = r2, x0 = x1, x1 = x2;
  }
  return vox_modulo(x0, m);
}

/* Taps j of an axis with j * dilation = residue + pad modulo stride: *first and every `every` from there.  *before are
 * the taps of all residues with a smaller *first, which is the order in which phases are packed. */
static int64_t taps_of_residue(const vox_conv *p, int axis, int64_t residue, int64_t *first, int64_t *before) {
  const int64_t s = p->stride[axis], kernel = p->kernel[axis], common = gcd(s, p->dilation[axis]), every = s / common;
  const int64_t at = vox_modulo(residue + p->pad[axis] % s, s);
  *first = *before = 0;
  if (at % common) return 0;
  int64_t j = (int64_t)((__int128)(at / common) * inverse(p->dilation[axis] / common, every) % every);
  if (j >= kernel) return 0;
  *first = j;
  *before = j * (kernel / every) + vox_min(j, kernel % every);
  return (kernel - 1 - j) / every + 1;
}

void vox_conv_phase(const vox_conv *p, const int64_t residue[3], vox_phase *phase) {
  int64_t before[3], all[3];
  for (int i = 0; i < 3; i++) {
    vox_axis *a = &phase->axis[i];
    if (p->operation != VOX_CONV_INPUT_GRAD) {
      *a = (vox_axis){.size = p->spatial[i], .count = p->output[i], .step = p->stride[i], .first = 0, .spread = 1,
                      .taps = p->kernel[i], .index0 = 0, .index_step = 1, .offset0 = -p->pad[i],
                      .offset_step = p->dilation[i]};
      before[i] = 0;
    } else {
      int64_t s = p->stride[i], r = residue[i], every = s / gcd(s, p->dilation[i]);
      *a = (vox_axis){.size = p->output[i], .count = (p->spatial[i] - 1 - r) / s + 1, .step = 1, .first = r, .spread = s,
                      .index_step = every};
      a->taps = taps_of_residue(p, i, r, &a->index0, &before[i]);
      if (a->taps) a->offset0 = (r + p->pad[i] - a->index0 * p->dilation[i]) / s;
      /* with one tap there is no next, and its offset may not be representable */
      if (a->taps > 1) a->offset_step = -(every * p->dilation[i] / s);
    }
    all[i] = a->taps;
  }
  /* phases are ordered by (depth, row, column) first tap; those that no input position belongs to keep their place */
  phase->taps = all[0] * all[1] * all[2];
  phase->before = 0;
  if (p->operation == VOX_CONV_INPUT_GRAD)
    phase->before = before[0] * p->kernel[1] * p->kernel[2] + all[0] * (before[1] * p->kernel[2] + all[1] * before[2]);
}

void vox_conv_both(const vox_conv *p, vox_phase *both) {
  int64_t phases[3], first[3], last[3], most = 0;
  for (int i = 0; i < 3; i++) most = vox_max(most, phases[i] = vox_min(p->stride[i], p->spatial[i]));
  for (int64_t r = most - 1; r >= 0; r--) {
    vox_conv_phase(p, (const int64_t[]){r % phases[0], r % phases[1], r % phases[2]}, both);
    for (int i = 0; i < 3; i++) {
      const vox_axis *a = &both->axis[i];
      const int64_t low = a->offset0 + vox_axis_low(a), high = low + vox_axis_halo(a);
      if (r == most - 1) first[i] = INT64_MAX, last[i] = INT64_MIN;
      if (a->taps) first[i] = vox_min(first[i], low), last[i] = vox_max(last[i], high);
    }
  }
  for (int i = 0; i < 3; i++) {
    const int none = last[i] < first[i];
    both->axis[i].taps = none ? 0 : last[i] - first[i] + 1;
    both->axis[i].offset0 = none ? 0 : first[i];
    both->axis[i].offset_step = 1;
  }
}

/* The largest phase: bounds for every other. */
static void bounds(const vox_conv *p, int64_t most_taps[3], int64_t halo[3], int64_t slots[3], int64_t count[3]) {
  for (int i = 0; i < 3; i++) {
    int64_t s = p->stride[i], d = p->dilation[i];
    if (p->operation == VOX_CONV_INPUT_GRAD) {
      int64_t every = s / gcd(s, d);
      most_taps[i] = vox_ceil_div(p->kernel[i], every);
      halo[i] = most_taps[i] > 1 ? (most_taps[i] - 1) * (every * d / s) : 0;
      slots[i] = 1;
      count[i] = vox_ceil_div(p->spatial[i], s);
    } else {
      vox_axis a = {.step = s, .taps = p->kernel[i], .offset_step = d};
      most_taps[i] = p->kernel[i];
      halo[i] = vox_axis_halo(&a);
      slots[i] = vox_axis_slots(&a);
      count[i] = p->output[i];
    }
  }
}

/* Elements of one channel's band, padded as the kernel pads it: at most an odd number of lines of the cache more. */
static int band_plane(const int64_t taps[3], const int64_t slots[3], int64_t lines, int64_t pitch, int64_t size,
                      int64_t *plane) {
  const int64_t sizes[] = {taps[0], slots[1], slots[2], lines, pitch};
  if (product(sizes, 5, plane) || __builtin_add_overflow(*plane, 3 * VOX_ALIGN / size, plane)) return VOX_OVERFLOW;
  return VOX_OK;
}

/* Cut `count` into pieces of at most `most`, as equal as they get. */
static int64_t even_piece(int64_t count, int64_t most) {
  return vox_ceil_div(count, vox_ceil_div(count, vox_max(1, vox_min(most, count))));
}

/* How long threads take for `many` items of time `each`, and then `few` shorter ones of time `less`, handed out in order:
 * where items are few, that is not their sum over the threads. */
static double shared_time(int64_t threads, double many, double each, double few, double less) {
  const double sum = many * each + few * less;
  if (threads == 1 || many + few >= 16 * (double)threads) return sum / (double)threads;
  const double rounds = (double)((int64_t)many / threads), behind = (double)((int64_t)many % threads);
  const double ahead = (double)threads - behind; /* threads with an item fewer */
  double time = (rounds + (behind > 0)) * each;
  if (few == 0 || less == 0) return time;
  for (;; time += less) { /* of items of this call, which are not many */
    const int64_t fit = (int64_t)((time - rounds * each) / less), later = (int64_t)((time - (rounds + 1) * each) / less);
    if (ahead * (double)fit + behind * (double)vox_max(0, later) >= few) return time;
  }
}

/* Vectors of pixels in bands of so many of `count` rows, and how long threads take for them `times` over. */
static int64_t band_vectors(int64_t count, int64_t rows, int64_t pitch, int64_t cols, int64_t lanes, int64_t threads,
                            double times, double *time) {
  const int64_t rest = count % rows, whole = vox_ceil_div((rows - 1) * pitch + cols, lanes);
  const int64_t last = rest ? vox_ceil_div((rest - 1) * pitch + cols, lanes) : 0;
  *time = shared_time(threads, times * (double)(count / rows), (double)whole, times * (rest > 0), (double)last);
  return count / rows * whole + last;
}

/* Rows of a band, about `most`: those that let the threads end first, which with one means those that leave the fewest
 * lanes idle at the ends of bands; and how many vectors of pixels that makes; 0 where a problem's sizes, which is refused
 * later, are too large to count them.  All bands are taken `times` over. */
static int64_t rows_of_band(int64_t count, int64_t most, int64_t pitch, int64_t cols, int64_t lanes, int64_t threads,
                            double times, int64_t *vectors) {
  enum { TRIED = 64 };
  const int64_t first = vox_min(count - (threads > 1), most + most / 6), lowest = vox_max(most / 2, first - TRIED);
  int64_t best = even_piece(count, most), all;
  double least, time;
  *vectors = 0;
  if (__builtin_mul_overflow(count, pitch, &all) || all > INT64_MAX / 4) return best;
  *vectors = band_vectors(count, best, pitch, cols, lanes, threads, times, &least);
  if (best == count) return best;
  for (int64_t rows = first; rows > lowest; rows--) {
    const int64_t here = band_vectors(count, rows, pitch, cols, lanes, threads, times, &time);
    if (time < least || (time == least && (here < *vectors || (here == *vectors && rows > best))))
      least = time, *vectors = here, best = rows;
  }
  return best;
}

/* Whether points.h can read each column tap apart. */
static int may_be_dense(const vox_conv *p) {
  if (p->kernel[2] != 3) return 0;
  for (int i = 1; i < 3; i++)
    if (p->stride[i] > (p->operation == VOX_CONV ? 2 : 1) || p->kernel[i] < p->stride[i] || p->dilation[i] != 1) return 0;
  return 1;
}

/* Whether output channels should be the lanes: where pixels would leave too many of them idle, and there are sums enough
 * to hide the turn of their results to rows. */
static int by_channels(int64_t cout, const vox_unit *u, int64_t pixels, int64_t depth) {
  enum { LEAST_DEPTH = 128 };
  return cout % u->channels == 0 && depth >= LEAST_DEPTH && 20 * vox_round_up(pixels, 2) < 19 * vox_round_up(pixels, u->lanes);
}

/* Along an axis, the terms of all outputs that are not padding. */
static double terms_inside(const vox_conv *p, int axis) {
  const int64_t none[3] = {0, 0, 0};
  vox_phase ph;
  double inside = 0;
  vox_conv_phase(p, none, &ph);
  const vox_axis *a = &ph.axis[axis];
  for (int64_t t = 0; t < a->taps; t++) {
    int64_t first, last;
    vox_inside(a->size, a->step, vox_axis_offset(a, t), a->count, &first, &last);
    inside += (double)(last - first);
  }
  return inside;
}

/* Whether each tap of a row has at most two outputs at one end, and none at the other, whose input is padding. */
static int ends_by_two(const vox_axis *a) {
  enum { MOST_TAPS = 64 };
  for (int64_t t = 0; t < vox_min(a->taps, MOST_TAPS); t++) {
    int64_t first, last;
    vox_inside(a->size, a->step, vox_axis_offset(a, t), a->count, &first, &last);
    if (first > 2 || a->count - last > 2 || (first && last < a->count)) return 0;
  }
  return a->taps <= MOST_TAPS;
}

/* Whether output channels should be the lanes of tiles of one row each, and if so the rows of a band and the input channels
 * of a block: as many as L2 holds beside the weights of a panel and, where a block is not all, the sums that wait. */
static int rows_layout(const vox_conv *p, const vox_unit *u, int64_t size, vox_layout *l) {
  enum { LEAST_TERMS = 128, LEAST_WIDTH = 4, LEAST_ROWS = 2, SETS = 64 * 1024, WAYS = 16 };
  enum { ALL_INPUT = 512 * 1024, ALL_WEIGHTS = 320 * 1024 }; /* of one block, and below of each of several */
  enum { MOST_INPUT = 128 * 1024, MOST_WEIGHTS = 256 * 1024, MOST_SUMS = 320 * 1024, LEAST_BLOCK = 64 };
  const int64_t none[3] = {0, 0, 0};
  vox_phase ph;
  if (p->operation != VOX_CONV || vox_pointwise(p)) return 0;
  vox_conv_phase(p, none, &ph);
  const vox_axis *az = &ph.axis[0], *ay = &ph.axis[1], *ax = &ph.axis[2];
  if (l->cout % u->channels || ax->step > 2 || ax->count < LEAST_WIDTH || !ends_by_two(ax)) return 0;
  int64_t odd = ax->count % 2 ? ax->count : 0; /* in the end, pixels of the one tile that is not even */
  if (odd > 4 * u->channel_t) return 0;
  for (int64_t here; odd && odd > (here = vox_pixels_of_tile(odd, u->channel_t));) odd -= here;
  if (odd && odd != u->channel_t / 2) return 0;
  int64_t terms, weights, line, sums, image; /* bytes of a channel's, and of a row's */
  if (product((const int64_t[]){l->cin, ph.taps}, 2, &terms) || terms < LEAST_TERMS) return 0;
  if (product((const int64_t[]){ph.taps, u->channels, size}, 3, &weights) || weights > MOST_WEIGHTS ||
      product((const int64_t[]){az->taps, ax->size, size}, 3, &line) || line < 1 || line > ALL_INPUT ||
      product((const int64_t[]){l->cout, ax->count, size}, 3, &sums) ||
      product((const int64_t[]){az->size, ay->size, ax->size, size}, 4, &image))
    return 0;
  /* channels that lie a part of SETS apart drive each other out of a cache */
  const int64_t most = WAYS * (SETS / gcd(SETS, image)), halo = (ay->taps - 1) * ay->offset_step + 1 - ay->step;
  const int64_t fit = (ALL_INPUT / line / l->cin - halo) / ay->step;
  int64_t rows = fit, block = l->cin;
  if (l->cin > vox_min(most, ALL_WEIGHTS / weights) || fit < vox_min(LEAST_ROWS, ay->count)) {
    rows = vox_min(ay->count, vox_max(LEAST_ROWS, MOST_SUMS / sums));
    const int64_t input = (rows * ay->step + halo) * line;
    if (input > MOST_INPUT || rows * sums > 2 * MOST_SUMS) return 0;
    block = even_piece(l->cin, vox_min(most, vox_min(MOST_INPUT / input, MOST_WEIGHTS / weights)));
    if (block * ph.taps < LEAST_BLOCK) return 0;
  }
  l->block = block;
  l->band[1] = even_piece(ay->count, rows);
  l->band[2] = ax->count;
  return 1;
}

/* Input channels to read at once where output channels should be the lanes of an image that is one band; else 0. */
static int64_t whole_by_channels(const vox_conv *p, const vox_layout *l, const vox_unit *u, const int64_t taps[3],
                                 const int64_t slots[3], const int64_t count[3], const int64_t halo[3], int64_t size) {
  enum { MOST_BYTES = 512 * 1024, LEAST_PIXELS = 16, MOST_PIXELS = 1024 };
  int64_t bytes, pixels, depth;
  /* a gradient packs at every call, and so wide a panel takes longer than it saves */
  if (p->operation != VOX_CONV || (taps[2] > 1 && !may_be_dense(p)) || l->band[2] < count[2]) return 0;
  if (product((const int64_t[]){count[1], count[2]}, 2, &pixels)) return 0;
  if (pixels < LEAST_PIXELS || pixels > MOST_PIXELS) return 0;
  if (product((const int64_t[]){l->cin, taps[0], taps[1], taps[2]}, 4, &depth) || !by_channels(l->cout, u, pixels, depth)) return 0;
  if (product((const int64_t[]){taps[0], slots[1], taps[2], count[1] + halo[1], count[2], size}, 6, &bytes)) return 0;
  return vox_min(l->cin, MOST_BYTES / bytes);
}

/* Winograd's axes count tiles.  A dilated axis is as many images as its dilation has residues, each undilated. */
void vox_winograd_phase(const vox_conv *p, const int64_t tile[3], const int64_t residue[3], vox_phase *phase) {
  const int64_t none[3] = {0, 0, 0};
  const int forward = p->operation != VOX_CONV_INPUT_GRAD;
  vox_conv_phase(p, none, phase);
  for (int i = 1; i < 3; i++) {
    int64_t d = p->dilation[i], size = forward ? p->spatial[i] : p->output[i];
    vox_axis *a = &phase->axis[i];
    *a = (vox_axis){.size = size, .first = residue[i], .spread = d, .offset_step = p->stride[i] * d};
    a->step = tile[i] * a->offset_step;
    a->outputs = ((forward ? p->output[i] : p->spatial[i]) - 1 - residue[i]) / d + 1;
    a->count = vox_ceil_div(a->outputs, tile[i]);
    a->taps = vox_winograd_points(p, tile, i);
    a->offset0 = residue[i] + (forward ? -p->pad[i] : p->pad[i] - (p->kernel[i] - 1) * d);
  }
  if (!forward) {
    vox_axis *a = &phase->axis[0];
    a->offset0 = p->pad[0] - (p->kernel[0] - 1) * p->dilation[0];
    a->offset_step = p->dilation[0];
  }
  phase->taps = phase->axis[0].taps * phase->axis[1].taps * phase->axis[2].taps;
  phase->before = 0;
}

/* Whether images are so wide as four tiles and no wider, so that a row of them is a vector or a few. */
static int rows_of_four(const vox_unit *u, const vox_axis *axis) {
  return u->lanes % 4 == 0 && axis[1].step == 4 && axis[2].step == 4 && axis[1].taps == 6 && axis[2].taps == 6 &&
         axis[2].count == 4 && axis[2].size <= 16 && axis[2].offset0 <= 0 && axis[2].offset0 >= -2;
}

/* What packed weights cost beside their products, in vector multiply-adds of one depth, of each that has `taps` taps and
 * `points` of them packed: as they stream, and for a gradient, which packs at every call, a share of that; as measured for
 * one image, it is less for many. */
static double weight_time(const vox_conv *p, const vox_unit *u, double taps, double points) {
  enum { PER_TAP = 36, PER_POINT = 12, SQUARE = 140, SQUARE_POINT = 5 }; /* the latter of 3 x 3 taps, compiled in */
  const int gradient = p->operation == VOX_CONV_INPUT_GRAD;
  const double packing = gradient ? 1 / (double)u->lanes / (double)p->spatial[0] : 0;
  if (gradient && points > taps && taps == 9) return 0.15 * points + packing * (SQUARE + SQUARE_POINT * points);
  return 0.5 * points + packing * (PER_POINT * points + (points > taps ? PER_TAP * taps : 0));
}

/* Vectors of tiles of one depth of a sample: its residues, and its depths, share the lanes. */
static double tile_vectors(const vox_conv *p, const vox_unit *u, int64_t mh, int64_t mw, double depth, double outputs) {
  const int64_t *out = p->operation == VOX_CONV ? p->output : p->spatial;
  const double h = (double)vox_ceil_div(vox_ceil_div(out[1], p->dilation[1]), mh) * (double)p->dilation[1];
  const double w = (double)vox_ceil_div(vox_ceil_div(out[2], p->dilation[2]), mw) * (double)p->dilation[2];
  double all = h * w * (double)out[0];
  if (all <= 4 * (double)u->lanes && by_channels((int64_t)outputs, u, (int64_t)all, (int64_t)depth))
    return (double)vox_round_up((int64_t)all, 2) / (double)u->lanes / (double)out[0];
  all /= (double)u->lanes;
  return (all < 1e9 ? (double)(int64_t)(all + 1 - 1e-9) : all) / (double)out[0];
}

/* Whether sums of so few terms that they would not repay a stop stay in registers up to the outputs. */
static int winograd_fuses(const vox_conv *p, const vox_unit *u, int64_t mh, int64_t mw, double depth) {
  return mh == 4 && mw == 4 && p->kernel[1] == 3 && p->kernel[2] == 3 && vox_parities(p) == 1 && depth > 0 && depth <= (double)u->fused_depth;
}

/* Estimated time in units of one vector multiply-add: products, transforms, and the stream of the weights, which hides
 * behind the products in part. */
static double winograd_time(const vox_conv *p, const vox_unit *u, int64_t mh, int64_t mw, double depth, double outputs) {
  /* measured, the gather and the stores included, of a point and channel; the second where rows of tiles fill vectors, the
   * third where four tiles are a row; with 16 registers the direct sum is slower, and two images are such a vector */
  static const double input[] = {15, 11, 4}, measured[2][3] = {{12, 10, 4}, {9, 7, 9}};
  const double *output = measured[u->tile_m < 8];
  enum { APART = 65 }; /* of a row and column point, whose elements are read one by one */
  const int64_t *out = p->operation == VOX_CONV ? p->output : p->spatial;
  const int64_t tile[3] = {1, mh, mw}, none[3] = {0, 0, 0};
  const int64_t nh = vox_winograd_points(p, tile, 1), nw = vox_winograd_points(p, tile, 2);
  vox_phase ph;
  vox_winograd_phase(p, tile, none, &ph);
  const int wide = rows_of_four(u, ph.axis) ? 2 : vox_ceil_div(vox_ceil_div(out[2], p->dilation[2]), mw) >= u->lanes;
  /* depths share what they read; where they do not, each gathers all, for few tiles at a time */
  const double n = (double)(nh * nw), slices = p->stride[0] == 1 && p->dilation[0] == 1 ? 1 : 2 * (double)p->kernel[0];
  const double inputs = depth / (double)p->kernel[0] * (p->kernel[0] > 1 ? slices : 1) * (double)vox_parities(p);
  /* of an odd kernel's parities, those with a tap less have a point less */
  const double points = (double)(p->stride[1] == 1 ? nh * nw : (2 * nh - p->kernel[1] % 2) * (2 * nw - p->kernel[2] % 2));
  /* without a stop in memory: measured over a direct sum of as few channels, and more where lines end within a vector */
  const double whole = points / n * depth + output[wide], few = 1.75 * depth + (wide < 2 && out[2] % u->lanes ? 5.2 : 2.2);
  const double each = winograd_fuses(p, u, mh, mw, depth) ? few : whole;
  const double products = tile_vectors(p, u, mh, mw, depth * (double)vox_parities(p), outputs) * (each * outputs + input[wide] * inputs);
  const double apart = p->dilation[2] > 2 ? APART * (double)nw * (double)out[1] * (double)vox_min(p->dilation[2], out[2]) : 0;
  return n * products + apart * inputs + weight_time(p, u, (double)(p->kernel[1] * p->kernel[2]), points) * depth * outputs;
}

/* The weight gradient's images of a sample, residues of dilated axes, and tiles of the largest. */
static int64_t weight_images(const vox_conv *p) {
  return vox_min(p->dilation[1], p->output[1]) * vox_min(p->dilation[2], p->output[2]);
}

static int64_t weight_tiles(const vox_conv *p) {
  return vox_ceil_div(vox_ceil_div(p->output[1], p->dilation[1]), 4) * vox_ceil_div(vox_ceil_div(p->output[2], p->dilation[2]), 4);
}

/* Images whose tiles share a chunk. */
static int64_t images_together(const vox_conv *p) {
  const int64_t images = vox_min(p->n, VOX_CHUNK_TILES) * weight_images(p);
  return vox_max(1, vox_min(images, VOX_CHUNK_TILES / weight_tiles(p)));
}

/* Points along an axis that a form may have. */
static int64_t most_points(const vox_conv *p) { return p->points ? vox_min(p->points, VOX_MOST_POINTS) : VOX_MOST_POINTS; }

/* The weight gradient has one form, 4 x 4 outputs.  Estimated as above for each row of the sums and vector of output
 * channels: products, the accumulators that chunks after the first meet, the transform back, and the shares of x's
 * transform, with what each slice costs to gather, and of dy's. */
static int winograd_weight_tile(const vox_conv *p, const vox_unit *u, int64_t tile[3], double *gain) {
  enum { VISIT = 6, BACK = 220, INPUT = 130, SQUARE = 35, SLICE = 60, APART = 1000, DY = 210 }; /* measured */
  tile[0] = 1;
  tile[1] = tile[2] = 4;
  for (int i = 1; i < 3; i++)
    if (p->kernel[i] != 3 || p->stride[i] != 1 || p->dilation[i] > MOST_DILATION || most_points(p) < 6) return VOX_INVALID;
  const int64_t of_slice = weight_tiles(p);
  const double planes = (double)vox_max(1, p->n) * (double)p->output[0], slices = planes * (double)weight_images(p);
  const double tiles = slices * (double)of_slice;
  const double rows = (double)(p->c / p->groups) * (double)p->kernel[0];
  const double vectors = (double)vox_ceil_div(vox_max(1, p->k / p->groups), u->lanes);
  const double chunks = of_slice < VOX_CHUNK_TILES ? slices / (double)images_together(p) : tiles / VOX_CHUNK_TILES;
  /* columns three apart and more are read one by one */
  const double rows_of_slice = (double)(4 * vox_ceil_div(vox_ceil_div(p->output[1], p->dilation[1]), 4) + 2);
  const double apart = p->dilation[2] > 2 ? APART * rows_of_slice : 0;
  const int64_t none[3] = {0, 0, 0};
  vox_phase ph;
  vox_winograd_phase(p, tile, none, &ph);
  const int square = rows_of_four(u, ph.axis);
  const double input = (square ? SQUARE : INPUT) * (double)vox_ceil_div(of_slice, u->lanes);
  const double inputs = slices * (input + (square ? 0 : SLICE + apart));
  const double products = 36 * (tiles + (chunks > 1 ? VISIT * chunks : 0));
  const double time = products + BACK + inputs / vectors + DY * tiles / (rows > 1 ? rows : 1);
  /* the direct sum's tile of one vector reads as much as it multiplies */
  *gain = 9 * (vectors > 1 ? 0.77 : 0.94) * planes * (double)p->output[1] * (double)p->output[2] / time;
  return VOX_OK;
}

/* The form of the least estimated time and how many times faster than the direct sum it should be; VOX_INVALID where no
 * form applies. */
int vox_winograd_tile(const vox_conv *p, const vox_unit *u, int64_t tile[3], double *gain) {
  static const int64_t forms[][2] = {{4, 4}, {4, 2}, {2, 2}, {1, 4}, {1, 2}};
  enum { MANY = 256 }; /* terms that wait for their weights at least as long as those of the transform do */
  const int gradient = p->operation == VOX_CONV_INPUT_GRAD;
  const double depth = (double)((gradient ? p->k : p->c) / p->groups) * (double)p->kernel[0];
  const double outputs = (double)((gradient ? p->c : p->k) / p->groups);
  if (p->operation == VOX_CONV_WEIGHT_GRAD) return winograd_weight_tile(p, u, tile, gain);
  if (p->kernel[1] != p->kernel[2] && p->kernel[1] != 1) return VOX_INVALID;
  for (int i = 0; i < 3; i++)
    if ((gradient && p->stride[i] != 1) || (i > 0 && p->dilation[i] > MOST_DILATION)) return VOX_INVALID;
  if (p->stride[1] != 1 || p->stride[2] != 1) {
    const int parities = p->stride[1] == 2 && p->stride[2] == 2 && p->dilation[1] == 1 && p->dilation[2] == 1;
    if (!parities || p->kernel[1] != p->kernel[2]) return VOX_INVALID;
  }
  const int64_t kernel = p->kernel[2], reduced = vox_winograd_taps(p, 2);
  if (kernel < 3 || kernel > 7 || (kernel % 2 == 0 && p->stride[2] == 1)) return VOX_INVALID;
  double least = 0;
  tile[0] = 0;
  for (unsigned i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    int64_t mh = forms[i][0], mw = forms[i][1];
    if ((mh == 1) != (p->kernel[1] == 1) || vox_max(mh, mw) - 1 + reduced > most_points(p)) continue;
    if (p->stride[2] == 2 && mh * mw != 16) continue;
    double time = winograd_time(p, u, mh, mw, depth, outputs);
    if (least == 0 || time < least) {
      least = time;
      tile[0] = 1;
      tile[1] = mh;
      tile[2] = mw;
    }
  }
  if (!tile[0]) return VOX_INVALID;
  const int64_t *out = gradient ? p->spatial : p->output;
  const double lines = (double)out[1] * ((double)out[2] + (double)((kernel - 1) / p->stride[2] * p->dilation[2]));
  const double taps = (double)(p->kernel[1] * p->kernel[2]);
  vox_layout l = {.cin = (int64_t)depth / p->kernel[0], .cout = (int64_t)outputs};
  const int rows = depth < MANY && rows_layout(p, u, p->type == VOX_F64 ? 8 : 4, &l);
  const double terms = rows ? terms_inside(p, 1) * terms_inside(p, 2) : taps * lines;
  const double direct = (terms / (double)u->lanes + weight_time(p, u, taps, taps)) * depth * outputs;
  *gain = direct / (least > 1 ? least : 1);
  return VOX_OK;
}

static int weights_serve_once(const vox_conv *p) { return p->once || p->operation == VOX_CONV_INPUT_GRAD; }

static int one_band(const vox_layout *l) { return l->bands[0] == 1 && l->bands[1] == 1 && l->bands[2] == 1; }

/* What a band of so many tiles along each axis costs, in vector multiply-adds of one input channel: its products, where tiles
 * that are not full cost more, and a quarter of a vector as its weights stream; and the slices that it gathers, 30 for a row
 * of a vector of tiles and half of that to begin one, and transforms.  V and products that L2 does not hold go to L3 and back. */
static double winograd_band_cost(const vox_layout *l, const vox_unit *u, const vox_axis *axis, int64_t fit,
                                 const int64_t size[3]) {
  enum { ROW = 30, COLUMNS = 4 };
  if (!size[0] || !size[1] || !size[2]) return 0;
  const int64_t plane = size[1] * size[2], vectors = vox_ceil_div(size[0] * plane, u->lanes), rest = vectors % u->tile_v;
  const double odd = rest ? 0.125 * (double)(u->tile_v - rest) : 0;
  const double lanes = l->by_channels ? (double)vox_round_up(size[0] * plane, 2) / (double)u->lanes : (double)vectors + odd;
  const double products = lanes + 0.25;
  const double rows = (double)((size[1] - 1) * axis[1].step / axis[1].offset_step + axis[1].taps);
  const double gather = ROW * rows * (0.5 + (double)vox_ceil_div(size[2], u->lanes));
  const double slice = gather + COLUMNS * (double)l->positions * (double)vox_ceil_div(plane, u->lanes);
  const int64_t slices = size[0] + axis[0].taps - 1;
  const double both = (double)slices + (double)size[0] * (double)l->cout / (double)vox_max(1, l->inputs);
  const double memory = slices * plane > fit ? both * (double)l->positions * (double)plane / (double)u->lanes : 0;
  return (double)(l->positions * axis[0].taps) * (double)l->cout * products + (double)slices * slice + memory;
}

/* Tiles of a band along each axis, those by which threads end first: V, which has all slices, takes `most` tiles, or where
 * there is `room` for more of it and of products up to that.  L2 holds both for `fit`.  All bands are taken `times` over; may
 * one `alone` be all of them? */
static void winograd_band(vox_layout *l, const vox_unit *u, const vox_axis *axis, int64_t fit, int64_t most, int64_t room,
                          int shared, int64_t threads, double times, int alone) {
  /* as threads share a band, in all channels; and all of the room must save this part of the time */
  enum { MOST_DEPTHS = 8, TRIED = 64, TOGETHER = 160000, WORTH = 50 };
  const int64_t taps = axis[0].taps, limit = vox_max(most, room);
  const int merges = taps == 1 && shared; /* depths of whole planes */
  const int64_t columns[] = {even_piece(axis[2].count, limit / taps), vox_min(axis[2].count, 2 * u->lanes),
                             vox_min(axis[2].count, u->lanes)};
  double least = 0;
  for (int i = 0; i < 3; i++) {
    if (i && (columns[i] == columns[0] || columns[i] == columns[i - 1])) continue;
    for (int64_t d = 1; d <= (shared && taps > 1 ? vox_min(axis[0].count, MOST_DEPTHS) : 1); d++) {
      const int64_t w = columns[i], first = vox_max(1, vox_min(axis[1].count, limit / ((d + taps - 1) * w)));
      if ((i || d > 1) && (d + taps - 1) * w > limit) continue;
      for (int64_t h = first; h > vox_max(0, first - TRIED); h--) {
        const int64_t bands = vox_ceil_div(axis[1].count, h);
        if (!alone && bands == 1 && (d == axis[0].count || merges) && w == axis[2].count) continue;
        /* bands along each axis, and those that are smaller */
        const int64_t sizes[3][2] = {{d, axis[0].count % d},
                                     {axis[1].count / bands + 1, axis[1].count / bands},
                                     {w, axis[2].count % w}};
        const int64_t counts[3][2] = {{axis[0].count / d, axis[0].count % d > 0},
                                      {axis[1].count % bands, bands - axis[1].count % bands},
                                      {axis[2].count / w, axis[2].count % w > 0}};
        double cost[2] = {0, 0}, count[2] = {0, 0}; /* of the largest bands, and of the others */
        for (int part = 0; part < 8; part++) {
          const int a = part >> 2, b = part >> 1 & 1, c = part & 1, rest = a || c || (b && counts[1][0]);
          const int64_t size[3] = {sizes[0][a], sizes[1][b], sizes[2][c]};
          const double here = (double)counts[0][a] * (double)counts[1][b] * (double)counts[2][c];
          if (here == 0) continue;
          cost[rest] += here * winograd_band_cost(l, u, axis, fit, size);
          count[rest] += here;
        }
        double time = shared_time(threads, times * count[0], cost[0] / (count[0] > 0 ? count[0] : 1), times * count[1],
                                  cost[1] / (count[1] > 0 ? count[1] : 1));
        const double all = times * (count[0] + count[1]);
        if (all < (double)threads) time = time * all / (double)threads + TOGETHER / (double)vox_max(1, l->inputs);
        const int64_t beyond = vox_max(0, (d + taps - 1) * vox_ceil_div(axis[1].count, bands) * w - most);
        time *= 1 + (double)beyond / (double)limit / WORTH;
        if (least > 0 && time >= least) continue;
        least = time;
        l->band[0] = d, l->band[1] = vox_ceil_div(axis[1].count, bands), l->band[2] = w;
      }
    }
  }
  if (merges && l->band[1] == axis[1].count)
    l->band[0] = even_piece(axis[0].count, vox_max(1, most / (l->band[1] * l->band[2])));
}

/* V of an item stays in L2 with the products of a panel; where vectors of tiles would be less full, or few, it does not,
 * the positions are visited one by one and everything else streams.  Small images share an item, and with it a visit of the weights; depths
 * share the slices that they read. */
static int winograd_layout(const vox_conv *p, const vox_unit *u, int64_t threads, vox_layout *l) {
  enum { V_BYTES = 448 * 1024, ROOM_BYTES = 2 << 20, FUSED_BYTES = 64 * 1024, LATE_BYTES = 2 << 20 };
  enum { LEAST_VECTORS = 3, MOST_TILES = 128, MOST_LATE = 8 };
  enum { LATE_CHANNELS = 32, WHOLE_BYTES = 600 * 1024, BLOCK_BYTES = 320 * 1024 }; /* of the gradient's weights, packed late */
  const int64_t size = p->type == VOX_F64 ? 8 : 4, none[3] = {0, 0, 0}, line = VOX_ALIGN / size;
  int64_t taps[3], slots[3], per_tile, images, visits, terms, wide = 1;
  vox_phase ph;
  double gain;
  if (vox_winograd_tile(p, u, l->tile, &gain)) return VOX_INVALID;
  const int64_t *out = p->operation == VOX_CONV ? p->output : p->spatial;
  vox_winograd_phase(p, l->tile, none, &ph);
  for (int i = 1; i < 3; i++) l->phases[i] = vox_min(p->dilation[i], out[i]);
  l->phases[0] = 1;
  l->positions = ph.axis[1].taps * ph.axis[2].taps;
  const vox_axis *az = &ph.axis[0];
  const int64_t depth_taps = az->taps;
  if (__builtin_mul_overflow(l->cin, vox_parities(p), &l->inputs)) return VOX_OVERFLOW;
  if (product((const int64_t[]){l->positions, vox_max(1, l->inputs), size}, 3, &per_tile)) return VOX_OVERFLOW;
  /* by what is fused V is read once for each output channel, so it stays in L1 */
  l->fused = winograd_fuses(p, u, l->tile[1], l->tile[2], (double)depth_taps * (double)l->inputs);
  if (l->fused) l->panel = 1;
  int64_t result;
  if (product((const int64_t[]){size, p->n, p->groups, l->cout, out[0], out[1], out[2]}, 7, &result)) return VOX_OVERFLOW;
  l->streams = result >= VOX_STREAMED_BYTES;
  const int64_t fit = vox_min((l->fused ? FUSED_BYTES : V_BYTES) / per_tile, 4 * MOST_TILES);
  int64_t most = vox_max(LEAST_VECTORS * u->lanes, fit);
  const int64_t all = ph.axis[0].count * ph.axis[1].count * ph.axis[2].count;
  l->by_channels = !l->fused && all <= 4 * u->lanes && by_channels(l->cout, u, all, depth_taps * l->inputs);
  if (l->by_channels) {
    most = vox_max(most, all);
    l->panel = u->channels;
  }

  const int shared = az->step == 1 && (depth_taps == 1 || az->offset_step == 1);
  int64_t per_product;
  if (product((const int64_t[]){l->positions, vox_max(1, l->cout), size}, 3, &per_product)) return VOX_OVERFLOW;
  const int64_t room = l->fused ? 0 : vox_min(ROOM_BYTES / vox_max(per_tile, per_product), 4 * MOST_TILES);
  if (product((const int64_t[]){p->n, l->phases[1], l->phases[2]}, 3, &images)) return VOX_OVERFLOW;
  /* depths that share nothing gather all their slices for themselves: no vector of tiles should be half empty */
  const int64_t spacious = shared ? most : vox_max(most, depth_taps * u->lanes);
  const double times = (double)images * (double)p->groups;
  winograd_band(l, u, ph.axis, 2 * fit, spacious, room, shared, 1, times, 1);
  /* who packs the weights on the way may not depend on threads, so a single band stays one */
  const int alone = l->band[0] == az->count && l->band[1] == ph.axis[1].count && l->band[2] == ph.axis[2].count;
  if (threads > 1 && !(alone && weights_serve_once(p)))
    winograd_band(l, u, ph.axis, 2 * fit, spacious, room, shared, threads, times, !weights_serve_once(p));
  l->images = 1;
  l->tile_rows = ph.axis[1].count;
  l->squares = l->band[2] == ph.axis[2].count && rows_of_four(u, ph.axis);
  for (int i = 0; i < 3; i++) {
    l->bands[i] = vox_ceil_div(ph.axis[i].count, l->band[i]);
    taps[i] = ph.axis[i].taps;
    slots[i] = i < 2 ? vox_axis_slots(&ph.axis[i]) : taps[i];
  }
  taps[0] = l->band[0] + depth_taps - 1;
  int64_t tiles = taps[0] * l->band[1] * l->band[2];
  /* and weights that are packed on the way are worth a V that L2 does not hold */
  if (!l->fused && weights_serve_once(p) && images <= MOST_LATE * u->lanes / tiles) most = vox_max(most, images * tiles);
  if (depth_taps == 1 && one_band(l))
    l->images = vox_max(1, vox_min(vox_min(most, MOST_TILES) / tiles, images / vox_max(1, threads)));
  if (images) l->images = vox_min(l->images, images);
  /* whether one thread's items would be one a group, whatever the threads are */
  l->late = weights_serve_once(p) && one_band(l) &&
            images <= (depth_taps == 1 ? vox_max(1, vox_min(most, MOST_TILES) / tiles) : 1);
  tiles *= l->images;
  /* a single vector of tiles, whatever the threads are: twice as many sums to a load of it */
  if (!l->fused && !l->by_channels && depth_taps == 1 && all <= u->lanes && images == 1) l->panel = 2 * u->tile_m;

  l->vectors = vox_ceil_div(tiles, u->lanes) + 1;
  if (band_plane(taps, slots, l->band[1] + vox_axis_halo(&ph.axis[1]), l->band[2], size, &l->plane) ||
      __builtin_mul_overflow(l->plane, l->images, &l->scratch))
    return VOX_OVERFLOW;
  l->scratch = vox_round_up(l->scratch + 2 * u->lanes, line);
  if (__builtin_mul_overflow(l->inputs, l->vectors * u->lanes, &l->columns)) return VOX_OVERFLOW;
  l->columns = vox_round_up(l->columns + u->lanes, 2 * line) + line; /* as odd_lines does, at least */

  if (product((const int64_t[]){vox_ceil_div(images, l->images), p->groups, l->bands[0], l->bands[1], l->bands[2]}, 5, &visits) ||
      product((const int64_t[]){l->positions, l->inputs, depth_taps, tiles, l->cout}, 5, &terms))
    return VOX_OVERFLOW;
  const int few = visits > 0 && visits < threads;
  if (few) wide = vox_ceil_div(threads % visits ? 2 * threads : threads, visits);
  wide = vox_max(wide, terms / (8 * (int64_t)ITEM_TERMS)); /* every part transforms the input again, unless they share it */
  const int64_t panels = vox_max(1, vox_ceil_div(l->cout, l->panel));
  const int64_t per_part = vox_ceil_div(panels, vox_min(panels, wide)) * l->panel;
  l->parts = vox_max(1, vox_ceil_div(l->cout, per_part));
  if (__builtin_mul_overflow(visits, l->parts, &l->items)) return VOX_OVERFLOW;
  if (few && l->parts > 1) l->shares = vox_min(l->inputs, vox_ceil_div(2 * threads, visits));
  l->k_block = !l->fused && l->columns <= V_BYTES / size / l->positions ? l->panel : per_part;
  l->depth_block = vox_max(1, l->cin);
  int64_t of_channel, packing = 0;
  if (product((const int64_t[]){l->positions, vox_parities(p), depth_taps, size}, 4, &of_channel)) return VOX_OVERFLOW;
  if (l->late && p->operation == VOX_CONV_INPUT_GRAD && depth_taps == 1 && !l->fused) {
    l->k_block = vox_min(per_part, vox_round_up(LATE_CHANNELS, l->panel));
    if (l->cin > WHOLE_BYTES / of_channel / l->k_block) { /* with as much of V, and the weights that come next */
      l->k_block = vox_min(per_part, vox_round_up(2 * LATE_CHANNELS, l->panel));
      l->depth_block = vox_min(l->cin, vox_round_up(vox_max(1, BLOCK_BYTES / of_channel / l->k_block), u->lanes));
    }
  }
  if (__builtin_mul_overflow(of_channel, l->depth_block, &of_channel)) return VOX_OVERFLOW;
  if (l->late) l->k_block = vox_min(l->k_block, vox_round_up(vox_max(1, LATE_BYTES / of_channel), l->panel));
  if (product((const int64_t[]){l->positions, l->vectors, u->lanes, l->fused ? 0 : l->k_block}, 4, &l->sums) ||
      __builtin_add_overflow(l->sums, l->positions * 2 * line, &l->sums))
    return VOX_OVERFLOW;
  if (l->by_channels && l->depth_block < l->cin) {
    l->kept = l->sums;
    if (__builtin_mul_overflow(l->sums, 2, &l->sums)) return VOX_OVERFLOW;
  }
  l->packing = l->sums;
  if (l->late && (product((const int64_t[]){of_channel / size, l->k_block}, 2, &packing) ||
                  __builtin_add_overflow(l->sums, l->positions * 2 * line, &l->sums) ||
                  __builtin_add_overflow(l->sums, packing, &l->sums)))
    return VOX_OVERFLOW;
  /* offsets of taps, runs of tiles with the first of each vector and where it goes, and the images */
  if (__builtin_mul_overflow(depth_taps, l->inputs, &l->taps)) return VOX_OVERFLOW;
  l->taps = vox_max(l->taps, taps[0] * l->positions);
  l->runs = l->images * taps[0] * l->band[1] + l->vectors;
  l->offsets = l->taps + 6 * l->runs + 9 * l->vectors + VOX_IMAGE_WORDS * l->images;
  if (l->squares) l->offsets += l->vectors * u->lanes / 2;
  l->offsets = vox_round_up(l->offsets, VOX_ALIGN / 8);
  return VOX_OK;
}

/* Whether the windows of the input gradient lie side by side and cover all, two columns each. */
static int windows_abut(const vox_conv *p) {
  int abut = p->operation == VOX_CONV_INPUT_GRAD && p->algorithm != VOX_WINOGRAD && p->kernel[2] == 2;
  for (int i = 0; i < 3; i++)
    abut &= p->kernel[i] == p->stride[i] && p->pad[i] == 0 && p->dilation[i] == 1 &&
            p->spatial[i] / p->stride[i] == p->output[i] && p->spatial[i] % p->stride[i] == 0;
  return abut;
}

static int upsample_layout(const vox_conv *p, const vox_unit *u, int64_t threads, vox_layout *l) {
  enum { TERMS = 1 << 20 }; /* of an item, at least */
  const int64_t size = p->type == VOX_F64 ? 8 : 4, width = u->tile_v * u->lanes, step = u->tile_m / 2;
  const int64_t plane = p->output[0] * p->output[1] * p->output[2];
  int64_t each, terms;
  l->upsamples = 1;
  for (int i = 0; i < 3; i++) l->phases[i] = l->bands[i] = l->band[i] = 1;
  if (product((const int64_t[]){p->kernel[0], p->kernel[1], 2, vox_max(1, l->cin), vox_max(1, l->cout), width}, 6, &each) ||
      product((const int64_t[]){l->cin, width}, 2, &l->scratch))
    return VOX_OVERFLOW;
  l->band[2] = width * vox_max(1, vox_min(TERMS / each, vox_ceil_div(plane, width)));
  l->bands[2] = vox_ceil_div(plane, l->band[2]);
  if (product((const int64_t[]){p->n, p->groups, l->bands[2]}, 3, &l->items) ||
      __builtin_mul_overflow(each, l->band[2] / width, &terms))
    return VOX_OVERFLOW;
  const int64_t wide = vox_max(terms / ITEM_TERMS, l->items < 2 * threads ? vox_ceil_div(threads, vox_max(1, l->items)) : 1);
  const int64_t panels = vox_max(1, vox_ceil_div(l->cout, step));
  l->parts = vox_ceil_div(panels, vox_ceil_div(panels, vox_max(1, vox_min(panels, wide))));
  if (__builtin_mul_overflow(l->items, l->parts, &l->items)) return VOX_OVERFLOW;
  l->scratch = vox_round_up(l->scratch, VOX_ALIGN / size);
  l->sums = u->tile_m * width;
  l->offsets = vox_round_up(l->cin, VOX_ALIGN / 8);
  return VOX_OK;
}

/* Whether the tile of depthwise sums serves: it makes one output channel at a time of each line that it loads, the tile of
 * convolutions up to four. */
static int is_narrow(const vox_conv *p, const vox_layout *l) {
  enum { MOST = 3 };
  int narrow = p->algorithm == VOX_DIRECT && l->cin > 0 && l->cout <= MOST && (p->operation == VOX_CONV || p->stride[0] == 1);
  for (int i = 1; i < 3; i++) narrow &= p->kernel[i] == 3 && p->stride[i] == 1 && p->dilation[i] == 1;
  return narrow;
}

/* Bands of whole tiles of rows, the last of which gets what remains.  Where L2 does not hold an image of all channels, a few
 * of them at a time meet a band, whose sums wait: else channels that lie a power of two apart push each other's lines out of
 * the caches before the rows below, or the next depth, read them again. */
static int narrow_layout(const vox_conv *p, const vox_unit *u, int64_t threads, vox_layout *l) {
  enum { TERMS = 1 << 19, IMAGE_BYTES = 256 * 1024, BLOCK = 4, PIXELS = 16 * 1024, SLICE_PIXELS = 4 * 1024, EACH = 8 };
  const int gradient = p->operation == VOX_CONV_INPUT_GRAD;
  const int64_t *count = gradient ? p->spatial : p->output, *source = gradient ? p->output : p->spatial;
  const int64_t size = p->type == VOX_F64 ? 8 : 4, tile = u->depthwise_rows;
  const int deep = p->kernel[0] > 1;
  int64_t each, line, image;
  l->narrow = l->panel = 1;
  for (int i = 0; i < 3; i++) l->phases[i] = 1;
  if (product((const int64_t[]){9, p->kernel[0], l->cin, vox_max(1, l->cout), tile}, 5, &each) ||
      product((const int64_t[]){size, l->cin, source[0], source[1], source[2]}, 5, &image))
    return VOX_OVERFLOW;
  const int large = image > IMAGE_BYTES;
  l->block = large ? BLOCK : l->cin;
  l->band[2] = even_piece(count[2], vox_max(u->lanes * 2, ITEM_TERMS / each));
  if (__builtin_mul_overflow(each, l->band[2], &line)) return VOX_OVERFLOW;
  const int64_t most = large ? (deep ? SLICE_PIXELS : PIXELS) / tile / l->band[2] : TERMS / line;
  int64_t tiles = vox_max(1, vox_min(most, vox_min(count[1] / tile, ITEM_TERMS / line)));
  if (threads > 1) tiles = vox_max(1, vox_min(tiles, vox_min(p->n, EACH) * vox_min(p->groups, EACH) * count[1] / tile / EACH / threads));
  l->band[1] = tile * tiles;
  l->band[0] = even_piece(count[0], ITEM_TERMS / line / tiles);
  for (int i = 0; i < 3; i++) l->bands[i] = vox_ceil_div(count[i], l->band[i]);
  l->bands[1] = vox_max(1, count[1] / l->band[1]);
  const int64_t rows = vox_round_up(count[1] - (l->bands[1] - 1) * l->band[1], tile);
  l->rows = large && !deep ? tile : rows; /* short lines by columns of tiles, so that masks are found but once */
  if (product((const int64_t[]){p->n, p->groups, l->bands[0], l->bands[1], l->bands[2]}, 5, &l->items)) return VOX_OVERFLOW;
  const int64_t parts = l->items < 2 * threads ? vox_max(1, vox_min(l->cout, threads)) : 1;
  l->parts = vox_ceil_div(vox_max(1, l->cout), vox_ceil_div(vox_max(1, l->cout), parts));
  if (__builtin_mul_overflow(l->items, l->parts, &l->items)) return VOX_OVERFLOW;
  if (l->block < l->cin) l->scratch = l->band[0] * rows * l->cout * (vox_round_up(l->band[2], u->lanes) + 2 * u->lanes);
  return VOX_OK;
}

/* Whether a gradient's outputs that have a tap at all have one, and all of dy's pixels are theirs in their order. */
static int one_tap_inside(const vox_conv *p) {
  for (int i = 0; i < 3; i++)
    if (p->kernel[i] != 1 || p->pad[i] != 0 || p->output[i] != (p->spatial[i] - 1) / p->stride[i] + 1) return 0;
  return 1;
}

int vox_conv_layout(const vox_conv *p, const vox_unit *u, int64_t threads, vox_layout *l) {
  const int64_t size = p->type == VOX_F64 ? 8 : 4;
  const int gradient = p->operation == VOX_CONV_INPUT_GRAD;
  int64_t taps[3], halo[3], slots[3], count[3], t, wide = 1;
  *l = (vox_layout){0};
  bounds(p, taps, halo, slots, count);
  l->cin = (gradient ? p->k : p->c) / p->groups;
  l->cout = (gradient ? p->c : p->k) / p->groups;
  l->panel = u->tile_m;
  l->images = 1;
  if (p->algorithm == VOX_WINOGRAD) return winograd_layout(p, u, threads, l);
  if (windows_abut(p)) return upsample_layout(p, u, threads, l);
  if (is_narrow(p, l)) return narrow_layout(p, u, threads, l);
  for (int i = 0; i < 3; i++) l->phases[i] = gradient ? vox_min(p->stride[i], p->spatial[i]) : 1;
  if (product(taps, 3, &t)) return VOX_OVERFLOW;
  l->vectors = l->cout >= u->tile_m ? u->tile_v : u->narrow_v;
  const int64_t width = l->vectors * u->lanes;

  l->band[0] = 1;
  const int64_t pairs = l->phases[0] * l->phases[1];
  l->pairs = p->algorithm == VOX_DIRECT && l->phases[2] == 2 && pairs <= VOX_MOST_PAIRS &&
             (p->kernel[0] == 1 || p->dilation[0] == 1);
  if (l->pairs) {
    vox_phase both;
    vox_conv_both(p, &both);
    taps[0] = vox_max(1, both.axis[0].taps);
    for (int i = 0; i < 3; i++) {
      halo[i] = vox_axis_halo(&both.axis[i]);
      l->phases[i] = 1;
    }
    if (product(p->kernel, 3, &t)) return VOX_OVERFLOW;
  }
  if (p->algorithm == VOX_DIRECT) {
    l->block = vox_max(1, vox_min(l->cin, BLOCK_TAPS / vox_max(1, t)));
    l->band[2] = even_piece(count[2], MOST_COLUMNS);
    int64_t pitch, lines, line_bytes, rows[2], vectors[2] = {0, INT64_MAX};
    if (__builtin_add_overflow(l->band[2], halo[2], &pitch)) return VOX_OVERFLOW;
    const int64_t pitches[2] = {pitch, l->band[2]}, columns[2] = {slots[2], taps[2]};
    const double visits = (double)p->n * (double)p->groups * (double)count[0] * (double)vox_ceil_div(count[2], l->band[2]);
    const double times = visits * (double)(l->phases[0] * l->phases[1] * l->phases[2]);
    if (l->pairs) { /* without a stop where L2 holds the thinnest band */
      int64_t plane;
      if (product((const int64_t[]){taps[0], LEAST_ROWS + halo[1], pitch, size}, 4, &plane)) return VOX_OVERFLOW;
      l->block = vox_max(l->block, vox_min(l->cin, PAIR_BYTES / vox_max(1, plane)));
    }
    for (int dense = 0; dense <= may_be_dense(p); dense++) {
      const int64_t row[] = {l->block, taps[0], slots[1], columns[dense], pitches[dense], size};
      if (product(row, 6, &line_bytes)) return VOX_OVERFLOW;
      int64_t most = vox_max(1, BAND_BYTES / line_bytes - halo[1]);
      const int64_t waiting = l->pairs ? l->block < l->cin ? 2 * pairs : 0 : 1;
      if (waiting) most = vox_min(most, vox_max(1, SUM_BYTES / waiting / size / pitches[dense] / vox_max(1, l->cout)));
      /* a tile should be full, and a thin band copies its halo too often */
      most = vox_max(most, vox_max(LEAST_ROWS, vox_ceil_div(width, pitches[dense])));
      rows[dense] = rows_of_band(count[1], most, pitches[dense], l->band[2], u->lanes, 1, times, &vectors[dense]);
      /* a single band stays so, since who packs the weights may not depend on threads */
      if (threads > 1 && rows[dense] < count[1])
        rows[dense] = rows_of_band(count[1], most, pitches[dense], l->band[2], u->lanes, threads, times, &vectors[dense]);
    }
    /* a column for each tap is more to copy, and more to read */
    l->dense = l->cout >= 128 && vectors[1] < vectors[0] - vectors[0] / LEAST_GAIN;
    l->by_rows = rows_layout(p, u, size, l);
    const int64_t block = l->by_rows ? l->block : whole_by_channels(p, l, u, taps, slots, count, halo, size);
    if (block) {
      l->by_channels = 1;
      l->dense = taps[2] > 1 && !l->by_rows;
      l->block = block;
      l->panel = u->channels;
      rows[l->dense] = l->by_rows ? l->band[1] : count[1];
    }
    l->band[1] = rows[l->dense];
    pitch = pitches[l->dense];
    slots[2] = columns[l->dense];
    if (__builtin_add_overflow(l->band[1], halo[1], &lines)) return VOX_OVERFLOW;
    if (band_plane(taps, slots, lines, pitch, size, &l->plane)) return VOX_OVERFLOW;
    if (__builtin_mul_overflow(l->plane, l->block, &l->scratch) ||
        __builtin_add_overflow(l->scratch, width, &l->scratch))
      return VOX_OVERFLOW;
    if (l->by_rows) l->scratch = 0;
    l->columns = vox_round_up(l->band[1] * pitch, width);
    for (int i = 0; i < 3; i++) l->bands[i] = vox_ceil_div(count[i], l->band[i]);
    if (vox_pointwise(p)) {
      l->by_channels = by_channels(l->cout, u, count[2], l->cin);
      l->in_place = l->by_channels || count[2] >= width;
    }
    const int64_t plane = count[0] * count[1] * count[2];
    if (l->pairs && one_tap_inside(p) && (by_channels(l->cout, u, plane, l->cin) || plane >= width)) {
      l->in_place = 1;
      l->by_channels = by_channels(l->cout, u, plane, l->cin);
      for (int i = 0; i < 2; i++) l->band[i] = l->bands[i] = 1;
      count[2] = plane;
    }
    if (l->in_place) { /* with their whole reduction in registers */
      const int64_t most = width * vox_max(1, BAND_BYTES / size / width / vox_max(1, l->cin));
      if (l->by_channels) l->panel = u->channels;
      l->band[2] = vox_min(count[2], l->by_channels ? count[2] : most);
      l->bands[2] = count[2] / l->band[2];
      l->block = l->cin;
      l->scratch = 0;
      l->columns = l->pairs ? vox_round_up(2 * l->band[2], width) : 0;
    }
  } else {
    int64_t total;
    l->block = vox_max(1, vox_min(l->cin, PANEL_TAPS / vox_max(1, t)));
    if (product(count, 3, &total)) return VOX_OVERFLOW;
    const int64_t panel[] = {l->block, t, width};
    if (product(panel, 3, &l->scratch)) return VOX_OVERFLOW;
    l->columns = width;
    l->bands[0] = l->bands[1] = 1;
    l->bands[2] = vox_ceil_div(total, width);
  }

  l->late = weights_serve_once(p) && p->n == 1 && one_band(l);
  int64_t terms;
  const int64_t work[] = {l->cout, l->cin, t, p->algorithm == VOX_DIRECT ? l->band[1] * l->band[2] : width};
  if (product(work, 4, &terms)) return VOX_OVERFLOW;
  /* small images share an item, and with it where their pixels go */
  if (p->algorithm == VOX_DIRECT && !l->in_place && !l->by_rows && !l->pairs && one_band(l) && terms > 0)
    l->images = vox_max(1, vox_min(TOGETHER_TERMS / terms, p->n / vox_max(1, threads)));
  const int64_t images = vox_ceil_div(p->n, l->images);
  const int64_t visits[] = {images, p->groups, l->phases[0], l->phases[1], l->phases[2], l->bands[0], l->bands[1], l->bands[2]};
  if (product(visits, 8, &l->items)) return VOX_OVERFLOW;
  /* output channels are shared out only where there are too few items: each part copies the band again */
  int64_t panels = vox_max(1, vox_ceil_div(l->cout, l->panel));
  if (l->items < 2 * threads) wide = vox_ceil_div(threads, vox_max(1, l->items));
  /* and where an item would keep a signal waiting */
  wide = vox_max(wide, terms / ITEM_TERMS);
  const int64_t per_part = vox_ceil_div(panels, vox_max(1, vox_min(panels, wide))) * l->panel;
  l->parts = vox_max(1, vox_ceil_div(l->cout, per_part));
  if (__builtin_mul_overflow(l->items, l->parts, &l->items)) return VOX_OVERFLOW;

  /* sums wait between two blocks of channels; the offsets of taps and pixels, and two words where each vector goes */
  l->sums = 0;
  const int waits = l->block < l->cin;
  if ((waits && !l->pairs && __builtin_mul_overflow(per_part, l->columns, &l->sums)) ||
      __builtin_mul_overflow(l->block, l->by_rows ? 3 * t : t, &l->taps) ||
      __builtin_add_overflow(l->taps, l->pairs ? VOX_TAP_WORDS * t : l->columns + 2 * l->columns / u->lanes, &l->offsets))
    return VOX_OVERFLOW;
  l->scratch = vox_round_up(l->scratch, VOX_ALIGN / size);
  if (l->pairs && (product((const int64_t[]){waits ? 2 * pairs * per_part : 2 * l->panel, l->columns}, 2, &l->sums) ||
                   __builtin_add_overflow(l->sums, u->lanes, &l->sums)))
    return VOX_OVERFLOW;
  l->sums = vox_round_up(l->sums, VOX_ALIGN / size);
  l->packing = l->sums;
  if (l->late && (product((const int64_t[]){l->panel, vox_max(1, l->cin), t}, 3, &terms) ||
                  __builtin_add_overflow(l->sums, vox_round_up(terms, VOX_ALIGN / size), &l->sums)))
    return VOX_OVERFLOW;
  l->offsets = vox_round_up(l->offsets, VOX_ALIGN / 8);
  return VOX_OK;
}

/* Threads share the blocks of input channels, then the panels of output channels; so does work too long for an item. */
static int share_panels(vox_weight_layout *l, int64_t groups, int64_t threads, int64_t terms) {
  const int64_t items = groups * vox_max(1, l->blocks), panels = vox_max(1, l->panels);
  const int64_t wide = vox_max(vox_ceil_div(threads, items), terms / ITEM_TERMS);
  l->panel_parts = vox_max(1, vox_min(l->panels, wide));
  /* as many as get a panel: five panels in four parts are two, two, one and none */
  l->panel_parts = vox_ceil_div(panels, vox_ceil_div(panels, l->panel_parts));
  return product((const int64_t[]){groups, l->blocks, l->panel_parts}, 3, &l->items);
}

/* A stage is about a thousand million operations, so that a call returns in time; stages change no sum's order. */
static void cut_stages(vox_weight_layout *l, double terms_per_chunk) {
  l->chunks_per_stage = vox_max(1, (int64_t)(2.5e8 / vox_max(1, (int64_t)terms_per_chunk)));
  l->stages = vox_ceil_div(l->chunks, l->chunks_per_stage);
}

/* Sums that are not finite may have to be summed again, each over all pixels: an item writes so many rows of so many
 * elements as take a few milliseconds. */
static int cut_finish(const vox_conv *p, vox_weight_layout *l, int64_t rows, int64_t elements, int64_t pieces_of) {
  int64_t sum;
  if (product((const int64_t[]){p->n, p->output[0], p->output[1], p->output[2], elements}, 5, &sum)) return VOX_OVERFLOW;
  l->rows_per_finish = vox_max(1, vox_min(rows, ITEM_TERMS / vox_max(1, sum)));
  l->finish_pieces = vox_ceil_div(rows, l->rows_per_finish);
  if (__builtin_mul_overflow(l->stages, l->items, &sum) ||
      __builtin_mul_overflow(pieces_of, l->finish_pieces, &l->finishes) || __builtin_add_overflow(sum, l->finishes, &sum))
    return VOX_OVERFLOW;
  return VOX_OK;
}

/* The rows of a block in tiles that are as full as they get. */
static void round_rows(const vox_unit *u, int64_t rows, vox_weight_layout *l) {
  const int64_t first = vox_round_up(rows, u->tile_rows[0]), second = vox_round_up(rows, u->tile_rows[1]);
  l->tile_rows = u->tile_rows[second < first];
  l->rows = vox_min(first, second);
}

static int winograd_weight_layout(const vox_conv *p, const vox_unit *u, int64_t threads, vox_weight_layout *l) {
  enum { V_BYTES = 640 * 1024 };
  const int64_t size = p->type == VOX_F64 ? 8 : 4, none[3] = {0, 0, 0};
  int64_t tile[3], taps[3], slots[3], images, terms, v;
  double gain;
  if (winograd_weight_tile(p, u, tile, &gain)) return VOX_INVALID;
  vox_winograd_phase(p, tile, none, &l->phase);
  const vox_axis *a = l->phase.axis;
  const int64_t depth = a[0].taps;
  l->positions = a[1].taps * a[2].taps;
  l->band[0] = 1;
  l->band[2] = even_piece(a[2].count, VOX_CHUNK_TILES);
  l->band[1] = even_piece(a[1].count, vox_max(1, VOX_CHUNK_TILES / l->band[2]));
  for (int i = 0; i < 3; i++) {
    l->bands[i] = vox_ceil_div(a[i].count, l->band[i]);
    taps[i] = a[i].taps;
    slots[i] = i < 2 ? vox_axis_slots(&a[i]) : taps[i];
  }
  l->images = images_together(p);
  if (product((const int64_t[]){p->n, weight_images(p)}, 2, &images) ||
      product((const int64_t[]){vox_ceil_div(images, l->images), l->bands[0], l->bands[1], l->bands[2]}, 4, &l->chunks))
    return VOX_OVERFLOW;
  const int64_t per_image = l->band[1] * l->band[2], tiles = l->images * per_image;
  const int64_t pixels = l->images * vox_round_up(per_image, u->lanes);
  if (band_plane(taps, slots, l->band[1] + vox_axis_halo(&a[1]), l->band[2], size, &l->plane)) return VOX_OVERFLOW;
  l->plane = vox_round_up(l->plane + u->lanes, VOX_ALIGN / size);
  l->block = vox_max(1, vox_min(vox_max(1, l->cin), V_BYTES / size / (l->positions * pixels * depth)));
  l->blocks = vox_ceil_div(l->cin, l->block);
  round_rows(u, l->block * depth, l);
  l->squares = rows_of_four(u, a);
  v = l->positions * (vox_round_up(l->block * depth * pixels, VOX_ALIGN / size) + VOX_ALIGN / size);
  l->scratch = l->plane + v;
  l->packed = vox_max(16 * per_image, l->positions * l->tile_rows) * l->lanes +
              l->positions * (vox_round_up(tiles * l->lanes, VOX_ALIGN / size) + VOX_ALIGN / size);
  l->offsets = vox_round_up(l->positions * depth + tiles, VOX_ALIGN / 8);
  if (product((const int64_t[]){l->block * depth, 4 * tiles * 9, l->cout}, 3, &terms) ||
      share_panels(l, p->groups, threads, terms) ||
      product((const int64_t[]){p->groups, l->blocks, l->panels, l->positions, l->rows, l->lanes}, 6, &l->sums))
    return VOX_OVERFLOW;
  /* of one chunk only whether a sum is not finite need be known later */
  l->sums = vox_round_up(l->chunks == 1 ? 1 : l->sums, VOX_ALIGN / size);
  cut_stages(l, (double)p->k * (double)(l->cin * depth) * 36 * (double)tiles);
  return cut_finish(p, l, l->cin * depth, 9 * l->lanes, p->groups * l->panels);
}

/* Whether rows are so few that they do not repay the packing of dy, estimated for a row and a line in multiply-adds of a
 * vector: pixels in the lanes leave some of them idle and cost a visit, of the line and of the sums.  As measured. */
static int by_planes(const vox_unit *u, int64_t rows, const int64_t count[3]) {
  enum { MOST_ROWS = 36 };
  if (rows < 1 || rows > MOST_ROWS) return 0;
  const double line = (double)count[2] / (double)u->lanes;
  return (double)vox_ceil_div(count[2], u->lanes) + 1.2 + 8 / (double)count[1] < line * (1.05 + 20 / (double)rows);
}

int vox_weight_layout_of(const vox_conv *p, const vox_unit *u, int64_t threads, vox_weight_layout *l) {
  enum { MOST_ROWS = 256 };
  const int64_t size = p->type == VOX_F64 ? 8 : 4, none[3] = {0, 0, 0};
  int64_t taps[3], halo[3], slots[3], count[3];
  *l = (vox_weight_layout){0};
  bounds(p, taps, halo, slots, count);
  vox_conv_phase(p, none, &l->sum);
  l->phase = l->sum;
  l->positions = 1;
  const int64_t t = l->phase.taps;
  l->cin = p->c / p->groups;
  l->cout = p->k / p->groups;
  l->lanes = u->lanes * (l->cout > u->lanes ? u->tile_k : 1);
  l->panels = vox_ceil_div(l->cout, l->lanes);
  if (p->algorithm == VOX_WINOGRAD) return winograd_weight_layout(p, u, threads, l);

  l->in_place = p->algorithm == VOX_DIRECT;
  for (int i = 0; i < 3; i++)
    l->in_place &= l->phase.axis[i].offset0 >= 0 && (count[i] - 1) * l->phase.axis[i].step +
                   vox_axis_offset(&l->phase.axis[i], l->phase.axis[i].taps - 1) < l->phase.axis[i].size;
  /* a vector's lanes are summed once a chunk, which is longer then */
  l->by_planes = p->algorithm == VOX_DIRECT && by_planes(u, l->cin * t, count);
  l->in_place &= !l->by_planes;

  /* a chunk: whole lines, or a piece of one; by shape alone, since its sums are part of the result's bits */
  const int64_t chunk = l->by_planes ? 16 * CHUNK_PIXELS : CHUNK_PIXELS;
  l->band[0] = 1;
  l->band[2] = even_piece(count[2], chunk);
  l->band[1] = l->band[2] < count[2] ? 1 : even_piece(count[1], chunk / count[2]);
  for (int i = 0; i < 3; i++) l->bands[i] = vox_ceil_div(count[i], l->band[i]);
  const int64_t chunks[] = {p->n, l->bands[0], l->bands[1], l->bands[2]};
  if (product(chunks, 4, &l->chunks)) return VOX_OVERFLOW;

  /* a block of input channels: its band in L2, but enough rows to repay the packing of dy */
  int64_t pitch, lines, pixels = l->band[1] * l->band[2], plane = 0;
  if (p->algorithm == VOX_DIRECT) {
    if (__builtin_add_overflow(l->band[2], halo[2], &pitch) || __builtin_add_overflow(l->band[1], halo[1], &lines) ||
        band_plane(taps, slots, lines, pitch, size, &plane))
      return VOX_OVERFLOW;
    l->plane = plane;
  }
  l->block = vox_max(1, vox_min(vox_max(1, l->cin), l->in_place ? vox_max(64, MOST_ROWS / t) : vox_max(64 / vox_max(1, t / 9), 1)));
  l->blocks = vox_ceil_div(l->cin, l->block);
  if (__builtin_mul_overflow(l->block, t, &l->rows)) return VOX_OVERFLOW;
  round_rows(u, l->rows, l);

  int64_t terms;
  if (product((const int64_t[]){l->block, t, pixels, l->cout}, 4, &terms) || share_panels(l, p->groups, threads, terms))
    return VOX_OVERFLOW;

  const int64_t dy[] = {vox_ceil_div(vox_max(1, l->panels), l->panel_parts), pixels, l->lanes};
  const int64_t sums[] = {p->groups, l->blocks, l->panels, l->rows, l->lanes};
  if (product(dy, 3, &l->packed) || product(sums, 5, &l->sums)) return VOX_OVERFLOW;
  l->scratch = p->algorithm == VOX_DIRECT ? 0 : l->tile_rows * pixels;
  if (p->algorithm == VOX_DIRECT && __builtin_mul_overflow(plane, l->block, &l->scratch)) return VOX_OVERFLOW;
  l->scratch = vox_round_up(l->scratch, VOX_ALIGN / size);
  l->packed = vox_round_up(l->packed, VOX_ALIGN / size);
  l->sums = vox_round_up(l->sums, VOX_ALIGN / size);
  l->offsets = vox_round_up(pixels, VOX_ALIGN / 8);

  cut_stages(l, (double)p->k * (double)l->cin * (double)t * (double)pixels);
  return cut_finish(p, l, l->cin * t, l->lanes, p->groups * l->panels);
}
