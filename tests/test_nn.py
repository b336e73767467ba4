"""Layers, losses and optimisers: gradients, names and a few steps worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

import voxconv as vc
from voxconv import nn

LAYERS = {
    "conv1d": (lambda r: nn.Conv1d(2, 3, 3, stride=2, padding=1, dtype="float64", rng=r), (2, 2, 9)),
    "conv2d": (lambda r: nn.Conv2d(4, 6, (3, 2), padding=1, groups=2, dtype="float64", rng=r), (2, 4, 5, 6)),
    "conv2d-dilated": (lambda r: nn.Conv2d(2, 3, 3, dilation=2, bias=False, dtype="float64", rng=r), (1, 2, 7, 6)),
    "conv2d-same": (lambda r: nn.Conv2d(2, 3, 2, padding="same", dtype="float64", rng=r), (1, 2, 5, 4)),
    "conv2d-no-batch": (lambda r: nn.Conv2d(2, 3, 3, dtype="float64", rng=r), (2, 5, 6)),
    "conv3d": (lambda r: nn.Conv3d(2, 3, 3, padding=1, dtype="float64", rng=r), (1, 2, 4, 3, 5)),
    "max_pool1d": (lambda r: nn.MaxPool1d(3, 2, 1), (2, 3, 9)),
    "max_pool2d": (lambda r: nn.MaxPool2d(2), (2, 3, 6, 5)),
    "max_pool3d": (lambda r: nn.MaxPool3d(2, ceil_mode=True), (1, 2, 4, 5, 3)),
    "relu": (lambda r: nn.ReLU(), (3, 4)),
    "leaky_relu": (lambda r: nn.LeakyReLU(0.1), (3, 4)),
    "flatten": (lambda r: nn.Flatten(), (2, 3, 4)),
    "linear": (lambda r: nn.Linear(4, 3, dtype="float64", rng=r), (2, 5, 4)),
    "network": (lambda r: network(r, "float64"), (2, 1, 12, 12)),
}


def network(rng, dtype="float32"):
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, dtype=dtype, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(75, 2, dtype=dtype, rng=rng),
    )  # fmt: skip


def slope(function, array, index, step=1e-6):
    """Central difference along one element, changed in place."""
    kept = array[index]
    array[index] = kept + step
    above = function()
    array[index] = kept - step
    below = function()
    array[index] = kept
    return (above - below) / (2 * step)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_slopes(name):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(5)
    layer = make(rng)
    x = rng.standard_normal(shape)
    weights = rng.standard_normal(layer(x).shape)
    got = layer.backward(weights)
    arrays = [(x, got)] + [(parameter.data, parameter.grad) for parameter in layer.parameters()]
    for array, gradient in arrays:
        assert gradient.shape == array.shape
        for flat in rng.choice(array.size, min(array.size, 12), replace=False):
            index = np.unravel_index(flat, array.shape)
            assert gradient[index] == pytest.approx(slope(lambda: (layer(x) * weights).sum(), array, index), abs=1e-7)


def test_gradients_add_up_until_they_are_forgotten():
    layer = nn.Linear(3, 2, rng=0)
    x = np.ones((1, 3), np.float32)
    for _ in range(2):
        layer(x)
        layer.backward(np.ones((1, 2), np.float32))
    assert (layer.weight.grad == 2).all()
    layer.zero_grad()
    assert layer.weight.grad is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(32, 2048), (4, 10, 700), (513, 64)], ids=str)
def test_a_linear_layers_large_products_are_the_same_ones(shape, dtype):
    rng = np.random.default_rng(4)
    layer = nn.Linear(shape[-1], 40, dtype=dtype)
    x, weight, bias, gradient = (
        rng.integers(-4, 5, size).astype(dtype) for size in (shape, (40, shape[-1]), 40, (*shape[:-1], 40))
    )
    layer.weight.data, layer.bias.data = weight, bias
    expected = x @ weight.T + bias, gradient @ weight, np.tensordot(gradient, x, (range(x.ndim - 1),) * 2)
    turned = np.asfortranarray(x), np.asfortranarray(gradient)
    for values, slope in ((x, gradient), turned, (x.astype(int), gradient)):
        layer.zero_grad()
        np.testing.assert_array_equal(layer(values), expected[0])
        np.testing.assert_array_equal(layer.backward(slope), expected[1])
        np.testing.assert_array_equal(layer.weight.grad, expected[2])
        np.testing.assert_array_equal(layer.bias.grad, gradient.reshape(-1, 40).sum(axis=0))
    layer(x)
    with pytest.raises(ValueError, match="reshape"):
        layer.backward(gradient[:-1])


def test_a_linear_layers_large_products_have_the_same_bits_on_any_number_of_threads():
    rng = np.random.default_rng(5)
    x, gradient = (rng.standard_normal(shape, np.float32) for shape in ((256, 1500), (256, 64)))
    bits, before = set(), vc.get_num_threads()
    for threads in (1, 2, 3):
        vc.set_num_threads(threads)
        layer = nn.Linear(1500, 64, rng=0)
        arrays = layer(x), layer.backward(gradient), layer.weight.grad
        bits.add(b"".join(array.tobytes() for array in arrays))
    vc.set_num_threads(before)
    assert len(bits) == 1


def test_a_linear_layer_of_nothing_gives_its_bias():
    layer = nn.Linear(0, 3, rng=0)
    x = np.zeros((2, 0), np.float32)
    np.testing.assert_array_equal(layer(x), np.tile(layer.bias.data, (2, 1)))
    assert layer.backward(np.ones((2, 3), np.float32)).shape == (2, 0)
    assert layer.weight.grad.shape == (3, 0)


def test_training_leaves_out_the_first_input_gradient():
    model = nn.Sequential(nn.ReLU(), *network(0))
    x = np.random.default_rng(0).standard_normal((2, 1, 12, 12), np.float32)
    gradient = np.ones_like(model(x))
    assert model.backward(gradient, input_grad=False) is None
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pool", [None, (2, 2), (3, 2)])
def test_layers_that_run_as_one_give_what_they_give_alone(pool, bias):
    rng = np.random.default_rng(5)
    layers = [nn.Conv2d(2, 5, 3, padding=1, bias=bias, rng=rng), nn.ReLU()]
    layers += [] if pool is None else [nn.MaxPool2d(*pool)]
    x = rng.standard_normal((3, 2, 11, 12)).astype(np.float32)
    model = nn.Sequential(*layers)
    y = model(x)
    grad_output = rng.integers(-4, 5, y.shape).astype(np.float32)
    together = [model.backward(grad_output), *(parameter.grad for parameter in model.parameters())]
    model.zero_grad()
    alone = x
    for layer in layers:
        alone = layer(alone)
    np.testing.assert_array_equal(y, alone)
    gradient = grad_output
    for layer in reversed(layers):
        gradient = layer.backward(gradient)
    for a, b in zip(together, [gradient, *(parameter.grad for parameter in model.parameters())], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_backward_without_forward_is_a_sentence():
    layer = nn.ReLU()
    x = np.ones(3)
    layer(x)
    layer.backward(x)
    with pytest.raises(RuntimeError, match=r"ReLU.backward: needs a forward pass"):
        layer.backward(x)
    layer.eval()(x)
    with pytest.raises(RuntimeError, match="in training mode"):
        layer.backward(x)


SHOWN = (
    nn.Conv2d(2, 3, (3, 2), 2, 1), nn.ConvTranspose3d(2, 3, 2, 2), nn.MaxPool1d(3, 2, 1), nn.AvgPool2d(2, 3, 1),
    nn.AdaptiveAvgPool2d((1, 2)), nn.ReLU(), nn.LeakyReLU(0.2), nn.Flatten(1, 2), nn.Linear(3, 4, bias=False),
    nn.BatchNorm2d(3, 1e-3, 0.3), nn.InstanceNorm1d(2), nn.Dropout(0.25), nn.UNet2d(1, 2, (2, 3)),
)  # fmt: skip


@pytest.mark.parametrize("layer", SHOWN, ids=lambda layer: type(layer).__name__)
def test_what_a_layer_shows_makes_it_anew(layer):
    again = eval(repr(layer), vars(nn).copy())
    assert type(again) is type(layer)
    assert repr(again) == repr(layer)
    settings = {name: value for name, value in vars(layer).items() if isinstance(value, (int, float, str, tuple))}
    assert {name: getattr(again, name) for name in settings} == settings
    shapes = [{name: array.shape for name, array in module.state_dict().items()} for module in (again, layer)]
    assert shapes[0] == shapes[1]


def test_a_network_shows_its_layers_and_a_parameter_its_shape():
    assert repr(nn.Sequential(nn.ReLU(), nn.Linear(3, 4))) == (
        "Sequential(\n  (0): ReLU()\n  (1): Linear(3, 4, bias=True)\n)"
    )
    assert repr(nn.Linear(3, 4).weight) == "Parameter(shape=(4, 3), dtype=float32)"


def test_nothing_is_worked_out_for_an_input_gradient_that_nobody_wants():
    x = np.arange(-4, 4, dtype=np.float32).reshape(1, 1, 8)
    for layer in (nn.ReLU(), nn.LeakyReLU(), nn.Flatten(), nn.Dropout(0.5), nn.MaxPool1d(2), nn.AvgPool1d(2)):
        y = layer(x)
        assert layer.backward(np.ones_like(y), input_grad=False) is None


def test_state_dict_has_torch_names_and_shapes():
    state = network(0).state_dict()
    assert {name: value.shape for name, value in state.items()} == {
        "0.weight": (3, 1, 3, 3), "0.bias": (3,), "4.weight": (2, 75), "4.bias": (2,),
    }  # fmt: skip


def test_state_dict_round_trip_and_independence():
    first, second = network(0), network(1)
    state = first.state_dict()
    second.load_state_dict(state)
    x = np.random.default_rng(0).standard_normal((2, 1, 12, 12), np.float32)
    np.testing.assert_array_equal(first(x), second(x))
    second[0].weight.data += 1
    np.testing.assert_array_equal(first[0].weight.data, state["0.weight"])


def test_state_dict_that_does_not_fit_changes_nothing():
    model = network(0)
    before = model.state_dict()
    wrong = {"0.weight": np.zeros((3, 1, 3, 3)), "0.bias": np.zeros(4), "4.weight": np.zeros((2, 75)), "5.bias": 0}
    with pytest.raises(ValueError, match=r"'4.bias' is missing; '5.bias' is not.*'0.bias' has shape \(4,\)"):
        model.load_state_dict(wrong)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(TypeError, match=r"0\.weight"):
        model.load_state_dict({**before, "0.weight": before["0.weight"] * 1j})


def test_initial_parameters_depend_on_the_seed_alone():
    layer, wide = nn.Conv2d(4, 8, 3, rng=3), nn.Conv2d(4, 8, 3, rng=3, dtype="float64")
    np.testing.assert_array_equal(layer.weight.data, wide.weight.data.astype(np.float32))
    assert 0.9 / 6 < np.abs(wide.weight.data).max() <= 1 / 6  # 1 / sqrt(4 * 3 * 3)


def test_cross_entropy_by_hand():
    logits = np.log([[1.0, 3.0], [1.0, 1.0]])
    loss, gradient = nn.cross_entropy(logits, np.array([1, 0]))
    assert loss == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)
    np.testing.assert_allclose(gradient, [[0.125, -0.125], [-0.25, 0.25]])


def test_cross_entropy_of_pixels_and_of_huge_logits():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 3, 4, 5)), rng.integers(0, 3, (2, 4, 5))
    flat = nn.cross_entropy(np.moveaxis(logits, 1, -1).reshape(-1, 3), labels.ravel())
    loss, gradient = nn.cross_entropy(logits, labels)
    assert loss == pytest.approx(flat[0])
    np.testing.assert_allclose(np.moveaxis(gradient, 1, -1).reshape(-1, 3), flat[1])
    loss, gradient = nn.cross_entropy(np.array([[1e30, -1e30]]), np.array([0]))
    assert loss == 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("logits", "labels", "error", "text"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), ValueError, "labels=3 must lie in 0..2"),
        (np.zeros((2, 3)), np.array([0]), ValueError, "must have the shape of logits"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), TypeError, "must be integer"),
        (np.zeros((2, 3), int), np.array([0, 1]), TypeError, "must be floating"),
        (np.zeros((0, 3)), np.zeros(0, int), ValueError, "must not be empty"),
    ],
)
def test_cross_entropy_refuses(logits, labels, error, text):
    with pytest.raises(error, match=text):
        nn.cross_entropy(logits, labels)


def steps(make, gradients, start=1.0):
    parameter = nn.Parameter(np.array([start]))
    optimizer = make([parameter])
    values = []
    for gradient in gradients:
        parameter.grad = np.array([gradient])
        optimizer.step()
        values.append(float(parameter.data[0]))
    optimizer.zero_grad()
    assert parameter.grad is None
    optimizer.step()
    assert parameter.data[0] == values[-1]
    return values


def test_sgd_by_hand():
    assert steps(lambda p: nn.SGD(p, 0.1), [1, 1]) == pytest.approx([0.9, 0.8])
    assert steps(lambda p: nn.SGD(p, 0.1, momentum=0.5), [1, 1, 0]) == pytest.approx([0.9, 0.75, 0.675])
    assert steps(lambda p: nn.SGD(p, 0.1, momentum=0.5, nesterov=True), [1, 1]) == pytest.approx([0.85, 0.675])
    assert steps(lambda p: nn.SGD(p, 0.1, weight_decay=0.5), [0, 0]) == pytest.approx([0.95, 0.9025])


def test_adam_by_hand():
    # The first step is lr in the gradient's direction whatever its size; the second from the corrected means.
    mean = (0.9 * 0.1 * 4 + 0.1 * 2) / (1 - 0.9**2)
    square = (0.999 * 0.001 * 16 + 0.001 * 4) / (1 - 0.999**2)
    expected = [0.99, 0.99 - 0.01 * mean / np.sqrt(square)]
    assert steps(lambda p: nn.Adam(p, 0.01, eps=0), [4, 2]) == pytest.approx(expected)
    assert steps(lambda p: nn.Adam(p, 0.01, weight_decay=0.5), [0]) == pytest.approx([0.99])


@pytest.mark.parametrize("optimizer", [nn.SGD, nn.Adam])
def test_optimizers_refuse(optimizer):
    with pytest.raises(ValueError, match="at least one parameter"):
        optimizer([])
    with pytest.raises(ValueError, match=r"lr=-1 must be"):
        optimizer([nn.Parameter(np.ones(1))], lr=-1)
    with pytest.raises(TypeError, match="must be Parameter"):
        optimizer([np.ones(1)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_lowers_the_loss(dtype):
    rng = np.random.default_rng(2)
    model = network(rng, dtype)
    optimizer = nn.SGD(model.parameters(), lr=0.05, momentum=0.9)
    labels = np.arange(32) % 2
    x = rng.standard_normal((32, 1, 12, 12)).astype(dtype)
    x[labels == 1, 0, 3:8, 3:8] += 1
    losses = []
    for _ in range(30):
        loss, gradient = nn.cross_entropy(model(x), labels)
        assert gradient.dtype == dtype
        optimizer.zero_grad()
        model.backward(gradient, input_grad=False)
        optimizer.step()
        losses.append(loss)
    assert losses[-1] < 0.1 * losses[0]
    assert all(parameter.data.dtype == dtype for parameter in model.parameters())


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels=3 must be divisible by groups=2"),
        (lambda: nn.Conv2d(3, 4, 0), ValueError, "kernel_size=0 must be at least 1"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), ValueError, "must be an integer or 2 of them"),
        (lambda: nn.Conv2d(3.0, 4, 3), TypeError, "in_channels=3.0 must be an integer"),
        (lambda: nn.Linear(3, 4, dtype="float16"), ValueError, "must be float32 or float64"),
        (lambda: nn.Linear(3, 4)(np.zeros((2, 5), np.float32)), ValueError, "in_features=3"),
        (lambda: nn.Linear(3, 4)(np.zeros((2, 3))), TypeError, "must be float32"),
        (lambda: nn.Conv2d(True, 4, 3), TypeError, "in_channels=True must be an integer"),
        (lambda: nn.Flatten()(np.zeros(())), ValueError, "must have the axes"),
        (lambda: nn.Flatten(2, 1)(np.zeros((1, 2, 3))), ValueError, "start_dim=2 must not come after 1"),
        (lambda: nn.Sequential(np.zeros(2)), TypeError, r"layers\[0\]"),
    ],
)
def test_layers_refuse(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_cross_entropy_with_a_class_that_cannot_be():
    logits = np.array([[0.0, -np.inf, 0.0], [1.0, 1.0, -np.inf]], np.float32)
    loss, gradient = nn.cross_entropy(logits, np.array([0, 1]))
    assert loss == pytest.approx(np.log(2))
    np.testing.assert_allclose(gradient, [[-0.25, 0, 0.25], [0.25, -0.25, 0]], rtol=1e-6)
    assert nn.cross_entropy(logits, np.array([1, 1]))[0] == np.inf
