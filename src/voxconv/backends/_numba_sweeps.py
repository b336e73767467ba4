"""What the Numba backend's tables are made into: passes, each a record that a kernel reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from voxconv.backends._numba_axes import Axis
from voxconv.problem import ConvProblem

Array = npt.NDArray[Any]

ITEM_TERMS = 1 << 29
"""Most products of an item, some ten milliseconds: a signal is seen only between items."""

SHORT_TERMS = 1 << 18
"""Images are taken together in an item up to this many products, so that handing items out costs little."""


class Slots(NamedTuple):
    """Where the panel keeps an axis: lines that begin at ``starts``, and (slot, shift) of each tap in them."""

    starts: list[int]
    places: list[tuple[int, int]]
    span: int
    """Elements that a slot is longer than the box of outputs."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass of `sweep` or `depthwise`: its record as integers, without arrays, and what it was made from."""

    record: Array
    tables: tuple[Array, ...]
    """What the record points to."""
    axes: tuple[Axis, Axis, Axis]
    slots: tuple[Slots, ...]
    box: tuple[int, int]
    in_place: bool
    groups: int
    channels: int
    outs: int
    channel: int
    """Elements of a channel in the panel."""
    wrow: Array
    woff: Array
    items: int
    scratch: int
    """Bytes that each thread needs."""
    kernel: str = "sweep"

    @property
    def terms(self) -> int:
        """Products of an output."""
        return len(self.woff)


@dataclass(frozen=True, slots=True)
class WeightSweep:
    """The pass of `weight` or of a depthwise kernel in its place; see `Sweep`."""

    record: Array
    tables: tuple[Array, ...]
    axes: tuple[Axis, Axis, Axis]
    items: int
    scratch: int
    sums: int
    """Bytes that wait between two chunks."""
    stages: tuple[tuple[int, int], ...]
    """First and past-the-last chunk of each run over the items."""
    stage_at: int
    """Where in the record they stand."""
    wrow: Array
    woff: Array
    kernel: str = "weight"


def record_of(kind: np.dtype[Any], **values: Any) -> Array:
    """A record with these fields, as a flat array of integers: quick to copy and to complete."""
    record = np.zeros(1, kind)
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            for axis, one in zip("dhw", value, strict=True):
                record[f"{name}_{axis}"] = one
        else:
            record[name] = value
    return record.view(np.int64)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def slope_of(problem: ConvProblem) -> float:
    """Of the activation; the sign of a zero must not reach the result."""
    return 1.0 if problem.activation is None else problem.activation.slope or 0.0
