"""Gradients of convolution, transposed convolution and pooling, written out: there is no tape.

``*_input`` gives the gradient to a function's input, ``*_weight`` and ``*_bias`` to its parameters.
An activation is not part of them: multiply grad_output by its slope first.  `unfold` and `fold` are
each other's gradient.
Arguments are those of ``torch.nn.grad`` where it has the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import problem as rules
from voxconv.functional import (
    CEIL,
    CHOOSING,
    ERRORS,
    MEAN,
    RUNNING,
    WINDOW,
    Key,
    apply,
    documented,
    is_known_kind,
    recall,
    remember,
    scatter,
)
from voxconv.plan import Padding, Sizes, choose, choose_backend
from voxconv.problem import FLOAT32, INT64, PLAIN, ConvProblem
from voxconv.results import fill

__all__ = [
    "avg_pool1d_input",
    "avg_pool2d_input",
    "avg_pool3d_input",
    "conv1d_bias",
    "conv1d_input",
    "conv1d_weight",
    "conv2d_bias",
    "conv2d_input",
    "conv2d_weight",
    "conv3d_bias",
    "conv3d_input",
    "conv3d_weight",
    "conv_transpose1d_bias",
    "conv_transpose1d_input",
    "conv_transpose1d_weight",
    "conv_transpose2d_bias",
    "conv_transpose2d_input",
    "conv_transpose2d_weight",
    "conv_transpose3d_bias",
    "conv_transpose3d_input",
    "conv_transpose3d_weight",
    "max_pool1d_input",
    "max_pool2d_input",
    "max_pool3d_input",
    "relu",
    "relu_bias",
]

Array = npt.NDArray[Any]


# --------------------------------------------------------------------------------------------------
# To the input of a convolution, transposed or not


INPUT_GRAD = f"""\
The transpose of the function in its input; elements that no window sees are zero.

Parameters
----------
input_size : sequence of int
    Shape of the input, with or without N.
weight : array_like
    The function's weight, floating.
grad_output : array_like
    Gradient to the function's output, of that shape and the weight's dtype.
stride, padding, dilation, groups, output_padding
    The function's own; not every function has all of them.
{RUNNING}{CHOOSING}
Returns
-------
ndarray
    Of shape ``input_size``.
"""


def _known(
    gradient: str, rank: int, size: object, first: object, second: object, out: object, options: tuple[object, ...]
) -> tuple[Key | None, Array | None]:
    """What `KNOWN` has a gradient of this size to a convolution by, if it may, and the gradient, if it has."""
    if not (
        out is None and type(size) is tuple and PLAIN.issuperset(map(type, (*size, *options)))
        and type(first) is type(second) is np.ndarray and first.dtype is second.dtype is FLOAT32
        and first.flags.carray and second.flags.carray
    ):  # fmt: skip
        return None, None
    key = (gradient, rank, size, first.shape, second.shape, *options)
    return key, recall(key, first, second)


def _conv_input(
    rank: int, input_size: object, weight: object, grad_output: object, stride: object, padding: object,
    dilation: object, groups: object, out: Array | None, backend: str, algorithm: str, precision: str,
) -> Array:  # fmt: skip
    options = (stride, padding, dilation, groups, backend, algorithm, precision)
    key, result = _known("input", rank, input_size, grad_output, weight, out, options)
    if result is not None:
        return result
    function = f"conv{rank}d_input"
    problem, batched, w, gy = rules.conv_input_grad(
        function, rank, input_size, weight, grad_output, stride, padding, dilation, groups
    )
    return apply(function, "conv_input_grad", problem, batched, gy, w, None, out, backend, algorithm, precision, key)


def _conv_transpose_input(
    rank: int, input_size: object, weight: object, grad_output: object, stride: object, padding: object,
    output_padding: object, groups: object, dilation: object, out: Array | None, backend: str, algorithm: str,
    precision: str,
) -> Array:  # fmt: skip
    function = f"conv_transpose{rank}d_input"
    problem, batched, w, gy = rules.conv_transpose_input_grad(
        function, rank, input_size, weight, grad_output, stride, padding, output_padding, groups, dilation
    )
    return apply(function, "conv", problem, batched, gy, w, None, out, backend, algorithm, precision)


@documented(INPUT_GRAD, ERRORS)
def conv1d_input(
    input_size: Sequence[int], weight: npt.ArrayLike, grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, out: Array | None = None, backend: str = "auto",
    algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv1d` to its input."""
    return _conv_input(
        1, input_size, weight, grad_output, stride, padding, dilation, groups, out, backend, algorithm, precision
    )


