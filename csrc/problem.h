/* What the drivers hand to the kernels: problems cut into phases, bands, blocks and items.  Nothing here knows an
 * element type or an instruction set. */
#ifndef VOX_PROBLEM_H
#define VOX_PROBLEM_H

#include <stdint.h>

#include "api.h"

#define VOX_ALIGN 64

/* One axis of one phase of the sum.  The forward pass has a single phase.  The input gradient of a strided axis has one
 * for each residue of the input position modulo the stride: only the taps that reach that residue are in it, so no
 * zeros are inserted.  Output q of a phase stands at first + q * spread; tap i has kernel index
 * index0 + i * index_step and reads position q * step + offset0 + i * offset_step. */
typedef struct vox_axis {
  int64_t size, count, step, first, spread;
  int64_t taps, index0, index_step, offset0, offset_step;
  int64_t outputs; /* Winograd: outputs behind the `count` tiles */
} vox_axis;

typedef struct vox_phase {
  vox_axis axis[3];
  int64_t taps;   /* product over the axes */
  int64_t before; /* taps of all phases before this one */
} vox_phase;

/* How the sum is cut.  Only the speed depends on it: every output is one chain of additions in the order of
 * (channel, tap), wherever the cuts fall. */
typedef struct vox_layout {
  int64_t cin, cout;       /* channels of one group that are read and written */
  int64_t inputs;          /* Winograd: those that are transformed: at stride 2 a channel's four parities are one each */
  int64_t phases[3];       /* residues along each axis */
  int64_t band[3];         /* outputs of a band along each axis (direct) */
  int64_t bands[3];        /* bands along each axis; im2col: tiles, in [2] */
  int64_t block;           /* channels that are read between two visits of an output */
  int64_t plane;           /* elements of one channel in the scratch, at most */
  int64_t parts;           /* parts of the output channels */
  int64_t panel;           /* output channels whose weights are packed together, at most */
  int by_channels;         /* they are the lanes, and there are no fewer */
  int by_rows;             /* and a tile is of one row, read where it lies, without the terms that are padding */
  int dense;               /* each column tap has a column of its own, whose outputs lie side by side across rows */
  int in_place;            /* kernels of one tap, whose inputs need no copy: the last band is up to twice as long */
  int64_t vectors;         /* vectors of pixels of a tile; Winograd: of the tiles of an item */
  int64_t columns;         /* pitch of the accumulators: pixels of an item, in whole tiles */
  int64_t taps;            /* entries of the offset list */
  int64_t scratch, offsets, sums; /* elements of the three pieces of a thread's workspace */
  int64_t tile[3];         /* Winograd: outputs of a tile along each axis */
  int64_t positions;       /* Winograd: points at which a tile is multiplied */
  int64_t images;          /* samples of an item; Winograd: and residues of dilated axes */
  int64_t runs;            /* Winograd: neighbouring tiles of a row within a vector, at most */
  int64_t tile_rows;       /* Winograd: rows of tiles of an image, which bands divide evenly, the first get one more */
  int64_t shares;          /* Winograd: of the input channels, transformed before, where all parts meet one V; else 0 */
  int late;                /* an item packs the weights that it alone wants itself, `packing` among the sums */
  int64_t packing;
  int pairs;               /* an item has all phases of the input gradient, two columns' at a time, whose rows are the sums */
  int narrow;              /* so few output channels that the tiles of depthwise sums serve, `rows` at a time */
  int64_t rows;
  int upsamples;           /* windows of the input gradient lie side by side: bands are of its positions, flat */
  int64_t k_block;         /* Winograd: output channels between two inverse transforms */
  int64_t depth_block;     /* Winograd: input channels that an item meets, and packs the weights of, before the next */
  int64_t kept;            /* Winograd: from the products to sums of theirs that wait for the next, in another order; else 0 */
  int streams;             /* Winograd: results that no cache would keep go past them */
  int squares;             /* Winograd: four tiles are a row of an image, which is read where it lies */
  int fused;               /* Winograd: so few input channels that products stay in registers up to the outputs */
  int64_t items;
} vox_layout;

