"""Networks with branches: the residual block and the U-Net, their backward passes written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from voxconv.errors import rejection
from voxconv.memory import empty
from voxconv.nn import layers, maxpool, norm, transposed
from voxconv.nn.layers import ReLU, Seed, _size
from voxconv.nn.module import Array, Module
from voxconv.nn.sequential import Sequential

__all__ = ["ResidualBlock2d", "ResidualBlock3d", "UNet2d", "UNet3d"]


def _layer(module: Any, name: str, rank: int) -> Any:
    return getattr(module, f"{name}{rank}d")


def _backward(layer: Module, held: list[Array]) -> Array:
    """The gradient to the input, which is wanted here in any case; the other one, the last of the list, is taken out.

    So nobody holds that while the layer goes on.
    """
    result = layer.backward(held.pop())
    assert result is not None
    return result


def _joined(*maps: Array) -> Array:
    """Copy maps, their channels one after the other."""
    shape = (len(maps[0]), sum(part.shape[1] for part in maps), *maps[0].shape[2:])
    return np.concatenate(maps, axis=1, out=empty(shape, np.result_type(*maps)))


class _ResidualBlock(Module):
    """``relu(bn2(conv2(relu(bn1(conv1(x))))) + x)``, the shortcut convolved where the shape changes."""

    rank: ClassVar[int]

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, *, dtype: npt.DTypeLike = np.float32,
        rng: Seed = None, backend: str = "auto", precision: str = "default",
    ) -> None:  # fmt: skip
        conv, batch_norm = _layer(layers, "Conv", self.rank), _layer(norm, "BatchNorm", self.rank)
        generator = np.random.default_rng(rng)
        options = {"bias": False, "dtype": dtype, "rng": generator, "backend": backend, "precision": precision}
        self.conv1 = conv(in_channels, out_channels, 3, stride, 1, **options)
        self.bn1 = batch_norm(out_channels, dtype=dtype)
        self.relu = ReLU()
        self.conv2 = conv(out_channels, out_channels, 3, 1, 1, **options)
        self.bn2 = batch_norm(out_channels, dtype=dtype)
        self.last = ReLU()
        self.downsample: Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = Sequential(
                conv(in_channels, out_channels, 1, stride, **options), batch_norm(out_channels, dtype=dtype)
            )

    def forward(self, x: Array) -> Array:
        """Run both branches and add them."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.last(y + (x if self.downsample is None else self.downsample(x)))

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Both branches get the same gradient; their gradients to the input add up."""
        gradient = _backward(self.last, [grad_output])
        inner = [gradient]
        for layer in (self.bn2, self.conv2, self.relu, self.bn1):
            inner.append(_backward(layer, inner))
        first = self.conv1.backward(inner.pop(), input_grad)
        shortcut = gradient if self.downsample is None else self.downsample.backward(gradient, input_grad)
        return first + shortcut if input_grad else None


class ResidualBlock2d(_ResidualBlock):
    """Two 3x3 convolutions with batch norm around a shortcut (He et al., 2016), with torchvision's state_dict keys.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels before and after; where they differ, the shortcut is a 1x1 convolution.
    stride : int
        Of the first convolution.
    dtype, rng, backend, precision
        As for `Conv2d`.
    """

    rank = 2


class ResidualBlock3d(_ResidualBlock):
    """As `ResidualBlock2d`, with 3x3x3 convolutions."""

    rank = 3


class _UNet(Module):
    """Down through the widths, up again, and across at each level."""

    rank: ClassVar[int]

    def __init__(
        self, in_channels: int, out_channels: int, widths: Sequence[int] = (16, 32, 64), *,
        norm_layer: str | None = None, dtype: npt.DTypeLike = np.float32, rng: Seed = None, backend: str = "auto",
        precision: str = "default",
    ) -> None:  # fmt: skip
        name = type(self).__name__
        self.widths = tuple(_size(name, "widths", width) for width in widths)
        if len(self.widths) < 2:
            raise ValueError(rejection(name, "widths", widths, "must hold at least two numbers of channels"))
        if norm_layer not in (None, "batch", "instance"):
            raise ValueError(rejection(name, "norm_layer", norm_layer, "must be None, 'batch' or 'instance'"))
        self.in_channels = _size(name, "in_channels", in_channels)
        self.out_channels = _size(name, "out_channels", out_channels)
        self._norm_layer = norm_layer
        self._options: dict[str, Any] = {
            "dtype": dtype, "rng": np.random.default_rng(rng), "backend": backend, "precision": precision
        }  # fmt: skip
        before = in_channels
        for level, width in enumerate(self.widths):
            setattr(self, f"down{level}", self._block(before, width))
            if level < self.depth:
                setattr(self, f"pool{level}", _layer(maxpool, "MaxPool", self.rank)(2, backend=backend))
            before = width
        for level in reversed(range(self.depth)):
            below, width = self.widths[level + 1], self.widths[level]
            setattr(
                self, f"up{level}", _layer(transposed, "ConvTranspose", self.rank)(below, width, 2, 2, **self._options)
            )
            setattr(self, f"join{level}", self._block(2 * width, width))
        self.head = _layer(layers, "Conv", self.rank)(self.widths[0], out_channels, 1, **self._options)

    @property
    def depth(self) -> int:
        """Number of pools."""
        return len(self.widths) - 1

    def _block(self, before: int, width: int) -> Sequential:
        steps: list[Module] = []
        for channels in (before, width):
            steps.append(_layer(layers, "Conv", self.rank)(channels, width, 3, padding=1, **self._options))
            if self._norm_layer is not None:
                kind = "BatchNorm" if self._norm_layer == "batch" else "InstanceNorm"
                steps.append(_layer(norm, kind, self.rank)(width, affine=True, dtype=self._options["dtype"]))
            steps.append(ReLU())
        return Sequential(*steps)

    def _at(self, name: str, level: int) -> Module:
        layer: Module = getattr(self, f"{name}{level}")
        return layer

    def forward(self, x: Array) -> Array:
        """Map (N, in_channels, *spatial) to (N, out_channels, *spatial); 2^depth must divide the spatial sizes."""
        spatial = x.shape[2:]
        if len(spatial) != self.rank or any(size % 2**self.depth or not size for size in spatial):
            rule = f"must have {self.rank} spatial sizes that {2**self.depth} divides"
            raise ValueError(rejection(type(self).__name__, "x", f"array of shape {x.shape}", rule))
        across = []
        for level in range(self.depth):
            across.append(self._at("down", level)(x))
            x = self._at("pool", level)(across[level])
        x = self._at("down", self.depth)(x)
        for level in reversed(range(self.depth)):
            joined = _joined(across.pop(), self._at("up", level)(x))
            down = self._at("down", level)
            assert isinstance(down, Sequential)
            down[-1]._save(joined[:, : self.widths[level]])  # the ReLU's result, which need not be there twice
            x = self._at("join", level)(joined)
        answer: Array = self.head(x)
        return answer

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """The way back: each level's gradient comes from below, through the pool, and from across."""
        held, across = [grad_output], list[Array]()
        held.append(_backward(self.head, held))
        for level in range(self.depth):
            join = self._at("join", level)
            assert isinstance(join, Sequential)
            joined = join.backward(held.pop(), fresh=True)
            assert joined is not None
            width = self.widths[level]
            across.append(_joined(joined[:, :width]))
            held.append(_joined(joined[:, width:]))
            del joined
            held.append(_backward(self._at("up", level), held))
        held.append(_backward(self._at("down", self.depth), held))
        for level in reversed(range(self.depth)):
            pool, down = self._at("pool", level), self._at("down", level)
            assert isinstance(down, Sequential)
            assert isinstance(pool, maxpool._MaxPool)
            if down.last_relu is None:
                held.append(_backward(pool, held) + across.pop())
            else:
                conv, relu = down.last_relu
                held.append(conv.rectify_pooled(relu._restore()[0], pool, held.pop(), across.pop()))
            result = down.backward(held.pop(), input_grad or level > 0, rectified=down.last_relu is not None)
            if result is not None:
                held.append(result)
        return held.pop() if input_grad else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, widths={self.widths})"


class UNet2d(_UNet):
    """U-Net (Ronneberger et al., 2015) with zero padding, so that the output has the input's size.

    Each level has two 3x3 convolutions with ReLU; a 2x2 max-pool leads down, a transposed convolution of 2x2
    and stride 2 up, and the level's map from the way down is joined to it.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the image and of the answer.
    widths : sequence of int
        Channels of each level, from the top.
    norm_layer : None, "batch" or "instance"
        Normalisation after each convolution.
    dtype, rng, backend, precision
        As for `Conv2d`.
    """

    rank = 2


class UNet3d(_UNet):
    """As `UNet2d`, with 3x3x3 convolutions and 2x2x2 pools."""

    rank = 3
