"""Convolution and max-pooling inside functions that Numba compiles.

Within ``@njit``, ``voxconv.conv1d/2d/3d`` and ``voxconv.max_pool1d/2d/3d`` become calls of the native
kernels, through the exported functions of the shared library: neither Python nor the GIL is touched.
Numba finds `init` as an entry point and calls it before it compiles a function or loads one from its
cache on disk, so users import nothing from here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload, register_jitable

import voxconv
from voxconv import _native
from voxconv.backends.native import BAND_LIMIT, TYPES, WINOGRAD_GAIN

__all__ = ["init"]

INT64, INT32, DOUBLE, BYTES = ir.IntType(64), ir.IntType(32), ir.DoubleType(), ir.IntType(8).as_pointer()
lib = _native.lib
OK, AGAIN, NO_MEMORY = int(lib.VOX_OK), int(lib.VOX_AGAIN), int(lib.VOX_NO_MEMORY)
ABI = int(lib.VOX_ABI)
WINOGRAD, DIRECT, IM2COL = int(lib.VOX_WINOGRAD), int(lib.VOX_DIRECT), int(lib.VOX_IM2COL)


# --------------------------------------------------------------------------------------------------
# The exported functions.  A problem is a tuple of int64, word for word the struct of the C interface.


def _external(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [value.type for value in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _struct(builder: Any, words: Any) -> Any:
    """A struct on the stack, filled from a tuple of its words."""
    count = words.type.count
    place = cgutils.alloca_once(builder, ir.ArrayType(INT64, count))
    for i in range(count):
        builder.store(builder.extract_value(words, i), cgutils.gep_inbounds(builder, place, 0, i))
    return builder.bitcast(place, BYTES)


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Address of an array's elements; null for None."""
    if not isinstance(kind, types.Array):
        return ir.Constant(BYTES, None)
    return builder.bitcast(context.make_array(kind)(context, builder, value).data, BYTES)


@intrinsic
def _abi(context):
    def codegen(context, builder, signature, values):
        return _external(builder, "vox_abi", INT64, [])

    return types.int64(), codegen


@intrinsic
def _gain(context, words):
    """How much faster Winograd's algorithm is estimated to be; -1 where it does not apply."""

    def codegen(context, builder, signature, values):
        tile = cgutils.alloca_once(builder, ir.ArrayType(INT64, 3))
        gain = cgutils.alloca_once(builder, DOUBLE)
        arguments = [_struct(builder, values[0]), builder.bitcast(tile, BYTES), builder.bitcast(gain, BYTES)]
        status = _external(builder, "vox_conv_winograd_tile", INT32, arguments)
        applies = builder.icmp_signed("==", status, ir.Constant(INT32, OK))
        return builder.select(applies, builder.load(gain), ir.Constant(DOUBLE, -1.0))

    return types.float64(words), codegen


@intrinsic
def _workspace(context, words):
    """Bytes of scratch for one thread, or a negative status."""

    def codegen(context, builder, signature, values):
        arguments = [_struct(builder, values[0]), ir.Constant(INT64, 1)]
        return _external(builder, "vox_conv_workspace_bytes", INT64, arguments)

    return types.int64(words), codegen


@intrinsic
def _convolve(context, words, x, weight, bias, y):
    """Run a convolution to its end; its status."""

    def codegen(context, builder, signature, values):
        arrays = [_data(context, builder, *pair) for pair in zip(signature.args[1:], values[1:], strict=True)]
        status = _external(builder, "vox_conv_whole", INT32, [_struct(builder, values[0]), *arrays])
        return builder.sext(status, INT64)

    return types.int64(words, x, weight, bias, y), codegen


