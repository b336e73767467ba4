"""Does this patch contain a lesion?  A small convolutional network beside a matched filter, in 2-D and in 3-D."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import nn
from voxconv.demo.lesions import FILTERS, PATCH, Anatomy, augmented, matched_filter, planar, solid
from voxconv.demo.training import NOTE, Show, train
from voxconv.imaging.figures import new_figure, save, show_pixels
from voxconv.imaging.scan import imported

__all__ = ["Settings", "View", "draw", "notes", "once"]

Array = npt.NDArray[Any]

QUESTION = "Does this patch contain a synthetic lesion?"


@dataclass(frozen=True, slots=True)
class Settings:
    """Patches to draw for training, validation and test, those seen in an epoch, most epochs in 2-D and in 3-D."""

    train: int = 2400
    validation: int = 300
    test: int = 600
    seen: int = 1200
    epochs: tuple[int, int] = (10, 14)
    resamples: int = 500


@dataclass(frozen=True, slots=True)
class View:
    """What the picture shows of one dimension: test patches, their labels, both scores."""

    rank: int
    patches: Array
    labels: Array
    network: Array
    filtered: Array


def build(rank: int, rng: np.random.Generator) -> nn.Sequential:
    """Three convolutions with batch norm, pools between them, and the strongest answer anywhere in the patch."""
    names = ("Conv", "BatchNorm", "MaxPool", "AdaptiveMaxPool")
    conv, norm, pool, strongest = (getattr(nn, f"{name}{rank}d") for name in names)
    sides = (5, 5, 3) if rank == 2 else (3, 3, 3)
    steps: list[nn.Module] = []
    for before, after, side in zip((1, 16, 32), (16, 32, 32), sides, strict=True):
        steps += [conv(before, after, side, padding=side // 2, bias=False, rng=rng), norm(after), nn.ReLU()]
        if before < (32 if rank == 2 else 16):  # a cube of 16 voxels is halved only once
            steps.append(pool(2))
    return nn.Sequential(*steps, strongest(1), nn.Flatten(), nn.Linear(32, 2, rng=rng))


def draw_patches(anatomy: Anatomy, part: str, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Patches (count, 1, size, ...) and labels; every second one holds a lesion."""
    labels = np.arange(count) % 2
    size = PATCH[anatomy.image.ndim]
    return np.stack([anatomy.patch(part, size, bool(label), rng).image for label in labels])[:, None], labels


def _filtered(anatomy: Anatomy, patches: Array, sigma: float, normalised: bool) -> Array:
    """The matched filter's strongest response in each patch where a lesion's centre may lie."""
    quarter = patches.shape[-1] // 4
    inner = (slice(quarter, -quarter),) * (patches.ndim - 2)
    return np.array([matched_filter(p[0], anatomy.difficulty, sigma, normalised)[inner].max() for p in patches])


def tuned_filter(anatomy: Anatomy, patches: Array, labels: Array) -> tuple[float, bool]:
    """The matched filter that tells training patches apart best."""
    metrics = imported("sklearn.metrics", "scikit-learn", "the area under the curve")
    return max(FILTERS, key=lambda f: metrics.roc_auc_score(labels, _filtered(anatomy, patches, *f)))


