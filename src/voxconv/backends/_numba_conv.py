"""Compiled loops of the Numba backend's convolutions.

A kernel is a C function (job, item, slot): ``job`` is one record of sizes and addresses, ``item`` says which
part of the result to write, and ``slot`` whose scratch to use.  Every problem arrives as 3-D, with leading
axes of size 1.  Addresses are integers in bytes, everything else counts elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

from voxconv.backends._numba_ir import LONE_VECTORS, ROWS, VECTOR_BYTES, VECTORS, job_type, pointer, record
from voxconv.backends._numba_tiles import copy_row, pack_panel, spread_row, tiles
from voxconv.backends._numba_weight_tiles import dot_row, lane_sums, row_tiles, turn

_helper: Any = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
# A helper has machine code of its own beside that of the kernel it is linked into: what holds tiles is inlined.
_inlined: Any = njit(error_model="numpy", inline="always")

SWEEP = job_type(
    """
    x y scratch w bias xoff tailoff starts* each panel tail places place samples groups run channels outs terms
    block per_part parts chunk in_place size* outputs* step* first* spread* full* box* boxes* slots* ring span_h
    span_w plane channel width padded slope
    """
)
"""One sum over taps for a lattice of outputs: the forward pass, or one phase of the input gradient.

x (samples, groups, channels, *size), y (samples, groups, outs, *full), bias (groups * outs), w as `pack` leaves it.
Output q of ``outputs`` stands at first + q * spread of y and reads x at q * step + start + shift; per axis there are
``slots`` of starts, and the shifts are in the offset list ``xoff`` (ring, terms).  An item is ``run`` consecutive
(sample, group) images, one box of outputs of them and ``per_part`` of their output channels.  Its scratch, ``each``
bytes, holds the panel, from ``panel`` on the sums, from ``tail`` on what a tile may not read in place and from
``places`` on where tiles' pixels go, ``place`` bytes for each.
"""

WEIGHT = job_type(
    """
    x gw scratch gy sums row wrow woff starts* each pixels places samples groups run channels outs taps block blocks
    height tile vectors panels per_part parts first last dense size* outputs* step* box* boxes* slots* ring span_h
    span_w plane channel
    """
)
"""The other contraction: gw[wrow[k] + woff[t]] = sum over samples and outputs q of gy[k, q] * x[q * step + offset[t]].

Chunks of outputs, the boxes of all samples, are summed one after the other; a call does those from ``first`` to
``last``, and sums wait in ``sums`` (groups, blocks, panels, height, vectors * lanes).  An item has ``run`` groups, one
of ``blocks`` of their input channels and ``per_part`` of their panels of output channels.  ``row`` is where a term
of a block reads the panel, ``tile`` how many terms are summed at once; in gw they lie beside each other if ``dense``.
Scratch holds the panel, from ``pixels`` on gy, from ``places`` on a list of its offsets.
With ``vectors`` 0 the lanes run along pixels instead, and ``sums`` is (groups, blocks, outs, height, lanes).
"""

PACK = job_type(
    """
    finite w to wrow woff groups run outs terms padded
    """
)
"""Weights w[wrow[group * outs + k] + woff[t]] to panels (group, panel, t, row); ``padded`` outs of a group.

