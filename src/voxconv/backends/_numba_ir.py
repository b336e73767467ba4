"""Vector code of the Numba backend, emitted as LLVM instructions through intrinsics.

Memory is addressed by integers, as bytes: the kernels get addresses from Python, and no array object is
made inside compiled code.  Where an element type matters, an intrinsic takes it as its first argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
_WIDE = "+avx512f" in _FEATURES
_FMA = "+fma" in _FEATURES or "+neon" in _FEATURES

VECTOR_BYTES = 64 if _WIDE else 32 if "+avx" in _FEATURES else 16
"""Bytes of a SIMD register."""

ROWS = 8 if _WIDE or "+neon" in _FEATURES else 4
"""Output channels of a full tile: 32 vector registers hold 8 x 3 sums with their operands, 16 hold 4 x 3."""

VECTORS, LONE_VECTORS = 3, 6
"""Registers of pixels in a tile, and in one of few output channels."""

INT64 = ir.IntType(64)
INT32 = ir.IntType(32)


def _int(value: int) -> ir.Constant:
    return ir.Constant(INT64, value)


class _Vectors:
    """Emits vector instructions over elements of one type."""

    def __init__(self, builder: ir.IRBuilder, scalar: ir.Type, element: Any) -> None:
        self.builder = builder
        self.scalar = scalar
        self.floating = isinstance(element, types.Float)
        self.signed = self.floating or element.signed
        self.size = element.bitwidth // 8
        # Narrower elements do not fill a register, since indices and masks beside them would take many.
        self.lanes = VECTOR_BYTES // max(self.size, 4)
        self.type = ir.VectorType(scalar, self.lanes)

    def address(self, base: ir.Value, elements: ir.Value | int) -> ir.Value:
        """``base`` plus so many elements."""
        if isinstance(elements, int):
            return self.builder.add(base, _int(elements * self.size)) if elements else base
        return self.builder.add(base, self.builder.mul(elements, _int(self.size)))

    def pointer(self, address: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        return self.builder.inttoptr(address, (kind or self.type).as_pointer())

    def load(self, address: ir.Value) -> ir.Value:
        return self.builder.load(self.pointer(address), align=self.size)

    def load_scalar(self, address: ir.Value) -> ir.Value:
        return self.builder.load(self.pointer(address, self.scalar))

    def load_int(self, address: ir.Value) -> ir.Value:
        return self.builder.load(self.pointer(address, INT64))

    def store(self, value: ir.Value, address: ir.Value) -> None:
        self.builder.store(value, self.pointer(address), align=self.size)

    def splat(self, value: ir.Value, lanes: int | None = None) -> ir.Value:
        """``value`` in every lane."""
        lanes = lanes or self.lanes
        undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(INT32, 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.type, [value] * self.lanes)

    def replaces(self, value: ir.Value, best: ir.Value) -> ir.Value:
        """Mask of the lanes that are greater than the best before, or not a number."""
        if not self.floating:
            compare = self.builder.icmp_signed if self.signed else self.builder.icmp_unsigned
            return compare(">", value, best)
        greater = self.builder.fcmp_ordered(">", value, best)
        return self.builder.or_(greater, self.builder.fcmp_unordered("uno", value, value))

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """A * b + c, fused where the machine has it: elsewhere a library call would take its place."""
        if not _FMA:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        return self._call("llvm.fma", self.type, [a, b, c])

    def within(self, numbers: list[int], low: ir.Value, high: ir.Value) -> ir.Value:
        """Mask of the lanes whose number is in [low, high); numbers are at least 0."""
        lanes = ir.Constant(ir.VectorType(INT32, self.lanes), numbers)
        most = _int(max(numbers) + 1)
        low, high = (self._least(self._least(bound, _int(0), ">"), most, "<") for bound in (low, high))
        low, high = (self.splat(self.builder.trunc(bound, INT32)) for bound in (low, high))
        above, below = self.builder.icmp_signed(">=", lanes, low), self.builder.icmp_signed("<", lanes, high)
        return self.builder.and_(above, below)

    def _least(self, a: ir.Value, b: ir.Value, order: str) -> ir.Value:
        return self.builder.select(self.builder.icmp_signed(order, a, b), a, b)

    def load_masked(self, address: ir.Value, mask: ir.Value) -> ir.Value:
        """Zero where the mask is off; nothing is read there."""
        zero = ir.Constant(self.type, None)
        arguments = [self.pointer(address), ir.Constant(INT32, self.size), mask, zero]
        return self._call("llvm.masked.load", self.type, arguments, pointer=True)

    def store_masked(self, value: ir.Value, address: ir.Value, mask: ir.Value) -> None:
        arguments = [value, self.pointer(address), ir.Constant(INT32, self.size), mask]
        self._call("llvm.masked.store", ir.VoidType(), arguments, pointer=True)

    def _call(self, name: str, result: ir.Type, arguments: list[ir.Value], pointer: bool = False) -> ir.Value:
        kind = f"v{self.lanes}{'f' if self.floating else 'i'}{8 * self.size}"
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(result, [value.type for value in arguments]),
            f"{name}.{kind}.p0{kind}" if pointer else f"{name}.{kind}",
        )  # fmt: skip
        return self.builder.call(function, arguments)


def _intrinsic(constants: int) -> Callable[[Callable[..., None]], Any]:
    """An intrinsic (element type, literals..., int64 or element...) -> None from an emitter of its code.

    The code stands in a function of its own, one for each element type and set of literals, so that a kernel
    stays small: LLVM's passes take longer than in proportion to a function's length.
    """

    def decorate(emit: Callable[..., None]) -> Any:
        def typing(context: Any, dtype: Any, *arguments: Any) -> Any:
            element = dtype.instance_type
            literals = [argument.literal_value for argument in arguments[:constants]]
            rest = [
                element if isinstance(argument, types.Float) else types.int64 for argument in arguments[constants:]
            ]
            name = "_".join(["vox", emit.__name__, str(element), *map(str, literals)])

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                operands = values[1 + constants :]
                kind = ir.FunctionType(ir.VoidType(), [value.type for value in operands])
                function = builder.module.globals.get(name)
                if function is None:
                    function = ir.Function(builder.module, kind, name)
                    function.linkage = "internal"
                    function.attributes.add("nounwind")
                    function.attributes.add("noinline")
                    inner = ir.IRBuilder(function.append_basic_block())
                    emit(_Vectors(inner, context.get_value_type(element), element), *literals, *function.args)
                    inner.ret_void()
                builder.call(function, operands)
                return context.get_dummy_value()

            return types.void(dtype, *arguments[:constants], *rest), codegen

        return typing

    return decorate


def _tile(v: _Vectors, rows: int, vectors: int, more: Any, n: Any, a: Any, b: Any, off: Any, c: Any, ldc: Any) -> None:
    """c[i * ldc + j] = sum over t < n of a[t * rows + i] * b[off[t] + j], for i < rows and j < vectors * lanes.

    ``more`` is 0, or 1 to go on from the sums that c holds.  Each sum is one chain in the order of t and stays
    in a register; nothing need be aligned.
    """
    builder = v.builder
    places = [
        v.address(v.address(c, builder.mul(ldc, _int(i))), j * v.lanes) for i in range(rows) for j in range(vectors)
    ]
    with builder.if_else(builder.icmp_signed("!=", more, _int(0))) as (taken, fresh):
        with taken:
            held = [v.load(place) for place in places]
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
    sums = [builder.phi(v.type) for _ in places]
    source = v.address(b, v.load_int(builder.add(off, builder.mul(t, _int(8)))))
    pixels = [v.load(v.address(source, j * v.lanes)) for j in range(vectors)]
    panel = v.address(a, builder.mul(t, _int(rows)))
    results = []
    for i in range(rows):
        weight = v.splat(v.load_scalar(v.address(panel, i)))
        results += [v.fma(weight, pixel, sums[i * vectors + j]) for j, pixel in enumerate(pixels)]
    following = builder.add(t, _int(1))
    t.add_incoming(_int(0), before)
    t.add_incoming(following, loop)
    for phi, start, result in zip(sums, starts, results, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(result, loop)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

    builder.position_at_end(after)
    for place, result in zip(places, results, strict=True):
        v.store(result, place)


def _row_tile(v: _Vectors, rows: int, vectors: int, n: Any, x: Any, row: Any, off: Any, d: Any, c: Any) -> None:
    """c[i * width + j] += sum over p < n of x[row[i] + off[p]] * d[p * width + j], for i < rows and j < width.

    ``width`` is vectors * lanes.  The products of one call are summed from zero, then added.
    """
    builder = v.builder
    starts = [v.address(x, v.load_int(builder.add(row, _int(8 * i)))) for i in range(rows)]
    before = builder.block
    loop, after = builder.append_basic_block("pixels"), builder.append_basic_block("done")
    builder.branch(loop)

    builder.position_at_end(loop)
    p = builder.phi(INT64)
    sums = [builder.phi(v.type) for _ in range(rows * vectors)]
    here = builder.mul(v.load_int(builder.add(off, builder.mul(p, _int(8)))), _int(v.size))
    line = v.address(d, builder.mul(p, _int(vectors * v.lanes)))
    lanes = [v.load(v.address(line, j * v.lanes)) for j in range(vectors)]
    results = []
    for i in range(rows):
        pixel = v.splat(v.load_scalar(builder.add(starts[i], here)))
        results += [v.fma(pixel, lane, sums[i * vectors + j]) for j, lane in enumerate(lanes)]
    following = builder.add(p, _int(1))
    p.add_incoming(_int(0), before)
    p.add_incoming(following, loop)
    for phi, result in zip(sums, results, strict=True):
        phi.add_incoming(v.constant(0.0), before)
        phi.add_incoming(result, loop)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

    builder.position_at_end(after)
    for i, result in enumerate(results):
        place = v.address(c, i * v.lanes)
        v.store(builder.fadd(v.load(place), result), place)


def _dot_row(v: _Vectors, to: Any, a: Any, b: Any, count: Any) -> None:
    """to[i] += sum of a[j] * b[j] over the j < count whose lane is i."""
    builder = v.builder
    total = cgutils.alloca_once_value(builder, v.load(to))
    with cgutils.for_range_slice(builder, _int(0), count, _int(v.lanes)) as (j, _):
        mask = v.within(list(range(v.lanes)), _int(0), builder.sub(count, j))
        left, right = (v.load_masked(v.address(side, j), mask) for side in (a, b))
        builder.store(v.fma(left, right, builder.load(total)), total)
    v.store(builder.load(total), to)


def _copy_row(v: _Vectors, step: int, to: Any, source: Any, low: Any, high: Any, columns: Any) -> None:
    """to[j] = source[j * step] for low <= j < high, else 0, for j < columns; step is 1 or 2.

    Whole vectors are stored, so up to lanes - 1 elements after the row are overwritten.
    """
    builder, lanes = v.builder, v.lanes
    with cgutils.for_range_slice(builder, _int(0), columns, _int(lanes)) as (j, _):
        first, last = builder.sub(low, j), builder.sub(high, j)
        begin = v.address(source, builder.mul(j, _int(step)))
        if step == 1:
            row = v.load_masked(begin, v.within(list(range(lanes)), first, last))
        else:
            even = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1 - i % 2 for i in range(lanes)])
            halves = []
            for half in range(2):
                mask = v.within([half * lanes // 2 + i // 2 for i in range(lanes)], first, last)
                halves.append(v.load_masked(v.address(begin, half * lanes), builder.and_(mask, even)))
            evens = ir.Constant(ir.VectorType(INT32, lanes), list(range(0, 2 * lanes, 2)))
            row = builder.shuffle_vector(*halves, evens)
        v.store(row, v.address(to, j))


def _finish(v: _Vectors, bias: Any, slope: Any) -> Callable[[Any], Any]:
    """What adds the bias to a vector of sums, and multiplies by the slope where the result is negative."""
    builder = v.builder
    zero, every_bias, every_slope = v.constant(0.0), v.splat(bias), v.splat(slope)
    flat = builder.fcmp_ordered("==", slope, ir.Constant(v.scalar, 0.0))

    def finish(sums: Any) -> Any:
        total = builder.fadd(sums, every_bias)
        less = builder.select(flat, zero, builder.fmul(total, every_slope))
        return builder.select(builder.fcmp_ordered("<", total, zero), less, total)

    return finish


def _taps_loop(v: _Vectors, vectors: int, n: Any, w: Any, off: Any, load: Callable[[Any, int, Any], Any]) -> list[Any]:
    """Sums over t < n of w[t] * load(off[t] in bytes, vector, t)."""
    builder = v.builder
    before = builder.block
    loop, after = builder.append_basic_block("taps"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", n, _int(0)), loop, after)
    builder.position_at_end(loop)
    t = builder.phi(INT64)
    sums = [builder.phi(v.type) for _ in range(vectors)]
    here = builder.mul(v.load_int(builder.add(off, builder.mul(t, _int(8)))), _int(v.size))
    weight = v.splat(v.load_scalar(v.address(w, t)))
    results = [v.fma(weight, load(here, j, t), sums[j]) for j in range(vectors)]
    following = builder.add(t, _int(1))
    t.add_incoming(_int(0), before)
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


def _rows(v: _Vectors, rows: int, base: Any, pitch: Any) -> list[Any]:
    """Addresses of so many rows, ``pitch`` elements apart."""
    return [v.address(base, v.builder.mul(pitch, _int(r))) for r in range(rows)]


def _taps_inside(
    v: _Vectors, rows: int, y: Any, ldy: Any, x: Any, ldx: Any, n: Any, w: Any, off: Any, bias: Any, slope: Any
) -> None:
    """y[r * ldy + j] = bias + sum over t < n of w[t] * x[r * ldx + off[t] + j], times slope where that is negative.

    For r < rows and one vector of j.
    """
    lines = _rows(v, rows, x, ldx)
    sums = _taps_loop(v, rows, n, w, off, lambda here, r, t: v.load(v.builder.add(lines[r], here)))
    finish = _finish(v, bias, slope)
    for total, place in zip(sums, _rows(v, rows, y, ldy), strict=True):
        v.store(finish(total), place)


def _taps_edge(
    v: _Vectors, rows: int, y: Any, ldy: Any, x: Any, ldx: Any, n: Any, w: Any, off: Any, shift: Any, at: Any,
    count: Any, size: Any, bias: Any, slope: Any,
) -> None:  # fmt: skip
    """As `_taps_inside` for j < count, without the terms for which shift[t] + at + j leaves a line of x."""
    builder = v.builder
    lanes = list(range(v.lanes))
    lines = _rows(v, rows, x, ldx)
    masks: dict[Any, Any] = {}

    def load(here: Any, r: int, t: Any) -> Any:
        if t not in masks:
            start = builder.add(v.load_int(builder.add(shift, builder.mul(t, _int(8)))), at)
            masks[t] = v.within(lanes, builder.neg(start), builder.sub(size, start))
        return v.load_masked(builder.add(lines[r], here), masks[t])

    sums = _taps_loop(v, rows, n, w, off, load)
    finish, stored = _finish(v, bias, slope), v.within(lanes, _int(0), count)
    for total, place in zip(sums, _rows(v, rows, y, ldy), strict=True):
        v.store_masked(finish(total), place, stored)


def _store_row(v: _Vectors, to: Any, source: Any, count: Any, bias: Any, slope: Any) -> None:
    """to[j] = source[j] + bias, times slope where that is negative; a slope of 0 gives 0 even for -inf."""
    builder = v.builder
    finish = _finish(v, bias, slope)

    def activated(j: Any) -> Any:
        return finish(v.load(v.address(source, j)))

    whole = builder.and_(count, _int(-v.lanes))
    with cgutils.for_range_slice(builder, _int(0), whole, _int(v.lanes)) as (j, _):
        v.store(activated(j), v.address(to, j))
    with builder.if_then(builder.icmp_signed("<", whole, count)):
        mask = v.within(list(range(v.lanes)), _int(0), builder.sub(count, whole))
        v.store_masked(activated(whole), v.address(to, whole), mask)


def _windows(
    v: _Vectors, step: int, edge: int, indexed: int, y: Any, index: Any, x: Any, rows: Any, n: Any, col: Any,
    dilation: Any, taps: Any, count: Any, size: Any, stride: Any,
) -> None:  # fmt: skip
    """Maxima of one vector of windows, and where they stand: lane i sees x[rows[r] + col + i * stride + t * dilation].

    For r < n and t < taps, in this order; one replaces the maximum if it is greater or not a number.  ``step`` is the
    stride if that is 1 or 2, else 0.  At an ``edge`` a column has to be in [0, size), and the first ``count`` lanes are
    stored; elsewhere all are.  ``index`` is written if ``indexed``.
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
        first, last = (builder.ashr(builder.add(bound, _int(half)), _int(half)) for bound in bounds)
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

    best, where = cgutils.alloca_once(builder, v.type), cgutils.alloca_once(builder, wide)
    seen = cgutils.alloca_once(builder, ir.VectorType(ir.IntType(1), lanes))
    builder.store(ir.Constant(seen.type.pointee, None), seen)
    if edge:
        builder.store(ir.Constant(v.type, None), best)
        builder.store(ir.Constant(wide, None), where)
    else:
        row = v.load_int(rows)
        builder.store(load(row, col)[0], best)
        builder.store(v.splat(builder.add(row, col)), where)
    with cgutils.for_range(builder, n) as outer:
        row = v.load_int(builder.add(rows, builder.mul(outer.index, _int(8))))
        with cgutils.for_range(builder, taps) as inner:
            column = builder.add(col, builder.mul(inner.index, dilation))
            value, inside = load(row, column)
            before = builder.load(best)
            better = v.replaces(value, before)
            if inside is not None:
                known = builder.load(seen)
                better = builder.and_(inside, builder.or_(better, builder.not_(known)))
                builder.store(builder.or_(known, inside), seen)
            builder.store(builder.select(better, value, before), best)
            if indexed:
                builder.store(
                    builder.select(better, v.splat(builder.add(row, column)), builder.load(where)), where
                )
    if edge:
        v.store_masked(builder.load(best), y, v.within(list(range(lanes)), _int(0), count))
    else:
        v.store(builder.load(best), y)
    if not indexed:
        return
    places = builder.add(builder.load(where), lane_columns)
    if not edge:
        builder.store(places, v.pointer(index, wide), align=8)
        return
    with cgutils.for_range(builder, count) as loop:
        place = builder.extract_element(places, loop.index)
        builder.store(place, v.pointer(builder.add(index, builder.mul(loop.index, _int(8))), INT64))


