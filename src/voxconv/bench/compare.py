"""Two reports: what has become slower or faster, given the noise of both."""

from __future__ import annotations

from typing import Any

__all__ = ["as_text", "compare"]

LEAST_CHANGE = 0.05
"""Smaller changes are never called one, however quiet the runs were."""


def _timed(report: dict[str, Any]) -> dict[tuple[str, str, str], tuple[float, float]]:
    """By (layer, direction, contender): time, and its relative interquartile range.

    Where the peak was measured beside a layer, time counts in its operations, so that a machine
    which runs slower today does not look like a regression.
    """
    found = {}
    for layer in report["layers"]:
        unit = layer["probes"]["fma"] or 1.0
        for name, result in layer["results"].items():
            middle = result["median"]
            found[layer["layer"], layer["direction"], name] = middle * unit, (result["q3"] - result["q1"]) / middle
    return found


def compare(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Compare what both reports hold.

    Returns
    -------
    dict
        ``changes``: for each layer, direction and contender the ratio new / old of the times, the
        noise (both interquartile ranges, added as squares) and the verdict: "slower", "faster" or
        "same"; ``regressions``: how many of ours are slower; ``differs``: settings that are not alike.

    Raises
    ------
    ValueError
        The reports have nothing in common, or are of another format.
    """
    if old.get("format") != new["format"]:
        raise ValueError(f"the old report has the format {old.get('format')}, this one {new['format']}")
    before, after = _timed(old), _timed(new)
    changes = []
    for key in after:
        if key not in before:
            continue
        (then, noise_then), (now, noise_now) = before[key], after[key]
        ratio, noise = now / then, (noise_then**2 + noise_now**2) ** 0.5
        limit = 1 + max(LEAST_CHANGE, noise)
        verdict = "slower" if ratio > limit else "faster" if ratio < 1 / limit else "same"
        layer, direction, name = key
        change = {"layer": layer, "direction": direction, "contender": name}
        changes.append({**change, "ratio": ratio, "noise": noise, "verdict": verdict})
    if not changes:
        raise ValueError("the two reports have no layer and contender in common")
    subject = new["subject"]
    settings = ("cpu", "dtype", "threads", "memory")
    return {
        "changes": changes,
        "regressions": sum(c["verdict"] == "slower" and c["contender"] == subject for c in changes),
        "differs": {name: [old[name], new[name]] for name in settings if old[name] != new[name]},
    }


def as_text(comparison: dict[str, Any]) -> str:
    """Say what has changed."""
    lines = [f"The runs differ in {name}: {a} and {b}." for name, (a, b) in comparison["differs"].items()]
    changed = [c for c in comparison["changes"] if c["verdict"] != "same"]
    lines += [
        f"{c['contender']} is {c['verdict']} on {c['layer']} {c['direction']}: {c['ratio']:.2f} of the old time, "
        f"noise {c['noise']:.0%}"
        for c in changed
    ]
    same = len(comparison["changes"]) - len(changed)
    return "\n".join([*lines, f"{same} of {len(comparison['changes'])} times are the same within noise."])
