"""Tables of the Numba backend's convolutions: from a problem to the records that its kernels read.

"direct" and "im2col" differ in one table only: direct copies each input row once and lets taps share it,
im2col gives every tap a copy of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from voxconv.backends._numba_axes import (
    SQUARES,
    Axis,
    axes_of,
    deep,
    is_in_place,
    offsets,
    square_of,
    table,
    weight_places,
)
from voxconv.backends._numba_conv import SWEEP, WEIGHT, padded_outs
from voxconv.backends._numba_depthwise import DEPTHWISE, DEPTHWISE_SPREAD, DEPTHWISE_WEIGHT
from voxconv.backends._numba_ir import LONE_VECTORS, ROWS, VECTOR_BYTES, VECTORS, WEIGHT_ROWS
from voxconv.problem import ConvProblem

Array = npt.NDArray[Any]

PANEL_BYTES = 384 << 10, 768 << 10
"""Least and most aim for the copy of the input that a box of outputs reads.  Weights pass by once for each box, so the
box grows with them; a small one stays in L2 beside its sums and a block of weights."""

SUM_BYTES = 384 << 10
"""Aim for the sums of a box between two blocks of terms."""

BLOCK_TERMS = 288
"""Terms that a tile sums in one go: what its pixels read of the panel stays in L1, with the weights."""

ITEM_TERMS = 1 << 29
"""Most products of an item, some ten milliseconds: a signal is seen only between items."""

SHORT_TERMS = 1 << 18
"""Images are taken together in an item up to this many products, so that handing items out costs little."""

CHUNK_PIXELS = 256
"""Most outputs that the gradient to the weight sums at once: their gy, turned round, stays in L1."""

WEIGHT_PANEL_BYTES = 384 << 10
"""Aim for the copy of the input that such a chunk reads; gy is turned round once for each block of its channels."""

BOX_PIXELS = 1024
"""Most outputs of a box along one axis."""


class Slots(NamedTuple):
    """Where the panel keeps an axis: lines that begin at ``starts``, and (slot, shift) of each tap in them."""

    starts: list[int]
    places: list[tuple[int, int]]
    span: int
    """Elements that a slot is longer than the box of outputs."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass of `sweep` or `depthwise`: its record as integers, without arrays, and what it was made from."""

    record: Array
    tables: tuple[Array, ...]
    """What the record points to."""
    axes: tuple[Axis, Axis, Axis]
    slots: tuple[Slots, ...]
    box: tuple[int, int]
    in_place: bool
    groups: int
    channels: int
    outs: int
    channel: int
    """Elements of a channel in the panel."""
    wrow: Array
    woff: Array
    items: int
    scratch: int
    """Bytes that each thread needs."""
    kernel: str = "sweep"

    @property
    def terms(self) -> int:
        """Products of an output."""
        return len(self.woff)


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


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True, slots=True)
class WeightSweep:
    """The pass of `weight` or of a depthwise kernel in its place; see `Sweep`."""

    record: Array
    tables: tuple[Array, ...]
    axes: tuple[Axis, Axis, Axis]
    items: int
    scratch: int
    sums: int
    """Bytes that wait between two chunks."""
    stages: tuple[tuple[int, int], ...]
    """First and past-the-last chunk of each run over the items."""
    stage_at: int
    """Where in the record they stand."""
    wrow: Array
    woff: Array
    kernel: str = "weight"


