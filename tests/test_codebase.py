"""The project's own promises: versions agree, everything public is described, layers point down."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import voxconv as vc
from voxconv import errors, functional, grad, plan, problem, runtime

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "voxconv"
PUBLIC = {name: getattr(vc, name) for name in vc.__all__ if inspect.isfunction(vars(vc).get(name))}
PUBLIC |= {f"grad.{name}": getattr(grad, name) for name in grad.__all__}


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert vc.__version__ == project["version"] == newest[1]


def test_all_names_are_there_and_no_public_function_is_left_out():
    for module in (functional, grad, plan, runtime, problem, errors):
        assert all(hasattr(module, name) for name in module.__all__)
    assert set(functional.__all__) | set(runtime.__all__) <= set(vc.__all__)
    assert set(vc.__all__) - {"nn"} <= set(dir(vc))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_described(name):
    text = inspect.getdoc(PUBLIC[name])
    parameters = inspect.signature(PUBLIC[name]).parameters
    assert "Returns\n-------" in text or name in ("set_num_threads", "release_memory")
    if parameters:
        described = text.split("Parameters\n----------")[1]
        for parameter in parameters:
            assert re.search(rf"^[\w, ]*\b{parameter}\b[\w, ]*( :.*)?$", described, re.MULTILINE), parameter
    for parameter in parameters.values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        assert parameter.annotation is not parameter.empty


@pytest.mark.parametrize("name", [n for n in PUBLIC if not re.search("threads|info|plan|memory", n)])
def test_every_function_takes_backend_and_out(name):
    parameters = inspect.signature(PUBLIC[name]).parameters
    convolves = "conv" in name and not name.endswith("bias")
    for option in ("backend", "out", *(("algorithm", "precision") if convolves else ())):
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY


def test_ranks_have_one_signature():
    for name, function in PUBLIC.items():
        if "2d" in name:
            for rank in "13":
                assert inspect.signature(PUBLIC[name.replace("2d", f"{rank}d")]) == inspect.signature(function)


LAYERS = ["errors", "problem", "memory", "results", "backends", "plan", "functional", "grad"]


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_only_point_down(layer):
    path = SOURCE / layer / "__init__.py" if (SOURCE / layer).is_dir() else SOURCE / f"{layer}.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("voxconv"):
            parts = node.module.split(".")[1:] or [alias.name for alias in node.names]
            assert LAYERS.index(parts[0]) < LAYERS.index(layer)


def test_only_problem_and_results_write_sentences_about_shapes():
    allowed = {"problem.py", "results.py", "errors.py", "plan.py"}
    for path in SOURCE.glob("*.py"):
        assert path.name in allowed or "rejection(" not in path.read_text(), path.name


def test_import_leaves_the_slow_packages_alone():
    code = "import sys, voxconv; print([m for m in ('numba', 'voxconv.nn', 'importlib.metadata') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_c_interface_has_no_preprocessor_lines():
    assert not re.search(r"^\s*#", (ROOT / "csrc" / "api.h").read_text(), re.MULTILINE)


def test_the_library_exports_what_the_c_interface_declares():
    header = re.sub(r"/\*.*?\*/", "", (ROOT / "csrc" / "api.h").read_text(), flags=re.DOTALL)
    declared = re.findall(r"\b(vox_\w+)\(", header)
    exported = re.findall(r"\b(vox_\w+);", (ROOT / "csrc" / "exports.map").read_text())
    assert sorted(declared) == sorted(exported)


def test_only_one_file_names_intrinsics():
    for path in (ROOT / "csrc").rglob("*.[ch]"):
        if path.name != "simd.h":
            assert not re.search(r"\b(_mm\d*_\w+|immintrin\.h|arm_neon\.h)", path.read_text()), path.name


LINES = 450
LONG = {
    "csrc/kernels/winograd.h": "transforms, their blocks and what mends them share one set of points",
    "csrc/schedule.c": "every cut of the work, each beside the ones that it must agree with",
    "csrc/simd.h": "the only file that may name an intrinsic",
    "src/voxconv/backends/native.py": "every call of the C library, nothing to divide",
    "src/voxconv/functional.py": "three ranks of each function, signature and docstring",
    "src/voxconv/grad.py": "three ranks of each gradient, signature and docstring",
    "src/voxconv/plan.py": "the choice, the plan, and three ranks of it, signature and docstring",
    "src/voxconv/problem.py": "every rule and every rejection in one place",
    "tests/test_catalogue.py": "one entry after the other, nothing to divide",
    "tests/fuzz/fuzz.c": "one class of cases after the other, nothing to divide",
    "tests/test_catalogue_faults.py": "one fault after the other, nothing to divide",
}
"""Files that may be longer than that, and why."""


def test_long_files_have_a_reason():
    sources = [
        path.relative_to(ROOT).as_posix()
        for folder in ("csrc", "src", "tests", "bench", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".c", ".h", ".py")
    ]
    long = {name for name in sources if len((ROOT / name).read_text().splitlines()) > LINES}
    assert long == set(LONG)


def test_each_seeded_bug_has_its_place():
    """One that has none tests nothing; it is moved with the lines that it was in."""
    soak = str(ROOT / "tests" / "soak")
    sys.path.insert(0, soak)
    try:
        from mutants import lost
    finally:
        sys.path.remove(soak)
    assert lost() == []


def test_no_line_of_the_documents_is_too_long():
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert len(line) <= 120, f"{path.name}:{number}"
