"""What each `precision` costs a training step and what it loses, beside torch in both memory formats.

    python bench/step_precision.py     # in an environment with torch: build/peers/bin/python

Two figures of each network and contender, on one thread.  Speed: the time of torch's better format over the
contender's, medians of rounds in turns.  Error: of all gradients of a first step against float64 with direct sums,
the root mean square over all elements and some batches, over the gradients' own; and that of the median batch.  Where a
rounding has moved a value across a ReLU or a maximum, a batch's error is ten times that of one where none has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import median
from time import process_time

import numpy as np
import torch

import voxconv as vc
from voxconv import nn
from voxconv.bench.networks import NETWORKS, Network, ours, torch_model, torch_step
from voxconv.plan import PRECISIONS

ROUNDS, BATCHES = 41, 5
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def gradients(network: Network, x: np.ndarray, precision: str) -> np.ndarray:
    """All gradients of our first step, one after the other."""
    model = network.model(x.dtype.name, precision=precision)
    _, gradient = nn.cross_entropy(model(x), network.labels(x))
    model.backward(gradient, input_grad=False)
    return np.concatenate([np.ravel(parameter.grad) for _, parameter in sorted(model.named_parameters())])


def torch_gradients(network: Network, x: np.ndarray, layout: torch.memory_format | None) -> np.ndarray:
    """All gradients of torch's first step, in the same order."""
    model, images = torch_model(torch, network, x, layout)
    torch.nn.functional.cross_entropy(model(images), torch.from_numpy(network.labels(x))).backward()
    return np.concatenate([p.grad.contiguous().numpy().ravel() for _, p in sorted(model.named_parameters())])


def errors(network: Network) -> dict[str, tuple[float, float]]:
    """Of each contender, relative to the gradients: over all batches, and of the median one."""
    found: dict[str, list[float]] = {}
    exact = []
    for batch in range(BATCHES):
        x = np.random.default_rng(batch).standard_normal(network.input_shape).astype(np.float32)
        truth = gradients(network, x.astype(np.float64), "strict")
        exact.append(np.mean(truth**2))
        results = {precision: gradients(network, x, precision) for precision in PRECISIONS}
        results["torch"] = torch_gradients(network, x, None)
        results["torch_cl"] = torch_gradients(network, x, LAYOUTS[network.rank])
        for name, result in results.items():
            found.setdefault(name, []).append(float(np.mean((result - truth) ** 2)))
    return {
        name: (np.sqrt(np.mean(squares) / np.mean(exact)), np.sqrt(np.median(np.divide(squares, exact))))
        for name, squares in found.items()
    }


def seconds(network: Network) -> dict[str, float]:
    """Of a step of each contender: process time, since others may use the machine."""
    x = np.random.default_rng(1).standard_normal(network.input_shape).astype(np.float32)
    steps: dict[str, Callable[[], float]] = {
        precision: ours(network, x, network.model("float32", precision=precision)) for precision in PRECISIONS
    }
    steps["torch"] = torch_step(torch, network, x)
    steps["torch_cl"] = torch_step(torch, network, x, LAYOUTS[network.rank])
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            step()  # finds the caches as a step leaves them, not as another contender does
            start = process_time()
            step()
            taken[name].append(process_time() - start)
    return {name: median(times) for name, times in taken.items()}


def main() -> None:
    """Print a table: networks down, speed and error of each contender across."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    vc.set_num_threads(1)
    torch.set_num_threads(1)
    print(f"| step | {' | '.join((*PRECISIONS, 'torch', 'torch_cl'))} |")
    print(f"|---|{'---|' * (len(PRECISIONS) + 2)}")
    for network in NETWORKS:
        time, error = seconds(network), errors(network)
        best = min(time["torch"], time["torch_cl"])
        cells = [f"{best / time[name]:.2f}, {error[name][0]:.1e} ({error[name][1]:.1e})" for name in time]
        print(f"| {network.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
