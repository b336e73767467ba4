"""Bugs that are put into a copy of the kernels, one at a time; the fuzzer has to notice each within seconds.

They are listed in mutants.txt.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kernels import link, make, sources
from ledger import ROOT, record, runs

SECONDS = 10
"""A mutant that lives longer than this has survived."""

HOW = "-O1"
"""Compiling is most of the time."""


def read_mutants():
    """Name, file, old text and new text of each."""
    found = []
    for entry in (Path(__file__).parent / "mutants.txt").read_text().split("\n@ ")[1:]:
        title, body = entry.split("\n", 1)
        old, new = body.split("\n->\n")
        found.append((*title.split(" | "), old, new.removesuffix("\n")))
    return found


MUTANTS = read_mutants()


def lost():
    """Mutants whose text does not stand in csrc, once."""
    return [name for name, file, old, _ in MUTANTS if (ROOT / "csrc" / file).read_text().count(old) != 1]


def best_isa():
    words = Path("/proc/cpuinfo").read_text().split()
    return "avx512" if "avx512f" in words else "avx2" if "avx2" in words else "base"


def touched(file):
    """Objects that must be made anew where this file changes: of those that differ by type or instruction set, the ones
    that most cases run on."""
    unit = f"vox_{best_isa()}_f32"
    if file == "elem_unit.c":
        return ["vox_elem_f32", "vox_elem_u8"]
    if file.endswith(".c"):
        return [name for name, (source, _) in sources().items() if source == file]
    plain = [name for name in sources() if name.endswith("_")] if file == "problem.h" else []
    return [unit, *(["vox_elem_u8"] if file.endswith("max_pool.h") else []), *plain]


def verdict(program):
    """What became of a program that should fail: how it was killed, or None."""
    for arguments in (["replay", ROOT / "tests/fuzz/cases.txt"], ["0", "10000000", str(SECONDS)]):
        try:
            command = [program, *map(str, arguments)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=3 * SECONDS)
        except subprocess.TimeoutExpired:
            return "hung"
        if result.returncode:
            return (result.stderr.splitlines() or ["died"])[0]
    return None


def mutate(seconds=0, names=()):
    """Try mutants until the time is over, those first that no run of this ledger has killed; True if none survived."""
    start = time.monotonic()
    if lost():
        sys.exit("these mutants do not find their place, once, in csrc:\n  " + "\n  ".join(lost()))
    known = {name for line in runs("mutants") for name, how in line["verdicts"].items() if how}
    chosen = [m for m in MUTANTS if not names or any(part in m[0] for part in names)]
    verdicts, slowest = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        base, program = Path(folder) / "base", Path(folder) / "vox_fuzz"
        base.mkdir()
        make(sources(), ROOT / "csrc", base, HOW)
        link(base.glob("*.o"), program)
        assert subprocess.run([program, "0", "20000"], capture_output=True).returncode == 0, "unmutated kernels fail"
        for name, file, old, new in sorted(chosen, key=lambda mutant: mutant[0] in known):
            csrc, objects = Path(folder) / "csrc", Path(folder) / "objects"
            shutil.copytree(ROOT / "csrc", csrc)
            shutil.copytree(base, objects)
            path = csrc / file
            path.write_text(path.read_text().replace(old, new))
            make(touched(file), csrc, objects, HOW)
            link(objects.glob("*.o"), program)
            began = time.monotonic()
            how = verdict(program)
            slowest = max(slowest, time.monotonic() - began)
            print(f"{'killed' if how else 'SURVIVED'}: {name}" + (f" ({how})" if how else ""), flush=True)
            verdicts[name] = how
            shutil.rmtree(csrc)
            shutil.rmtree(objects)
            if seconds and time.monotonic() - start > seconds:
                break
    record("mutants", time.monotonic() - start, verdicts=verdicts, slowest_kill_seconds=round(slowest, 1))
    return None not in verdicts.values()
