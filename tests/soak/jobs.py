"""The long runs besides fuzzing: each measures one figure of the scoreboard and records it."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kernels
import mutants
from fuzzing import build, figures, fuzz
from ledger import ROOT, call, record, runs
from plans import plans, recycled


def tool(name, package):
    """Where a tool is; a sentence where it is not."""
    found = shutil.which(name)
    if not found:
        print(f"{name} is not installed (Debian: {package}): skipped")
    return found


# --------------------------------------------------------------------------------------------------
# Other eyes: sanitizers, valgrind, other processors


def sanitize(seconds):
    """AddressSanitizer with UndefinedBehaviorSanitizer, then ThreadSanitizer with three callers at once."""
    return fuzz(seconds / 2, "address,undefined") and fuzz(seconds / 2, "thread", callers=3)


def memcheck(seconds):
    """Valgrind's memcheck, which knows no AVX-512, on operands from malloc."""
    valgrind = tool("valgrind", "valgrind")
    if not valgrind:
        return True
    program = build()
    prefix = [valgrind, "--quiet", "--error-exitcode=9"]
    environment = {**os.environ, "VOX_FUZZ_MALLOC": "1", "VOXCONV_ISA": "avx2"}
    planted = subprocess.run([*prefix, program, "planted", "uninitialised"], env=environment, capture_output=True)
    assert planted.returncode == 9, "memcheck did not notice what was not initialised"
    return fuzz(seconds, prefix=prefix, isas=("avx2", "sse2"), job="fuzz memcheck", VOX_FUZZ_MALLOC="1")


PROCESSORS = {"Nehalem": "sse2", "SandyBridge": "sse2", "Haswell": "avx2", "Haswell,-xsave": "sse2"}


def emulate(seconds):
    """The fuzzer on processors that this machine is not, among them an aarch64."""
    runs = []
    emulator = tool("qemu-x86_64", "qemu-user")
    if emulator and os.uname().machine == "x86_64":
        program = build()
        runs = [(f"x86-64 {name}", [emulator, "-cpu", name, program], isa) for name, isa in PROCESSORS.items()]
    emulator, compiler = tool("qemu-aarch64", "qemu-user"), tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    with tempfile.TemporaryDirectory() as folder:
        if emulator and compiler:
            objects, program = Path(folder), Path(folder) / "vox_fuzz"
            names = [name for name in kernels.sources() if "avx" not in name]
            kernels.make(names, ROOT / "csrc", objects, compiler=compiler)
            kernels.link(objects.glob("*.o"), program, compiler, "-static")
            runs.append(("aarch64", [emulator, program], "neon"))
        for name, command, isa in runs:
            start = time.monotonic()
            environment = {key: value for key, value in os.environ.items() if key != "VOXCONV_ISA"}
            if isa == "avx2":  # QEMU 7.2 reads 16 bytes where vfmadd231ss has 4, over the guard page behind them
                environment["VOX_FUZZ_MALLOC"] = "1"
            replayed = call([*command, "replay", ROOT / "tests" / "fuzz" / "cases.txt"], env=environment)
            found, numbers = figures(call([*command, 0, 10**9, max(1, int(seconds / len(runs)))], env=environment))
            assert found == isa and f"isa={isa} " in replayed, f"{name} ran {found}"  # noqa: PT018
            record("fuzz emulated", time.monotonic() - start, processor=name, isa=isa, mismatches=0, **numbers)
    return True


# --------------------------------------------------------------------------------------------------
# Through Python: bits, callers, forks, growth, interrupts


def bits(seconds):
    """Random problems in random layouts on random threads: the bits of the plain call."""
    import numpy as np

    import oracle
    import voxconv as vc
    from test_catalogue import LAYOUTS

    first = seed = max((line["first"] + line["seeds"] for line in runs("bits")), default=0)
    start, done = time.monotonic(), 0
    before = vc.get_num_threads()
    layouts = list(LAYOUTS.values())
    while time.monotonic() - start < seconds:
        rng = np.random.default_rng(seed)
        seed += 1
        rank = int(rng.integers(1, 4))
        n, c, k = (int(v) for v in rng.integers(1, (4, 18, 18)))
        kernel = tuple(int(v) for v in rng.integers(1, 4, rank))
        spatial = tuple(int(v) for v in rng.integers(3, (70, 24, 9)[rank - 1], rank))
        x = rng.normal(size=(n, c, *spatial)).astype("f4")
        w = rng.normal(size=(k, c, *kernel)).astype("f4")
        stride = int(rng.integers(1, 3))
        conv = getattr(vc, f"conv{rank}d")
        gin, gw = (getattr(vc.grad, f"conv{rank}d_{kind}") for kind in ("input", "weight"))
        pool = getattr(vc, f"max_pool{rank}d")
        vc.set_num_threads(1)
        y = conv(x, w, None, stride)
        plain = (y, gin(x.shape, w, y, stride), gw(x, w.shape, y, stride), pool(x, 2, stride, ceil_mode=True))
        for _ in range(4):
            vc.set_num_threads(int(rng.integers(1, 9)))
            xl, wl, yl = (layouts[int(rng.integers(len(layouts)))](a) for a in (x, w, y))
            laid = (conv(xl, wl, None, stride), gin(x.shape, wl, yl, stride), gw(xl, w.shape, yl, stride),
                    pool(xl, 2, stride, ceil_mode=True))  # fmt: skip
            for found, expected in zip(laid, plain, strict=True):
                oracle.assert_same_bits(found, expected)
            done += len(plain)
        i = int(rng.integers(n))
        oracle.assert_same_bits(conv(x[i : i + 1], w, None, stride), y[i : i + 1])
        done += 1
    vc.set_num_threads(before)
    record("bits", time.monotonic() - start, configurations=done, differences=0, first=first, seeds=seed - first)
    return True


