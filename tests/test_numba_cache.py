"""Numba's kernels on disk: found again, never believed blindly, never needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from isolation import LIMIT

pytest.importorskip("numba")

PACK = """
import numpy as np, warnings
from voxconv.backends import _numba_cache, _numba_run
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    kernel = _numba_run.kernel_of("pack", np.dtype("float32"))[1]
print(kernel.cache_hits, len(seen), *(str(w.message) for w in seen))
"""
"""The smallest kernel, to keep compilation short: whether it came from disk, and what was warned of."""


def run(code, folder, **environment):
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def files(folder):
    return sorted((folder / "voxconv").iterdir())


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    assert run(PACK, folder) == "0 0"
    assert len(files(folder)) == 1
    return folder


def test_a_second_process_compiles_nothing(filled):
    assert run(PACK, filled) == "1 0"
    assert len(files(filled)) == 1


@pytest.mark.parametrize("fault", ["a flipped bit", "nothing"])
def test_garbage_is_compiled_anew(filled, tmp_path, fault):
    (tmp_path / "voxconv").mkdir()
    (path,) = files(filled)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # in the machine code: running it could do anything
    (tmp_path / "voxconv" / path.name).write_bytes(content if fault == "a flipped bit" else b"")
    assert run(PACK, tmp_path) == "0 0"
    assert [path.name] == [other.name for other in files(tmp_path)]
    assert files(tmp_path)[0].read_bytes() != content


def test_a_directory_that_is_missing_is_made(tmp_path):
    folder = tmp_path / "not" / "yet"
    assert run(PACK, folder) == "0 0"
    assert run(PACK, folder) == "1 0"


UNPRIVILEGED = """
import ctypes
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(header, sets) == 0  # from here on permissions count for root, too
"""


@pytest.mark.parametrize("place", ["under a file", "/proc", "read-only"])
def test_no_place_for_files_is_one_warning(tmp_path, place):
    folder, code = tmp_path / "folder", PACK
    if place == "under a file":
        folder.write_text("no directory can be made under this")
    elif place == "read-only":
        folder.mkdir()
        (folder / "voxconv").mkdir(mode=0o555)
        code = UNPRIVILEGED + PACK
    else:
        folder = place
    told = run(code, folder)
    assert told.startswith("0 1 voxconv's Numba kernels are compiled anew in each process")


def test_kernels_are_read_from_where_nothing_can_be_written(filled, tmp_path):
    shutil.copytree(filled / "voxconv", tmp_path / "voxconv")
    (tmp_path / "voxconv").chmod(0o555)
    assert run(UNPRIVILEGED + PACK, tmp_path) == "1 0"


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    full = """
import resource
from voxconv.backends._numba_cache import KernelCache
save = KernelCache.save_overload
def on_a_full_disk(*arguments):  # full for it alone: measured by coverage, Numba writes while it compiles
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    save(*arguments)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
KernelCache.save_overload = on_a_full_disk
"""
    assert run(full + PACK, tmp_path).startswith("0 1 voxconv's Numba kernels are compiled anew")
    assert files(tmp_path) == []


def test_the_next_place_serves_where_the_first_does_not(tmp_path):
    places = f"[Path('/dev/null/none'), Path({str(tmp_path / 'voxconv')!r})]"
    code = "from pathlib import Path\n" + PACK.replace("with w", f"_numba_cache._folders = lambda: {places}\nwith w")
    assert [run(code, tmp_path / "unused") for _ in range(2)] == ["0 0", "1 0"]
    assert len(files(tmp_path)) == 1


def test_an_edited_intrinsic_is_not_served_stale(tmp_path):
    """Numba's own cache looks at a function's file alone, and would find the machine code of the old intrinsic."""
    import voxconv

    package = tmp_path / "lib" / "voxconv"
    shutil.copytree(os.path.dirname(voxconv.__file__), package, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import numpy as np, voxconv as vc
x, w, b = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32), np.ones(1, np.float32)
print(vc.conv2d(x, w, b, backend="numba", algorithm="depthwise").item())
"""
    assert run(code, tmp_path / "cache", PYTHONPATH=str(package.parent)) == "10.0"
    source = package / "backends" / "_numba_tiles.py"
    text = source.read_text()
    assert text.count("v.builder.fadd(total, every)") == 1
    source.write_text(text.replace("v.builder.fadd(total, every)", "v.builder.fsub(total, every)"))
    assert run(code, tmp_path / "cache", PYTHONPATH=str(package.parent)) == "8.0"


def test_a_user_without_a_home_has_one_place_less(monkeypatch):
    from voxconv.backends import _numba_cache

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(_numba_cache.Path, "home", home)
    monkeypatch.setattr(_numba_cache.config, "CACHE_DIR", "")
    assert [folder.name for folder in _numba_cache._folders()] == ["__pycache__"]


def test_a_changed_source_is_another_file(filled, tmp_path):
    code = PACK.replace("with warnings", "_numba_cache._sources = lambda: b'other sources'\nwith warnings")
    (tmp_path / "voxconv").mkdir()
    for path in files(filled):
        (tmp_path / "voxconv" / path.name).write_bytes(path.read_bytes())
    assert run(code, tmp_path) == "0 0"
    assert len(files(tmp_path)) == 2


