"""Problems: every shape, every rule, every rejection, in Python integers.

A problem is a frozen description of what is to be computed: sizes, strides, paddings, element
type.  It is made here from what the caller passed, or the caller gets an exception that names the
function, the argument, its value, the rule and the shapes.  Whatever lies below (plan, backends,
C) may assume that a problem is valid.

Axes are kept as tuples in the caller's order, so one description serves 1-D, 2-D and 3-D.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.errors import rejection

__all__ = ["Activation", "ConvProblem", "WindowProblem"]

Array = npt.NDArray[Any]
Pairs = tuple[tuple[int, int], ...]

INT64_MAX = 2**63 - 1
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
FLOAT32_MAX = float(np.finfo(np.float32).max)
OPERATIONS = ("conv", "conv_input_grad", "conv_weight_grad")
INT64 = np.dtype(np.int64)
PLAIN = frozenset((int, str, type(None)))
PADDING_WORDS = ("valid", "same", "same_lower")


@dataclass(frozen=True, slots=True)
class Activation:
    """``y if y >= 0 else slope * y``; a slope of 0 is ReLU, and NaN stays NaN."""

    name: str
    slope: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvProblem:
    """One convolution layer; its forward pass and both gradients share this description.

    ``input`` is (n, c, *spatial), ``weight`` (k, c / groups, *kernel) and the output
    (n, k, *output).  ``padding`` holds one (before, after) pair per axis; ``after`` may be negative
    where a transposed convolution's output_padding asks for it, which only shortens ``output``.
    """

    n: int
    c: int
    k: int
    groups: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    output: tuple[int, ...]
    dtype: np.dtype[Any]
    activation: Activation | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A call looks its problem up several times.  Integers hash alike in every process, so a pickle stays true.
        sizes = (self.n, self.c, self.k, self.groups, self.spatial, self.kernel, self.stride, self.padding,
                 self.dilation, self.output)  # fmt: skip
        object.__setattr__(self, "_hash", hash(sizes))

    def __hash__(self) -> int:
        return self._hash

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(n, c, *spatial)."""
        return (self.n, self.c, *self.spatial)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(k, c / groups, *kernel)."""
        return (self.k, self.c // self.groups, *self.kernel)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(n, k, *output)."""
        return (self.n, self.k, *self.output)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the direct sum, padding counted as the kernel does."""
        return 2 * math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    @property
    def bytes(self) -> int:
        """Bytes of input, weight and output, each touched once."""
        sizes = (self.input_shape, self.weight_shape, self.output_shape)
        return sum(math.prod(shape) for shape in sizes) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowProblem:
    """A window that walks over planes: pooling, unfold and fold.

    ``planes`` counts the (sample, channel) images of size ``spatial``; each gives one image of
    size ``output``.
    """

    n: int
    c: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    output: tuple[int, ...]
    dtype: np.dtype[Any]
    count_include_pad: bool = True
    divisor_override: int | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sizes = (self.n, self.c, self.spatial, self.kernel, self.stride, self.padding, self.dilation, self.output)
        object.__setattr__(self, "_hash", hash(sizes))  # as for `ConvProblem`

    def __hash__(self) -> int:
        return self._hash

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial)

    @property
    def planes(self) -> int:
        """Images, one per sample and channel."""
        return self.n * self.c

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(n, c, *spatial)."""
        return (self.n, self.c, *self.spatial)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(n, c, *output)."""
        return (self.n, self.c, *self.output)

    @property
    def in_pairs(self) -> bool:
        """Whether floating windows are two wide, lie side by side and cover the planes."""
        return (
            self.dtype.kind == "f" and self.kernel[-1] == 2 and max(self.kernel) == 2 and self.stride == self.kernel
            and all(d == 1 for d in self.dilation) and all(pair == (0, 0) for pair in self.padding)
            and all(o * k == s for o, k, s in zip(self.output, self.kernel, self.spatial, strict=True))
        )  # fmt: skip

    @property
    def columns_shape(self) -> tuple[int, int, int]:
        """Shape of ``unfold``'s result: (n, c * taps, output positions)."""
        return (self.n, self.c * math.prod(self.kernel), math.prod(self.output))


# --------------------------------------------------------------------------------------------------
# Integers, tuples and words


def _integer(function: str, argument: str, value: object, part: object) -> int:
    if isinstance(part, (bool, np.bool_)):
        raise TypeError(rejection(function, argument, value, "must be integers, not bool"))
    try:
        if isinstance(part, np.ndarray):
            raise TypeError
        result = operator.index(part)  # type: ignore[arg-type]
    except TypeError:
        kind = type(part).__name__
        raise TypeError(rejection(function, argument, value, f"must be integers, not {kind}")) from None
    if not -INT64_MAX - 1 <= result <= INT64_MAX:
        raise OverflowError(rejection(function, argument, value, "must fit a 64-bit integer"))
    return result


def integers(
    function: str, argument: str, value: object, rank: int, minimum: int, **shapes: Any
) -> tuple[int, ...]:
    """One integer for all axes, or one per axis, none below ``minimum``."""
    if isinstance(value, (str, bytes)):
        raise TypeError(rejection(function, argument, value, "must be an integer or integers", **shapes))
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1):
        result = tuple(_integer(function, argument, value, part) for part in value)
        if len(result) == 1:
            result *= rank
        if len(result) != rank:
            rule = f"must be one integer or {rank}, not {len(result)}"
            raise ValueError(rejection(function, argument, value, rule, **shapes))
    else:
        result = (_integer(function, argument, value, value),) * rank
    if min(result) < minimum:
        rule = f"must be >= {minimum} in every dimension"
        raise ValueError(rejection(function, argument, value, rule, **shapes))
    return result