def hammer(seconds):
    """Sixteen threads that call at once, with ever other numbers of threads; each result against the serial one's bits.

    Shared operands, shared plans, plans made anew, and results in recycled memory.
    """
    import numpy as np

    import oracle
    import voxconv as vc

    def both(x, w):
        y = vc.conv2d(x, w)
        return y, vc.grad.conv2d_input(x.shape, w, y), vc.grad.conv2d_weight(x, w.shape, y)

    rng = np.random.default_rng(0)
    work = []
    for c, k, h in itertools.product((1, 8, 33), (1, 16), (5, 20, 150)):
        x, w = rng.normal(size=(1, c, h, 17)).astype("f4"), rng.normal(size=(k, c, 3, 3)).astype("f4")
        plan = vc.plan_conv2d(x.shape, w)
        work += [
            lambda x=x, w=w: both(x, w),
            lambda x=x, plan=plan: [plan(x)],
            lambda x=x, w=w: [vc.plan_conv2d(x.shape, w, padding=1)(x)],
            lambda x=x: vc.max_pool2d(x, 2, return_indices=True),
        ]
    before = vc.get_num_threads()
    vc.set_num_threads(2)
    serial = [job() for job in work]
    start, end = time.monotonic(), time.monotonic() + seconds

    def caller(first):
        calls = 0
        while time.monotonic() < end:
            i = (first + calls) % len(work)
            for found, expected in zip(work[i](), serial[i], strict=True):
                oracle.assert_same_bits(found, expected)
            calls += 1
            if calls % 64 == 0:
                vc.set_num_threads(1 + calls // 64 % 4)
        return calls

    with ThreadPoolExecutor(16) as pool:
        calls = sum(pool.map(caller, range(16)))
    vc.set_num_threads(before)
    lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    name = "hammer" if lock else "hammer without the lock"
    record(name, time.monotonic() - start, python=sys.version.split()[0], callers=16, calls=calls, differences=0)
    return True


def free_threaded(seconds):
    """The same callers on an interpreter without the global lock."""
    folder = ROOT / "build" / "free-threaded"
    if subprocess.run(["make", "--silent", "-C", ROOT, "free-threaded"]).returncode:
        print("no interpreter without the global lock could be had: skipped")
        return True
    command = [folder / "bin" / "python3", "-W", "error", ROOT / "tests" / "soak", "hammer", "--seconds", str(seconds)]
    return subprocess.run(command).returncode == 0


def forks(seconds):
    """Forks of a process with a pool, half of them in the middle of a call."""
    import test_catalogue_faults as faults

    start, cycles = time.monotonic(), 0
    while time.monotonic() - start < seconds or cycles < 1000:
        cycles += faults.forks("native", 100, threads=(1, 2, 8)[cycles // 100 % 3])
    record("forks", time.monotonic() - start, cycles=cycles, hangs=0)
    return True


def growth(seconds):
    """Resident memory over a million calls of one shape, of varying shapes, and of rejections."""
    import test_catalogue_faults as faults

    start = time.monotonic()
    grown = faults.growth("native", 1_000_000)
    record("growth", time.monotonic() - start, calls=1_000_000, **{f"{kind}_bytes": v for kind, v in grown.items()})
    return max(grown.values()) < 1 << 20


def interrupts(seconds):
    """How long a long call takes to hear of an interrupt."""
    import test_catalogue_faults as faults

    start, latencies = time.monotonic(), []
    while time.monotonic() - start < seconds or len(latencies) < 10:
        faults.long_call(latencies)
    worst = round(1000 * max(latencies))
    record("interrupts", time.monotonic() - start, interrupts=len(latencies), worst_milliseconds=worst)
    return True


# --------------------------------------------------------------------------------------------------
# Coverage and catalogue


MEASURED = """
[run]
source = {package}
data_file = {data}
parallel = true
concurrency = thread, multiprocessing
patch = subprocess
"""
RELEASE_ONLY = "tests/test_catalogue_platform.py::test_m3_m4_symbols_and_dependencies"
"""What a build that counts its lines is not: it exports gcov's symbols."""

PEERS, OF_PEERS = ROOT / "build" / "peers" / "bin" / "python", ("tests/test_bench.py", "tests/test_networks.py")
"""The environment that has other libraries (`make peers`), and the tests that want them."""


def reached_by_tests(folder, package):
    """Run the suite, its child processes too: lines of Python not reached, by file, their number, the suites' status.

    Then what meets other libraries, where they are installed.  What Numba compiles counts as reached where it was
    compiled, since nothing traces machine code.
    """
    settings = folder / "coveragerc"
    settings.write_text(MEASURED.format(package=package / "voxconv", data=folder / "data"))
    environment = {**os.environ, "PYTHONPATH": str(package), "NUMBA_JIT_COVERAGE": "1",
                   "NUMBA_CACHE_DIR": str(folder / "numba")}  # fmt: skip
    measure = [sys.executable, "-m", "coverage"]
    suites = [(sys.executable, [f"--deselect={name}" for name in ("tests/test_codebase.py", RELEASE_ONLY)])]
    if PEERS.exists():
        suites.append((PEERS, OF_PEERS))
    failed = 0
    for python, chosen in suites:
        tests = subprocess.run(
            [python, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q", "-p", "no:cacheprovider",
             *chosen],
            env=environment, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        print("\n".join((tests.stdout + tests.stderr).splitlines()[-15:]))
        failed = failed or tests.returncode
    call([*measure, "combine", "--quiet", f"--rcfile={settings}"], env=environment)
    report = call([*measure, "json", "-q", f"--rcfile={settings}", "-o", "-"], env=environment)
    files = {name.split("voxconv/")[-1]: entry for name, entry in json.loads(report)["files"].items()}
    lines = sum(entry["summary"]["num_statements"] for entry in files.values())
    return {name: entry["missing_lines"] for name, entry in files.items()}, lines, failed


def reached_in_c(objects):
    """Lines of csrc that no unit of theirs reached, by file, and their number."""
    found = {}
    for counts in objects.rglob("*.gcda"):
        text = call(["gcov", "--json-format", "--stdout", counts], cwd=objects)
        for entry in (entry for line in text.splitlines() for entry in json.loads(line)["files"]):
            if "csrc/" in entry["file"]:
                seen = found.setdefault(entry["file"].split("csrc/")[-1], {})
                for line in entry["lines"]:
                    seen[line["line_number"]] = max(seen.get(line["line_number"], 0), line["count"])
    missing = {name: sorted(n for n, count in seen.items() if not count) for name, seen in sorted(found.items())}
    return missing, sum(map(len, found.values()))


def coverage(seconds):
    """Lines of csrc that the tests reach, the fuzzer among them, and lines of src."""
    if not importlib.util.find_spec("coverage"):
        print("coverage is not installed (pip install coverage): skipped")
        return True
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        package, objects = folder / "package", folder / "build"
        settings = ("cmake.define.CMAKE_C_FLAGS=--coverage -O1", f"build-dir={objects}", "install.strip=false")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", package, ROOT]
        call([*pip, *(f"--config-settings={s}" for s in settings)])
        missing, lines, failed = reached_by_tests(folder, package)
        peers = "installed" if PEERS.exists() else "missing"
        record_lines("coverage of src", time.monotonic() - start, missing, lines, failed_tests=failed, peers=peers)
        record_lines("coverage of csrc", time.monotonic() - start, *reached_in_c(objects))
    return not failed


def record_lines(job, seconds, missing, lines, **more):
    """One half of it: the lines that were not reached, by file, and how many there are."""
    reached = round(100 * (1 - sum(map(len, missing.values())) / lines), 2)
    record(job, seconds, reached=reached, lines=lines, missing={n: v for n, v in missing.items() if v}, **more)


def rows(seconds):
    """The catalogue: every row's tests, `long` ones too."""
    start = time.monotonic()
    catalogues = sorted(path.stem for path in (ROOT / "tests").glob("test_catalogue*.py"))
    files = ["test_conv", "test_threads", "test_isa", "test_sanitized", *catalogues]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "long or not long", *(f"tests/{name}.py" for name in files)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    print(result.stdout[-2000:])
    counted = json.loads(call([sys.executable, ROOT / "tests" / "test_catalogue_platform.py"]))
    passed = re.findall(r"(\d+) (passed|failed|skipped)", result.stdout.splitlines()[-1])
    outcome = {word: int(number) for number, word in passed}
    record("catalogue", time.monotonic() - start, **counted, **{f"tests_{word}": n for word, n in outcome.items()})
    return result.returncode == 0


JOBS = {
    "fuzz": fuzz, "sanitize": sanitize, "memcheck": memcheck, "emulate": emulate, "bits": bits, "plans": plans,
    "recycled": recycled, "hammer": hammer, "free-threaded": free_threaded, "forks": forks, "growth": growth,
    "interrupts": interrupts, "mutants": mutants.mutate, "coverage": coverage, "catalogue": rows,
}  # fmt: skip
