"""Vector code of the Numba backend, emitted as LLVM instructions through intrinsics.

Memory is addressed by integers, as bytes: the kernels get addresses from Python, and no array object is
made inside compiled code.  Where an element type matters, an intrinsic takes it as its first argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
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

WEIGHT_ROWS = (8, 9) if ROWS == 8 else (6, 5)
"""(channel, tap) rows of the two tiles of the gradient to the weight: one of them leaves less of itself empty."""

VECTORS, LONE_VECTORS = 3, 6
"""Registers of pixels in a tile, and in one of few output channels."""

INT64 = ir.IntType(64)
INT32 = ir.IntType(32)


def job_type(fields: str) -> np.dtype[Any]:
    """A record of int64, but for a float64 ``slope``; a field with a star is one for each axis: name_d, name_h, name_w.

    Plain fields are what Numba compiles fastest.
    """
    names = [name for field in fields.split() for name in _axes(field)]
    return np.dtype([(name, np.float64 if name == "slope" else np.int64) for name in names])


def _axes(field: str) -> list[str]:
    return [f"{field[:-1]}_{axis}" for axis in "dhw"] if field.endswith("*") else [field]


def int64(value: int) -> ir.Constant:
    """A constant."""
    return ir.Constant(INT64, value)


class Vectors:
    """Emits vector instructions over elements of one type."""

    def __init__(self, builder: ir.IRBuilder, scalar: ir.Type, element: Any) -> None:
        self.builder = builder
        self.scalar = scalar
        self.element = element
        self.floating = isinstance(element, types.Float)
        self.signed = self.floating or element.signed
        self.size = element.bitwidth // 8
        # Narrower elements do not fill a register, since indices and masks beside them would take many.
        self.lanes = VECTOR_BYTES // max(self.size, 4)
        self.type = ir.VectorType(scalar, self.lanes)

    def address(self, base: ir.Value, elements: ir.Value | int) -> ir.Value:
        """``base`` plus so many elements."""
        if isinstance(elements, int):
            return self.builder.add(base, int64(elements * self.size)) if elements else base
        return self.builder.add(base, self.builder.mul(elements, int64(self.size)))

    def pointer(self, address: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        return self.builder.inttoptr(address, (kind or self.type).as_pointer())

    def load(self, address: ir.Value) -> ir.Value:
        return self.builder.load(self.pointer(address), align=self.size)

    def load_scalar(self, address: ir.Value) -> ir.Value:
        return self.builder.load(self.pointer(address, self.scalar))

    def loadint64(self, address: ir.Value) -> ir.Value:
        return self.builder.load(self.pointer(address, INT64))

    def prefetch(self, address: ir.Value, *, write: bool) -> None:
        """Ask for the cache line that holds this address; it need not be there."""
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        hints = (ir.Constant(INT32, value) for value in (int(write), 3, 1))
        self.builder.call(function, [self.pointer(address, ir.IntType(8)), *hints])

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

    @property
    def least(self) -> float:
        """What no element is less than."""
        if self.floating:
            return -math.inf
        return -(1 << (8 * self.size - 1)) if self.signed else 0

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
        return self._call("llvm.fma", self.type, [a, b, c], self.kind)

    def within(self, numbers: list[int], low: ir.Value, high: ir.Value) -> ir.Value:
        """Mask of the lanes whose number is in [low, high); numbers are at least 0."""
        lanes = ir.Constant(ir.VectorType(INT32, self.lanes), numbers)
        most = int64(max(numbers) + 1)
        low, high = (self.lesser(self.greater(bound, int64(0)), most) for bound in (low, high))
        low, high = (self.splat(self.builder.trunc(bound, INT32)) for bound in (low, high))
        above, below = self.builder.icmp_signed(">=", lanes, low), self.builder.icmp_signed("<", lanes, high)
        return self.builder.and_(above, below)

    def bits(self, low: ir.Value, high: ir.Value) -> ir.Value:
        """An integer with a bit for each of 63 elements from some place on: whether its number is in [low, high)."""

        def below(bound: ir.Value) -> ir.Value:
            bound = self.lesser(self.greater(bound, int64(0)), int64(63))
            return self.builder.shl(int64(1), bound)

        return self.builder.and_(self.builder.sub(below(high), int64(1)), self.builder.neg(below(low)))

    def mask(self, bits: ir.Value, first: int = 0) -> ir.Value:
        """The mask of those `bits` that begin with this one."""
        few = self.builder.trunc(self.builder.lshr(bits, int64(first)), ir.IntType(self.lanes))
        return self.builder.bitcast(few, ir.VectorType(ir.IntType(1), self.lanes))

    def first(self, count: int) -> ir.Constant | None:
        """The mask of so many lanes, or None if that is all of them."""
        kind = ir.VectorType(ir.IntType(1), self.lanes)
        return None if count >= self.lanes else ir.Constant(kind, [lane < count for lane in range(self.lanes)])

    def interleaved(self, a: ir.Value, b: ir.Value, half: int) -> ir.Value:
        """The lower or upper half of what two vectors make by turns."""
        numbers = [half * self.lanes // 2 + i // 2 + i % 2 * self.lanes for i in range(self.lanes)]
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, self.lanes), numbers))

    def lesser(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def greater(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def load_masked(self, address: ir.Value, mask: ir.Value, other: float = 0) -> ir.Value:
        """``other`` where the mask is off; nothing is read there."""
        arguments = [self.pointer(address), ir.Constant(INT32, self.size), mask, self.constant(other)]
        return self._call("llvm.masked.load", self.type, arguments, self.kind, pointer=True)

    def store_masked(self, value: ir.Value, address: ir.Value, mask: ir.Value) -> None:
        """Store the lanes whose mask is on, of any type."""
        kind = value.type.element
        name = "i64" if kind == INT64 else self.kind
        align = ir.Constant(INT32, 8 if kind == INT64 else self.size)
        arguments = [value, self.pointer(address, value.type), align, mask]
        self._call("llvm.masked.store", ir.VoidType(), arguments, name, pointer=True)

    def either(self, a: ir.Value, from_a: ir.Block, b: ir.Value, from_b: ir.Block) -> ir.Value:
        """The value of the way that was taken."""
        result = self.builder.phi(a.type)
        result.add_incoming(a, from_a)
        result.add_incoming(b, from_b)
        return result

    def loop(
        self, count: ir.Value, start: list[Any], body: Callable[[ir.Value, list[Any]], list[Any]]
    ) -> list[ir.Value]:
        """Vectors after ``count`` rounds of ``body``, which takes a round's number and the vectors before it."""
        builder = self.builder
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
        return [self.either(first, before, result, inside) for first, result in zip(start, results, strict=True)]

    @property
    def kind(self) -> str:
        """The element type in LLVM's names."""
        return f"{'f' if self.floating else 'i'}{8 * self.size}"

    def _call(
        self, name: str, result: ir.Type, arguments: list[ir.Value], element: str, pointer: bool = False
    ) -> ir.Value:
        kind = f"v{self.lanes}{element}"
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(result, [value.type for value in arguments]),
            f"{name}.{kind}.p0{kind}" if pointer else f"{name}.{kind}",
        )  # fmt: skip
        return self.builder.call(function, arguments)


