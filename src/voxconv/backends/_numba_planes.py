"""Depthwise sums of whole planes, by tiles of lines: squares of neighbouring taps at a stride of 1 or 2 and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from voxconv.backends._numba_ir import INT32, ROWS, Vectors, emitted, int64, typed
from voxconv.backends._numba_rows import rows_of
from voxconv.backends._numba_tiles import finish_sums

WHOLE, MASKED, NARROW = range(3)
"""How a line is read: whole, by masks, or by masks where the elements that are wanted fit one vector of those read."""


def _shifted(kernel: int, step: int, vectors: int) -> bool:
    """Whether neighbouring taps are shifted out of the same vectors.

    Loads that begin within a line of cache are half as fast; but for one vector of many taps there are too many shifts.
    """
    return ROWS == 8 and step == 1 and (vectors > 1 or kernel <= 3)


Hits = list[list[tuple[int, int]]]
"""For each offset along an axis, which elements of y it brings one of x to, and by which tap: (residue, tap)."""


def _hits(kernel: int, odd: int) -> Hits:
    """The hits of a square's axis.

    With ``odd`` below 0, y is as long as x or half of that and there is one residue.  Otherwise it is twice as long,
    the gradient to the input at a stride of 2, and ``odd`` is the parity of the padding.
    """
    if odd < 0:
        return [[(0, tap)] for tap in range(kernel)]
    offsets = {(r, t): (r + odd) // 2 - t // 2 for r in range(2) for t in range(kernel) if (r + odd - t) % 2 == 0}
    least = min(offsets.values())
    found: Hits = [[] for _ in range(max(offsets.values()) - least + 1)]
    for hit, offset in offsets.items():
        found[offset - least].append(hit)
    return found


def _line_taps(
    v: Vectors, kernel: int, step: int, form: int, there: Any = None, vectors: int = 1
) -> Callable[[Any], list[list[Any]]]:
    """What loads a line's elements from an address on: for each tap those of all lanes of each vector.

    ``there`` has a bit for each element that may be read, unless the form is `WHOLE`.  At a step of 2 even and odd
    taps come from the same two loads.
    """
    builder, lanes = v.builder, v.lanes
    shifted = _shifted(kernel, step, vectors)
    if shifted:
        places = list(range(0, vectors * lanes + kernel - 1, lanes))
    elif step == 1:
        places = list(range(kernel))
    else:
        places = [t // 2 * 2 + t % 2 * lanes for t in range(kernel + kernel % 2)]
    if form == NARROW:
        places = places[:1] if shifted else places[::2]
    masks: list[Any] = [None] * len(places)
    if form != WHOLE:
        masks = [v.mask(there, place) for place in places]
    elif shifted:  # no more of the last vectors than the last tap wants
        masks = [v.first(vectors * lanes + kernel - 1 - place) for place in places]

    def pick(a: Any, b: Any, first: int) -> Any:
        """Every ``step``-th element of two vectors from one on."""
        numbers = ir.Constant(ir.VectorType(INT32, lanes), list(range(first, first + step * lanes, step)))
        return builder.shuffle_vector(a, b, numbers) if step > 1 or first else a

    def taps(line: Any) -> list[list[Any]]:
        found = []
        for place, mask in zip(places, masks, strict=True):
            address = v.address(line, place)
            found.append(v.load_masked(address, mask) if mask else v.load(address))
        if shifted:
            found += [v.constant(0.0)] * (vectors + kernel // lanes + 1)
            return [
                [pick(*found[q + t // lanes : q + t // lanes + 2], t % lanes) for q in range(vectors)]
                for t in range(kernel)
            ]
        if step == 1:
            return [[value] for value in found]
        if form == NARROW:
            found = [value for value in found for _ in range(2)]
        return [[pick(*found[t // 2 * 2 : t // 2 * 2 + 2], t % 2)] for t in range(kernel)]

    return taps


Lines = tuple[Any, list[Any], list[Any]]
"""Of a tile: its first line, which lines of x are there, and which of y are wanted."""

BATCH = 8
"""Narrow planes that a tile visits before the next tile does: they stay in L1."""


def _planes(
    v: Vectors, kernel: int, step: int, rows: int, odd_h: int, odd_w: int, y: Any, x: Any, w: Any, bias: Any,
    count: Any, plane: Any, image: Any, terms: Any, slices: Any, slice_step: Any, begin: Any, end: Any, low_h: Any,
    height: Any, low_w: Any, width: Any, columns: Any, slope: Any,
) -> None:  # fmt: skip
    """Lines [begin, end) of a kernel x kernel sum in ``count`` planes, one after the other.

    y[j, l] = bias + sum over z < slices, a, b < kernel of
    w[z, a, b] * x[z * slice_step + (j * step + low_h + a) * width + l * step + low_w + b] for l < columns, where what
    is outside of x's height and width is not read.  Planes are ``plane`` apart in y and ``image`` in x, their weights
    ``terms``.  It goes in tiles of ``rows`` lines and one or two vectors of columns: a line is loaded once for all sums
    that want it, and weights stay in registers.

    Where ``odd_h`` and ``odd_w`` are not below 0, y has two lines and columns for each of these, and what they are
    sums of is in `_hits`.
    """
    builder, lanes = v.builder, v.lanes
    up = 1 if odd_h < 0 else 2
    hits_h, hits_w = _hits(kernel, odd_h), _hits(kernel, odd_w)
    most = 2 if up == 1 and _shifted(kernel, step, 2) else 1
    first_line, last_line, positions = begin, end, columns
    if up == 2:
        first_line = builder.lshr(begin, int64(1))
        last_line, positions = (builder.lshr(builder.add(bound, int64(1)), int64(1)) for bound in (end, columns))

    def last_full(at: Any, low: Any, high: Any, count: int) -> Any:
        """Where the last tile begins early enough to be full, if there is room."""
        return v.greater(low, v.lesser(at, builder.sub(high, int64(count))))

    def bits(left: Any) -> list[Any]:
        """Of a tile at this column: which elements of a line of x and which lanes are inside."""
        side = builder.add(builder.mul(left, int64(step)), low_w)
        inside = v.bits(builder.neg(side), builder.sub(width, side))
        return [inside, v.bits(int64(0), builder.sub(columns, builder.mul(left, int64(up))))]

    end_columns = [last_full(positions, int64(0), positions, vectors * lanes) for vectors in range(1, most + 1)]
    at_start, at_ends = bits(int64(0)), [bits(column) for column in end_columns]

    def bits_known(left: Any, vectors: int) -> list[Any]:
        """As `bits`; most ragged tiles are a line's first or last, and these do not wait for the answer."""
        begins, ends = (builder.icmp_signed("==", left, end) for end in (int64(0), end_columns[vectors - 1]))
        pairs = zip(at_start, at_ends[vectors - 1], strict=True)
        known, before = [builder.select(begins, *pair) for pair in pairs], builder.block
        with builder.if_then(builder.not_(builder.or_(begins, ends)), likely=False):
            computed, within = bits(left), builder.block
        return [v.either(a, before, b, within) for a, b in zip(known, computed, strict=True)]

    def lines_of(h: Any) -> Lines:
        """Of the tile at this line: where it begins, which lines of x are there and which of y are wanted."""
        top = last_full(h, first_line, last_line, rows)
        above = builder.add(builder.mul(top, int64(step)), low_h)
        reads = range((rows - 1) * step + len(hits_h))
        there = [builder.icmp_unsigned("<", builder.add(above, int64(i)), height) for i in reads]
        line, lines = builder.sub(builder.mul(top, int64(up)), begin), builder.sub(end, begin)
        wanted = [builder.icmp_unsigned("<", builder.add(line, int64(j)), lines) for j in range(rows * up)]
        return top, there, wanted

    def tile(number: Any, lines: Lines, left: Any, form: int, known: Sequence[Any], vectors: int = 1) -> None:
        """The tile of a plane at these lines and this column."""
        top, there, wanted = lines
        column = builder.add(builder.mul(left, int64(step)), low_w)
        above = builder.mul(builder.add(builder.mul(top, int64(step)), low_h), width)
        from_x = builder.add(builder.mul(number, image), builder.add(above, column))
        place = builder.mul(builder.add(builder.mul(top, columns), left), int64(up))
        high = rows * up
        lines_of_y = rows_of(v, 2 * high, v.address(y, builder.add(builder.mul(number, plane), place)), columns)
        if form != NARROW:  # the tile below lies too far away for the processor to guess it
            unread = builder.add(from_x, builder.mul(width, int64((rows - 1) * step + len(hits_h))))
            lines_of_x = rows_of(v, rows * step, v.address(x, unread), width)
            for line, q in product(range(rows * step), range(vectors)):
                v.prefetch(v.address(lines_of_x[line], q * lanes), write=False)
            for line, q in product(range(high, 2 * high), range(vectors * up)):
                v.prefetch(v.address(lines_of_y[line], q * lanes), write=True)
        _planes_tile(
            v, kernel, step, rows, hits_h, hits_w, lines_of_y[:high], v.address(x, from_x),
            v.address(w, builder.mul(number, terms)), v.address(bias, number), slices, slice_step, there, wanted, width,
            slope, form, known, vectors,
        )  # fmt: skip

    def narrow_planes(form: int) -> None:
        """Planes of one tile's width: a tile meets several of them, so that what it is made of is found once."""
        with cgutils.for_range_slice(builder, int64(0), count, int64(BATCH)) as (group, _):
            past = v.lesser(builder.add(group, int64(BATCH)), count)
            with cgutils.for_range_slice(builder, first_line, last_line, int64(rows)) as (h, _):
                lines = lines_of(h)
                with cgutils.for_range_slice(builder, group, past, int64(1)) as (number, _):
                    tile(number, lines, int64(0), form, at_start)

    def wide_plane(number: Any) -> None:
        """A plane line of tiles by line of tiles, of which those at its sides read by masks."""
        with cgutils.for_range_slice(builder, first_line, last_line, int64(rows)) as (h, _):
            lines = lines_of(h)
            with cgutils.for_range_slice(builder, int64(0), positions, int64(most * lanes)) as (at, _):
                left = builder.sub(positions, at)
                for vectors in range(1, most + 1):
                    low, high = (vectors - 1) * lanes, vectors * lanes if vectors < most else 1 << 62
                    above = builder.icmp_signed(">", left, int64(low))
                    with builder.if_then(builder.and_(above, builder.icmp_signed("<=", left, int64(high)))):
                        wide_tile(number, lines, at, vectors)

    def wide_tile(number: Any, lines: Lines, at: Any, vectors: int) -> None:
        """The tile at this column, or before it where it would not be full."""
        left = last_full(at, int64(0), positions, vectors * lanes)
        side = builder.add(builder.mul(left, int64(step)), low_w)
        reach = (vectors * lanes - 1) * step + (len(hits_w) if step == 1 else kernel + 1)
        fits = builder.icmp_signed("<=", builder.add(side, int64(reach)), width)
        whole = builder.and_(fits, builder.icmp_signed(">=", side, int64(0)))
        if up == 2:  # an odd line ends within a pair
            past = builder.mul(builder.add(left, int64(lanes)), int64(2))
            whole = builder.and_(whole, builder.icmp_signed("<=", past, columns))
        with builder.if_else(whole) as (quick, ragged):
            with quick:
                tile(number, lines, left, WHOLE, (), vectors)
            with ragged:
                tile(number, lines, left, MASKED, bits_known(left, vectors), vectors)

    span = len(hits_w)
    few = lanes // 2 if step == 2 else lanes - span + 1 if _shifted(span, step, 1) else 0
    with builder.if_else(builder.icmp_signed("<=", positions, int64(lanes))) as (narrow, broad):
        with narrow:
            if few <= 0:
                narrow_planes(MASKED)
            else:
                with builder.if_else(builder.icmp_signed("<=", positions, int64(few))) as (fewer, more):
                    with fewer:
                        narrow_planes(NARROW)
                    with more:
                        narrow_planes(MASKED)
        with broad, cgutils.for_range(builder, count) as loop:
            wide_plane(loop.index)


