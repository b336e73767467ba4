"""Transposed convolution, pooling, norms, models and losses: slopes, and agreement with torch's stored answers.

``python tests/test_nn_layers.py`` writes the answers anew, where torch is installed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from voxconv import nn

ANSWERS = Path(__file__).with_name("torch_answers.json")
F64 = {"dtype": "float64"}

# name: (ours, torch's class or None, arguments, shape of the input)
LAYERS = {
    "conv_transpose1d": (nn.ConvTranspose1d, "ConvTranspose1d", (2, 3, 3, 2, 1, 1), (2, 2, 5)),
    "conv_transpose2d": (nn.ConvTranspose2d, "ConvTranspose2d", (4, 6, (3, 2), 2, 0, 0, 2), (2, 4, 3, 4)),
    "conv_transpose3d": (nn.ConvTranspose3d, "ConvTranspose3d", (2, 3, 2, 2), (1, 2, 2, 3, 2)),
    "avg_pool1d": (nn.AvgPool1d, "AvgPool1d", (3, 2, 1), (2, 2, 8)),
    "avg_pool2d": (nn.AvgPool2d, "AvgPool2d", (3, 2, 1, True, False), (2, 2, 6, 5)),
    "avg_pool3d": (nn.AvgPool3d, "AvgPool3d", (2,), (1, 2, 4, 4, 2)),
    "global_mean": (nn.AdaptiveAvgPool2d, "AdaptiveAvgPool2d", (1,), (2, 3, 4, 5)),
    "adaptive_mean3d": (nn.AdaptiveAvgPool3d, "AdaptiveAvgPool3d", ((2, 1, 2),), (1, 2, 4, 3, 2)),
    "adaptive_mean1d": (nn.AdaptiveAvgPool1d, "AdaptiveAvgPool1d", (2,), (2, 3, 6)),
    "global_max": (nn.AdaptiveMaxPool2d, "AdaptiveMaxPool2d", (1,), (2, 3, 4, 5)),
    "global_max1d": (nn.AdaptiveMaxPool1d, "AdaptiveMaxPool1d", (1,), (2, 3, 4)),
    "adaptive_max3d": (nn.AdaptiveMaxPool3d, "AdaptiveMaxPool3d", (2,), (1, 2, 4, 2, 2)),
    "batch_norm1d": (nn.BatchNorm1d, "BatchNorm1d", (3,), (5, 3)),
    "batch_norm2d": (nn.BatchNorm2d, "BatchNorm2d", (3, 1e-3, 0.3), (4, 3, 3, 2)),
    "batch_norm3d": (nn.BatchNorm3d, "BatchNorm3d", (2,), (2, 2, 2, 3, 2)),
    "instance_norm1d": (nn.InstanceNorm1d, "InstanceNorm1d", (3, 1e-5, 0.1, True), (2, 3, 6)),
    "instance_norm2d": (nn.InstanceNorm2d, "InstanceNorm2d", (3,), (2, 3, 4, 3)),
    "instance_norm3d": (nn.InstanceNorm3d, "InstanceNorm3d", (2, 1e-5, 0.2, True, True), (2, 2, 2, 3, 2)),
}
MODELS = {
    "residual": (lambda: nn.ResidualBlock2d(2, 4, 2, dtype="float64", rng=0), (2, 2, 6, 4)),
    "residual-plain": (lambda: nn.ResidualBlock3d(2, 2, dtype="float64", rng=0), (1, 2, 3, 4, 2)),
    "unet2d": (lambda: nn.UNet2d(1, 2, (2, 3, 4), dtype="float64", rng=0), (2, 1, 8, 4)),
    "unet3d": (lambda: nn.UNet3d(1, 1, (2, 3), dtype="float64", rng=0), (1, 1, 4, 2, 4)),
    "unet-norm": (lambda: nn.UNet2d(1, 1, (2, 3), norm_layer="instance", dtype="float64", rng=0), (1, 1, 4, 6)),
}
LOSSES = {
    "mse_loss": lambda x, t: nn.mse_loss(x, t),
    "l1_loss": lambda x, t: nn.l1_loss(x, t),
    "binary_cross_entropy_with_logits": lambda x, t: nn.binary_cross_entropy_with_logits(x, t),
    "sigmoid_focal_loss": lambda x, t: nn.sigmoid_focal_loss(x, t, 0.3, 1.5),
    "dice_loss": lambda x, t: nn.dice_loss(x, t),
    "cross_entropy": lambda x, t: nn.cross_entropy(x, t[:, 0].astype(int)),
}


def wave(shape, step=1.0):
    """Values that every library draws alike, none of them equal or near zero."""
    count = int(np.prod(shape))
    return np.sin(step * np.arange(1, count + 1) + 0.1 * step).reshape(shape)


def build(name):
    kind, _, arguments, _ = LAYERS[name]
    has_dtype = not any(word in kind.__name__ for word in ("AvgPool", "MaxPool"))
    return kind(*arguments, **(F64 if has_dtype else {}))


def fill(named):
    for index, (_, array) in enumerate(named):
        array[...] = wave(array.shape, 0.7 + 0.1 * index)


def ours(name):
    """What a layer answers to `wave`, as a few sums: the output's, each gradient's, each buffer's."""
    layer = build(name)
    fill((key, parameter.data) for key, parameter in layer.named_parameters())
    x = wave(LAYERS[name][3])
    y = layer(x)
    gradients = {"input": layer.backward(wave(y.shape, 0.3))}
    gradients |= {key: parameter.grad for key, parameter in layer.named_parameters()}
    buffers = {key: value for key, value in layer.state_dict().items() if key not in gradients}
    arrays = {"output": y, **{f"grad {key}": value for key, value in gradients.items()}, **buffers}
    return {key: float((value * wave(value.shape, 0.9)).sum()) for key, value in arrays.items()}


