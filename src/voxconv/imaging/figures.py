"""Figures of slices, kernels and feature maps, on matplotlib's Agg canvas and without its global state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.errors import MissingExtra
from voxconv.imaging.scan import Scan

__all__ = ["add_tile", "new_figure", "save", "show_boxes", "show_heat", "show_pixels", "show_slice"]

Array = npt.NDArray[Any]


def new_figure(width: float, height: float) -> Any:
    """Make a figure of this size in inches.

    Raises
    ------
    MissingExtra
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "imaging", "drawing the picture") from None
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=dpi, format="png")


def show_slice(axes: Any, source: Scan, title: str, *, scale_bar_mm: float = 50, contour: bool = True) -> None:
    """Show a slice in its window, with a scale bar and the outline of its overlay."""
    low, high = source.window
    axes.imshow(source.pixels, cmap="gray", vmin=low, vmax=high, aspect=source.spacing[0] / source.spacing[1])
    axes.set_title(title, fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    if contour and source.marked.ndim and source.marked.any():
        axes.contour(source.marked, [0.5], colors="yellow", linewidths=1.4)
    rows, columns = source.pixels.shape
    length = scale_bar_mm / source.spacing[1]
    left, y = columns - length - 12, rows - 12
    axes.plot([left, left + length], [y, y], color="white", linewidth=3, solid_capstyle="butt")
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"),
              (0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom"))  # fmt: skip
    for (x, up, ha, va), letter in zip(places, source.directions, strict=True):
        axes.text(x, up, letter, transform=axes.transAxes, color="white", fontsize=11, weight="bold", ha=ha, va=va)
    label = f"{scale_bar_mm:g} mm"
    axes.text(left + length / 2, y - 6, label, color="white", fontsize=10, ha="center", va="bottom")


def add_tile(figure: Any, left: float, top: float, side: float, image: Array, **options: Any) -> Any:
    """Show a square image whose upper left corner and side are given in inches from the figure's upper left."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))
    axes.imshow(np.asarray(image), **options)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def show_pixels(axes: Any, pixels: Array, *, window: tuple[float, float] | None = None) -> None:
    """Show grey values without ticks."""
    low, high = window or (float(pixels.min()), float(pixels.max()))
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=high)
    axes.set_xticks([])
    axes.set_yticks([])


def show_heat(axes: Any, probability: Array, least: float = 0.3) -> Any:
    """Lay a map of probabilities over an image; what lies below ``least`` stays clear."""
    shown = np.ma.masked_less(np.nan_to_num(probability), least)
    return axes.imshow(shown, cmap="autumn", vmin=least, vmax=1, alpha=0.5)


def show_boxes(axes: Any, boxes: list[tuple[int, int, int, int]], colour: str) -> None:
    """Draw boxes given by first row and column, last row and column + 1."""
    from matplotlib.patches import Rectangle

    for top, left, bottom, right in boxes:
        box = Rectangle((left - 1.5, top - 1.5), right - left + 2, bottom - top + 2, fill=False, edgecolor=colour)
        axes.add_patch(box)
