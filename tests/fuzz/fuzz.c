/* Random problems through the C interface, compared with loops that share no code with it.
 *
 *   vox_fuzz SECONDS [SEED [CALLERS [THREADS]]]     CALLERS threads call at once; a call uses up to THREADS
 *   vox_fuzz case SEED                              one case again, as a failure names it
 *
 * Every operand ends (or starts) at a page that may not be touched, or is a block of its own from malloc where a
 * sanitizer or valgrind watches those (VOX_FUZZ_MALLOC=1).  Outputs are filled with NaN, scratch with 0xFF, and scratch
 * and packed weights have exactly the size that the library asks for.  Each case runs twice, with other threads and
 * other addresses, and must give the same bits.  Integers must be exact, floats within gamma_d of the sum of
 * magnitudes, and a NaN or an infinity stands exactly where the loops have it. */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../csrc/api.h"

/* --------------------------------------------------------------------------------------------- cases and memory */

enum { SLOTS = 8, MOST_THREADS = 8 };
enum { INTEGERS, FLOATS, SPECIALS }; /* kinds of data */
enum { CONV, INPUT_GRAD, WEIGHT_GRAD, BIAS_GRAD, MAX_POOL, AVG_POOL, AVG_POOL_GRAD, UNFOLD, FOLD, SCATTER, KINDS };
static const char *const kind_names[KINDS] = {"conv",     "input_grad",    "weight_grad", "bias_grad", "max_pool",
                                              "avg_pool", "avg_pool_grad", "unfold",      "fold",      "scatter"};
static const size_t region = (size_t)64 << 20, page = 4096;
static int from_malloc;
static int64_t most_threads = 4;
static _Atomic int64_t counts[KINDS], skipped;

typedef struct {
  uint64_t seed, state;
  char *regions[SLOTS]; /* between two forbidden pages each */
  void *blocks[SLOTS];
  char text[600]; /* what is being tried */
} caller;

static uint64_t draw64(caller *c) {
  uint64_t z = c->state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}
static int64_t draw(caller *c, int64_t below) { return (int64_t)(draw64(c) % (uint64_t)below); }
#define PICK(c, ...) \
  (((const int64_t[]){__VA_ARGS__})[draw(c, sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))])

static void fail(const caller *c, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "FAILED: ");
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n  %s\n  again: VOXCONV_ISA=%s vox_fuzz case %llu\n", c->text, vox_isa_name(vox_isa_used()),
          (unsigned long long)c->seed);
  abort();
}

static _Thread_local const caller *current;

__attribute__((unused)) static void report_signal(int number) {
  signal(number, SIG_DFL); /* what follows dies of the same, but has its say first */
  if (current) fail(current, "signal %d", number);
}

