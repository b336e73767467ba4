"""The clean slice from a low-dose one: a residual network beside Gaussian, total variation and non-local means."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import nn
from voxconv.demo.training import NOTE, Show, train
from voxconv.imaging import Scan, example_ct, read
from voxconv.imaging.figures import new_figure, save, show_pixels
from voxconv.imaging.scan import imported

__all__ = ["PHOTONS", "Settings", "View", "draw", "low_dose", "notes", "once"]

Array = npt.NDArray[Any]

QUESTION = "What did the slice look like before the synthetic low-dose noise?"

# The one place where the difficulty is set: photons that leave the tube towards each detector element.  Chosen by the
# classical methods alone, before any network had met it: the dose at which the best of them gains about 5 dB.
PHOTONS = 30_000.0
WATER = 0.02
"""Attenuation of water in 1/mm, at about 60 keV."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Noisy copies for training, for validation and for test, crops seen in an epoch, and most epochs."""

    train: int = 24
    validation: int = 4
    test: int = 4
    seen: int = 160
    epochs: int = 30


@dataclass(frozen=True, slots=True)
class View:
    """What the picture shows: one test image, clean, noisy, from each method; and its window."""

    images: dict[str, Array]
    window: tuple[float, float]


def _slice(data: Path | None) -> Scan:
    scan = example_ct() if data is None else read(data)
    scan = scan.slice(len(scan.pixels) // 2) if scan.pixels.ndim == 3 else scan
    if min(scan.pixels.shape) < 96:
        raise ValueError(f"reconstruct: the slice ({scan.title}) is {scan.pixels.shape}, smaller than 96 x 96 pixels")
    return scan


def low_dose(scan: Scan, copies: int, rng: np.random.Generator) -> Array:
    """Noise (copies, rows, columns) that counting few photons leaves in a slice reconstructed by back-projection.

    The slice's line integrals give the expected counts at each detector element; the logarithm of Poisson counts less
    that of the expected ones is projected back with the ramp filter.  So noise is streaked and correlated, as in CT,
    and strongest where much is absorbed.  Grey values of a scan that is not CT are taken for -1000 to 1000 HU.
    """
    transform = imported("skimage.transform", "scikit-image", "simulating a CT scanner")
    pixels = np.clip(scan.pixels, -1000, None)
    scale = 1.0
    if not scan.title.startswith("CT"):
        low, high = np.percentile(scan.pixels, [0.5, 99.5])
        scale = 2000 / (high - low)
        pixels = np.clip((scan.pixels - low) * scale - 1000, -1000, 1500)
    millimetres = 85 / max(scan.pixels.shape)  # a larger body would let no photons through at this dose
    angles = np.linspace(0, 180, 180, endpoint=False)
    side = max(pixels.shape)
    square = np.zeros((side, side))
    square[: pixels.shape[0], : pixels.shape[1]] = WATER * (1 + pixels / 1000)
    line = transform.radon(square, angles, circle=False) * millimetres
    expected = PHOTONS * np.exp(-line)
    noise = []
    for _ in range(copies):
        counts = np.maximum(rng.poisson(expected), 1)
        back = transform.iradon(np.log(expected / counts) / millimetres, angles, output_size=side, circle=False)
        noise.append(back[: pixels.shape[0], : pixels.shape[1]] * (1000 / WATER / scale))
    return np.array(noise, np.float32)


def classical() -> dict[str, list[Callable[[Array], Array]]]:
    """The classical methods, each with the strengths that it is tuned over, in standard deviations of the slice."""
    filters = imported("skimage.filters", "scikit-image", "the classical methods")
    restoration = imported("skimage.restoration", "scikit-image", "the classical methods")
    strengths = (0.05, 0.1, 0.15, 0.2, 0.3, 0.45)
    means = partial(restoration.denoise_nl_means, patch_size=5, patch_distance=8, fast_mode=True)
    return {
        "Gaussian": [partial(filters.gaussian, sigma=sigma) for sigma in (0.4, 0.6, 0.8, 1.0, 1.3)],
        "total variation": [partial(restoration.denoise_tv_chambolle, weight=s) for s in strengths],
        "non-local means": [partial(means, h=s, sigma=s) for s in strengths],
    }


def build(rng: np.random.Generator) -> nn.Sequential:
    """Five 3x3 convolutions that predict the noise (Zhang et al., 2017)."""
    widths = (1, 24, 24, 24, 24, 1)
    steps: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        steps += [nn.Conv2d(before, after, 3, padding=1, rng=rng), nn.ReLU()]
    return nn.Sequential(*steps[:-1])


def once(data: Path | None, seed: int, settings: Settings, show: Show) -> tuple[dict[str, float], View]:
    """Train and test once."""
    metrics = imported("skimage.metrics", "scikit-image", "comparing images")
    scan = _slice(data)
    rng = np.random.default_rng(seed)
    # Upper left: training; lower left: validation; right: test.
    row, half = scan.pixels.shape[0] * 3 // 4, scan.pixels.shape[1] // 2
    centre, unit = scan.pixels[:, :half].mean(), scan.pixels[:, :half].std()
    if not unit:
        raise ValueError(f"reconstruct: the left half of the slice ({scan.title}) is of one grey value")
    clean = ((scan.pixels - centre) / unit).astype(np.float32)
    copies = (settings.train, settings.validation, settings.test)
    noisy = clean + low_dose(scan, sum(copies), rng) / unit
    known, checked, asked = np.split(noisy, np.cumsum(copies[:2]))
    known, checked, asked = known[:, :row, :half], checked[:, row:, :half], asked[:, :, half:]
    truth, unseen = clean[:row, :half], clean[:, half:]
    low, high = np.percentile(clean, [0.5, 99.5])

    def psnr(image: Array, reference: Array) -> float:
        return float(metrics.peak_signal_noise_ratio(reference, image, data_range=high - low))

    model = build(rng)

    def batches(rng: np.random.Generator) -> Iterable[tuple[Array, Array]]:
        for _ in range(settings.seen // 8):
            images, noises = [], []
            for _ in range(8):
                copy = known[rng.integers(len(known))]
                top, left = (rng.integers(0, size - 48 + 1) for size in copy.shape)
                box = (slice(top, top + 48), slice(left, left + 48))
                flip = rng.integers(0, 2, 2) * 2 - 1
                images.append(copy[box][:: flip[0], :: flip[1]])
                noises.append((copy[box] - truth[box])[:: flip[0], :: flip[1]])
            yield np.stack(images)[:, None], np.stack(noises)[:, None]

    epoch = train(
        model, nn.mse_loss, batches, (checked[:, None], (checked - clean[row:, :half])[:, None]), settings.epochs, 2e-3,
        seed=seed, label="reconstruct", show=show,
    )  # fmt: skip
    results = {"low dose": asked, "network": asked - nn.predict(model, asked[:, None])[:, 0]}
    for name, strengths in classical().items():
        best = max(strengths, key=lambda method: sum(psnr(method(image), truth) for image in known[:2]))
        results[name] = np.stack([best(image) for image in asked]).astype(np.float32)
    figures: dict[str, float] = {}
    for name, images in results.items():
        key = name.replace(" ", "_").replace("-", "_")
        figures[f"psnr_{key}"] = float(np.mean([psnr(image, unseen) for image in images]))
        figures[f"ssim_{key}"] = float(
            np.mean([metrics.structural_similarity(unseen, image, data_range=high - low) for image in images])
        )
    best_classical = max(figures[f"psnr_{key}"] for key in ("Gaussian", "total_variation", "non_local_means"))
    figures["gain_over_noisy_db"] = figures["psnr_network"] - figures["psnr_low_dose"]
    figures["gain_over_classical_db"] = figures["psnr_network"] - best_classical
    figures["epoch"] = epoch
    shown = {"as in the file": unseen, **{name: images[0] for name, images in results.items()}}
    window = (float((scan.window[0] - centre) / unit), float((scan.window[1] - centre) / unit))
    return figures, View(shown, window)


def notes(data: Path | None) -> list[str]:
    """What was trained and tested on."""
    what = "Chest CT slice around a vertebra" if data is None else "The slice"
    return [
        f"{what}: trained and tuned on its left half, tested on its right half with noise never seen;",
        "the noise is SYNTHETIC: Poisson counts in simulated projections, reconstructed by filtered back-projection.",
        NOTE,
    ]


def draw(view: View, figures: dict[str, Any], path: Path) -> None:
    """Write the picture: the clean test half, the noisy one, what each method makes of it, and its errors."""
    figure = new_figure(12, 8.4)
    figure.suptitle(f"{QUESTION} The test half of the slice; the noise is SYNTHETIC", fontsize=13)
    grid = figure.add_gridspec(2, 6, left=0.01, right=0.99, top=0.87, bottom=0.01, wspace=0.03, hspace=0.1)
    clean = view.images["as in the file"]
    order = ["as in the file", "low dose", "network", "Gaussian", "total variation", "non-local means"]
    limit = float(np.percentile(np.abs(view.images["low dose"] - clean), 99))
    for column, name in enumerate(order):
        axes = figure.add_subplot(grid[0, column])
        show_pixels(axes, view.images[name], window=view.window)
        key = name.replace(" ", "_").replace("-", "_")
        text = ""
        if column:
            text = f"\n{figures[f'psnr_{key}']['mean']:.1f} dB, SSIM {figures[f'ssim_{key}']['mean']:.2f}"
        axes.set_title(name + text, fontsize=10)
        if column:
            below = figure.add_subplot(grid[1, column])
            below.imshow(view.images[name] - clean, cmap="RdBu_r", vmin=-limit, vmax=limit)
            below.set_xticks([])
            below.set_yticks([])
            below.set_title("what is wrong with it", fontsize=9)
    save(figure, path)
