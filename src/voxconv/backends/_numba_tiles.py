"""The arithmetic of the Numba backend's sums: register tiles, and the rows that go in and out of them."""

from __future__ import annotations

from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from voxconv.backends._numba_ir import (
    INT32,
    INT64,
    LONE_VECTORS,
    ROWS,
    VECTORS,
    WEIGHT_ROWS,
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


def _row_tile(
    v: Vectors, rows: int, vectors: int, more: Any, n: Any, x: Any, row: Any, off: Any, d: Any, c: Any
) -> None:
    """c[i * width + j] (+)= sum over p < n of x[row[i] + off[p]] * d[p * width + j], for i < rows and j < width.

    ``width`` is vectors * lanes.  The products of one call are summed from zero, then added where ``more`` is not 0.
    """
    builder = v.builder
    starts = [v.address(x, v.loadint64(builder.add(row, int64(8 * i)))) for i in range(rows)]
    before = builder.block
    loop, after = builder.append_basic_block("pixels"), builder.append_basic_block("done")
    builder.branch(loop)

    builder.position_at_end(loop)
    p = builder.phi(INT64)
    sums = [builder.phi(v.type) for _ in range(rows * vectors)]
    here = builder.mul(v.loadint64(builder.add(off, builder.mul(p, int64(8)))), int64(v.size))
    line = v.address(d, builder.mul(p, int64(vectors * v.lanes)))
    lanes = [v.load(v.address(line, j * v.lanes)) for j in range(vectors)]
    results = []
    for i in range(rows):
        pixel = v.splat(v.load_scalar(builder.add(starts[i], here)))
        results += [v.fma(pixel, lane, sums[i * vectors + j]) for j, lane in enumerate(lanes)]
    following = builder.add(p, int64(1))
    p.add_incoming(int64(0), before)
    p.add_incoming(following, loop)
    for phi, result in zip(sums, results, strict=True):
        phi.add_incoming(v.constant(0.0), before)
        phi.add_incoming(result, loop)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

    builder.position_at_end(after)
    places = [v.address(c, i * v.lanes) for i in range(len(results))]
    with builder.if_else(builder.icmp_signed("!=", more, int64(0))) as (adding, fresh):
        with adding:
            for place, result in zip(places, results, strict=True):
                v.store(builder.fadd(v.load(place), result), place)
        with fresh:
            for place, result in zip(places, results, strict=True):
                v.store(result, place)


def _row_tiles(v: Vectors, rows: Any, vectors: Any, *arguments: Any) -> None:
    """Run the tile of this size."""
    builder = v.builder
    for height, width in product(WEIGHT_ROWS, (1, 2)):
        same = (builder.icmp_signed("==", *pair) for pair in ((rows, int64(height)), (vectors, int64(width))))
        with builder.if_then(builder.and_(*same)):
            called(v, _row_tile, [height, width], list(arguments))


def _turn(v: Vectors, kept: int, to: Any, pitch: Any, source: Any, stride: Any, present: Any, count: Any) -> None:
    """to[j * pitch + i] = source[i * stride + j] for i < lanes and j < count, 0 from i = ``present`` on.

    With ``kept``, nothing but i < present and j < count is written.  Otherwise rows of ``to`` up to the next multiple
    of lanes are overwritten, so lines that follow each other have to be turned in their order.
    """
    builder, lanes = v.builder, v.lanes
    every = list(range(lanes))
    there = [builder.icmp_signed("<", int64(i), present) for i in every]
    numbers = [builder.select(inside, int64(i), int64(0)) for i, inside in enumerate(there)]
    starts = [v.address(source, builder.mul(stride, number)) for number in numbers]

    def turned(vectors: list[Any]) -> list[Any]:
        half = lanes // 2
        for _ in range(lanes.bit_length() - 1):
            pairs = list(zip(vectors[:half], vectors[half:], strict=True))
            vectors = [v.interleaved(*pair, part) for pair in pairs for part in range(2)]
        return vectors

    def put(j: Any, rows: list[Any], mask: Any, left: Any) -> None:
        for i, row in enumerate(rows):
            place = v.address(to, builder.mul(pitch, builder.add(j, int64(i))))
            if not kept:
                v.store(row, place)
                continue
            with builder.if_then(builder.icmp_signed("<", int64(i), left)):
                v.store_masked(row, place, mask)

    mask_of_rows = v.within(every, int64(0), present)
    with cgutils.for_range_slice(builder, int64(0), count, int64(lanes)) as (j, _):
        left = builder.sub(count, j)
        whole = builder.and_(builder.icmp_signed(">=", left, int64(lanes)), there[-1])
        addresses = [v.address(start, j) for start in starts]
        with builder.if_else(whole) as (quick, ragged):
            with quick:
                rows = turned([v.load(address) for address in addresses])
                for i, row in enumerate(rows):
                    v.store(row, v.address(to, builder.mul(pitch, builder.add(j, int64(i)))))
            with ragged:
                mask = v.within(every, int64(0), left)
                nowhere = ir.Constant(mask.type, None)
                masks = [builder.select(inside, mask, nowhere) for inside in there]
                rows = turned([v.load_masked(*pair) for pair in zip(addresses, masks, strict=True)])
                put(j, rows, mask_of_rows, left)


def _dot_row(v: Vectors, to: Any, a: Any, b: Any, count: Any) -> None:
    """to[i] += sum of a[j] * b[j] over the j < count whose lane is i."""
    builder = v.builder
    total = cgutils.alloca_once_value(builder, v.load(to))
    with cgutils.for_range_slice(builder, int64(0), count, int64(v.lanes)) as (j, _):
        mask = v.within(list(range(v.lanes)), int64(0), builder.sub(count, j))
        left, right = (v.load_masked(v.address(side, j), mask) for side in (a, b))
        builder.store(v.fma(left, right, builder.load(total)), total)
    v.store(builder.load(total), to)


def _lane_sum(v: Vectors, to: Any, at: Any) -> None:
    """Store at ``to`` the sum of the lanes of the vector at ``at``, by halves."""
    builder, total, lanes = v.builder, v.load(at), v.lanes
    while lanes > 1:
        lanes //= 2
        low, high = (ir.Constant(ir.VectorType(INT32, lanes), list(range(i, i + lanes))) for i in (0, lanes))
        nothing = ir.Constant(total.type, ir.Undefined)
        total = builder.fadd(*(builder.shuffle_vector(total, nothing, half) for half in (low, high)))
    first = builder.extract_element(total, ir.Constant(INT32, 0))
    builder.store(first, v.pointer(to, v.scalar))


def _lane_sums(v: Vectors, count: int, to: Any, at: Any) -> None:
    """to[i] = the sum of the lanes of vector i at ``at``, for i < count, by halves; as many sums as lanes at a time."""
    lanes = v.lanes
    depth = lanes.bit_length() - 1
    for first in range(0, count, lanes):
        few = min(lanes, count - first)
        # Each step interleaves two halves, which brings bits of a vector's number to the lane's in reverse.
        order = [int(f"{i:0{depth}b}"[::-1], 2) for i in range(lanes)]
        vectors = [v.load(v.address(at, (first + i) * lanes)) if i < few else None for i in order]
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [_halves(v, *pair) for pair in pairs]
        mask = v.first(few)
        if mask is None:
            v.store(vectors[0], v.address(to, first))
        else:
            v.store_masked(vectors[0], v.address(to, first), mask)


def _halves(v: Vectors, a: Any, b: Any) -> Any:
    """By turns, of each vector the sums of its lower half with its upper; None stands for zeros."""
    if a is None and b is None:
        return None
    pair = [v.constant(0.0) if vector is None else vector for vector in (a, b)]
    return v.builder.fadd(v.interleaved(*pair, 0), v.interleaved(*pair, 1))


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
def row_tiles(context, dtype, rows, vectors, more, n, x, row, off, d, c):
    """See `_row_tile`."""
    return emitted(0)(_row_tiles)(context, dtype, rows, vectors, more, n, x, row, off, d, c)


@typed
def turn(context, dtype, kept, to, pitch, source, stride, present, count):
    """See `_turn`."""
    return emitted(1)(_turn)(context, dtype, kept, to, pitch, source, stride, present, count)


@typed
def dot_row(context, dtype, to, a, b, count):
    """See `_dot_row`."""
    return emitted(0)(_dot_row)(context, dtype, to, a, b, count)


@typed
def lane_sum(context, dtype, to, at):
    """See `_lane_sum`."""
    return emitted(0)(_lane_sum)(context, dtype, to, at)


@typed
def lane_sums(context, dtype, count, to, at):
    """See `_lane_sums`."""
    return emitted(1)(_lane_sums)(context, dtype, count, to, at)


@typed
def copy_row(context, dtype, step, to, source, low, high, columns):
    """See `_copy_row`."""
    return emitted(1)(_copy_row)(context, dtype, step, to, source, low, high, columns)
