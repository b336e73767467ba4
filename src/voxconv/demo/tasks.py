"""The tasks, each from several seeds: figures with their mean and spread, what they must reach, and one picture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from voxconv.imaging.figures import new_figure
from voxconv.nn import progress

__all__ = ["TASKS", "as_table", "as_text", "run", "run_all"]

FIRST_SEED = 3000
"""Figures for some smaller seeds were seen while decoys, networks and rates were chosen; for these none were."""

TASKS = ("classify", "detect", "segment", "reconstruct", "digits")

# What each figure must be at least, or at most where the figure is the classical method's (else the task is too easy)
# or a time; means over the seeds, on the data that come with it.  Set before the networks were trained.
LEAST = {
    "classify": {"auc_2d": 0.95, "auc_3d": 0.95},
    "detect": {"sensitivity_at_1": 0.9},
    "segment": {"dice_2d": 0.85, "dice_3d": 0.8},
    "reconstruct": {"gain_over_noisy_db": 3.0, "gain_over_classical_db": 1.0},
    "digits": {"accuracy": 0.98},
}
MOST = {
    "classify": {"baseline_auc_2d": 0.85, "baseline_auc_3d": 0.85, "seconds": 180.0},
    "detect": {"baseline_sensitivity_at_1": 0.65, "seconds": 180.0},
    "segment": {"baseline_dice_2d": 0.6, "baseline_dice_3d": 0.6, "seconds": 180.0},
    "reconstruct": {"seconds": 180.0},
    "digits": {"seconds": 20.0},
}

MEANING = {
    "auc": "area under the ROC curve",
    "auc_low": "  lower end of its 95% bootstrap interval",
    "auc_high": "  upper end of it",
    "baseline_auc": "  the matched filter's area",
    "sensitivity_at_1": "lesions found at 1 false positive an image",
    "baseline_sensitivity_at_1": "  by the matched filter",
    "hit_distance_mm": "distance of a hit from the lesion's centre, mm",
    "dice": "Dice",
    "baseline_dice": "  Dice of the smoothed threshold",
    "dice_elsewhere": "  Dice on another scan",
    "surface_mm": "mean distance between surfaces, mm",
    "real_outline_hit": "real outline hit (1) or missed (0)",
    "real_outline_response": "highest probability inside the real outline",
    "real_slice_other_peaks": "peaks elsewhere in the slice as it is",
    "real_outline_share": "share of the real outline that is marked",
    "body_share": "share of the body that is marked in the slice as it is",
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "gain_over_noisy_db": "network over the noisy image, dB",
    "gain_over_classical_db": "network over the best classical method, dB",
    "accuracy": "digits read rightly",
    "baseline_accuracy": "  by logistic regression",
    "epoch": "epoch that validated best",
    "seconds": "seconds to train and test once",
}


def _meaning(name: str) -> str:
    """Words for a figure: an exact name, or a stem with the dimension or the method behind it."""
    if name in MEANING:
        return MEANING[name]
    if name.endswith(("_2d", "_3d")):
        return f"{MEANING[name[:-3]]}, {name[-2]}-D"
    stem, _, method = name.partition("_")
    return f"{MEANING[stem]}, {method.replace('_', ' ')}"


def _summary(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean, standard deviation and single values of each figure; None stands for a figure that a run has not got."""
    result = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        known = [value for value in values if math.isfinite(value)]
        result[name] = {
            "mean": float(np.mean(known)) if known else None,
            "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None,
            "values": [value if math.isfinite(value) else None for value in values],
        }
    return result


