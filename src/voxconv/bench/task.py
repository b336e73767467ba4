"""A task: one layer, one direction, its arrays and the answer; and what a contender is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from voxconv import functional, grad
from voxconv.bench.layers import Layer
from voxconv.bench.networks import Network, ours

__all__ = ["Contender", "Runner", "Task", "Unsupported", "call", "make_task", "maxima", "steps", "wrong"]

Array = npt.NDArray[Any]
Runner = tuple[Callable[[], Any], Callable[[Any], Array]]
"""What is timed, and what turns its result into an array to compare, which is not."""

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Largest error in standard deviations of the answer: above Winograd's, below bfloat16's."""


STEPS = 3
"""Training steps whose losses are compared; the first alone knows nothing of gradients."""

LEAST_LOSS = 0.05
"""A loss is compared with its own size, and with this at least."""

ANSWER_FLOPS = 4 * 10**9
"""Above this, the answer holds some channels only: the first, the last, and what lies evenly between."""


class Unsupported(ValueError):
    """A contender cannot do a task; the text says why."""


@dataclass(frozen=True, slots=True)
class Task:
    """What every contender is given.

    ``operation`` is "forward" (reads x, w, b), "input" (w, gy; of a pool x or indices, gy), "weight" (x, gy),
    "indices" (x; gives the maxima and where they stand) or "step" (x; its results are the losses of `STEPS` of them).
    With ``warm`` a contender may write into memory that it keeps; without, each result lies in memory of its own.
    """

    layer: Layer
    operation: str
    dtype: str
    threads: int
    warm: bool
    x: Array
    w: Array
    b: Array
    gy: Array
    indices: Array
    answer: Array
    channels: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's."""
        layer = self.layer
        others = {"input": layer.input_shape, "weight": layer.weight_shape, "step": (STEPS,)}
        return others.get(self.operation, layer.output_shape)

    @property
    def axis(self) -> int:
        """The axis of the result that ``channels``, those whose answer is known, index."""
        return 0 if self.operation == "weight" else 1

    def save(self, folder: Path) -> None:
        """Write the arrays where `load` finds them."""
        names = ("x", "w", "b", "gy", "indices", "answer", "channels")
        np.savez(folder / "task.npz", **{name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: Path, layer: Layer, operation: str, dtype: str, threads: int, warm: bool) -> Task:
        """Read what `save` wrote."""
        with np.load(folder / "task.npz") as arrays:
            return cls(layer, operation, dtype, threads, warm, **arrays)


def make_task(layer: Layer, direction: str, dtype: str, threads: int, warm: bool) -> Task:
    """Draw the arrays and compute the answer, with the reference and its float64 sums.

    Sums have a standard deviation near 1 and the bias is as large, so that one left out shows.
    """
    if direction not in layer.directions:
        raise ValueError(f"layer {layer.name} is a {layer.kind}, which has only the directions {layer.directions}")
    rng = np.random.default_rng(layer.elements)
    if isinstance(layer, Network):
        return _network_task(layer, rng.standard_normal(layer.input_shape), dtype, threads, warm)
    x = rng.standard_normal(layer.input_shape, np.float32).astype(dtype)
    w = rng.standard_normal(layer.weight_shape, np.float32).astype(dtype) / math.prod(layer.weight_shape[1:]) ** 0.5
    b = rng.standard_normal(layer.k, np.float32).astype(dtype)
    if layer.transposed:  # whose gradient to the input is the convolution, without a bias
        b[...] = 0
    gy = rng.standard_normal(layer.output_shape, np.float32).astype(dtype)
    none = np.empty(0, np.int64)
    task = Task(layer, layer.operation(direction), dtype, threads, warm, x, w, b, gy, none, none, none)
    if layer.kind == "max_pool" and direction == "input":
        task = replace(task, indices=call(replace(task, operation="indices"), backend="reference")[1])
    return _answered(task)


def _network_task(network: Network, x: Array, dtype: str, threads: int, warm: bool) -> Task:
    """Compute the losses in float64, with the algorithms that have a proven bound."""
    run, read = steps(ours(network, x, network.model("float64", precision="strict")))
    answer = read(run()).astype(dtype)
    none, whole = np.empty(0, dtype), np.arange(STEPS)
    return Task(network, "step", dtype, threads, warm, x.astype(dtype), none, none, none, none, answer, whole)


def steps(step: Callable[[], float]) -> Runner:
    """A step, and what makes its losses from the first one's."""
    return step, lambda loss: np.array([loss, *(step() for _ in range(STEPS - 1))])


def _answered(task: Task) -> Task:
    """Add the answer, of so few channels as keep the float64 sums short."""
    layer, channels = task.layer, np.arange(task.shape[task.axis])
    few = max(2, len(channels) * ANSWER_FLOPS // max(layer.flops, 1))
    if layer.groups > 1 or few >= len(channels):
        answer = call(task, backend="reference")
        return replace(task, channels=channels, answer=answer[0] if task.operation == "indices" else answer)
    channels = np.unique(np.linspace(0, len(channels) - 1, few).astype(int))
    if task.operation == "input":
        part = replace(task, layer=replace(layer, c=len(channels)), w=task.w[:, channels])
    else:
        part = replace(
            task, layer=replace(layer, k=len(channels)), w=task.w[channels], b=task.b[channels], gy=task.gy[:, channels]
        )
    return replace(task, channels=channels, answer=call(part, backend="reference"))


def call(task: Task, **options: Any) -> Any:
    """Compute a task with our functions: an array, or for "indices" a pair of them."""
    layer = task.layer
    walk = (layer.stride, layer.padding, layer.dilation)
    name = f"{layer.kind}{layer.rank}d"
    match layer.kind, task.operation:
        case "max_pool", "input":
            return getattr(grad, f"{name}_input")(task.gy, task.indices, layer.input_shape, **options)
        case "max_pool", asked:
            pool = getattr(functional, name)
            return pool(task.x, layer.kernel, *walk, return_indices=asked == "indices", **options)
        case "avg_pool", "input":
            return getattr(grad, f"{name}_input")(task.gy, layer.input_shape, layer.kernel, *walk[:2], **options)
        case "avg_pool", _:
            return getattr(functional, name)(task.x, layer.kernel, *walk[:2], **options)
        case _, "forward":
            return getattr(functional, name)(task.x, task.w, task.b, *walk, layer.groups, **options)
        case _, "input":
            gradient = getattr(grad, f"{name}_input")
            return gradient(layer.input_shape, task.w, task.gy, *walk, layer.groups, **options)
        case _:
            gradient = getattr(grad, f"{name}_weight")
            return gradient(task.x, layer.weight_shape, task.gy, *walk, layer.groups, **options)


def maxima(task: Task, values: Array, indices: Array) -> Array:
    """The values of a max-pool; not a number where the input does not hold them at the index given."""
    flat = (*task.layer.input_shape[:2], -1)
    there = np.take_along_axis(task.x.reshape(flat), indices.reshape(flat), 2).reshape(values.shape)
    return np.where(there == values, values, np.nan).astype(values.dtype)


def wrong(result: Array, task: Task) -> str | None:
    """Say what is wrong with a result, or None."""
    if result.shape != task.shape:
        return f"its result has the shape {result.shape} instead of {task.shape}"
    if isinstance(task.layer, Network):
        error = float(np.max(np.abs(result - task.answer) / np.maximum(task.answer, LEAST_LOSS)))
        return None if error <= TOLERANCE[task.dtype] else f"its losses {result} are off by {error:.2g}"
    answer, result = task.answer, result.take(task.channels, task.axis)
    if result.dtype != answer.dtype:
        return f"its result is {result.dtype} instead of {answer.dtype}"
    unit = float(answer.std(dtype=np.float64)) or 1.0
    error = float(np.max(np.abs(result - answer), initial=0.0)) / unit
    if not error <= TOLERANCE[task.dtype]:
        return f"its result is off by {error:.2g} standard deviations; {TOLERANCE[task.dtype]:g} is allowed"
    return None


class Contender(Protocol):
    """What is timed."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    def facts(self) -> dict[str, str]:
        """Version, precision, layout, what is done before the clock starts."""
        ...

    def prepare(self, task: Task) -> Runner:
        """Do everything that is not timed; raise `Unsupported` if it cannot do the task."""
        ...
