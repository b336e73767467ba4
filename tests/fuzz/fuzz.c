/* Random problems through the C interface, compared with loops that share no code with it.
 *
 *   vox_fuzz FIRST COUNT [SECONDS [CALLERS [THREADS]]]   seeds from FIRST on, on so many callers at once
 *   vox_fuzz replay FILE                                 the cases of a file, as a failure prints them
 *   vox_fuzz planted NAME                                a fault of its own, to see whether a tool notices it
 *
 * Every operand ends or starts at a page that may not be touched, or lies at any alignment between bytes that must stay;
 * or it is a block of its own from malloc where a sanitizer or valgrind watches those (VOX_FUZZ_MALLOC=1).  Outputs are
 * filled with NaN; scratch has exactly the size that the library asks for, and holds NaN or what the case before left.
 * Each case runs twice, with other threads, scratch and addresses, and a sample once more alone: always the same bits.
 * Integers must be exact, floats within the bound, and a NaN or an infinity stands exactly where the loops have it. */
#include <pthread.h>
#include <time.h>

#include "harness.h"

#include "convolution.h"
#include "descend.h"
#include "memory.h"
#include "windows.h"

static int64_t most_threads = 8;

/* ------------------------------------------------------------------------------------------------------- generator */

/* Sizes at which lanes, tiles, bands, chunks and pages begin and end. */
static int64_t boundary(caller *c, int64_t lanes, int64_t budget) {
  int64_t base = PICK(c, 1, lanes, 2 * lanes, 3 * lanes, 6 * lanes, 4, 8, 256, 512, 1024);
  base += draw(c, 3) - (base > 1);
  return base <= budget ? base : 1 + draw(c, budget < 20 ? budget : 20);
}

/* Geometry of at most `budget` meetings of outputs and taps; `reaches`: every window has an element of its own. */
static void draw_geometry(caller *c, int64_t lanes, int64_t budget, int reaches, int dilated) {
  fuzz_case *f = &c->now;
  static _Thread_local meeting ignored[MOST_MEETINGS];
  for (;;) {
    int rank = 1 + (int)draw(c, 3), fits = 1, winograd = draw(c, 3) == 0;
    /* as square as kernels mostly are */
    const int64_t side = draw(c, 6) ? 0 : PICK(c, 3, 3, 4, 5, 6, 7), step = PICK(c, 1, 2);
    const int abut = draw(c, 12) == 0; /* windows side by side */
    int64_t room = budget;
    for (int i = 2; i >= 0 && fits; i--) {
      int used = i >= 3 - rank, all;
      f->kernel[i] = !used ? 1 : winograd ? PICK(c, 3, 3, 3, 5, 7, 1) : PICK(c, 1, 1, 2, 3, 3, 4, 5, 7, 11);
      f->stride[i] = !used ? 1 : winograd ? 1 : PICK(c, 1, 1, 1, 2, 2, 3, 4, 5, 9);
      f->dilation[i] = !used || !dilated ? 1 : winograd ? PICK(c, 1, 1, 1, 2, 2, 3, 5) : PICK(c, 1, 1, 1, 2, 3, 4, 17);
      f->spatial[i] = !used ? 1 : i == 2 && draw(c, 3) ? boundary(c, lanes, room) : 1 + draw(c, room < 20 ? room : 20);
      if (side && used) f->kernel[i] = side, f->stride[i] = step, f->dilation[i] = 1;
      if (abut && used) {
        f->kernel[i] = f->stride[i] = PICK(c, 1, 2, 2, 2, 3), f->dilation[i] = 1;
        f->spatial[i] = (1 + (f->spatial[i] - 1) / f->kernel[i]) * f->kernel[i];
      }
      int64_t span = (f->kernel[i] - 1) * f->dilation[i] + 1;
      f->pad[i] = used && !abut && draw(c, 2) ? draw(c, reaches ? span / 2 + 1 : span + 2) : 0;
      f->pad_after[i] = abut || draw(c, 3) ? f->pad[i] : used ? draw(c, span) : 0;
      int64_t left = f->spatial[i] + f->pad[i] + f->pad_after[i] - span;
      if (left < 0) {
        fits = 0;
        break;
      }
      f->output[i] = left / f->stride[i] + 1;
      /* rounding up, as pools may: the last window runs over the end */
      if (used && draw(c, 8) == 0) f->output[i]++;
      if (used && draw(c, 8) == 0) f->output[i] = 1 + draw(c, f->output[i]);
      /* the step to a neighbour that is not there may be anything */
      if (f->output[i] == 1 && draw(c, 4) == 0) f->stride[i] = INT64_MAX >> draw(c, 40);
      if (f->kernel[i] == 1 && dilated && draw(c, 4) == 0) f->dilation[i] = INT64_MAX >> draw(c, 40);
      room /= f->spatial[i];
      if (room < 1) room = 1;
      fits = axis_meetings(f, i, ignored, &all) >= 0 && (all || !reaches);
    }
    if (fits && volume(f->output) * volume(f->kernel) <= budget && volume(f->spatial) <= budget) return;
  }
}

