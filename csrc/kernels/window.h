/* Unfold and fold.  The order of an element's additions does not depend on the box. */

/* Rows (tap, slice, row) of one plane of columns. */
static void unfold(const vox_window *p, const vox_box *box, const void *x_, void *columns) {
  const int64_t *size = p->spatial, *out = p->output;
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  const real *x = (const real *)x_ + box->plane * size[0] * size[1] * size[2];
  for (int64_t tap = box->first[0]; tap < box->last[0]; tap++) {
    int64_t off_w = tap % p->kernel[2] * p->dilation[2] - p->pad[2];
    int64_t off_h = tap / p->kernel[2] % p->kernel[1] * p->dilation[1] - p->pad[1];
    int64_t off_d = tap / p->kernel[2] / p->kernel[1] * p->dilation[0] - p->pad[0];
    for (int64_t d = box->first[1]; d < box->last[1]; d++)
      for (int64_t h = box->first[2]; h < box->last[2]; h++) {
        real *to = (real *)columns + (((box->plane * taps + tap) * out[0] + d) * out[1] + h) * out[2];
        int64_t z = d * p->stride[0] + off_d, line = h * p->stride[1] + off_h;
        if (z < 0 || z >= size[0] || line < 0 || line >= size[1])
          memset(to, 0, (size_t)out[2] * sizeof(real));
        else
          gather_line(x + (z * size[1] + line) * size[2], size[2], p->stride[2], off_w, out[2], to);
      }
  }
}

/* The adjoint of unfold: each column element is added where it came from, in the order of (tap, position). */
static void fold(const vox_window *p, const vox_box *box, const void *columns, void *x_) {
  const int64_t *size = p->spatial, *out = p->output, *from = box->first, *to = box->last;
  const int64_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
  real *x = (real *)x_ + box->plane * size[0] * size[1] * size[2];
  clear_box(p, box, x);
  for (int64_t tap = 0; tap < taps; tap++) {
    const int64_t off[3] = {tap / p->kernel[2] / p->kernel[1] * p->dilation[0] - p->pad[0],
                            tap / p->kernel[2] % p->kernel[1] * p->dilation[1] - p->pad[1],
                            tap % p->kernel[2] * p->dilation[2] - p->pad[2]};
    int64_t first[3], last[3];
    for (int i = 0; i < 3; i++) vox_inside(to[i] - from[i], p->stride[i], off[i] - from[i], out[i], &first[i], &last[i]);
    for (int64_t d = first[0]; d < last[0]; d++)
      for (int64_t h = first[1]; h < last[1]; h++) {
        const real *column = (const real *)columns + (((box->plane * taps + tap) * out[0] + d) * out[1] + h) * out[2];
        real *line = x + ((d * p->stride[0] + off[0]) * size[1] + h * p->stride[1] + off[1]) * size[2];
        for (int64_t w = first[2]; w < last[2]; w++) line[w * p->stride[2] + off[2]] += column[w];
      }
  }
}
