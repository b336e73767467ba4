"""Scans in: DICOM files and series, NIfTI of both byte orders, resampling, a sentence for whatever cannot be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voxconv import imaging

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
pytest.importorskip("skimage")

get_path = pytest.importorskip("pydicom.examples").get_path


PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"


def series(folder, positions, rows=8):
    """Slices cut from the MR example, in a shuffled order of names, each with its position as grey value."""
    file = pydicom.dcmread(get_path("mr"))
    for number, position in enumerate(positions):
        pixels = np.full((rows, 6), position, np.int16)
        file.Rows, file.Columns = pixels.shape
        file.PixelData = pixels.tobytes()
        file.RescaleSlope, file.RescaleIntercept = 2, -5
        file.PixelSpacing = [0.5, 0.25]
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.ImagePositionPatient = [-10, 20, position]
        file.SOPInstanceUID = f"1.2.3.{number}"
        file.save_as(folder / f"{(number * 7) % 11}.dcm")


def test_series_is_sorted_and_scaled(tmp_path):
    series(tmp_path, [6, 0, 3, 9])
    (tmp_path / "notes.txt").write_text("not a scan")
    scan = imaging.read(tmp_path)
    assert scan.pixels.shape == (4, 8, 6)
    assert scan.pixels[:, 0, 0].tolist() == [-5, 1, 7, 13]
    assert scan.spacing == (3, 0.5, 0.25)
    np.testing.assert_allclose(scan.to_mm([1, 2, 4]), [-9, 21, 3])
    assert scan.directions == ("R", "L", "A", "P")
    cut = scan.slice(2)
    assert cut.spacing == (0.5, 0.25)
    np.testing.assert_allclose(cut.to_mm([2, 4]), [-9, 21, 6])


def test_series_with_a_gap_or_a_stranger_is_refused(tmp_path):
    series(tmp_path, [0, 3, 9])
    with pytest.raises(ValueError, match=r"not evenly spaced: 3.00 to 6.00 mm"):
        imaging.read(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    series(tmp_path, [0, 3])
    file = pydicom.dcmread(next(tmp_path.glob("*.dcm")))
    file.Rows, file.PixelData, file.SOPInstanceUID = 4, np.zeros((4, 6), np.int16).tobytes(), "1.2.4"
    file.save_as(tmp_path / "stranger.dcm")
    with pytest.raises(ValueError, match="does not fit the other slices"):
        imaging.read(tmp_path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_of_both_byte_orders(tmp_path, order):
    stored = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(f"{order}i2")
    affine = np.array([[-2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])  # columns run to the left
    image = nibabel.Nifti1Image(stored, affine, nibabel.Nifti1Header(endianness=order))
    image.header.set_slope_inter(2, 1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    scan = imaging.read(tmp_path / "a.nii.gz")
    assert scan.pixels.dtype == np.float32
    assert scan.spacing == (4, 3, 2)
    # Voxel (x, y, z) of the file lies x * 2 mm to the left, and rows run from front to back.
    for x, y, z in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
        index = (z, 2 - y, x)
        assert scan.pixels[index] == 2 * stored[x, y, z] + 1
        right, front, head = affine[:3] @ [x, y, z, 1]
        np.testing.assert_allclose(scan.to_mm(index), [-right, -front, head])
    assert scan.directions == ("R", "L", "A", "P")


def test_examples_are_what_they_are_said_to_be():
    volume, ct = imaging.example_volume(), imaging.example_ct()
    assert volume.pixels.shape == (24, 96, 128)
    assert ct.pixels.shape == (128, 128)
    assert ct.pixels.min() < -800
    anatomy = imaging.read(NIBABEL / "anatomical.nii")  # big-endian
    assert anatomy.pixels.shape == (25, 41, 33)
    for name in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm"):
        np.testing.assert_array_equal(imaging.read(PYDICOM / name).pixels, imaging.read(get_path("mr")).pixels)


def test_resampling_keeps_faces_and_means():
    volume = imaging.example_volume()
    coarse = imaging.resample(volume, 4.0)
    assert coarse.pixels.shape == (13, 48, 64)
    np.testing.assert_allclose(coarse.to_mm([-0.5] * 3), volume.to_mm([-0.5] * 3), atol=1e-9)
    end = [np.array(scan.pixels.shape) - 0.5 for scan in (coarse, volume)]
    np.testing.assert_allclose(coarse.to_mm(end[0]), volume.to_mm(end[1]), atol=1e-9)
    assert coarse.pixels.mean() == pytest.approx(volume.pixels.mean(), rel=0.01)
    marked = imaging.resample(imaging.example_slice(), 2.0)
    assert marked.marked.sum() == pytest.approx(imaging.example_slice().marked.sum() * (0.723 / 2) ** 2, rel=0.1)
    with pytest.raises(ValueError, match="spacing=0 must be"):
        imaging.resample(volume, 0)


def test_cubic_patches():
    volume = np.arange(6 * 7 * 8.0).reshape(6, 7, 8)
    patches = imaging.cut_patches(volume, np.array([[3, 3, 4], [2, 2, 2]]), 4)
    np.testing.assert_array_equal(patches[0, 0], volume[1:5, 1:5, 2:6])
    assert imaging.window_mean(volume.astype("f"), 3)[1, 1, 1] == volume[:3, :3, :3].mean()


def bad_files(folder):
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "text.dcm").write_text("once upon a time")
    whole = Path(get_path("mr")).read_bytes()
    (folder / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.nii").write_bytes(b"\0" * 400)
    (folder / "no-images").mkdir()
    report = pydicom.dcmread(get_path("mr"))
    del report.PixelData
    report.save_as(folder / "report.dcm")
    return {
        folder / "empty.dcm": "is an empty file",
        folder / "text.dcm": "neither DICOM nor NIfTI",
        folder / "cut.dcm": "cannot be read",
        folder / "broken.nii": "cannot be read as NIfTI",
        folder / "no-images": "without a DICOM image",
        folder / "report.dcm": "without an image",
        PYDICOM / "SC_rgb_rle.dcm": "holds a colour image",
        PYDICOM / "examples_palette.dcm": "holds a colour image",
        PYDICOM / "MR_small_jpeg_ls_lossless.dcm": r"is compressed \(JPEG-LS",
    }


def test_every_bad_file_is_named(tmp_path):
    for path, text in bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=text) as caught:
            imaging.read(path)
        assert path.name in str(caught.value)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        imaging.read(tmp_path / "nothing.dcm")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "empty.dcm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.dcm.*is an empty file"):
        imaging.read(tmp_path / "one")


def test_bad_data_is_one_line_on_the_command_line(tmp_path):
    (tmp_path / "empty.dcm").write_bytes(b"")
    for arguments, text in (
        (["--task", "detect", "--data", str(tmp_path / "empty.dcm")], "empty.dcm"),
        (["--data", str(tmp_path)], "--data needs --task"),
    ):
        command = [sys.executable, "-m", "voxconv", "demo", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert result.returncode == 2
        assert text in result.stderr
        assert result.stderr.count("\n") == 1
