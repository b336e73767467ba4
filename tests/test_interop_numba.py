"""Convolution and max-pooling inside @njit: the same bits as outside, the same refusals, no Python on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import oracle
import voxconv as vc

numba = pytest.importorskip("numba")

EXAMPLE = Path(__file__).parent.parent / "examples" / "numba_loop.py"


@numba.njit(nogil=True)
def conv2d(x, w, b, stride, padding, dilation, groups):
    return vc.conv2d(x, w, b, stride, padding, dilation, groups)


@numba.njit(nogil=True)
def pooled(x, kernel, stride, padding, dilation, ceil):
    return vc.max_pool2d(x, kernel, stride, padding, dilation, ceil, True)


@numba.njit(nogil=True)
def other_ranks(line, w1, volume, w3):
    y1 = vc.conv1d(line, w1, padding=2, activation="relu")
    y3 = vc.conv3d(volume, w3, padding=((1, 0), (0, 1), (1, 1)), stride=(1, 2, 1))
    return y1, vc.max_pool1d(y1, 3), y3, vc.max_pool3d(y3, 2, 1)


@numba.njit(nogil=True)
def into(x, w, out):
    vc.conv2d(x, w, out=out)


def images(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


CASES = [
    ((2, 32, 20, 20), 32, (3, 3), (1, 1), (1, 1), (1, 1), 1),  # Winograd
    ((1, 3, 15, 17), 7, (5, 4), (2, 1), (2, 0), (1, 2), 1),  # direct
    ((2, 17, 9, 9), 33, (1, 1), (1, 1), (0, 0), (1, 1), 1),  # im2col
    ((1, 8, 12, 19), 8, (3, 3), (1, 1), (1, 1), (1, 1), 8),  # depthwise
    ((1, 4, 5, 6), 6, (3, 3), (1, 1), (7, 7), (7, 7), 2),
]


@pytest.mark.parametrize("case", CASES, ids=["winograd", "direct", "im2col", "depthwise", "dilated"])
@pytest.mark.parametrize("seed", [81])
def test_conv_has_the_same_bits(case, seed):
    shape, k, kernel, *walk, groups = case
    x, w, b = images(seed, shape, (k, shape[1] // groups, *kernel), (k,))
    expected = vc.conv2d(x, w, b, *walk, groups, backend="native")
    oracle.assert_same_bits(conv2d(x, w, b, *walk, groups), expected)


@pytest.mark.parametrize("walk", [((2, 2), (2, 2), (0, 0), (1, 1), False), ((3, 2), (2, 1), (1, 0), (1, 2), True)])
@pytest.mark.parametrize("seed", [82])
def test_pool_has_the_same_bits(walk, seed):
    (x,) = images(seed, (2, 3, 14, 13))
    x[0, 0, 3, 3] = np.nan
    for ours, expected in zip(pooled(x, *walk), vc.max_pool2d(x, *walk, return_indices=True), strict=True):
        oracle.assert_same_bits(ours, expected)


@pytest.mark.parametrize("seed", [83])
def test_other_ranks_unbatched_and_layouts(seed):
    line, w1, volume, w3 = images(seed, (21, 3), (4, 3, 5), (2, 2, 5, 6, 7), (3, 2, 2, 3, 3))
    y1, p1, y3, p3 = other_ranks(line.T, w1, volume, w3)
    oracle.assert_same_bits(y1, vc.conv1d(line.T, w1, padding=2, activation="relu"))
    oracle.assert_same_bits(p1, vc.max_pool1d(y1, 3))
    oracle.assert_same_bits(y3, vc.conv3d(volume, w3, padding=((1, 0), (0, 1), (1, 1)), stride=(1, 2, 1)))
    oracle.assert_same_bits(p3, vc.max_pool3d(y3, 2, 1))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"w": (4, 2, 3, 3)}, "channels, weight and groups"),
        ({"groups": 2}, "channels, weight and groups"),
        ({"groups": 0}, "channels, weight and groups"),
        ({"b": (5,)}, "bias must have one value"),
        ({"w": (4, 3, 9, 9)}, "larger than the padded input"),
        ({"stride": (0, 1)}, "a step below 1"),
        ({"padding": (-1, 0)}, "padding below 0"),
        ({"dilation": (2**62, 1)}, "larger than the padded input"),
    ],
)
def test_conv_refuses(change, sentence):
    x, w, b = images(84, (1, 3, 6, 7), change.get("w", (4, 3, 3, 3)), change.get("b", (4,)))
    walk = {name: change.get(name, (value, value)) for name, value in (("stride", 1), ("padding", 0), ("dilation", 1))}
    with pytest.raises(ValueError, match=sentence):
        conv2d(x, w, b, *walk.values(), change.get("groups", 1))


@pytest.mark.parametrize(
    ("walk", "sentence"),
    [
        (((2, 2), (2, 2), (2, 0), (1, 1), False), "smaller than the window"),
        (((20, 2), (1, 1), (0, 0), (1, 1), False), "larger than the padded input"),
        (((2, 2), (1, 1), (0, 12), (1, 20), False), "holds no element"),
        (((2**40, 2), (1, 1), (0, 0), (2**40, 1), False), "more than 64 bits"),
    ],
)
def test_pool_refuses(walk, sentence):
    (x,) = images(85, (1, 1, 6, 14))
    with pytest.raises(ValueError, match=sentence):
        pooled(x, *walk)
    with pytest.raises((ValueError, OverflowError)):
        vc.max_pool2d(x, *walk)


def test_out_is_checked():
    x, w, out = images(86, (1, 2, 6, 6), (2, 2, 1, 1), (1, 2, 6, 6))
    into(x, w, out)
    oracle.assert_same_bits(out, vc.conv2d(x, w))
    with pytest.raises(ValueError, match="result's shape"):
        into(x, w, out[:, :1].copy())
    with pytest.raises(ValueError, match="overlaps"):
        into(x, w, x)


def test_wrong_types_are_a_sentence():
    x, w = images(87, (1, 2, 6, 6), (2, 2, 1, 1))
    with pytest.raises(numba.TypingError, match="weight must be an array of float32 with 4 axes"):
        into(x, w.astype(np.float64), x.copy())
    with pytest.raises(numba.TypingError, match="cannot be an array of int16"):
        into(x.astype(np.int16), w, x.copy())


X, W = np.ones((1, 2, 6, 6), np.float32), np.ones((2, 2, 1, 1), np.float32)
MISTYPED = {
    "stride must be an integer or a tuple of 2": lambda: vc.conv2d(X, W, stride=(1, 1, 1)),
    "dilation must be an integer or a tuple of 2": lambda: vc.conv2d(X, W, dilation=1.5),
    r"padding must hold one \(before, after\) pair": lambda: vc.conv2d(X, W, padding=((1, 1), (1, 1, 1))),
    "out must be a writable C-contiguous array of float32 with 4 axes": lambda: vc.conv2d(X, W, out=W[0]),
    "input must be an array of 4 axes, or 3 without the samples": lambda: vc.conv2d(W[0, 0], W),
    "bias must be None or an array of float32 with one axis": lambda: vc.conv2d(X, W, W),
    "groups must be an integer": lambda: vc.conv2d(X, W, groups=1.0),
    'activation must be None or "relu", written out': lambda: vc.conv2d(X, W, activation="tanh"),
    "return_indices must be True or False, written out": lambda: vc.max_pool2d(X, 2, return_indices=X.size > 3),
    "out must be a pair of arrays": lambda: vc.max_pool2d(X, 2, return_indices=True, out=X),
    "max_pool2d inside @njit: kernel_size must be an integer or a tuple of 2": lambda: vc.max_pool2d(X, (2, 2, 2)),
}


@pytest.mark.parametrize("sentence", MISTYPED)
def test_each_argument_of_a_wrong_type_is_named(sentence):
    with pytest.raises(numba.TypingError, match=sentence):
        numba.njit(MISTYPED[sentence])()


def test_threads_call_at_once():
    x, w, b = images(88, (4, 32, 20, 20), (32, 32, 3, 3), (32,))
    walk = (1, 1), (1, 1), (1, 1)
    expected = conv2d(x, w, b, *walk, 1)
    results = {}

    def work(i):
        for _ in range(5):
            results[i] = conv2d(x, w, b, *walk, 1)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        oracle.assert_same_bits(results[i], expected)


def test_a_second_process_loads_the_users_loop_from_disk(tmp_path):
    """Nobody has imported or called anything of ours before Numba loads machine code that needs our symbols."""
    script = tmp_path / "loop.py"
    script.write_text(EXAMPLE.read_text())
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    told = [
        subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert told[0].startswith("the loop was compiled")
    assert told[1].startswith("the loop was found on disk")
    assert [line for line in told[0].splitlines() if line.startswith("field")] == [
        line for line in told[1].splitlines() if line.startswith("field")
    ]


EVERY = """
import numpy as np
from numba import njit
import voxconv as vc