/* Words of an image's description in the workspace of a Winograd item, at most. */
enum { VOX_IMAGE_WORDS = 48 };
/* Row and depth phases of an item of pairs, at most, and what is known of each tap of the kernel. */
enum { VOX_MOST_PAIRS = 8, VOX_TAP_WORDS = 3 };
/* Winograd's tiles of dy whose products are summed before they meet the accumulators, and images that they may be of: more
 * hide those, fewer leave V in L2. */
enum { VOX_CHUNK_TILES = 64 };

/* One item: a band (or a tile) of one phase, sample, group and part of the output channels. */
typedef struct vox_item {
  int64_t phase[3], n, images, group, band[3], part;
  void *shared; /* Winograd: a V that items share, of which this one transforms `share`, or none where that is negative */
  int64_t share;
} vox_item;

/* Everything that an item of a convolution needs, and where its thread may write. */
typedef struct vox_conv_job {
  const vox_conv *p;
  const vox_layout *l;
  const void *x, *bias;
  const void *packed; /* after its header */
  const void *weight; /* as the caller gave them: for Winograd, and where items pack */
  int nonfinite;      /* the weights hold an Inf or a NaN, which padding must not meet */
  void *y;
} vox_conv_job;

/* The weight gradient: dw[k][c, t] = sum over samples and pixels of dy[k][p] * x[c][p * stride + off(t)]. */
typedef struct vox_weight_layout {
  vox_phase sum;           /* the forward pass's */
  vox_phase phase;         /* the same, or Winograd's tiles of it */
  int64_t cin, cout;
  int64_t positions;       /* Winograd: points at which a tile is multiplied, otherwise 1 */
  int64_t images;          /* Winograd: samples, and residues of dilated axes, of a chunk */
  int64_t lanes;           /* output channels of a panel */
  int64_t panels, panel_parts;
  int squares;             /* Winograd: as above */
  int in_place;            /* no window leaves the input, which the tiles read where it lies */
  int by_planes;           /* pixels stand in the lanes, and dy is read where it lies */
  int64_t block, blocks;   /* input channels of an item, and how many such blocks */
  int64_t band[3], bands[3]; /* pixels of a chunk */
  int64_t chunks, chunks_per_stage, stages;
  int64_t tile_rows, rows; /* (c, tap) rows of a tile, and of a block, rounded up to the tile */
  int64_t plane, scratch, offsets, packed; /* elements a thread needs */
  int64_t sums;            /* elements of the shared accumulators */
  int64_t items;           /* of a stage */
  int64_t rows_per_finish, finish_pieces; /* rows of an output channel, or panel, that are written at a time */
  int64_t finishes;        /* items that write the result */
} vox_weight_layout;

typedef struct vox_weight_job {
  const vox_conv *p;
  const vox_weight_layout *l;
  const void *x, *dy;
  void *dw, *sums;
  int64_t stage;
} vox_weight_job;

/* Convolution with one input channel a group.  An item is a band of outputs, [band[i] * b, ...) along each axis of each
 * phase, of `planes` output channels of one sample. */
typedef struct vox_depthwise_job {
  const vox_conv *p;
  int64_t multiplier; /* output channels of a group */
  int64_t phases[3], band[3], bands[3], planes, items;
  const void *x, *weight, *bias;
  int exact; /* the weights hold an Inf or a NaN, which padding must not meet */
  void *y;
} vox_depthwise_job;

/* One item of pooling, unfold or fold: the part [first, last) of a plane of the array that is written; of average pooling, of
 * some planes. */
typedef struct vox_box {
  int64_t plane, planes, first[3], last[3];
} vox_box;

typedef void vox_box_kernel(const vox_window *p, const vox_box *box, const void *from, void *to);
/* places: int64 indices of a plane that may be NULL, or a window's taps as bytes */
typedef void vox_max_kernel(const vox_window *p, const vox_box *box, const void *x, void *y, void *places);

