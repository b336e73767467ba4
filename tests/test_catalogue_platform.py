"""The catalogue's processors, Numba's cache, and what is built; and that no row of it is without a check.

What takes minutes, or wants a tool that is not everywhere, is marked `long` and runs by `make long`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import catalogue
import voxconv as vc
from isolation import LIMIT
from test_catalogue import REFUSED

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGE = Path(vc.__file__).parent

native = pytest.mark.skipif(
    "native" not in os.environ.get("VOXCONV_TEST_BACKENDS", "native"), reason="the compiled backend is not under test"
)
numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")

SMOKE = """
import sys
sys.path.insert(0, {here!r})
import numpy as np, oracle, voxconv as vc
from problems import operands
from cases import CONV
for name in ("3x3-batch", "3x3-stride-2", "depthwise", "1x1-odd"):
    case = next(c for c in CONV if c.name == name)
    p, x, w, b, gy = operands(case, oracle.integers, 61, "float32")
    whole = [a.astype(np.int64) for a in (x, w, b, gy)]
    options = {{**case.options, "backend": {backend!r}, "precision": "strict"}}
    oracle.assert_equal(vc.conv2d(x, w, b, **options), oracle.conv(p, *whole[:3]))
    oracle.assert_equal(vc.grad.conv2d_input(x.shape, w, gy, **options), oracle.input_grad(p, whole[3], whole[1]))
    oracle.assert_equal(vc.grad.conv2d_weight(x, w.shape, gy, **options), oracle.weight_grad(p, whole[0], whole[3]))
    y, at = vc.max_pool2d(x, 2, return_indices=True, backend={backend!r})
    assert (y == vc.max_pool2d(x, 2, backend="reference")).all()
