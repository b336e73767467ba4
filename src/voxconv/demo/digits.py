"""Which digit is it?  A small network on scikit-learn's handwritten digits, beside logistic regression."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import nn
from voxconv.demo.training import Show, train
from voxconv.imaging.figures import new_figure, save, show_pixels
from voxconv.imaging.scan import imported

__all__ = ["Settings", "View", "draw", "notes", "once"]

Array = npt.NDArray[Any]

QUESTION = "Which digit is it?"


@dataclass(frozen=True, slots=True)
class Settings:
    """Digits kept for the test and for validation, and most epochs."""

    test: int = 450
    validation: int = 150
    epochs: int = 40


@dataclass(frozen=True, slots=True)
class View:
    """What the picture shows: the test images, their labels and the network's logits."""

    images: Array
    labels: Array
    logits: Array


def build(rng: np.random.Generator) -> nn.Sequential:
    """Three convolutions with batch norm, two pools, and a linear layer."""
    steps: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        steps += [nn.Conv2d(before, after, 3, padding=1, bias=False, rng=rng), nn.BatchNorm2d(after), nn.ReLU()]
        if before > 1:
            steps.append(nn.MaxPool2d(2))
    return nn.Sequential(*steps, nn.Flatten(), nn.Dropout(0.3, rng=rng), nn.Linear(64 * 2 * 2, 10, rng=rng))


def once(data: Path | None, seed: int, settings: Settings, show: Show) -> tuple[dict[str, float], View]:
    """Train and test once; the seed also chooses which digits are for the test."""
    if data is not None:
        raise ValueError("digits: takes no data, since its images and labels are scikit-learn's")
    datasets = imported("sklearn.datasets", "scikit-learn", "the handwritten digits")
    linear = imported("sklearn.linear_model", "scikit-learn", "logistic regression")
    selection = imported("sklearn.model_selection", "scikit-learn", "tuning logistic regression")
    digits = datasets.load_digits()
    images, labels = (digits.images[:, None] / 16).astype(np.float32), digits.target
    rng = np.random.default_rng(seed)
    shares = [settings.test, settings.test + settings.validation]
    test, validation, known = np.split(rng.permutation(len(labels)), shares)
    model = build(rng)
    bordered = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))

    def batches(rng: np.random.Generator) -> Iterable[tuple[Array, Array]]:
        for chosen in np.array_split(rng.permutation(known), len(known) // 64):
            # Each digit is moved by up to one pixel.
            moved = [bordered[index, :, y : y + 8, x : x + 8] for index, (y, x) in zip(
                chosen, rng.integers(0, 3, (len(chosen), 2)), strict=True
            )]  # fmt: skip
            yield np.stack(moved), labels[chosen]

    epoch = train(
        model, nn.cross_entropy, batches, (images[validation], labels[validation]), settings.epochs, 3e-3,
        seed=seed, label="digits", show=show,
    )  # fmt: skip
    logits = model(images[test])
    flat = images.reshape(len(images), -1)
    strengths = {"C": [0.1, 1.0, 10.0]}
    classical = selection.GridSearchCV(linear.LogisticRegression(max_iter=1000), strengths, cv=3)
    learned = np.concatenate([validation, known])
    classical.fit(flat[learned], labels[learned])
    figures = {
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels[test])),
        "baseline_accuracy": float(np.mean(classical.predict(flat[test]) == labels[test])),
        "epoch": epoch,
    }
    return figures, View(images[test, 0], labels[test], logits)


def notes(_: Path | None) -> list[str]:
    """What was trained and tested on."""
    return [
        "1797 real digits of 8 x 8 pixels from scikit-learn, with their true labels; 450, drawn at random, test, and",
        "150 of the others, on which nothing is trained, say after which epoch the network is kept.",
    ]


def draw(view: View, figures: dict[str, Any], path: Path) -> None:
    """Write the picture: the test digits that the network is least sure of."""
    chance = np.exp(view.logits - view.logits.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    order = np.argsort(chance[np.arange(len(view.labels)), view.labels])
    figure = new_figure(12, 4.6)
    figure.suptitle(
        f"{QUESTION} {figures['accuracy']['mean']:.1%} of the test digits are read rightly, by logistic regression "
        f"{figures['baseline_accuracy']['mean']:.1%}\nThese were the hardest for the network", fontsize=12,
    )  # fmt: skip
    grid = figure.add_gridspec(2, 10, left=0.02, right=0.98, top=0.76, bottom=0.02)
    for place, index in zip(grid, order[:20], strict=False):
        axes = figure.add_subplot(place)
        show_pixels(axes, view.images[index])
        answer = int(view.logits[index].argmax())
        text = f"a {view.labels[index]}, read as {answer}\n({chance[index, answer]:.0%} sure)"
        axes.set_title(text, fontsize=8, color="tab:red" if answer != view.labels[index] else "black")
    save(figure, path)
