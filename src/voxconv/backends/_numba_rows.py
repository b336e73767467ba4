"""Windows that read their input in place, by vectors: depthwise sums and maxima."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from voxconv.backends._numba_ir import INT32, INT64, Vectors, emitted, int64, typed
from voxconv.backends._numba_tiles import finish_sums


def _taps_loop(v: Vectors, vectors: int, n: Any, w: Any, off: Any, load: Callable[[Any, int, Any], Any]) -> list[Any]:
    """Sums over t < n of w[t] * load(off[t] in bytes, vector, t)."""
    builder = v.builder

    def tap(t: Any, sums: list[Any]) -> list[Any]:
        here = builder.mul(v.loadint64(builder.add(off, builder.mul(t, int64(8)))), int64(v.size))
        weight = v.splat(v.load_scalar(v.address(w, t)))
        return [v.fma(weight, load(here, j, t), total) for j, total in enumerate(sums)]

    return _loop(v, n, [v.constant(0.0)] * vectors, tap)


def _rows(v: Vectors, rows: int, base: Any, pitch: Any) -> list[Any]:
    """Addresses of so many rows, ``pitch`` elements apart."""
    return [v.address(base, v.builder.mul(pitch, int64(r))) for r in range(rows)]


def _taps_inside(
    v: Vectors, rows: int, y: Any, ldy: Any, x: Any, ldx: Any, n: Any, w: Any, off: Any, bias: Any, slope: Any
) -> None:
    """y[r * ldy + j] = bias + sum over t < n of w[t] * x[r * ldx + off[t] + j], times slope where that is negative.

    For r < rows and one vector of j.
    """
    lines = _rows(v, rows, x, ldx)
    sums = _taps_loop(v, rows, n, w, off, lambda here, r, t: v.load(v.builder.add(lines[r], here)))
    for total, place in zip(finish_sums(v, sums, bias, slope), _rows(v, rows, y, ldy), strict=True):
        v.store(total, place)


def _taps_edge(
    v: Vectors, rows: int, y: Any, ldy: Any, x: Any, ldx: Any, n: Any, w: Any, off: Any, shift: Any, at: Any,
    count: Any, size: Any, bias: Any, slope: Any,
) -> None:  # fmt: skip
    """As `_taps_inside` for j < count, without the terms for which shift[t] + at + j leaves a line of x."""
    builder = v.builder
    lanes = list(range(v.lanes))
    lines = _rows(v, rows, x, ldx)
    masks: dict[Any, Any] = {}

    def load(here: Any, r: int, t: Any) -> Any:
        if t not in masks:
            start = builder.add(v.loadint64(builder.add(shift, builder.mul(t, int64(8)))), at)
            masks[t] = v.within(lanes, builder.neg(start), builder.sub(size, start))
        return v.load_masked(builder.add(lines[r], here), masks[t])

    sums = _taps_loop(v, rows, n, w, off, load)
    stored = v.within(lanes, int64(0), count)
    for total, place in zip(finish_sums(v, sums, bias, slope), _rows(v, rows, y, ldy), strict=True):
        v.store_masked(total, place, stored)


WHOLE, MASKED, NARROW = range(3)
"""How `planes_tile` reads a line: whole, by masks, or by masks where no more than half of the lanes are wanted."""


def _planes_tile(
    v: Vectors, kernel: int, step: int, rows: int, form: int, y: Any, x: Any, w: Any, bias: Any, count: Any, plane: Any,
    image: Any, terms: Any, slices: Any, slice_step: Any, top: Any, height: Any, left: Any, width: Any, pitch: Any,
    tall: Any, wide: Any, slope: Any,
) -> None:  # fmt: skip
    """Some rows of one vector of outputs of a kernel x kernel sum, of ``count`` planes one after the other.

    y[j * pitch + l] = bias + sum over z < slices, a, b < kernel of
    w[z, a, b] * x[z * slice_step + (j * step + a) * width + l * step + b] for j < tall and l < wide, where of all
    ``rows`` x lanes less may be wanted.  x points to the plane's row ``top`` and column ``left``; what is outside of
    its height and width is not read.  A line is loaded once for all sums that want it, and weights stay in registers.
    """
    builder = v.builder
    lanes = list(range(v.lanes))
    loads = kernel if step == 1 else kernel + kernel % 2
    places = [t if step == 1 else t // 2 * 2 + t % 2 * v.lanes for t in range(loads)]
    masks = None
    if form != WHOLE:
        starts = [builder.add(left, int64(place)) for place in places]
        masks = [v.within(lanes, builder.neg(start), builder.sub(width, start)) for start in starts]
    stored = v.within(lanes, int64(0), wide)
    there = [
        builder.icmp_unsigned("<", builder.add(top, int64(i)), height) for i in range((rows - 1) * step + kernel)
    ]

    def taps(line: Any) -> list[Any]:
        """A line's elements for each tap of all lanes; at step 2 even and odd ones come from the same two loads."""
        found = []
        for t, place in enumerate(places):
            if form == NARROW and t % 2:
                found.append(found[-1])
                continue
            address = v.address(line, place)
            found.append(v.load_masked(address, masks[t]) if masks else v.load(address))
        if step == 1:
            return found
        pick = [ir.Constant(ir.VectorType(INT32, v.lanes), list(range(odd, 2 * v.lanes, 2))) for odd in range(2)]
        return [builder.shuffle_vector(found[t // 2 * 2], found[t // 2 * 2 + 1], pick[t % 2]) for t in range(kernel)]

    def add_slice(x: Any, w: Any, z: Any, sums: list[Any]) -> list[Any]:
        source, weights = v.address(x, builder.mul(z, slice_step)), v.address(w, builder.mul(z, int64(kernel * kernel)))
        weight = [v.splat(v.load_scalar(v.address(weights, t))) for t in range(kernel * kernel)]
        for i, inside in enumerate(there):
            before, results = builder.block, list(sums)
            with builder.if_then(inside):
                line = taps(v.address(source, builder.mul(width, int64(i))))
                for t in range(kernel):
                    for j in range(rows):
                        if 0 <= i - j * step < kernel:
                            results[j] = v.fma(weight[(i - j * step) * kernel + t], line[t], results[j])
                within = builder.block
            sums = [_either(v, old, before, new, within) if new is not old else old
                    for old, new in zip(sums, results, strict=True)]  # fmt: skip
        return sums

    with cgutils.for_range(builder, count) as loop:
        move = builder.mul(loop.index, int64(v.size))
        source = builder.add(x, builder.mul(move, image))
        weights = builder.add(w, builder.mul(move, terms))
        zero = [v.constant(0.0)] * rows
        sums = _loop(v, slices, zero, partial(add_slice, source, weights))
        results = finish_sums(v, sums, v.load_scalar(builder.add(bias, move)), slope)
        to = builder.add(y, builder.mul(move, plane))
        for j, (result, place) in enumerate(zip(results, _rows(v, rows, to, pitch), strict=True)):
            with builder.if_then(builder.icmp_signed("<", int64(j), tall)):
                if form == WHOLE:
                    v.store(result, place)
                else:
                    v.store_masked(result, place, stored)


def _either(v: Vectors, a: Any, from_a: Any, b: Any, from_b: Any) -> Any:
    """The value of the way that was taken."""
    result = v.builder.phi(v.type)
    result.add_incoming(a, from_a)
    result.add_incoming(b, from_b)
    return result


def _loop(v: Vectors, count: Any, start: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Vectors after ``count`` rounds of ``body``, which takes a round's number and the vectors before it."""
    builder = v.builder
    before = builder.block
    loop, after = builder.append_basic_block("round"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", count, int64(0)), loop, after)
    builder.position_at_end(loop)
    index = builder.phi(INT64)
    held = [builder.phi(v.type) for _ in start]
    results = body(index, held)
    following = builder.add(index, int64(1))
    index.add_incoming(int64(0), before)
    index.add_incoming(following, builder.block)
    for phi, first, result in zip(held, start, results, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(result, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    inside = builder.block
    builder.position_at_end(after)
    return [_either(v, first, before, result, inside) for first, result in zip(start, results, strict=True)]


def _windows(
    v: Vectors, step: int, known: int, edge: int, indexed: int, y: Any, index: Any, x: Any, rows: Any, n: Any, col: Any,
    dilation: Any, taps: Any, count: Any, size: Any, stride: Any,
) -> None:  # fmt: skip
    """Maxima of one vector of windows, and where they stand: lane i sees x[rows[r] + col + i * stride + t * dilation].

    For r < n and t < taps, in this order; one replaces the maximum if it is greater or not a number.  ``step`` is the
    stride if that is 1 or 2, else 0, and ``known`` the number of taps if that is common, else 0.  At an ``edge`` a
    column has to be in [0, size), and the first ``count`` lanes are stored; elsewhere all are.  ``index`` is written
    if ``indexed``.
    """
    builder, lanes = v.builder, v.lanes
    wide = ir.VectorType(INT64, lanes)
    ramp = [i * step if step else 0 for i in range(lanes)]
    lane_columns = ir.Constant(wide, ramp)
    if not step:
        numbers = ir.Constant(wide, list(range(lanes)))
        lane_columns = builder.mul(numbers, v.splat(stride))

    def load(row: Any, column: Any) -> tuple[Any, Any]:
        """A tap's values, and at an edge the mask of those that are there."""
        place = v.address(x, builder.add(row, column))
        if not step:
            inside = None
            if edge:
                at = builder.add(lane_columns, v.splat(column))
                low = builder.icmp_signed(">=", at, ir.Constant(wide, [0] * lanes))
                inside = builder.and_(low, builder.icmp_signed("<", at, v.splat(size)))
            value = ir.Constant(v.type, ir.Undefined)
            for i in range(lanes):
                lane = ir.Constant(INT32, i)
                move = builder.extract_element(lane_columns, lane)
                if inside is not None:  # a lane outside looks at the row's first element
                    move = builder.select(builder.extract_element(inside, lane), move, builder.neg(column))
                value = builder.insert_element(value, v.load_scalar(v.address(place, move)), lane)
            return value, inside
        half = step - 1  # ceil(a / step) is (a + half) >> half
        bounds = builder.neg(column), builder.sub(size, column)
        first, last = (builder.ashr(builder.add(bound, int64(half)), int64(half)) for bound in bounds)
        inside = v.within(list(range(lanes)), first, last) if edge else None
        if step == 1:
            return (v.load_masked(place, inside) if edge else v.load(place)), inside
        halves = []
        for part in range(2):
            there = v.address(place, part * lanes)
            if edge:
                even = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1 - i % 2 for i in range(lanes)])
                mask = v.within([part * lanes // 2 + i // 2 for i in range(lanes)], first, last)
                halves.append(v.load_masked(there, builder.and_(mask, even)))
            elif part == 0:
                halves.append(v.load(there))
            else:  # the last element of the second half is nobody's, and may not be there
                halves.append(v.load(v.address(there, -1)))
        picks = [2 * i if 2 * i < lanes or edge else 2 * i + 1 for i in range(lanes)]
        return builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(INT32, lanes), picks)), inside

    def meet(row: Any, column: Any) -> None:
        value, inside = load(row, column)
        before = builder.load(best)
        better = v.replaces(value, before)
        if inside is not None:
            met = builder.load(seen)
            better = builder.and_(inside, builder.or_(better, builder.not_(met)))
            builder.store(builder.or_(met, inside), seen)
        builder.store(builder.select(better, value, before), best)
        if indexed:
            builder.store(builder.select(better, v.splat(builder.add(row, column)), builder.load(where)), where)

    best, where = cgutils.alloca_once(builder, v.type), cgutils.alloca_once(builder, wide)
    seen = cgutils.alloca_once(builder, ir.VectorType(ir.IntType(1), lanes))
    builder.store(ir.Constant(seen.type.pointee, None), seen)
    if edge:
        builder.store(ir.Constant(v.type, None), best)
        builder.store(ir.Constant(wide, None), where)
    else:
        row = v.loadint64(rows)
        builder.store(load(row, col)[0], best)
        builder.store(v.splat(builder.add(row, col)), where)
    with cgutils.for_range(builder, n) as outer:
        row = v.loadint64(builder.add(rows, builder.mul(outer.index, int64(8))))
        if known:
            for t in range(known):
                meet(row, builder.add(col, builder.mul(int64(t), dilation)))
        else:
            with cgutils.for_range(builder, taps) as inner:
                meet(row, builder.add(col, builder.mul(inner.index, dilation)))
    if edge:
        v.store_masked(builder.load(best), y, v.within(list(range(lanes)), int64(0), count))
    else:
        v.store(builder.load(best), y)
    if not indexed:
        return
    places = builder.add(builder.load(where), lane_columns)
    if not edge:
        builder.store(places, v.pointer(index, wide), align=8)
        return
    mask = v.within(list(range(lanes)), int64(0), count)
    v.store_masked(places, index, mask)


@typed
def taps_inside(context, dtype, rows, y, ldy, x, ldx, n, w, off, bias, slope):
    """See `_taps_inside`."""
    return emitted(1)(_taps_inside)(context, dtype, rows, y, ldy, x, ldx, n, w, off, bias, slope)


@typed
def taps_edge(context, dtype, rows, y, ldy, x, ldx, n, w, off, shift, at, count, size, bias, slope):
    """See `_taps_edge`."""
    arguments = y, ldy, x, ldx, n, w, off, shift, at, count, size, bias, slope
    return emitted(1)(_taps_edge)(context, dtype, rows, *arguments)


@typed
def planes_tile(
    context, dtype, kernel, step, rows, form, y, x, w, bias, count, plane, image, terms, slices, slice_step, top,
    height, left, width, pitch, tall, wide, slope,
):  # fmt: skip
    """See `_planes_tile`."""
    arguments = (
        y, x, w, bias, count, plane, image, terms, slices, slice_step, top, height, left, width, pitch, tall, wide,
        slope,
    )  # fmt: skip
    return emitted(4)(_planes_tile)(context, dtype, kernel, step, rows, form, *arguments)


@typed
def windows(
    context, dtype, step, known, edge, indexed, y, index, x, rows, n, col, dilation, taps, count, size, stride
):  # fmt: skip
    """See `_windows`."""
    arguments = y, index, x, rows, n, col, dilation, taps, count, size, stride
    return emitted(4)(_windows)(context, dtype, step, known, edge, indexed, *arguments)


