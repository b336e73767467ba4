"""A run: suites, directions and contenders in, one report out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from voxconv import machine, runtime
from voxconv.backends import NAMES
from voxconv.bench.layers import DIRECTIONS
from voxconv.bench.peers import DEFAULT, Peer, peer
from voxconv.bench.rounds import measure_layer
from voxconv.bench.suites import suite
from voxconv.bench.worker import Worker, contender
from voxconv.plan import available, choose_backend

__all__ = ["installed_backends", "peer_names", "run"]

FORMAT = 1
"""Of the report."""


def peer_names(asked: Sequence[str] | None) -> list[str]:
    """Peers to take: those that were asked for, or the default ones as far as they are installed.

    Raises
    ------
    ValueError
        A peer that was asked for has no adapter, or is not installed.
    """
    if asked is None:
        return [name for name in DEFAULT if peer(name).installed()]
    for name in asked:
        if not peer(name).installed():
            raise ValueError(f"peer {name!r} needs the package {peer(name).package!r}, which is not installed")
    return list(asked)


def installed_backends() -> list[str]:
    """Our backends that are there, best first."""
    return [name for name in NAMES if not isinstance(available("bench", name)[name], str)]


def run(
    suite_name: str, directions: Sequence[str], backends: Sequence[str], peers: Sequence[str] | None = None, *,
    dtype: str = "float32", threads: int = 1, warm: bool = True, seconds: float = 4.0, layers: str = "",
    progress: Callable[[int, int, str], object] = lambda done, total, what: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure a suite.

    Parameters
    ----------
    suite_name : str
        One of `suites.suites`.
    directions : sequence of str
        Of `layers.DIRECTIONS`; a layer that has no such direction is left out.
    backends : sequence of str
        Ours: "native", "numba", "reference", each with or without an algorithm as in
        "native-direct".  The first is what the others are compared with.
    peers : sequence of str, optional
        Names of `peers.PEERS`; by default those of `peers.DEFAULT` that are installed.
    dtype : {"float32", "float64"}
    threads : int
        Of every contender.  With one, all share one pinned process; with more, each has its own.
    warm : bool
        Whether results go into memory that was used before, as far as a contender can do so.
    seconds : float
        Time of the rounds of one layer, about.
    layers : str
        Only layers whose name holds this.
    progress : callable
        Told (done, total, name) before each layer.

    Returns
    -------
    dict
        What ``json.dumps`` takes: settings, machine, contenders with their versions, and layers.

    Raises
    ------
    ValueError
        A name is unknown, or something that was asked for is not installed.
    RuntimeError
        A worker process died.
    """
    if not set(directions) <= set(DIRECTIONS) or not directions:
        raise ValueError(f"direction must be of {', '.join(DIRECTIONS)}, not {', '.join(directions)}")
    available = len(os.sched_getaffinity(0))
    if not 1 <= threads <= available:
        raise ValueError(f"threads={threads} must be between 1 and {available}, the CPUs that this process may use")
    chosen = [layer for layer in suite(suite_name) if layers in layer.name]
    if not chosen:
        raise ValueError(f"suite {suite_name!r} has no layer whose name holds {layers!r}")
    tasks = [(layer, direction) for direction in directions for layer in chosen if direction in layer.directions]
    if not tasks:
        raise ValueError(f"no layer of suite {suite_name!r} has the direction {' or '.join(directions)}")
    rivals = peer_names(peers)
    names = [*dict.fromkeys([*backends, *rivals])]
    for name in names:
        if not isinstance(contender(name), Peer):
            choose_backend("bench", name.partition("-")[0])
    began = time.time()
    workers = _workers(names, threads, warm)
    try:
        contenders = {name: worker.ask("facts", name) for worker in workers for name in worker.names}
        rows = []
        for done, (layer, direction) in enumerate(tasks):
            progress(done, len(tasks), layer.name)
            rows.append(measure_layer(layer, direction, dtype, threads, warm, seconds, workers))
        progress(len(tasks), len(tasks), "")
    finally:
        for worker in workers:
            worker.close()
    return {
        "format": FORMAT, "suite": suite_name, "directions": list(directions), "dtype": dtype, "threads": threads,
        "memory": "warm" if warm else "cold", "subject": names[0], "peers": rivals, "cpu": machine.cpu_name(),
        "machine": machine.ceilings(threads),
        "runtime": runtime.runtime_info(), "began": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(began)),
        "seconds": time.time() - began, "contenders": {name: contenders[name] for name in names}, "layers": rows,
    }  # fmt: skip


def _workers(names: Sequence[str], threads: int, warm: bool) -> list[Worker]:
    """One process for all on one thread, else one each; a peer with its own interpreter always has its own."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        found = contender(name)
        python = found.python if isinstance(found, Peer) else sys.executable
        groups.setdefault((python, name if threads > 1 else ""), []).append(name)
    pausing = len(groups) > 1
    return [Worker(group, threads, warm, python, pausing) for (python, _), group in groups.items()]
