"""The Numba backend's own: every form of its tiles, no thread that waits for the GIL, a fork beside its compiler."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from itertools import product

import numpy as np
import pytest

import voxconv as vc
from isolation import LIMIT
from voxconv import grad

numba = pytest.importorskip("numba")


def integers(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]


def check(x, w, *walk):
    """Forward and both gradients, exact as integers are."""
    y = vc.conv2d(x, w, None, *walk, backend="reference")
    np.testing.assert_array_equal(vc.conv2d(x, w, None, *walk, backend="numba"), y)
    (gy,) = integers(2, y.shape)
    for run, sizes in ((grad.conv2d_input, (x.shape, w)), (grad.conv2d_weight, (x, w.shape))):
        found, expected = (run(*sizes, gy, *walk, backend=name) for name in ("numba", "reference"))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("seed", [91])
def test_planes_of_every_width(size, stride, seed):
    """Narrow planes, one vector and two, whole and by masks, the last one overlapping; even and odd padding."""
    widths = 6, 7, 10, 14, 15, 16, 17, 31, 32, 33, 48, 65, 70
    for columns, padding in product(widths, ((0, 1), (1, 0), (size // 2,) * 2)):
        x, w = integers(seed, (1, 3, 2 * size + 1, columns), (3, 1, size, size))
        if columns + 2 * padding[1] >= size:
            check(x, w, stride, padding, 1, 3)


@pytest.mark.parametrize("outs", [1, 2, 3, 8, 16, 17, 31, 32, 33, 47])
@pytest.mark.parametrize("seed", [92])
def test_outputs_of_every_number(outs, seed):
    """Panels of weights and gy turned round, of which some rows are not there, beside tiles of eight and nine rows."""
    for channels, size, side in ((1, 3, (5, 34)), (3, 3, (7, 7)), (2, 1, (17, 16)), (16, 1, (4, 19))):
        x, w = integers(seed, (2, channels, *side), (outs, channels, size, size))
        check(x, w, 1, size // 2, 1, 1)


@pytest.mark.parametrize("groups", [1, 300])
@pytest.mark.parametrize("seed", [93])
def test_infinite_gradients_stay_in_their_place(groups, seed):
    """Zeros that stand for padding meet them, in the gradient to the weight; it is then found without these."""
    x, w = integers(seed, (1, 300, 3, 3), (300, 300 // groups, 3, 3))
    (gy,) = integers(seed, (1, 300, 3, 3))
    gy[0, :2, 0, 0] = np.inf, np.nan
    found, expected = (
        grad.conv2d_weight(x, w.shape, gy, 1, 1, 1, groups, backend=name) for name in ("numba", "reference")
    )
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found[0]).any()
    assert not np.isfinite(found[0]).all()
    assert np.isfinite(found[2:]).all()


def test_packing_notices_what_is_not_finite_in_any_group():
    x, w = integers(94, (1, 40, 5, 5), (40, 1, 3, 3))
    w[39, 0, 0, 0] = np.inf
    with np.errstate(all="ignore"):
        found, expected = (vc.conv2d(x, w, padding=1, groups=40, backend=name) for name in ("numba", "reference"))
    np.testing.assert_array_equal(found, expected)


X, W = (np.ones(shape, np.float32) for shape in ((4, 64, 128, 128), (64, 64, 3, 3)))
LONG = {
    "convolution": lambda: vc.conv2d(X, W, padding=1, backend="numba"),
    "gradient to the weight": lambda: grad.conv2d_weight(X, W.shape, X, padding=1, backend="numba"),
    "depthwise": lambda: vc.conv2d(X, W[:, :1], padding=1, groups=64, backend="numba"),
    "max-pooling": lambda: vc.max_pool2d(X, 9, 1, 4, backend="numba"),
    "mean": lambda: vc.avg_pool2d(X, 9, 1, 4, backend="numba"),
    "columns": lambda: vc.unfold(X[:, :8], 7, backend="numba"),
}
"""Calls that spend long in compiled code."""


@numba.njit(nogil=True)
def loop(x, w):
    for _ in range(4):
        vc.conv2d(x, w, padding=1)


@numba.njit
def loop_that_holds_it(x, w):
    for _ in range(4):
        vc.conv2d(x, w, padding=1)


def meanwhile(call):
    """How often another thread of Python ran while a call was under way, if it runs only where it is let."""
    call()
    inside, done, seen = False, False, 0

    def work():
        nonlocal inside, done
        inside = True
        call()
        inside, done = False, True

    thread = threading.Thread(target=work)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody is made to let go
    try:
        thread.start()
        while not done:
            seen += inside
            time.sleep(0)  # lets go
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    return seen


def inside_kernels(monkeypatch, call):
    """As `meanwhile`, of the compiled code that a call runs, and of nothing around it."""
    from voxconv.backends import _numba_kernels, _numba_run, numba_jit

    seen = []

    def watched(function):
        def run(*arguments):
            seen.append(meanwhile(lambda: function(*arguments)))

        return run

    with monkeypatch.context() as patch:
        for module in (_numba_run, numba_jit):
            patch.setattr(module, "share", watched(module.share))
        for name in ("mean", "columns"):
            patch.setattr(_numba_kernels, name, watched(getattr(_numba_kernels, name)))
        call()
    return seen


@pytest.mark.parametrize("name", LONG)
def test_kernels_let_go_of_the_gil(name, monkeypatch):
    LONG[name]()  # compiles it
    # where others load the machine it may be too short once, never often
    assert any(max(inside_kernels(monkeypatch, LONG[name])) > 0 for _ in range(20))


def test_a_users_loop_lets_go_of_the_gil_if_it_is_told_to():
    loop_that_holds_it(X, W), loop(X, W)
    assert any(meanwhile(lambda: loop(X, W)) > 0 for _ in range(20))
    assert meanwhile(lambda: loop_that_holds_it(X, W)) == 0


@pytest.mark.parametrize("special", [np.inf, np.nan])
@pytest.mark.parametrize("place", [(0, 0), (2, 3)], ids=["corner", "middle"])
@pytest.mark.parametrize("shape", [(3, 4), (4, 4)], ids=["dense", "grouped"])
def test_padding_is_no_term_of_a_weight_gradient(shape, place, special):
    """Where grad_output is infinite, zero times it would be a NaN that belongs to no tap."""
    channels, outs = shape
    groups = 1 if channels != outs else channels
    x, gy = integers(96, (2, channels, 6, 7), (2, outs, 6, 7))
    x = np.abs(x) + 1
    gy[(1, 2, *place)] = special
    found, expected = (
        grad.conv2d_weight(x, (outs, channels // groups, 3, 3), gy, padding=1, groups=groups, backend=backend)
        for backend in ("numba", "reference")
    )
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found[[0, 1, 3]]).all()
    assert not np.isfinite(found[2]).all()
    assert np.isfinite(found[2]).any() == (place == (0, 0))


def test_a_taps_gradient_that_meets_padding_alone_is_zero():
    x, gy = integers(97, (1, 2, 2, 3), (1, 3, 1, 1))
    found = grad.conv2d_weight(x, (3, 2, 9, 9), gy, padding=((0, 7), (6, 0)), backend="numba")
    np.testing.assert_array_equal(
        found, grad.conv2d_weight(x, (3, 2, 9, 9), gy, padding=((0, 7), (6, 0)), backend="reference")
    )
    assert not found[..., 2:, :].any()
    assert found.any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_fork_waits_for_the_compiler(monkeypatch):
    """Otherwise the child would have a compiler that is locked by a thread which it does not have."""
    from voxconv.backends import _numba_run

    started, made = threading.Event(), _numba_run._made

    def slow(name, dtype):
        started.set()
        time.sleep(0.5)
        return made(name, dtype)

    monkeypatch.setattr(_numba_run, "_made", slow)
    monkeypatch.setattr(_numba_run, "_kernels", {})
    x, w = integers(95, (1, 4, 9, 9), (4, 4, 3, 3))
    expected = vc.conv2d(x, w, backend="reference")
    thread = threading.Thread(target=lambda: vc.conv2d(x, w, backend="numba"))
    thread.start()
    started.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(LIMIT)
        same = (vc.conv2d(x, w, backend="numba") == expected).all()
        os._exit(0 if same else 1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
