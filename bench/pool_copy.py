"""Max-pools without indices beside a plain copy of their input, both into memory that was written before.

    python bench/pool_copy.py     # for each max-pool of the suite, the time of `np.copyto` over ours
"""

from __future__ import annotations

import os
from statistics import median
from time import perf_counter

import numpy as np

import voxconv as vc
from voxconv.bench.suites import suite

ROUNDS = 101


def main() -> None:
    """Print ratios of median times, rounds of both taken in turns on one CPU: above 1 a pool is faster than a copy."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    vc.set_num_threads(1)
    rng = np.random.default_rng(1)
    for layer in suite("pool"):
        if layer.kind != "max_pool":
            continue
        x = rng.standard_normal(layer.input_shape).astype(np.float32)
        copy = np.zeros_like(x)
        pool = getattr(vc, f"max_pool{layer.rank}d")
        walk = (layer.kernel, layer.stride, layer.padding, layer.dilation)
        out = pool(x, *walk)  # aligned, as a call without `out` has it
        copying, pooling = [], []
        for _ in range(ROUNDS):
            np.copyto(copy, x)
            start = perf_counter()
            np.copyto(copy, x)
            copying.append(perf_counter() - start)
            pool(x, *walk, out=out)
            start = perf_counter()
            pool(x, *walk, out=out)
            pooling.append(perf_counter() - start)
        print(f"{layer.name:16} {median(copying) / median(pooling):5.2f}", flush=True)


if __name__ == "__main__":
    main()
