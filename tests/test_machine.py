"""What the bench and the doctor know of a machine: its peak, its bandwidths, its caches, what it lacks."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from voxconv import machine, plan, runtime
from voxconv.backends import get_backend
from voxconv.bench import doctor


def test_probe_refuses_other_types():
    native = pytest.importorskip("voxconv._native")
    sink = native.ffi.new("double *")
    assert native.lib.vox_probe_fma(native.lib.VOX_I8, 10, sink) == native.lib.VOX_INVALID
    assert native.lib.vox_probe_fma(native.lib.VOX_F64, 10, sink) > 0
    assert 0 < sink[0] < 12


def test_copy_probe_copies_whole_vectors_and_nothing_else():
    native = pytest.importorskip("voxconv._native")
    lanes = native.lib.vox_isa_lanes(native.lib.vox_isa_used(), native.lib.VOX_F32)
    source, target = np.arange(5 * lanes, dtype=np.float32), np.full(5 * lanes, -1, np.float32)
    pointers = (native.ffi.from_buffer("float[]", array) for array in (source, target))
    assert native.lib.vox_probe_copy(3, 4 * lanes - 1, *pointers) == 3 * 3 * lanes * 4 * 2
    assert (target[: 3 * lanes] == source[: 3 * lanes]).all()
    assert (target[3 * lanes :] == -1).all()


def test_peak_of_several_threads_and_of_none(monkeypatch):
    for threads in (1, 2):
        assert machine.sample(machine.fma_probe("float32", threads)) > 1e8
    monkeypatch.setitem(sys.modules, "voxconv._native", None)
    assert machine.fma_probe("float32", 1) is None


@pytest.mark.parametrize("threads", [1, 2])
def test_copy_probe_reads_a_bandwidth(threads, monkeypatch):
    assert machine.copy_probe(1 << 16, threads)() > 1e7
    monkeypatch.setitem(sys.modules, "voxconv._native", None)
    assert machine.copy_probe(1 << 16, threads)() > 1e7


def _examined(supported, native=True):
    info = {"voxconv": "1", "python": "3", "numpy": "2", "cffi": "1", "numba": None, "platform": "Linux-x"}
    isa = {"compiled": ["avx512", "avx2", "sse2"], "supported": supported, "used": supported[0]}
    info |= {"native": native, "isa": isa, "threads": 1, "thread_caps": {"affinity": 1}}
    levels = [{"name": "memory", "bytes": None, "bandwidth": 1e10}]
    return {
        "cpu": "x", "runtime": info, "caches": {}, "ceilings": {"flops": {"float32": 1e9}, "levels": levels},
        "peaks": {name: 1e9 for name in supported}, "backends": {"numba": "needs the package 'numba'"}, "peers": {},
        "selftest": {},
    }  # fmt: skip


def test_doctor_says_what_a_machine_lacks():
    without = doctor.as_text(_examined(["sse2"]))
    assert "this machine has no AVX2: results are right, but speed is a fraction of what it can be" in without
    assert "no AVX2" not in doctor.as_text(_examined(["avx2", "sse2"]))
    assert "backend numba: needs the package 'numba'" in without
    assert "the compiled library is missing" in doctor.as_text(_examined(["sse2"], native=False))


def test_doctor_names_what_a_backend_gets_wrong(monkeypatch):
    real = plan.plan_conv2d
    monkeypatch.setattr(plan, "plan_conv2d", lambda shape, w, b, *rest, **options: real(shape, -w, b, *rest, **options))
    found = doctor._selftest(get_backend("native"))
    assert found["failures"]
    assert all(" forward " in text and "its result is off by" in text for text in found["failures"])
    assert not doctor.passed({"selftest": {"native": found}})


def test_a_peak_that_cannot_be_measured_is_left_out(monkeypatch):
    assert doctor._peak(runtime.runtime_info()["isa"]["used"]) > 1e8
    assert doctor._peak("no such instruction set") is None
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert doctor._peak("sse2") is None


def test_ceilings_are_measured_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "sample", lambda probe, seconds=0.0: probe())
    first = machine.ceilings()
    monkeypatch.setattr(machine, "measure", lambda threads: {**first, "anew": threads})
    assert machine.ceilings() == first
    assert machine.ceilings(3)["anew"] == 3
    assert machine.ceilings(anew=True)["anew"] == 1
    name, rate = machine.bandwidth(first, 1 << 40)
    assert name == "memory"
    assert rate > 0


def test_ceilings_without_a_home_or_a_name(monkeypatch):
    def missing(*_):
        raise RuntimeError("there is no home")

    monkeypatch.setattr(machine, "measure", lambda threads: {"threads": threads})
    monkeypatch.setattr(Path, "home", missing)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert machine.ceilings(2) == {"threads": 2}

    def unreadable(*_):
        raise OSError("there is no /proc")

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert machine.cpu_name() == (platform.processor() or platform.machine())


@pytest.mark.parametrize("content", [None, "{", "1", "{}"])
def test_ceilings_survive_a_bad_cache(content, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "measure", lambda threads: {"flops": {}, "levels": []})
    folder = tmp_path / "cache"
    if content is None:
        folder.write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    if content is not None:
        machine.ceilings()
        next(folder.rglob("*.json")).write_text(content)
    assert machine.ceilings() == {"flops": {}, "levels": []}


def test_sizes_of_caches_that_cannot_be_read_are_left_out(tmp_path):
    for i, (level, kind, size) in enumerate([("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "a")]):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in zip(("level", "type", "size"), (level, kind, size), strict=True):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index3").mkdir()
    assert machine.caches(tmp_path) == {"L1": 48 << 10}
