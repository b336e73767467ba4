"""The Numba backend's loops for convolutions of one channel in, one out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from voxconv.backends._numba_ir import ROWS, VECTOR_BYTES, job_type, pointer, record
from voxconv.backends._numba_planes import plane_dots, planes
from voxconv.backends._numba_pool import taps_met
from voxconv.backends._numba_rows import line_of_pairs, taps_edge, taps_inside
from voxconv.backends._numba_weight_tiles import lane_sums

DEPTHWISE = job_type(
    """
    x y scratch w bias off* each images groups terms run parts per_part taps_d move_d size* outputs* step* low*
    high* slope
    """
)
"""y[image, q] = bias + sum over t of w[image % groups, t] * x[image, q * step + (off_d, off_h, off_w)[t]].

``low`` and ``high`` are the least and the greatest offset of an axis; in depth, ``taps_d`` are ``move_d`` apart.  An
item is ``run`` images and ``per_part`` of their (depth, row) lines of outputs; its scratch holds tables of the taps.
"""

DEPTHWISE_SPREAD = job_type(
    """
    x y scratch w bias off* each images groups terms run parts per_part taps* evens_h evens_w step_h size* outputs*
    low_w high_w slope
    """
)
"""The gradient to the input at a stride of 2 along the last axis, and of ``step_h`` 1 or 2 along the one before.

