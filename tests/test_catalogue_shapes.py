"""The catalogue's shapes and values: windows at edges, NaN and ties everywhere, sizes around lanes and blocks."""

from __future__ import annotations

import itertools

import numpy as np

import oracle
import voxconv as vc
from catalogue import check, names, run_check
from problems import limit
from voxconv import problem as rules
from voxconv.backends import get_backend

LANES = 16
"""Of the widest vector of float32; tiles and blocks of channels are multiples of 8."""


def small(*shape, seed=51):
    return oracle.integers(np.random.default_rng(seed), shape, np.float32)


def exact_conv(backend, x, w, **options):
    """Forward and both gradients, every algorithm, on integers."""
    rank = x.ndim - 2
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    p = rules.conv("conv", rank, x, w, None, **defaults)[0]
    gy = small(*p.output_shape, seed=52)
    whole = [a.astype(np.int64) for a in (x, w, gy)]
    expected = {
        "conv": oracle.conv(p, *whole[:2]),
        "conv_input_grad": oracle.input_grad(p, whole[2], whole[1]),
        "conv_weight_grad": oracle.weight_grad(p, whole[0], whole[2]),
    }
    grad_input, grad_weight = (getattr(vc.grad, f"conv{rank}d_{kind}") for kind in ("input", "weight"))
    calls = {
        "conv": lambda **how: getattr(vc, f"conv{rank}d")(x, w, **options, **how),
        "conv_input_grad": lambda **how: grad_input(x.shape, w, gy, **options, **how),
        "conv_weight_grad": lambda **how: grad_weight(x, w.shape, gy, **options, **how),
    }
    module = get_backend(backend)
    for operation, call in calls.items():
        for algorithm in module.algorithms:
            if module.refusal(p, operation, algorithm, asked=True) is not None:
                continue
            found = call(backend=backend, algorithm=algorithm)
            if algorithm == "winograd":
                allowed = limit(p, operation, algorithm, x, w, np.zeros(p.k, np.float32), gy)
                oracle.assert_within(found, expected[operation].astype(np.longdouble), allowed)
            else:
                oracle.assert_equal(found, expected[operation])


def pooled(backend, x, *arguments, **options):
    return vc.max_pool2d(x, *arguments, return_indices=True, backend=backend, **options)


# --------------------------------------------------------------------------------------------------
# A: windows at edges


