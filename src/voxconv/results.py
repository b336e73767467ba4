"""Where results go: a fresh array, or the caller's ``out=``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv.errors import rejection
from voxconv.memory import empty
from voxconv.problem import is_ready, out_array

__all__ = ["fill", "fill_all", "is_free"]

Array = npt.NDArray[Any]


def fill(
    function: str, out: object, shape: tuple[int, ...], batched: bool, dtype: np.dtype[Any],
    inputs: Sequence[Array | None], compute: Callable[[Array], object],
) -> Array:  # fmt: skip
    """Have `compute` write one result; see `fill_all`."""
    if out is None:
        try:
            result = empty(shape if batched else shape[1:], dtype)
        except MemoryError:
            raise _no_room(function, shape if batched else shape[1:], dtype) from None
        if result.size:
            compute(result if batched else result.reshape(shape))
        return result
    if batched and is_free(out, shape, dtype, inputs):
        compute(out)  # type: ignore[arg-type]
        return out  # type: ignore[return-value]
    return fill_all(function, (("out", out, dtype),), shape, batched, inputs, compute)[0]


def fill_all(
    function: str, outs: Sequence[tuple[str, object, np.dtype[Any]]], shape: tuple[int, ...], batched: bool,
    inputs: Sequence[Array | None], compute: Callable[..., object],
) -> list[Array]:  # fmt: skip
    """Have `compute` write results of one shape, and return them as the caller wants them.

    Parameters
    ----------
    function : str
        Who asks, for an error's text.
    outs : sequence of (name, ndarray or None, dtype)
        The caller's arrays.  One that is not C-contiguous, or that may overlap an input or another
        of them, is filled by way of a fresh one.
    shape : tuple of int
        Shape with its sample axis, as `compute` sees it.
    batched : bool
        Whether the caller sees the sample axis too.
    inputs : sequence of ndarray or None
        What `compute` reads.
    compute : callable
        Takes one C-contiguous array for each of ``outs`` and writes all of it; not called for empty
        ones.

    Returns
    -------
    list of ndarray
        The caller's arrays, or fresh ones.

    Raises
    ------
    TypeError, ValueError
        An array of ``outs`` does not fit.
    MemoryError
        There is no room for a fresh array.
    """
    if batched:
        taken = list(inputs)
        for _, out, dtype in outs:
            if not is_free(out, shape, dtype, taken):
                break
            taken.append(out)  # type: ignore[arg-type]
        else:
            given: list[Array] = taken[len(inputs) :]  # type: ignore[assignment]
            compute(*given)
            return given
    visible = shape if batched else shape[1:]
    targets = [out_array(function, out, visible, dtype, name) for name, out, dtype in outs]
    taken = [array for array in inputs if array is not None]
    results = []
    for target, (_, _, dtype) in zip(targets, outs, strict=True):
        if target is None or not target.flags.c_contiguous or any(np.may_share_memory(target, a) for a in taken):
            try:
                results.append(empty(visible, dtype))
            except MemoryError:
                raise _no_room(function, visible, dtype) from None
        else:
            results.append(target)
            taken.append(target)
    if results[0].size:
        compute(*(result.reshape(shape) for result in results))
    for i, target in enumerate(targets):
        if target is not None and target is not results[i]:
            target[...] = results[i]
            results[i] = target
    return results


def is_free(out: object, shape: tuple[int, ...], dtype: np.dtype[Any], taken: Sequence[Array | None]) -> bool:
    """Whether results can go straight into this array: nothing to check or convert, and no other array in its place."""
    if not is_ready(out, shape, dtype):
        return False
    target: Array = out  # type: ignore[assignment]
    if not target.flags.writeable or target.size == 0:
        return False
    for array in taken:  # noqa: SIM110 - a generator takes longer than all the rest
        if array is not None and np.may_share_memory(target, array):
            return False
    return True


def _no_room(function: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> MemoryError:
    rule = f"takes {math.prod(shape) * dtype.itemsize} bytes, more than there is room for"
    return MemoryError(rejection(function, "output.shape", shape, rule))
