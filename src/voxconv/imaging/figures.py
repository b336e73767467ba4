"""Figures of slices, volumes, kernels and maps, on matplotlib's Agg canvas and without its global state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import functional
from voxconv.errors import MissingExtra, rejection
from voxconv.imaging.scan import Peak, Scan

__all__ = [
    "montage",
    "new_figure",
    "raster",
    "save",
    "show_boxes",
    "show_heat",
    "show_maps",
    "show_peak",
    "show_pixels",
    "show_slice",
    "tile",
]

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


def tile(figure: Any, left: float, top: float, side: float) -> Any:
    """Add square axes whose upper left corner and side are given in inches from the figure's upper left."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))


def show_pixels(
    axes: Any, pixels: Array, *, window: tuple[float, float] | None = None, aspect: float = 1.0
) -> None:  # fmt: skip
    """Show grey values without ticks; ``aspect`` is how much higher than wide a pixel is."""
    low, high = window or (float(pixels.min()), float(pixels.max()))
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, aspect=aspect)
    axes.set_xticks([])
    axes.set_yticks([])


def show_maps(axes: Iterable[Any], images: Iterable[Array], *, signed: bool = False, limit: float | None = None) -> Any:
    """Show kernels, responses, feature maps or pooled maps, each on axes of its own, all in one scale.

    Parameters
    ----------
    axes : iterable of axes
        As many as there are images.
    images : iterable of (rows, columns) ndarray
        Such as ``layer.weight.data[:, 0]``, or ``layer(x)[0]``.
    signed : bool
        Whether zero is the middle: red above it, blue below.  Else zero is black, and brighter is more.
    limit : float, optional
        Where the colours end; by default at the largest magnitude in any of the images.

    Returns
    -------
    image
        The last one, for a colour bar.
    """
    images = [np.asarray(image) for image in images]
    limit = limit or max((float(np.abs(image).max(initial=0)) for image in images), default=0) or 1.0
    shown = None
    for place, image in zip(axes, images, strict=True):
        shown = place.imshow(image, cmap="RdBu_r" if signed else "magma", vmin=-limit if signed else 0, vmax=limit)
        place.set_xticks([])
        place.set_yticks([])
    return shown


def show_peak(axes: Any, peak: Peak, colour: str = "red") -> None:
    """Mark a peak with a cross, in the plane of its rows and columns."""
    axes.plot(peak.voxel[-1], peak.voxel[-2], "+", color=colour, markersize=18, markeredgewidth=2.2)


def show_heat(axes: Any, probability: Array, least: float = 0.3) -> Any:
    """Lay a map of probabilities over an image; what lies below ``least`` stays clear."""
    shown = np.ma.masked_less(np.nan_to_num(probability), least)
    return axes.imshow(shown, cmap="autumn", vmin=least, vmax=1, alpha=0.5)


def show_boxes(axes: Any, boxes: list[tuple[int, int, int, int]], colour: str, *, margin: float = 1) -> None:
    """Draw boxes given by first row and column, last row and column + 1, this many pixels outside of them."""
    from matplotlib.patches import Rectangle

    for top, left, bottom, right in boxes:
        corner, size = (left - 0.5 - margin, top - 0.5 - margin), (right - left + 2 * margin, bottom - top + 2 * margin)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.5))


def raster(image: Array, kernel: Array) -> Any:
    """Draw how a kernel moves over an image: some of its places, its weights, and the sums of all places.

    Parameters
    ----------
    image : (rows, columns) ndarray
        Grey values.
    kernel : (kernel rows, kernel columns) ndarray
        Weights, such as `square_kernel` or `blob_kernel` make.  Those of a small kernel are written into it.

    Returns
    -------
    figure
        For `save`.

    Raises
    ------
    ValueError
        If one of them is not a plane, or the kernel is larger than the image.
    """
    if image.ndim != 2 or kernel.ndim != 2 or any(k > n for k, n in zip(kernel.shape, image.shape, strict=True)):
        rule = "must be a plane with room for the kernel"
        raise ValueError(rejection("raster", "image.shape", image.shape, rule, kernel=kernel.shape))
    pixels, weights = np.asarray(image, np.float32), np.asarray(kernel, np.float32)
    sums = functional.conv2d(pixels[None], weights[None, None])[0]
    row, column = (int(place) for place in np.unravel_index(sums.argmax(), sums.shape))
    height, width = weights.shape
    figure = new_figure(11, 0.7 + 3.95 * image.shape[0] / image.shape[1])
    grid = figure.add_gridspec(1, 3, width_ratios=(4, 1.6, 4), left=0.02, right=0.98, top=0.86, bottom=0.02)
    left, middle, right = (figure.add_subplot(place) for place in grid)
    show_pixels(left, pixels)
    for (top, side), colour in (((0, 0), "cyan"), ((0, 1), "deepskyblue"), ((row, column), "red")):
        show_boxes(left, [(top, side, top + height, side + width)], colour, margin=0)
    left.set_title(
        f"{image.shape[0]} x {image.shape[1]} pixels\nblue: the kernel's first two places, red: the best one",
        fontsize=10,
    )  # fmt: skip
    show_maps([middle], [weights], signed=True)
    if weights.size <= 49:
        strong = np.abs(weights) > 0.6 * np.abs(weights).max()
        for (y, x), weight in np.ndenumerate(weights):
            colour = "white" if strong[y, x] else "black"
            middle.text(x, y, f"{weight:+.2g}", ha="center", va="center", fontsize=11, color=colour)
    middle.set_title(f"{height} x {width} kernel", fontsize=10)
    show_maps([right], [sums], signed=True)
    show_boxes(right, [(row, column, row + 1, column + 1)], "black", margin=0)
    right.set_title(
        f"{sums.shape[0]} x {sums.shape[1]} sums, one for each place\nhighest at row {row}, column {column}",
        fontsize=10,
    )  # fmt: skip
    return figure


def montage(scan: Scan, every: int = 1, columns: int = 6) -> Any:
    """Draw the slices of a volume side by side, each with its distance from the first, and outlines in yellow.

    Parameters
    ----------
    scan : Scan
        A volume.
    every : int
        1 draws each slice, 2 every second one.
    columns : int
        Slices in a row.

    Returns
    -------
    figure
        For `save`.

    Raises
    ------
    ValueError
        If the scan is a single slice, or a number is below 1.
    """
    if scan.pixels.ndim != 3:
        raise ValueError(rejection("montage", "scan.pixels", scan.pixels.shape, "must be a volume"))
    if every < 1 or columns < 1:
        raise ValueError(rejection("montage", "every, columns", (every, columns), "must be at least 1"))
    levels = range(every // 2, len(scan.pixels), every)
    rows = -(-len(levels) // columns)
    aspect = scan.spacing[1] / scan.spacing[2]
    side = 11 / columns
    height = side * aspect * scan.pixels.shape[1] / scan.pixels.shape[2] + 0.25
    figure = new_figure(11, rows * height)
    for number, level in enumerate(levels):
        down, across = divmod(number, columns)
        box = (across / columns + 0.003, 1 - (down + 1) / rows, 1 / columns - 0.006, (height - 0.25) / height / rows)
        axes = figure.add_axes(box)
        show_pixels(axes, scan.pixels[level], window=scan.window, aspect=aspect)
        if scan.marked.ndim and scan.marked[level].any():
            axes.contour(scan.marked[level], [0.5], colors="yellow", linewidths=1.2)
        axes.set_title(f"slice {level}: {level * scan.spacing[0]:.0f} mm", fontsize=9, pad=3)
    return figure