/* `bytes` of slot `slot`, all `fill`; at_end: the byte after the last is forbidden, else the byte before the first. */
static void *block(caller *c, int slot, int64_t bytes, int fill, int at_end) {
  if (from_malloc) {
    free(c->blocks[slot]);
    c->blocks[slot] = malloc((size_t)bytes);
    return memset(c->blocks[slot], fill, (size_t)bytes);
  }
  if (!c->regions[slot]) {
    char *whole = mmap(NULL, region + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (whole == MAP_FAILED || mprotect(whole + page, region, PROT_READ | PROT_WRITE)) abort();
    c->regions[slot] = whole + page;
  }
  if ((size_t)bytes > region) abort();
  return memset(c->regions[slot] + (at_end ? region - (size_t)bytes : 0), fill, (size_t)bytes);
}

/* ------------------------------------------------------------------------------------------------------- elements */

static const int64_t sizes_of[] = {4, 8, 1, 1, 2, 2, 4, 4, 8, 8};

static long double get(int type, const void *p, int64_t i) {
  switch (type) {
  case VOX_F32: return ((const float *)p)[i];
  case VOX_F64: return ((const double *)p)[i];
  case VOX_I8: return ((const int8_t *)p)[i];
  case VOX_U8: return ((const uint8_t *)p)[i];
  case VOX_I16: return ((const int16_t *)p)[i];
  case VOX_U16: return ((const uint16_t *)p)[i];
  case VOX_I32: return ((const int32_t *)p)[i];
  case VOX_U32: return ((const uint32_t *)p)[i];
  case VOX_I64: return (long double)((const int64_t *)p)[i];
  default: return (long double)((const uint64_t *)p)[i];
  }
}

static void fill(caller *c, int type, void *p, int64_t count, int kind) {
  if (type > VOX_F64) {
    for (int64_t i = 0; i < count * sizes_of[type]; i++) ((uint8_t *)p)[i] = (uint8_t)(draw(c, 4) ? draw64(c) % 3 : draw64(c));
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    double v = (double)(draw(c, 7) - 3);
    if (kind != INTEGERS) v = ldexp((double)(draw64(c) >> 11) * 0x1p-52 - 1, (int)draw(c, 12) - 6);
    if (type == VOX_F32)
      ((float *)p)[i] = (float)v;
    else
      ((double *)p)[i] = v;
  }
  static const double specials[] = {NAN, INFINITY, -INFINITY};
  for (int64_t planted = kind == SPECIALS && count ? 1 + draw(c, 2) : 0; planted > 0; planted--) {
    int64_t i = draw(c, count);
    double v = specials[draw(c, 3)];
    if (type == VOX_F32)
      ((float *)p)[i] = (float)v;
    else
      ((double *)p)[i] = v;
  }
}

static uint64_t digest(const void *p, int64_t bytes) {
  uint64_t h = UINT64_C(0xcbf29ce484222325);
  for (int64_t i = 0; i < bytes; i++) h = (h ^ ((const uint8_t *)p)[i]) * UINT64_C(0x100000001b3);
  return h;
}

/* One element of the result: the sum of its terms, of their magnitudes, and how many there are. */
typedef struct {
  long double sum, magnitude;
  int64_t terms;
} expected;

static void add(expected *e, long double v) {
  e->sum += v;
  e->magnitude += fabsl(v);
  e->terms++;
}

static void check(const caller *c, int type, int kind, const void *found, int64_t i, const expected *e) {
  long double y = get(type, found, i), u = type == VOX_F32 ? 0x1p-24L : 0x1p-53L;
  long double d = (long double)e->terms + 4, bound = d * u / (1 - d * u) * e->magnitude + d * (type == VOX_F32 ? 0x1p-149L : 0x1p-1074L);
  /* the class is asked of a double: valgrind computes long double as such */
  double sum = (double)e->sum;
  int same = isnan(sum) ? isnan((double)y) : isinf(sum) ? (double)y == sum : kind == INTEGERS ? y == e->sum : fabsl(y - e->sum) <= bound;
  if (!same) fail(c, "element %lld is %.17Lg, not %.17Lg (+- %.3Lg)", (long long)i, y, e->sum, bound);
}

/* --------------------------------------------------------------------------------------------------------- shapes */

/* Sizes at which lanes, tiles, bands and chunks begin and end. */
static int64_t boundary(caller *c, int64_t lanes) {
  int64_t base = PICK(c, 1, lanes, 2 * lanes, 3 * lanes, 6 * lanes, 256, 512, 4, 8);
  return base + draw(c, 3) - (base > 1);
}

typedef struct {
  int64_t spatial[3], kernel[3], stride[3], pad[3], pad_after[3], dilation[3], output[3];
} geometry;

static int64_t volume(const int64_t v[3]) { return v[0] * v[1] * v[2]; }

/* Geometry of at most `budget` products a channel; `reaches`: every window has an element of its own. */
static geometry draw_geometry(caller *c, int64_t lanes, int64_t budget, int reaches) {
  for (;;) {
    geometry g;
    int rank = 1 + (int)draw(c, 3), fits = 1;
    for (int i = 0; i < 3; i++) {
      int used = i >= 3 - rank;
      g.kernel[i] = used ? PICK(c, 1, 1, 2, 3, 3, 3, 4, 5, 7, 11) : 1;
      g.stride[i] = used ? PICK(c, 1, 1, 1, 2, 2, 3, 4, 5, 9) : 1;
      g.dilation[i] = used ? PICK(c, 1, 1, 1, 2, 3, 4, 17) : 1;
      g.spatial[i] = !used ? 1 : i == 2 && draw(c, 3) ? boundary(c, lanes) : 1 + draw(c, 20);
      int64_t span = (g.kernel[i] - 1) * g.dilation[i] + 1;
      g.pad[i] = used && draw(c, 2) ? draw(c, reaches ? span / 2 + 1 : span + 2) : 0;
      g.pad_after[i] = draw(c, 3) ? g.pad[i] : used ? draw(c, span) : 0;
      int64_t room = g.spatial[i] + g.pad[i] + g.pad_after[i] - span;
      if (room < 0) {
        fits = 0;
        break;
      }
      g.output[i] = room / g.stride[i] + 1;
      /* rounding up, as pools may: the last window runs over the end */
      if (used && draw(c, 8) == 0) g.output[i]++;
      if (used && draw(c, 8) == 0) g.output[i] = 1 + draw(c, g.output[i]);
      /* the step to a neighbour that is not there may be anything */
      if (g.output[i] == 1 && draw(c, 4) == 0) g.stride[i] = INT64_MAX >> draw(c, 40);
      if (g.kernel[i] == 1 && draw(c, 4) == 0) g.dilation[i] = INT64_MAX >> draw(c, 40);
      for (int64_t o = 0; reaches && o < g.output[i]; o++) {
        int seen = 0;
        for (int64_t t = 0; t < g.kernel[i] && !seen; t++) {
          int64_t at = o * g.stride[i] - g.pad[i] + (t ? t * g.dilation[i] : 0);
          seen = at >= 0 && at < g.spatial[i];
        }
        fits &= seen;
      }
    }
    if (fits && volume(g.output) * volume(g.kernel) <= budget && volume(g.spatial) <= budget) return g;
  }
}

/* Where tap t of the window at output o reads: its flat index, or -1 in the padding. */
static int64_t place(const geometry *g, int64_t o, int64_t t) {
  int64_t at = 0;
  int64_t od[3] = {o / g->output[2] / g->output[1], o / g->output[2] % g->output[1], o % g->output[2]};
  int64_t td[3] = {t / g->kernel[2] / g->kernel[1], t / g->kernel[2] % g->kernel[1], t % g->kernel[2]};
  for (int i = 0; i < 3; i++) {
    int64_t p = (od[i] ? od[i] * g->stride[i] : 0) - g->pad[i] + (td[i] ? td[i] * g->dilation[i] : 0);
    if (p < 0 || p >= g->spatial[i]) return -1;
    at = at * g->spatial[i] + p;
  }
  return at;
}

static int describe(caller *c, const char *name, const geometry *g, int type, int data) {
  return snprintf(c->text, sizeof c->text,
                  "%s type %d data %d: spatial %lldx%lldx%lld kernel %lldx%lldx%lld stride %lld,%lld,%lld pad %lld,%lld,%lld "
                  "dilation %lld,%lld,%lld output %lldx%lldx%lld",
                  name, type, data, (long long)g->spatial[0], (long long)g->spatial[1], (long long)g->spatial[2],
                  (long long)g->kernel[0], (long long)g->kernel[1], (long long)g->kernel[2], (long long)g->stride[0],
                  (long long)g->stride[1], (long long)g->stride[2], (long long)g->pad[0], (long long)g->pad[1],
                  (long long)g->pad[2], (long long)g->dilation[0], (long long)g->dilation[1], (long long)g->dilation[2],
                  (long long)g->output[0], (long long)g->output[1], (long long)g->output[2]);
}

/* ----------------------------------------------------------------------------------------------------- convolution */

static int64_t budget_of(caller *c) { return draw(c, 12) ? 30000 : 1000000; }

static void run_conv(caller *c, int kind) {
  static const int operations[] = {VOX_CONV, VOX_CONV_INPUT_GRAD, VOX_CONV_WEIGHT_GRAD};
  const int type = draw(c, 3) == 0 ? VOX_F64 : VOX_F32, data = (int)draw(c, 3), wg = kind == WEIGHT_GRAD;
  const int64_t lanes = vox_isa_lanes(vox_isa_used(), type), size = sizes_of[type];
  int64_t budget = budget_of(c), groups, cg, kg;
  do {
    groups = PICK(c, 1, 1, 1, 1, 2, 3, 8);
    cg = PICK(c, 0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 65);
    kg = PICK(c, 1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65);
  } while (groups * cg * kg > budget / 8);
  const int64_t n = PICK(c, 0, 1, 1, 1, 1, 2, 3);
  geometry g = draw_geometry(c, lanes, vox_get_num_threads() + budget / (groups * kg * (cg ? cg : 1)), 0);
  vox_conv p = {.n = n, .c = groups * cg, .k = groups * kg, .groups = groups, .type = type, .operation = operations[kind],
                .algorithm = (int)draw(c, 2) ? VOX_DIRECT : VOX_IM2COL,
                .activation = wg ? VOX_IDENTITY : (int)PICK(c, VOX_IDENTITY, VOX_RELU, VOX_LEAKY_RELU), .slope = 0.25};
  memcpy(p.spatial, g.spatial, sizeof g.spatial);
  memcpy(p.kernel, g.kernel, sizeof g.kernel);
  memcpy(p.stride, g.stride, sizeof g.stride);
  memcpy(p.pad, g.pad, sizeof g.pad);
  memcpy(p.dilation, g.dilation, sizeof g.dilation);
  memcpy(p.output, g.output, sizeof g.output);
  int at = describe(c, kind_names[kind], &g, type, data);
  snprintf(c->text + at, sizeof c->text - (size_t)at, " n %lld groups %lld of %lld -> %lld algorithm %d activation %d",
           (long long)n, (long long)groups, (long long)cg, (long long)kg, p.algorithm, p.activation);

  const int64_t image = volume(g.spatial), plane = volume(g.output), taps = volume(g.kernel);
  const int64_t xs = n * p.c * image, ws = p.k * cg * taps, ys = n * p.k * plane;
  const int64_t as = kind == INPUT_GRAD ? ys : xs, bs = wg ? ys : ws, outs = kind == CONV ? ys : wg ? ws : xs;
  const int64_t biases = wg || draw(c, 2) ? 0 : kind == CONV ? p.k : p.c;
  const int end = (int)draw(c, 2), planted = (int)draw(c, 2);
  void *a = block(c, 0, as * size, 0, end), *b = block(c, 1, bs * size, 0, end), *bias = block(c, 2, biases * size, 0, end);
  fill(c, type, a, as, data == SPECIALS && planted ? FLOATS : data);
  fill(c, type, b, bs, data == SPECIALS && !planted ? FLOATS : data);
  fill(c, type, bias, biases, data == SPECIALS ? FLOATS : data);
  const uint64_t before = digest(a, as * size) ^ digest(b, bs * size);

  void *results[2];
  for (int run = 0; run < 2; run++) {
    int64_t threads = 1 + draw(c, most_threads), workspace = vox_conv_workspace_bytes(&p, threads), cursor = 0;
    int64_t packed_bytes = vox_conv_packed_bytes(&p);
    int status;
    if (workspace < 0 || packed_bytes < 0) fail(c, "refused: %lld %lld", (long long)workspace, (long long)packed_bytes);
    if (workspace > (int64_t)region) {
      skipped++;
      return;
    }
    int side = end ^ run;
    if (run) {
      void *moved = block(c, 3, as * size, 0, side);
      a = memcpy(moved, a, (size_t)(as * size));
    }
    void *packed = b;
    if (!wg) {
      /* both are multiples of 64 bytes or start where memory does: 64-byte alignment is the caller's */
      packed = block(c, 4, packed_bytes, 0xff, 1);
      if ((status = vox_conv_pack(&p, b, packed))) fail(c, "pack: %d", status);
    }
    void *memory = block(c, 5, workspace, 0xff, 1);
    results[run] = block(c, 6 + run, outs * size, 0xff, side);
    while ((status = vox_conv_run(&p, threads, a, packed, biases ? bias : NULL, results[run], memory, &cursor)) == VOX_AGAIN) {
    }
    if (status) fail(c, "run: %d", status);
  }
  if (memcmp(results[0], results[1], (size_t)(outs * size))) fail(c, "bits differ between two runs");
  if (before != (digest(a, as * size) ^ digest(b, bs * size))) fail(c, "an input was changed");

  /* y[n, k, o] += x[n, c, place(o, t)] * w[k, c, t], read in the direction that is asked for */
  expected *e = calloc((size_t)outs + 1, sizeof *e);
  for (int64_t s = 0; s < n; s++)
    for (int64_t k = 0; k < p.k; k++)
      for (int64_t o = 0; o < plane; o++)
        for (int64_t t = 0; t < taps; t++) {
          int64_t from = place(&g, o, t);
          if (from < 0) continue;
          for (int64_t i = 0; i < cg; i++) {
            int64_t x = (s * p.c + k / kg * cg + i) * image + from, w = (k * cg + i) * taps + t, y = (s * p.k + k) * plane + o;
            if (kind == CONV)
              add(&e[y], get(type, a, x) * get(type, b, w));
            else if (kind == INPUT_GRAD)
              add(&e[x], get(type, a, y) * get(type, b, w));
            else
              add(&e[w], get(type, a, x) * get(type, b, y));
          }
        }
  for (int64_t i = 0; i < outs; i++) {
    if (biases) add(&e[i], get(type, bias, kind == CONV ? i / plane % p.k : i / image % p.c));
    if (p.activation && e[i].sum < 0) e[i].sum = p.activation == VOX_RELU ? 0 : e[i].sum * 0.25L;
    check(c, type, data, results[0], i, &e[i]);
  }
  free(e);
}

static void run_bias_grad(caller *c) {
  const int type = (int)draw(c, 2), data = (int)draw(c, 3);
  const int64_t size = sizes_of[type], lanes = vox_isa_lanes(vox_isa_used(), type);
  const int64_t n = draw(c, 4), k = 1 + draw(c, 9), count = draw(c, 9) ? boundary(c, 4 * lanes) : 0;
  snprintf(c->text, sizeof c->text, "bias_grad type %d data %d: %lld x %lld x %lld", type, data, (long long)n, (long long)k,
           (long long)count);
  const int end = (int)draw(c, 2);
  void *dy = block(c, 0, n * k * count * size, 0, end), *out[2];
  fill(c, type, dy, n * k * count, data);
  for (int run = 0; run < 2; run++) {
    int64_t cursor = 0;
    if (run) dy = memcpy(block(c, 1, n * k * count * size, 0, !end), dy, (size_t)(n * k * count * size));
    out[run] = block(c, 2 + run, k * size, 0xff, end);
    while (vox_conv_bias_grad(type, 1 + draw(c, most_threads), n, k, count, dy, out[run], &cursor)) {
    }
  }
  if (memcmp(out[0], out[1], (size_t)(k * size))) fail(c, "bits differ between two runs");
  for (int64_t i = 0; i < k; i++) {
    expected e = {0};
    for (int64_t s = 0; s < n; s++)
      for (int64_t j = 0; j < count; j++) add(&e, get(type, dy, (s * k + i) * count + j));
    check(c, type, data, out[0], i, &e);
  }
}

/* ----------------------------------------------------------------------------------------------------------- pools */

static int64_t divisor_at(const vox_window *p, int64_t o) {
  int64_t od[3] = {o / p->output[2] / p->output[1], o / p->output[2] % p->output[1], o % p->output[2]}, count = 1;
  if (p->divisor) return p->divisor;
  for (int i = 0; i < 3; i++) {
    int64_t inside = 0;
    for (int64_t t = 0; t < p->kernel[i]; t++) {
      int64_t at = (od[i] ? od[i] * p->stride[i] : 0) - p->pad[i] + t;
      inside += p->count_include_pad ? at < p->spatial[i] + p->pad_after[i] : at >= 0 && at < p->spatial[i];
    }
    count *= inside;
  }
  return count;
}

static void run_window(caller *c, int kind) {
  const int type = (int)draw(c, kind == MAX_POOL ? 10 : 2), data = (int)draw(c, 3);
  const int64_t size = sizes_of[type], lanes = vox_isa_lanes(vox_isa_used(), VOX_F32);
  geometry g = draw_geometry(c, lanes, budget_of(c), kind == MAX_POOL || kind == AVG_POOL || kind == AVG_POOL_GRAD);
  if (kind == AVG_POOL || kind == AVG_POOL_GRAD)
    do
      g = draw_geometry(c, lanes, budget_of(c), 1);
    while ((g.dilation[0] | g.dilation[1] | g.dilation[2]) != 1);
  vox_window p = {.planes = draw(c, 4), .type = type, .count_include_pad = (int)draw(c, 2),
                  .divisor = draw(c, 4) ? 0 : 1 + draw(c, 9)};
  memcpy(p.spatial, g.spatial, sizeof g.spatial);
  memcpy(p.kernel, g.kernel, sizeof g.kernel);
  memcpy(p.stride, g.stride, sizeof g.stride);
  memcpy(p.pad, g.pad, sizeof g.pad);
  memcpy(p.pad_after, g.pad_after, sizeof g.pad_after);
  memcpy(p.dilation, g.dilation, sizeof g.dilation);
  memcpy(p.output, g.output, sizeof g.output);
  int at = describe(c, kind_names[kind], &g, type, data);
  snprintf(c->text + at, sizeof c->text - (size_t)at, " planes %lld divisor %lld with padding %d", (long long)p.planes,
           (long long)p.divisor, p.count_include_pad);

  const int64_t image = volume(g.spatial), plane = volume(g.output), taps = volume(g.kernel);
  const int64_t wide = kind == UNFOLD || kind == FOLD ? taps * plane : plane;
  const int back = kind == FOLD || kind == AVG_POOL_GRAD;
  const int64_t ins = p.planes * (back ? wide : image), outs = p.planes * (back ? image : wide);
  const int end = (int)draw(c, 2), indexed = (int)draw(c, 2);
  void *x = block(c, 0, ins * size, 0, end), *y[2];
  int64_t *indices[2];
  fill(c, type, x, ins, data);
  const uint64_t before = digest(x, ins * size);
  for (int run = 0; run < 2; run++) {
    int64_t threads = 1 + draw(c, most_threads), cursor = 0;
    int status;
    if (run) x = memcpy(block(c, 1, ins * size, 0, !end), x, (size_t)(ins * size));
    y[run] = block(c, 2 + run, outs * size, 0xff, end ^ run);
    indices[run] = block(c, 4 + run, outs * 8, 0xff, end ^ run);
    do
      switch (kind) {
      case MAX_POOL: status = vox_max_pool(&p, threads, x, y[run], indexed ? indices[run] : NULL, &cursor); break;
      case AVG_POOL: status = vox_avg_pool(&p, threads, x, y[run], &cursor); break;
      case AVG_POOL_GRAD: status = vox_avg_pool_grad(&p, threads, x, y[run], &cursor); break;
      case UNFOLD: status = vox_unfold(&p, threads, x, y[run], &cursor); break;
      default: status = vox_fold(&p, threads, x, y[run], &cursor);
      }
    while (status == VOX_AGAIN);
    if (status) fail(c, "refused: %d", status);
  }
  if (memcmp(y[0], y[1], (size_t)(outs * size)) || memcmp(indices[0], indices[1], (size_t)outs * 8))
    fail(c, "bits differ between two runs");
  if (before != digest(x, ins * size)) fail(c, "an input was changed");

  expected *e = calloc((size_t)outs + 1, sizeof *e);
  for (int64_t s = 0; s < p.planes; s++)
    for (int64_t o = 0; o < plane; o++) {
      int64_t out = s * plane + o, best = -1;
      for (int64_t t = 0; t < taps; t++) {
        int64_t from = place(&g, o, t), column = (s * taps + t) * plane + o;
        if (kind == UNFOLD) add(&e[column], from < 0 ? 0 : get(type, x, s * image + from));
        if (from < 0) continue;
        long double v = back ? 0 : get(type, x, s * image + from);
        if (kind == FOLD) add(&e[s * image + from], get(type, x, column));
        if (kind == AVG_POOL) add(&e[out], v);
        if (kind == AVG_POOL_GRAD) add(&e[s * image + from], get(type, x, out) / (long double)divisor_at(&p, o));
        if (kind == MAX_POOL && (best < 0 || v > get(type, x, s * image + best) || isnan(v))) best = from;
      }
      if (kind == MAX_POOL) {
        e[out].sum = get(type, x, s * image + best);
        if (indexed && indices[0][out] != best) fail(c, "index %lld is %lld, not %lld", (long long)out, (long long)indices[0][out], (long long)best);
      }
      if (kind == AVG_POOL) {
        e[out].sum /= (long double)divisor_at(&p, o);
        e[out].magnitude /= (long double)divisor_at(&p, o);
      }
    }
  for (int64_t i = 0; i < outs; i++)
    check(c, type, kind == AVG_POOL || kind == AVG_POOL_GRAD ? FLOATS : kind == FOLD ? data : INTEGERS, y[0], i, &e[i]);
  free(e);
}

static void run_scatter(caller *c) {
  const int type = (int)draw(c, 10), accumulate = type <= VOX_F64 && draw(c, 2), data = (int)draw(c, 2);
  const int64_t size = sizes_of[type], planes = draw(c, 4), count = draw(c, 300), cells = 1 + draw(c, 300);
  snprintf(c->text, sizeof c->text, "scatter type %d: %lld x %lld into %lld, accumulate %d", type, (long long)planes,
           (long long)count, (long long)cells, accumulate);
  const int end = (int)draw(c, 2);
  void *values = block(c, 0, planes * count * size, 0, end), *out = block(c, 1, planes * cells * size, 0xff, end);
  int64_t *indices = block(c, 2, planes * count * 8, 0, end), cursor = 0;
  fill(c, type, values, planes * count, data);
  for (int64_t i = 0; i < planes * count; i++) indices[i] = draw(c, cells);
  while (vox_scatter(type, 1 + draw(c, most_threads), planes, count, cells, accumulate, values, indices, out, &cursor)) {
  }
  expected *e = calloc((size_t)(planes * cells) + 1, sizeof *e);
  for (int64_t i = 0; i < planes * count; i++) {
    expected *to = &e[i / count * cells + indices[i]];
    if (!accumulate) *to = (expected){0};
    add(to, get(type, values, i));
  }
  for (int64_t i = 0; i < planes * cells; i++) check(c, type, accumulate ? data : INTEGERS, out, i, &e[i]);
  free(e);
}

/* ------------------------------------------------------------------------------------------------------------ main */

static void run_case(caller *c, uint64_t seed) {
  c->seed = c->state = seed;
  current = c;
  int kind = (int)PICK(c, CONV, CONV, CONV, INPUT_GRAD, INPUT_GRAD, WEIGHT_GRAD, WEIGHT_GRAD, BIAS_GRAD, MAX_POOL, MAX_POOL,
                       AVG_POOL, AVG_POOL_GRAD, UNFOLD, FOLD, SCATTER);
  if (kind <= WEIGHT_GRAD)
    run_conv(c, kind);
  else if (kind == BIAS_GRAD)
    run_bias_grad(c);
  else if (kind == SCATTER)
    run_scatter(c);
  else
    run_window(c, kind);
  counts[kind]++;
}

static _Atomic uint64_t next_seed;
static time_t deadline;

static void *call_until_late(void *argument) {
  caller *c = argument;
  while (time(NULL) < deadline) run_case(c, atomic_fetch_add(&next_seed, 1));
  return NULL;
}

int main(int argc, char **argv) {
#if defined(__SANITIZE_ADDRESS__)
  from_malloc = 1; /* and the sanitizer reports signals */
#else
  signal(SIGSEGV, report_signal);
  signal(SIGBUS, report_signal);
  signal(SIGFPE, report_signal);
#endif
  if (getenv("VOX_FUZZ_MALLOC")) from_malloc = 1;
  if (vox_isa_used() < 0) {
    printf("%s: not on this machine\n", getenv("VOXCONV_ISA"));
    return 0;
  }
  if (argc == 3 && !strcmp(argv[1], "case")) {
    static caller one;
    run_case(&one, strtoull(argv[2], NULL, 0));
    printf("passed: %s\n", one.text);
    return 0;
  }
  if (argc < 2 || argc > 5) {
    fprintf(stderr, "usage: %s SECONDS [SEED [CALLERS [THREADS]]] | case SEED\n", argv[0]);
    return 2;
  }
  /* cases are numbered from a mix of the seed, so that nearby seeds share none */
  static caller callers[16];
  callers[0].state = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
  uint64_t first = draw64(&callers[0]);
  int64_t many = argc > 3 ? strtoll(argv[3], NULL, 0) : 1;
  many = many < 1 ? 1 : many > 16 ? 16 : many;
  if (argc > 4) most_threads = strtoll(argv[4], NULL, 0);
  atomic_store(&next_seed, first);
  deadline = time(NULL) + strtoll(argv[1], NULL, 0);
  pthread_t threads[16];
  for (int64_t i = 0; i < many; i++)
    if (pthread_create(&threads[i], NULL, call_until_late, &callers[i])) return 1;
  for (int64_t i = 0; i < many; i++) pthread_join(threads[i], NULL);
  printf("%s: %llu cases passed, %lld too large for the scratch;", vox_isa_name(vox_isa_used()),
         (unsigned long long)(atomic_load(&next_seed) - first), (long long)skipped);
  for (int i = 0; i < KINDS; i++) printf(" %s %lld", kind_names[i], (long long)counts[i]);
  printf("\n");
  return 0;
}
