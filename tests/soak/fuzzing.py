"""Slices of the fuzzer: seeds that this instruction set has not had yet, on the commit that is checked out."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from ledger import ROOT, call, record, runs

ISAS = ("avx512", "avx2", "sse2", "neon")
NOT_HERE = 77


def build(sanitize=""):
    """Build the fuzzer; the program."""
    call(["make", "-C", ROOT / "tests" / "fuzz", "planted", f"SANITIZE={sanitize}", f"PYTHON={sys.executable}"])
    name = "fuzz" + (f"-{sanitize.replace(',', '-')}" if sanitize else "")
    return ROOT / "build" / name / "vox_fuzz"


def figures(text):
    """The program's report, as numbers."""
    words = dict(word.split("=") for word in text.split())
    isa = words.pop("isa")
    return isa, {key: float(value) if "." in value else int(value) for key, value in words.items()}


def fuzz(seconds, sanitize="", callers=1, prefix=(), isas=ISAS, job=None, **extra):
    """Run each instruction set for its share of the time, each from where its seeds ended; True if nothing failed."""
    job = job or ("fuzz" if not sanitize else f"fuzz {sanitize}")
    program = build(sanitize)
    share = max(1, int(seconds) // 3)
    for isa in isas:
        first = max((r["first"] + r["count"] for r in runs(job) if r["isa"] == isa), default=0)
        start = time.monotonic()
        environment = {**os.environ, "VOXCONV_ISA": isa, **extra}
        arguments = [*prefix, program, first, 10**12, share, callers]
        result = subprocess.run([*map(str, arguments)], env=environment, capture_output=True, text=True)
        if result.returncode == NOT_HERE:
            continue
        if result.returncode:
            print(result.stderr, file=sys.stderr)
            record(job, time.monotonic() - start, isa=isa, first=first, count=0, failed=result.stderr[-3000:])
            return False
        found, numbers = figures(result.stdout)
        assert found == isa
        record(job, time.monotonic() - start, isa=isa, mismatches=0, **numbers)
    return True
