"""The Numba backend's loops for convolutions of one channel in, one out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from voxconv.backends._numba_ir import ROWS, VECTOR_BYTES, job_type, pointer, record
from voxconv.backends._numba_pool import taps_met
from voxconv.backends._numba_rows import plane_dots, planes, taps_edge, taps_inside
from voxconv.backends._numba_tiles import lane_sum

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


def square(size: int, step: int) -> Callable[[Any], Callable[..., None]]:
    """What makes the sum of `DEPTHWISE` for size x size neighbouring taps in a slice, at a stride of 1 or 2."""
    rows = 7 if ROWS == 8 and size == 3 else 4

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
                        dtype, size, step, rows, job.y + (image * target + d * slice_y) * itemsize,
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
    together = size if size * size + size + 1 < registers else 1

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
                    for t in range(job.terms):
                        to = job.gw + (wrow[channel] + woff[t]) * itemsize
                        lane_sum(dtype, to, sums + t * lanes * itemsize)

        return kernel

    return make
