"""Bad inputs and hard ones, by the rows of the catalogue: each in a child process.

Letters: A geometry, B empty axes, D memory layout, E types, F values, L pool indices.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import oracle
import voxconv as vc
from cases import CONV, POOL
from catalogue import check, names, numbers, ones, run_check
from problems import limit, operands
from voxconv import problem as rules
from voxconv.backends import get_backend

BIG = 2**63 - 1
NAN = float("nan")


# --------------------------------------------------------------------------------------------------
# Rejections: the class, and a text that names function, argument and value


@dataclass(frozen=True)
class Refused:
    row: str
    error: type[BaseException]
    argument: str
    function: str
    arguments: dict[str, Any]


def conv(row, error, argument, x=(1, 3, 8, 8), w=(4, 3, 3, 3), rank=2, **options):
    arrays = {"input": ones(*x) if isinstance(x, tuple) else x, "weight": ones(*w) if isinstance(w, tuple) else w}
    return Refused(row, error, argument, f"conv{rank}d", {**arrays, **options})


def pool(row, error, argument, x=(1, 3, 8, 8), kernel=3, name="max_pool2d", **options):
    x = ones(*x) if isinstance(x, tuple) else x
    return Refused(row, error, argument, name, {"input": x, "kernel_size": kernel, **options})


def call(row, error, argument, function, **arguments):
    return Refused(row, error, argument, function, arguments)


REFUSED = [
    conv("A1", ValueError, "stride", stride=0),
    conv("A1", ValueError, "stride", stride=(1, 0)),
    pool("A1", ValueError, "stride", stride=0),
    conv("A2", ValueError, "stride", stride=-1),
    conv("A3", OverflowError, "stride", stride=2**63),
    conv("A3", OverflowError, "stride", stride=(1, 10**30)),
    conv("A3", OverflowError, "stride", stride=10**5000),
    conv("A4", ValueError, "dilation", dilation=0),
    conv("A4", ValueError, "dilation", dilation=(1, -2)),
    conv("A6", OverflowError, "dilation", dilation=BIG),
    pool("A6", OverflowError, "dilation", dilation=2**62 + 1),
    conv("A7", ValueError, "weight", x=(1, 3, 2, 2)),
    conv("A7", ValueError, "weight", x=(1, 3, 8, 8), dilation=4),
    pool("A7", ValueError, "kernel_size", kernel=9),
    pool("A7", ValueError, "kernel_size", x=(1, 3, 2, 2), kernel=4, stride=2, ceil_mode=True, name="avg_pool2d"),
    pool("A8", ValueError, "kernel_size", kernel=0),
    pool("A8", ValueError, "kernel_size", kernel=()),
    pool("A8", ValueError, "kernel_size", kernel=[]),
    conv("A9", ValueError, "weight", w=(4, 3, 0, 3)),
    conv("A10", ValueError, "groups", groups=0),
    conv("A10", ValueError, "groups", groups=-1),
    conv("A10", TypeError, "groups", groups=(1,)),
    conv("A11", ValueError, "groups", groups=2),
    conv("A11", ValueError, "groups", x=(1, 4, 8, 8), w=(3, 2, 3, 3), groups=2),
    conv("A12", ValueError, "weight", w=(4, 2, 3, 3)),
    conv("A12", ValueError, "weight", x=(1, 4, 8, 8), w=(4, 4, 3, 3), groups=2),
    conv("A13", ValueError, "bias", bias=ones(3)),
    conv("A13", ValueError, "bias", bias=ones(4, 1)),
    conv("A13", ValueError, "bias", bias=np.float32(1)),
    conv("A14", ValueError, "padding", padding=-1),
    conv("A14", ValueError, "padding", padding=((0, 0), (1, -1))),
    pool("A15", ValueError, "padding", padding=3),
    pool("A15", ValueError, "padding", padding=((0, 3), (0, 0)), name="avg_pool2d"),
    pool("A15", ValueError, "padding", x=(1, 1, 2, 2), kernel=2, stride=1, padding=2, dilation=3),
    conv("A16", OverflowError, "padding", padding=BIG),
    conv("A16", OverflowError, "padding", padding=BIG, stride=BIG),
    conv("A16", OverflowError, "output", padding=2**61),
    conv("A16", OverflowError, "padding", padding="same", dilation=2**62 - 1),
    pool("A16", ValueError, "padding", padding=2**61, stride=2**61),
    pool("A16", OverflowError, "kernel_size", x=(1, 1, 5), kernel=2, dilation=2**62,
         padding=((2**62, 0),), stride=2**62 + 3, ceil_mode=True, name="max_pool1d"),
    call("A16", OverflowError, "stride", "conv_transpose1d", input=ones(1, 1, 3), weight=ones(1, 1, 3), stride=2**62),
    call("A16", OverflowError, "dilation", "unfold", input=ones(1, 1, 3, 3), kernel_size=3, dilation=BIG),
    call("A16", ValueError, "kernel_size", "unfold", input=ones(1, 1, 3, 3), kernel_size=3, dilation=BIG // 2),
    call("A16", OverflowError, "columns", "unfold", input=ones(1, 1, 3, 3), kernel_size=3, padding=2**61),
    *(conv("A22", TypeError, "stride", stride=s) for s in (NAN, 1.0, 2.5, True, None, "1", np.float32(1))),
    *(conv("A22", TypeError, "stride", stride=s) for s in (np.bool_(True), np.array(1), (1, 2.0), (1, None), {1: 2})),
    *(conv("A22", TypeError, "padding", padding=p) for p in (None, 1.5, False, ((1, 1.0), (1, 1)), np.array(1))),
    *(conv("A22", TypeError, "groups", groups=g) for g in (1.0, None, True, "2")),
    pool("A22", TypeError, "kernel_size", kernel=None),
    pool("A22", TypeError, "kernel_size", kernel=float("inf")),
    pool("A22", TypeError, "ceil_mode", ceil_mode=1),
    pool("A22", TypeError, "return_indices", return_indices="yes"),
    pool("A22", TypeError, "count_include_pad", count_include_pad=0, name="avg_pool2d"),
    pool("A22", ValueError, "divisor_override", divisor_override=0, name="avg_pool2d"),
    pool("A22", TypeError, "divisor_override", divisor_override=2.0, name="avg_pool2d"),
    conv("A22", ValueError, "padding", padding="full"),
    conv("A22", ValueError, "activation", activation="gelu"),
    conv("A22", ValueError, "activation", activation="leaky_relu"),
    conv("A22", ValueError, "activation", activation=("leaky_relu", NAN)),
    conv("A22", ValueError, "activation", activation=("leaky_relu", 10**400)),
    conv("A22", TypeError, "activation", activation=("leaky_relu", "0.1")),
    conv("A22", ValueError, "activation", activation=ones(2)),
    conv("A22", ValueError, "backend", backend="cuda"),
    conv("A22", ValueError, "backend", backend=None),
    conv("A22", ValueError, "algorithm", algorithm="fft"),
    conv("A22", ValueError, "algorithm", algorithm=["direct"]),
    conv("A22", ValueError, "precision", precision="fast"),
    conv("A23", ValueError, "stride", stride=(1, 1, 1)),
    conv("A23", ValueError, "padding", padding=(1, 2, 3)),
    conv("A23", ValueError, "padding", x=(1, 3, 8), w=(4, 3, 3), rank=1, padding=(1, 2)),
    conv("A23", ValueError, "padding", padding=((1, 2),)),
    conv("A23", ValueError, "padding", padding=((1, 2), 1)),
    conv("A23", ValueError, "padding", padding=((1, 2, 3), (1, 2))),
    call("A23", TypeError, "padding", "conv_transpose2d", input=ones(1, 1, 3, 3), weight=ones(1, 1, 3, 3),
         padding=((0, 1), (0, 1))),
    call("A23", TypeError, "padding", "conv_transpose2d", input=ones(1, 1, 3, 3), weight=ones(1, 1, 3, 3),
         padding="same"),
    call("A23", ValueError, "output_padding", "conv_transpose2d", input=ones(1, 1, 3, 3), weight=ones(1, 1, 3, 3),
         stride=2, output_padding=2),
    call("A23", ValueError, "padding", "conv_transpose2d", input=ones(1, 1, 3, 3), weight=ones(1, 1, 3, 3),
         padding=3),
    conv("A24", ValueError, "input", x=(8, 8)),
    conv("A24", ValueError, "input", x=(1, 1, 3, 8, 8)),
    conv("A24", ValueError, "weight", w=(4, 3, 3)),
    conv("B1", ValueError, "weight", x=(0, 3, 2, 2)),
    pool("B5", ValueError, "input", x=(1, 0, 8, 8)),
    call("B5", ValueError, "input", "unfold", input=ones(1, 0, 3, 3), kernel_size=3),
    conv("B7", ValueError, "input", x=(1, 3, 0, 8), padding=2),
    pool("B7", ValueError, "input", x=(1, 3, 8, 0), padding=1),
    call("B10", OverflowError, "input_size", "grad.conv2d_input", input_size=(0, 1, 2**40, 2**40),
         weight=ones(1, 1, 1, 1), grad_output=ones(0, 1, 4, 4), stride=2**38),
    call("B10", OverflowError, "input_size", "grad.max_pool1d_input", grad_output=ones(1, 1, 1),
         indices=np.zeros((1, 1, 1), int), input_size=(1, 1, 2**62)),
    call("C6", MemoryError, "output", "grad.max_pool1d_input", grad_output=ones(1, 1, 1),
         indices=np.zeros((1, 1, 1), int), input_size=(1, 1, 2**60)),
    conv("D5", ValueError, "out", out=np.broadcast_to(np.float32(0), (1, 4, 6, 6))),
    conv("D10", ValueError, "out", out=np.frombuffer(bytes(4 * 144), "f4").reshape(1, 4, 6, 6)),
    conv("D13", ValueError, "out", out=ones(1, 4, 8, 8)),
    conv("D13", TypeError, "out", out=ones(1, 4, 6, 6, dtype="f8")),
    conv("D13", TypeError, "out", out=ones(1, 4, 6, 6, dtype=">f4")),
    conv("D13", TypeError, "out", out=[0]),
    pool("D13", TypeError, "out", out=ones(1, 3, 2, 2), return_indices=True),
    pool("D13", TypeError, "out[1]", out=(ones(1, 3, 2, 2), ones(1, 3, 2, 2)), return_indices=True),
    conv("D7", ValueError, "out", out=np.zeros(4 * 144 + 1, "u1")[1:].view("f4").reshape(1, 4, 6, 6)),
    conv("E1", TypeError, "weight", w=ones(4, 3, 3, 3, dtype="f8")),
    conv("E1", TypeError, "bias", bias=ones(4, dtype="f8")),
    *(
        conv("E2", TypeError, "input", x=ones(1, 3, 8, 8).astype(kind))
        for kind in ("c8", "?", "O", "U1", "M8[s]", "m8[s]", "V4", np.longdouble, [("a", "f4")])
    ),
    *(conv("E3", TypeError, "weight", w=ones(4, 3, 3, 3, dtype=kind)) for kind in ("i4", "u1", "?")),
    *(conv("E4", TypeError, "input", x=value) for value in (None, "x", b"x", object())),
    conv("E4", ValueError, "input", x=3),
    conv("E4", TypeError, "weight", w=[[[[1.0]]]] * 4, x=ones(1, 1, 8, 8)),
    conv("E5", TypeError, "input", x=np.ma.masked_array(ones(1, 3, 8, 8))),
    conv("E8", ValueError, "input", x=np.float32(1)),
    conv("E8", ValueError, "weight", w=np.array(1, "f4")),
    call("L1", ValueError, "indices", "grad.max_pool2d_input", grad_output=ones(1, 1, 2, 2),
         indices=np.zeros((1, 1, 2, 3), int), input_size=(1, 1, 4, 4)),
    call("L1", ValueError, "grad_output", "grad.avg_pool2d_input", grad_output=ones(1, 1, 2, 2),
         input_size=(1, 1, 6, 6), kernel_size=2),
    call("L1", ValueError, "grad_output", "grad.conv2d_input", input_size=(1, 3, 8, 8), weight=ones(4, 3, 3, 3),
         grad_output=ones(1, 4, 7, 6)),
    call("L1", ValueError, "grad_output", "grad.conv2d_weight", input=ones(1, 3, 8, 8), weight_size=(4, 3, 3, 3),
         grad_output=ones(2, 4, 6, 6)),
    *(
        call(row, ValueError, "indices", "grad.max_pool2d_input", grad_output=ones(1, 1, rows, 2),
             indices=np.array([[[[1, 3], [8, at]][-rows:]]]), input_size=(1, 1, 4, 4))
        for row, at in (("L2", -1), ("L2", 16), ("L3", 2**32 + 10), ("L2", BIG))
        for rows in (1, 2)
    ),
    call("L2", ValueError, "indices", "max_unpool1d", input=ones(1, 1, 2), indices=np.array([[[0, 4]]]), kernel_size=2),
    *(
        call("E7", TypeError, "indices", "grad.max_pool2d_input", grad_output=ones(1, 1, 1, 1),
             indices=np.zeros((1, 1, 1, 1), kind), input_size=(1, 1, 4, 4))
        for kind in ("i4", "u8", "f8", "?")
    ),
    call("L4", ValueError, "input_size", "grad.conv2d_input", input_size=(3, 8), weight=ones(4, 3, 3, 3),
         grad_output=ones(1, 4, 6, 6)),
    call("L4", TypeError, "input_size", "grad.conv2d_input", input_size=8, weight=ones(4, 3, 3, 3),
         grad_output=ones(1, 4, 6, 6)),
    call("L4", ValueError, "output_size", "max_unpool1d", input=ones(1, 1, 2), indices=np.zeros((1, 1, 2), int),
         kernel_size=2, output_size=(9,)),
    call("L4", ValueError, "input", "fold", input=ones(1, 5, 4), output_size=4, kernel_size=2),
    call("L4", ValueError, "input", "fold", input=ones(1, 4, 4), output_size=4, kernel_size=2),
    call("I8", ValueError, "n", "set_num_threads", n=0),
    call("I8", TypeError, "n", "set_num_threads", n=1.0),
    call("I8", TypeError, "n", "set_num_threads", n=[2]),
]  # fmt: skip


def refuse(index):
    """Make the call; the text of what it raises, or None."""
    row = REFUSED[index]
    function = vc
    for part in row.function.split("."):
        function = getattr(function, part)
    try:
        function(**row.arguments)
    except row.error as error:
        return str(error)
    return None


@pytest.mark.parametrize("index", range(len(REFUSED)), ids=[f"{r.row}-{r.function}-{r.argument}" for r in REFUSED])
def test_refused(index, child):
    row = REFUSED[index]
    text = child.run(refuse, index)
    assert text is not None, f"{row.function} accepted {row.arguments}"
    assert text.startswith(f"{row.function.removeprefix('grad.')}: ")
    assert re.search(rf"(?<!\w){re.escape(row.argument)}", text)


# --------------------------------------------------------------------------------------------------
# Hard but legitimate: each check runs in the child and raises where it fails


def convolve(case, backend, x, w, b, algorithm="auto"):
    return getattr(vc, f"conv{case.rank}d")(x, w, b, **case.options, backend=backend, algorithm=algorithm)


@check("A3")
def a3_huge_strides(backend):
    x, w = numbers(1, 2, 5, 5), numbers(3, 2, 3, 3)
    for stride in (2**31, 2**32 + 1, BIG):
        y = vc.conv2d(x, w, stride=stride, backend=backend)
        oracle.assert_same_bits(y, vc.conv2d(x, w, stride=3, backend=backend))
        assert vc.grad.conv2d_input(x.shape, w, y, stride=stride, backend=backend).shape == x.shape
        assert vc.grad.conv2d_weight(x, w.shape, y, stride=stride, backend=backend).shape == w.shape
        assert vc.max_pool2d(x, 2, stride=stride, backend=backend).shape == (1, 2, 1, 1)
        assert vc.avg_pool2d(x, 2, stride=stride, backend=backend).shape == (1, 2, 1, 1)


@check("A5")
def a5_dilation_of_one_tap(backend):
    x, w = numbers(1, 2, 5, 5), numbers(3, 2, 1, 1)
    oracle.assert_same_bits(vc.conv2d(x, w, dilation=BIG, backend=backend), vc.conv2d(x, w, backend=backend))
    oracle.assert_same_bits(vc.max_pool2d(x, 1, dilation=BIG, backend=backend), x)


@check("A16")
def a16_padding_and_stride_near_the_limit(backend):
    x, w = numbers(1, 1, 4), numbers(1, 1, 2)
    y = vc.conv1d(x, w, stride=2**61, padding=2**61, backend=backend)
    assert y.shape == (1, 1, 3)
    oracle.assert_equal(y, np.array([[[0, x[0, 0, :2] @ w[0, 0], 0]]]))


@check("A15")
def a15_a_window_of_many_taps_in_padding(backend):
    wide = 2**40
    x = numbers(1, 1, 5)
    y, at = vc.max_pool1d(x, wide, padding=wide - 1, return_indices=True, backend=backend)
    oracle.assert_equal(y, np.array([[[x[0, 0, 0], x[0, 0, 1:].max()]]]))
    np.testing.assert_array_equal(at, [[[0, 1 + x[0, 0, 1:].argmax()]]])
    ends = vc.avg_pool1d(x, wide, padding=wide - 1, divisor_override=1, backend=backend)
    np.testing.assert_allclose(ends, [[[x[0, 0, 0], x[0, 0, 1:].sum()]]], rtol=1e-5)


@check("A20")
def a20_lengths_beyond_the_mantissa_of_float32(backend):
    size = 2**24 + 3
    assert vc.plan_conv1d((1, 1, size), numbers(1, 1, 2), stride=2, backend=backend).problem.output == (2**23 + 1,)


@check("A22")
def a22_numpy_integers_are_integers(backend):
    x, w = numbers(1, 4, 7, 7), numbers(6, 2, 3, 3)
    odd = vc.conv2d(
        x, w, stride=np.int64(2), padding=np.array([1, 0]), dilation=[np.uint8(1), 1], groups=np.int32(2),
        backend=backend,
    )  # fmt: skip
    oracle.assert_same_bits(odd, vc.conv2d(x, w, stride=2, padding=(1, 0), groups=2, backend=backend))


@check("A25")
def a25_kernels_larger_than_the_image(backend):
    x, w = numbers(1, 2, 3, 4), numbers(3, 2, 7, 7)
    y = vc.conv2d(x, w, padding=6, backend=backend)
    bordered = np.pad(x, ((0, 0), (0, 0), (6, 6), (6, 6)))
    np.testing.assert_allclose(y, vc.conv2d(bordered, w, backend="reference"), rtol=1e-4, atol=1e-4)
    assert vc.conv2d(x, w, padding="same", backend=backend).shape == (1, 3, 3, 4)


@check("B1", "B2", "B3", "B4", "B5", "B6")
def b_nothing_in_an_axis(backend):
    w, b = numbers(4, 3, 3, 3), numbers(4)
    empty = np.zeros((0, 3, 6, 7), np.float32)
    assert vc.conv2d(empty, w, b, backend=backend).shape == (0, 4, 4, 5)
    assert vc.conv2d(empty.transpose(0, 1, 3, 2), w, b, backend=backend).shape == (0, 4, 5, 4)
    gy = np.zeros((0, 4, 4, 5), np.float32)
    out = np.full(w.shape, np.nan, np.float32)
    oracle.assert_equal(vc.grad.conv2d_weight(empty, w.shape, gy, out=out, backend=backend), np.zeros(w.shape))
    assert vc.grad.conv2d_input(empty.shape, w, gy, backend=backend).shape == empty.shape
    out = np.full(4, np.nan, np.float32)
    oracle.assert_equal(vc.grad.conv2d_bias(gy, out=out, backend=backend), np.zeros(4))
    bare = vc.conv2d(np.zeros((2, 0, 6, 7), "f4"), np.zeros((4, 0, 3, 3), "f4"), b, backend=backend)
    oracle.assert_same_bits(bare, np.broadcast_to(b.reshape(4, 1, 1), (2, 4, 4, 5)).copy())
    assert vc.conv2d(numbers(2, 3, 6, 7), np.zeros((0, 3, 3, 3), "f4"), backend=backend).shape == (2, 0, 4, 5)
    none = np.zeros((0, 3, 1, 1), np.float32)
    assert vc.max_pool2d(empty, 2, backend=backend).shape == (0, 3, 3, 3)
    assert vc.grad.max_pool2d_input(none, none.astype(int), (0, 3, 2, 2), backend=backend).shape == (0, 3, 2, 2)


@check("B2")
def b2_no_samples_in_any_algorithm(backend):
    """Winograd's sums begin with the first sample's; without one they are zero all the same."""
    empty, gy = np.zeros((0, 5, 11, 9), np.float32), np.zeros((0, 7, 11, 9), np.float32)
    for algorithm in set(get_backend(backend).algorithms) - {"depthwise", "winograd2"}:  # which dw has not
        out = np.full((7, 5, 3, 3), np.nan, np.float32)
        vc.grad.conv2d_weight(empty, out.shape, gy, padding=1, out=out, backend=backend, algorithm=algorithm)
        assert not out.any()


@check("A5")
def a5_dilation_of_one_row_in_any_algorithm(backend):
    x, w = numbers(1, 5, 11, 9), numbers(2, 5, 1, 3)
    for algorithm in set(get_backend(backend).algorithms) - {"depthwise"}:
        y, plain = (vc.conv2d(x, w, dilation=(d, 1), backend=backend, algorithm=algorithm) for d in (2, 1))
        oracle.assert_same_bits(y, plain)


@check("B8")
def b8_single_elements(backend):
    for shape in ((1, 1, 1, 1), (1, 1, 1, 9), (1, 1, 9, 1)):
        x, w = numbers(*shape), numbers(1, 1, 1, 1)
        oracle.assert_same_bits(vc.conv2d(x, w, backend=backend), x * w)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "channels-last": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1),
    "negative": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "every-second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "channel-slice": lambda a: np.concatenate([a, a, a], axis=1)[:, a.shape[1] : 2 * a.shape[1]],
    "misaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), "u1")[1:].view(a.dtype).reshape(a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    **{f"offset-{i}": (lambda a, i=i: _offset(a, i)) for i in range(1, 16)},
}  # fmt: skip


def _offset(array, elements):
    room = np.empty(array.size + elements, array.dtype)
    room[elements:] = array.ravel()
    return room[elements:].reshape(array.shape)


@check("D1", "D2", "D3", "D4", "D6", "D7", "D8", "D11")
def d_any_layout_gives_the_same_bits(backend):
    x, w, gy = numbers(2, 5, 7, 19), numbers(6, 5, 3, 3), numbers(2, 6, 7, 19)
    at = vc.max_pool2d(x, 3, 1, 1, return_indices=True, backend=backend)[1]
    runs = {
        "forward": (lambda x, w: vc.conv2d(x, w, padding=1, backend=backend), x, w),
        "input": (lambda w, gy: vc.grad.conv2d_input(x.shape, w, gy, padding=1, backend=backend), w, gy),
        "weight": (lambda x, gy: vc.grad.conv2d_weight(x, w.shape, gy, padding=1, backend=backend), x, gy),
        "max_pool": (lambda x: vc.max_pool2d(x, 3, 1, 1, backend=backend), x),
        "max_pool_grad": (lambda gx, at: vc.grad.max_pool2d_input(gx, at, x.shape, backend=backend), x, at),
        "avg_pool": (lambda x: vc.avg_pool2d(x, 3, 1, 1, backend=backend), x),
        "unfold": (lambda x: vc.unfold(x, 3, backend=backend), x),
        "bias": (lambda gy: vc.grad.conv2d_bias(gy, backend=backend), gy),
    }
    for run, *arrays in runs.values():
        expected = run(*arrays)
        for layout in LAYOUTS.values():
            for i, array in enumerate(arrays):
                laid = layout(array)
                np.testing.assert_array_equal(laid, array)
                oracle.assert_same_bits(run(*arrays[:i], laid, *arrays[i + 1 :]), expected)


@check("D5", "D14")
def d5_d14_inputs_whose_elements_share_memory(backend):
    w = np.broadcast_to(np.float32(0.5), (4, 3, 3, 3))
    x = np.lib.stride_tricks.as_strided(numbers(40), (2, 3, 6, 7), (4, 8, 12, 4))
    oracle.assert_same_bits(vc.conv2d(x, w, backend=backend), vc.conv2d(x.copy(), w.copy(), backend=backend))


@check("D9")
def d9_read_only_inputs_stay_so(backend):
    x = np.frombuffer(numbers(2, 3, 6, 6).tobytes(), "f4").reshape(2, 3, 6, 6)
    vc.conv2d(x, numbers(4, 3, 3, 3), backend=backend)
    assert not x.flags.writeable


@check("D12")
def d12_out_may_overlap_an_input(backend):
    x, w = numbers(1, 3, 6, 6), numbers(3, 3, 3, 3)
    expected = vc.conv2d(x, w, padding=1, backend=backend)
    same = x.copy()
    assert vc.conv2d(same, w, padding=1, out=same, backend=backend) is same
    oracle.assert_same_bits(same, expected)
    room = np.zeros(x.size + 7, np.float32)
    room[7:] = x.ravel()
    shifted = vc.conv2d(room[7:].reshape(x.shape), w, padding=1, out=room[:-7].reshape(x.shape), backend=backend)
    oracle.assert_same_bits(shifted, expected)
    pooled = vc.max_pool2d(same, 3, 1, 1, backend=backend)
    oracle.assert_same_bits(vc.max_pool2d(same, 3, 1, 1, out=same, backend=backend), pooled)
    room = np.zeros(2 * pooled.size, np.int64)
    at = room[: pooled.size].reshape(pooled.shape)
    values = room.view(np.float64)[: pooled.size].reshape(pooled.shape)
    wide = x.astype(np.float64)
    expected = vc.max_pool2d(wide, 3, 1, 1, return_indices=True, backend=backend)
    vc.max_pool2d(wide, 3, 1, 1, return_indices=True, out=(values, at), backend=backend)
    oracle.assert_same_bits(at, expected[1])  # the last one written has the memory that both were given


@check("D13")
def d13_out_may_have_any_layout(backend):
    x, w = numbers(2, 3, 6, 7), numbers(4, 3, 3, 3)
    expected = vc.conv2d(x, w, backend=backend)
    room = np.full((2, 4, 5, 11), 7, np.float32).transpose(0, 1, 2, 3)[:, :, :4, ::2][..., :5]
    out = vc.conv2d(x, w, out=room, backend=backend)
    assert out is room
    oracle.assert_same_bits(np.ascontiguousarray(out), expected)
    assert (room.base[:, :, 4] == 7).all()
    assert (room.base[..., 1::2] == 7).all()


PAGE = mmap.PAGESIZE


def guarded(array, at_end):
    """A copy whose memory ends (or begins) at a page that must not be touched."""
    room = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for guard in (address, address + PAGE + room):
        assert libc.mprotect(guard, PAGE, 0) == 0
    start = PAGE + (room - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


GUARDED = [c for c in CONV if c.n * c.c * c.k and not c.name.startswith("1d-width")]


@check("D16")
def d16_no_byte_outside_the_arrays(backend):
    module = get_backend(backend)
    for case, at_end in [(c, e) for c in GUARDED for e in (False, True)]:
        p, x, w, b, gy = operands(case, oracle.integers, 42, "float32")
        gx, gw, gb = np.zeros_like(x), np.zeros_like(w), np.zeros_like(b)
        x, w, b, gy, y, gx, gw, gb = (guarded(a, at_end) for a in (x, w, b, gy, gy, gx, gw, gb))
        for algorithm in module.algorithms:
            if module.refusal(p, "conv", algorithm, asked=True) is None:
                module.conv(p, algorithm, x, module.pack(p, "conv", algorithm, w), b, y)
            if module.refusal(p, "conv_input_grad", algorithm, asked=True) is None:
                packed = module.pack(p, "conv_input_grad", algorithm, w)
                module.conv_input_grad(p, algorithm, gy, packed, None, gx)
            if module.refusal(p, "conv_weight_grad", algorithm, asked=True) is None:
                module.conv_weight_grad(p, algorithm, x, gy, gw)
        module.conv_bias_grad(gy, gb)


@check("D16")
def d16_no_byte_outside_the_arrays_of_pools(backend):
    for case, at_end in [(c, e) for c in POOL if c.n for e in (False, True)]:
        x = guarded(case.array(oracle.integers, 43, "float32"), at_end)
        pools = {name: getattr(vc, f"{name}{case.rank}d") for name in ("max_pool", "avg_pool")}
        y, at = pools["max_pool"](x, case.kernel, **case.options, return_indices=True, backend=backend)
        y, at = guarded(y, at_end), guarded(at, at_end)
        options = {**case.options, "backend": backend}
        pools["max_pool"](x, case.kernel, **options, return_indices=True, out=(y, at))
        pools["avg_pool"](x, case.kernel, **options, out=y)
        getattr(vc.grad, f"max_pool{case.rank}d_input")(y, at, x.shape, out=x, backend=backend)
        getattr(vc.grad, f"avg_pool{case.rank}d_input")(y, x.shape, case.kernel, **options, out=x)


@check("E2")
def e2_float16_widens(backend):
    x, w = numbers(1, 2, 5, 5, dtype="f2"), numbers(3, 2, 3, 3, dtype="f2")
    y = vc.conv2d(x, w, backend=backend)
    oracle.assert_same_bits(y, vc.conv2d(x.astype("f4"), w.astype("f4"), backend=backend))
    assert vc.max_pool2d(x, 2, backend=backend).dtype == np.float32


@check("E4")
def e4_lists_are_arrays(backend):
    x, w = [[[1, 2, 3]]], [[[1.0, 0.5]]]
    oracle.assert_same_bits(vc.conv1d(x, w, backend=backend), np.array([[[2.0, 3.5]]]))


@check("E5")
def e5_subclasses_give_plain_arrays(backend):
    class Tagged(np.ndarray):
        pass

    x = numbers(1, 2, 5, 5).view(Tagged)
    assert type(vc.conv2d(x, numbers(3, 2, 3, 3), backend=backend)) is np.ndarray
    assert type(vc.max_pool2d(x, 2, backend=backend)) is np.ndarray


@check("E6")
def e6_objects_that_refuse_to_be_arrays(backend):
    class Bad:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        vc.conv2d(Bad(), numbers(3, 2, 3, 3), backend=backend)


@check("F6")
def f6_padding_contributes_nothing(backend):
    w = np.full((2, 1, 3, 3), np.inf, np.float32)
    y = vc.conv2d(np.ones((1, 1, 4, 17), "f4"), w, padding=1, backend=backend)
    assert np.isposinf(y).all()
    gx = vc.grad.conv2d_input((1, 1, 4, 17), w, np.ones_like(y), padding=1, backend=backend)
    assert np.isposinf(gx).all()


@check("F7", "F17")
def f7_bad_values_reach_the_windows_that_see_them(backend):
    module = get_backend(backend)
    chosen = {"3x3-winograd-size", "3x3-stride-2", "1x1-odd", "depthwise", "3d-winograd-size", "5x5", "1d-dilated"}
    for case in (c for c in CONV if c.name in chosen):
        p, x, w, b, gy = operands(case, oracle.integers, 44, "float32")
        clean, clean_gy = x.copy(), gy.copy()
        for array, count in ((x, 3), (gy, 3)):
            rng = np.random.default_rng(45)
            for value in (np.nan, np.inf, -np.inf)[:count]:
                array[tuple(rng.integers(0, size) for size in array.shape)] = value
        with np.errstate(invalid="ignore"):
            expected = oracle.conv(p, *oracle.wide(x, w, b))
            expected_gx = oracle.input_grad(p, *oracle.wide(gy, w))
        for algorithm in module.algorithms:
            if module.refusal(p, "conv", algorithm, asked=True) is None:
                y = convolve(case, backend, x, w, b, algorithm)
                _assert_same_class(y, expected, limit(p, "conv", algorithm, clean, w, b, gy))
            if module.refusal(p, "conv_input_grad", algorithm, asked=True) is None:
                gx = getattr(vc.grad, f"conv{case.rank}d_input")(
                    x.shape, w, gy, **case.options, backend=backend, algorithm=algorithm
                )
                _assert_same_class(gx, expected_gx, limit(p, "conv_input_grad", algorithm, x, w, b, clean_gy))


def _assert_same_class(actual, expected, allowed):
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite].astype(actual.dtype))
    oracle.assert_within(actual[finite], expected[finite], allowed[finite])


@check("F8")
def f8_denormals_count(backend):
    x = np.full((1, 3, 9, 9), 2.0**-140, np.float32)
    w = np.ones((4, 3, 3, 3), np.float32)
    if backend == "native":
        vc.set_num_threads(2)
    y = vc.conv2d(x, w, backend=backend, precision="strict")
    np.testing.assert_array_equal(y, np.float32(27 * 2.0**-140))


class FloatingPoint:
    """The C library's view of the floating-point environment."""

    libm = ctypes.CDLL(None)
    x86 = platform.machine() == "x86_64"
    trouble = 0x1 | (0x4 if x86 else 0x2)  # invalid, division by zero
    downward = 0x400 if x86 else 0x800000

    @classmethod
    def control(cls):
        """Rounding, masks and flush bits; not the sticky flags."""
        buffer = (ctypes.c_uint32 * 16)()
        cls.libm.fegetenv(buffer)
        return buffer[7] & ~0x3F if cls.x86 else buffer[0]

    @classmethod
    @contextlib.contextmanager
    def rounding_down(cls):
        cls.libm.fesetround(cls.downward)
        try:
            yield
        finally:
            cls.libm.fesetround(0)


