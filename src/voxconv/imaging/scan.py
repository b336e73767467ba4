"""A scan: grey values with their size in millimetres and their place in the patient; reading and resampling it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.errors import MissingExtra, rejection

__all__ = ["Peak", "Scan", "default_window", "imported", "peak_response", "read_nifti", "resample"]

Array = npt.NDArray[Any]


def imported(module: str, package: str, purpose: str) -> Any:
    """Import a module of an optional package, or say what to install."""
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtra(package, "imaging", purpose) from None


@dataclass(frozen=True, slots=True)
class Scan:
    """One slice or one volume.

    Attributes
    ----------
    pixels : (rows, columns) or (slices, rows, columns) ndarray of float32
        Grey values with the file's slope and intercept applied.
    spacing : tuple of float
        Distance from one position to the next along each axis, in mm.
    window : (float, float)
        Grey values shown as black and as white.
    title : str
        What the file says that it shows.
    origin : (3,) ndarray
        Where the first voxel's centre lies, in mm along the patient's axes: to the left, to the back, to the head.
    axes : (ndim, 3) ndarray
        Direction of each array axis in the same system, of length 1.
    contour : ndarray of bool
        A lesion's outline drawn in the file, of the shape of the pixels; nowhere True if there is none.
    marked : ndarray of bool
        What the outline encloses, as its convex hull, since a line drawn by hand need not close.
    """

    pixels: Array
    spacing: tuple[float, ...]
    window: tuple[float, float]
    title: str
    origin: Array = field(default_factory=lambda: np.zeros(3))
    axes: Array = field(default_factory=lambda: np.eye(3)[::-1])
    contour: Array = field(default_factory=lambda: np.zeros((), bool))
    marked: Array = field(default_factory=lambda: np.zeros((), bool))

    @property
    def directions(self) -> tuple[str, str, str, str]:
        """Sides of the patient at the image's left, right, top and bottom: R, L, A, P, I or S."""
        sides: list[str] = []
        for along in (self.axes[-1], self.axes[-2]):
            axis = int(np.argmax(np.abs(along)))
            ends = ("RL", "AP", "IS")[axis]
            sides += ends if along[axis] > 0 else ends[::-1]
        return sides[0], sides[1], sides[2], sides[3]

    def to_mm(self, index: Sequence[float]) -> Array:
        """Place of a voxel in mm along the patient's axes (left, back, head)."""
        steps = np.asarray(index, float) * self.spacing
        place: Array = self.origin + steps @ self.axes
        return place

    def slice(self, position: int) -> Scan:
        """One slice of a volume, as a scan of its own."""
        index = [position, 0, 0]
        both = {name: getattr(self, name) for name in ("contour", "marked")}
        cut = {name: mask[position] if mask.ndim else mask for name, mask in both.items()}
        return replace(
            self, pixels=self.pixels[position], spacing=self.spacing[1:], origin=self.to_mm(index), axes=self.axes[1:],
            title=f"{self.title}, slice {position}", **cut,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peak:
    """Where a response is highest.

    Attributes
    ----------
    voxel : tuple of int
        Index into the response: (row, column) or (slice, row, column).
    value : float
        The response there.
    offset_mm : tuple of float
        The index in mm, along the array's axes from the first voxel's centre.
    patient_mm : (3,) ndarray
        The place in mm along the patient's axes (left, back, head), as `Scan.to_mm` has it.
    """

    voxel: tuple[int, ...]
    value: float
    offset_mm: tuple[float, ...]
    patient_mm: Array

    def __str__(self) -> str:
        """Voxel and place, such as ``row 7, column 9 (L 12.0, A 3.5, S 40.0 mm)``."""
        names = ("slice", "row", "column")[-len(self.voxel) :]
        voxel = ", ".join(f"{name} {index}" for name, index in zip(names, self.voxel, strict=True))
        sides = (ends[int(mm < 0)] for ends, mm in zip(("LR", "PA", "SI"), self.patient_mm, strict=True))
        place = ", ".join(f"{side} {abs(mm):.1f}" for side, mm in zip(sides, self.patient_mm, strict=True))
        return f"{voxel} ({place} mm)"


def peak_response(response: Array, scan: Scan) -> Peak:
    """Find where a response over a scan is highest, in voxels and in millimetres.

    Parameters
    ----------
    response : ndarray of the scan's shape
        NaN where there is none.
    scan : Scan
        Whose spacing, origin and axes say where a voxel lies.

    Returns
    -------
    Peak
        The first one in the array's order, where there are several.

    Raises
    ------
    ValueError
        If the shapes differ, or there is no response at all.
    """
    if response.shape != scan.pixels.shape:
        rule = "must be as large as the scan"
        raise ValueError(rejection("peak_response", "response.shape", response.shape, rule, scan=scan.pixels.shape))
    if not (~np.isnan(response)).any():
        raise ValueError(rejection("peak_response", "response", "an array", "must hold a number besides NaN"))
    voxel = tuple(int(index) for index in np.unravel_index(np.nanargmax(response), response.shape))
    offset = tuple(index * mm for index, mm in zip(voxel, scan.spacing, strict=True))
    return Peak(voxel, float(response[voxel]), offset, scan.to_mm(voxel))


def default_window(pixels: Array) -> tuple[float, float]:
    """Black and white where the file names none: all but the darkest and brightest half percent."""
    low, high = (float(value) for value in np.percentile(pixels, [0.5, 99.5]))
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def read_nifti(path: Path, frame: int = 0) -> Scan:
    """Read a NIfTI volume (or one frame of a series) of any byte order.

    The axes are brought into the order and sense of a DICOM series: slices from the feet up, rows from front to
    back, columns from the patient's right to left.

    Parameters
    ----------
    path : Path
        A .nii or .nii.gz file.
    frame : int
        Which volume of a 4-D series.

    Raises
    ------
    ValueError
        If it cannot be read or is no volume of grey values; the message names the file.
    """
    nibabel = imported("nibabel", "nibabel", "reading NIfTI files")
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        pixels = np.asanyarray(image.dataobj)
    except Exception as error:
        raise ValueError(rejection("read", "path", str(path), f"cannot be read as NIfTI: {error}")) from None
    if pixels.dtype.kind not in "fiu" or pixels.ndim not in (3, 4) or not pixels.size:
        rule = f"must hold grey values in 3 or 4 dimensions, not {pixels.dtype} of shape {pixels.shape}"
        raise ValueError(rejection("read", "path", str(path), rule))
    if pixels.ndim == 4:
        if not 0 <= frame < pixels.shape[3]:
            raise ValueError(rejection("read", "frame", frame, f"must lie in 0..{pixels.shape[3] - 1}"))
        pixels = pixels[..., frame]
    pixels = np.ascontiguousarray(pixels[::-1, ::-1].transpose(2, 1, 0), np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError(rejection("read", "path", str(path), "must hold finite grey values"))
    # nibabel's axes point to the patient's right-to-left opposite: R, A, S become L, P, S by two signs.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = (affine[:3, :3] / spacing).T
    last = np.array([image.shape[0] - 1, image.shape[1] - 1, 0, 1])
    return Scan(
        pixels=pixels,
        spacing=tuple(float(mm) for mm in spacing[::-1]),
        window=default_window(pixels),
        title=path.name,
        origin=(affine @ last)[:3],
        axes=np.stack([axes[2], -axes[1], -axes[0]]),
    )


def resample(scan: Scan, spacing: float | Sequence[float]) -> Scan:
    """Bring a scan to another distance between its voxels, the outer faces of the scan staying where they are.

    Parameters
    ----------
    scan : Scan
        The scan.
    spacing : float or one per axis
        In mm.

    Returns
    -------
    Scan
        Interpolated linearly, and smoothed beforehand where voxels become larger.
    """
    transform = imported("skimage.transform", "scikit-image", "resampling")
    rank = scan.pixels.ndim
    wanted = (spacing,) * rank if isinstance(spacing, (int, float)) else tuple(spacing)
    if len(wanted) != rank or not all(0 < mm < np.inf for mm in wanted):
        raise ValueError(rejection("resample", "spacing", spacing, f"must be one positive number or {rank} of them"))
    shape = [
        max(1, round(size * old / new)) for size, old, new in zip(scan.pixels.shape, scan.spacing, wanted, strict=True)
    ]
    real = tuple(size * old / new for size, old, new in zip(scan.pixels.shape, scan.spacing, shape, strict=True))

    def resized(pixels: Array) -> Array:
        return np.asarray(
            transform.resize(pixels, shape, order=1, mode="edge", anti_aliasing=True, preserve_range=True), np.float32
        )

    masks = {name: getattr(scan, name) for name in ("contour", "marked")}
    masks = {name: resized(mask.astype(np.float32)) > 0.5 if mask.ndim else mask for name, mask in masks.items()}
    shift = (np.asarray(real) - scan.spacing) / 2
    return replace(
        scan, pixels=resized(scan.pixels), spacing=real, origin=scan.origin + shift @ scan.axes, **masks
    )  # fmt: skip
