"""What a convolution of 8 x 8 pixels costs, which is what a call costs: ours, through a plan, and torch's.

    python bench/call_cost.py     # in an environment with torch: build/peers/bin/python
"""

from __future__ import annotations

import os
from statistics import median
from time import perf_counter

import numpy as np

import voxconv as vc

ROUNDS, CALLS = 25, 2000


def main() -> None:
    """Print the median microseconds of a call, rounds of all taken in turns on one CPU."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(1)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 1, 8, 8), (1, 1, 3, 3), (1,)))
    plan = vc.plan_conv2d(x.shape, w, b, padding=1)
    calls = {"conv2d": lambda: vc.conv2d(x, w, b, padding=1), "plan": lambda: plan(x)}
    try:
        import torch
    except ImportError:
        print("without torch, which is not installed")
    else:
        torch.set_num_threads(1)
        tensors = [torch.from_numpy(array) for array in (x, w, b)]
        calls["torch"] = lambda: torch.nn.functional.conv2d(*tensors, padding=1)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = perf_counter()
            for _ in range(CALLS):
                call()
            taken[name].append((perf_counter() - start) / CALLS * 1e6)
    for name, times in taken.items():
        print(f"{name:8} {median(times):6.2f} us")


if __name__ == "__main__":
    main()