def test_another_processor_is_another_file(filled):
    assert run(PACK, filled, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == "0 0"
    assert run(PACK, filled) == "1 0"


def test_eight_processes_compile_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: run(PACK, tmp_path), range(8)))
    assert all(text.endswith(" 0") for text in told)
    assert len(files(tmp_path)) == 1
    assert run(PACK, tmp_path) == "1 0"


def test_every_source_counts():
    from voxconv.backends import _numba_cache

    folder = os.path.dirname(_numba_cache.__file__)
    sources = {name for name in os.listdir(folder) if name.startswith("_numba_") and name.endswith(".py")}
    assert {"_numba_ir.py", "_numba_conv.py", "_numba_kernels.py"} <= sources
    assert len(_numba_cache._sources()) == _numba_cache.DIGEST


def test_without_compilation_it_is_a_sentence(tmp_path):
    code = """
import numpy as np, voxconv as vc
x = np.ones((1, 1, 3, 3), np.float32)
try:
    vc.conv2d(x, x, backend="numba")
except RuntimeError as error:
    print(error)
"""
    assert "unset NUMBA_DISABLE_JIT" in run(code, tmp_path, NUMBA_DISABLE_JIT="1")


def test_plain_vectors_are_exact(tmp_path):
    """Without AVX and FMA the tile multiplies and adds in 16-byte vectors."""
    code = """
import numpy as np, voxconv as vc
from voxconv.backends import _numba_ir
rng = np.random.default_rng(1)
x, w = rng.integers(-4, 5, (2, 5, 9, 11)).astype(np.float32), rng.integers(-4, 5, (7, 5, 3, 3)).astype(np.float32)
for stride in (1, 2):
    same = vc.conv2d(x, w, None, stride, 1, backend="numba") == vc.conv2d(x, w, None, stride, 1, backend="reference")
    assert same.all()
print(_numba_ir.VECTOR_BYTES, _numba_ir._FMA)
"""
    machine = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    if np.dtype(np.intp).itemsize == 8 and os.uname().machine == "x86_64":
        assert run(code, tmp_path, **machine) == "16 False"


def test_vectors_of_neon_become_its_instructions(tmp_path):
    """The code for 32 registers of 16 bytes, made into AArch64's assembly: fused products of vectors, no calls."""
    code = r"""
import re
import numpy as np
from llvmlite import binding
from voxconv.backends import _numba_ir, _numba_run
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
triple = "aarch64-unknown-linux-gnu"
machine = binding.Target.from_triple(triple).create_target_machine(cpu="generic", features="+neon", opt=2)
text = _numba_run.kernel_of("sweep", np.dtype("float32"))[1]._library.get_llvm_str()
for pattern, other in (
    ("target triple = .*", f'target triple = "{triple}"'),
    ("target datalayout = .*", f'target datalayout = "{machine.target_data}"'),
    ('"target-(cpu|features)"="[^"]*"', ""),
):
    text = re.sub(pattern, other, text)
assembly = machine.emit_assembly(binding.parse_assembly(text))
tile = 8 * 3 + 8 * 2 + 8 + 4 * 6 + 4 * 3 + 6 + 3  # every size of it, and each sum once
found = len(re.findall(r"fmla\s+v\d+\.4s", assembly))
print(_numba_ir.VECTOR_BYTES, _numba_ir.ROWS, found >= tile, "fmaf" in assembly)
"""
    if os.uname().machine != "x86_64":
        pytest.skip("the processor's own code is of another kind")
    machine = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+neon"}
    assert run(code, tmp_path, **machine) == "16 8 True False"


def test_without_the_library_items_run_one_after_the_other():
    """The backend serves where nothing could be compiled in advance; its kernels are then called by Python."""
    code = """
import sys
sys.modules["voxconv._native"] = None
import numpy as np, voxconv as vc
from voxconv import grad
rng = np.random.default_rng(1)
x = rng.integers(-4, 5, (2, 4, 9, 20)).astype(np.float32)
for groups in (1, 4):
    w = rng.integers(-4, 5, (4, 4 // groups, 3, 3)).astype(np.float32)
    for stride in (1, 2):
        walk = stride, 1, 1, groups
        gy = vc.conv2d(x, w, None, *walk, backend="reference")
        plan = vc.plan_conv2d(x.shape, w, None, *walk, backend="numba")
        assert (plan(x) == gy).all() and (plan(x) == gy).all()
        for gradient, sizes in ((grad.conv2d_input, (x.shape, w)), (grad.conv2d_weight, (x, w.shape))):
            found, expected = (gradient(*sizes, gy, *walk, backend=name) for name in ("numba", "reference"))
            assert (found == expected).all()
pools = [vc.max_pool2d(x, 2, return_indices=True, backend=name) for name in ("numba", "reference")]
assert all((a == b).all() for a, b in zip(*pools))
print(vc.runtime_info()["native"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False"
