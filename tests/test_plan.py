"""Plans: the choice, its explanation, and what cannot be chosen."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest

import oracle
import voxconv as vc
from cases import CONV
from problems import operands
from voxconv import backends, explain, machine, plan
from voxconv import problem as rules
from voxconv.errors import MissingExtra

named = pytest.mark.parametrize("case", CONV, ids=lambda case: case.name)
X, W = (1, 8, 12, 12), np.ones((8, 8, 3, 3), np.float32)


@named
@pytest.mark.parametrize("seed", [51])
def test_a_plan_gives_the_bits_of_a_plain_call(case, backend, seed):
    _, x, w, b, _ = operands(case, oracle.floats, seed, "float32")
    planned = getattr(vc, f"plan_conv{case.rank}d")(x.shape, w, b, **case.options, backend=backend)
    expected = getattr(vc, f"conv{case.rank}d")(x, w, b, **case.options, backend=backend)
    oracle.assert_same_bits(planned(x), expected)
    out = np.full(expected.shape, np.nan, np.float32)
    assert planned(x, out=out) is out
    oracle.assert_same_bits(out, expected)


def test_a_plan_keeps_its_own_weight(backend):
    w, b = W.copy(), np.ones(8, np.float32)
    planned = vc.plan_conv2d(X, w, b, backend=backend)
    first = planned(np.ones(X, np.float32))
    w[...], b[...] = 0, 0
    oracle.assert_same_bits(planned(np.ones(X, np.float32)), first)


def test_a_plan_takes_what_was_planned(backend):
    planned = vc.plan_conv2d(X[1:], W, backend=backend)
    assert planned(np.ones(X[1:], np.uint16)).dtype == np.float32
    with pytest.raises(ValueError, match="planned shape"):
        planned(np.ones(X, np.float32))
    with pytest.raises(TypeError, match="as planned"):
        planned(np.ones(X[1:], np.float64))
    with pytest.raises(ValueError, match="out"):
        planned(np.ones(X[1:], np.float32), out=np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("kernel", "stride", "channels", "expected"),
    [((3, 3), 1, 8, "depthwise"), ((5, 5), 2, 4, "depthwise"), ((7, 7), 1, 1, "depthwise"), ((7, 7), 2, 8, "direct"),
     ((5, 20), (2, 8), 8, "direct"), ((3, 3), (1, 2), 1, "direct"), ((4, 4), 4, 8, "direct"), ((9, 9), 1, 1, "direct")],
)  # fmt: skip
def test_depthwise_is_chosen_where_it_has_tiles(kernel, stride, channels, expected):
    weight = np.ones((channels, 1, *kernel), np.float32)
    planned = vc.plan_conv2d((1, 1, 28, 28), weight, stride=stride, padding=2, backend="native", precision="strict")
    assert planned.algorithm == expected


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "dilation", "to_input", "to_weight"),
    [((28, 28), (3, 3), 1, 1, "depthwise", "depthwise"), ((28, 28), (7, 7), 2, 1, "depthwise", "depthwise"),
     ((28, 28), (4, 4), 1, 1, "direct", "direct"), ((28, 28), (3, 3), 1, 2, "direct", "direct"),
     ((28, 28), (9, 9), 1, 1, "direct", "depthwise"), ((16, 16), (3, 4), 1, 1, "direct", "depthwise"),
     ((7, 7), (4, 4), 1, 1, "depthwise", "depthwise"), ((400,), (31,), 1, 1, "direct", "direct"),
     ((400,), (5,), 2, 1, "depthwise", "direct")],
)  # fmt: skip
def test_depthwise_gradients_are_direct_where_that_pays(shape, kernel, stride, dilation, to_input, to_weight):
    x, w = np.ones((2, 8, *shape), np.float32), np.ones((8, 1, *kernel), np.float32)
    problem = rules.conv(f"conv{len(shape)}d", len(shape), x, w, None, stride, max(kernel) // 2, dilation, 8)[0]
    for operation, expected in (("conv_input_grad", to_input), ("conv_weight_grad", to_weight)):
        assert plan.choose(problem, operation, "native", precision="strict").algorithm == expected


def test_the_explanation_says_what_and_why(backend):
    planned = vc.plan_conv2d(X, W, padding=1, backend=backend)
    facts = json.loads(json.dumps(planned.explain(as_dict=True)))
    assert facts["backend"] == planned.backend == backend
    assert facts["algorithm"] == planned.algorithm
    assert facts["flops"] == 2 * 8 * 8 * 9 * 144
    assert facts["bytes"] == 4 * (2 * 8 * 144 + W.size)
    assert facts["intensity"] == pytest.approx(facts["flops"] / facts["bytes"])
    assert facts["workspace_bytes"] == planned.workspace_bytes >= 0
    accepted = [c for c in facts["candidates"] if c["refusal"] is None]
    assert (accepted[0]["backend"], accepted[0]["algorithm"]) == (backend, planned.algorithm)
    assert facts["predicted_share"] == pytest.approx(facts["floor_seconds"] / facts["predicted_seconds"])
    assert facts["attained_share"] == pytest.approx(facts["floor_seconds"] / facts["seconds"])
    assert not {"seconds", "attained_share"} & set(planned.explain(as_dict=True, measure=False))
    text = planned.explain(measure=False)
    for word in ("conv2d", "float32", "GFLOP", "chosen", "floor", "predicted", planned.algorithm):
        assert word in text
    for c in facts["candidates"]:
        assert c["refusal"] is None or c["refusal"] in text
    assert backend in repr(planned)


def test_the_floor_is_the_longer_of_arithmetic_and_moving(monkeypatch):
    levels = [{"name": "L1", "bytes": 100, "bandwidth": 50.0}, {"name": "memory", "bytes": None, "bandwidth": 10.0}]
    monkeypatch.setattr(machine, "ceilings", lambda threads: {"flops": {"float32": 20.0}, "levels": levels})
    near, far = explain.roofline(200, 100, "float32", 4.0), explain.roofline(200, 101, "float32", 1.0)
    keys = ("level", "bound", "floor_seconds", "predicted_seconds", "predicted_share")
    assert [near[key] for key in keys] == ["L1", "arithmetic", 10, 2.5, 4]
    assert [far[key] for key in keys] == ["memory", "bandwidth", 10.1, 10.1, 1]


def test_without_a_measured_peak_there_is_no_floor(monkeypatch):
    levels = [{"name": "memory", "bytes": None, "bandwidth": 10.0}]
    monkeypatch.setattr(machine, "ceilings", lambda threads: {"flops": {"float32": None}, "levels": levels})
    planned = vc.plan_conv2d(X, W, backend="reference")
    assert planned.explain(as_dict=True)["attained_share"] is None
    assert "floor: unknown" in planned.explain()


def test_what_is_asked_for_and_impossible_is_refused_with_its_reason(backend):
    for algorithm in set(plan.ALGORITHMS) - {"auto", "direct"}:
        problem = operands(CONV[0], oracle.integers, 52, "float32")[0]
        module = backends.get_backend(backend)
        offered = algorithm in module.algorithms
        if offered and module.refusal(problem, "conv", algorithm, asked=True) is None:
            continue
        with pytest.raises(ValueError, match=f"algorithm='{algorithm}' cannot do this problem: {backend}"):
            plan.choose(problem, "conv", backend, algorithm)


def test_strict_refuses_winograd(backend):
    with pytest.raises(ValueError, match="cannot do this problem"):
        vc.plan_conv2d(X, W, backend=backend, algorithm="winograd", precision="strict")
    assert vc.plan_conv2d(X, W, backend=backend, precision="strict").algorithm != "winograd"


def test_high_has_small_tiles_except_for_the_weight(backend):
    case = next(case for case in CONV if case.name == "3x3-winograd-size")
    problem = dataclasses.replace(operands(case, oracle.integers, 54, "float32")[0], c=128, k=128)
    offered = backends.get_backend(backend).algorithms
    for operation in ("conv", "conv_input_grad", "conv_weight_grad"):
        chosen = [plan.choose(problem, operation, backend, precision=p).algorithm for p in plan.PRECISIONS]
        default, high, strict = chosen
        if "winograd" not in offered:
            assert default == high == strict
            continue
        large = operation == "conv_weight_grad"
        assert (default, high) == ("winograd", "winograd" if large else "winograd2")
        assert not strict.startswith("winograd")
        wrong = "winograd2" if large else "winograd"
        with pytest.raises(ValueError, match="dw"):
            plan.choose(problem, operation, backend, wrong, "high")
    with pytest.raises(ValueError, match="cannot do this problem"):
        vc.plan_conv2d(X, W, backend=backend, algorithm="winograd2", precision="strict")


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_small_tiles_are_of_three_taps(rank):
    def plan_of(taps, algorithm="auto"):
        w = np.zeros((64, 64, *(taps,) * rank), np.float32)
        make = getattr(vc, f"plan_conv{rank}d")
        options = {"padding": taps // 2, "backend": "native", "precision": "high", "algorithm": algorithm}
        return make((1, 64, *(12,) * rank), w, **options)

    assert plan_of(3, "winograd2").algorithm == "winograd2"
    for taps in (5, 7):
        planned = plan_of(taps)
        refusals = {c["algorithm"]: c["refusal"] for c in planned.explain(True, measure=False)["candidates"]}
        assert planned.algorithm == "direct"
        assert "3 taps" in refusals["winograd2"]
        assert "tiles of 2 outputs alone" in refusals["winograd"]


def test_the_choice_does_not_look_at_the_batch(backend):
    for n in (0, 1, 2, 64):
        chosen = vc.plan_conv2d((n, *X[1:]), W, backend=backend).algorithm
        assert chosen == vc.plan_conv2d(X, W, backend=backend).algorithm


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("backend", "cuda"), ("algorithm", "fft"), ("precision", "half"), ("precision", "High"), ("backend", 1),
        ("algorithm", None), ("precision", 2),
    ],
)  # fmt: skip
def test_unknown_names(argument, value):
    names = {"precision": "'default', 'high', 'strict'"}.get(argument, "")
    with pytest.raises(ValueError, match=rf"plan_conv2d: {argument}=.*must be one of.*{names}"):
        vc.plan_conv2d(X, W, **{argument: value})


@pytest.fixture
def missing(monkeypatch):
    """Make backends look as if they were not installed."""

    def hide(*names):
        for name in names:
            module = f"voxconv.backends.{backends.NAMES[name]}"
            monkeypatch.setitem(sys.modules, module, None)
            if name == "numba":
                monkeypatch.setattr(plan, "find_spec", lambda package: None)
        plan._load.cache_clear()
        plan._choose.cache_clear()

    yield hide
    monkeypatch.undo()
    plan._load.cache_clear()
    plan._choose.cache_clear()


def test_without_the_compiled_library_the_next_one_serves(missing):
    missing("native", "numba")
    planned = vc.plan_conv2d(X, W)
    assert planned.backend == "reference"
    refusals = {c["backend"]: c["refusal"] for c in planned.explain(as_dict=True)["candidates"]}
    assert "could not be imported" in refusals["native"]
    assert "pip install" in refusals["numba"]
    for function in (lambda: vc.max_pool2d(W, 2, backend="native"), lambda: vc.conv2d(W, W, backend="native")):
        with pytest.raises(RuntimeError, match="backend='native' could not be imported"):
            function()
    with pytest.raises(RuntimeError, match="needs the package 'numba'"):
        vc.conv2d(W, W, backend="numba")
    assert issubclass(MissingExtra, RuntimeError)


def test_the_first_candidate_that_accepts_is_taken(monkeypatch, missing):
    """The rule itself, on a backend made of refusals."""

    class Picky:
        name = "reference"
        algorithms = ("winograd", "im2col", "direct")

        @staticmethod
        def refusal(problem, operation, algorithm, *, asked):
            return None if algorithm == "im2col" or asked else f"{algorithm} is not for this"

    missing()
    monkeypatch.setattr(plan, "get_backend", lambda name: Picky)
    problem = dataclasses.replace(operands(CONV[0], oracle.integers, 53, "float32")[0])
    choice = plan.choose(problem, "conv", "reference")
    assert choice.algorithm == "im2col"
    assert [c.refusal for c in choice.candidates] == ["winograd is not for this", None, "direct is not for this"]
    assert plan.choose(problem, "conv", "reference", "direct").algorithm == "direct"
    assert plan.choose(problem, "conv", "reference", "winograd").algorithm == "winograd"
    with pytest.raises(ValueError, match="precision='strict' keeps to the bound"):
        plan.choose(problem, "conv", "reference", "winograd", "strict")


def test_runtime_info_goes_into_json():
    info = json.loads(json.dumps(vc.runtime_info()))
    assert info["voxconv"] == vc.__version__
    assert {"python", "numpy", "cffi", "numba", "platform", "native"} <= set(info)


class TestWorkspaceLimit:
    x = (2, 32, 40, 40)
    w = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32)

    def test_another_algorithm_is_taken_or_the_least_that_would_do_is_named(self):
        free = vc.plan_conv2d(self.x, self.w, padding=1, backend="native")
        threads = vc.get_num_threads()
        vc.set_num_threads(1)
        try:
            bytes_of = {}
            for algorithm in ("winograd", "direct", "im2col"):
                plan = vc.plan_conv2d(self.x, self.w, padding=1, algorithm=algorithm, backend="native")
                bytes_of[algorithm] = plan.workspace_bytes
            assert free.workspace_bytes == bytes_of[free.algorithm]
            least = min(bytes_of.values())
            for limit in sorted(bytes_of.values()):
                plan = vc.plan_conv2d(self.x, self.w, padding=1, workspace_limit=limit, backend="native")
                assert plan.workspace_bytes <= limit
            with pytest.raises(ValueError, match=f"workspace_limit.*{least} bytes"):
                vc.plan_conv2d(self.x, self.w, padding=1, workspace_limit=least - 1, backend="native")
        finally:
            vc.set_num_threads(threads)

    def test_threads_are_fewer_before_the_algorithm_is_another(self):
        threads = vc.get_num_threads()
        try:
            shape = (6, 32, 24, 24)  # an image is an item
            vc.set_num_threads(1)
            one = vc.plan_conv2d(shape, self.w, padding=1, backend="native")
            limit = one.workspace_bytes
            vc.set_num_threads(3)
            plan = vc.plan_conv2d(shape, self.w, padding=1, workspace_limit=limit, backend="native")
            assert plan.algorithm == one.algorithm
            assert plan.workspace_bytes <= limit < one.workspace_bytes
            x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
            oracle.assert_same_bits(plan(x), one(x))
        finally:
            vc.set_num_threads(threads)

    @pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
    def test_what_is_no_size_is_refused(self, limit, error):
        with pytest.raises(error, match="workspace_limit"):
            vc.plan_conv2d(self.x, self.w, workspace_limit=limit)


@pytest.mark.parametrize("case", [c for c in CONV if c.n and c.c][::4], ids=lambda case: case.name)
@pytest.mark.parametrize("activation", [None, ("leaky_relu", -3.0)])
@pytest.mark.parametrize("precision", ["default", "high"])
@pytest.mark.parametrize("seed", [52])
def test_the_error_bound_holds(case, activation, precision, backend, seed):
    problem, x, w, b, _ = operands(case, oracle.floats, seed, "float32")
    make = getattr(vc, f"plan_conv{case.rank}d")
    planned = make(x.shape, w, b, **case.options, activation=activation, backend=backend, precision=precision)
    exact = oracle.conv(problem, *oracle.wide(x, w, b))
    if activation:
        exact = np.where(exact < 0, exact * activation[1], exact)
    bound = planned.error_bound(x)
    assert bound.shape == exact.shape
    assert (np.abs(planned(x) - exact) <= bound).all()
    if not planned.algorithm.startswith("winograd") and not activation:
        terms = problem.flops // max(2 * exact.size, 1) + 1
        magnitudes = oracle.conv(problem, *oracle.magnitudes(x, w, b))
        assert (bound <= 1.01 * oracle.bound(magnitudes, terms, "float32")).all()


class TestAutotune:
    w = np.ones((8, 8, 3, 3), np.float32)

    def plan(self, **options):
        return vc.plan_conv2d((1, 8, 12, 12), self.w, padding=1, backend="native", autotune=True, **options)

    def test_a_choice_is_remembered(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VOXCONV_CACHE_DIR", str(tmp_path / "new"))
        first = self.plan()
        known = json.loads((tmp_path / "new" / "autotune.json").read_text())
        assert list(known.values()) == [f"native:{first.algorithm}"]
        other = "im2col" if first.algorithm != "im2col" else "direct"
        (tmp_path / "new" / "autotune.json").write_text(json.dumps({key: f"native:{other}" for key in known}))
        assert self.plan().algorithm == other
        assert self.plan(precision="strict").algorithm in ("direct", "im2col")

    @pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, None])
    def test_a_cache_that_is_broken_or_cannot_be_written_does_no_harm(self, content, tmp_path, monkeypatch):
        if content is None:
            (tmp_path / "file").write_text("")
            monkeypatch.setenv("VOXCONV_CACHE_DIR", str(tmp_path / "file"))
        else:
            (tmp_path / "autotune.json").write_text(content)
            monkeypatch.setenv("VOXCONV_CACHE_DIR", str(tmp_path))
        x = np.ones((1, 8, 12, 12), np.float32)
        planned = self.plan()
        expected = vc.conv2d(x, self.w, padding=1, algorithm=planned.algorithm, backend="native")
        oracle.assert_same_bits(planned(x), expected)

    def test_no_room_to_try_is_a_memory_error_that_says_so(self):
        with pytest.raises(MemoryError, match=r"plan_conv2d: input_shape=\(1, 8, 4194304, 4194304\) autotune"):
            vc.plan_conv2d((1, 8, 1 << 22, 1 << 22), self.w, backend="native", autotune=True)

    def test_a_user_without_a_home_is_served_unremembered(self, monkeypatch):
        from voxconv import autotune

        def home():
            raise RuntimeError("Could not determine home directory.")

        for name in ("VOXCONV_CACHE_DIR", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(autotune.Path, "home", home)
        assert self.plan()(np.ones((1, 8, 12, 12), np.float32)).shape == (1, 8, 12, 12)

    def test_the_fastest_by_the_clock_wins(self, tmp_path, monkeypatch):
        from voxconv import autotune

        monkeypatch.setenv("VOXCONV_CACHE_DIR", str(tmp_path))
        now, slow = [0.0], {"direct": 3.0, "im2col": 1.0, "depthwise": 2.0}

        class Fake:
            name = "fake"

            def pack(self, problem, operation, algorithm, weight):
                return None

            def conv(self, problem, algorithm, x, packed, bias, out):
                now[0] += slow[algorithm]

        problem = vc.plan_conv2d((1, 8, 12, 12), self.w).problem
        able = [(Fake(), algorithm) for algorithm in slow]
        assert autotune.fastest(problem, able, self.w, None, "facts", clock=lambda: now[0])[1] == "im2col"
        slow["im2col"] = 9.0
        assert autotune.fastest(problem, able, self.w, None, "facts", clock=lambda: now[0])[1] == "im2col"
        assert autotune.fastest(problem, able, self.w, None, "other", clock=lambda: now[0])[1] == "depthwise"
