"""Gradients: the adjoint identities tie forward and both gradients together, exactly on integers."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import voxconv as vc
from cases import CONV
from problems import functions, limit, operands
from voxconv import problem as rules

named = pytest.mark.parametrize("case", CONV, ids=lambda case: case.name)
EXACT = "direct", "im2col", "depthwise", "winograd2"


def dot(a, b):
    return int(np.sum(a.astype(np.int64) * b.astype(np.int64)))


def gradients(case, problem, x, w, gy, backend, algorithms, dtype):
    """Operation, algorithm and result, into outputs that start as NaN."""
    _, input_grad, weight_grad, _ = functions(case.rank)
    for algorithm in algorithms(problem, "conv_input_grad"):
        out = np.full(x.shape, np.nan, dtype)
        input_grad(x.shape, w, gy, **case.options, out=out, backend=backend, algorithm=algorithm)
        yield "conv_input_grad", algorithm, out
    for algorithm in algorithms(problem, "conv_weight_grad"):
        out = np.full(w.shape, np.nan, dtype)
        weight_grad(x, w.shape, gy, **case.options, out=out, backend=backend, algorithm=algorithm)
        yield "conv_weight_grad", algorithm, out


def reference(problem, operation, x, w, gy):
    return oracle.input_grad(problem, gy, w) if operation == "conv_input_grad" else oracle.weight_grad(problem, x, gy)


@named
@pytest.mark.parametrize("seed", [11])
def test_exact_and_adjoint_on_integers(case, backend, algorithms, seed):
    problem, x, w, b, gy = operands(case, oracle.integers, seed, "float32")
    y = functions(case.rank)[0](x, w, **case.options, backend="reference")
    for operation, algorithm, result in gradients(case, problem, x, w, gy, backend, algorithms, "float32"):
        expected = reference(problem, operation, *(a.astype(np.int64) for a in (x, w, gy)))
        if algorithm in EXACT:
            oracle.assert_equal(result, expected)
            partner = x if operation == "conv_input_grad" else w
            assert dot(y, gy) == dot(partner, result)
        else:
            oracle.assert_within(result, expected, limit(problem, operation, algorithm, x, w, b, gy))


@named
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [12])
def test_within_the_bound_on_floats(case, dtype, backend, algorithms, seed):
    problem, x, w, b, gy = operands(case, oracle.floats, seed, dtype)
    for operation, algorithm, result in gradients(case, problem, x, w, gy, backend, algorithms, dtype):
        expected = reference(problem, operation, *oracle.wide(x, w, gy))
        oracle.assert_within(result, expected, limit(problem, operation, algorithm, x, w, b, gy))


@named
@pytest.mark.parametrize("seed", [13])
def test_bias(case, backend, seed):
    problem, _, _, _, gy = operands(case, oracle.floats, seed, "float32")
    out = np.full(problem.k, np.nan, np.float32)
    functions(case.rank)[3](gy, out=out, backend=backend)
    axes = (0, *range(2, 2 + case.rank))
    (exact,), (size,) = oracle.wide(gy), oracle.magnitudes(gy)
    terms = problem.n * int(np.prod(problem.output))
    oracle.assert_within(out, exact.sum(axis=axes), oracle.bound(size.sum(axis=axes), terms, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 4, 129), (3, 2, 64), (2, 5, 0), (3, 0, 4), (2, 3)])
@pytest.mark.parametrize("seed", [17])
def test_through_relu(shape, dtype, backend, seed):
    rng = np.random.default_rng(seed)
    y, gy = np.maximum(oracle.integers(rng, shape, dtype), 0), oracle.integers(rng, shape, dtype)
    if y.size:
        y.flat[0], y.flat[-1] = np.nan, -0.0
    expected = np.where(y <= 0, 0, gy)
    out = np.full(shape, np.nan, dtype)
    gradient, sums = vc.grad.relu_bias(y, gy, out=out, backend=backend)
    assert gradient is out
    oracle.assert_equal(gradient, expected)
    oracle.assert_equal(sums, expected.sum(axis=(0, *range(2, y.ndim))))
    oracle.assert_same_bits(vc.grad.relu(y, gy, backend=backend), gradient)


def test_through_relu_refuses(backend):
    y = np.ones((2, 3, 4), np.float32)
    with pytest.raises(ValueError, match="samples and channels"):
        vc.grad.relu(y[0, 0], y[0, 0], backend=backend)
    with pytest.raises(ValueError, match="output's shape"):
        vc.grad.relu(y, y[:1], backend=backend)
    with pytest.raises(TypeError, match="dtype"):
        vc.grad.relu(y, y.astype(np.float64), backend=backend)


@named
@pytest.mark.parametrize("seed", [14])
def test_unbatched(case, backend, seed):
    if case.n == 0:
        pytest.skip("there is no sample to take")
    _, x, w, _, gy = operands(case, oracle.integers, seed, "float32")
    _, input_grad, weight_grad, bias_grad = functions(case.rank)
    options = {**case.options, "backend": backend}
    one = input_grad(x.shape[1:], w, gy[0], **options)
    oracle.assert_same_bits(one, input_grad((1, *x.shape[1:]), w, gy[:1], **options)[0])
    one = weight_grad(x[0], w.shape, gy[0], **options)
    oracle.assert_same_bits(one, weight_grad(x[:1], w.shape, gy[:1], **options))
    oracle.assert_same_bits(bias_grad(gy[0], backend=backend), bias_grad(gy[:1], backend=backend))


TRANSPOSED = {
    "1d": ((2, 3, 7), (3, 2, 4), {"stride": 3, "padding": 1, "output_padding": 2}),
    "2x2-stride-2": ((1, 8, 6, 5), (8, 4, 2, 2), {"stride": 2}),
    "3x3": ((2, 4, 5, 9), (4, 6, 3, 3), {"padding": 1}),
    "4x4-stride-2": ((1, 5, 4, 7), (5, 3, 4, 4), {"stride": 2, "padding": 1}),
    "groups": ((1, 6, 5, 5), (6, 2, 3, 3), {"stride": 2, "groups": 3, "output_padding": 1}),
    "depthwise": ((1, 6, 5, 5), (6, 1, 3, 3), {"stride": 2, "groups": 6, "padding": 1}),
    "dilated": ((1, 3, 6, 6), (3, 4, 3, 2), {"dilation": (2, 3), "stride": (1, 2), "output_padding": (1, 2)}),
    "crops-all-but-one": ((1, 2, 1, 1), (2, 3, 5, 5), {"padding": 2}),
    "3d": ((1, 4, 3, 4, 5), (4, 3, 2, 2, 2), {"stride": 2}),
    "3d-odd": ((1, 2, 3, 3, 4), (2, 4, 3, 3, 3), {"stride": (2, 1, 3), "padding": 1, "output_padding": (1, 0, 2)}),
    "no-samples": ((0, 2, 3, 3), (2, 3, 2, 2), {"stride": 2}),
    "no-channels": ((1, 0, 3, 3), (0, 3, 2, 2), {"stride": 2}),
}


@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("seed", [15])
def test_transposed_convolution_and_its_gradients(name, backend, seed):
    x_shape, w_shape, options = TRANSPOSED[name]
    rank, rng = len(x_shape) - 2, np.random.default_rng(seed)
    x, w = oracle.integers(rng, x_shape, np.float32), oracle.integers(rng, w_shape, np.float32)
    arguments = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1, **options}
    b = oracle.integers(rng, (w_shape[1] * arguments["groups"],), np.float32)
    problem = rules.conv_transpose("conv_transpose", rank, x, w, b, **arguments)[0]
    whole_x, whole_w = x.astype(np.int64), w.astype(np.int64)
    plain = oracle.input_grad(problem, whole_x, whole_w)
    forward = getattr(vc, f"conv_transpose{rank}d")
    biased = plain + b.astype(np.int64).reshape(-1, *(1,) * rank)
    y = forward(x, w, b, **options, backend=backend, precision="strict")
    oracle.assert_equal(y, biased)
    rectified = forward(x, w, b, **options, activation="relu", backend=backend, precision="strict")
    oracle.assert_equal(rectified, np.maximum(biased, 0))

    gy = oracle.integers(rng, y.shape, np.float32)
    grads = {kind: getattr(vc.grad, f"conv_transpose{rank}d_{kind}") for kind in ("input", "weight", "bias")}
    gx = grads["input"](x.shape, w, gy, **options, backend=backend, precision="strict")
    gw = grads["weight"](x, w.shape, gy, **options, backend=backend, precision="strict")
    assert gx.shape == x.shape
    assert gw.shape == w.shape
    assert dot(plain, gy) == dot(x, gx) == dot(w, gw)
    oracle.assert_equal(gx, oracle.conv(problem, gy.astype(np.int64), whole_w))
    oracle.assert_equal(gw, oracle.weight_grad(problem, gy.astype(np.int64), whole_x))
    gb = grads["bias"](gy, backend=backend)
    oracle.assert_equal(gb, gy.sum(axis=(0, *range(2, 2 + rank))))


@pytest.mark.parametrize("seed", [16])
def test_finite_differences(backend, seed):
    """One end-to-end check that the derivative is of this function: central differences in float64."""
    rng = np.random.default_rng(seed)
    x, w, gy = rng.normal(size=(1, 2, 5, 6)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(1, 3, 3, 3))
    options = {"stride": (2, 2), "padding": 1, "backend": backend}

    def loss(x, w):
        return float(np.sum(vc.conv2d(x, w, **options) * gy))

    dx, dw, h = rng.normal(size=x.shape), rng.normal(size=w.shape), 1e-3
    along_x = (loss(x + h * dx, w) - loss(x - h * dx, w)) / (2 * h)
    along_w = (loss(x, w + h * dw) - loss(x, w - h * dw)) / (2 * h)
    assert along_x == pytest.approx(np.sum(dx * vc.grad.conv2d_input(x.shape, w, gy, **options)), rel=1e-9)
    assert along_w == pytest.approx(np.sum(dw * vc.grad.conv2d_weight(x, w.shape, gy, **options)), rel=1e-9)


DEPTHWISE = {  # (n, c, *spatial), kernel, stride, padding, dilation
    "3x3": ((2, 3, 33, 35), (3, 3), 1, 1, 1),
    "3x3 stride 2": ((2, 3, 33, 35), (3, 3), 2, 1, 1),
    "3x3 stride 2, a narrow plane": ((1, 3, 7, 6), (3, 3), 2, 1, 1),
    "5x5 stride 2": ((1, 2, 41, 70), (5, 5), 2, 2, 1),
    "7x7": ((1, 2, 19, 40), (7, 7), 1, 3, 1),
    "7x7 stride 2": ((2, 2, 31, 30), (7, 7), 2, 3, 1),
    "3-D, slices whole": ((1, 2, 5, 9, 20), (3, 5, 5), (1, 2, 2), (1, 2, 2), 1),
    "stride 2 along lines alone": ((1, 3, 4, 17), (3, 4), (1, 2), 1, 1),
    "1-D stride 2": ((2, 3, 40), (4,), 2, 1, 1),
    "dilated, a phase without taps": ((1, 3, 30, 33), (3, 3), 2, 2, 2),
    "1x1 stride 2": ((3, 4, 16, 16), (1, 1), 2, 0, 1),
}


@pytest.mark.parametrize("special", [False, True], ids=["integers", "with infinities"])
@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("seed", [18])
def test_depthwise_gradients(name, special, backend, seed):
    """Whatever is beside an image, or in a lane without an output, brings no infinity to a product with zero."""
    shape, kernel, *walk = DEPTHWISE[name]
    rng, c = np.random.default_rng(seed), shape[1]
    forward, input_grad, weight_grad, _ = functions(len(kernel))
    x, w = (rng.integers(-4, 5, size).astype(np.float32) for size in (shape, (c, 1, *kernel)))
    gy = rng.integers(-4, 5, forward(x, w, None, *walk, c, backend="reference").shape).astype(np.float32)
    if special:
        x[0, 0].flat[-1], x[-1, -1].flat[0], w[0].flat[0] = np.inf, np.inf, -np.inf
    with np.errstate(all="ignore"):
        for run, sizes in ((input_grad, (x.shape, w)), (weight_grad, (x, w.shape))):
            found, expected = (run(*sizes, gy, *walk, c, backend=name) for name in (backend, "reference"))
            np.testing.assert_array_equal(found, expected)


FEW_CHANNELS = {
    "a line of whole vectors": ((3, 1, 9, 32), 7, (3, 3), 1, 1, 1),
    "a tail of one": ((2, 1, 5, 33), 5, (3, 3), 1, 1, 1),
    "lines shorter than a vector": ((2, 1, 20, 15), 4, (3, 3), 1, 1, 1),
    "several channels, several chunks": ((2, 3, 70, 100), 8, (3, 3), 1, 1, 1),
    "a line of several chunks": ((1, 1, 3, 9001), 4, (1, 5), 1, (0, 2), 1),
    "stride 2, without padding": ((2, 2, 21, 70), 3, (3, 4), 2, 0, 1),
    "dilated": ((1, 2, 20, 50), 3, (3, 3), 1, 3, 3),
    "3-D": ((1, 1, 6, 7, 40), 10, (3, 3, 3), 1, 1, 1),
    "1x1": ((2, 9, 8, 8), 6, (1, 1), 1, 0, 1),
    "more lanes of channels than one panel": ((1, 1, 4, 48), 35, (3, 3), 1, 1, 1),
}


@pytest.mark.parametrize("special", [False, True], ids=["integers", "with infinities"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FEW_CHANNELS)
@pytest.mark.parametrize("seed", [19])
def test_the_weight_gradient_of_few_channels(name, dtype, special, backend, seed):
    """Pixels stand in the lanes: those beyond a line's end must not meet what lies there, nor a chunk lose another."""
    shape, k, kernel, *walk = FEW_CHANNELS[name]
    rng = np.random.default_rng(seed)
    forward, _, weight_grad, _ = functions(len(kernel))
    x, w = (rng.integers(-4, 5, size).astype(dtype) for size in (shape, (k, shape[1], *kernel)))
    gy = rng.integers(-4, 5, forward(x, w, None, *walk, backend="reference").shape).astype(dtype)
    if special:
        x[0, 0].flat[0], x[-1, -1].flat[-1], gy[0, -1].flat[-1] = np.inf, np.inf, -np.inf
    with np.errstate(all="ignore"):
        found, expected = (
            weight_grad(x, w.shape, gy, *walk, backend=name, algorithm=algorithm)
            for name, algorithm in ((backend, "direct" if backend == "native" else "auto"), ("reference", "auto"))
        )
    np.testing.assert_array_equal(found, expected)
