"""The example slice that pydicom ships, in physical units."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.errors import MissingExtra

__all__ = ["Slice", "example_slice"]

Array = npt.NDArray[Any]

OVERLAY_GROUP = 0x6000


@dataclass(frozen=True, slots=True)
class Slice:
    """One axial slice.

    Attributes
    ----------
    pixels : (rows, columns) ndarray of float32
        Grey values with the file's slope and intercept applied.
    spacing : (float, float)
        Distance between rows and between columns, in mm.
    window : (float, float)
        Grey values shown as black and as white, from the file's first window.
    contour : (rows, columns) ndarray of bool
        The drawn outline: the largest connected part of the overlay, whose other parts are lettering.
    marked : (rows, columns) ndarray of bool
        What the outline encloses, as its convex hull, since a line drawn by hand need not close.
    directions : (str, str, str, str)
        Towards which side of the patient the image's left, right, top and bottom lie: R, L, A, P, I or S.
    title : str
        What the file says that it shows.
    """

    pixels: Array
    spacing: tuple[float, float]
    window: tuple[float, float]
    contour: Array
    marked: Array
    directions: tuple[str, str, str, str]
    title: str


def _largest_part(mask: Array) -> Array:
    """The connected part of a mask with the most pixels; diagonal neighbours count as connected."""
    measure: Any = import_module("skimage.measure")  # skimage has no complete types
    parts = measure.label(mask, connectivity=2)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: Array = parts == sizes.argmax()
    return largest


def _directions(cosines: list[float]) -> tuple[str, str, str, str]:
    """Sides of the patient at the image's left, right, top, bottom; the patient's axes point to L, P and S."""
    sides: list[str] = []
    for along in (cosines[:3], cosines[3:]):
        axis = int(np.argmax(np.abs(along)))
        ends = ("RL", "AP", "IS")[axis]
        sides += ends if along[axis] > 0 else ends[::-1]
    return sides[0], sides[1], sides[2], sides[3]


def example_slice() -> Slice:
    """Load pydicom's ``overlay`` example: an abdominal MR slice on which somebody outlined a lesion.

    Raises
    ------
    MissingExtra
        If pydicom or scikit-image is not installed.
    """
    try:
        import pydicom
        from pydicom.examples import get_path
    except ImportError:
        raise MissingExtra("pydicom", "imaging", "reading the example slice") from None
    try:
        morphology: Any = import_module("skimage.morphology")
    except ImportError:
        raise MissingExtra("scikit-image", "imaging", "finding the outline in the slice's overlay") from None

    file = pydicom.dcmread(get_path("overlay"))
    slope = float(file.get("RescaleSlope", None) or 1)
    intercept = float(file.get("RescaleIntercept", None) or 0)
    pixels = file.pixel_array.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    row_mm, column_mm = (float(distance) for distance in file.PixelSpacing)
    centre, width = (float(np.ravel(file[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    contour = _largest_part(file.overlay_array(OVERLAY_GROUP) > 0)
    return Slice(
        pixels=pixels,
        spacing=(row_mm, column_mm),
        window=(centre - width / 2, centre + width / 2),
        contour=contour,
        marked=np.asarray(morphology.convex_hull_image(contour), bool),
        directions=_directions([float(cosine) for cosine in file.ImageOrientationPatient]),
        title=f"{file.Modality} {str(file.BodyPartExamined).lower()}, {file.SliceThickness:g} mm slice",
    )
