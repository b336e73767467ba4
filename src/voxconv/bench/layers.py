"""What a layer is, and what can be asked of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DIRECTIONS", "Layer"]

DIRECTIONS = ("forward", "input", "weight", "indices", "step")
"""The pass itself, the gradients to input and weight, a max-pool that also tells where its maxima stand, and one
training step of a network."""

@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution of (n, c, *spatial) with k filters, or a pool; padding lies on both ends.

    A ``transposed`` layer is given by the convolution whose input gradient it is, as up-sampling is
    in a U-Net.
    """

    name: str
    kind: str  # conv, max_pool or avg_pool
    n: int
    c: int
    k: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(n, c, *spatial)."""
        return (self.n, self.c, *self.spatial)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(k, c / groups, *kernel); a pool has none."""
        return (self.k, self.c // self.groups, *self.kernel) if self.kind == "conv" else (0,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(n, k, *output)."""
        axes = zip(self.spatial, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return (self.n, self.k, *((s + 2 * p - d * (t - 1) - 1) // step + 1 for s, t, step, p, d in axes))

    @property
    def flops(self) -> int:
        """Multiplications and additions of the direct sum; comparisons or additions of a pool."""
        taps = math.prod(self.kernel)
        return math.prod(self.output_shape) * taps * (2 * self.c // self.groups if self.kind == "conv" else 1)

    @property
    def elements(self) -> int:
        """Elements of input, weight and output."""
        return sum(math.prod(shape) for shape in (self.input_shape, self.weight_shape, self.output_shape))

    @property
    def directions(self) -> tuple[str, ...]:
        """Those of `DIRECTIONS` that it has."""
        missing = {"conv": {"indices"}, "max_pool": {"weight"}, "avg_pool": {"weight", "indices"}}[self.kind] | {"step"}
        return tuple(direction for direction in DIRECTIONS if direction not in missing)

    def operation(self, direction: str) -> str:
        """What is computed: a transposed layer's forward pass is its convolution's input gradient."""
        swapped = {"forward": "input", "input": "forward"}
        return swapped.get(direction, direction) if self.transposed else direction
