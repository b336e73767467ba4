"""Our own backends and algorithms as contenders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from voxconv import __version__, plan, runtime
from voxconv.bench.networks import Network, ours
from voxconv.bench.task import Runner, Task, Unsupported, call, maxima, steps

__all__ = ["Ours"]


@dataclass(frozen=True, slots=True)
class Ours:
    """A backend, with "auto" or a forced algorithm, a precision, and weights packed in a plan or by each call."""

    backend: str = "native"
    algorithm: str = "auto"
    precision: str = "default"
    planned: bool = True

    @property
    def name(self) -> str:
        """Backend, and the algorithm if it is forced, or else "strict" or "plain"."""
        if not self.planned:
            return f"{self.backend}-plain"
        if self.algorithm != "auto":
            return f"{self.backend}-{self.algorithm}"
        return self.backend if self.precision == "default" else f"{self.backend}-{self.precision}"

    def facts(self) -> dict[str, str]:
        """Version, precision, layout, what is done before the clock starts."""
        plan.choose_backend("bench", self.backend)
        isa = runtime.runtime_info()["isa"]["used"] if self.backend == "native" else ""
        weights = "packed in a plan" if self.planned else "as given, on each call"
        facts = {"version": __version__, "precision": "as the arrays", "layout": "NCHW", "weights": weights}
        return {**facts, "isa": isa} if isa else facts

    def prepare(self, task: Task) -> Runner:
        """Plan; with warm memory the result goes into one array again and again."""
        if self.backend != "reference":
            runtime.set_num_threads(task.threads)
        elif task.threads > 1:
            raise Unsupported("this backend uses one thread")
        if isinstance(task.layer, Network):
            if (self.algorithm, self.precision) != ("auto", "default"):
                raise Unsupported("a network's layers choose for themselves")
            return steps(ours(task.layer, task.x, task.layer.model(task.dtype, self.backend)))
        out: dict[str, Any] = {"out": np.empty(task.shape, task.dtype)} if task.warm else {}
        indexed = task.operation == "indices"
        if indexed and task.warm:
            out = {"out": (out["out"], np.empty(task.shape, np.int64))}
        options = {"backend": self.backend}
        layer = task.layer
        try:
            if layer.kind == "conv" and task.operation == "forward" and self.planned:
                planned = getattr(plan, f"plan_conv{layer.rank}d")(
                    layer.input_shape, task.w, task.b, layer.stride, layer.padding, layer.dilation, layer.groups,
                    algorithm=self.algorithm, precision=self.precision, **options,
                )  # fmt: skip
                return (lambda: planned(task.x, **out)), np.asarray
            if layer.kind == "conv":
                options.update(algorithm=self.algorithm, precision=self.precision)
            elif self.algorithm != "auto":
                raise Unsupported("pooling has one algorithm")
            call(task, **options, **out)
        except ValueError as error:
            raise Unsupported(str(error)) from None
        return (lambda: call(task, **options, **out)), lambda y: maxima(task, *y) if indexed else np.asarray(y)
