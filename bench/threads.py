"""Forward convolutions on two threads beside one: the layers of table32 above 100 MFLOP, with packed weights.

    python bench/threads.py [LAYER...] # on a machine where both processors are free

Both take turns, of which the first third is not timed: a thread that has slept wakes on the caller's processor at
times, and the kernel takes a while to move it.  The medians are compared.
"""

from __future__ import annotations

import math
import sys
from statistics import median
from time import perf_counter

import numpy as np

import voxconv as vc
from voxconv.bench.suites import suite

LEAST_FLOPS, ROUNDS, TURN = 10**8, 5, 0.2


def main() -> None:
    """Print for each layer microseconds of a call on one thread and on two, medians, and their ratio."""
    rng = np.random.default_rng(1)
    ratios = []
    for layer in suite("table32"):
        if layer.flops < LEAST_FLOPS or (sys.argv[1:] and layer.name not in sys.argv[1:]):
            continue
        x, w, b = (rng.standard_normal(s).astype(np.float32) for s in (layer.input_shape, layer.weight_shape, layer.k))
        walk = (layer.stride, layer.padding, layer.dilation, layer.groups)
        plan = getattr(vc, f"plan_conv{layer.rank}d")(x.shape, w, b, *walk)
        out = plan(x)  # aligned, as a call without `out` has it
        start = perf_counter()
        plan(x, out=out)
        calls = max(1, round(TURN / (perf_counter() - start)))
        times: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(ROUNDS):
            for threads, found in times.items():
                vc.set_num_threads(threads)
                for _ in range(calls // 2 + 1):
                    plan(x, out=out)
                start = perf_counter()
                for _ in range(calls):
                    plan(x, out=out)
                found.append((perf_counter() - start) / calls * 1e6)
        one, two = map(median, times.values())
        ratios.append(one / two)
        print(f"{layer.name:16} {plan.algorithm:9} {one:8.1f} {two:8.1f} {one / two:5.2f}", flush=True)
    print(f"geomean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
