"""Runs kernels of the Numba backend: compiled or found when first asked for, on the library's own threads."""

from __future__ import annotations

import os
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core.compiler_lock import global_compiler_lock as compiling

from voxconv.backends import _numba_conv, _numba_depthwise, _numba_pool
from voxconv.backends._numba_axes import SQUARES
from voxconv.backends._numba_cache import compiled
from voxconv.backends._numba_conv import PACK, SWEEP, WEIGHT
from voxconv.backends._numba_depthwise import DEPTHWISE, DEPTHWISE_SPREAD, DEPTHWISE_WEIGHT
from voxconv.backends._numba_pool import FORMS, POOL, SCATTER

Array = npt.NDArray[Any]

KEPT_BLOCKS, KEPT_BYTES = 4, 16 << 20
"""How many blocks of scratch are kept for later calls, and the largest of them."""

try:
    from voxconv._native import ffi, lib

    _CURSOR, _ADDRESS, _WORDS = map(ffi.typeof, ("int64_t *", "uintptr_t", "void *[]"))  # looked up once
except ImportError:  # without the compiled library there are no threads of its own
    ffi = lib = None

KERNELS = {
    "sweep": (_numba_conv.sweep(False), SWEEP),
    "sweep-spread": (_numba_conv.sweep(True), SWEEP),
    "pack": (_numba_conv.pack, PACK),
    "weight": (_numba_conv.weight, WEIGHT),
    **{f"max_pool-{step}-{known}": (_numba_pool.max_pool(step, known), POOL) for step, known in FORMS},
    "scatter": (_numba_pool.scatter, SCATTER),
    "depthwise": (_numba_depthwise.depthwise, DEPTHWISE),
    "spread": (_numba_depthwise.spread, DEPTHWISE_SPREAD),
    **{
        f"{name}-{size}-{step}": (make(size, step), kind)
        for name, make, kind in (
            ("depthwise", _numba_depthwise.square, DEPTHWISE),
            ("depthwise_weight", _numba_depthwise.square_weight, DEPTHWISE_WEIGHT),
        )
        for size in SQUARES
        for step in (1, 2)
    },
    **{
        f"pairs-{size}-{odd_h}-{odd_w}": (_numba_depthwise.square(size, 1, odd_h, odd_w), DEPTHWISE)
        for size, odd_h, odd_w in product(SQUARES, (0, 1), (0, 1))
    },
}
"""What makes each kernel, and the record that it reads."""


_kernels: dict[tuple[str, np.dtype[Any]], tuple[Any, Any]] = {}

# A child inherits no thread that would let go of the compiler, nor what one had half done: a fork waits for it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=compiling.acquire, after_in_parent=compiling.release, after_in_child=compiling.release)


def kernel_of(name: str, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """A kernel for one element type: what to call with the address of a job, an item and a slot, and its owner."""
    found = _kernels.get((name, dtype))
    if found is None:
        with compiling:  # loaded twice, its symbols would clash
            found = _kernels.get((name, dtype)) or _kernels.setdefault((name, dtype), _made(name, dtype))
    return found


def _made(name: str, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    make, record = KERNELS[name]
    kernel = compiled(f"{name}-{dtype.name}", make, dtype, record)
    call = kernel.ctypes if lib is None else ffi.cast("void (*)(void *, int64_t, int64_t)", kernel.address)
    return call, kernel


def threads_now() -> int:
    """How many threads a call that begins now may use."""
    return 1 if lib is None else int(lib.vox_get_num_threads())


def run(name: str, dtype: np.dtype[Any], record: Array, items: int, threads: int | None = None) -> None:
    """Run all items of a job that is a record of its own."""
    job = record if ffi is None else ffi.from_buffer(record)
    share(kernel_of(name, dtype)[0], job, items, threads or threads_now())


def share(kernel: Any, job: Any, items: int, threads: int) -> None:
    """Run all items of a job, on the library's own threads; between two slices of time Python sees its signals."""
    if lib is None:
        for item in range(items):
            kernel(address(job), item, 0)
        return
    cursor = ffi.new(_CURSOR)
    while lib.vox_share(items, threads, kernel, job, cursor) == lib.VOX_AGAIN:
        pass


def address(array: Array) -> int:
    """Where an array's elements begin."""
    if ffi is None:
        return int(array.__array_interface__["data"][0])
    return int(ffi.cast(_ADDRESS, ffi.from_buffer(array)))


def job_of(record: Array) -> Any:
    """A copy of a record, as `share` takes it; its fields take what `place` gives."""
    if ffi is None:
        return record.copy()
    job = ffi.new(_WORDS, len(record))
    ffi.memmove(job, record, record.nbytes)
    return job


place: Any = address if ffi is None else ffi.from_buffer
"""An array's address for a job's field, quicker than as an integer."""


class Block(NamedTuple):
    """Scratch memory and where its first cache line begins, as an address and as a job's field takes it."""

    memory: Array
    start: int
    place: Any


_kept: list[Block] = []
"""Scratch that was given back: fresh pages would cost more than many a layer's arithmetic."""


def take(size: int) -> Block:
    """At least so many bytes, uninitialised."""
    try:
        # Taking an entry out is atomic, so threads never share a block.
        block = _kept.pop()
        if len(block.memory) >= size + 64:
            return block
    except IndexError:
        pass
    memory = np.empty(size + 64, np.uint8)
    start = -(-address(memory) // 64) * 64
    return Block(memory, start, start if ffi is None else ffi.cast("void *", start))


def give(block: Block) -> None:
    """Keep a block for a later `take`."""
    if len(_kept) < KEPT_BLOCKS and len(block.memory) <= KEPT_BYTES:
        _kept.append(block)
