/* Entry points of pooling, unfold and fold: check, cut the planes into items, share them out. */
#include <stdatomic.h>

#include "../problem.h"

static int window_valid(const vox_window *p) {
  if (p->type < VOX_F32 || p->type > VOX_U64 || p->planes < 0) return VOX_INVALID;
  for (int i = 0; i < 3; i++)
    if (p->spatial[i] < 1 || p->kernel[i] < 1 || p->stride[i] < 1 || p->dilation[i] < 1 || p->output[i] < 1 ||
        p->pad[i] < 0)
      return VOX_INVALID;
  return VOX_OK;
}

typedef struct {
  vox_window p;
  int64_t size[3], piece[3], pieces[3]; /* of a plane that is written */
  int64_t together;                     /* small planes, whole ones, that one item writes */
  int at_once;                          /* the kernel takes them all */
  vox_box_kernel *kernel;
  vox_max_kernel *max_kernel;
  const void *from;
  void *to;
  void *places;
} window_call;

static void window_body(void *context, int64_t item, int64_t slot) {
  const window_call *c = context;
  vox_box box;
  (void)slot;
  for (int i = 2; i >= 0; i--) {
    box.first[i] = item % c->pieces[i] * c->piece[i];
    box.last[i] = vox_min(c->size[i], box.first[i] + c->piece[i]);
    item /= c->pieces[i];
  }
  const int64_t end = vox_min(c->p.planes, (item + 1) * c->together);
  for (box.plane = item * c->together; box.plane < end; box.plane += box.planes) {
    box.planes = c->at_once ? end - box.plane : 1;
    if (c->max_kernel)
      c->max_kernel(&c->p, &box, c->from, c->to, c->places);
    else
      c->kernel(&c->p, &box, c->from, c->to);
  }
}

/* Some 10 microseconds, so that sharing out costs little. */
enum { SHORT = 1 << 16 };
/* Here each item looks at all rows that are read: planes are cut only where they would keep a signal waiting. */
enum { LONG = 1 << 25 };

/* Planes of this size are written in items of about `most` terms, of which an element has `terms`; nothing interrupts an
 * item.  Runs of an output row share the walk over their taps, so short ones are cut only where windows are vast. */
static int run(window_call *c, const int64_t size[3], int64_t most, int64_t terms, int64_t threads, int64_t *cursor) {
  enum { RUN = 256, VAST = 1 << 26 };
  int64_t left = vox_max(vox_max(1, most / terms), vox_min(RUN, VAST / terms)), items = 1, few = vox_max(1, SHORT / terms);
  for (int i = 0; i < 3; i++) vox_normal_steps(c->p.output[i], c->p.kernel[i], &c->p.stride[i], &c->p.dilation[i]);
  for (int i = 2; i >= 0; i--) {
    c->size[i] = size[i];
    c->piece[i] = vox_min(size[i], vox_max(1, left));
    c->pieces[i] = vox_ceil_div(size[i], c->piece[i]);
    left /= c->piece[i];
    few /= size[i];
    items *= c->pieces[i];
  }
  c->together = items == 1 ? vox_max(1, few) : 1;
  items *= vox_ceil_div(c->p.planes, c->together);
  return vox_parallel(items, threads, vox_slice_end(), window_body, c, cursor);
}

/* Terms of an output, and of an element that outputs go back to, at most. */
static int64_t window_terms(const vox_window *p, const int64_t other[3]) {
  int64_t terms = 1;
  for (int i = 0; i < 3; i++)
    if (__builtin_mul_overflow(terms, vox_min(p->kernel[i], other[i]), &terms)) return INT64_MAX;
  return terms;
}

/* Windows two wide that lie side by side and cover planes of floating type. */
static int in_pairs(const vox_window *p) {
  if (window_valid(p) || p->type > VOX_F64 || p->kernel[2] != 2) return 0;
  for (int i = 0; i < 3; i++)
    if (p->kernel[i] > 2 || p->stride[i] != p->kernel[i] || p->pad[i] || p->dilation[i] != 1 || p->spatial[i] % p->kernel[i] ||
        p->spatial[i] / p->kernel[i] != p->output[i])
      return 0;
  return 1;
}

