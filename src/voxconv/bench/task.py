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

__all__ = ["Contender", "Runner", "Task", "Unsupported", "make_task", "wrong"]

Array = npt.NDArray[Any]
Runner = tuple[Callable[[], Any], Callable[[Any], Array]]
"""What is timed, and what turns its result into an array to compare, which is not."""

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Largest error in standard deviations of the answer: above Winograd's, below bfloat16's."""


ANSWER_FLOPS = 4 * 10**9
"""Above this, the answer holds some channels only: the first, the last, and what lies evenly between."""


class Unsupported(ValueError):
    """A contender cannot do a task; the text says why."""


@dataclass(frozen=True, slots=True)
class Task:
    """What every contender is given.

    ``operation`` is "forward" (reads x, w, b), "input" (w, gy) or "weight" (x, gy).  With ``warm``
    a contender may write into memory that it keeps; without, each result lies in memory of its own.
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
    answer: Array
    channels: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's."""
        layer = self.layer
        return {"forward": layer.output_shape, "input": layer.input_shape, "weight": layer.weight_shape}[self.operation]

    @property
    def axis(self) -> int:
        """The axis of the result that ``channels``, those whose answer is known, index."""
        return 0 if self.operation == "weight" else 1

    def save(self, folder: Path) -> None:
        """Write the arrays where `load` finds them."""
        np.savez(folder / "task.npz", x=self.x, w=self.w, b=self.b, gy=self.gy, answer=self.answer,
                 channels=self.channels)  # fmt: skip

    @classmethod
    def load(cls, folder: Path, layer: Layer, operation: str, dtype: str, threads: int, warm: bool) -> Task:
        """Read what `save` wrote."""
        with np.load(folder / "task.npz") as arrays:
            return cls(layer, operation, dtype, threads, warm, **arrays)


def make_task(layer: Layer, direction: str, dtype: str, threads: int, warm: bool) -> Task:
    """Draw the arrays and compute the answer, with the reference and its float64 sums.

    Sums have a standard deviation near 1 and the bias is as large, so that one left out shows.
    """
    if layer.kind != "conv" and direction != "forward":
        raise ValueError(f"layer {layer.name} is a pool, which has only the direction forward")
    rng = np.random.default_rng(layer.elements)
    x = rng.standard_normal(layer.input_shape, np.float32).astype(dtype)
    w = rng.standard_normal(layer.weight_shape, np.float32).astype(dtype) / math.prod(layer.weight_shape[1:]) ** 0.5
    b = rng.standard_normal(layer.k, np.float32).astype(dtype)
    gy = rng.standard_normal(layer.output_shape, np.float32).astype(dtype)
    task = Task(layer, layer.operation(direction), dtype, threads, warm, x, w, b, gy, np.empty(0), np.empty(0, int))
    return _answered(task)


def _answered(task: Task) -> Task:
    """Add the answer, of so few channels as keep the float64 sums short."""
    layer, channels = task.layer, np.arange(task.shape[task.axis])
    few = max(2, len(channels) * ANSWER_FLOPS // max(layer.flops, 1))
    if layer.groups > 1 or few >= len(channels):
        return replace(task, channels=channels, answer=call(task, backend="reference"))
    channels = np.unique(np.linspace(0, len(channels) - 1, few).astype(int))
    if task.operation == "input":
        part = replace(task, layer=replace(layer, c=len(channels)), w=task.w[:, channels])
    else:
        part = replace(
            task, layer=replace(layer, k=len(channels)), w=task.w[channels], b=task.b[channels], gy=task.gy[:, channels]
        )
    return replace(task, channels=channels, answer=call(part, backend="reference"))


def call(task: Task, **options: Any) -> Array:
    """Compute a task with our functions."""
    layer = task.layer
    walk = (layer.stride, layer.padding, layer.dilation)
    if layer.kind == "max_pool":
        result = getattr(functional, f"max_pool{layer.rank}d")(task.x, layer.kernel, *walk, **options)
    elif layer.kind == "avg_pool":
        result = getattr(functional, f"avg_pool{layer.rank}d")(task.x, layer.kernel, *walk[:2], **options)
    elif task.operation == "forward":
        result = getattr(functional, f"conv{layer.rank}d")(task.x, task.w, task.b, *walk, layer.groups, **options)
    elif task.operation == "input":
        gradient = getattr(grad, f"conv{layer.rank}d_input")
        result = gradient(layer.input_shape, task.w, task.gy, *walk, layer.groups, **options)
    else:
        gradient = getattr(grad, f"conv{layer.rank}d_weight")
        result = gradient(task.x, layer.weight_shape, task.gy, *walk, layer.groups, **options)
    return np.asarray(result)


def wrong(result: Array, task: Task) -> str | None:
    """Say what is wrong with a result, or None."""
    if result.shape != task.shape:
        return f"its result has the shape {result.shape} instead of {task.shape}"
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