def everything(backend):
    x, w = numbers(2, 8, 12, 13), numbers(8, 8, 3, 3)
    y = vc.conv2d(x, w, padding=1, backend=backend)
    vc.grad.conv2d_input(x.shape, w, y, padding=1, backend=backend)
    vc.grad.conv2d_weight(x, w.shape, y, padding=1, backend=backend)
    pooled, at = vc.max_pool2d(x, 3, 2, 1, return_indices=True, backend=backend)
    vc.grad.max_pool2d_input(pooled, at, x.shape, backend=backend)
    vc.avg_pool2d(x, 3, 2, 1, backend=backend)


@check("F9")
def f9_the_floating_point_environment_stays(backend):
    before = FloatingPoint.control()
    everything(backend)
    assert FloatingPoint.control() == before
    assert 2.0**-1060 * 0.5 != 0


@check("F10")
def f10_another_rounding_mode_is_survived(backend):
    case = next(c for c in CONV if c.name == "5x5")
    p, x, w, b, gy = operands(case, oracle.floats, 46, "float32")
    convolve(case, backend, x, w, b)  # compiled in the usual mode
    with FloatingPoint.rounding_down():
        y = convolve(case, backend, x, w, b)
    expected = oracle.conv(p, *oracle.wide(x, w, b))
    oracle.assert_within(y, expected, 2 * limit(p, "conv", "direct", x, w, b, gy))