print(vc.runtime_info()["isa"]["used"])
"""


def smoke(backend="native"):
    return SMOKE.format(here=str(HERE), backend=backend)


def run(code, *, prefix=(), expect=0, **environment):
    command = [*prefix, sys.executable, "-c", textwrap.dedent(code)]
    inherited = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}  # of this processor
    result = subprocess.run(
        command, env={**inherited, **environment}, capture_output=True, text=True, timeout=LIMIT, cwd=ROOT / "tests"
    )
    assert result.returncode == expect, result.stderr[-3000:]
    return result.stdout.strip() if not expect else result.stderr


# --------------------------------------------------------------------------------------------------
# I: an interpreter without the global lock


PARALLEL = ("conv", "grad", "pool", "plan", "results", "problem", "nn_layers", "threads")
"""Modules of tests that may run in several threads at once; what may not among them is run in one."""


@native
@pytest.mark.long
def test_i16_without_the_global_lock():
    python = ROOT / "build" / "free-threaded" / "bin" / "python3"
    if not python.exists():
        pytest.skip("wants an interpreter without the global lock: `make free-threaded`")
    (extension,) = python.parents[1].glob("lib/python*t/site-packages/voxconv/_native.*.so")
    assert "abi3" not in extension.name
    subprocess.run(
        [python, "-W", "error", "-c", "import sys, voxconv._native; assert not sys._is_gil_enabled()"],
        check=True,
    )
    files = [f"tests/test_{name}.py" for name in PARALLEL]
    result = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--parallel-threads=4", *files],
        env={**os.environ, "VOXCONV_TEST_BACKENDS": "native"}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:]


# --------------------------------------------------------------------------------------------------
# J: processors


PROCESSORS = {"Nehalem": "sse2", "SandyBridge": "sse2", "Haswell": "avx2", "Haswell,-xsave": "sse2"}
"""What each can run; the last has the features, and an operating system that did not enable their registers."""


@native
@pytest.mark.long
@pytest.mark.parametrize("processor", PROCESSORS)
def test_j1_j2_j3_other_processors(processor):
    emulator = shutil.which("qemu-x86_64")
    if not emulator or "sse2" not in vc.runtime_info()["isa"]["compiled"]:
        pytest.skip("wants qemu-x86_64 (Debian: qemu-user) on x86-64")
    assert run(smoke(), prefix=(emulator, "-cpu", processor)) == PROCESSORS[processor]


@native
@pytest.mark.long
def test_j6_more_than_the_processor_has_is_an_error():
    emulator = shutil.which("qemu-x86_64")
    if not emulator or "sse2" not in vc.runtime_info()["isa"]["compiled"]:
        pytest.skip("wants qemu-x86_64 (Debian: qemu-user) on x86-64")
    text = run(smoke(), prefix=(emulator, "-cpu", "Nehalem"), expect=1, VOXCONV_ISA="avx2")
    assert "VOXCONV_ISA='avx2'" in text


@native
@pytest.mark.long
def test_j4_no_wide_instruction_outside_its_unit(tmp_path):
    """Every object that any machine runs, disassembled: an opcode of AVX is one whose name begins with v."""
    sys.path.insert(0, str(HERE / "soak"))
    try:
        from kernels import make, sources
    finally:
        sys.path.remove(str(HERE / "soak"))
    if "sse2" not in vc.runtime_info()["isa"]["compiled"] or not shutil.which("objdump"):
        pytest.skip("wants objdump on x86-64")
    everywhere = [name for name in sources() if "avx" not in name]
    wide = "vox_avx2_f32"
    make([*everywhere, wide], ROOT / "csrc", tmp_path, "-O1")

    def wide_opcodes(name):
        text = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", tmp_path / f"{name}.o"], capture_output=True, text=True, check=True
        ).stdout
        return re.findall(r"^\s+[0-9a-f]+:\s+(v[a-z0-9]+)\b", text, re.MULTILINE)

    assert wide_opcodes(wide), "the gate is shut"
    for name in everywhere:
        assert wide_opcodes(name) == [], name


@native
def test_j9_no_size_of_a_cache_is_asked_for():
    for path in (ROOT / "csrc").rglob("*.[ch]"):
        # The size of a page is no fact of the processor's: memory is given back in pages.
        assert not re.search(r"sysconf\((?!_SC_PAGESIZE\))|__cpuid|get_nprocs|/sys/", path.read_text()), path.name


# --------------------------------------------------------------------------------------------------
# K: Numba


@numba
def test_k6_nothing_starts_numbas_own_threads():
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"\bprange\b|parallel\s*=\s*True|fastmath\s*=\s*True", path.read_text()), path.name


def test_k9_without_numba_the_rest_works():
    code = """
        import sys
        sys.modules["numba"] = None
        import numpy as np, voxconv as vc
        x, w = np.ones((1, 1, 5)), np.ones((1, 1, 3))
        assert vc.conv1d(x, w).shape == (1, 1, 3)
        try:
            vc.conv1d(x, w, backend="numba")
        except (RuntimeError, ImportError) as error:
            assert "numba" in str(error)
        else:
            raise SystemExit("accepted")
    """
    run(code)


@numba
@pytest.mark.long
def test_k7_k10_checked_and_uncompiled(tmp_path):
    checks = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    run(smoke("numba"), **checks)
    uncompiled = """
        import numpy as np, voxconv as vc
        try:
            vc.conv1d(np.ones((1, 1, 5)), np.ones((1, 1, 3)), backend="numba")
        except RuntimeError as error:
            assert "NUMBA_DISABLE_JIT" in str(error)
        else:
            raise SystemExit("accepted")
    """
    run(uncompiled, NUMBA_DISABLE_JIT="1")


@numba
@pytest.mark.long
def test_k1_k4_spoilt_and_foreign_caches(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path)}
    run(smoke("numba"), **environment)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for spoil in (lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\0" * len(data)):
        for path in files:
            path.write_bytes(spoil(path.read_bytes()))
        run(smoke("numba"), **environment)
    run(smoke("numba"), NUMBA_CPU_NAME="generic", **environment)


@numba
@pytest.mark.long
def test_k2_nowhere_to_cache(tmp_path):
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("")
    run(smoke("numba"), NUMBA_CACHE_DIR=str(nowhere / "below"), HOME=str(nowhere))


@numba
@pytest.mark.long
def test_k3_k5_processes_and_threads_that_compile_at_once(tmp_path):
    code = textwrap.dedent("""
        import numpy as np, voxconv as vc
        from concurrent.futures import ThreadPoolExecutor
        x, w = np.ones((1, 3, 9, 9), "f4"), np.ones((2, 3, 3, 3), "f4")
        with ThreadPoolExecutor(4) as pool:
            for y in pool.map(lambda _: vc.conv2d(x, w, backend="numba"), range(8)):
                assert (y == 27).all()
    """)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    jobs = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(8)]
    assert [job.wait(timeout=LIMIT) for job in jobs] == [0] * 8


@numba
@pytest.mark.long
def test_j8_a_processor_without_a_name(tmp_path):
    run(smoke("numba"), NUMBA_CPU_NAME="generic", NUMBA_CACHE_DIR=str(tmp_path))


# --------------------------------------------------------------------------------------------------
# M: what is built


def libraries():
    maps = Path("/proc/self/maps").read_text().split()
    return sorted({Path(word) for word in maps if re.search(r"voxconv.*\.so$", word)})


def readelf(*arguments):
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=True).stdout


@native
def test_m1_m2_m5_the_libraries_are_hardened():
    if not shutil.which("readelf"):
        pytest.skip("wants readelf (binutils)")
    assert vc.runtime_info()["native"]
    assert len(libraries()) == 2
    for path in libraries():
        stack = re.search(r"GNU_STACK.*", readelf("-l", path))[0]
        assert "RW" in stack and "RWE" not in stack, path.name  # noqa: PT018
        assert "GNU_RELRO" in readelf("-l", path)
        dynamic = readelf("-d", path)
        assert "BIND_NOW" in dynamic or re.search(r"FLAGS_1.*NOW", dynamic), path.name
        assert "TEXTREL" not in dynamic
        for found in re.findall(r"(?:RPATH|RUNPATH).*\[(.*)\]", dynamic):
            assert found == "$ORIGIN" or str(ROOT) in found, found  # an editable installation adds its own
        symbols = readelf("-s", path)
        assert "set_fast_math" not in symbols
        assert "__stack_chk_fail" in symbols or "_native" in path.name


@native
def test_m3_m4_symbols_and_dependencies():
    if not shutil.which("readelf"):
        pytest.skip("wants readelf (binutils)")
    for path in libraries():
        needed = set(re.findall(r"NEEDED.*\[(.*)\]", readelf("-d", path)))
        assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libvoxconv_kernels.so", "ld-linux-x86-64.so.2"}
        symbols = readelf("--dyn-syms", path)
        assert not re.search(r"\b_?PyArray|\bnpy_", symbols)
        exported = {name for name in re.findall(r"GLOBAL +DEFAULT +\d+ (\w+)", symbols)}
        assert all(name.startswith(("vox_", "PyInit_", "_cffi_")) for name in exported), exported
        newest = max((tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", symbols)), default=(0,))
        assert newest <= (2, 34), "older systems of the manylinux_2_34 kind would refuse it"


def git(folder, *arguments):
    names = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    command = ["git", *names, "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def committed(tmp_path):
    """The working tree as a commit of its own."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns("build", "dist", ".git", ".*cache", "__pycache__"))
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "what is tested")
    return source


