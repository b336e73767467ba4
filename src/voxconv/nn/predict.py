"""A network over images and volumes larger than its patches, with the same bits as over the whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import singledispatch
from typing import Any

import numpy as np

from voxconv.errors import rejection
from voxconv.nn.layers import LeakyReLU, ReLU, _Conv
from voxconv.nn.maxpool import _MaxPool
from voxconv.nn.models import _ResidualBlock, _UNet
from voxconv.nn.module import Array, Module
from voxconv.nn.norm import Dropout, _BatchNorm
from voxconv.nn.pooling import _AvgPool
from voxconv.nn.sequential import Sequential
from voxconv.nn.transposed import _ConvTranspose

__all__ = ["Reach", "predict", "reach"]


@dataclass(frozen=True, slots=True)
class Reach:
    """How one position of a layer's output lies over the network's input, per axis.

    Attributes
    ----------
    step : Fraction
        Input positions from one output position to the next.
    before, after : Fraction
        Input positions that an output depends on, before and after its own.
    align : int
        Input positions by which the input may be shifted so that the same windows are pooled.
    """

    step: Fraction = Fraction(1)
    before: Fraction = Fraction(0)
    after: Fraction = Fraction(0)
    align: int = 1

    def window(self, size: int, stride: int, pad: int, dilation: int) -> Reach:
        """After windows of ``size`` taps, the first of them ``pad`` positions before the output's own."""
        step = self.step * stride
        return Reach(
            step, self.before + pad * self.step, self.after + ((size - 1) * dilation - pad) * self.step,
            math.lcm(self.align, math.ceil(step)),
        )  # fmt: skip

    def beside(self, other: Reach) -> Reach:
        """After joining two branches."""
        return Reach(
            self.step, max(self.before, other.before), max(self.after, other.after), math.lcm(self.align, other.align)
        )


Reaches = tuple[Reach, ...]


@singledispatch
def reach(layer: Module, over: Reaches) -> Reaches:
    """Follow the reach through a layer; ``over`` is that of its input, one entry for each axis.

    Raises
    ------
    ValueError
        If what the layer answers at one place depends on the whole image, as global pooling does.
    """
    name = type(layer).__name__
    rule = "must not hold layers that see the whole image at once, or whose reach is not known"
    raise ValueError(rejection("predict", "model", name, rule))


@reach.register(ReLU)
@reach.register(LeakyReLU)
@reach.register(_BatchNorm)
@reach.register(Dropout)
def _(layer: Module, over: Reaches) -> Reaches:
    return over


@reach.register
def _(layer: Sequential, over: Reaches) -> Reaches:
    for inner in layer:
        over = reach(inner, over)
    return over


