"""What this machine can do at most: multiply-adds on registers, copies at each level of memory.

Probes give one reading a call; `ceilings` are measured once for each machine and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import runtime

__all__ = ["Machine", "bandwidth", "caches", "ceilings", "copy_probe", "cpu_name", "fma_probe", "measure", "sample"]

Machine = dict[str, Any]

FMA_ITERATIONS = 100_000
"""Of the register loop; about half a millisecond, as a shorter one reads low."""

COPY_BYTES = 4 << 20
"""Moved in one reading at least; small arrays are copied many times."""


def fma_probe(dtype: str, threads: int) -> Callable[[], float] | None:
    """What to call for one reading of the arithmetic peak in FLOP/s; None without the compiled library.

    Its instruction set is the one in use.
    """
    try:
        from voxconv._native import ffi, lib
    except ImportError:
        return None
    runtime.runtime_info()  # raises where the environment names an instruction set that is not here
    kind = lib.VOX_F64 if dtype == "float64" else lib.VOX_F32

    def loop(_: int) -> float:
        return float(lib.vox_probe_fma(kind, FMA_ITERATIONS, ffi.new("double *")))

    loop(0)
    if threads == 1:
        return lambda: _rate(lambda: loop(0))
    pool = ThreadPoolExecutor(threads)
    return lambda: sum(pool.map(lambda _: _rate(lambda: loop(0)), range(threads)))


def _rate(run: Callable[[], float]) -> float:
    """What is done in a second of this thread's own time: what other processes take meanwhile is not the limit."""
    start = time.thread_time()
    done = run()
    return done / max(time.thread_time() - start, 1e-9)


def copy_probe(size: int, threads: int = 1) -> Callable[[], float]:
    """What to call for one reading of the copy bandwidth in byte/s, read and written bytes both counted.

    Parameters
    ----------
    size : int
        Bytes of source and target together.
    threads : int
        Each copies its share of the bytes, at the same time as the others.

    Notes
    -----
    Without the compiled library NumPy copies, which reads low where the arrays are small.
    """
    if threads > 1:
        pool, shares = ThreadPoolExecutor(threads), [copy_probe(size // threads) for _ in range(threads)]
        return lambda: sum(pool.map(lambda share: share(), shares))
    count, line = max(size // 8, 64), 64
    source, target = (_aligned(count, line) for _ in range(2))
    times = max(1, COPY_BYTES // (8 * count))
    try:
        from voxconv._native import ffi, lib
    except ImportError:

        def copies() -> float:
            for _ in range(times):
                np.copyto(target, source)
            return 8.0 * count * times

        return lambda: _rate(copies)
    from_, to = ffi.from_buffer("float[]", source), ffi.from_buffer("float[]", target)
    return lambda: _rate(lambda: float(lib.vox_probe_copy(times, count, from_, to)))


def _aligned(count: int, line: int) -> npt.NDArray[np.float32]:
    """So many ones, the first at the start of a cache line."""
    array = np.ones(count + line // 4, np.float32)
    start = -array.ctypes.data % line // 4
    return array[start : start + count]


def sample(probe: Callable[[], float], seconds: float = 0.1) -> float:
    """Median reading of a probe that is called for some time."""
    readings: list[float] = []
    stop = time.perf_counter() + seconds
    while len(readings) < 5 or time.perf_counter() < stop:
        readings.append(probe())
    return float(np.median(readings))


def caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Bytes of each level of data cache, "L1" first, as the kernel lists them; empty where it does not."""
    found = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, text = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
            if kind != "Instruction":
                found[f"L{level}"] = int(text.rstrip("KM")) * factor
        except (OSError, ValueError):
            continue
    return found


def cpu_name() -> str:
    """The processor's model as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure(threads: int = 1) -> Machine:
    """Measure the peak of so many threads by dtype, and the copy bandwidth of each cache level and of memory.

    Returns
    -------
    dict
        ``flops``: FLOP/s by dtype, None without the compiled library; ``levels``: for each level,
        fastest first, its ``name``, ``bytes`` (None for memory) and ``bandwidth`` in byte/s.
    """
    flops = {}
    for dtype in ("float32", "float64"):
        probe = fma_probe(dtype, threads)
        flops[dtype] = None if probe is None else sample(probe)
    sizes = caches()
    last = max(sizes.values(), default=8 << 20)
    levels = [(name, size, size // 2) for name, size in sizes.items()]
    return {
        "flops": flops,
        "levels": [
            {"name": name, "bytes": size, "bandwidth": sample(copy_probe(used, threads))}
            for name, size, used in (*levels, ("memory", None, min(4 * last, 512 << 20)))
        ],
    }


def _path(threads: int) -> Path:
    """Where this machine's ceilings are kept: by processor, instruction set, threads and version."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    info = runtime.runtime_info()
    isa = info["isa"]["used"] if info["native"] else "none"
    key = hashlib.sha256(f"{cpu_name()} {isa} {threads} {info['voxconv']}".encode()).hexdigest()[:16]
    return Path(base) / "voxconv" / f"machine-{key}.json"


def ceilings(threads: int = 1, anew: bool = False) -> Machine:
    """What `measure` gives, measured once on a machine, or ``anew``; a cache that cannot be used is done without."""
    try:
        path = _path(threads)
    except RuntimeError:  # there is no home
        return measure(threads)
    with suppress(OSError, ValueError, RecursionError):
        kept = json.loads(path.read_text())
        if not anew and isinstance(kept, dict) and set(kept) == {"flops", "levels"}:
            return kept
    found = measure(threads)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(found))
        fresh.replace(path)  # whoever reads meanwhile sees the old file or the new one, whole
    return found


def bandwidth(machine: Machine, size: int) -> tuple[str, float]:
    """Name and bandwidth of the first level that holds this many bytes."""
    level = next(level for level in machine["levels"] if level["bytes"] is None or size <= level["bytes"])
    return level["name"], level["bandwidth"]
