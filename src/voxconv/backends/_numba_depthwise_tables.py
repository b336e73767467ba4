"""Tables of the Numba backend's depthwise passes; see `voxconv.backends._numba_tables`."""

from __future__ import annotations

import math
from itertools import pairwise
from operator import itemgetter

import numpy as np

from voxconv.backends._numba_axes import SQUARES, Axis, axes_of, deep, offsets, square_of, table, weight_places
from voxconv.backends._numba_depthwise import DEPTHWISE, DEPTHWISE_SPREAD, DEPTHWISE_WEIGHT
from voxconv.backends._numba_ir import VECTOR_BYTES
from voxconv.backends._numba_sweeps import ITEM_TERMS, SHORT_TERMS, Sweep, WeightSweep, ceil_div, record_of, slope_of
from voxconv.problem import ConvProblem


def depthwise_weight_sweep(problem: ConvProblem, axes: tuple[Axis, Axis, Axis], threads: int) -> WeightSweep:
    lanes = VECTOR_BYTES // problem.dtype.itemsize
    wrow, woff = weight_places(problem, axes, False)
    moves = [[offset for _, offset in axis.taps] for axis in axes]
    groups, terms = problem.groups, len(woff)
    work = terms * math.prod(axis.outputs for axis in axes)  # of a channel of a sample
    run = max(1, min(SHORT_TERMS // (work * problem.n), groups // threads))
    step = max(1, ITEM_TERMS // (work * run))
    record = record_of(
        DEPTHWISE_WEIGHT, wrow=wrow.ctypes.data, woff=woff.ctypes.data, samples=problem.n, groups=groups, run=run,
        terms=terms, low=list(map(min, moves)), **_depths(moves[0]),
        **{name: [getattr(a, name) for a in axes] for name in ("size", "outputs", "step")},
    )  # fmt: skip
    stages = tuple((first, min(problem.n, first + step)) for first in range(0, problem.n, step))
    sums = groups * terms * lanes * problem.dtype.itemsize
    first_at = (DEPTHWISE_WEIGHT.names or ()).index("first")
    name = f"depthwise_weight-{square_of(axes)}-{axes[2].step}"
    return WeightSweep(record, (), axes, ceil_div(groups, run), 0, sums, stages, first_at, wrow, woff, name)


def _depths(moves: list[int]) -> dict[str, int]:
    """How many taps there are in depth, and how far apart."""
    return {"taps_d": len(moves), "move_d": moves[1] - moves[0] if len(moves) > 1 else 1}


def ascending(axis: Axis) -> Axis:
    """The axis with its taps in the order of their offsets."""
    return axis._replace(taps=tuple(sorted(axis.taps, key=itemgetter(1))))


def depthwise_sweep(
    problem: ConvProblem, backward: bool, axes: tuple[Axis, Axis, Axis], threads: int, name: str = ""
) -> Sweep:
    """The pass of a kernel that reads planes in place; ``axes`` have their taps in the order of the weights."""
    wrow, woff = weight_places(problem, axes, backward)
    moves = [[offset for _, offset in axis.taps] for axis in axes]
    tables = tuple(np.ascontiguousarray(move.ravel()) for move in np.meshgrid(*map(table, moves), indexing="ij"))
    images, terms = problem.n * problem.groups, len(woff)
    each, parts, run, per_part = _lines_cut(problem, axes, terms, threads)
    square = square_of(axes)
    record = record_of(
        DEPTHWISE, off=[t.ctypes.data for t in tables], each=each,
        images=images, groups=problem.groups, terms=terms, run=run, parts=parts, per_part=per_part,
        low=list(map(min, moves)), high=list(map(max, moves)), **_depths(moves[0]),
        slope=slope_of(problem), **{name: [getattr(a, name) for a in axes] for name in ("size", "outputs", "step")},
    )  # fmt: skip
    return Sweep(
        record, tables, axes, (), (axes[1].outputs, axes[2].outputs), False, problem.groups, 1, 1, 0, wrow, woff,
        ceil_div(images, run) * parts, each, name or (f"depthwise-{square}-{axes[2].step}" if square else "depthwise"),
    )  # fmt: skip


def pairs_name(problem: ConvProblem, axes: tuple[Axis, Axis, Axis]) -> str:
    """The kernel for a gradient to the input at a stride of 2 of a square of neighbouring taps, or nothing."""
    sizes = {len(axis.taps) for axis in axes[1:]} | set(problem.kernel[-2:])
    if problem.rank == 1 or len(sizes) > 1 or not sizes <= set(SQUARES) or problem.stride[-2:] != (2, 2):
        return ""
    if problem.dilation[-2:] != (1, 1) or len({b[1] - a[1] for a, b in pairwise(ascending(axes[0]).taps)}) > 1:
        return ""
    return "pairs-{}-{}-{}".format(sizes.pop(), *(before % 2 for before, _ in problem.padding[-2:]))


def spread_axes(problem: ConvProblem) -> tuple[tuple[Axis, Axis, Axis], list[int]] | None:
    """Axes of the kernel `spread`, with the taps of both phases, and how many belong to even outputs, or None."""
    stride = deep(problem.stride, 1)
    if not (stride[0] == 1 and stride[1] <= 2 == stride[2]):
        return None
    axes, evens = [], []
    for phases, outputs in zip(axes_of(problem, "conv_input_grad"), deep(problem.spatial, 1), strict=True):
        taps = {axis.first: axis.taps for axis in phases}
        both = (*taps.get(0, ()), *taps.get(1, ()))
        if not both:
            return None
        axes.append(Axis(phases[0].size, outputs, 1, 0, 1, both))
        evens.append(len(taps.get(0, ())))
    d, h, w = axes
    return (d, h, w), evens


def spread_sweep(problem: ConvProblem, axes: tuple[Axis, Axis, Axis], evens: list[int], threads: int) -> Sweep:
    wrow, woff = weight_places(problem, axes, True)
    tables = offsets(axes)
    each, parts, run, per_part = _lines_cut(problem, axes, len(woff), threads)
    record = record_of(
        DEPTHWISE_SPREAD, off=[t.ctypes.data for t in tables], each=each, images=problem.n * problem.groups,
        groups=problem.groups, terms=len(woff), run=run, parts=parts, per_part=per_part, taps=list(map(len, tables)),
        evens_h=evens[1], evens_w=evens[2], step_h=deep(problem.stride, 1)[1], low_w=tables[2].min(),
        high_w=tables[2].max(), slope=slope_of(problem),
        **{name: [getattr(a, name) for a in axes] for name in ("size", "outputs")},
    )  # fmt: skip
    box = axes[1].outputs, axes[2].outputs
    items = ceil_div(problem.n * problem.groups, run) * parts
    return Sweep(record, tables, axes, (), box, False, problem.groups, 1, 1, 0, wrow, woff, items, each, "spread")


def _lines_cut(
    problem: ConvProblem, axes: tuple[Axis, Axis, Axis], terms: int, threads: int
) -> tuple[int, int, int, int]:
    """Of a depthwise sum: bytes of scratch, parts of an image, images of an item and lines of a part."""
    images, lines, columns = problem.n * problem.groups, axes[0].outputs * axes[1].outputs, axes[2].outputs
    per_part = max(1, min(lines, ITEM_TERMS // (terms * columns)))
    if threads > 1 and images < 2 * threads:
        per_part = min(per_part, ceil_div(lines, ceil_div(2 * threads, max(images, 1))))
    run = max(1, min(SHORT_TERMS // (terms * columns * per_part), images // threads))
    return ceil_div(terms * (3 * 8 + problem.dtype.itemsize), 64) * 64, ceil_div(lines, per_part), run, per_part
