"""Fixtures: backends, and pairs of backend and algorithm that can do a case."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from isolation import Child
from voxconv.backends import NAMES, get_backend


def installed():
    """Backends to test: all but Numba where it is not installed, or those that the environment lists.

    The compiled one is never left out on its own: where it is missing, its tests fail.
    """
    asked = os.environ.get("VOXCONV_TEST_BACKENDS")
    if asked:
        return asked.split(",")
    return [name for name in NAMES if name != "numba" or find_spec("numba")]


@pytest.fixture(params=installed())
def backend(request):
    return request.param


@pytest.fixture
def algorithms(backend):
    """Every algorithm of the backend that can do a problem."""

    def capable(problem, operation):
        module = get_backend(backend)
        return [a for a in module.algorithms if module.refusal(problem, operation, a, asked=True) is None]

    return capable


@pytest.fixture(scope="session")
def child():
    process = Child()
    yield process
    process.close()