@njit(nogil=True, cache=True)
def every(line, w1, image, w2, volume, w3):
    y1, y2, y3 = vc.conv1d(line, w1, padding=1), vc.conv2d(image, w2, stride=2), vc.conv3d(volume, w3)
    p1, p2, p3 = vc.max_pool1d(y1, 2), vc.max_pool2d(y2, 2, return_indices=True), vc.max_pool3d(y3, 2, 1)
    return y1, y2, y3, p1, p2, p3

rng = np.random.default_rng(89)
shapes = (2, 3, 20), (4, 3, 3), (2, 3, 20, 21), (5, 3, 3, 3), (1, 2, 6, 7, 8), (3, 2, 3, 3, 3)
line, w1, image, w2, volume, w3 = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
y1, y2, y3, p1, p2, p3 = every(line, w1, image, w2, volume, w3)
y = vc.conv1d(line, w1, padding=1), vc.conv2d(image, w2, stride=2), vc.conv3d(volume, w3)
pools = vc.max_pool1d(y[0], 2), *vc.max_pool2d(y[1], 2, return_indices=True), vc.max_pool3d(y[2], 2, 1)
for ours, theirs in zip((y1, y2, y3, p1, *p2, p3), y + pools, strict=True):
    assert ours.tobytes() == theirs.tobytes() and ours.shape == theirs.shape
print(sum(every.stats.cache_hits.values()), sum(every.stats.cache_misses.values()))
"""


def test_every_function_is_found_on_disk_by_a_second_process(tmp_path):
    script = tmp_path / "every.py"
    script.write_text(EVERY)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    told = [
        subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert told == ["0 1\n", "1 0\n"]


def test_a_loop_compiled_against_another_version_is_refused(monkeypatch):
    from voxconv.interop import numba as door

    monkeypatch.setattr(door, "ABI", door.ABI + 1)
    check = numba.njit(door._check_abi)
    with pytest.raises(RuntimeError, match="another version of voxconv"):
        check()