/* The way back through a max-pool that kept its taps; vox_max_pool_taps_grad has the arguments. */
typedef struct vox_taps_job {
  const vox_window *p;
  int64_t n, k, output_stride, add_stride;
  const void *pooled, *dy, *output, *add;
  const uint8_t *taps;
  void *out, *sums;
} vox_taps_job;

/* How windows that indices come from may lie: two wide side by side, also of so large a result that it goes past the caches, or
 * 3x3 two apart or one, and padded by one. */
enum { SPREAD_APART, SPREAD_PAST, SPREAD_OVER, SPREAD_CLOSE, SPREAD_FORMS };
/* A result of so many bytes stays in no cache. */
enum { VOX_STREAMED_BYTES = 24 << 20 };

/* One instruction set's kernels for one element type: the only symbol of its unit. */
typedef struct vox_unit {
  int64_t lanes, tile_m, tile_v, narrow_v; /* of the pixel-vector tile; narrow_v for fewer than tile_m channels */
  int64_t channels, channel_t;             /* of the channel-vector tile, and its pixels at most; half as many may be odd */
  int64_t depthwise_rows;                  /* of a tile of depthwise sums */
  int64_t fused_depth;                     /* terms of Winograd's sums that stay in registers, at most; 0 where these are few */
  int64_t tile_rows[2], tile_k;            /* of the weight gradient's tiles: rows, vectors */
  int (*conv_pack)(const vox_conv *p, const vox_layout *l, const vox_phase *phase, int64_t group, int64_t k0,
                   int64_t m, int64_t c0, int64_t channels, const void *weight, void *packed);
  int (*conv_pack_grad)(const vox_conv *p, const vox_layout *l, const void *weight, void *packed);
  void (*conv_item)(const vox_conv_job *job, const vox_phase *phase, const vox_item *item, void *scratch);
  void (*pairs_item)(const vox_conv_job *job, const vox_phase *first, const vox_item *item, void *scratch);
  void (*upsample_pack)(const vox_conv *p, const vox_layout *l, const void *weight, void *packed);
  void (*upsample_item)(const vox_conv_job *job, const vox_item *item, void *scratch);
  int (*winograd_pack)(const vox_conv *p, const vox_layout *l, int64_t group, int64_t k0, int64_t k1, int64_t c0, int64_t c1,
                       const void *weight, int64_t stride, void *packed);
  void (*narrow_item)(const vox_conv_job *job, const vox_phase *phase, const vox_item *item, void *scratch);
  void (*winograd_item)(const vox_conv_job *job, const vox_item *item, void *scratch);
  void (*weight_item)(const vox_weight_job *job, int64_t item, void *scratch);
  void (*weight_finish)(const vox_weight_job *job, int64_t item);
  void (*winograd_weight_item)(const vox_weight_job *job, int64_t item, void *scratch);
  void (*winograd_weight_finish)(const vox_weight_job *job, int64_t item);
  void (*depthwise_item)(const vox_depthwise_job *job, int64_t item);
  void (*depthwise_weight_item)(const vox_weight_job *job, int64_t channel, void *scratch);
  int (*has_nonfinite)(const void *p, int64_t n);
  void (*bias_grad)(int64_t n, int64_t k, int64_t size, int64_t channel, const void *dy, void *out);
  void (*relu_grad)(int64_t n, int64_t k, int64_t size, int64_t channel, const void *y, const void *dy, void *out,
                    void *sums);
  vox_max_kernel *max_pool, *max_pool_taps;
  void (*max_pool_taps_grad)(const vox_taps_job *job, int64_t channel);
  int (*spread)(int64_t planes, const int64_t pooled[3], const int64_t spatial[3], int form, const void *dy,
                const int64_t *indices, void *dx);
  vox_box_kernel *avg_pool, *avg_pool_grad, *unfold, *fold;
  void (*descend)(const vox_descent *descent, const vox_learned *learned, int64_t first, int64_t last);
  int64_t (*probe_fma)(int64_t iterations, double *sink);
  int64_t (*probe_copy)(int64_t iterations, int64_t count, const void *from, void *to);
} vox_unit;

