"""What computes here and how fast it can be: instruction sets, caches, threads, ceilings, versions, a self-test."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from typing import Any

from voxconv import machine, runtime
from voxconv.backends import NAMES, Backend
from voxconv.bench import peers
from voxconv.bench.layers import DIRECTIONS, Layer
from voxconv.bench.ours import Ours
from voxconv.bench.task import Unsupported, make_task, wrong
from voxconv.plan import available

__all__ = ["as_text", "examine", "passed"]

TESTED = (
    Layer("dense", "conv", 1, 17, 33, (13, 18), (3, 3), (1, 1), (1, 1), (1, 1)),
    Layer("pointwise", "conv", 2, 16, 24, (9, 9), (1, 1), (1, 1), (0, 0), (1, 1)),
    Layer("strided", "conv", 1, 8, 12, (15, 17), (3, 3), (2, 2), (1, 1), (1, 1)),
    Layer("dilated", "conv", 1, 6, 6, (17, 15), (3, 3), (1, 1), (2, 2), (2, 2)),
    Layer("depthwise", "conv", 1, 9, 9, (12, 19), (3, 3), (1, 1), (1, 1), (1, 1), groups=9),
    Layer("line", "conv", 1, 5, 8, (67,), (5,), (1,), (2,), (1,)),
    Layer("volume", "conv", 1, 16, 16, (6, 12, 12), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    Layer("max-pool", "max_pool", 1, 5, 5, (13, 15), (3, 3), (2, 2), (1, 1), (1, 1)),
    Layer("average pool", "avg_pool", 1, 4, 4, (8, 12, 14), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
)
"""Small layers that between them reach every kernel."""


def examine() -> dict[str, Any]:
    """Examine this installation on this machine; it takes a few seconds.

    Returns
    -------
    dict
        ``cpu``, ``runtime`` (see `runtime_info`), ``caches``, ``ceilings`` (see `machine.measure`),
        ``peaks`` (float32 FLOP/s by instruction set), ``backends`` (why one is not there, or None),
        ``peers`` (versions) and ``selftest`` (checks and failures by backend).  All of it goes into
        ``json.dumps``.
    """
    info = runtime.runtime_info()
    found = {name: available("doctor", name)[name] for name in NAMES}
    return {
        "cpu": machine.cpu_name(),
        "runtime": info,
        "caches": machine.caches(),
        "ceilings": machine.ceilings(anew=True),
        "peaks": {isa: _peak(isa) for isa in info["isa"]["supported"]} if info["native"] else {},
        "backends": {name: module if isinstance(module, str) else None for name, module in found.items()},
        "peers": {name: peer.facts()["version"] for name, peer in peers.PEERS.items() if find_spec(peer.package)},
        "selftest": {name: _selftest(module) for name, module in found.items() if not isinstance(module, str)},
    }


def passed(examined: dict[str, Any]) -> bool:
    """Whether every self-test came out right."""
    return not any(tested["failures"] for tested in examined["selftest"].values())


def _peak(isa: str) -> float | None:
    """Float32 peak in FLOP/s with this instruction set, in a process of its own, since it is chosen once."""
    code = "from voxconv import machine; print(machine.sample(machine.fma_probe('float32', 1)))"
    command = [sys.executable, "-c", code]
    try:
        environment = {**os.environ, "VOXCONV_ISA": isa, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return float(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _selftest(backend: Backend) -> dict[str, Any]:
    """Every algorithm in every direction against the reference."""
    checks, failures = 0, []
    dtypes = ("float32", "float64")
    for layer, direction, dtype in product(TESTED, DIRECTIONS, dtypes):
        if direction not in layer.directions:
            continue
        task = make_task(layer, direction, dtype, 1, warm=False)
        for algorithm in ("auto", *backend.algorithms) if layer.kind == "conv" else ("auto",):
            try:
                run, read = Ours(backend.name, algorithm).prepare(task)
            except Unsupported:
                continue
            fault = wrong(read(run()), task)
            checks += 1
            if fault:
                failures.append(f"{layer.name} {direction} {dtype} {algorithm}: {fault}")
    return {"checks": checks, "failures": failures}


def as_text(examined: dict[str, Any]) -> str:
    """Write an examination as sentences."""
    info, ceilings = examined["runtime"], examined["ceilings"]
    lines = [
        f"{examined['cpu']}; {info['platform']}",
        f"voxconv {info['voxconv']}, Python {info['python']}, NumPy {info['numpy']}, cffi {info['cffi']}, "
        f"Numba {info['numba'] or 'not installed'}",
        "peers: " + (", ".join(f"{name} {version}" for name, version in examined["peers"].items()) or "none installed"),
    ]
    if info["native"]:
        isa = info["isa"]
        asked = os.environ.get("VOXCONV_ISA")
        lines += [
            f"instruction sets: compiled {', '.join(isa['compiled'])}; this machine runs {', '.join(isa['supported'])}",
            f"instruction set in use: {isa['used']}, " + ("as VOXCONV_ISA asks" if asked else "the best there is"),
            f"threads: {info['threads']}; limits: "
            + ", ".join(f"{source} {limit}" for source, limit in info["thread_caps"].items()),
            "multiply-add peak, float32, one thread: "
            + ", ".join(f"{isa} {_rate(peak)}" for isa, peak in examined["peaks"].items()),
        ]
        if "avx2" not in isa["supported"] and "neon" not in isa["supported"]:
            lines.append("this machine has no AVX2: results are right, but speed is a fraction of what it can be")
    else:
        lines.append("the compiled library is missing: calls are slow, and the multiply-add peak cannot be measured")
    sizes = ", ".join(f"{name} {size // 1024} KiB" for name, size in examined["caches"].items())
    lines += [
        f"caches: {sizes or 'not listed by this system'}",
        "copy bandwidth, read and written: "
        + ", ".join(f"{level['name']} {level['bandwidth'] / 1e9:.3g} GB/s" for level in ceilings["levels"]),
    ]
    for name, reason in examined["backends"].items():
        tested = examined["selftest"].get(name)
        if tested is None:
            lines.append(f"backend {name}: {reason}")
        else:
            verdict = "; ".join(tested["failures"]) or "all right"
            lines.append(f"backend {name}: {tested['checks']} checks against the reference, {verdict}")
    return "\n".join(lines)


def _rate(flops: float | None) -> str:
    return "not measured" if flops is None else f"{flops / 1e9:.3g} GFLOP/s"