/* Where windows cover planes, planes one after the other are one that is deeper, or higher where windows are flat: no rest of
 * each, and no start. */
static void join_planes(vox_window *p) {
  const int axis = p->kernel[0] == 1;
  const int64_t together = p->planes * (axis ? p->output[0] : 1), slice = p->spatial[1] * p->spatial[2];
  if (p->planes < 1 || p->output[0] * p->output[1] * p->output[2] == 1 || (axis && together > INT32_MAX / 2 / slice)) return;
  if (axis) p->spatial[0] = p->output[0] = 1;
  p->spatial[axis] *= together, p->output[axis] *= together;
  p->planes = 1;
}

int vox_max_pool(const vox_window *p, int64_t threads, const void *x, void *y, int64_t *indices, int64_t *cursor) {
  if (window_valid(p)) return VOX_INVALID;
  const vox_unit *u = vox_unit_used(p->type);
  window_call c = {.p = *p, .max_kernel = u ? u->max_pool : vox_elem_unit_of(p->type)->max_pool, .at_once = 1, .from = x,
                   .to = y, .places = indices};
  if (!indices && in_pairs(p)) join_planes(&c.p);
  return run(&c, c.p.output, SHORT, window_terms(p, p->spatial), threads, cursor);
}

int vox_max_pool_taps(const vox_window *p, int64_t threads, const void *x, void *y, uint8_t *taps, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (!in_pairs(p) || !u) return VOX_INVALID;
  window_call c = {.p = *p, .max_kernel = u->max_pool_taps, .from = x, .to = y, .places = taps};
  join_planes(&c.p);
  return run(&c, c.p.output, SHORT, window_terms(p, p->spatial), threads, cursor);
}

typedef struct {
  vox_taps_job job;
  const vox_unit *unit;
} taps_call;

static void taps_body(void *context, int64_t channel, int64_t slot) {
  const taps_call *c = context;
  (void)slot;
  c->unit->max_pool_taps_grad(&c->job, channel);
}

int vox_max_pool_taps_grad(const vox_window *p, int64_t threads, int64_t k, const void *pooled, const void *dy,
                           const uint8_t *taps, const void *output, int64_t output_stride, const void *add,
                           int64_t add_stride, void *dx, void *sums, int64_t *cursor) {
  taps_call c = {.unit = vox_unit_used(p->type)};
  if (!in_pairs(p) || !c.unit || k < 1 || p->planes % k) return VOX_INVALID;
  c.job = (vox_taps_job){.p = p, .n = p->planes / k, .k = k, .output_stride = output_stride, .add_stride = add_stride,
                         .pooled = pooled, .dy = dy, .output = output, .add = add, .taps = taps, .out = dx, .sums = sums};
  return vox_parallel(k, threads, vox_slice_end(), taps_body, &c, cursor);
}

int vox_avg_pool(const vox_window *p, int64_t threads, const void *x, void *y, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (window_valid(p) || !u) return VOX_INVALID;
  window_call c = {.p = *p, .kernel = u->avg_pool, .at_once = 1, .from = x, .to = y};
  if (in_pairs(p)) join_planes(&c.p);
  return run(&c, c.p.output, SHORT, window_terms(p, p->spatial), threads, cursor);
}

int vox_avg_pool_grad(const vox_window *p, int64_t threads, const void *dy, void *dx, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (window_valid(p) || !u) return VOX_INVALID;
  window_call c = {.p = *p, .kernel = u->avg_pool_grad, .at_once = 1, .from = dy, .to = dx};
  return run(&c, p->spatial, LONG, window_terms(p, p->output), threads, cursor);
}

int vox_unfold(const vox_window *p, int64_t threads, const void *x, void *columns, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (window_valid(p) || !u) return VOX_INVALID;
  window_call c = {.p = *p, .kernel = u->unfold, .from = x, .to = columns};
  /* a plane of columns as (tap, slice, row), of which the kernel writes whole rows */
  const int64_t rows[3] = {p->kernel[0] * p->kernel[1] * p->kernel[2], p->output[0], p->output[1]};
  return run(&c, rows, SHORT, p->output[2], threads, cursor);
}