def called(v: Vectors, emit: Callable[..., None], literals: list[int], operands: list[Any]) -> None:
    """Call the code of an emitter (vectors, literals..., operands...).

    The code stands in a function of its own, one for each element type and set of literals, so that a kernel
    stays small: LLVM's passes take longer than in proportion to a function's length.
    """
    module = v.builder.module
    name = "_".join(["vox", emit.__name__, str(v.element), *map(str, literals)])
    function = module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in operands])
        function = ir.Function(module, kind, name)
        function.linkage = "internal"
        function.attributes.add("nounwind")
        function.attributes.add("noinline")
        inner = ir.IRBuilder(function.append_basic_block())
        emit(Vectors(inner, v.scalar, v.element), *literals, *function.args)
        inner.ret_void()
    v.builder.call(function, operands)


def emitted(constants: int) -> Callable[[Callable[..., None]], Any]:
    """An intrinsic (element type, literals..., int64 or element...) -> None from an emitter of its code."""

    def decorate(emit: Callable[..., None]) -> Any:
        def typing(context: Any, dtype: Any, *arguments: Any) -> Any:
            element = dtype.instance_type
            literals = [argument.literal_value for argument in arguments[:constants]]
            rest = [element if isinstance(argument, types.Float) else types.int64 for argument in arguments[constants:]]

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                v = Vectors(builder, context.get_value_type(element), element)
                called(v, emit, literals, list(values[1 + constants :]))
                return context.get_dummy_value()

            return types.void(dtype, *arguments[:constants], *rest), codegen

        return typing

    return decorate


def typed(function: Callable[..., Any]) -> Any:
    """An intrinsic that sees constants as such."""
    return intrinsic(prefer_literal=True)(function)


@intrinsic
def pointer(context, dtype, address):
    """``address`` as a pointer to elements of a type, to be indexed."""
    kind = types.CPointer(dtype.instance_type)

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[1], context.get_value_type(kind))

    return kind(dtype, types.int64), codegen


@intrinsic
def record(context, jobs):
    """The record that a pointer points to."""

    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], context.get_value_type(jobs.dtype))

    return jobs.dtype(jobs), codegen
