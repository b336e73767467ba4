"""Normalisation over a batch or over one image, and dropout."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from voxconv.errors import rejection
from voxconv.nn.layers import Seed, _float_dtype, _size
from voxconv.nn.module import Array, Module, Parameter

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Dropout",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
]


class _Norm(Module):
    """``(x - mean) / sqrt(var + eps) * weight + bias``, with the moments taken over some axes.

    Sums run in float64, so the moments are good to float32's last bits for any size of image.
    """

    ranks: ClassVar[tuple[int, ...]]
    counts: ClassVar[int] = 1
    """What a batch adds to num_batches_tracked, which torch's instance norm has but leaves at 0."""
    _buffers = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        name = type(self).__name__
        self.num_features = _size(name, "num_features", num_features)
        if not 0 <= momentum <= 1:
            raise ValueError(rejection(name, "momentum", momentum, "must lie in 0..1"))
        if not 0 < eps < np.inf:
            raise ValueError(rejection(name, "eps", eps, "must be positive and finite"))
        self.eps = eps
        self.momentum = momentum
        real = _float_dtype(name, dtype)
        self.weight = Parameter(np.ones(num_features, real)) if affine else None
        self.bias = Parameter(np.zeros(num_features, real)) if affine else None
        self.running_mean = np.zeros(num_features, real) if track_running_stats else None
        self.running_var = np.ones(num_features, real) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def _axes(self, x: Array) -> tuple[int, ...]:
        """The axes that the moments are taken over."""
        raise NotImplementedError

    def _per_channel(self, values: Array, x: Array) -> Array:
        return values.reshape(1, -1, *(1,) * (x.ndim - 2))

    def forward(self, x: Array) -> Array:
        """Normalise x (N, C, *spatial)."""
        if x.ndim - 2 not in self.ranks or x.shape[1] != self.num_features:
            counts = " or ".join(str(rank + 2) for rank in self.ranks)
            rule = f"must have {counts} axes and num_features={self.num_features} channels"
            raise ValueError(rejection(type(self).__name__, "x", f"array of shape {x.shape}", rule))
        if self.training or self.running_mean is None or self.running_var is None:
            axes = self._axes(x)
            count = math.prod(x.shape[axis] for axis in axes)
            if count < 2 and self.training:
                rule = "must hold more than one value per channel in training"
                raise ValueError(rejection(type(self).__name__, "x", f"array of shape {x.shape}", rule))
            mean = x.mean(axis=axes, keepdims=True, dtype=np.float64)
            variance = np.square(x - mean).mean(axis=axes, keepdims=True, dtype=np.float64)
            if self.training:
                self._track(mean, variance * (count / (count - 1)))
            centre = mean.astype(x.dtype)
            scale = (1 / np.sqrt(variance + self.eps)).astype(x.dtype)
        else:
            centre = self._per_channel(self.running_mean, x)
            scale = 1 / np.sqrt(self._per_channel(self.running_var, x) + x.dtype.type(self.eps))
        normalised = (x - centre) * scale
        self._save(normalised, scale)
        if self.weight is None or self.bias is None:
            return np.asarray(normalised)
        return np.asarray(normalised * self._per_channel(self.weight.data, x) + self._per_channel(self.bias.data, x))

    def _track(self, mean: Array, variance: Array) -> None:
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += self.counts
            for running, new in ((self.running_mean, mean), (self.running_var, variance)):
                # An instance norm has moments of each sample, and tracks their mean.
                running += self.momentum * (new.mean(axis=0).ravel() - running).astype(running.dtype)

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Gradients to weight, bias and input; the moments depend on the input too."""
        normalised, scale = self._restore()
        over = (0, *range(2, grad_output.ndim))
        gradient = grad_output
        if self.weight is not None and self.bias is not None:
            self.weight.accumulate((grad_output * normalised).sum(axis=over, dtype=np.float64).astype(scale.dtype))
            self.bias.accumulate(grad_output.sum(axis=over, dtype=np.float64).astype(scale.dtype))
            gradient = grad_output * self._per_channel(self.weight.data, grad_output)
        if not input_grad:
            return None
        axes = self._axes(grad_output)
        mean = gradient.mean(axis=axes, keepdims=True, dtype=np.float64).astype(scale.dtype)
        along = (gradient * normalised).mean(axis=axes, keepdims=True, dtype=np.float64).astype(scale.dtype)
        return np.asarray(scale * (gradient - mean - normalised * along))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_features}, eps={self.eps}, momentum={self.momentum})"


class _BatchNorm(_Norm):
    def _axes(self, x: Array) -> tuple[int, ...]:
        return (0, *range(2, x.ndim))


class BatchNorm1d(_BatchNorm):
    """Normalise each channel of (N, C) or (N, C, L) over the batch (Ioffe and Szegedy, 2015).

    In training the moments are the batch's, and running means of them are kept; in evaluation mode those are used.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats
        As in torch.nn.
    dtype : float32 or float64
        Dtype of the parameters, and so of the arithmetic.
    """

    ranks = (0, 1)


class BatchNorm2d(_BatchNorm):
    """As `BatchNorm1d`, for images (N, C, H, W)."""

    ranks = (2,)


class BatchNorm3d(_BatchNorm):
    """As `BatchNorm1d`, for volumes (N, C, D, H, W)."""

    ranks = (3,)


class _InstanceNorm(_Norm):
    counts = 0

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype=dtype)

    def _axes(self, x: Array) -> tuple[int, ...]:
        return tuple(range(2, x.ndim))


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each sample of (N, C, L) over itself; arguments as for `BatchNorm1d`."""

    ranks = (1,)


class InstanceNorm2d(_InstanceNorm):
    """As `InstanceNorm1d`, for images (N, C, H, W)."""

    ranks = (2,)


class InstanceNorm3d(_InstanceNorm):
    """As `InstanceNorm1d`, for volumes (N, C, D, H, W)."""

    ranks = (3,)


class Dropout(Module):
    """In training, zero a share ``p`` of the values at random and scale the rest by ``1 / (1 - p)``.

    Parameters
    ----------
    p : float
        From 0 to below 1.
    rng : numpy.random.Generator or int, optional
        Source of the choice.
    """

    def __init__(self, p: float = 0.5, *, rng: Seed = None) -> None:
        if not 0 <= p < 1:
            raise ValueError(rejection("Dropout", "p", p, "must be at least 0 and below 1"))
        self.p = p
        self.rng = np.random.default_rng(rng)

    def forward(self, x: Array) -> Array:
        """Zero and scale in training, else pass on."""
        if not self.training:
            return x
        factor = (self.rng.random(x.shape, np.float32) >= self.p).astype(x.dtype) / x.dtype.type(1 - self.p)
        self._save(factor)
        return np.asarray(x * factor)

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Zero and scale the gradient alike."""
        (factor,) = self._restore()
        return np.asarray(grad_output * factor) if input_grad else None

    def __repr__(self) -> str:
        return f"Dropout(p={self.p})"
