"""Convolution and pooling: arrays in, arrays out.

Names and the order of arguments are those of ``torch.nn.functional``.  Each family has one private
function for any rank; the public ones fix the rank and carry the signature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from voxconv import problem as rules
from voxconv.plan import ActivationLike, Padding, Sizes, choose, choose_backend
from voxconv.problem import FLOAT32, ConvProblem
from voxconv.results import fill, fill_all

__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "fold1d",
    "fold3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "unfold",
    "unfold1d",
    "unfold3d",
]

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])


def documented(*sections: str) -> Callable[[F], F]:
    """Append the sections that a family shares to the description of each of its functions."""

    def append(function: F) -> F:
        if function.__doc__ is not None:  # as under ``python -OO``
            function.__doc__ = "\n".join([function.__doc__.rstrip() + "\n", *sections])
        return function

    return append


RUNNING = """\
out : ndarray, optional
    Where to write the result: of its shape and dtype, writable and aligned.  It may overlap an input.
backend : {"auto", "native", "numba", "reference"}
    "auto" is native; where the compiled library is missing, the next one that is installed.
"""

CHOOSING = """\
algorithm : {"auto", "direct", "im2col", "winograd", "winograd2", "depthwise"}
    "auto" goes by the sizes alone; `plan_conv2d` and its ``explain`` say how.
precision : {"default", "high", "strict"}
    "strict" keeps every result within gamma_d of the sum of its terms' magnitudes, for a sum of
    d - 1 terms; "default" may also take Winograd's algorithm, where a backend has it; "high" too, but with
    tiles of 2 outputs alone, which lose several times less, except for the gradient to the weight.
"""

ERRORS = """\
Raises
------
ValueError
    Shapes, sizes or names that do not fit; the text names the argument, its value and the rule.
TypeError
    An argument of the wrong type, or floating arrays of different dtypes.
OverflowError, MemoryError
    A size beyond 64 bits, or beyond the memory there is.
RuntimeError
    The backend that was asked for is not installed.
"""


# --------------------------------------------------------------------------------------------------
# Convolution


CONVOLUTION = """\
Cross-correlation: y[n, k, p] = bias[k] + sum over c, t of weight[k, c, t] * input[n, c, q] with
q = p * stride + t * dilation - padding.  Positions outside the input contribute nothing.

Parameters
----------
input : array_like
    (N, C, *spatial), or without N.  Integers take the weight's dtype, float16 becomes float32.
weight : array_like
    (K, C / groups, *kernel), floating.
bias : array_like, optional
    (K,), floating.
stride, dilation : int or one per axis
    In positions, at least 1.
padding : int, one per axis, one (before, after) pair per axis, or str
    Positions around the input.  "valid" adds none; "same" gives ceil(size / stride) outputs, an odd
    position after, "same_lower" before.
groups : int
    Splits C and K into that many convolutions side by side.
activation : None, "relu" or ("leaky_relu", slope)
    Applied to the result: y where y >= 0, else slope * y."""

CONVOLVED = """\
Returns
-------
ndarray
    (N, K, *output), output = (size + before + after - (kernel - 1) * dilation - 1) // stride + 1;
    without N if the input has none.