def integer(function: str, argument: str, value: object, minimum: int, **shapes: Any) -> int:
    """One integer, not below ``minimum``; a sequence is refused even if it holds a single one."""
    if isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError(rejection(function, argument, value, "must be one integer", **shapes))
    return integers(function, argument, value, 1, minimum, **shapes)[0]


def _size(function: str, argument: str, value: object, **shapes: Any) -> tuple[int, ...]:
    """A full shape: a sequence of integers, none negative."""
    if type(value) is tuple and all(type(part) is int and 0 <= part <= INT64_MAX for part in value):
        return value
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        raise TypeError(rejection(function, argument, value, "must be a tuple of integers", **shapes))
    result = tuple(_integer(function, argument, value, part) for part in value)
    if result and min(result) < 0:
        raise ValueError(rejection(function, argument, value, "must not be negative", **shapes))
    return result


def extents(
    function: str, kernel: tuple[int, ...], dilation: tuple[int, ...], **shapes: Any
) -> tuple[int, ...]:
    """Input positions that a dilated kernel spans, per axis."""
    result = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    if max(result) > INT64_MAX:
        rule = f"spans {max(result)} positions with its dilation, which must fit a 64-bit integer"
        raise OverflowError(rejection(function, "dilation", dilation, rule, kernel=kernel, **shapes))
    return result


