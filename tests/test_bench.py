"""The bench: what is wrong is refused before it is timed, names that do not exist are sentences, reports add up."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import sys
import threading
from dataclasses import replace
from multiprocessing import Pipe

import numpy as np
import pytest

from voxconv import plan, runtime
from voxconv import problem as rules
from voxconv.backends import native
from voxconv.bench import compare, report, task, worker
from voxconv.bench.command import progress_bar
from voxconv.bench.layers import DIRECTIONS, Layer
from voxconv.bench.ours import Ours
from voxconv.bench.peers import PEERS
from voxconv.bench.plot import plot
from voxconv.bench.run import peer_names, run
from voxconv.bench.suites import DEMO, suite, suites
from voxconv.bench.task import make_task, wrong
from voxconv.bench.worker import Workshop, contender

CONV = Layer("conv", "conv", 1, 6, 8, (11, 13), (3, 3), (1, 1), (1, 1), (1, 1))
LAYERS = {
    "conv": CONV,
    "strided": replace(CONV, stride=(2, 1), padding=(1, 0)),
    "dilated": replace(CONV, padding=(2, 2), dilation=(2, 2)),
    "grouped": replace(CONV, groups=2),
    "depthwise": replace(CONV, k=6, groups=6),
    "line": replace(CONV, spatial=(40,), kernel=(5,), stride=(1,), padding=(2,), dilation=(1,)),
    "volume": Layer("volume", "conv", 1, 4, 8, (5, 7, 9), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "batch": replace(CONV, n=3),
    "transposed": replace(CONV, n=2, spatial=(12, 18), kernel=(2, 2), stride=(2, 2), padding=(0, 0), transposed=True),
    "max-pool": Layer("max-pool", "max_pool", 1, 6, 6, (11, 13), (3, 3), (2, 2), (1, 1), (1, 1), 6),
    "avg-pool": Layer("avg-pool", "avg_pool", 1, 6, 6, (8, 12), (2, 2), (2, 2), (0, 0), (1, 1), 6),
    "pool-volume": Layer("pool-volume", "max_pool", 1, 4, 4, (6, 8, 8), (2,) * 3, (2,) * 3, (0,) * 3, (1,) * 3, 4),
}


# --------------------------------------------------------------------------------------------------
# Layers


@pytest.mark.parametrize("name", suites())
def test_layers_are_what_the_package_computes(name):
    layers = suite(name)
    assert layers
    assert len({(layer.name, layer.input_shape) for layer in layers}) == len(layers)
    for layer in layers:
        if layer.kind == "conv":
            w = np.broadcast_to(np.float32(0), layer.weight_shape)
            walk = (layer.stride, layer.padding, layer.dilation, layer.groups)
            problem = rules.conv_shape("test", layer.rank, layer.input_shape, w, None, *walk)[0]
            assert (problem.output_shape, problem.flops, problem.bytes) == (
                layer.output_shape, layer.flops, 4 * layer.elements,
            )  # fmt: skip


def test_suites():
    assert len(suite("table32")) == 32
    images = {layer.name: layer.n for layer in suite("table32_b4")}
    assert (images["rn50.c5_3x3"], images["vgg.5"], images["small.2"], images["dil.128"]) == (4, 4, 8, 1)
    assert all(layer.groups == layer.c for layer in suite("depthwise"))
    assert {layer.rank for layer in suite("conv1d")} == {1}
    assert any(layer.operation("forward") == "input" for layer in suite("unet3d"))
    with pytest.raises(ValueError, match="'nothing' does not exist; there are table32"):
        suite("nothing")


# --------------------------------------------------------------------------------------------------
# What is wrong is refused


class Faulty:
    """The right sum of the wrong arrays."""

    def __init__(self, change):
        self.change = change
        self.name = "faulty"

    def prepare(self, given):
        return (lambda: task.call(self.change(given), backend="reference")), np.asarray


FAULTS = {
    "flipped kernel": lambda given: replace(given, w=given.w[..., ::-1, ::-1].copy()),
    "missing bias": lambda given: replace(given, b=np.zeros_like(given.b)),
    "bias of another channel": lambda given: replace(given, b=np.roll(given.b, 1)),
    "bfloat16": lambda given: replace(given, x=(given.x.view(np.uint32) & 0xFFFF0000).view(np.float32)),
    "one tap off": lambda given: replace(given, x=np.roll(given.x, 1, -1)),
    "not a number": lambda given: replace(given, x=np.full_like(given.x, np.nan)),
    "other padding": lambda given: replace(given, layer=replace(given.layer, padding=(0, 0))),
}


@pytest.mark.parametrize("few", [False, True], ids=["whole answer", "some channels"])
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_contender_is_refused_before_it_is_timed(fault, few, monkeypatch):
    if few:
        monkeypatch.setattr(task, "ANSWER_FLOPS", CONV.flops // 2)
    given, workshop = make_task(CONV, "forward", "float32", 1, warm=True), Workshop()
    assert len(given.channels) == (4 if few else 8)
    assert isinstance(workshop.check(Ours("reference"), given), float)
    outcome = workshop.check(Faulty(FAULTS[fault]), given)
    assert outcome.startswith("refused: its result")
    assert set(workshop.ready) == {"reference"}


@pytest.mark.parametrize("fault", ["flipped kernel", "missing bias"])
def test_ours_is_held_to_the_same(fault, monkeypatch):
    right, given = plan.plan_conv2d, make_task(CONV, "forward", "float32", 1, warm=True)

    def flawed(shape, w, b, *rest, **options):
        return right(shape, *((w[..., ::-1, ::-1], b) if fault == "flipped kernel" else (w, 0 * b)), *rest, **options)

    monkeypatch.setattr(plan, "plan_conv2d", flawed)
    assert Workshop().check(Ours("native"), given).startswith("refused: its result is off")


def test_contender_that_raises_is_refused():
    def fail(given):
        raise OSError("no such device")

    given = make_task(CONV, "forward", "float32", 1, warm=True)
    assert "no such device" in Workshop().check(Faulty(fail), given)


def test_contender_of_another_type_or_shape_is_refused():
    given = make_task(CONV, "forward", "float32", 1, warm=True)
    assert wrong(given.answer.astype(np.float64), given) == "its result is float64 instead of float32"
    assert "instead of (1, 8, 11, 13)" in wrong(given.answer[..., :-1], given)


def test_contender_whose_threads_leave_their_processors_is_refused():
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one CPU")
    given, waiting = make_task(CONV, "forward", "float32", 1, warm=True), threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    try:
        os.sched_setaffinity(os.getpid(), {min(allowed)})
        assert "may run on the processors" in Workshop().check(Ours("reference"), given)
    finally:
        os.sched_setaffinity(os.getpid(), allowed)
        waiting.set()
        thread.join()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_part_of_an_answer_is_part_of_the_whole(name, direction, monkeypatch):
    layer = LAYERS[name]
    if direction not in layer.directions:
        with pytest.raises(ValueError, match=f"is a {layer.kind}, which has only the directions"):
            make_task(layer, direction, "float64", 1, warm=True)
        return
    whole = make_task(layer, direction, "float64", 1, warm=True)
    monkeypatch.setattr(task, "ANSWER_FLOPS", layer.flops // 2)
    part = make_task(layer, direction, "float64", 1, warm=True)
    assert wrong(whole.answer, part) is None
    assert wrong(whole.answer, whole) is None


def test_a_workshop_loads_checks_and_takes_turns(tmp_path):
    """What a worker does, in this process."""
    make_task(CONV, "forward", "float32", 1, warm=True).save(tmp_path)
    names, workshop = ["reference", "native", "native-plain", "native-winograd", "native-depthwise"], Workshop()
    found = workshop.load(names, str(tmp_path), CONV, "forward", "float32", 1, True)
    assert "one channel a group" in found.pop("native-depthwise")
    assert all(seconds > 0 for seconds in found.values())
    for name in found:
        assert workshop.facts(name)["layout"] == "NCHW"
        assert workshop.turn(name) > 0
    assert workshop.probe("copy") > 0
    assert workshop.probe("fma") > 0
    assert contender("native-strict") == Ours("native", precision="strict")
    assert contender("native-high") == Ours("native", precision="high")
    with pytest.raises(ValueError, match="'nothing' does not exist; there are "):
        contender("native-nothing")


def test_a_pool_has_one_algorithm_and_fills_what_it_is_given():
    values = make_task(LAYERS["max-pool"], "forward", "float32", 1, warm=True)
    assert Workshop().check(Ours("native", "direct"), values) == "pooling has one algorithm"
    indexed = make_task(LAYERS["max-pool"], "indices", "float32", 1, warm=True)
    run_once, read = Ours("native").prepare(indexed)
    first, second = run_once(), run_once()
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert wrong(read(second), indexed) is None


def test_what_training_keeps_of_a_pool_is_held_to_the_maxima_too(monkeypatch):
    """A byte for each window names the maximum, and leads back."""
    layer, taps = LAYERS["pool-volume"], contender("native-taps")
    given = {direction: make_task(layer, direction, "float32", 1, warm=True) for direction in layer.directions}
    assert isinstance(Workshop().check(taps, given["indices"]), float)
    assert isinstance(Workshop().check(taps, given["input"]), float)
    assert "a max-pool's maxima" in Workshop().check(taps, given["forward"])
    odd = make_task(LAYERS["max-pool"], "indices", "float32", 1, warm=True)
    assert "side by side" in Workshop().check(taps, odd)
    network = make_task(suite("networks")[0], "step", "float32", 1, warm=True)
    assert "choose for themselves" in Workshop().check(taps, network)
    real = native.max_pool_taps

    def other(problem, x, y, taps):
        real(problem, x, y, taps)
        taps[0, 0, 0, 0] ^= 1

    monkeypatch.setattr(native, "max_pool_taps", other)
    assert "refused" in Workshop().check(taps, given["indices"])
    assert "refused" in Workshop().check(taps, given["input"])


@pytest.fixture
def served(monkeypatch):
    """The far end of a worker's socket, which a thread of this process serves."""
    ours, theirs = Pipe()
    monkeypatch.setattr(sys, "argv", ["worker", str(os.dup(theirs.fileno()))])
    theirs.close()
    thread = threading.Thread(target=worker.serve)
    thread.start()
    yield ours
    ours.close()
    thread.join()
    gc.enable()


