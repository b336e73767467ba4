"""Slices of the fuzzer: seeds that this instruction set has not had yet, on the commit that is checked out."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from kernels import installed, link, make, sources
from ledger import ROOT, record, runs

ISAS = ("avx512", "avx2", "sse2", "neon")
NOT_HERE, NOT_NOTICED = 77, 42
PLANTED = {
    "": ("over-read", "under-read"), "address,undefined": ("over-read", "under-read", "overflow"), "thread": ("race",),
}  # fmt: skip
"""What each build must notice before it is believed."""


def build(sanitize=""):
    """Link the fuzzer with the installed library, or with kernels made for a sanitizer; the program."""
    folder = ROOT / "build" / "-".join(["fuzz", *sanitize.split(",")]).rstrip("-")
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "vox_fuzz"
    if sanitize:
        flags = f"-g -fsanitize={sanitize} -fno-sanitize-recover=all"
        files = [path for part in ("csrc", "tests/fuzz") for path in (ROOT / part).rglob("*.[ch]")]
        if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in files):
            make(sources(), ROOT / "csrc", folder, f"-O1 {flags}")
            link(folder.glob("*.o"), program, "cc", *flags.split())
    else:
        link([installed()], program, "cc", f"-Wl,-rpath,{installed().parent}")
    for fault in PLANTED[sanitize]:
        status = subprocess.run([program, "planted", fault], capture_output=True).returncode
        assert status not in (0, NOT_NOTICED), f"{fault} was not noticed"
    return program


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
