"""Each command as a user runs it, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from isolation import LIMIT

BLOCKED = """
import sys
sys.modules[{package!r}] = None
from voxconv.__main__ import main
sys.exit(main({arguments!r}))
"""


def run(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=LIMIT)


def voxconv(*arguments):
    return run("-m", "voxconv", *arguments)


COMMANDS = {
    "doctor": (["doctor"], "runtime", "checks against the reference"),
    "bench": (["bench", "demo", "--seconds", "0.01", "--peers", "none"], "layers", "geomean"),
    "explain": (["explain", "conv2d", "1x64x56x56", "64x64x3x3", "--padding", "1"], "candidates", "chosen"),
    "selftest": (["selftest"], "checks", "checks passed"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name):
    arguments, key, text = COMMANDS[name]
    result = voxconv(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert text in result.stdout
    result = voxconv(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert key in json.loads(result.stdout)


def test_explain_takes_every_form():
    result = voxconv(
        "explain", "conv2d", "1x4x9x9", "8x2x3x3", "--stride", "2,1", "--padding", "0:1,1:2", "--dilation", "1",
        "--groups", "2", "--dtype", "float64", "--json",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert found["padding"] == [[0, 1], [1, 2]]
    assert (found["stride"], found["groups"], found["dtype"]) == ([2, 1], 2, "float64")
    precise = ("explain", "conv2d", "1x64x56x56", "64x64x3x3", "--padding", "1", "--backend", "native", "--precision")
    for precision, algorithm in (("default", "winograd"), ("high", "winograd2"), ("strict", "direct")):
        assert json.loads(voxconv(*precise, precision, "--json").stdout)["algorithm"] == algorithm
    assert "'default', 'high', 'strict'" in voxconv(*precise, "half").stderr
    assert "same" not in voxconv("explain", "conv1d", "1x4x9", "8x4x3", "--padding", "same").stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice"),
        (["bench", "enormous"], "suite 'enormous' does not exist"),
        (["bench", "demo", "--peers", "mathematica"], "peer 'mathematica' has no adapter"),
        (["bench", "demo", "--threads", "100000"], "the CPUs that this process may use"),
        (["bench", "demo", "--direction", "sideways"], "direction must be of"),
        (["bench", "demo", "--plot", "no/such/folder/a.png"], "does not exist"),
        (["bench", "demo", "--compare", "no such file"], "No such file"),
        (["bench", "demo", "--layers", "no such"], "no layer whose name holds"),
        (["explain", "conv2d", "1xa", "3"], "'1xa' is no shape"),
        (["explain", "conv2d", "1x3x9x9", "8x4x3x3"], "must have 3 input channels"),
        (["explain", "conv2d", "1x4x9x9", "8x4x-3x3"], "negative"),
        (["explain", "conv2d", "1x4x9x9", "8x4x3x3", "--stride", "1.5"], "neither an integer"),
        (["explain", "conv2d", "1x4x9x9", "8x4x3x3", "--groups", "0"], "'0' is not a number of at least 1"),
        (["demo", "--out", "no/such/folder/a.png"], "does not exist"),
        (["demo", "--task", "all", "--data", "a.dcm"], "--data goes with a single task"),
        (["demo", "--task", "digits", "--data", "a.dcm"], "takes no data"),
    ],
)
def test_mistake_is_a_sentence(arguments, text):
    result = voxconv(*arguments)
    assert result.returncode == 2
    assert text in result.stderr
    assert result.stderr.startswith("voxconv")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("package", ["pydicom", "matplotlib", "skimage"])
def test_missing_extra_is_a_sentence(package):
    result = run("-c", BLOCKED.format(package=package, arguments=["demo"]))
    assert result.returncode == 2
    assert "pip install 'voxconv[imaging]'" in result.stderr
    assert "Traceback" not in result.stderr


HIDDEN = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {package!r} else find(name, package)
from voxconv.__main__ import main
sys.exit(main({arguments!r}))
"""


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("numba", ["bench", "demo", "--backend", "numba"], "numba"),
        ("matplotlib", ["bench", "demo", "--plot", "a.png"], "bench"),
    ],
)
def test_a_missing_package_of_the_bench_is_a_sentence(package, arguments, extra):
    result = run("-c", HIDDEN.format(package=package, arguments=arguments))
    assert result.returncode == 2
    assert f"pip install 'voxconv[{extra}]'" in result.stderr
    assert result.stderr.count("\n") == 1


BENCH = ["bench", "demo", "--layers", "patches", "--seconds", "0.01", "--peers", "none", "--backend", "native"]


def test_bench_writes_what_it_is_asked_for_and_knows_a_regression(tmp_path):
    pytest.importorskip("matplotlib")
    saved, page, picture = (tmp_path / name for name in ("a.json", "a.md", "a.png"))
    result = voxconv(*BENCH, "--save", str(saved), "--markdown", str(page), "--plot", str(picture))
    assert (result.returncode, result.stderr) == (0, "")
    assert f"]({picture.name})" in page.read_text()
    assert picture.stat().st_size > 10_000
    report = json.loads(saved.read_text())
    for layer in report["layers"]:
        for timed in layer["results"].values():
            timed |= {name: timed["median"] / 1000 for name in ("q1", "q3", "median")}
    saved.write_text(json.dumps(report))
    slower = voxconv(*BENCH, "--compare", str(saved), "--also", str(saved), "--json")
    assert slower.returncode == 1, slower.stderr
    assert json.loads(slower.stdout)["comparison"]["regressions"] == len(report["layers"])


def test_a_reader_that_has_gone_is_no_error():
    command = [sys.executable, "-m", "voxconv", "explain", "conv1d", "1x4x9", "8x4x3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(LIMIT) == 1


def test_an_interrupt_ends_a_command_as_shells_expect():
    interrupted = """
import sys
from voxconv import selftest
from voxconv.__main__ import main
def run():
    raise KeyboardInterrupt
selftest.run = run
sys.exit(main(["selftest"]))
"""
    result = run("-c", interrupted)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_check_that_fails_is_told():
    spoilt = """
import sys
import numpy as np
from voxconv import functional, selftest
from voxconv.__main__ import main
real = functional.avg_pool1d
def wrong(x, *rest, backend="auto", **options):
    y = real(x, *rest, backend=backend, **options)
    return y if backend != "numba" else y[..., :-1]
def nan(x, *rest, backend="auto", **options):
    y = real(x, *rest, backend=backend, **options)
    return y if backend != "native" else y * np.nan
functional.avg_pool1d = {"shape": wrong, "nan": nan}[sys.argv[1]]
sys.exit(main(["selftest"]))
"""
    for fault, backend in (("shape", "numba"), ("nan", "native")):
        result = run("-c", spoilt, fault)
        assert result.returncode == 1, result.stderr
        for dtype in ("float32", "float64"):
            assert f"FAIL avg_pool1d {dtype} {backend} None: largest difference inf" in result.stdout