def test_a_worker_answers_tells_what_went_wrong_and_ends_with_its_parent(served, tmp_path):
    make_task(CONV, "forward", "float32", 1, warm=True).save(tmp_path)
    served.send(("facts", ("reference",)))
    assert served.recv() == (Ours("reference").facts(), None)
    served.send(("turn", ("nobody",)))
    assert served.recv() == (None, "KeyError: 'nobody'")
    served.send(("load", (["reference"], str(tmp_path), CONV, "forward", "float32", 1, True)))
    found, error = served.recv()
    assert error is None
    assert found["reference"] > 0


def test_a_parent_hears_of_its_workers_errors_and_of_their_death():
    process = worker.Worker(["reference"], 1, True, sys.executable, pausing=True)
    try:
        assert process.ask("facts", "reference") == Ours("reference").facts()
        with pytest.raises(RuntimeError, match="reference: ValueError: peer 'nobody' has no adapter"):
            process.ask("facts", "nobody")
        process.process.kill()
        with pytest.raises(RuntimeError, match="the process of reference died"):
            process.ask("facts", "reference")
    finally:
        process.close()


def test_a_backend_of_one_thread_says_so(tmp_path):
    given = make_task(CONV, "forward", "float32", 2, warm=False)
    assert "one thread" in Workshop().check(Ours("reference"), given)


