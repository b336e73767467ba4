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
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.backends import _numba_kernels as kernels
from voxconv.backends._numba_axes import axes_of, deep, offsets, square_of, table, triple
from voxconv.backends._numba_conv import padded_outs
from voxconv.backends._numba_depthwise_tables import spread_axes
from voxconv.backends._numba_ir import ROWS
from voxconv.backends._numba_pool import POOL, form_of
from voxconv.backends._numba_run import address, give, job_of, kernel_of, place, run, share, take, threads_now
from voxconv.backends._numba_sweeps import Sweep, record_of
from voxconv.backends._numba_tables import Sweeps, sweeps_of, weight_sweep_of
from voxconv.backends.reference import add_and_rectify, descend, indices_of, taps_of
from voxconv.problem import ConvProblem, WindowProblem, all_inside

__all__ = [
    "algorithms", "avg_pool", "avg_pool_grad", "conv", "conv_bias_grad", "conv_input_grad", "conv_weight_grad",
    "descend", "fold", "max_pool", "name", "pack", "refusal", "scatter", "unfold", "workspace_bytes",
]  # fmt: skip

Array = npt.NDArray[Any]
Triple = tuple[int, int, int]

name = "numba"
algorithms: tuple[str, ...] = ("depthwise", "direct", "im2col")

LINE_TERMS, PLANE_TERMS = 1 << 24, 1 << 16
"""Most comparisons of a pool's item, since a signal waits for its end, and at how many it takes no further plane."""


# --------------------------------------------------------------------------------------------------
# Convolution


def refusal(problem: ConvProblem, operation: str, algorithm: str, *, asked: bool) -> str | None:
    """Why this algorithm is not taken, or None."""
    if algorithm not in algorithms:
        return f"the numba backend has no algorithm {algorithm!r}"
    if algorithm == "depthwise":
        return _depthwise_refusal(problem, operation)
    if asked or algorithm != "direct":
        return None
    if operation == "conv_weight_grad":
        return None
    for sweep in sweeps_of(problem, operation, algorithm, 1).each:
        if sweep.in_place:
            continue
        columns = sweep.box[1]
        if sweep.channel > math.prod(sweep.box) * sweep.terms // sweep.channels + 64:
            return "copies more of the input than im2col does, for wide taps around few outputs"
        # A flat run over the box also computes the columns between two rows, and drops them.
        run = columns + sweep.slots[2].span
        if 2 * sweep.outs > ROWS and 2 * run > 3 * columns:
            return f"computes {run} columns to keep {columns}; im2col serves better"
    return None


def _depthwise_refusal(problem: ConvProblem, operation: str) -> str | None:
    if problem.groups != problem.c or problem.groups != problem.k:
        return f"depthwise wants one channel a group: {problem.c} -> {problem.k} channels in {problem.groups} groups"
    if operation != "conv_weight_grad" and all(step == 1 for step in problem.stride):
        return None
    if operation == "conv_input_grad" and spread_axes(problem) is not None:
        return None
    if operation != "conv_input_grad" and all(map(square_of, product(*axes_of(problem, operation)))):
        return None
    return "depthwise at a stride, or for the weight's gradient, is for kernels of 3, 5 or 7 squared and strides to 2"


def gain(problem: ConvProblem, operation: str, algorithm: str) -> float:
    """See `voxconv.backends.Backend.gain`."""
    return 1.0


def workspace_bytes(problem: ConvProblem, operation: str, algorithm: str, threads: int) -> int:
    """Packed weights, and of the largest sweep a panel and sums for each thread."""
    if operation == "conv_weight_grad":
        sweep = weight_sweep_of(problem, algorithm, threads)
        return 0 if sweep is None else sweep.sums + threads * sweep.scratch
    sweeps = sweeps_of(problem, operation, algorithm, threads)
    return sum(_packed_size(sweep) for sweep in sweeps.each) * problem.dtype.itemsize + threads * sweeps.scratch


