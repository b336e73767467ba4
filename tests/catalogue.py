"""The catalogue of bad inputs and faults: which rows there are, and the checks that stand for them."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

SIZES = dict(zip("ABCDEFGHIJKLM", (25, 10, 11, 16, 8, 17, 9, 8, 19, 9, 10, 5, 9), strict=True))
"""Letters: A geometry, B empty axes, C huge sizes, D memory layout, E types, F values, G shapes of kernels' paths,
H memory faults, I threads, processes and signals, J processors, K Numba, L pool indices, M build and wheel."""

ROWS = [f"{letter}{number}" for letter, count in SIZES.items() for number in range(1, count + 1)]

CHECKS = {}
"""By module: the checks of that module by name."""


def check(*rows):
    """Register a function of a backend's name, which raises where it fails, for some rows."""
    assert set(rows) <= set(ROWS)

    def register(function):
        function.rows = rows
        CHECKS.setdefault(function.__module__, {})[function.__name__] = function
        return function

    return register


def run_check(module, name, *arguments):
    """Run one in a child process."""
    importlib.import_module(module)
    CHECKS[module][name](*arguments)


def names(module):
    """Parameters for a test that runs each check of a module."""
    return pytest.mark.parametrize("name", [pytest.param(n, id=n) for n in CHECKS[module]])


def numbers(*shape, seed=41, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def ones(*shape, dtype="float32"):
    return np.ones(shape, dtype)
