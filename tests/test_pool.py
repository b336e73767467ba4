"""Pooling, unpooling, unfold and fold, with their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

import oracle
import voxconv as vc
from cases import DILATED_POOL, POOL
from voxconv import functional
from voxconv import problem as rules

pools = pytest.mark.parametrize("case", POOL, ids=lambda case: case.name)
max_pools = pytest.mark.parametrize("case", POOL + DILATED_POOL, ids=lambda case: case.name)
UNFOLD = {1: "unfold1d", 2: "unfold", 3: "unfold3d"}
FOLD = {1: "fold1d", 2: "fold", 3: "fold3d"}


def function(name, rank):
    return getattr(vc, f"{name}{rank}d")


def window(case, x, **extra):
    options = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, **case.options, **extra}
    return rules.window("pool", case.rank, x, case.kernel, kinds="fiu", **options)[0]


@max_pools
@pytest.mark.parametrize("kind", ["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
                                  "uint64"])  # fmt: skip
@pytest.mark.parametrize("seed", [21])
def test_max_pool(case, kind, backend, seed):
    rng = np.random.default_rng(seed)
    info = np.iinfo(kind) if kind[0] in "iu" else None
    shape = (case.n, case.c, *case.spatial)
    if info is None:
        x = rng.choice([-np.inf, -1.5, -0.0, 0.0, 2.0, 3.0], shape).astype(kind)
    else:
        x = rng.choice(np.array([info.min, info.min + 1, 0, 1, info.max], kind), shape)
    expected, places = oracle.max_pool(window(case, x), x)
    values, indices = np.full(expected.shape, 99, kind), np.full(expected.shape, -7, np.int64)
    pool = function("max_pool", case.rank)
    pool(x, case.kernel, **case.options, return_indices=True, out=(values, indices), backend=backend)
    oracle.assert_same_bits(values, expected)
    oracle.assert_same_bits(indices, places)
    oracle.assert_same_bits(pool(x, case.kernel, **case.options, backend=backend), expected)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("width", [*range(1, 20), 33])
def test_a_nan_is_seen_from_every_position(width, kind, backend):
    pool = {"kernel_size": 3, "stride": 1, "padding": 1}
    x = np.tile(np.arange(width, dtype=kind), (width, 1))
    np.fill_diagonal(x, np.nan)
    y, at = vc.max_pool1d(x[None], **pool, return_indices=True, backend=backend)
    for i in range(width):
        seen = np.abs(np.arange(width) - i) <= 1
        np.testing.assert_array_equal(np.isnan(y[0, i]), seen)
        np.testing.assert_array_equal(at[0, i, seen], i)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("width", [1, 4, 9, 17, 40, 70])
def test_a_nan_is_seen_from_every_column_where_windows_share_rows(width, kind, backend):
    x = np.zeros((1, width, 3, width), kind)
    x[0, np.arange(width), 1, np.arange(width)] = np.nan
    y = vc.max_pool2d(x, 3, stride=1, padding=1, backend=backend)
    seen = np.abs(np.arange(width)[:, None] - np.arange(width)) <= 1
    np.testing.assert_array_equal(np.isnan(y[0]), np.repeat(seen[:, None], 3, axis=1))


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("width", [2, 8, 9, 16, 28, 33, 64, 70])
def test_a_nan_is_seen_from_every_column_by_windows_side_by_side(width, kind, backend):
    x = np.zeros((1, width, 4, width), kind)
    x[0, np.arange(width), 1 + np.arange(width) % 2, np.arange(width)] = np.nan
    y, at = vc.max_pool2d(x, 2, return_indices=True, backend=backend)
    oracle.assert_same_bits(vc.max_pool2d(x, 2, backend=backend), y)
    plane, row, column = np.nonzero(np.isnan(y[0]))
    inside = np.arange(width // 2 * 2)
    np.testing.assert_array_equal((plane, row, column), (inside, inside % 2, inside // 2))
    np.testing.assert_array_equal(at[0, plane, row, column], (1 + inside % 2) * width + inside)


@pytest.mark.parametrize(
    ("row", "value", "place"),
    [
        ([np.nan] * 4, np.nan, 3),
        ([1, np.nan, np.nan, 2], np.nan, 2),
        ([-np.inf] * 4, -np.inf, 0),
        ([-np.finfo(np.float32).max] * 4, -np.finfo(np.float32).max, 0),
        ([-0.0, 0.0, -0.0, 0.0], -0.0, 0),
        ([0.0, -0.0, 0.0, -0.0], 0.0, 0),
        ([3, 7, 7, 7], 7, 1),
        ([np.inf, np.nan, np.inf, 0], np.nan, 1),
    ],
)
@pytest.mark.parametrize("planes", [1, 7, 16, 17])
def test_special_values(row, value, place, planes, backend):
    x = np.tile(np.array(row, np.float32).reshape(2, 2), (1, planes, 1, 1))
    y, at = vc.max_pool2d(x, 2, return_indices=True, backend=backend)
    oracle.assert_equal(y, np.full((1, planes, 1, 1), value, np.float32))
    np.testing.assert_array_equal(np.signbit(y), np.signbit(np.float32(value)))
    np.testing.assert_array_equal(at, place)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("window", [(3, 3, 1, 1), (5, 5, 1, 1), (2, 3, 1, 1), (1, 9, 1, 1), (9, 1, 1, 1), (3, 5, 2, 3)])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 7), (4, 8), (14, 15), (5, 16), (3, 17), (20, 20), (9, 33)])
@pytest.mark.parametrize("seed", [29])
def test_maxima_over_ends_of_rows(size, window, kind, seed, backend):
    rng = np.random.default_rng(seed)
    taps, gaps = window[:2], window[2:]
    # windows of even size begin at the element itself
    before = [k // 2 * g if k % 2 else 0 for k, g in zip(taps, gaps, strict=True)]
    pads = tuple((b, (k - 1) * g - b) for b, k, g in zip(before, taps, gaps, strict=True))
    x = rng.choice([-np.inf, -1.5, -0.0, 0.0, 2.0], (1, 5, *size)).astype(kind)
    x[0, 1] = -np.inf
    x[0, 3, size[0] // 2, -1] = np.nan
    options = {"stride": 1, "padding": pads, "dilation": gaps}
    y = vc.max_pool2d(x, taps, **options, backend="reference")
    assert y.shape == x.shape
    oracle.assert_same_bits(vc.max_pool2d(x, taps, **options, backend=backend), y)


@max_pools
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("seed", [22])
def test_max_pool_gradient(case, kind, backend, seed):
    rng = np.random.default_rng(seed)
    x = case.array(oracle.integers, seed, kind)
    y, at = function("max_pool", case.rank)(x, case.kernel, **case.options, return_indices=True, backend="reference")
    gy = oracle.integers(rng, y.shape, kind)
    planes = math.prod(x.shape[:2])
    expected = np.zeros((planes, math.prod(case.spatial)), np.int64)
    for plane, places, values in zip(expected, at.reshape(planes, -1) if planes else (), gy.reshape(-1, y[0, 0].size)
                                     if planes else (), strict=True):  # fmt: skip
        np.add.at(plane, places, values.astype(np.int64))
    out = np.full(x.shape, np.nan, kind)
    gx = getattr(vc.grad, f"max_pool{case.rank}d_input")(gy, at, x.shape, out=out, backend=backend)
    oracle.assert_equal(gx, expected.reshape(x.shape))
    assert gx.sum() == gy.sum()


@pools
@pytest.mark.parametrize("seed", [23])
def test_max_unpool_puts_maxima_back(case, backend, seed):
    x = case.array(oracle.floats, seed, "float32")
    y, at = function("max_pool", case.rank)(x, case.kernel, **case.options, return_indices=True, backend=backend)
    expected = np.zeros(x.shape, np.float32)
    rows = (a.reshape(math.prod(x.shape[:2]), math.prod(a.shape[2:])) for a in (expected, at, y))
    for row, places, values in zip(*rows, strict=True):
        row[places] = values
    plain = {"stride": 1, "padding": 0, "ceil_mode": False}
    if any(case.options.get(key, usual) != usual for key, usual in plain.items()):
        pytest.skip("the size of the input does not follow from the pool's plain arguments")
    back = function("max_unpool", case.rank)(y, at, case.kernel, output_size=x.shape[2:], backend=backend)
    oracle.assert_same_bits(back, expected)
    whole = function("max_unpool", case.rank)(y, at, case.kernel, output_size=x.shape, backend=backend)
    oracle.assert_same_bits(whole, expected)


def test_max_unpool_keeps_the_last_of_equal_indices(backend):
    values = np.array([[[1, 2, 3, 4]]], np.float32)
    at = np.array([[[0, 5, 5, 0]]])
    y = vc.max_unpool1d(values, at, 2, backend=backend)
    np.testing.assert_array_equal(y, [[[4, 0, 0, 0, 0, 3, 0, 0]]])


MEANS = [{}, {"count_include_pad": False}, {"divisor_override": 3}, {"divisor_override": -2}]


@pools
@pytest.mark.parametrize("mean", MEANS, ids=str)
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("seed", [24])
def test_avg_pool_and_its_gradient(case, mean, kind, backend, seed):
    x = case.array(oracle.floats, seed, kind)
    p = window(case, x, **mean)
    out = np.full(p.output_shape, np.nan, kind)
    y = function("avg_pool", case.rank)(x, case.kernel, **case.options, **mean, out=out, backend=backend)
    exact, size = oracle.avg_pool(p, *oracle.wide(x)), np.abs(oracle.avg_pool(p, *oracle.magnitudes(x)))
    oracle.assert_within(y, exact, oracle.bound(size, math.prod(p.kernel), kind))

    gy = oracle.floats(np.random.default_rng(seed), p.output_shape, kind)
    out = np.full(x.shape, np.nan, kind)
    grad = getattr(vc.grad, f"avg_pool{case.rank}d_input")
    gx = grad(gy, x.shape, case.kernel, **case.options, **mean, out=out, backend=backend)
    exact = oracle.avg_pool_grad(p, *oracle.wide(gy))
    size = oracle.avg_pool_grad(p, *oracle.magnitudes(gy))
    if p.divisor_override is not None and p.divisor_override < 0:
        size = -size
    oracle.assert_within(gx, exact, oracle.bound(size, math.prod(p.kernel), kind))


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("window", [(1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2)])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 14, 15, 16, 17, 28, 33])
@pytest.mark.parametrize("seed", [27])
def test_means_of_windows_side_by_side(width, window, kind, seed, backend):
    rng = np.random.default_rng(seed)
    outputs = (2, 3, width)
    covered = [count * taps for count, taps in zip(outputs, window, strict=True)]
    for beside in ((0, 0, 0), (0, 0, 1), (1, 1, 1)):
        size = [a + min(b, taps - 1) for a, b, taps in zip(covered, beside, window, strict=True)]
        x = oracle.integers(rng, (3, 2, *size), kind)
        inner = x[:, :, : covered[0], : covered[1], : covered[2]]
        blocks = inner.reshape(6, 2, window[0], 3, window[1], width, window[2])
        out = np.full((3, 2, *outputs), np.nan, kind)
        y = vc.avg_pool3d(x, window, out=out, backend=backend)
        sums = blocks.sum(axis=(2, 4, 6)).reshape(y.shape)
        np.testing.assert_array_equal(y, sums / np.array(math.prod(window), kind))
        gy = oracle.integers(rng, y.shape, kind)
        expected = np.zeros_like(x)
        share = np.broadcast_to((gy / math.prod(window)).reshape(6, 2, 1, 3, 1, width, 1), blocks.shape)
        expected[:, :, : covered[0], : covered[1], : covered[2]] = share.reshape(inner.shape)
        gx = vc.grad.avg_pool3d_input(gy, x.shape, window, out=np.full(x.shape, np.nan, kind), backend=backend)
        oracle.assert_equal(gx, expected)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("size", [*range(1, 12), 14, 16, 20])
@pytest.mark.parametrize("seed", [28])
def test_a_mean_of_a_whole_plane(size, kind, seed, backend):
    x = oracle.integers(np.random.default_rng(seed), (1, 37, size, size), kind)
    x[0, 5, -1, -1] = np.nan  # which spoils no plane beside its own
    y = vc.avg_pool2d(x, size, backend=backend)
    np.testing.assert_array_equal(y, x.sum(axis=(2, 3), keepdims=True) / np.array(size * size, kind))
    for planes in (1, 3, 16):
        oracle.assert_same_bits(vc.avg_pool2d(x[:, :planes], size, backend=backend), y[:, :planes])


COLUMNS = [
    ((1, 2, 17), (3,), {"padding": 2}),
    ((2, 3, 9), (4,), {"stride": 3, "dilation": 2}),
    ((2, 3, 6, 7), (3, 2), {"stride": (2, 1), "padding": ((1, 0), (2, 1))}),
    ((1, 5, 8, 17), (3, 3), {"padding": 1}),
    ((1, 2, 5, 6), (3, 3), {"padding": 6, "dilation": 3}),
    ((1, 2, 4, 5, 6), (2, 3, 2), {"stride": (2, 1, 2), "padding": 1}),
    ((0, 2, 4, 5), (2, 2), {}),
]


@pytest.mark.parametrize(("shape", "kernel", "options"), COLUMNS)
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("seed", [25])
def test_unfold_and_fold(shape, kernel, options, kind, backend, seed):
    rank = len(kernel)
    unfold, fold = getattr(vc, UNFOLD[rank]), getattr(vc, FOLD[rank])
    x = oracle.integers(np.random.default_rng(seed), shape, kind)
    arguments = {"stride": 1, "padding": 0, "dilation": 1, **options}
    p = rules.window("unfold", rank, x, kernel, **arguments, pooling=False)[0]
    out = np.full(p.columns_shape, np.nan, kind)
    oracle.assert_equal(unfold(x, kernel, **options, out=out, backend=backend), oracle.unfold(p, x))
    columns = oracle.integers(np.random.default_rng(seed + 1), p.columns_shape, kind)
    out = np.full(x.shape, np.nan, kind)
    folded = fold(columns, shape[2:], kernel, **options, out=out, backend=backend)
    oracle.assert_equal(folded, oracle.fold(p, columns))
    assert np.sum(out * x) == np.sum(columns * unfold(x, kernel, **options, backend=backend))
    if shape[0]:
        one = unfold(x[0], kernel, **options, backend=backend)
        oracle.assert_same_bits(one, unfold(x[:1], kernel, **options, backend=backend)[0])
        one = fold(columns[0], shape[2:], kernel, **options, backend=backend)
        oracle.assert_same_bits(one, folded[0])


@pools
@pytest.mark.parametrize("seed", [26])
def test_unbatched(case, backend, seed):
    if case.n == 0:
        pytest.skip("there is no sample to take")
    x = case.array(oracle.floats, seed, "float32")
    for name in ("max_pool", "avg_pool"):
        pool = function(name, case.rank)
        one = pool(x[0], case.kernel, **case.options, backend=backend)
        oracle.assert_same_bits(one, pool(x, case.kernel, **case.options, backend=backend)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pooled", [(1, 1), (2, 7), (1, 8), (3, 16), (2, 17), (5,), (16,), (2, 3, 9), (1, 2, 33)])
@pytest.mark.parametrize("astray", [False, True])
@pytest.mark.parametrize("seed", [61])
def test_gradient_of_windows_side_by_side(pooled, astray, dtype, backend, seed):
    """Indices that each lie in their window of two, and then one that does not, which others may have chosen too."""
    rank, rng = len(pooled), np.random.default_rng(seed)
    x = oracle.integers(rng, (2, 3, *(2 * size for size in pooled)), dtype)
    indices = getattr(vc, f"max_pool{rank}d")(x, 2, return_indices=True, backend="reference")[1]
    if astray:
        indices[1, 1].flat[-1] = indices[1, 1].flat[0]
        indices[0, 2].flat[0] = x[0, 0].size - 1
    gy = oracle.integers(rng, indices.shape, dtype)
    out = np.full(x.shape, np.nan, dtype)
    getattr(vc.grad, f"max_pool{rank}d_input")(gy, indices, x.shape, out=out, backend=backend)
    expected = np.zeros((6, x[0, 0].size), np.int64)
    np.add.at(expected, (np.arange(6)[:, None], indices.reshape(6, -1)), gy.reshape(6, -1).astype(np.int64))
    oracle.assert_equal(out, expected.reshape(x.shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(64, 1024), (32, 32, 64)])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("seed", [63])
def test_a_large_gradient_has_the_bits_of_small_ones(size, aligned, dtype, seed):
    """Of 24 MiB and more, which goes past the caches where it is aligned."""
    rank, rng = len(size), np.random.default_rng(seed)
    planes = (24 << 20) // (np.dtype(dtype).itemsize * math.prod(size))
    x = rng.standard_normal((1, planes, *size)).astype(dtype)
    y, indices = getattr(vc, f"max_pool{rank}d")(x, 2, return_indices=True)
    back = getattr(vc.grad, f"max_pool{rank}d_input")
    apart = np.empty(x.nbytes + 8, np.uint8)[8:].view(dtype).reshape(x.shape)
    whole = back(y, indices, x.shape, out=None if aligned else apart)
    assert whole.nbytes >= 24 << 20
    few = planes // 3
    for first in range(0, planes, few):
        part = np.s_[:, first : first + few]
        oracle.assert_same_bits(whole[part], back(y[part], indices[part], x[part].shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "size",
    [(1, 1), (2, 3), (5, 16), (6, 31), (7, 64), (3, 97), (2, 512), (3, 514), (3, 4, 35), (4, 28), (5, 57), (2, 3, 30)],
)
@pytest.mark.parametrize("apart", [1, 2])
@pytest.mark.parametrize("astray", [False, True])
@pytest.mark.parametrize("seed", [62])
def test_gradient_of_windows_that_overlap(size, apart, astray, dtype, backend, seed):
    """3x3 one or two apart, and then with indices of other windows; what meets is added in the order of the windows."""
    rank, rng = len(size), np.random.default_rng(seed)
    x = oracle.floats(rng, (2, 3, *size), dtype)
    walk = ((1, 3, 3)[-rank:], (1, apart, apart)[-rank:], (0, 1, 1)[-rank:])
    indices = getattr(vc, f"max_pool{rank}d")(x, *walk, return_indices=True, backend="reference")[1]
    if astray:
        indices[1, 1].flat[-1] = indices[1, 1].flat[0]
        indices[0, 2].flat[0] = x[0, 0].size - 1
        indices[0, 0].flat[0] = min(2, size[-1] - 1)
    gy = (oracle.integers if backend == "reference" else oracle.floats)(rng, indices.shape, dtype)
    if backend != "reference":  # whose sums are of another precision
        for special in (-0.0, np.nan, np.inf, -np.inf):
            gy.flat[rng.integers(gy.size, size=1 + gy.size // (9 if special == 0 else 200))] = special
    out = np.full(x.shape, np.nan, dtype)
    back = getattr(vc.grad, f"max_pool{rank}d_input")
    back(gy, indices, x.shape, out=out, backend=backend)
    expected = np.zeros((6, x[0, 0].size), dtype)
    with np.errstate(invalid="ignore"):  # infinities of both signs
        np.add.at(expected, (np.arange(6)[:, None], indices.reshape(6, -1)), gy.reshape(6, -1))
    oracle.assert_same_bits(out, expected.reshape(x.shape))
    for beyond in (-1, x[0, 0].size, 2**32, -(2**63)):
        indices[1, 2].flat[-1] = beyond
        with pytest.raises(ValueError, match="indices"):
            back(gy, indices, x.shape, backend=backend)


def test_a_pool_asked_for_before_is_looked_up_and_still_checked():
    rng = np.random.default_rng(17)
    x = rng.integers(-9, 10, (2, 3, 9, 12)).astype(np.float32)
    pools = {
        "max_pool": lambda x, **options: vc.max_pool2d(x, **{"kernel_size": 3, "stride": 2, **options}),
        "avg_pool": lambda x, **options: vc.avg_pool2d(x, **{"kernel_size": (2, 3), **options}),
        "avg_pool_input": lambda x, **options: vc.grad.avg_pool2d_input(
            x, **{"input_size": (2, 3, 18, 36), "kernel_size": (2, 3), **options}
        ),
    }
    functional.KNOWN.clear()
    for name, pool in pools.items():
        expected = pool(x, backend="reference")
        unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
        for same in (x, x, unaligned, np.asfortranarray(x), x.astype(">f4")):
            oracle.assert_equal(pool(same), expected)
        assert name in {key[0] for key in functional.KNOWN}
        oracle.assert_equal(pool(2 * x), 2 * expected)
        assert pool(x.astype(np.float64)).dtype == np.float64
        out, turned = np.empty_like(expected), np.asfortranarray(expected * 0)
        for target in (out, out, turned):
            assert pool(x, out=target) is target
            oracle.assert_equal(np.ascontiguousarray(target), expected)
        for option in ("stride", "padding"):
            for wrong in (True, 1.0, np.True_):
                with pytest.raises(TypeError, match=option):
                    pool(x, **{option: wrong})
        with pytest.raises(TypeError, match="ceil_mode"):
            pool(x, ceil_mode=0)
        with pytest.raises((TypeError, ValueError), match="out"):
            pool(x, out=out[:, :1])
        with pytest.raises(ValueError, match="backend"):
            pool(x, backend="other")
    beside = x.copy()
    np.testing.assert_array_equal(vc.max_pool2d(x, 1, out=beside), x)
    assert vc.max_pool2d(beside, 1, out=beside) is beside


def test_a_gradient_by_indices_asked_for_before_is_looked_up_and_still_checked():
    rng = np.random.default_rng(18)
    x = rng.integers(-9, 10, (2, 3, 9, 12)).astype(np.float32)
    for _ in range(3):
        y, indices = vc.max_pool2d(x, 3, 1, 1, return_indices=True)
    expected = vc.grad.max_pool2d_input(y, indices, x.shape, backend="reference")
    functional.KNOWN.clear()
    values, places = np.empty_like(y), np.empty_like(indices)
    for _ in range(2):
        for out in ((values, places), [values, places], (values, np.asfortranarray(indices))):
            pooled = vc.max_pool2d(x, 3, 1, 1, return_indices=True, out=out)
            assert pooled[0] is out[0]
            assert pooled[1] is out[1]
            oracle.assert_same_bits(pooled[0], y)
            np.testing.assert_array_equal(pooled[1], indices)
        oracle.assert_equal(vc.grad.max_pool2d_input(y, indices, x.shape), expected)
        out = np.empty_like(x)
        assert vc.grad.max_pool2d_input(y, indices, x.shape, out=out) is out
        oracle.assert_equal(out, expected)
    assert {key[0] for key in functional.KNOWN} >= {"max_pool", "max_pool_input"}
    for wrong in ((values, values), (values,), values):
        with pytest.raises((TypeError, ValueError), match="out"):
            vc.max_pool2d(x, 3, 1, 1, return_indices=True, out=wrong)
    indices[1, 2, 3, 4] = x[0, 0].size
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4\)"):
        vc.grad.max_pool2d_input(y, indices, x.shape)
    for wrong in ((True, 3, 9, 12), (2.0, 3, 9, 12)):
        with pytest.raises(TypeError, match="input_size"):
            vc.grad.max_pool2d_input(y, places, wrong)
    with pytest.raises((TypeError, ValueError), match="indices"):
        vc.grad.max_pool2d_input(y, places[:, :, 1:], x.shape)
    with pytest.raises(TypeError, match="indices"):
        vc.grad.max_pool2d_input(y, places.astype(np.float32), x.shape)
