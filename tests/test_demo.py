"""The demo on tiny settings, and the network's response over the slice against patch by patch."""

from __future__ import annotations

import dataclasses
import io
import json
from importlib.util import find_spec

import numpy as np
import pytest

from voxconv import demo, nn
from voxconv.demo.experiment import Experiment, build_model
from voxconv.imaging import cut_patches, dense_response, example_slice

for package in ("pydicom", "matplotlib", "skimage"):
    if find_spec(package) is None:
        pytest.skip(f"the imaging extra is not installed: no {package}", allow_module_level=True)

TINY = demo.Settings(train_patches=64, asked_patches=40, epochs=2)


def test_demo_finds_and_draws(tmp_path):
    from matplotlib.image import imread

    path = tmp_path / "picture.png"
    found = json.loads(json.dumps(demo.run(path, settings=TINY, timings=False)))
    assert found["lesions"] == "synthetic"
    assert 0 <= found["test"]["accuracy"] <= 1
    assert 0 <= found["response"]["as_high_elsewhere"] <= 1
    assert found["training"]["steps"] == 4
    row, column = found["response"]["peak_px"]
    assert found["response"]["peak_mm"] == pytest.approx([row * 0.72314049586777, column * 0.72314049586777])
    assert found["response"]["distance_to_outline_mm"] >= 0
    pixels = imread(path)[..., :3]
    assert pixels.std() > 0.1
    assert "synthetic" in demo.as_text(found)
    assert "proves nothing" in demo.as_text(found)


def test_default_difficulty_is_learned():
    settings = dataclasses.replace(demo.Settings(), epochs=8)
    experiment = Experiment(example_slice(), settings)
    train = experiment.draw(experiment.train_centres, settings.train_patches)
    asked = [
        experiment.draw(centres, settings.asked_patches)
        for centres in (experiment.validation_centres, experiment.test_centres)
    ]
    outcome = experiment.run(train, *asked, lambda items, *_: items)
    assert min(outcome.validation_accuracy, outcome.test_accuracy) > 0.8


def test_patches_keep_to_their_part_and_off_the_outline():
    source = example_slice()
    experiment = Experiment(source, TINY)
    half = TINY.patch // 2
    parts = {
        TINY.train_columns: experiment.train_centres,
        TINY.validation_columns: experiment.validation_centres,
        TINY.test_columns: experiment.test_centres,
    }
    assert sorted(column for part in parts for column in part) == [0, 130, 130, 340, 340, 484]
    for (first, end), centres in parts.items():
        assert (centres[:, 1] - half).min() >= first
        assert (centres[:, 1] - half + TINY.patch).max() <= end
    near = np.argwhere(source.marked)
    for centres in parts.values():
        apart = np.abs(centres[::7, None] - near[None, ::3]).max(axis=2)
        assert apart.min() >= half + TINY.margin - 1


def test_dense_response_is_patch_by_patch():
    rng = np.random.default_rng(4)
    image = rng.standard_normal((41, 50), np.float32)
    model = build_model(TINY, rng).eval()
    response = dense_response(model, image, TINY.patch)
    rows, columns = np.nonzero(np.isfinite(response[0]))
    centres = np.stack([rows, columns], axis=1)
    assert len(centres) == (41 - 31) * (50 - 31)
    expected = model(cut_patches(image, centres, TINY.patch))
    np.testing.assert_allclose(response[:, rows, columns].T, expected, atol=1e-5)


def test_dense_response_refuses_what_it_cannot_spread():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, rng=0))
    with pytest.raises(ValueError, match="dense_response: model=Conv2d"):
        dense_response(model, np.zeros((8, 8), np.float32), 8)


def test_patch_outside_is_a_sentence():
    with pytest.raises(ValueError, match=r"cut_patches: centres=\(3, 20\) must lie"):
        cut_patches(np.zeros((40, 40)), np.array([[20, 20], [3, 20]]), 16)


def test_progress_is_plain_lines_without_a_terminal():
    stream = io.StringIO()
    assert list(nn.progress(range(8), 8, "work", stream)) == list(range(8))
    assert stream.getvalue() == "work 2/8\nwork 4/8\nwork 6/8\nwork 8/8\n"
