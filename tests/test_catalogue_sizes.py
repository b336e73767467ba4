"""The catalogue's huge sizes, on memory that is reserved and hardly touched."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

import oracle
import voxconv as vc
from catalogue import check, names, numbers, run_check

BEYOND = 2**31 + 4096
"""Elements, or bytes, that 32 bits do not count."""


def sparse(*shape, dtype="float32"):
    """Zeros whose pages exist once they are written."""
    kind = np.dtype(dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, int(np.prod(shape, dtype=object)) * kind.itemsize, flags=flags)
    return np.frombuffer(memory, kind).reshape(shape)


def compiled_only(backend):
    """The other backends walk every element, or copy; these checks are of 64-bit arithmetic in C."""
    return backend != "native"


@check("C1")
def c1_a_plane_of_more_than_two_thousand_million(backend):
    if compiled_only(backend):
        return
    side, stride = 46341, 23169
    x, w = sparse(1, 1, side, side), numbers(2, 1, 3, 3)
    for i in (0, 1):
        for j in (0, 1):
            x[0, 0, i * stride : i * stride + 3, j * stride : j * stride + 3] = numbers(3, 3, seed=60 + 2 * i + j)
    y = vc.conv2d(x, w, stride=stride, backend=backend, precision="strict")
    assert y.shape == (1, 2, 3, 3)
    for i in (0, 1):
        for j in (0, 1):
            patch = x[:, :, i * stride : i * stride + 3, j * stride : j * stride + 3]
            oracle.assert_same_bits(y[..., i, j], vc.conv2d(patch, w, backend=backend, precision="strict")[..., 0, 0])


@check("C2")
def c2_columns_of_more_than_two_thousand_million(backend):
    if compiled_only(backend):
        return
    x = oracle.integers(np.random.default_rng(61), (1, 1, 2**17), np.float32)
    w = oracle.integers(np.random.default_rng(62), (1, 1, 2**15), np.float32)
    for algorithm in ("direct", "im2col"):
        plan = vc.plan_conv1d(x.shape, w, backend=backend, algorithm=algorithm)
        assert plan.workspace_bytes < 2**26
        y = plan(x)[0, 0]
        assert y.size * w.size > 2**31
        for at in (0, 1, 4097, y.size - 1):
            assert y[at] == np.dot(x[0, 0, at : at + w.size].astype(int), w[0, 0].astype(int))


@check("C3")
def c3_bytes_beyond_32_bits_in_fewer_elements(backend):
    if compiled_only(backend):
        return
    step = 2**28 + 8
    x, w = sparse(1, 1, 2 * step, dtype="float64"), numbers(1, 1, 2, dtype="float64")
    x[0, 0, step : step + 2] = 3, 5
    y = vc.conv1d(x, w, stride=step, backend=backend)
    oracle.assert_same_bits(y[..., 1:], vc.conv1d(np.array([[[3.0, 5.0]]]), w, backend=backend))
    assert y[0, 0, 0] == 0


@check("C4", "C7")
def c4_c7_more_than_two_thousand_million_elements(backend):
    if compiled_only(backend):
        return
    step = 2**30 + 1024
    x = sparse(1, 1, 2 * step + 3)
    assert x.size > BEYOND - 4096
    w = np.array([[[1, 10, 100]]], np.float32)
    x[0, 0, 2 * step :] = 1, 2, 3
    x[0, 0, :3] = 4, 5, 6
    y = vc.conv1d(x, w, stride=step, backend=backend)
    assert y[0, 0].tolist() == [654, 0, 321]
    gw = vc.grad.conv1d_weight(x, w.shape, np.ones_like(y), stride=step, backend=backend)
    assert gw[0, 0].tolist() == [5, 7, 9]
    top, at = vc.max_pool1d(x, 3, step, return_indices=True, backend=backend)
    assert top[0, 0].tolist() == [6, 0, 3]
    assert at.dtype == np.int64
    assert at[0, 0].tolist() == [2, step, 2 * step + 2]
    assert vc.avg_pool1d(x, 3, step, backend=backend)[0, 0].tolist() == [5, 0, 2]
    assert vc.unfold1d(x, 3, stride=step, backend=backend)[0].tolist() == [[4, 0, 1], [5, 0, 2], [6, 0, 3]]


@check("C5")
def c5_an_output_that_reaches_beyond_32_bits(backend):
    room = sparse(2 * BEYOND)
    out = np.lib.stride_tricks.as_strided(room, (1, 2, 4, 5), (0, 4 * BEYOND, 4 * 2**20, 4))
    x, w = numbers(1, 3, 4, 5), numbers(2, 3, 3, 3)
    assert vc.conv2d(x, w, padding=1, out=out, backend=backend) is out
    oracle.assert_same_bits(np.ascontiguousarray(out), vc.conv2d(x, w, padding=1, backend=backend))


@check("C8")
def c8_an_input_that_no_memory_holds(backend):
    x = np.broadcast_to(np.float32(1), (1, 2**20, 2**10, 2**10))
    with pytest.raises((MemoryError, ValueError, OverflowError)):
        vc.conv2d(x, np.ones((1, 2**20, 1, 1), np.float32), backend=backend)
    with pytest.raises((MemoryError, ValueError, OverflowError)):
        vc.max_pool2d(x, 2, backend=backend)


@check("C9")
def c9_many_groups_of_a_large_image(backend):
    if compiled_only(backend):
        return
    height, width, down, right = 4480, 2976, 640, 496
    x, w = sparse(1, 64, height, width), numbers(64, 2, 3, 3)
    rows, columns = range(0, height - 2, down), range(0, width - 2, right)
    compact = numbers(1, 64, 3 * len(rows), 3 * len(columns), seed=63)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            x[..., row : row + 3, column : column + 3] = compact[..., 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
    y = vc.conv2d(x, w, stride=(down, right), groups=32, backend=backend, algorithm="direct")
    oracle.assert_same_bits(y, vc.conv2d(compact, w, stride=3, groups=32, backend=backend, algorithm="direct"))


@check("C10")
def c10_the_workspace_is_what_was_declared(backend):
    if compiled_only(backend):
        return
    from voxconv._native import lib

    from voxconv.backends import native

    shapes = ((1, 64, 56, 56), (4, 3, 64, 64), (1, 8, 1000)), ((64, 64, 3, 3), (32, 3, 7, 7), (8, 8, 9))
    for shape, filters in zip(*shapes, strict=True):
        x, w = numbers(*shape), numbers(*filters)
        rank = len(shape) - 2
        plan = getattr(vc, f"plan_conv{rank}d")(shape, w, backend=backend)
        out = plan(x)
        native.release_kept_memory()
        lib.vox_reset_peak()
        before = lib.vox_live_bytes()
        plan(x, out=out)
        assert lib.vox_peak_bytes() - before <= plan.workspace_bytes + 4096, "more than declared"
        native.release_kept_memory()
        assert lib.vox_live_bytes() <= before


@names(__name__)
def test_huge_sizes(name, backend, child):
    child.run(run_check, __name__, name, backend)
