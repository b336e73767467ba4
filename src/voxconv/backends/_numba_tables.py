"""Tables of the Numba backend's convolutions: from a problem to the records that its kernels read.

"direct" and "im2col" differ in one table only: direct copies each input row once and lets taps share it,
im2col gives every tap a copy of its own.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from voxconv.backends._numba_axes import Axis, axes_of, deep, is_in_place, table, weight_places
from voxconv.backends._numba_conv import SWEEP, WEIGHT, padded_outs
from voxconv.backends._numba_depthwise_tables import (
    ascending,
    depthwise_sweep,
    depthwise_weight_sweep,
    pairs_name,
    spread_axes,
    spread_sweep,
)
from voxconv.backends._numba_ir import LONE_VECTORS, ROWS, VECTOR_BYTES, VECTORS, WEIGHT_ROWS
from voxconv.backends._numba_sweeps import (
    ITEM_TERMS,
    SHORT_TERMS,
    Slots,
    Sweep,
    WeightSweep,
    ceil_div,
    record_of,
    slope_of,
)
from voxconv.problem import ConvProblem

Array = npt.NDArray[Any]

PANEL_BYTES = 384 << 10, 768 << 10
"""Least and most aim for the copy of the input that a box of outputs reads.  Weights pass by once for each box, so the
box grows with them; a small one stays in L2 beside its sums and a block of weights."""

SUM_BYTES = 384 << 10
"""Aim for the sums of a box between two blocks of terms."""

BLOCK_TERMS = 288
"""Terms that a tile sums in one go: what its pixels read of the panel stays in L1, with the weights."""

CHUNK_PIXELS = 256
"""Most outputs that the gradient to the weight sums at once: their gy, turned round, stays in L1."""

WEIGHT_PANEL_BYTES = 384 << 10
"""Aim for the copy of the input that such a chunk reads; gy is turned round once for each block of its channels."""

BOX_PIXELS = 1024
"""Most outputs of a box along one axis."""


def slots_of(axis: Axis, shared: bool) -> Slots:
    """Lay an axis out; with ``shared``, taps that differ by whole steps use one slot."""
    if not shared:
        return Slots([offset for _, offset in axis.taps], [(i, 0) for i in range(len(axis.taps))], 0)
    lowest: dict[int, int] = {}
    for _, offset in axis.taps:
        steps, rest = divmod(offset, axis.step)
        lowest[rest] = min(steps, lowest.get(rest, steps))
    slot = {rest: i for i, rest in enumerate(lowest)}
    places = [(slot[offset % axis.step], offset // axis.step - lowest[offset % axis.step]) for _, offset in axis.taps]
    starts = [rest + steps * axis.step for rest, steps in lowest.items()]
    return Slots(starts, places, max((shift for _, shift in places), default=0))


def _depth_slots(axis: Axis) -> Slots:
    """A ring of slices that neighbouring depths share, unless it would hold many that no tap reads."""
    shared = slots_of(axis, axis.outputs > 1)
    if len(shared.starts) * (shared.span + 1) > 2 * len(axis.taps):
        return slots_of(axis, False)
    return shared


def _offsets(slots: tuple[Slots, ...], ring: int, plane: int, pitch: int) -> Array:
    """Where the taps of a channel lie in the panel, for each phase of the ring."""
    phase = np.arange(ring)[:, None]
    (slot_d, shift_d), (slot_h, shift_h), (slot_w, shift_w) = (np.array(s.places, np.int64).T for s in slots)
    cells = slot_d * ring + (phase + shift_d) % ring
    cells = (cells[:, :, None] * len(slots[1].starts) + slot_h)[..., None] * len(slots[2].starts) + slot_w
    places: Array = (cells * plane + shift_h[:, None] * pitch + shift_w).reshape(ring, -1)
    return places


def _planes(slots: tuple[Slots, ...], box: tuple[int, int], size: int) -> tuple[int, int]:
    """Elements of a plane of the panel, and of a channel's planes together."""
    lanes = VECTOR_BYTES // size
    plane = ceil_div((box[0] + slots[1].span) * (box[1] + slots[2].span) + lanes, lanes) * lanes
    channel = math.prod(len(s.starts) for s in slots) * (slots[0].span + 1) * plane
    # Channels an odd number of cache lines apart, so that they do not fall into the same sets.
    return plane, channel + 64 // size * (1 - channel * size // 64 % 2)