def run(
    task: str,
    out: Path,
    data: Path | None = None,
    seeds: int = 3,
    settings: Any = None,
    show: Callable[[Iterable[int], int, str], Iterable[int]] | None = progress,
) -> dict[str, Any]:
    """Train and test from several seeds, and draw the first.

    Parameters
    ----------
    task : str
        One of `TASKS`.
    out : Path
        The PNG to write.
    data : Path, optional
        A DICOM file, a folder with a DICOM series, or a NIfTI file; by default the example scans.
    seeds : int
        How often to train, from the random numbers of `FIRST_SEED` and the seeds after it.
    settings : Settings, optional
        The task's own: how long to train, how much to test.
    show : function or None
        Shows the progress, as in `voxconv.nn.fit`.

    Returns
    -------
    dict
        The findings, ready for ``json.dumps``.
    """
    start = time.perf_counter()
    module = import_module(f"voxconv.demo.{task}")
    settings = settings or module.Settings()
    new_figure(1, 1)  # a missing matplotlib is said before the training, not after it
    runs, first = [], None
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        began = time.perf_counter()
        figures, view = module.once(data, seed, settings, show)
        runs.append(figures | {"seconds": time.perf_counter() - began})
        first = view if first is None else first
    found = _summary(runs)
    module.draw(first, found, out)
    return {
        "task": task,
        "question": module.QUESTION,
        "data": ("digits" if task == "digits" else "example scans") if data is None else str(data),
        **({} if task == "digits" else {"noise" if task == "reconstruct" else "lesions": "synthetic"}),
        "notes": module.notes(data),
        "seeds": list(range(FIRST_SEED, FIRST_SEED + seeds)),
        "figures": found,
        "picture": str(out),
        "seconds": time.perf_counter() - start,
    }


def as_text(found: dict[str, Any]) -> str:
    """Put the findings into lines."""
    lines = [f"{found['question']} ({found['data']})", *(f"  {note}" for note in found["notes"]), ""]
    count = len(found["seeds"])
    lines.append(f"{'':52}{'mean':>9}{'spread':>9}   {count} seed{'s' * (count > 1)}")
    for name, figure in found["figures"].items():
        mean, spread = ("-" if v is None else f"{v:.3f}" for v in (figure["mean"], figure["spread"]))
        values = " ".join("-" if value is None else f"{value:.3f}" for value in figure["values"])
        lines.append(f"{_meaning(name):52}{mean:>9}{spread:>9}   {values}")
    lines += ["", f"Picture: {found['picture']} (all in {found['seconds']:.0f} s)"]
    if "lesions" in found:
        lines.append("The lesions are synthetic; this is no medical result.")
    return "\n".join(lines)


def run_all(out: Path, seeds: int = 3, settings: dict[str, Any] | None = None, show: Any = progress) -> dict[str, Any]:
    """Run every task on the data that come with it, as `run` does; pictures get the task's name behind ``out``'s."""
    settings = settings or {}
    found = [
        run(task, out.with_stem(f"{out.stem}-{task}"), None, seeds, settings.get(task), show) for task in TASKS
    ]  # fmt: skip
    rows = []
    for each in found:
        for sign, limits in ((">=", LEAST[each["task"]]), ("<=", MOST[each["task"]])):
            for name, limit in limits.items():
                mean = each["figures"][name]["mean"]
                kept = mean >= limit if sign == ">=" else mean <= limit
                rows.append({"task": each["task"], "figure": name, "sign": sign, "limit": limit, "kept": bool(kept)})
    return {"tasks": {each["task"]: each for each in found}, "must": rows, "kept": all(row["kept"] for row in rows)}


def as_table(found: dict[str, Any]) -> str:
    """Put what must be reached beside what was, one line for each figure."""
    lines = [f"{'task':12} {'figure':47} {'must be':>10} {'mean':>8} {'spread':>8}"]
    for row in found["must"]:
        figure = found["tasks"][row["task"]]["figures"][row["figure"]]
        spread = "-" if figure["spread"] is None else f"{figure['spread']:.3f}"
        lines.append(
            f"{row['task']:12} {_meaning(row['figure']).strip():47} {row['sign']:>3}{row['limit']:7.2f} "
            f"{figure['mean']:8.3f} {spread:>8}  {'' if row['kept'] else 'MISSED'}".rstrip()
        )
    count = len(next(iter(found["tasks"].values()))["seeds"])
    lines += ["", f"{count} seeds; the lesions and the CT's noise are synthetic, and this is no medical result."]
    lines += [f"Picture: {each['picture']}" for each in found["tasks"].values()]
    return "\n".join(lines)
