"""Rounds: every contender has its turn in each, so that a slow stretch of the machine meets all alike."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voxconv.bench.layers import Layer
from voxconv.bench.task import make_task
from voxconv.bench.worker import SAMPLE_SECONDS, Worker

__all__ = ["measure_layer", "spread"]

ROUNDS = (7, 41)
"""Rounds of a layer, at least and at most."""

SLOW_ROUNDS = 3
"""A contender that would take a layer's time in fewer rounds than the least sits out after this many."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return {"median": float(middle), "q1": float(low), "q3": float(high)}


def measure_layer(
    layer: Layer, direction: str, dtype: str, threads: int, warm: bool, seconds: float, workers: Sequence[Worker],
) -> dict[str, Any]:  # fmt: skip
    """Check all contenders on a layer, then time those that are right.

    Returns
    -------
    dict
        The layer, the probes beside it, and by contender its samples or the reason why it has none.
    """
    task = make_task(layer, direction, dtype, threads, warm)
    estimates: dict[str, float] = {}
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="voxconv-bench-") as folder:
        task.save(Path(folder))
        for worker in workers:
            found = worker.ask("load", worker.names, folder, layer, task.operation, dtype, threads, warm)
            for name, outcome in found.items():
                (refused if isinstance(outcome, str) else estimates)[name] = outcome
    record = {
        "layer": layer.name, "kind": layer.kind, "direction": direction, "operation": task.operation,
        "input": layer.input_shape, "weight": layer.weight_shape, "output": layer.output_shape,
        "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups,
        "flops": layer.flops, "bytes": layer.elements * task.x.itemsize, "refused": refused,
    }  # fmt: skip
    samples, readings = _rounds(workers, estimates, seconds)
    results = {name: {**spread(times), "rounds": len(times), "samples": times} for name, times in samples.items()}
    probes = {name: float(np.median(values)) if values else None for name, values in readings.items()}
    return {**record, "probes": probes, "results": results}


def _rounds(
    workers: Sequence[Worker], estimates: dict[str, float], seconds: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Samples by contender and readings by probe; the probes run in the first worker.

    Each round starts with another contender, so that nobody always follows the same one.
    """
    entrants = [(worker, name) for worker in workers for name in worker.names if name in estimates]
    samples: dict[str, list[float]] = {name: [] for _, name in entrants}
    readings: dict[str, list[float]] = {"fma": [], "copy": []}
    turn = {name: max(2 * SAMPLE_SECONDS, estimate) for name, estimate in estimates.items()}
    slow = {name for name, each in turn.items() if ROUNDS[0] * each > seconds}
    a_round = sum(each for name, each in turn.items() if name not in slow)
    most = max(ROUNDS[0], min(ROUNDS[1], int(seconds / a_round))) if a_round else SLOW_ROUNDS
    for count in range(most if entrants else 0):
        for probe, values in readings.items():
            reading = workers[0].ask("probe", probe)
            values += [] if reading is None else [reading]
        start = count % len(entrants)
        for worker, name in entrants[start:] + entrants[:start]:
            if count < SLOW_ROUNDS or name not in slow:
                samples[name].append(worker.ask("turn", name))
    return samples, readings
