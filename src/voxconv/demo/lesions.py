"""Real anatomy with synthetic lesions in it: what classify, detect and segment are asked about, and how hard it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import functional
from voxconv.imaging import Scan, example_anatomy, example_slice, example_volume, read, window_mean

__all__ = [
    "FILTERS",
    "PATCH",
    "Anatomy",
    "Difficulty",
    "Scene",
    "augmented",
    "gaussian",
    "matched_filter",
    "planar",
    "solid",
    "stranger",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How synthetic lesions look, and how much noise there is.

    Attributes
    ----------
    radius : (float, float)
        Smallest and largest semi-axis, in voxels.
    contrast : (float, float)
        Smallest and largest brightness added at its rim, in standard deviations of the tissue's grey values.
    edge : float
        Width of the rim, in voxels.
    core : float
        Brightness added inside the rim, in units of the rim's; negative is darker than before.
    decoy : (float, float)
        As contrast, of decoys: the same shapes with a gap in the rim, which are no lesions.  0: there are none.
    gap : float
        Half the angle that a decoy's gap takes, seen from its centre, in units of pi.
    noise : float
        Standard deviation of the noise added to every image, in the unit of contrast.
    """

    radius: tuple[float, float]
    contrast: tuple[float, float]
    edge: float
    noise: float
    core: float = -0.5
    decoy: tuple[float, float] = (0.0, 0.0)
    gap: float = 0.25

    def profile(self, depth: Array) -> Array:
        """Brightness added at a depth below the surface in voxels, for a rim of 1: a bright shell, a dark core."""
        shell = np.exp(-(((depth - self.edge) / self.edge) ** 2))
        return np.asarray(shell + self.core / (1 + np.exp(-(depth - 2.5 * self.edge) * 2 / self.edge)))


# The one place where difficulty is set, by task and dimension.  A lesion is a closed rim with a dark core.  What it has
# to be told from, where there are decoys, is the same with a gap in the rim, and brighter: without decoys a matched
# filter on high-passed patches does as well as a network (area under the curve above 0.99), since anatomy is smooth; to
# decoys a linear filter answers as loudly as to lesions.
DIFFICULTY = {
    ("classify", 2): Difficulty((3.5, 6.0), (2.0, 3.0), edge=1.0, noise=0.1, decoy=(2.0, 5.4)),
    ("classify", 3): Difficulty((2.5, 4.0), (2.0, 3.0), edge=0.8, noise=0.1, decoy=(2.0, 5.4), gap=0.35),
    ("detect", 2): Difficulty((3.5, 6.0), (2.0, 3.0), edge=1.0, noise=0.1, decoy=(2.0, 5.4)),
    ("segment", 2): Difficulty((3.5, 6.0), (3.0, 4.5), edge=1.0, noise=0.1),
    ("segment", 3): Difficulty((2.5, 4.0), (3.0, 4.5), edge=0.8, noise=0.1),
}


PATCH = {2: 32, 3: 16}
"""Side of the patches that are classified, in voxels."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A piece of anatomy with synthetic lesions.

    Attributes
    ----------
    image : ndarray of float32
        What is seen.
    mask : ndarray of bool
        The lesions' voxels: where at least half of the contrast was added.
    centres : (n, ndim) ndarray
        Their centres, in voxels of the image.
    """

    image: Array
    mask: Array
    centres: Array


