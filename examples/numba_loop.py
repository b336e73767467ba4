"""Convolution inside a compiled loop: a field that grows and saturates, step after step.

Each step is a convolution, a little arithmetic and, now and then, a count of the field's peaks: the places that are
the maximum of their surroundings.  All of it runs in one function that Numba compiles, without a return to Python and
without its global lock, so that several fields evolve at the same time on threads of their own.  The second run of
this script finds the compiled loop on disk.

    pip install 'voxconv[numba]'
    python examples/numba_loop.py
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

import voxconv as vc

STEPS, SIZE = 400, 96


@njit(nogil=True, cache=True)
def evolve(field, kernel, steps, rate):
    """Run ``steps`` steps on a field (1, 1, H, W), in place; how many peaks each tenth step had."""
    response = np.empty_like(field)
    peaks = np.zeros(steps // 10, np.int64)
    for step in range(steps):
        vc.conv2d(field, kernel, padding=kernel.shape[-1] // 2, out=response)
        for i in range(field.shape[2]):
            for j in range(field.shape[3]):
                u = field[0, 0, i, j]
                field[0, 0, i, j] = u + rate * (4 * response[0, 0, i, j] - u * u * u)
        if step % 10 == 9:
            highest = vc.max_pool2d(field, 5, 1, 2)
            peaks[step // 10] = ((field == highest) & (field > 0)).sum()
    return peaks


def main():
    """Evolve four fields at once and tell what became of them."""
    axis = np.arange(-4, 5)
    distance = axis[:, None] ** 2 + axis**2
    narrow, wide = (np.exp(-distance / (2 * sigma**2)) for sigma in (1.0, 2.2))
    kernel = (narrow / narrow.sum() - 1.05 * wide / wide.sum()).astype(np.float32)[None, None]
    fields = [
        0.1 * np.random.default_rng(seed).standard_normal((1, 1, SIZE, SIZE), dtype=np.float32) for seed in range(4)
    ]

    start = time.perf_counter()
    evolve(fields[0].copy(), kernel, 10, np.float32(0.2))
    origin = "found on disk" if sum(evolve.stats.cache_hits.values()) else "compiled"
    print(f"the loop was {origin} in {time.perf_counter() - start:.2f} s")

    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        counts = list(pool.map(lambda field: evolve(field, kernel, STEPS, np.float32(0.2)), fields))
    seconds = time.perf_counter() - start
    for seed, peaks in enumerate(counts):
        print(f"field {seed}: {peaks[0]} peaks after 10 steps, {peaks[-1]} after {STEPS}")
    each = 1e6 * seconds / len(fields) / STEPS
    print(f"{len(fields) * STEPS} steps of {SIZE}x{SIZE} with a 9x9 kernel: {each:.0f} us each")


if __name__ == "__main__":
    main()
