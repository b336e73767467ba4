/* Entry points of pooling, unfold and fold: check, cut the planes into items, share them out. */
#include "../problem.h"

static int window_valid(const vox_window *p) {
  if (p->type < VOX_F32 || p->type > VOX_U64 || p->planes < 0) return VOX_INVALID;
  for (int i = 0; i < 3; i++)
    if (p->spatial[i] < 1 || p->kernel[i] < 1 || p->stride[i] < 1 || p->dilation[i] < 1 || p->output[i] < 1 ||
        p->pad[i] < 0)
      return VOX_INVALID;
  return VOX_OK;
}

typedef void row_kernel(const vox_window *p, int64_t plane, int64_t row, int64_t rows, const void *x, void *y);
typedef void plane_kernel(const vox_window *p, int64_t plane, const void *from, void *to);
typedef void max_kernel(const vox_window *p, int64_t plane, int64_t row, int64_t rows, const void *x, void *y,
                        int64_t *indices);

typedef struct {
  const vox_window *p;
  int64_t rows, per_item, items_per_plane;
  row_kernel *by_rows;
  max_kernel *max_by_rows;
  plane_kernel *by_plane;
  const void *from;
  void *to;
  int64_t *indices;
} window_call;

static void window_body(void *context, int64_t item, int64_t slot) {
  const window_call *c = context;
  (void)slot;
  if (c->by_plane) {
    c->by_plane(c->p, item, c->from, c->to);
    return;
  }
  int64_t plane = item / c->items_per_plane, row = item % c->items_per_plane * c->per_item;
  int64_t rows = vox_min(c->per_item, c->rows - row);
  if (c->max_by_rows)
    c->max_by_rows(c->p, plane, row, rows, c->from, c->to, c->indices);
  else
    c->by_rows(c->p, plane, row, rows, c->from, c->to);
}

/* Items of about 16,000 elements: some 10 microseconds, so that sharing them out costs little. */
static int run_rows(window_call *c, int64_t rows, int64_t elements_per_row, int64_t threads, int64_t *cursor) {
  c->rows = rows;
  c->per_item = vox_max(1, vox_min(rows, 16384 / vox_max(1, elements_per_row)));
  c->items_per_plane = vox_ceil_div(rows, c->per_item);
  return vox_parallel(c->p->planes * c->items_per_plane, threads, window_body, c, cursor);
}

int vox_max_pool(const vox_window *p, int64_t threads, const void *x, void *y, int64_t *indices, int64_t *cursor) {
  if (window_valid(p)) return VOX_INVALID;
  const vox_unit *u = vox_unit_used(p->type);
  window_call c = {.p = p, .max_by_rows = u ? u->max_pool : vox_elem_unit_of(p->type)->max_pool, .from = x, .to = y,
                   .indices = indices};
  return run_rows(&c, p->output[0] * p->output[1], p->output[2] * vox_min(p->kernel[1], 64), threads, cursor);
}

int vox_avg_pool(const vox_window *p, int64_t threads, const void *x, void *y, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (window_valid(p) || !u) return VOX_INVALID;
  window_call c = {.p = p, .by_rows = u->avg_pool, .from = x, .to = y};
  return run_rows(&c, p->output[0] * p->output[1], p->output[2] * vox_min(p->kernel[1], 64), threads, cursor);
}

int vox_unfold(const vox_window *p, int64_t threads, const void *x, void *columns, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (window_valid(p) || !u) return VOX_INVALID;
  window_call c = {.p = p, .by_rows = u->unfold, .from = x, .to = columns};
  return run_rows(&c, p->kernel[0] * p->kernel[1] * p->kernel[2], p->output[0] * p->output[1] * p->output[2], threads,
                  cursor);
}

static int run_planes(const vox_window *p, int64_t threads, plane_kernel *kernel, const void *from, void *to,
                      int64_t *cursor) {
  window_call c = {.p = p, .by_plane = kernel, .from = from, .to = to};
  return vox_parallel(p->planes, threads, window_body, &c, cursor);
}

int vox_avg_pool_grad(const vox_window *p, int64_t threads, const void *dy, void *dx, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (window_valid(p) || !u) return VOX_INVALID;
  return run_planes(p, threads, u->avg_pool_grad, dy, dx, cursor);
}

int vox_fold(const vox_window *p, int64_t threads, const void *columns, void *x, int64_t *cursor) {
  const vox_unit *u = vox_unit_used(p->type);
  if (window_valid(p) || !u) return VOX_INVALID;
  return run_planes(p, threads, u->fold, columns, x, cursor);
}

typedef struct {
  const vox_elem_unit *unit;
  int64_t count, size;
  int accumulate;
  const char *values;
  const int64_t *indices;
  char *out;
} scatter_call;

static void scatter_body(void *context, int64_t plane, int64_t slot) {
  const scatter_call *c = context;
  (void)slot;
  c->unit->scatter(c->count, c->size, c->accumulate, c->values + plane * c->count * c->unit->size,
                   c->indices + plane * c->count, c->out + plane * c->size * c->unit->size);
}

int vox_scatter(int32_t type, int64_t threads, int64_t planes, int64_t count, int64_t size, int32_t accumulate,
                const void *values, const int64_t *indices, void *out, int64_t *cursor) {
  if (type < VOX_F32 || type > VOX_U64 || planes < 0 || count < 0 || size < 0) return VOX_INVALID;
  if (accumulate && type > VOX_F64) return VOX_INVALID;
  scatter_call c = {vox_elem_unit_of(type), count, size, accumulate, values, indices, out};
  return vox_parallel(planes, threads, scatter_body, &c, cursor);
}
