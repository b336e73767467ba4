"""Compiled loops of the Numba backend.

All compiled code of the backend stands in this one file, because Numba's cache on disk notices a
change of the file that holds the function it loads, and of no other.

Every problem arrives as 3-D, with leading axes of size 1, and every array as its flat, C-contiguous
1-D view.  Inner loops count in ``np.uint64``: a signed index may be negative as far as the compiler
knows, and the wraparound that Python wants then keeps a loop from being vectorised.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.errors import MissingExtra

try:
    from llvmlite import ir
    from numba import config, njit, types
    from numba.core.registry import cpu_target
    from numba.extending import intrinsic
except ImportError:
    raise MissingExtra("numba", "numba", "The numba backend") from None

if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise RuntimeError("The numba backend cannot run uncompiled: unset NUMBA_DISABLE_JIT, or choose another backend")

Array = npt.NDArray[Any]
Triple = tuple[int, int, int]


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first call, without the GIL, kept on disk where there is a place for it."""
    global _cache
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if _cache:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError as error:  # Numba found no directory that it may write to
            _cache = False
            warnings.warn(f"voxconv's Numba kernels are compiled anew in each process: {error}", stacklevel=2)
    return njit(**options)(function)


_cache = True

# --------------------------------------------------------------------------------------------------
# The tile: all arithmetic of convolution

_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
_WIDE = "+avx512f" in _FEATURES
VECTOR_BYTES = 64 if _WIDE else 32 if "+avx" in _FEATURES else 16
"""Bytes of a SIMD register."""

# Sums, one row of x and a weight must fit the register file: 32 registers with AVX-512 and on AArch64, else 16.
ROWS = 8 if _WIDE or "+neon" in _FEATURES else 4
VECTORS = 3
LONE_VECTORS = 6

SLACK = 8 * 64
"""Bytes past its last element that a tile may touch in ``x`` and ``total``."""


