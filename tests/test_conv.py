"""Forward convolution: exact on integers, within its bound on floats, on every backend and algorithm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import oracle
import voxconv as vc
from cases import CONV
from problems import functions, limit, operands
from voxconv import functional
from voxconv import problem as rules

named = pytest.mark.parametrize("case", CONV, ids=lambda case: case.name)
EXACT = "direct", "im2col", "depthwise", "winograd2"


@named
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [1])
def test_exact_on_integers(case, dtype, backend, algorithms, seed):
    problem, x, w, b, _ = operands(case, oracle.integers, seed, dtype)
    expected = oracle.conv(problem, *(a.astype(np.int64) for a in (x, w, b)))
    for algorithm in algorithms(problem, "conv"):
        out = np.full(problem.output_shape, np.nan, dtype)
        y = functions(case.rank)[0](x, w, b, **case.options, out=out, backend=backend, algorithm=algorithm)
        assert y is out
        if algorithm in EXACT:
            oracle.assert_equal(y, expected)
        else:
            oracle.assert_within(y, expected, limit(problem, "conv", algorithm, x, w, b, None))


@named
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [2])
def test_within_the_bound_on_floats(case, dtype, backend, algorithms, seed):
    problem, x, w, b, _ = operands(case, oracle.floats, seed, dtype)
    expected = oracle.conv(problem, *oracle.wide(x, w, b))
    for algorithm in algorithms(problem, "conv"):
        out = np.full(problem.output_shape, np.nan, dtype)
        functions(case.rank)[0](x, w, b, **case.options, out=out, backend=backend, algorithm=algorithm)
        oracle.assert_within(out, expected, limit(problem, "conv", algorithm, x, w, b, None))


@named
@pytest.mark.parametrize("seed", [3])
def test_strict_keeps_the_bound_of_the_direct_sum(case, backend, seed):
    problem, x, w, b, _ = operands(case, oracle.floats, seed, "float32")
    y = functions(case.rank)[0](x, w, b, **case.options, backend=backend, precision="strict")
    expected = oracle.conv(problem, *oracle.wide(x, w, b))
    oracle.assert_within(y, expected, limit(problem, "conv", "direct", x, w, b, None))


@pytest.mark.parametrize("c", [1, 64, 512])
@pytest.mark.parametrize("seed", [6, 7, 8])
def test_roundings_that_add_up_keep_the_bounds(c, seed):
    """Filters of one tap and waves that the transforms add: the sums at the points hardly cancel, and round alike."""
    rng, size = np.random.default_rng(seed), 13
    errors = {}
    for shift, length in ((0, 2), (1, 2), (0, 3), (1, 3)):
        wave = (-1.0) ** ((np.arange(size) + shift) // length)
        x = (rng.uniform(0.5, 1, (1, c, size, size)) * wave[:, None] * wave).astype(np.float32)
        w = np.zeros((36, c, 9), np.float32)
        w[np.arange(36), :, np.arange(36) % 9] = rng.uniform(0.5, 1, (36, c))
        w = w.reshape(36, c, 3, 3)
        exact = vc.conv2d(*(a.astype(np.float64) for a in (x, w)), padding=1, backend="native", precision="strict")
        for algorithm in ("winograd", "winograd2"):
            plan = vc.plan_conv2d(x.shape, w, padding=1, backend="native", algorithm=algorithm)
            error = np.abs(plan(x) - exact)
            assert (error <= plan.error_bound(x)).all()
            errors[algorithm] = max(errors.get(algorithm, 0), error.max())
    assert errors["winograd2"] < errors["winograd"] / 2


@pytest.mark.parametrize("activation", ["relu", ("leaky_relu", 0.25), ("leaky_relu", -0.5)])
@pytest.mark.parametrize("case", [c for c in CONV if c.name in ("3x3-stride-2", "1x1-odd", "depthwise", "3x3-batch")])
@pytest.mark.parametrize("seed", [4])
def test_activation(case, activation, backend, algorithms, seed):
    problem, x, w, b, _ = operands(case, oracle.integers, seed, "float32")
    slope = 0.0 if activation == "relu" else activation[1]
    plain = oracle.conv(problem, *(a.astype(np.int64) for a in (x, w, b)))
    active = dataclasses.replace(problem, activation=rules.activation_of("conv", activation))
    for algorithm in algorithms(active, "conv"):
        y = functions(case.rank)[0](
            x, w, b, **case.options, activation=activation, backend=backend, algorithm=algorithm
        )
        expected = np.where(plain >= 0, plain, plain * slope)
        if algorithm in EXACT:
            oracle.assert_equal(y, expected)
        else:
            oracle.assert_within(y, expected, limit(problem, "conv", algorithm, x, w, b, None))


@named
@pytest.mark.parametrize("seed", [5])
def test_unbatched_input_is_a_batch_of_one(case, backend, seed):
    if case.n == 0:
        pytest.skip("there is no sample to take")
    _, x, w, b, _ = operands(case, oracle.floats, seed, "float32")
    run = functions(case.rank)[0]
    one = run(x[0], w, b, **case.options, backend=backend)
    oracle.assert_same_bits(one, run(x[:1], w, b, **case.options, backend=backend)[0])


@pytest.mark.parametrize("kind", ["u2", ">i2", "i4", "f2", ">f4"])
@pytest.mark.parametrize("seed", [6])
def test_input_dtypes(kind, backend, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (1, 3, 6, 9)).astype(kind)
    w = oracle.integers(rng, (4, 3, 3, 3), np.float32)
    y = functions(2)[0](x, w, backend=backend)
    oracle.assert_same_bits(y, functions(2)[0](x.astype(np.float32), w, backend=backend))


class TestOracle:
    """A check that cannot fail proves nothing: these wrong answers must not pass."""

    problem, x, w, b, _ = operands(next(c for c in CONV if c.name == "3x3-map-9"), oracle.floats, 7, "float32")

    def wrong(self):
        right = oracle.conv(self.problem, *oracle.wide(self.x, self.w, self.b)).astype(np.float32)
        dropped = self.w.copy()
        dropped[..., 0, 0] = 0
        yield np.zeros_like(right)
        yield np.roll(right, 1, axis=-1)
        yield oracle.conv(self.problem, self.x, dropped, self.b)
        yield oracle.conv(self.problem, self.x, self.w[..., ::-1, :], self.b)
        yield right * np.float32(1 + 1e-3)
        yield np.where(np.arange(right.size).reshape(right.shape) == 11, np.nan, right)

    @pytest.mark.parametrize("algorithm", ["direct", "winograd"])
    def test_wrong_answers_are_rejected(self, algorithm):
        expected = oracle.conv(self.problem, *oracle.wide(self.x, self.w, self.b))
        allowed = limit(self.problem, "conv", algorithm, self.x, self.w, self.b, None)
        oracle.assert_within(expected.astype(np.float32), expected, allowed)
        for i, answer in enumerate(self.wrong()):
            if algorithm == "winograd" and i == 4:
                continue  # a relative error this small is within what cancellation may cost there
            with pytest.raises(AssertionError):
                oracle.assert_within(answer, expected, allowed)
            with pytest.raises(AssertionError):
                oracle.assert_equal(answer, expected.astype(np.float32))


def test_a_call_made_before_is_looked_up_and_still_checked():
    rng = np.random.default_rng(5)
    x, w, b = (rng.integers(-4, 5, size).astype(np.float32) for size in ((2, 3, 9, 10), (4, 3, 3, 3), (4,)))
    expected = [vc.conv2d(x, w, b, padding=1), vc.conv2d(x, w, padding=1)]
    assert not np.array_equal(*expected)
    assert any(key[:2] == (x.shape, w.shape) for key in functional.KNOWN)
    for _ in range(2):
        np.testing.assert_array_equal(vc.conv2d(x, w, b, padding=1), expected[0])
        np.testing.assert_array_equal(vc.conv2d(x, w, padding=1), expected[1])
        np.testing.assert_array_equal(vc.conv2d(2 * x, w, padding=1), 2 * expected[1])
    readonly, turned = x.copy(), np.ascontiguousarray(x.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    readonly.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for same in (readonly, turned, unaligned, x.astype(">f4"), x.astype(np.int32)):
        np.testing.assert_array_equal(vc.conv2d(same, w, b, padding=1), expected[0])
    for other in (x.astype(np.float64), x.tolist()):
        with pytest.raises(TypeError, match="float64"):
            vc.conv2d(other, w, b, padding=1)
    for wrong in (True, 1.0, np.True_):
        with pytest.raises(TypeError, match="padding"):
            vc.conv2d(x, w, b, padding=wrong)
    with pytest.raises(ValueError, match="algorithm"):
        vc.conv2d(x, w, b, padding=1, algorithm="fft")
    with pytest.raises(ValueError, match="weight"):
        vc.conv2d(x, w[:, :2], b, padding=1)


def test_a_transposed_call_made_before_is_still_checked():
    rng = np.random.default_rng(6)
    x, w = (rng.integers(-4, 5, size).astype(np.float32) for size in ((2, 3, 5, 4), (3, 2, 2, 2)))
    y = vc.conv_transpose2d(x, w, stride=2)
    weight_grad = vc.grad.conv_transpose2d_weight(x, w.shape, y, stride=2)
    for _ in range(2):
        np.testing.assert_array_equal(vc.conv_transpose2d(2 * x, w, stride=2), 2 * y)
        np.testing.assert_array_equal(vc.grad.conv_transpose2d_weight(2 * x, w.shape, y, stride=2), 2 * weight_grad)
    assert vc.conv_transpose2d(x.astype(np.float64), w.astype(np.float64), stride=2).dtype == np.float64
    for wrong in (True, 2.0, np.True_):
        with pytest.raises(TypeError, match="stride"):
            vc.conv_transpose2d(x, w, stride=wrong)
    for wrong in ((True, 3, 5, 4), (2.0, 3, 5, 4), (3, 5), (2, 3, 5, 2**63), (2, 3, -5, 4)):
        with pytest.raises((TypeError, ValueError, OverflowError), match="input_size"):
            vc.grad.conv_transpose2d_input(wrong, w, y, stride=2)
    with pytest.raises(TypeError, match="input is float32, weight is float64"):
        vc.conv_transpose2d(x, w.astype(np.float64), stride=2)


def test_a_gradient_asked_for_before_is_looked_up_and_still_checked():
    rng = np.random.default_rng(7)
    x, w, gy = (rng.integers(-4, 5, size).astype(np.float32) for size in ((2, 3, 9, 10), (4, 3, 3, 3), (2, 4, 9, 10)))

    def both(gy, weight=w, input_size=x.shape, weight_size=w.shape, **options):
        options = {"padding": 1, **options}
        to_input = vc.grad.conv2d_input(input_size, weight, gy, **options)
        return to_input, vc.grad.conv2d_weight(x, weight_size, gy, **options)

    expected = both(gy, algorithm="direct")
    for _ in range(2):
        for array, answer in zip(both(gy, algorithm="direct"), expected, strict=True):
            np.testing.assert_array_equal(array, answer)
        for array, answer in zip(both(2 * gy, algorithm="direct"), expected, strict=True):
            np.testing.assert_array_equal(array, 2 * answer)
    assert {key[0] for key in functional.KNOWN if key[2:3] in ((x.shape,), (w.shape,))} >= {"input", "weight"}
    unaligned = np.frombuffer(b"\0" + gy.tobytes(), np.uint8)[1:].view(np.float32).reshape(gy.shape)
    for same in (unaligned, np.asfortranarray(gy), gy.astype(">f4")):
        for array, answer in zip(both(same, algorithm="direct"), expected, strict=True):
            np.testing.assert_array_equal(array, answer)
    for wrong in (True, 1.0, np.True_):
        with pytest.raises(TypeError, match="padding"):
            both(gy, padding=wrong, algorithm="direct")
    for sizes in ({"input_size": (True, 3, 9, 10)}, {"input_size": (2.0, 3, 9, 10)}):
        with pytest.raises(TypeError, match="input_size"):
            both(gy, algorithm="direct", **sizes)
    with pytest.raises(TypeError, match="float64"):
        both(gy.astype(np.float64), algorithm="direct")
    with pytest.raises(ValueError, match="grad_output"):
        both(gy[:, :, 1:], algorithm="direct")
    out = np.empty_like(x)
    assert vc.grad.conv2d_input(x.shape, w, gy, padding=1, algorithm="direct", out=out) is out
    np.testing.assert_array_equal(out, expected[0])


def test_known_calls_are_forgotten_when_they_are_many(monkeypatch):
    monkeypatch.setattr(functional, "MOST_KNOWN", 3)
    functional.KNOWN.clear()
    for width in range(3, 10):
        vc.conv2d(np.ones((1, 1, 3, width), np.float32), np.ones((1, 1, 3, 3), np.float32))
        assert len(functional.KNOWN) <= 3


@pytest.mark.parametrize(
    ("shape", "outputs"), [((1, 1024, 1024), 7), ((9, 512, 800), 16), ((3, 4, 320, 256), 24), ((1, 1024, 1008), 7)]
)
def test_a_result_that_no_cache_would_keep_has_the_bits_of_its_channels_alone(shape, outputs):
    rng = np.random.default_rng(11)
    functions = {3: (vc.conv2d, vc.plan_conv2d), 4: (vc.conv3d, vc.plan_conv3d)}
    conv, plan_conv = functions[len(shape)]
    x = rng.standard_normal((1, *shape)).astype(np.float32)
    w = rng.standard_normal((outputs, shape[0], *(3,) * (len(shape) - 1))).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    options = {"padding": 1, "activation": "relu", "backend": "native"}
    plan = plan_conv(x.shape, w, bias, algorithm="winograd", **options)
    whole = plan(x)
    assert whole.nbytes >= 24 << 20
    apart = np.empty(whole.nbytes + 4, np.uint8)[4:].view(np.float32).reshape(whole.shape)
    plan(x, out=apart)
    np.testing.assert_array_equal(apart, whole)
    for k in (0, outputs - 1):
        alone = conv(x, w[k : k + 1], bias[k : k + 1], algorithm="winograd", **options)
        np.testing.assert_array_equal(alone[:, 0], whole[:, k])
    strict = conv(x, w, bias, precision="strict", **options)
    assert np.abs(strict - whole).max() < 1e-4 * strict.std()


@pytest.mark.parametrize("width", [14, 16])
def test_an_infinity_stays_in_its_windows_where_four_tiles_are_a_row(width):
    rng = np.random.default_rng(12)
    x, w = rng.random((3, 8, width, width), np.float32), rng.random((9, 8, 3, 3), np.float32)
    x[1, 2, 5, 6] = np.inf
    plan = vc.plan_conv2d(x.shape, w, padding=1, algorithm="winograd", backend="native")
    result, strict = plan(x), vc.conv2d(x, w, padding=1, precision="strict", backend="native")
    assert np.isinf(result).sum() == 9 * 9
    np.testing.assert_array_equal(np.isinf(result), np.isinf(strict))
    np.testing.assert_allclose(result, strict, rtol=1e-4)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 2)])
def test_bands_of_rows_whose_sums_wait_between_blocks_of_channels(stride, padding):
    rng = np.random.default_rng(13)
    x = rng.integers(-4, 5, (1, 600, 8 * stride, 30 * stride + 2 - 2 * padding)).astype(np.float32)
    w, bias = (rng.integers(-4, 5, s).astype(np.float32) for s in ((704, 600, 3, 3), 704))
    options = {"stride": stride, "padding": padding, "backend": "native"}
    direct, lowered = (vc.conv2d(x, w, bias, algorithm=a, **options) for a in ("direct", "im2col"))
    np.testing.assert_array_equal(direct, lowered)