class Anatomy:
    """A scan made ready: grey values in units of the tissue's, and where lesions may be put.

    Parameters
    ----------
    scan : Scan
        A slice or a volume.
    split : int
        Column that parts the half to learn from (before it) from the test half (at it and beyond).
    difficulty : Difficulty
        How lesions look.

    Attributes
    ----------
    image : ndarray of float32
        Grey values less the mean of the training part's tissue, in units of its standard deviation.
    body : ndarray of bool
        Where a lesion's centre may lie: nearly all around is tissue, and no outline of the file's is near.
    near : ndarray of bool
        Where some of a lesion may lie.
    ignored : ndarray of bool
        The file's outline and what lies around it: in no training image.
    parts : dict
        Index of the three parts.  "train" and "validation" are the upper and the lower rows of the half to learn from,
        the lower ones with a fifth of the places for lesions, or more if patches need it; "test" is the other half.
    """

    def __init__(self, scan: Scan, split: int, difficulty: Difficulty) -> None:
        self.scan = scan
        self.split = split
        self.difficulty = difficulty
        pixels = scan.pixels
        dark, bright = np.percentile(pixels, [1, 99])
        tissue = pixels > dark + (bright - dark) / 15
        self.ignored = np.zeros(pixels.shape, bool)
        if scan.marked.ndim and scan.marked.any():
            self.ignored = window_mean(scan.marked.astype(np.float32), 13) > 0
        deep = window_mean(tissue.astype(np.float32), 9 if pixels.ndim == 2 else 5) > 0.95
        self.body = tissue & deep & ~self.ignored
        reach = 2 * int(difficulty.radius[1]) + 1
        self.near = window_mean(self.body.astype(np.float32), reach) > 0
        known = pixels[..., :split][tissue[..., :split]]
        learned = self.body[..., :split]
        for name, half in (("training", learned), ("test", self.body[..., split:])):
            if half.sum() < 500 or not known.size or not known.std():
                raise ValueError(f"the {name} half of this scan ({scan.title}) holds too little tissue for lesions")
        share = np.cumsum(learned.sum(axis=tuple(axis for axis in range(pixels.ndim) if axis != pixels.ndim - 2)))
        side, rows = PATCH[pixels.ndim], pixels.shape[-2]
        last = min(rows, int(np.searchsorted(share, share[-1])) + side // 2)
        row = min(int(np.searchsorted(share, 0.8 * share[-1])), max(last - side - 8, rows // 2))
        self.parts: dict[str, tuple[Any, ...]] = {
            "train": (..., slice(0, row), slice(0, split)),
            "validation": (..., slice(row, None), slice(0, split)),
            "test": (..., slice(split, None)),
        }
        self.image = ((pixels - known.mean()) / known.std()).astype(np.float32)

    def _add(self, image: Array, mask: Array | None, centre: Array, rng: np.random.Generator) -> None:
        """Add a turned ellipsoid with a bright rim and a dark core, in place; without a mask, a decoy."""
        difficulty, rank = self.difficulty, image.ndim
        axes = rng.uniform(*difficulty.radius, rank)
        turn, _ = np.linalg.qr(rng.standard_normal((rank, rank)))
        reach = int(np.ceil(axes.max() + 5 * difficulty.edge))
        box = tuple(slice(max(0, int(c) - reach), int(c) + reach + 2) for c in centre)
        steps = np.moveaxis(np.indices(image[box].shape), 0, -1) + ([b.start for b in box] - centre)
        steps = (steps @ turn) / axes
        away = np.linalg.norm(steps, axis=-1)
        depth = (1 - away) * axes.mean()
        added = difficulty.profile(depth)
        if mask is not None:
            added *= rng.uniform(*difficulty.contrast)
            mask[box] |= depth >= 0
        else:
            middle = rng.standard_normal(rank)
            angle = np.arccos(np.clip(steps @ middle / np.linalg.norm(middle) / (away + 1e-6), -1, 1))
            # The gap's edges are as soft as a pixel.
            added *= rng.uniform(*difficulty.decoy) / (1 + np.exp((np.pi * difficulty.gap - angle) * axes.mean() * 2))
        image[box] += added.astype(image.dtype)

    def _finish(self, image: Array, mask: Array, centres: list[Array], rng: np.random.Generator) -> Scene:
        image += rng.normal(0, self.difficulty.noise, image.shape).astype(np.float32)
        return Scene(image, mask, np.array(centres).reshape(-1, image.ndim))

    def _with_lesions(self, image: Array, allowed: Array, lesions: int, rng: np.random.Generator) -> Scene:
        """Lesions at random places, and as many decoys, none of which touches another."""
        image, free = image.copy(), allowed.copy()
        mask, centres = np.zeros(image.shape, bool), []
        far = int(3 * self.difficulty.radius[1])
        decoys = lesions if self.difficulty.decoy[1] else 0
        for number in range(lesions + decoys):
            places = np.argwhere(free)
            if not len(places):
                break
            centre = places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, image.ndim)
            if number < lesions:
                self._add(image, mask, centre, rng)
                centres.append(centre)
            else:
                self._add(image, None, centre, rng)
            free[tuple(slice(max(0, int(c) - far), int(c) + far + 1) for c in centre)] = False
        return self._finish(image, mask, centres, rng)

    def scene(self, part: str, lesions: int, rng: np.random.Generator) -> Scene:
        """All of "train", "validation" or "test", with lesions and noise."""
        region = self.parts[part]
        return self._with_lesions(self.image[region], self.body[region], lesions, rng)

    def crop(self, size: tuple[int, ...], rng: np.random.Generator) -> Scene:
        """A box of the training part that holds tissue and nothing of the outline, with up to two lesions."""
        region = self.parts["train"]
        image, body, ignored = self.image[region], self.body[region], self.ignored[region]
        if any(side > extent for side, extent in zip(size, image.shape, strict=True)):
            raise ValueError(f"the training half of this scan, {image.shape}, is smaller than a crop of {size}")
        for _ in range(1000):
            corner = [rng.integers(0, extent - side + 1) for extent, side in zip(image.shape, size, strict=True)]
            box = tuple(slice(c, c + side) for c, side in zip(corner, size, strict=True))
            if body[box].mean() > 0.2 and not ignored[box].any():
                break
        else:
            raise ValueError(f"the training half of this scan ({self.scan.title}) has no crop of {size} full of tissue")
        return self._with_lesions(image[box], body[box], int(rng.integers(0, 3)), rng)

    def patch(self, part: str, size: int, lesion: bool, rng: np.random.Generator) -> Scene:
        """A cube whose middle lies in the body; near its middle a lesion, or a decoy where there are any."""
        region = self.parts[part]
        image, half = self.image[region], size // 2
        inner = np.zeros(image.shape, bool)
        middle = tuple(slice(half, extent - (size - half) + 1) for extent in image.shape)
        inner[middle] = self.body[region][middle]
        places = np.argwhere(inner)
        if not len(places):
            raise ValueError(f"the {part} half of this scan ({self.scan.title}) has no place for a patch of {size}")
        corner = places[rng.integers(len(places))] - half
        cut = image[tuple(slice(c, c + size) for c in corner)].copy()
        mask = np.zeros(cut.shape, bool)
        offset = size / 10
        centre = (size - 1) / 2 + rng.uniform(-offset, offset, cut.ndim)
        if lesion or self.difficulty.decoy[1]:
            self._add(cut, mask if lesion else None, centre, rng)
        return self._finish(cut, mask, [centre] if lesion else [], rng)


def planar(task: str, path: Path | None) -> Anatomy:
    """A slice to work on: the user's (the middle one of a volume), or the example, trained right and tested left."""
    if path is None:
        return Anatomy(example_slice(), 250, DIFFICULTY[task, 2])
    scan = read(path)
    if scan.pixels.ndim == 3:
        scan = scan.slice(len(scan.pixels) // 2)
    return Anatomy(scan, _middle(scan), DIFFICULTY[task, 2])


def solid(task: str, path: Path | None) -> Anatomy | None:
    """A volume to work on: the user's, or the example; None where the user's scan is a single slice."""
    if path is None:
        return Anatomy(example_volume(), 64, DIFFICULTY[task, 3])
    scan = read(path)
    return Anatomy(scan, _middle(scan), DIFFICULTY[task, 3]) if scan.pixels.ndim == 3 else None


def stranger(task: str) -> Anatomy:
    """Another volume, of which a 3-D network has seen no part; only its test half is asked about."""
    scan = example_anatomy()
    return Anatomy(scan, scan.pixels.shape[-1] // 2, DIFFICULTY[task, 3])


def _middle(scan: Scan) -> int:
    """The column with as much tissue on its left as on its right."""
    tissue = scan.pixels > np.percentile(scan.pixels, 1) + np.ptp(np.percentile(scan.pixels, [1, 99])) / 15
    share = np.cumsum(tissue.reshape(-1, tissue.shape[-1]).sum(axis=0))
    return int(np.searchsorted(share, share[-1] / 2))


def _convolve(image: Array, kernels: Array) -> Array:
    """Responses (kernels, *spatial) to kernels (kernels, *sizes); beyond its border the image goes on as it ends."""
    function = functional.conv2d if image.ndim == 2 else functional.conv3d
    pads = [(size // 2, size - 1 - size // 2) for size in kernels.shape[1:]]
    around = np.pad(image, pads, mode="edge")
    responses: Array = function(around[None], kernels[:, None].astype(image.dtype))
    return responses


def _smooth(image: Array, line: Array) -> Array:
    """Average with these weights, brought to a sum of 1, along each axis."""
    for axis in range(image.ndim):
        sides = (len(line) if other == axis else 1 for other in range(image.ndim))
        image = _convolve(image, (line / line.sum()).reshape([1, *sides]))[0]
    return image


def gaussian(image: Array, sigma: float) -> Array:
    """Smooth with a Gaussian."""
    side = 2 * int(np.ceil(3 * sigma)) + 1
    return _smooth(image, np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma**2)))


FILTERS = tuple((sigma, normalised) for sigma in (0.0, 0.7, 1.0, 2.0, 4.0) for normalised in (False, True))
"""What the matched filter is tuned over: smoothing taken off image and kernels, and division by the local spread."""


def matched_filter(image: Array, difficulty: Difficulty, sigma: float = 0.0, normalised: bool = False) -> Array:
    """Correlation with round lesions of four sizes, the best of them at each place: the classical detector.

    Parameters
    ----------
    image : ndarray
        A slice or a volume.
    difficulty : Difficulty
        How lesions look.
    sigma : float
        Of the Gaussian that is taken off the image and the kernels first, in voxels; with 0 none is.
    normalised : bool
        Whether to divide by the spread of the grey values under the kernel, so that contrast does not count.
    """
    side = 2 * int(np.ceil(1.4 * difficulty.radius[1])) + 1
    distance = np.linalg.norm(np.indices((side,) * image.ndim) - side // 2, axis=0)
    kernels = []
    for radius in np.linspace(*difficulty.radius, 4):
        kernel = difficulty.profile(radius - distance)
        kernel = kernel - gaussian(kernel, sigma) if sigma else kernel
        kernel -= kernel.mean()
        kernels.append(kernel / np.linalg.norm(kernel))
    image = image - gaussian(image, sigma) if sigma else image
    response: Array = _convolve(image, np.stack(kernels)).max(axis=0)
    if normalised:
        box = np.ones(side)
        spread = _smooth(image * image, box) - _smooth(image, box) ** 2
        response = response / np.sqrt(np.maximum(spread, 1e-4) * kernel.size)
    return response


def augmented(images: Array, targets: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Images and targets (N, C, *spatial) mirrored and turned alike; brightness and contrast are another for each."""
    axes = tuple(axis for axis in range(2, images.ndim) if rng.random() < 0.5)
    order = np.arange(images.ndim)
    # Axes may change places where that leaves the shape as it is.
    equal = np.flatnonzero(np.array(images.shape) == images.shape[-1])
    equal = equal[equal > 1]
    order[equal] = rng.permutation(equal)

    def turned(batch: Array) -> Array:
        return np.ascontiguousarray(np.flip(batch, axes).transpose(order))

    each = (len(images),) + (1,) * (images.ndim - 1)
    images = images * np.exp(rng.normal(0, 0.3, each)).astype(np.float32)
    images += rng.normal(0, 0.5, each).astype(np.float32)
    return turned(images), turned(targets) if targets.ndim == images.ndim else targets
