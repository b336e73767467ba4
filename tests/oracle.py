"""What is right: definitions by loops over taps, fills, and the bound that a result has to keep.

Nothing of the package is used here, so that it can be judged.  Arithmetic is that of the arrays
given: int64 for exact checks, extended precision for rounded ones.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float32": 2.0**-149, "float64": 2.0**-1074}


# --------------------------------------------------------------------------------------------------
# Definitions


def taps(spatial, kernel, stride, padding, dilation, output):
    """Each tap, with the slices of output positions that see an element through it, and of those elements."""
    for tap in itertools.product(*map(range, kernel)):
        outputs, inputs = [], []
        for t, size, step, (before, _), gap, count in zip(
            tap, spatial, stride, padding, dilation, output, strict=True
        ):
            offset = t * gap - before
            low = max(0, -(offset // step))
            high = min(count, (size - 1 - offset) // step + 1)
            high = max(low, high)
            outputs.append(slice(low, high))
            inputs.append(slice(low * step + offset, low * step + offset + (high - low) * step, step))
        yield tap, tuple(outputs), tuple(inputs)


def _walk(p):
    return taps(p.spatial, p.kernel, p.stride, p.padding, p.dilation, p.output)


def conv(p, x, w, b=None):
    """Forward pass of problem ``p`` without activation."""
    y = np.zeros((p.n, p.groups, p.k // p.groups, *p.output), x.dtype)
    xg = x.reshape(p.n, p.groups, p.c // p.groups, *p.spatial)
    wg = w.reshape(p.groups, p.k // p.groups, p.c // p.groups, *p.kernel)
    for tap, outputs, inputs in _walk(p):
        y[(..., *outputs)] += np.einsum("ngc...,gkc->ngk...", xg[(..., *inputs)], wg[(..., *tap)])
    y = y.reshape(p.output_shape)
    return y if b is None else y + b.reshape(-1, *(1,) * p.rank)


def input_grad(p, gy, w):
    """Gradient to the input: the transpose of `conv` in x."""
    gx = np.zeros((p.n, p.groups, p.c // p.groups, *p.spatial), gy.dtype)
    gyg = gy.reshape(p.n, p.groups, p.k // p.groups, *p.output)
    wg = w.reshape(p.groups, p.k // p.groups, p.c // p.groups, *p.kernel)
    for tap, outputs, inputs in _walk(p):
        gx[(..., *inputs)] += np.einsum("ngk...,gkc->ngc...", gyg[(..., *outputs)], wg[(..., *tap)])
    return gx.reshape(p.input_shape)


def weight_grad(p, x, gy):
    """Gradient to the weight: the transpose of `conv` in w."""
    axes = "xyz"[: p.rank]
    gw = np.zeros((p.groups, p.k // p.groups, p.c // p.groups, *p.kernel), x.dtype)
    xg = x.reshape(p.n, p.groups, p.c // p.groups, *p.spatial)
    gyg = gy.reshape(p.n, p.groups, p.k // p.groups, *p.output)
    for tap, outputs, inputs in _walk(p):
        gw[(..., *tap)] = np.einsum(f"ngk{axes},ngc{axes}->gkc", gyg[(..., *outputs)], xg[(..., *inputs)])
    return gw.reshape(p.weight_shape)


def max_pool(p, x):
    """Values and flat indices, tap by tap: a NaN takes over, as in ``torch``, and the first of a tie stays."""
    places = np.arange(math.prod(p.spatial)).reshape(p.spatial)
    values = np.zeros(p.output_shape, x.dtype)
    indices = np.full(p.output_shape, -1, np.int64)
    for _, outputs, inputs in _walk(p):
        old, at, new = values[(..., *outputs)], indices[(..., *outputs)], x[(..., *inputs)]
        with np.errstate(invalid="ignore"):
            better = (at < 0) | (new > old) | np.isnan(new)
        values[(..., *outputs)] = np.where(better, new, old)
        indices[(..., *outputs)] = np.where(better, places[inputs], at)
    return values, indices


def divisors(p):
    """What each window of an average pool divides by, as ``torch`` counts it."""
    if p.divisor_override is not None:
        return np.full(p.output, p.divisor_override)
    counts = []
    for size, k, step, (before, after), count in zip(
        p.spatial, p.kernel, p.stride, p.padding, p.output, strict=True
    ):
        low, high = (-before, size + after) if p.count_include_pad else (0, size)
        starts = np.arange(count) * step - before
        counts.append(np.minimum(starts + k, high) - np.maximum(starts, low))
    return math.prod(np.ix_(*counts))


def avg_pool(p, x):
    """Mean of each window."""
    total = np.zeros(p.output_shape, x.dtype)
    for _, outputs, inputs in _walk(p):
        total[(..., *outputs)] += x[(..., *inputs)]
    return total / divisors(p)


def avg_pool_grad(p, gy):
    """Transpose of `avg_pool`."""
    gx = np.zeros(p.input_shape, gy.dtype)
    share = gy / divisors(p)
    for _, outputs, inputs in _walk(p):
        gx[(..., *inputs)] += share[(..., *outputs)]
    return gx


def unfold(p, x):
    """Windows as columns, zeros where a tap falls on padding."""
    columns = np.zeros((p.n, p.c, *p.kernel, *p.output), x.dtype)
    for tap, outputs, inputs in _walk(p):
        columns[(slice(None), slice(None), *tap, *outputs)] = x[(..., *inputs)]
    return columns.reshape(p.columns_shape)


def fold(p, columns):
    """Transpose of `unfold`."""
    x = np.zeros(p.input_shape, columns.dtype)
    parts = columns.reshape(p.n, p.c, *p.kernel, *p.output)
    for tap, outputs, inputs in _walk(p):
        x[(..., *inputs)] += parts[(slice(None), slice(None), *tap, *outputs)]
    return x


# --------------------------------------------------------------------------------------------------
# Fills


def integers(rng, shape, dtype):
    """Small integers: every sum of the test shapes is exact in float32, whatever the order."""
    return rng.integers(-4, 5, shape).astype(dtype)


def floats(rng, shape, dtype):
    """Floats of either sign whose exponents are uniform over 40 binades."""
    return (rng.choice([-1.0, 1.0], shape) * np.exp2(rng.uniform(-20, 20, shape))).astype(dtype)


# --------------------------------------------------------------------------------------------------
# Checks


def wide(*arrays):
    """Extended precision copies for a reference whose own error does not count."""
    return tuple(None if a is None else a.astype(np.longdouble) for a in arrays)


def magnitudes(*arrays):
    return tuple(None if a is None else np.abs(a).astype(np.longdouble) for a in arrays)


def bound(magnitude, terms, dtype):
    """gamma_d * magnitude for a sum of ``terms`` products in any order, plus what underflow may lose."""
    d = terms + 2
    u = UNIT[np.dtype(dtype).name]
    return d * u / (1 - d * u) * magnitude + (terms + 1) * TINY[np.dtype(dtype).name]


def assert_within(actual, expected, limit):
    """The worst element counts; it is named."""
    assert actual.shape == expected.shape
    if not actual.size:
        return
    excess = np.abs(actual.astype(np.longdouble) - expected) / np.maximum(limit, np.finfo(np.longdouble).tiny)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
    assert excess[worst] <= 1, (
        f"{float(excess[worst]):.3g} times its bound at {tuple(map(int, worst))}: "
        f"{actual[worst]!r}, exactly {float(expected[worst])!r}"
    )


def assert_equal(actual, expected):
    """Equal values in equal places, NaN included; dtype counts, the sign of zero does not."""
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected.astype(actual.dtype))


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()
