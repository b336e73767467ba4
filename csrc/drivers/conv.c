/* Convolution's entry points: check, lay out the work, share the items out. */

#include <string.h>

#include "../problem.h"

/* Before the packed weights: whether an Inf or a NaN is among them; where items pack, no more than where the weights are. */
enum { HEADER = VOX_ALIGN };
typedef struct {
  int32_t nonfinite;
  const void *weight;
} header;

static int64_t element_size(const vox_conv *p) { return p->type == VOX_F64 ? 8 : 4; }

/* The same problem in the form that the kernels want.  A kernel of one tap at stride 1 without padding sees the image as
 * one line. */
static vox_conv normal_form(const vox_conv *p) {
  vox_conv f = *p;
  for (int i = 0; i < 3; i++) vox_normal_steps(p->output[i], p->kernel[i], &f.stride[i], &f.dilation[i]);
  if (!vox_pointwise(&f)) return f;
  f.spatial[2] = f.output[2] = p->spatial[0] * p->spatial[1] * p->spatial[2];
  f.spatial[0] = f.spatial[1] = f.output[0] = f.output[1] = 1;
  return f;
}

static int64_t weight_bytes(const vox_conv *p) {
  return p->k * (p->c / p->groups) * p->kernel[0] * p->kernel[1] * p->kernel[2] * element_size(p);
}

/* The transformed weights; the plain ones follow them.  VOX_OVERFLOW if they cannot be counted. */
static int64_t winograd_bytes(const vox_conv *p, const int64_t tile[3]) {
  const int64_t points = vox_winograd_points(p, tile, 1) * vox_winograd_points(p, tile, 2) * vox_parities(p);
  int64_t bytes, filters = weight_bytes(p) / (p->kernel[1] * p->kernel[2]);
  return __builtin_mul_overflow(filters, points, &bytes) ? VOX_OVERFLOW : bytes;
}

int vox_conv_winograd_tile(const vox_conv *problem, int64_t tile[3], double *gain) {
  int status = vox_conv_valid(problem);
  if (status) return status;
  vox_conv p = normal_form(problem);
  const vox_unit *u = vox_unit_used(p.type);
  return u ? vox_winograd_tile(&p, u, tile, gain) : VOX_INVALID;
}

int64_t vox_conv_packed_bytes(const vox_conv *p) {
  if (vox_conv_valid(p)) return vox_conv_valid(p);
  if (p->operation == VOX_CONV_WEIGHT_GRAD) return 0;
  const vox_conv normal = normal_form(p);
  const vox_unit *u = vox_unit_used(p->type);
  vox_layout l;
  if (p->algorithm != VOX_DEPTHWISE && u && vox_conv_layout(&normal, u, 1, &l) == VOX_OK && l.late) return HEADER;
  int64_t transformed = 0, bytes = weight_bytes(p);
  if (p->algorithm == VOX_WINOGRAD) {
    int64_t tile[3];
    double gain;
    if (vox_conv_winograd_tile(p, tile, &gain)) return VOX_INVALID;
    transformed = winograd_bytes(&normal, tile);
  }
  return transformed < 0 || __builtin_add_overflow(bytes, transformed, &bytes) || __builtin_add_overflow(bytes, HEADER, &bytes)
             ? VOX_OVERFLOW
             : bytes;
}

typedef struct {
  int64_t shared, each; /* bytes: for all threads, for each */
  int64_t v;            /* of a V that items share */
} workspace;

static int workspace_of(const vox_conv *p, int64_t threads, vox_layout *l, vox_weight_layout *w, workspace *s) {
  const vox_unit *u = vox_unit_used(p->type);
  if (!u || threads < 1) return VOX_INVALID;
  int64_t elements, integers, size = element_size(p);
  if (p->algorithm == VOX_DEPTHWISE) {
    s->shared = 0;
    return vox_depthwise_scratch(p, &s->each);
  }
  if (p->operation == VOX_CONV_WEIGHT_GRAD) {
    int status = vox_weight_layout_of(p, u, threads, w);
    if (status) return status;
    if (__builtin_mul_overflow(w->sums, size, &s->shared) || __builtin_add_overflow(w->scratch, w->packed, &elements) ||
        __builtin_add_overflow(w->offsets, vox_round_up(w->rows, 8), &integers))
      return VOX_OVERFLOW;
  } else {
    int status = vox_conv_layout(p, u, threads, l);
    if (status) return status;
    int64_t transformed = 0;
    s->shared = 0;
    integers = l->offsets;
    if (__builtin_add_overflow(l->scratch, l->sums, &elements)) return VOX_OVERFLOW;
    if (p->algorithm == VOX_WINOGRAD && __builtin_mul_overflow(l->positions, l->columns, &transformed)) return VOX_OVERFLOW;
    if (l->shares) {
      if (__builtin_mul_overflow(transformed, size, &s->v) || __builtin_add_overflow(s->v, 2 * VOX_ALIGN, &s->v))
        return VOX_OVERFLOW;
      s->v -= s->v % VOX_ALIGN;
      if (__builtin_mul_overflow(s->v, l->items / l->parts, &s->shared)) return VOX_OVERFLOW;
      transformed = 0;
    }
    if (__builtin_add_overflow(elements, transformed, &elements)) return VOX_OVERFLOW;
  }
  if (__builtin_mul_overflow(elements, size, &elements) || __builtin_mul_overflow(integers, 8, &integers) ||
      __builtin_add_overflow(elements, integers, &s->each))
    return VOX_OVERFLOW;
  s->each = vox_round_up(s->each, VOX_ALIGN);
  return VOX_OK;
}

