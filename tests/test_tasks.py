"""The four tasks on tiny settings, what they learn in a few steps, and what they keep out of training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from voxconv import demo, imaging, nn
from voxconv.__main__ import main
from voxconv.demo import classify, detect, digits, lesions, maps, reconstruct, segment, tasks, training

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")
roc_auc_score = pytest.importorskip("sklearn.metrics").roc_auc_score
pytest.importorskip("matplotlib")
pytest.importorskip("skimage")

get_path = pytest.importorskip("pydicom.examples").get_path

TINY = {
    "classify": classify.Settings(train=64, validation=20, test=40, seen=32, epochs=(1, 1), resamples=20),
    "detect": detect.Settings(crops=8, seen=8, epochs=(1, 1), scenes=2, lesions=2),
    "segment": segment.Settings(crops=8, seen=16, epochs=(1, 1), scenes=2, lesions=2),
    "reconstruct": reconstruct.Settings(train=2, validation=1, test=1, seen=8, epochs=1),
    "digits": digits.Settings(epochs=2),
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    found = tasks.run_all(folder / "a.png", 2, TINY, None)
    return folder, json.loads(json.dumps(found, allow_nan=False))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_task_finds_and_draws(everything, task):
    from matplotlib.image import imread

    folder, every = everything
    found = every["tasks"][task]
    for name, figure in found["figures"].items():
        assert len(figure["values"]) == 2
        if name.startswith(("auc", "baseline", "dice", "sens", "ssim", "accuracy")):
            assert 0 <= figure["mean"] <= 1
    text = tasks.as_text(found)
    if task != "digits":
        assert found["noise" if task == "reconstruct" else "lesions"] == "synthetic"
        assert "synthetic" in text.lower()
    # A temporary picture's path may be long.
    assert max(len(line) for line in text.splitlines() if not line.startswith("Picture")) < 125
    assert imread(folder / f"a-{task}.png")[..., :3].std() > 0.1


def test_segment_is_asked_about_a_scan_that_trains_nothing(everything):
    _, every = everything
    assert 0 <= every["tasks"]["segment"]["figures"]["dice_elsewhere_3d"]["mean"] <= 1
    other, learned = lesions.stranger("segment"), lesions.solid("segment", None)
    assert other.scan.pixels.shape == (25, 41, 33) != learned.scan.pixels.shape
    assert other.scene("test", 3, np.random.default_rng(0)).image.shape == (25, 41, 17)


def test_table_says_what_was_missed(everything):
    _, found = everything
    rows = {(row["task"], row["figure"]): row for row in found["must"]}
    assert set(rows) == {(t, f) for limits in (tasks.LEAST, tasks.MOST) for t in tasks.TASKS for f in limits[t]}
    for (task, name), row in rows.items():
        mean = found["tasks"][task]["figures"][name]["mean"]
        assert row["kept"] == (mean >= tasks.LEAST[task][name] if row["sign"] == ">=" else mean <= row["limit"])
    # Two epochs do not teach a network to read.
    assert not rows["digits", "accuracy"]["kept"]
    assert not found["kept"]
    assert tasks.as_table(found).count("MISSED") == sum(not row["kept"] for row in rows.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's DICOM series: slices of the head, 2 mm apart."""
    folder = tmp_path_factory.mktemp("data") / "scan"
    folder.mkdir()
    file = pydicom.dcmread(get_path("mr"))
    for number, pixels in enumerate(imaging.example_volume().pixels.astype(np.int16)[2:22]):
        file.Rows, file.Columns = pixels.shape
        file.PixelData, file.SOPInstanceUID = pixels.tobytes(), f"1.2.3.{number}"
        file.ImageOrientationPatient, file.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * number]
        file.save_as(folder / f"{number}.dcm")
    return folder


@pytest.mark.parametrize("task", ["classify", "detect", "segment", "reconstruct"])
def test_users_folder_goes_through(folder, tmp_path, task):
    found = tasks.run(task, tmp_path / "a.png", folder, 1, TINY[task], None)
    figures = found["figures"]
    assert found["data"].endswith("scan")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert not any("elsewhere" in name for name in figures)
    # A series is a volume, so both dimensions are asked; nobody outlined anything in it.
    assert ("epoch_3d" in figures) == (task in ("classify", "segment"))
    assert not any(name.startswith("real") for name in figures)
    assert training.NOTE in found["notes"]
    if task == "reconstruct":
        assert figures["psnr_Gaussian"]["mean"] > figures["psnr_low_dose"]["mean"]


def test_a_scan_without_tissue_is_a_sentence(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((40, 40, 20), np.int16), np.eye(4)), tmp_path / "dark.nii")
    for task in ("classify", "detect", "segment"):
        with pytest.raises(ValueError, match=r"dark\.nii.*too little tissue"):
            tasks.run(task, tmp_path / "a.png", tmp_path / "dark.nii", 1, TINY[task], None)
    with pytest.raises(ValueError, match="smaller than 96"):
        tasks.run("reconstruct", tmp_path / "a.png", Path(get_path("mr")), 1, TINY["reconstruct"], None)