/* Element types that pooling alone knows; no instruction set of their own. */
typedef struct vox_elem_unit {
  int64_t size;
  vox_max_kernel *max_pool;
  int (*scatter)(int64_t planes, int64_t count, int64_t size, int accumulate, const void *values, const int64_t *indices,
                 void *out);
} vox_elem_unit;

/* dispatch.c */
const vox_unit *vox_unit_used(int32_t type);
const vox_elem_unit *vox_elem_unit_of(int32_t type);

/* schedule.c */
void vox_conv_phase(const vox_conv *p, const int64_t residue[3], vox_phase *phase);
/* What any phase of a gradient reads: as many taps along an axis as there are positions from their first to their last. */
void vox_conv_both(const vox_conv *p, vox_phase *both);
int vox_conv_layout(const vox_conv *p, const vox_unit *unit, int64_t threads, vox_layout *l);
int vox_weight_layout_of(const vox_conv *p, const vox_unit *unit, int64_t threads, vox_weight_layout *l);
void vox_winograd_phase(const vox_conv *p, const int64_t tile[3], const int64_t residue[3], vox_phase *phase);
int vox_winograd_tile(const vox_conv *p, const vox_unit *unit, int64_t tile[3], double *gain);
int vox_conv_valid(const vox_conv *p);

/* drivers/depthwise.c: a problem in its normal form, of VOX_DEPTHWISE.  Packing, bytes a thread needs, and the call. */
void vox_depthwise_pack(const vox_conv *p, const void *weight, void *packed);
int vox_depthwise_scratch(const vox_conv *p, int64_t *bytes);
int vox_depthwise_run(const vox_conv *p, const vox_unit *unit, int64_t threads, const void *a, const void *weight,
                      int exact, const void *bias, void *out, void *memory, int64_t *cursor);

/* threads.c: body(context, item, slot) for items from *cursor on, until all are done or the call's time slice is over;
 * slots are 0..threads-1 and no two items share one at a time. */
typedef void vox_body(void *context, int64_t item, int64_t slot);
int64_t vox_slice_end(void);
int vox_parallel(int64_t items, int64_t threads, int64_t slice_end, vox_body *body, void *context, int64_t *cursor);

static inline int64_t vox_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t vox_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t vox_ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }
static inline int64_t vox_round_up(int64_t a, int64_t b) { return vox_ceil_div(a, b) * b; }
/* Output channels of the panel that starts where `left` remain: full panels first, then a half, a quarter and so on, so that
 * no weight is padding. */
static inline int64_t vox_panel_width(int64_t panel, int64_t left) {
  while (panel > left) panel /= 2;
  return panel;
}
/* Where the i-th of so many even pieces of `count` begins: the first pieces get one more. */
static inline int64_t vox_even_first(int64_t count, int64_t pieces, int64_t i) {
  return i * (count / pieces) + vox_min(i, count % pieces);
}
/* Winograd's points along an axis, at most, and those of a problem.  At stride 2 its inputs are two interleaved rows, which
 * meet every second tap each. */
enum { VOX_MOST_POINTS = 8 };
static inline int64_t vox_winograd_taps(const vox_conv *p, int axis) { return vox_ceil_div(p->kernel[axis], p->stride[axis]); }
static inline int64_t vox_winograd_points(const vox_conv *p, const int64_t tile[3], int axis) {
  return tile[axis] - 1 + vox_winograd_taps(p, axis);
}
/* The parities of both axes, rows' and columns', are (0, 1), (0, 0), (1, 0) and (1, 1), in this order: where an odd kernel's
 * shorter half has no share in the last point of an axis, those that have follow one another. */