An item is ``run`` groups.  There is a 0 at ``finite`` afterwards if one of them is not.
"""


@_inlined
def panel_rows(left: int) -> int:
    """Output channels of the next panel, some perhaps padding, where ``left`` remain."""
    if 2 * left > ROWS:
        return ROWS
    return 4 if ROWS == 8 and left > 2 else 1


def padded_outs(outs: int) -> int:
    """Output channels with the padding of their panels."""
    rest = outs % ROWS
    return outs - rest + (ROWS if 2 * rest > ROWS else 4 if ROWS == 8 and rest > 2 else rest)


def pack(dtype: Any) -> Callable[..., None]:
    """Lay weights out as tiles read them; see `PACK`."""
    itemsize = dtype.bitwidth // 8

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = record(jobs)
        for group in range(item * job.run, min((item + 1) * job.run, job.groups)):
            at, k = job.to + group * job.padded * job.terms * itemsize, 0
            while k < job.outs:
                rows = panel_rows(job.outs - k)
                row = job.wrow + (group * job.outs + k) * 8
                pack_panel(dtype, rows, at, job.w, row, job.outs - 1 - k, job.woff, job.terms, job.finite)
                at += rows * job.terms * itemsize
                k += rows

    return kernel


@_inlined
def span_inside(at: int, step: int, count: int, size: int) -> tuple[int, int]:
    """First and past-the-last i < count with 0 <= at + i * step < size."""
    low = min(max(0, -(at // step)), count)
    return low, max(low, min(count, (size - 1 - at) // step + 1))


@_helper
def fill(
    dtype: Any, job: Any, itemsize: int, channels: int, x: int, to: int, d: int, first_q: int, h: int, w: int,
    rows: int, columns: int,
) -> None:  # fmt: skip
    """Copy what a box of outputs reads of the slices from ``first_q`` on, zero where it lies outside.

    panel[c, sd, q % ring, sh, sw, i, j] = x[c, q * step_d + start_d[sd], (h + i) * step_h + start_h[sh],
    (w + j) * step_w + start_w[sw]] for q < d + ring, i < rows and j < columns.
    """
    starts_d = pointer(types.int64, job.starts_d)
    starts_h, starts_w = pointer(types.int64, job.starts_h), pointer(types.int64, job.starts_w)
    step, pitch = job.step_w, job.box_w + job.span_w
    image = job.size_d * job.size_h * job.size_w
    for sd in range(job.slots_d):
        for q in range(first_q, d + job.ring):
            depth = q * job.step_d + starts_d[sd]
            for sh in range(job.slots_h):
                at_h = h * job.step_h + starts_h[sh]
                top, bottom = span_inside(at_h, job.step_h, rows, job.size_h)
                if depth < 0 or depth >= job.size_d:
                    top = bottom = rows
                for sw in range(job.slots_w):
                    at_w = w * step + starts_w[sw]
                    low, high = span_inside(at_w, step, columns, job.size_w)
                    cell = ((sd * job.ring + q % job.ring) * job.slots_h + sh) * job.slots_w + sw
                    for c in range(channels):
                        target = to + (c * job.channel + cell * job.plane) * itemsize
                        source = x + (c * image + (depth * job.size_h + at_h) * job.size_w + at_w) * itemsize
                        for i in range(rows):
                            inside = top <= i < bottom
                            line = source + i * job.step_h * job.size_w * itemsize
                            end = high if inside else low
                            if step == 1 or not inside:
                                copy_row(dtype, 1, target, line, low, end, columns)
                            elif step == 2:
                                copy_row(dtype, 2, target, line, low, end, columns)
                            else:
                                row, values = pointer(dtype, target), pointer(dtype, line)
                                for j in range(columns):
                                    row[j] = values[j * step] if low <= j < high else dtype(0)
                            target += pitch * itemsize


@_helper
def list_places(
    itemsize: int, lanes: int, vectors: int, places: int, p: int, end: int, pitch: int, columns: int, line: int
) -> int:
    """Where the vectors of pixels [p, end) go, in rows of ``pitch`` of which ``columns`` count, ``line`` apart in y.

    ``places`` gets, for each vector, where its entries begin, and past the last where they end.  An entry is a move in
    bytes, and the first and past-the-last lane that moves by it.  Returns how many leading vectors move as a whole.
    """
    entry = pointer(types.int64, places)
    at, full, row = vectors + 1, 0, p // pitch
    j = p - row * pitch
    for vector in range(vectors):
        entry[vector] = at
        lane, past = 0, min(lanes, end - p - vector * lanes)
        while lane < past:
            if j < columns:
                count = min(columns - j, past - lane)
                entry[at], entry[at + 1], entry[at + 2] = (row * line + j - lane) * itemsize, lane, lane + count
                at += 3
                if count == lanes and full == vector:
                    full += 1
            else:
                count = min(pitch - j, past - lane)
            lane += count
            j += count
            if j == pitch:
                row, j = row + 1, 0
    entry[vectors] = at
    return full


@_helper
def spread_sums(
    dtype: Any, job: Any, itemsize: int, y: int, bias: int, rows: int, sums: int, pitch: int, columns: int, p: int,
    end: int,
) -> None:  # fmt: skip
    """Finish pixels [p, end) of ``rows`` channels of sums, whose columns lie apart in y; see `list_places`."""
    biases, slope = pointer(dtype, bias), dtype(job.slope)
    plane, q = job.full_d * job.full_h * job.full_w, p
    while q < end:
        row = q // pitch
        j = q - row * pitch
        count = min(columns - j, end - q)
        at = row * job.spread_h * job.full_w + j * job.spread_w
        for i in range(rows if count > 0 else 0):
            to, source = y + (at + i * plane) * itemsize, sums + (i * job.width + q - p) * itemsize
            if job.spread_w == 2:
                spread_row(dtype, to, source, count, biases[i], slope)
                continue
            outputs, values = pointer(dtype, to), pointer(dtype, source)
            for k in range(count):
                value = values[k] + biases[i]
                less = slope * value if slope != 0 else slope
                outputs[k * job.spread_w] = less if value < 0 else value
        q += count if count > 0 else pitch - j


def sweep(spread: bool) -> Callable[[Any], Callable[..., None]]:
    """What makes the sum of `SWEEP`: fill the panel, then blocks of terms > panels of outputs > tiles of pixels.

    A box is computed as one flat run of pixels with the panel's pitch; its columns past the box are dropped.  Where
    neighbouring outputs lie apart in y, it is the kernel with ``spread``; nobody else waits for that to be compiled.
    """

    def make(dtype: Any) -> Callable[..., None]:
        itemsize = dtype.bitwidth // 8
        lanes = VECTOR_BYTES // itemsize

        def kernel(jobs: Any, item: int, slot: int) -> None:
            job = record(jobs)
            part, item = item % job.parts, item // job.parts
            w, item = item % job.boxes_w * job.box_w, item // job.boxes_w
            h, item = item % job.boxes_h * job.box_h, item // job.boxes_h
            depth, item = item % job.boxes_d * job.box_d, item // job.boxes_d
            rows, columns = min(job.box_h, job.outputs_h - h), min(job.box_w, job.outputs_w - w)
            pitch = job.box_w + job.span_w
            pixels = (rows - 1) * pitch + columns
            most = VECTORS if 2 * job.outs > ROWS else LONE_VECTORS
            vectors = -(-pixels // lanes)
            count = -(-vectors // most)
            scratch = job.scratch + slot * job.each
            sums, tail, places = scratch + job.panel, scratch + job.tail, scratch + job.places
            plane, slope = job.full_d * job.full_h * job.full_w, dtype(job.slope)
            size = job.size_d * job.size_h * job.size_w
            k_first = part * job.per_part
            k_last = min(job.outs, k_first + job.per_part)
            one_block = job.block >= job.terms
            whole = pointer(types.int64, places)
            places += -(-count * 8 // 64) * 64
            for index in range(0 if spread else count):
                begin, end = vectors * index // count * lanes, min(vectors * (index + 1) // count * lanes, pixels)
                whole[index] = list_places(
                    itemsize, lanes, most, places + index * job.place, begin, end, pitch, columns,
                    job.spread_h * job.full_w,
                )  # fmt: skip
            for image in range(item * job.run, min((item + 1) * job.run, job.samples * job.groups)):
                x = job.x + image * job.channels * size * itemsize
                bias = job.bias + image % job.groups * job.outs * itemsize
                weights = job.w + image % job.groups * job.padded * job.terms * itemsize
                for d in range(depth, min(depth + job.box_d, job.outputs_d)):
                    off = job.xoff + d % job.ring * job.terms * 8
                    line = (job.first_d + d * job.spread_d) * job.full_h + job.first_h + h * job.spread_h
                    y = job.y + (
                        image * job.outs * plane + line * job.full_w + job.first_w + w * job.spread_w
                    ) * itemsize  # fmt: skip
                    base = scratch
                    if job.in_place:
                        base = x + w * itemsize
                    else:
                        q = d if d == depth else d + job.ring - 1
                        fill(
                            dtype, job, itemsize, job.channels, x, scratch, d, q, h, w, rows + job.span_h,
                            columns + job.span_w,
                        )  # fmt: skip
                    for k0 in range(k_first, k_last, job.chunk):
                        for t0 in range(0, job.terms, job.block):
                            n = min(job.block, job.terms - t0)
                            last = t0 + n == job.terms
                            k = k0
                            while k < min(k_last, k0 + job.chunk):
                                height = panel_rows(job.outs - k)
                                present = min(height, job.outs - k) if last else 0
                                panel = weights + (k * job.terms + t0 * height) * itemsize
                                to, start = y + k * plane * itemsize, bias + k * itemsize
                                for index in range(count):
                                    before = vectors * index // count
                                    wide, p = vectors * (index + 1) // count - before, before * lanes
                                    source, offsets = base + p * itemsize, off + t0 * 8
                                    if job.in_place and w + p + most * lanes > size:  # only the last may
                                        for c in range(0 if k > k0 else n):
                                            row = x + ((t0 + c) * size + w + p) * itemsize
                                            place = tail + c * most * VECTOR_BYTES
                                            copy_row(dtype, 1, place, row, 0, size - w - p, most * lanes)
                                        source, offsets = tail, job.tailoff
                                    waiting = sums
                                    if not one_block:
                                        waiting += ((k - k0) * job.width + index * most * lanes) * itemsize
                                    list_at = places + index * job.place
                                    tiles(
                                        dtype, height, wide, t0, n, panel, source, offsets, waiting, job.width,
                                        0 if spread else present, whole[index], to, plane, start, list_at, slope,
                                    )  # fmt: skip
                                    if spread and last:
                                        spread_sums(
                                            dtype, job, itemsize, to, start, present, waiting, pitch, columns, p,
                                            min(p + wide * lanes, pixels),
                                        )  # fmt: skip
                                k += height

        return kernel

    return make


def weight(dtype: Any) -> Callable[..., None]:
    """The sum of `WEIGHT`: fill the panel, turn gy round, then tiles of (channel, tap) rows by output channels."""
    itemsize = dtype.bitwidth // 8
    lanes = VECTOR_BYTES // itemsize

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = record(jobs)
        part, item = item % job.parts, item // job.parts
        block, item = item % job.blocks, item // job.blocks
        channels = min(job.block, job.channels - block * job.block)
        terms = channels * job.taps
        width = max(job.vectors, 1) * lanes
        k_first, k_last = part * job.per_part, min(job.panels, (part + 1) * job.per_part)
        scratch = job.scratch + slot * job.each
        pixels, places = scratch + job.pixels, scratch + job.places
        size, image = job.size_d * job.size_h * job.size_w, job.outputs_d * job.outputs_h * job.outputs_w
        pitch = job.box_w + job.span_w
        chunks = job.samples * job.boxes_d * job.boxes_h * job.boxes_w
        row, woff, wrow = pointer(types.int64, job.row), pointer(types.int64, job.woff), pointer(types.int64, job.wrow)
        for group in range(item * job.run, min((item + 1) * job.run, job.groups)):
            panel_bytes = job.height * width * itemsize
            sums = job.sums + ((group * job.blocks + block) * job.panels) * panel_bytes
            if job.first == 0 and job.vectors == 0:
                values = pointer(dtype, sums)
                for i in range(k_first * job.height * width, k_last * job.height * width):
                    values[i] = 0
            for chunk in range(job.first, job.last):
                w, rest = chunk % job.boxes_w * job.box_w, chunk // job.boxes_w
                h, rest = rest % job.boxes_h * job.box_h, rest // job.boxes_h
                d, n = rest % job.boxes_d, rest // job.boxes_d
                rows, columns = min(job.box_h, job.outputs_h - h), min(job.box_w, job.outputs_w - w)
                x = job.x + ((n * job.groups + group) * job.channels + block * job.block) * size * itemsize
                fill(
                    dtype, job, itemsize, channels, x, scratch, d, d, h, w, rows + job.span_h, columns + job.span_w
                )  # fmt: skip
                start = (n * job.groups + group) * job.outs * image + (d * job.outputs_h + h) * job.outputs_w + w
                if job.vectors == 0:
                    for k in range(k_first, k_last):
                        for t in range(terms):
                            to = sums + (k * job.height + t) * width * itemsize
                            for i in range(rows):
                                left = scratch + (row[t] + i * pitch) * itemsize
                                right = job.gy + (start + k * image + i * job.outputs_w) * itemsize
                                dot_row(dtype, to, left, right, columns)
                    continue
                place = pointer(types.int64, places)
                for i in range(rows):
                    for j in range(columns):
                        place[i * columns + j] = i * pitch + j
                lines, along = (1, rows * columns) if columns == job.outputs_w else (rows, columns)
                for k in range(k_first, k_last):
                    turned = pixels + (k - k_first) * job.box_h * job.box_w * width * itemsize
                    for lane in range(0, width, lanes):
                        present = min(lanes, job.outs - k * width - lane)
                        source = job.gy + (start + (k * width + lane) * image) * itemsize
                        for i in range(lines):
                            turn(
                                dtype, 0, turned + (i * columns * width + lane) * itemsize, width,
                                source + i * job.outputs_w * itemsize, image, present, along,
                            )  # fmt: skip
                for t in range(0, terms, job.tile):
                    for k in range(k_first, k_last):
                        to = sums + (k * job.height + t) * width * itemsize
                        d_k = pixels + (k - k_first) * job.box_h * job.box_w * width * itemsize
                        row_tiles(
                            dtype, job.tile, job.vectors, chunk, rows * columns, scratch, job.row + t * 8, places, d_k,
                            to,
                        )  # fmt: skip
            if job.last < chunks:
                continue
            values, gw = pointer(dtype, sums), pointer(dtype, job.gw)
            first_term = block * job.block * job.taps
            if job.vectors == 0:
                for k in range(k_first, k_last):
                    for t in range(terms):
                        to = job.gw + (wrow[group * job.outs + k] + woff[first_term + t]) * itemsize
                        lane_sums(dtype, 1, to, sums + (k * job.height + t) * width * itemsize)
                continue
            for k in range(k_first * width, min(k_last * width, job.outs), lanes):
                at, count = (k // width * job.height) * width + k % width, min(lanes, job.outs - k)
                first = wrow[group * job.outs + k]
                if job.dense:
                    for t in range(0, terms, lanes):
                        to, source = first + woff[first_term] + t, at + t * width
                        turn(
                            dtype, 1, job.gw + to * itemsize, job.channels * job.taps, sums + source * itemsize, width,
                            min(lanes, terms - t), count,
                        )  # fmt: skip
                    continue
                for i in range(count):
                    for t in range(terms):
                        gw[wrow[group * job.outs + k + i] + woff[first_term + t]] = values[at + i + t * width]

    return kernel
