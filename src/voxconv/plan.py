"""Plans: which backend and algorithm serve a problem, and why the others do not.

The choice is an ordered list of candidates, best first; the first that accepts the problem is
taken.  It looks at the problem alone, so it is the same for any thread count and memory layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from voxconv import problem as rules
from voxconv.backends import NAMES, Backend, get_backend
from voxconv.errors import MissingExtra, rejection
from voxconv.problem import ConvProblem
from voxconv.results import fill, is_free

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

ALGORITHMS = ("auto", "direct", "im2col", "winograd", "winograd2", "depthwise")
BACKENDS = ("auto", *NAMES)
PRECISIONS = ("default", "high", "strict")

MOST_THREADS = 256
"""More than the library ever uses in a call."""

WINOGRADS = ("winograd", "winograd2")
"""Winograd's algorithm with any of its tiles, and with those of 2 outputs alone."""

WINOGRAD_UNITS, WIDE_WINOGRAD_UNITS = {"winograd": (150, 1.0), "winograd2": (25, 0.25)}, (2000, 8.0)
"""Roundings that a Winograd result of 3 taps, and of more, may be off by, and what each term of its points' sums adds:
measured; see `ConvPlan.error_bound`."""


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
    first = _load("native") if type(backend) is str and backend in ("auto", "native") else None
    if first is not None and not isinstance(first, str):
        return first
    found = available(function, backend)
    for module in found.values():
        if not isinstance(module, str):
            return module
    raise RuntimeError(f"{function}: {'; '.join(str(reason) for reason in found.values())}")


# --------------------------------------------------------------------------------------------------
# The choice