static inline int64_t vox_parities(const vox_conv *p) { return p->stride[1] * p->stride[2]; }
static inline int64_t vox_parity(const vox_conv *p, int64_t i, int axis) {
  return vox_parities(p) == 1 ? 0 : axis == 1 ? i >> 1 : (i == 0 || i == 3);
}
static inline void vox_parities_at(const vox_conv *p, int last_row, int last_column, int64_t *first, int64_t *count) {
  last_row &= (int)(p->kernel[1] % p->stride[1]), last_column &= (int)(p->kernel[2] % p->stride[2]);
  *first = last_column;
  *count = vox_parities(p) >> (last_row + last_column);
}

/* Whether outputs lie as their inputs do: kernels of one tap.  In normal form such a problem is one line. */
static inline int vox_pointwise(const vox_conv *p) {
  for (int i = 0; i < 3; i++)
    if (p->kernel[i] != 1 || p->stride[i] != 1 || p->pad[i] != 0 || p->output[i] != p->spatial[i]) return 0;
  return 1;
}
/* Where there is one output or one tap, the step to the next is arbitrary: 1 cannot overflow. */
static inline void vox_normal_steps(int64_t output, int64_t kernel, int64_t *stride, int64_t *dilation) {
  if (output == 1) *stride = 1;
  if (kernel == 1) *dilation = 1;
}
/* a and b >= 1; towards minus infinity */
static inline int64_t vox_floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
static inline int64_t vox_modulo(int64_t a, int64_t b) { return a % b < 0 ? a % b + b : a % b; }

/* Residues that the taps of an axis touch modulo its step; tap i belongs to number i % slots. */
static inline int64_t vox_axis_slots(const vox_axis *a) {
  int64_t x = a->offset_step < 0 ? -a->offset_step : a->offset_step, y = a->step;
  while (x) {
    int64_t r = y % x;
    y = x;
    x = r;
  }
  return vox_min(a->taps, a->step / y);
}
static inline int64_t vox_axis_offset(const vox_axis *a, int64_t tap) { return a->offset0 + tap * a->offset_step; }
/* A tap's offset, counted from the first tap's, in whole steps and what remains: its shift and its residue. */
static inline int64_t vox_axis_shift(const vox_axis *a, int64_t tap) {
  return vox_floor_div(tap * a->offset_step, a->step);
}
static inline int64_t vox_axis_residue(const vox_axis *a, int64_t tap) {
  return vox_modulo(tap * a->offset_step, a->step);
}
/* Smallest shift and how far the largest lies above it; both 0 where there is no tap. */
static inline int64_t vox_axis_low(const vox_axis *a) {
  return a->taps ? vox_min(vox_axis_shift(a, 0), vox_axis_shift(a, a->taps - 1)) : 0;
}
static inline int64_t vox_axis_halo(const vox_axis *a) {
  return a->taps ? vox_max(vox_axis_shift(a, 0), vox_axis_shift(a, a->taps - 1)) - vox_axis_low(a) : 0;
}
/* Of so many pixels, those of the next tile by channels, so that none has so few that its sums wait for each other. */
static inline int64_t vox_pixels_of_tile(int64_t count, int64_t most) {
  const int64_t each = vox_ceil_div(count, vox_ceil_div(count, most));
  return vox_min(count, vox_round_up(each, 2));
}

/* Positions p with 0 <= p * step + at < size: from *first up to, not including, *last, within [0, count]. */
static inline void vox_inside(int64_t size, int64_t step, int64_t at, int64_t count, int64_t *first, int64_t *last) {
  if (at >= 0 && at + (count - 1) * step < size) { /* most lie inside, and divisions are slow */
    *first = 0, *last = count;
    return;
  }
  int64_t a = at >= 0 ? 0 : step == 1 ? -at : vox_ceil_div(-at, step);
  int64_t b = at >= size ? 0 : step == 1 ? size - at : (size - 1 - at) / step + 1;
  *first = vox_min(a, count);
  *last = vox_max(*first, vox_min(b, count));
}

#endif