int vox_fold(const vox_window *p, int64_t threads, const void *columns, void *x, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (window_valid(p) || !u) return VOX_INVALID;
  window_call c = {.p = *p, .kernel = u->fold, .from = columns, .to = x};
  return run(&c, p->spatial, LONG, window_terms(p, p->output), threads, cursor);
}

typedef struct {
  const vox_elem_unit *unit;
  const vox_unit *spreads;
  int64_t pooled[3], spatial[3], planes, together, count, size;
  int accumulate, forms[SPREAD_FORMS]; /* forms that shapes allow */
  atomic_int form;                     /* the first that no item has refuted */
  const char *values;
  const int64_t *indices;
  char *out;
  atomic_int outside;
} scatter_call;

static void scatter_body(void *context, int64_t item, int64_t slot) {
  scatter_call *c = context;
  (void)slot;
  const int64_t plane = item * c->together, planes = vox_min(c->planes - plane, c->together);
  const char *values = c->values + plane * c->count * c->unit->size;
  const int64_t *indices = c->indices + plane * c->count;
  char *out = c->out + plane * c->size * c->unit->size;
  const int first = atomic_load_explicit(&c->form, memory_order_relaxed);
  int form = first, done = 0;
  for (; form < SPREAD_FORMS; form++)
    if (c->forms[form] && (done = c->spreads->spread(planes, c->pooled, c->spatial, form, values, indices, out))) break;
  if (form > first) atomic_store_explicit(&c->form, form, memory_order_relaxed);
  if (!done && !c->unit->scatter(planes, c->count, c->size, c->accumulate, values, indices, out)) atomic_store(&c->outside, 1);
}

int vox_scatter(int32_t type, int64_t threads, int64_t planes, const int64_t pooled[3], const int64_t spatial[3],
                int32_t accumulate, const void *values, const int64_t *indices, void *out, int64_t *cursor) {
  if (type < VOX_F32 || type > VOX_U64 || planes < 0) return VOX_INVALID;
  if (accumulate && type > VOX_F64) return VOX_INVALID;
  scatter_call c = {.unit = vox_elem_unit_of(type), .planes = planes, .count = 1, .size = 1, .accumulate = accumulate,
                    .values = values, .indices = indices, .out = out};
  int apart = 1, over = accumulate && pooled[0] == spatial[0], close = over;
  for (int i = 0; i < 3; i++) {
    if (pooled[i] < 0 || spatial[i] < 0) return VOX_INVALID;
    if (__builtin_mul_overflow(c.count, pooled[i], &c.count) || __builtin_mul_overflow(c.size, spatial[i], &c.size))
      return VOX_OVERFLOW;
    c.pooled[i] = pooled[i];
    c.spatial[i] = spatial[i];
    apart &= (spatial[i] % 2 == 0 && spatial[i] / 2 == pooled[i]) || (i < 2 && spatial[i] == pooled[i]);
    over &= i == 0 || vox_ceil_div(spatial[i], 2) == pooled[i];
    close &= spatial[i] == pooled[i];
  }
  c.spreads = vox_unit_used(type);
  if (c.spreads && c.count && c.size <= INT32_MAX) {
    const int past = planes >= vox_ceil_div(VOX_STREAMED_BYTES, c.unit->size * c.size);
    c.forms[past ? SPREAD_PAST : SPREAD_APART] = apart, c.forms[SPREAD_OVER] = over, c.forms[SPREAD_CLOSE] = close;
  }
  c.together = vox_max(1, SHORT / vox_max(1, vox_max(c.count, c.size)));
  const int status = vox_parallel(vox_ceil_div(planes, c.together), threads, vox_slice_end(), scatter_body, &c, cursor);
  return atomic_load(&c.outside) ? VOX_OUTSIDE : status;
}