"""

CONVOLUTION_SOURCE = """\
References
----------
The operator Conv of ONNX; V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep
learning", arXiv:1603.07285.
"""


def apply(
    function: str, operation: str, problem: ConvProblem, batched: bool, source: Array, weight: Array,
    bias: Array | None, out: Array | None, backend: str, algorithm: str, precision: str, key: Key | None = None,
) -> Array:  # fmt: skip
    """Run "conv" from a problem's input to its output, or "conv_input_grad" the other way.

    The second is transposed convolution too, and the first the gradient of that.  ``key``: as `remember` takes it.
    """
    choice = choose(problem, operation, backend, algorithm, precision, function=function)
    forward = operation == "conv"
    run = choice.backend.conv if forward else choice.backend.conv_input_grad

    def compute(result: Array) -> None:
        packed = choice.backend.pack(problem, operation, choice.algorithm, weight, forward)
        run(problem, choice.algorithm, source, packed, bias, result)

    shape = problem.output_shape if forward else problem.input_shape
    result = fill(function, out, shape, batched, problem.dtype, (source, weight, bias), compute)
    if key is not None and batched and result.size:
        remember(key, choice.backend, "known_call", problem, operation, choice.algorithm)
    return result


Key = tuple[object, ...]

KNOWN: dict[Key, Callable[..., Array]] = {}
"""Calls that were made before: what they come to, by all that they depend on but values."""
MOST_KNOWN = 1024


def remember(key: Key, backend: object, maker: str, *what: object) -> None:
    """Note what a call that went well comes to, where its backend can say: by the function of this name."""
    known = getattr(backend, maker, None)
    if known is not None:
        if len(KNOWN) >= MOST_KNOWN:
            KNOWN.clear()
        KNOWN[key] = known(*what)


def recall(key: Key, *arguments: object) -> Any:
    """Make a call that was made before; None where it was not, does not go that way, or is to say what it lacks."""
    call = KNOWN.get(key)
    try:
        return call and call(*arguments)
    except MemoryError:  # what comes next says what there is no room for
        return None


def is_known_kind(array: object, dtype: np.dtype[Any] = FLOAT32) -> bool:
    """Whether a call of this array may be a known one: it needs no preparation."""
    return type(array) is np.ndarray and array.dtype is dtype and array.flags.carray


def _conv(
    rank: int, input: object, weight: object, bias: object, stride: object, padding: object, dilation: object,
    groups: object, activation: object, out: Array | None, backend: str, algorithm: str, precision: str,
) -> Array:  # fmt: skip
    key = None
    if (
        out is None and (activation is None or type(activation) is str)
        and type(input) is type(weight) is np.ndarray
        and input.dtype is weight.dtype is FLOAT32 and input.flags.carray and weight.flags.carray
        and type(stride) is type(padding) is type(dilation) is type(groups) is int
        and type(backend) is type(algorithm) is type(precision) is str
        and (bias is None or (type(bias) is np.ndarray and bias.dtype is FLOAT32 and bias.flags.carray))
    ):  # fmt: skip
        key = (
            input.shape, weight.shape, None if bias is None else bias.shape, stride, padding, dilation, groups,
            activation, rank, backend, algorithm, precision,
        )  # fmt: skip
        known: Array | None = recall(key, input, weight, bias)
        if known is not None:
            return known
    function = f"conv{rank}d"
    problem, batched, x, w, b = rules.conv(
        function, rank, input, weight, bias, stride, padding, dilation, groups, activation
    )
    return apply(function, "conv", problem, batched, x, w, b, out, backend, algorithm, precision, key)


@documented(CONVOLUTION, RUNNING + CHOOSING, CONVOLVED, ERRORS, CONVOLUTION_SOURCE)
def conv1d(
    input: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    out: Array | None = None, backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Convolve (N, C, L) with (K, C / groups, S)."""
    return _conv(
        1, input, weight, bias, stride, padding, dilation, groups, activation, out, backend, algorithm, precision
    )