@intrinsic
def _pool(context, words, x, y, indices):
    """Run a max-pool to its end, slice by slice; its status."""

    def codegen(context, builder, signature, values):
        cursor = cgutils.alloca_once(builder, INT64)
        builder.store(ir.Constant(INT64, 0), cursor)
        arrays = [_data(context, builder, *pair) for pair in zip(signature.args[1:], values[1:], strict=True)]
        problem, threads = _struct(builder, values[0]), _external(builder, "vox_get_num_threads", INT64, [])
        loop, done = builder.append_basic_block("slice"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        status = _external(
            builder, "vox_max_pool", INT32, [problem, threads, *arrays, builder.bitcast(cursor, BYTES)]
        )
        builder.cbranch(builder.icmp_signed("==", status, ir.Constant(INT32, AGAIN)), loop, done)
        builder.position_at_end(done)
        return builder.sext(status, INT64)

    return types.int64(words, x, y, indices), codegen


# --------------------------------------------------------------------------------------------------
# Arguments: what depends on types is decided while compiling, what depends on values is checked while running


def _refuse(function: str, rule: str) -> None:
    raise TypingError(f"{function} inside @njit: {rule}")


def _is_none(kind: Any) -> bool:
    return kind is None or (isinstance(kind, (types.NoneType, types.Omitted)) and getattr(kind, "value", None) is None)


def _plain(kind: Any) -> Any:
    """The type of what was passed, also where it is a default or a constant."""
    if isinstance(kind, types.Omitted):
        kind = kind.value
    if isinstance(kind, types.Literal):
        return kind.literal_type
    return kind


def _three(function: str, argument: str, kind: Any, rank: int, fill: int) -> Any:
    """From a size or one for each axis to three, with ``fill`` in front."""
    kind = _plain(kind)
    one = isinstance(kind, (int, types.Integer)) and not isinstance(kind, bool)
    each = isinstance(kind, types.BaseTuple) and len(kind) == rank and all(isinstance(t, types.Integer) for t in kind)
    if not (one or each):
        _refuse(function, f"{argument} must be an integer or a tuple of {rank}")
    forms: dict[tuple[int, bool], Any] = {
        (1, False): lambda v: (fill, fill, v),
        (2, False): lambda v: (fill, v, v),
        (3, False): lambda v: (v, v, v),
        (1, True): lambda v: (fill, fill, v[0]),
        (2, True): lambda v: (fill, v[0], v[1]),
        (3, True): lambda v: (v[0], v[1], v[2]),
    }
    return register_jitable(forms[rank, each])


def _pairs(function: str, kind: Any, rank: int) -> tuple[Any, Any]:
    """From padding, a size, one for each axis or a pair for each, to three before and three after."""
    plain: Any = _plain(kind)
    if isinstance(plain, types.BaseTuple) and len(plain) == rank and isinstance(next(iter(plain)), types.BaseTuple):
        if not all(isinstance(p, types.BaseTuple) and len(p) == 2 for p in plain):
            _refuse(function, "padding must hold one (before, after) pair for each axis")
        forms = {
            1: lambda v, i: (0, 0, v[0][i]),
            2: lambda v, i: (0, v[0][i], v[1][i]),
            3: lambda v, i: (v[0][i], v[1][i], v[2][i]),
        }
        pick = register_jitable(forms[rank])
        return register_jitable(lambda v: pick(v, 0)), register_jitable(lambda v: pick(v, 1))
    same = _three(function, "padding", kind, rank, 0)
    return same, same


@cache
def _shapes(rank: int, batched: bool) -> tuple[Any, Any, Any, Any]:
    """Samples, channels and spatial axes of an image's shape, and the shape of an image from these."""
    spatial = {
        (1, False): lambda s: (1, 1, s[1]),
        (2, False): lambda s: (1, s[1], s[2]),
        (3, False): lambda s: (s[1], s[2], s[3]),
        (1, True): lambda s: (1, 1, s[2]),
        (2, True): lambda s: (1, s[2], s[3]),
        (3, True): lambda s: (s[2], s[3], s[4]),
    }
    whole = {
        (1, False): lambda n, c, s: (c, s[2]),
        (2, False): lambda n, c, s: (c, s[1], s[2]),
        (3, False): lambda n, c, s: (c, s[0], s[1], s[2]),
        (1, True): lambda n, c, s: (n, c, s[2]),
        (2, True): lambda n, c, s: (n, c, s[1], s[2]),
        (3, True): lambda n, c, s: (n, c, s[0], s[1], s[2]),
    }
    samples = (lambda s: s[0]) if batched else (lambda s: 1)
    channels = (lambda s: s[1]) if batched else (lambda s: s[0])
    key = rank, batched
    return tuple(register_jitable(f) for f in (samples, channels, spatial[key], whole[key]))  # type: ignore[return-value]


def _contiguous(kind: Any) -> Any:
    """What makes an array of this type C-contiguous, if it is not."""
    return register_jitable((lambda a: a) if kind.layout == "C" else (lambda a: np.ascontiguousarray(a)))


@register_jitable
def _apart(a, b):
    """Whether two contiguous arrays share no byte."""
    start, other = a.ctypes.data, b.ctypes.data
    return start + a.nbytes <= other or other + b.nbytes <= start


def _result(function: str, argument: str, out: Any, dtype: Any, ndim: int) -> Any:
    """What gives the array to write: a fresh one, or the caller's after a check."""
    if _is_none(out):
        return register_jitable(lambda out, shape: np.empty(shape, dtype))
    fits = isinstance(out, types.Array) and (out.dtype, out.ndim, out.layout) == (dtype, ndim, "C") and out.mutable
    if not fits:
        _refuse(function, f"{argument} must be a writable C-contiguous array of {dtype} with {ndim} axes")

    def given(out, shape):
        if out.shape != shape:
            raise ValueError("voxconv inside @njit: out does not have the result's shape")
        return out

    return register_jitable(given)


def _image(function: str, kind: Any, rank: int, dtypes: dict[Any, int]) -> bool:
    """Check the input's type; whether it has a sample axis."""
    if not isinstance(kind, types.Array) or kind.ndim not in (rank + 1, rank + 2):
        _refuse(function, f"input must be an array of {rank + 2} axes, or {rank + 1} without the samples")
    if kind.dtype not in dtypes or not kind.aligned:
        _refuse(function, f"input cannot be an array of {kind.dtype}; convert it first")
    return bool(kind.ndim == rank + 2)


ELEMENTS = {getattr(types, dtype.name): code for dtype, code in TYPES.items()}
FLOATS = {kind: code for kind, code in ELEMENTS.items() if isinstance(kind, types.Float)}


@register_jitable
def _check(status):
    if status == NO_MEMORY:
        raise MemoryError("voxconv could not allocate its workspace")
    if status != OK:
        raise ValueError("voxconv: the sizes of this problem cannot be counted in 64 bits")


@register_jitable
def _check_abi():
    if _abi() != ABI:
        raise RuntimeError("this function was compiled against another version of voxconv: clear its cache")


# --------------------------------------------------------------------------------------------------
# The functions


def _overload_conv(rank: int) -> None:
    name = f"conv{rank}d"

    @overload(getattr(voxconv, name), prefer_literal=True)
    def typed(
        input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, out=None
    ):
        batched = _image(name, input, rank, FLOATS)
        dtype = input.dtype
        if not isinstance(weight, types.Array) or weight.ndim != rank + 2 or weight.dtype != dtype:
            _refuse(name, f"weight must be an array of {dtype} with {rank + 2} axes")
        unbiased = _is_none(bias)
        if not unbiased and not (isinstance(bias, types.Array) and (bias.ndim, bias.dtype) == (1, dtype)):
            _refuse(name, f"bias must be None or an array of {dtype} with one axis")
        if not isinstance(_plain(groups), (int, types.Integer)):
            _refuse(name, "groups must be an integer")
        relu = isinstance(activation, types.StringLiteral) and activation.literal_value == "relu"
        if not relu and not _is_none(activation):
            _refuse(name, 'activation must be None or "relu", written out')
        strides, dilations = (_three(name, *pair, rank, 1) for pair in (("stride", stride), ("dilation", dilation)))
        befores, afters = _pairs(name, padding, rank)
        samples, channels, spatial, whole = _shapes(rank, batched)
        kernel_of, result = _shapes(rank, True)[2], _result(name, "out", out, dtype, rank + batched + 1)
        input_c, weight_c = _contiguous(input), _contiguous(weight)
        bias_c = register_jitable(lambda a: a) if unbiased else _contiguous(bias)
        code, active = FLOATS[dtype], (1 << 32) * int(lib.VOX_RELU if relu else lib.VOX_IDENTITY)

        def run(
            input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, out=None
        ):
            _check_abi()
            n, c, k = samples(input.shape), channels(input.shape), weight.shape[0]
            size, kernel = spatial(input.shape), kernel_of(weight.shape)
            step, gap, before, after = strides(stride), dilations(dilation), befores(padding), afters(padding)
            if groups < 1 or c % groups != 0 or k % groups != 0 or weight.shape[1] != c // groups:
                raise ValueError("voxconv.conv inside @njit: channels, weight and groups do not fit together")
            if not unbiased and bias.shape[0] != k:
                raise ValueError("voxconv.conv inside @njit: bias must have one value for each output channel")
            count = (0, 0, 0)
            for i in range(3):
                if size[i] < 1 or kernel[i] < 1 or step[i] < 1 or gap[i] < 1 or before[i] < 0 or after[i] < 0:
                    raise ValueError("voxconv.conv inside @njit: an axis is empty, a step below 1 or padding below 0")
                if kernel[i] - 1 > (size[i] - 1 + before[i] + after[i]) // gap[i]:
                    raise ValueError("voxconv.conv inside @njit: the kernel is larger than the padded input")
                free = size[i] + before[i] + after[i] - (kernel[i] - 1) * gap[i] - 1
                count = (count[1], count[2], free // step[i] + 1)
            y = result(out, whole(n, k, count))
            x, w, b = input_c(input), weight_c(weight), bias_c(bias)
            if not (_apart(x, y) and _apart(w, y)):
                raise ValueError("voxconv.conv inside @njit: out overlaps an input")
            if y.size == 0:
                return y
            # the tail: slope, once, points
            head, tail = (n, c, k, groups, *size, *kernel, *step, *before, *gap, *count, code), (0, 1, 0)
            algorithm = WINOGRAD
            if _gain((*head, WINOGRAD + active, *tail)) < WINOGRAD_GAIN:
                needed = _workspace((*head, DIRECT + active, *tail))
                algorithm = IM2COL if needed < 0 or needed > BAND_LIMIT else DIRECT
            _check(_convolve((*head, algorithm + active, *tail), x, w, b, y))
            return y

        return run


def _overload_max_pool(rank: int) -> None:
    name = f"max_pool{rank}d"

    @overload(getattr(voxconv, name), prefer_literal=True)
    def typed(
        input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False, out=None
    ):
        batched = _image(name, input, rank, ELEMENTS)
        indexed = getattr(return_indices, "literal_value", getattr(return_indices, "value", return_indices))
        if not isinstance(indexed, bool):
            _refuse(name, "return_indices must be True or False, written out")
        kernels = _three(name, "kernel_size", kernel_size, rank, 1)
        strides = kernels if _is_none(stride) else _three(name, "stride", stride, rank, 1)
        as_kernel = _is_none(stride)
        dilations = _three(name, "dilation", dilation, rank, 1)
        befores, afters = _pairs(name, padding, rank)
        samples, channels, spatial, whole = _shapes(rank, batched)
        pair = isinstance(out, types.BaseTuple) and len(out) == 2
        if indexed and not (pair or _is_none(out)):
            _refuse(name, "out must be a pair of arrays, for values and indices")
        values_of = _result(name, "out", out[0] if pair else out, input.dtype, rank + batched + 1)
        places_of = _result(name, "out[1]", out[1] if pair else None, types.int64, rank + batched + 1)
        first = register_jitable((lambda o: o[0]) if pair else (lambda o: o))
        second = register_jitable((lambda o: o[1]) if pair else (lambda o: o))
        input_c, code = _contiguous(input), ELEMENTS[input.dtype]

        def prepare(input, kernel_size, stride, padding, dilation, ceil_mode):
            _check_abi()
            size, kernel, gap = spatial(input.shape), kernels(kernel_size), dilations(dilation)
            step = strides(kernel_size) if as_kernel else strides(stride)
            before, after = befores(padding), afters(padding)
            count = (0, 0, 0)
            for i in range(3):
                if size[i] < 1 or kernel[i] < 1 or step[i] < 1 or gap[i] < 1 or before[i] < 0 or after[i] < 0:
                    raise ValueError("voxconv.max_pool inside @njit: axis, kernel or step below 1, or padding below 0")
                padded = size[i] + before[i] + after[i]
                if kernel[i] - 1 > (2**62) // gap[i] or padded < 0:
                    raise ValueError("voxconv.max_pool inside @njit: the window spans more than 64 bits can count")
                extent = (kernel[i] - 1) * gap[i] + 1
                if before[i] >= extent or after[i] >= extent:
                    raise ValueError("voxconv.max_pool inside @njit: padding must be smaller than the window")
                free = padded - extent
                outputs = free // step[i] + 1
                if ceil_mode and free % step[i] != 0 and outputs * step[i] < size[i] + before[i]:
                    outputs += 1
                if outputs < 1:
                    raise ValueError("voxconv.max_pool inside @njit: the window is larger than the padded input")
                if size[i] < gap[i] and kernel[i] > 1:
                    for o in range(min(outputs, -(-before[i] // step[i]))):
                        if (o * step[i] - before[i]) % gap[i] >= size[i]:
                            raise ValueError("voxconv.max_pool inside @njit: a window holds no element")
                count = (count[1], count[2], outputs)
            n, c = samples(input.shape), channels(input.shape)
            if c < 1:
                raise ValueError("voxconv.max_pool inside @njit: there are no channels")
            words = (n * c, *size, *kernel, *step, *before, *after, *gap, *count, code, 0)
            return words, whole(n, c, count)

        prepare = register_jitable(prepare)

        def values_only(
            input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False, out=None
        ):
            words, shape = prepare(input, kernel_size, stride, padding, dilation, ceil_mode)
            x, y = input_c(input), values_of(out, shape)
            if not _apart(x, y):
                raise ValueError("voxconv.max_pool inside @njit: out overlaps the input")
            if y.size > 0:
                _check(_pool(words, x, y, None))
            return y

        def with_indices(
            input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False, out=None
        ):
            words, shape = prepare(input, kernel_size, stride, padding, dilation, ceil_mode)
            x, y, indices = input_c(input), values_of(first(out), shape), places_of(second(out), shape)
            if not (_apart(x, y) and _apart(x, indices) and _apart(y, indices)):
                raise ValueError("voxconv.max_pool inside @njit: out overlaps the input or itself")
            if y.size > 0:
                _check(_pool(words, x, y, indices))
            return y, indices

        return with_indices if indexed else values_only


@cache
def init() -> None:
    """Make the library's symbols known to Numba, and its functions known inside ``@njit``."""
    binding.load_library_permanently(str(Path(str(_native.__file__)).with_name("libvoxconv_kernels.so")))
    for rank in (1, 2, 3):
        _overload_conv(rank)
        _overload_max_pool(rank)