@check("A17")
def a17_padding_on_one_side(backend):
    x = small(2, 3, 9, 10)
    for kernel, stride in itertools.product((2, 3, 4), (1, 2, 5)):
        w = small(4, 3, kernel, kernel)
        for pairs in (((0, 2), (1, 0)), ((3, 0), (0, 3)), ((1, 4), (2, 2))):
            bordered = np.pad(x, ((0, 0), (0, 0), *pairs))
            y = vc.conv2d(x, w, padding=pairs, stride=stride, backend=backend)
            oracle.assert_equal(y, vc.conv2d(bordered, w, stride=stride, backend="reference"))
        for mode in ("same", "same_lower"):
            y = vc.conv2d(x, w, padding=mode, stride=stride, backend=backend)
            total = [max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in (9, 10)]
            pairs = tuple((t // 2, t - t // 2) if mode == "same" else (t - t // 2, t // 2) for t in total)
            bordered = np.pad(x, ((0, 0), (0, 0), *pairs))
            oracle.assert_equal(y, vc.conv2d(bordered, w, stride=stride, backend="reference"))


def _pool_problem(x, kernel, stride, padding, dilation, ceil_mode):
    return rules.window("max_pool2d", 2, x, kernel, stride, padding, dilation, ceil_mode, kinds="fiu")[0]


@check("A18", "A21")
def a18_a21_pools_with_padding_dilation_and_a_last_window(backend):
    x = oracle.floats(np.random.default_rng(53), (2, 3, 11, 13), np.float32)
    for kernel, stride, padding, dilation, ceil in itertools.product(
        (2, 3), (1, 2, 3, 4), (0, 1), (1, 2, 3), (False, True)
    ):
        p = _pool_problem(x, kernel, stride, padding, dilation, ceil)
        values, places = oracle.max_pool(p, x)
        y, at = pooled(backend, x, kernel, stride, padding, dilation, ceil)
        oracle.assert_equal(y, values)
        np.testing.assert_array_equal(at, places)
        if ceil:  # the last window begins inside the input or the padding before it
            starts = [(count - 1) * stride - padding for count in p.output]
            assert all(start < size for start, size in zip(starts, p.spatial, strict=True))


@check("A19")
def a19_a_size_below_zero_is_refused_not_truncated(backend):
    for call in (
        lambda: vc.conv1d(small(1, 1, 2), small(1, 1, 3), stride=2, backend=backend),
        lambda: vc.max_pool1d(small(1, 1, 2), 3, 2, ceil_mode=True, dilation=2, backend=backend),
        lambda: vc.unfold(small(1, 1, 2, 2), 3, stride=5, backend=backend),
    ):
        try:
            call()
        except ValueError:
            continue
        raise AssertionError("accepted")


@check("B9")
def b9_more_threads_than_work(backend):
    x, w = small(1, 1, 3, 3), small(1, 1, 3, 3)
    expected = vc.conv2d(x, w, backend=backend)
    before = vc.get_num_threads()
    for threads in (1, 2, 64, 256):
        vc.set_num_threads(threads)
        oracle.assert_same_bits(vc.conv2d(x, w, backend=backend), expected)
        oracle.assert_same_bits(vc.grad.conv2d_weight(x, w.shape, expected, backend=backend), expected * x)
        assert vc.max_pool2d(x, 3, backend=backend) == x.max()
    vc.set_num_threads(before)


# --------------------------------------------------------------------------------------------------
# F: values


@check("F1", "F2", "F3")
def f1_f2_f3_nan_and_infinity_at_every_place_of_a_window(backend):
    for kind in ("float32", "float64"):
        for planes in (1, 2 * LANES + 1):
            for width in (3, 2 * LANES + 5):
                base = np.random.default_rng(54).normal(size=(1, planes, 3, width)).astype(kind)
                for place in range(3 * 3):
                    x = base.copy()
                    x[:, :, place // 3, place % 3 :: 3] = np.nan
                    p = _pool_problem(x, 3, 1, 1, 1, False)
                    values, places = oracle.max_pool(p, x)
                    y, at = pooled(backend, x, 3, 1, 1)
                    oracle.assert_equal(y, values)
                    np.testing.assert_array_equal(at, places)
        for value in (np.nan, -np.inf, -np.finfo(kind).max):
            x = np.full((1, 2, 5, 2 * LANES + 5), value, kind)
            y, at = pooled(backend, x, 3, 1, 1)
            oracle.assert_equal(y, x)
            np.testing.assert_array_equal(at, oracle.max_pool(_pool_problem(x, 3, 1, 1, 1, False), x)[1])


@check("F4", "F5")
def f4_f5_ties_take_the_first_and_zeros_tie(backend):
    for kind in ("float32", "float64", "int8", "uint16", "int64"):
        x = np.zeros((1, 1, 6, 2 * LANES + 5), kind)
        y, at = pooled(backend, x, 3, 1, 1)
        np.testing.assert_array_equal(at, oracle.max_pool(_pool_problem(x, 3, 1, 1, 1, False), x)[1])
        if kind.startswith("f"):
            gx = vc.grad.max_pool2d_input(np.ones_like(y), at, x.shape, backend=backend)
            assert gx.sum() == y.size
    signs = np.zeros((1, 1, 1, 2 * LANES + 6), np.float32)
    signs[..., ::2] = -0.0
    y = vc.max_pool2d(signs, (1, 2), 1, backend=backend)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(signs[..., :-1]))


@check("F15", "F16")
def f15_f16_integers_are_exact_and_floats_within_the_bound(backend):
    rng = np.random.default_rng(55)
    shapes = ((1, 37, 8, 19), (2, 5, 17), (1, 3, 4, 5, 6)), ((11, 37, 3, 3), (9, 5, 4), (5, 3, 3, 2, 3))
    for shape, filters in zip(*shapes, strict=True):
        exact_conv(backend, small(*shape), small(*filters), padding=1)
        x, w = oracle.floats(rng, shape, np.float32), oracle.floats(rng, filters, np.float32)
        rank = len(shape) - 2
        p = rules.conv("conv", rank, x, w, None, 1, 0, 1, 1)[0]
        y = getattr(vc, f"conv{rank}d")(x, w, backend=backend, precision="strict")
        allowed = limit(p, "conv", "direct", x, w, np.zeros(p.k, "f4"), y)
        oracle.assert_within(y, oracle.conv(p, *oracle.wide(x, w)), allowed)


# --------------------------------------------------------------------------------------------------
# G: shapes of kernels' paths


@check("G1")
def g1_channels_around_a_block(backend):
    sizes = [*range(1, 10), 15, 16, 17, 31, 32, 33]
    for c, k in itertools.product(sizes, sizes[:: 1 if backend == "native" else 4]):
        exact_conv(backend, small(1, c, 3, 5), small(k, c, 1, 1), stride=2)


@check("G2")
def g2_widths_around_the_lanes(backend):
    for width, stride in itertools.product(range(1, 4 * LANES + 4), (1, 2, 3, 4)):
        exact_conv(backend, small(1, 2, 1, width), small(3, 2, 1, 3), stride=(1, stride), padding=(0, 1))
    exact_conv(backend, small(1, 17, 4, 16), small(5, 17, 3, 3), stride=2, padding=1)


@check("G3")
def g3_groups_of_uneven_channels(backend):
    for groups, cg, kg in itertools.product((1, 2, 4, 12), (1, 3), (1, 2, 5, 9)):
        for kernel in (1, 3):
            exact_conv(backend, small(2, groups * cg, 6, 7), small(groups * kg, cg, kernel, kernel), groups=groups)


@check("G4")
def g4_depthwise_of_stride_two(backend):
    for size in (5, 6, 17, 32, 33):
        exact_conv(backend, small(2, 5, size, size + 1), small(5, 1, 3, 3), stride=2, padding=1, groups=5)


@check("G5")
def g5_groups_of_very_large_kernels(backend):
    exact_conv(backend, small(1, 4, 131), small(6, 2, 128), groups=2)
    exact_conv(backend, small(1, 2, 20, 21), small(2, 1, 17, 19), groups=2, padding=8)


@check("G6")
def g6_dilation_padding_and_stride_together(backend):
    for dilation, padding, stride in itertools.product((1, 2, 3, 12), (0, 1, 5), (1, 2, 3)):
        if 2 * dilation + 1 <= 9 + 2 * padding:
            exact_conv(
                backend, small(1, 3, 9, 10), small(2, 3, 3, 3), dilation=dilation, padding=padding, stride=stride
            )
    exact_conv(backend, small(1, 2, 7, 8), small(2, 2, 3, 3), dilation=9, padding=9)
    exact_conv(backend, small(1, 2, 4, 5, 6), small(2, 2, 3, 3, 3), dilation=2, padding=2)


@check("G7")
def g7_same_pools_of_stride_one(backend):
    x = oracle.floats(np.random.default_rng(56), (1, 3, 13, 2 * LANES + 3), np.float32)
    for kernel in (3, 5, 13):
        p = rules.window("max_pool2d", 2, x, kernel, 1, "same", 1, False)[0]
        oracle.assert_equal(vc.max_pool2d(x, kernel, 1, "same", backend=backend), oracle.max_pool(p, x)[0])


UPSTREAM = [
    # shape, filters, options: reported wrong, or crashing, in other libraries
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((1, 16, 8, 8), (32, 16, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 8, 12, 12), (8, 1, 3, 3), {"groups": 8, "padding": 1}),
    ((1, 4, 5, 5), (4, 1, 5, 5), {"groups": 4, "padding": 2}),
    ((1, 3, 224, 3), (8, 3, 7, 3), {"stride": (2, 1), "padding": (3, 1)}),
    ((1, 24, 7, 7), (12, 2, 3, 3), {"groups": 12, "padding": 1}),
    ((3, 32, 1, 1), (17, 32, 1, 1), {}),
    ((1, 17, 16, 16), (3, 17, 3, 3), {"stride": 3}),
    ((1, 2, 3, 200), (2, 2, 3, 3), {"dilation": (1, 60)}),
    ((1, 6, 10, 10), (9, 2, 1, 1), {"groups": 3, "stride": 2}),
    ((1, 1, 2, 40), (1, 1, 2, 2), {"padding": ((1, 0), (0, 1))}),
    ((1, 5, 2, 3, 4), (4, 5, 2, 3, 4), {}),
    ((1, 1, 100), (1, 1, 100), {}),
]  # fmt: skip


@check("G8")
def g8_shapes_that_failed_elsewhere(backend):
    for shape, filters, options in UPSTREAM:
        exact_conv(backend, small(*shape), small(*filters), **options)


@check("G9")
def g9_another_shape_in_between(backend):
    x, w = (oracle.floats(np.random.default_rng(57), s, np.float32) for s in ((2, 9, 14, 15), (11, 9, 3, 3)))
    plan = vc.plan_conv2d(x.shape, w, padding=1, backend=backend)
    first, grads = plan(x), vc.grad.conv2d_weight(x, w.shape, x[:, :1] + w[:, 0, 0, 0].reshape(-1, 1, 1), 1, 1)
    for shape, filters in (((1, 64, 20, 20), (32, 64, 3, 3)), ((1, 1, 5, 5), (1, 1, 5, 5)), ((2, 3, 40), (7, 3, 9))):
        other, kernel = (oracle.floats(np.random.default_rng(58), s, np.float32) for s in (shape, filters))
        with np.errstate(all="ignore"):
            getattr(vc, f"conv{len(shape) - 2}d")(other * np.inf, kernel, backend=backend)
    oracle.assert_same_bits(plan(x), first)
    again = vc.grad.conv2d_weight(x, w.shape, x[:, :1] + w[:, 0, 0, 0].reshape(-1, 1, 1), 1, 1)
    oracle.assert_same_bits(again, grads)


@names(__name__)
def test_shapes_and_values(name, backend, child):
    child.run(run_check, __name__, name, backend)
