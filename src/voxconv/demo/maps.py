"""Detect and segment: a U-Net that says of each voxel whether a lesion is there, and what classical methods say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import nn
from voxconv.demo.lesions import FILTERS, Anatomy, augmented, gaussian, matched_filter
from voxconv.demo.training import Show, train
from voxconv.imaging.scan import imported

__all__ = ["Settings", "learn", "peaks", "probability", "smoothed_threshold", "surface_distance"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """Crops to draw for training, those seen in an epoch, most epochs in 2-D and 3-D, test scenes, lesions in each."""

    crops: int = 800
    seen: int = 320
    epochs: tuple[int, int] = (8, 9)
    scenes: int = 16
    lesions: int = 5


def _loss(logits: Array, target: Array) -> tuple[float, Array]:
    """Cross-entropy of each voxel, and Dice of the batch so that small lesions count beside much background."""
    entropy, first = nn.binary_cross_entropy_with_logits(logits, target)
    overlap, second = nn.dice_loss(logits.reshape(1, 1, -1), target.reshape(1, 1, -1))
    return entropy + overlap, first + second.reshape(logits.shape)


def learn(anatomy: Anatomy, seed: int, settings: Settings, label: str, show: Show) -> tuple[nn.Module, int]:
    """Train a U-Net on crops of the training part; the epoch that validated best comes with it."""
    rank = anatomy.image.ndim
    rng = np.random.default_rng([seed, rank])
    extents = anatomy.image[anatomy.parts["train"]].shape
    # No larger than the training part, and of sizes that both pools halve.
    usual = (64, 64) if rank == 2 else (16, 32, 32)
    size = tuple(min(side, extent // 4 * 4) for side, extent in zip(usual, extents, strict=True))
    crops = [anatomy.crop(size, rng) for _ in range(settings.crops)]
    images = np.stack([crop.image for crop in crops])[:, None]
    masks = np.stack([crop.mask for crop in crops])[:, None].astype(np.float32)
    unet = nn.UNet2d if rank == 2 else nn.UNet3d
    model = unet(1, 1, (8, 16, 32) if rank == 2 else (8, 16), norm_layer="batch", rng=rng)
    scenes = [anatomy.scene("validation", settings.lesions, rng) for _ in range(max(2, settings.scenes // 4))]
    whole = tuple(slice(0, extent // 4 * 4) for extent in scenes[0].image.shape)
    validation = (
        np.stack([scene.image[whole] for scene in scenes])[:, None],
        np.stack([scene.mask[whole] for scene in scenes])[:, None].astype(np.float32),
    )

    def batches(rng: np.random.Generator) -> Iterable[tuple[Array, Array]]:
        order = rng.permutation(len(images))[: settings.seen if rank == 2 else settings.seen // 2]
        batch = 4 if rank == 2 else 2  # many small steps: with few large ones some networks are late to find anything
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            yield augmented(images[chosen], masks[chosen], rng)

    epoch = train(
        model, _loss, batches, validation, settings.epochs[rank - 2], 4e-3, decay=0.02, seed=seed,
        label=f"{label} {rank}-D", show=show,
    )  # fmt: skip
    return model, epoch


def probability(model: nn.Module, image: Array) -> Array:
    """The network's probability of a lesion at each voxel."""
    logits = nn.predict(model, image[None, None])[0, 0]
    chance: Array = 1 / (1 + np.exp(-logits))
    return chance


def peaks(response: Array, where: Array, radius: float) -> tuple[Array, Array]:
    """Places (n, ndim) that are the highest within a radius, and the response there."""
    features = imported("skimage.feature", "scikit-image", "finding peaks")
    places: Array = features.peak_local_max(
        np.where(where, response, response.min()), min_distance=max(1, int(radius)), exclude_border=False
    )
    places = places[where[tuple(places.T)]]
    return places, response[tuple(places.T)]


def _local(image: Array, sigma: float, wide: float) -> Array:
    """Smooth, and take the surroundings off."""
    return gaussian(image, sigma) - gaussian(image, wide)


def smoothed_threshold(anatomy: Anatomy, settings: Settings, seed: int) -> Callable[[Array, Array], Array]:
    """The classical segmentation: smooth, perhaps take the surroundings off, or match; then threshold.

    What is done before the threshold, and where the threshold lies, are tuned on the training half.

    Returns
    -------
    function
        From an image and the voxels where a lesion may lie to a mask.
    """
    rng = np.random.default_rng([seed, 2])
    scenes = [anatomy.scene("train", settings.lesions, rng) for _ in range(max(2, settings.scenes // 4))]
    near = anatomy.near[anatomy.parts["train"]]
    wide = 2 * anatomy.difficulty.radius[1]
    steps: list[Callable[[Array], Array]] = []
    for sigma in (1.0, 2.0):
        steps.append(partial(gaussian, sigma=sigma))
        steps.append(partial(_local, sigma=sigma, wide=wide))
    for sigma, normalised in FILTERS:
        steps.append(
            partial(matched_filter, difficulty=anatomy.difficulty, sigma=sigma, normalised=normalised)
        )  # fmt: skip
    best, chosen, limit = -1.0, steps[0], 0.0
    for step in steps:
        responses = [step(scene.image) for scene in scenes]
        for threshold in np.percentile([response[near] for response in responses], np.arange(70, 100, 1.5)):
            found = [(response > threshold) & near for response in responses]
            score = float(np.mean([dice(f, scene.mask) for f, scene in zip(found, scenes, strict=True)]))
            if score > best:
                best, chosen, limit = score, step, float(threshold)
    return lambda image, where: (chosen(image) > limit) & where


def dice(found: Array, truth: Array) -> float:
    """Twice the common voxels over all; 1 where both are empty."""
    total = found.sum() + truth.sum()
    return float(2 * (found & truth).sum() / total) if total else 1.0


def surface_distance(found: Array, truth: Array, spacing: tuple[float, ...]) -> float:
    """Mean distance in mm from each mask's surface to the other's, both ways; NaN where one is empty."""
    morphology = imported("scipy.ndimage", "scipy", "distances between surfaces")
    if not found.any() or not truth.any():
        return float("nan")
    surfaces = [mask & ~morphology.binary_erosion(mask) for mask in (found, truth)]
    away = [morphology.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    return float(np.concatenate([away[1][surfaces[0]], away[0][surfaces[1]]]).mean())