/* One channel a group in rows of several bands of columns, which few rows and many taps take; few of those meet the image. */
static void draw_wide_rows(caller *c) {
  fuzz_case *f = &c->now;
  f->groups = PICK(c, 1, 1, 2), f->n = 1;
  if (f->kg > 2) f->kg = 1;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i == 0 ? PICK(c, 3, 5) : i == 1 ? PICK(c, 7, 9, 11) : PICK(c, 5, 7);
    f->stride[i] = f->dilation[i] = 1;
    f->pad[i] = f->pad_after[i] = f->kernel[i] / 2;
    f->spatial[i] = i == 2 ? 1250 + draw(c, 1000) : 1 + draw(c, 3);
    f->output[i] = f->spatial[i];
  }
}

/* One channel a group, and tiles of it below and beside each other of which the last is whole, or all but a lane. */
static void draw_whole_tiles(caller *c, int64_t lanes) {
  fuzz_case *f = &c->now;
  const int64_t k = PICK(c, 3, 3, 5), step = draw(c, 4) == 0 ? 2 : 1;
  f->groups = PICK(c, 1, 2, 3), f->n = 1;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i == 0 ? 1 : k, f->stride[i] = i == 0 ? 1 : step, f->dilation[i] = 1;
    f->pad[i] = f->pad_after[i] = f->kernel[i] / 2;
    f->spatial[i] = i == 0 ? 1 : i == 1 ? 6 + draw(c, 10) : (1 + draw(c, 4)) * lanes * step + draw(c, 3) - 1;
    f->output[i] = (f->spatial[i] + 2 * f->pad[i] - f->kernel[i]) / f->stride[i] + 1;
  }
}

/* Rows of three taps that leave lanes of many output channels' bands idle, so that each tap gets a column of its own. */
static void draw_tap_columns(caller *c) {
  fuzz_case *f = &c->now;
  const int gradient = f->kind == INPUT_GRAD;
  f->groups = 1, f->n = PICK(c, 1, 1, 2), f->cg = PICK(c, 1, 2, 3, 5), f->kg = PICK(c, 128, 129, 131);
  if (gradient) f->cg = f->kg, f->kg = PICK(c, 1, 2, 3, 5);
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i == 0 ? PICK(c, 1, 1, 2) : i == 1 ? PICK(c, 1, 2, 3) : 3;
    f->stride[i] = i == 0 || gradient ? 1 : 1 + draw(c, i == 1 && f->kernel[i] == 1 ? 1 : 2), f->dilation[i] = 1;
    f->pad[i] = draw(c, f->kernel[i]), f->pad_after[i] = draw(c, f->kernel[i]);
    f->spatial[i] = i == 0 ? 2 : i == 1 ? 3 + draw(c, 12) : 5 + draw(c, 28);
    f->output[i] = (f->spatial[i] + f->pad[i] + f->pad_after[i] - f->kernel[i]) / f->stride[i] + 1;
  }
}

/* Most cases are small, so that there are many; some are large enough for several blocks, chunks and bands. */
static int64_t draw_budget(caller *c) {
  int64_t d = draw(c, 1000);
  return d < 750 ? 1200 : d < 960 ? 10000 : d < 997 ? 70000 : 1000000;
}

/* Few bands, which threads share out otherwise than one thread takes them; or few channels, whose sums stay in registers where
 * images are large, and are stored otherwise where lines are whole vectors. */
static void draw_few_bands(caller *c, int64_t lanes) {
  fuzz_case *f = &c->now;
  const int few = draw(c, 2), deep = few && draw(c, 4) == 0;
  const int64_t one = few ? PICK(c, 1, 2, 3, 4) : PICK(c, 31, 64, 97), other = few ? PICK(c, 1, 2, 9, 17) : PICK(c, 1, 2, 3, 9);
  f->n = 1, f->groups = PICK(c, 1, 1, 3);
  f->cg = f->kind == CONV || !few ? one : other, f->kg = f->kind == CONV || !few ? other : one;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i || deep ? 3 : 1, f->pad[i] = f->pad_after[i] = f->kernel[i] / 2, f->stride[i] = f->dilation[i] = 1;
    f->spatial[i] = f->output[i] = i ? 9 + draw(c, 52) : deep ? 1 + draw(c, 3) : 1;
  }
  if (draw(c, 2)) f->spatial[2] = f->output[2] = lanes * (1 + draw(c, 1 + 64 / lanes));
  f->threads[1] = 2 + draw(c, most_threads - 1);
}

