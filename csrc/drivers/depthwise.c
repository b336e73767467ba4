/* Convolution with one input channel a group: how its planes are cut into items. */

#include <string.h>

#include "../problem.h"

/* An item aims at so many terms: a few microseconds, so that handing it out costs nothing and threads end together.
 * Bands of at least so many rows and columns share what they read, unless the kernel is so large that an item, which
 * nothing interrupts, would have more than VAST_TERMS; then they are down to a tile. */
enum { ITEM_TERMS = 1 << 17, LEAST_ROWS = 28, LEAST_COLUMNS = 1024, VAST_TERMS = 1 << 26, TILE_ROWS = 4, TILE_COLUMNS = 16 };
/* The weight gradient takes a channel whole, and nothing interrupts an item: the most terms of one. */
static const double MOST_TERMS = 1 << 28;

static int64_t at_least(int64_t count, int64_t piece, int64_t least) {
  return vox_max(vox_min(count, least), vox_min(count, piece));
}

/* The forward pass wants one input channel a group; the gradients one output channel too. */
static int fits(const vox_conv *p) {
  return p->c == p->groups && (p->operation == VOX_CONV || p->k == p->groups);
}

/* Terms of one channel's gradient. */
static double channel_terms(const vox_conv *p) {
  double terms = (double)p->n;
  for (int i = 0; i < 3; i++) terms *= (double)p->output[i] * (double)p->kernel[i];
  return terms;
}

int vox_depthwise_scratch(const vox_conv *p, int64_t *bytes) {
  *bytes = 0;
  if (!fits(p)) return VOX_INVALID;
  if (p->operation != VOX_CONV_WEIGHT_GRAD) return VOX_OK;
  if (channel_terms(p) > MOST_TERMS) return VOX_INVALID;
  /* a vector of sums for each tap */
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  return __builtin_mul_overflow(taps, VOX_ALIGN, bytes) ? VOX_OVERFLOW : VOX_OK;
}

/* The weights as the kernels read them; the gradient's taps count backwards, so its weights are turned round. */
void vox_depthwise_pack(const vox_conv *p, const void *weight, void *packed) {
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2], count = p->k * (p->c / p->groups) * taps;
  const size_t size = p->type == VOX_F64 ? sizeof(double) : sizeof(float);
  if (p->operation == VOX_CONV) {
    memcpy(packed, weight, (size_t)count * size);
    return;
  }
  for (int64_t k = 0; k < count; k += taps)
    for (int64_t t = 0; t < taps; t++)
      if (p->type == VOX_F64)
        ((double *)packed)[k + t] = ((const double *)weight)[k + taps - 1 - t];
      else
        ((float *)packed)[k + t] = ((const float *)weight)[k + taps - 1 - t];
}

typedef struct {
  vox_depthwise_job job;
  const vox_unit *unit;
} forward_call;

static void forward_body(void *context, int64_t item, int64_t slot) {
  const forward_call *call = context;
  (void)slot;
  call->unit->depthwise_item(&call->job, item);
}

/* Whole planes where they are small, else bands of slices, of rows, and of columns, until an item is small enough. */
static void cut(vox_depthwise_job *j) {
  const vox_conv *p = j->p;
  const int backward = p->operation == VOX_CONV_INPUT_GRAD;
  int64_t count[3];
  double taps = 1;
  for (int i = 0; i < 3; i++) {
    j->phases[i] = backward ? vox_min(p->stride[i], p->spatial[i]) : 1;
    count[i] = backward ? vox_ceil_div(p->spatial[i], p->stride[i]) : p->output[i];
    taps *= (double)p->kernel[i];
  }
  const double outputs = vox_max(1, (int64_t)(ITEM_TERMS / taps));
  const double row = (double)count[2], slice = row * (double)count[1];
  const int64_t most = (int64_t)(VAST_TERMS / taps);
  const int64_t least_rows = vox_max(TILE_ROWS, vox_min(LEAST_ROWS, most / LEAST_COLUMNS));
  const int64_t least_columns = vox_max(TILE_COLUMNS, vox_min(LEAST_COLUMNS, most / least_rows));
  j->planes = vox_max(1, vox_min(p->k, (int64_t)(outputs / (slice * (double)count[0]))));
  j->band[0] = at_least(count[0], (int64_t)(outputs / slice), 1);
  j->band[1] = j->band[0] > 1 ? count[1] : at_least(count[1], (int64_t)(outputs / row), least_rows);
  j->band[2] = j->band[1] > least_rows ? count[2] : at_least(count[2], (int64_t)outputs, least_columns);
  for (int i = 0; i < 3; i++) {
    j->bands[i] = vox_ceil_div(count[i], j->band[i]);
    j->band[i] = vox_ceil_div(count[i], j->bands[i]);
  }
}

typedef struct {
  vox_weight_job job;
  const vox_unit *unit;
  char *scratch;
  int64_t each, channels; /* bytes of a thread's scratch; channels of an item */
} weight_call;

static void weight_body(void *context, int64_t item, int64_t slot) {
  const weight_call *call = context;
  const int64_t first = item * call->channels, last = vox_min(call->job.p->k, first + call->channels);
  for (int64_t k = first; k < last; k++)
    call->unit->depthwise_weight_item(&call->job, k, call->scratch + slot * call->each);
}

int vox_depthwise_run(const vox_conv *p, const vox_unit *unit, int64_t threads, const void *a, const void *b, int exact,
                      const void *bias, void *out, void *memory, int64_t *cursor) {
  if (p->operation == VOX_CONV_WEIGHT_GRAD) {
    const int64_t none[3] = {0, 0, 0};
    vox_weight_layout l = {.cin = 1, .cout = 1};
    vox_conv_phase(p, none, &l.sum);
    weight_call call = {.job = {.p = p, .l = &l, .x = a, .dy = b, .dw = out}, .unit = unit, .scratch = memory};
    int status = vox_depthwise_scratch(p, &call.each);
    call.channels = vox_max(1, (int64_t)(ITEM_TERMS / (1 + channel_terms(p))));
    return status ? status
                  : vox_parallel(vox_ceil_div(p->k, call.channels), threads, vox_slice_end(), weight_body, &call, cursor);
  }
  forward_call call = {.job = {.p = p, .x = a, .weight = b, .bias = bias, .exact = exact, .y = out}, .unit = unit};
  vox_depthwise_job *j = &call.job;
  if (!fits(p)) return VOX_INVALID;
  if (p->n == 0 || p->k == 0) return VOX_OK;
  j->multiplier = p->k / p->groups;
  cut(j);
  const int64_t bands = j->bands[0] * j->bands[1] * j->bands[2];
  if (__builtin_mul_overflow(p->n * vox_ceil_div(p->k, j->planes), bands, &j->items)) return VOX_OVERFLOW;
  return vox_parallel(j->items, threads, vox_slice_end(), forward_body, &call, cursor);
}