def _tile_codegen(rows: int, vectors: int) -> Callable[..., Any]:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, first, pitch, w, wrow, m, woff, x, xoff, p, terms = (
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in list(zip(signature.args, arguments, strict=True))[2:]
        )
        scalar = context.get_value_type(signature.args[2].dtype)
        size = context.get_abi_sizeof(scalar)
        lanes = VECTOR_BYTES // size
        vector = ir.VectorType(scalar, lanes)
        int64 = ir.IntType(64)
        zero = ir.Constant(int64, 0)

        def place(base: Any, i: int, v: int) -> Any:
            row = builder.add(first, builder.mul(pitch, ir.Constant(int64, i)))
            index = builder.add(row, ir.Constant(int64, v * lanes))
            return builder.bitcast(builder.gep(base, [index]), vector.as_pointer())

        tile = [(i, v) for i in range(rows) for v in range(vectors)]
        starts = [builder.load(place(total, i, v), align=size) for i, v in tile]
        weights = [
            builder.gep(w, [builder.load(builder.gep(wrow, [builder.add(m, ir.Constant(int64, i))]))])
            for i in range(rows)
        ]
        before = builder.block
        loop, after = builder.append_basic_block("terms"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", terms, zero), loop, after)

        builder.position_at_end(loop)
        t = builder.phi(int64)
        sums = [builder.phi(vector) for _ in tile]
        source = builder.gep(x, [builder.add(p, builder.load(builder.gep(xoff, [t])))])
        pixels = [
            builder.load(
                builder.bitcast(builder.gep(source, [ir.Constant(int64, v * lanes)]), vector.as_pointer()), align=size
            )
            for v in range(vectors)
        ]
        offset = builder.load(builder.gep(woff, [t]))
        products = []
        for i in range(rows):
            one = builder.insert_element(
                ir.Constant(vector, ir.Undefined), builder.load(builder.gep(weights[i], [offset])), zero
            )
            every = builder.shuffle_vector(
                one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            )
            products += [builder.fmul(every, pixel, flags=("contract",)) for pixel in pixels]
        results = [
            builder.fadd(start, step, flags=("contract",)) for start, step in zip(sums, products, strict=True)
        ]
        following = builder.add(t, ir.Constant(int64, 1))
        t.add_incoming(zero, before)
        t.add_incoming(following, loop)
        for phi, start, result in zip(sums, starts, results, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(result, loop)
        builder.cbranch(builder.icmp_signed("<", following, terms), loop, after)

        builder.position_at_end(after)
        finals = [builder.phi(vector) for _ in tile]
        for final, start, result in zip(finals, starts, results, strict=True):
            final.add_incoming(start, before)
            final.add_incoming(result, loop)
        for (i, v), final in zip(tile, finals, strict=True):
            builder.store(final, place(total, i, v), align=size)
        return context.get_dummy_value()

    return codegen


def _tile(
    typing: Any, rows: Any, vectors: Any, total: Any, first: Any, pitch: Any, w: Any, wrow: Any, m: Any,
    woff: Any, x: Any, xoff: Any, p: Any, terms: Any,
) -> Any:  # fmt: skip
    """Multiply ``rows`` weights with ``vectors`` registers of pixels, summed over ``terms``.

    total[first + i * pitch + j] += sum over t of w[wrow[m + i] + woff[t]] * x[xoff[t] + p + j]

    for i < rows and j < vectors * lanes.  All accumulators stay in registers.  Multiply and add may
    contract to one FMA, where the machine has it; each sum runs in the order of t.
    """
    arguments = (total, first, pitch, w, wrow, m, woff, x, xoff, p, terms)
    signature = types.void(rows, vectors, *(types.int64 if isinstance(a, types.Integer) else a for a in arguments))
    return signature, _tile_codegen(rows.literal_value, vectors.literal_value)


tile: Any = intrinsic(prefer_literal=True)(_tile)


@_compiled
def product(
    total: Array, pitch: int, rows: int, w: Array, wrow: Array, m: int, woff: Array, x: Array, xoff: Array,
    width: int, terms: int,
) -> None:  # fmt: skip
    """total[i * pitch + p] += sum over t of w[wrow[m + i] + woff[t]] * x[xoff[t] + p], i < rows, p < width."""
    lanes = VECTOR_BYTES // total.itemsize
    i = 0
    while i < rows:
        p = 0
        if rows - i >= ROWS:
            while p + (VECTORS - 1) * lanes < width:
                tile(ROWS, VECTORS, total, i * pitch + p, pitch, w, wrow, m + i, woff, x, xoff, p, terms)
                p += VECTORS * lanes
            while p < width:
                tile(ROWS, 1, total, i * pitch + p, pitch, w, wrow, m + i, woff, x, xoff, p, terms)
                p += lanes
            i += ROWS
        elif rows - i >= 2:
            while p < width:
                tile(2, VECTORS, total, i * pitch + p, pitch, w, wrow, m + i, woff, x, xoff, p, terms)
                p += VECTORS * lanes
            i += 2
        else:
            while p < width:
                tile(1, LONE_VECTORS, total, i * pitch + p, pitch, w, wrow, m + i, woff, x, xoff, p, terms)
                p += LONE_VECTORS * lanes
            i += 1


# --------------------------------------------------------------------------------------------------
# Convolution


@_compiled
def fill(
    panel: Array, x: Array, plane: int, channels: int, size: Triple, step: Triple, at: Triple, rows: int, columns: int,
    start_d: Array, start_h: Array, start_w: Array, extent_h: int, extent_w: int,
) -> None:  # fmt: skip
    """Copy the input that a box of outputs reads, zero where it lies outside.

    panel[c, sd, sh, sw, i, j] = x[plane + c, at_d * step_d + start_d[sd], (at_h + i) * step_h + start_h[sh],
    (at_w + j) * step_w + start_w[sw]] for i < rows and j < columns; a plane of the panel is
    (extent_h, extent_w).  Steps vanish in the copy, so whoever reads the panel reads consecutive pixels.
    """
    to = 0
    for c in range(channels):
        for sd in range(start_d.size):
            d = at[0] * step[0] + start_d[sd]
            for sh in range(start_h.size):
                for sw in range(start_w.size):
                    w = at[2] * step[2] + start_w[sw]
                    low = min(max(0, -(w // step[2])), columns)
                    high = max(low, min(columns, (size[2] - 1 - w) // step[2] + 1))
                    for i in range(rows):
                        h = (at[1] + i) * step[1] + start_h[sh]
                        row = to + i * extent_w
                        if d < 0 or d >= size[0] or h < 0 or h >= size[1] or low == high:
                            panel[row : row + columns] = 0
                            continue
                        panel[row : row + low] = 0
                        panel[row + high : row + columns] = 0
                        base = (((plane + c) * size[0] + d) * size[1] + h) * size[2] + w
                        target, source = np.uint64(row + low), np.uint64(base + low * step[2])
                        count, stride = np.uint64(high - low), np.uint64(step[2])
                        if step[2] == 1:
                            for j in range(count):
                                panel[target + j] = x[source + j]
                        else:
                            for j in range(count):
                                panel[target + j] = x[source + j * stride]
                    to += extent_h * extent_w


@_compiled
def activated(value: Any, active: bool, slope: Any) -> Any:
    """``value``, where it is negative ``slope`` times it; a slope of 0 gives 0 even for -inf."""
    if active and value < 0:
        return slope * value if slope != 0 else slope
    return value


@_compiled
def constant(y: Array, bias: Array, plane: int, channels: int, active: bool, slope: Any) -> None:
    """y[n, k, p] = bias[k]: what an output is that no tap reaches."""
    for i in range(y.size // max(plane, 1)):
        value = bias[i % channels] if bias.size else y.dtype.type(0)
        y[i * plane : (i + 1) * plane] = activated(value, active, slope)


@_compiled
def sweep(
    x: Array, w: Array, bias: Array, y: Array, total: Array, panel: Array, samples: int, groups: int, channels: int,
    outs: int, size: Triple, outputs: Triple, step: Triple, first: Triple, spread: Triple, full: Triple,
    box_h: int, box_w: int, span_h: int, span_w: int, start_d: Array, start_h: Array, start_w: Array,
    wrow: Array, woff: Array, xoff: Array, active: bool, slope: Any,
) -> None:  # fmt: skip
    """One sum over taps for a lattice of outputs: the forward pass, or one phase of the input gradient.

    y[n, k, first + q * spread] = bias[k] + sum over t of w[wrow[k] + woff[t]] * panel[xoff[t] + q]

    q runs over ``outputs`` in boxes of (1, box_h, box_w); y's planes have the size ``full``.  A box is
    computed as one flat run of pixels with the panel's pitch, whose columns past the box are dropped.
    """
    extent_h, extent_w = box_h + span_h, box_w + span_w
    pitch = total.size // ROWS
    for sample_group in range(samples * groups):
        group = sample_group % groups
        for d in range(outputs[0]):
            for h in range(0, outputs[1], box_h):
                rows = min(box_h, outputs[1] - h)
                for v in range(0, outputs[2], box_w):
                    columns = min(box_w, outputs[2] - v)
                    fill(
                        panel, x, sample_group * channels, channels, size, step, (d, h, v), rows + span_h,
                        columns + span_w, start_d, start_h, start_w, extent_h, extent_w,
                    )  # fmt: skip
                    width = (rows - 1) * extent_w + columns
                    for m in range(0, outs, ROWS):
                        some = min(ROWS, outs - m)
                        for i in range(some):
                            begin = bias[group * outs + m + i] if bias.size else total.dtype.type(0)
                            total[i * pitch : i * pitch + width] = begin
                        product(total, pitch, some, w, wrow, group * outs + m, woff, panel, xoff, width, woff.size)
                        for i in range(some):
                            for r in range(rows):
                                plane = (sample_group * outs + m + i) * full[0] + first[0] + d * spread[0]
                                row = (plane * full[1] + first[1] + (h + r) * spread[1]) * full[2]
                                target = np.uint64(row + first[2] + v * spread[2])
                                source = np.uint64(i * pitch + r * extent_w)
                                stride = np.uint64(spread[2])
                                for j in range(np.uint64(columns)):
                                    y[target + j * stride] = activated(total[source + j], active, slope)


@_compiled
def sweep_exact(
    x: Array, w: Array, bias: Array, y: Array, samples: int, groups: int, channels: int, outs: int, size: Triple,
    outputs: Triple, step: Triple, first: Triple, spread: Triple, full: Triple, off_d: Array, off_h: Array,
    off_w: Array, wrow: Array, woff: Array, active: bool, slope: Any,
) -> None:  # fmt: skip
    """As `sweep`, pixel by pixel: padding is skipped, which matters where a weight is infinite or NaN."""
    for sample_group in range(samples * groups):
        for m in range(outs):
            k = sample_group % groups * outs + m
            for d in range(outputs[0]):
                for h in range(outputs[1]):
                    for v in range(outputs[2]):
                        value = bias[k] if bias.size else y.dtype.type(0)
                        t = 0
                        for c in range(sample_group * channels, (sample_group + 1) * channels):
                            for i in range(off_d.size):
                                xd = d * step[0] + off_d[i]
                                for j in range(off_h.size):
                                    xh = h * step[1] + off_h[j]
                                    for u in range(off_w.size):
                                        xw = v * step[2] + off_w[u]
                                        if 0 <= xd < size[0] and 0 <= xh < size[1] and 0 <= xw < size[2]:
                                            source = ((c * size[0] + xd) * size[1] + xh) * size[2] + xw
                                            value += w[wrow[k] + woff[t]] * x[source]
                                        t += 1
                        plane = (sample_group * outs + m) * full[0] + first[0] + d * spread[0]
                        row = (plane * full[1] + first[1] + h * spread[1]) * full[2]
                        y[row + first[2] + v * spread[2]] = activated(value, active, slope)


@_compiled
def dots(
    total: Array, block: int, panel: Array, xoff: Array, extent_w: int, gy: Array, start: int, line: int, rows: int,
    columns: int, parts: Array,
) -> None:  # fmt: skip
    """total[t * block] += sum over i, j of panel[xoff[t] + i * extent_w + j] * gy[start + i * line + j]."""
    for t in range(xoff.size):
        parts[:columns] = 0
        for i in range(rows):
            left, right = np.uint64(xoff[t] + i * extent_w), np.uint64(start + i * line)
            for j in range(np.uint64(columns)):
                parts[j] += panel[left + j] * gy[right + j]
        total[t * block] += parts[:columns].sum()


@_compiled
def weight_sweep(
    x: Array, gy: Array, gw: Array, total: Array, panel: Array, pixels: Array, samples: int, groups: int,
    channels: int, outs: int, size: Triple, outputs: Triple, step: Triple, box_h: int, box_w: int, span_h: int,
    span_w: int, start_d: Array, start_h: Array, start_w: Array, wrow: Array, woff: Array, xoff: Array,
) -> None:  # fmt: skip
    """Sum over pixels, for the weight: gw[wrow[k] + woff[t]] = sum over n, q of panel[xoff[t] + q] * gy[n, k, q].

    The same product with other roles: rows are t, a (channel, tap), and SIMD runs along a block of
    output channels, for which ``pixels`` holds a box of gy as (pixel, channel) and ``total`` the sums
    as (t, channel).  Blocks are outermost: reading x once for each is cheaper than to keep all sums.
    One or two output channels would leave the lanes idle: there SIMD runs along pixels.
    """
    extent_h, extent_w = box_h + span_h, box_w + span_w
    terms, block = woff.size, VECTORS * VECTOR_BYTES // total.itemsize
    places, lines = np.empty(box_h * box_w, np.int64), np.arange(box_h * box_w) * block
    blocks = -(-outs // block)
    for index in range(groups * blocks):
        group, first = index // blocks, index % blocks * block
        begin, some = group * outs + first, min(block, outs - first)
        total[:] = 0
        for n in range(samples):
            for d in range(outputs[0]):
                for h in range(0, outputs[1], box_h):
                    rows = min(box_h, outputs[1] - h)
                    for v in range(0, outputs[2], box_w):
                        columns = min(box_w, outputs[2] - v)
                        fill(
                            panel, x, (n * groups + group) * channels, channels, size, step, (d, h, v), rows + span_h,
                            columns + span_w, start_d, start_h, start_w, extent_h, extent_w,
                        )  # fmt: skip
                        if outs <= 2:
                            for k in range(some):
                                plane = (n * groups * outs + begin + k) * outputs[0] + d
                                dots(
                                    total[k:], block, panel, xoff, extent_w, gy,
                                    (plane * outputs[1] + h) * outputs[2] + v, outputs[2], rows, columns, pixels,
                                )  # fmt: skip
                            continue
                        for i in range(rows):
                            for j in range(columns):
                                places[i * columns + j] = i * extent_w + j
                            for k in range(some):
                                plane = (n * groups * outs + begin + k) * outputs[0] + d
                                source = np.uint64((plane * outputs[1] + h + i) * outputs[2] + v)
                                target, stride = np.uint64(i * columns * block + k), np.uint64(block)
                                for j in range(np.uint64(columns)):
                                    pixels[target + j * stride] = gy[source + j]
                        product(total, block, terms, panel, xoff, 0, places, pixels, lines, some, rows * columns)
        for low in range(0, terms, 64):  # both sides of this transpose stay in L1
            for k in range(some):
                for t in range(low, min(low + 64, terms)):
                    gw[wrow[begin + k] + woff[t]] = total[t * block + k]


@_compiled
def weight_sweep_exact(
    x: Array, gy: Array, gw: Array, samples: int, groups: int, channels: int, outs: int, size: Triple,
    outputs: Triple, step: Triple, off_d: Array, off_h: Array, off_w: Array, wrow: Array, woff: Array,
) -> None:  # fmt: skip
    """As `weight_sweep`, pixel by pixel: padding is skipped, which matters where gy is infinite or NaN."""
    for k in range(groups * outs):
        t = 0
        for c in range(k // outs * channels, (k // outs + 1) * channels):
            for i in range(off_d.size):
                for j in range(off_h.size):
                    for u in range(off_w.size):
                        value = gw.dtype.type(0)
                        for n in range(samples):
                            for d in range(outputs[0]):
                                xd = d * step[0] + off_d[i]
                                for h in range(outputs[1]):
                                    xh = h * step[1] + off_h[j]
                                    for v in range(outputs[2]):
                                        xw = v * step[2] + off_w[u]
                                        if 0 <= xd < size[0] and 0 <= xh < size[1] and 0 <= xw < size[2]:
                                            plane = (n * groups * channels + c) * size[0] + xd
                                            other = (n * groups * outs + k) * outputs[0] + d
                                            value += (
                                                x[(plane * size[1] + xh) * size[2] + xw]
                                                * gy[(other * outputs[1] + h) * outputs[2] + v]
                                            )
                        gw[wrow[k] + woff[t]] = value
                        t += 1


@_compiled
def channel_sums(gy: Array, out: Array, samples: int, channels: int, plane: int) -> None:
    """out[k] = sum of gy (samples, channels, plane) over samples and plane, in eight interleaved float64 sums."""
    parts = np.empty(8)
    for k in range(channels):
        parts[:] = 0
        for n in range(samples):
            start = (n * channels + k) * plane
            for i in range(np.uint64(start), np.uint64(start + plane // 8 * 8), np.uint64(8)):
                for j in range(np.uint64(8)):
                    parts[j] += gy[i + j]
            for i in range(start + plane // 8 * 8, start + plane):
                parts[0] += gy[i]
        out[k] = parts.sum()


# --------------------------------------------------------------------------------------------------
# Windows


@_compiled
def met(start: int, taps: int, dilation: int, size: int) -> tuple[int, int]:
    """First and past-the-last tap of a window at ``start`` that falls inside an axis."""
    low = max(0, -(start // dilation))
    return low, max(low, min(taps, (size - 1 - start) // dilation + 1))


@_compiled
def max_pool(
    x: Array, y: Array, indices: Array, planes: int, size: Triple, kernel: Triple, stride: Triple, before: Triple,
    dilation: Triple, outputs: Triple, taps: Array, lowest: Any,
) -> None:  # fmt: skip
    """Maximum of each window and, unless ``indices`` is empty, its place: tap by tap over whole output rows.

    ``taps`` lists the taps of the last axis that meet the input; ``lowest`` is the least value of the dtype.
    """
    columns = np.empty(outputs[2], np.int64)
    for o in range(outputs[2]):
        start = o * stride[2] - before[2]
        columns[o] = start + met(start, kernel[2], dilation[2], size[2])[0] * dilation[2]
    row, wanted = np.empty(outputs[2], x.dtype), indices.size > 0
    to = 0
    for plane in range(planes):
        for od in range(outputs[0]):
            start_d = od * stride[0] - before[0]
            low_d, high_d = met(start_d, kernel[0], dilation[0], size[0])
            for oh in range(outputs[1]):
                start_h = oh * stride[1] - before[1]
                low_h, high_h = met(start_h, kernel[1], dilation[1], size[1])
                y[to : to + outputs[2]] = lowest
                if wanted:  # a window of nothing but the least value keeps its first element
                    corner = (start_d + low_d * dilation[0]) * size[1] + start_h + low_h * dilation[1]
                    for o in range(outputs[2]):
                        indices[to + o] = corner * size[2] + columns[o]
                for td in range(low_d, high_d):
                    for th in range(low_h, high_h):
                        line = (start_d + td * dilation[0]) * size[1] + start_h + th * dilation[1]
                        for tap in taps:
                            offset = tap * dilation[2] - before[2]
                            low, high = met(offset, outputs[2], stride[2], size[2])
                            place = line * size[2] + offset + low * stride[2]
                            source = np.uint64(plane * size[0] * size[1] * size[2] + place)
                            target, step = np.uint64(to + low), np.uint64(stride[2])
                            count = np.uint64(high - low)
                            for j in range(count):
                                row[j] = x[source + j * step]
                            # Unit strides, and `|`, which does not branch: both loops become vector selects.
                            if wanted:
                                for j in range(count):
                                    value, best, known = row[j], y[target + j], indices[target + j]
                                    taken = (value > best) | (value != value)
                                    y[target + j] = value if taken else best
                                    indices[target + j] = np.int64(np.uint64(place) + j * step) if taken else known
                            else:
                                for j in range(count):
                                    value, best = row[j], y[target + j]
                                    y[target + j] = value if (value > best) | (value != value) else best
                to += outputs[2]


@_compiled
def scatter(values: Array, indices: Array, out: Array, planes: int, accumulate: bool) -> None:
    """out[plane, indices] = values, or += , in index order; zero elsewhere."""
    out[:] = 0
    count, size = values.size // max(planes, 1), out.size // max(planes, 1)
    for i in range(values.size):
        at = i // count * size + indices[i]
        out[at] = out[at] + values[i] if accumulate else values[i]


@_compiled
def mean(
    image: Array, means: Array, backward: bool, planes: int, size: Triple, kernel: Triple, stride: Triple,
    before: Triple, after: Triple, outputs: Triple, taps: Array, count_padding: bool, divisor: float,
) -> None:  # fmt: skip
    """Mean of each window of ``image``; ``backward``, spread ``means`` over their windows instead.

    The divisor is what is given, or where that is 0 the number of the window's elements, with
    ``count_padding`` those on padding too.  ``taps`` is as in `max_pool`.
    """
    if backward:
        image[:] = 0
    row, counts = np.empty(outputs[2]), np.empty(outputs[2])
    for o in range(outputs[2]):
        start = o * stride[2] - before[2]
        low_w, high_w = met(start, kernel[2], 1, size[2])
        counts[o] = min(kernel[2], size[2] + after[2] - start) if count_padding else high_w - low_w
    to = 0
    for plane in range(planes):
        for od in range(outputs[0]):
            start_d = od * stride[0] - before[0]
            low_d, high_d = met(start_d, kernel[0], 1, size[0])
            for oh in range(outputs[1]):
                start_h = oh * stride[1] - before[1]
                low_h, high_h = met(start_h, kernel[1], 1, size[1])
                area = float(high_d - low_d) * float(high_h - low_h)
                if count_padding:
                    area = float(min(kernel[0], size[0] + after[0] - start_d))
                    area *= float(min(kernel[1], size[1] + after[1] - start_h))
                for o in range(outputs[2]):
                    parts = area * counts[o] if divisor == 0 else divisor
                    row[o] = means[to + o] / parts if backward else 0.0
                for d in range(start_d + low_d, start_d + high_d):
                    for h in range(start_h + low_h, start_h + high_h):
                        line = ((plane * size[0] + d) * size[1] + h) * size[2]
                        for tap in taps:
                            offset = tap - before[2]
                            low, high = met(offset, outputs[2], stride[2], size[2])
                            at, step = np.uint64(line + offset + low * stride[2]), np.uint64(stride[2])
                            target = np.uint64(low)
                            for j in range(np.uint64(high - low)):
                                if backward:
                                    image[at + j * step] += row[target + j]
                                else:
                                    row[target + j] += image[at + j * step]
                if not backward:
                    for o in range(outputs[2]):
                        means[to + o] = row[o] / (area * counts[o] if divisor == 0 else divisor)
                to += outputs[2]


@_compiled
def columns(
    image: Array, cols: Array, backward: bool, planes: int, size: Triple, kernel: Triple, stride: Triple,
    before: Triple, dilation: Triple, outputs: Triple,
) -> None:  # fmt: skip
    """Copy windows of ``image`` to rows of ``cols``, zero on padding; ``backward``, add them back instead."""
    if backward:
        image[:] = 0
    else:
        cols[:] = 0
    to = 0
    for plane in range(planes):
        for td in range(kernel[0]):
            for th in range(kernel[1]):
                for tw in range(kernel[2]):
                    offset = tw * dilation[2] - before[2]
                    low, high = met(offset, outputs[2], stride[2], size[2])
                    for od in range(outputs[0]):
                        d = od * stride[0] + td * dilation[0] - before[0]
                        for oh in range(outputs[1]):
                            h = oh * stride[1] + th * dilation[1] - before[1]
                            if 0 <= d < size[0] and 0 <= h < size[1]:
                                row = ((plane * size[0] + d) * size[1] + h) * size[2]
                                at = row + offset
                                for o in range(low, high):
                                    if backward:
                                        image[at + o * stride[2]] += cols[to + o]
                                    else:
                                        cols[to + o] = image[at + o * stride[2]]
                            to += outputs[2]