@check("F11")
def f11_no_flags_of_trouble(backend):
    everything(backend)
    FloatingPoint.libm.feclearexcept(FloatingPoint.trouble)
    everything(backend)
    assert FloatingPoint.libm.fetestexcept(FloatingPoint.trouble) == 0


@check("F12")
def f12_signalling_nans_come_out_quiet(backend):
    x = np.zeros((1, 1, 5, 5), np.float32)
    x.view(np.uint32)[0, 0, 2, 2] = 0x7F800001
    y = vc.conv2d(x, np.ones((1, 1, 3, 3), "f4"), backend=backend)
    assert np.isnan(y).all()
    assert (y.view(np.uint32) & 0x400000).all()


@check("F13")
def f13_sums_that_overflow(backend):
    x = np.full((1, 4, 5, 5), 3e38, np.float32)
    y = vc.conv2d(x, np.ones((2, 4, 3, 3), "f4"), backend=backend)
    assert np.isposinf(y).all()


@check("F14")
def f14_cancellation_keeps_the_bound(backend):
    module = get_backend(backend)
    case = next(c for c in CONV if c.name == "3x3-winograd-size")
    p, x, w, b, gy = operands(case, oracle.integers, 47, "float32")
    x = np.where(np.random.default_rng(48).random(x.shape) < 0.02, np.float32(1e8), x * np.float32(1e-8))
    expected = oracle.conv(p, *oracle.wide(x, w, b))
    for algorithm in module.algorithms:
        if module.refusal(p, "conv", algorithm, asked=True) is None:
            y = convolve(case, backend, x, w, b, algorithm)
            oracle.assert_within(y, expected, limit(p, "conv", algorithm, x, w, b, gy))


