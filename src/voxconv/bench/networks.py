"""Networks whose training step is measured, ours and the same one in torch, from one start and on one batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import nn
from voxconv.bench.layers import Layer

__all__ = ["NETWORKS", "Network", "jax_step", "ours", "torch_model", "torch_step"]

Array = npt.NDArray[Any]

RATE, MOMENTUM, SEED = 0.03, 0.9, 20
"""Of SGD, and of the parameters' start."""


@dataclass(frozen=True, slots=True)
class Network(Layer):
    """A network of (n, c, *spatial) with k classes, as a layer of a suite whose one direction is "step".

    Without ``widths`` it is two convolutions, each with ReLU and pool, and a linear layer; with them a U-Net of
    those channels.  A step is forward, cross-entropy, backward and SGD with momentum.
    """

    widths: tuple[int, ...] = ()

    @property
    def directions(self) -> tuple[str, ...]:
        """A step, and nothing else."""
        return ("step",)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The logits'."""
        return (self.n, self.k, *(self.spatial if self.widths else ()))

    @property
    def flops(self) -> int:
        """Of the layers with weights: the pass itself and two gradients, of which the first layer wants one."""
        first, *rest = _multiplications(self)
        return 2 * (2 * first + 3 * sum(rest))

    @property
    def elements(self) -> int:
        """Of input, logits and parameters."""
        parameters = sum(parameter.data.size for parameter in self.model("float32").parameters())
        return math.prod(self.input_shape) + math.prod(self.output_shape) + parameters

    def model(self, dtype: str, backend: str = "auto", precision: str = "default") -> nn.Module:
        """The network with the parameters that it starts from."""
        options: dict[str, Any] = {"dtype": dtype, "rng": np.random.default_rng(SEED), "backend": backend}
        if self.widths:
            kind = nn.UNet2d if self.rank == 2 else nn.UNet3d
            model: nn.Module = kind(self.c, self.k, self.widths, **options)
        else:
            features = 32 * math.prod(size // 4 for size in self.spatial)
            model = nn.Sequential(
                nn.Conv2d(self.c, 16, 3, padding=1, **options), nn.ReLU(), nn.MaxPool2d(2, backend=backend),
                nn.Conv2d(16, 32, 3, padding=1, **options), nn.ReLU(), nn.MaxPool2d(2, backend=backend),
                nn.Flatten(), nn.Linear(features, self.k, dtype=dtype, rng=options["rng"]),
            )  # fmt: skip
        for module in model.modules():
            if hasattr(module, "precision"):
                module.precision = precision
        return model

    def labels(self, x: Array) -> Array:
        """A class for each sample or pixel that can be learned: which part of the range of values it is in."""
        values = x[:, 0] if self.widths else np.linspace(0, 1, self.n)
        ranks = np.searchsorted(np.quantile(values, np.arange(1, self.k) / self.k), values)
        return ranks.astype(np.int64)


@cache
def _multiplications(network: Network) -> list[int]:
    """Of each layer with a weight, in order; at stride 1 or upwards a weight meets each position of its input once."""
    model = network.model("float32")
    model(np.zeros(network.input_shape, np.float32))
    layers = [module for module in model.modules() if isinstance(getattr(module, "weight", None), nn.Parameter)]
    inputs = [module._restore()[0].shape for module in layers]
    weights: list[Any] = [module.weight for module in layers]  # type: ignore[attr-defined]
    return [
        weight.data.size * shape[0] * math.prod(shape[2:]) for weight, shape in zip(weights, inputs, strict=True)
    ]


def _network(name: str, n: int, k: int, spatial: tuple[int, ...], widths: tuple[int, ...] = ()) -> Network:
    every = (1,) * len(spatial)
    return Network(name, "step", n, 1, k, spatial, every, every, (0,) * len(spatial), every, widths=widths)


NETWORKS = (
    _network("small_cnn", 32, 10, (32, 32)),
    _network("unet2d", 2, 2, (128, 128), (16, 32, 64, 128)),
    _network("unet3d", 1, 2, (48, 48, 48), (8, 16, 32)),
    _network("unet3d_wide", 1, 2, (32, 32, 32), (32, 64, 128)),
)


def ours(network: Network, x: Array, model: nn.Module) -> Callable[[], float]:
    """One step of ours at each call; returns the loss before it."""
    labels, optimizer = network.labels(x), nn.SGD(model.parameters(), RATE, MOMENTUM)

    def step() -> float:
        loss, gradient = nn.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        model.backward(gradient, input_grad=False)
        optimizer.step()
        return loss

    return step


def torch_step(torch: Any, network: Network, x: Array, layout: Any = None) -> Callable[[], float]:
    """One step of torch's at each call, from the same parameters."""
    model, images = torch_model(torch, network, x, layout)
    labels = torch.from_numpy(network.labels(x))
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def torch_model(torch: Any, network: Network, x: Array, layout: Any = None) -> tuple[Any, Any]:
    """Torch's network with the parameters that ours starts from, and the batch, in a memory format."""
    start = network.model(x.dtype.name)
    model = _as_torch(torch, start)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in start.state_dict().items()})
    images = torch.from_numpy(x)
    return (model, images) if layout is None else (
        model.to(memory_format=layout), images.contiguous(memory_format=layout)
    )  # fmt: skip


