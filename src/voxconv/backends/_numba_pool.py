"""The Numba backend's loops for max-pooling and its gradient, for every element type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types

from voxconv.backends._numba_ir import VECTOR_BYTES, pointer
from voxconv.backends._numba_rows import windows

_helper: Any = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

_one, _three = np.int64, (np.int64, 3)

POOL = np.dtype(
    [
        ("x", _one), ("y", _one), ("scratch", _one), ("index", _one), ("each", _one), ("planes", _one), ("run", _one),
        ("parts", _one), ("per_part", _one), ("size", _three), ("kernel", _three), ("stride", _three),
        ("before", _three), ("dilation", _three), ("outputs", _three),
    ],
    align=True,
)  # fmt: skip
"""y[plane, q] = max over taps t inside x of x[plane, q * stride - before + t * dilation]; ``index`` 0 if unwanted.

An item is ``run`` planes and ``per_part`` of their (depth, row) lines of outputs; its scratch lists a line's rows.
"""

SCATTER = np.dtype(
    [
        ("values", _one), ("index", _one), ("out", _one), ("planes", _one), ("count", _one), ("size", _one),
        ("run", _one), ("accumulate", _one),
    ],
    align=True,
)  # fmt: skip
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
        job = carray(jobs, 1)[0]
        part, first = item % job.parts, item // job.parts * job.run
        stride, taps, dilation = job.stride[2], job.kernel[2], job.dilation[2]
        width, columns, before = job.size[2], job.outputs[2], job.before[2]
        # Where no index is wanted, a vector at the edge or of an odd stride leaves its indices here.
        listed = job.scratch + slot * job.each
        spare = listed
        listed += lanes * 8
        rows = pointer(types.int64, listed)
        lines = job.outputs[0] * job.outputs[1]
        indexed = job.index != 0
        for plane in range(first, min(first + job.run, job.planes)):
            x = job.x + plane * job.size[0] * job.size[1] * width * itemsize
            for line in range(part * job.per_part, min((part + 1) * job.per_part, lines)):
                start_d = line // job.outputs[1] * job.stride[0] - job.before[0]
                start_h = line % job.outputs[1] * job.stride[1] - job.before[1]
                low_d, high_d = taps_met(start_d, job.kernel[0], job.dilation[0], job.size[0])
                low_h, high_h = taps_met(start_h, job.kernel[1], job.dilation[1], job.size[1])
                n = 0
                for i in range(low_d, high_d):
                    for j in range(low_h, high_h):
                        rows[n] = (
                            (start_d + i * job.dilation[0]) * job.size[1] + start_h + j * job.dilation[1]
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
                    # The taps that any of these windows meets.
                    low = taps_met(last, taps, dilation, width)[0] if last < 0 else 0
                    high = taps_met(col, taps, dilation, width)[1] if col + (taps - 1) * dilation >= width else taps
                    vector(
                        dtype, True, indexed, y, index if indexed else spare, x, listed, n, col + low * dilation,
                        dilation, high - low, min(lanes, columns - o), width, stride,
                    )  # fmt: skip

    return kernel


def scatter(dtype: Any) -> Callable[..., None]:
    """The walk of `SCATTER`."""
    itemsize = dtype.bitwidth // 8

    def kernel(jobs: Any, item: int, slot: int) -> None:
        job = carray(jobs, 1)[0]
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