/* So few output channels that tiles of depthwise sums go on through the others; of images that L2 holds and larger ones,
 * whose sums wait between blocks of channels, in bands of rows or of slices. */
static void draw_narrow(caller *c, int64_t lanes) {
  fuzz_case *f = &c->now;
  const int large = draw(c, 2), deep = draw(c, 3) == 0;
  const int64_t few = 1 + draw(c, 3), others = 1 + draw(c, 9) + 4 * large;
  f->n = large ? 1 : PICK(c, 1, 1, 2), f->groups = large ? 1 : PICK(c, 1, 1, 3);
  f->cg = f->kind == CONV ? others : few, f->kg = f->kind == CONV ? few : others;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i ? 3 : deep ? PICK(c, 2, 3) : 1, f->stride[i] = 1, f->dilation[i] = i ? 1 : PICK(c, 1, 1, 2);
    f->pad[i] = draw(c, f->kernel[i]), f->pad_after[i] = draw(c, f->kernel[i]);
    if (i == 0)
      f->spatial[i] = deep ? 3 + draw(c, large ? 9 : 3) : PICK(c, 1, 1, 3);
    else
      f->spatial[i] = large ? (deep ? 20 + draw(c, 20) : 40 + draw(c, 60)) : 3 + draw(c, i == 1 ? 20 : 3 * lanes);
    f->output[i] = f->spatial[i] + f->pad[i] + f->pad_after[i] - (f->kernel[i] - 1) * f->dilation[i];
    if (f->output[i] < 1) f->pad_after[i] += 1 - f->output[i], f->output[i] = 1;
  }
  f->threads[1] = 2 + draw(c, most_threads - 1);
}

/* Output channels in the lanes of tiles of one row each, which leave out what is padding; of one block of input channels, or of
 * several. */
static void draw_channel_rows(caller *c, int64_t lanes) {
  fuzz_case *f = &c->now;
  const int64_t vector = lanes * (f->type == VOX_F64 ? 8 : 4);
  const int several = draw(c, 5) == 0;
  int64_t taps = 1;
  f->n = several ? 1 : PICK(c, 1, 1, 2), f->groups = several ? 1 : PICK(c, 1, 1, 2), f->kg = 2 * lanes * (1 + draw(c, 2));
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i == 0 ? PICK(c, 1, 1, 2, 3) : i == 1 ? PICK(c, 1, 2, 3, 3) : PICK(c, 2, 3, 3, 4, 5);
    f->stride[i] = 1 + draw(c, 2), f->dilation[i] = PICK(c, 1, 1, 2), taps *= f->kernel[i];
    const int64_t reach = (f->kernel[i] - 1) * f->dilation[i];
    f->pad[i] = draw(c, i < 2 ? 1 + reach : 1 + 2 * f->stride[i]), f->pad_after[i] = draw(c, 2) ? f->pad[i] : draw(c, 1 + reach);
    f->output[i] = i == 0 ? 1 + draw(c, 2) : i == 1 ? 1 + draw(c, several ? 4 : 12) : PICK(c, 4, 6, 7, 8, 14, 16, 18, 30);
    f->spatial[i] = (f->output[i] - 1) * f->stride[i] + reach + 1 - f->pad[i] - f->pad_after[i] + draw(c, f->stride[i]);
    if (f->spatial[i] < 1) f->pad_after[i] -= 1 - f->spatial[i], f->spatial[i] = 1;
    if (f->pad_after[i] < 0) f->spatial[i] -= f->pad_after[i], f->pad_after[i] = 0;
  }
  f->cg = several ? 160 * 1024 / vector / taps + 1 + draw(c, 30) : 128 / taps + draw(c, 9);
  const int64_t elements = f->n * f->groups * f->cg * f->spatial[0] * f->spatial[1] * f->spatial[2];
  if (elements > MOST_PAIRS / 2) f->cg = f->cg * (MOST_PAIRS / 2) / elements;
}

