"""Reference backend: every operation as its formula reads, in NumPy, with float64 sums.

Each operation walks over the taps of the kernel.  A tap meets a strided box of the input and the
box of outputs whose windows hold it there; what falls on padding is in neither box, so padding
contributes nothing whatever the weight.  Boxes come from Python integers, hence no stride, dilation
or padding costs memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.backends import Descend, Descent, Learned
from voxconv.problem import ConvProblem, WindowProblem, all_inside

__all__ = [
    "algorithms", "avg_pool", "avg_pool_grad", "conv", "conv_bias_grad", "conv_input_grad", "conv_weight_grad",
    "descend", "fold", "max_pool", "name", "pack", "refusal", "scatter", "unfold", "workspace_bytes",
]  # fmt: skip

Array = npt.NDArray[Any]
Index = tuple[Any, ...]

name = "reference"
algorithms: tuple[str, ...] = ("direct",)

# Infinite and NaN inputs are legitimate: what they give is the result, not an accident to warn of.
quiet = np.errstate(all="ignore")


def refusal(problem: ConvProblem, operation: str, algorithm: str, *, asked: bool) -> str | None:
    """Why this algorithm is not taken, or None."""
    return None if algorithm in algorithms else f"the reference backend has no algorithm {algorithm!r}"


def gain(problem: ConvProblem, operation: str, algorithm: str) -> float:
    """See `voxconv.backends.Backend.gain`."""
    return 1.0


def workspace_bytes(problem: ConvProblem, operation: str, algorithm: str, threads: int) -> int:
    """Roughly the float64 copies of the three arrays."""
    shapes = (problem.input_shape, problem.weight_shape, problem.output_shape)
    return 8 * sum(math.prod(shape) for shape in shapes)


def pack(problem: ConvProblem, operation: str, algorithm: str, weight: Array, once: bool = False) -> Any:
    """Return the weight itself."""
    return weight


# --------------------------------------------------------------------------------------------------
# Taps


def _axis(
    size: int, taps: int, stride: int, before: int, dilation: int, outputs: int
) -> Iterator[tuple[int, slice, slice]]:
    """(tap, outputs, inputs) of every tap of one axis that meets the input, in order."""
    met: range | list[int] = range(taps)
    if taps > outputs:  # each window may miss most of a huge kernel: gather the taps that windows meet
        windows = (before - i * stride for i in range(outputs))
        found = (range(max(0, -(-w // dilation)), min(taps, (w + size - 1) // dilation + 1)) for w in windows)
        met = sorted(set().union(*found))
    for tap in met:
        offset = tap * dilation - before
        first = max(0, -(offset // stride))
        stop = min(outputs, (size - 1 - offset) // stride + 1)
        if first < stop:
            inputs = slice(first * stride + offset, (stop - 1) * stride + offset + 1, stride)
            yield tap, slice(first, stop), inputs


def _taps(problem: ConvProblem | WindowProblem) -> Iterator[tuple[Index, Index, Index]]:
    """(tap, box of outputs, box of inputs) of every tap that meets the input, row-major.

    Each is an index of the trailing axes: it starts with an ellipsis.
    """
    before = [pair[0] for pair in problem.padding]
    axes = zip(
        problem.spatial, problem.kernel, problem.stride, before, problem.dilation, problem.output, strict=True
    )
    for met in product(*(list(_axis(*axis)) for axis in axes)):
        taps, outputs, inputs = zip(*met, strict=True)
        yield (..., *taps), (..., *outputs), (..., *inputs)


# --------------------------------------------------------------------------------------------------
# Convolution


def _grouped(array: Array, groups: int, axis: int) -> Array:
    """``array`` in float64 with its channel axis split into (groups, channels of a group)."""
    shape = array.shape
    split = (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return array.astype(np.float64).reshape(split)


def _finish(problem: ConvProblem, total: Array, bias: Array | None, out: Array) -> None:
    """Add the bias and apply the activation, whose slope has the problem's precision."""
    total = total.reshape(out.shape)
    if bias is not None:
        total = total + bias.reshape(-1, *(1,) * problem.rank)
    if problem.activation is not None:
        slope = float(problem.dtype.type(problem.activation.slope))
        total = np.where(total < 0, slope * total if slope else 0.0, total)
    out[...] = total


