"""Forward convolutions on two threads beside one: the layers of table32 above 100 MFLOP, with packed weights.

    python bench/threads.py [LAYER...]               # on a machine where both processors are free
    chrt --fifo 1 python bench/threads.py [LAYER...] # on another: nothing runs beside it, but in the pauses

Both take turns, after a pause.  A round in which something else was ready to run counts only where most rounds are
such; the last column says how many were.  As real-time threads, both may stay on one processor for seconds: a layer
that comes to 1.1 once and to 2 another time was not measured the first time.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np

import voxconv as vc
from voxconv.bench.suites import suite

LEAST_FLOPS, ROUNDS, TURN, PAUSE = 10**8, 41, 0.005, 0.01


def quiet() -> bool:
    """Whether nothing but this process is ready to run."""
    return Path("/proc/loadavg").read_text().split()[3].startswith("1/")


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
        out = np.zeros(layer.output_shape, np.float32)
        start = perf_counter()
        plan(x, out=out)
        calls = max(1, round(TURN / (perf_counter() - start)))
        rounds = []
        for _ in range(ROUNDS):
            sleep(PAUSE)
            times, still = [], quiet()
            for threads in (1, 2):
                vc.set_num_threads(threads)
                plan(x, out=out)
                start = perf_counter()
                for _ in range(calls):
                    plan(x, out=out)
                times.append((perf_counter() - start) / calls * 1e6)
            rounds.append((still and quiet(), *times))
        free = [times for still, *times in rounds if still]
        one, two = map(median, zip(*(free if 2 * len(free) > ROUNDS else [times for _, *times in rounds]), strict=True))
        ratios.append(one / two)
        figures = f"{one:8.1f} {two:8.1f} {one / two:5.2f} {len(free):3}/{ROUNDS}"
        print(f"{layer.name:16} {plan.algorithm:9} {figures}", flush=True)
    print(f"geomean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
