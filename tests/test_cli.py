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
        (["demo", "--out", "no/such/folder/a.png"], "does not exist"),
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


def test_missing_numba_is_a_sentence():
    hidden = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "numba" else find(name, package)
from voxconv.__main__ import main
sys.exit(main(["bench", "demo", "--backend", "numba"]))
"""
    result = run("-c", hidden)
    assert result.returncode == 2
    assert "pip install 'voxconv[numba]'" in result.stderr
    assert result.stderr.count("\n") == 1