/* Images four tiles wide, whose rows go as they lie to Winograd's transform. */
static void draw_rows_of_four(caller *c) {
  fuzz_case *f = &c->now;
  const int deep = draw(c, 4) == 0;
  f->n = 1 + draw(c, 5), f->groups = PICK(c, 1, 1, 2);
  f->cg = PICK(c, 1, 2, 3, 4, 5, 8, 9), f->kg = PICK(c, 1, 2, 3, 7, 8, 9);
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i ? 3 : deep ? PICK(c, 2, 3, 5) : 1;
    f->stride[i] = i || f->kind == INPUT_GRAD || !deep ? 1 : PICK(c, 1, 2);
    f->dilation[i] = i || !deep ? 1 : PICK(c, 1, 2);
    f->pad[i] = i ? draw(c, 3) : deep * draw(c, 3), f->pad_after[i] = draw(c, 4) ? f->pad[i] : i ? draw(c, 3) : f->pad[i];
    const int64_t depth = (f->kernel[i] - 1) * f->dilation[i] + 1 + deep * draw(c, 2);
    f->spatial[i] = i == 2 ? 13 + draw(c, 4) : i ? 3 + draw(c, 15) : depth;
    f->output[i] = (f->spatial[i] + f->pad[i] + f->pad_after[i] - (f->kernel[i] - 1) * f->dilation[i] - 1) / f->stride[i] + 1;
  }
}

static void draw_conv(caller *c, int64_t budget) {
  fuzz_case *f = &c->now;
  f->type = draw(c, 4) == 0 ? VOX_F64 : VOX_F32;
  const int64_t lanes = vox_isa_lanes(vox_isa_used(), (int)f->type);
  const int depthwise = draw(c, 4) == 0, deep = !depthwise && draw(c, 150) == 0, wide = depthwise && draw(c, 50) == 0;
  if (deep) budget = 1 << 21; /* channels in the lanes: many of them, and few pixels */
  do {
    f->groups = PICK(c, 1, 1, 1, 1, 2, 3, 8, 17);
    f->cg = PICK(c, 0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 65, 97);
    f->kg = PICK(c, 1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65);
    if (deep) f->groups = PICK(c, 1, 1, 2), f->cg = PICK(c, 255, 256, 257, 300), f->kg = PICK(c, 4, 8, 16, 24, 32, 64, 65);
    if (depthwise) f->cg = 1, f->kg = f->kind == CONV ? PICK(c, 1, 1, 2, 3) : 1;
  } while (f->groups * f->cg * f->kg > budget / 8 || (f->cg == 0 && draw(c, 4)));
  f->n = PICK(c, 0, 1, 1, 1, 1, 1, 1, 1, 2, 3);
  int64_t products = f->groups * f->kg * (f->cg ? f->cg : 1) * (f->n ? f->n : 1);
  draw_geometry(c, lanes, 12 + budget / products, 0, 1);
  const int pointwise = deep && draw(c, 2), flat = pointwise && draw(c, 4) == 0; /* several bands of one line */
  for (int i = 0; pointwise && i < 3; i++) {
    f->kernel[i] = f->stride[i] = f->dilation[i] = 1, f->pad[i] = f->pad_after[i] = 0;
    f->spatial[i] = f->output[i] = i == 0 || (flat && i == 1) ? 1 : flat ? 190 + draw(c, 300) : 1 + draw(c, 9);
  }
  if (deep && !pointwise && f->kind == CONV && draw(c, 3) == 0) { /* several blocks of channels of one band */
    f->n = f->groups = 1, f->cg = PICK(c, 400, 530), f->kg = 32;
    for (int i = 0; i < 3; i++) {
      f->kernel[i] = i ? 3 : 1, f->pad[i] = f->pad_after[i] = i > 0, f->stride[i] = f->dilation[i] = 1;
      f->spatial[i] = f->output[i] = i ? 9 + draw(c, 2) : 1;
    }
  }
  if (deep && !pointwise && f->kind == INPUT_GRAD && draw(c, 2)) { /* several blocks of weights that an item packs itself */
    f->n = 1 + draw(c, 3), f->groups = 1, f->cg = PICK(c, 33, 40, 64, 72, 96), f->kg = PICK(c, 130, 190, 260);
    for (int i = 0; i < 3; i++) {
      f->kernel[i] = i ? 3 : 1, f->pad[i] = f->pad_after[i] = i > 0, f->stride[i] = f->dilation[i] = 1;
      f->spatial[i] = f->output[i] = i ? 2 + draw(c, 7) : 1;
    }
  }
  if (flat && f->n) f->n = 1;
  if (flat) f->kg = 1 + draw(c, 20);
  if (wide && f->kind != WEIGHT_GRAD) draw_wide_rows(c);
  if (depthwise && !wide && draw(c, 8) == 0) draw_whole_tiles(c, lanes);
  if (!depthwise && f->kind != WEIGHT_GRAD && draw(c, 100) == 0) draw_tap_columns(c);
  if (!depthwise && f->kind != WEIGHT_GRAD && draw(c, 100) == 0) draw_few_bands(c, lanes);
  const int narrow = !depthwise && f->kind != WEIGHT_GRAD && draw(c, 60) == 0;
  if (narrow) draw_narrow(c, lanes);
  if (!depthwise && !narrow && draw(c, 50) == 0) draw_rows_of_four(c);
  const int by_rows = !depthwise && !narrow && f->kind == CONV && draw(c, 40) == 0;
  if (by_rows) draw_channel_rows(c, lanes);
  f->activation = f->kind == WEIGHT_GRAD ? VOX_IDENTITY : PICK(c, VOX_IDENTITY, VOX_IDENTITY, VOX_RELU, VOX_LEAKY_RELU);
  f->bias = f->kind != WEIGHT_GRAD && draw(c, 2);
  f->planted = draw(c, 2);
  f->slice = f->n > 1 && draw(c, 2) ? draw(c, f->n) : -1;
  int64_t tile[3];
  double gain;
  vox_conv p = conv_of(f);
  f->algorithm = PICK(c, VOX_DIRECT, VOX_IM2COL);
  if (vox_conv_winograd_tile(&p, tile, &gain) == VOX_OK && draw(c, 3)) f->algorithm = VOX_WINOGRAD;
  if (narrow || by_rows) f->algorithm = VOX_DIRECT;
  if (f->cg == 1 && (f->kind == CONV || f->kg == 1) && draw(c, 4)) f->algorithm = VOX_DEPTHWISE;
}

