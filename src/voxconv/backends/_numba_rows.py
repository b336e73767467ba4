"""Windows that read their input in place, by vectors: depthwise sums and maxima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from voxconv.backends._numba_ir import INT32, INT64, Vectors, emitted, int64, typed
from voxconv.backends._numba_tiles import finish_sums


def _taps_loop(v: Vectors, vectors: int, n: Any, w: Any, off: Any, load: Callable[[Any, int, Any], Any]) -> list[Any]:
    """Sums over t < n of w[t] * load(off[t] in bytes, vector, t)."""
    builder = v.builder
    before = builder.block
    loop, after = builder.append_basic_block("taps"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", n, int64(0)), loop, after)
    builder.position_at_end(loop)
    t = builder.phi(INT64)
    sums = [builder.phi(v.type) for _ in range(vectors)]
    here = builder.mul(v.loadint64(builder.add(off, builder.mul(t, int64(8)))), int64(v.size))
    weight = v.splat(v.load_scalar(v.address(w, t)))
    results = [v.fma(weight, load(here, j, t), sums[j]) for j in range(vectors)]
    following = builder.add(t, int64(1))
    t.add_incoming(int64(0), before)
    t.add_incoming(following, builder.block)
    for phi, result in zip(sums, results, strict=True):
        phi.add_incoming(v.constant(0.0), before)
        phi.add_incoming(result, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)
    inside = builder.block
    builder.position_at_end(after)
    finals = [builder.phi(v.type) for _ in range(vectors)]
    for final, result in zip(finals, results, strict=True):
        final.add_incoming(v.constant(0.0), before)
        final.add_incoming(result, inside)
    return finals


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
    finish = finish_sums(v, bias, slope)
    for total, place in zip(sums, _rows(v, rows, y, ldy), strict=True):
        v.store(finish(total), place)


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
    finish, stored = finish_sums(v, bias, slope), v.within(lanes, int64(0), count)
    for total, place in zip(sums, _rows(v, rows, y, ldy), strict=True):
        v.store_masked(finish(total), place, stored)


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
def windows(
    context, dtype, step, known, edge, indexed, y, index, x, rows, n, col, dilation, taps, count, size, stride
):  # fmt: skip
    """See `_windows`."""
    arguments = y, index, x, rows, n, col, dilation, taps, count, size, stride
    return emitted(4)(_windows)(context, dtype, step, known, edge, indexed, *arguments)