def choose(
    problem: ConvProblem, operation: str, backend: object = "auto", algorithm: object = "auto",
    precision: object = "default", *, workspace_limit: int | None = None, function: str = "choose",
) -> Choice:  # fmt: skip
    """Choose backend and algorithm.

    Parameters
    ----------
    problem : ConvProblem
    operation : {"conv", "conv_input_grad", "conv_weight_grad"}
    backend, algorithm, precision : str
        One of `BACKENDS`, `ALGORITHMS`, `PRECISIONS`.
    workspace_limit : int, optional
        Most bytes of workspace that one thread may take.
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
    if not (type(backend) is type(algorithm) is type(precision) is str):  # what cannot be looked up is refused here
        for name, value, known in (
            ("backend", backend, BACKENDS), ("algorithm", algorithm, ALGORITHMS), ("precision", precision, PRECISIONS)
        ):  # fmt: skip
            rules.one_of(function, name, value, known)
    return _choose(function, problem, operation, str(backend), str(algorithm), str(precision), workspace_limit)


@lru_cache(maxsize=4096)
def _choose(
    function: str, problem: ConvProblem, operation: str, backend: str, algorithm: str, precision: str, limit: int | None
) -> Choice:
    rules.one_of(function, "backend", backend, BACKENDS)
    rules.one_of(function, "algorithm", algorithm, ALGORITHMS)
    rules.one_of(function, "precision", precision, PRECISIONS)
    choose_backend(function, backend)
    # Where nothing that is worth taking keeps to the limit, something slower may.
    tries = [algorithm != "auto"] if limit is None else [algorithm != "auto", True]
    for asked in tries:
        chosen, candidates, least = _walk(function, problem, operation, backend, algorithm, precision, limit, asked)
        if chosen is not None:
            return Choice(*chosen, candidates)
    if least is not None:
        rule = f"is less than any algorithm takes here; the least that would do is {least} bytes"
        raise ValueError(rejection(function, "workspace_limit", limit, rule))
    reasons = "; ".join(f"{c.backend} {c.algorithm}: {c.refusal}" for c in candidates)
    raise ValueError(rejection(function, "algorithm", algorithm, f"cannot do this problem: {reasons}"))


def _walk(
    function: str, problem: ConvProblem, operation: str, backend: str, algorithm: str, precision: str,
    limit: int | None, asked: bool,
) -> tuple[tuple[Backend, str] | None, tuple[Candidate, ...], int | None]:  # fmt: skip
    """Go through the candidates: the first that accepts, all answers, and the least workspace over the limit."""
    candidates: list[Candidate] = []
    chosen: tuple[Backend, str] | None = None
    least: int | None = None
    for name, module in available(function, backend).items():
        if isinstance(module, str):
            candidates.append(Candidate(name, algorithm, module))
            continue
        for offered in module.algorithms if algorithm == "auto" else (algorithm,):
            refusal = _refusal(module, problem, operation, offered, asked, precision)
            if refusal is None and limit is not None:
                wanted = module.workspace_bytes(problem, operation, offered, 1)
                if wanted > limit:
                    refusal = f"takes {wanted} bytes of workspace on one thread, and {limit} are allowed"
                    least = wanted if least is None else min(least, wanted)
            candidates.append(Candidate(name, offered, refusal))
            if refusal is None and chosen is None:
                chosen = module, offered
    return chosen, tuple(candidates), least


def _refusal(
    backend: Backend, problem: ConvProblem, operation: str, algorithm: str, asked: bool, precision: str
) -> str | None:
    if algorithm not in backend.algorithms:
        return f"this backend has {', '.join(backend.algorithms)}"
    if precision == "strict" and algorithm in WINOGRADS:
        return "precision='strict' keeps to the bound of the direct sum"
    if precision == "high" and algorithm == "winograd" and operation != "conv_weight_grad":
        return "precision='high' has tiles of 2 outputs alone, which are winograd2's; larger ones for dw"
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

    __slots__ = (
        "_batched", "_bias", "_choice", "_function", "_input_shape", "_most_threads", "_output_shape", "_packed",
        "_short", "_weight", "problem",
    )  # fmt: skip

    def __init__(
        self, function: str, problem: ConvProblem, batched: bool, weight: Array, bias: Array | None, choice: Choice,
        workspace_limit: int | None = None,
    ) -> None:  # fmt: skip
        self.problem = problem
        self._input_shape, self._output_shape = problem.input_shape, problem.output_shape
        self._function = function
        self._batched = batched
        self._choice = choice
        self._bias = None if bias is None else bias.copy()
        self._weight = weight.copy()
        self._packed = choice.backend.pack(problem, "conv", choice.algorithm, self._weight)
        self._most_threads: int | None = None
        short_conv = getattr(choice.backend, "short_conv", None)
        self._short = short_conv and short_conv(problem, choice.algorithm, self._packed, self._bias)
        if workspace_limit is not None:
            self._most_threads = 1
            while self._most_threads < MOST_THREADS and (
                workspace_bytes(problem, "conv", choice, self._most_threads + 1) <= workspace_limit
            ):
                self._most_threads += 1

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
        if self._batched and rules.is_ready(x, self._input_shape, problem.dtype):
            ready: Array = x  # type: ignore[assignment]
            if self._short is not None and (out is None or is_free(out, self._output_shape, problem.dtype, (ready,))):
                return self._short(ready, out)  # type: ignore[no-any-return]
        else:
            ready = rules.planned_input(self._function, problem, self._batched, x)
        return fill(
            self._function, out, self._output_shape, self._batched, problem.dtype, (ready,),
            lambda y: backend.conv(
                problem, self._choice.algorithm, ready, self._packed, self._bias, y, self._most_threads
            ),
        )  # fmt: skip

    def error_bound(self, x: npt.ArrayLike) -> Array:
        """Bound how far each element of this plan's result for ``x`` may be from the exact sum.

        Parameters
        ----------
        x : array_like
            As the plan takes it; what converting it to the planned dtype rounds is not counted.

        Returns
        -------
        ndarray of float64
            Of the result's shape.  With u the unit roundoff and T the terms of a sum, gamma_d of the sum of the
            terms' magnitudes, d = T + 1 and gamma_d = d u / (1 - d u), which is proven; for Winograd's algorithm,
            with S the channels of a group times the taps in depth, (150 + S) u, with tiles of 2 outputs alone
            (25 + S / 4) u, with more than 3 taps along the last axis (2000 + 8 S) u, of the sum over channels of
            the largest magnitude in the plane times the filter's magnitudes, which is measured.  Infinite or NaN where
            an operand is.

        Raises
        ------
        ValueError, TypeError
            ``x`` is not as planned.

        References
        ----------
        N. J. Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1.
        """
        problem = self.problem
        planned = rules.planned_input(self._function, problem, self._batched, x)
        ready, weight = np.abs(planned, dtype=np.float64), np.abs(self._weight, dtype=np.float64)
        bias = None if self._bias is None else np.abs(self._bias, dtype=np.float64)
        unit, tiny = np.finfo(problem.dtype).eps / 2, float(np.finfo(problem.dtype).smallest_subnormal)
        terms = problem.flops // max(2 * math.prod(problem.output_shape), 1) + 1
        factor = terms * unit / (1 - terms * unit)
        bound = np.empty(problem.output_shape)
        if self.algorithm in WINOGRADS:
            least, each = WINOGRAD_UNITS[self.algorithm] if problem.kernel[-1] == 3 else WIDE_WINOGRAD_UNITS
            groups = problem.groups
            factor = (least + each * (problem.c // groups) * math.prod(problem.kernel[:-2])) * unit
            top = ready.max(axis=tuple(range(2, ready.ndim)), initial=0).reshape(problem.n, groups, -1)
            filters = weight.reshape(groups, problem.k // groups, problem.c // groups, -1).sum(axis=3)
            sums = np.einsum("ngc,gkc->ngk", top, filters).reshape(problem.n, problem.k)
            bound[...] = (sums if bias is None else sums + bias)[(..., *(None,) * problem.rank)]
        elif bound.size:
            exact = replace(problem, dtype=np.dtype(np.float64), activation=None)
            choice = choose(exact, "conv", self.backend, precision="strict", function=self._function)
            packed = choice.backend.pack(exact, "conv", choice.algorithm, weight)
            choice.backend.conv(exact, choice.algorithm, ready, packed, bias, bound)
        # the magnitudes were summed with roundings of their own, and an activation may stretch and round once more
        factor *= 1 + 4 * terms * np.finfo(np.float64).eps
        if problem.activation is not None:
            factor = (factor + unit) * max(1.0, abs(problem.activation.slope))
        bound *= factor
        bound += terms * tiny
        return bound if self._batched else bound[0]

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

        threads = min(get_num_threads(), self._most_threads or MOST_THREADS)
        return workspace_bytes(self.problem, "conv", self._choice, threads)

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
    groups: object, activation: object, backend: str, algorithm: str, precision: str, workspace_limit: int | None,
    autotune: bool,
) -> ConvPlan:  # fmt: skip
    function = f"plan_conv{rank}d"
    problem, batched, w, b = rules.conv_shape(
        function, rank, input_shape, weight, bias, stride, padding, dilation, groups, activation
    )
    limit = None if workspace_limit is None else rules.integer(function, "workspace_limit", workspace_limit, 0)
    choice = choose(problem, "conv", backend, algorithm, precision, workspace_limit=limit, function=function)
    if rules.flag(function, "autotune", autotune) and algorithm == "auto" and problem.flops:
        choice = _tuned(function, problem, backend, precision, limit, w, b, choice)
    return ConvPlan(function, problem, batched, w, b, choice, limit)


def _tuned(
    function: str, problem: ConvProblem, backend: str, precision: str, limit: int | None, weight: Array,
    bias: Array | None, choice: Choice,
) -> Choice:  # fmt: skip
    """The choice by the clock, among all algorithms of the chosen backend that can do the problem within the limit."""
    from voxconv import __version__
    from voxconv.autotune import fastest
    from voxconv.runtime import runtime_info

    able = []
    for offered in choice.backend.algorithms:
        try:
            chosen = choose(problem, "conv", choice.backend.name, offered, precision, workspace_limit=limit)
        except ValueError:
            continue
        able.append((chosen.backend, chosen.algorithm))
    facts = runtime_info()
    known = f"voxconv {__version__}, {facts.get('isa', {}).get('used')}, {facts.get('threads')} threads"
    try:
        found = fastest(problem, able, weight, bias, known)
    except MemoryError:
        rule = "wants to try the problem on random input, which takes more memory than there is room for"
        raise MemoryError(rejection(function, "input_shape", problem.input_shape, f"autotune {rule}")) from None
    return Choice(*found, choice.candidates)


def plan_conv1d(
    input_shape: Sequence[int], weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default", workspace_limit: int | None = None,
    autotune: bool = False,
) -> ConvPlan:  # fmt: skip
    """Plan `conv1d` for inputs of one shape, (N, C, L) or (C, L).

    Parameters
    ----------
    input_shape : tuple of int
    weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
        As in `conv1d`; the weight is packed here, once.
    workspace_limit : int, optional
        Most bytes that a call may take besides input and result.  Fewer threads are used first; then another
        algorithm is chosen, by what one thread takes.  A ValueError says the least that would do.
    autotune : bool
        Time all algorithms that can do the problem, and take the fastest; remembered for this machine in the
        user's cache, or in ``VOXCONV_CACHE_DIR``.  The one exception to results that do not depend on the clock.

    Returns
    -------
    ConvPlan
    """
    return _plan(
        1, input_shape, weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision,
        workspace_limit, autotune,
    )  # fmt: skip


def plan_conv2d(
    input_shape: Sequence[int], weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default", workspace_limit: int | None = None,
    autotune: bool = False,
) -> ConvPlan:  # fmt: skip
    """Plan `conv2d` for inputs of one shape, (N, C, H, W) or (C, H, W).

    Parameters
    ----------
    input_shape : tuple of int
    weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
        As in `conv2d`; the weight is packed here, once.
    workspace_limit : int, optional
        Most bytes that a call may take besides input and result.  Fewer threads are used first; then another
        algorithm is chosen, by what one thread takes.  A ValueError says the least that would do.
    autotune : bool
        Time all algorithms that can do the problem, and take the fastest; remembered for this machine in the
        user's cache, or in ``VOXCONV_CACHE_DIR``.  The one exception to results that do not depend on the clock.

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
        2, input_shape, weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision,
        workspace_limit, autotune,
    )  # fmt: skip


def plan_conv3d(
    input_shape: Sequence[int], weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, stride: Sizes = 1,
    padding: Padding = 0, dilation: Sizes = 1, groups: int = 1, *, activation: ActivationLike = None,
    backend: str = "auto", algorithm: str = "auto", precision: str = "default", workspace_limit: int | None = None,
    autotune: bool = False,
) -> ConvPlan:  # fmt: skip
    """Plan `conv3d` for inputs of one shape, (N, C, D, H, W) or (C, D, H, W).

    Parameters
    ----------
    input_shape : tuple of int
    weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision
        As in `conv3d`; the weight is packed here, once.
    workspace_limit : int, optional
        Most bytes that a call may take besides input and result.  Fewer threads are used first; then another
        algorithm is chosen, by what one thread takes.  A ValueError says the least that would do.
    autotune : bool
        Time all algorithms that can do the problem, and take the fastest; remembered for this machine in the
        user's cache, or in ``VOXCONV_CACHE_DIR``.  The one exception to results that do not depend on the clock.

    Returns
    -------
    ConvPlan
    """
    return _plan(
        3, input_shape, weight, bias, stride, padding, dilation, groups, activation, backend, algorithm, precision,
        workspace_limit, autotune,
    )  # fmt: skip