def release(source):
    return subprocess.run([source / ".ci" / "release"], capture_output=True, text=True)


def pinned():
    text = (ROOT / ".ci" / "release-requirements.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    tools = [re.fullmatch(r"([\w-]+)==(\S+) --hash=sha256:([0-9a-f]{64})", line) for line in lines]
    assert all(tools), lines
    return {tool[1]: tool[3] for tool in tools}


def test_m7_what_a_build_wants_is_pinned():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {re.match(r"[\w-]+", name)[0] for name in wanted} <= set(pinned())


@pytest.mark.long
def test_m7_another_file_of_a_tool_is_refused(committed):
    tools = committed / ".ci" / "release-requirements.txt"
    tools.write_text(tools.read_text().replace(pinned()["cffi"], "0" * 64))
    assert "differs" in release(committed).stderr
    git(committed, "commit", "--quiet", "--all", "--message", "another file")
    result = release(committed)
    assert result.returncode
    assert "HASH" in result.stderr.upper()
    assert not (committed / "dist").exists()


@native
@pytest.mark.long
def test_m6_m7_m9_a_release_is_built_twice_and_installs_in_odd_places(committed, tmp_path):
    result = release(committed)  # which compares its two builds
    assert result.returncode == 0, result.stderr[-3000:]
    dist = committed / "dist"
    artifacts = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dist.glob("voxconv-*")}
    assert dict(line.split()[::-1] for line in (dist / "SHA256SUMS").read_text().splitlines()) == artifacts
    said = json.loads((dist / "provenance.json").read_text())
    assert {entry["name"]: entry["digest"]["sha256"] for entry in said["subject"]} == artifacts
    commit, *tools = (entry["digest"] for entry in said["predicate"]["buildDefinition"]["resolvedDependencies"])
    assert commit["gitCommit"] == git(committed, "rev-parse", "HEAD")
    assert {tool["sha256"] for tool in tools} == set(pinned().values())
    (wheel,) = dist.glob("*.whl")
    place = tmp_path / "a place with späces"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, wheel]
    subprocess.run(install, check=True)
    for path in [place, *place.rglob("*")]:
        path.chmod(0o555)
    code = "import voxconv; assert 'späces' in voxconv.__file__\n" + smoke()
    run(code, PYTHONPATH=str(place), PYTHONDONTWRITEBYTECODE="1")
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755)


