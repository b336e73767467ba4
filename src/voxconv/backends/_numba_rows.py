"""Windows that read their input in place, by vectors: depthwise sums and maxima."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
"""How a line is read: whole, by masks, or by masks where no more than half of the lanes are wanted."""


def _line_taps(v: Vectors, kernel: int, step: int, form: int, there: Any = None) -> Callable[[Any], list[Any]]:
    """What loads a line's elements from an address on: for each tap those of all lanes.

    ``there`` has a bit for each element that may be read, unless the form is `WHOLE`.  At a step of 2 even and odd
    taps come from the same two loads.
    """
    builder = v.builder
    loads = kernel if step == 1 else kernel + kernel % 2
    places = [t if step == 1 else t // 2 * 2 + t % 2 * v.lanes for t in range(loads)]
    masks = [] if form == WHOLE else [v.mask(there, place) for place in places]

    def taps(line: Any) -> list[Any]:
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

    return taps


BATCH = 8
"""Narrow planes that a tile visits before the next tile does: they stay in L1."""


def _planes(
    v: Vectors, kernel: int, step: int, rows: int, y: Any, x: Any, w: Any, bias: Any, count: Any, plane: Any,
    image: Any, terms: Any, slices: Any, slice_step: Any, begin: Any, end: Any, low_h: Any, height: Any, low_w: Any,
    width: Any, columns: Any, slope: Any,
) -> None:  # fmt: skip
    """Lines [begin, end) of a kernel x kernel sum in ``count`` planes, one after the other.

    y[j, l] = bias + sum over z < slices, a, b < kernel of
    w[z, a, b] * x[z * slice_step + (j * step + low_h + a) * width + l * step + low_w + b] for l < columns, where what
    is outside of x's height and width is not read.  Planes are ``plane`` apart in y and ``image`` in x, their weights
    ``terms``.  It goes in tiles of ``rows`` lines and a vector of columns: a line is loaded once for all sums that
    want it, and weights stay in registers.
    """
    builder, lanes = v.builder, v.lanes
    reach = (lanes - 1) * step + (kernel if step == 1 else kernel + 1)

    def last_full(at: Any, low: Any, high: Any, count: int) -> Any:
        """Where the last tile begins early enough to be full, if there is room."""
        return v.greater(low, v.lesser(at, builder.sub(high, int64(count))))

    def bits(left: Any) -> list[Any]:
        """Of a tile at this column: which elements of a line of x and which lanes are inside."""
        side = builder.add(builder.mul(left, int64(step)), low_w)
        inside = v.bits(builder.neg(side), builder.sub(width, side))
        return [inside, v.bits(int64(0), builder.sub(columns, left))]

    end_column = last_full(columns, int64(0), columns, lanes)
    at_ends = bits(int64(0)), bits(end_column)

    def bits_known(left: Any) -> list[Any]:
        """As `bits`; most ragged tiles are a line's first or last, and these do not wait for the answer."""
        begins, ends = (builder.icmp_signed("==", left, end) for end in (int64(0), end_column))
        known, before = [builder.select(begins, *pair) for pair in zip(*at_ends, strict=True)], builder.block
        with builder.if_then(builder.not_(builder.or_(begins, ends)), likely=False):
            computed, within = bits(left), builder.block
        return [_either(v, a, before, b, within) for a, b in zip(known, computed, strict=True)]

    def lines_of(h: Any) -> tuple[Any, list[Any], list[Any]]:
        """Of the tile at this line: where it begins, which lines of x are there and which of y are wanted."""
        top = last_full(h, begin, end, rows)
        above = builder.add(builder.mul(top, int64(step)), low_h)
        reads = range((rows - 1) * step + kernel)
        there = [builder.icmp_unsigned("<", builder.add(above, int64(i)), height) for i in reads]
        return top, there, [builder.icmp_signed("<", builder.add(top, int64(j)), end) for j in range(rows)]

    def tile(number: Any, lines: tuple[Any, list[Any], list[Any]], left: Any, form: int, known: Sequence[Any]) -> None:
        """The tile of a plane at these lines and this column."""
        top, there, wanted = lines
        column = builder.add(builder.mul(left, int64(step)), low_w)
        line = builder.mul(builder.add(builder.mul(top, int64(step)), low_h), width)
        from_x = builder.add(builder.mul(number, image), builder.add(line, column))
        to = builder.add(builder.mul(number, plane), builder.add(builder.mul(top, columns), left))
        _planes_tile(
            v, kernel, step, rows, _rows(v, rows, v.address(y, to), columns), v.address(x, from_x),
            v.address(w, builder.mul(number, terms)), v.address(bias, number), slices, slice_step, there, wanted, width,
            slope, form, known,
        )  # fmt: skip

    def narrow_planes(form: int) -> None:
        """Planes of one tile's width: a tile meets several of them, so that what it is made of is found once."""
        with cgutils.for_range_slice(builder, int64(0), count, int64(BATCH)) as (group, _):
            past = v.lesser(builder.add(group, int64(BATCH)), count)
            with cgutils.for_range_slice(builder, begin, end, int64(rows)) as (h, _):
                lines = lines_of(h)
                with cgutils.for_range_slice(builder, group, past, int64(1)) as (number, _):
                    tile(number, lines, int64(0), form, at_ends[0])

    def wide_plane(number: Any) -> None:
        """A plane line of tiles by line of tiles, of which those at its sides read by masks."""
        with cgutils.for_range_slice(builder, begin, end, int64(rows)) as (h, _):
            lines = lines_of(h)
            with cgutils.for_range_slice(builder, int64(0), columns, int64(lanes)) as (at, _):
                left = last_full(at, int64(0), columns, lanes)
                side = builder.add(builder.mul(left, int64(step)), low_w)
                fits = builder.icmp_signed("<=", builder.add(side, int64(reach)), width)
                whole = builder.and_(fits, builder.icmp_signed(">=", side, int64(0)))
                with builder.if_else(whole) as (quick, ragged):
                    with quick:
                        tile(number, lines, left, WHOLE, ())
                    with ragged:
                        tile(number, lines, left, MASKED, bits_known(left))

    with builder.if_else(builder.icmp_signed("<=", columns, int64(lanes))) as (narrow, broad):
        with narrow:
            if step == 1:
                narrow_planes(MASKED)
            else:
                with builder.if_else(builder.icmp_signed("<=", columns, int64(lanes // 2))) as (few, more):
                    with few:
                        narrow_planes(NARROW)
                    with more:
                        narrow_planes(MASKED)
        with broad, cgutils.for_range(builder, count) as loop:
            wide_plane(loop.index)


def _planes_tile(
    v: Vectors, kernel: int, step: int, rows: int, y: list[Any], x: Any, w: Any, bias: Any, slices: Any,
    slice_step: Any, there: list[Any], wanted: list[Any], width: Any, slope: Any, form: int, bits: Sequence[Any] = (),
) -> None:  # fmt: skip
    """A tile of `_planes`, for those lines of x that are there, those of y wanted, and ``bits`` of them."""
    builder = v.builder
    taps = _line_taps(v, kernel, step, form, *bits[:1])

    def add_slice(z: Any, sums: list[Any]) -> list[Any]:
        lines = _rows(v, len(there), v.address(x, builder.mul(z, slice_step)), width)
        weights = v.address(w, builder.mul(z, int64(kernel * kernel)))
        weight = [v.splat(v.load_scalar(v.address(weights, t))) for t in range(kernel * kernel)]
        for i, inside in enumerate(there):
            before, results = builder.block, list(sums)
            with builder.if_then(inside):
                line = taps(lines[i])
                for t in range(kernel):
                    for j in range(rows):
                        if 0 <= i - j * step < kernel:
                            results[j] = v.fma(weight[(i - j * step) * kernel + t], line[t], results[j])
                within = builder.block
            sums = [_either(v, old, before, new, within) if new is not old else old
                    for old, new in zip(sums, results, strict=True)]  # fmt: skip
        return sums

    sums = _loop(v, slices, [v.constant(0.0)] * rows, add_slice)
    results = finish_sums(v, sums, v.load_scalar(bias), slope)
    stored = v.mask(bits[1]) if bits else None
    for result, place, asked in zip(results, y, wanted, strict=True):
        with builder.if_then(asked):
            if stored is None:
                v.store(result, place)
            else:
                v.store_masked(result, place, stored)


def _either(v: Vectors, a: Any, from_a: Any, b: Any, from_b: Any) -> Any:
    """The value of the way that was taken."""
    result = v.builder.phi(a.type)
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
    held = [builder.phi(value.type) for value in start]
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


def _window_taps(
    v: Vectors, step: int, edge: int, columns: Any, size: Any
) -> Callable[[Any, Any], tuple[list[Any], list[Any]]]:
    """What loads neighbouring taps, as many as a step has elements, of all lanes; see `_windows`.

    It returns them, and the vectors that they were in.
    """
    builder, lanes, wide = v.builder, v.lanes, max(step, 1)
    every, least = list(range(lanes)), v.constant(v.least)

    def shuffled(here: Any, column: Any) -> tuple[list[Any], list[Any]]:
        raw = []
        for k in range(wide):
            address, begin = v.address(here, k * lanes), builder.add(column, int64(k * lanes))
            inside = v.within(every, builder.neg(begin), builder.sub(size, begin)) if edge else None
            raw.append(v.load_masked(address, inside, v.least) if edge else v.load(address))
        found = []
        for t in range(wide):
            value = raw[0]
            for k in range(1, wide):  # the first round sorts two vectors, each further one adds what its vector has
                picks = []
                for i in every:
                    vector, lane = divmod(t + i * step, lanes)
                    picks.append(lanes + lane if vector == k else lane if k == 1 else i)
                value = builder.shuffle_vector(value, raw[k], ir.Constant(ir.VectorType(INT32, lanes), picks))
            found.append(value)
        return found, raw

    def one_by_one(here: Any, column: Any) -> tuple[list[Any], list[Any]]:
        at = builder.add(columns, v.splat(column))
        low = builder.icmp_signed(">=", at, ir.Constant(at.type, None))
        inside = builder.and_(low, builder.icmp_signed("<", at, v.splat(size)))
        value = ir.Constant(v.type, ir.Undefined)
        for i in every:  # a lane outside looks at the row's first element
            lane = ir.Constant(INT32, i)
            there = builder.extract_element(inside, lane)
            move = builder.select(there, builder.extract_element(columns, lane), builder.neg(column))
            value = builder.insert_element(value, v.load_scalar(v.address(here, move)), lane)
        value = builder.select(inside, value, least)
        return [value], [value]

    return shuffled if step else one_by_one


def _windows(
    v: Vectors, step: int, known: int, edge: int, indexed: int, lines: Any, jump: Any, pitch: Any, blocks: Any, y: Any,
    index: Any, x: Any, at: Any, rows: Any, n: Any, col: Any, dilation: Any, taps: Any, count: Any, size: Any,
    stride: Any, spoilt: Any,
) -> None:  # fmt: skip
    """Maxima of vectors of windows, and where they are: lane i sees x[at + rows[r] + col + i * stride + t * dilation].

    For r < n and t < taps, in this order; one replaces the maximum if it is greater or not a number.  ``rows[0]`` is 0.
    ``step`` is the stride where taps are shuffled out of whole vectors, with a dilation of 1 if it is above 1, and 0
    where they come one by one.  ``known`` is the number of taps if that is common, else 0.  There are ``lines`` of
    windows, ``jump`` apart in x and ``pitch`` in y.  Inside there are ``blocks`` vectors beside each other; at an
    ``edge`` there is one, a column has to be in [0, size), and the first ``count`` lanes are stored.  Where
    ``indexed``, ``index`` is written unless it is 0; positions in a window have 32 bits except where taps come one by
    one.  Shuffled taps lose what is not a number, but say so: then there is a 1 in ``spoilt``.
    """
    builder, lanes, wide = v.builder, v.lanes, max(step, 1)
    place = INT64 if v.size == 8 or not step else INT32
    longs = ir.VectorType(INT64, lanes)
    columns: Any = ir.Constant(longs, [i * step for i in range(lanes)])
    if not step:
        columns = builder.mul(ir.Constant(longs, list(range(lanes))), v.splat(stride))
    load = _window_taps(v, step, edge, columns, size)

    def narrow(value: Any) -> Any:
        kind = ir.VectorType(place, lanes) if isinstance(value.type, ir.VectorType) else place
        return value if place == INT64 else builder.trunc(value, kind)

    quick = bool(step) and v.floating
    others = [ir.Constant(ir.VectorType(ir.IntType(1), lanes), None)] if quick else []

    def meet(value: Any, move: Any, state: list[Any], present: Any = None) -> list[Any]:
        better = builder.fcmp_ordered(">", value, state[0]) if quick else v.replaces(value, state[0])
        if present is not None:
            better = builder.and_(better, v.splat(present))
        where = [builder.select(better, v.splat(narrow(move)), state[1])] if indexed else []
        return [builder.select(better, value, state[0]), *where, *state[1 + indexed :]]

    def look(raw: list[Any], state: list[Any]) -> list[Any]:
        """Note what is not a number, in two vectors at a time."""
        for a, b in zip(raw[::2], [*raw[1::2], raw[-1]], strict=False) if quick else ():
            state = [*state[:-1], builder.or_(state[-1], builder.fcmp_unordered("uno", a, b))]
        return state

    def row(line: Any, column: Any, move: Any, state: list[Any] | None) -> list[Any]:
        """The taps of a row, which begins ``move`` elements after the first; without a state its first tap is one."""
        seen = []
        for base in range(0, known, wide):
            values, raw = load(v.address(line, base), builder.add(column, int64(base)))
            seen += raw
            for t, value in enumerate(values[: known - base]):
                if state is None:
                    state = [*[value, start(column)][: 1 + indexed], *others]
                else:
                    state = meet(value, builder.add(move, int64(base + t)), state)
        if known:
            return look(seen, state or [])

        def group(number: Any, held: list[Any]) -> list[Any]:
            base = builder.mul(builder.mul(number, int64(wide)), dilation)
            values, raw = load(v.address(line, base), builder.add(column, base))
            held = look(raw, held)
            for t, value in enumerate(values):
                present = builder.icmp_signed("<", builder.add(base, int64(t)), taps) if t else None
                held = meet(value, builder.add(move, builder.add(base, int64(t))), held, present)
            return held

        groups = builder.sdiv(builder.add(taps, int64(wide - 1)), int64(wide))
        return _loop(v, groups, state or [*[v.constant(v.least), start(column)][: 1 + indexed], *others], group)

    def start(column: Any) -> Any:
        """Each lane's first tap inside, which counts if none is greater than the least of all numbers."""
        zero: Any = ir.Constant(longs, None)
        if not edge:
            return narrow(zero)
        outside = builder.sub(zero, builder.add(columns, v.splat(column)))
        outside = builder.select(builder.icmp_signed(">", outside, zero), outside, zero)
        if step > 1:
            return narrow(outside)
        before = builder.block
        with builder.if_then(builder.icmp_signed("!=", dilation, int64(1))):
            every = v.splat(dilation)
            up = builder.add(outside, builder.sub(every, ir.Constant(longs, [1] * lanes)))
            spread, within = builder.mul(builder.sdiv(up, every), every), builder.block
        return narrow(_either(v, outside, before, spread, within))

    def block(y: Any, index: Any, at: Any, column: Any) -> None:
        line = v.address(x, builder.add(at, column))
        initial = row(line, column, int64(0), None)

        def further(number: Any, state: list[Any]) -> list[Any]:
            move = v.loadint64(builder.add(rows, builder.mul(builder.add(number, int64(1)), int64(8))))
            return row(v.address(line, move), column, move, state)

        best, *rest = _loop(v, builder.sub(n, int64(1)), initial, further)
        where, lost = rest[:indexed], rest[indexed:]
        if lost:
            bits = builder.bitcast(lost[0], ir.IntType(lanes))
            with builder.if_then(builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)), likely=False):
                builder.store(int64(1), v.pointer(spoilt, INT64))
        stored = v.within(list(range(lanes)), int64(0), count) if edge else None
        if edge:
            v.store_masked(best, y, stored)
        else:
            v.store(best, y)
        if not where:
            return
        with builder.if_then(builder.icmp_signed("!=", index, int64(0))):
            moves = where[0] if place == INT64 else builder.sext(where[0], longs)
            places = builder.add(builder.add(moves, columns), v.splat(builder.add(at, column)))
            if edge:
                v.store_masked(places, index, stored)
            else:
                builder.store(places, v.pointer(index, longs), align=8)

    unwanted = builder.icmp_signed("==", index, int64(0))
    with cgutils.for_range(builder, lines) as outer:
        line = builder.mul(outer.index, pitch)
        here = builder.add(at, builder.mul(outer.index, jump))
        with cgutils.for_range(builder, int64(1) if edge else blocks) as inner:
            beside = builder.mul(inner.index, int64(lanes))
            move = builder.add(line, beside)
            there = builder.select(unwanted, int64(0), builder.add(index, builder.mul(move, int64(8))))
            block(v.address(y, move), there, here, builder.add(col, builder.mul(beside, int64(step))))


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
def planes(
    context, dtype, kernel, step, rows, y, x, w, bias, count, plane, image, terms, slices, slice_step, begin, end,
    low_h, height, low_w, width, columns, slope,
):  # fmt: skip
    """See `_planes`."""
    arguments = (
        y, x, w, bias, count, plane, image, terms, slices, slice_step, begin, end, low_h, height, low_w, width, columns,
        slope,
    )  # fmt: skip
    return emitted(3)(_planes)(context, dtype, kernel, step, rows, *arguments)


@typed
def windows(
    context, dtype, step, known, edge, indexed, lines, jump, pitch, blocks, y, index, x, at, rows, n, col, dilation,
    taps, count, size, stride, spoilt,
):  # fmt: skip
    """See `_windows`."""
    arguments = lines, jump, pitch, blocks, y, index, x, at, rows, n, col, dilation, taps, count, size, stride, spoilt
    return emitted(4)(_windows)(context, dtype, step, known, edge, indexed, *arguments)