def _as_torch(torch: Any, module: Any) -> Any:
    """The same module in torch, whose names and arguments ours has."""
    name = type(module).__name__
    if isinstance(module, nn.Sequential):
        return torch.nn.Sequential(*(_as_torch(torch, layer) for layer in module))
    if name.startswith("UNet"):
        return _torch_unet(torch, module)
    arguments: dict[str, tuple[str, ...]] = {
        "Conv": ("in_channels", "out_channels", "kernel_size", "stride", "padding"), "MaxP": ("kernel_size",),
        "Line": ("in_features", "out_features"),
    }  # fmt: skip
    given = [getattr(module, argument) for argument in arguments.get(name[:4], ())]
    real = {"dtype": getattr(torch, module.weight.data.dtype.name)} if hasattr(module, "weight") else {}
    return getattr(torch.nn, name)(*given, **real)


def _torch_unet(torch: Any, module: Any) -> Any:
    depth = module.depth

    class UNet(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, child in module.named_children():
                setattr(self, name, _as_torch(torch, child))

        def forward(self, x: Any) -> Any:
            across = []
            for level in range(depth):
                across.append(getattr(self, f"down{level}")(x))
                x = getattr(self, f"pool{level}")(across[level])
            x = getattr(self, f"down{depth}")(x)
            for level in reversed(range(depth)):
                x = getattr(self, f"join{level}")(torch.cat([across[level], getattr(self, f"up{level}")(x)], dim=1))
            return self.head(x)

    return UNet()


def jax_step(jax: Any, network: Network, x: Array) -> Callable[[], float]:
    """One step of jax's at each call, compiled as a whole, from the same parameters."""
    model = network.model(x.dtype.name)
    parameters = jax.device_put(model.state_dict())
    velocity = jax.tree.map(jax.numpy.zeros_like, parameters)
    images, labels = jax.device_put(x), jax.device_put(np.expand_dims(network.labels(x), 1))

    def loss_of(parameters: Any) -> Any:
        logits = _in_jax(jax, model, parameters, "", images)
        return -jax.numpy.take_along_axis(jax.nn.log_softmax(logits, axis=1), labels, axis=1).mean()

    @jax.jit  # type: ignore[untyped-decorator]
    def update(parameters: Any, velocity: Any) -> Any:
        loss, gradient = jax.value_and_grad(loss_of)(parameters)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
        return loss, jax.tree.map(lambda p, v: p - RATE * v, parameters, velocity), velocity

    def step() -> float:
        nonlocal parameters, velocity
        loss, parameters, velocity = update(parameters, velocity)
        return float(loss)

    return step


def _in_jax(jax: Any, module: Any, parameters: Any, prefix: str, x: Any) -> Any:
    """What the module computes, traced by jax."""
    name = type(module).__name__
    children = dict(module.named_children())

    def run(child: str, x: Any) -> Any:
        return _in_jax(jax, children[child], parameters, f"{prefix}{child}.", x)

    def layer(x: Any, weight: Any, padding: int, spread: int = 1) -> Any:
        every = (1,) * (x.ndim - 2)
        y = jax.lax.conv_general_dilated(x, weight, every, [(padding, padding)] * len(every), (spread,) * len(every))
        return y + parameters[f"{prefix}bias"].reshape(-1, *every)

    if name.startswith("UNet"):
        across = []
        for level in range(module.depth):
            across.append(run(f"down{level}", x))
            x = run(f"pool{level}", across[level])
        x = run(f"down{module.depth}", x)
        for level in reversed(range(module.depth)):
            x = run(f"join{level}", jax.numpy.concatenate([across[level], run(f"up{level}", x)], axis=1))
        return run("head", x)
    match name[:4]:
        case "Sequ":
            for child in children:
                x = run(child, x)
            return x
        case "ReLU":
            return jax.nn.relu(x)
        case "MaxP":
            window = (1, 1, *(module.kernel_size,) * (x.ndim - 2))
            return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, window, "VALID")
        case "Flat":
            return x.reshape(len(x), -1)
    weight = parameters[f"{prefix}weight"]
    if name == "Linear":
        return x @ weight.T + parameters[f"{prefix}bias"]
    if name.startswith("ConvTranspose"):  # its taps run backwards over an input that is spread out
        flipped = jax.numpy.flip(weight, tuple(range(2, weight.ndim))).swapaxes(0, 1)
        return layer(x, flipped, weight.shape[2] - 1, module.stride)
    return layer(x, weight, module.padding)
