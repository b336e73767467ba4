"""What the benchmarks share: which suite to time, and the machine's ceilings in every record."""

from __future__ import annotations

from voxconv import machine
from voxconv.bench.layers import DIRECTIONS
from voxconv.bench.suites import suite, suites


def pytest_addoption(parser):
    parser.addoption("--suite", default="demo", help=f"layers of test_bench_suites.py: {', '.join(suites())}")


def pytest_generate_tests(metafunc):
    if {"layer", "direction"} <= set(metafunc.fixturenames):
        found = [(layer, way) for layer in suite(metafunc.config.getoption("suite")) for way in layer.directions]
        found.sort(key=lambda pair: DIRECTIONS.index(pair[1]))
        names = [f"{layer.name}-{way}" for layer, way in found]
        metafunc.parametrize(("layer", "direction"), found, ids=names)


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["voxconv"] = {"cpu": machine.cpu_name(), **machine.ceilings()}
