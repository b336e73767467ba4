"""Maxima of windows that read their input in place, by vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from voxconv.backends._numba_ir import INT32, INT64, Vectors, emitted, int64, typed


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
        return v.loop(groups, state or [*[v.constant(v.least), start(column)][: 1 + indexed], *others], group)

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
        return narrow(v.either(outside, before, spread, within))

    def block(y: Any, index: Any, at: Any, column: Any) -> None:
        line = v.address(x, builder.add(at, column))
        initial = row(line, column, int64(0), None)

        def further(number: Any, state: list[Any]) -> list[Any]:
            move = v.loadint64(builder.add(rows, builder.mul(builder.add(number, int64(1)), int64(8))))
            return row(v.address(line, move), column, move, state)

        best, *rest = v.loop(builder.sub(n, int64(1)), initial, further)
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
def windows(
    context, dtype, step, known, edge, indexed, lines, jump, pitch, blocks, y, index, x, at, rows, n, col, dilation,
    taps, count, size, stride, spoilt,
):  # fmt: skip
    """See `_windows`."""
    arguments = lines, jump, pitch, blocks, y, index, x, at, rows, n, col, dilation, taps, count, size, stride, spoilt
    return emitted(4)(_windows)(context, dtype, step, known, edge, indexed, *arguments)
