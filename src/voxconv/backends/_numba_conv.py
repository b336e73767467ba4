"""Compiled loops of the Numba backend's convolutions.

A kernel is a C function (job, item, slot): ``job`` is one record of sizes and addresses, ``item`` says which
part of the result to write, and ``slot`` whose scratch to use.  Every problem arrives as 3-D, with leading
axes of size 1.  Addresses are integers in bytes, everything else counts elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types

from voxconv.backends._numba_ir import LONE_VECTORS, ROWS, VECTOR_BYTES, VECTORS, pointer
from voxconv.backends._numba_tiles import copy_row, dot_row, row_tile, store_row, tile

_helper: Any = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_one, _three = np.int64, (np.int64, 3)

SWEEP = np.dtype(
    [
        ("x", _one), ("y", _one), ("scratch", _one), ("w", _one), ("bias", _one), ("xoff", _one), ("tailoff", _one),
        ("starts", _three), ("each", _one), ("panel", _one), ("tail", _one),
        ("samples", _one), ("groups", _one), ("run", _one), ("channels", _one), ("outs", _one), ("terms", _one),
        ("block", _one), ("per_part", _one), ("parts", _one), ("chunk", _one), ("in_place", _one),
        ("size", _three), ("outputs", _three), ("step", _three), ("first", _three), ("spread", _three),
        ("full", _three), ("box", _three), ("boxes", _three), ("slots", _three), ("ring", _one), ("span_h", _one),
        ("span_w", _one), ("plane", _one), ("channel", _one), ("width", _one), ("padded", _one), ("slope", np.float64),
    ],
    align=True,
)  # fmt: skip
"""One sum over taps for a lattice of outputs: the forward pass, or one phase of the input gradient.

x (samples, groups, channels, *size), y (samples, groups, outs, *full), bias (groups * outs), w as `pack` leaves it.
Output q of ``outputs`` stands at first + q * spread of y and reads x at q * step + start + shift; per axis there are
``slots`` of starts, and the shifts are in the offset list ``xoff`` (ring, terms).  An item is ``run`` consecutive
(sample, group) images, one box of outputs of them and ``per_part`` of their output channels.  Its scratch, ``each``
bytes, holds the panel, from ``panel`` on the sums and from ``tail`` on what a tile may not read in place.
"""

WEIGHT = np.dtype(
    [
        ("x", _one), ("gw", _one), ("scratch", _one), ("gy", _one), ("sums", _one), ("row", _one), ("wrow", _one),
        ("woff", _one), ("starts", _three), ("each", _one), ("pixels", _one), ("places", _one), ("samples", _one),
        ("groups", _one), ("run", _one), ("channels", _one), ("outs", _one), ("taps", _one), ("block", _one),
        ("blocks", _one), ("height", _one), ("vectors", _one), ("panels", _one), ("per_part", _one), ("parts", _one),
        ("first", _one), ("last", _one), ("size", _three), ("outputs", _three), ("step", _three), ("box", _three),
        ("boxes", _three), ("slots", _three), ("ring", _one), ("span_h", _one), ("span_w", _one), ("plane", _one),
        ("channel", _one),
    ],
    align=True,
)  # fmt: skip
"""The other contraction: gw[wrow[k] + woff[t]] = sum over samples and outputs q of gy[k, q] * x[q * step + offset[t]].

