"""The fuzzer of the C interface, against the installed library: old failures, then a stretch of new cases."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import voxconv as vc

FUZZ = Path(__file__).parent / "fuzz"
COUNT = int(os.environ.get("VOXCONV_FUZZ_COUNT", 100_000))
"""Cases of each instruction set; `make soak` runs as many as one has the time for."""

pytestmark = pytest.mark.skipif(
    "native" not in os.environ.get("VOXCONV_TEST_BACKENDS", "native"), reason="the compiled backend is not under test"
)


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    """The program, linked with the library that Python uses."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    assert compiler, "a C compiler built this package"
    assert vc.runtime_info()["native"]
    # an editable installation keeps libraries elsewhere than sources
    maps = Path("/proc/self/maps").read_text().split()
    library = next(Path(word) for word in maps if word.endswith("libvoxconv_kernels.so"))
    program = tmp_path_factory.mktemp("fuzz") / "vox_fuzz"
    subprocess.run(
        [compiler, "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", program, FUZZ / "fuzz.c", library,
         f"-Wl,-rpath,{library.parent}", "-lm", "-lpthread"],
        check=True,
    )  # fmt: skip
    return program


@pytest.mark.parametrize("isa", vc.runtime_info()["isa"]["supported"])
def test_random_problems(fuzzer, isa):
    environment = {**os.environ, "VOXCONV_ISA": isa}
    for arguments in (["replay", FUZZ / "cases.txt"], ["0", str(COUNT)]):
        result = subprocess.run([fuzzer, *arguments], env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"isa={isa} ")


@pytest.mark.parametrize("fault", ["over-read", "under-read"])
def test_the_guard_pages_are_live(fuzzer, fault):
    assert subprocess.run([fuzzer, "planted", fault], capture_output=True).returncode < 0
