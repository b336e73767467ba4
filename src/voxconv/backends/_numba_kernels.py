"""Compiled loops of the Numba backend that take arrays: windows, bias gradients, and exact sums.

Every problem arrives as 3-D, with leading axes of size 1, and every array as its flat, C-contiguous
1-D view.  Inner loops count in ``np.uint64``: a signed index may be negative as far as the compiler
knows, and the wraparound that Python wants then keeps a loop from being vectorised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from voxconv.backends._numba_cache import KernelCache

Array = npt.NDArray[Any]
Triple = tuple[int, int, int]


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first call, without the GIL, kept on disk where there is a place for it."""
    dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(function.__name__)
    return dispatcher


# --------------------------------------------------------------------------------------------------
# Convolution where a factor is infinite or NaN


@_compiled
def activated(value: Any, active: bool, slope: Any) -> Any:
    """``value``, where it is negative ``slope`` times it; a slope of 0 gives 0 even for -inf."""
    if active and value < 0:
        return slope * value if slope != 0 else slope
    return value


@_compiled
def sweep_exact(
    x: Array, w: Array, bias: Array, y: Array, samples: int, groups: int, channels: int, outs: int, size: Triple,
    outputs: Triple, step: Triple, first: Triple, spread: Triple, full: Triple, off_d: Array, off_h: Array,
    off_w: Array, wrow: Array, woff: Array, active: bool, slope: Any,
) -> None:  # fmt: skip
    """The sum of the kernel `sweep` without padding's terms, which matters where a weight is infinite or NaN."""
    for sample_group in range(samples * groups):
        for m in range(outs):
            k = sample_group % groups * outs + m
            for d in range(outputs[0]):
                for h in range(outputs[1]):
                    for v in range(outputs[2]):
                        value = y.dtype.type(0)
                        t = 0
                        for c in range(sample_group * channels, (sample_group + 1) * channels):
                            for i in range(off_d.size):
                                xd = d * step[0] + off_d[i]
                                for j in range(off_h.size):
                                    xh = h * step[1] + off_h[j]
                                    for u in range(off_w.size):
                                        xw = v * step[2] + off_w[u]
                                        if 0 <= xd < size[0] and 0 <= xh < size[1] and 0 <= xw < size[2]:
                                            source = ((c * size[0] + xd) * size[1] + xh) * size[2] + xw
                                            value += w[wrow[k] + woff[t]] * x[source]
                                        t += 1
                        plane = (sample_group * outs + m) * full[0] + first[0] + d * spread[0]
                        row = (plane * full[1] + first[1] + h * spread[1]) * full[2]
                        y[row + first[2] + v * spread[2]] = activated(value + bias[k], active, slope)


