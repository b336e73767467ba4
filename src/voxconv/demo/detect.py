"""Where are the lesions?  A U-Net's heat map and boxes, and its free-response curve beside a matched filter's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.demo import maps
from voxconv.demo.lesions import FILTERS, Anatomy, Scene, matched_filter, planar
from voxconv.demo.maps import Settings
from voxconv.demo.training import NOTE, Show
from voxconv.imaging.figures import new_figure, save, show_boxes, show_heat, show_pixels, show_slice
from voxconv.imaging.scan import imported

__all__ = ["Settings", "View", "draw", "notes", "once"]

Array = npt.NDArray[Any]

QUESTION = "Where are the synthetic lesions?"


@dataclass(frozen=True, slots=True)
class Curve:
    """Scores of hits (-inf where a lesion has none) and of false positives, how far hits lie off, and the images."""

    hits: Array
    false: Array
    distances: Array
    images: int

    def sensitivity(self, false_per_image: float) -> float:
        """Share of the lesions found at so many false positives an image."""
        return float((self.hits > self.threshold(false_per_image)).mean())

    def threshold(self, false_per_image: float) -> float:
        """The score above which there are no more false positives than that."""
        allowed = int(false_per_image * self.images)
        ranked = np.sort(self.false)[::-1]
        return float(ranked[allowed]) if allowed < len(ranked) else float(self.false.min(initial=0)) - 1


@dataclass(frozen=True, slots=True)
class View:
    """What the picture shows."""

    anatomy: Anatomy
    scene: Scene
    heat: Array
    network: Curve
    filtered: Curve
    whole: Array


def _curve(found: list[tuple[Array, Array]], scenes: list[Scene], radius: float, spacing: tuple[float, ...]) -> Curve:
    """Match peaks with lesions: a peak within the largest radius of a centre is a hit, its best one counts."""
    hits, distances, false = [], [], []
    for (places, scores), scene in zip(found, scenes, strict=True):
        away = np.linalg.norm(places[:, None] - scene.centres[None], axis=2)
        for lesion in range(len(scene.centres)):
            near = np.flatnonzero(away[:, lesion] <= radius)
            best = near[scores[near].argmax()] if len(near) else None
            hits.append(-np.inf if best is None else scores[best])
            if best is not None:
                distances.append(np.linalg.norm((places[best] - scene.centres[lesion]) * spacing))
        false.append(scores[(away > radius).all(axis=1)])
    return Curve(np.array(hits), np.concatenate(false), np.array(distances), len(scenes))


def _judge(anatomy: Anatomy, part: str, responses: list[Array], scenes: list[Scene]) -> Curve:
    """The curve of what peaks in the responses to scenes of "train" or "test"."""
    body, radius = anatomy.body[anatomy.parts[part]], anatomy.difficulty.radius[1]
    return _curve([maps.peaks(response, body, radius) for response in responses], scenes, radius, anatomy.scan.spacing)


def _filtered(anatomy: Anatomy, scenes: list[Scene], sigma: float, normalised: bool) -> tuple[list[Array], list[Scene]]:
    return [matched_filter(scene.image, anatomy.difficulty, sigma, normalised) for scene in scenes], scenes


def tuned_filter(anatomy: Anatomy, settings: Settings, seed: int) -> tuple[float, bool]:
    """The matched filter that finds most lesions of the training half at one false positive an image."""
    rng = np.random.default_rng([seed, 2])
    scenes = [anatomy.scene("train", settings.lesions, rng) for _ in range(max(2, settings.scenes // 4))]
    return max(FILTERS, key=lambda f: _judge(anatomy, "train", *_filtered(anatomy, scenes, *f)).sensitivity(1))


def boxes(heat: Array, threshold: float) -> list[tuple[int, int, int, int]]:
    """First row and column, last row and column + 1 of each connected part of the heat map above a threshold."""
    measure = imported("skimage.measure", "scikit-image", "boxes around what was found")
    return [region.bbox for region in measure.regionprops(measure.label(heat > threshold)) if region.area > 4]


def once(data: Path | None, seed: int, settings: Settings, show: Show) -> tuple[dict[str, float], View]:
    """Train and test once."""
    anatomy = planar("detect", data)
    model, epoch = maps.learn(anatomy, seed, settings, "detect", show)
    rng = np.random.default_rng([seed, 1])
    scenes = [anatomy.scene("test", settings.lesions, rng) for _ in range(settings.scenes)]
    radius = anatomy.difficulty.radius[1]
    heats = [maps.probability(model, scene.image) for scene in scenes]
    network = _judge(anatomy, "test", heats, scenes)
    classical = _judge(anatomy, "test", *_filtered(anatomy, scenes, *tuned_filter(anatomy, settings, seed)))
    whole = maps.probability(model, anatomy.image)
    figures = {
        "sensitivity_at_1": network.sensitivity(1),
        "baseline_sensitivity_at_1": classical.sensitivity(1),
        "hit_distance_mm": float(network.distances.mean()) if len(network.distances) else float("nan"),
        "epoch": epoch,
    }
    marked = anatomy.scan.marked
    if marked.ndim and marked.any():
        places, scores = maps.peaks(whole, anatomy.body | anatomy.ignored, radius)
        inside = marked[tuple(places.T)]
        figures |= {
            "real_outline_hit": float((inside & (scores > 0.5)).any()),
            "real_outline_response": float(whole[marked].max()),
            "real_slice_other_peaks": float((~inside & (scores > 0.5)).sum()),
        }
    return figures, View(anatomy, scenes[0], heats[0], network, classical, whole)


def notes(data: Path | None) -> list[str]:
    """What was trained and tested on."""
    if data is not None:
        return [
            "Trained on the left half of the image; each test image is its right half with synthetic lesions.",
            NOTE,
        ]
    return [
        "Abdominal MR slice: trained on the patient's right half, the outlined region left out; each test image is the",
        "left half with five synthetic lesions and noise of its own.",
        NOTE,
        "Real outline: a hit is a peak inside it with a probability above 0.5. One case, and it proves nothing.",
    ]


def draw(view: View, figures: dict[str, Any], path: Path) -> None:
    """Write the picture: a test image, its heat map with boxes, the curves, and the real slice."""
    figure = new_figure(14, 11)
    figure.suptitle(f"{QUESTION} U-Net against matched filter (all inserted lesions are SYNTHETIC)", fontsize=14)
    left = figure.add_axes((0.03, 0.52, 0.28, 0.4))
    show_pixels(left, view.scene.image, window=(-1.5, 3.5))
    left.set_title("Test image: circles are the synthetic lesions,\nrims with a gap are synthetic decoys", fontsize=10)
    for row, column in view.scene.centres:
        left.add_patch(circle(column, row, 9, "cyan"))
    middle = figure.add_axes((0.34, 0.52, 0.28, 0.4))
    show_pixels(middle, view.scene.image, window=(-1.5, 3.5))
    show_heat(middle, view.heat)
    show_boxes(middle, boxes(view.heat, 0.5), "lime")
    for row, column in view.scene.centres:
        middle.add_patch(circle(column, row, 9, "cyan"))
    middle.set_title("Heat map and boxes of the network", fontsize=10)
    axes = figure.add_axes((0.68, 0.56, 0.28, 0.34))
    rates = np.linspace(0, 8, 81)
    for name, curve, colour in (("U-Net", view.network, "tab:red"), ("matched filter", view.filtered, "tab:blue")):
        axes.plot(rates, [curve.sensitivity(rate) for rate in rates], color=colour, label=name)
    axes.axvline(1, color="0.7", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false positives per image")
    axes.set_ylabel("lesions found")
    axes.set_title("Free-response curve on the test half", fontsize=10)
    axes.legend(loc="lower right")
    lower = figure.add_axes((0.03, 0.03, 0.6, 0.44))
    show_slice(lower, view.anatomy.scan, "The slice as it is, nothing inserted: what the network answers")
    show_heat(lower, view.whole)
    lower.axvline(view.anatomy.split, color="cyan", linestyle="--", linewidth=1)
    lines = [
        f"At 1 false positive an image: {figures['sensitivity_at_1']['mean']:.0%} of the synthetic",
        f"lesions found, matched filter {figures['baseline_sensitivity_at_1']['mean']:.0%};",
        f"hits lie {figures['hit_distance_mm']['mean'] or float('nan'):.1f} mm off the centre.",
        "Left of the dashed line: training half. Right: test half.",
    ]
    if "real_outline_hit" in figures:
        seeds = len(figures["real_outline_hit"]["values"])
        lines += [
            "Yellow: the outline in the file, kept out of training.",
            f"Hit in {sum(figures['real_outline_hit']['values']):.0f} of {seeds} runs. One slice proves nothing:",
            "the network has only ever seen synthetic lesions.",
        ]
    figure.text(0.66, 0.4, "\n".join(lines), fontsize=11, va="top", linespacing=1.6)
    save(figure, path)


def circle(x: float, y: float, radius: float, colour: str) -> Any:
    """A circle to add to axes."""
    patches = imported("matplotlib.patches", "matplotlib", "drawing the picture")
    return patches.Circle((x, y), radius, fill=False, edgecolor=colour, linewidth=1.3)
