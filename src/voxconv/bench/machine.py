"""The machine's ceilings: measured once, then read from the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from voxconv import runtime
from voxconv.bench import probes
from voxconv.bench.run import cpu_name

__all__ = ["Machine", "bandwidth", "ceilings", "measure"]

Machine = dict[str, Any]


def measure() -> Machine:
    """Measure one thread's peak by dtype, and the copy bandwidth of each cache level and of memory.

    Returns
    -------
    dict
        ``flops``: FLOP/s by dtype, None without the compiled library; ``levels``: for each level,
        fastest first, its ``name``, ``bytes`` (None for memory) and ``bandwidth`` in byte/s.
    """
    flops = {}
    for dtype in ("float32", "float64"):
        probe = probes.fma_probe(dtype, 1)
        flops[dtype] = None if probe is None else probes.sample(probe)
    sizes = probes.caches()
    last = max(sizes.values(), default=8 << 20)
    levels = [(name, size, size * 3 // 4) for name, size in sizes.items()]
    return {
        "flops": flops,
        "levels": [
            {"name": name, "bytes": size, "bandwidth": probes.sample(probes.copy_probe(used))}
            for name, size, used in (*levels, ("memory", None, min(4 * last, 512 << 20)))
        ],
    }


def _path() -> Path:
    """Where this machine's ceilings are kept: by processor, instruction set and version."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    info = runtime.runtime_info()
    isa = info["isa"]["used"] if info["native"] else "none"
    key = hashlib.sha256(f"{cpu_name()} {isa} {info['voxconv']}".encode()).hexdigest()[:16]
    return Path(base) / "voxconv" / f"machine-{key}.json"


def ceilings() -> Machine:
    """What `measure` gives, measured once for each machine; a cache that cannot be used is done without."""
    try:
        path = _path()
    except RuntimeError:  # there is no home
        return measure()
    try:
        kept = json.loads(path.read_text())
        if isinstance(kept, dict) and set(kept) == {"flops", "levels"}:
            return kept
    except (OSError, ValueError):
        pass
    found = measure()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    return found


def bandwidth(machine: Machine, size: int) -> tuple[str, float]:
    """Name and bandwidth of the first level that holds this many bytes."""
    level = next(level for level in machine["levels"] if level["bytes"] is None or size <= level["bytes"])
    return level["name"], level["bandwidth"]
