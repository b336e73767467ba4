"""Optimisers' steps: every backend's against plain formulas, on any threads, and arrays that are not as most are."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import voxconv as vc
from voxconv import nn
from voxconv.backends import Descent, Learned, get_backend

SHAPES = ((), (0,), (1,), (7,), (3, 4, 5), (2, 8193))
"""Scalars, none, and more than one piece that threads share."""

DESCENTS = {
    "sgd": [Descent(), Descent(0.5), Descent(0.5, True, weight_decay=0.25), Descent(0.5, shrink=0.5)],
    "adam": [Descent(0.5, second=0.75, eps=1), Descent(0.75, second=0.5, eps=0.125, weight_decay=0.5, shrink=0.5)],
}


def arrays(rng, dtype):
    return [np.array(rng.integers(-8, 9, shape), dtype) for shape in SHAPES]


def expected(rule, descent, learned, gradient, rate, scale):
    """The formulas, in float64."""
    p, m, s = (None if array is None else array.astype(np.float64) for array in learned)
    p = p * descent.shrink
    g = gradient.astype(np.float64) + descent.weight_decay * p
    if rule == "sgd":
        v = g if m is None else descent.momentum * m + g
        return p - rate * (g + descent.momentum * v if descent.nesterov and m is not None else v), v, s
    m = m + (1 - descent.momentum) * (g - m)
    s = descent.second * s + (1 - descent.second) * g**2
    return p - rate * m / (scale * np.sqrt(s) + descent.eps), m, s


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "number"), [(rule, i) for rule, all_ in DESCENTS.items() for i in range(len(all_))])
def test_a_step_is_its_formula(backend, rule, number, dtype):
    rng = np.random.default_rng(number)
    descent = DESCENTS[rule][number]
    data, gradients, means = arrays(rng, dtype), arrays(rng, dtype), arrays(rng, dtype)
    squares = [np.asarray(abs(array)) for array in arrays(rng, dtype)]
    if rule == "sgd":
        squares = [None] * len(data)
        means = means if descent.momentum else squares
    learned = [Learned(*three) for three in zip(data, means, squares, strict=True)]
    rates, scales = [0.5, 0.25] * 3, [1.25, 1] * 3
    wanted = [expected(rule, descent, *rest) for rest in zip(learned, gradients, rates, scales, strict=True)]
    get_backend(backend).descend(rule, learned)(descent, gradients, rates, scales)
    for have, want in zip(learned, wanted, strict=True):
        for array, values in zip(have, want, strict=True):
            if array is not None and rule == "sgd":  # sums of small multiples of powers of two
                np.testing.assert_array_equal(array, values)
            elif array is not None:
                np.testing.assert_allclose(array, values, rtol=8 * np.finfo(dtype).eps, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("make", [lambda p: nn.SGD(p, 0.1, 0.9, weight_decay=0.01), nn.Adam, nn.AdamW])
def test_the_bits_do_not_depend_on_threads(make):
    pytest.importorskip("voxconv._native")
    start, gradient = np.random.default_rng(1).standard_normal((2, 3, 100_001)).astype(np.float32)
    before, found = vc.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            vc.set_num_threads(threads)
            parameters = [nn.Parameter(row.copy()) for row in start]
            optimizer = make(parameters)
            for _ in range(3):
                for parameter, row in zip(parameters, gradient, strict=True):
                    parameter.grad = row
                optimizer.step()
            found.append(np.concatenate([parameter.data for parameter in parameters]))
    finally:
        vc.set_num_threads(before)
    for array in found[1:]:
        oracle.assert_same_bits(array, found[0])


@pytest.mark.parametrize("make", [lambda p: nn.SGD(p, 0.5, 0.5), lambda p: nn.Adam(p, 0.5)])
def test_any_array_is_learned_in_place(make):
    """A view with gaps, another byte order, a dtype that backends do not compute in, and two dtypes at once."""
    start = np.arange(24.0).reshape(4, 6)
    plain = nn.Parameter(start[:, ::2].copy())
    odd = [
        nn.Parameter(start.copy()[:, ::2]), nn.Parameter(start[:, ::2].astype(">f8")),
        nn.Parameter(start[:, ::2].astype(np.longdouble)), nn.Parameter(start[:, ::2].astype(np.float32)),
    ]  # fmt: skip
    held = [parameter.data for parameter in odd]
    optimizer = make([*odd, plain])
    for _ in range(3):
        for parameter in (*odd, plain):
            parameter.grad = start[:, 1::2] - 9  # with gaps, and of another dtype than some
        optimizer.step()
    assert not np.array_equal(plain.data, start[:, ::2])
    for parameter, array in zip(odd, held, strict=True):
        assert parameter.data is array
        np.testing.assert_allclose(array.astype(np.float64), plain.data, rtol=1e-6)


def test_what_is_learned_may_change_between_steps():
    first, second = nn.Parameter(np.full(3, 8.0)), nn.Parameter(np.full(2, 8.0))
    optimizer = nn.SGD([first, second], lr=1, momentum=0.5)
    first.grad = np.ones(3)
    optimizer.step()
    assert list(optimizer.state_dict()) == ["velocity.0"]
    first.grad, second.grad = None, np.ones(2)
    optimizer.step()
    assert first.data.tolist() == [7] * 3
    assert second.data.tolist() == [7] * 2
    first.data, first.grad = np.full(3, 4.0), np.zeros(3)
    optimizer.step()  # the velocity stays, of another array
    assert first.data.tolist() == [3.5] * 3
    assert second.data.tolist() == [5.5] * 2
    optimizer.momentum = 0
    optimizer.step()
    assert first.data.tolist() == [3.5] * 3
    assert second.data.tolist() == [4.5] * 2


def test_an_array_that_two_parameters_share_is_learned_twice():
    array = np.full(40_000, 8, np.float32)
    parameters = [nn.Parameter(array), nn.Parameter(array)]
    for parameter in parameters:
        parameter.grad = np.ones_like(array)
    nn.SGD(parameters, lr=1).step()
    assert np.all(array == 6)


def test_arrays_that_do_not_fit_are_refused():
    parameter = nn.Parameter(np.ones(3))
    for optimizer, state in (
        (nn.SGD([parameter], momentum=0.5), {"velocity.0": np.ones(4)}),
        (nn.Adam([parameter]), {"steps.0": np.array(1), "mean.0": np.ones(3), "square.0": np.ones(())}),
    ):
        with pytest.raises(ValueError, match=r"must have the shape of its parameter, \(3,\)"):
            optimizer.load_state_dict(state)
        parameter.grad = np.ones((3, 1))
        with pytest.raises(ValueError, match=r"parameters\[0\].grad=.*array of shape \(3, 1\).* must have the shape"):
            optimizer.step()
