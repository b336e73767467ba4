"""Does this installation compute what it should?  Every operation of every backend against the reference.

The numbers are small integers, so that every sum is exact whatever its order, and the answers must be equal
bit for bit; only Winograd, whose points are irrational, is given a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from voxconv import functional, grad
from voxconv.backends import NAMES, Backend, get_backend
from voxconv.plan import available

__all__ = ["as_text", "run"]

SIDES = {1: (19,), 2: (13, 18), 3: (6, 7, 9)}
WINOGRAD_TOLERANCE = 1e-4
"""Of the largest value, in float32; float64 is held to the same."""


def _operations(rank: int, dtype: Any) -> Iterator[tuple[str, bool, Callable[..., Any]]]:
    """Give the name of each operation, whether it has algorithms, and the call."""
    rng = np.random.default_rng(rank)

    def whole(*shape: int) -> Any:
        return rng.integers(-4, 5, shape).astype(dtype)

    def of(module: Any, name: str) -> Any:
        return getattr(module, name.replace("Nd", f"{rank}d"))

    sides = SIDES[rank]
    # (groups, stride, padding, dilation): the common layer, a strided one, a dilated grouped one and a depthwise one.
    for label, groups, out_channels, stride, padding, dilation in (
        ("", 1, 8, 1, 1, 1),
        (", stride 2", 1, 6, 2, 0, 1),
        (", dilation 2, groups 2", 2, 6, 1, 2, 2),
        (", depthwise", 4, 4, 1, 1, 1),
    ):
        x, w, b = whole(2, 4, *sides), whole(out_channels, 4 // groups, *(3,) * rank), whole(out_channels)
        rule = (stride, padding, dilation, groups)
        y = of(functional, "convNd")(x, w, b, *rule, backend="reference")
        gy = whole(*y.shape)

        def bound(function: Any, *arguments: Any) -> Callable[..., Any]:
            return lambda **options: function(*arguments, **options)

        yield f"conv{rank}d{label}", True, bound(of(functional, "convNd"), x, w, b, *rule)
        yield f"grad.conv{rank}d_input{label}", True, bound(of(grad, "convNd_input"), x.shape, w, gy, *rule)
        yield f"grad.conv{rank}d_weight{label}", True, bound(of(grad, "convNd_weight"), x, w.shape, gy, *rule)
    yield f"grad.conv{rank}d_bias", False, bound(of(grad, "convNd_bias"), gy)
    up = whole(4, 3, *(2,) * rank)
    yield f"conv_transpose{rank}d", True, bound(of(functional, "conv_transposeNd"), x, up, None, 2)

    pool = (3, 2, 1)
    values, indices = of(functional, "max_poolNd")(x, *pool, return_indices=True, backend="reference")
    gp = whole(*values.shape)
    yield f"max_pool{rank}d", False, bound(of(functional, "max_poolNd"), x, *pool, 1, False, True)
    yield f"grad.max_pool{rank}d_input", False, bound(of(grad, "max_poolNd_input"), gp, indices, x.shape)
    # Windows that do not overlap: where two maxima fell on one place, the last would be unpooled.
    values, indices = of(functional, "max_poolNd")(x, 2, return_indices=True, backend="reference")
    yield f"max_unpool{rank}d", False, bound(of(functional, "max_unpoolNd"), values, indices, 2, None, 0, sides)
    # Windows of four elements (or a power of two) have exact means.
    yield f"avg_pool{rank}d", False, bound(of(functional, "avg_poolNd"), x, 2)
    ga = whole(*of(functional, "avg_poolNd")(x, 2, backend="reference").shape)
    yield f"grad.avg_pool{rank}d_input", False, bound(of(grad, "avg_poolNd_input"), ga, x.shape, 2)
    suffix = "" if rank == 2 else f"{rank}d"
    columns = getattr(functional, f"unfold{suffix}")(x, 2, backend="reference")
    yield f"unfold{suffix}", False, bound(getattr(functional, f"unfold{suffix}"), x, 2)
    yield f"fold{suffix}", False, bound(getattr(functional, f"fold{suffix}"), columns, sides, 2)


def _difference(got: Any, expected: Any) -> float:
    """Largest difference as a share of the largest value; inf where shapes differ or a NaN appears."""
    pairs = zip(got, expected, strict=True) if isinstance(expected, tuple) else [(got, expected)]
    worst = 0.0
    for a, b in pairs:
        if a.shape != b.shape or not np.isfinite(a).all():
            return float("inf")
        if b.size:
            gap = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()
            worst = max(worst, float(gap) / max(1.0, float(np.abs(b).max())))
    return worst


def run() -> dict[str, Any]:
    """Run all checks.

    Returns
    -------
    dict
        ``passed`` (whether all did), ``missing`` (why a backend was left out, by name) and ``checks``: for each its
        operation, dtype, backend, algorithm, ``status`` ("pass" or "FAIL") and ``detail``.
    """
    found: dict[str, Backend | str] = {name: available("selftest", name)[name] for name in NAMES}
    missing = {name: module for name, module in found.items() if isinstance(module, str)}
    checks: list[dict[str, Any]] = []
    for dtype in (np.float32, np.float64):
        for rank in SIDES:
            for operation, has_algorithms, call in _operations(rank, dtype):
                expected = call(backend="reference")
                for name in NAMES:
                    if name in missing:
                        continue
                    for algorithm in ("auto", *get_backend(name).algorithms) if has_algorithms else (None,):
                        check = {"operation": operation, "dtype": np.dtype(dtype).name, "backend": name}
                        check |= _check(call, name, algorithm, expected)
                        if check["status"] != "refused":
                            checks.append(check)
    return {"passed": all(check["status"] == "pass" for check in checks), "missing": missing, "checks": checks}


def _check(call: Callable[..., Any], backend: str, algorithm: str | None, expected: Any) -> dict[str, Any]:
    """Run one operation; an algorithm asked for by name may refuse, with its reason."""
    # Strict: "auto" must be exact here, so it may not take Winograd.
    options: dict[str, Any] = {} if algorithm is None else {"algorithm": algorithm}
    if algorithm == "auto":
        options["precision"] = "strict"
    try:
        difference = _difference(call(backend=backend, **options), expected)
    except Exception as error:  # a self-test reports whatever goes wrong
        refused = algorithm not in (None, "auto") and isinstance(error, ValueError)
        return {"algorithm": algorithm, "status": "refused" if refused else "FAIL", "detail": str(error)}
    allowed = WINOGRAD_TOLERANCE if algorithm == "winograd" else 0.0
    status = "pass" if difference <= allowed else "FAIL"
    return {"algorithm": algorithm, "status": status, "detail": f"largest difference {difference:.1e} of the maximum"}


def as_text(report: dict[str, Any]) -> str:
    """One row for each operation, one column for each backend: how many checks passed of how many."""
    checks = report["checks"]
    backends = [name for name in NAMES if name not in report["missing"]]
    lines = [f"{'operation':<44}" + "".join(f"{name:>14}" for name in backends)]
    for operation in dict.fromkeys(check["operation"] for check in checks):
        row = f"{operation:<44}"
        for name in backends:
            states = [c["status"] for c in checks if c["operation"] == operation and c["backend"] == name]
            good = states.count("pass")
            row += f"{f'pass {good}' if good == len(states) else f'FAIL {len(states) - good}/{len(states)}':>14}"
        lines.append(row)
    for check in checks:
        if check["status"] == "FAIL":
            lines.append("FAIL {operation} {dtype} {backend} {algorithm}: {detail}".format(**check))
    lines += [f"Not tested: {why}" for why in report["missing"].values()]
    lines.append(f"{sum(c['status'] == 'pass' for c in checks)} of {len(checks)} checks passed.")
    return "\n".join(lines)
