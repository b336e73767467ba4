"""The demo's experiment: synthetic lesions in a real slice, and a small network that learns to find them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import functional, nn
from voxconv.imaging import Peak, Scan, cut_patches, dense_response, peak_response, window_mean

__all__ = ["Experiment", "Outcome", "Settings", "build_model", "insert_lesion"]

Array = npt.NDArray[Any]
Patches = tuple[Array, Array]
Progress = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides how hard the question is and how long the answer takes.

    Attributes
    ----------
    lesion_radius : (float, float)
        Smallest and largest semi-axis of a synthetic lesion, in pixels.
    lesion_contrast : (float, float)
        Smallest and largest brightness added at its centre, in standard deviations of the grey values in the body.
    lesion_edge : float
        Width of its blurred rim, in pixels.
    lesion_offset : int
        Furthest that its centre lies from the patch's, in pixels along each axis.
    noise : float
        Standard deviation of the noise added to every patch, with a lesion or without, in the same unit as contrast.
    patch : int
        Side of a patch in pixels.
    train_columns, validation_columns, test_columns : (int, int)
        First column of a part of the image and the one after its last; each patch lies wholly in one part.
        The values in this class were chosen on the validation part.  The test part is asked once, at the end.
    margin : int
        Pixels kept free around the outline that the file itself draws.
    train_patches, asked_patches, epochs, batch, learning_rate, seed
        How much is learned, and from which random numbers.
    """

    lesion_radius: tuple[float, float] = (3.5, 6.0)
    lesion_contrast: tuple[float, float] = (1.6, 2.4)
    lesion_edge: float = 1.0
    lesion_offset: int = 3
    noise: float = 0.05
    patch: int = 32
    train_columns: tuple[int, int] = (130, 340)
    validation_columns: tuple[int, int] = (340, 484)
    test_columns: tuple[int, int] = (0, 130)
    margin: int = 6
    train_patches: int = 1536
    asked_patches: int = 400
    epochs: int = 14
    batch: int = 32
    learning_rate: float = 2e-3
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run found.

    Attributes
    ----------
    losses : list of float
        Loss of each training step.
    train_accuracy, validation_accuracy, test_accuracy, sensitivity, specificity : float
        Shares of right answers; the last three on the test part.
    train_seconds : float
        Time that training took.
    response : (rows, columns) ndarray
        The network's probability of a lesion in the patch around each pixel of the body; NaN elsewhere.
    peak : Peak
        Where it is highest.
    distance, distance_mm : float
        From the peak to the nearest pixel of the file's outline.
    inside : bool
        Whether the outline encloses the peak.
    outline_response : float
        Highest response that the outline encloses.
    as_high_elsewhere : float
        Share of the places elsewhere in the body where a box as large as the outline's holds as high a response.
    """

    losses: list[float]
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float
    sensitivity: float
    specificity: float
    train_seconds: float
    response: Array
    peak: Peak
    distance: float
    distance_mm: float
    inside: bool
    outline_response: float
    as_high_elsewhere: float


def insert_lesion(patch: Array, settings: Settings, rng: np.random.Generator) -> None:
    """Brighten an ellipse with a blurred rim: a synthetic lesion, added in place."""
    centre = (patch.shape[0] - 1) / 2 + rng.uniform(-settings.lesion_offset, settings.lesion_offset, 2)
    axes = rng.uniform(*settings.lesion_radius, 2)
    tilt = rng.uniform(0, np.pi)
    rows, columns = np.indices(patch.shape) - centre[:, None, None]
    along = rows * np.cos(tilt) + columns * np.sin(tilt)
    across = columns * np.cos(tilt) - rows * np.sin(tilt)
    depth = (1 - np.hypot(along / axes[0], across / axes[1])) * axes.mean()
    patch += (rng.uniform(*settings.lesion_contrast) / (1 + np.exp(-depth / settings.lesion_edge))).astype(patch.dtype)


def build_model(settings: Settings, rng: np.random.Generator, backend: str = "auto") -> nn.Sequential:
    """Convolution, pool, convolution, pool, linear; each pool halves both sides of what it gets."""
    side = ((settings.patch - 4) // 2 - 2) // 2
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, rng=rng, backend=backend),
        nn.ReLU(),
        nn.MaxPool2d(2, backend=backend),
        nn.Conv2d(8, 16, 3, rng=rng, backend=backend),
        nn.ReLU(),
        nn.MaxPool2d(2, backend=backend),
        nn.Flatten(),
        nn.Linear(16 * side * side, 2, rng=rng),
    )


class Experiment:
    """The slice made ready, where patches may come from, and the network.

    Parameters
    ----------
    source : Scan
        The slice, with the outline to keep away from.
    settings : Settings
        Difficulty and length.
    backend : str
        As in `voxconv.conv2d`.
    """

    def __init__(self, source: Scan, settings: Settings, backend: str = "auto") -> None:
        self.source = source
        self.settings = settings
        self.backend = backend
        self.rng = np.random.default_rng(settings.seed)
        half = settings.patch // 2
        columns = np.arange(source.pixels.shape[1])
        # Fat and muscle are brighter than a fifteenth of the brightest tissue; air and its noise are not.
        tissue = source.pixels > np.percentile(source.pixels, 99) / 15
        body = window_mean(tissue.astype(np.float32), settings.patch) > 0.9
        body[:half] = body[1 - half :] = False
        body[:, :half] = body[:, 1 - half :] = False
        self.body = body
        near = window_mean(source.marked.astype(np.float32), settings.patch + 2 * settings.margin) > 0
        allowed = body & ~near
        self.train_centres, self.validation_centres, self.test_centres = (
            np.argwhere(allowed & (columns >= first + half) & (columns <= end - half))
            for first, end in (settings.train_columns, settings.validation_columns, settings.test_columns)
        )
        first, end = settings.train_columns
        known = source.pixels[:, first:end][tissue[:, first:end]]
        # The unit of grey values comes from the training part alone.
        self.image = ((source.pixels - known.mean()) / known.std()).astype(np.float32)
        self.model = build_model(settings, self.rng, backend)

    def draw(self, centres: Array, count: int) -> Patches:
        """Patches (count, 1, side, side) around centres drawn at random; every second one gets a synthetic lesion."""
        patches = cut_patches(self.image, self.rng.choice(centres, count), self.settings.patch)
        labels = np.arange(count) % 2
        for index in np.flatnonzero(labels):
            insert_lesion(patches[index, 0], self.settings, self.rng)
        patches += self.rng.normal(0, self.settings.noise, patches.shape).astype(np.float32)
        return patches, labels

    def train(self, patches: Array, labels: Array, progress: Progress) -> list[float]:
        """Learn from the patches, in a new order in each epoch, and return each step's loss."""
        settings = self.settings
        optimizer = nn.Adam(self.model.parameters(), lr=settings.learning_rate, weight_decay=1e-3)
        losses = []
        for _ in progress(range(settings.epochs), settings.epochs, "training"):
            order = self.rng.permutation(len(labels))
            for start in range(0, len(order), settings.batch):
                chosen = order[start : start + settings.batch]
                loss, gradient = nn.cross_entropy(self.model(patches[chosen]), labels[chosen])
                optimizer.zero_grad()
                self.model.backward(gradient, input_grad=False)
                optimizer.step()
                losses.append(loss)
        self.model.eval()
        return losses

    def answers(self, patches: Array) -> Array:
        """The network's answer for each patch: 1 for a lesion."""
        chosen: Array = self.model(patches).argmax(axis=1)
        return chosen

    def respond(self) -> Array:
        """Probability of a lesion in the patch around each pixel of the body; NaN elsewhere."""
        without, lesion = dense_response(self.model, self.image, self.settings.patch, backend=self.backend)
        probability: Array = np.where(self.body, 1 / (1 + np.exp(without - lesion)), np.nan)
        return probability

    def as_high_elsewhere(self, response: Array) -> float:
        """Share of boxes as large as the outline's, elsewhere in the body, that hold as high a response as it does.

        What the network says inside the outline means nothing without this: high responses are common in places.
        """
        marked = self.source.marked
        rows, columns = (np.flatnonzero(marked.any(axis=axis)) for axis in (1, 0))
        size = (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        highest = functional.max_pool2d(np.nan_to_num(response)[None], size, stride=1)[0]
        touches = functional.max_pool2d(marked[None].astype(np.float32), size, stride=1)[0] > 0
        inside = functional.avg_pool2d(self.body[None].astype(np.float32), size, stride=1)[0] > 0.9
        return float(np.mean(highest[inside & ~touches] >= np.nanmax(response[box])))

    def run(self, train: Patches, validation: Patches, test: Patches, progress: Progress) -> Outcome:
        """Train on some patches, ask about others, then look at the whole slice."""
        start = time.perf_counter()
        losses = self.train(*train, progress)
        seconds = time.perf_counter() - start
        right = {
            name: self.answers(patches) == labels
            for name, (patches, labels) in (("train", train), ("validation", validation), ("test", test))
        }
        response = self.respond()
        peak = peak_response(response, self.source)
        spacing = np.asarray(self.source.spacing)
        steps = np.argwhere(self.source.contour) - peak.voxel
        return Outcome(
            losses=losses,
            train_accuracy=float(right["train"].mean()),
            validation_accuracy=float(right["validation"].mean()),
            test_accuracy=float(right["test"].mean()),
            sensitivity=float(right["test"][test[1] == 1].mean()),
            specificity=float(right["test"][test[1] == 0].mean()),
            train_seconds=seconds,
            response=response,
            peak=peak,
            distance=float(np.linalg.norm(steps, axis=1).min()),
            distance_mm=float(np.linalg.norm(steps * spacing, axis=1).min()),
            inside=bool(self.source.marked[peak.voxel]),
            outline_response=float(np.nanmax(response[self.source.marked])),
            as_high_elsewhere=self.as_high_elsewhere(response),
        )
