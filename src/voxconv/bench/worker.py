"""Processes in which contenders run: pinned, with their threads capped, stopped while it is not their turn.

The parent and its workers exchange (method, arguments) and (result, error) over a socket; standard
output stays out of it, since some libraries write there.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from voxconv import machine
from voxconv.bench.layers import Layer
from voxconv.bench.ours import Ours
from voxconv.bench.peers import Peer
from voxconv.bench.peers import peer as peer_named
from voxconv.bench.task import Contender, Task, Unsupported, wrong

__all__ = ["Worker", "Workshop", "contender"]

SAMPLE_SECONDS = 1e-3
"""A turn repeats a short call until it takes about this long."""

COPY_LIMIT = 64 << 20
"""Bytes that the copy probe moves at most."""


def contender(name: str) -> Contender:
    """The contender of this name: a peer, or a backend, after a dash an algorithm, a precision, "plain" or "taps"."""
    from voxconv.plan import ALGORITHMS, BACKENDS, PRECISIONS

    backend, _, algorithm = name.partition("-")
    if backend in BACKENDS and backend != "auto":
        if algorithm in PRECISIONS[1:]:
            return Ours(backend, precision=algorithm)
        if algorithm == "plain":
            return Ours(backend, planned=False)
        if algorithm == "taps":
            return Ours(backend, taps=True)
        if algorithm and algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm {algorithm!r} does not exist; there are {', '.join(ALGORITHMS)}")
        return Ours(backend, algorithm or "auto")
    return peer_named(name)


def escaped() -> str | None:
    """Say so if a thread of this process may run on other processors than its first thread, as a library can ask."""
    allowed = os.sched_getaffinity(os.getpid())
    for thread in map(int, os.listdir("/proc/self/task")):
        try:
            own = os.sched_getaffinity(thread)
        except ProcessLookupError:  # it has ended meanwhile
            continue
        if not own <= allowed:
            return f"a thread of it may run on the processors {sorted(own)}, beyond {sorted(allowed)}"
    return None


class Workshop:
    """What a worker does: it holds the contenders that are ready, and times them on demand."""

    def __init__(self) -> None:
        self.ready: dict[str, tuple[Any, int, bool]] = {}
        self.probes: dict[str, Any] = {}
        self.clock = time.perf_counter

    def facts(self, name: str) -> dict[str, str]:
        """What a record says of a contender."""
        return contender(name).facts()

    def load(
        self, names: Sequence[str], folder: str, layer: Layer, operation: str, dtype: str, threads: int, warm: bool
    ) -> dict[str, float | str]:
        """Prepare contenders and check what they compute: seconds of a call, or why one is refused."""
        self.ready.clear()
        gc.collect()
        # Of one thread, the processor's time: on a quiet machine the same as the clock on the wall, on a busy one
        # it leaves out what other processes take.
        self.clock = time.process_time if threads == 1 else time.perf_counter
        task = Task.load(Path(folder), layer, operation, dtype, threads, warm)
        size = min(task.layer.elements * task.x.itemsize, COPY_LIMIT)
        self.probes = {"fma": machine.fma_probe(dtype, threads), "copy": machine.copy_probe(size, threads)}
        return {name: self.check(contender(name), task) for name in names}

    def check(self, entrant: Contender, task: Task) -> float | str:
        """Prepare one contender; refuse it if its result is wrong."""
        try:
            run, read = entrant.prepare(task)
            fault = wrong(read(run()), task) or escaped()
        except Unsupported as reason:
            return str(reason)
        except Exception as error:  # whatever a peer's library throws is that peer's failure alone
            fault = f"it failed: {type(error).__name__}: {str(error)[:200]}"
        if fault:
            return f"refused: {fault}"
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        self.ready[entrant.name] = run, max(1, round(SAMPLE_SECONDS / seconds)), seconds < 10 * SAMPLE_SECONDS
        return seconds

    def turn(self, name: str) -> float:
        """Seconds of a call; a short one first warms the caches that others have used meanwhile."""
        run, calls, short = self.ready[name]
        if short:
            run()
        start = self.clock()
        for _ in range(calls):
            run()
        return (self.clock() - start) / calls

    def probe(self, name: str) -> float | None:
        """One reading of the probe "fma" or "copy"."""
        probe = self.probes[name]
        return None if probe is None else float(probe())


class Worker:
    """The parent's end of one such process."""

    def __init__(self, names: Sequence[str], threads: int, warm: bool, python: str, pausing: bool) -> None:
        self.names = tuple(names)
        self.pausing = pausing
        ours, theirs = Pipe()
        # Another interpreter is to find this package, but none of the packages that lie beside it.
        self.alone = tempfile.TemporaryDirectory(prefix="voxconv-path-")
        (Path(self.alone.name) / "voxconv").symlink_to(Path(__file__).parent.parent)
        path = sys.path if python == sys.executable else [self.alone.name]
        cpus = sorted(os.sched_getaffinity(0))[-threads:]
        # Pinned before anything is imported, since a thread that starts earlier would keep the wider mask.
        program = f"import os; os.sched_setaffinity(0, {cpus}); from voxconv.bench.worker import serve; serve()"
        self.process = subprocess.Popen(
            [python, "-c", program, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            env={**os.environ, **_environment(names, threads, warm), "PYTHONPATH": os.pathsep.join(filter(None, path))},
        )  # fmt: skip
        theirs.close()
        self.connection = ours

    def ask(self, method: str, *arguments: Any) -> Any:
        """Have the workshop do something; before and after it stands still if there are other workers.

        Threads that spin while they wait would slow the others down.
        """
        if self.pausing:
            self.process.send_signal(signal.SIGCONT)
        try:
            self.connection.send((method, arguments))
            result, error = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RuntimeError(f"the process of {', '.join(self.names)} died") from None
        if self.pausing:
            self.process.send_signal(signal.SIGSTOP)
        if error:
            raise RuntimeError(f"{', '.join(self.names)}: {error}")
        return result

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.kill()
        self.process.wait()
        self.alone.cleanup()


def _environment(names: Sequence[str], threads: int, warm: bool) -> dict[str, str]:
    """Thread caps for every library, and how the C library's heap treats large arrays.

    Warm: freed memory stays in the heap, for all contenders alike.  Cold: every large array is fresh
    from the system, page faults included.
    """
    caps = ("VOXCONV_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
    heap = kept if warm else {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    own: dict[str, str] = {}
    for name in names:
        found = contender(name)
        own |= found.environment if isinstance(found, Peer) and threads == 1 else {}
    return {**dict.fromkeys(caps, str(threads)), **heap, **own}


def serve() -> None:
    """Answer requests until the parent is gone."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    workshop = Workshop()
    gc.disable()  # no contender is to pay for what another left behind
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((getattr(workshop, method)(*arguments), None))
        except Exception as error:
            connection.send((None, f"{type(error).__name__}: {error}"))
