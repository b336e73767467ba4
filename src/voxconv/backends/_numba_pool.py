"""The Numba backend's loops for max-pooling and its gradient, for every element type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

from voxconv.backends._numba_ir import VECTOR_BYTES, job_type, pointer, record
from voxconv.backends._numba_rows import windows

_helper: Any = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

POOL = job_type(
    """
    x y scratch index each planes run parts per_part size* kernel* stride* before* dilation* outputs*
    """
)
"""y[plane, q] = max over taps t inside x of x[plane, q * stride - before + t * dilation]; ``index`` 0 if unwanted.

An item is ``run`` planes and ``per_part`` of their (depth, row) lines of outputs; its scratch lists a line's rows.
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


@_helper
def vector(
    dtype: Any, edge: bool, indexed: bool, y: int, index: int, x: int, rows: int, n: int, col: int, dilation: int,
    taps: int, count: int, size: int, stride: int,
) -> None:  # fmt: skip
    """Run `windows` in the form of its stride."""
    if edge:
        if stride == 1:
            windows(dtype, 1, 0, 1, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)
        elif stride == 2:
            windows(dtype, 2, 0, 1, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)
        else:
            windows(dtype, 0, 0, 1, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)
    elif stride == 2 and taps == 2:
        if indexed:
            windows(dtype, 2, 2, 0, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)
        else:
            windows(dtype, 2, 2, 0, 0, y, index, x, rows, n, col, dilation, taps, count, size, stride)
    elif stride == 2 and taps == 3:
        windows(dtype, 2, 3, 0, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)
    elif stride == 1 and taps == 3:
        windows(dtype, 1, 3, 0, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)
    elif stride == 1:
        windows(dtype, 1, 0, 0, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)
    elif stride == 2:
        windows(dtype, 2, 0, 0, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)
    else:
        windows(dtype, 0, 0, 0, 1, y, index, x, rows, n, col, dilation, taps, count, size, stride)


def max_pool(dtype: Any) -> Callable[..., None]:
    """The maximum of `POOL`, a vector of windows at a time."""
    itemsize = dtype.bitwidth // 8
    lanes = VECTOR_BYTES // max(itemsize, 4)

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = record(jobs)
        part, first = item % job.parts, item // job.parts * job.run
        stride, taps, dilation = job.stride_w, job.kernel_w, job.dilation_w
        width, columns, before = job.size_w, job.outputs_w, job.before_w
        # Where no index is wanted, a vector at the edge or of an odd stride leaves its indices here.
        listed = job.scratch + slot * job.each
        spare = listed
        listed += lanes * 8
        rows = pointer(types.int64, listed)
        lines = job.outputs_d * job.outputs_h
        indexed = job.index != 0
        for plane in range(first, min(first + job.run, job.planes)):
            x = job.x + plane * job.size_d * job.size_h * width * itemsize
            for line in range(part * job.per_part, min((part + 1) * job.per_part, lines)):
                start_d = line // job.outputs_h * job.stride_d - job.before_d
                start_h = line % job.outputs_h * job.stride_h - job.before_h
                low_d, high_d = taps_met(start_d, job.kernel_d, job.dilation_d, job.size_d)
                low_h, high_h = taps_met(start_h, job.kernel_h, job.dilation_h, job.size_h)
                n = 0
                for i in range(low_d, high_d):
                    for j in range(low_h, high_h):
                        rows[n] = (
                            (start_d + i * job.dilation_d) * job.size_h + start_h + j * job.dilation_h
                        ) * width
                        n += 1
                at = (plane * lines + line) * columns
                for begin in range(0, columns, lanes):
                    # The last vector goes back to overlap the one before, rather than be masked.
                    o = max(0, min(begin, columns - lanes))
                    col = o * stride - before
                    last = col + (min(lanes, columns - o) - 1) * stride
                    y, index = job.y + (at + o) * itemsize, job.index + (at + o) * 8
                    if o + lanes <= columns and col >= 0 and last + (taps - 1) * dilation < width:
                        vector(
                            dtype, False, indexed, y, index if indexed else spare, x, listed, n, col, dilation, taps,
                            lanes, width, stride,
                        )  # fmt: skip
                        continue
                    # The taps that any of these windows meets; where these are far more than one does, one by one.
                    count = min(lanes, columns - o)
                    low = taps_met(last, taps, dilation, width)[0] if last < 0 else 0
                    high = taps_met(col, taps, dilation, width)[1] if col + (taps - 1) * dilation >= width else taps
                    each = count if high - low <= 4 * (width + lanes) else 1
                    for i in range(0, count, each):
                        start = col + i * stride
                        if each == 1:
                            low, high = taps_met(start, taps, dilation, width)
                        vector(
                            dtype, True, indexed, y + i * itemsize, index + i * 8 if indexed else spare, x, listed, n,
                            start + low * dilation, dilation, high - low, each, width, stride,
                        )  # fmt: skip

    return kernel


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