@check("L5")
def l5_overlapping_windows_add_in_order(backend):
    values = np.array([[[1e8, 1, -1e8, 1]]], np.float32)
    gx = vc.grad.max_pool1d_input(values, np.zeros((1, 1, 4), int), (1, 1, 6), backend=backend)
    exact = {"reference": 2, "numba": 1, "native": 1}  # the reference sums in float64
    assert gx[0, 0, 0] == exact[backend]


@names(__name__)
def test_hard_but_legitimate(name, backend, child):
    child.run(run_check, __name__, name, backend)


def touch_outside(at_end):
    array = guarded(np.zeros(8, np.float32), at_end)
    ctypes.memmove(array.ctypes.data + (32 if at_end else -4), b"\0\0\0\0", 4)


@pytest.mark.parametrize("at_end", [False, True])
def test_the_guard_is_live(at_end, child):
    with pytest.raises(pytest.fail.Exception, match="died"):
        child.run(touch_outside, at_end)


def test_problem_counts_windows_as_a_walk_does():
    """The closed form that finds windows without an element, against looking at each one."""
    rng = np.random.default_rng(49)
    for _ in range(3000):
        size, taps, step, gap = (int(rng.integers(1, top)) for top in (8, 5, 7, 9))
        extent = (taps - 1) * gap + 1
        before, after = (int(v) for v in rng.integers(0, extent, 2))
        count = (size + before + after - extent) // step + 1
        if count < 1:
            continue
        seen = all(any(0 <= i * step - before + t * gap < size for t in range(taps)) for i in range(count))
        with contextlib.nullcontext() if seen else pytest.raises(ValueError, match="without an element"):
            rules.window_geometry(
                "pool", (1, 1, size), taps, step, ((before, after),), gap, False, np.dtype("f4")
            )
