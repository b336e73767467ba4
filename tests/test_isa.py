"""Every instruction set that this machine has, forced in a child process that proves which one ran."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import oracle, voxconv as vc
from cases import CONV, POOL
from problems import operands
from voxconv.backends import get_backend

native = get_backend("native")
for case in CONV:
    p, x, w, b, gy = operands(case, oracle.integers, 61, "float32")
    whole = [a.astype(np.int64) for a in (x, w, b, gy)]
    options = {**case.options, "backend": "native", "precision": "strict"}
    rank = case.rank
    oracle.assert_equal(getattr(vc, f"conv{rank}d")(x, w, b, **options), oracle.conv(p, *whole[:3]))
    gx = getattr(vc.grad, f"conv{rank}d_input")(x.shape, w, gy, **options)
    oracle.assert_equal(gx, oracle.input_grad(p, whole[3], whole[1]))
    gw = getattr(vc.grad, f"conv{rank}d_weight")(x, w.shape, gy, **options)
    oracle.assert_equal(gw, oracle.weight_grad(p, whole[0], whole[3]))
for case in POOL:
    x = case.array(oracle.integers, 62, "float32")
    pool = getattr(vc, f"max_pool{case.rank}d")
    for ours, right in zip(*(pool(x, case.kernel, **case.options, return_indices=True, backend=backend)
                             for backend in ("native", "reference"))):
        oracle.assert_same_bits(ours, right)
print(json.dumps(vc.runtime_info()["isa"]))
"""

pytestmark = pytest.mark.skipif(
    "native" not in os.environ.get("VOXCONV_TEST_BACKENDS", "native"), reason="the compiled backend is not under test"
)


def run(isa, code=CHECK):
    environment = {**os.environ, "VOXCONV_ISA": isa}
    here = str(Path(__file__).parent)
    return subprocess.run([sys.executable, "-c", code, here], env=environment, capture_output=True, text=True)


def supported():
    import voxconv as vc

    return vc.runtime_info()["isa"]["supported"]


def test_each_instruction_set_is_exact():
    assert supported()
    for isa in supported():
        result = run(isa)
        assert result.returncode == 0, f"{isa}: {result.stderr}"
        assert json.loads(result.stdout.splitlines()[-1])["used"] == isa


@pytest.mark.parametrize("isa", ["avx3", "AVX2 ", "none"])
def test_an_unknown_name_is_an_error(isa):
    result = run(isa, "import numpy as np, voxconv as vc; vc.max_pool1d(np.ones((1, 1, 4), 'f4'), 2)")
    assert result.returncode == 1, result.stderr
    assert "VOXCONV_ISA" in result.stderr
    assert isa in result.stderr
