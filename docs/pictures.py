"""The pictures of how-a-cnn-sees.md: python docs/pictures.py [FOLDER].  Needs: pip install 'voxconv[imaging]'."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import voxconv as vc
from voxconv.demo.experiment import Experiment, Settings
from voxconv.imaging import blob_kernel, example_slice, example_volume, figures, peak_response, square_kernel


def raster(path: Path) -> None:
    """A 4 x 4 kernel moves over 16 x 16 pixels: three of its places, the weights, the sums of all places."""
    pixels = example_slice().pixels
    everywhere = vc.conv2d(pixels[None, 60:200, 170:420], square_kernel()[None, None])[0, 10:-10, 10:-10]
    # The piece in which the kernel finds most.
    down, across = np.unravel_index(everywhere.argmax(), everywhere.shape)
    piece = pixels[60 + down + 3 : 60 + down + 19, 170 + across + 5 : 170 + across + 21]
    figures.save(figures.raster(piece, square_kernel()), path, dpi=80)


def shape(path: Path) -> None:
    """A kernel of a round shape over a slice, and where it fires most, in pixels and millimetres."""
    scan = example_slice()
    kernel = blob_kernel()
    response = vc.conv2d(scan.pixels[None], kernel[None, None], padding="same")[0]
    peak = peak_response(response, scan)
    figure = figures.new_figure(11, 4)
    left, right = (figure.add_axes((x, 0.02, 0.48, 0.86)) for x in (0.01, 0.51))
    figures.show_slice(left, scan, "Real MR slice; cross: where the kernel answers most", contour=False)
    figures.show_maps([right], [response], signed=True, limit=float(abs(response).max()) / 2)
    right.set_title(f"Response; highest at {peak}", fontsize=10)
    figures.show_peak(left, peak)
    figures.show_peak(right, peak, "black")
    figures.show_maps([left.inset_axes((0.03, 0.05, 0.12, 0.22))], [kernel], signed=True)
    figures.save(figure, path, dpi=80)


def halving(path: Path) -> None:
    """Max-pool: each map has half the rows and half the columns of the one before, and keeps its strongest answers."""
    scan = example_slice()
    image = vc.conv2d(scan.pixels[None, :296], blob_kernel()[None, None], padding="same", activation="relu")
    figure = figures.new_figure(11, 3.4)
    for step, left in enumerate((0.01, 0.5, 0.755, 0.89)):
        height, width = image.shape[1:]
        share = 0.48 / 2**step
        axes = figure.add_axes((left, 0.05, share, 0.8 / 2**step))
        figures.show_maps([axes], [image[0]])
        axes.set_title(f"{height} x {width}", fontsize=10)
        image = vc.max_pool2d(image, 2)
    figures.save(figure, path, dpi=80)


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
    figure = figures.new_figure(11, 5.4)
    grid = figure.add_gridspec(4, 9, left=0.02, right=0.99, top=0.97, bottom=0.02)
    rows = (("kernels at random", before[:, 0]), ("kernels as learned", first.weight.data[:, 0]),
            ("", fired[0]), ("pooled: half the size", pooled[0]))  # fmt: skip
    for row, (name, images) in enumerate(rows):
        axes = figure.add_subplot(grid[row, 0])
        axes.set_axis_off()
        if row == 2:
            figures.show_pixels(axes, patch[0])
            name = "fire on this patch\n(synthetic lesion)"
        axes.set_title(name, fontsize=8, y=1 if row == 2 else 0.4)
        places = [figure.add_subplot(grid[row, column + 1]) for column in range(len(images))]
        figures.show_maps(places, images, signed=row < 2)
    figures.save(figure, path, dpi=80)


def volume(path: Path) -> None:
    """Every second slice of a volume."""
    figures.save(figures.montage(example_volume(), every=2), path, dpi=80)


PICTURES = {"raster": raster, "shape": shape, "halving": halving, "learned": learned, "volume": volume}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    for name, make in PICTURES.items():
        make(folder / f"{name}.png")
