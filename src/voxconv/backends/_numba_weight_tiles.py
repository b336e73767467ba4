"""The arithmetic of the Numba backend's gradients to the weight: tiles, and the way into and out of them."""

from __future__ import annotations

from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from voxconv.backends._numba_ir import INT64, WEIGHT_ROWS, Vectors, called, emitted, int64, typed


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
def lane_sums(context, dtype, count, to, at):
    """See `_lane_sums`."""
    return emitted(1)(_lane_sums)(context, dtype, count, to, at)
