"""The demo's picture: what a kernel sees, what the network learned, and where it responds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import functional, nn
from voxconv.demo.experiment import Experiment, Outcome
from voxconv.imaging import blob_kernel
from voxconv.imaging.figures import (
    new_figure,
    save,
    show_boxes,
    show_heat,
    show_maps,
    show_peak,
    show_pixels,
    show_slice,
    tile,
)

__all__ = ["draw"]

Array = npt.NDArray[Any]

WIDTH, HEIGHT = 15.0, 20.8
"""Inches.  Everything below is placed in inches from the upper left corner."""


def _panel(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    return figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))


def _heading(figure: Any, top: float, text: str, detail: str) -> None:
    figure.text(0.4 / WIDTH, 1 - top / HEIGHT, text, fontsize=14, fontweight="bold", va="top")
    figure.text(0.4 / WIDTH, 1 - (top + 0.27) / HEIGHT, detail, fontsize=10.5, va="top", color="0.25")


def _slice_and_kernel(figure: Any, experiment: Experiment, top: float) -> None:
    source, settings = experiment.source, experiment.settings
    _heading(
        figure, top, "1  The slice, and one fixed kernel moved over it pixel by pixel",
        "At each pixel the kernel's weights multiply the grey values under its window; the sum is one pixel of the "
        "response map.",
    )  # fmt: skip
    axes = _panel(figure, 0.4, top + 0.95, 6.9, 4.28)
    show_slice(axes, source, f"{source.title} (real). Yellow: outline stored in the file")
    parts = {
        "test": settings.test_columns,
        "training": settings.train_columns,
        "validation": settings.validation_columns,
    }
    for name, columns in parts.items():
        if columns[0]:
            axes.axvline(columns[0], color="cyan", linestyle="--", linewidth=1.2)
        axes.text(columns[0] + 4, 4, name, color="cyan", fontsize=10, va="top")

    kernel = blob_kernel()
    row, column = 168, 255
    half = len(kernel) // 2
    window = [(row - half, column - half, row + half + 1, column + half + 1)]
    show_boxes(axes, window, "red", margin=0)
    axes.annotate(
        "kernel window", (column, row + 8), (column, 288), color="tomato", fontsize=10, ha="center", va="center",
        arrowprops={"arrowstyle": "->", "color": "tomato"}, bbox={"facecolor": "black", "edgecolor": "none"},
    )  # fmt: skip
    small = tile(figure, 7.44, top + 2.1, 0.95)
    show_maps([small], [kernel], signed=True)
    small.set_title("the kernel\n15 x 15 px", fontsize=10, color="red")
    # The file's own grey values: air is near zero there, as the padding is, so the border does not respond.
    response = functional.conv2d(source.pixels[None], kernel[None, None], padding="same", backend=experiment.backend)[0]
    axes = _panel(figure, 8.5, top + 0.95, 6.2, 4.28)
    limit = float(np.percentile(np.abs(response), 99.5))
    shown = show_maps([axes], [response], signed=True, limit=limit)
    axes.set_title("Its response map: red where a bright spot fits the kernel", fontsize=11)
    show_boxes(axes, window, "black", margin=0)
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.04, pad=0.03, ticks=[-limit, 0, limit])
    bar.ax.set_xticklabels(["dark spot", "0", "bright spot"], fontsize=9)


def _examples(figure: Any, experiment: Experiment, patches: Array, labels: Array, top: float) -> None:
    low, high = np.percentile(patches, [1, 99.7])
    _heading(
        figure, top, "2  What the network is asked: does this patch contain a SYNTHETIC lesion?",
        f"Test patches of {experiment.settings.patch} x {experiment.settings.patch} px, all from the slice above. "
        "The lesions are computed bright ellipses, not disease.",
    )  # fmt: skip
    for label, left, text in ((0, 0.4, "without"), (1, 7.75, "with a synthetic lesion")):
        place = (left + 3.4) / WIDTH, 1 - (top + 0.72) / HEIGHT
        figure.text(*place, text, fontsize=11, ha="center", va="center")
        for index, patch in enumerate(patches[labels == label][:6]):
            show_pixels(tile(figure, left + 1.15 * index, top + 0.85, 1.08), patch[0], window=(low, high))


def _features(figure: Any, experiment: Experiment, patch: Array, top: float) -> None:
    _heading(
        figure, top, "3  What it learned: kernels, their feature maps, and each pooled map at half the size",
        "For the patch on the left, with a synthetic lesion. Columns belong to the eight kernels of the first layer, "
        "then to eight of the sixteen of the second. Red weights add, blue ones subtract; bright is where one fires.",
    )  # fmt: skip
    model = experiment.model
    first, second = model[0], model[3]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    maps = [patch[None]]
    for layer in list(model)[:6]:
        maps.append(layer(maps[-1]))
    axes = tile(figure, 0.4, top + 1.0, 1.3)
    show_pixels(axes, patch[0])
    axes.set_title("patch 32 x 32", fontsize=10)
    # One scale for all maps of a row of tiles: inches for each pixel of the first convolution's output.
    inch = 1.3 / maps[2].shape[-1]
    rows = [
        ("kernels 5 x 5", first.weight.data[:, 0], 0.62 / 5, 0.75),
        (f"after convolution\nand ReLU {maps[2].shape[-1]} x {maps[2].shape[-1]}", maps[2][0], inch, 1.5),
        (f"pooled {maps[3].shape[-1]} x {maps[3].shape[-1]}", maps[3][0], inch, 2.92),
        ("kernels 3 x 3\n(mean over inputs)", second.weight.data.mean(axis=1)[:8], 0.5 / 3, 3.75),
        (f"after convolution\nand ReLU {maps[5].shape[-1]} x {maps[5].shape[-1]}", maps[5][0][:8], inch, 4.4),
        (f"pooled {maps[6].shape[-1]} x {maps[6].shape[-1]}", maps[6][0][:8], inch, 5.1),
    ]
    for name, images, scale, offset in rows:
        side = scale * images.shape[-1]
        place = 3.55 / WIDTH, 1 - (top + offset + side / 2) / HEIGHT
        figure.text(*place, name, fontsize=10, ha="right", va="center")
        lefts = (3.75 + 1.37 * index + (1.3 - side) / 2 for index in range(len(images)))
        places = [tile(figure, left, top + offset, side) for left in lefts]
        show_maps(places, images, signed=name.startswith("kernels"))


def _response(figure: Any, experiment: Experiment, outcome: Outcome, top: float) -> None:
    source = experiment.source
    row, column = outcome.peak.voxel
    _heading(
        figure, top, "4  Where the trained network responds over the whole slice (no synthetic lesion in it)",
        f"Accuracy on SYNTHETIC lesions in the untouched test part: {outcome.test_accuracy:.1%} (validation part, by "
        f"which settings were chosen: {outcome.validation_accuracy:.1%}). One slice proves nothing about patients.",
    )  # fmt: skip
    axes = _panel(figure, 0.4, top + 0.95, 8.2, 5.1)
    show_slice(axes, source, "Response over the slice; cross: its peak; yellow: the file's outline")
    shown = show_heat(axes, outcome.response)
    show_peak(axes, outcome.peak, "cyan")
    down, right = outcome.peak.offset_mm
    right_of_middle = column > source.pixels.shape[1] / 2
    axes.annotate(
        f"peak: row {row}, column {column} px\n= {down:.1f} mm down, {right:.1f} mm across",
        (column, row), (column + (-30 if right_of_middle else 30), 34), color="cyan", fontsize=10,
        ha="right" if right_of_middle else "left", va="center",
        arrowprops={"arrowstyle": "-", "color": "cyan"}, bbox={"facecolor": "black", "alpha": 0.7, "edgecolor": "none"},
    )  # fmt: skip
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.04, pad=0.03)
    bar.set_label("the network's probability of a synthetic lesion", fontsize=10)

    rows, columns = (np.flatnonzero(source.marked.any(axis=axis)) for axis in (1, 0))
    view = 28
    for left, overlay, title in ((8.95, False, "The outlined region, slice alone"), (11.9, True, "with the response")):
        axes = _panel(figure, left, top + 1.2, 2.75, 2.75)
        show_slice(axes, source, title, contour=True)
        if overlay:
            show_heat(axes, outcome.response)
        axes.set_xlim(columns.mean() - view, columns.mean() + view)
        axes.set_ylim(rows.mean() + view, rows.mean() - view)
    where = "inside the outline" if outcome.inside else (
        f"{outcome.distance:.0f} px = {outcome.distance_mm:.0f} mm from the outline"
    )  # fmt: skip
    text = (
        f"The peak lies {where}.\nHighest response inside the outline: {outcome.outline_response:.2f};\n"
        f"{outcome.as_high_elsewhere:.0%} of equally large boxes elsewhere hold as high a one.\n"
        "That region was kept out of training and test.\nThe network knows synthetic bright ellipses only: a vessel\n"
        "or the rim of the liver that looks like one answers as well."
    )
    figure.text(8.95 / WIDTH, 1 - (top + 4.3) / HEIGHT, text, fontsize=11, va="top", linespacing=1.5)


def draw(experiment: Experiment, outcome: Outcome, patches: Array, labels: Array, path: Path) -> None:
    """Write the picture.

    Parameters
    ----------
    experiment, outcome : Experiment, Outcome
        What was done and found.
    patches, labels : ndarray
        Test patches and whether they hold a synthetic lesion; some are shown.
    path : Path
        The PNG to write.
    """
    figure = new_figure(WIDTH, HEIGHT)
    _slice_and_kernel(figure, experiment, 0.25)
    _examples(figure, experiment, patches, labels, 5.85)
    _features(figure, experiment, patches[labels == 1][0], 8.2)
    _response(figure, experiment, outcome, 14.1)
    save(figure, path)