def test_commands_train_draw_and_say_whether_all_was_reached(tmp_path, monkeypatch, capsys):
    for name, settings in TINY.items():
        monkeypatch.setattr(f"voxconv.demo.{name}.Settings", lambda settings=settings: settings)
    short = demo.Settings(train_patches=64, asked_patches=40, epochs=2)
    monkeypatch.setattr("voxconv.demo.Settings", lambda: short)
    drawn = ["--seeds", "1", "--out", str(tmp_path / "a.png")]
    assert main(["demo", "--task", "digits", *drawn]) == 0
    assert "logistic" in capsys.readouterr().out
    assert main(["demo", "--no-timings", *drawn[2:]]) == 0
    assert "proves nothing" in capsys.readouterr().out
    monkeypatch.setattr(tasks, "TASKS", ("digits", "classify"))
    limits = {"digits": {"accuracy": 0.0}, "classify": {}}
    for accuracy, code in ((0.0, 0), (1.01, 1)):
        monkeypatch.setattr(tasks, "LEAST", limits | {"digits": {"accuracy": accuracy}})
        monkeypatch.setattr(tasks, "MOST", {"digits": {}, "classify": {}})
        assert main(["demo", "--task", "all", *drawn]) == code
        assert ("MISSED" in capsys.readouterr().out) == bool(code)
    assert (tmp_path / "a-classify.png").stat().st_size > 10_000


def test_a_scan_with_no_room_for_what_is_asked_is_a_sentence(tmp_path):
    anatomy = lesions.planar("segment", None)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="is smaller than a crop of"):
        anatomy.crop((10_000, 8), rng)
    with pytest.raises(ValueError, match=r"the train half of this scan .* has no place for a patch of 400"):
        anatomy.patch("train", 400, False, rng)
    anatomy.ignored[:] = True
    with pytest.raises(ValueError, match=r"has no crop of \(32, 32\) full of tissue"):
        anatomy.crop((32, 32), rng)
    grey = nibabel.Nifti1Image(np.full((128, 128, 1), 7, np.int16), np.eye(4))
    nibabel.save(grey, tmp_path / "grey.nii")
    with pytest.raises(ValueError, match="is of one grey value"):
        tasks.run("reconstruct", tmp_path / "a.png", tmp_path / "grey.nii", 1, TINY["reconstruct"], None)


def test_training_never_sees_the_outline_nor_the_other_half():
    anatomy = lesions.planar("segment", None)
    marked = anatomy.scan.marked
    assert anatomy.ignored[marked].all()
    assert not anatomy.near[..., : anatomy.split][marked[..., : anatomy.split] & ~anatomy.ignored[..., :250]].any()
    noiseless = lesions.Difficulty((3.5, 6.0), (0.0, 0.0), 1.0, 0.0)
    quiet = lesions.Anatomy(anatomy.scan, anatomy.split, noiseless)
    quiet.image[..., quiet.split :] = 1e6
    quiet.image[quiet.ignored] = 1e6
    rng = np.random.default_rng(0)
    assert max(quiet.crop((64, 64), rng).image.max() for _ in range(200)) < 1e6


def test_validation_comes_from_the_learned_half_and_from_no_place_that_is_trained_on():
    for anatomy in (lesions.planar("classify", None), lesions.solid("classify", None)):
        seen = np.zeros(anatomy.image.shape, int)
        for box in anatomy.parts.values():
            seen[box] += 1
        assert (seen == 1).all()
        seen[..., anatomy.split :] = 0
        assert not (seen[anatomy.parts["test"]]).any()
        share = anatomy.body[anatomy.parts["validation"]].sum() / anatomy.body[..., : anatomy.split].sum()
        assert 0.15 < share < 0.25
        patches, labels = classify.draw_patches(anatomy, "validation", 4, np.random.default_rng(0))
        assert patches.shape[2:] == (lesions.PATCH[anatomy.image.ndim],) * anatomy.image.ndim
        assert labels.tolist() == [0, 1, 0, 1]


def test_the_epoch_that_validates_best_is_kept():
    x = np.ones((4, 1), np.float32)
    model = nn.Sequential(nn.Linear(1, 1, bias=False, rng=0))
    model[0].weight.data[:] = 0
    kept = {}

    def batches(_):
        for _ in range(20):
            yield x, x  # draws the weight towards 1

    def show(epochs, *_):
        for epoch in epochs:
            yield epoch
            kept[epoch + 1] = float(model[0].weight.data[0, 0])

    def train(target):
        return training.train(
            model, nn.mse_loss, batches, (x, target * x), 8, 0.02, decay=0.0, seed=0, label="", show=show
        )

    best = train(np.float32(0.5))
    assert 1 <= best < 8
    assert float(model[0].weight.data[0, 0]) == kept[best]
    assert abs(kept[best] - 0.5) == min(abs(weight - 0.5) for weight in kept.values())