/* Windows that reach the lanes from several loads of a row, which is a few lanes' worth of them. */
static void draw_shuffled(caller *c, int64_t lanes) {
  fuzz_case *f = &c->now;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i == 0 ? 1 : i == 1 ? PICK(c, 1, 1, 2) : PICK(c, 2, 3, 4, 5);
    f->stride[i] = i == 2 ? PICK(c, 2, 3, 4) : 1;
    f->dilation[i] = 1;
    f->pad[i] = f->pad_after[i] = i == 2 ? draw(c, 2) : 0;
    f->spatial[i] = i == 0 ? 1 : i == 1 ? 2 + draw(c, 2) : lanes * f->stride[i] * (1 + draw(c, 3)) + draw(c, 2 * lanes);
    f->output[i] = (f->spatial[i] + 2 * f->pad[i] - f->kernel[i]) / f->stride[i] + 1;
  }
}

/* Windows two wide side by side; but where taps are kept they need not cover the plane.  Two short rows share a vector. */
static void draw_pairs(caller *c) {
  fuzz_case *f = &c->now;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = f->stride[i] = i == 2 ? 2 : 1 + draw(c, 2), f->dilation[i] = 1, f->pad[i] = f->pad_after[i] = 0;
    f->output[i] = i == 2 ? boundary(c, vox_isa_lanes(vox_isa_used(), (int)f->type) / 2, 200) : 1 + draw(c, 4);
    f->spatial[i] = f->kernel[i] * f->output[i] + (f->kind != POOL_TAPS && draw(c, 4) == 0);
  }
}

/* Maxima at a stride of 1, as many as elements, of planes so small that vectors run over the ends of rows. */
static void draw_flat(caller *c) {
  fuzz_case *f = &c->now;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i ? PICK(c, 1, 2, 3, 3, 5, 5, 9) : 1, f->stride[i] = 1, f->dilation[i] = i && draw(c, 4) == 0 ? 2 : 1;
    f->pad[i] = f->dilation[i] * (draw(c, 2) ? f->kernel[i] / 2 : draw(c, f->kernel[i]));
    f->pad_after[i] = f->dilation[i] * (f->kernel[i] - 1) - f->pad[i];
    f->spatial[i] = f->output[i] = i == 0 ? 1 : i == 1 ? 1 + draw(c, 9) : 1 + draw(c, 40);
  }
}

/* One window a plane, of which means take as many as a vector has lanes. */
static void draw_planes(caller *c) {
  fuzz_case *f = &c->now;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = f->spatial[i] = i == 0 ? 1 + draw(c, 2) : 1 + draw(c, 11), f->stride[i] = f->dilation[i] = f->output[i] = 1;
    f->pad[i] = f->pad_after[i] = 0;
  }
  f->n = boundary(c, vox_isa_lanes(vox_isa_used(), (int)f->type), 40);
}

