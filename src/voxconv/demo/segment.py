"""Which voxels are lesion?  A U-Net in 2-D and 3-D beside the best smoothed threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import nn
from voxconv.demo import maps
from voxconv.demo.lesions import Anatomy, Scene, planar, solid, stranger
from voxconv.demo.maps import Settings
from voxconv.demo.training import NOTE, Show
from voxconv.imaging.figures import new_figure, save, show_pixels, show_slice

__all__ = ["Settings", "View", "draw", "notes", "once"]

Array = npt.NDArray[Any]

QUESTION = "Which voxels belong to a synthetic lesion?"


@dataclass(frozen=True, slots=True)
class View:
    """What the picture shows of one dimension."""

    anatomy: Anatomy
    scene: Scene
    network: Array
    classical: Array
    whole: Array | None


def _asked(
    model: nn.Module, anatomy: Anatomy, count: int, lesions: int, rng: np.random.Generator
) -> tuple[list[Scene], list[Array]]:
    """Scenes of the test half, and what the network marks in each where a lesion may lie."""
    near = anatomy.near[anatomy.parts["test"]]
    scenes = [anatomy.scene("test", lesions, rng) for _ in range(count)]
    return scenes, [(maps.probability(model, scene.image) > 0.5) & near for scene in scenes]


def _dice(found: list[Array], scenes: list[Scene]) -> float:
    return float(np.mean([maps.dice(f, scene.mask) for f, scene in zip(found, scenes, strict=True)]))


def _learn(
    anatomy: Anatomy, seed: int, settings: Settings, show: Show, other: Anatomy | None = None
) -> tuple[dict[str, float], View]:
    rank = anatomy.image.ndim
    model, epoch = maps.learn(anatomy, seed, settings, "segment", show)
    classical = maps.smoothed_threshold(anatomy, settings, seed)
    rng = np.random.default_rng([seed, rank, 1])
    near = anatomy.near[anatomy.parts["test"]]
    count = settings.scenes // (1 if rank == 2 else 2)
    scenes, found = _asked(model, anatomy, count, settings.lesions, rng)
    plain = [classical(scene.image, near) for scene in scenes]
    spacing = anatomy.scan.spacing
    distances = [maps.surface_distance(f, s.mask, spacing) for f, s in zip(found, scenes, strict=True) if f.any()]
    figures = {
        "dice": _dice(found, scenes),
        "baseline_dice": _dice(plain, scenes),
        "surface_mm": float(np.mean(distances)) if distances else float("nan"),
        "epoch": epoch,
    }
    if other is not None:
        strange, marks = _asked(model, other, count, settings.lesions, rng)
        figures["dice_elsewhere"] = _dice(marks, strange)
    figures = {f"{name}_{rank}d": value for name, value in figures.items()}
    marked, whole = anatomy.scan.marked, None
    if marked.ndim and marked.any():
        whole = maps.probability(model, anatomy.image) > 0.5
        figures |= {
            "real_outline_share": float(whole[marked].mean()),
            "real_outline_hit": float(whole[marked].any()),
            "body_share": float(whole[anatomy.body].mean()),
        }
    return figures, View(anatomy, scenes[0], found[0], plain[0], whole)


def once(data: Path | None, seed: int, settings: Settings, show: Show) -> tuple[dict[str, float], list[View]]:
    """Train and test once, on a slice and (where there is one) on a volume."""
    figures: dict[str, float] = {}
    views = []
    for anatomy in (planar("segment", data), solid("segment", data)):
        if anatomy is not None:
            other = stranger("segment") if data is None and anatomy.image.ndim == 3 else None
            found, view = _learn(anatomy, seed, settings, show, other)
            figures |= found
            views.append(view)
    return figures, views


def notes(data: Path | None) -> list[str]:
    """What was trained and tested on."""
    if data is not None:
        return ["Trained on the left half of the image, tested on its right half.", NOTE]
    return [
        "2-D: abdominal MR slice, trained on the patient's right half without the outlined region, tested on the left.",
        "3-D: MR volume of a head, trained on the right half of the head, tested on the left half.",
        NOTE,
        "Another scan: half of a small MR volume of a brain, taken in another way; no part of it trains.",
        "Real outline: what the 2-D network marks of the lesion that the file outlines. One case, it proves nothing.",
    ]


def draw(views: list[View], figures: dict[str, Any], path: Path) -> None:
    """Write the picture: for each dimension the image, the truth, both answers; then the real slice."""
    rows = len(views) + (views[0].whole is not None)
    figure = new_figure(12, 0.8 + 4.2 * rows)
    figure.suptitle(f"{QUESTION} U-Net against smoothed threshold (all inserted lesions are SYNTHETIC)", fontsize=13)
    grid = figure.add_gridspec(rows, 3, left=0.02, right=0.98, top=0.93, bottom=0.02, hspace=0.12, wspace=0.04)
    for row, view in enumerate(views):
        image, masks = view.scene.image, [view.scene.mask, view.network, view.classical]
        if image.ndim == 3:
            level = int(view.scene.mask.sum(axis=(1, 2)).argmax())
            image, masks = image[level], [mask[level] for mask in masks]
        rank = view.scene.image.ndim
        titles = [
            f"{rank}-D test image; green: where the synthetic lesions are",
            f"red: U-Net, Dice {figures[f'dice_{rank}d']['mean']:.2f}, "
            f"surface {figures[f'surface_mm_{rank}d']['mean'] or float('nan'):.1f} mm",
            f"blue: smoothed threshold, Dice {figures[f'baseline_dice_{rank}d']['mean']:.2f}",
        ]
        for column, (mask, title, colour) in enumerate(zip(masks, titles, ("lime", "red", "dodgerblue"), strict=True)):
            axes = figure.add_subplot(grid[row, column])
            show_pixels(axes, image, window=(-1.5, 3.5))
            if mask.any():
                axes.contour(mask, [0.5], colors=colour, linewidths=1.2)
            axes.set_title(title, fontsize=9)
    whole, scan = views[0].whole, views[0].anatomy.scan
    if whole is not None:
        axes = figure.add_subplot(grid[rows - 1, :2])
        show_slice(
            axes, scan, "The slice as it is, nothing inserted. Yellow: outline in the file; red: marked by the U-Net"
        )
        if whole.any():
            axes.contour(whole, [0.5], colors="red", linewidths=1)
        text = (
            f"Of the outlined region, which no training image\ncontained, the U-Net marks "
            f"{figures['real_outline_share']['mean']:.0%} (mean of the runs),\n"
            f"and {figures['body_share']['mean']:.0%} of the body as a whole.\n"
            "One slice proves nothing: the network has\nonly ever seen synthetic lesions."
        )
        figure.text(0.69, 0.5 / rows, text, fontsize=10, va="center", linespacing=1.5)
    save(figure, path)
