"""Plans: which backend and algorithm serve a problem, and why the others do not.

The choice is an ordered list of candidates, best first; the first that accepts the problem is
taken.  It looks at the problem alone, so it is the same for any thread count and memory layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, Literal, overload

import numpy.typing as npt

from voxconv import problem as rules
from voxconv.backends import NAMES, Backend, get_backend
from voxconv.errors import MissingExtra, rejection
from voxconv.problem import ConvProblem
from voxconv.results import fill

__all__ = [
    "ALGORITHMS",
    "BACKENDS",
    "PRECISIONS",
    "Candidate",
    "Choice",
    "ConvPlan",
    "choose",
    "choose_backend",
    "plan_conv1d",
    "plan_conv2d",
    "plan_conv3d",
    "workspace_bytes",
]

Array = npt.NDArray[Any]
Sizes = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]
ActivationLike = Literal["relu"] | tuple[Literal["leaky_relu"], float] | None

ALGORITHMS = ("auto", "direct", "im2col", "winograd", "depthwise")
BACKENDS = ("auto", *NAMES)
PRECISIONS = ("default", "strict")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend's algorithm, and why it was refused (None: it accepts)."""

    backend: str
    algorithm: str
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes a problem, and all that was considered, in order."""

    backend: Backend
    algorithm: str
    candidates: tuple[Candidate, ...]


# --------------------------------------------------------------------------------------------------
# Backends


@cache
def _load(name: str) -> Backend | str:
    """Import a backend; where something it stands on is missing, say what."""
    if name == "numba" and find_spec("numba") is None:
        return str(MissingExtra("numba", "numba", "backend='numba'"))
    try:
        return get_backend(name)
    except ImportError as error:
        return f"backend={name!r} could not be imported: {error}"


def available(function: str, backend: object) -> dict[str, Backend | str]:
    """Backends to try, in order, each loaded or the sentence why it is not."""
    name = rules.one_of(function, "backend", backend, BACKENDS)
    found: dict[str, Backend | str] = {}
    for candidate in NAMES if name == "auto" else (name,):
        found[candidate] = _load(candidate)
        # The others stand in for a compiled library that is missing, never for what it cannot do.
        if candidate == "native" and not isinstance(found[candidate], str):
            break
    return found


def choose_backend(function: str, backend: object = "auto") -> Backend:
    """Pick the backend of an operation that has one algorithm: the first that is there.

    Raises
    ------
    ValueError
        The name is unknown.
    RuntimeError
        The backend of that name is not installed.
    """
    found = available(function, backend)
    for module in found.values():
        if not isinstance(module, str):
            return module
    raise RuntimeError(f"{function}: {'; '.join(str(reason) for reason in found.values())}")


# --------------------------------------------------------------------------------------------------
# The choice


def choose(
    problem: ConvProblem, operation: str, backend: object = "auto", algorithm: object = "auto",
    precision: object = "default", *, function: str = "choose",
) -> Choice:  # fmt: skip
    """Choose backend and algorithm.

    Parameters
    ----------
    problem : ConvProblem
    operation : {"conv", "conv_input_grad", "conv_weight_grad"}
    backend, algorithm, precision : str
        One of `BACKENDS`, `ALGORITHMS`, `PRECISIONS`.
    function : str
        Who asks, for an error's text.

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        A name is unknown, or what was asked for cannot do this problem; the text says why.
    RuntimeError
        The backend that was asked for is not installed.
    """
    return _choose(
        function, problem, operation,
        rules.one_of(function, "backend", backend, BACKENDS),
        rules.one_of(function, "algorithm", algorithm, ALGORITHMS),
        rules.one_of(function, "precision", precision, PRECISIONS),
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _choose(
    function: str, problem: ConvProblem, operation: str, backend: str, algorithm: str, precision: str
) -> Choice:
    choose_backend(function, backend)
    candidates: list[Candidate] = []
    chosen: tuple[Backend, str] | None = None
    for name, module in available(function, backend).items():
        if isinstance(module, str):
            candidates.append(Candidate(name, algorithm, module))
            continue
        for offered in module.algorithms if algorithm == "auto" else (algorithm,):
            refusal = _refusal(module, problem, operation, offered, algorithm != "auto", precision)
            candidates.append(Candidate(name, offered, refusal))
            if refusal is None and chosen is None:
                chosen = module, offered
    if chosen is None:
        reasons = "; ".join(f"{c.backend} {c.algorithm}: {c.refusal}" for c in candidates)
        raise ValueError(rejection(function, "algorithm", algorithm, f"cannot do this problem: {reasons}"))
    return Choice(*chosen, tuple(candidates))


def _refusal(
    backend: Backend, problem: ConvProblem, operation: str, algorithm: str, asked: bool, precision: str
) -> str | None:
    if algorithm not in backend.algorithms:
        return f"this backend has {', '.join(backend.algorithms)}"
    if precision == "strict" and algorithm == "winograd":
        return "precision='strict' keeps to the bound of the direct sum"
    return backend.refusal(problem, operation, algorithm, asked=asked)


def workspace_bytes(problem: ConvProblem, operation: str, choice: Choice, threads: int) -> int:
    """Bytes that a call takes besides its arguments and result, for C-contiguous arguments."""
    return choice.backend.workspace_bytes(problem, operation, choice.algorithm, threads)


# --------------------------------------------------------------------------------------------------
# Plans


class ConvPlan:
    """A convolution whose choice is made and whose weight is packed; call it with an input.

    Made by `plan_conv1d`, `plan_conv2d` and `plan_conv3d`.  It keeps a copy of weight and bias, and
    may be called from several threads at once.
    """

    __slots__ = ("_batched", "_bias", "_choice", "_function", "_packed", "problem")

    def __init__(
        self, function: str, problem: ConvProblem, batched: bool, weight: Array, bias: Array | None, choice: Choice
    ) -> None:
        self.problem = problem
        self._function = function
        self._batched = batched
        self._choice = choice
        self._bias = None if bias is None else bias.copy()
        self._packed = choice.backend.pack(problem, "conv", choice.algorithm, weight.copy())

    def __call__(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Convolve an input of the planned shape.

        Parameters
        ----------
        x : array_like
            Of the planned shape; integers, or the planned dtype.
        out : ndarray, optional
            Where to write the result.

        Returns
        -------
        ndarray

        Raises
        ------
        ValueError, TypeError
            ``x`` or ``out`` is not as planned.
        """
        problem, backend = self.problem, self._choice.backend
        ready = rules.planned_input(self._function, problem, self._batched, x)
        return fill(
            self._function, out, problem.output_shape, self._batched, problem.dtype, (ready,),
            lambda y: backend.conv(problem, self.algorithm, ready, self._packed, self._bias, y),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<{self._function} {self.input_shape} * {self.problem.weight_shape}: {self.backend} {self.algorithm}>"

    @property
    def backend(self) -> str:
        """Name of the backend that computes."""
        return self._choice.backend.name

    @property
    def algorithm(self) -> str:
        """Name of the algorithm that was chosen."""
        return self._choice.algorithm

    @property
    def workspace_bytes(self) -> int:
        """Bytes that a call takes besides input and result, at the present number of threads."""
        from voxconv.runtime import get_num_threads

        return workspace_bytes(self.problem, "conv", self._choice, get_num_threads())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the planned input, without N if it was planned so."""
        return self.problem.input_shape[0 if self._batched else 1 :]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result, without N if the input has none."""
        return self.problem.output_shape[0 if self._batched else 1 :]

    @overload
    def explain(self, as_dict: Literal[False] = False, measure: bool = True) -> str: ...

    @overload
    def explain(self, as_dict: Literal[True], measure: bool = True) -> dict[str, Any]: ...

    def explain(self, as_dict: bool = False, measure: bool = True) -> str | dict[str, Any]:
        """Say what was chosen, what was refused and why, what the work amounts to, and how fast it can be here.

        The first call on a machine measures its peak and bandwidths, a second or two, and keeps them in the user's
        cache.

        Parameters
        ----------
        as_dict : bool
            Give a dict that ``json.dumps`` takes, instead of text.
        measure : bool
            Also run the plan for a moment, on random input.

        Returns
        -------
        str or dict
            Operations count multiplications and additions of the direct sum; bytes are those of
            input, weight and output, each touched once; intensity is their ratio.  `voxconv.explain` says what the
            keys of the machine's part mean.
        """
        from voxconv import explain

        problem = self.problem
        facts: dict[str, Any] = {
            "operation": self._function.removeprefix("plan_"),
            "input": problem.input_shape,
            "weight": problem.weight_shape,
            "output": problem.output_shape,
            "stride": problem.stride,
            "padding": problem.padding,
            "dilation": problem.dilation,
            "groups": problem.groups,
            "dtype": problem.dtype.name,
            "backend": self.backend,
            "algorithm": self.algorithm,
            "candidates": [
                {"backend": c.backend, "algorithm": c.algorithm, "refusal": c.refusal} for c in self._choice.candidates
            ],
            "flops": problem.flops,
            "bytes": problem.bytes,
            "intensity": problem.flops / max(problem.bytes, 1),
            "workspace_bytes": self.workspace_bytes,
        }
        gain = self._choice.backend.gain(problem, "conv", self.algorithm)
        facts |= explain.roofline(problem.flops, problem.bytes, problem.dtype.name, gain)
        if measure:
            facts |= explain.attained(self, facts["floor_seconds"])
        return facts if as_dict else explain.as_text(facts)


def _plan(
    rank: int, input_shape: object, weight: object, bias: object, stride: object, padding: object, dilation: object,
    groups: object, activation: object, backend: str, algorithm: str, precision: str,
) -> ConvPlan:  # fmt: skip
    function = f"plan_conv{rank}d"
    problem, batched, w, b = rules.conv_shape(
        function, rank, input_shape, weight, bias, stride, padding, dilation, groups, activation
    )
    choice = choose(problem, "conv", backend, algorithm, precision, function=function)
    return ConvPlan(function, problem, batched, w, b, choice)


def plan_conv1d(
    input_shape: Sequence[int], weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> ConvPlan:  # fmt: skip
    """Plan `conv1d` for inputs of one shape, (N, C, L) or (C, L).

    Parameters
    ----------
    input_shape : tuple of int
    weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
        As in `conv1d`; the weight is packed here, once.

    Returns
    -------
    ConvPlan
    """
    return _plan(
        1, input_shape, weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
    )


def plan_conv2d(
    input_shape: Sequence[int], weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> ConvPlan:  # fmt: skip
    """Plan `conv2d` for inputs of one shape, (N, C, H, W) or (C, H, W).

    Parameters
    ----------
    input_shape : tuple of int
    weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
        As in `conv2d`; the weight is packed here, once.

    Returns
    -------
    ConvPlan

    Examples
    --------
    >>> import numpy as np
    >>> import voxconv as vc
    >>> plan = vc.plan_conv2d((1, 1, 4, 4), np.ones((1, 1, 3, 3), np.float32))
    >>> plan(np.ones((1, 1, 4, 4), np.float32)).tolist()
    [[[[9.0, 9.0], [9.0, 9.0]]]]
    """
    return _plan(
        2, input_shape, weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
    )


def plan_conv3d(
    input_shape: Sequence[int], weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default",
) -> ConvPlan:  # fmt: skip
    """Plan `conv3d` for inputs of one shape, (N, C, D, H, W) or (C, D, H, W).

    Parameters
    ----------
    input_shape : tuple of int
    weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
        As in `conv3d`; the weight is packed here, once.

    Returns
    -------
    ConvPlan
    """
    return _plan(
        3, input_shape, weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
    )
