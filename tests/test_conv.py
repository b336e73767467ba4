"""Forward convolution: exact on integers, within its bound on floats, on every backend and algorithm."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import oracle
from cases import CONV
from problems import functions, limit, operands
from voxconv import problem as rules

named = pytest.mark.parametrize("case", CONV, ids=lambda case: case.name)
EXACT = "direct", "im2col", "depthwise"


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

    problem, x, w, b, _ = operands(CONV[30], oracle.floats, 7, "float32")

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