int64_t vox_conv_workspace_bytes(const vox_conv *problem, int64_t threads) {
  int status = vox_conv_valid(problem);
  if (status) return status;
  vox_conv p = normal_form(problem);
  vox_layout l;
  vox_weight_layout w;
  workspace s = {0};
  int64_t bytes;
  status = workspace_of(&p, threads, &l, &w, &s);
  if (status) return status;
  if (__builtin_mul_overflow(s.each, threads, &bytes) || __builtin_add_overflow(bytes, s.shared, &bytes))
    return VOX_OVERFLOW;
  return bytes;
}

static void phase_of(const vox_conv *p, const vox_layout *l, int64_t index, vox_item *it, vox_phase *phase) {
  it->phase[2] = index % l->phases[2];
  it->phase[1] = index / l->phases[2] % l->phases[1];
  it->phase[0] = index / l->phases[2] / l->phases[1];
  vox_conv_phase(p, it->phase, phase);
}

int vox_conv_pack(const vox_conv *problem, const void *weight, void *packed) {
  int status = vox_conv_valid(problem);
  if (status) return status;
  if (problem->operation == VOX_CONV_WEIGHT_GRAD) return VOX_INVALID;
  vox_conv p = normal_form(problem);
  const vox_unit *u = vox_unit_used(p.type);
  vox_layout l;
  if (!u) return VOX_INVALID;
  const int64_t size = element_size(&p);
  int nonfinite = 0;
  if (p.algorithm == VOX_DEPTHWISE) {
    vox_depthwise_pack(&p, weight, (char *)packed + HEADER);
    *(int32_t *)packed = u->has_nonfinite(weight, weight_bytes(&p) / size);
    return VOX_OK;
  }
  status = vox_conv_layout(&p, u, 1, &l);
  if (status) return status;
  const header first = {.weight = weight};
  memcpy(packed, &first, sizeof first); /* which need not be aligned */
  if (l.late) return VOX_OK;
  if (l.upsamples) { /* no padding, so nothing that an Inf might meet */
    u->upsample_pack(&p, &l, weight, (char *)packed + HEADER);
    *(int32_t *)packed = 0;
    return VOX_OK;
  }
  if (p.algorithm == VOX_WINOGRAD) {
    const int64_t depth = p.kernel[0] * l.inputs, stride = l.fused ? depth : depth * l.cout;
    for (int64_t g = 0; g < p.groups; g++) {
      char *to = (char *)packed + HEADER + g * l.cout * l.positions * depth * size;
      nonfinite |= u->winograd_pack(&p, &l, g, 0, l.cout, 0, l.cin, weight, stride, to);
    }
    memcpy((char *)packed + HEADER + winograd_bytes(&p, l.tile), weight, (size_t)weight_bytes(&p));
    *(int32_t *)packed = nonfinite;
    return VOX_OK;
  }
  if (p.operation == VOX_CONV_INPUT_GRAD) {
    *(int32_t *)packed = u->conv_pack_grad(&p, &l, weight, (char *)packed + HEADER);
    return VOX_OK;
  }
  vox_item it;
  vox_phase phase;
  phase_of(&p, &l, 0, &it, &phase);
  for (int64_t g = 0; g < p.groups; g++)
    for (int64_t k = 0, m; k < l.cout; k += m) {
      m = vox_panel_width(l.panel, l.cout - k);
      const int64_t at = (g * l.cout + k) * l.cin * phase.taps;
      nonfinite |= u->conv_pack(&p, &l, &phase, g, k, m, 0, l.cin, weight, (char *)packed + HEADER + at * size);
    }
  *(int32_t *)packed = nonfinite;
  return VOX_OK;
}