y[image, d, i, l] = bias + sum over those taps that belong to i % step_h and l % 2 of
w[image % groups, td, th, tw] * x[image, d + off_d[td], i // step_h + off_h[th], l // 2 + off_w[tw]]: the first
``evens_h`` and ``evens_w`` of the taps belong to 0.  Items and scratch are as in `DEPTHWISE`.
"""

DEPTHWISE_WEIGHT = job_type(
    """
    x gw scratch gy sums wrow woff samples groups run terms taps_d move_d first last size* outputs* step* low*
    """
)
"""gw[wrow[channel] + woff[t]] = sum over samples and outputs q of gy[channel, q] * x[channel, q * step + offset[t]].

A call does the samples from ``first`` to ``last``, and sums wait in ``sums`` (groups, terms, lanes).  An item is
``run`` channels.
"""

BLOCK = 4
"""Lines that are summed at once: as many sums as a fused addition takes cycles."""


def depthwise(dtype: Any) -> Callable[..., None]:
    """The sum of `DEPTHWISE` for any taps at stride 1, line by line, straight from x.

    Taps outside x are left out, not multiplied by zero.
    """
    itemsize = dtype.bitwidth // 8
    lanes = VECTOR_BYTES // itemsize

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = record(jobs)
        part, first = item % job.parts, item // job.parts * job.run
        n, width, columns = job.terms, job.size_w, job.outputs_w
        off_d, off_h = pointer(types.int64, job.off_d), pointer(types.int64, job.off_h)
        off_w = pointer(types.int64, job.off_w)
        # All taps, and those of them that meet a line's rows of x.
        table = job.scratch + slot * job.each
        all_off, off, shift = table, table + n * 8, table + 2 * n * 8
        chosen = table + 3 * n * 8
        places, offs, shifts = pointer(types.int64, all_off), pointer(types.int64, off), pointer(types.int64, shift)
        values = pointer(dtype, chosen)
        for t in range(n):
            places[t] = (off_d[t] * job.size_h + off_h[t]) * width + off_w[t]
        left, right = -job.low_w, min(width - job.high_w, columns)
        top, bottom = -job.low_h, min(job.size_h - job.high_h, job.outputs_h)
        bias, slope = pointer(dtype, job.bias), dtype(job.slope)
        lines = job.outputs_d * job.outputs_h
        for image in range(first, min(first + job.run, job.images)):
            weights = job.w + image % job.groups * n * itemsize
            weight = pointer(dtype, weights)
            start = bias[image % job.groups]
            line = part * job.per_part
            d, h = line // job.outputs_h, line % job.outputs_h
            y = job.y + (image * lines + line) * columns * itemsize
            x = job.x + (image * job.size_d * job.size_h + d * job.size_h + h) * width * itemsize
            last = min(line + job.per_part, lines)
            while line < last:
                rows, count, w, used, moved = 1, n, weights, all_off, job.off_w
                if top <= h < bottom and d + job.low_d >= 0 and d + job.high_d < job.size_d:
                    rows = BLOCK if h + BLOCK <= bottom and line + BLOCK <= last else 1
                else:
                    count, w, used, moved = 0, chosen, off, shift
                    for t in range(n):
                        if 0 <= d + off_d[t] < job.size_d and 0 <= h + off_h[t] < job.size_h:
                            values[count], offs[count], shifts[count] = weight[t], places[t], off_w[t]
                            count += 1
                for j in range(0, columns, lanes):
                    to, source, left_over = y + j * itemsize, x + j * itemsize, columns - j
                    if left <= j <= right - lanes:
                        if rows == BLOCK:
                            taps_inside(dtype, BLOCK, to, columns, source, width, count, w, used, start, slope)
                        else:
                            taps_inside(dtype, 1, to, columns, source, width, count, w, used, start, slope)
                    elif rows == BLOCK:
                        taps_edge(
                            dtype, BLOCK, to, columns, source, width, count, w, used, moved, j, left_over, width,
                            start, slope,
                        )  # fmt: skip
                    else:
                        taps_edge(
                            dtype, 1, to, columns, source, width, count, w, used, moved, j, left_over, width, start,
                            slope,
                        )  # fmt: skip
                line, h = line + rows, h + rows
                y += rows * columns * itemsize
                x += rows * width * itemsize
                if h == job.outputs_h:
                    d, h = d + 1, 0
                    x += (job.size_h - job.outputs_h) * width * itemsize

    return kernel


def square(size: int, step: int, odd_h: int = -1, odd_w: int = -1) -> Callable[[Any], Callable[..., None]]:
    """What makes the sum of `DEPTHWISE` for size x size neighbouring taps in a slice, at a stride of 1 or 2.

    Or the gradient to the input at a stride of 2, by the parity of the padding of both axes: as many outputs as x
    has positions, twice.
    """
    rows = 7 if ROWS == 8 and size == 3 else 4
    if odd_h >= 0:
        rows = 4 if ROWS == 8 and size == 3 else 2

    def make(dtype: Any) -> Callable[..., None]:
        itemsize = dtype.bitwidth // 8

        def kernel(jobs: Any, item: int, slot: int) -> None:
            job = record(jobs)
            part, image = item % job.parts, item // job.parts * job.run
            past = min(image + job.run, job.images)
            slice_x, slice_y = job.size_h * job.size_w, job.outputs_h * job.outputs_w
            source, target = job.size_d * slice_x, job.outputs_d * slice_y
            last = min((part + 1) * job.per_part, job.outputs_d * job.outputs_h)
            while image < past:
                channel = image % job.groups
                count = min(past - image, job.groups - channel)
                line = part * job.per_part
                while line < last:
                    d, begin = line // job.outputs_h, line % job.outputs_h
                    end = min(job.outputs_h, begin + last - line)
                    depth = d * job.step_d + job.low_d
                    low, high = taps_met(depth, job.taps_d, job.move_d, job.size_d)
                    planes(
                        dtype, size, step, rows, odd_h, odd_w, job.y + (image * target + d * slice_y) * itemsize,
                        job.x + (image * source + (depth + low * job.move_d) * slice_x) * itemsize,
                        job.w + (channel * job.terms + low * size * size) * itemsize, job.bias + channel * itemsize,
                        count, target, source, job.terms, high - low, job.move_d * slice_x, begin, end, job.low_h,
                        job.size_h, job.low_w, job.size_w, job.outputs_w, dtype(job.slope),
                    )  # fmt: skip
                    line += end - begin
                image += count

        return kernel

    return make


def square_weight(size: int, step: int) -> Callable[[Any], Callable[..., None]]:
    """What makes the sum of `DEPTHWISE_WEIGHT` for size x size neighbouring taps in a slice, at a stride of 1 or 2."""
    registers = 32 if ROWS == 8 else 16
    together, taps = size if size * size + size + 1 < registers else 1, size * size

    def make(dtype: Any) -> Callable[..., None]:
        itemsize = dtype.bitwidth // 8
        lanes = VECTOR_BYTES // itemsize

        def kernel(jobs: Any, item: int, slot: int) -> None:
            job = record(jobs)
            slice_x, slice_y = job.size_h * job.size_w, job.outputs_h * job.outputs_w
            wrow, woff = pointer(types.int64, job.wrow), pointer(types.int64, job.woff)
            for channel in range(item * job.run, min((item + 1) * job.run, job.groups)):
                sums = job.sums + channel * job.terms * lanes * itemsize
                values = pointer(dtype, sums)
                if job.first == 0:
                    for i in range(job.terms * lanes):
                        values[i] = dtype(0)
                for sample in range(job.first, job.last):
                    image = sample * job.groups + channel
                    for d in range(job.outputs_d):
                        depth = d * job.step_d + job.low_d
                        low, high = taps_met(depth, job.taps_d, job.move_d, job.size_d)
                        plane_dots(
                            dtype, size, step, together, sums + low * size * size * lanes * itemsize,
                            job.x + (image * job.size_d + depth + low * job.move_d) * slice_x * itemsize,
                            job.gy + (image * job.outputs_d + d) * slice_y * itemsize, high - low,
                            job.move_d * slice_x, job.outputs_h, job.low_h, job.size_h, job.low_w, job.size_w,
                            job.outputs_w,
                        )  # fmt: skip
                if job.last == job.samples:
                    gw = pointer(dtype, job.gw)
                    for z in range(0, job.terms, taps):
                        lane_sums(dtype, taps, sums, sums + z * lanes * itemsize)
                        for t in range(taps):
                            gw[wrow[channel] + woff[z + t]] = values[t]

        return kernel

    return make


def spread(dtype: Any) -> Callable[..., None]:
    """The sum of `DEPTHWISE_SPREAD`, line by line."""
    itemsize = dtype.bitwidth // 8

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = record(jobs)
        part, first = item % job.parts, item // job.parts * job.run
        off_d, off_h = pointer(types.int64, job.off_d), pointer(types.int64, job.off_h)
        off_w = pointer(types.int64, job.off_w)
        places = job.scratch + slot * job.each
        shifts, chosen = places + job.terms * 8, places + 3 * job.terms * 8
        place, shift = pointer(types.int64, places), pointer(types.int64, shifts)
        which, value = pointer(types.int64, places + 2 * job.terms * 8), pointer(dtype, chosen)
        bias, lines = pointer(dtype, job.bias), job.outputs_d * job.outputs_h
        for line in range(part * job.per_part, min((part + 1) * job.per_part, lines)):
            d, i = line // job.outputs_h, line % job.outputs_h
            odd, q = i % job.step_h, i // job.step_h
            count, evens = 0, 0
            for side in range(2):
                for td in range(job.taps_d):
                    z = d + off_d[td]
                    for th in range(job.evens_h if odd else 0, job.taps_h if odd else job.evens_h):
                        row = q + off_h[th]
                        if not (0 <= z < job.size_d and 0 <= row < job.size_h):
                            continue
                        for tw in range(job.evens_w if side else 0, job.taps_w if side else job.evens_w):
                            which[count] = (td * job.taps_h + th) * job.taps_w + tw
                            place[count] = (z * job.size_h + row) * job.size_w + off_w[tw]
                            shift[count] = off_w[tw]
                            count += 1
                if side == 0:
                    evens = count
            for image in range(first, min(first + job.run, job.images)):
                channel = image % job.groups
                weight = pointer(dtype, job.w + channel * job.terms * itemsize)
                for t in range(count):
                    value[t] = weight[which[t]]
                line_of_pairs(
                    dtype, job.y + (image * lines + line) * job.outputs_w * itemsize, job.outputs_w,
                    job.x + image * job.size_d * job.size_h * job.size_w * itemsize, job.size_w, job.low_w, job.high_w,
                    evens, count - evens, chosen, places, shifts, bias[channel], dtype(job.slope),
                )  # fmt: skip

    return kernel