@documented(CONVOLUTION, RUNNING + CHOOSING, CONVOLVED, ERRORS, CONVOLUTION_SOURCE)
def conv2d(
    input: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    out: Array | None = None, backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Convolve (N, C, H, W) with (K, C / groups, R, S)."""
    return _conv(
        2, input, weight, bias, stride, padding, dilation, groups, activation, out, backend, algorithm, precision
    )


@documented(CONVOLUTION, RUNNING + CHOOSING, CONVOLVED, ERRORS, CONVOLUTION_SOURCE)
def conv3d(
    input: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    out: Array | None = None, backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Convolve (N, C, D, H, W) with (K, C / groups, Q, R, S)."""
    return _conv(
        3, input, weight, bias, stride, padding, dilation, groups, activation, out, backend, algorithm, precision
    )


TRANSPOSED = """\
The map whose matrix is the transpose of a convolution's: input[n, c, p] * weight[c, k, t] is added
to y[n, k, q] with q = p * stride + t * dilation - padding.

Parameters
----------
input : array_like
    (N, C, *spatial), or without N.  Integers take the weight's dtype, float16 becomes float32.
weight : array_like
    (C, K / groups, *kernel), floating.
bias : array_like, optional
    (K,), floating.
stride, dilation : int or one per axis
    In positions of the output, at least 1.
padding : int or one per axis
    Positions cut from both ends of the output.
output_padding : int or one per axis
    Positions added at the far end of the output, fewer than the stride or the dilation.
groups : int
    Splits C and K into that many transposed convolutions side by side.
activation : None, "relu" or ("leaky_relu", slope)
    Applied to the result: y where y >= 0, else slope * y."""

TRANSPOSED_RESULT = """\
Returns
-------
ndarray
    (N, K, *output), output = (size - 1) * stride - 2 * padding + (kernel - 1) * dilation + 1 +
    output_padding; without N if the input has none.
"""

TRANSPOSED_SOURCE = """\
References
----------
The operator ConvTranspose of ONNX; V. Dumoulin and F. Visin, arXiv:1603.07285, section 4.
"""


def _conv_transpose(
    rank: int, input: object, weight: object, bias: object, stride: object, padding: object, output_padding: object,
    groups: object, dilation: object, activation: object, out: Array | None, backend: str, algorithm: str,
    precision: str,
) -> Array:  # fmt: skip
    function = f"conv_transpose{rank}d"
    problem, batched, x, w, b = rules.conv_transpose(
        function, rank, input, weight, bias, stride, padding, output_padding, groups, dilation, activation
    )
    return apply(function, "conv_input_grad", problem, batched, x, w, b, out, backend, algorithm, precision)


@documented(TRANSPOSED, RUNNING + CHOOSING, TRANSPOSED_RESULT, ERRORS, TRANSPOSED_SOURCE)
def conv_transpose1d(
    input: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
    activation: ActivationLike = None, out: Array | None = None, backend: str = "auto", algorithm: str = "auto",
    precision: str = "default",
) -> Array:  # fmt: skip
    """Convolve (N, C, L), transposed, with (C, K / groups, S)."""
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation, activation, out, backend, algorithm,
        precision,
    )  # fmt: skip


@documented(TRANSPOSED, RUNNING + CHOOSING, TRANSPOSED_RESULT, ERRORS, TRANSPOSED_SOURCE)
def conv_transpose2d(
    input: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
    activation: ActivationLike = None, out: Array | None = None, backend: str = "auto", algorithm: str = "auto",
    precision: str = "default",
) -> Array:  # fmt: skip
    """Convolve (N, C, H, W), transposed, with (C, K / groups, R, S)."""
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation, activation, out, backend, algorithm,
        precision,
    )  # fmt: skip


@documented(TRANSPOSED, RUNNING + CHOOSING, TRANSPOSED_RESULT, ERRORS, TRANSPOSED_SOURCE)
def conv_transpose3d(
    input: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *,
    activation: ActivationLike = None, out: Array | None = None, backend: str = "auto", algorithm: str = "auto",
    precision: str = "default",
) -> Array:  # fmt: skip
    """Convolve (N, C, D, H, W), transposed, with (C, K / groups, Q, R, S)."""
    return _conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation, activation, out, backend, algorithm,
        precision,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Pooling


WINDOW = """\
kernel_size : int or one per axis
    The window, in taps.
stride : int or one per axis, optional
    Positions between windows; the kernel_size if not given.
padding : int, one per axis, one (before, after) pair per axis, or str
    Positions around the input, fewer than the dilated window spans; words as in `conv2d`."""

CEIL = """\
ceil_mode : bool
    Keep a last window that hangs over the end too, if it starts inside the input or the padding
    before it."""

MAX_POOL = f"""\
Padding is never the maximum.  A NaN is the maximum of its window, the last one where it holds several;
a tie takes the first position.

Parameters
----------
input : array_like
    (N, C, *spatial), or without N; integers or floating (float16 becomes float32).
{WINDOW}
dilation : int or one per axis
    Positions between taps.
{CEIL}
return_indices : bool
    Return where each maximum stands too.
out : ndarray, or with return_indices a pair of them, optional
    Where to write the result: of its shape and dtype, writable and aligned.  It may overlap the input.
backend : {{"auto", "native", "numba", "reference"}}
    "auto" is native; where the compiled library is missing, the next one that is installed.

Returns
-------
output : ndarray
    (N, C, *output) of the input's dtype; without N if the input has none.
indices : ndarray of int64
    Only with return_indices: flat positions in one channel's plane, without padding.
"""

POOL_SOURCE = """\
References
----------
The operators MaxPool and AveragePool of ONNX, and ``torch.nn.functional`` for ceil_mode.
"""