@pytest.mark.parametrize("name", PEERS)
def test_peers_compute_every_layer_or_say_why_not(name):
    peer = PEERS[name]
    if not peer.installed() or peer.python != contender("torch").python:
        pytest.skip(f"{name} is not installed")
    assert set(peer.facts()) == {"version", "precision", "layout", "weights"}
    done = 0
    for layer in LAYERS.values():
        for direction in layer.directions:
            outcome = Workshop().check(peer, make_task(layer, direction, "float32", 1, warm=True))
            assert isinstance(outcome, float) or not outcome.startswith("refused"), (layer.name, direction, outcome)
            done += isinstance(outcome, float)
    assert done


def test_peer_that_is_not_there(monkeypatch):
    monkeypatch.setenv("VOXCONV_BENCH_PYTHON_MNN", "/no/such/python")
    with pytest.raises(ValueError, match="'mnn' needs the package 'MNN', which is not installed"):
        peer_names(["mnn"])
    assert "mnn" not in peer_names(None)


# --------------------------------------------------------------------------------------------------
# Runs and reports


@pytest.fixture(scope="module")
def measured():
    told = []
    found = run(
        "demo", ["forward"], ["native", "reference", "reference-winograd"], [], seconds=0.01,
        progress=lambda *state: told.append(state),
    )  # fmt: skip
    assert told == [*((i, 3, layer.name) for i, layer in enumerate(DEMO)), (3, 3, "")]
    return json.loads(json.dumps(found))


def test_run(measured):
    assert [layer["layer"] for layer in measured["layers"]] == [layer.name for layer in DEMO]
    for layer in measured["layers"]:
        assert {"native", "reference"} <= set(layer["results"])
        assert all(result["rounds"] == len(result["samples"]) >= 3 for result in layer["results"].values())
        assert layer["probes"]["fma"] > 1e8
        assert layer["probes"]["copy"] > 1e7
    assert "reference-winograd" in measured["layers"][0]["refused"]


