"""Why a convolution takes the algorithm that it takes, what it costs at least on this machine, and what it attains."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from voxconv import machine, runtime

if TYPE_CHECKING:
    from voxconv.plan import ConvPlan

__all__ = ["as_text", "attained", "roofline"]

SECONDS = 0.2
"""Time given to measuring a plan."""


def roofline(flops: int, size: int, dtype: str, gain: float) -> dict[str, Any]:
    """What the machine's ceilings say of a direct sum, and of an algorithm that saves operations.

    Parameters
    ----------
    flops, size : int
        Operations of the direct sum, and bytes of its arrays.
    dtype : str
    gain : float
        How many times fewer operations the algorithm is estimated to take.

    Returns
    -------
    dict
        ``threads``; ``peak_flops`` of all threads; ``level``, the nearest memory that holds the arrays, and its
        ``bandwidth`` in byte/s; ``floor_seconds`` of the direct sum, the longer of its arithmetic at the peak and of
        moving its arrays once, and which of the two it is (``bound``); ``gain``; ``predicted_seconds``, the same with
        the algorithm's operations, and ``predicted_share``, the floor in parts of it, above 1 where the algorithm
        saves operations.  Times are None without the compiled library, whose probe measures the peak.
    """
    threads = runtime.get_num_threads()
    ceilings = machine.ceilings(threads)
    level, bandwidth = machine.bandwidth(ceilings, size)
    facts = {"threads": threads, "level": level, "bandwidth": bandwidth, "gain": gain}
    moving, peak = size / bandwidth, ceilings["flops"][dtype]
    if peak is None:
        return {
            **facts,
            **dict.fromkeys(("peak_flops", "floor_seconds", "bound", "predicted_seconds", "predicted_share")),
        }
    floor, predicted = max(flops / peak, moving), max(flops / peak / gain, moving)
    return {
        **facts, "peak_flops": peak, "floor_seconds": floor,
        "bound": "arithmetic" if flops / peak >= moving else "bandwidth", "predicted_seconds": predicted,
        "predicted_share": floor / predicted if predicted else 1.0,
    }  # fmt: skip


def attained(plan: ConvPlan, floor: float | None) -> dict[str, Any]:
    """Run a plan for a moment.

    Returns
    -------
    dict
        ``seconds``, the median of calls with warm output memory, and ``attained_share``, the floor in parts of it.
    """
    problem = plan.problem
    x = np.random.default_rng(0).standard_normal(problem.input_shape).astype(problem.dtype)
    x = x.reshape(plan.input_shape)
    out = plan(x)  # aligned, as a call without `out` has it

    def reading() -> float:
        start = time.perf_counter()
        plan(x, out)
        return time.perf_counter() - start

    seconds = machine.sample(reading, SECONDS)
    return {"seconds": seconds, "attained_share": None if floor is None else floor / seconds}


def as_text(facts: dict[str, Any]) -> str:
    """Write the facts of `ConvPlan.explain` as lines."""
    walk = "stride {stride}, padding {padding}, dilation {dilation}, groups {groups}".format(**facts)
    lines = [
        "{operation} {input} * {weight} -> {output}, {dtype}".format(**facts),
        f"  {walk}",
        "  {:.4g} GFLOP, {:.4g} MB, {:.4g} FLOP per byte, workspace {:.4g} MB".format(
            facts["flops"] / 1e9, facts["bytes"] / 1e6, facts["intensity"], facts["workspace_bytes"] / 1e6
        ),
        "candidates, in order:",
    ]
    for c in facts["candidates"]:
        chosen = (c["backend"], c["algorithm"]) == (facts["backend"], facts["algorithm"])
        verdict = "chosen" if chosen else c["refusal"] or "would do; an earlier one is taken"
        lines.append(f"  {c['backend']:9} {c['algorithm']:9} {verdict}")
    if facts["floor_seconds"] is None:
        lines.append("floor: unknown, since the compiled library that measures the peak is missing")
    else:
        lines += [
            "floor of the direct sum: {}, set by {}: {:.4g} GFLOP/s on {}, {:.4g} GB/s from {}".format(
                _time(facts["floor_seconds"]), facts["bound"], facts["peak_flops"] / 1e9,
                "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads",
                facts["bandwidth"] / 1e9, facts["level"],
            ),
            f"predicted: {_time(facts['predicted_seconds'])}, {facts['predicted_share']:.0%} of the floor's speed"
            + (f", by an estimated {facts['gain']:.3g} times fewer operations" if facts["gain"] > 1 else ""),
        ]  # fmt: skip
    if "seconds" in facts:
        share = "" if facts["attained_share"] is None else f", {facts['attained_share']:.0%} of the floor's speed"
        speed = facts["flops"] / facts["seconds"] / 1e9
        lines.append(f"measured: {_time(facts['seconds'])}, {speed:.4g} GFLOP/s{share}")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.4g} us" if seconds < 1e-3 else f"{seconds * 1e3:.4g} ms"