def _max_pool(
    rank: int, input: object, kernel_size: object, stride: object, padding: object, dilation: object,
    ceil_mode: object, return_indices: object, out: object, backend: str,
) -> Any:  # fmt: skip
    key, options = None, (kernel_size, stride, padding, dilation, backend)
    if is_known_kind(input) and type(ceil_mode) is type(return_indices) is bool and rules.is_plain(options):
        key = ("max_pool", rank, input.shape, ceil_mode, return_indices, *options)  # type: ignore[attr-defined]
        known = recall(key, input, out)
        if known is not None:
            return known
    function = f"max_pool{rank}d"
    indexed = rules.flag(function, "return_indices", return_indices)
    problem, batched, x = rules.window(
        function, rank, input, kernel_size, stride, padding, dilation, ceil_mode, kinds="fiu"
    )
    chosen = choose_backend(function, backend)

    def compute(values: Array, indices: Array | None = None) -> None:
        chosen.max_pool(problem, x, values, indices)

    result: Any
    if indexed:
        values_out, indices_out = rules.out_pair(function, out)
        outs = (("out[0]", values_out, problem.dtype), ("out[1]", indices_out, rules.INT64))
        result = tuple(fill_all(function, outs, problem.output_shape, batched, (x,), compute))
    else:
        result = fill(function, out, problem.output_shape, batched, problem.dtype, (x,), compute)
    if key is not None and batched and x.size:
        remember(key, chosen, "known_walk", problem, "max_pool_indices" if indexed else "max_pool")
    return result


@documented(MAX_POOL, ERRORS, POOL_SOURCE)
def max_pool1d(
    input: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Padding = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, out: Array | tuple[Array, Array] | None = None,
    backend: str = "auto",
) -> Any:  # fmt: skip
    """Take the maximum of each window of (N, C, L)."""
    return _max_pool(
        1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, out, backend
    )



@documented(MAX_POOL, ERRORS, POOL_SOURCE)
def max_pool2d(
    input: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Padding = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, out: Array | tuple[Array, Array] | None = None,
    backend: str = "auto",
) -> Any:  # fmt: skip
    """Take the maximum of each window of (N, C, H, W)."""
    return _max_pool(
        2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, out, backend
    )



@documented(MAX_POOL, ERRORS, POOL_SOURCE)
def max_pool3d(
    input: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Padding = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, out: Array | tuple[Array, Array] | None = None,
    backend: str = "auto",
) -> Any:  # fmt: skip
    """Take the maximum of each window of (N, C, D, H, W)."""
    return _max_pool(
        3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, out, backend
    )


UNPOOL = f"""\
The partial inverse of `max_pool2d`: each value goes to its index, the rest is zero.  Where windows
overlapped and an index stands twice, the last value stays.

Parameters
----------
input : array_like
    (N, C, *pooled), or without N; integers or floating.
indices : array_like of int64
    What the pool returned: the input's shape, each within one channel's plane of the result.  Another one
    is a ValueError, and ``out`` may be half-written by then.
kernel_size, stride, padding
    The pool's own, ints or one per axis.
output_size : sequence of int, optional
    Size of the result, spatial or full, less than a stride away from the size it has otherwise:
    (pooled - 1) * stride - 2 * padding + kernel_size.
{RUNNING}
Returns
-------
ndarray
    (N, C, *output) of the input's dtype; without N if the input has none.
"""

UNPOOL_SOURCE = """\
References
----------
M. Zeiler, G. Taylor and R. Fergus, "Adaptive deconvolutional networks for mid and high level
feature learning", ICCV 2011; the operator MaxUnpool of ONNX.
"""


def scatter(
    function: str, batched: bool, values: Array, indices: Array, shape: tuple[int, ...], out: Array | None,
    backend: str, *, accumulate: bool, key: Key | None = None,
) -> Array:  # fmt: skip
    """Put values (N, C, *pooled) at their indices in zeros of ``shape``, adding or overwriting."""
    chosen = choose_backend(function, backend)
    planes = shape[0] * shape[1]

    def compute(result: Array) -> None:
        images = (a.reshape(planes, *a.shape[2:]) for a in (values, indices, result))
        if not chosen.scatter(*images, accumulate=accumulate):
            raise rules.outside(function, indices if batched else indices[0], math.prod(shape[2:]))

    result = fill(function, out, shape, batched, values.dtype, (values, indices), compute)
    if key is not None and batched and result.size:
        remember(key, chosen, "known_scatter", values.shape, shape, values.dtype, accumulate)
    return result


