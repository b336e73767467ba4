"""The arithmetic of the Numba backend's sums: register tiles, and the rows that go in and out of them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from voxconv.backends._numba_ir import (
    INT32,
    INT64,
    LONE_VECTORS,
    ROWS,
    VECTORS,
    Vectors,
    called,
    emitted,
    int64,
    typed,
)


def activated(v: Vectors, totals: list[Any], slope: Any) -> list[Any]:
    """Vectors times the slope where they are negative; 1 costs nothing, and 0 gives 0 even for -inf."""
    builder = v.builder
    linear = builder.fcmp_ordered("==", slope, ir.Constant(v.scalar, 1.0))
    with builder.if_else(linear) as (plain, active):
        with plain:
            plainly = builder.block
        with active:
            zero, every_slope = v.constant(0.0), v.splat(slope)
            bits = ir.VectorType(ir.IntType(8 * v.size), v.lanes)
            sloping = builder.fcmp_unordered("!=", slope, ir.Constant(v.scalar, 0.0))
            kept = v.splat(builder.sext(sloping, bits.element))  # no bit of a product with a slope of 0
            bent = []
            for total in totals:
                product = builder.bitcast(builder.fmul(total, every_slope), bits)
                less = builder.bitcast(builder.and_(product, kept), v.type)
                bent.append(builder.select(builder.fcmp_ordered("<", total, zero), less, total))
            actively = builder.block
    finished = []
    for total, other in zip(totals, bent, strict=True):
        result = builder.phi(v.type)
        result.add_incoming(total, plainly)
        result.add_incoming(other, actively)
        finished.append(result)
    return finished


def finish_sums(v: Vectors, sums: list[Any], bias: Any, slope: Any) -> list[Any]:
    """Vectors of sums with the bias added, activated."""
    every = v.splat(bias)
    return activated(v, [v.builder.fadd(total, every) for total in sums], slope)


def _tile(
    v: Vectors, rows: int, vectors: int, more: Any, n: Any, a: Any, b: Any, off: Any, c: Any, ldc: Any, present: Any,
    full: Any, y: Any, plane: Any, bias: Any, places: Any, slope: Any,
) -> None:  # fmt: skip
    """c[i * ldc + j] = sum over t < n of a[t * rows + i] * b[off[t] + j], for i < rows and j < vectors * lanes.

    ``more`` is 0, or 1 to go on from the sums that c holds.  Each sum is one chain in the order of t and stays
    in a register; nothing need be aligned.  Where ``present`` is above 0, so many rows of finished sums go to y
    instead, ``plane`` apart: the first ``full`` vectors as a whole, others where ``places`` says (see `list_places`).
    """
    builder = v.builder
    with builder.if_then(builder.icmp_signed(">", present, int64(0))):  # what is written is fetched meanwhile
        for j in range(vectors):
            first = v.loadint64(builder.add(places, int64(8 * j)))
            start = builder.add(y, v.loadint64(builder.add(places, builder.mul(first, int64(8)))))
            for i in range(rows):
                v.prefetch(v.address(start, builder.mul(plane, int64(i))), write=True)
    sums_at = [
        v.address(v.address(c, builder.mul(ldc, int64(i))), j * v.lanes) for i in range(rows) for j in range(vectors)
    ]
    with builder.if_else(builder.icmp_signed("!=", more, int64(0))) as (taken, fresh):
        with taken:
            held = [v.load(place) for place in sums_at]
            going_on = builder.block
        with fresh:
            from_zero = builder.block
    starts = []
    for value in held:
        start = builder.phi(v.type)
        start.add_incoming(value, going_on)
        start.add_incoming(v.constant(0.0), from_zero)
        starts.append(start)
    before = builder.block
    loop, after = builder.append_basic_block("terms"), builder.append_basic_block("done")
    builder.branch(loop)

    builder.position_at_end(loop)
    t = builder.phi(INT64)
    sums = [builder.phi(v.type) for _ in sums_at]
    source = v.address(b, v.loadint64(builder.add(off, builder.mul(t, int64(8)))))
    pixels = [v.load(v.address(source, j * v.lanes)) for j in range(vectors)]
    panel = v.address(a, builder.mul(t, int64(rows)))
    v.prefetch(builder.add(panel, int64(4096)), write=False)
    results = []
    for i in range(rows):
        weight = v.splat(v.load_scalar(v.address(panel, i)))
        results += [v.fma(weight, pixel, sums[i * vectors + j]) for j, pixel in enumerate(pixels)]
    following = builder.add(t, int64(1))
    t.add_incoming(int64(0), before)
    t.add_incoming(following, loop)
    for phi, start, result in zip(sums, starts, results, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(result, loop)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

    builder.position_at_end(after)
    with builder.if_else(builder.icmp_signed("==", present, int64(0))) as (waiting, finished):
        with waiting:
            for place, result in zip(sums_at, results, strict=True):
                v.store(result, place)
        with finished:
            _put(v, rows, vectors, results, present, full, y, plane, bias, places, slope)


TILES = {4: (VECTORS, LONE_VECTORS), 1: (VECTORS, LONE_VECTORS)} | {ROWS: (1, 2, VECTORS)}
"""Vectors of the tiles that there are, by their rows."""


def _tiles(v: Vectors, rows: Any, vectors: Any, *arguments: Any) -> None:
    """Run the tile of this size, or a wider one: sums and pixels have room for the widest."""
    builder = v.builder
    for height, widths in TILES.items():
        with builder.if_then(builder.icmp_signed("==", rows, int64(height))):
            for narrower, width in zip((0, *widths), widths, strict=False):
                above = builder.icmp_signed(">", vectors, int64(narrower))
                with builder.if_then(builder.and_(above, builder.icmp_signed("<=", vectors, int64(width)))):
                    called(v, _tile, [height, width], list(arguments))


def _put(
    v: Vectors, rows: int, vectors: int, sums: list[Any], present: Any, full: Any, y: Any, plane: Any, bias: Any,
    places: Any, slope: Any,
) -> None:  # fmt: skip
    """Finish a tile's sums and store them in y; see `_tile`."""
    builder = v.builder
    there = [builder.icmp_signed("<", int64(i), present) for i in range(rows)]
    totals = []
    for i in range(rows):
        at = builder.select(there[i], int64(i), int64(0))
        every = v.splat(v.load_scalar(v.address(bias, at)))
        totals += [builder.fadd(total, every) for total in sums[i * vectors : (i + 1) * vectors]]
    results = activated(v, totals, slope)
    channels = [v.address(y, builder.mul(plane, int64(i))) for i in range(rows)]

    def entry(number: Any, field: int = 0) -> Any:
        return v.loadint64(builder.add(places, builder.mul(builder.add(number, int64(field)), int64(8))))

    firsts = [entry(int64(j)) for j in range(vectors + 1)]
    whole = builder.and_(builder.icmp_signed(">=", full, int64(vectors)), there[-1])
    with builder.if_else(whole) as (quick, ragged):
        with quick:
            for j in range(vectors):
                move = entry(firsts[j])
                for i, channel in enumerate(channels):
                    v.store(results[i * vectors + j], builder.add(channel, move))
        with ragged:
            for j in range(vectors):
                with cgutils.for_range_slice(builder, firsts[j], firsts[j + 1], int64(3)) as (at, _):
                    move, low, high = (entry(at, field) for field in range(3))
                    mask = v.within(list(range(v.lanes)), low, high)
                    nowhere = ir.Constant(mask.type, None)
                    for i, channel in enumerate(channels):
                        kept = builder.select(there[i], mask, nowhere)  # compiles faster than a branch for each
                        v.store_masked(results[i * vectors + j], builder.add(channel, move), kept)