def test_augmentation_moves_image_and_mask_alike():
    rng = np.random.default_rng(0)
    masks = (rng.random((3, 1, 4, 6, 6)) > 0.5).astype(np.float32)
    shapes = set()
    for _ in range(40):
        images, moved = lesions.augmented(masks, masks, rng)
        assert images.shape == moved.shape == masks.shape
        for image, mask in zip(images, moved, strict=True):
            assert len(np.unique(image[mask == 1])) == len(np.unique(image[mask == 0])) == 1
        shapes.add(moved.tobytes())
    assert len(shapes) > 10  # of eight mirrored ones and each of them turned
    assert lesions.augmented(masks, np.arange(3), rng)[1].tolist() == [0, 1, 2]


def test_masks_hold_the_centres_and_lesions_do_not_touch():
    measure = pytest.importorskip("skimage.measure")
    for anatomy in (lesions.planar("segment", None), lesions.solid("segment", None)):
        scene = anatomy.scene("test", 5, np.random.default_rng(1))
        assert measure.label(scene.mask).max() == len(scene.centres) == 5
        assert all(scene.mask[tuple(np.round(centre).astype(int))] for centre in scene.centres)


def test_difficulty_leaves_the_tuned_matched_filter_below_its_limit():
    for make in (lesions.planar, lesions.solid):
        anatomy = make("classify", None)
        rng = np.random.default_rng(3)
        best = classify.tuned_filter(anatomy, *classify.draw_patches(anatomy, "train", 60, rng))
        patches, labels = classify.draw_patches(anatomy, "test", 120, rng)
        assert 0.4 < roc_auc_score(labels, classify._filtered(anatomy, patches, *best)) < 0.87


def test_without_decoys_a_tuned_matched_filter_is_enough():
    # Why there are decoys; it also shows that the baseline is no weak one.
    anatomy = lesions.planar("classify", None)
    anatomy.difficulty = dataclasses.replace(anatomy.difficulty, decoy=(0.0, 0.0))
    rng = np.random.default_rng(3)
    best = classify.tuned_filter(anatomy, *classify.draw_patches(anatomy, "train", 200, rng))
    patches, labels = classify.draw_patches(anatomy, "test", 120, rng)
    assert roc_auc_score(labels, classify._filtered(anatomy, patches, *best)) > 0.98


def test_decoys_are_lesions_with_a_gap():
    anatomy = lesions.planar("classify", None)
    anatomy.difficulty = lesions.Difficulty((5.0, 5.0), (2.0, 2.0), edge=1.0, noise=0.0, decoy=(2.0, 2.0))
    anatomy.image[:] = 0
    whole, decoy = (anatomy.patch("train", 32, lesion, np.random.default_rng(0)) for lesion in (True, False))
    assert whole.mask.any()
    assert not decoy.mask.any()
    assert len(decoy.centres) == 0
    # A quarter of the rim is gone, and nothing is brighter than before.
    bright = [(scene.image > 1).sum() for scene in (whole, decoy)]
    assert 0.65 < bright[1] / bright[0] < 0.85


def test_a_short_training_beats_the_classical_method():
    figures, _ = segment._learn(
        lesions.planar("segment", None), 0, maps.Settings(crops=160, seen=160, epochs=(8, 1), scenes=4), None
    )
    assert figures["dice_2d"] > 0.7
    assert figures["dice_2d"] > 2 * figures["baseline_dice_2d"]


def test_figures_of_merit_by_hand():
    a, b = np.zeros((2, 9, 9), bool)
    a[2:5, 2:5] = b[2:5, 4:7] = True
    assert maps.dice(a, b) == pytest.approx(2 * 3 / 18)
    assert maps.surface_distance(a, a, (1.0, 1.0)) == 0
    assert maps.surface_distance(a, b, (1.0, 2.0)) > maps.surface_distance(a, b, (1.0, 1.0)) > 0.5
    assert np.isnan(maps.surface_distance(a, b & False, (1.0, 1.0)))
    scene = lesions.Scene(np.zeros((40, 40)), np.zeros((40, 40), bool), np.array([[10.0, 10.0], [30.0, 30.0]]))
    found = [(np.array([[11, 10], [20, 20], [5, 35]]), np.array([3.0, 2.0, 1.0]))]
    curve = detect._curve(found, [scene], 5.0, (2.0, 2.0))
    assert curve.hits.tolist() == [3, -np.inf]
    assert curve.distances.tolist() == [2]
    assert curve.sensitivity(0) == curve.sensitivity(1) == 0.5


def test_low_dose_noise_is_centred_and_strongest_behind_bone():
    noise = reconstruct.low_dose(imaging.example_ct(), 6, np.random.default_rng(0))
    assert noise.shape == (6, 128, 128)
    assert abs(noise.mean()) < 0.1 * noise.std()
    bone = imaging.example_ct().pixels > 300
    assert noise[:, bone].std() > 1.05 * noise[:, :8].std()