def _max_unpool(
    rank: int, input: object, indices: object, kernel_size: object, stride: object, padding: object,
    output_size: object, out: Array | None, backend: str,
) -> Array:  # fmt: skip
    function = f"max_unpool{rank}d"
    batched, x, places, shape = rules.max_unpool(
        function, rank, input, indices, kernel_size, stride, padding, output_size
    )
    return scatter(function, batched, x, places, shape, out, backend, accumulate=False)


@documented(UNPOOL, ERRORS, UNPOOL_SOURCE)
def max_unpool1d(
    input: npt.ArrayLike, indices: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
    output_size: Sequence[int] | None = None, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Put maxima back where `max_pool1d` found them."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size, out, backend)


@documented(UNPOOL, ERRORS, UNPOOL_SOURCE)
def max_unpool2d(
    input: npt.ArrayLike, indices: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
    output_size: Sequence[int] | None = None, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Put maxima back where `max_pool2d` found them."""
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size, out, backend)


@documented(UNPOOL, ERRORS, UNPOOL_SOURCE)
def max_unpool3d(
    input: npt.ArrayLike, indices: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
    output_size: Sequence[int] | None = None, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Put maxima back where `max_pool3d` found them."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size, out, backend)


MEAN = """\
count_include_pad : bool
    Divide by the window's size within input and padding, rather than by the elements it holds.
divisor_override : int, optional
    Divide by this instead; not 0, but it may be negative."""

AVG_POOL = f"""\
Padding adds nothing to the sum.

Parameters
----------
input : array_like
    (N, C, *spatial), or without N; floating (float16 becomes float32).
{WINDOW}
{CEIL}
{MEAN}
{RUNNING}
Returns
-------
ndarray
    (N, C, *output) of the input's dtype; without N if the input has none.
"""


def _avg_pool(
    rank: int, input: object, kernel_size: object, stride: object, padding: object, ceil_mode: object,
    count_include_pad: object, divisor_override: object, out: Array | None, backend: str,
) -> Array:  # fmt: skip
    key, options = None, (kernel_size, stride, padding, divisor_override, backend)
    if is_known_kind(input) and type(ceil_mode) is type(count_include_pad) is bool and rules.is_plain(options):
        key = ("avg_pool", rank, input.shape, ceil_mode, count_include_pad, *options)  # type: ignore[attr-defined]
        known = recall(key, input, out)
        if known is not None:
            return known  # type: ignore[no-any-return]
    function = f"avg_pool{rank}d"
    problem, batched, x = rules.window(
        function, rank, input, kernel_size, stride, padding, 1, ceil_mode,
        count_include_pad=count_include_pad, divisor_override=divisor_override,
    )  # fmt: skip
    chosen = choose_backend(function, backend)
    result = fill(
        function, out, problem.output_shape, batched, problem.dtype, (x,), lambda y: chosen.avg_pool(problem, x, y)
    )
    if key is not None and batched and x.size:
        remember(key, chosen, "known_walk", problem, "avg_pool")
    return result


@documented(AVG_POOL, ERRORS, POOL_SOURCE)
def avg_pool1d(
    input: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Padding = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None, *,
    out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Take the mean of each window of (N, C, L)."""
    return _avg_pool(
        1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out, backend
    )


@documented(AVG_POOL, ERRORS, POOL_SOURCE)
def avg_pool2d(
    input: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Padding = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None, *,
    out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Take the mean of each window of (N, C, H, W)."""
    return _avg_pool(
        2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out, backend
    )


@documented(AVG_POOL, ERRORS, POOL_SOURCE)
def avg_pool3d(
    input: npt.ArrayLike, kernel_size: Sizes, stride: Sizes | None = None, padding: Padding = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None, *,
    out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Take the mean of each window of (N, C, D, H, W)."""
    return _avg_pool(
        3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out, backend
    )


# --------------------------------------------------------------------------------------------------
# Windows as columns


COLUMNS = """\
kernel_size, dilation, stride : int or one per axis
    The window in taps, positions between taps, positions between windows.
padding : int, one per axis, one (before, after) pair per axis, or str
    Zeros around the input; words as in `conv2d`."""

UNFOLD = f"""\
Column p holds the elements that window p sees, channel by channel, in row-major order of the taps.

Parameters
----------
input : array_like
    (N, C, *spatial), or without N; floating (float16 becomes float32).
{COLUMNS}
{RUNNING}
Returns
-------
ndarray
    (N, C * taps, windows); without N if the input has none.
"""

FOLD = f"""\
The transpose of `unfold`: where windows overlap, their elements are added.

Parameters
----------
input : array_like
    (N, C * taps, windows), or without N; floating (float16 becomes float32).
output_size : int or one per axis
    Spatial size of the result.
{COLUMNS}
{RUNNING}
Returns
-------
ndarray
    (N, C, *output_size); without N if the input has none.
"""

COLUMNS_SOURCE = """\
References
----------
The operator Col2Im of ONNX, and ``torch.nn.functional``.
"""


def _unfold(
    function: str, rank: int, input: object, kernel_size: object, dilation: object, padding: object, stride: object,
    out: Array | None, backend: str,
) -> Array:  # fmt: skip
    problem, batched, x = rules.window(
        function, rank, input, kernel_size, stride, padding, dilation, pooling=False
    )
    chosen = choose_backend(function, backend)
    return fill(
        function, out, problem.columns_shape, batched, problem.dtype, (x,), lambda y: chosen.unfold(problem, x, y)
    )


def _fold(
    function: str, rank: int, input: object, output_size: object, kernel_size: object, dilation: object,
    padding: object, stride: object, out: Array | None, backend: str,
) -> Array:  # fmt: skip
    problem, batched, columns = rules.fold(
        function, rank, input, output_size, kernel_size, dilation, padding, stride
    )
    chosen = choose_backend(function, backend)
    return fill(
        function, out, problem.input_shape, batched, problem.dtype, (columns,),
        lambda y: chosen.fold(problem, columns, y),
    )  # fmt: skip


@documented(UNFOLD, ERRORS, COLUMNS_SOURCE)
def unfold(
    input: npt.ArrayLike, kernel_size: Sizes, dilation: Sizes = 1, padding: Padding = 0, stride: Sizes = 1, *,
    out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Lay out the windows of (N, C, H, W) as columns."""
    return _unfold("unfold", 2, input, kernel_size, dilation, padding, stride, out, backend)


@documented(UNFOLD, ERRORS, COLUMNS_SOURCE)
def unfold1d(
    input: npt.ArrayLike, kernel_size: Sizes, dilation: Sizes = 1, padding: Padding = 0, stride: Sizes = 1, *,
    out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Lay out the windows of (N, C, L) as columns."""
    return _unfold("unfold1d", 1, input, kernel_size, dilation, padding, stride, out, backend)


@documented(UNFOLD, ERRORS, COLUMNS_SOURCE)
def unfold3d(
    input: npt.ArrayLike, kernel_size: Sizes, dilation: Sizes = 1, padding: Padding = 0, stride: Sizes = 1, *,
    out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Lay out the windows of (N, C, D, H, W) as columns."""
    return _unfold("unfold3d", 3, input, kernel_size, dilation, padding, stride, out, backend)


@documented(FOLD, ERRORS, COLUMNS_SOURCE)
def fold(
    input: npt.ArrayLike, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Padding = 0,
    stride: Sizes = 1, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Add columns up at the places of (N, C, H, W) that `unfold` takes them from."""
    return _fold("fold", 2, input, output_size, kernel_size, dilation, padding, stride, out, backend)


@documented(FOLD, ERRORS, COLUMNS_SOURCE)
def fold1d(
    input: npt.ArrayLike, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Padding = 0,
    stride: Sizes = 1, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Add columns up at the places of (N, C, L) that `unfold1d` takes them from."""
    return _fold("fold1d", 1, input, output_size, kernel_size, dilation, padding, stride, out, backend)


@documented(FOLD, ERRORS, COLUMNS_SOURCE)
def fold3d(
    input: npt.ArrayLike, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Padding = 0,
    stride: Sizes = 1, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Add columns up at the places of (N, C, D, H, W) that `unfold3d` takes them from."""
    return _fold("fold3d", 3, input, output_size, kernel_size, dilation, padding, stride, out, backend)
