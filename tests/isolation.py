"""Runs checks in a child process, so that a signal or a hang is a failed test and not a dead suite."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

LIMIT = 900
"""Seconds after which what does not come back counts as hung: far above what any test takes where others want the
processor as well, since one that waits for its turn is slow and not hung."""


def _limited(function, arguments):
    signal.alarm(LIMIT)
    try:
        return function(*arguments)
    finally:
        signal.alarm(0)


class Child:
    """One child, replaced when it dies."""

    def __init__(self):
        self.pool = None

    def run(self, function, *arguments):
        """Call a module-level function there; what it returns or raises comes back."""
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            return self.pool.submit(_limited, function, arguments).result()
        except BrokenProcessPool:
            self.close()
            pytest.fail(f"the process died or hung in {function.__name__}{arguments}")

    def close(self):
        if self.pool is not None:
            self.pool.shutdown()
            self.pool = None
