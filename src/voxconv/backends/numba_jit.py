"""Numba backend: tables in Python, loops compiled.

Forward pass and both gradients are one sum over taps.  Here each axis is described by its taps, as
(index in the kernel, offset in the input), and by where consecutive outputs lie; from that come the
offset lists that the compiled loops run over.  The gradient to the input is, for each phase of the
stride, a stride-1 sum over the taps that hit this phase, so no zeros are inserted.

"direct" and "im2col" differ in one table only: direct copies each input row once and lets taps share
it, im2col gives every tap a copy of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from voxconv.backends import _numba_kernels as kernels
from voxconv.problem import ConvProblem, WindowProblem

__all__ = [
    "algorithms", "avg_pool", "avg_pool_grad", "conv", "conv_bias_grad", "conv_input_grad", "conv_weight_grad",
    "fold", "max_pool", "name", "pack", "refusal", "scatter", "unfold", "workspace_bytes",
]  # fmt: skip

Array = npt.NDArray[Any]
Triple = tuple[int, int, int]

name = "numba"
algorithms: tuple[str, ...] = ("direct", "im2col")

PANEL_BYTES = 1 << 19
"""Aim for the copy of the input that a box of outputs reads: half an L2 cache."""

CALL_FLOPS = 2 * 10**9
"""Most work of one compiled call, where samples allow: a signal is seen only between calls."""

BOX_PIXELS = 1024
"""Most outputs of a box along one flat run, so that a tile's rows of sums stay in L1."""


# --------------------------------------------------------------------------------------------------
# Tables


class Axis(NamedTuple):
    """One axis of a sum: output ``first + q * spread`` reads input ``q * step + offset`` through each tap."""

    size: int
    outputs: int
    step: int
    first: int
    spread: int
    taps: tuple[tuple[int, int], ...]
    """(index in the kernel, offset) of the taps that meet the input for some q."""


class Slots(NamedTuple):
    """Where the panel keeps an axis: rows that begin at ``starts``, and (slot, shift) of each tap in them."""

    starts: Array
    places: list[tuple[int, int]]
    span: int
    """Elements that a slot is longer than the box of outputs."""


@dataclass(frozen=True)
class Sweep:
    """All that the compiled loops take besides the arrays: one forward pass, or one phase of a gradient."""

    axes: tuple[Axis, Axis, Axis]
    slots: tuple[Slots, Slots, Slots]
    box: tuple[int, int]
    channels: int
    outs: int
    wrow: Array
    woff: Array
    xoff: Array
    panel: int

    def triple(self, field: str) -> Triple:
        """One field of all axes."""
        d, h, w = (int(getattr(axis, field)) for axis in self.axes)
        return d, h, w

    @property
    def starts(self) -> tuple[Array, Array, Array]:
        """First input position of each slot, per axis."""
        d, h, w = (slots.starts for slots in self.slots)
        return d, h, w

    @property
    def spans(self) -> tuple[int, int]:
        """Rows and columns that a plane of the panel has beyond the box."""
        return self.slots[1].span, self.slots[2].span

    @property
    def offsets(self) -> tuple[Array, Array, Array]:
        """Offset of each tap, per axis."""
        d, h, w = (_table([offset for _, offset in axis.taps]) for axis in self.axes)
        return d, h, w

    def run(self, itemsize: int) -> int:
        """Elements of one row of sums: a box as a flat run, and what a tile may touch past it."""
        return self.box[0] * (self.box[1] + self.spans[1]) + kernels.SLACK // itemsize


def _table(values: list[int]) -> Array:
    return np.array(values, np.int64)


def _deep(values: tuple[Any, ...], fill: Any) -> Any:
    """Prepend axes until there are three."""
    return (fill,) * (3 - len(values)) + tuple(values)


