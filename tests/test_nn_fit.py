"""Training that goes on where it stopped, and prediction by patches with the bits of the whole."""

from __future__ import annotations

import io

import numpy as np
import pytest

from voxconv import nn
from voxconv.nn.fit import progress

rng = np.random.default_rng(0)
X = rng.standard_normal((24, 1, 8, 8)).astype(np.float32)
Y = (X[:, 0, 2:6, 2:6].mean(axis=(1, 2)) > 0).astype(int)


def parts(optimizer=nn.AdamW):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, rng=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 2, rng=2)
    )
    return model, optimizer(model.parameters(), lr=0.01)


def run(epochs, checkpoint=None, optimizer=nn.AdamW, **options):
    model, optimizer = parts(optimizer)
    schedule = nn.CosineAnnealingLR(optimizer, 6)
    history = nn.fit(
        model, optimizer, nn.cross_entropy, (X, Y), epochs, batch_size=8, validation=(X[:8], Y[:8]),
        schedule=schedule, checkpoint=checkpoint, show=None, **options,
    )  # fmt: skip
    return model, history


@pytest.mark.parametrize("optimizer", [nn.SGD, nn.Adam, nn.AdamW])
def test_interrupted_training_ends_with_the_same_bits(tmp_path, optimizer):
    straight, history = run(6, optimizer=optimizer)
    run(2, tmp_path / "a.npz", optimizer)
    run(4, tmp_path / "a.npz", optimizer)
    resumed, again = run(6, tmp_path / "a.npz", optimizer)
    assert again == history
    assert history.losses[-1] < history.losses[0]
    for name, array in straight.state_dict().items():
        np.testing.assert_array_equal(array, resumed.state_dict()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_early_stop_keeps_the_best(tmp_path):
    def loss(logits, labels):
        value, gradient = nn.cross_entropy(logits, labels)
        return value, -gradient  # uphill, so that the first epoch is the best

    model, optimizer = parts()
    arguments = (loss, (X, Y), 50)
    options = {"validation": (X[:8], Y[:8]), "patience": 2, "show": None, "checkpoint": tmp_path / "b.npz"}
    history = nn.fit(model, optimizer, *arguments, **options)
    assert (history.epochs, history.best_epoch, history.stopped_early) == (3, 1, True)
    assert loss(model(X[:8]), Y[:8])[0] == pytest.approx(history.validation[0])
    assert nn.fit(*parts(), *arguments, **options).epochs == 3


def test_data_may_be_drawn_anew_in_each_epoch():
    seen = []

    def draw(rng):
        seen.append(rng.integers(1000))
        yield X[:4], Y[:4]

    model, optimizer = parts()
    assert len(nn.fit(model, optimizer, nn.cross_entropy, draw, 3, show=None).losses) == 3
    assert len(set(seen)) == 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_progress_shows_each_step_to_a_terminal_and_a_few_to_a_file(stream):
    assert list(progress(range(10, 18), 8, "epochs", stream)) == list(range(10, 18))
    written = stream.getvalue()
    if stream.isatty():
        assert written.count("\r") == 8
        assert written.endswith(f"\repochs [{'#' * 30}] 8/8\n")
    else:
        assert written == "".join(f"epochs {done}/8\n" for done in (2, 4, 6, 8))


def test_what_fit_and_checkpoints_refuse(tmp_path):
    with pytest.raises(FileNotFoundError):
        nn.load_checkpoint(tmp_path / "nothing.npz", *parts())
    model, optimizer = parts()
    with pytest.raises(ValueError, match="patience=3 must come with validation"):
        nn.fit(model, optimizer, nn.cross_entropy, (X, Y), 1, patience=3)
    with pytest.raises(ValueError, match="must be at least 1"):
        nn.fit(model, optimizer, nn.cross_entropy, (X, Y), 0)
    with pytest.raises(FloatingPointError, match="nan at step 0 of epoch 1"):
        nn.fit(model, optimizer, nn.cross_entropy, (X * np.float32("nan"), Y), 1, show=None)
    (tmp_path / "c.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"c\.npz.*is no checkpoint"):
        nn.load_checkpoint(tmp_path / "c.npz", model, optimizer)
    nn.save_checkpoint(tmp_path / "d.npz", model, optimizer)
    with pytest.raises(ValueError, match="does not fit"):
        nn.load_checkpoint(tmp_path / "d.npz", nn.Linear(2, 2), optimizer)


NETWORKS = {
    "unet2d": (lambda: nn.UNet2d(1, 2, (8, 16, 16), rng=0), (2, 1, 75, 90), (52, 60)),
    "unet2d-wide": (lambda: nn.UNet2d(3, 1, (32, 64), rng=0), (1, 3, 64, 70), 40),
    "unet3d": (lambda: nn.UNet3d(1, 1, (8, 16), rng=0), (1, 1, 26, 31, 23), (28, 26, 24)),
    "unet3d-norm": (lambda: nn.UNet3d(1, 2, (4, 8), norm_layer="batch", rng=0), (1, 1, 29, 20, 22), 26),
    "float64": (lambda: nn.UNet2d(1, 1, (4, 8), dtype="float64", rng=0), (1, 1, 40, 37), 24),
    "dilated": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=2, dilation=2, rng=0), nn.ReLU(), nn.ResidualBlock2d(4, 2)),
        (1, 1, 30, 33), 16,
    ),
    "strided": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1, rng=0), nn.ConvTranspose2d(4, 1, 4, 2, 1, rng=0)),
        (1, 1, 30, 34), 12,
    ),
    "same": (lambda: nn.Sequential(nn.Conv1d(1, 4, 4, padding="same", rng=0), nn.LeakyReLU()), (2, 1, 300), 33),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_patches_give_the_bits_of_the_whole(name):
    make, shape, patch = NETWORKS[name]
    model = make()
    x = np.random.default_rng(1).standard_normal(shape)
    x = x.astype(next(model.parameters()).data.dtype)
    whole = nn.predict(model, x)
    tiled = nn.predict(model, x, patch)
    assert whole.shape == (shape[0], whole.shape[1], *shape[2:])
    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_array_equal(nn.predict(model, x[:1], patch), whole[:1])
    assert all(module.training for module in model.modules())
    assert {getattr(module, "precision", "default") for module in model.modules()} == {"default"}


