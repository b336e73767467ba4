"""A report as a table that a person can read."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Row", "as_markdown", "as_text", "geomeans", "rows", "threads_of"]


NAMED = 4
"""Layers that a contender was left out of are named up to this many."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a table says of one layer; None where there is nothing to say.

    ``ratios`` tell how many times faster than each other contender the subject is, round by round,
    and their median; ``best`` is the smallest of those to peers.
    """

    layer: str
    gflops: float | None
    noise: float | None
    of_peak: float | None
    of_copy: float | None
    ratios: dict[str, float | None]
    best: float | None


def rows(report: dict[str, Any]) -> list[Row]:
    """Work out a table's numbers from a report of `run`."""
    subject = report["subject"]
    others = [name for name in report["contenders"] if name != subject]
    several = len(report["directions"]) > 1
    found = []
    for layer in report["layers"]:
        label = f"{layer['layer']} {layer['direction']}" if several else layer["layer"]
        results, probes = layer["results"], layer["probes"]
        own = results.get(subject)
        if own is None:
            found.append(Row(label, None, None, None, None, dict.fromkeys(others), None))
            continue
        seconds, peak, copy = own["median"], probes["fma"], probes["copy"]
        bound = peak is None or layer["bytes"] / copy > layer["flops"] / peak
        ratios = {name: _ratio(results[name], own) if name in results else None for name in others}
        known = [ratio for name in report["peers"] if (ratio := ratios[name]) is not None]
        found.append(
            Row(
                label, layer["flops"] / seconds / 1e9, (own["q3"] - own["q1"]) / seconds,
                None if peak is None else layer["flops"] / seconds / peak,
                layer["bytes"] / seconds / copy if bound else None, ratios, min(known, default=None),
            )
        )  # fmt: skip
    return found


def _ratio(other: dict[str, Any], own: dict[str, Any]) -> float:
    """Median of the ratios within each round: a slow stretch of the machine meets both."""
    return float(np.median([a / b for a, b in zip(other["samples"], own["samples"], strict=False)]))