typedef struct {
  vox_conv_job job;
  const vox_unit *unit;
  char *scratch, *shared;
  int64_t each, v;
  int transforms; /* items share out the transform of the input's channels, not the output's channels */
} conv_call;

static void conv_body(void *context, int64_t index, int64_t slot) {
  const conv_call *call = context;
  const vox_layout *l = call->job.l;
  vox_item it;
  vox_phase phase;
  const int64_t parts = call->transforms ? l->shares : l->parts;
  it.part = index % parts;
  it.share = call->transforms ? it.part : -1;
  index /= parts;
  it.shared = call->shared + index * call->v;
  for (int i = 2; i >= 0; i--) {
    it.band[i] = index % l->bands[i];
    index /= l->bands[i];
  }
  it.group = index % call->job.p->groups;
  index /= call->job.p->groups;
  void *scratch = call->scratch + slot * call->each;
  if (call->job.p->algorithm == VOX_WINOGRAD) {
    it.n = index * l->images;
    it.images = vox_min(l->images, call->job.p->n * l->phases[1] * l->phases[2] - it.n);
    call->unit->winograd_item(&call->job, &it, scratch);
    return;
  }
  const int64_t visits = vox_ceil_div(call->job.p->n, l->images);
  it.n = index % visits * l->images;
  it.images = vox_min(l->images, call->job.p->n - it.n);
  phase_of(call->job.p, l, index / visits, &it, &phase);
  if (l->narrow)
    call->unit->narrow_item(&call->job, &phase, &it, scratch);
  else if (l->upsamples)
    call->unit->upsample_item(&call->job, &it, scratch);
  else if (l->pairs)
    call->unit->pairs_item(&call->job, &phase, &it, scratch);
  else
    call->unit->conv_item(&call->job, &phase, &it, scratch);
}

/* *cursor counts first the items that transform what others share, which begin when the last of those has ended. */
static int conv_run(conv_call *call, int64_t threads, int64_t *cursor) {
  const vox_layout *l = call->job.l;
  const int64_t slice_end = vox_slice_end(), visits = l->items / l->parts, before = visits * l->shares;
  if (*cursor < before) {
    for (int64_t i = 0; *cursor == 0 && i < visits; i++) memset(call->shared + i * call->v, 0, VOX_ALIGN);
    call->transforms = 1;
    int status = vox_parallel(before, threads, slice_end, conv_body, call, cursor);
    if (status) return status;
    call->transforms = 0;
  }
  int64_t item = *cursor - before;
  int status = vox_parallel(l->items, threads, slice_end, conv_body, call, &item);
  *cursor = before + item;
  return status;
}

typedef struct {
  vox_weight_job job;
  const vox_unit *unit;
  char *scratch;
  int64_t each;
} weight_call;

static void weight_body(void *context, int64_t item, int64_t slot) {
  const weight_call *call = context;
  const vox_unit *u = call->unit;
  (call->job.p->algorithm == VOX_WINOGRAD ? u->winograd_weight_item : u->weight_item)(&call->job, item,
                                                                                    call->scratch + slot * call->each);
}

static void finish_body(void *context, int64_t item, int64_t slot) {
  const weight_call *call = context;
  (void)slot;
  (call->job.p->algorithm == VOX_WINOGRAD ? call->unit->winograd_weight_finish : call->unit->weight_finish)(&call->job, item);
}

/* *cursor counts the items of all stages, then those that write the result.  A stage begins when the one before has
 * ended, so an element's chunks are added in order. */
static int weight_run(weight_call *call, int64_t threads, int64_t *cursor) {
  const vox_weight_layout *l = call->job.l;
  const int64_t slice_end = vox_slice_end(), staged = l->stages * l->items;
  if (*cursor == 0 && l->sums) *(int *)call->job.sums = 0;
  while (*cursor < staged) {
    int64_t item = *cursor % l->items, before = *cursor - item;
    call->job.stage = *cursor / l->items;
    int status = vox_parallel(l->items, threads, slice_end, weight_body, call, &item);
    *cursor = before + item;
    if (status) return status;
  }
  int64_t item = *cursor - staged;
  int status = vox_parallel(l->finishes, threads, slice_end, finish_body, call, &item);
  *cursor = staged + item;
  return status;
}

