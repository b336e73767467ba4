"""DICOM: one file, or a folder with the slices of a series, in physical units."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.errors import rejection
from voxconv.imaging.scan import Scan, default_window, imported, read_nifti

__all__ = ["example_anatomy", "example_ct", "example_slice", "example_volume", "read"]

Array = npt.NDArray[Any]

OVERLAY_GROUP = 0x6000


def _refusal(path: Path, rule: str) -> ValueError:
    return ValueError(rejection("read", "path", str(path), rule))


def _load(path: Path) -> Any:
    """A dataset with pixels of grey values, or a sentence that names the file."""
    pydicom = imported("pydicom", "pydicom", "reading DICOM files")
    if not path.stat().st_size:
        raise _refusal(path, "is an empty file")
    try:
        file = pydicom.dcmread(path)
    except Exception as error:
        raise _refusal(path, f"is neither DICOM nor NIfTI, or is broken: {error}") from None
    if "PixelData" not in file:
        raise _refusal(path, "is a DICOM file without an image")
    if int(file.get("SamplesPerPixel", 1)) != 1 or "PALETTE" in str(file.get("PhotometricInterpretation", "")):
        raise _refusal(path, f"holds a colour image ({file.get('PhotometricInterpretation')}); grey values are needed")
    return file


def _pixels(file: Any, path: Path) -> Array:
    """Grey values with slope and intercept applied, bright where the image is to be bright."""
    syntax = file.file_meta.get("TransferSyntaxUID", None) if hasattr(file, "file_meta") else None
    try:
        stored = file.pixel_array
    except Exception as error:
        if syntax is not None and syntax.is_compressed:
            rule = f"is compressed ({syntax.name}), and no decoder that is installed can read it"
        else:
            rule = f"has pixels that cannot be read: {error}"
        raise _refusal(path, rule) from None
    slope, intercept = float(file.get("RescaleSlope", None) or 1), float(file.get("RescaleIntercept", None) or 0)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        pixels: Array = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if not pixels.size or not np.isfinite(pixels).all():
        raise _refusal(path, "holds no image, or grey values that are not finite")
    if file.get("PhotometricInterpretation") == "MONOCHROME1":
        pixels = pixels.max() + pixels.min() - pixels
    return pixels


def _numbers(file: Any, name: str, count: int) -> list[float] | None:
    """A tag's numbers, or None where it is missing, empty or of another length."""
    value = file.get(name, None)
    try:
        numbers = [float(v) for v in np.ravel(value)]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count else None


def _spacing(file: Any) -> tuple[float, float]:
    """Distance of rows and of columns; 1 mm where the file does not say."""
    numbers = _numbers(file, "PixelSpacing", 2) or _numbers(file, "ImagerPixelSpacing", 2) or [1.0, 1.0]
    return numbers[0] or 1.0, numbers[1] or 1.0


