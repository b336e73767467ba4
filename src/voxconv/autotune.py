"""The fastest of several algorithms by the clock, remembered for this machine.

A choice by the clock is the one exception to results that depend on the problem alone, so it is made only where a plan
asks for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.backends import Backend
from voxconv.memory import empty
from voxconv.problem import ConvProblem

__all__ = ["cache_path", "fastest"]

Candidate = tuple[Backend, str]

SECONDS = 0.2
"""Time to spend on each candidate, about."""


def cache_path() -> Path | None:
    """Where choices are remembered: ``VOXCONV_CACHE_DIR``, else the user's cache; None for a user without a home."""
    folder = os.environ.get("VOXCONV_CACHE_DIR")
    if folder:
        return Path(folder) / "autotune.json"
    with contextlib.suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voxconv" / "autotune.json"
    return None


@cache
def _machine() -> str:
    """What a choice by the clock holds for, threads apart."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{platform.machine()} {model}"


def _key(problem: ConvProblem, candidates: Sequence[Candidate], facts: str) -> str:
    names = ",".join(f"{backend.name}:{algorithm}" for backend, algorithm in candidates)
    shape = (
        problem.n, problem.c, problem.k, problem.groups, problem.spatial, problem.kernel, problem.stride,
        problem.padding, problem.dilation, problem.output, problem.dtype.name,
    )  # fmt: skip
    return f"{_machine()} | {facts} | {names} | {shape}"


def _read(path: Path | None) -> dict[str, str]:
    """All choices on file; none where it is missing, unreadable or not ours."""
    try:
        found = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _remember(path: Path | None, key: str, value: str) -> None:
    """Add a choice; a place that cannot be written costs the memory, never the call."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(_read(path) | {key: value}, file)
        os.replace(file.name, path)


def fastest(
    problem: ConvProblem, candidates: Sequence[Candidate], weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None,
    facts: str, clock: Callable[[], float] = time.perf_counter,
) -> Candidate:  # fmt: skip
    """Time the candidates in turns on random input, or remember who won.

    Parameters
    ----------
    problem : ConvProblem
    candidates : sequence of (backend, algorithm)
        Each can do the problem.
    weight, bias : ndarray
        As the plan has them.
    facts : str
        What else the time depends on: version, instruction set, threads.
    clock : callable
        Seconds.

    Returns
    -------
    (backend, algorithm)
    """
    by_name = {f"{backend.name}:{algorithm}": (backend, algorithm) for backend, algorithm in candidates}
    path, key = cache_path(), _key(problem, candidates, facts)
    known = by_name.get(_read(path).get(key, ""))
    if known is not None or len(candidates) == 1:
        return known or candidates[0]
    x = np.random.default_rng(0).standard_normal(problem.input_shape, problem.dtype.type)
    out = empty(problem.output_shape, problem.dtype)
    packed = [backend.pack(problem, "conv", algorithm, weight) for backend, algorithm in candidates]
    seconds: list[list[float]] = [[] for _ in candidates]
    rounds, done = 2, 0
    while done < rounds:
        for i, (backend, algorithm) in enumerate(candidates):
            start = clock()
            backend.conv(problem, algorithm, x, packed[i], bias, out)
            seconds[i].append(clock() - start)
        done += 1
        if done == 1:  # it also compiled and touched the memory
            slowest = max(times.pop() for times in seconds)
            rounds = 1 + max(1, min(20, int(SECONDS / max(slowest, 1e-6))))
    medians = [statistics.median(times) for times in seconds]
    best = candidates[medians.index(min(medians))]
    _remember(path, key, f"{best[0].name}:{best[1]}")
    return best