def _typed(function: Callable[..., Any]) -> Any:
    return intrinsic(prefer_literal=True)(function)


@_typed
def tile(context, dtype, rows, vectors, more, n, a, b, off, c, ldc):
    """See `_tile`."""
    return _intrinsic(2)(_tile)(context, dtype, rows, vectors, more, n, a, b, off, c, ldc)


@_typed
def row_tile(context, dtype, rows, vectors, n, x, row, off, d, c):
    """See `_row_tile`."""
    return _intrinsic(2)(_row_tile)(context, dtype, rows, vectors, n, x, row, off, d, c)


@_typed
def dot_row(context, dtype, to, a, b, count):
    """See `_dot_row`."""
    return _intrinsic(0)(_dot_row)(context, dtype, to, a, b, count)


@_typed
def copy_row(context, dtype, step, to, source, low, high, columns):
    """See `_copy_row`."""
    return _intrinsic(1)(_copy_row)(context, dtype, step, to, source, low, high, columns)


@_typed
def store_row(context, dtype, to, source, count, bias, slope):
    """See `_store_row`."""
    return _intrinsic(0)(_store_row)(context, dtype, to, source, count, bias, slope)


@_typed
def taps_inside(context, dtype, rows, y, ldy, x, ldx, n, w, off, bias, slope):
    """See `_taps_inside`."""
    return _intrinsic(1)(_taps_inside)(context, dtype, rows, y, ldy, x, ldx, n, w, off, bias, slope)


@_typed
def taps_edge(context, dtype, rows, y, ldy, x, ldx, n, w, off, shift, at, count, size, bias, slope):
    """See `_taps_edge`."""
    arguments = y, ldy, x, ldx, n, w, off, shift, at, count, size, bias, slope
    return _intrinsic(1)(_taps_edge)(context, dtype, rows, *arguments)


@_typed
def windows(
    context, dtype, step, edge, indexed, y, index, x, rows, n, col, dilation, taps, count, size, stride
):  # fmt: skip
    """See `_windows`."""
    arguments = y, index, x, rows, n, col, dilation, taps, count, size, stride
    return _intrinsic(3)(_windows)(context, dtype, step, edge, indexed, *arguments)


@intrinsic
def pointer(context, dtype, address):
    """``address`` as a pointer to elements of a type, to be indexed."""
    kind = types.CPointer(dtype.instance_type)

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[1], context.get_value_type(kind))

    return kind(dtype, types.int64), codegen
