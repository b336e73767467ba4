"""Backends: three modules with one signature, looked up by name.

Every backend answers to every operation.  Arrays that reach it are C-contiguous, aligned, in
native byte order and of the problem's dtype; shapes are the problem's; ``out`` never overlaps an
input and is written completely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from voxconv.problem import ConvProblem, WindowProblem

__all__ = ["NAMES", "Backend", "Descend", "Descent", "Learned", "get_backend"]

Array = npt.NDArray[Any]

NAMES = {"native": "native", "numba": "numba_jit", "reference": "reference"}
"""Public name of each backend, best first, and the module that holds it."""


class Descent(NamedTuple):
    """What an optimiser's step does to all arrays alike; see `Backend.descend`."""

    momentum: float = 0.0
    nesterov: bool = False
    second: float = 0.0
    eps: float = 0.0
    weight_decay: float = 0.0
    shrink: float = 1.0


class Learned(NamedTuple):
    """An array that is learned, and what earlier steps have left behind, of its shape and dtype."""

    data: Array
    mean: Array | None = None
    square: Array | None = None


Descend = Callable[[Descent, Sequence[Array], Sequence[float], Sequence[float]], None]
"""Takes the gradients, and for each of them the step's size and what the root of ``square`` is multiplied by."""


class Backend(Protocol):
    """What a backend module offers.

    ``operation`` is one of "conv", "conv_input_grad" and "conv_weight_grad"; ``algorithm`` one of
    ``algorithms``.
    """

    @property
    def name(self) -> str:
        """The backend's public name."""
        ...

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms in order of preference."""
        ...

    def refusal(self, problem: ConvProblem, operation: str, algorithm: str, *, asked: bool) -> str | None:
        """Why this algorithm is not taken, or None.

        Where the caller asked for it by name, only impossibility counts; otherwise also that another serves better.
        The answer depends on the problem alone, never on n (except the weight gradient), threads or memory layout.
        """
        ...

    def gain(self, problem: ConvProblem, operation: str, algorithm: str) -> float:
        """How many times fewer operations than the direct sum the algorithm is estimated to take."""
        ...

    def workspace_bytes(self, problem: ConvProblem, operation: str, algorithm: str, threads: int) -> int:
        """Memory that a call takes besides arguments and result: packing and scratch."""
        ...

    def pack(self, problem: ConvProblem, operation: str, algorithm: str, weight: Array, once: bool = False) -> Any:
        """The weight as ``conv`` or ``conv_input_grad`` wants it; to keep and use again, unless it serves ``once``."""
        ...

    def conv(
        self, problem: ConvProblem, algorithm: str, x: Array, packed: Any, bias: Array | None, out: Array,
        most_threads: int | None = None,
    ) -> None:  # fmt: skip
        """Forward pass: bias (k,) is added and the problem's activation applied; out (n, k, *output)."""
        ...

    def conv_input_grad(
        self, problem: ConvProblem, algorithm: str, grad_output: Array, packed: Any, bias: Array | None, out: Array
    ) -> None:
        """Gradient to the input, out (n, c, *spatial).

        It is also the transposed convolution, whose bias (c,) and activation (the problem's) apply to out.
        """
        ...

    def conv_weight_grad(self, problem: ConvProblem, algorithm: str, x: Array, grad_output: Array, out: Array) -> None:
        """Gradient to the weight, out (k, c / groups, *kernel)."""
        ...

    def conv_bias_grad(self, grad_output: Array, out: Array) -> None:
        """Sum of grad_output (n, k, *output) over all but its channels, out (k,)."""
        ...

    def relu_grad(self, output: Array, grad_output: Array, out: Array, sums: Array | None) -> None:
        """grad_output where output is not <= 0, else 0, all (n, k, *); where asked, its sums (k,) over the rest."""
        ...

    def max_pool(self, problem: WindowProblem, x: Array, out: Array, indices: Array | None) -> None:
        """Maximum of each window and, where asked, its position in the plane (int64)."""
        ...

    def max_pool_taps(self, problem: WindowProblem, x: Array, out: Array, taps: Array) -> None:
        """Maximum of each window and where it stands in it, row-major (uint8); for windows `in_pairs`."""
        ...

    def max_pool_taps_grad(
        self, problem: WindowProblem, grad_output: Array, taps: Array, pooled: Array | None, output: Array | None,
        add: Array | None, out: Array, sums: Array | None,
    ) -> None:  # fmt: skip
        """Gradient to the input of `max_pool_taps`, with what else a training step wants of the same pass.

        A ReLU's results before the pool: ``pooled``, shaped as grad_output, which is 0 where they are <= 0, or
        ``output``, shaped as out, which is.  ``add``, shaped as out, is added before that.  Of these two each sample is
        contiguous.  ``sums`` (c,) gets the sums of out over samples and positions.
        """
        ...

    def scatter(self, values: Array, indices: Array, out: Array, *, accumulate: bool) -> bool:
        """Write values (planes, *pooled) to positions in a plane of out (planes, *spatial), zero elsewhere.

        In index order: ``accumulate`` adds (max-pool's gradient), otherwise the last one stays (unpool).  False
        where a position is none of a plane's; what out holds then is of no use.
        """
        ...

    def avg_pool(self, problem: WindowProblem, x: Array, out: Array) -> None:
        """Mean of each window."""
        ...

    def avg_pool_grad(self, problem: WindowProblem, grad_output: Array, out: Array) -> None:
        """Gradient of the mean to the input."""
        ...

    def unfold(self, problem: WindowProblem, x: Array, out: Array) -> None:
        """Windows as columns, out (n, c * taps, positions)."""
        ...

    def fold(self, problem: WindowProblem, columns: Array, out: Array) -> None:
        """Sum of columns at the places that `unfold` took them from, out (n, c, *spatial)."""
        ...

    def descend(self, rule: str, learned: Sequence[Learned]) -> Descend:
        """What makes the steps of an optimiser, all in place: ``rule`` is "sgd" or "adam".

        p is multiplied by ``shrink``, and ``weight_decay * p`` added to its gradient g.  "sgd" takes ``rate * v`` from
        p with ``v = momentum * v + g`` (or g without a mean, which is v), or with nesterov
        ``rate * (g + momentum * v)``.  "adam" moves mean m and square s towards g and g^2, by 1 - momentum and
        1 - second of the way, and takes ``rate * m / (scale * sqrt(s) + eps)`` from p.
        """
        ...


def get_backend(name: str) -> Backend:
    """The backend module of this name, imported on first use."""
    module: Any = import_module(f"voxconv.backends.{NAMES[name]}")
    backend: Backend = module
    return backend


