"""The Numba backend's loops for max-pooling and its gradient, for every element type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

from voxconv.backends._numba_ir import VECTOR_BYTES, job_type, pointer, record
from voxconv.backends._numba_windows import windows

MOST_STEP = 4
"""Largest stride whose taps are shuffled out of whole vectors."""

GROUP_BYTES = 16 << 10
"""Input that one vector after the other reads, line by line, before the next does: it stays in L1."""

MOST_PLACES = (1 << 31) - 1
"""Most elements of a plane whose positions go into 32 bits."""

_helper: Any = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

POOL = job_type(
    """
    x y scratch index each planes run parts per_part size* kernel* stride* before* dilation* outputs*
    """
)
"""y[plane, q] = max over taps t inside x of x[plane, q * stride - before + t * dilation]; ``index`` 0 if unwanted.

An item is ``run`` planes and ``per_part`` of their (depth, row) lines of outputs; its scratch has a
flag for what is not a number, and lists a line's rows.
"""

SCATTER = job_type(
    """
    values index out planes count size run accumulate
    """
)
"""out[plane] = 0, then += or = values[plane, i] at index[plane, i], in order; an item is ``run`` planes."""


@_helper
def taps_met(start: int, taps: int, dilation: int, size: int) -> tuple[int, int]:
    """First and past-the-last tap of a window at ``start`` that falls inside an axis."""
    if start >= 0 and start + (taps - 1) * dilation < size:
        return 0, taps
    low = max(0, -(start // dilation))
    return low, max(low, min(taps, (size - 1 - start) // dilation + 1))


FORMS = (1, 0), (1, 3), (1, 5), (2, 0), (2, 2), (2, 3), (3, 0), (4, 0), (0, 0)
"""(step, known taps) that have a kernel of their own."""


def form_of(stride: int, taps: int, dilation: int, places: int, floating: bool) -> tuple[int, int]:
    """Which of `FORMS` serves windows along a line of a plane with so many places.

    Integers have fewer, since each form of each type is compiled.
    """
    most = MOST_STEP if floating else 2
    step = stride if places <= MOST_PLACES and (stride == 1 or (stride <= most and dilation == 1)) else 0
    return (step, taps) if floating and dilation == 1 and (step, taps) in FORMS else (step, 0)


def max_pool(step: int, known: int) -> Callable[[Any], Callable[..., None]]:
    """What makes the maximum of `POOL`, vectors of windows at a time, for one of `FORMS`."""

    def make(dtype: Any) -> Callable[..., None]:
        itemsize = dtype.bitwidth // 8
        lanes = VECTOR_BYTES // max(itemsize, 4)
        wide = max(step, 1)

        def kernel(jobs: Any, item: int, slot: int) -> None:
            job = record(jobs)
            part, first = item % job.parts, item // job.parts * job.run
            stride, taps, dilation = job.stride_w, job.kernel_w, job.dilation_w
            width, columns, before = job.size_w, job.outputs_w, job.before_w
            spoilt = job.scratch + slot * job.each
            listed = spoilt + 8
            flag = pointer(types.int64, spoilt)
            flag[0] = 0
            rows = pointer(types.int64, listed)
            lines = job.outputs_d * job.outputs_h
            image = job.size_d * job.size_h * width
            reach = (-(-taps // wide) - 1) * wide * dilation + wide * lanes  # of what a vector of windows reads
            deep, tall, jump = 0, 0, job.stride_h * width
            # Windows above this line of outputs do not reach below the plane; lines go together while x stays in L1.
            below = (job.size_h - 1 - (job.kernel_h - 1) * job.dilation_h + job.before_h) // job.stride_h + 1
            group = max(1, GROUP_BYTES // (itemsize * width * min(job.stride_h, job.size_h)))
            past = min((part + 1) * job.per_part, lines)
            for plane in range(first, min(first + job.run, job.planes)):
                x = job.x + plane * image * itemsize
                line = part * job.per_part
                while line < past:
                    d, h = line // job.outputs_h, line % job.outputs_h
                    start_d, start_h = d * job.stride_d - job.before_d, h * job.stride_h - job.before_h
                    low_d, high_d = taps_met(start_d, job.kernel_d, job.dilation_d, job.size_d)
                    low_h, high_h = taps_met(start_h, job.kernel_h, job.dilation_h, job.size_h)
                    at = ((start_d + low_d * job.dilation_d) * job.size_h + start_h + low_h * job.dilation_h) * width
                    if high_d - low_d != deep or high_h - low_h != tall:
                        deep, tall = high_d - low_d, high_h - low_h
                        for i in range(deep):
                            for j in range(tall):
                                rows[i * tall + j] = (i * job.dilation_d * job.size_h + j * job.dilation_h) * width
                    n, together = deep * tall, 1
                    if start_h >= 0:
                        together = max(1, min(min(group, below - h), min(job.outputs_h - h, past - line)))
                    to = (plane * lines + line) * columns
                    line += together
                    done = 0
                    while done < columns:
                        # The last vector goes back to overlap the one before, rather than be masked.
                        o = max(0, min(done, columns - lanes))
                        col = o * stride - before
                        count = min(lanes, columns - o)
                        y, index = job.y + (to + o) * itemsize, job.index + (to + o) * 8 if job.index != 0 else 0
                        blocks = 0
                        if step > 0 and count == lanes and col >= 0 and col + reach <= width:
                            blocks = min((columns - o) // lanes, (width - col - reach) // (lanes * stride) + 1)
                            windows(
                                dtype, step, known, 0, 1, together, jump, columns, blocks, y, index, x, at, listed, n,
                                col, dilation, taps, lanes, width, stride, spoilt,
                            )  # fmt: skip
                        elif step > 0 and (taps - 1) * dilation <= 4 * (width + lanes):  # few taps lie outside
                            windows(
                                dtype, step, known, 1, 1, together, jump, columns, 1, y, index, x, at, listed, n, col,
                                dilation, taps, count, width, stride, spoilt,
                            )  # fmt: skip
                            blocks = 1
                        done = o + max(blocks, 1) * count
                        if flag[0] == 0 and blocks > 0:
                            continue
                        # One by one: rare strides and what is not a number.
                        flag[0] = 0
                        for block in range(max(blocks, 1)):
                            place = block * count
                            begin, last = col + place * stride, col + (place + count - 1) * stride
                            # Taps that any of these windows meets; if these are far more than one does, each its own.
                            low = taps_met(last, taps, dilation, width)[0] if last < 0 else 0
                            high = taps
                            if begin + (taps - 1) * dilation >= width:
                                high = taps_met(begin, taps, dilation, width)[1]
                            each = count if high - low <= 4 * (width + lanes) else 1
                            for i in range(place, place + count, each):
                                start = col + i * stride
                                if each == 1:
                                    low, high = taps_met(start, taps, dilation, width)
                                windows(
                                    dtype, 0, 0, 1, 1, together, jump, columns, 1, y + i * itemsize,
                                    index + i * 8 if index != 0 else 0, x, at, listed, n, start + low * dilation,
                                    dilation, high - low, each, width, stride, spoilt,
                                )  # fmt: skip

        return kernel

    return make


def scatter(dtype: Any) -> Callable[..., None]:
    """The walk of `SCATTER`."""
    itemsize = dtype.bitwidth // 8

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = record(jobs)
        for plane in range(item * job.run, min((item + 1) * job.run, job.planes)):
            out = pointer(dtype, job.out + plane * job.size * itemsize)
            values = pointer(dtype, job.values + plane * job.count * itemsize)
            index = pointer(types.int64, job.index + plane * job.count * 8)
            for i in range(job.size):
                out[i] = dtype(0)
            if job.accumulate:
                for i in range(job.count):
                    out[index[i]] += values[i]
            else:
                for i in range(job.count):
                    out[index[i]] = values[i]

    return kernel