Chunks of outputs, the boxes of all samples, are summed one after the other; a call does those from ``first`` to
``last``, and sums wait in ``sums`` (groups, blocks, panels, height, vectors * lanes).  An item has ``run`` groups, one
of ``blocks`` of their input channels and ``per_part`` of their panels of output channels.  ``row`` is where a term
of a block reads the panel.  Scratch holds the panel, from ``pixels`` on gy, from ``places`` on a list of its offsets.
With ``vectors`` 0 the lanes run along pixels instead, and ``sums`` is (groups, blocks, outs, height, lanes).
"""

PACK = np.dtype(
    [
        ("finite", _one), ("w", _one), ("to", _one), ("wrow", _one), ("woff", _one), ("groups", _one), ("outs", _one),
        ("terms", _one), ("padded", _one),
    ],
    align=True,
)  # fmt: skip
"""Weights w[wrow[group * outs + k] + woff[t]] to panels (group, panel, t, row); ``padded`` outs of a group."""


@_helper
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
    """Lay weights out as tiles read them, one item for each group; see `PACK`."""

    def kernel(jobs: Any, group: int, slot: int) -> None:
        job = carray(jobs, 1)[0]
        w, to = pointer(dtype, job.w), pointer(dtype, job.to)
        wrow, woff = pointer(types.int64, job.wrow), pointer(types.int64, job.woff)
        at, k, finite = group * job.padded * job.terms, 0, True
        while k < job.outs:
            rows = panel_rows(job.outs - k)
            for i in range(rows):
                row = wrow[group * job.outs + min(k + i, job.outs - 1)]
                for t in range(job.terms):
                    value = w[row + woff[t]]
                    finite &= value - value == 0
                    to[at + t * rows + i] = value
            at += rows * job.terms
            k += rows
        if not finite:
            job.finite = 0

    return kernel


@_helper
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
    starts_d = pointer(types.int64, job.starts[0])
    starts_h, starts_w = pointer(types.int64, job.starts[1]), pointer(types.int64, job.starts[2])
    step, pitch = job.step[2], job.box[2] + job.span_w
    image = job.size[0] * job.size[1] * job.size[2]
    for sd in range(job.slots[0]):
        for q in range(first_q, d + job.ring):
            depth = q * job.step[0] + starts_d[sd]
            for sh in range(job.slots[1]):
                at_h = h * job.step[1] + starts_h[sh]
                top, bottom = span_inside(at_h, job.step[1], rows, job.size[1])
                if depth < 0 or depth >= job.size[0]:
                    top = bottom = rows
                for sw in range(job.slots[2]):
                    at_w = w * step + starts_w[sw]
                    low, high = span_inside(at_w, step, columns, job.size[2])
                    cell = ((sd * job.ring + q % job.ring) * job.slots[1] + sh) * job.slots[2] + sw
                    for c in range(channels):
                        target = to + (c * job.channel + cell * job.plane) * itemsize
                        source = x + (c * image + (depth * job.size[1] + at_h) * job.size[2] + at_w) * itemsize
                        for i in range(rows):
                            inside = top <= i < bottom
                            line = source + i * job.step[1] * job.size[2] * itemsize
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
def store(
    dtype: Any, job: Any, itemsize: int, image: int, k: int, rows: int, sums: int, pitch: int, columns: int, d: int,
    h: int, w: int, p: int, end: int,
) -> None:  # fmt: skip
    """Pixels [p, end) of ``rows`` channels of sums from ``k`` on, in lines of ``pitch`` of which ``columns`` count."""
    bias, slope = pointer(dtype, job.bias), dtype(job.slope)
    channel = image % job.groups * job.outs + k
    plane = job.full[0] * job.full[1] * job.full[2]
    depth = job.first[0] + d * job.spread[0]
    begin = p
    while p < end:
        row = p // pitch
        j = p - row * pitch
        if j < columns:
            count = min(columns - j, end - p)
            line = depth * job.full[1] + job.first[1] + (h + row) * job.spread[1]
            at = (image * job.outs + k) * plane + line * job.full[2] + job.first[2] + (w + j) * job.spread[2]
            for i in range(rows):
                source = sums + (i * job.width + p - begin) * itemsize
                if job.spread[2] == 1:
                    store_row(dtype, job.y + (at + i * plane) * itemsize, source, count, bias[channel + i], slope)
                else:
                    y, values = pointer(dtype, job.y), pointer(dtype, source)
                    for e in range(count):
                        value = values[e] + bias[channel + i]
                        less = slope * value if slope != 0 else slope
                        y[at + i * plane + e * job.spread[2]] = less if value < 0 else value
        p = (row + 1) * pitch


@_helper
def tiles(dtype: Any, rows: int, vectors: int, more: int, n: int, a: int, b: int, off: int, c: int, ldc: int) -> None:
    """Run the tile of this size, or a larger one: sums and pixels have room for the largest."""
    if rows == ROWS:
        if vectors == 1:
            tile(dtype, ROWS, 1, more, n, a, b, off, c, ldc)
        elif vectors == 2:
            tile(dtype, ROWS, 2, more, n, a, b, off, c, ldc)
        else:
            tile(dtype, ROWS, VECTORS, more, n, a, b, off, c, ldc)
    elif rows == 4:
        if vectors <= VECTORS:
            tile(dtype, 4, VECTORS, more, n, a, b, off, c, ldc)
        else:
            tile(dtype, 4, LONE_VECTORS, more, n, a, b, off, c, ldc)
    elif vectors <= VECTORS:
        tile(dtype, 1, VECTORS, more, n, a, b, off, c, ldc)
    else:
        tile(dtype, 1, LONE_VECTORS, more, n, a, b, off, c, ldc)


def sweep(dtype: Any) -> Callable[..., None]:
    """The sum of `SWEEP`: fill the panel, then blocks of terms > tiles of pixels > panels of output channels.

    A box is computed as one flat run of pixels with the panel's pitch; its columns past the box are dropped.
    """
    itemsize = dtype.bitwidth // 8
    lanes = VECTOR_BYTES // itemsize

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = carray(jobs, 1)[0]
        part, item = item % job.parts, item // job.parts
        w, item = item % job.boxes[2] * job.box[2], item // job.boxes[2]
        h, item = item % job.boxes[1] * job.box[1], item // job.boxes[1]
        depth, item = item % job.boxes[0] * job.box[0], item // job.boxes[0]
        rows, columns = min(job.box[1], job.outputs[1] - h), min(job.box[2], job.outputs[2] - w)
        pitch = job.box[2] + job.span_w
        pixels = (rows - 1) * pitch + columns
        most = VECTORS if 2 * job.outs > ROWS else LONE_VECTORS
        vectors = -(-pixels // lanes)
        count = -(-vectors // most)
        scratch = job.scratch + slot * job.each
        sums, tail = scratch + job.panel, scratch + job.tail
        size = job.size[0] * job.size[1] * job.size[2]
        k_first = part * job.per_part
        k_last = min(job.outs, k_first + job.per_part)
        one_block = job.block >= job.terms
        for image in range(item * job.run, min((item + 1) * job.run, job.samples * job.groups)):
            x = job.x + image * job.channels * size * itemsize
            weights = job.w + image % job.groups * job.padded * job.terms * itemsize
            for d in range(depth, min(depth + job.box[0], job.outputs[0])):
                off = job.xoff + d % job.ring * job.terms * 8
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
                        p = 0
                        for index in range(count):
                            wide = vectors * (index + 1) // count - vectors * index // count
                            source, offsets = base + p * itemsize, off + t0 * 8
                            if job.in_place and w + p + most * lanes > size:
                                for c in range(n):
                                    row = x + ((t0 + c) * size + w + p) * itemsize
                                    to = tail + c * most * VECTOR_BYTES
                                    copy_row(dtype, 1, to, row, 0, size - w - p, most * lanes)
                                source, offsets = tail, job.tailoff
                            k = k0
                            while k < min(k_last, k0 + job.chunk):
                                height = panel_rows(job.outs - k)
                                c = sums
                                if not one_block:
                                    c += ((k - k0) * job.width + index * most * lanes) * itemsize
                                tiles(
                                    dtype, height, wide, t0, n, weights + (k * job.terms + t0 * height) * itemsize,
                                    source, offsets, c, job.width,
                                )  # fmt: skip
                                if t0 + n == job.terms:
                                    store(
                                        dtype, job, itemsize, image, k, min(height, job.outs - k), c, pitch, columns,
                                        d, h, w, p, min(p + wide * lanes, pixels),
                                    )  # fmt: skip
                                k += height
                            p += wide * lanes

    return kernel


def weight(dtype: Any) -> Callable[..., None]:
    """The sum of `WEIGHT`: fill the panel, turn gy round, then tiles of (channel, tap) rows by output channels."""
    itemsize = dtype.bitwidth // 8
    lanes = VECTOR_BYTES // itemsize

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = carray(jobs, 1)[0]
        part, item = item % job.parts, item // job.parts
        block, item = item % job.blocks, item // job.blocks
        channels = min(job.block, job.channels - block * job.block)
        terms = channels * job.taps
        width = max(job.vectors, 1) * lanes
        k_first, k_last = part * job.per_part, min(job.panels, (part + 1) * job.per_part)
        scratch = job.scratch + slot * job.each
        pixels, places = scratch + job.pixels, scratch + job.places
        size, image = job.size[0] * job.size[1] * job.size[2], job.outputs[0] * job.outputs[1] * job.outputs[2]
        pitch = job.box[2] + job.span_w
        chunks = job.samples * job.boxes[0] * job.boxes[1] * job.boxes[2]
        row, woff, wrow = pointer(types.int64, job.row), pointer(types.int64, job.woff), pointer(types.int64, job.wrow)
        for group in range(item * job.run, min((item + 1) * job.run, job.groups)):
            panel_bytes = job.height * width * itemsize
            sums = job.sums + ((group * job.blocks + block) * job.panels) * panel_bytes
            if job.first == 0:
                values = pointer(dtype, sums)
                for i in range(k_first * job.height * width, k_last * job.height * width):
                    values[i] = 0
            for chunk in range(job.first, job.last):
                w, rest = chunk % job.boxes[2] * job.box[2], chunk // job.boxes[2]
                h, rest = rest % job.boxes[1] * job.box[1], rest // job.boxes[1]
                d, n = rest % job.boxes[0], rest // job.boxes[0]
                rows, columns = min(job.box[1], job.outputs[1] - h), min(job.box[2], job.outputs[2] - w)
                x = job.x + ((n * job.groups + group) * job.channels + block * job.block) * size * itemsize
                fill(
                    dtype, job, itemsize, channels, x, scratch, d, d, h, w, rows + job.span_h, columns + job.span_w
                )  # fmt: skip
                start = (n * job.groups + group) * job.outs * image + (d * job.outputs[1] + h) * job.outputs[2] + w
                if job.vectors == 0:
                    for k in range(k_first, k_last):
                        for t in range(terms):
                            to = sums + (k * job.height + t) * width * itemsize
                            for i in range(rows):
                                left = scratch + (row[t] + i * pitch) * itemsize
                                right = job.gy + (start + k * image + i * job.outputs[2]) * itemsize
                                dot_row(dtype, to, left, right, columns)
                    continue
                place = pointer(types.int64, places)
                for i in range(rows):
                    for j in range(columns):
                        place[i * columns + j] = i * pitch + j
                gy = pointer(dtype, job.gy)
                for k in range(k_first, k_last):
                    turned = pointer(dtype, pixels + (k - k_first) * job.box[1] * job.box[2] * width * itemsize)
                    present = min(width, job.outs - k * width)
                    for lane in range(present):
                        for i in range(rows):
                            source = start + (k * width + lane) * image + i * job.outputs[2]
                            for j in range(columns):
                                turned[(i * columns + j) * width + lane] = gy[source + j]
                    for lane in range(present, width):
                        for i in range(rows * columns):
                            turned[i * width + lane] = 0
                for t in range(0, terms, ROWS):
                    for k in range(k_first, k_last):
                        to = sums + (k * job.height + t) * width * itemsize
                        d_k = pixels + (k - k_first) * job.box[1] * job.box[2] * width * itemsize
                        if job.vectors == 1:
                            row_tile(dtype, ROWS, 1, rows * columns, scratch, job.row + t * 8, places, d_k, to)
                        else:
                            row_tile(dtype, ROWS, 2, rows * columns, scratch, job.row + t * 8, places, d_k, to)
            if job.last < chunks:
                continue
            values, gw = pointer(dtype, sums), pointer(dtype, job.gw)
            first_term = block * job.block * job.taps
            if job.vectors == 0:
                for k in range(k_first, k_last):
                    for t in range(terms):
                        total = dtype(0)
                        for lane in range(width):
                            total += values[(k * job.height + t) * width + lane]
                        gw[wrow[group * job.outs + k] + woff[first_term + t]] = total
                continue
            for k in range(k_first * width, min(k_last * width, job.outs)):
                at = (k // width * job.height) * width + k % width
                for t in range(terms):
                    gw[wrow[group * job.outs + k] + woff[first_term + t]] = values[at + t * width]

    return kernel