def test_no_patch_is_wider_than_it_has_to_be():
    """A halo one position narrower must change something, or the halo is not the network's reach."""
    model = nn.Sequential(nn.Conv1d(1, 1, 7, padding=3, rng=0))
    x = np.random.default_rng(0).standard_normal((1, 1, 40), np.float32)
    np.testing.assert_array_equal(nn.predict(model, x, 7), nn.predict(model, x))
    with pytest.raises(ValueError, match="patch=6 must be at least 7"):
        nn.predict(model, x, 6)


def test_what_predict_refuses():
    x = np.zeros((1, 1, 32, 32), np.float32)
    with pytest.raises(ValueError, match=r"InstanceNorm2d.*see the whole image"):
        nn.predict(nn.UNet2d(1, 1, (2, 2), norm_layer="instance", rng=0), x, 24)
    assert nn.predict(nn.UNet2d(1, 1, (2, 2), norm_layer="instance", rng=0), x).shape == x.shape
    with pytest.raises(ValueError, match="must keep the spatial size"):
        nn.predict(nn.Conv2d(1, 1, 3, rng=0), x)
    with pytest.raises(ValueError, match="an integer or 2 of them"):
        nn.predict(nn.Conv2d(1, 1, 3, padding=1, rng=0), x, (16, 16, 16))
    with pytest.raises(ValueError, match="not empty"):
        nn.predict(nn.Conv2d(1, 1, 3, padding=1, rng=0), x[:, :, :0])
