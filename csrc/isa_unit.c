/* One instruction set and one floating type: compiled once for each pair, exporting the table alone.  The build defines
 * VOX_ISA_<name>, VOX_DOUBLE, and VOX_UNIT, the table's symbol. */
#include <stddef.h>

#include "problem.h"
#include "simd.h"

#include "kernels/tile.h"
#include "kernels/gather.h"
#include "kernels/points.h"
#include "kernels/pack.h"
#include "kernels/conv.h"
#include "kernels/pairs.h"
#include "kernels/upsample.h"
#include "kernels/winograd.h"
#include "kernels/weight_grad.h"
#include "kernels/depthwise_tile.h"
#include "kernels/depthwise.h"
#include "kernels/narrow.h"
#include "kernels/depthwise_weight.h"
#include "kernels/pool_rows.h"
#include "kernels/pair_pool.h"
#include "kernels/flat_pool.h"
#include "kernels/avg_pool.h"
#include "kernels/avg_grad.h"
#include "kernels/window.h"
#include "kernels/spread.h"
#include "kernels/descend.h"
#include "kernels/probe.h"

typedef real elem;
#define ELEM_IS_FLOAT 1
#define ELEM_VECTORS
#include "kernels/max_pool.h"

const vox_unit VOX_UNIT = {
    .lanes = LANES,
    .tile_m = TILE_M,
    .tile_v = TILE_V,
    .narrow_v = NARROW_V,
    .channels = CHANNEL_V * LANES,
    .channel_t = CHANNEL_T,
    .depthwise_rows = DEPTHWISE_ROWS,
    .tile_rows = {TILE_ROWS, TILE_ODD_ROWS},
    .tile_k = TILE_K,
    .conv_pack = conv_pack,
    .conv_pack_grad = conv_pack_grad,
    .conv_item = conv_item,
    .pairs_item = pairs_item,
    .upsample_pack = upsample_pack,
    .upsample_item = upsample_item,
    .narrow_item = narrow_item,
    .fused_depth = FUSED_DEPTH,
    .winograd_pack = winograd_pack,
    .winograd_item = winograd_item,
    .weight_item = weight_item,
    .weight_finish = weight_finish,
    .winograd_weight_item = winograd_weight_item,
    .winograd_weight_finish = winograd_weight_finish,
    .depthwise_item = depthwise_item,
    .depthwise_weight_item = depthwise_weight_item,
    .has_nonfinite = has_nonfinite,
    .bias_grad = bias_grad,
    .relu_grad = relu_grad,
    .max_pool = max_pool,
    .spread = spread,
    .max_pool_taps = max_pool_taps,
    .max_pool_taps_grad = max_pool_taps_grad,
    .avg_pool = avg_pool,
    .avg_pool_grad = avg_pool_grad,
    .unfold = unfold,
    .fold = fold,
    .descend = descend,
    .probe_fma = probe_fma,
    .probe_copy = probe_copy,
};
