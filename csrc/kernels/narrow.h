/* Convolutions of 3 x 3 taps in a slice to one to three output channels.  For one, the tile of convolutions loads a vector
 * of pixels for each product; that of depthwise sums loads a line once for all taps, straight from the caller's arrays,
 * and here its sums go on through the channels.
 *
 * Every output is one chain of fused additions over channels, and in each over the taps in the order of their positions,
 * started from zero; the bias comes last. */

NOINLINE void narrow_3(const vox_phase *ph, const depthwise_planes *c, const int64_t from[3], const int64_t to[3],
                       real **kept) {
  depthwise_fixed(3, 3, 1, DEPTHWISE_ROWS, DEPTHWISE_WIDEST, 1, ph, c, from, to, kept);
}

static void narrow_item(const vox_conv_job *job, const vox_phase *ph, const vox_item *it, void *workspace) {
  const vox_layout *l = job->l;
  const int64_t none[3] = {0, 0, 0}, terms = l->cin * ph->taps, turned = job->p->operation == VOX_CONV_INPUT_GRAD;
  const conv_part part = conv_part_of(job, ph, it);
  const vox_axis *a = ph->axis;
  const int64_t k = part.k_first;
  const real *weight = part.packed + k * terms + (turned ? ph->taps - 1 : 0);
  /* the next depth's slice, or the rows below */
  const int64_t lines_ahead = a[0].taps > 1 ? a[1].size + 1 : DEPTHWISE_ROWS + 2;
  depthwise_planes c = {.bias = part.out.bias ? part.out.bias + k : NULL, .y = part.out.y + k * part.out.plane,
                        .count = part.k_last - k, .image = a[0].size * a[1].size * a[2].size, .plane = part.out.plane,
                        .taps = terms, .activation = part.out.activation, .slope = part.out.slope,
                        .tap = turned ? -1 : 1, .ahead = lines_ahead * a[2].size};
  int64_t first[3], last[3];
  for (int i = 0; i < 3; i++) {
    first[i] = it->band[i] * l->band[i];
    last[i] = i == 1 && it->band[1] + 1 == l->bands[1] ? a[1].count : vox_min(a[i].count, first[i] + l->band[i]);
  }
  vox_phase by_position;
  depthwise_phase(job->p, none, &by_position);
  for (int64_t channel = 0; channel < l->cin; channel += l->block) {
    real *kept = workspace;
    c.channels = vox_min(l->block, l->cin - channel);
    c.begins = channel == 0, c.ends = channel + c.channels == l->cin;
    c.x = part.x + channel * c.image;
    c.weight = weight + channel * ph->taps;
    for (int64_t d = first[0]; d < last[0]; d++)
      for (int64_t h = first[1]; h < last[1]; h += l->rows) {
        const int64_t row = vox_max(first[1], vox_min(h, last[1] - l->rows));
        narrow_3(&by_position, &c, (const int64_t[]){d, row, first[2]},
                 (const int64_t[]){d + 1, vox_min(last[1], row + l->rows), last[2]}, &kept);
      }
  }
  for (int64_t d = first[0]; d < last[0] && job->nonfinite; d++) {
    const conv_box o = {.line = d * a[1].count + first[1], .lines = last[1] - first[1], .w0 = first[2],
                        .cols = last[2] - first[2]};
    conv_mend(job, ph, &o, &part, 0, workspace);
  }
}
