"""Threads, versions and the instruction set in use."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from typing import Any

import numpy as np

from voxconv.backends import get_backend
from voxconv.problem import integer

__all__ = ["get_num_threads", "runtime_info", "set_num_threads"]


def _native() -> Any:
    """Import the native backend; None where its compiled library is missing."""
    try:
        return get_backend("native")
    except ImportError:
        return None


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, for the whole process.

    Results do not depend on it, bit for bit.

    Parameters
    ----------
    n : int
        At least 1; may exceed the default cap, which is the smallest of ``VOXCONV_NUM_THREADS``,
        ``OMP_NUM_THREADS``, the CPUs this process may run on and its cgroup quota.

    Raises
    ------
    ValueError, TypeError
        ``n`` is not an integer of at least 1.
    RuntimeError
        The compiled library is missing, whose threads they are.
    """
    threads = integer("set_num_threads", "n", n, 1)
    native = _native()
    if native is None:
        raise RuntimeError("set_num_threads: the compiled library is missing, whose threads they are")
    native.set_num_threads(threads)


def get_num_threads() -> int:
    """Tell how many threads a call may use.

    Returns
    -------
    int
        1 where the compiled library is missing.
    """
    native = _native()
    return 1 if native is None else int(native.get_num_threads())


def runtime_info() -> dict[str, Any]:
    """Describe what computes here: instruction sets, threads, versions.

    Returns
    -------
    dict
        What the native backend says of itself (instruction sets compiled, supported and used,
        vector lanes, threads and what caps them), ``native`` (whether it is there), and versions of
        ``voxconv``, ``python``, ``numpy``, ``cffi``, ``numba`` (None where not installed) and
        ``platform``.  All of it goes into ``json.dumps``.
    """
    from voxconv import __version__

    native = _native()
    return {
        **({} if native is None else native.info()),
        "native": native is not None,
        "voxconv": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cffi": _version("cffi"),
        "numba": _version("numba"),
        "platform": platform.platform(),
    }


def _version(package: str) -> str | None:
    if find_spec(package) is None:
        return None
    from importlib.metadata import version  # slow to import, and wanted here only

    return version(package)