def _axis(size: int, outputs: int, step: int, first: int, spread: int, taps: Iterator[tuple[int, int]]) -> Axis:
    def meets(offset: int) -> bool:
        low = max(0, -(offset // step))
        return low < outputs and low * step + offset < size

    return Axis(size, outputs, step, first, spread, tuple(tap for tap in taps if meets(tap[1])))


def _forward_axis(
    size: int, taps: int, stride: int, pad: tuple[int, int], dilation: int, outputs: int
) -> Axis:
    return _axis(size, outputs, stride, 0, 1, ((t, t * dilation - pad[0]) for t in range(taps)))


def _phases(
    size: int, taps: int, stride: int, pad: tuple[int, int], dilation: int, outputs: int
) -> list[Axis]:
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


def _slots(axis: Axis, shared: bool) -> Slots:
    """Lay an axis out; with ``shared``, taps that differ by whole steps use one slot."""
    if not shared:
        return Slots(_table([offset for _, offset in axis.taps]), [(i, 0) for i in range(len(axis.taps))], 0)
    lowest: dict[int, int] = {}
    for _, offset in axis.taps:
        steps, rest = divmod(offset, axis.step)
        lowest[rest] = min(steps, lowest.get(rest, steps))
    slot = {rest: i for i, rest in enumerate(lowest)}
    places = [(slot[offset % axis.step], offset // axis.step - lowest[offset % axis.step]) for _, offset in axis.taps]
    starts = [rest + steps * axis.step for rest, steps in lowest.items()]
    return Slots(_table(starts), places, max((shift for _, shift in places), default=0))


def _sweep(problem: ConvProblem, backward: bool, algorithm: str, axes: tuple[Axis, Axis, Axis]) -> Sweep:
    shared = algorithm == "direct"
    # Boxes are one slice deep, so along the depth nothing could be shared.
    slots = (_slots(axes[0], False), _slots(axes[1], shared), _slots(axes[2], shared))
    k, c = problem.k // problem.groups, problem.c // problem.groups
    channels, outs = (k, c) if backward else (c, k)

    rows, columns = axes[1].outputs, axes[2].outputs
    box_w = -(-columns // -(-columns // BOX_PIXELS))
    extent_w = box_w + slots[2].span
    line = channels * math.prod(len(s.starts) for s in slots) * extent_w * problem.dtype.itemsize
    box_h = min(PANEL_BYTES // max(line, 1) - slots[1].span, BOX_PIXELS // extent_w, rows)
    box = (max(box_h, 1), box_w)
    extent_h = box[0] + slots[1].span

    kernel = _deep(problem.kernel, 1)
    taps = math.prod(kernel)
    tap = np.ravel_multi_index(np.ix_(*(_table([t for t, _ in axis.taps]) for axis in axes)), kernel).ravel()
    cells = np.zeros((), np.int64)
    for s, unit in zip(slots, (len(slots[1].starts), len(slots[2].starts), 1), strict=True):
        cells = (cells[..., None] + _table([slot for slot, _ in s.places])) * unit
    shifts = [_table([shift for _, shift in s.places]) for s in slots]
    shift = np.add.outer(np.add.outer(shifts[0], shifts[1] * extent_w), shifts[2])
    place = (cells * extent_h * extent_w + shift).ravel()
    reduction = np.arange(channels)[:, None]
    volume = math.prod(len(s.starts) for s in slots) * extent_h * extent_w
    xoff = (reduction * volume + place).ravel()
    if backward:
        rows_of_w = (np.arange(problem.groups)[:, None] * k * c * taps + np.arange(c) * taps).ravel()
        woff = (reduction * c * taps + tap).ravel()
    else:
        rows_of_w = np.arange(problem.k) * c * taps
        woff = (reduction * taps + tap).ravel()
    return Sweep(axes, slots, box, channels, outs, rows_of_w, woff, xoff, channels * volume)


@lru_cache(maxsize=64)
def _sweeps(problem: ConvProblem, operation: str, algorithm: str) -> tuple[Sweep, ...]:
    """Every sweep of a call; only the gradient to the input may have more or fewer than one."""
    sizes = (
        _deep(problem.spatial, 1), _deep(problem.kernel, 1), _deep(problem.stride, 1),
        _deep(problem.padding, (0, 0)), _deep(problem.dilation, 1), _deep(problem.output, 1),
    )  # fmt: skip
    backward = operation == "conv_input_grad"
    axes = [_phases(*axis) if backward else [_forward_axis(*axis)] for axis in zip(*sizes, strict=True)]
    return tuple(_sweep(problem, backward, algorithm, (d, h, w)) for d, h, w in product(*axes))


# --------------------------------------------------------------------------------------------------
# Convolution


def refusal(problem: ConvProblem, operation: str, algorithm: str, *, asked: bool) -> str | None:
    """Why this algorithm is not taken, or None."""
    if algorithm not in algorithms:
        return f"the numba backend has no algorithm {algorithm!r}"
    if asked or algorithm != "direct":
        return None
    for sweep in _sweeps(problem, operation, algorithm):
        columns, pixels = sweep.box[1], math.prod(sweep.box)
        if sweep.panel > pixels * len(sweep.woff):
            return "copies more of the input than im2col does, for wide taps around few outputs"
        # A flat run over the box also computes the columns between two rows, and drops them.
        run = columns + sweep.spans[1]
        if operation != "conv_weight_grad" and sweep.outs >= kernels.ROWS and 2 * run > 3 * columns:
            return f"computes {run} columns to keep {columns}; im2col serves better"
    return None


def _scratch(sweep: Sweep, dtype: np.dtype[Any], total: int) -> tuple[Array, Array]:
    """Allocate sums and panel for one sweep."""
    return np.zeros(total, dtype), np.zeros(sweep.panel + sweep.run(dtype.itemsize), dtype)


def _weight_totals(sweep: Sweep, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Elements of the weight gradient's sums and of its box of pixels, each for a block of output channels."""
    slack = kernels.SLACK // dtype.itemsize
    block = kernels.VECTORS * kernels.VECTOR_BYTES // dtype.itemsize
    return len(sweep.woff) * block + slack, sweep.box[0] * sweep.box[1] * block + slack


def gain(problem: ConvProblem, operation: str, algorithm: str) -> float:
    """See `voxconv.backends.Backend.gain`."""
    return 1.0


def workspace_bytes(problem: ConvProblem, operation: str, algorithm: str, threads: int) -> int:
    """Panel and sums of the largest sweep; all work is done on the calling thread."""
    most = 0
    for sweep in _sweeps(problem, operation, algorithm):
        run = sweep.run(problem.dtype.itemsize)
        sums = sum(_weight_totals(sweep, problem.dtype)) if operation == "conv_weight_grad" else kernels.ROWS * run
        most = max(most, sweep.panel + run + sums)
    return most * problem.dtype.itemsize


class Packed(NamedTuple):
    """A weight, and whether all of it is finite."""

    weight: Array
    finite: bool


def pack(problem: ConvProblem, operation: str, algorithm: str, weight: Array) -> Packed:
    """Flatten the weight; the tiles read it as it lies."""
    return Packed(weight.reshape(-1), bool(np.isfinite(weight).all()))


def _convolve(
    problem: ConvProblem, operation: str, algorithm: str, x: Array, packed: Packed, bias: Array | None, out: Array
) -> None:
    sweeps = _sweeps(problem, operation, algorithm)
    dtype, activation = problem.dtype, problem.activation
    bias = np.empty(0, dtype) if bias is None else bias
    # The sign of a zero slope must not reach the result.
    slope = dtype.type(activation.slope or 0.0 if activation else 0.0)
    full = _deep(out.shape[2:], 1)
    if sum(math.prod(sweep.triple("outputs")) for sweep in sweeps) < math.prod(full):
        kernels.constant(out.reshape(-1), bias, math.prod(full), out.shape[1], activation is not None, slope)
    step = max(1, problem.n * CALL_FLOPS // max(problem.flops, 1))
    for sweep, n in product(sweeps, range(0, problem.n, step)):
        shape = (
            min(step, problem.n - n), problem.groups, sweep.channels, sweep.outs, sweep.triple("size"),
            sweep.triple("outputs"), sweep.triple("step"), sweep.triple("first"), sweep.triple("spread"), full,
        )  # fmt: skip
        flat = (x[n:].reshape(-1), packed.weight, bias, out[n:].reshape(-1))
        tail = (activation is not None, slope)
        if packed.finite:
            total, panel = _scratch(sweep, dtype, kernels.ROWS * sweep.run(dtype.itemsize))
            kernels.sweep(
                *flat, total, panel, *shape, *sweep.box, *sweep.spans, *sweep.starts, sweep.wrow, sweep.woff,
                sweep.xoff, *tail,
            )  # fmt: skip
        else:  # zeros in place of padding would turn these weights to NaN
            kernels.sweep_exact(*flat, *shape, *sweep.offsets, sweep.wrow, sweep.woff, *tail)


def conv(problem: ConvProblem, algorithm: str, x: Array, packed: Any, bias: Array | None, out: Array) -> None:
    """Forward pass."""
    _convolve(problem, "conv", algorithm, x, packed, bias, out)


def conv_input_grad(
    problem: ConvProblem, algorithm: str, grad_output: Array, packed: Any, bias: Array | None, out: Array
) -> None:
    """Gradient to the input, and transposed convolution."""
    _convolve(problem, "conv_input_grad", algorithm, grad_output, packed, bias, out)


def conv_weight_grad(problem: ConvProblem, algorithm: str, x: Array, grad_output: Array, out: Array) -> None:
    """Gradient to the weight."""
    (sweep,) = _sweeps(problem, "conv_weight_grad", algorithm)
    if len(sweep.woff) < math.prod(problem.weight_shape[1:]):
        out[...] = 0  # taps that meet padding alone are in no table
    flat = (x.reshape(-1), grad_output.reshape(-1), out.reshape(-1))
    shape = (
        problem.n, problem.groups, sweep.channels, sweep.outs, sweep.triple("size"), sweep.triple("outputs"),
        sweep.triple("step"),
    )  # fmt: skip
    if np.isfinite(grad_output).all():
        totals, pixels = _weight_totals(sweep, problem.dtype)
        total, panel = _scratch(sweep, problem.dtype, totals)
        kernels.weight_sweep(
            *flat, total, panel, np.zeros(pixels, problem.dtype), *shape, *sweep.box, *sweep.spans, *sweep.starts,
            sweep.wrow, sweep.woff, sweep.xoff,
        )  # fmt: skip
    else:
        kernels.weight_sweep_exact(*flat, *shape, *sweep.offsets, sweep.wrow, sweep.woff)


def conv_bias_grad(grad_output: Array, out: Array) -> None:
    """Sum of grad_output over all but its channels."""
    n, k, *output = grad_output.shape
    kernels.channel_sums(grad_output.reshape(-1), out, n, k, math.prod(output))


# --------------------------------------------------------------------------------------------------
# Windows


def _window(problem: WindowProblem) -> tuple[int, Triple, Triple, Triple, Triple]:
    """Planes, size, kernel, stride and leading padding, as the compiled loops take them."""
    before = tuple(pair[0] for pair in problem.padding)
    return (
        problem.planes, _deep(problem.spatial, 1), _deep(problem.kernel, 1), _deep(problem.stride, 1), _deep(before, 0)
    )  # fmt: skip


def _met_taps(problem: WindowProblem) -> Array:
    """Taps of the last axis that meet the input; a kernel far larger than the input has many that do not."""
    size, taps, stride, dilation = problem.spatial[-1], problem.kernel[-1], problem.stride[-1], problem.dilation[-1]
    outputs, before = problem.output[-1], problem.padding[-1][0]
    if taps <= outputs:
        return np.arange(taps)
    starts = [o * stride - before for o in range(outputs)]
    reach = [np.arange(max(0, -(s // dilation)), min(taps, (size - 1 - s) // dilation + 1)) for s in starts]
    return np.unique(np.concatenate(reach))


def max_pool(problem: WindowProblem, x: Array, out: Array, indices: Array | None) -> None:
    """Maximum of each window and, where asked, its position in the plane."""
    lowest = -math.inf if problem.dtype.kind == "f" else np.iinfo(problem.dtype).min
    places = np.empty(0, np.int64) if indices is None else indices.reshape(-1)
    kernels.max_pool(
        x.reshape(-1), out.reshape(-1), places, *_window(problem), _deep(problem.dilation, 1),
        _deep(problem.output, 1), _met_taps(problem), problem.dtype.type(lowest),
    )  # fmt: skip


def scatter(values: Array, indices: Array, out: Array, *, accumulate: bool) -> None:
    """Write or add values to positions of out."""
    kernels.scatter(values.reshape(-1), indices.reshape(-1), out.reshape(-1), len(values), accumulate)


def _mean(problem: WindowProblem, image: Array, means: Array, backward: bool) -> None:
    after = _deep(tuple(pair[1] for pair in problem.padding), 0)
    kernels.mean(
        image.reshape(-1), means.reshape(-1), backward, *_window(problem), after, _deep(problem.output, 1),
        _met_taps(problem), problem.count_include_pad, float(problem.divisor_override or 0),
    )  # fmt: skip


def _writable(array: Array) -> Array:
    """What a kernel of both directions reads in this one and writes in the other: Numba wants it writable."""
    return array if array.flags.writeable else array.copy()


def avg_pool(problem: WindowProblem, x: Array, out: Array) -> None:
    """Mean of each window."""
    _mean(problem, _writable(x), out, False)


def avg_pool_grad(problem: WindowProblem, grad_output: Array, out: Array) -> None:
    """Gradient of the mean to the input."""
    _mean(problem, out, _writable(grad_output), True)


def _columns(problem: WindowProblem, image: Array, columns: Array, backward: bool) -> None:
    kernels.columns(
        image.reshape(-1), columns.reshape(-1), backward, *_window(problem), _deep(problem.dilation, 1),
        _deep(problem.output, 1),
    )  # fmt: skip


def unfold(problem: WindowProblem, x: Array, out: Array) -> None:
    """Windows as columns."""
    _columns(problem, _writable(x), out, False)


def fold(problem: WindowProblem, columns: Array, out: Array) -> None:
    """Sum of columns at the places that `unfold` took them from."""
    _columns(problem, out, _writable(columns), True)
