"""Max-pooling that keeps a byte a window, and the one pass back through it, a ReLU and a bias."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import oracle
import voxconv as vc
from voxconv import grad, nn
from voxconv import problem as rules
from voxconv.backends import get_backend
from voxconv.backends.reference import indices_of, taps_of

SIZES = [
    (2, 3, (8, 8), (2, 2)), (1, 2, (64,), (2,)), (2, 2, (6, 34), (2, 2)), (1, 3, (7, 66), (1, 2)),
    (1, 2, (4, 6, 34), (2, 2, 2)), (2, 1, (6, 3, 18), (2, 1, 2)), (3, 2, (5, 2, 2), (1, 1, 2)), (1, 1, (2, 2), (2, 2)),
    (2, 5, (4, 130), (2, 2)),
]  # fmt: skip
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
types = pytest.mark.parametrize("dtype", ["float32", "float64"])


def problem_of(size, dtype):
    n, c, spatial, kernel = size
    x = np.zeros((n, c, *spatial), dtype)
    problem = rules.window("pool", len(spatial), x, kernel, None, 0, 1)[0]
    assert problem.in_pairs
    return problem


def misaligned(array):
    """The same array, one element behind a line of the cache."""
    room = np.empty(array.size + 128, array.dtype)
    start = -(room.ctypes.data // array.itemsize) % (64 // array.itemsize) + 1
    copy = room[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_size": 3}, {"stride": 1}, {"padding": 1}, {"dilation": 2}, {"kernel_size": (2, 1)},
        {"kernel_size": (3, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_other_windows_are_not_in_pairs(change):
    walk = {"kernel_size": 2, "stride": None, "padding": 0, "dilation": 1, **change}
    assert not rules.window("pool", 2, np.zeros((1, 1, 8, 8)), **walk)[0].in_pairs
    assert not rules.window("pool", 2, np.zeros((1, 1, 8, 9)), 2, None, 0, 1)[0].in_pairs
    assert not rules.window("pool", 2, np.zeros((1, 1, 8, 8), np.int32), 2, None, 0, 1, kinds="fiu")[0].in_pairs


@sizes
@types
@pytest.mark.parametrize("seed", [31])
def test_taps(size, dtype, backend, seed):
    problem = problem_of(size, dtype)
    rng = np.random.default_rng(seed)
    x = rng.choice([-np.inf, -1.5, -0.0, 0.0, 2.0, 3.0, np.nan], problem.input_shape).astype(dtype)
    expected, places = oracle.max_pool(problem, x)
    y, taps = np.full(problem.output_shape, 99, dtype), np.full(problem.output_shape, 77, np.uint8)
    get_backend(backend).max_pool_taps(problem, misaligned(x), y, taps)
    oracle.assert_same_bits(y, expected)
    np.testing.assert_array_equal(indices_of(problem, taps), places)
    np.testing.assert_array_equal(taps_of(problem, places), taps)


def by_loops(problem, gy, taps, pooled, output, add):
    dx = np.zeros(problem.input_shape, gy.dtype)
    for n, c, *q in np.ndindex(problem.output_shape):
        if pooled is not None and pooled[(n, c, *q)] <= 0:
            continue
        tap = np.unravel_index(taps[(n, c, *q)], problem.kernel)
        dx[(n, c, *(i * k + t for i, k, t in zip(q, problem.kernel, tap, strict=True)))] = gy[(n, c, *q)]
    if add is not None:
        dx = dx + add
    return dx if output is None else np.where(output <= 0, 0, dx)


def way_back(size, dtype, seed):
    """A problem and its arrays of small integers; of the last two each sample is contiguous, no more."""
    problem = problem_of(size, dtype)
    rng = np.random.default_rng(seed)
    shape = (problem.n, problem.c + 1, *problem.spatial)
    output = np.maximum(oracle.integers(rng, shape, dtype), 0)[:, 1:]
    pooled, gy = (oracle.integers(rng, problem.output_shape, dtype) for _ in range(2))
    output.flat[0] = pooled.flat[-1] = np.nan
    taps = rng.integers(0, np.prod(problem.kernel), problem.output_shape, np.uint8)
    wide = oracle.integers(rng, (problem.n, 2 * problem.c, *problem.spatial), dtype)
    return problem, gy, taps, pooled, output, wide[:, : problem.c]


@sizes
@types
@pytest.mark.parametrize("seed", [32])
def test_way_back(size, dtype, backend, seed):
    problem, gy, taps, *rest = way_back(size, dtype, seed)
    for given in product([False, True], repeat=4):
        pooled, output, add = (a if there else None for a, there in zip(rest, given, strict=False))
        expected = by_loops(problem, gy, taps, pooled, output, add)
        dx, sums = np.full(problem.input_shape, np.nan, dtype), np.full(problem.c, np.nan, dtype) if given[3] else None
        get_backend(backend).max_pool_taps_grad(problem, gy, taps, pooled, output, add, dx, sums)
        oracle.assert_equal(dx, expected)
        if sums is not None:
            oracle.assert_equal(sums, expected.sum(axis=(0, *range(2, expected.ndim))))


@sizes
def test_way_back_has_the_same_bits_on_any_threads_and_alignment(size):
    native = pytest.importorskip("voxconv.backends.native")
    problem, _, taps, pooled, output, add = way_back(size, "float32", 33)
    gy = np.random.default_rng(34).standard_normal(problem.output_shape).astype("float32")
    found, before = [], vc.get_num_threads()
    try:
        for threads, put in product((1, 2, 3), (np.array, misaligned)):
            vc.set_num_threads(threads)
            dx, sums = put(np.zeros(problem.input_shape, "float32")), put(np.zeros(problem.c, "float32"))
            native.max_pool_taps_grad(problem, put(gy), put(taps), put(pooled), put(output), add, dx, sums)
            found.append((dx, sums))
    finally:
        vc.set_num_threads(before)
    for dx, sums in found[1:]:
        oracle.assert_same_bits(dx, found[0][0])
        oracle.assert_same_bits(sums, found[0][1])


@pytest.mark.parametrize("spatial", [(12, 20), (13, 20)])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_take_the_gradient_of_the_three_functions(spatial, bias, backend):
    rng = np.random.default_rng(35)
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias, dtype="float64", rng=rng, backend=backend)
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2, backend=backend))
    x = rng.standard_normal((2, 3, *spatial))
    y = model(x)
    assert model[2].keeps_taps == (spatial[0] % 2 == 0)
    full = np.maximum(vc.conv2d(x, conv.weight.data, None if conv.bias is None else conv.bias.data, padding=1), 0)
    pooled, indices = vc.max_pool2d(full, 2, return_indices=True)
    np.testing.assert_allclose(y, pooled, rtol=1e-12)
    gy = rng.standard_normal(y.shape)
    inner = grad.max_pool2d_input(gy, indices, full.shape) * (full > 0)
    got = model.backward(gy)
    np.testing.assert_allclose(got, grad.conv2d_input(x.shape, conv.weight.data, inner, padding=1), atol=1e-12)
    if bias:
        np.testing.assert_allclose(conv.bias.grad, inner.sum(axis=(0, 2, 3)), atol=1e-12)
    assert not model[2].keeps_taps


def test_a_gradient_of_another_shape_is_refused():
    pool = nn.MaxPool2d(2)
    pool(np.zeros((1, 2, 4, 6), np.float32))
    with pytest.raises(ValueError, match="shape of the output"):
        pool.backward(np.zeros((1, 2, 2, 2), np.float32))


def test_a_pool_whose_options_changed_does_not_go_by_the_last_problem():
    x = np.random.default_rng(8).standard_normal((2, 3, 8, 8)).astype(np.float32)
    pool = nn.MaxPool2d(2)
    for _ in range(2):
        np.testing.assert_array_equal(pool(x), vc.max_pool2d(x, 2))
    np.testing.assert_array_equal(pool(x.astype(np.float64)), vc.max_pool2d(x.astype(np.float64), 2))
    np.testing.assert_array_equal(pool(x[:1]), vc.max_pool2d(x[:1], 2))
    pool.kernel_size = 4
    np.testing.assert_array_equal(pool(x), vc.max_pool2d(x, 4))
    pool.kernel_size, pool.padding = 2, False
    with pytest.raises(TypeError, match="padding"):
        pool(x)
    pool.padding, pool.ceil_mode = 0, 1
    with pytest.raises(TypeError, match="ceil_mode"):
        pool(x)