/* Rows of several strips, as means are cut: windows of few columns or many, a step apart that leaves gaps, and a row that goes
 * on behind the last of them. */
static void draw_strips(caller *c) {
  fuzz_case *f = &c->now;
  const int broad = draw(c, 4) == 0;
  for (int i = 0; i < 3; i++) {
    f->kernel[i] = i == 0 ? 1 : i == 1 ? (broad ? 1 : PICK(c, 1, 2, 3)) : broad ? PICK(c, 511, 512, 513) : PICK(c, 1, 2, 3, 5, 6, 13);
    f->stride[i] = 1 + draw(c, i == 2 ? 9 : 2);
    f->dilation[i] = 1;
    f->pad[i] = draw(c, 1 + f->kernel[i] / (broad ? 64 : 2)), f->pad_after[i] = draw(c, 1 + f->kernel[i] / (broad ? 64 : 2));
    f->spatial[i] = i < 2 || broad ? f->kernel[i] + draw(c, i < 2 ? 3 : 9) : PICK(c, 256, 512, 1024) + draw(c, 20) - 4;
    f->output[i] = (f->spatial[i] + f->pad[i] + f->pad_after[i] - f->kernel[i]) / f->stride[i] + 1;
    if (i == 2 && draw(c, 4) == 0) f->output[i] = 1 + draw(c, f->output[i]);
  }
}

static void draw_window(caller *c, int64_t budget) {
  fuzz_case *f = &c->now;
  const int mean = f->kind == AVG_POOL || f->kind == AVG_POOL_GRAD;
  f->type = draw(c, f->kind == MAX_POOL && draw(c, 2) ? 10 : 2);
  f->n = PICK(c, 0, 1, 1, 2, 3);
  draw_geometry(c, vox_isa_lanes(vox_isa_used(), VOX_F32), budget / 2, mean || f->kind == MAX_POOL, !mean);
  if (f->kind == MAX_POOL && f->type <= VOX_F64 && draw(c, 2)) draw_shuffled(c, vox_isa_lanes(vox_isa_used(), (int)f->type));
  if ((mean || f->kind == MAX_POOL) && f->type <= VOX_F64 && draw(c, 4) == 0) draw_pairs(c);
  if (mean && draw(c, 8) == 0) draw_strips(c), f->n = f->n > 1 ? 1 : f->n;
  if (mean && draw(c, 8) == 0) draw_planes(c);
  if (f->kind == MAX_POOL && f->type <= VOX_F64 && draw(c, 4) == 0) draw_flat(c);
  f->count_include_pad = draw(c, 2);
  f->divisor = draw(c, 4) ? 0 : 1 + draw(c, 9);
  f->indexed = f->kind == MAX_POOL && draw(c, 2);
  f->slice = f->n > 1 && draw(c, 2) ? draw(c, f->n) : -1;
}

