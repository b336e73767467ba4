"""A report as a figure: the roofline with a dot for each layer and contender, and bars against peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from voxconv.bench.report import geomeans, rows, threads_of

__all__ = ["plot"]

RATIOS = (0.2, 10)
"""What the bars' axis spans; a longer one is cut."""


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw a report.

    Parameters
    ----------
    report : dict
        Of `run`.
    path : Path
        Where the figure goes; its suffix chooses the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.3 * len(report["layers"]) + 5, 9), layout="constrained")
    roof, bars = figure.subplots(2, 1)
    colours = {name: f"C{i}" for i, name in enumerate(report["contenders"])}
    _roofline(roof, report, colours)
    _bars(bars, report, colours)
    what = f"{report['suite']}, {' and '.join(report['directions'])}, {report['dtype']}"
    figure.suptitle(f"{what}, {threads_of(report)}, {report['cpu']}")
    figure.savefig(path)


def _roofline(axes: Any, report: dict[str, Any], colours: dict[str, str]) -> None:
    layers = report["layers"]
    for name, colour in reversed(colours.items()):  # the subject last, on top
        timed = [layer for layer in layers if name in layer["results"]]
        intensity = [layer["flops"] / layer["bytes"] for layer in timed]
        rate = [layer["flops"] / layer["results"][name]["median"] / 1e9 for layer in timed]
        own = name == report["subject"]
        axes.scatter(intensity, rate, s=36 if own else 14, color=colour, edgecolors="k" if own else "none", label=name)
    intensities = [layer["flops"] / layer["bytes"] for layer in layers]
    span = np.geomspace(min(intensities) / 1.2, max(intensities) * 1.2, 200)
    copy = np.median([layer["probes"]["copy"] for layer in layers])
    peaks = [layer["probes"]["fma"] for layer in layers if layer["probes"]["fma"]]
    peak = np.median(peaks) if peaks else np.inf
    axes.plot(span, np.minimum(peak, span * copy) / 1e9, "k-", linewidth=1, label="peak and copy bandwidth")
    axes.set(xlabel="operations of the direct sum per byte of its arrays", ylabel="GFLOP/s of the direct sum")
    axes.set(xscale="log", yscale="log")
    _finish(axes)


def _bars(axes: Any, report: dict[str, Any], colours: dict[str, str]) -> None:
    table = rows(report)
    means = {name: mean for name, mean in geomeans(table).items() if name != "best"}
    width = 0.8 / max(len(means), 1)
    for i, (name, mean) in enumerate(means.items()):
        heights = np.array([row.ratios[name] or np.nan for row in table])
        places = np.arange(len(table)) + (i + 0.5) * width - 0.4
        axes.bar(places, heights - 1, width, bottom=1, color=colours[name], label=f"{name}: {mean:.2f}")
    axes.axhline(1, color="k", linewidth=1)
    axes.set_xticks(np.arange(len(table)), [row.layer for row in table], rotation=90, fontsize="small")
    axes.set(yscale="log", ylim=RATIOS, xlim=(-0.6, len(table) - 0.4))
    axes.set(ylabel=f"times faster is {report['subject']}\n(geometric mean in the legend)")
    _finish(axes)


def _finish(axes: Any) -> None:
    """Plain numbers, a grid behind, the legend beside."""
    from matplotlib.ticker import LogLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:  # matplotlib warns of a legend without entries
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