def loss_arrays():
    return wave((2, 3, 2, 3)) * 2, (wave((2, 3, 2, 3), 1.7) > 0).astype(float)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_agrees_with_torch(name):
    expected = json.loads(ANSWERS.read_text())[name]
    got = ours(name)
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert list(got) == list(expected)


@pytest.mark.parametrize("name", [*LOSSES, "Adam", "AdamW", "SGD"])
def test_loss_and_steps_agree_with_torch(name):
    expected = json.loads(ANSWERS.read_text())[name]
    if name in LOSSES:
        loss, gradient = LOSSES[name](*loss_arrays())
        assert [loss, float((gradient * wave(gradient.shape, 0.9)).sum())] == pytest.approx(expected, rel=1e-9)
        return
    parameter = nn.Parameter(wave((3, 4)))
    options = {"momentum": 0.9, "nesterov": True} if name == "SGD" else {}
    optimizer = getattr(nn, name)([parameter], lr=0.05, weight_decay=0.1, **options)
    for step in range(4):
        parameter.grad = wave((3, 4), 0.3 + step)
        optimizer.step()
    assert float((parameter.data * wave((3, 4), 0.9)).sum()) == pytest.approx(expected, rel=1e-9)


SCHEDULES = {
    "StepLR": (2, 0.5), "ExponentialLR": (0.8,), "CosineAnnealingLR": (5, 0.01), "LinearLR": (0.25, 1.0, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_agrees_with_torch(name):
    optimizer = nn.SGD([nn.Parameter(np.ones(1))], lr=0.1)
    schedule = getattr(nn, name)(optimizer, *SCHEDULES[name])
    rates = []
    for _ in range(6):
        rates.append(optimizer.lr)
        schedule.step()
    assert rates == pytest.approx(json.loads(ANSWERS.read_text())[name], rel=1e-9)


def slopes(function, array, gradient, rng, least=1e-7):
    for flat in rng.choice(array.size, min(array.size, 8), replace=False):
        index = np.unravel_index(flat, array.shape)
        kept = array[index]
        array[index] = kept + 1e-6
        above = function()
        array[index] = kept - 1e-6
        below = function()
        array[index] = kept
        assert gradient[index] == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=least)


@pytest.mark.parametrize("name", [*LAYERS, *MODELS])
def test_gradients_are_the_slopes(name):
    make, shape = MODELS[name] if name in MODELS else (lambda: build(name), LAYERS[name][3])
    rng = np.random.default_rng(3)
    layer = make()
    x = rng.standard_normal(shape)
    weights = rng.standard_normal(layer(x).shape)
    gradients = [(x, layer.backward(weights)), *((p.data, p.grad) for p in layer.parameters())]
    for array, gradient in gradients:
        assert gradient.shape == array.shape
        slopes(lambda: (layer(x) * weights).sum(), array, gradient, rng, 1e-6)
    layer.zero_grad()
    layer(x)
    if next(layer.parameters(), None) is not None:
        assert layer.backward(weights, input_grad=False) is None
        for parameter, (_, gradient) in zip(layer.parameters(), gradients[1:], strict=True):
            np.testing.assert_array_equal(parameter.grad, gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_gradients_are_the_slopes(name):
    x, target = loss_arrays()
    loss, gradient = LOSSES[name](x, target)
    assert loss > 0
    slopes(lambda: LOSSES[name](x, target)[0], x, gradient, np.random.default_rng(0))
    assert LOSSES[name](x.astype("float32"), target)[1].dtype == np.float32


def test_losses_stay_finite_for_certain_answers():
    x = np.array([[[-1000.0, 1000.0]]])
    for name in ("binary_cross_entropy_with_logits", "sigmoid_focal_loss", "dice_loss"):
        for target in (np.array([[[0.0, 1.0]]]), np.array([[[1.0, 0.0]]])):
            loss, gradient = LOSSES[name](x, target)
            assert np.isfinite(loss)
            assert np.isfinite(gradient).all()


def test_batch_norm_uses_what_it_has_seen():
    layer = nn.BatchNorm2d(2, momentum=1.0)
    x = np.random.default_rng(0).normal(3, 2, (4, 2, 5, 5)).astype("float32")
    y = layer(x)
    assert abs(y.mean()) < 1e-6
    assert layer.num_batches_tracked == 1
    np.testing.assert_allclose(layer.running_var, x.var(axis=(0, 2, 3), ddof=1), rtol=1e-5)
    np.testing.assert_allclose(layer.eval()(x), y * np.sqrt(99 / 100), atol=1e-4)
    assert [*nn.ResidualBlock2d(1, 1).state_dict()][:6] == [
        "conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
    ]  # fmt: skip


def test_dropout_keeps_the_mean_and_its_gradient_the_choice():
    layer = nn.Dropout(0.25, rng=0)
    x = np.ones((100, 100), np.float32)
    y = layer(x)
    assert abs(y.mean() - 1) < 0.02
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(layer.backward(x), y)
    np.testing.assert_array_equal(layer.eval()(x), x)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.ConvTranspose2d(3, 4, 3, groups=2), ValueError, "in_channels=3 must be divisible by groups=2"),
        (lambda: nn.ConvTranspose2d(3, 4, (3,)), ValueError, "must be an integer or 2 of them"),
        (lambda: nn.AdaptiveAvgPool2d(2)(np.zeros((1, 1, 3, 4))), ValueError, r"output_size=\(2, 2\) divides"),
        (lambda: nn.AdaptiveMaxPool2d((2,)), ValueError, "must be an integer or 2 of them"),
        (lambda: nn.BatchNorm2d(3)(np.zeros((1, 4, 2, 2))), ValueError, "num_features=3"),
        (lambda: nn.BatchNorm2d(3, momentum=2), ValueError, "momentum=2 must lie in"),
        (lambda: nn.BatchNorm1d(3)(np.zeros((1, 3))), ValueError, "more than one value"),
        (lambda: nn.InstanceNorm2d(3, eps=0), ValueError, "eps=0 must be positive"),
        (lambda: nn.Dropout(1.0), ValueError, "p=1.0 must be"),
        (lambda: nn.UNet2d(1, 1, (4,)), ValueError, "at least two"),
        (lambda: nn.UNet2d(1, 1, norm_layer="group"), ValueError, "norm_layer='group'"),
        (lambda: nn.UNet2d(1, 1, (2, 2))(np.zeros((1, 1, 5, 4), "f")), ValueError, "2 spatial sizes that 2 divides"),
        (lambda: nn.mse_loss(np.zeros(2), np.zeros(3)), ValueError, "mse_loss: target=.*of the shape of input"),
        (lambda: nn.l1_loss(np.zeros(2, int), np.zeros(2)), TypeError, "must be floating"),
        (lambda: nn.l1_loss(np.zeros(2), np.zeros(2, complex)), TypeError, "real numbers"),
        (lambda: nn.sigmoid_focal_loss(np.zeros(2), np.zeros(2), gamma=-1), ValueError, "gamma"),
        (lambda: nn.dice_loss(np.zeros((2, 2)), np.zeros((2, 2))), ValueError, "spatial axes"),
        (lambda: nn.StepLR(nn.SGD([nn.Parameter(np.ones(1))]), 0), ValueError, "step_size=0"),
        (lambda: nn.CosineAnnealingLR(nn.SGD([nn.Parameter(np.ones(1))]), 0), ValueError, "T_max=0"),
        (lambda: nn.LinearLR(nn.SGD([nn.Parameter(np.ones(1))]), total_iters=0), ValueError, "total_iters=0"),
    ],
)
def test_layers_refuse(make, error, text):
    with pytest.raises(error, match=text):
        make()


