"""Every figure that docs/numba.md gives, measured anew on one pinned CPU: ``python bench/numba_figures.py``.

Wants PyTorch beside voxconv.  Times are the processor's, which on a quiet machine are those of a clock on the wall.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

import numba
import numpy as np

import voxconv as vc
from voxconv.bench.rounds import measure_layer
from voxconv.bench.suites import suite
from voxconv.bench.worker import Worker
from voxconv.interop import numba as door

SECONDS = float(os.environ.get("SECONDS_A_LAYER", "0.3"))

FIRST = """
import time
import numpy as np, voxconv as vc
x, w = np.ones((1, 8, 30, 30), np.float32), np.ones((8, 8, 3, 3), np.float32)
vc.conv2d(x, w, padding=1, backend="numba")
print(time.process_time())
"""


def over(direction, layers):
    """How many times faster the Numba backend is than native and PyTorch, geometric means, and the worst layer."""
    worker = Worker(["numba", "native-strict", "torch"], 1, True, sys.executable, False)
    try:
        ratios = {"native-strict": [], "torch": []}
        for layer in layers:
            results = measure_layer(layer, direction, "float32", 1, True, SECONDS, [worker])["results"]
            own = results["numba"]["samples"]
            for name, found in ratios.items():
                if name in results:
                    pairs = zip(results[name]["samples"], own, strict=False)
                    found.append((median(other / ours for other, ours in pairs), layer.name))
    finally:
        worker.close()
    cells = []
    for found in ratios.values():
        mean = math.exp(sum(math.log(ratio) for ratio, _ in found) / len(found))
        cells.append("x{:.2f} ({:.2f} {})".format(mean, *min(found)))
    return cells


def first_calls():
    """CPU seconds of a fresh process until its first convolution ends: with nothing on disk, with kernels there."""
    cold, warm = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            for found in (cold, warm):
                environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
                told = subprocess.run([sys.executable, "-c", FIRST], env=environment, capture_output=True, check=True)
                found.append(float(told.stdout))
    return median(cold), median(warm)


def best(call, times):
    """Least seconds of a call, of nine runs of so many."""

    def run():
        start = time.process_time()
        call(times)
        return (time.process_time() - start) / times

    call(1)
    return min(run() for _ in range(9))


def inside_njit():
    """Seconds that ``vc.conv2d`` inside @njit takes beyond the exported function that it calls."""
    door.init()
    x, y = (np.ones((1, 4, 8, 8), np.float32) for _ in range(2))
    w = np.ones((4, 4, 3, 3), np.float32)
    flags = door.DIRECT + (1 << 32) * int(door.lib.VOX_IDENTITY)
    words = (1, 4, 4, 1, 1, 8, 8, 1, 3, 3, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 8, 8, door.FLOATS[numba.float32], flags, 0)
    kernel = door._convolve

    @numba.njit
    def bare(times, x, w, y):
        for _ in range(times):
            kernel(words, x, w, None, y)

    @numba.njit
    def whole(times, x, w, y):
        for _ in range(times):
            vc.conv2d(x, w, padding=1, out=y)

    runs = [(best(lambda n: whole(n, x, w, y), 20000), best(lambda n: bare(n, x, w, y), 20000)) for _ in range(5)]
    return median(a - b for a, b in runs)


def planned(backend):
    """Seconds of a planned call of 4 channels, 8 x 8."""
    x, out = np.ones((1, 4, 8, 8), np.float32), np.empty((1, 4, 8, 8), np.float32)
    plan = vc.plan_conv2d(x.shape, np.ones((4, 1, 3, 3), np.float32), padding=1, groups=4, backend=backend)

    def call(times):
        for _ in range(times):
            plan(x, out=out)

    return best(call, 5000)


def main():
    """Print the tables."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    vc.set_num_threads(1)
    under = [layer for layer in suite("table32") if layer.flops < 4e9]
    depthwise = [layer for layer in suite("depthwise") if layer.rank == 2]
    mobile = [layer for layer in depthwise if layer.name.startswith("mobilenetv2")]
    even = [layer for layer in mobile if max(layer.stride) == 1]
    pools = [layer for layer in suite("pool") if layer.kind == "max_pool"]
    print("| | over native | over PyTorch |\n|---|---|---|")
    for label, direction, layers in (
        ("forward, table32 under 4 GFLOP", "forward", under),
        ("gradient to the input, the same", "input", under),
        ("gradient to the weight, the same", "weight", under),
        ("max-pooling with indices, the suite pool", "indices", pools),
        ("its gradient", "input", pools),
        ("depthwise at stride 1, MobileNetV2", "forward", even),
        ("depthwise at stride 1, table32", "forward", [x for x in under if x.groups > 1 and max(x.stride) == 1]),
        ("depthwise, MobileNetV2, 5x5 and 7x7", "forward", depthwise),
        ("gradient to the weight, the same", "weight", depthwise),
        ("gradient to the input, the same", "input", depthwise),
    ):
        print(f"| {label} | {' | '.join(over(direction, layers))} |", flush=True)
    cold, warm = first_calls()
    print(f"first call in a fresh process: {cold:.2f} s with nothing on disk, {warm:.2f} s with kernels there")
    print(f"vc.conv2d inside @njit: {inside_njit() * 1e6:.2f} us beyond its kernel")
    print(f"a planned call: {planned('numba') * 1e6:.1f} us, native {planned('native') * 1e6:.1f} us")


if __name__ == "__main__":
    main()
