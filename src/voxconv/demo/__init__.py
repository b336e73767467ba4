"""``voxconv demo``: from a real MR slice to a trained network, and one picture of it.  Needs ``voxconv[imaging]``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from voxconv.bench import report
from voxconv.bench.run import installed_backends
from voxconv.bench.run import run as bench
from voxconv.demo.experiment import Experiment, Settings
from voxconv.demo.picture import draw
from voxconv.imaging import example_slice
from voxconv.imaging.figures import new_figure
from voxconv.nn import progress

__all__ = ["Settings", "as_text", "run"]

COMMON = 0.05
"""A response that more than this share of places shows means nothing."""


def run(out: Path, backend: str = "auto", settings: Settings | None = None, timings: bool = True) -> dict[str, Any]:
    """Do the experiment, write the picture, and time a few layers.

    Parameters
    ----------
    out : Path
        The PNG to write.
    backend : str
        As in `voxconv.conv2d`.
    settings : Settings, optional
        Difficulty and length.
    timings : bool
        Whether to time layers on every backend at the end.

    Returns
    -------
    dict
        The findings, ready for ``json.dumps``.
    """
    start = time.perf_counter()
    settings = settings or Settings()
    source = example_slice()
    new_figure(1, 1)  # a missing matplotlib is said before the training, not after it
    experiment = Experiment(source, settings, backend)
    train = experiment.draw(experiment.train_centres, settings.train_patches)
    validation = experiment.draw(experiment.validation_centres, settings.asked_patches)
    test = experiment.draw(experiment.test_centres, settings.asked_patches)
    outcome = experiment.run(train, validation, test, progress)
    draw(experiment, outcome, *test, out)
    seconds = time.perf_counter() - start
    return {
        "slice": {"title": source.title, "shape": list(source.pixels.shape), "spacing_mm": list(source.spacing)},
        "lesions": "synthetic",
        "training": {
            "part": _part(settings.train_columns),
            "patches": settings.train_patches,
            "steps": len(outcome.losses),
            "first_loss": outcome.losses[0],
            "last_loss": outcome.losses[-1],
            "accuracy": outcome.train_accuracy,
            "seconds": outcome.train_seconds,
        },
        "validation": {
            "part": _part(settings.validation_columns),
            "patches": settings.asked_patches,
            "accuracy": outcome.validation_accuracy,
        },
        "test": {
            "part": _part(settings.test_columns),
            "patches": settings.asked_patches,
            "accuracy": outcome.test_accuracy,
            "sensitivity": outcome.sensitivity,
            "specificity": outcome.specificity,
        },
        "response": {
            "peak_px": list(outcome.peak.voxel),
            "peak_mm": list(outcome.peak.offset_mm),
            "peak_patient_mm": outcome.peak.patient_mm.tolist(),
            "distance_to_outline_px": outcome.distance,
            "distance_to_outline_mm": outcome.distance_mm,
            "inside_outline": outcome.inside,
            "highest_inside_outline": outcome.outline_response,
            "as_high_elsewhere": outcome.as_high_elsewhere,
        },
        "picture": str(out),
        "backend": backend,
        "seconds": seconds,
        "timings": _timings() if timings else None,
    }


def _part(columns: tuple[int, int]) -> str:
    return f"columns {columns[0]} to {columns[1] - 1}"


def _timings() -> dict[str, Any]:
    """Times of the demo's own layers on every backend that is there."""
    return bench("demo", ["forward"], installed_backends(), [], seconds=0.5)


def as_text(found: dict[str, Any]) -> str:
    """Put the findings into sentences."""
    train, validation, test, response = (found[name] for name in ("training", "validation", "test", "response"))
    rows, columns = found["slice"]["shape"]
    peak, peak_mm = response["peak_px"], response["peak_mm"]
    lines = [
        f"Slice: {found['slice']['title']}, {rows} x {columns} pixels of {found['slice']['spacing_mm'][0]:.3f} mm.",
        f"Trained on {train['patches']} patches from {train['part']};",
        f"  every second one holds a synthetic lesion. {train['steps']} steps took {train['seconds']:.1f} s; the loss",
        f"  went from {train['first_loss']:.3f} to {train['last_loss']:.3f}, accuracy there {train['accuracy']:.1%}.",
        f"Validation ({validation['patches']} patches from {validation['part']}): accuracy"
        f" {validation['accuracy']:.1%}.",
        "  Contrast, noise and length of training were chosen while looking at this part.",
        f"Test ({test['patches']} patches from {test['part']}, used for no choice and no training): accuracy"
        f" {test['accuracy']:.1%};",
        f"  synthetic lesions found {test['sensitivity']:.1%},"
        f" patches without one recognised {test['specificity']:.1%}. Parts differ in tissue, and so in difficulty.",
        f"Over the whole slice the response peaks at row {peak[0]}, column {peak[1]}"
        f" ({peak_mm[0]:.1f} mm down, {peak_mm[1]:.1f} mm across).",
        f"  From the outline drawn in the file that is {response['distance_to_outline_px']:.1f} px"
        f" = {response['distance_to_outline_mm']:.1f} mm, {'inside' if response['inside_outline'] else 'outside'} it;"
        f" the highest response inside is {response['highest_inside_outline']:.2f}.",
        f"  {response['as_high_elsewhere']:.0%} of equally large boxes elsewhere in the body hold as high a response: "
        + ("so it is no finding." if response["as_high_elsewhere"] > COMMON else "rare, though by no means a finding."),
        "  A response says that a place is brighter than what lies beside it, as a vessel or the liver's rim is too.",
        "  The network was shown synthetic lesions only, and one slice proves nothing: this is no medical result.",
        f"Picture: {found['picture']} (all in {found['seconds']:.1f} s)",
    ]
    if found["timings"]:
        lines += ["", report.as_text(found["timings"])]
    return "\n".join(lines)