@_compiled
def weight_sweep_exact(
    x: Array, gy: Array, gw: Array, samples: int, groups: int, channels: int, outs: int, size: Triple,
    outputs: Triple, step: Triple, off_d: Array, off_h: Array, off_w: Array, wrow: Array, woff: Array,
) -> None:  # fmt: skip
    """The sum of the kernel `weight` without padding's terms, which matters where gy is infinite or NaN."""
    for k in range(groups * outs):
        t = 0
        for c in range(k // outs * channels, (k // outs + 1) * channels):
            for i in range(off_d.size):
                for j in range(off_h.size):
                    for u in range(off_w.size):
                        value = gw.dtype.type(0)
                        for n in range(samples):
                            for d in range(outputs[0]):
                                xd = d * step[0] + off_d[i]
                                for h in range(outputs[1]):
                                    xh = h * step[1] + off_h[j]
                                    for v in range(outputs[2]):
                                        xw = v * step[2] + off_w[u]
                                        if 0 <= xd < size[0] and 0 <= xh < size[1] and 0 <= xw < size[2]:
                                            plane = (n * groups * channels + c) * size[0] + xd
                                            other = (n * groups * outs + k) * outputs[0] + d
                                            value += (
                                                x[(plane * size[1] + xh) * size[2] + xw]
                                                * gy[(other * outputs[1] + h) * outputs[2] + v]
                                            )
                        gw[wrow[k] + woff[t]] = value
                        t += 1


@_compiled
def channel_sums(gy: Array, out: Array, samples: int, channels: int, plane: int) -> None:
    """out[k] = sum of gy (samples, channels, plane) over samples and plane, in eight interleaved float64 sums."""
    parts = np.empty(8)
    for k in range(channels):
        parts[:] = 0
        for n in range(samples):
            start = (n * channels + k) * plane
            for i in range(np.uint64(start), np.uint64(start + plane // 8 * 8), np.uint64(8)):
                for j in range(np.uint64(8)):
                    parts[j] += gy[i + j]
            for i in range(start + plane // 8 * 8, start + plane):
                parts[0] += gy[i]
        out[k] = parts.sum()


# --------------------------------------------------------------------------------------------------
# Windows


@_compiled
def met(start: int, taps: int, dilation: int, size: int) -> tuple[int, int]:
    """First and past-the-last tap of a window at ``start`` that falls inside an axis."""
    low = max(0, -(start // dilation))
    return low, max(low, min(taps, (size - 1 - start) // dilation + 1))


@_compiled
def mean(
    image: Array, means: Array, backward: bool, planes: int, size: Triple, kernel: Triple, stride: Triple,
    before: Triple, after: Triple, outputs: Triple, taps: Array, count_padding: bool, divisor: float,
) -> None:  # fmt: skip
    """Mean of each window of ``image``; ``backward``, spread ``means`` over their windows instead.

    The divisor is what is given, or where that is 0 the number of the window's elements, with
    ``count_padding`` those on padding too.  ``taps`` is as in `max_pool`.
    """
    if backward:
        image[:] = 0
    row, counts = np.empty(outputs[2]), np.empty(outputs[2])
    for o in range(outputs[2]):
        start = o * stride[2] - before[2]
        low_w, high_w = met(start, kernel[2], 1, size[2])
        counts[o] = min(kernel[2], size[2] + after[2] - start) if count_padding else high_w - low_w
    to = 0
    for plane in range(planes):
        for od in range(outputs[0]):
            start_d = od * stride[0] - before[0]
            low_d, high_d = met(start_d, kernel[0], 1, size[0])
            for oh in range(outputs[1]):
                start_h = oh * stride[1] - before[1]
                low_h, high_h = met(start_h, kernel[1], 1, size[1])
                area = float(high_d - low_d) * float(high_h - low_h)
                if count_padding:
                    area = float(min(kernel[0], size[0] + after[0] - start_d))
                    area *= float(min(kernel[1], size[1] + after[1] - start_h))
                for o in range(outputs[2]):
                    parts = area * counts[o] if divisor == 0 else divisor
                    row[o] = means[to + o] / parts if backward else 0.0
                for d in range(start_d + low_d, start_d + high_d):
                    for h in range(start_h + low_h, start_h + high_h):
                        line = ((plane * size[0] + d) * size[1] + h) * size[2]
                        for tap in taps:
                            offset = tap - before[2]
                            low, high = met(offset, outputs[2], stride[2], size[2])
                            at, step = np.uint64(line + offset + low * stride[2]), np.uint64(stride[2])
                            target = np.uint64(low)
                            for j in range(np.uint64(high - low)):
                                if backward:
                                    image[at + j * step] += row[target + j]
                                else:
                                    row[target + j] += image[at + j * step]
                if not backward:
                    for o in range(outputs[2]):
                        means[to + o] = row[o] / (area * counts[o] if divisor == 0 else divisor)
                to += outputs[2]


@_compiled
def columns(
    image: Array, cols: Array, backward: bool, planes: int, size: Triple, kernel: Triple, stride: Triple,
    before: Triple, dilation: Triple, outputs: Triple,
) -> None:  # fmt: skip
    """Copy windows of ``image`` to rows of ``cols``, zero on padding; ``backward``, add them back instead."""
    if backward:
        image[:] = 0
    else:
        cols[:] = 0
    to = 0
    for plane in range(planes):
        for td in range(kernel[0]):
            for th in range(kernel[1]):
                for tw in range(kernel[2]):
                    offset = tw * dilation[2] - before[2]
                    low, high = met(offset, outputs[2], stride[2], size[2])
                    for od in range(outputs[0]):
                        d = od * stride[0] + td * dilation[0] - before[0]
                        for oh in range(outputs[1]):
                            h = oh * stride[1] + th * dilation[1] - before[1]
                            if 0 <= d < size[0] and 0 <= h < size[1]:
                                row = ((plane * size[0] + d) * size[1] + h) * size[2]
                                at = row + offset
                                for o in range(low, high):
                                    if backward:
                                        image[at + o * stride[2]] += cols[to + o]
                                    else:
                                        cols[to + o] = image[at + o * stride[2]]
                            to += outputs[2]
