"""Layers in turn, those together that run as one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from voxconv.errors import rejection
from voxconv.nn.layers import ReLU, _Conv
from voxconv.nn.maxpool import _MaxPool
from voxconv.nn.module import Array, Module

__all__ = ["Sequential"]


def _learns(layer: Module) -> bool:
    return isinstance(layer, _Conv) or next(layer.parameters(), None) is not None


class Sequential(Module):
    """Layers one after the other, named "0", "1", ... as torch names them.

    Parameters
    ----------
    *layers : Module
        The layers, first to last.
    """

    def __init__(self, *layers: Module) -> None:
        for position, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(rejection("Sequential", f"layers[{position}]", layer, "must be a Module"))
        self.layers = layers
        self._found: tuple[tuple[Module, ...] | None, list[_MaxPool], list[bool], list[tuple[int, int]]]
        self._found = None, [], [], []

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Number the layers."""
        return ((str(position), layer) for position, layer in enumerate(self.layers))

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, position: int) -> Module:
        return self.layers[position]

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def _together(self, position: int) -> int:
        """Layers from here on that run as one: 3 for a convolution, ReLU and max-pool, 2 for the first two, else 1."""
        kinds = self.layers[position : position + 3]
        if len(kinds) < 2 or not isinstance(kinds[0], _Conv) or type(kinds[1]) is not ReLU:
            return 1
        return 3 if len(kinds) == 3 and isinstance(kinds[2], _MaxPool) and not kinds[2].return_indices else 2

    def _runs(self) -> list[tuple[int, int]]:
        """First layer and number of layers of each that run as one, found out again where that may have changed."""
        layers, pools, flags, runs = self._found
        if layers is not self.layers or flags != [pool.return_indices for pool in pools]:
            runs, position = [], 0
            while position < len(self.layers):
                runs.append((position, self._together(position)))
                position += runs[-1][1]
            pools = [layer for layer in self.layers if isinstance(layer, _MaxPool)]
            self._found = self.layers, pools, [pool.return_indices for pool in pools], runs
        return runs

    def forward(self, x: Array) -> Array:
        """Run the layers in turn; a ReLU behind a convolution runs as part of it."""
        layers, runs = self.layers, self._runs()
        for position, count in runs:
            layer = layers[position]
            if count == 1:
                x = layer(x)
            else:
                assert isinstance(layer, _Conv)
                x = layer.forward(np.asarray(x), "relu")
                if count == 3:
                    x = layers[position + 2](x)
                layers[position + 1]._save(x)
        self._save(runs)
        return x

    @property
    def last_relu(self) -> tuple[_Conv, ReLU] | None:
        """A convolution and ReLU that are the last two layers."""
        if len(self.layers) < 2 or self._together(len(self.layers) - 2) != 2:
            return None
        conv, relu = self.layers[-2:]
        assert isinstance(conv, _Conv)
        assert isinstance(relu, ReLU)
        return conv, relu

    def backward(
        self, grad_output: Array, input_grad: bool = True, rectified: bool = False, fresh: bool = False
    ) -> Array | None:
        """Run the layers' backward passes from last to first.

        ``rectified`` says that the gradient has been through `last_relu` and to the bias before it already, ``fresh``
        that nobody else will look at it, so that what comes of it may take its place.
        """
        (runs,), last = self._restore(), 0
        if not input_grad:  # nothing before the first parameter is of use then
            while last < len(self.layers) and not _learns(self.layers[last]):
                last += 1
        gradient: Array | None = grad_output
        del grad_output  # what has been used up is held by nobody while the layers before it run
        for position, count in reversed(runs):
            end = position + count
            if end <= last:
                break
            assert gradient is not None
            layer, wanted = self.layers[position], input_grad or position > last
            if count == 1:
                gradient, fresh = layer.backward(gradient, wanted), False
                continue
            assert isinstance(layer, _Conv)
            if not (rectified and end == len(self.layers)):
                (y,) = self.layers[position + 1]._restore()
                pool = self.layers[end - 1]
                if isinstance(pool, _MaxPool):
                    gradient = layer.rectify_pooled(y, pool, gradient)
                else:
                    gradient = layer.rectify(y, gradient, fresh)
                del y
            gradient = layer.backward(gradient, wanted, bias_grad=False)
            fresh = type(layer).backward is _Conv.backward  # which writes an array of its own and keeps none
        return gradient if input_grad else None

    def __repr__(self) -> str:
        lines = "".join(f"\n  ({name}): {child!r}" for name, child in self.named_children())
        return f"Sequential({lines}\n)"
