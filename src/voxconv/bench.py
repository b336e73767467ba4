"""Times of the backends on the same layers, in interleaved rounds so that a busy machine slows all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxconv import functional
from voxconv.backends import NAMES
from voxconv.plan import available

__all__ = ["SUITES", "Layer", "as_text", "measure"]

ROUND_SECONDS = 3.0
"""A backend that has already taken this long on a layer sits the remaining rounds out."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: a convolution if it has a weight, else a max-pool with this window."""

    name: str
    input: tuple[int, ...]
    weight: tuple[int, ...] | None = None
    window: int = 2
    padding: int = 0
    groups: int = 1

    @property
    def flops(self) -> int | None:
        """Multiplications and additions of the convolution's plain sum; None for a pool, which only compares."""
        if self.weight is None:
            return None
        taps = zip(self.input[2:], self.weight[2:], strict=True)
        positions = math.prod(size + 2 * self.padding - tap + 1 for size, tap in taps)
        return 2 * self.input[0] * positions * math.prod(self.weight)

    def call(self, rng: np.random.Generator) -> Callable[[str], object]:
        """Return a function that runs the layer on a backend, always on the same arrays."""
        rank = len(self.input) - 2
        x = rng.standard_normal(self.input, np.float32)
        if self.weight is None:
            pool: Callable[..., object] = getattr(functional, f"max_pool{rank}d")
            return lambda backend: pool(x, self.window, backend=backend)
        weight = rng.standard_normal(self.weight, np.float32)
        bias = rng.standard_normal(self.weight[0], np.float32)
        conv: Callable[..., object] = getattr(functional, f"conv{rank}d")
        return lambda backend: conv(x, weight, bias, 1, self.padding, 1, self.groups, backend=backend)


DEMO = (
    Layer("slice, 5x5, 1 to 8 channels", (1, 1, 300, 484), (8, 1, 5, 5)),
    Layer("patches, 3x3, 8 to 16", (32, 8, 14, 14), (16, 8, 3, 3)),
    Layer("max-pool 2x2 of 8 maps", (1, 8, 296, 480)),
)
SUITES = {
    "demo": DEMO,
    "small": (
        *DEMO,
        Layer("3x3, 64 to 64, 56x56", (1, 64, 56, 56), (64, 64, 3, 3), padding=1),
        Layer("1x1, 256 to 64, 28x28", (1, 256, 28, 28), (64, 256, 1, 1)),
        Layer("3x3 depthwise, 64, 56x56", (1, 64, 56, 56), (64, 1, 3, 3), padding=1, groups=64),
        Layer("3x3x3, 8 to 16, 32x32x32", (1, 8, 32, 32, 32), (16, 8, 3, 3, 3), padding=1),
        Layer("9 taps, 16 to 32, length 4096", (1, 16, 4096), (32, 16, 9), padding=4),
    ),
}
"""Layers by the name of their suite."""


def measure(layers: tuple[Layer, ...], rounds: int = 7) -> dict[str, Any]:
    """Time layers on every backend that is there.

    Parameters
    ----------
    layers : tuple of Layer
        What to time.
    rounds : int
        How often each backend runs each layer, in turns; one call more before that is not counted.

    Returns
    -------
    dict
        ``backends``: names; ``missing``: for each absent one, why; ``layers``: for each, its name and by backend
        the median in ms and GFLOP/s.
    """
    found = {name: available("bench", name)[name] for name in NAMES}
    missing = {name: module for name, module in found.items() if isinstance(module, str)}
    names = [name for name in found if name not in missing]
    rows = []
    for layer in layers:
        call = layer.call(np.random.default_rng(0))
        times: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            call(name)
        for _ in range(rounds):
            for name in names:
                if sum(times[name]) < ROUND_SECONDS:
                    start = time.perf_counter()
                    call(name)
                    times[name].append(time.perf_counter() - start)
        results = {}
        for name in names:
            seconds = statistics.median(times[name])
            rate = None if layer.flops is None else layer.flops / seconds / 1e9
            results[name] = {"median_ms": seconds * 1e3, "gflops": rate, "rounds": len(times[name])}
        rows.append({"layer": layer.name, "results": results})
    return {"backends": names, "missing": missing, "layers": rows}


def as_text(measured: dict[str, Any]) -> str:
    """Lay the times out as a table."""
    names = measured["backends"]
    lines = [f"{'float32, median ms (GFLOP/s)':<32}" + "".join(f"{name:>20}" for name in names)]
    for row in measured["layers"]:
        cells = []
        for name in names:
            result = row["results"][name]
            rate = "" if result["gflops"] is None else f" ({result['gflops']:.1f})"
            cells.append(f"{result['median_ms']:.2f}{rate}")
        lines.append(f"{row['layer']:<32}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join([*lines, *(f"No column for {name}: {why}" for name, why in measured["missing"].items())])