def _weight_sweep(problem: ConvProblem, algorithm: str, axes: tuple[Axis, Axis, Axis], threads: int) -> WeightSweep:
    size, lanes = problem.dtype.itemsize, VECTOR_BYTES // problem.dtype.itemsize
    wrow, woff = weight_places(problem, axes, False)
    outs, channels = problem.k // problem.groups, problem.c // problem.groups
    taps = len(woff) // channels
    shared = algorithm == "direct"
    slots = (slots_of(axes[0], False), slots_of(axes[1], shared), slots_of(axes[2], shared))
    vectors = 0 if outs <= 2 else 1 if outs <= lanes else 2
    width = max(vectors, 1) * lanes
    panels = ceil_div(outs, width) if vectors else outs

    rows, columns = axes[1].outputs, axes[2].outputs
    box_w = ceil_div(columns, ceil_div(columns, CHUNK_PIXELS))
    box_h = ceil_div(rows, ceil_div(rows, max(1, CHUNK_PIXELS // box_w)))
    boxes = (axes[0].outputs, ceil_div(rows, box_h), ceil_div(columns, box_w))
    plane, channel = _planes(slots, (box_h, box_w), size)
    block = max(1, min(channels, WEIGHT_PANEL_BYTES // (channel * size)))
    blocks = ceil_div(channels, block)
    block = ceil_div(channels, blocks)
    tile = min(WEIGHT_ROWS, key=lambda rows: (ceil_div(block * taps, rows) * rows, -rows))
    height = ceil_div(block * taps, tile) * tile
    parts = min(panels, ceil_div(2 * threads, problem.groups * blocks)) if threads > 1 else 1
    per_part = min(ceil_div(panels, parts), max(1, SUM_BYTES // (height * width * size)))
    parts = ceil_div(panels, per_part)
    work = box_h * box_w * block * taps * per_part * (width if vectors else 1)  # of an item, for each chunk
    chunks = problem.n * math.prod(boxes)
    run = max(1, min(SHORT_TERMS // (work * chunks), problem.groups // threads))
    step = max(1, ITEM_TERMS // (work * run))

    row = (np.arange(block)[:, None] * channel + _offsets(slots, 1, plane, box_w + slots[2].span)).ravel()
    tables = (np.resize(row, height), *(table(s.starts) for s in slots))
    pixels = ceil_div((block * channel + lanes) * size, 64) * 64
    places = pixels + ceil_div((per_part * box_h * box_w + lanes) * width * size, 64) * 64
    each = places + ceil_div(box_h * box_w * 8, 64) * 64
    record = record_of(
        WEIGHT, row=tables[0].ctypes.data, wrow=wrow.ctypes.data, woff=woff.ctypes.data,
        starts=[t.ctypes.data for t in tables[1:]], each=each, pixels=pixels, places=places, samples=problem.n,
        groups=problem.groups, run=run, channels=channels, outs=outs, taps=taps, block=block, blocks=blocks,
        height=height, tile=tile, dense=taps == math.prod(problem.kernel), vectors=vectors, panels=panels,
        per_part=per_part, parts=parts, box=(1, box_h, box_w),
        boxes=boxes, slots=[len(s.starts) for s in slots], ring=1, span_h=slots[1].span, span_w=slots[2].span,
        plane=plane, channel=channel,
        **{name: [getattr(a, name) for a in axes] for name in ("size", "outputs", "step")},
    )  # fmt: skip
    sums = problem.groups * blocks * panels * height * width * size
    items = ceil_div(problem.groups, run) * blocks * parts
    stages = tuple((first, min(chunks, first + step)) for first in range(0, chunks, step))
    first_at = (WEIGHT.names or ()).index("first")
    return WeightSweep(record, tables, axes, items, each, sums, stages, first_at, wrow, woff)


@lru_cache(maxsize=256)
def weight_sweep_of(problem: ConvProblem, algorithm: str, threads: int) -> WeightSweep | None:
    """The pass of the gradient to the weight, or None where there are no terms to sum."""
    axes = axes_of(problem, "conv_weight_grad")
    d, h, w = (axis[0] for axis in axes)
    if not (problem.n and problem.k and problem.c and d.taps and h.taps and w.taps):
        return None
    if algorithm == "depthwise":
        return depthwise_weight_sweep(problem, (d, h, w), threads)
    return _weight_sweep(problem, algorithm, (d, h, w), threads)


def _sweep(problem: ConvProblem, backward: bool, algorithm: str, axes: tuple[Axis, Axis, Axis], threads: int) -> Sweep:
    size, lanes = problem.dtype.itemsize, VECTOR_BYTES // problem.dtype.itemsize
    wrow, woff = weight_places(problem, axes, backward)
    k, c = problem.k // problem.groups, problem.c // problem.groups
    channels, outs = (k, c) if backward else (c, k)
    full = deep(problem.spatial if backward else problem.output, 1)
    images, terms = problem.n * problem.groups, len(woff)
    in_place = algorithm == "direct" and is_in_place(axes)
    if in_place:
        whole = math.prod(full)
        one = Axis(1, 1, 1, 0, 1, ((0, 0),))
        axes, full = (one, one, Axis(whole, whole, 1, 0, 1, ((0, 0),))), (1, 1, whole)
    shared = algorithm == "direct"
    depth = _depth_slots(axes[0]) if shared else slots_of(axes[0], False)
    slots = (depth, slots_of(axes[1], shared), slots_of(axes[2], shared))
    ring, depths = slots[0].span + 1, len(slots[0].starts) * (slots[0].span + 1)
    most = VECTORS if 2 * outs > ROWS else LONE_VECTORS
    widest = most * lanes

    # The box: some columns, as many rows as the panel has room for, and a run of slices.
    rows, columns = axes[1].outputs, axes[2].outputs
    room = max(1, ITEM_TERMS // max(1, terms * outs))
    box_w = ceil_div(columns, ceil_div(columns, min(BOX_PIXELS, max(room, widest))))
    pitch = box_w + slots[2].span
    aim = min(max(PANEL_BYTES[0], outs * terms * size), PANEL_BYTES[1])
    line = max(1, channels) * depths * len(slots[1].starts) * len(slots[2].starts) * pitch * size
    most_rows = max(1, min(aim // line - slots[1].span if not in_place else rows, BOX_PIXELS // pitch, rows))
    box_h = ceil_div(rows, ceil_div(rows, max(1, min(most_rows, room // box_w))))
    box_d = min(axes[0].outputs, max(1, room // (box_h * box_w)))
    boxes = tuple(ceil_div(axis.outputs, box) for axis, box in zip(axes, (box_d, box_h, box_w), strict=True))
    work = max(1, box_d * box_h * box_w * terms * outs)
    run = max(1, min(SHORT_TERMS // work, images // threads))
    items = ceil_div(images, run) * math.prod(boxes)
    parts = min(ceil_div(outs, ROWS), ceil_div(2 * threads, items)) if items and threads > 1 else 1
    per_part = ceil_div(ceil_div(outs, parts), ROWS) * ROWS
    parts = ceil_div(outs, per_part)

    plane, channel = _planes(slots, (box_h, box_w), size)
    block = ceil_div(terms, ceil_div(terms, BLOCK_TERMS))
    width = ceil_div((box_h - 1) * pitch + box_w, widest) * widest
    if block >= terms:
        chunk, width = per_part, widest
        sums = ROWS * widest
    else:
        chunk = max(ROWS, min(per_part, SUM_BYTES // (width * size) // ROWS * ROWS))
        sums = chunk * width
    panel = 0 if in_place else channels * channel + widest + lanes
    tail = block * widest if in_place else 0

    taps = _offsets(slots, ring, plane, pitch)
    stride = axes[2].size if in_place else channel
    xoff = np.ascontiguousarray((np.arange(channels)[:, None] * stride + taps[:, None, :]).reshape(ring, -1))
    tables = (xoff, np.arange(block) * widest, *(table(s.starts) for s in slots))

    sums_at = ceil_div(panel * size, 64) * 64
    tail_at = sums_at + ceil_div(sums * size, 64) * 64
    places = tail_at + ceil_div(tail * size, 64) * 64
    place = ceil_div((most + 1 + 3 * widest) * 8, 64) * 64
    most_tiles = ceil_div((box_h - 1) * pitch + box_w, widest) + 1
    each = places + ceil_div(most_tiles * 8, 64) * 64 + most_tiles * place
    record = record_of(
        SWEEP, xoff=tables[0].ctypes.data, tailoff=tables[1].ctypes.data, starts=[t.ctypes.data for t in tables[2:]],
        each=each, panel=sums_at, tail=tail_at, places=places, place=place, samples=problem.n, groups=problem.groups,
        run=run, channels=channels, outs=outs, terms=terms, block=block, per_part=per_part, parts=parts, chunk=chunk,
        in_place=in_place, full=full,
        box=(box_d, box_h, box_w), boxes=boxes, slots=[len(s.starts) for s in slots], ring=ring, span_h=slots[1].span,
        span_w=slots[2].span, plane=plane, channel=channel, width=width, padded=padded_outs(outs),
        slope=slope_of(problem),
        **{name: [getattr(a, name) for a in axes] for name in ("size", "outputs", "step", "first", "spread")},
    )  # fmt: skip
    return Sweep(
        record, tables, axes, slots, (box_h, box_w), in_place, problem.groups, channels, outs, channel, wrow, woff,
        items * parts, each, "sweep" if axes[2].spread == 1 else "sweep-spread",
    )  # fmt: skip


class Sweeps(NamedTuple):
    """Every sweep of a call that has terms to sum."""

    each: tuple[Sweep, ...]
    scratch: int
    """Bytes that each thread needs."""
    complete: bool
    """Whether they write all outputs; the others have no term."""


@lru_cache(maxsize=256)
def sweeps_of(problem: ConvProblem, operation: str, algorithm: str, threads: int) -> Sweeps:
    """The sweeps of a forward pass or a gradient to the input."""
    backward = operation == "conv_input_grad"
    if not (problem.k and problem.c):
        return Sweeps((), 0, False)
    spread = spread_axes(problem) if algorithm == "depthwise" and backward else None
    if spread is not None:
        (d, h, w), evens = spread
        name = pairs_name(problem, (d, h, w))
        if name:
            h, w = (axis._replace(taps=tuple(sorted(axis.taps))) for axis in (h, w))
            sweep = depthwise_sweep(problem, True, (ascending(d), h, w), threads, name)
        else:
            sweep = spread_sweep(problem, (d, h, w), evens, threads)
        return Sweeps((sweep,), sweep.scratch, True)
    phases = product(*axes_of(problem, operation))
    met = [(d, h, w) for d, h, w in phases if d.taps and h.taps and w.taps]
    if algorithm == "depthwise":
        ordered = [(ascending(d), ascending(h), ascending(w)) for d, h, w in met]
        each = tuple(depthwise_sweep(problem, backward, axes, threads) for axes in ordered)
    else:
        each = tuple(_sweep(problem, backward, algorithm, axes, threads) for axes in met)
    written = sum(math.prod(axis.outputs for axis in axes) for axes in met)
    plane = math.prod(problem.spatial if backward else problem.output)
    return Sweeps(each, max((sweep.scratch for sweep in each), default=0), written == plane)
