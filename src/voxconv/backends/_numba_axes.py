"""Geometry of the Numba backend's convolutions: how each axis of a sum reads its input and where its outputs lie.

Forward pass and gradients are one sum over taps.  Each axis is described by its taps, as (index in the kernel, offset
in the input), and by where consecutive outputs lie.  The gradient to the input is, for each phase of the stride, a
stride-1 sum over the taps that hit this phase, so no zeros are inserted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from voxconv.problem import ConvProblem

Array = npt.NDArray[Any]

SQUARES = 3, 5, 7
"""Sizes of depthwise kernels that are compiled for."""


class Axis(NamedTuple):
    """One axis of a sum: output ``first + q * spread`` reads input ``q * step + offset`` through each tap."""

    size: int
    outputs: int
    step: int
    first: int
    spread: int
    taps: tuple[tuple[int, int], ...]
    """(index in the kernel, offset) of the taps that meet the input for some q."""


def triple(axes: tuple[Axis, Axis, Axis], field: str) -> tuple[int, int, int]:
    """One field of all axes."""
    d, h, w = (int(getattr(axis, field)) for axis in axes)
    return d, h, w


def offsets(axes: tuple[Axis, Axis, Axis]) -> tuple[Array, Array, Array]:
    """Offset of each tap, per axis."""
    d, h, w = (table([offset for _, offset in axis.taps]) for axis in axes)
    return d, h, w


def table(values: list[int]) -> Array:
    """Integers as kernels read them."""
    return np.array(values, np.int64)


def deep(values: tuple[Any, ...], fill: Any) -> Any:
    """Prepend axes until there are three."""
    return (fill,) * (3 - len(values)) + tuple(values)


def _axis(size: int, outputs: int, step: int, first: int, spread: int, taps: Iterator[tuple[int, int]]) -> Axis:
    def meets(offset: int) -> bool:
        low = max(0, -(offset // step))
        return low < outputs and low * step + offset < size

    return Axis(size, outputs, step, first, spread, tuple(tap for tap in taps if meets(tap[1])))


def _forward_axis(size: int, taps: int, stride: int, pad: tuple[int, int], dilation: int, outputs: int) -> Axis:
    return _axis(size, outputs, stride, 0, 1, ((t, t * dilation - pad[0]) for t in range(taps)))


def _phases(size: int, taps: int, stride: int, pad: tuple[int, int], dilation: int, outputs: int) -> list[Axis]:
    """One axis of the gradient to the input for each phase of the stride that some tap hits.

    Input i = r + q * stride meets tap t where i + pad - t * dilation is a multiple of the stride,
    and then reads output q + (r + pad - t * dilation) / stride.
    """
    hits: dict[int, list[tuple[int, int]]] = {}
    for t in range(taps):
        r = (t * dilation - pad[0]) % stride
        if r < size:
            hits.setdefault(r, []).append((t, (r + pad[0] - t * dilation) // stride))
    return [_axis(outputs, -(-(size - r) // stride), 1, r, stride, iter(met)) for r, met in hits.items()]


def axes_of(problem: ConvProblem, operation: str) -> list[list[Axis]]:
    """Along each axis its phases; only the gradient to the input may have more or fewer than one."""
    sizes = (
        deep(problem.spatial, 1), deep(problem.kernel, 1), deep(problem.stride, 1), deep(problem.padding, (0, 0)),
        deep(problem.dilation, 1), deep(problem.output, 1),
    )  # fmt: skip
    backward = operation == "conv_input_grad"
    return [_phases(*axis) if backward else [_forward_axis(*axis)] for axis in zip(*sizes, strict=True)]


def weight_places(problem: ConvProblem, axes: tuple[Axis, Axis, Axis], backward: bool) -> tuple[Array, Array]:
    """Where a sum's weights lie: that of output channel k and term t is weight[rows[k] + offsets[t]]."""
    k, c, kernel = problem.k // problem.groups, problem.c // problem.groups, deep(problem.kernel, 1)
    taps = math.prod(kernel)
    tap = np.ravel_multi_index(np.ix_(*(table([t for t, _ in axis.taps]) for axis in axes)), kernel).ravel()
    if backward:
        rows = (np.arange(problem.groups)[:, None] * k * c * taps + np.arange(c) * taps).ravel()
        return rows, (np.arange(k)[:, None] * c * taps + tap).ravel()
    return np.arange(problem.k) * c * taps, (np.arange(c)[:, None] * taps + tap).ravel()


def is_in_place(axes: tuple[Axis, Axis, Axis]) -> bool:
    """Whether the sum reads one element for each output, at the output's own place."""
    return all(
        (axis.step, axis.first, axis.spread, axis.size) == (1, 0, 1, axis.outputs) and [o for _, o in axis.taps] == [0]
        for axis in axes
    )


def square_of(axes: tuple[Axis, ...]) -> int:
    """The size of a square kernel of neighbouring taps that has a depthwise kernel of its own, else 0."""
    d, h, w = (sorted(offset for _, offset in axis.taps) for axis in axes)
    size = len(w)
    close = size in SQUARES and all(len(moves) == size == moves[-1] - moves[0] + 1 for moves in (h, w) if moves)
    even = axes[1].step == axes[2].step <= 2 and all(axis.spread == 1 for axis in axes)
    return size if close and h and even and len({b - a for a, b in pairwise(d)}) <= 1 else 0
