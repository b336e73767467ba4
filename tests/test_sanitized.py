"""The kernels under sanitizers: the fuzzer first, which proves that each tool sees a fault, then Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import voxconv as vc

HERE = Path(__file__).parent
ROOT = HERE.parent
COUNT = 20_000

UNDER_TEST = "native" in os.environ.get("VOXCONV_TEST_BACKENDS", "native")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not UNDER_TEST, reason="the compiled backend is not under test"),
]


@pytest.fixture(scope="module")
def built():
    """What builds the fuzzer and its kernels with a sanitizer, once for all that want them; the program."""
    sys.path.insert(0, str(HERE / "soak"))
    try:
        from fuzzing import build
    finally:
        sys.path.remove(str(HERE / "soak"))
    return build


@pytest.mark.parametrize(("tools", "callers"), [("address,undefined", 1), ("thread", 3)])
def test_sanitizer(built, tools, callers):
    program = built(tools)
    for isa in vc.runtime_info()["isa"]["supported"]:
        for arguments in (["replay", HERE / "fuzz" / "cases.txt"], ["0", str(COUNT), "100000", str(callers)]):
            environment = {**os.environ, "VOXCONV_ISA": isa}
            result = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-4000:]


PYTHON = """
import ctypes, sys
import numpy as np
import voxconv._native
from voxconv import _native
if sys.argv[1] == "planted":  # reads whole vectors behind an array of NumPy's: loads by mask are not watched
    array = np.ones(1000, np.float32)
    p = _native.ffi.new("vox_window *", {"planes": 1, "type": 0})
    p.spatial = p.output = [1, 1, 1100]
    p.kernel = p.stride = p.dilation = [1, 1, 1]
    out = np.empty(1100, np.float32)
    _native.lib.vox_max_pool(p, 1, _native.ffi.from_buffer(array), _native.ffi.from_buffer(out), _native.ffi.NULL,
                             _native.ffi.new("int64_t *"))
    raise SystemExit("not noticed")
sys.exit(__import__("pytest").main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def sanitized_package(built, tmp_path_factory):
    """The package with the fuzzer's kernels, which AddressSanitizer watches, to be put before the installed one."""
    tools = "address,undefined"
    objects = built(tools).parent.glob("*.o")
    target = tmp_path_factory.mktemp("sanitized")
    package = shutil.copytree(Path(vc.__file__).parent, target / "voxconv")
    library = package / "libvoxconv_kernels.so"
    link = ["cc", "-shared", f"-fsanitize={tools}", "-o", library, *objects, "-lm", "-lpthread"]
    subprocess.run(link, check=True)
    libraries = [
        subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(target),
        "VOXCONV_TEST_BACKENDS": "native",
    }


def test_python_under_a_sanitizer(sanitized_package, tmp_path):
    planted = subprocess.run(
        [sys.executable, "-c", PYTHON, "planted"], env=sanitized_package, capture_output=True, text=True
    )
    assert "AddressSanitizer" in planted.stderr, planted.stderr
    files = [HERE / f"test_{name}.py" for name in ("conv", "grad", "pool", "plan")]
    report = f"log_path={tmp_path}/report"  # pytest keeps to itself what a process says before it dies
    # a request that no machine can serve is refused, as everywhere, instead of ending the process
    options = {"ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:{report}", "UBSAN_OPTIONS": report}
    result = subprocess.run(
        [sys.executable, "-c", PYTHON, "run", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)],
        env={**sanitized_package, **options}, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    reported = "".join(path.read_text() for path in tmp_path.glob("report*"))
    assert result.returncode == 0, result.stdout[-3000:] + reported[-3000:]