def _planes_tile(
    v: Vectors, kernel: int, step: int, rows: int, hits_h: Hits, hits_w: Hits, y: list[Any], x: Any, w: Any, bias: Any,
    slices: Any, slice_step: Any, there: list[Any], wanted: list[Any], width: Any, slope: Any, form: int,
    bits: Sequence[Any], vectors: int,
) -> None:  # fmt: skip
    """A tile of `_planes`, for those lines of x that are there, those of y wanted, and ``bits`` of them."""
    builder, lanes = v.builder, v.lanes
    up = len(y) // rows
    taps = _line_taps(v, len(hits_w), step, form, bits[0] if bits else None, vectors)

    def add_slice(z: Any, sums: list[Any]) -> list[Any]:
        lines = rows_of(v, len(there), v.address(x, builder.mul(z, slice_step)), width)
        weights = v.address(w, builder.mul(z, int64(kernel * kernel)))

        def weight(t: int) -> Any:
            return v.splat(v.load_scalar(v.address(weights, t)))

        held = [weight(t) for t in range(kernel * kernel if kernel == 3 or vectors == 1 else 0)]
        for i, inside in enumerate(there):
            before, results = builder.block, list(sums)
            with builder.if_then(inside):
                line = taps(lines[i])
                met = [(j, hit) for j in range(rows) if 0 <= i - j * step < len(hits_h) for hit in hits_h[i - j * step]]
                for t, hits in enumerate(hits_w):
                    for (j, (odd, a)), (side, b) in product(met, hits):
                        tap = a * kernel + b
                        factor = held[tap] if held else weight(tap)
                        for q in range(vectors):
                            place = ((j * up + odd) * up + side) * vectors + q
                            results[place] = v.fma(factor, line[t][q], results[place])
                within = builder.block
            sums = [v.either(old, before, new, within) if new is not old else old
                    for old, new in zip(sums, results, strict=True)]  # fmt: skip
        return sums

    sums = v.loop(slices, [v.constant(0.0)] * (rows * up * up * vectors), add_slice)
    results = finish_sums(v, sums, v.load_scalar(bias), slope)
    if up == 2:
        pairs = zip(results[::2], results[1::2], strict=True)
        results = [v.interleaved(even, odd, half) for even, odd in pairs for half in range(2)]
        vectors = 2
    stored = [v.mask(bits[1], q * lanes) if bits else None for q in range(vectors)]
    for j, asked in enumerate(wanted):
        with builder.if_then(asked):
            for q, mask in enumerate(stored):
                result, place = results[j * vectors + q], v.address(y[j], q * v.lanes)
                if mask is None:
                    v.store(result, place)
                else:
                    v.store_masked(result, place, mask)