def geomeans(table: Sequence[Row]) -> dict[str, float]:
    """Geometric mean of each column of ratios, "best" included."""
    columns = {name: [row.ratios[name] for row in table] for name in table[0].ratios} if table else {}
    columns["best"] = [row.best for row in table]
    logs = {name: [math.log(value) for value in column if value is not None] for name, column in columns.items()}
    return {name: math.exp(sum(values) / len(values)) for name, values in logs.items() if values}


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _cells(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    table = rows(report)
    others = [name for name in report["contenders"] if any(row.ratios.get(name) is not None for row in table)]
    head = ["layer", "GFLOP/s", "IQR", "of peak", "of copy", *others, "best"]
    body = [
        [row.layer, _number(row.gflops, ".1f"), _number(row.noise, ".0%"), _number(row.of_peak, ".0%"),
         _number(row.of_copy, ".0%"), *(_number(row.ratios[name], ".2f") for name in others), _number(row.best, ".2f")]
        for row in table
    ]  # fmt: skip
    means = geomeans(table)
    body.append(["geomean", "", "", "", "", *(_number(means.get(name), ".2f") for name in (*others, "best"))])
    return head, body


def _title(report: dict[str, Any]) -> str:
    where = threads_of(report) + (", pinned, CPU time" if report["threads"] == 1 else ", wall time")
    return (
        f"{report['suite']}, {' and '.join(report['directions'])}, {report['dtype']}, {where}, "
        f"{report['memory']} output memory, on {report['cpu']}"
    )


def _legend(report: dict[str, Any]) -> str:
    return (
        f"Speed of {report['subject']} with the direct sum's operations, the interquartile range of its times, its "
        "share of the multiply-add peak and, where memory binds, of the copy bandwidth, both measured beside the "
        "layer; then how many times faster it is than each other contender and than the best peer (below 1: slower)."
    )


def _batches(report: dict[str, Any]) -> list[str]:
    """How many images the layers have, where not all have one; the usual number goes without names."""
    named: dict[int, dict[str, None]] = {}
    for layer in report["layers"]:
        named.setdefault(layer["input"][0], {})[layer["layer"]] = None
    usual = max(named, key=lambda n: (len(named[n]), -n), default=1)
    parts = [f"{n} of {', '.join(named[n])}" for n in sorted(named) if n != usual]
    parts.append(f"{usual} of all others" if parts else str(usual))
    return [] if parts == ["1"] else [f"Images: {'; '.join(parts)}"]


def _refusals(report: dict[str, Any]) -> list[str]:
    """One line for each contender and reason, with the layers that it holds for; a few by name, more by number."""
    reasons: dict[tuple[str, str], list[str]] = {}
    table = rows(report)
    for layer, row in zip(report["layers"], table, strict=True):
        for name, reason in layer["refused"].items():
            reasons.setdefault((name, reason), []).append(row.layer)
    lines = []
    for (name, why), where in reasons.items():
        named = ", ".join(where) if len(where) <= NAMED else f"{len(where)} of {len(table)} layers"
        lines.append(f"{name} left out of {named}: {why}")
    return lines


def _contenders(report: dict[str, Any]) -> list[str]:
    return [
        f"{name} {facts['version']}: {facts['precision']}, {facts['layout']}, weights {facts['weights']}"
        + (f", {facts['isa']}" if "isa" in facts else "")
        for name, facts in report["contenders"].items()
    ]


def as_text(report: dict[str, Any]) -> str:
    """Lay a report out in columns."""
    head, body = _cells(report)
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [
        "  ".join(f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(cells)) for cells in (head, *body)
    ]
    notes = [_legend(report), *_contenders(report), *_batches(report), *_refusals(report)]
    return "\n".join([_title(report), *lines, *notes])


def as_markdown(reports: Sequence[dict[str, Any]], picture: str | None = None) -> str:
    """Lay reports out as a page, a section each; ``picture`` is the path of the first one's figure."""
    lines = ["# Benchmarks", "", *_machine(reports[0])]
    for i, report in enumerate(reports):
        head, body = _cells(report)
        table = [head, ["---", *["--:"] * (len(head) - 1)], *body]
        directions = {"input": "gradient to the input", "weight": "gradient to the weight", "step": "training step"}
        title = " and ".join(directions.get(name, name) for name in report["directions"])
        lines += ["", f"## {report['suite']}, {title}, {threads_of(report)}", "", f"{_title(report)}.", ""]
        if picture is not None and i == 0:
            lines += [f"![Roofline, and bars against peers]({picture})", ""]
        lines += ["| " + " | ".join(cells) + " |" for cells in table]
        lines += ["", *(f"* {line}" for line in (*_batches(report), *_refusals(report)))]
    contenders = dict.fromkeys(line for report in reports for line in _contenders(report))
    text = [_legend(reports[0]), "", *(f"* {line}" for line in contenders)]
    page = [*lines, "", "## How to read this", "", *text]
    return "\n".join(part for line in page for part in _wrapped(line)) + "\n"


def threads_of(report: dict[str, Any]) -> str:
    """How many threads, in words."""
    return "1 thread" if report["threads"] == 1 else f"{report['threads']} threads"


def _machine(report: dict[str, Any]) -> list[str]:
    runtime, machine = report["runtime"], report["machine"]
    peaks = ", ".join(f"{dtype} {peak / 1e9:.0f} GFLOP/s" for dtype, peak in machine["flops"].items() if peak)
    levels = ", ".join(f"{level['name']} {level['bandwidth'] / 1e9:.0f} GB/s" for level in machine["levels"])
    system = runtime["platform"].partition("-")[0] + (f", {runtime['isa']['used']}" if runtime["native"] else "")
    return [
        f"Machine: **{report['cpu']}**, {system}. Multiply-add peak of {threads_of(report)}: "
        f"{peaks or 'not measured'}. Copy bandwidth, read and written: {levels}. voxconv {runtime['voxconv']}, "
        f"Python {runtime['python']}, NumPy {runtime['numpy']}; measured from {report['began']} UTC.",
        "",
        "Made by `make docs-bench`; never edited by hand.",
    ]


def _wrapped(line: str) -> list[str]:
    """Lines of at most 120 columns; tables stay as they are."""
    return [line] if line.startswith("|") or not line else textwrap.wrap(line, 120, break_on_hyphens=False)
