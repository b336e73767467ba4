/* What every kind of case stands on: a case as plain numbers, random draws, guarded memory, values and verdicts.  Nothing
 * here, nor in the files that include it, shares code with the library. */
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../csrc/api.h"

enum { INTEGERS, FLOATS, WIDE, SPECIALS, DATA_KINDS };
enum {
  CONV, INPUT_GRAD, WEIGHT_GRAD, BIAS_GRAD, MAX_POOL, AVG_POOL, AVG_POOL_GRAD, UNFOLD, FOLD, SCATTER,
  REFUSED, /* a convolution or window with one field broken, on null pointers */
  SIZES,   /* sizes near the limits of 64 bits: arithmetic alone */
  RELU_GRAD,
  POOL_TAPS, /* max-pooling with the way back from it */
  MEMORY,    /* requests and returns in any order */
  DESCEND,   /* an optimiser's step over n arrays of cg, kg, cg, ... elements */
  KINDS
};
static const char *const kind_names[KINDS] = {"conv", "input_grad", "weight_grad", "bias_grad", "max_pool", "avg_pool",
                                              "avg_pool_grad", "unfold", "fold", "scatter", "refused", "sizes", "relu_grad",
                                              "pool_taps", "memory", "descend"};

/* Where an operand lies: it ends at a forbidden page, begins behind one, or k >= 0 elements behind a 64-byte line. */
enum { AT_END = -1, AT_START = -2 };

/* All that a case is, so that the numbers alone repeat it whatever becomes of the generator.  Fields are only ever added
 * at the end, where older lines have zeros. */
typedef struct {
  int64_t kind, type, data, values;  /* values: the seed of the operands' elements */
  int64_t n, groups, cg, kg;         /* n: samples or planes; channels of a group */
  int64_t spatial[3], kernel[3], stride[3], pad[3], pad_after[3], dilation[3], output[3];
  int64_t algorithm, activation, bias, planted; /* planted: whether the first operand has the NaN, else the second */
  int64_t divisor, count_include_pad, indexed, accumulate;
  int64_t threads[2], place[2];      /* of the two runs */
  int64_t slice;                     /* sample or plane that is computed once more alone, or -1 */
  int64_t broken, how;               /* REFUSED: which field, and its value's number */
} fuzz_case;
enum { FIELDS = sizeof(fuzz_case) / sizeof(int64_t) };

enum { SLOTS = 10, MOST_PAIRS = 1 << 21 };
static const size_t region = (size_t)64 << 20, page = 4096;
static int from_malloc;

typedef struct {
  uint64_t seed, state;
  fuzz_case now;
  char *regions[SLOTS]; /* between two forbidden pages each */
  void *blocks[SLOTS];
  char *masters[3];     /* operands as they must remain */
  double *wide[3];      /* and as the loops read them */
  int32_t *starts, *first, *second; /* the pairs of operands' elements that meet in each element of the result */
} caller;

static _Atomic int64_t counts[KINDS], exact_cases, winograd_cases, threaded_cases, sliced_cases, special_cases, too_large;

/* Largest error in units of its bound so far, direct and Winograd.  Callers may lose an update to each other. */
static _Atomic double worst[2];

static uint64_t draw64(caller *c) {
  uint64_t z = c->state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}
static int64_t draw(caller *c, int64_t below) { return (int64_t)(draw64(c) % (uint64_t)below); }
#define PICK(c, ...) \
  (((const int64_t[]){__VA_ARGS__})[draw(c, sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))])

static int64_t volume(const int64_t v[3]) { return v[0] * v[1] * v[2]; }

static void print_case(FILE *to, const fuzz_case *f) {
  for (int i = 0; i < FIELDS; i++) fprintf(to, "%lld%c", (long long)((const int64_t *)f)[i], i + 1 < FIELDS ? ' ' : '\n');
}

__attribute__((noreturn, format(printf, 2, 3))) static void fail(const caller *c, const char *format, ...) {
  const fuzz_case *f = &c->now;
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "FAILED: ");
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n  %s type %lld data %lld n %lld groups %lld of %lld -> %lld algorithm %lld", kind_names[f->kind],
          (long long)f->type, (long long)f->data, (long long)f->n, (long long)f->groups, (long long)f->cg, (long long)f->kg,
          (long long)f->algorithm);
  for (int i = 0; i < 3; i++)
    fprintf(stderr, "\n    axis of %lld: kernel %lld stride %lld pad %lld, %lld dilation %lld -> %lld", (long long)f->spatial[i],
            (long long)f->kernel[i], (long long)f->stride[i], (long long)f->pad[i], (long long)f->pad_after[i],
            (long long)f->dilation[i], (long long)f->output[i]);
  fprintf(stderr, "\n  again: VOXCONV_ISA=%s vox_fuzz %llu 1, or vox_fuzz replay with the line\n",
          vox_isa_name(vox_isa_used()), (unsigned long long)c->seed);
  print_case(stderr, f);
  abort();
}

static _Thread_local const caller *current;

