"""Training steps: loss curves beside torch's stored ones, the same bits on any threads, and the bench's checks.

``python tests/test_networks.py`` (which needs torch) makes the stored curves anew.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import oracle
import voxconv as vc
from voxconv.bench.networks import NETWORKS, ours, torch_step
from voxconv.bench.ours import Ours
from voxconv.bench.peers import PEERS
from voxconv.bench.task import make_task
from voxconv.bench.worker import Workshop

CURVES = Path(__file__).with_name("torch_losses.json")
STEPS = 50
SMALL = {"small_cnn": (32, 32), "unet2d": (32, 32), "unet3d": (16, 16, 16), "unet3d_wide": (8, 8, 8)}
"""The networks of the bench on images that leave time for other tests."""

SMALLER = {network.name: replace(network, spatial=SMALL[network.name]) for network in NETWORKS}


def batch(network, dtype):
    return np.random.default_rng(network.elements).standard_normal(network.input_shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SMALLER)
def test_loss_follows_that_of_torch(name, dtype):
    network = SMALLER[name]
    expected = np.array(json.loads(CURVES.read_text())[name][dtype])
    step = ours(network, batch(network, dtype), network.model(dtype))
    off = np.abs([step() for _ in range(STEPS)] - expected) / np.maximum(expected, 0.05)
    assert expected[-1] < 0.97 * expected[0]
    assert off.max() < (1e-9 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize("name", SMALLER)
def test_steps_have_the_same_bits_on_any_threads(name):
    pytest.importorskip("voxconv._native")
    network, states = SMALLER[name], []
    before = vc.get_num_threads()
    try:
        for threads in (1, 2, 3):
            vc.set_num_threads(threads)
            model = network.model("float32", "native")
            step = ours(network, batch(network, "float32"), model)
            losses = np.array([step() for _ in range(3)])
            states.append({"losses": losses, **model.state_dict()})
    finally:
        vc.set_num_threads(before)
    for state in states[1:]:
        for name, array in state.items():
            oracle.assert_same_bits(array, states[0][name])


@pytest.mark.parametrize("name", SMALLER)
def test_bench_counts_a_step(name):
    network = SMALLER[name]
    model = network.model("float32")
    size = sum(parameter.data.size for parameter in model.parameters())
    assert network.elements == np.prod(network.input_shape) + np.prod(network.output_shape) + size
    if name == "small_cnn":
        first, second, linear = 16 * 9 * 32**2, 32 * 16 * 9 * 16**2, 32 * 8**2 * 10
        assert network.flops == 2 * 32 * (2 * first + 3 * second + 3 * linear)


def test_bench_refuses_a_step_that_learns_otherwise():
    network = SMALLER["small_cnn"]
    given, workshop = make_task(network, "step", "float32", 1, warm=True), Workshop()
    assert isinstance(workshop.check(Ours("native"), given), float)
    assert "choose for themselves" in workshop.check(Ours("native", "direct"), given)
    slower = replace(given, answer=given.answer * [1, 1, 1.01])  # the first loss is from before the first step
    assert "its losses" in workshop.check(Ours("native"), slower)
    assert isinstance(workshop.check(Ours("native", precision="strict"), given), float)


@pytest.mark.parametrize("peer", ["torch", "torch_cl", "jax"])
@pytest.mark.parametrize("name", SMALLER)
def test_peers_learn_the_same(name, peer):
    if not PEERS[peer].installed():
        pytest.skip(f"{peer} is not installed")
    given = make_task(SMALLER[name], "step", "float32", 1, warm=True)
    assert isinstance(Workshop().check(PEERS[peer], given), float)


@pytest.mark.parametrize("name", SMALLER)
def test_the_stored_loss_is_that_of_torch(name):
    pytest.importorskip("torch")
    expected = json.loads(CURVES.read_text())[name]
    for dtype, losses in torch_curves([name])[name].items():
        assert losses == pytest.approx(expected[dtype], rel=1e-3 if dtype == "float32" else 1e-9), dtype


def torch_curves(names=SMALLER):
    import torch

    torch.set_num_threads(1)
    curves = {}
    for name in names:
        network = SMALLER[name]
        steps = {dtype: torch_step(torch, network, batch(network, dtype)) for dtype in ("float32", "float64")}
        curves[name] = {dtype: [step() for _ in range(STEPS)] for dtype, step in steps.items()}
    return curves


if __name__ == "__main__":
    CURVES.write_text(json.dumps(torch_curves(), indent=1) + "\n")