@documented(INPUT_GRAD, ERRORS)
def conv2d_input(
    input_size: Sequence[int], weight: npt.ArrayLike, grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, out: Array | None = None, backend: str = "auto",
    algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv2d` to its input."""
    return _conv_input(
        2, input_size, weight, grad_output, stride, padding, dilation, groups, out, backend, algorithm, precision
    )


@documented(INPUT_GRAD, ERRORS)
def conv3d_input(
    input_size: Sequence[int], weight: npt.ArrayLike, grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, out: Array | None = None, backend: str = "auto",
    algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv3d` to its input."""
    return _conv_input(
        3, input_size, weight, grad_output, stride, padding, dilation, groups, out, backend, algorithm, precision
    )


@documented(INPUT_GRAD, ERRORS)
def conv_transpose1d_input(
    input_size: Sequence[int], weight: npt.ArrayLike, grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, out: Array | None = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv_transpose1d` to its input."""
    return _conv_transpose_input(
        1, input_size, weight, grad_output, stride, padding, output_padding, groups, dilation, out, backend,
        algorithm, precision,
    )  # fmt: skip


@documented(INPUT_GRAD, ERRORS)
def conv_transpose2d_input(
    input_size: Sequence[int], weight: npt.ArrayLike, grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, out: Array | None = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv_transpose2d` to its input."""
    return _conv_transpose_input(
        2, input_size, weight, grad_output, stride, padding, output_padding, groups, dilation, out, backend,
        algorithm, precision,
    )  # fmt: skip


@documented(INPUT_GRAD, ERRORS)
def conv_transpose3d_input(
    input_size: Sequence[int], weight: npt.ArrayLike, grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, out: Array | None = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv_transpose3d` to its input."""
    return _conv_transpose_input(
        3, input_size, weight, grad_output, stride, padding, output_padding, groups, dilation, out, backend,
        algorithm, precision,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# To the weight


WEIGHT_GRAD = f"""\
The sum over samples and positions is split by the shape alone, so its bits do not depend on the
number of threads.

Parameters
----------
input : array_like
    The function's input, with or without N; integers take grad_output's dtype.
weight_size : sequence of int
    Shape of the weight.
grad_output : array_like
    Gradient to the function's output, of that shape, floating.
stride, padding, dilation, groups, output_padding
    The function's own; not every function has all of them.
{RUNNING}{CHOOSING}
Returns
-------
ndarray
    Of shape ``weight_size``; zeros where there is no sample.
"""


def _weight_grad(
    function: str, problem: ConvProblem, x: Array, gy: Array, out: Array | None, backend: str, algorithm: str,
    precision: str, key: Key | None = None,
) -> Array:  # fmt: skip
    choice = choose(problem, "conv_weight_grad", backend, algorithm, precision, function=function)

    def compute(result: Array) -> None:
        if problem.n:
            choice.backend.conv_weight_grad(problem, choice.algorithm, x, gy, result)
        else:
            result[...] = 0

    result = fill(function, out, problem.weight_shape, True, problem.dtype, (x, gy), compute)
    if key is not None and problem.n and result.size:
        remember(key, choice.backend, "known_call", problem, "conv_weight_grad", choice.algorithm)
    return result


def _conv_weight(
    rank: int, input: object, weight_size: object, grad_output: object, stride: object, padding: object,
    dilation: object, groups: object, out: Array | None, backend: str, algorithm: str, precision: str,
) -> Array:  # fmt: skip
    options = (stride, padding, dilation, groups, backend, algorithm, precision)
    key, result = _known("weight", rank, weight_size, input, grad_output, out, options)
    if result is not None:
        return result
    function = f"conv{rank}d_weight"
    problem, x, gy = rules.conv_weight_grad(
        function, rank, input, weight_size, grad_output, stride, padding, dilation, groups
    )
    return _weight_grad(function, problem, x, gy, out, backend, algorithm, precision, key)


def _conv_transpose_weight(
    rank: int, input: object, weight_size: object, grad_output: object, stride: object, padding: object,
    output_padding: object, groups: object, dilation: object, out: Array | None, backend: str, algorithm: str,
    precision: str,
) -> Array:  # fmt: skip
    function = f"conv_transpose{rank}d_weight"
    problem, x, gy = rules.conv_transpose_weight_grad(
        function, rank, input, weight_size, grad_output, stride, padding, output_padding, groups, dilation
    )
    # The problem maps the function's output to its input, so the two change places.
    return _weight_grad(function, problem, gy, x, out, backend, algorithm, precision)


@documented(WEIGHT_GRAD, ERRORS)
def conv1d_weight(
    input: npt.ArrayLike, weight_size: Sequence[int], grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, out: Array | None = None, backend: str = "auto",
    algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv1d` to its weight."""
    return _conv_weight(
        1, input, weight_size, grad_output, stride, padding, dilation, groups, out, backend, algorithm, precision
    )


@documented(WEIGHT_GRAD, ERRORS)
def conv2d_weight(
    input: npt.ArrayLike, weight_size: Sequence[int], grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, out: Array | None = None, backend: str = "auto",
    algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv2d` to its weight."""
    return _conv_weight(
        2, input, weight_size, grad_output, stride, padding, dilation, groups, out, backend, algorithm, precision
    )


@documented(WEIGHT_GRAD, ERRORS)
def conv3d_weight(
    input: npt.ArrayLike, weight_size: Sequence[int], grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, out: Array | None = None, backend: str = "auto",
    algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv3d` to its weight."""
    return _conv_weight(
        3, input, weight_size, grad_output, stride, padding, dilation, groups, out, backend, algorithm, precision
    )


@documented(WEIGHT_GRAD, ERRORS)
def conv_transpose1d_weight(
    input: npt.ArrayLike, weight_size: Sequence[int], grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, out: Array | None = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv_transpose1d` to its weight."""
    return _conv_transpose_weight(
        1, input, weight_size, grad_output, stride, padding, output_padding, groups, dilation, out, backend,
        algorithm, precision,
    )  # fmt: skip


@documented(WEIGHT_GRAD, ERRORS)
def conv_transpose2d_weight(
    input: npt.ArrayLike, weight_size: Sequence[int], grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, out: Array | None = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv_transpose2d` to its weight."""
    return _conv_transpose_weight(
        2, input, weight_size, grad_output, stride, padding, output_padding, groups, dilation, out, backend,
        algorithm, precision,
    )  # fmt: skip


@documented(WEIGHT_GRAD, ERRORS)
def conv_transpose3d_weight(
    input: npt.ArrayLike, weight_size: Sequence[int], grad_output: npt.ArrayLike, stride: Sizes = 1,
    padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1, dilation: Sizes = 1, *, out: Array | None = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> Array:  # fmt: skip
    """Give the gradient of `conv_transpose3d` to its weight."""
    return _conv_transpose_weight(
        3, input, weight_size, grad_output, stride, padding, output_padding, groups, dilation, out, backend,
        algorithm, precision,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Through a ReLU


def _relu(
    output: object, grad_output: object, out: Array | None, sums: bool, backend: str
) -> tuple[Array, Array | None]:
    y, gy = rules.relu_grad("relu", output, grad_output)
    chosen = choose_backend("relu", backend)
    channels = np.zeros(gy.shape[1], gy.dtype) if sums else None
    read = (y,) if out is gy else (y, gy)  # element by element: the result may take the gradient's place
    gradient = fill(
        "relu", out, gy.shape, True, gy.dtype, read, lambda result: chosen.relu_grad(y, gy, result, channels)
    )
    return gradient, channels


THROUGH_RELU = """\
Parameters
----------
output : array_like
    (N, K, *size), floating: what the ReLU returned, or its input.
grad_output : array_like
    Gradient to the function's output, of that shape and dtype.
out, backend
    As for `conv2d_bias`.

Returns
-------
gradient : ndarray
    (N, K, *size)
"""

SUMS = """\
sums : ndarray
    (K,), over samples and positions
"""


@documented(THROUGH_RELU, ERRORS)
def relu(
    output: npt.ArrayLike, grad_output: npt.ArrayLike, *, out: Array | None = None, backend: str = "auto"
) -> Array:
    """Give the gradient of a ReLU to its input: grad_output where output is not <= 0, else 0."""
    return _relu(output, grad_output, out, False, backend)[0]


@documented(THROUGH_RELU + SUMS, ERRORS)
def relu_bias(
    output: npt.ArrayLike, grad_output: npt.ArrayLike, *, out: Array | None = None, backend: str = "auto"
) -> tuple[Array, Array]:
    """Give `relu` and, from the same pass, its sums: the gradient to a bias before it."""
    gradient, sums = _relu(output, grad_output, out, True, backend)
    assert sums is not None
    return gradient, sums


# --------------------------------------------------------------------------------------------------
# To the bias


BIAS_GRAD = f"""\
The sum of grad_output over samples and positions.

Parameters
----------
grad_output : array_like
    (N, K, *output), or without N; floating.
{RUNNING}
Returns
-------
ndarray
    (K,); zeros where there is no sample.
"""


def _bias(function: str, rank: int, grad_output: object, out: Array | None, backend: str) -> Array:
    gy = rules.conv_bias_grad(function, rank, grad_output)
    chosen = choose_backend(function, backend)

    def compute(result: Array) -> None:
        if gy.size:
            chosen.conv_bias_grad(gy, result)
        else:
            result[...] = 0

    return fill(function, out, (gy.shape[1],), True, gy.dtype, (gy,), compute)


@documented(BIAS_GRAD, ERRORS)
def conv1d_bias(grad_output: npt.ArrayLike, *, out: Array | None = None, backend: str = "auto") -> Array:
    """Give the gradient of `conv1d` to its bias."""
    return _bias("conv1d_bias", 1, grad_output, out, backend)


@documented(BIAS_GRAD, ERRORS)
def conv2d_bias(grad_output: npt.ArrayLike, *, out: Array | None = None, backend: str = "auto") -> Array:
    """Give the gradient of `conv2d` to its bias."""
    return _bias("conv2d_bias", 2, grad_output, out, backend)


@documented(BIAS_GRAD, ERRORS)
def conv3d_bias(grad_output: npt.ArrayLike, *, out: Array | None = None, backend: str = "auto") -> Array:
    """Give the gradient of `conv3d` to its bias."""
    return _bias("conv3d_bias", 3, grad_output, out, backend)


@documented(BIAS_GRAD, ERRORS)
def conv_transpose1d_bias(grad_output: npt.ArrayLike, *, out: Array | None = None, backend: str = "auto") -> Array:
    """Give the gradient of `conv_transpose1d` to its bias."""
    return _bias("conv_transpose1d_bias", 1, grad_output, out, backend)


@documented(BIAS_GRAD, ERRORS)
def conv_transpose2d_bias(grad_output: npt.ArrayLike, *, out: Array | None = None, backend: str = "auto") -> Array:
    """Give the gradient of `conv_transpose2d` to its bias."""
    return _bias("conv_transpose2d_bias", 2, grad_output, out, backend)


@documented(BIAS_GRAD, ERRORS)
def conv_transpose3d_bias(grad_output: npt.ArrayLike, *, out: Array | None = None, backend: str = "auto") -> Array:
    """Give the gradient of `conv_transpose3d` to its bias."""
    return _bias("conv_transpose3d_bias", 3, grad_output, out, backend)


# --------------------------------------------------------------------------------------------------
# To the input of a pool


MAX_POOL_GRAD = f"""\
Each value goes to the position of its window's maximum, and values that meet there are added, in
the order of the windows.

Parameters
----------
grad_output : array_like
    (N, C, *pooled), or without N; floating.
indices : array_like of int64
    What the pool returned: of grad_output's shape, each within one channel's plane.  Another one is a
    ValueError, and ``out`` may be half-written by then.
input_size : sequence of int
    Shape of the pool's input, with or without N.
{RUNNING}
Returns
-------
ndarray
    Of shape ``input_size``.
"""


def _max_pool_input(
    rank: int, grad_output: object, indices: object, input_size: object, out: Array | None, backend: str
) -> Array:
    key = None
    if (
        is_known_kind(grad_output) and is_known_kind(indices, INT64) and type(input_size) is tuple
        and type(backend) is str and PLAIN.issuperset(map(type, input_size))
    ):  # fmt: skip
        key = ("max_pool_input", rank, grad_output.shape, indices.shape, input_size, backend)  # type: ignore[attr-defined]
        known = recall(key, grad_output, indices, out)
        if known is not None:
            return known  # type: ignore[no-any-return]
    function = f"max_pool{rank}d_input"
    batched, gy, places, shape = rules.scatter(function, rank, grad_output, "grad_output", indices, input_size)
    return scatter(function, batched, gy, places, shape, out, backend, accumulate=True, key=key)


@documented(MAX_POOL_GRAD, ERRORS)
def max_pool1d_input(
    grad_output: npt.ArrayLike, indices: npt.ArrayLike, input_size: Sequence[int], *, out: Array | None = None,
    backend: str = "auto",
) -> Array:  # fmt: skip
    """Give the gradient of `max_pool1d` to its input."""
    return _max_pool_input(1, grad_output, indices, input_size, out, backend)


@documented(MAX_POOL_GRAD, ERRORS)
def max_pool2d_input(
    grad_output: npt.ArrayLike, indices: npt.ArrayLike, input_size: Sequence[int], *, out: Array | None = None,
    backend: str = "auto",
) -> Array:  # fmt: skip
    """Give the gradient of `max_pool2d` to its input."""
    return _max_pool_input(2, grad_output, indices, input_size, out, backend)


@documented(MAX_POOL_GRAD, ERRORS)
def max_pool3d_input(
    grad_output: npt.ArrayLike, indices: npt.ArrayLike, input_size: Sequence[int], *, out: Array | None = None,
    backend: str = "auto",
) -> Array:  # fmt: skip
    """Give the gradient of `max_pool3d` to its input."""
    return _max_pool_input(3, grad_output, indices, input_size, out, backend)


AVG_POOL_GRAD = f"""\
Each value over its window's divisor is added to every element that the window holds.

Parameters
----------
grad_output : array_like
    (N, C, *pooled), or without N; floating.
input_size : sequence of int
    Shape of the pool's input, with or without N.
{WINDOW}
{CEIL}
{MEAN}
{RUNNING}
Returns
-------
ndarray
    Of shape ``input_size``.
"""


def _avg_pool_input(
    rank: int, grad_output: object, input_size: object, kernel_size: object, stride: object, padding: object,
    ceil_mode: object, count_include_pad: object, divisor_override: object, out: Array | None, backend: str,
) -> Array:  # fmt: skip
    key, options = None, (input_size, kernel_size, stride, padding, divisor_override, backend)
    if is_known_kind(grad_output) and type(ceil_mode) is type(count_include_pad) is bool and rules.is_plain(options):
        key = ("avg_pool_input", rank, grad_output.shape, ceil_mode, count_include_pad, *options)  # type: ignore[attr-defined]
        known = recall(key, grad_output, out)
        if known is not None:
            return known  # type: ignore[no-any-return]
    function = f"avg_pool{rank}d_input"
    problem, batched, gy = rules.avg_pool_grad(
        function, rank, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override,
    )  # fmt: skip
    chosen = choose_backend(function, backend)
    result = fill(
        function, out, problem.input_shape, batched, problem.dtype, (gy,),
        lambda gx: chosen.avg_pool_grad(problem, gy, gx),
    )  # fmt: skip
    if key is not None and batched and result.size:
        remember(key, chosen, "known_walk", problem, "avg_pool_grad")
    return result


@documented(AVG_POOL_GRAD, ERRORS)
def avg_pool1d_input(
    grad_output: npt.ArrayLike, input_size: Sequence[int], kernel_size: Sizes, stride: Sizes | None = None,
    padding: Padding = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Give the gradient of `avg_pool1d` to its input."""
    return _avg_pool_input(
        1, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out,
        backend,
    )  # fmt: skip


@documented(AVG_POOL_GRAD, ERRORS)
def avg_pool2d_input(
    grad_output: npt.ArrayLike, input_size: Sequence[int], kernel_size: Sizes, stride: Sizes | None = None,
    padding: Padding = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Give the gradient of `avg_pool2d` to its input."""
    return _avg_pool_input(
        2, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out,
        backend,
    )  # fmt: skip


@documented(AVG_POOL_GRAD, ERRORS)
def avg_pool3d_input(
    grad_output: npt.ArrayLike, input_size: Sequence[int], kernel_size: Sizes, stride: Sizes | None = None,
    padding: Padding = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None, *, out: Array | None = None, backend: str = "auto",
) -> Array:  # fmt: skip
    """Give the gradient of `avg_pool3d` to its input."""
    return _avg_pool_input(
        3, grad_output, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out,
        backend,
    )  # fmt: skip
