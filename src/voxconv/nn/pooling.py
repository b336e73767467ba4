"""Average pooling, and pooling to a fixed size, of which size 1 is global pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from voxconv import functional, grad
from voxconv.errors import rejection
from voxconv.nn.layers import Size, _size
from voxconv.nn.module import Array, Module

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
]


class _AvgPool(Module):
    """What the three ranks share; ``rank`` picks the functions."""

    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        backend: str = "auto",
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override
        self.backend = backend

    def _call(self, function: Callable[..., Array], *arguments: Any) -> Array:
        return function(
            *arguments, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override, backend=self.backend,
        )  # fmt: skip

    def forward(self, x: Array) -> Array:
        """Mean of each window."""
        self._save(x.shape)
        return self._call(getattr(functional, f"avg_pool{self.rank}d"), x)

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Spread each gradient evenly over its window."""
        (shape,) = self._restore()
        return self._call(getattr(grad, f"avg_pool{self.rank}d_input"), grad_output, shape) if input_grad else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding})"


class AvgPool1d(_AvgPool):
    """Mean over windows of signals (N, C, L), as `voxconv.avg_pool1d`.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        As in torch.nn.
    backend : str
        As in `voxconv.avg_pool1d`.
    """

    rank = 1


class AvgPool2d(_AvgPool):
    """Mean over windows of images (N, C, H, W); arguments as for `AvgPool1d`."""

    rank = 2


class AvgPool3d(_AvgPool):
    """Mean over windows of volumes (N, C, D, H, W); arguments as for `AvgPool1d`."""

    rank = 3


class _AdaptivePool(Module):
    """Windows as large as it takes for an output of ``output_size``, which must divide the input's size."""

    rank: ClassVar[int]

    def __init__(self, output_size: Size, *, backend: str = "auto") -> None:
        name = type(self).__name__
        per_axis = output_size if isinstance(output_size, Sequence) else (output_size,) * self.rank
        if len(per_axis) != self.rank:
            raise ValueError(rejection(name, "output_size", output_size, f"must be an integer or {self.rank} of them"))
        self.output_size = tuple(_size(name, "output_size", size) for size in per_axis)
        self.backend = backend

    def _window(self, x: Array) -> tuple[int, ...]:
        spatial = x.shape[-self.rank :]
        if len(spatial) < self.rank or any(size % out for size, out in zip(spatial, self.output_size, strict=True)):
            rule = f"must have spatial sizes that output_size={self.output_size} divides"
            raise ValueError(rejection(type(self).__name__, "x", f"array of shape {x.shape}", rule))
        return tuple(size // out for size, out in zip(spatial, self.output_size, strict=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(output_size={self.output_size})"


class _AdaptiveAvgPool(_AdaptivePool):
    def forward(self, x: Array) -> Array:
        """Mean of each window."""
        window = self._window(x)
        self._save(x.shape, window)
        pool: Callable[..., Array] = getattr(functional, f"avg_pool{self.rank}d")
        return pool(x, window, backend=self.backend)

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Spread each gradient evenly over its window."""
        shape, window = self._restore()
        spread: Callable[..., Array] = getattr(grad, f"avg_pool{self.rank}d_input")
        return spread(grad_output, shape, window, backend=self.backend) if input_grad else None


class _AdaptiveMaxPool(_AdaptivePool):
    def forward(self, x: Array) -> Array:
        """Maximum of each window."""
        pool: Callable[..., Any] = getattr(functional, f"max_pool{self.rank}d")
        y, indices = pool(x, self._window(x), return_indices=True, backend=self.backend)
        self._save(indices, x.shape)
        pooled: Array = y
        return pooled

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Send each gradient to where its maximum stood."""
        indices, shape = self._restore()
        scatter: Callable[..., Array] = getattr(grad, f"max_pool{self.rank}d_input")
        return scatter(grad_output, indices, shape, backend=self.backend) if input_grad else None


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means of a fixed number of windows; with ``output_size=1``, the mean of each channel of (N, C, L).

    Parameters
    ----------
    output_size : int or one per axis
        As in torch.nn, but it must divide the input's size.
    backend : str
        As in `voxconv.avg_pool1d`.
    """

    rank = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """As `AdaptiveAvgPool1d`, for images (N, C, H, W)."""

    rank = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """As `AdaptiveAvgPool1d`, for volumes (N, C, D, H, W)."""

    rank = 3


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maxima of a fixed number of windows; arguments as for `AdaptiveAvgPool1d`."""

    rank = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """As `AdaptiveMaxPool1d`, for images (N, C, H, W)."""

    rank = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """As `AdaptiveMaxPool1d`, for volumes (N, C, D, H, W)."""

    rank = 3
