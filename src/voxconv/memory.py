"""Where results and scratch live: recycled blocks of the compiled library's allocator.

Fresh pages cost more than the arithmetic of many a layer, so a large result is a NumPy array over a block that is
aligned to 64 bytes and goes back to the allocator when no array, view or buffer of it is alive any more.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    _native: Any = import_module("voxconv._native")
except ImportError:  # results are plain arrays then
    _native = None

__all__ = ["LARGE", "block", "empty", "release_memory", "take"]

LARGE = 256 << 10
"""Results of so many bytes are recycled; below, NumPy's own memory costs less than the bookkeeping."""


def take(size: int) -> Any:
    """Take ``size`` bytes from the compiled library, for the caller to give back with ``vox_free``."""
    pointer = _native.lib.vox_alloc(size)
    if pointer == _native.ffi.NULL:
        raise MemoryError(f"voxconv could not allocate {size} bytes")
    return pointer


def block(size: int) -> Any:
    """As `take`, given back when the last reference goes: that takes longer than a small call."""
    return _native.ffi.gc(take(size), _native.lib.vox_free, size)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """As `numpy.empty`, recycled if it is large."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE or _native is None:
        return np.empty(shape, dtype)
    return np.frombuffer(_native.ffi.buffer(block(size), size), dtype).reshape(shape)


def release_memory() -> None:
    """Give all memory that is kept for later results and scratch back to the system.

    Results that are still in use keep theirs.
    """
    if _native is not None:
        _native.lib.vox_release_memory()
