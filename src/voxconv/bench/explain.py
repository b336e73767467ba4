"""Why a convolution takes the algorithm that it takes, what it costs at least, and what it attains."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from voxconv import runtime
from voxconv.bench import machine, probes
from voxconv.plan import ConvPlan

__all__ = ["as_text", "explain"]

SECONDS = 0.3
"""Time given to measuring the plan."""


def explain(plan: ConvPlan) -> dict[str, Any]:
    """Say what a plan says of itself, its floor time on this machine, and what it attains here.

    Returns
    -------
    dict
        ``plan.explain(as_dict=True)``, and: ``peak_flops`` of the direct sum on all threads, ``level``
        (the nearest memory that holds the arrays) and its ``bandwidth``, ``floor_seconds`` (the longer
        of the two), ``bound`` ("arithmetic" or "bandwidth"), ``seconds`` (the median of a few calls with
        warm output memory) and ``attained`` (floor / seconds; above 1 where an algorithm saves
        operations).  Times are None without the compiled library, whose probe measures the peak.
    """
    facts, ceilings = plan.explain(as_dict=True), machine.ceilings()
    threads = runtime.get_num_threads()
    level, bandwidth = machine.bandwidth(ceilings, facts["bytes"])
    peak = ceilings["flops"][facts["dtype"]]
    arithmetic, moving = facts["flops"] / (peak * threads) if peak else None, facts["bytes"] / bandwidth
    seconds = _median_seconds(plan)
    floor = None if arithmetic is None else max(arithmetic, moving)
    return {
        **facts,
        "threads": threads,
        "peak_flops": peak and peak * threads,
        "level": level,
        "bandwidth": bandwidth,
        "floor_seconds": floor,
        "bound": None if arithmetic is None else "arithmetic" if arithmetic >= moving else "bandwidth",
        "seconds": seconds,
        "attained": floor and floor / seconds,
    }


def _median_seconds(plan: ConvPlan) -> float:
    x = np.random.default_rng(0).standard_normal(plan.problem.input_shape).astype(plan.problem.dtype)
    out = np.empty(plan.problem.output_shape, plan.problem.dtype)

    def reading() -> float:
        start = time.perf_counter()
        plan(x, out)
        return time.perf_counter() - start

    reading()
    return probes.sample(reading, SECONDS)


def as_text(plan: ConvPlan, facts: dict[str, Any]) -> str:
    """Write `explain`'s facts below the plan's own."""
    lines = [plan.explain()]
    if facts["floor_seconds"] is None:
        lines.append("floor: unknown, since the compiled library that measures the peak is missing")
    else:
        lines.append(
            f"floor: {facts['floor_seconds'] * 1e6:.4g} us, set by {facts['bound']}: "
            f"{facts['peak_flops'] / 1e9:.4g} GFLOP/s on {facts['threads']} thread(s), "
            f"{facts['bandwidth'] / 1e9:.4g} GB/s from {facts['level']}"
        )
    speed = facts["flops"] / facts["seconds"] / 1e9
    share = "" if facts["attained"] is None else f", {facts['attained']:.0%} of the floor's speed"
    return "\n".join([*lines, f"measured: {facts['seconds'] * 1e6:.4g} us, {speed:.4g} GFLOP/s{share}"])