DOT_LINES = 4
"""Lines of gy that meet a line of x together, for kernels whose sums leave registers for them."""


def _plane_dots(
    v: Vectors, kernel: int, step: int, together: int, to: Any, x: Any, gy: Any, slices: Any, slice_step: Any,
    lines: Any, low_h: Any, height: Any, low_w: Any, width: Any, columns: Any,
) -> None:  # fmt: skip
    """Sums of `_planes`'s other contraction, lanes apart.

    to[z, a, b, lane] += sum over j < lines and those l < columns whose lane it is of
    gy[j, l] * x[z * slice_step + (j * step + low_h + a) * width + l * step + low_w + b], for
    z < slices and a, b < kernel; what is outside of x's height and width is left out.  Sums of ``together`` rows
    of the kernel are in registers at once.
    """
    builder, lanes = v.builder, v.lanes
    reach = (lanes - 1) * step + (kernel if step == 1 else kernel + 1)

    def column(left: Any, side: Any, form: int, first: Any, x: Any, to: Any) -> None:
        """A vector of columns, all lines, some rows of the kernel from ``first`` on."""
        bits, stored = [], None
        if form != WHOLE:
            bits = [v.bits(builder.neg(side), builder.sub(width, side))]
            stored = v.mask(v.bits(int64(0), builder.sub(columns, left)))
        taps = _line_taps(v, kernel, step, form, *bits)

        def add_lines(j: Any, high: int, sums: list[Any]) -> list[Any]:
            """So many lines of gy from one on."""
            gradients = [
                v.load_masked(line, stored) if stored else v.load(line)
                for line in rows_of(v, high, v.address(gy, builder.add(builder.mul(j, columns), left)), columns)
            ]
            above = builder.add(builder.add(builder.mul(j, int64(step)), low_h), first)
            reads = (high - 1) * step + together
            sources = rows_of(v, reads, v.address(x, builder.add(builder.mul(above, width), side)), width)
            for i, source in enumerate(sources):
                before, results = builder.block, list(sums)
                with builder.if_then(builder.icmp_unsigned("<", builder.add(above, int64(i)), height), likely=True):
                    for b, (value,) in enumerate(taps(source)):
                        for j, gradient in enumerate(gradients):
                            if 0 <= i - j * step < together:
                                place = (i - j * step) * kernel + b
                                total = v.fma(gradient, value, results[place])
                                # A lane without an output must not bring an infinity to its product with zero.
                                results[place] = builder.select(stored, total, results[place]) if stored else total
                    within = builder.block
                sums = [v.either(old, before, new, within) if new is not old else old
                        for old, new in zip(sums, results, strict=True)]  # fmt: skip
            return sums

        sums, done = [v.constant(0.0)] * (together * kernel), int64(0)
        if kernel == 3 and ROWS == 8:
            groups = builder.sdiv(lines, int64(DOT_LINES))
            sums = v.loop(groups, sums, lambda g, held: add_lines(builder.mul(g, int64(DOT_LINES)), DOT_LINES, held))
            done = builder.mul(groups, int64(DOT_LINES))
        rest = builder.sub(lines, done)
        sums = v.loop(rest, sums, lambda j, held: add_lines(builder.add(done, j), 1, held))
        for t, total in enumerate(sums):
            place = v.address(to, t * lanes)
            v.store(builder.fadd(v.load(place), total), place)

    with cgutils.for_range(builder, slices) as each:
        here = v.address(x, builder.mul(each.index, slice_step))
        with cgutils.for_range_slice(builder, int64(0), int64(kernel), int64(together)) as (first, _):
            row = builder.add(builder.mul(each.index, int64(kernel)), first)
            sums_at = v.address(to, builder.mul(row, int64(kernel * lanes)))
            with cgutils.for_range_slice(builder, int64(0), columns, int64(lanes)) as (left, _):
                side = builder.add(builder.mul(left, int64(step)), low_w)
                fits = builder.icmp_signed("<=", builder.add(side, int64(reach)), width)
                full = builder.icmp_signed("<=", builder.add(left, int64(lanes)), columns)
                whole = builder.and_(builder.and_(fits, full), builder.icmp_signed(">=", side, int64(0)))
                with builder.if_else(whole) as (quick, ragged):
                    with quick:
                        column(left, side, WHOLE, first, here, sums_at)
                    with ragged:
                        column(left, side, MASKED, first, here, sums_at)


@typed
def planes(
    context, dtype, kernel, step, rows, odd_h, odd_w, y, x, w, bias, count, plane, image, terms, slices, slice_step,
    begin, end, low_h, height, low_w, width, columns, slope,
):  # fmt: skip
    """See `_planes`."""
    arguments = (
        y, x, w, bias, count, plane, image, terms, slices, slice_step, begin, end, low_h, height, low_w, width, columns,
        slope,
    )  # fmt: skip
    return emitted(5)(_planes)(context, dtype, kernel, step, rows, odd_h, odd_w, *arguments)


@typed
def plane_dots(
    context, dtype, kernel, step, together, to, x, gy, slices, slice_step, lines, low_h, height, low_w, width, columns
):  # fmt: skip
    """See `_plane_dots`."""
    arguments = to, x, gy, slices, slice_step, lines, low_h, height, low_w, width, columns
    return emitted(3)(_plane_dots)(context, dtype, kernel, step, together, *arguments)