@quiet
def conv(
    problem: ConvProblem, algorithm: str, x: Array, packed: Any, bias: Array | None, out: Array,
    most_threads: int | None = None,
) -> None:  # fmt: skip
    """y[n, k, p] = b[k] + sum over c, t of w[k, c, t] * x[n, c, p * stride + t * dilation - padding]."""
    xs, w, ys = _grouped(x, problem.groups, 1), _grouped(packed, problem.groups, 0), "xyz"[: problem.rank]
    total = np.zeros((problem.n, problem.groups, problem.k // problem.groups, *problem.output))
    for tap, outputs, inputs in _taps(problem):
        total[outputs] += np.einsum(f"gkc,ngc{ys}->ngk{ys}", w[tap], xs[inputs])
    _finish(problem, total, bias, out)


@quiet
def conv_input_grad(
    problem: ConvProblem, algorithm: str, grad_output: Array, packed: Any, bias: Array | None, out: Array
) -> None:
    """dx[n, c, i] = b[c] + sum over k, t of w[k, c, t] * dy[n, k, p] where p reads i through t."""
    gy, w, ys = _grouped(grad_output, problem.groups, 1), _grouped(packed, problem.groups, 0), "xyz"[: problem.rank]
    total = np.zeros((problem.n, problem.groups, problem.c // problem.groups, *problem.spatial))
    for tap, outputs, inputs in _taps(problem):
        total[inputs] += np.einsum(f"gkc,ngk{ys}->ngc{ys}", w[tap], gy[outputs])
    _finish(problem, total, bias, out)


@quiet
def conv_weight_grad(problem: ConvProblem, algorithm: str, x: Array, grad_output: Array, out: Array) -> None:
    """dw[k, c, t] = sum over n, p of dy[n, k, p] * x[n, c, p * stride + t * dilation - padding]."""
    xs, gy = _grouped(x, problem.groups, 1), _grouped(grad_output, problem.groups, 1)
    ys = "xyz"[: problem.rank]
    total = np.zeros((problem.groups, problem.k // problem.groups, *problem.weight_shape[1:]))
    for tap, outputs, inputs in _taps(problem):
        total[tap] = np.einsum(f"ngk{ys},ngc{ys}->gkc", gy[outputs], xs[inputs])
    out[...] = total.reshape(out.shape)


@quiet
def conv_bias_grad(grad_output: Array, out: Array) -> None:
    """db[k] = sum over n, p of dy[n, k, p]."""
    out[...] = grad_output.sum(axis=(0, *range(2, grad_output.ndim)), dtype=np.float64)


@quiet
def relu_grad(output: Array, grad_output: Array, out: Array, sums: Array | None) -> None:
    """Gradient where y is not <= 0, else 0."""
    out[...] = np.where(output <= 0, 0, grad_output)
    if sums is not None:
        conv_bias_grad(out, sums)


# --------------------------------------------------------------------------------------------------
# Pooling


@quiet
def max_pool(problem: WindowProblem, x: Array, out: Array, indices: Array | None) -> None:
    """Scan each window row-major; a greater value or a NaN takes over, so a tie keeps the first."""
    place = np.full(problem.output_shape, -1, np.int64)
    for _, outputs, inputs in _taps(problem):
        value, best, at = x[inputs], out[outputs], place[outputs]
        positions = np.ix_(*(np.arange(s.start, s.stop, s.step) for s in inputs[1:]))
        position = np.ravel_multi_index(positions, problem.spatial)
        taken = (at < 0) | (value > best) | np.isnan(value)
        np.copyto(best, value, where=taken)
        np.copyto(at, position, where=taken)
    if indices is not None:
        indices[...] = place


def max_pool_taps(problem: WindowProblem, x: Array, out: Array, taps: Array) -> None:
    """By the maximum's position."""
    indices = np.empty(problem.output_shape, np.int64)
    max_pool(problem, x, out, indices)
    taps[...] = taps_of(problem, indices)


def taps_of(problem: WindowProblem, indices: Array) -> Array:
    """Where in its window each position in the plane is."""
    at = np.unravel_index(indices, problem.spatial)
    taps: Array = np.ravel_multi_index(tuple(a % k for a, k in zip(at, problem.kernel, strict=True)), problem.kernel)
    return taps


def indices_of(problem: WindowProblem, taps: Array) -> Array:
    """Position in the plane of each window's tap."""
    corners = np.ix_(*(np.arange(o) * k for o, k in zip(problem.output, problem.kernel, strict=True)))
    at = tuple(c + t for c, t in zip(corners, np.unravel_index(taps, problem.kernel), strict=True))
    indices: Array = np.ravel_multi_index(at, problem.spatial)
    return indices


def add_and_rectify(out: Array, add: Array | None, output: Array | None) -> None:
    """Add another gradient in place, and pass the sum through a ReLU whose result was output."""
    if add is not None:
        out += add
    if output is not None:
        np.copyto(out, 0, where=output <= 0)


def max_pool_taps_grad(
    problem: WindowProblem, grad_output: Array, taps: Array, pooled: Array | None, output: Array | None,
    add: Array | None, out: Array, sums: Array | None,
) -> None:  # fmt: skip
    """One step after the other."""
    gradient = grad_output if pooled is None else np.where(pooled <= 0, 0, grad_output)
    scatter(
        gradient.reshape(problem.planes, -1), indices_of(problem, taps).reshape(problem.planes, -1),
        out.reshape(problem.planes, -1), accumulate=False,
    )  # fmt: skip
    add_and_rectify(out, add, output)
    if sums is not None:
        conv_bias_grad(out, sums)


@quiet
def scatter(values: Array, indices: Array, out: Array, *, accumulate: bool) -> bool:
    """out[plane, indices] = values, or += in index order."""
    if not all_inside(indices, math.prod(out.shape[1:])):
        return False
    values, indices, out = (array.reshape(len(array), -1) for array in (values, indices, out))
    planes = np.arange(len(values))[:, None]
    total = np.zeros(out.shape, np.float64 if out.dtype.kind == "f" and accumulate else out.dtype)
    if accumulate:
        np.add.at(total, (planes, indices), values)
    else:
        total[planes, indices] = values
    out[...] = total
    return True


def _divisors(problem: WindowProblem) -> Array:
    """Count what the sum over each window is divided by, shape ``output``."""
    if problem.divisor_override is not None:
        return np.full(problem.output, float(problem.divisor_override))
    result = np.ones(())
    axes = zip(
        problem.spatial, problem.kernel, problem.stride, problem.padding, problem.dilation, problem.output, strict=True
    )
    for size, taps, stride, (before, after), dilation, outputs in axes:
        low, high = (-before, size + after) if problem.count_include_pad else (0, size)
        starts = [i * stride - before for i in range(outputs)]
        counts = [
            min(taps, -(-(high - start) // dilation)) - max(0, -(-(low - start) // dilation)) for start in starts
        ]
        result = np.multiply.outer(result, np.array(counts, np.float64))
    return result


@quiet
def avg_pool(problem: WindowProblem, x: Array, out: Array) -> None:
    """Sum of each window over its divisor."""
    total = np.zeros(problem.output_shape)
    for _, outputs, inputs in _taps(problem):
        total[outputs] += x[inputs]
    out[...] = total / _divisors(problem)


@quiet
def avg_pool_grad(problem: WindowProblem, grad_output: Array, out: Array) -> None:
    """Each output's gradient over its divisor, added to every element of its window."""
    share = grad_output / _divisors(problem)
    total = np.zeros(problem.input_shape)
    for _, outputs, inputs in _taps(problem):
        total[inputs] += share[outputs]
    out[...] = total


# --------------------------------------------------------------------------------------------------
# Columns


def unfold(problem: WindowProblem, x: Array, out: Array) -> None:
    """out[n, (c, tap), p] = x[n, c, p * stride + tap * dilation - padding], zero on padding."""
    out[...] = 0
    columns = out.reshape(problem.n, problem.c, *problem.kernel, *problem.output)
    for tap, outputs, inputs in _taps(problem):
        columns[tap + outputs[1:]] = x[inputs]


@quiet
def fold(problem: WindowProblem, columns: Array, out: Array) -> None:
    """Add each column value to the place that `unfold` took it from."""
    windows = columns.reshape(problem.n, problem.c, *problem.kernel, *problem.output)
    total = np.zeros(problem.input_shape)
    for tap, outputs, inputs in _taps(problem):
        total[inputs] += windows[tap + outputs[1:]]
    out[...] = total


# --------------------------------------------------------------------------------------------------
# Optimisers


def descend(rule: str, learned: Sequence[Learned]) -> Descend:
    """Step by step, each array's formula in its own dtype."""

    @quiet
    def run(descent: Descent, gradients: Sequence[Array], rates: Sequence[float], scales: Sequence[float]) -> None:
        for (data, mean, square), gradient, rate, scale in zip(learned, gradients, rates, scales, strict=True):
            data *= descent.shrink
            step = gradient + descent.weight_decay * data if descent.weight_decay else gradient
            if rule == "adam":
                assert mean is not None
                assert square is not None
                mean += (1 - descent.momentum) * (step - mean)
                square *= descent.second
                square += (1 - descent.second) * step * step
                step = mean / (scale * np.sqrt(square) + descent.eps)
            elif mean is not None:
                mean *= descent.momentum
                mean += step
                step = step + descent.momentum * mean if descent.nesterov else mean
            data -= rate * step

    return run