def _packed_size(sweep: Sweep) -> int:
    return sweep.groups * padded_outs(sweep.outs) * sweep.terms


Call = tuple[Any, int, Array, list[Any]]
"""A kernel, its items, its record without the arrays of a call, and jobs made from that that no call has now."""


class Packed:
    """A weight in panels for each sweep, whether all of it is finite, and what a call with it needs.

    A planned call of a small layer is mostly the way to its kernel, so what does not change from call to call is
    found once, for each number of threads.
    """

    __slots__ = ("_calls", "_made_for", "finite", "no_bias", "panels", "weight")

    def __init__(
        self, made_for: tuple[ConvProblem, str, str], weight: Array, panels: list[Array], *, finite: bool, outs: int
    ) -> None:
        self._made_for, self._calls = made_for, dict[int, tuple[Sweeps, list[Call]]]()
        self.weight, self.panels, self.finite = weight, panels, finite
        self.no_bias = np.full(outs, -0.0, weight.dtype)  # adding it changes nothing, not even the sign of a zero

    @property
    def operation(self) -> str:
        return self._made_for[1]

    def calls(self, threads: int) -> tuple[Sweeps, list[Call]]:
        """The sweeps, and what calls each."""
        found = self._calls.get(threads)
        if found is None:
            sweeps, calls = sweeps_of(*self._made_for, threads), list[Call]()
            for sweep, panel in zip(sweeps.each, self.panels, strict=True):
                record = sweep.record.copy()
                record[3] = address(panel)
                calls.append((kernel_of(sweep.kernel, self.weight.dtype)[0], sweep.items, record, []))
            found = self._calls[threads] = sweeps, calls
        return found


