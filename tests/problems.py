"""From a named case to the problem, the call and the reference's answer for each convolution operation."""

from __future__ import annotations

import math

import numpy as np

import oracle
import voxconv as vc
from voxconv import problem as rules


def problem_of(case, x, w):
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **case.options}
    return rules.conv("conv", case.rank, x, w, None, **defaults)[0]


def functions(rank):
    """The public functions of this rank: forward, and the gradients to input, weight and bias."""
    grads = (getattr(vc.grad, f"conv{rank}d_{kind}") for kind in ("input", "weight", "bias"))
    return getattr(vc, f"conv{rank}d"), *grads


def operands(case, fill, seed, dtype):
    """Problem, input, weight, bias and a gradient to the output."""
    x, w, b = case.arrays(fill, seed, dtype)
    problem = problem_of(case, x, w)
    return problem, x, w, b, fill(np.random.default_rng(seed + 1), problem.output_shape, dtype)


def limit(problem, operation, algorithm, x, w, b, gy):
    """Bound on each element's error."""
    p, name = problem, problem.dtype.name
    if algorithm.startswith("winograd"):
        return _winograd_limit(p, operation, algorithm, x, w, b, gy)
    x, w, b, gy = oracle.magnitudes(x, w, b, gy)
    if operation == "conv":
        return oracle.bound(oracle.conv(p, x, w, b), p.flops // max(2 * np.prod(p.output_shape), 1) + 1, name)
    if operation == "conv_input_grad":
        return oracle.bound(oracle.input_grad(p, gy, w), p.k // p.groups * int(np.prod(p.kernel)), name)
    return oracle.bound(oracle.weight_grad(p, x, gy), p.n * int(np.prod(p.output)), name)


WINOGRAD_UNITS, WIDE_WINOGRAD_UNITS = {"winograd": (150, 1), "winograd2": (25, 0.25)}, (2000, 8)
"""Roundings, in units of the patch's magnitude, that a Winograd result may be off by, of 3 taps and of more, and what
each term of the sums at its points adds; a gradient to the weight sums by chunks, whose terms add next to nothing."""


def _winograd_limit(p, operation, algorithm, x, w, b, gy):
    """The error of a tile follows the largest element of its patch, wherever in the patch it is.

    Taking the largest of the channel's plane in its place is looser, and needs no knowledge of where tiles begin.
    """
    least, each = WINOGRAD_UNITS[algorithm] if p.kernel[-1] == 3 else WIDE_WINOGRAD_UNITS
    channels = {"conv": p.c, "conv_input_grad": p.k, "conv_weight_grad": 0}[operation] // p.groups
    unit = (least + each * channels * math.prod(p.kernel[:-2])) * oracle.UNIT[p.dtype.name]
    x, w, b, gy = oracle.magnitudes(x, w, b, gy)
    axes = tuple(range(2, 2 + p.rank))
    source = {"conv": x, "conv_input_grad": gy, "conv_weight_grad": x}[operation]
    top = source.max(axis=axes, initial=0)  # (n, channels)
    total = w.sum(axis=axes).reshape(p.groups, p.k // p.groups, p.c // p.groups)
    grouped = top.reshape(p.n, p.groups, top.shape[1] // p.groups)
    spread = (..., *(None,) * p.rank)
    if operation == "conv":
        values = np.einsum("ngc,gkc->ngk", grouped, total).reshape(p.n, p.k)[spread]
        return unit * np.broadcast_to(values + b.reshape(-1, *(1,) * p.rank), p.output_shape)
    if operation == "conv_input_grad":
        values = np.einsum("ngk,gkc->ngc", grouped, total).reshape(p.n, p.c)[spread]
        return unit * np.broadcast_to(values, p.input_shape)
    sums = gy.sum(axis=axes).reshape(p.n, p.groups, p.k // p.groups)
    values = np.einsum("ngk,ngc->gkc", sums, grouped).reshape(p.k, p.c // p.groups)[spread]
    return unit * np.broadcast_to(values, p.weight_shape)