int vox_conv_run(const vox_conv *problem, int64_t threads, const void *a, const void *b, const void *bias, void *out,
                 void *memory, int64_t *cursor) {
  int status = vox_conv_valid(problem);
  if (status) return status;
  if (*cursor < 0) return VOX_INVALID;
  vox_conv p = normal_form(problem);
  vox_layout l;
  vox_weight_layout w;
  workspace s = {0};
  status = workspace_of(&p, threads, &l, &w, &s);
  if (status) return status;
  const vox_unit *unit = vox_unit_used(p.type);
  char *scratch = (char *)memory + s.shared;
  if (p.algorithm == VOX_DEPTHWISE) {
    const int packed = p.operation != VOX_CONV_WEIGHT_GRAD;
    return vox_depthwise_run(&p, unit, threads, a, packed ? (const char *)b + HEADER : b, packed && *(const int32_t *)b,
                             bias, out, scratch, cursor);
  }
  if (p.operation == VOX_CONV_WEIGHT_GRAD) {
    weight_call call = {.job = {.p = &p, .l = &w, .x = a, .dy = b, .dw = out, .sums = memory},
                        .unit = unit, .scratch = scratch, .each = s.each};
    return weight_run(&call, threads, cursor);
  }
  conv_call call = {.job = {.p = &p, .l = &l, .x = a, .bias = bias, .packed = (const char *)b + HEADER,
                            .nonfinite = *(const int32_t *)b, .y = out},
                    .unit = unit, .scratch = scratch, .shared = memory, .each = s.each, .v = s.v};
  header first;
  memcpy(&first, b, sizeof first);
  if (l.late)
    call.job.weight = first.weight;
  else if (p.algorithm == VOX_WINOGRAD)
    call.job.weight = (const char *)b + HEADER + winograd_bytes(&p, l.tile);
  if (l.cout == 0) return VOX_OK;
  return conv_run(&call, threads, cursor);
}

int vox_conv_once(const vox_conv *p, int64_t threads, int64_t packed_bytes, int64_t bytes, const void *a, const void *b,
                  const void *bias, void *out, void **memory, int64_t *cursor) {
  const int packs = p->operation != VOX_CONV_WEIGHT_GRAD;
  int status = VOX_OK;
  if (packed_bytes < 0 || bytes < 0) return (int)vox_min(packed_bytes, bytes);
  packed_bytes = vox_round_up(packed_bytes, VOX_ALIGN);
  if (!*memory) {
    if (__builtin_add_overflow(bytes, packed_bytes, &bytes)) return VOX_OVERFLOW;
    if (!(*memory = vox_alloc(bytes))) return VOX_NO_MEMORY;
    if (packs) status = vox_conv_pack(p, b, *memory);
  }
  if (status == VOX_OK)
    status = vox_conv_run(p, threads, a, packs ? *memory : b, bias, out, (char *)*memory + packed_bytes, cursor);
  if (status != VOX_AGAIN) {
    vox_free(*memory);
    *memory = NULL;
  }
  return status;
}

int vox_conv_whole(const vox_conv *problem, const void *a, const void *b, const void *bias, void *out) {
  vox_conv p = *problem;
  p.once = 1;
  const int64_t threads = vox_get_num_threads();
  const int64_t packed_bytes = vox_conv_packed_bytes(&p), bytes = vox_conv_workspace_bytes(&p, threads);
  int64_t cursor = 0;
  void *memory = NULL;
  int status;
  do
    status = vox_conv_once(&p, threads, packed_bytes, bytes, a, b, bias, out, &memory, &cursor);
  while (status == VOX_AGAIN);
  return status;
}

typedef struct {
  const vox_unit *unit;
  int64_t n, k, size;
  const void *y, *dy;
  void *out, *sums;
} channel_call;

static void channel_body(void *context, int64_t channel, int64_t slot) {
  const channel_call *c = context;
  (void)slot;
  if (c->y)
    c->unit->relu_grad(c->n, c->k, c->size, channel, c->y, c->dy, c->out, c->sums);
  else
    c->unit->bias_grad(c->n, c->k, c->size, channel, c->dy, c->sums);
}

int vox_conv_bias_grad(int32_t type, int64_t threads, int64_t n, int64_t k, int64_t size, const void *grad_output,
                       void *out, int64_t *cursor) {
  channel_call call = {vox_unit_used(type), n, k, size, NULL, grad_output, NULL, out};
  if (!call.unit || n < 0 || k < 0 || size < 0) return VOX_INVALID;
  return vox_parallel(k, threads, vox_slice_end(), channel_body, &call, cursor);
}

int vox_relu_grad(int32_t type, int64_t threads, int64_t n, int64_t k, int64_t size, const void *output,
                  const void *grad_output, void *out, void *sums, int64_t *cursor) {
  channel_call call = {vox_unit_used(type), n, k, size, output, grad_output, out, sums};
  if (!call.unit || n < 0 || k < 0 || size < 0 || !output) return VOX_INVALID;
  return vox_parallel(k, threads, vox_slice_end(), channel_body, &call, cursor);
}
