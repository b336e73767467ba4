"""The pictures of how-a-cnn-sees.md: python docs/pictures.py [FOLDER].  Needs: pip install 'voxconv[imaging]'."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import voxconv as vc
from voxconv.demo.experiment import Experiment, Settings
from voxconv.demo.picture import blob_kernel
from voxconv.imaging import example_slice, example_volume
from voxconv.imaging.figures import new_figure, save, show_boxes, show_pixels, show_slice

SQUARE = np.array([[-1, -1, -1, -1], [-1, 3, 3, -1], [-1, 3, 3, -1], [-1, -1, -1, -1]], np.float32) / 12


def raster(path: Path) -> None:
    """A 4 x 4 kernel moves over 16 x 16 pixels: three of its places, the weights, the map of all places."""
    whole = example_slice().pixels[60:200, 170:420].astype(np.float32)
    everywhere = vc.conv2d(whole[None], SQUARE[None, None])[0]
    down, across = np.unravel_index(everywhere[10:-10, 10:-10].argmax(), everywhere[10:-10, 10:-10].shape)
    pixels = whole[down + 3 : down + 19, across + 5 : across + 21]
    response = vc.conv2d(pixels[None], SQUARE[None, None])[0]
    row, column = np.unravel_index(response.argmax(), response.shape)
    figure = new_figure(11, 4.2)
    grid = figure.add_gridspec(1, 3, width_ratios=(4, 2, 4), left=0.02, right=0.98, top=0.85, bottom=0.02)
    left, middle, right = (figure.add_subplot(place) for place in grid)
    show_pixels(left, pixels)
    for place, colour in (((0, 0), "cyan"), ((0, 1), "deepskyblue"), ((row, column), "red")):
        show_boxes(left, [(place[0] + 1, place[1] + 1, place[0] + 3, place[1] + 3)], colour)
    left.set_title("16 x 16 pixels of a real MR slice\nblue: the first two places, red: the best one", fontsize=10)
    middle.imshow(SQUARE, cmap="RdBu_r", vmin=-0.25, vmax=0.25)
    for (y, x), weight in np.ndenumerate(SQUARE * 12):
        middle.text(x, y, f"{weight:+.0f}", ha="center", va="center", fontsize=11)
    middle.set_axis_off()
    middle.set_title("4 x 4 kernel (in twelfths)", fontsize=10)
    right.imshow(response, cmap="RdBu_r", vmin=-abs(response).max(), vmax=abs(response).max())
    show_boxes(right, [(row + 1, column + 1, row, column)], "black")
    right.set_axis_off()
    right.set_title(f"13 x 13 sums, one for each place\nhighest at row {row}, column {column}", fontsize=10)
    save(figure, path, dpi=80)


def shape(path: Path) -> None:
    """A kernel of a round shape over a slice, and where it fires most, in pixels and millimetres."""
    scan = example_slice()
    kernel = blob_kernel()
    response = vc.conv2d(scan.pixels[None].astype(np.float32), kernel[None, None], padding="same")[0]
    row, column = (int(i) for i in np.unravel_index(response.argmax(), response.shape))
    down, across = row * scan.spacing[0], column * scan.spacing[1]
    figure = new_figure(11, 4)
    left, right = (figure.add_axes((x, 0.02, 0.48, 0.86)) for x in (0.01, 0.51))
    show_slice(left, scan, "Real MR slice; cross: where the kernel answers most", contour=False)
    right.imshow(response, cmap="RdBu_r", vmin=-abs(response).max() / 2, vmax=abs(response).max() / 2)
    right.set_axis_off()
    right.set_title(
        f"Response; highest at row {row}, column {column}: {down:.0f} mm down, {across:.0f} mm across", fontsize=10
    )
    for axes in (left, right):
        axes.plot(column, row, "+", color="red" if axes is left else "black", markersize=16, markeredgewidth=2)
    inset = left.inset_axes((0.03, 0.05, 0.12, 0.22))
    inset.imshow(kernel, cmap="RdBu_r", vmin=-abs(kernel).max(), vmax=abs(kernel).max())
    inset.set_axis_off()
    save(figure, path, dpi=80)


def halving(path: Path) -> None:
    """Max-pool: each map has half the rows and half the columns of the one before, and keeps its strongest answers."""
    scan = example_slice()
    image = vc.conv2d(
        scan.pixels[None, :296, :].astype(np.float32), blob_kernel()[None, None], padding="same", activation="relu"
    )
    figure = new_figure(11, 3.4)
    for step, left in enumerate((0.01, 0.5, 0.755, 0.89)):
        height, width = image.shape[1:]
        share = 0.48 / 2**step
        axes = figure.add_axes((left, 0.05, share, 0.8 / 2**step))
        axes.imshow(image[0], cmap="magma")
        axes.set_axis_off()
        axes.set_title(f"{height} x {width}", fontsize=10)
        image = vc.max_pool2d(image, 2)
    save(figure, path, dpi=80)


def learned(path: Path) -> None:
    """Kernels before and after training, and the maps that one patch with a synthetic lesion leaves."""
    experiment = Experiment(example_slice(), Settings())
    first = experiment.model[0]
    before = first.weight.data.copy()
    experiment.train(
        *experiment.draw(experiment.train_centres, experiment.settings.train_patches), lambda steps, *_: steps
    )
    patches, labels = experiment.draw(experiment.test_centres, 2)
    patch = patches[labels == 1][0]
    fired = experiment.model[1](first(patch[None]))
    pooled = vc.max_pool2d(fired, 2)
    figure = new_figure(11, 5.4)
    grid = figure.add_gridspec(4, 9, left=0.01, right=0.99, top=0.93, bottom=0.01)
    rows = (("kernels at random", before[:, 0]), ("kernels as learned", first.weight.data[:, 0]),
            ("", fired[0]), ("pooled: half the size", pooled[0]))  # fmt: skip
    for row, (name, images) in enumerate(rows):
        axes = figure.add_subplot(grid[row, 0])
        axes.set_axis_off()
        if row == 2:
            axes.imshow(patch[0], cmap="gray")
            name = "fire on this patch\n(synthetic lesion)"
        axes.set_title(name, fontsize=8, y=1 if row == 2 else 0.4)
        limit = float(abs(images).max())
        options = (
            {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
            if row < 2
            else {"cmap": "magma", "vmin": 0, "vmax": limit}
        )
        for column, image in enumerate(images):
            axes = figure.add_subplot(grid[row, column + 1])
            axes.imshow(image, **options)
            axes.set_axis_off()
    save(figure, path, dpi=80)


def volume(path: Path) -> None:
    """Every second slice of a volume."""
    scan = example_volume()
    figure = new_figure(11, 4.2)
    grid = figure.add_gridspec(2, 6, left=0.005, right=0.995, top=0.93, bottom=0.01, wspace=0.03, hspace=0.12)
    for place, level in zip(grid, range(1, len(scan.pixels), 2), strict=False):
        axes = figure.add_subplot(place)
        show_pixels(axes, scan.pixels[level], window=(0, float(np.percentile(scan.pixels, 99.5))))
        axes.set_title(f"{level * scan.spacing[0]:.0f} mm", fontsize=9)
    save(figure, path, dpi=80)


PICTURES = {"raster": raster, "shape": shape, "halving": halving, "learned": learned, "volume": volume}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    for name, make in PICTURES.items():
        make(folder / f"{name}.png")