__attribute__((unused)) static void report_signal(int number) {
  signal(number, SIG_DFL); /* what follows dies of the same, but has its say first */
  if (current) fail(current, "signal %d", number);
}

static const int64_t sizes_of[] = {4, 8, 1, 1, 2, 2, 4, 4, 8, 8};

/* `bytes` of slot `slot`, where `place` says.  Its old contents stay, which is what a stale workspace is. */
static void *block(caller *c, int slot, int64_t bytes, int64_t place, int64_t size) {
  if (from_malloc) {
    free(c->blocks[slot]);
    return c->blocks[slot] = malloc((size_t)bytes);
  }
  if (!c->regions[slot]) {
    char *whole = mmap(NULL, region + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (whole == MAP_FAILED || mprotect(whole + page, region, PROT_READ | PROT_WRITE)) abort();
    c->regions[slot] = whole + page;
  }
  if ((size_t)bytes + 256 > region) abort();
  if (place == AT_END) return c->regions[slot] + region - (size_t)bytes;
  return c->regions[slot] + (place == AT_START ? 0 : 64 + place * size);
}

enum { CANARY = 0xa5, CANARIES = 64 };
/* An output of NaNs; where it lies free, with bytes around it that must stay. */
static void *output_block(caller *c, int slot, int64_t bytes, int64_t place, int64_t size) {
  char *p = block(c, slot, bytes, place, size);
  if (place >= 0 && !from_malloc) {
    memset(p - CANARIES, CANARY, CANARIES);
    memset(p + bytes, CANARY, CANARIES);
  }
  return memset(p, 0xff, (size_t)bytes);
}
static void check_canaries(const caller *c, const void *block, int64_t bytes, int64_t place) {
  const uint8_t *p = block;
  if (place < 0 || from_malloc) return;
  for (int i = 0; i < CANARIES; i++)
    if (p[-1 - i] != CANARY || p[bytes + i] != CANARY) fail(c, "a byte beside the output was written");
}

/* -------------------------------------------------------------------------------------------------------- values */

enum { TABLE = 1 << 15 };
static double tables[DATA_KINDS][TABLE];

/* The same in every process: only where an operand begins in them is drawn.  WIDE holds denormals of float, and values
 * that the transforms of Winograd's algorithm may not meet. */
static void fill_tables(void) {
  caller c = {.state = 1};
  for (int i = 0; i < TABLE; i++) {
    double fraction = (double)(draw64(&c) >> 11) * 0x1p-52 - 1;
    tables[INTEGERS][i] = (double)(draw(&c, 7) - 3);
    tables[FLOATS][i] = tables[SPECIALS][i] = ldexp(fraction, (int)draw(&c, 12) - 6);
    int64_t odd = draw(&c, 64);
    tables[WIDE][i] = ldexp(fraction, (int)(odd == 0 ? -140 : odd == 1 ? 52 + draw(&c, 9) : draw(&c, 41) - 20));
  }
}

static double load(int type, const void *p, int64_t i) {
  return type == VOX_F32 ? (double)((const float *)p)[i] : ((const double *)p)[i];
}

/* Operand number `which`: its master copy, and its elements as doubles. */
static void make_operand(caller *c, int which, int type, int64_t count, int data) {
  const int64_t bytes = count * sizes_of[type];
  if ((size_t)bytes > region / 2 || count > MOST_PAIRS) abort();
  if (!c->masters[which]) {
    c->masters[which] = malloc(region / 2);
    c->wide[which] = malloc(MOST_PAIRS * sizeof(double));
    if (!c->masters[which] || !c->wide[which]) abort();
  }
  if (type > VOX_F64) {
    /* small steps, so that ties are common, among bytes of any value */
    for (int64_t i = 0; i < bytes; i += 8) {
      uint64_t v = draw64(c);
      if (v >> 62) v &= UINT64_C(0x0303030303030303);
      memcpy(c->masters[which] + i, &v, (size_t)(bytes - i < 8 ? bytes - i : 8));
    }
    return;
  }
  double *wide = c->wide[which];
  for (int64_t i = 0; i < count;) {
    int64_t from = draw(c, TABLE - 64), left = count - i < 4096 ? count - i : 4096;
    for (int64_t j = from; left > 0 && j < TABLE; j++, i++, left--) wide[i] = tables[data][j];
  }
  static const double specials[] = {NAN, NAN, INFINITY, -INFINITY};
  for (int64_t planted = data == SPECIALS && count ? 1 + draw(c, 2) : 0; planted > 0; planted--)
    wide[draw(c, count)] = specials[draw(c, 4)];
  if (type == VOX_F32) {
    for (int64_t i = 0; i < count; i++) wide[i] = ((float *)c->masters[which])[i] = (float)wide[i];
  } else {
    memcpy(c->masters[which], wide, (size_t)bytes);
  }
}

/* A copy of it where the library reads it. */
static const void *operand(caller *c, int which, int slot, int64_t bytes, int64_t place, int64_t size) {
  return memcpy(block(c, slot, bytes, place, size), c->masters[which] ? c->masters[which] : "", (size_t)bytes);
}
static void check_unchanged(const caller *c, int which, const void *used, int64_t bytes) {
  if (bytes && memcmp(c->masters[which], used, (size_t)bytes)) fail(c, "operand %d was changed", which);
}

/* One element of the result: `sum` of `terms` terms of magnitudes `magnitude`, which any order of additions finds within
 * gamma_d, and the loops themselves in double.  For Winograd, `magnitude` is that of its bound and `winograd` its
 * roundings, else 0. */
static void check(const caller *c, int type, int exact, double winograd, int64_t i, double found, double sum, double magnitude,
                  int64_t terms) {
  if (isnan(sum) || isinf(sum)) {
    if (isnan(sum) ? isnan(found) : found == sum) return;
    fail(c, "element %lld is %.17g, not %g", (long long)i, found, sum);
  }
  if (exact) {
    if (found == sum) return;
    fail(c, "element %lld is %.17g, not exactly %.17g", (long long)i, found, sum);
  }
  const double u = type == VOX_F32 ? 0x1p-24 : 0x1p-53, tiny = type == VOX_F32 ? 0x1p-149 : 0x1p-1074;
  const double d = (double)terms + 4;
  double bound = (winograd ? winograd * u : d * u / (1 - d * u)) + d * 0x1p-53;
  bound = bound * magnitude + d * tiny;
  double error = fabs(found - sum);
  if (!(error <= bound)) fail(c, "element %lld is %.17g, not %.17g (+- %.3g)", (long long)i, found, sum, bound);
  if (error > worst[winograd != 0] * bound) worst[winograd != 0] = error / bound;
}

/* --------------------------------------------------------------------------------------------------------- pairs */

/* Output o and tap t of one axis that meet at position `from`. */
typedef struct {
  int32_t o, t, from;
} meeting;
enum { MOST_MEETINGS = 1 << 14 };

/* All of an axis, ordered by o, then t; -1 if they are too many.  *reaches: whether every window holds an element. */
static int64_t axis_meetings(const fuzz_case *f, int axis, meeting *m, int *reaches) {
  int64_t count = 0;
  *reaches = 1;
  for (int64_t o = 0; o < f->output[axis]; o++) {
    int64_t before = count, start = (o ? o * f->stride[axis] : 0) - f->pad[axis];
    for (int64_t t = 0; t < f->kernel[axis]; t++) {
      int64_t at = start + (t ? t * f->dilation[axis] : 0);
      if (at < 0 || at >= f->spatial[axis]) continue;
      if (count == MOST_MEETINGS) return -1;
      m[count++] = (meeting){(int32_t)o, (int32_t)t, (int32_t)at};
    }
    *reaches &= count > before;
  }
  return count;
}

/* For each element `key` of the array that is written (0: outputs, 1: positions, 2: taps), in starts[key] ..
 * starts[key + 1] the elements of the two others that meet there, in the order (output, position, tap) less key. */
static void find_pairs(caller *c, int key) {
  static _Thread_local meeting axis[3][MOST_MEETINGS];
  const fuzz_case *f = &c->now;
  int64_t count[3], keys = key == 0 ? volume(f->output) : key == 1 ? volume(f->spatial) : volume(f->kernel);
  int ignored;
  if (!c->starts) {
    c->starts = malloc((MOST_PAIRS + 2) * sizeof *c->starts);
    c->first = malloc(MOST_PAIRS * sizeof *c->first);
    c->second = malloc(MOST_PAIRS * sizeof *c->second);
    if (!c->starts || !c->first || !c->second) abort();
  }
  for (int i = 0; i < 3; i++) count[i] = axis_meetings(f, i, axis[i], &ignored);
  memset(c->starts, 0, (size_t)(keys + 2) * sizeof *c->starts);
  for (int fill = 0; fill < 2; fill++) {
    /* starts[key + 2] first counts, then starts[key + 1] runs from the key's start to its end */
    for (int64_t i = 0; i < count[0]; i++)
      for (int64_t j = 0; j < count[1]; j++)
        for (int64_t k = 0; k < count[2]; k++) {
          const meeting a = axis[0][i], b = axis[1][j], d = axis[2][k];
          const int32_t at[3] = {
              (int32_t)((a.o * f->output[1] + b.o) * f->output[2] + d.o),
              (int32_t)((a.from * f->spatial[1] + b.from) * f->spatial[2] + d.from),
              (int32_t)((a.t * f->kernel[1] + b.t) * f->kernel[2] + d.t),
          };
          if (!fill) {
            c->starts[at[key] + 2]++;
          } else {
            int32_t to = c->starts[at[key] + 1]++;
            c->first[to] = at[key == 0];
            c->second[to] = at[key == 2 ? 1 : 2];
          }
        }
    if (!fill)
      for (int64_t k = 0; k < keys; k++) c->starts[k + 2] += c->starts[k + 1];
  }
}
