"""Plans of every algorithm under limits of memory and by the clock, and results over memory that comes back."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ledger import record, runs

import oracle
import voxconv as vc

ALGORITHMS = ("direct", "im2col", "winograd", "winograd2", "depthwise")


def _problem(rng):
    """Input, weight, bias and options of one random convolution; half of them with one channel a group."""
    rank = int(rng.integers(1, 4))
    groups = int(rng.integers(1, 9)) if rng.integers(2) else 1
    c = groups * int(rng.choice((1, 1, 2, 5))) if groups > 1 else int(rng.integers(1, 20))
    k = groups * int(rng.integers(1, 4)) if groups > 1 else int(rng.integers(1, 20))
    n, side = int(rng.integers(1, 4)), int(rng.choice((1, 2, 3, 3, 3, 5, 7)))
    dilation, stride, padding = (int(rng.choice(v)) for v in ((1, 1, 1, 2), (1, 1, 2, 3), (0, 1, 3)))
    span = (side - 1) * dilation + 1
    sizes = rng.integers(max(1, span - 2 * padding), (span + 90, span + 30, span + 9)[rank - 1], rank)
    dtype = rng.choice(("f4", "f4", "f8"))
    x, w, b = (oracle.floats(rng, shape, dtype) for shape in ((n, c, *sizes), (k, c // groups, *[side] * rank), (k,)))
    activation = (None, "relu", ("leaky_relu", -0.5))[int(rng.integers(3))]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "activation": activation}
    return rank, x, w, b if rng.integers(2) else None, options


def _within(plan, x, w, b, y):
    """Fail where a result is farther from the exact sum than the plan says it can be."""
    exact = oracle.conv(plan.problem, *oracle.wide(x, w, b))
    if plan.problem.activation is not None:
        exact = np.where(exact < 0, exact * plan.problem.activation.slope, exact)
    assert (np.abs(y - exact) <= plan.error_bound(x)).all(), "beyond the plan's error bound"


def plans(seconds):
    """Each algorithm that can do a problem: within its own bound, in its own memory, with the same bits under a limit.

    Some of the problems are given to the clock too, whose choice must have the bits of the same choice by name.
    """
    from voxconv._native import lib

    first = seed = max((line["first"] + line["seeds"] for line in runs("plans")), default=0)
    start, done, tuned, refused = time.monotonic(), 0, 0, 0
    before = vc.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VOXCONV_CACHE_DIR"] = folder
        while time.monotonic() - start < seconds:
            rng = np.random.default_rng(seed)
            rank, x, w, b, options = _problem(rng)
            make = getattr(vc, f"plan_conv{rank}d")
            results = {}
            for algorithm in ALGORITHMS:
                vc.set_num_threads(int(rng.integers(1, 9)))
                try:
                    free = make(x.shape, w, b, **options, algorithm=algorithm)
                except ValueError:
                    refused += 1
                    continue
                results[algorithm] = y = free(x)
                _within(free, x, w, b, y)
                vc.set_num_threads(int(rng.integers(1, 9)))
                limit = int(rng.integers(0, 2 * free.workspace_bytes + 2))
                try:
                    held = make(x.shape, w, b, **options, algorithm=algorithm, workspace_limit=limit)
                except ValueError as error:
                    assert "workspace_limit" in str(error)  # noqa: PT017
                    refused += 1
                    continue
                assert held.workspace_bytes <= limit
                vc.release_memory()  # a kept block that is used again may be larger
                out, live = np.empty_like(y), lib.vox_live_bytes()
                lib.vox_reset_peak()
                oracle.assert_same_bits(held(x, out), y)
                assert lib.vox_peak_bytes() - live <= limit + 4096, "more memory than the limit"
                done += 1
            if seed % 8 == 0:
                chosen = make(x.shape, w, b, **options, autotune=True)
                oracle.assert_same_bits(chosen(x), results[chosen.algorithm])
                tuned += 1
            seed += 1
        del os.environ["VOXCONV_CACHE_DIR"]
    vc.set_num_threads(before)
    record(
        "plans", time.monotonic() - start, plans=done, tuned=tuned, refused=refused, failures=0, first=first,
        seeds=seed - first,
    )  # fmt: skip
    return True


def _recycle(seed, end):
    """One thread's share: results are kept by views and buffers of all kinds, and must stay what they were."""
    rng = np.random.default_rng(seed)
    x = oracle.floats(rng, (2, 8, 128, 128), "f4")
    w = oracle.floats(rng, (8, 8, 3, 3), "f4")
    calls = (
        lambda: vc.conv2d(x, w, padding=int(rng.integers(3))),
        lambda: vc.max_pool2d(x, 2, 1, return_indices=True)[int(rng.integers(2))],
        lambda: vc.avg_pool2d(x, 3, 1),
        lambda: vc.grad.conv2d_input(x.shape, w, x[..., :126, :126]),
        lambda: vc.unfold(x, int(rng.integers(1, 4))),
        lambda: vc.conv2d(x, w[:, :1], groups=8),
    )
    ways = (
        lambda y: y, lambda y: y[1:], lambda y: y.T, memoryview, lambda y: y.view(np.uint8), lambda y: iter([y]),
        lambda y: np.asarray(memoryview(y)), lambda y: y[0, ::-1],
    )  # fmt: skip
    held, checked = [], 0

    def read(kept):
        return zlib.crc32(np.asarray(next(kept) if hasattr(kept, "__next__") else kept).tobytes())

    while time.monotonic() < end or held:
        if time.monotonic() < end and len(held) < 12 and rng.integers(3):
            y = calls[int(rng.integers(len(calls)))]()
            way = ways[int(rng.integers(len(ways)))]
            held.append((way(y), read(way(y))))
            del y
        elif held:
            kept, expected = held.pop(int(rng.integers(len(held))))
            assert read(kept) == expected, "a result changed while it was held"
            del kept
            checked += 1
        if rng.integers(50) == 0:
            vc.release_memory()
    return checked


def recycled(seconds):
    """Callers that keep and drop large results in any order, while children are forked that do the same."""
    from voxconv._native import lib

    _recycle(0, time.monotonic() + 0.5)  # imports: a child waits for ever for one that another thread was in
    gc.collect()
    start, live, children = time.monotonic(), lib.vox_live_bytes(), 0
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(_recycle, seed, start + seconds) for seed in range(3)]
        while time.monotonic() - start < seconds and not any(job.done() for job in jobs):
            child = os.fork()
            if not child:
                signal.alarm(60)
                try:
                    _recycle(children, time.monotonic() + 0.5)
                    os._exit(0)
                except BaseException:
                    os._exit(2)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status == 0, f"a forked child ended with {status}"
            children += 1
        checked = sum(job.result() for job in jobs)
    gc.collect()
    assert lib.vox_live_bytes() == live, "a result's memory was lost"
    record("recycled", time.monotonic() - start, results=checked, changed=0, children=children)
    return True
