"""Shape arithmetic on its own: against a walk over positions, and sizes that torch gives."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import voxconv as vc
from voxconv import problem as rules
from voxconv.errors import rejection

F32 = np.dtype("float32")


def conv_of(spatial, kernel, **options):
    arguments = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    x, w = np.empty((1, 1, *spatial), F32), np.empty((1, 1, *kernel), F32)
    return rules.conv("conv", len(spatial), x, w, None, **arguments)[0]


@pytest.mark.parametrize(
    ("padding", "size", "kernel", "stride", "dilation", "expected"),
    [
        ("valid", 9, 4, 1, 1, (0, 0)),
        ("same", 9, 3, 1, 1, (1, 1)),
        ("same", 9, 4, 1, 1, (1, 2)),
        ("same_lower", 9, 4, 1, 1, (2, 1)),
        ("same", 9, 4, 2, 1, (1, 2)),
        ("same", 10, 4, 3, 1, (1, 2)),
        ("same_lower", 10, 3, 2, 1, (1, 0)),
        ("same", 10, 3, 2, 1, (0, 1)),
        ("same", 9, 2, 5, 1, (0, 0)),
        ("same", 9, 3, 1, 4, (4, 4)),
        (2, 9, 3, 1, 1, (2, 2)),
        ([2], 9, 3, 1, 1, (2, 2)),
        (((1, 2),), 9, 3, 1, 1, (1, 2)),
        ([[0, 3]], 9, 3, 1, 1, (0, 3)),
    ],
)
def test_every_spelling_of_padding(padding, size, kernel, stride, dilation, expected):
    p = conv_of((size,), (kernel,), padding=padding, stride=stride, dilation=dilation)
    assert p.padding == (expected,)
    if isinstance(padding, str) and padding != "valid":
        assert p.output == (-(-size // stride),)


def test_output_sizes_count_the_windows_that_fit():
    for size, kernel, stride, dilation, before, after in itertools.product(
        range(1, 9), range(1, 4), range(1, 4), range(1, 4), range(3), range(3)
    ):
        extent, padded = (kernel - 1) * dilation + 1, size + before + after
        windows = sum(start + extent <= padded for start in range(0, padded, stride))
        options = {"stride": stride, "dilation": dilation, "padding": ((before, after),)}
        if windows:
            assert conv_of((size,), (kernel,), **options).output == (windows,)
        else:
            with pytest.raises(ValueError, match=rf"spans {extent} positions.*{padded}"):
                conv_of((size,), (kernel,), **options)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "output"),
    [
        (4, 5, 5, 1, 1, 1), (4, 4, 5, 1, 3, 1), (7, 2, 2, 0, 3, 3), (5, 4, 5, 1, 3, 1), (12, 4, 4, 2, 3, 3),
        (7, 3, 4, 1, 3, 2), (9, 5, 5, 2, 1, 3), (1, 5, 5, 1, 1, 1), (12, 5, 3, 1, 3, 2), (9, 3, 4, 0, 3, 2),
        (11, 3, 5, 1, 3, 3), (5, 5, 5, 0, 2, 1), (6, 3, 4, 1, 1, 2), (5, 1, 3, 0, 1, 2), (7, 2, 2, 1, 1, 4),
        (2, 3, 2, 0, 1, 1),
    ],
)
def test_ceil_mode_sizes_are_those_of_torch(size, kernel, stride, padding, dilation, output):
    p = rules.window_geometry("pool", (1, 1, size), kernel, stride, padding, dilation, True, F32)
    assert p.output == (output,)


def test_transposed_convolution_undoes_the_sizes_of_a_convolution():
    for size, kernel, stride, dilation, padding in itertools.product(
        range(3, 9), range(1, 4), range(1, 4), range(1, 3), range(2)
    ):
        extent = (kernel - 1) * dilation + 1
        if size + 2 * padding < extent:
            continue
        forward = conv_of((size,), (kernel,), stride=stride, dilation=dilation, padding=padding)
        left_over = (size + 2 * padding - extent) % stride
        back = rules.conv_transpose(
            "conv_transpose", 1, np.empty(forward.output_shape, F32), np.empty((1, 1, kernel), F32), None,
            stride, padding, left_over, 1, dilation,
        )[0]  # fmt: skip
        assert back.input_shape == forward.input_shape
        assert back.output_shape == forward.output_shape
        assert back.padding == ((padding, padding - left_over),)


def test_one_value_stands_for_all_axes():
    p = conv_of((9, 9, 9), (2, 2, 2), stride=2, padding=[1], dilation=np.array([1, 2, 3]))
    assert p.stride == (2, 2, 2)
    assert p.padding == ((1, 1),) * 3
    assert p.dilation == (1, 2, 3)


def test_counts_of_operations_and_bytes():
    p = conv_of((6, 7), (3, 2))
    assert p.flops == 2 * (4 * 6) * (3 * 2)
    assert p.bytes == 4 * (6 * 7 + 3 * 2 + 4 * 6)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda a: a[..., ::-1], lambda a: a.astype(">f4")])
def test_what_reaches_a_backend_is_contiguous_aligned_and_native(change):
    array = change(np.arange(24, dtype=F32).reshape(2, 3, 4))
    ready = rules.prepared(array, F32)
    assert ready.flags.c_contiguous
    assert ready.flags.aligned
    assert ready.dtype == F32
    np.testing.assert_array_equal(ready, array)


def test_what_is_ready_is_not_copied():
    array = np.zeros((2, 3), F32)
    assert rules.prepared(array, F32) is array


def test_a_misaligned_array_is_copied():
    array = np.zeros(17, np.uint8)[1:].view(F32)
    assert rules.prepared(array, F32).flags.aligned


def test_the_sentence_of_a_rejection():
    text = rejection("conv2d", "stride", (0, 1), "must be >= 1 in every dimension", x_shape=(1, 3, 32, 32))
    assert text == "conv2d: stride=(0, 1) must be >= 1 in every dimension (x_shape=(1, 3, 32, 32))"
    assert len(rejection("f", "a", "x" * 1000, "is long")) < 200


X, W, PLACES = np.ones((1, 2, 5, 5)), np.ones((2, 3, 3, 3)), np.zeros((1, 2, 5, 5), int)
OF_ANOTHER_SHAPE = {
    "must have 4 dimensions (C, K / groups": lambda: vc.conv_transpose2d(X, W[0]),
    "must not have an empty kernel axis": lambda: vc.conv_transpose2d(X, W[..., :0]),
    "must have 2 input channels": lambda: vc.conv_transpose2d(X, W[:1]),
    "must divide the input's channels (2)": lambda: vc.conv_transpose2d(X, W, groups=3),
    "must have shape (1, 3, 7, 7), the output's": lambda: vc.grad.conv_transpose2d_input(X.shape, W, X),
    "must have 3 dimensions (N, C * taps, positions)": lambda: vc.fold(X, (6, 6), 2),
    "must be a shape of 4 axes that starts with (1, 2)": lambda: vc.grad.max_pool2d_input(X, PLACES, (1, 3, 9, 9)),
    "must be smaller than the window (2, 2)": lambda: vc.max_unpool2d(X, PLACES, 2, padding=2),
    "leaves an output of size (0, 0)": lambda: vc.max_unpool2d(X[..., :1, :1], PLACES[..., :1, :1], 2, 1, padding=1),
    "must start with (1, 2) when it is a full shape": lambda: vc.max_unpool2d(X, PLACES, 2, output_size=(1, 3, 9, 9)),
    "must have 2 sizes, or 4 as a full shape": lambda: vc.max_unpool2d(X, PLACES, 2, output_size=(9,)),
}


@pytest.mark.parametrize("rule", OF_ANOTHER_SHAPE)
def test_shapes_that_do_not_belong_together(rule):
    with pytest.raises(ValueError, match=re.escape(rule)):
        OF_ANOTHER_SHAPE[rule]()