static void draw_case(caller *c) {
  fuzz_case *f = &c->now;
  const int64_t budget = draw_budget(c);
  *f = (fuzz_case){.slice = -1, .groups = 1};
  f->kind = PICK(c, CONV, CONV, CONV, CONV, CONV, INPUT_GRAD, INPUT_GRAD, INPUT_GRAD, WEIGHT_GRAD, WEIGHT_GRAD, WEIGHT_GRAD,
                 BIAS_GRAD, MAX_POOL, MAX_POOL, AVG_POOL, AVG_POOL_GRAD, UNFOLD, FOLD, SCATTER, draw(c, 2) ? REFUSED : SIZES,
                 draw(c, 2) ? RELU_GRAD : draw(c, 2) ? POOL_TAPS : draw(c, 2) ? DESCEND : MEMORY);
  f->data = draw(c, DATA_KINDS);
  f->values = (int64_t)draw64(c);
  const int most = draw(c, 8) == 0;
  for (int run = 0; run < 2; run++) {
    f->threads[run] = run && most ? 2 + draw(c, most_threads - 1) : 1;
    f->place[run] = draw(c, 4) ? (draw(c, 2) ? AT_END : AT_START) : draw(c, 64);
  }
  if (f->kind <= WEIGHT_GRAD) {
    draw_conv(c, budget);
  } else if (f->kind == BIAS_GRAD || f->kind == RELU_GRAD) {
    f->type = draw(c, 2);
    f->bias = draw(c, 2);
    f->n = draw(c, 4), f->kg = 1 + draw(c, 9);
    f->cg = draw(c, 9) ? boundary(c, 4 * vox_isa_lanes(vox_isa_used(), (int)f->type), 1024) : 0;
  } else if (f->kind == SCATTER) {
    f->type = draw(c, draw(c, 2) ? 2 : 10);
    f->accumulate = f->type <= VOX_F64 && draw(c, 2);
    f->n = draw(c, draw(c, 3) ? 4 : 12); /* some planes, or so many that they take turns */
    /* windows two wide or one, side by side; 3x3 two apart or one and padded, in slices; or no windows at all */
    const int form = (int)draw(c, 3), apart = 1 + (int)draw(c, 2), lanes = vox_isa_lanes(vox_isa_used(), (int)(f->type % 2));
    for (int i = 0; i < 3; i++) {
      f->kernel[i] = form == 1 ? (i ? 3 : 1) : 1 + draw(c, 2), f->stride[i] = form == 1 ? (i ? apart : 1) : form ? f->kernel[i] : 0;
      f->pad[i] = form == 1 && i;
      f->output[i] = form && i == 2 ? boundary(c, lanes, draw(c, 8) ? 100 : 300) : 1 + draw(c, 7);
      f->spatial[i] = form ? f->stride[i] * f->output[i] - (f->stride[i] == 2 && f->pad[i] && draw(c, 2)) : 1 + draw(c, 9);
    }
  } else if (f->kind == POOL_TAPS) {
    f->type = draw(c, 2), f->n = draw(c, 4), f->kg = 1 + draw(c, 5);
    f->bias = draw(c, 2), f->accumulate = draw(c, 8); /* the sums; pooled, output and what is added */
    draw_pairs(c);
  } else if (f->kind == DESCEND) {
    const int64_t lanes = vox_isa_lanes(vox_isa_used(), (int)(f->type = draw(c, 2)));
    f->n = draw(c, 5);
    f->cg = draw(c, 5) ? boundary(c, lanes, 1024) : 0, f->kg = boundary(c, lanes, 1024);
    if (draw(c, 8) == 0) f->cg += draw(c, 40000); /* several pieces, which threads share */
    f->algorithm = draw(c, 2), f->indexed = draw(c, 2), f->bias = draw(c, 2), f->accumulate = draw(c, 4);
  } else if (f->kind == MEMORY) {
    f->n = 1 + draw(c, 200); /* requests and returns */
  } else if (f->kind == REFUSED || f->kind == SIZES) {
    f->type = draw(c, 2);
    f->n = f->cg = f->kg = 1;
    f->algorithm = draw(c, 4);
    f->broken = draw(c, 3 * 16), f->how = draw(c, 4);
    for (int i = 0; i < 3; i++) f->spatial[i] = f->kernel[i] = f->stride[i] = f->dilation[i] = f->output[i] = 1;
    if (f->kind == REFUSED) return;
    int64_t *sizes[] = {&f->n, &f->cg, &f->kg};
    for (int i = 0; i < 3; i++) {
      *sizes[i] = draw(c, 3) ? draw(c, 70) : (INT64_MAX >> (20 + draw(c, 42))) + draw(c, 3);
      int64_t *axis[] = {&f->spatial[i], &f->kernel[i], &f->stride[i], &f->dilation[i], &f->output[i], &f->pad[i]};
      for (int j = 0; j < 6; j++) *axis[j] = draw(c, 3) ? 1 + draw(c, 5) : (INT64_MAX >> draw(c, 62)) - draw(c, 3);
      for (int j = 0; j < 6; j++)
        if (*axis[j] < (j < 5)) *axis[j] = j < 5;
    }
  } else {
    draw_window(c, budget);
  }
}

/* ------------------------------------------------------------------------------------------------------------ runs */

static void run_case(caller *c) {
  const fuzz_case *f = &c->now;
  c->state = (uint64_t)f->values;
  current = c;
  switch (f->kind) {
  case CONV: case INPUT_GRAD: case WEIGHT_GRAD: run_conv(c); break;
  case BIAS_GRAD: case RELU_GRAD: run_channels(c); break;
  case SCATTER: run_scatter(c); break;
  case POOL_TAPS: run_pool_taps(c); break;
  case MEMORY: run_memory(c); break;
  case DESCEND: run_descend(c); break;
  case REFUSED: run_refused(c); break;
  case SIZES: run_sizes(c); break;
  default: run_window(c);
  }
  counts[f->kind]++;
  threaded_cases += f->threads[1] > 1;
  special_cases += f->data == SPECIALS && f->type <= VOX_F64 && f->kind != REFUSED && f->kind != SIZES &&
                   f->kind != MEMORY;
}

static _Atomic uint64_t next_seed;
static uint64_t end_seed;
static time_t deadline;

