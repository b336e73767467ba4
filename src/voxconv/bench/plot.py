"""A report as a figure: the roofline with a dot for each layer and contender, and bars against peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from voxconv.bench.report import geomeans, rows
from voxconv.errors import MissingExtra

__all__ = ["plot"]


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw a report.

    Parameters
    ----------
    report : dict
        Of `run`.
    path : Path
        Where the figure goes; its suffix chooses the format.

    Raises
    ------
    MissingExtra
        Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "bench", "bench --plot") from None
    figure = Figure(figsize=(12, 5), layout="constrained")
    roof, bars = figure.subplots(1, 2)
    _roofline(roof, report)
    _bars(bars, report)
    figure.suptitle(f"{report['suite']}, {report['dtype']}, {report['threads']} thread(s), {report['cpu']}")
    figure.savefig(path)


def _roofline(axes: Any, report: dict[str, Any]) -> None:
    layers = report["layers"]
    for name in report["contenders"]:
        timed = [layer for layer in layers if name in layer["results"]]
        intensity = [layer["flops"] / layer["bytes"] for layer in timed]
        rate = [layer["flops"] / layer["results"][name]["median"] / 1e9 for layer in timed]
        axes.scatter(intensity, rate, s=14, label=name)
    intensities = [layer["flops"] / layer["bytes"] for layer in layers]
    span = np.geomspace(min(intensities), max(intensities), 50)
    copy = np.median([layer["probes"]["copy"] for layer in layers])
    peaks = [layer["probes"]["fma"] for layer in layers if layer["probes"]["fma"]]
    peak = np.median(peaks) if peaks else np.inf
    axes.plot(span, np.minimum(peak, span * copy) / 1e9, "k-", linewidth=1, label="peak and copy bandwidth")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s of the direct sum")
    axes.legend(fontsize="small")


def _bars(axes: Any, report: dict[str, Any]) -> None:
    table = rows(report)
    means = {name: mean for name, mean in geomeans(table).items() if name != "best"}
    width = 0.8 / max(len(means), 1)
    for i, (name, mean) in enumerate(means.items()):
        heights = [row.ratios[name] or np.nan for row in table]
        axes.bar(np.arange(len(table)) + i * width, heights, width, label=f"{name}: {mean:.2f}")
    axes.axhline(1, color="k", linewidth=1)
    axes.set_xticks(np.arange(len(table)) + 0.4, [row.layer for row in table], rotation=90, fontsize="x-small")
    axes.set(yscale="log", ylabel=f"times faster is {report['subject']}; geometric mean in the legend")
    if means:
        axes.legend(fontsize="small")
