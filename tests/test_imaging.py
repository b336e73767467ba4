"""Scans in: DICOM files and series, NIfTI of both byte orders, resampling, a sentence for whatever cannot be read."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import voxconv as vc
from isolation import LIMIT
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
    anatomy = imaging.example_anatomy()
    assert (NIBABEL / "anatomical.nii").read_bytes()[:4] == b"\0\0\x01\\"  # the header's length of 348, big-endian
    assert anatomy.pixels.shape == (25, 41, 33)
    np.testing.assert_allclose(anatomy.spacing, 2)
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


def changed(folder, **tags):
    """The CT example with other tags; None takes one away."""
    file = pydicom.dcmread(PYDICOM / "CT_small.dcm")
    for name, value in tags.items():
        if value is None:
            delattr(file, name)
        else:
            setattr(file, name, value)
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(list(folder.iterdir()))}.dcm"
    file.save_as(path)
    return path


def test_tags_that_are_missing_empty_or_of_another_kind(tmp_path):
    plain = imaging.read(PYDICOM / "CT_small.dcm")
    dark = imaging.read(changed(tmp_path, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(dark.pixels, plain.pixels.max() + plain.pixels.min() - plain.pixels)
    for spacing in (None, "", [1, 2, 3]):
        assert imaging.read(changed(tmp_path, PixelSpacing=spacing)).spacing == (1.0, 1.0)
    assert imaging.read(changed(tmp_path, PixelSpacing=None, ImagerPixelSpacing=[2, 3])).spacing == (2.0, 3.0)
    frames = {"NumberOfFrames": 2, "Rows": plain.pixels.shape[0] // 2}
    volume = imaging.read(changed(tmp_path, **frames, SpacingBetweenSlices=-2.5))
    np.testing.assert_array_equal(volume.pixels.reshape(plain.pixels.shape), plain.pixels)
    assert volume.spacing == (2.5, *plain.spacing)
    for thickness, between in ((None, 1.0), (4, 4.0)):
        path = changed(tmp_path, **frames, SpacingBetweenSlices=None, SliceThickness=thickness)
        assert imaging.read(path).spacing == (between, *plain.spacing)
    with pytest.raises(ValueError, match="grey values that are not finite"):
        imaging.read(changed(tmp_path, RescaleSlope="1e38", RescaleIntercept="1e38"))


def test_a_folder_of_one_slice_is_that_slice_and_several_must_say_where_they_lie(tmp_path):
    path = changed(tmp_path / "one")
    one, alone = imaging.read(path.parent), imaging.read(path)
    np.testing.assert_array_equal(one.pixels, alone.pixels)
    assert one.spacing == alone.spacing
    changed(path.parent, ImagePositionPatient=None)
    with pytest.raises(ValueError, match=r"1\.dcm.*does not say where it lies"):
        imaging.read(path.parent)


def test_an_outline_that_does_not_fit_its_slice_marks_nothing(tmp_path):
    file = pydicom.dcmread(get_path("overlay"))
    file[0x6000, 0x3000].value = bytes(len(file[0x6000, 0x3000].value))
    file.save_as(tmp_path / "empty.dcm")
    assert not imaging.read(tmp_path / "empty.dcm").marked.any()
    assert imaging.example_slice().marked.any()


def test_nifti_that_is_no_volume_of_finite_grey_values(tmp_path):
    from voxconv.imaging.scan import read_nifti

    def saved(pixels, name="a.nii"):
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), tmp_path / name)
        return tmp_path / name

    with pytest.raises(ValueError, match=r"grey values in 3 or 4 dimensions, not float32 of shape \(2, 3\)"):
        imaging.read(saved(np.ones((2, 3), np.float32)))
    with pytest.raises(ValueError, match="grey values in 3 or 4 dimensions, not complex64"):
        imaging.read(saved(np.ones((2, 3, 4), np.complex64)))
    with pytest.raises(ValueError, match="must hold finite grey values"):
        imaging.read(saved(np.full((2, 3, 4), np.nan, np.float32)))
    frames = saved(np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3), "b.nii")
    assert read_nifti(frames, 2).pixels.ravel().tolist() == (read_nifti(frames).pixels.ravel() + 2).tolist()
    for frame in (-1, 3):
        with pytest.raises(ValueError, match=rf"frame={frame} must lie in 0\.\.2"):
            read_nifti(frames, frame)


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
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=LIMIT)
        assert result.returncode == 2
        assert text in result.stderr
        assert result.stderr.count("\n") == 1


def test_peak_is_given_in_voxels_and_millimetres():
    scan = imaging.read(PYDICOM / "CT_small.dcm")
    response = np.zeros(scan.pixels.shape, np.float32)
    response[20, 30] = 4
    response[0] = np.nan
    peak = imaging.peak_response(response, scan)
    assert (peak.voxel, peak.value) == ((20, 30), 4.0)
    assert peak.offset_mm == (20 * scan.spacing[0], 30 * scan.spacing[1])
    file = pydicom.dcmread(PYDICOM / "CT_small.dcm")
    along_row, along_column = np.reshape(np.array(file.ImageOrientationPatient, float), (2, 3))
    place = np.array(file.ImagePositionPatient, float)
    place += 30 * file.PixelSpacing[1] * along_row + 20 * file.PixelSpacing[0] * along_column
    np.testing.assert_allclose(peak.patient_mm, place, atol=1e-9)


def test_peak_of_a_volume_names_the_patients_sides():
    axes = np.array([[0, 0, 1.0], [0, 1, 0], [1, 0, 0]])
    scan = imaging.Scan(np.zeros((3, 4, 5), np.float32), (3.0, 2.0, 1.0), (0, 1), "", np.array([-9.0, -2, 1]), axes)
    response = np.zeros((3, 4, 5))
    response[1, 3, 2] = 1
    assert str(imaging.peak_response(response, scan)) == "slice 1, row 3, column 2 (R 7.0, P 4.0, S 4.0 mm)"
    with pytest.raises(ValueError, match="must be as large as the scan"):
        imaging.peak_response(response[0], scan)
    with pytest.raises(ValueError, match="must hold a number"):
        imaging.peak_response(response * np.nan, scan)


def test_kernels_answer_to_their_shape_and_not_to_an_even_area():
    for kernel, size in ((imaging.square_kernel(), 2), (imaging.blob_kernel(), 9)):
        assert kernel.sum() == pytest.approx(0, abs=1e-6)
        image = np.full((40, 40), 100, np.float32)
        image[20 : 20 + size, 11 : 11 + size] += 1
        row, column = divmod(int(vc.conv2d(image[None], kernel[None, None])[0].argmax()), 41 - len(kernel))
        before = (len(kernel) - size) // 2
        assert (row, column) == (20 - before, 11 - before)


def test_raster_marks_the_best_place_and_holds_all_sums():
    pytest.importorskip("matplotlib")
    image = np.random.default_rng(0).random((16, 20)).astype(np.float32)
    kernel = imaging.square_kernel()
    left, middle, right = imaging.figures.raster(image, kernel).axes
    sums = vc.conv2d(image[None], kernel[None, None])[0]
    np.testing.assert_array_equal(left.images[0].get_array(), image)
    np.testing.assert_array_equal(middle.images[0].get_array(), kernel)
    np.testing.assert_array_equal(right.images[0].get_array(), sums)
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    first, second, best = left.patches
    assert [box.get_xy() for box in (first, second, best)] == [
        (-0.5, -0.5), (0.5, -0.5), (column - 0.5, row - 0.5),
    ]  # fmt: skip
    assert (best.get_width(), best.get_height()) == (4, 4)
    assert f"row {row}, column {column}" in right.get_title()
    assert [text.get_text() for text in middle.texts][:6] == ["-1", "-1", "-1", "-1", "-1", "+3"]
    # The weights of a large kernel are shown in colour alone.
    assert not imaging.figures.raster(image, imaging.blob_kernel()).axes[1].texts
    with pytest.raises(ValueError, match="room for the kernel"):
        imaging.figures.raster(image[:3], kernel)


def test_montage_shows_each_slice_where_it_lies(tmp_path):
    pytest.importorskip("matplotlib")
    volume = imaging.example_volume()
    figure = imaging.figures.montage(volume, every=2, columns=5)
    assert len(figure.axes) == 12
    for axes, level in zip(figure.axes, range(1, 24, 2), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), volume.pixels[level])
        assert axes.get_title() == f"slice {level}: {level * volume.spacing[0]:.0f} mm"
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[4].y0 == boxes[0].y0 > boxes[5].y1
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    imaging.figures.save(figure, tmp_path / "a.png")
    marked = replace(volume, marked=np.zeros(volume.pixels.shape, bool))
    marked.marked[3, 20:40, 30:50] = True
    outlined = imaging.figures.montage(marked, every=2, columns=5)
    assert [number for number, axes in enumerate(outlined.axes) if axes.collections] == [1]
    with pytest.raises(ValueError, match="must be a volume"):
        imaging.figures.montage(volume.slice(0))
    with pytest.raises(ValueError, match="must be at least 1"):
        imaging.figures.montage(volume, every=0)


def test_maps_share_one_scale():
    pytest.importorskip("matplotlib")
    figure = imaging.figures.new_figure(2, 1)
    places = figure.subplots(1, 2)
    imaging.figures.show_maps(places, [np.eye(2), -3 * np.eye(2)], signed=True)
    assert [axes.images[0].get_clim() for axes in places] == [(-3, 3), (-3, 3)]
    imaging.figures.show_maps(places, np.ones((2, 4, 4)))
    assert [axes.images[1].get_clim() for axes in places] == [(0, 1), (0, 1)]
    imaging.figures.show_maps(places, np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="zip"):
        imaging.figures.show_maps(places, np.ones((3, 4, 4)))