def _pack_panel(v: Vectors, rows: int, to: Any, w: Any, row: Any, last: Any, off: Any, n: Any, finite: Any) -> None:
    """to[t * rows + i] = w[row[min(i, last)] + off[t]] for i < rows and t < n; 0 at ``finite`` if one is not."""
    builder = v.builder
    kind = ir.VectorType(v.scalar, rows)
    starts = []
    for i in range(rows):
        number = v.lesser(int64(i), last)
        starts.append(v.address(w, v.loadint64(builder.add(row, builder.mul(number, int64(8))))))

    def term(t: Any, state: list[Any]) -> list[Any]:
        move = v.address(int64(0), v.loadint64(builder.add(off, builder.mul(t, int64(8)))))
        value = ir.Constant(kind, ir.Undefined)
        for i, start in enumerate(starts):
            one = v.load_scalar(builder.add(start, move))
            value = builder.insert_element(value, one, ir.Constant(INT32, i))
        builder.store(value, v.pointer(v.address(to, builder.mul(t, int64(rows))), kind), align=v.size)
        return [builder.fadd(state[0], builder.fsub(value, value))]  # 0, or not a number

    (told,) = v.loop(n, [ir.Constant(kind, [0.0] * rows)], term)
    bits = builder.bitcast(builder.fcmp_unordered("uno", told, told), ir.IntType(rows))
    with builder.if_then(builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)), likely=False):
        builder.store(int64(0), v.pointer(finite, INT64))