def _interval(labels: Array, scores: Array, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """95% bootstrap interval of the AUC."""
    metrics = imported("sklearn.metrics", "scikit-learn", "the area under the curve")
    values: list[float] = []
    while len(values) < resamples:
        chosen = rng.integers(0, len(labels), len(labels))
        if 0 < labels[chosen].sum() < len(labels):
            values.append(metrics.roc_auc_score(labels[chosen], scores[chosen]))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _learn(anatomy: Anatomy, seed: int, settings: Settings, show: Show) -> tuple[dict[str, float], View]:
    metrics = imported("sklearn.metrics", "scikit-learn", "the area under the curve")
    rank = anatomy.image.ndim
    rng = np.random.default_rng([seed, rank])
    patches, labels = draw_patches(anatomy, "train", settings.train, rng)
    model = build(rank, rng)

    def batches(rng: np.random.Generator) -> Iterable[tuple[Array, Array]]:
        order = rng.permutation(len(labels))[: settings.seen]
        for start in range(0, len(order), 16):
            chosen = order[start : start + 16]
            yield augmented(patches[chosen], labels[chosen], rng)

    epoch = train(
        model, nn.cross_entropy, batches, draw_patches(anatomy, "validation", settings.validation, rng),
        settings.epochs[rank - 2], 3e-3, decay=0.05, seed=seed, label=f"classify {rank}-D", show=show,
    )  # fmt: skip
    asked, truth = draw_patches(anatomy, "test", settings.test, np.random.default_rng([seed, rank, 1]))
    logits = model(asked)
    network = logits[:, 1] - logits[:, 0]
    filtered = _filtered(anatomy, asked, *tuned_filter(anatomy, patches[:200], labels[:200]))
    low, high = _interval(truth, network, settings.resamples, rng)
    figures = {
        "auc": float(metrics.roc_auc_score(truth, network)),
        "auc_low": low,
        "auc_high": high,
        "baseline_auc": float(metrics.roc_auc_score(truth, filtered)),
        "epoch": epoch,
    }
    return {f"{name}_{rank}d": value for name, value in figures.items()}, View(rank, asked, truth, network, filtered)


def once(data: Path | None, seed: int, settings: Settings, show: Show) -> tuple[dict[str, float], list[View]]:
    """Train and test once, on a slice and (where there is one) on a volume."""
    figures: dict[str, float] = {}
    views = []
    for anatomy in (planar("classify", data), solid("classify", data)):
        if anatomy is not None:
            found, view = _learn(anatomy, seed, settings, show)
            figures |= found
            views.append(view)
    return figures, views


def notes(data: Path | None) -> list[str]:
    """What was trained and tested on."""
    if data is not None:
        return ["Training patches come from the left half of the image, test patches from its right half.", NOTE]
    return [
        "2-D: abdominal MR slice; training patches from the patient's right half, test patches from the left half.",
        "3-D: MR volume of a head; training from the right half of the head, test from the left half.",
        NOTE,
    ]


def draw(views: list[View], figures: dict[str, Any], path: Path) -> None:
    """Write the picture: patches with both answers, and both ROC curves."""
    metrics = imported("sklearn.metrics", "scikit-learn", "the ROC curve")
    figure = new_figure(12, 0.9 + 4.1 * len(views))
    figure.suptitle(
        f"{QUESTION} Network against matched filter\nAll lesions are SYNTHETIC: closed rims. Those with a gap are "
        "synthetic too, and no lesions. Of a cube, the middle slice is shown", fontsize=12,
    )  # fmt: skip
    grid = figure.add_gridspec(2 * len(views), 10, left=0.02, right=0.98, top=0.9, bottom=0.1, hspace=0.45)
    for row, view in enumerate(views):
        order = np.argsort(view.network)
        sure = [("with a lesion", order[view.labels[order] == 1]), ("without", order[view.labels[order] == 0])]
        for line, (text, members) in enumerate(sure):
            chosen = members[np.linspace(0, len(members) - 1, 6).astype(int)]
            for column, index in enumerate(chosen):
                axes = figure.add_subplot(grid[2 * row + line, column])
                patch = view.patches[index, 0]
                show_pixels(axes, patch if patch.ndim == 2 else patch[len(patch) // 2], window=(-1.5, 3.5))
                chance = 1 / (1 + np.exp(-view.network[index]))
                axes.set_title(f"{text}\nnetwork says {chance:.0%}" if not column else f"{chance:.0%}", fontsize=8)
        axes = figure.add_subplot(grid[2 * row : 2 * row + 2, 7:])
        for name, scores, colour in (
            ("network", view.network, "tab:red"),
            ("matched filter", view.filtered, "tab:blue"),
        ):
            false, true, _ = metrics.roc_curve(view.labels, scores)
            area = metrics.roc_auc_score(view.labels, scores)
            axes.plot(false, true, color=colour, label=f"{name}, AUC {area:.3f}")
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        axes.set_aspect("equal")
        if row == len(views) - 1:
            axes.set_xlabel("false alarms", fontsize=9)
        axes.set_ylabel("lesions found", fontsize=9)
        axes.set_title(f"{view.rank}-D patches of the test half", fontsize=10)
        axes.legend(fontsize=8, loc="lower right")
    save(figure, path)
