"""Speed of every kernel over the named shapes of the tests, with pytest-benchmark.

Run ``pytest bench --benchmark-json=FILE``; each row carries its GFLOP/s or GB/s in ``extra_info``.
Results are checked in the tests, not here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import voxconv as vc
from cases import CONV, POOL
from problems import functions, operands
from voxconv.backends import NAMES

CASES = [case for case in CONV if case.n * case.c * case.k]
backends = pytest.mark.parametrize("backend", [name for name in NAMES if name != "reference"])


def normal(rng, shape, dtype):
    return rng.normal(size=shape).astype(dtype)


@backends
@pytest.mark.parametrize("operation", ["forward", "input", "weight"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conv(benchmark, case, operation, backend):
    problem, x, w, b, gy = operands(case, normal, 81, "float32")
    _, input_grad, weight_grad, _ = functions(case.rank)
    options = {**case.options, "backend": backend}
    planned = getattr(vc, f"plan_conv{case.rank}d")(x.shape, w, b, **options)
    out = {"forward": np.empty(problem.output_shape, "f4"), "input": np.empty_like(x), "weight": np.empty_like(w)}
    run = {
        "forward": lambda: planned(x, out=out["forward"]),
        "input": lambda: input_grad(x.shape, w, gy, **options, out=out["input"]),
        "weight": lambda: weight_grad(x, w.shape, gy, **options, out=out["weight"]),
    }[operation]
    run()  # compiles, and touches the memory
    benchmark.group = f"{operation} {case.name}"
    benchmark(run)
    benchmark.extra_info |= {"backend": backend, "flops": problem.flops, "algorithm": planned.algorithm}
    if benchmark.stats:
        benchmark.extra_info["gflops"] = problem.flops / benchmark.stats.stats.median / 1e9


@backends
@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("case", [case for case in POOL if case.n], ids=lambda case: case.name)
def test_pool(benchmark, case, pool, backend):
    x = case.array(normal, 82, "float32")
    function = getattr(vc, f"{pool}{case.rank}d")
    out = function(x, case.kernel, **case.options, backend=backend)
    benchmark.group = f"{pool} {case.name}"
    benchmark(lambda: function(x, case.kernel, **case.options, out=out, backend=backend))
    benchmark.extra_info |= {"backend": backend, "bytes": x.nbytes + out.nbytes}
    if benchmark.stats:
        benchmark.extra_info["gbytes_per_second"] = (x.nbytes + out.nbytes) / benchmark.stats.stats.median / 1e9
