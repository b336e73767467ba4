"""The four tasks, each from several seeds: figures with their mean and spread, and one picture."""

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

__all__ = ["TASKS", "as_text", "run"]

TASKS = ("classify", "detect", "segment", "reconstruct")

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
        How often to train, from the random numbers of seeds 0, 1, ...
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
    runs, seconds, first = [], [], None
    for seed in range(seeds):
        began = time.perf_counter()
        figures, view = module.once(data, seed, settings, show)
        seconds.append(time.perf_counter() - began)
        runs.append(figures)
        first = view if first is None else first
    found = _summary(runs)
    module.draw(first, found, out)
    return {
        "task": task,
        "question": module.QUESTION,
        "data": "example scans" if data is None else str(data),
        "lesions" if task != "reconstruct" else "noise": "synthetic",
        "notes": module.notes(data),
        "seeds": list(range(seeds)),
        "figures": found,
        "picture": str(out),
        "seconds_per_seed": seconds,
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
    if found["task"] != "reconstruct":
        lines.append("The lesions are synthetic; this is no medical result.")
    return "\n".join(lines)
