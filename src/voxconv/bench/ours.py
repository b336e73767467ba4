"""Our own backends and algorithms as contenders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from voxconv import __version__, memory, plan, runtime
from voxconv import problem as rules
from voxconv.bench.networks import Network, ours
from voxconv.bench.task import Runner, Task, Unsupported, call, maxima, steps

__all__ = ["Ours"]


@dataclass(frozen=True, slots=True)
class Ours:
    """A backend, with "auto" or a forced algorithm, a precision, and weights packed in a plan or by each call.

    With ``taps`` it is asked for max-pools alone, as `voxconv.nn` runs them: with a byte for each window.
    """

    backend: str = "native"
    algorithm: str = "auto"
    precision: str = "default"
    planned: bool = True
    taps: bool = False

    @property
    def name(self) -> str:
        """Backend, and the algorithm if it is forced, or else "high", "strict", "plain" or "taps"."""
        if self.taps:
            return f"{self.backend}-taps"
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
        """Plan; with warm memory the result goes into one array, of the library's memory, again and again."""
        if self.backend != "reference":
            runtime.set_num_threads(task.threads)
        elif task.threads > 1:
            raise Unsupported("this backend uses one thread")
        if isinstance(task.layer, Network):
            if self.algorithm != "auto" or self.taps:
                raise Unsupported("a network's layers choose for themselves")
            return steps(ours(task.layer, task.x, task.layer.model(task.dtype, self.backend, self.precision)))
        if self.taps:
            return self._pairs(task)
        out: dict[str, Any] = {"out": memory.empty(task.shape, np.dtype(task.dtype))} if task.warm else {}
        indexed = task.operation == "indices"
        if indexed and task.warm:
            out = {"out": (out["out"], memory.empty(task.shape, np.dtype(np.int64)))}
        options = {"backend": self.backend}
        layer = task.layer
        try:
            if layer.kind == "conv" and task.operation == "forward" and self.planned and not layer.transposed:
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

    def _pairs(self, task: Task) -> Runner:
        """A max-pool that keeps the number of the tap of each maximum, or the way back from those."""
        layer = task.layer
        if layer.kind != "max_pool" or task.operation == "forward":
            raise Unsupported("taps are those of a max-pool's maxima")
        walk = (layer.kernel, layer.stride, layer.padding, layer.dilation)
        problem, _, x = rules.window(f"max_pool{layer.rank}d", layer.rank, task.x, *walk, False, kinds="f")
        if not problem.in_pairs:
            raise Unsupported("taps are kept where windows are two wide and lie side by side")
        backend = plan.choose_backend("bench", self.backend)
        results = tuple(memory.empty(layer.output_shape, np.dtype(kind)) for kind in (task.dtype, np.uint8))

        def forward() -> tuple[Any, Any]:
            y, taps = results if task.warm else map(np.empty_like, results)
            backend.max_pool_taps(problem, x, y, taps)
            return y, taps

        if task.operation == "indices":
            return forward, lambda pair: maxima(task, pair[0], _places(task, pair[1]))
        _, taps = forward()
        kept = memory.empty(layer.input_shape, np.dtype(task.dtype))

        def back() -> Any:
            gx = kept if task.warm else np.empty_like(kept)
            backend.max_pool_taps_grad(problem, task.gy, taps, None, None, None, gx, None)
            return gx

        return back, np.asarray


def _places(task: Task, taps: Any) -> Any:
    """Where in a plane the maxima stand whose taps were kept."""
    layer = task.layer
    within = np.unravel_index(taps, layer.kernel)
    axes = zip(np.indices(layer.output_shape)[2:], layer.stride, within, strict=True)
    return np.ravel_multi_index(tuple(at * step + tap for at, step, tap in axes), layer.spatial)