def torch_answers():
    import torch

    def digest(tensor):
        array = tensor.detach().numpy()
        return float((array * wave(array.shape, 0.9)).sum())

    answers = {}
    for name, (_, kind, arguments, shape) in LAYERS.items():
        layer = getattr(torch.nn, kind)(*arguments).double()
        fill((key, parameter.detach().numpy()) for key, parameter in layer.named_parameters())
        x = torch.tensor(wave(shape), requires_grad=True)
        y = layer(x)
        y.backward(torch.tensor(wave(tuple(y.shape), 0.3)))
        answers[name] = {"output": digest(y), "grad input": digest(x.grad)}
        answers[name] |= {f"grad {key}": digest(parameter.grad) for key, parameter in layer.named_parameters()}
        answers[name] |= {key: digest(buffer) for key, buffer in layer.named_buffers()}
    for name in LOSSES:
        x, t = (torch.tensor(array) for array in loss_arrays())
        x.requires_grad_()
        functional = torch.nn.functional
        if name == "dice_loss":
            s = torch.sigmoid(x)
            total = s.sum((2, 3)) + t.sum((2, 3)) + 1
            loss = (1 - (2 * (s * t).sum((2, 3)) + 1) / total).mean()
        elif name == "sigmoid_focal_loss":
            s = torch.sigmoid(x)
            right = s * t + (1 - s) * (1 - t)
            entropy = functional.binary_cross_entropy_with_logits(x, t, reduction="none")
            loss = ((0.3 * t + 0.7 * (1 - t)) * (1 - right) ** 1.5 * entropy).mean()
        else:
            loss = getattr(functional, name)(x, t[:, 0].long() if name == "cross_entropy" else t)
        loss.backward()
        answers[name] = [loss.item(), digest(x.grad)]
    for name in ("Adam", "AdamW", "SGD"):
        parameter = torch.nn.Parameter(torch.tensor(wave((3, 4))))
        options = {"momentum": 0.9, "nesterov": True} if name == "SGD" else {}
        optimizer = getattr(torch.optim, name)([parameter], lr=0.05, weight_decay=0.1, **options)
        for step in range(4):
            parameter.grad = torch.tensor(wave((3, 4), 0.3 + step))
            optimizer.step()
        answers[name] = digest(parameter)
    for name, arguments in SCHEDULES.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        schedule = getattr(torch.optim.lr_scheduler, name)(optimizer, *arguments)
        answers[name] = []
        for _ in range(6):
            answers[name].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    return answers


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps(torch_answers(), indent=1) + "\n")