def _per_axis(value: Any, rank: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * rank


@reach.register
def _(layer: _Conv, over: Reaches) -> Reaches:
    sizes, rank = layer.kernel_size, layer.rank
    dilations = _per_axis(layer.dilation, rank)
    if layer.padding in ("same", "same_lower", "valid"):
        spans = [(size - 1) * dilation for size, dilation in zip(sizes, dilations, strict=True)]
        pads = [{"same": s // 2, "same_lower": (s + 1) // 2, "valid": 0}[layer.padding] for s in spans]
    else:
        pads = [pad[0] if isinstance(pad, Sequence) else pad for pad in _per_axis(layer.padding, rank)]
    windows = zip(sizes, _per_axis(layer.stride, rank), pads, dilations, strict=True)
    return tuple(r.window(*window) for r, window in zip(over, windows, strict=True))


@reach.register(_MaxPool)
@reach.register(_AvgPool)
def _(layer: Any, over: Reaches) -> Reaches:
    rank = layer.rank
    sizes = _per_axis(layer.kernel_size, rank)
    strides = sizes if layer.stride is None else _per_axis(layer.stride, rank)
    pads = [pad[0] if isinstance(pad, Sequence) else pad for pad in _per_axis(layer.padding, rank)]
    dilations = _per_axis(getattr(layer, "dilation", 1), rank)
    return tuple(r.window(*w) for r, w in zip(over, zip(sizes, strides, pads, dilations, strict=True), strict=True))


@reach.register
def _(layer: _ConvTranspose, over: Reaches) -> Reaches:
    # Output q meets input i where q = i * stride + t * dilation - padding, t = 0 .. size - 1.
    rank = layer.rank
    result = []
    for axis, r in enumerate(over):
        stride, pad = _per_axis(layer.stride, rank)[axis], _per_axis(layer.padding, rank)[axis]
        span = (layer.kernel_size[axis] - 1) * _per_axis(layer.dilation, rank)[axis]
        step = r.step / stride
        before = r.before + max(0, span - pad) * step
        after = r.after + max(0, pad) * step
        result.append(Reach(step, before, after, r.align))
    return tuple(result)


@reach.register
def _(layer: _ResidualBlock, over: Reaches) -> Reaches:
    inner = reach(layer.conv2, reach(layer.conv1, over))
    shortcut = over if layer.downsample is None else reach(layer.downsample, over)
    return tuple(a.beside(b) for a, b in zip(inner, shortcut, strict=True))


@reach.register
def _(layer: _UNet, over: Reaches) -> Reaches:
    across = []
    for level in range(layer.depth):
        across.append(reach(layer._at("down", level), over))
        over = reach(layer._at("pool", level), across[level])
    over = reach(layer._at("down", layer.depth), over)
    for level in reversed(range(layer.depth)):
        up = reach(layer._at("up", level), over)
        joined = tuple(a.beside(b) for a, b in zip(across[level], up, strict=True))
        over = reach(layer._at("join", level), joined)
    return reach(layer.head, over)


@contextmanager
def _strict(model: Module) -> Iterator[None]:
    """Direct sums in evaluation mode: each output is one chain of terms, wherever the tile's border lies.

    A Winograd tile's rounding depends on where in the tile an output stands, and so on where the patch begins.
    """
    modules = list(model.modules())
    before = [(module, module.training, getattr(module, "precision", None)) for module in modules]
    model.eval()
    for module in modules:
        if hasattr(module, "precision"):
            module.precision = "strict"
    try:
        yield
    finally:
        for module, training, precision in before:
            module.training = training
            if precision is not None:
                module.precision = precision  # type: ignore[attr-defined]


def _tiles(size: int, patch: int, r: Reach) -> list[tuple[int, int, int, int]]:
    """Cut one axis: first and last + 1 of the part that is read, then of the part of the output that counts."""
    if patch >= size:
        return [(0, size, 0, size)]
    before, after = (math.ceil(reach / r.align) * r.align for reach in (r.before, r.after))
    core = (patch - before - after) // r.align * r.align
    if core < 1:
        least = before + after + r.align
        raise ValueError(rejection("predict", "patch", patch, f"must be at least {least}, by the network's reach"))
    return [
        (max(0, start - before), min(size, start + core + after), start, min(size, start + core))
        for start in range(0, size, core)
    ]


def _over(bounds: Iterable[tuple[int, int]]) -> tuple[Any, ...]:
    """Index of a box in all samples and channels."""
    return (..., *(slice(*ends) for ends in bounds))


def predict(
    model: Module,
    x: Array,
    patch: int | Sequence[int] | None = None,
    *,
    show: Callable[[Iterable[int], int, str], Iterable[int]] | None = None,
) -> Array:
    """Run a network over images or volumes, patch by patch, with the bits that it would have over the whole.

    Patches overlap by the network's reach, so that what counts of each never sees a border that is not the image's
    own; sizes that the network's pools do not divide are filled up with zeros and cut back.

    Parameters
    ----------
    model : Module
        A network whose output has its input's spatial size, such as `UNet3d`.
    x : (N, C, *spatial) ndarray
        The images.
    patch : int or one per axis, optional
        Largest part to run at once, its halo included; None runs the whole.
    show : function, optional
        Called as ``show(patches, total, "predicting")``; passes the patches through.

    Returns
    -------
    (N, K, *spatial) ndarray

    Raises
    ------
    ValueError
        If the patch is smaller than the network's reach, or a layer sees the whole image at once.
    """
    x = np.asarray(x)
    spatial = x.shape[2:]
    if not spatial or not all(spatial) or not len(x):
        rule = "must be (N, C, *spatial) and not empty"
        raise ValueError(rejection("predict", "x", f"array of shape {x.shape}", rule))
    try:
        reaches = reach(model, (Reach(),) * len(spatial))
    except ValueError:
        if patch is not None:
            raise
        reaches = (Reach(),) * len(spatial)  # one patch of everything needs no halo
    filled = [math.ceil(size / r.align) * r.align for size, r in zip(spatial, reaches, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *((0, f - s) for f, s in zip(filled, spatial, strict=True))])
    patches = filled if patch is None else _per_axis(patch, len(spatial))
    if len(patches) != len(spatial):
        raise ValueError(rejection("predict", "patch", patch, f"must be an integer or {len(spatial)} of them"))
    cuts = list(itertools.product(*(_tiles(s, p, r) for s, p, r in zip(filled, patches, reaches, strict=True))))
    result: Array | None = None
    with _strict(model):
        numbers: Iterable[int] = range(len(cuts))
        for number in numbers if show is None else show(numbers, len(cuts), "predicting"):
            cut = cuts[number]
            y = model(np.ascontiguousarray(x[_over((first, end) for first, end, _, _ in cut)]))
            if y.shape[2:] != tuple(end - first for first, end, _, _ in cut):
                rule = f"must keep the spatial size, but made {y.shape[2:]} of {tuple(e - f for f, e, _, _ in cut)}"
                raise ValueError(rejection("predict", "model", type(model).__name__, rule))
            if result is None:
                result = np.empty((len(x), y.shape[1], *filled), y.dtype)
            kept = _over((start - first, end - first) for first, _, start, end in cut)
            result[_over((start, end) for _, _, start, end in cut)] = y[kept]
    assert result is not None
    return np.ascontiguousarray(result[_over((0, size) for size in spatial)])