@native
@pytest.mark.long
def test_m8_a_compiler_that_knows_no_wide_vectors(tmp_path):
    """A stand-in for an old compiler: it refuses the newer sets' flags, and the rest is built."""
    compiler = tmp_path / "cc"
    real = shutil.which(os.environ.get("CC", "cc"))
    refuse = 'case "$*" in *avx512*) echo "unknown option" >&2; exit 1;; esac'
    compiler.write_text(f'#!/bin/sh\n{refuse}\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    subprocess.run(
        ["cmake", "-S", ROOT, "-B", tmp_path / "build", "-DVOXCONV_FUZZ=ON", "-DCMAKE_BUILD_TYPE=Release",
         f"-DCMAKE_C_COMPILER={compiler}", f"-DPython_EXECUTABLE={sys.executable}"],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["cmake", "--build", tmp_path / "build", "--target", "vox_fuzz"], check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if name != "VOXCONV_ISA"}
    result = subprocess.run(
        [tmp_path / "build" / "vox_fuzz", "0", "20000"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert not result.stdout.startswith("isa=avx512")


# --------------------------------------------------------------------------------------------------
# The whole catalogue


ELSEWHERE = {
    "C11": "test_sanitized.py::test_sanitizer",
    "I4": "test_threads.py::test_concurrent_callers",
    "I5": "test_threads.py::test_one_plan_called_from_several_threads",
    "I9": "test_threads.py::test_any_number_of_threads",
    "I11": "test_threads.py::test_a_sample_of_a_batch_is_that_sample_alone",
    "I19": "test_sanitized.py::test_sanitizer",
    "J5": "test_isa.py::test_an_unknown_name_is_an_error",
    "J7": "test_isa.py::test_each_instruction_set_is_exact",
    "K8": "test_conv.py::test_exact_on_integers",
}
"""Rows that a test of its own stands for."""

OPEN = {}
"""Rows that do not hold, and why."""


def covered():
    rows = {row.row for row in REFUSED}
    for module in ("test_catalogue", "test_catalogue_faults", "test_catalogue_shapes", "test_catalogue_sizes"):
        __import__(module)
    rows |= {row for checks in catalogue.CHECKS.values() for check in checks.values() for row in check.rows}
    for path in HERE.glob("test_catalogue*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                rows |= {word.upper() for word in node.name.split("_") if re.fullmatch(r"[a-m]\d+", word)}
    for row, where in ELSEWHERE.items():
        file, function = where.split("::")
        assert f"def {function}(" in (HERE / file).read_text(), where
        rows.add(row)
    return rows


def test_every_row_has_a_check_or_a_reason():
    assert set(catalogue.ROWS) - covered() == set(OPEN)


if __name__ == "__main__":
    print(json.dumps({"rows": len(catalogue.ROWS), "checked": len(set(catalogue.ROWS) & covered()), "open": OPEN}))