def pack(problem: ConvProblem, operation: str, algorithm: str, weight: Array, once: bool = False) -> Packed:
    """Lay the weight out in panels."""
    panels, finite = [], np.ones(1, np.int64)
    for sweep in sweeps_of(problem, operation, algorithm, 1).each:
        panel = np.empty(_packed_size(sweep), problem.dtype)
        addresses = map(address, (finite, weight, panel, sweep.wrow, sweep.woff))
        each = max(1, min(PLANE_TERMS // (sweep.outs * sweep.terms), problem.groups // threads_now()))
        job = table([*addresses, problem.groups, each, sweep.outs, sweep.terms, padded_outs(sweep.outs)])
        run("pack", problem.dtype, job, -(-problem.groups // each))
        panels.append(panel)
    outs = problem.c if operation == "conv_input_grad" else problem.k
    return Packed((problem, operation, algorithm), weight.reshape(-1), panels, finite=bool(finite[0]), outs=outs)


def _convolve(problem: ConvProblem, x: Array, packed: Packed, bias: Array | None, out: Array) -> None:
    threads = threads_now()
    sweeps, calls = packed.calls(threads)
    bias = packed.no_bias if bias is None else bias
    if not packed.finite:  # zeros in place of padding would turn these weights to NaN
        sweeps = sweeps_of(problem, packed.operation, "direct", 1)
    if not sweeps.complete:
        kind = problem.dtype.type
        slope = kind(problem.activation.slope or 0.0 if problem.activation else 1.0)
        shown = np.where(bias < 0, slope * bias if slope else slope, bias + kind(0))
        out[...] = shown.reshape(-1, *(1,) * problem.rank)
    if not packed.finite:
        _convolve_exactly(problem, sweeps, x, packed, bias, out)
        return
    scratch = take(threads * sweeps.scratch)
    from_x, to_y, from_bias = place(x), place(out), place(bias)
    for kernel, items, record, free in calls:
        try:
            job = free.pop()  # atomic, so no two calls have the same one
        except IndexError:
            job = job_of(record)
        job[0], job[1], job[2], job[4] = from_x, to_y, scratch.place, from_bias
        share(kernel, job, items, threads)
        free.append(job)
    give(scratch)


def _convolve_exactly(
    problem: ConvProblem, sweeps: Sweeps, x: Array, packed: Packed, bias: Array, out: Array
) -> None:
    activation = problem.activation
    slope = problem.dtype.type(0 if activation is None else activation.slope or 0)
    for sweep in sweeps.each:
        kernels.sweep_exact(
            x.reshape(-1), packed.weight, bias, out.reshape(-1), problem.n, problem.groups, sweep.channels, sweep.outs,
            *(triple(sweep.axes, field) for field in ("size", "outputs", "step", "first", "spread")),
            deep(out.shape[2:], 1), *offsets(sweep.axes), sweep.wrow, sweep.woff, activation is not None, slope,
        )  # fmt: skip


def conv(
    problem: ConvProblem, algorithm: str, x: Array, packed: Any, bias: Array | None, out: Array,
    most_threads: int | None = None,
) -> None:  # fmt: skip
    """Forward pass."""
    _convolve(problem, x, packed, bias, out)


def conv_input_grad(
    problem: ConvProblem, algorithm: str, grad_output: Array, packed: Any, bias: Array | None, out: Array
) -> None:
    """Gradient to the input, and transposed convolution."""
    _convolve(problem, grad_output, packed, bias, out)


def conv_weight_grad(problem: ConvProblem, algorithm: str, x: Array, grad_output: Array, out: Array) -> None:
    """Gradient to the weight."""
    threads = threads_now()
    sweep = weight_sweep_of(problem, algorithm, threads)
    taps = 0 if sweep is None else math.prod(len(axis.taps) for axis in sweep.axes)
    if taps < math.prod(problem.kernel):
        out[...] = 0  # taps that meet padding alone are in no table
    if sweep is None:
        return
    memory = take(sweep.sums + 64 + threads * sweep.scratch)
    sums = memory.start
    job = sweep.record.copy()
    job[:5] = address(x), address(out), sums + -(-sweep.sums // 64) * 64, address(grad_output), sums
    for stage in sweep.stages:
        job[sweep.stage_at : sweep.stage_at + 2] = stage
        run(sweep.kernel, problem.dtype, job, sweep.items, threads)
    give(memory)
    # Where gy is infinite or NaN, so is a sum that it is in, and one that it met padding's zeros for.
    if (out.size < grad_output.size and _is_finite(out)) or _is_finite(grad_output):
        return
    kernels.weight_sweep_exact(
        x.reshape(-1), grad_output.reshape(-1), out.reshape(-1), problem.n, problem.groups,
        problem.c // problem.groups, problem.k // problem.groups,
        *(triple(sweep.axes, field) for field in ("size", "outputs", "step")), *offsets(sweep.axes),
        sweep.wrow, sweep.woff,
    )  # fmt: skip


def _is_finite(array: Array) -> bool:
    """Whether no element is infinite or NaN."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())  # the sum is quicker, if it says yes


def conv_bias_grad(grad_output: Array, out: Array) -> None:
    """Sum of grad_output over all but its channels."""
    n, k, *output = grad_output.shape
    kernels.channel_sums(grad_output.reshape(-1), out, n, k, math.prod(output))


def relu_grad(output: Array, grad_output: Array, out: Array, sums: Array | None) -> None:
    """Gradient where the output is not <= 0, which NumPy finds as fast as a loop would, and its sums."""
    np.copyto(out, grad_output)
    np.copyto(out, 0, where=output <= 0)
    if sums is not None:
        conv_bias_grad(out, sums)


# --------------------------------------------------------------------------------------------------
# Windows


def _window(problem: WindowProblem) -> tuple[int, Triple, Triple, Triple, Triple]:
    """Planes, size, kernel, stride and leading padding, as the compiled loops take them."""
    before = tuple(pair[0] for pair in problem.padding)
    return (
        problem.planes, deep(problem.spatial, 1), deep(problem.kernel, 1), deep(problem.stride, 1), deep(before, 0)
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


@lru_cache(maxsize=256)
def _pool(problem: WindowProblem, threads: int) -> tuple[str, Array, int, int]:
    """The kernel of a max-pool, its record without arrays, its items, and the bytes of scratch of a thread."""
    planes, size, kernel, stride, before = _window(problem)
    outputs = deep(problem.output, 1)
    lines, terms = outputs[0] * outputs[1], outputs[2] * min(math.prod(kernel), math.prod(size))
    per_part = max(1, min(lines, LINE_TERMS // terms))
    run = max(1, min(PLANE_TERMS // (lines * terms), planes // threads))
    parts = -(-lines // per_part)
    each = 8 * (8 + min(kernel[0], size[0]) * min(kernel[1], size[1]))
    record = record_of(
        POOL, each=each, planes=planes, run=run, parts=parts, per_part=per_part, size=size, kernel=kernel,
        stride=stride, before=before, dilation=deep(problem.dilation, 1), outputs=outputs,
    )  # fmt: skip
    floating = problem.dtype.kind == "f"
    step, known = form_of(stride[2], kernel[2], problem.dilation[-1], math.prod(size), floating)
    return f"max_pool-{step}-{known}", record, -(-planes // run) * parts, each


def max_pool(problem: WindowProblem, x: Array, out: Array, indices: Array | None) -> None:
    """Maximum of each window and, where asked, its position in the plane."""
    threads = threads_now()
    name, record, items, each = _pool(problem, threads)
    scratch = take(threads * each)
    job = record.copy()
    job[0], job[1], job[2] = address(x), address(out), scratch.start
    job[3] = 0 if indices is None else address(indices)
    run(name, problem.dtype, job, items, threads)
    give(scratch)


def max_pool_taps(problem: WindowProblem, x: Array, out: Array, taps: Array) -> None:
    """Maximum of each window, and where it stands in it by its position in the plane."""
    indices = np.empty(problem.output_shape, np.int64)
    max_pool(problem, x, out, indices)
    taps[...] = taps_of(problem, indices)


def max_pool_taps_grad(
    problem: WindowProblem, grad_output: Array, taps: Array, pooled: Array | None, output: Array | None,
    add: Array | None, out: Array, sums: Array | None,
) -> None:  # fmt: skip
    """Positions in the plane again, and one pass after the other."""
    gradient = np.ascontiguousarray(grad_output if pooled is None else np.where(pooled <= 0, 0, grad_output))
    planes = (a.reshape(problem.planes, -1) for a in (gradient, indices_of(problem, taps), out))
    scatter(*planes, accumulate=False)
    add_and_rectify(out, add, output)
    if sums is not None:
        conv_bias_grad(out, sums)


def scatter(values: Array, indices: Array, out: Array, *, accumulate: bool) -> bool:
    """Write or add values to positions of out."""
    if not all_inside(indices, math.prod(out.shape[1:])):
        return False
    values, indices, out = (array.reshape(len(array), -1) for array in (values, indices, out))
    planes, count = values.shape
    each = max(1, min(PLANE_TERMS // max(1, count + out.shape[1]), planes // threads_now()))
    addresses = map(address, (values, indices, out))
    job = table([*addresses, planes, count, out.shape[1], each, accumulate])
    run("scatter", out.dtype, job, -(-planes // each))
    return True


def _mean(problem: WindowProblem, image: Array, means: Array, backward: bool) -> None:
    after = deep(tuple(pair[1] for pair in problem.padding), 0)
    kernels.mean(
        image.reshape(-1), means.reshape(-1), backward, *_window(problem), after, deep(problem.output, 1),
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
        image.reshape(-1), columns.reshape(-1), backward, *_window(problem), deep(problem.dilation, 1),
        deep(problem.output, 1),
    )  # fmt: skip


def unfold(problem: WindowProblem, x: Array, out: Array) -> None:
    """Windows as columns."""
    _columns(problem, _writable(x), out, False)


def fold(problem: WindowProblem, columns: Array, out: Array) -> None:
    """Sum of columns at the places that `unfold` took them from."""
    _columns(problem, out, _writable(columns), True)