def _window(file: Any, pixels: Array) -> tuple[float, float]:
    if "WindowCenter" in file and "WindowWidth" in file:
        centre, width = (float(np.ravel(file[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        if width > 0:
            return centre - width / 2, centre + width / 2
    return default_window(pixels)


def _axes(file: Any) -> Array:
    """Directions of slices, rows and columns; the tag holds where a row runs first, then where a column runs."""
    cosines = _numbers(file, "ImageOrientationPatient", 6) or [1.0, 0, 0, 0, 1, 0]
    along_row, along_column = np.array(cosines[:3]), np.array(cosines[3:])
    return np.stack([np.cross(along_row, along_column), along_column, along_row])


def _title(file: Any) -> str:
    part = str(file.get("BodyPartExamined", "") or "").lower()
    thickness = _numbers(file, "SliceThickness", 1)
    return " ".join([str(file.get("Modality", "scan")), part]).strip() + (
        f", {thickness[0]:g} mm slice" if thickness else ""
    )


def _outline(file: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The largest connected part of the overlay, whose other parts are lettering, and what it encloses."""
    if (OVERLAY_GROUP, 0x3000) not in file or len(shape) != 2:
        return np.zeros(shape, bool), np.zeros(shape, bool)
    measure = imported("skimage.measure", "scikit-image", "finding the outline in the slice's overlay")
    morphology = imported("skimage.morphology", "scikit-image", "finding the outline in the slice's overlay")
    parts = measure.label(file.overlay_array(OVERLAY_GROUP) > 0, connectivity=2)
    sizes = np.bincount(parts.ravel())
    if len(sizes) < 2 or parts.shape != shape:
        return np.zeros(shape, bool), np.zeros(shape, bool)
    sizes[0] = 0
    contour = parts == sizes.argmax()
    return contour, np.asarray(morphology.convex_hull_image(contour), bool)


def _read_file(path: Path) -> Scan:
    file = _load(path)
    pixels = _pixels(file, path)
    axes, position = _axes(file), _numbers(file, "ImagePositionPatient", 3) or [0.0, 0, 0]
    contour, marked = _outline(file, pixels.shape)
    spacing: tuple[float, ...] = _spacing(file)
    if pixels.ndim == 3:
        between = _numbers(file, "SpacingBetweenSlices", 1) or _numbers(file, "SliceThickness", 1) or [1.0]
        spacing = (abs(between[0]) or 1.0, *spacing)
    return Scan(
        pixels=pixels, spacing=spacing, window=_window(file, pixels), title=_title(file), origin=np.array(position),
        axes=axes[-pixels.ndim :], contour=contour, marked=marked,
    )  # fmt: skip


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_folder(folder: Path) -> Scan:
    """The series with the most slices, in the order in which they lie in the patient."""
    series: dict[str, list[tuple[Any, Path]]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR"):
        if _is_dicom(path) or path.suffix.lower() in (".dcm", ".ima"):
            file = _load(path)
            series[str(file.get("SeriesInstanceUID", ""))].append((file, path))
    if not series:
        raise _refusal(folder, "is a folder without a DICOM image")
    slices = max(series.values(), key=len)
    if len(slices) == 1:
        return _read_file(slices[0][1])
    axes = _axes(slices[0][0])
    for file, path in slices:
        if _numbers(file, "ImagePositionPatient", 3) is None:
            raise _refusal(path, "is one of several slices, but does not say where it lies (ImagePositionPatient)")
        if (file.Rows, file.Columns) != (slices[0][0].Rows, slices[0][0].Columns) or int(
            file.get("NumberOfFrames", 1)
        ) > 1:
            raise _refusal(path, f"does not fit the other slices of its series, such as {slices[0][1].name}")
    height = {id(file): float(np.dot(_numbers(file, "ImagePositionPatient", 3) or (), axes[0])) for file, _ in slices}
    slices.sort(key=lambda entry: height[id(entry[0])])
    gaps = np.diff([height[id(file)] for file, _ in slices])
    if gaps.min() < 1e-3 or gaps.max() > 1.05 * gaps.min():
        rule = f"holds a series whose slices are not evenly spaced: {gaps.min():.2f} to {gaps.max():.2f} mm apart"
        raise _refusal(folder, rule)
    first = slices[0][0]
    pixels = np.stack([_pixels(file, path) for file, path in slices])
    outlines = [_outline(file, pixels.shape[1:]) for file, _ in slices]
    return Scan(
        pixels=pixels, spacing=(float(np.median(gaps)), *_spacing(first)), window=_window(first, pixels),
        title=f"{_title(first)}, {len(slices)} slices", origin=np.array(_numbers(first, "ImagePositionPatient", 3)),
        axes=axes, contour=np.stack([contour for contour, _ in outlines]), marked=np.stack([m for _, m in outlines]),
    )  # fmt: skip


def read(path: str | Path) -> Scan:
    """Read a scan: a DICOM file, a folder with a DICOM series, or a NIfTI file.

    Parameters
    ----------
    path : path
        Of a folder with several series, the one with the most slices is taken; of a 4-D NIfTI file the first volume.

    Returns
    -------
    Scan

    Raises
    ------
    ValueError
        If it is empty, broken, compressed without a decoder, in colour, or a series with gaps; the text names the file.
    FileNotFoundError
        If there is nothing there.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise FileNotFoundError(rejection("read", "path", str(path), "does not exist"))
    if not path.stat().st_size:
        raise _refusal(path, "is an empty file")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return read_nifti(path)
    return _read_file(path)


def _pydicom_example(name: str) -> Scan:
    examples = imported("pydicom.examples", "pydicom", "reading the example slice")
    return _read_file(Path(examples.get_path(name)))


def example_slice() -> Scan:
    """Load pydicom's ``overlay`` example: an abdominal MR slice on which somebody outlined a lesion.

    Raises
    ------
    MissingExtra
        If pydicom or scikit-image is not installed.
    """
    return _pydicom_example("overlay")


def example_ct() -> Scan:
    """Load pydicom's ``ct`` example: a chest CT slice around a vertebra, in Hounsfield units."""
    return _pydicom_example("ct")


def _nibabel_example(name: str) -> Scan:
    nibabel = imported("nibabel", "nibabel", "reading the example volume")
    return read_nifti(Path(nibabel.__file__).parent / "tests" / "data" / name)


def example_volume() -> Scan:
    """Load the MR volume of a head among nibabel's test data (example4d.nii.gz, its first volume)."""
    # Air around the head takes most of the volume, so percentiles over all would not do.
    return replace(_nibabel_example("example4d.nii.gz"), window=(0.0, 900.0), title="MR of a head")


def example_anatomy() -> Scan:
    """Load the small MR volume from the middle of a brain among nibabel's test data (anatomical.nii)."""
    return replace(_nibabel_example("anatomical.nii"), title="MR of the middle of a brain")