def test_table(measured):
    table = report.rows(measured)
    assert {row.best for row in table} == {None}
    rivals = report.rows({**measured, "peers": ["reference"]})
    assert all(row.best == row.ratios["reference"] for row in rivals)
    means = report.geomeans(table)
    assert math.isclose(means["reference"], math.prod(row.ratios["reference"] for row in table) ** (1 / len(table)))
    text = report.as_text(measured)
    assert all(word in text for word in ("slice.5x5", "geomean", "reference-winograd left out of", measured["cpu"]))
    assert "Images: 32 of patches.3x3; 1 of all others" in text.splitlines()
    assert "Images: 32" in report.as_text({**measured, "layers": measured["layers"][1:2]}).splitlines()
    assert "Images" not in report.as_text({**measured, "layers": measured["layers"][:1]})
    page = report.as_markdown([measured, measured], "a.png")
    assert page.startswith("# Benchmarks")
    assert measured["cpu"] in page
    assert page.count("](a.png)") == 1
    assert sum(line.startswith("|") for line in page.splitlines()) == 2 * (len(table) + 3)
    assert all(len(line) <= 120 for line in page.splitlines() if not line.startswith("|"))


def test_a_layer_that_ours_cannot_do_stays_a_row(measured):
    first, *rest = measured["layers"]
    refused = {**first, "results": {name: timed for name, timed in first["results"].items() if name != "native"}}
    table = report.rows({**measured, "layers": [refused, *rest]})
    assert table[0].gflops is None
    assert set(table[0].ratios.values()) == {None}
    assert report.geomeans(table) == report.geomeans(table[1:])


def test_directions_that_a_layer_has():
    found = run("pool", ["weight", "indices"], ["native"], [], seconds=0.01, layers="mnist")
    assert [(layer["layer"], layer["direction"]) for layer in found["layers"]] == [("mnist.2x2", "indices")]
    with pytest.raises(ValueError, match="no layer of suite 'pool' has the direction weight"):
        run("pool", ["weight"], ["native"], [])


def test_maxima_are_held_to_their_indices():
    given = make_task(LAYERS["max-pool"], "indices", "float32", 1, warm=True)
    values, indices = task.call(given, backend="reference")
    assert wrong(task.maxima(given, values, indices), given) is None
    indices[0, 0, 0, 0] += 1
    assert wrong(task.maxima(given, values, indices), given)


def test_plot(measured, tmp_path):
    pytest.importorskip("matplotlib")
    plot(measured, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 10_000


def test_bench_without_avx(monkeypatch):
    monkeypatch.setenv("VOXCONV_ISA", "sse2" if "sse2" in runtime.runtime_info()["isa"]["supported"] else "neon")
    found = run("demo", ["forward"], ["native"], [], seconds=0.01, layers="patches")
    assert found["contenders"]["native"]["isa"] == os.environ["VOXCONV_ISA"]
    assert found["layers"][0]["results"]["native"]["median"] > 0


def test_several_threads_have_a_process_each():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU")
    found = run("demo", ["weight"], ["native", "reference"], [], seconds=0.01, threads=2, layers="patches")
    assert set(found["layers"][0]["results"]) == {"native"}
    assert found["layers"][0]["refused"] == {"reference": "this backend uses one thread"}


def _reports(old, new, iqr_old=0.02, iqr_new=0.02):
    def one(seconds, iqr):
        result = {"median": seconds, "q1": seconds * (1 - iqr / 2), "q3": seconds * (1 + iqr / 2)}
        layer = {"layer": "a", "direction": "forward", "probes": {"fma": 1e9}, "results": {"native": result}}
        facts = {"format": 1, "subject": "native", "cpu": "x", "dtype": "float32", "threads": 1, "memory": "warm"}
        return {**facts, "layers": [layer]}

    return one(old, iqr_old), one(new, iqr_new)


@pytest.mark.parametrize(
    ("reports", "verdict"),
    [
        (_reports(1.0, 1.2), "slower"),
        (_reports(1.0, 0.8), "faster"),
        (_reports(1.0, 1.04), "same"),
        (_reports(1.0, 1.2, iqr_old=0.3), "same"),
        (_reports(1.0, 1.2, iqr_new=0.3), "same"),
    ],
)
def test_compare_knows_the_noise_of_both(reports, verdict):
    found = compare.compare(*reports)
    assert [change["verdict"] for change in found["changes"]] == [verdict]
    assert found["regressions"] == (verdict == "slower")
    assert "same within noise" in compare.as_text(found)


def test_compare_needs_something_in_common():
    old, new = _reports(1.0, 1.0)
    with pytest.raises(ValueError, match="no layer and contender in common"):
        compare.compare({**old, "layers": []}, new)
    with pytest.raises(ValueError, match="format"):
        compare.compare({"format": 0}, new)


def test_progress_is_for_terminals():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        progress_bar(stream)(1, 2, "a layer")
        assert bool(stream.getvalue()) == shown