def _padding(
    function: str,
    value: object,
    spatial: tuple[int, ...],
    extent: tuple[int, ...],
    stride: tuple[int, ...],
    **shapes: Any,
) -> Pairs:
    """Every accepted spelling of padding as one (before, after) pair per axis."""
    rank = len(spatial)
    if isinstance(value, str):
        if value not in PADDING_WORDS:
            raise ValueError(rejection(function, "padding", value, f"must be one of {PADDING_WORDS}", **shapes))
        pairs = []
        for size, span, step in zip(spatial, extent, stride, strict=True):
            total = 0 if value == "valid" else max((-(-size // step) - 1) * step + span - size, 0)
            less, more = total // 2, total - total // 2
            pairs.append((more, less) if value == "same_lower" else (less, more))
    elif isinstance(value, (list, tuple)) and any(isinstance(part, (list, tuple)) for part in value):
        if len(value) != rank or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in value):
            rule = f"must hold one (before, after) pair for each of {rank} axes"
            raise ValueError(rejection(function, "padding", value, rule, **shapes))
        flat = tuple(_integer(function, "padding", value, part) for pair in value for part in pair)
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
    else:
        pairs = [(p, p) for p in integers(function, "padding", value, rank, 0, **shapes)]
    for size, (before, after) in zip(spatial, pairs, strict=True):
        if before < 0 or after < 0:
            raise ValueError(rejection(function, "padding", value, "must not be negative", **shapes))
        if size + before + after > INT64_MAX:
            rule = f"pads an axis to {size + before + after}, which must fit a 64-bit integer"
            raise OverflowError(rejection(function, "padding", value, rule, **shapes))
    return tuple(pairs)


def _check_bytes(function: str, argument: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    # NumPy refuses an empty array too if its other axes overflow, so an axis of 0 counts as 1.
    size = math.prod(shape if 0 not in shape else [max(axis, 1) for axis in shape]) * dtype.itemsize
    if size > INT64_MAX:
        rule = f"takes {size} bytes, which must fit a 64-bit integer"
        raise OverflowError(rejection(function, argument, shape, rule))


def activation_of(function: str, value: object) -> Activation | None:
    """Read ``activation=``: None, "relu" or ("leaky_relu", slope)."""
    rule = 'must be None, "relu" or ("leaky_relu", slope)'
    if value is None or isinstance(value, Activation):
        return value
    if isinstance(value, str) and value == "relu":
        return Activation("relu", 0.0)
    if isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str) and value[0] == "leaky_relu":
        slope = value[1]
        if isinstance(slope, (bool, np.bool_)) or not isinstance(slope, (int, float, np.integer, np.floating)):
            raise TypeError(rejection(function, "activation", value, "must have a real slope"))
        if not -FLOAT32_MAX <= slope <= FLOAT32_MAX:
            raise ValueError(rejection(function, "activation", value, "must have a slope that is finite in float32"))
        return Activation("leaky_relu", float(slope))
    raise ValueError(rejection(function, "activation", value, rule))


# --------------------------------------------------------------------------------------------------
# Arrays


def as_array(function: str, argument: str, value: object, kinds: str) -> Array:
    """The caller's argument as a NumPy array whose dtype kind is one of ``kinds``.

    float16 is widened to float32 here; every other conversion waits until all rules are checked.
    """
    if type(value) is np.ndarray and (value.dtype is FLOAT32 or value.dtype is FLOAT64):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(rejection(function, argument, type(value).__name__, "must not be masked: fill it first"))
    if value is None or isinstance(value, (str, bytes)):
        raise TypeError(rejection(function, argument, value, "must be an array"))
    array = np.asarray(value)
    names = {"f": "float32, float64, float16", "i": "integers"}
    if array.dtype.kind not in kinds or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        accepted = ", ".join(names[kind] for kind in "fi" if kind in kinds)
        rule = f"is not supported; accepted: {accepted}"
        raise TypeError(rejection(function, f"{argument}.dtype", str(array.dtype), rule))
    if array.dtype.kind == "f" and array.dtype.itemsize == 2:
        return array.astype(np.float32)
    return array


def prepared(array: Array, dtype: np.dtype[Any]) -> Array:
    """The same values, C-contiguous, aligned, in native byte order; a copy only where needed."""
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        return array
    return np.require(array, dtype=dtype, requirements=("C_CONTIGUOUS", "ALIGNED"))


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def batched_shape(function: str, argument: str, shape: tuple[int, ...], rank: int) -> tuple[bool, tuple[int, ...]]:
    """(whether the sample axis is there, the shape with it)."""
    if len(shape) == rank + 2:
        return True, shape
    if len(shape) == rank + 1:
        return False, (1, *shape)
    rule = f"must have {rank + 2} dimensions (N, C, and {rank} spatial), or {rank + 1} without N; got {len(shape)}"
    raise ValueError(rejection(function, f"{argument}.shape", shape, rule))


def _check_spatial(function: str, argument: str, shape: tuple[int, ...]) -> None:
    if min(shape[2:]) < 1:
        raise ValueError(rejection(function, f"{argument}.shape", shape, "must not have an empty spatial axis"))


def _check_channels(function: str, argument: str, shape: tuple[int, ...]) -> None:
    if shape[1] < 1:
        raise ValueError(rejection(function, f"{argument}.shape", shape, "must have at least one channel"))


def _floating(function: str, **arrays: Array | None) -> np.dtype[Any]:
    """The one dtype that the floating arguments share."""
    return _shared(function, **{name: a.dtype for name, a in arrays.items() if a is not None})


def _shared(function: str, **dtypes: np.dtype[Any]) -> np.dtype[Any]:
    given = list(dtypes.values())
    if (given[0] is FLOAT32 or given[0] is FLOAT64) and given.count(given[0]) == len(given):
        return given[0]
    found = {name: _native(dtype) for name, dtype in dtypes.items() if dtype.kind == "f"}
    shared = set(found.values())
    if len(shared) > 1:
        listing = ", ".join(f"{name} is {dtype}" for name, dtype in found.items())
        raise TypeError(f"{function}: floating arguments must share one dtype: {listing}")
    return shared.pop()


def out_array(
    function: str, out: object, shape: tuple[int, ...], dtype: np.dtype[Any], argument: str = "out"
) -> Array | None:
    """Check ``out=``: a writable array of exactly this shape and dtype, no two elements in one place."""
    if out is None:
        return None
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(rejection(function, argument, type(out).__name__, "must be a NumPy array"))
    if out.shape != shape:
        raise ValueError(rejection(function, f"{argument}.shape", out.shape, f"must have shape {shape}"))
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(rejection(function, f"{argument}.dtype", str(out.dtype), f"must have dtype {dtype}"))
    flags = out.flags
    if not flags.writeable:
        raise ValueError(rejection(function, f"{argument}.shape", out.shape, "is read-only; it must be writable"))
    if not flags.aligned:
        raise ValueError(rejection(function, f"{argument}.shape", out.shape, "must be aligned to its dtype"))
    steps = () if flags.c_contiguous else zip(out.shape, out.strides, strict=True)
    if out.size and any(step == 0 and size > 1 for size, step in steps):
        rule = "must not be a broadcast: several elements would share one place"
        raise ValueError(rejection(function, f"{argument}.shape", out.shape, rule, strides=out.strides))
    return out


def out_pair(function: str, out: object) -> tuple[object, object]:
    """Take ``out=`` apart where a function returns two arrays."""
    if out is None:
        return None, None
    if not isinstance(out, (list, tuple)) or len(out) != 2:
        rule = "must be a pair of arrays, for the values and the indices"
        raise TypeError(rejection(function, "out", type(out).__name__, rule))
    return out[0], out[1]


# --------------------------------------------------------------------------------------------------
# Convolution


def is_plain(size: object) -> bool:
    """Whether equal means the same: True is no 1, nor is 1.0, but both hash alike within a tuple."""
    if not isinstance(size, tuple):
        return type(size) in PLAIN
    return PLAIN.issuperset(map(type, size)) or all(map(is_plain, size))


def _conv_geometry(
    function: str, input_shape: tuple[int, ...], weight_shape: tuple[int, ...], stride: object, padding: object,
    dilation: object, groups: object, dtype: np.dtype[Any], activation: Activation | None = None,
) -> ConvProblem:  # fmt: skip
    """The problem of these arguments, remembered where they can be compared."""
    plain = is_plain(stride) and is_plain(padding) and is_plain(dilation) and is_plain(groups)
    build = _known_geometry if plain else _new_geometry
    return build(function, input_shape, weight_shape, stride, padding, dilation, groups, dtype, activation)


def _new_geometry(
    function: str,
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    dtype: np.dtype[Any],
    activation: Activation | None,
) -> ConvProblem:
    rank = len(input_shape) - 2
    shapes = {"input.shape": input_shape, "weight.shape": weight_shape}
    if len(weight_shape) != rank + 2:
        rule = f"must have {rank + 2} dimensions (K, C / groups, and {rank} of the kernel); got {len(weight_shape)}"
        raise ValueError(rejection(function, "weight.shape", weight_shape, rule, **shapes))
    _check_spatial(function, "input", input_shape)
    if min(weight_shape[2:]) < 1:
        raise ValueError(
            rejection(function, "weight.shape", weight_shape, "must not have an empty kernel axis", **shapes)
        )
    strides = integers(function, "stride", stride, rank, 1, **shapes)
    dilations = integers(function, "dilation", dilation, rank, 1, **shapes)
    g = integer(function, "groups", groups, 1, **shapes)
    n, c, *spatial = input_shape
    k, channels, *kernel = weight_shape
    if c % g or k % g:
        rule = f"must divide both the input's channels ({c}) and the weight's output channels ({k})"
        raise ValueError(rejection(function, "groups", g, rule, **shapes))
    if channels != c // g:
        rule = f"must have {c // g} input channels a group: {c} channels in {g} groups"
        raise ValueError(rejection(function, "weight.shape", weight_shape, rule, **shapes))
    span = extents(function, tuple(kernel), dilations, **shapes)
    pairs = _padding(function, padding, tuple(spatial), span, strides, **shapes)
    output = []
    for size, (before, after), extent, step in zip(spatial, pairs, span, strides, strict=True):
        if size + before + after < extent:
            rule = f"spans {extent} positions with its dilation, more than the padded input's {size + before + after}"
            raise ValueError(
                rejection(function, "weight", f"kernel of size {tuple(kernel)}", rule, **shapes, padding=pairs)
            )
        output.append((size + before + after - extent) // step + 1)
    problem = ConvProblem(
        n=n, c=c, k=k, groups=g, spatial=tuple(spatial), kernel=tuple(kernel), stride=strides,
        padding=pairs, dilation=dilations, output=tuple(output), dtype=dtype, activation=activation,
    )  # fmt: skip
    _check_bytes(function, "output", problem.output_shape, dtype)
    return problem


_known_geometry = lru_cache(maxsize=1024, typed=True)(_new_geometry)


def _check_bias(function: str, size: tuple[int, ...], k: int, **shapes: Any) -> None:
    if size != (k,):
        rule = f"must have shape ({k},), one value for each output channel"
        raise ValueError(rejection(function, "bias.shape", size, rule, **shapes))


def conv(
    function: str, rank: int, input: object, weight: object, bias: object,
    stride: object, padding: object, dilation: object, groups: object, activation: object = None,
) -> tuple[ConvProblem, bool, Array, Array, Array | None]:  # fmt: skip
    """Problem, whether the input has a sample axis, and the arrays ready for a backend."""
    x = as_array(function, "input", input, "fiu")
    w = as_array(function, "weight", weight, "f")
    b = None if bias is None else as_array(function, "bias", bias, "f")
    rest = None if b is None else (b.shape, b.dtype)
    options = (stride, padding, dilation, groups, activation)
    check = _known_conv if all(map(is_plain, options)) else _checked_conv
    problem, batched = check(function, rank, x.shape, x.dtype, w.shape, w.dtype, rest, *options)
    return (
        problem, batched, prepared(x if batched else x.reshape(problem.input_shape), problem.dtype),
        prepared(w, problem.dtype), None if b is None else prepared(b, problem.dtype),
    )  # fmt: skip


def _checked_conv(
    function: str, rank: int, size: tuple[int, ...], input_dtype: np.dtype[Any], weight_size: tuple[int, ...],
    weight_dtype: np.dtype[Any], bias: tuple[tuple[int, ...], np.dtype[Any]] | None, stride: object, padding: object,
    dilation: object, groups: object, activation: object,
) -> tuple[ConvProblem, bool]:  # fmt: skip
    """All that `conv` checks about arrays of these shapes and dtypes."""
    biased = {} if bias is None else {"bias": bias[1]}
    dtype = _shared(function, input=input_dtype, weight=weight_dtype, **biased)
    batched, shape = batched_shape(function, "input", size, rank)
    problem = _conv_geometry(
        function, shape, weight_size, stride, padding, dilation, groups, dtype, activation_of(function, activation)
    )
    if bias is not None:
        _check_bias(function, bias[0], problem.k, **{"input.shape": size, "weight.shape": weight_size})
    return problem, batched


_known_conv = lru_cache(maxsize=1024, typed=True)(_checked_conv)


def conv_shape(
    function: str, rank: int, input_shape: object, weight: object, bias: object,
    stride: object, padding: object, dilation: object, groups: object, activation: object = None,
) -> tuple[ConvProblem, bool, Array, Array | None]:  # fmt: skip
    """As `conv`, for a plan, which knows the input's shape only."""
    w = as_array(function, "weight", weight, "f")
    b = None if bias is None else as_array(function, "bias", bias, "f")
    dtype = _floating(function, weight=w, bias=b)
    size = _size(function, "input_shape", input_shape)
    batched, shape = batched_shape(function, "input_shape", size, rank)
    problem = _conv_geometry(
        function, shape, w.shape, stride, padding, dilation, groups, dtype, activation_of(function, activation)
    )
    if b is not None:
        _check_bias(function, b.shape, problem.k, **{"input_shape": size, "weight.shape": w.shape})
    return problem, batched, prepared(w, dtype), None if b is None else prepared(b, dtype)


def is_ready(array: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether nothing has to be checked or converted: a contiguous, aligned array of this shape and dtype."""
    if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
        return False
    flags = array.flags
    return flags.carray or (flags.c_contiguous and flags.aligned)


def planned_input(function: str, problem: ConvProblem, batched: bool, input: object) -> Array:
    """The input of a plan's call: of the planned shape, in the planned dtype."""
    x = as_array(function, "input", input, "fiu")
    expected = problem.input_shape if batched else problem.input_shape[1:]
    if x.shape != expected:
        raise ValueError(rejection(function, "input.shape", x.shape, f"must have the planned shape {expected}"))
    if x.dtype.kind == "f" and _native(x.dtype) != problem.dtype:
        raise TypeError(rejection(function, "input.dtype", str(x.dtype), f"must be {problem.dtype} as planned"))
    return prepared(x if batched else x.reshape(problem.input_shape), problem.dtype)


def _check_grad_output(function: str, problem: ConvProblem, shape: tuple[int, ...]) -> None:
    if shape != problem.output_shape:
        rule = f"must have shape {problem.output_shape}, the output's"
        raise ValueError(
            rejection(
                function, "grad_output.shape", shape, rule,
                input_shape=problem.input_shape, weight_shape=problem.weight_shape,
            )
        )


def conv_input_grad(
    function: str, rank: int, input_size: object, weight: object, grad_output: object,
    stride: object, padding: object, dilation: object, groups: object,
) -> tuple[ConvProblem, bool, Array, Array]:  # fmt: skip
    """Problem, sample axis, weight and grad_output of a gradient to the input."""
    w = as_array(function, "weight", weight, "f")
    gy = as_array(function, "grad_output", grad_output, "f")
    dtype = _floating(function, weight=w, grad_output=gy)
    batched, shape = batched_shape(function, "input_size", _size(function, "input_size", input_size), rank)
    problem = _conv_geometry(function, shape, w.shape, stride, padding, dilation, groups, dtype)
    _check_bytes(function, "input_size", shape, dtype)
    gy_shape = gy.shape if batched else (1, *gy.shape)
    _check_grad_output(function, problem, gy_shape)
    return problem, batched, prepared(w, dtype), prepared(gy.reshape(gy_shape), dtype)


def conv_weight_grad(
    function: str, rank: int, input: object, weight_size: object, grad_output: object,
    stride: object, padding: object, dilation: object, groups: object,
) -> tuple[ConvProblem, Array, Array]:  # fmt: skip
    """Problem, input and grad_output of a gradient to the weight."""
    x = as_array(function, "input", input, "fiu")
    gy = as_array(function, "grad_output", grad_output, "f")
    dtype = _floating(function, input=x, grad_output=gy)
    size = _size(function, "weight_size", weight_size)
    batched, shape = batched_shape(function, "input", x.shape, rank)
    problem = _conv_geometry(function, shape, size, stride, padding, dilation, groups, dtype)
    _check_bytes(function, "weight_size", size, dtype)
    gy_shape = gy.shape if batched else (1, *gy.shape)
    _check_grad_output(function, problem, gy_shape)
    return problem, prepared(x.reshape(shape), dtype), prepared(gy.reshape(gy_shape), dtype)


def conv_bias_grad(function: str, rank: int, grad_output: object) -> Array:
    """grad_output with its sample axis."""
    gy = as_array(function, "grad_output", grad_output, "f")
    _, shape = batched_shape(function, "grad_output", gy.shape, rank)
    return prepared(gy.reshape(shape), _native(gy.dtype))


# --------------------------------------------------------------------------------------------------
# Transposed convolution: the input gradient of the convolution that maps its output to its input


def _transpose_geometry(
    function: str, rank: int, input_shape: tuple[int, ...], weight_shape: tuple[int, ...],
    stride: object, padding: object, output_padding: object, groups: object, dilation: object,
    dtype: np.dtype[Any], activation: Activation | None = None,
) -> ConvProblem:  # fmt: skip
    """As `_conv_geometry`."""
    walk = (stride, padding, output_padding, groups, dilation)
    build = _known_transpose if all(map(is_plain, walk)) else _new_transpose
    return build(function, rank, input_shape, weight_shape, *walk, dtype, activation)


def _new_transpose(
    function: str, rank: int, input_shape: tuple[int, ...], weight_shape: tuple[int, ...],
    stride: object, padding: object, output_padding: object, groups: object, dilation: object,
    dtype: np.dtype[Any], activation: Activation | None,
) -> ConvProblem:  # fmt: skip
    shapes = {"input.shape": input_shape, "weight.shape": weight_shape}
    if len(weight_shape) != rank + 2:
        rule = f"must have {rank + 2} dimensions (C, K / groups, and {rank} of the kernel); got {len(weight_shape)}"
        raise ValueError(rejection(function, "weight.shape", weight_shape, rule, **shapes))
    _check_spatial(function, "input", input_shape)
    if min(weight_shape[2:]) < 1:
        raise ValueError(
            rejection(function, "weight.shape", weight_shape, "must not have an empty kernel axis", **shapes)
        )
    strides = integers(function, "stride", stride, rank, 1, **shapes)
    dilations = integers(function, "dilation", dilation, rank, 1, **shapes)
    pads = integers(function, "padding", padding, rank, 0, **shapes)
    extra = integers(function, "output_padding", output_padding, rank, 0, **shapes)
    g = integer(function, "groups", groups, 1, **shapes)
    n, c, *size = input_shape
    if weight_shape[0] != c:
        rule = f"must have {c} input channels, its first axis"
        raise ValueError(rejection(function, "weight.shape", weight_shape, rule, **shapes))
    if c % g:
        raise ValueError(rejection(function, "groups", g, f"must divide the input's channels ({c})", **shapes))
    kernel = weight_shape[2:]
    span = extents(function, kernel, dilations, **shapes)
    output = []
    for i, s, p, d, e, o in zip(size, strides, pads, dilations, span, extra, strict=True):
        if o >= max(s, d):
            rule = f"must be smaller than the stride ({s}) or the dilation ({d}) of its axis"
            raise ValueError(rejection(function, "output_padding", output_padding, rule, **shapes))
        result = (i - 1) * s - 2 * p + e + o
        if result < 1:
            rule = f"leaves an output of {result} positions along an axis; at least 1 is needed"
            raise ValueError(rejection(function, "padding", padding, rule, **shapes))
        if result + 2 * p > INT64_MAX:
            rule = f"gives an axis of {result + 2 * p} positions, which must fit a 64-bit integer"
            raise OverflowError(rejection(function, "stride", stride, rule, **shapes))
        output.append(result)
    problem = ConvProblem(
        n=n, c=weight_shape[1] * g, k=c, groups=g, spatial=tuple(output), kernel=kernel, stride=strides,
        padding=tuple((p, p - o) for p, o in zip(pads, extra, strict=True)), dilation=dilations,
        output=tuple(size), dtype=dtype, activation=activation,
    )  # fmt: skip
    _check_bytes(function, "output", problem.input_shape, dtype)
    return problem


_known_transpose = lru_cache(maxsize=1024, typed=True)(_new_transpose)


def conv_transpose(
    function: str, rank: int, input: object, weight: object, bias: object, stride: object, padding: object,
    output_padding: object, groups: object, dilation: object, activation: object = None,
) -> tuple[ConvProblem, bool, Array, Array, Array | None]:  # fmt: skip
    """As `conv`; the result is the input of the returned problem, the caller's input its output."""
    x = as_array(function, "input", input, "fiu")
    w = as_array(function, "weight", weight, "f")
    b = None if bias is None else as_array(function, "bias", bias, "f")
    dtype = _floating(function, input=x, weight=w, bias=b)
    batched, shape = batched_shape(function, "input", x.shape, rank)
    problem = _transpose_geometry(
        function, rank, shape, w.shape, stride, padding, output_padding, groups, dilation, dtype,
        activation_of(function, activation),
    )  # fmt: skip
    if b is not None:
        _check_bias(function, b.shape, problem.c, **{"input.shape": x.shape, "weight.shape": w.shape})
    return (
        problem, batched, prepared(x.reshape(shape), dtype), prepared(w, dtype),
        None if b is None else prepared(b, dtype),
    )  # fmt: skip


def conv_transpose_input_grad(
    function: str, rank: int, input_size: object, weight: object, grad_output: object, stride: object,
    padding: object, output_padding: object, groups: object, dilation: object,
) -> tuple[ConvProblem, bool, Array, Array]:  # fmt: skip
    """Problem, sample axis, weight and grad_output; the gradient is the problem's forward pass."""
    w = as_array(function, "weight", weight, "f")
    gy = as_array(function, "grad_output", grad_output, "f")
    dtype = _floating(function, weight=w, grad_output=gy)
    batched, shape = batched_shape(function, "input_size", _size(function, "input_size", input_size), rank)
    problem = _transpose_geometry(
        function, rank, shape, w.shape, stride, padding, output_padding, groups, dilation, dtype
    )
    _check_bytes(function, "input_size", shape, dtype)
    gy = _transposed_grad_output(function, problem, batched, gy)
    return problem, batched, prepared(w, dtype), prepared(gy, dtype)


def conv_transpose_weight_grad(
    function: str, rank: int, input: object, weight_size: object, grad_output: object, stride: object,
    padding: object, output_padding: object, groups: object, dilation: object,
) -> tuple[ConvProblem, Array, Array]:  # fmt: skip
    """Problem, input and grad_output; the caller's input plays the problem's grad_output."""
    x = as_array(function, "input", input, "fiu")
    gy = as_array(function, "grad_output", grad_output, "f")
    dtype = _floating(function, input=x, grad_output=gy)
    size = _size(function, "weight_size", weight_size)
    batched, shape = batched_shape(function, "input", x.shape, rank)
    problem = _transpose_geometry(
        function, rank, shape, size, stride, padding, output_padding, groups, dilation, dtype
    )
    _check_bytes(function, "weight_size", size, dtype)
    gy = _transposed_grad_output(function, problem, batched, gy)
    return problem, prepared(x.reshape(shape), dtype), prepared(gy, dtype)


def _transposed_grad_output(function: str, problem: ConvProblem, batched: bool, gy: Array) -> Array:
    shape = gy.shape if batched else (1, *gy.shape)
    if shape != problem.input_shape:
        rule = f"must have shape {problem.input_shape}, the output's"
        raise ValueError(rejection(function, "grad_output.shape", gy.shape, rule))
    return gy.reshape(shape)


# --------------------------------------------------------------------------------------------------
# Windows: pooling, unfold, fold


def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Sum of (a * i + b) // m over i in range(n), by Euclid's recursion in O(log m) steps."""
    total = 0
    while n > 0:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        n, m, a, b = top // m, a, m, top % m
    return total


def _check_no_empty_window(function: str, problem: WindowProblem) -> None:
    """Refuse a window whose every tap falls on padding: it has no maximum and no mean.

    Padding is smaller than the window, so one that starts inside the axis has an element, and one
    that starts before it reaches beyond: its first tap at or past 0 lies at ``start mod dilation``,
    and has to be below the axis' size.  The windows for which it is are counted, not walked: there
    may be 2^60 of them.
    """
    axes = zip(
        problem.spatial, problem.kernel, problem.stride, problem.padding, problem.dilation, problem.output, strict=True
    )
    for size, taps, step, (before, _), gap, count in axes:
        if size >= gap or taps == 1:
            continue
        early = min(count, -(-before // step))
        good = _floor_sum(early, gap, step, -before) - _floor_sum(early, gap, step, -before - size)
        if good < early:
            rule = f"leaves {early - good} windows along an axis without an element"
            raise ValueError(
                rejection(
                    function, "padding", problem.padding, rule, spatial=problem.spatial,
                    kernel_size=problem.kernel, stride=problem.stride, dilation=problem.dilation,
                )
            )


def window_geometry(
    function: str, input_shape: tuple[int, ...], kernel_size: object, stride: object, padding: object,
    dilation: object, ceil_mode: object, dtype: np.dtype[Any], *, pooling: bool = True,
    count_include_pad: object = True, divisor_override: object = None,
) -> WindowProblem:  # fmt: skip
    """Walk a window over (N, C, *spatial).

    With ``ceil_mode`` a last window that hangs over the end is kept if it starts inside the input
    or its left padding, even if it is the only one.  ``pooling`` adds the rule that no window may lie in padding alone.
    """
    rank = len(input_shape) - 2
    shapes = {"input.shape": input_shape}
    _check_spatial(function, "input", input_shape)
    _check_channels(function, "input", input_shape)
    kernel = integers(function, "kernel_size", kernel_size, rank, 1, **shapes)
    strides = kernel if stride is None else integers(function, "stride", stride, rank, 1, **shapes)
    dilations = integers(function, "dilation", dilation, rank, 1, **shapes)
    ceil = flag(function, "ceil_mode", ceil_mode)
    include = flag(function, "count_include_pad", count_include_pad)
    if divisor_override is not None:
        divisor_override = integer(function, "divisor_override", divisor_override, -INT64_MAX, **shapes)
        if divisor_override == 0:
            raise ValueError(rejection(function, "divisor_override", 0, "must not be zero"))
    spatial = input_shape[2:]
    span = extents(function, kernel, dilations, **shapes)
    pairs = _padding(function, padding, spatial, span, strides, **shapes)
    output = []
    for size, (before, after), extent, step in zip(spatial, pairs, span, strides, strict=True):
        if pooling and max(before, after) >= extent:
            rule = f"must be smaller than the window, which spans {extent} positions with its dilation"
            raise ValueError(rejection(function, "padding", padding, rule, **shapes, kernel_size=kernel))
        padded = size + before + after
        count = (padded - extent) // step + 1
        if ceil and (padded - extent) % step and count * step < size + before:
            count += 1
        if count < 1:
            rule = f"spans {extent} positions with its dilation, more than the padded input's {padded}"
            raise ValueError(rejection(function, "kernel_size", kernel_size, rule, **shapes, padding=pairs))
        if (count - 1) * step + extent > INT64_MAX:
            rule = f"ends the last window at {(count - 1) * step + extent}, which must fit a 64-bit integer"
            raise OverflowError(rejection(function, "kernel_size", kernel_size, rule, **shapes, padding=pairs))
        output.append(count)
    problem = WindowProblem(
        n=input_shape[0], c=input_shape[1], spatial=spatial, kernel=kernel, stride=strides, padding=pairs,
        dilation=dilations, output=tuple(output), dtype=dtype, count_include_pad=include,
        divisor_override=divisor_override,
    )  # fmt: skip
    if pooling:
        _check_bytes(function, "output", problem.output_shape, np.dtype(np.int64))
        _check_no_empty_window(function, problem)
    else:
        _check_bytes(function, "columns", problem.columns_shape, dtype)
    return problem


# Small pools take less time than the check of their sizes.
_known_window = lru_cache(maxsize=256, typed=True)(window_geometry)


def window(
    function: str, rank: int, input: object, kernel_size: object, stride: object, padding: object,
    dilation: object, ceil_mode: object = False, *, kinds: str = "f", pooling: bool = True,
    count_include_pad: object = True, divisor_override: object = None,
) -> tuple[WindowProblem, bool, Array]:  # fmt: skip
    """Problem, whether the input has a sample axis, and the input ready for a backend."""
    x = as_array(function, "input", input, kinds)
    batched, shape = batched_shape(function, "input", x.shape, rank)
    sizes = (kernel_size, stride, padding, dilation)
    geometry = _known_window if all(map(is_plain, sizes)) else window_geometry
    problem = geometry(
        function, shape, *sizes, ceil_mode, _native(x.dtype), pooling=pooling, count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )  # fmt: skip
    return problem, batched, prepared(x if batched else x.reshape(shape), problem.dtype)


def avg_pool_grad(
    function: str, rank: int, grad_output: object, input_size: object, kernel_size: object, stride: object,
    padding: object, ceil_mode: object, count_include_pad: object, divisor_override: object,
) -> tuple[WindowProblem, bool, Array]:  # fmt: skip
    """Problem, sample axis and grad_output of average pooling's gradient."""
    gy = as_array(function, "grad_output", grad_output, "f")
    batched, shape = batched_shape(function, "input_size", _size(function, "input_size", input_size), rank)
    sizes = (kernel_size, stride, padding)
    geometry = _known_window if all(map(is_plain, (*sizes, divisor_override))) else window_geometry
    problem = geometry(
        function, shape, *sizes, 1, ceil_mode, _native(gy.dtype), pooling=True, count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )  # fmt: skip
    gy_shape = gy.shape if batched else (1, *gy.shape)
    if gy_shape != problem.output_shape:
        rule = f"must have shape {problem.output_shape}, the pool's output"
        raise ValueError(rejection(function, "grad_output.shape", gy.shape, rule))
    return problem, batched, prepared(gy.reshape(gy_shape), problem.dtype)


def fold(
    function: str, rank: int, input: object, output_size: object, kernel_size: object, dilation: object,
    padding: object, stride: object,
) -> tuple[WindowProblem, bool, Array]:  # fmt: skip
    """Problem (its ``spatial`` is the result's size), sample axis, and the columns."""
    columns = as_array(function, "input", input, "f")
    if columns.ndim not in (2, 3):
        rule = f"must have 3 dimensions (N, C * taps, positions), or 2 without N; got {columns.ndim}"
        raise ValueError(rejection(function, "input.shape", columns.shape, rule))
    batched = columns.ndim == 3
    shape = columns.shape if batched else (1, *columns.shape)
    spatial = integers(function, "output_size", output_size, rank, 1)
    kernel = integers(function, "kernel_size", kernel_size, rank, 1)
    taps = math.prod(kernel)
    if shape[1] % taps:
        rule = f"must have a multiple of {taps} rows, the taps of kernel_size={kernel}"
        raise ValueError(rejection(function, "input.shape", columns.shape, rule))
    problem = window_geometry(
        function, (shape[0], shape[1] // taps, *spatial), kernel, stride, padding, dilation, False,
        _native(columns.dtype), pooling=False,
    )  # fmt: skip
    if shape[2] != math.prod(problem.output):
        rule = f"must have {math.prod(problem.output)} columns, one for each window position {problem.output}"
        raise ValueError(
            rejection(function, "input.shape", columns.shape, rule, output_size=spatial, kernel_size=kernel)
        )
    _check_bytes(function, "output", problem.input_shape, problem.dtype)
    return problem, batched, prepared(columns.reshape(shape), problem.dtype)


def relu_grad(function: str, output: object, grad_output: object) -> tuple[Array, Array]:
    """A ReLU's result and the gradient to it, (N, K, *size) alike, ready for a backend."""
    y = as_array(function, "output", output, "f")
    gy = as_array(function, "grad_output", grad_output, "f")
    dtype = _floating(function, output=y, grad_output=gy)
    if y.ndim < 2:
        raise ValueError(rejection(function, "output.shape", y.shape, "must have samples and channels, (N, K, *size)"))
    if gy.shape != y.shape:
        raise ValueError(rejection(function, "grad_output.shape", gy.shape, f"must have output's shape {y.shape}"))
    return prepared(y, dtype), prepared(gy, dtype)


def _indices(function: str, indices: object, shape: tuple[int, ...]) -> Array:
    """int64 positions of this shape; whether they lie in a plane is for whoever reads them to see."""
    if is_ready(indices, shape, INT64):
        return indices  # type: ignore[return-value]
    array = as_array(function, "indices", indices, "iu")
    if _native(array.dtype) != INT64:
        raise TypeError(rejection(function, "indices.dtype", str(array.dtype), "must be int64"))
    if array.shape != shape:
        raise ValueError(rejection(function, "indices.shape", array.shape, f"must have shape {shape}"))
    return prepared(array, INT64)


def all_inside(indices: Array, plane: int) -> bool:
    """Whether each is a position in a plane of so many elements."""
    return not indices.size or int(indices.view(np.uint64).max()) < plane  # a negative one is beyond too


def outside(function: str, indices: Array, plane: int) -> ValueError:
    """The error that names the first position that is none."""
    first = np.argmax((indices < 0) | (indices >= plane))
    position = tuple(int(i) for i in np.unravel_index(first, indices.shape))
    rule = f"must lie in 0..{plane - 1}; the first that does not is at {position}"
    return ValueError(rejection(function, "indices", int(indices[position]), rule))


def _scatter_shapes(
    function: str, rank: int, argument: str, given: tuple[int, ...], size: object, dtype: np.dtype[Any]
) -> tuple[bool, tuple[int, ...], tuple[int, ...]]:
    """Sample axis, the values' shape with it, and the result's."""
    batched, shape = batched_shape(function, argument, given, rank)
    _check_spatial(function, argument, shape)
    full = _size(function, "input_size", size, **{f"{argument}.shape": given})
    target = full if batched else (1, *full)
    if len(target) != rank + 2 or target[:2] != shape[:2]:
        rule = f"must be a shape of {len(given)} axes that starts with {given[: len(given) - rank]}"
        raise ValueError(rejection(function, "input_size", size, rule, **{f"{argument}.shape": given}))
    _check_spatial(function, "input_size", target)
    _check_channels(function, "input_size", target)
    _check_bytes(function, "input_size", target, dtype)
    return batched, shape, target


_known_scatter = lru_cache(maxsize=256, typed=True)(_scatter_shapes)


def scatter(
    function: str, rank: int, values: object, argument: str, indices: object, size: object
) -> tuple[bool, Array, Array, tuple[int, ...]]:
    """Sample axis, values (N, C, *), indices, and the result's (N, C, *spatial) for a max-pool's way back."""
    v = as_array(function, argument, values, "f" if argument == "grad_output" else "fiu")
    check = _known_scatter if is_plain(size) else _scatter_shapes
    batched, shape, target = check(function, rank, argument, v.shape, size, v.dtype)
    places = _indices(function, indices, v.shape)
    if not batched:
        v, places = v.reshape(shape), places.reshape(shape)
    return batched, prepared(v, _native(v.dtype)), places, target


def max_unpool(
    function: str, rank: int, input: object, indices: object, kernel_size: object, stride: object,
    padding: object, output_size: object,
) -> tuple[bool, Array, Array, tuple[int, ...]]:  # fmt: skip
    """As `scatter`; the result's size is the pool's input, given or derived as torch derives it."""
    x = as_array(function, "input", input, "fiu")
    batched, shape = batched_shape(function, "input", x.shape, rank)
    _check_spatial(function, "input", shape)
    _check_channels(function, "input", shape)
    shapes = {"input.shape": x.shape}
    kernel = integers(function, "kernel_size", kernel_size, rank, 1, **shapes)
    strides = kernel if stride is None else integers(function, "stride", stride, rank, 1, **shapes)
    pads = integers(function, "padding", padding, rank, 0, **shapes)
    for pad, size in zip(pads, kernel, strict=True):
        if pad >= size:
            rule = f"must be smaller than the window {kernel}"
            raise ValueError(rejection(function, "padding", padding, rule, **shapes))
    natural = tuple((i - 1) * s - 2 * p + k for i, s, p, k in zip(shape[2:], strides, pads, kernel, strict=True))
    if output_size is None:
        spatial = natural
        if min(spatial) < 1:
            raise ValueError(rejection(function, "padding", padding, f"leaves an output of size {spatial}", **shapes))
    else:
        spatial = _size(function, "output_size", output_size, **shapes)
        if len(spatial) == x.ndim:
            if spatial[: x.ndim - rank] != x.shape[: x.ndim - rank]:
                rule = f"must start with {x.shape[: x.ndim - rank]} when it is a full shape"
                raise ValueError(rejection(function, "output_size", output_size, rule, **shapes))
            spatial = spatial[x.ndim - rank :]
        if len(spatial) != rank:
            rule = f"must have {rank} sizes, or {x.ndim} as a full shape"
            raise ValueError(rejection(function, "output_size", output_size, rule, **shapes))
        for size, usual, step in zip(spatial, natural, strides, strict=True):
            if size < 1 or not usual - step < size < usual + step:
                rule = f"must lie within one stride {strides} of {natural}"
                raise ValueError(rejection(function, "output_size", output_size, rule, **shapes))
    target = (*shape[:2], *spatial)
    _check_bytes(function, "output_size", target, x.dtype)
    places = _indices(function, indices, x.shape).reshape(shape)
    return batched, prepared(x.reshape(shape), _native(x.dtype)), places, target


# --------------------------------------------------------------------------------------------------
# Words and flags that choose


def flag(function: str, argument: str, value: object) -> bool:
    """An option that is on or off."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(rejection(function, argument, value, "must be a bool"))
    return bool(value)


def one_of(function: str, argument: str, value: object, accepted: Sequence[str]) -> str:
    """An option given by name."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(rejection(function, argument, value, f"must be one of {tuple(accepted)}"))
    return value
