"""Transposed convolution: the layer that doubles what a pool has halved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from voxconv import functional, grad
from voxconv.errors import rejection
from voxconv.nn.layers import Seed, Size, _float_dtype, _size, _uniform
from voxconv.nn.module import Array, Module

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _ConvTranspose(Module):
    """What the three ranks share; ``rank`` picks the functions."""

    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: Seed = None,
        backend: str = "auto",
        precision: str = "default",
    ) -> None:
        name = type(self).__name__
        self.in_channels = _size(name, "in_channels", in_channels)
        self.out_channels = _size(name, "out_channels", out_channels)
        self.groups = _size(name, "groups", groups)
        for argument, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(rejection(name, argument, channels, f"must be divisible by groups={self.groups}"))
        per_axis = kernel_size if isinstance(kernel_size, Sequence) else (kernel_size,) * self.rank
        if len(per_axis) != self.rank:
            raise ValueError(rejection(name, "kernel_size", kernel_size, f"must be an integer or {self.rank} of them"))
        self.kernel_size = tuple(_size(name, "kernel_size", size) for size in per_axis)
        self.stride = stride
        self.padding = padding
        self.output_padding = output_padding
        self.dilation = dilation
        self.backend = backend
        self.precision = precision
        shape = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        fan_in = math.prod(shape[1:])  # as torch counts it, by the weight's second axis
        generator = np.random.default_rng(rng)
        real = _float_dtype(name, dtype)
        self.weight = _uniform(shape, fan_in, generator, real)
        self.bias = _uniform((self.out_channels,), fan_in, generator, real) if bias else None

    def _call(self, function: Callable[..., Array], *arguments: Any) -> Array:
        walk = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return function(*arguments, *walk, backend=self.backend, precision=self.precision)

    def forward(self, x: Array) -> Array:
        """Spread x (N, C, *spatial), or (C, *spatial)."""
        bias = None if self.bias is None else self.bias.data
        y = self._call(getattr(functional, f"conv_transpose{self.rank}d"), x, self.weight.data, bias)
        self._save(x)
        return y

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Three gradients: to the weight, the bias and the input."""
        (x,) = self._restore()
        name, shape, weight = f"conv_transpose{self.rank}d", x.shape, self.weight.data
        self.weight.accumulate(self._call(getattr(grad, f"{name}_weight"), x, weight.shape, grad_output))
        del x  # so that its memory serves for the gradient to it
        if self.bias is not None:
            bias_gradient: Callable[..., Array] = getattr(grad, f"{name}_bias")
            self.bias.accumulate(bias_gradient(grad_output, backend=self.backend))
        return self._call(getattr(grad, f"{name}_input"), shape, weight, grad_output) if input_grad else None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding})"
        )


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of signals (N, C, L), as `voxconv.conv_transpose1d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation
        As in torch.nn.
    dtype, rng, backend
        As for `Conv1d`.
    precision : str
        As in `voxconv.conv_transpose1d`.
    """

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of images (N, C, H, W); arguments as for `ConvTranspose1d`."""

    rank = 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of volumes (N, C, D, H, W); arguments as for `ConvTranspose1d`."""

    rank = 3
