"""Bits depend on the problem alone: not on threads, batch, callers or a fork."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import oracle
import voxconv as vc
from cases import CONV, POOL
from isolation import LIMIT
from problems import operands

THREADS = (1, 2, 3, 8)
CHOSEN = [
    "1d-width-67", "1x1-odd", "3x3-batch", "3x3-winograd-size", "3x3-small-map-many-channels", "3x3-stride-2", "5x5",
    "groups-uneven", "depthwise", "depthwise-stride-2", "3d-3x3x3", "3d-winograd-size", "first-layer-7x7",
    "1x1-one-pixel",
]  # fmt: skip
chosen = pytest.mark.parametrize("case", [c for c in CONV if c.name in CHOSEN], ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def usual_threads(backend, monkeypatch):
    """Let small work have threads too, and leave their number as it was."""
    from voxconv.backends import native

    monkeypatch.setattr(native, "FLOPS_A_THREAD", 1)
    native._call.cache_clear()
    before = vc.get_num_threads()
    yield
    vc.set_num_threads(before)
    native._call.cache_clear()


def test_small_work_stays_on_one_thread(backend, monkeypatch):
    if backend != "native":
        pytest.skip("the other backends do not choose")
    from voxconv.backends import native

    monkeypatch.setattr(native, "FLOPS_A_THREAD", 1 << 20)
    seen = []
    monkeypatch.setattr(native, "_run", lambda function, struct, threads, *rest: seen.append(threads))
    w = np.ones((8, 8, 3, 3), np.float32)
    with_threads(backend, 3)
    for side in (8, 64, 512):
        vc.conv2d(np.ones((1, 8, side, side), np.float32), w, backend=backend)
    assert seen == [1, 3, 3]




def with_threads(backend, n):
    if backend != "reference":  # it has one thread
        vc.set_num_threads(n)
        assert vc.get_num_threads() == n


def results(case, backend, x, w, b, gy, precision="default"):
    """Forward and every gradient."""
    options, rank = {**case.options, "backend": backend, "precision": precision}, case.rank
    return (
        getattr(vc, f"conv{rank}d")(x, w, b, **options),
        getattr(vc.grad, f"conv{rank}d_input")(x.shape, w, gy, **options),
        getattr(vc.grad, f"conv{rank}d_weight")(x, w.shape, gy, **options),
        getattr(vc.grad, f"conv{rank}d_bias")(gy, backend=backend),
    )


@chosen
@pytest.mark.parametrize("precision", ["default", "high"])
@pytest.mark.parametrize("seed", [71])
def test_any_number_of_threads(case, precision, backend, seed):
    arrays = operands(case, oracle.floats, seed, "float32")[1:]
    expected = None
    for n in THREADS:
        with_threads(backend, n)
        for _ in range(2):
            found = results(case, backend, *arrays, precision)
            expected = expected or found
            for ours, first in zip(found, expected, strict=True):
                oracle.assert_same_bits(ours, first)


@pytest.mark.parametrize("case", POOL, ids=lambda case: case.name)
@pytest.mark.parametrize("seed", [72])
def test_pools_with_any_number_of_threads(case, backend, seed):
    x = case.array(oracle.floats, seed, "float32")
    expected = None
    for n in THREADS:
        with_threads(backend, n)
        y, at = getattr(vc, f"max_pool{case.rank}d")(
            x, case.kernel, **case.options, return_indices=True, backend=backend
        )
        mean = getattr(vc, f"avg_pool{case.rank}d")(x, case.kernel, **case.options, backend=backend)
        gx = getattr(vc.grad, f"max_pool{case.rank}d_input")(mean, at, x.shape, backend=backend)
        expected = expected or (y, at, mean, gx)
        for ours, first in zip((y, at, mean, gx), expected, strict=True):
            oracle.assert_same_bits(ours, first)


@chosen
@pytest.mark.parametrize("precision", ["default", "high"])
@pytest.mark.parametrize("seed", [73])
def test_a_sample_of_a_batch_is_that_sample_alone(case, precision, backend, seed):
    _, x, w, b, gy = operands(case, oracle.floats, seed, "float32")
    x, gy = (np.concatenate([a, -a, 3 * a]) for a in (x, gy))
    y, gx, _, _ = results(case, backend, x, w, b, gy, precision)
    for i in range(len(x)):
        one_y, one_gx, _, _ = results(case, backend, x[i : i + 1], w, b, gy[i : i + 1], precision)
        oracle.assert_same_bits(y[i : i + 1], one_y)
        oracle.assert_same_bits(gx[i : i + 1], one_gx)


@pytest.mark.parametrize("seed", [74])
def test_concurrent_callers(backend, seed):
    cases = [c for c in CONV if c.name in CHOSEN[:8]]
    work = [(case, *operands(case, oracle.floats, seed, "float32")[1:]) for case in cases]
    with_threads(backend, 2)
    expected = [results(case, backend, *arrays) for case, *arrays in work]
    with ThreadPoolExecutor(8) as callers:
        jobs = [(i, callers.submit(results, work[i][0], backend, *work[i][1:])) for i in [*range(len(work))] * 6]
        for i, job in jobs:
            for ours, serial in zip(job.result(timeout=LIMIT), expected[i], strict=True):
                oracle.assert_same_bits(ours, serial)


@pytest.mark.parametrize("seed", [75])
def test_one_plan_called_from_several_threads(backend, seed):
    x = oracle.floats(np.random.default_rng(seed), (6, 2, 8, 14, 15), np.float32)
    w = oracle.floats(np.random.default_rng(seed), (9, 8, 3, 3), np.float32)
    planned = vc.plan_conv2d(x[0].shape, w, padding=1, backend=backend)
    expected = [planned(a) for a in x]
    with ThreadPoolExecutor(6) as callers:
        for _ in range(5):
            for ours, serial in zip(callers.map(planned, x), expected, strict=True):
                oracle.assert_same_bits(ours, serial)


def _convolve_in_child(backend, x, w, sender):
    signal.alarm(LIMIT)
    sender.send_bytes(vc.conv2d(x, w, padding=1, backend=backend).tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("seed", [76])
def test_a_child_process_computes_too(method, backend, seed):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(2, 16, 30, 30)).astype("f4"), rng.normal(size=(16, 16, 3, 3)).astype("f4")
    with_threads(backend, 3)
    expected = vc.conv2d(x, w, padding=1, backend=backend).tobytes()
    context = multiprocessing.get_context(method)
    for _ in range(3 if method == "fork" else 1):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_convolve_in_child, args=(backend, x, w, sender))
        with warnings.catch_warnings():
            # From 3.12 Python warns of any fork with threads about; that it works here is the point.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        assert receiver.poll(LIMIT), f"the child hung or died: {process.exitcode}"
        assert receiver.recv_bytes() == expected
        process.join()
        assert process.exitcode == 0
        assert vc.conv2d(x, w, padding=1, backend=backend).tobytes() == expected
