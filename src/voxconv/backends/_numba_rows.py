"""Depthwise sums that read their input in place, by vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import cgutils

from voxconv.backends._numba_ir import Vectors, emitted, int64, typed
from voxconv.backends._numba_tiles import finish_sums


def _taps_loop(v: Vectors, vectors: int, n: Any, w: Any, off: Any, load: Callable[[Any, int, Any], Any]) -> list[Any]:
    """Sums over t < n of w[t] * load(off[t] in bytes, vector, t)."""
    builder = v.builder

    def tap(t: Any, sums: list[Any]) -> list[Any]:
        here = builder.mul(v.loadint64(builder.add(off, builder.mul(t, int64(8)))), int64(v.size))
        weight = v.splat(v.load_scalar(v.address(w, t)))
        return [v.fma(weight, load(here, j, t), total) for j, total in enumerate(sums)]

    return v.loop(n, [v.constant(0.0)] * vectors, tap)


def rows_of(v: Vectors, rows: int, base: Any, pitch: Any) -> list[Any]:
    """Addresses of so many rows, ``pitch`` elements apart: a sum each, where products would wait on the stack."""
    addresses, step = [base], v.address(int64(0), pitch)
    for _ in range(rows - 1):
        addresses.append(v.builder.add(addresses[-1], step))
    return addresses


def _taps_inside(
    v: Vectors, rows: int, y: Any, ldy: Any, x: Any, ldx: Any, n: Any, w: Any, off: Any, bias: Any, slope: Any
) -> None:
    """y[r * ldy + j] = bias + sum over t < n of w[t] * x[r * ldx + off[t] + j], times slope where that is negative.

    For r < rows and one vector of j.
    """
    lines = rows_of(v, rows, x, ldx)
    sums = _taps_loop(v, rows, n, w, off, lambda here, r, t: v.load(v.builder.add(lines[r], here)))
    for total, place in zip(finish_sums(v, sums, bias, slope), rows_of(v, rows, y, ldy), strict=True):
        v.store(total, place)


def _taps_edge(
    v: Vectors, rows: int, y: Any, ldy: Any, x: Any, ldx: Any, n: Any, w: Any, off: Any, shift: Any, at: Any,
    count: Any, size: Any, bias: Any, slope: Any,
) -> None:  # fmt: skip
    """As `_taps_inside` for j < count, without the terms for which shift[t] + at + j leaves a line of x."""
    builder = v.builder
    lanes = list(range(v.lanes))
    lines = rows_of(v, rows, x, ldx)
    masks: dict[Any, Any] = {}

    def load(here: Any, r: int, t: Any) -> Any:
        if t not in masks:
            start = builder.add(v.loadint64(builder.add(shift, builder.mul(t, int64(8)))), at)
            masks[t] = v.within(lanes, builder.neg(start), builder.sub(size, start))
        return v.load_masked(builder.add(lines[r], here), masks[t])

    sums = _taps_loop(v, rows, n, w, off, load)
    stored = v.within(lanes, int64(0), count)
    for total, place in zip(finish_sums(v, sums, bias, slope), rows_of(v, rows, y, ldy), strict=True):
        v.store_masked(total, place, stored)


def _line_of_pairs(
    v: Vectors, y: Any, columns: Any, x: Any, width: Any, low: Any, high: Any, evens: Any, odds: Any, w: Any, off: Any,
    shift: Any, bias: Any, slope: Any,
) -> None:  # fmt: skip
    """A line whose even and odd elements are sums over taps of their own, as at a stride of 2 backwards.

    y[2 * j + r] = bias + sum over t of w[t] * x[off[t] + j]: over the first ``evens`` terms for r = 0, over ``odds``
    further ones for r = 1.  Left out are terms for which shift[t] + j, of which ``low`` and ``high`` are the least and
    the greatest shift, leaves a line of x.
    """
    builder, lanes = v.builder, v.lanes

    def vector(to: Any, *, whole: bool) -> None:
        """Two vectors of y."""
        at = builder.lshr(to, int64(1))
        line = v.address(x, at)
        sums = []
        for first, n in ((int64(0), evens), (evens, odds)):
            shifts = builder.add(shift, builder.mul(first, int64(8)))

            def load(here: Any, _: int, t: Any, shifts: Any = shifts) -> Any:
                if whole:
                    return v.load(builder.add(line, here))
                start = builder.add(v.loadint64(builder.add(shifts, builder.mul(t, int64(8)))), at)
                inside = v.mask(v.bits(builder.neg(start), builder.sub(width, start)))
                return v.load_masked(builder.add(line, here), inside)

            sums += _taps_loop(v, 1, n, v.address(w, first), builder.add(off, builder.mul(first, int64(8))), load)
        results = finish_sums(v, sums, bias, slope)
        for half in range(2):
            mixed, first = v.interleaved(results[0], results[1], half), builder.add(to, int64(half * lanes))
            if whole:
                v.store(mixed, v.address(y, first))
            else:
                stored = v.mask(v.bits(int64(0), builder.sub(columns, first)))
                v.store_masked(mixed, v.address(y, first), stored)

    with cgutils.for_range_slice(builder, int64(0), columns, int64(2 * lanes)) as (to, _):
        at = builder.lshr(to, int64(1))
        room = builder.icmp_signed("<=", builder.add(to, int64(2 * lanes)), columns)
        begins = builder.icmp_signed(">=", builder.add(at, low), int64(0))
        ends = builder.icmp_signed("<=", builder.add(builder.add(at, high), int64(lanes)), width)
        with builder.if_else(builder.and_(room, builder.and_(begins, ends))) as (quick, ragged):
            with quick:
                vector(to, whole=True)
            with ragged:
                vector(to, whole=False)


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
def line_of_pairs(context, dtype, y, columns, x, width, low, high, evens, odds, w, off, shift, bias, slope):
    """See `_line_of_pairs`."""
    arguments = y, columns, x, width, low, high, evens, odds, w, off, shift, bias, slope
    return emitted(0)(_line_of_pairs)(context, dtype, *arguments)