def record_of(kind: np.dtype[Any], **values: Any) -> Array:
    """A record with these fields, as a flat array of integers: quick to copy and to complete."""
    record = np.zeros(1, kind)
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            for axis, one in zip("dhw", value, strict=True):
                record[f"{name}_{axis}"] = one
        else:
            record[name] = value
    return record.view(np.int64)


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
    plane = _ceil((box[0] + slots[1].span) * (box[1] + slots[2].span) + lanes, lanes) * lanes
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
    panels = _ceil(outs, width) if vectors else outs

    rows, columns = axes[1].outputs, axes[2].outputs
    box_w = _ceil(columns, _ceil(columns, CHUNK_PIXELS))
    box_h = _ceil(rows, _ceil(rows, max(1, CHUNK_PIXELS // box_w)))
    boxes = (axes[0].outputs, _ceil(rows, box_h), _ceil(columns, box_w))
    plane, channel = _planes(slots, (box_h, box_w), size)
    block = max(1, min(channels, WEIGHT_PANEL_BYTES // (channel * size)))
    blocks = _ceil(channels, block)
    block = _ceil(channels, blocks)
    tile = min(WEIGHT_ROWS, key=lambda rows: (_ceil(block * taps, rows) * rows, -rows))
    height = _ceil(block * taps, tile) * tile
    parts = min(panels, _ceil(2 * threads, problem.groups * blocks)) if threads > 1 else 1
    per_part = min(_ceil(panels, parts), max(1, SUM_BYTES // (height * width * size)))
    parts = _ceil(panels, per_part)
    work = box_h * box_w * block * taps * per_part * (width if vectors else 1)  # of an item, for each chunk
    chunks = problem.n * math.prod(boxes)
    run = max(1, min(SHORT_TERMS // (work * chunks), problem.groups // threads))
    step = max(1, ITEM_TERMS // (work * run))

    row = (np.arange(block)[:, None] * channel + _offsets(slots, 1, plane, box_w + slots[2].span)).ravel()
    tables = (np.resize(row, height), *(table(s.starts) for s in slots))
    pixels = _ceil((block * channel + lanes) * size, 64) * 64
    places = pixels + _ceil((per_part * box_h * box_w + lanes) * width * size, 64) * 64
    each = places + _ceil(box_h * box_w * 8, 64) * 64
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
    items = _ceil(problem.groups, run) * blocks * parts
    stages = tuple((first, min(chunks, first + step)) for first in range(0, chunks, step))
    first_at = (WEIGHT.names or ()).index("first")
    return WeightSweep(record, tables, axes, items, each, sums, stages, first_at, wrow, woff)


def _depthwise_weight_sweep(problem: ConvProblem, axes: tuple[Axis, Axis, Axis], threads: int) -> WeightSweep:
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
    return WeightSweep(record, (), axes, _ceil(groups, run), 0, sums, stages, first_at, wrow, woff, name)


def _depths(moves: list[int]) -> dict[str, int]:
    """How many taps there are in depth, and how far apart."""
    return {"taps_d": len(moves), "move_d": moves[1] - moves[0] if len(moves) > 1 else 1}


@lru_cache(maxsize=256)
def weight_sweep_of(problem: ConvProblem, algorithm: str, threads: int) -> WeightSweep | None:
    """The pass of the gradient to the weight, or None where there are no terms to sum."""
    axes = axes_of(problem, "conv_weight_grad")
    d, h, w = (axis[0] for axis in axes)
    if not (problem.n and problem.k and problem.c and d.taps and h.taps and w.taps):
        return None
    if algorithm == "depthwise":
        return _depthwise_weight_sweep(problem, (d, h, w), threads)
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
    box_w = _ceil(columns, _ceil(columns, min(BOX_PIXELS, max(room, widest))))
    pitch = box_w + slots[2].span
    aim = min(max(PANEL_BYTES[0], outs * terms * size), PANEL_BYTES[1])
    line = max(1, channels) * depths * len(slots[1].starts) * len(slots[2].starts) * pitch * size
    most_rows = max(1, min(aim // line - slots[1].span if not in_place else rows, BOX_PIXELS // pitch, rows))
    box_h = _ceil(rows, _ceil(rows, max(1, min(most_rows, room // box_w))))
    box_d = min(axes[0].outputs, max(1, room // (box_h * box_w)))
    boxes = tuple(_ceil(axis.outputs, box) for axis, box in zip(axes, (box_d, box_h, box_w), strict=True))
    work = max(1, box_d * box_h * box_w * terms * outs)
    run = max(1, min(SHORT_TERMS // work, images // threads))
    items = _ceil(images, run) * math.prod(boxes)
    parts = min(_ceil(outs, ROWS), _ceil(2 * threads, items)) if items and threads > 1 else 1
    per_part = _ceil(_ceil(outs, parts), ROWS) * ROWS
    parts = _ceil(outs, per_part)

    plane, channel = _planes(slots, (box_h, box_w), size)
    block = _ceil(terms, _ceil(terms, BLOCK_TERMS))
    width = _ceil((box_h - 1) * pitch + box_w, widest) * widest
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

    sums_at = _ceil(panel * size, 64) * 64
    tail_at = sums_at + _ceil(sums * size, 64) * 64
    places = tail_at + _ceil(tail * size, 64) * 64
    place, most_tiles = _ceil((most + 1 + 3 * widest) * 8, 64) * 64, _ceil((box_h - 1) * pitch + box_w, widest) + 1
    each = places + _ceil(most_tiles * 8, 64) * 64 + most_tiles * place
    record = record_of(
        SWEEP, xoff=tables[0].ctypes.data, tailoff=tables[1].ctypes.data, starts=[t.ctypes.data for t in tables[2:]],
        each=each, panel=sums_at, tail=tail_at, places=places, place=place, samples=problem.n, groups=problem.groups,
        run=run, channels=channels, outs=outs, terms=terms, block=block, per_part=per_part, parts=parts, chunk=chunk,
        in_place=in_place, full=full,
        box=(box_d, box_h, box_w), boxes=boxes, slots=[len(s.starts) for s in slots], ring=ring, span_h=slots[1].span,
        span_w=slots[2].span, plane=plane, channel=channel, width=width, padded=padded_outs(outs),
        slope=_slope(problem),
        **{name: [getattr(a, name) for a in axes] for name in ("size", "outputs", "step", "first", "spread")},
    )  # fmt: skip
    return Sweep(
        record, tables, axes, slots, (box_h, box_w), in_place, problem.groups, channels, outs, channel, wrow, woff,
        items * parts, each,
    )  # fmt: skip


def _ascending(axis: Axis) -> Axis:
    """The axis with its taps in the order of their offsets."""
    return axis._replace(taps=tuple(sorted(axis.taps, key=itemgetter(1))))


def _depthwise_sweep(
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
        slope=_slope(problem), **{name: [getattr(a, name) for a in axes] for name in ("size", "outputs", "step")},
    )  # fmt: skip
    return Sweep(
        record, tables, axes, (), (axes[1].outputs, axes[2].outputs), False, problem.groups, 1, 1, 0, wrow, woff,
        _ceil(images, run) * parts, each, name or (f"depthwise-{square}-{axes[2].step}" if square else "depthwise"),
    )  # fmt: skip


def _pairs_name(problem: ConvProblem, axes: tuple[Axis, Axis, Axis]) -> str:
    """The kernel for a gradient to the input at a stride of 2 of a square of neighbouring taps, or nothing."""
    sizes = {len(axis.taps) for axis in axes[1:]} | set(problem.kernel[-2:])
    if problem.rank == 1 or len(sizes) > 1 or not sizes <= set(SQUARES) or problem.stride[-2:] != (2, 2):
        return ""
    if problem.dilation[-2:] != (1, 1) or len({b[1] - a[1] for a, b in pairwise(_ascending(axes[0]).taps)}) > 1:
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


def _spread_sweep(problem: ConvProblem, axes: tuple[Axis, Axis, Axis], evens: list[int], threads: int) -> Sweep:
    wrow, woff = weight_places(problem, axes, True)
    tables = offsets(axes)
    each, parts, run, per_part = _lines_cut(problem, axes, len(woff), threads)
    record = record_of(
        DEPTHWISE_SPREAD, off=[t.ctypes.data for t in tables], each=each, images=problem.n * problem.groups,
        groups=problem.groups, terms=len(woff), run=run, parts=parts, per_part=per_part, taps=list(map(len, tables)),
        evens_h=evens[1], evens_w=evens[2], step_h=deep(problem.stride, 1)[1], low_w=tables[2].min(),
        high_w=tables[2].max(), slope=_slope(problem),
        **{name: [getattr(a, name) for a in axes] for name in ("size", "outputs")},
    )  # fmt: skip
    box = axes[1].outputs, axes[2].outputs
    items = _ceil(problem.n * problem.groups, run) * parts
    return Sweep(record, tables, axes, (), box, False, problem.groups, 1, 1, 0, wrow, woff, items, each, "spread")


def _lines_cut(
    problem: ConvProblem, axes: tuple[Axis, Axis, Axis], terms: int, threads: int
) -> tuple[int, int, int, int]:
    """Of a depthwise sum: bytes of scratch, parts of an image, images of an item and lines of a part."""
    images, lines, columns = problem.n * problem.groups, axes[0].outputs * axes[1].outputs, axes[2].outputs
    per_part = max(1, min(lines, ITEM_TERMS // (terms * columns)))
    if threads > 1 and images < 2 * threads:
        per_part = min(per_part, _ceil(lines, _ceil(2 * threads, max(images, 1))))
    run = max(1, min(SHORT_TERMS // (terms * columns * per_part), images // threads))
    return _ceil(terms * (3 * 8 + problem.dtype.itemsize), 64) * 64, _ceil(lines, per_part), run, per_part


def _slope(problem: ConvProblem) -> float:
    """Of the activation; the sign of a zero must not reach the result."""
    return 1.0 if problem.activation is None else problem.activation.slope or 0.0


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
        name = _pairs_name(problem, (d, h, w))
        if name:
            h, w = (axis._replace(taps=tuple(sorted(axis.taps))) for axis in (h, w))
            sweep = _depthwise_sweep(problem, True, (_ascending(d), h, w), threads, name)
        else:
            sweep = _spread_sweep(problem, (d, h, w), evens, threads)
        return Sweeps((sweep,), sweep.scratch, True)
    phases = product(*axes_of(problem, operation))
    met = [(d, h, w) for d, h, w in phases if d.taps and h.taps and w.taps]
    if algorithm == "depthwise":
        ordered = [(_ascending(d), _ascending(h), _ascending(w)) for d, h, w in met]
        each = tuple(_depthwise_sweep(problem, backward, axes, threads) for axes in ordered)
    else:
        each = tuple(_sweep(problem, backward, algorithm, axes, threads) for axes in met)
    written = sum(math.prod(axis.outputs for axis in axes) for axes in met)
    plane = math.prod(problem.spatial if backward else problem.output)
    return Sweeps(each, max((sweep.scratch for sweep in each), default=0), written == plane)