static void *call_until_late(void *argument) {
  caller *c = argument;
  for (;;) {
    uint64_t seed = atomic_load(&next_seed);
    do
      if (seed >= end_seed || (seed % 16 == 0 && time(NULL) >= deadline)) return NULL;
    while (!atomic_compare_exchange_weak(&next_seed, &seed, seed + 1));
    c->seed = c->state = seed;
    draw_case(c);
    run_case(c);
  }
}

static int replay(const char *path) {
  static caller c;
  FILE *file = fopen(path, "r");
  char line[4096];
  int cases = 0;
  if (!file) return perror(path), 1;
  while (fgets(line, sizeof line, file)) {
    if (line[0] == '#' || line[0] == '\n') continue;
    char *at = line;
    c.now = (fuzz_case){0};
    for (int i = 0; i < FIELDS; i++) ((int64_t *)&c.now)[i] = strtoll(at, &at, 10);
    if (c.now.kind < 0 || c.now.kind >= KINDS) return fprintf(stderr, "not a case: %s", line), 1;
    run_case(&c);
    cases++;
  }
  fclose(file);
  printf("isa=%s replayed=%d\n", vox_isa_name(vox_isa_used()), cases);
  return 0;
}

static int64_t raced;
static void *race(void *ignored) {
  (void)ignored;
  for (int i = 0; i < 100000; i++) raced++;
  return NULL;
}

/* What each tool is there to catch.  UNNOTICED is the sign that it did not. */
enum { UNNOTICED = 42 };
static int plant(const char *name) {
  static caller c;
  volatile int64_t count = 16, sink = INT64_MAX;
  float *end = block(&c, 0, count * 4, AT_END, 4), *start = block(&c, 1, count * 4, AT_START, 4);
  if (!strcmp(name, "over-read"))
    sink = end[count] > 0;
  else if (!strcmp(name, "under-read"))
    sink = start[-count / 16] > 0;
  else if (!strcmp(name, "overflow"))
    sink += count;
  else if (!strcmp(name, "uninitialised"))
    sink = *(volatile char *)malloc(16) ? puts("") : putchar(10);
  else if (!strcmp(name, "race")) {
    pthread_t other;
    if (pthread_create(&other, NULL, race, NULL)) return 1;
    race(NULL);
    pthread_join(other, NULL);
  } else
    return 1;
  return UNNOTICED;
}

static void report(uint64_t first) {
  printf("isa=%s first=%llu count=%llu threaded=%lld sliced=%lld special=%lld exact=%lld winograd=%lld too_large=%lld",
         vox_isa_name(vox_isa_used()), (unsigned long long)first, (unsigned long long)(atomic_load(&next_seed) - first),
         (long long)threaded_cases, (long long)sliced_cases, (long long)special_cases, (long long)exact_cases,
         (long long)winograd_cases, (long long)too_large);
  for (int i = 0; i < KINDS; i++) printf(" %s=%lld", kind_names[i], (long long)counts[i]);
  printf(" worst=%.3f worst_winograd=%.3f\n", (double)worst[0], (double)worst[1]);
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
  if (vox_isa_used() < 0) return fprintf(stderr, "%s: not on this machine\n", getenv("VOXCONV_ISA")), 77;
  fill_tables();
  if (argc == 3 && !strcmp(argv[1], "replay")) return replay(argv[2]);
  if (argc == 3 && !strcmp(argv[1], "planted")) return plant(argv[2]);
  if (argc < 3 || argc > 6) return fprintf(stderr, "usage: vox_fuzz FIRST COUNT [SECONDS [CALLERS [THREADS]]]\n"), 2;
  static caller callers[16];
  const uint64_t first = strtoull(argv[1], NULL, 0);
  int64_t many = argc > 4 ? strtoll(argv[4], NULL, 0) : 1;
  many = many < 1 ? 1 : many > 16 ? 16 : many;
  if (argc > 5) most_threads = strtoll(argv[5], NULL, 0) < 2 ? 2 : strtoll(argv[5], NULL, 0);
  atomic_store(&next_seed, first);
  end_seed = first + strtoull(argv[2], NULL, 0);
  deadline = time(NULL) + (argc > 3 ? strtoll(argv[3], NULL, 0) : INT32_MAX);
  pthread_t threads[16];
  for (int64_t i = 0; i < many; i++)
    if (pthread_create(&threads[i], NULL, call_until_late, &callers[i])) return 1;
  for (int64_t i = 0; i < many; i++) pthread_join(threads[i], NULL);
  report(first);
  return 0;
}