def _pack_panels(v: Vectors, rows: Any, *arguments: Any) -> None:
    """Pack a panel of so many rows."""
    for height in TILES:
        with v.builder.if_then(v.builder.icmp_signed("==", rows, int64(height))):
            called(v, _pack_panel, [height], list(arguments))


def _copy_row(v: Vectors, step: int, to: Any, source: Any, low: Any, high: Any, columns: Any) -> None:
    """to[j] = source[j * step] for low <= j < high, else 0, for j < columns; step is 1 or 2.

    Whole vectors are stored, so up to lanes - 1 elements after the row are overwritten.
    """
    builder, lanes = v.builder, v.lanes
    every = list(range(lanes))
    evens = ir.Constant(ir.VectorType(INT32, lanes), list(range(0, 2 * lanes, 2)))
    even = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1 - i % 2 for i in every])
    with cgutils.for_range_slice(builder, int64(0), columns, int64(lanes)) as (j, _):
        first, last = builder.sub(low, j), builder.sub(high, j)
        begin = v.address(source, builder.mul(j, int64(step)))
        # Two whole vectors reach one element past what they are read for.
        enough = builder.icmp_signed(">=", last, int64(lanes + step - 1))
        whole = builder.and_(builder.icmp_signed("<=", first, int64(0)), enough)
        with builder.if_else(whole) as (quick, ragged):
            with quick:
                row = v.load(begin)
                if step == 2:
                    row = builder.shuffle_vector(row, v.load(v.address(begin, lanes)), evens)
                v.store(row, v.address(to, j))
            with ragged:
                if step == 1:
                    row = v.load_masked(begin, v.within(every, first, last))
                else:
                    halves = []
                    for half in range(2):
                        mask = v.within([half * lanes // 2 + i // 2 for i in every], first, last)
                        halves.append(v.load_masked(v.address(begin, half * lanes), builder.and_(mask, even)))
                    row = builder.shuffle_vector(*halves, evens)
                v.store(row, v.address(to, j))


def _spread_row(v: Vectors, to: Any, sums: Any, count: Any, bias: Any, slope: Any) -> None:
    """to[2 * j] = the sum j, finished, for j < count; whole vectors of sums are read."""
    builder, lanes = v.builder, v.lanes
    with cgutils.for_range_slice(builder, int64(0), count, int64(lanes)) as (j, _):
        (result,) = finish_sums(v, [v.load(v.address(sums, j))], bias, slope)
        place, left = builder.mul(j, int64(2)), builder.mul(builder.sub(count, j), int64(2))
        for half in range(2):
            # odd lanes get numbers that are never below the end
            numbers = [half * lanes + lane if lane % 2 == 0 else 2 * lanes for lane in range(lanes)]
            mask = v.within(numbers, int64(0), v.lesser(left, int64(2 * lanes)))
            part = v.address(to, builder.add(place, int64(half * lanes)))
            v.store_masked(v.interleaved(result, result, half), part, mask)


@typed
def tiles(
    context, dtype, rows, vectors, more, n, a, b, off, c, ldc, present, full, y, plane, bias, places, slope
):  # fmt: skip
    """See `_tiles`."""
    arguments = rows, vectors, more, n, a, b, off, c, ldc, present, full, y, plane, bias, places, slope
    return emitted(0)(_tiles)(context, dtype, *arguments)


@typed
def pack_panel(context, dtype, rows, to, w, row, last, off, n, finite):
    """See `_pack_panel`."""
    return emitted(0)(_pack_panels)(context, dtype, rows, to, w, row, last, off, n, finite)


@typed
def spread_row(context, dtype, to, sums, count, bias, slope):
    """See `_spread_row`."""
    return emitted(0)(_spread_row)(context, dtype, to, sums, count, bias, slope)


@typed
def copy_row(context, dtype, step, to, source, low, high, columns):
    """See `_copy_row`."""
    return emitted(1)(_copy_row)(context, dtype, step, to, source, low, high, columns)
