"""The catalogue's faults: memory and threads that are refused, forks, signals, callers at once, exits."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import inspect
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from unittest import mock

import dask
import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

import oracle
import voxconv as vc
from catalogue import check, names, numbers, run_check
from isolation import LIMIT

HERE = Path(__file__).parent


def everything(backend):
    """Each public function at least once, by its name and what is special about that call."""
    x, w, b = numbers(2, 8, 20, 21), numbers(8, 8, 3, 3), numbers(8)
    gy, wide, lone = numbers(2, 8, 20, 21), numbers(2, 8, 40, 42), numbers(8, 1, 3, 3)
    how = {"backend": backend}
    at = np.arange(2 * 8 * 10 * 10).reshape(2, 8, 10, 10) % 420
    side = 2 * np.arange(20)[:, None] * 42 + 2 * np.arange(21) + np.zeros((2, 8, 1, 1), int)
    each = {"groups": 8, "padding": 1, **how}
    return {
        "conv": lambda: vc.conv2d(x, w, b, padding=1, **how),
        "conv strict": lambda: vc.conv2d(x, w, b, padding=1, precision="strict", **how),
        "conv strided": lambda: vc.conv2d(np.asfortranarray(x), w, stride=2, **how),
        "conv depthwise": lambda: vc.conv2d(x, lone, b, activation="relu", **each),
        "conv_transpose": lambda: vc.conv_transpose2d(x, w, padding=1, **how),
        "conv_transpose side by side": lambda: vc.conv_transpose2d(x, w[..., :2, :2], b, stride=2, **how),
        "conv_input": lambda: vc.grad.conv2d_input(x.shape, w, gy, padding=1, **how),
        "conv_input depthwise": lambda: vc.grad.conv2d_input(x.shape, lone, gy, **each),
        "conv_weight": lambda: vc.grad.conv2d_weight(x, w.shape, gy, padding=1, **how),
        "conv_weight strict": lambda: vc.grad.conv2d_weight(x, w.shape, gy, padding=1, precision="strict", **how),
        "conv_weight depthwise": lambda: vc.grad.conv2d_weight(x, lone.shape, gy, **each),
        "conv_bias": lambda: vc.grad.conv2d_bias(gy, **how),
        "conv_transpose_input": lambda: vc.grad.conv_transpose2d_input(x.shape, w, gy, padding=1, **how),
        "conv_transpose_weight": lambda: vc.grad.conv_transpose2d_weight(x, w.shape, gy, padding=1, **how),
        "conv_transpose_bias": lambda: vc.grad.conv_transpose2d_bias(gy, **how),
        "relu": lambda: vc.grad.relu(x, gy, **how),
        "relu_bias": lambda: np.append(*vc.grad.relu_bias(x, gy, **how)),
        "plan_conv": lambda: vc.plan_conv2d(x.shape, w, b, **how)(x),
        "max_pool": lambda: vc.max_pool2d(x, 2, **how),
        "max_pool places": lambda: np.append(*vc.max_pool2d(x, 2, return_indices=True, **how)),
        "max_pool bytes": lambda: vc.max_pool2d(x.astype("i1"), 2, **how),
        "max_unpool": lambda: vc.max_unpool2d(x[..., :10, :10], at, 2, output_size=x.shape[2:], **how),
        "max_pool_input": lambda: vc.grad.max_pool2d_input(x[..., :10, :10], at, x.shape, **how),
        "max_pool_input side by side": lambda: vc.grad.max_pool2d_input(gy, side, wide.shape, **how),
        "avg_pool": lambda: vc.avg_pool2d(x, 3, 2, **how),
        "avg_pool_input": lambda: vc.grad.avg_pool2d_input(x, wide.shape, 2, **how),
        "unfold": lambda: vc.unfold(x, 3, **how),
        "fold": lambda: vc.fold(numbers(2, 8 * 4, 100), (20, 20), 2, stride=2, **how),
    }


def test_everything_is_every_public_function():
    public = {name for home in (vc, vc.grad) for name in home.__all__ if inspect.isfunction(getattr(home, name))}
    settings = {"get_num_threads", "set_num_threads", "release_memory", "runtime_info"}
    called = {name.split()[0] for name in everything("reference")}
    assert {re.sub(r"\dd", "", name) for name in public - settings} == called


def live_bytes():
    from voxconv._native import lib

    from voxconv.backends import native

    native.release_kept_memory()
    return lib.vox_live_bytes()


# --------------------------------------------------------------------------------------------------
# Refused memory and threads, in a process of its own with tests/faults/faults.c in front of the C library


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    """Run one of the checks below with faults at hand."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    assert compiler, "a C compiler built this package"
    source = HERE / "faults" / "faults.c"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def run(function, backend):
        code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import test_catalogue_faults as t; t.{function}"
        command = [sys.executable, "-c", f"{code}({backend!r})"]
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    return run


def refuse_each_allocation(backend):
    """The n-th allocation fails, for every n until none does."""
    faults = ctypes.CDLL(None)
    refused = 0
    for name, call in everything(backend).items():
        expected = call()
        before = live_bytes()
        gc.freeze()  # a collection looks at what comes from now on
        for n in range(1, 1000):
            live_bytes()  # nothing kept: every allocation is made anew
            faults.fault_allocation(ctypes.c_long(n))
            try:
                found = call()
            except MemoryError:
                found = None
            finally:
                fired = faults.fault_fired()
                faults.fault_allocation(ctypes.c_long(0))
            if not fired:
                break
            refused += 1
            # a second try after giving kept memory back may have succeeded
            assert found is None or found.tobytes() == expected.tobytes(), name
            del found
            gc.collect()
            assert live_bytes() == before, f"{name} lost memory at allocation {n}"
            oracle.assert_same_bits(call(), expected)
        else:
            raise AssertionError(f"{name} never got through")
    print(refused)


def refuse_each_thread(backend):
    """The n-th thread and all after it are not to be had: the same bits from fewer."""
    faults = ctypes.CDLL(None)
    x, w = numbers(2, 16, 40, 40), numbers(16, 16, 3, 3)
    expected = vc.conv2d(x, w, backend=backend)
    for n in range(1, 9):
        child = os.fork()  # a pool of its own
        if not child:
            try:
                faults.fault_threads(ctypes.c_long(n))
                vc.set_num_threads(8)
                same = vc.conv2d(x, w, backend=backend).tobytes() == expected.tobytes()
                os._exit(0 if same and (n > 1 or backend != "native" or faults.fault_fired()) else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, n


def test_h1_each_allocation_is_refused_once(backend, preloaded):
    if backend == "reference":
        pytest.skip("NumPy's own einsum does not survive a refused allocation")
    assert int(preloaded("refuse_each_allocation", backend)) >= 14


def test_h3_each_thread_is_refused_once(backend, preloaded):
    preloaded("refuse_each_thread", backend)


@check("H2")
def h2_an_address_space_that_is_too_small(backend):
    x, w = numbers(1, 16, 64, 64), numbers(16, 16, 3, 3)
    expected = vc.conv2d(x, w, backend=backend)
    vc.release_memory()  # and with it the addresses of memory that is kept
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), hard))
    try:
        with pytest.raises(MemoryError):
            vc.conv2d(np.broadcast_to(np.float32(1), (1, 1, 9000, 9000)), w[:1, :1], backend=backend)
        with pytest.raises(MemoryError):
            vc.unfold(x, 17, padding=16, backend=backend)
        oracle.assert_same_bits(vc.conv2d(x, w, backend=backend), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# --------------------------------------------------------------------------------------------------
# Growth


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def growth(backend, calls):
    """Growth in bytes over so many calls of one shape, of varying shapes, of rejections; of large results, a tenth."""
    x, w = numbers(1, 3, 8, 8), numbers(4, 3, 3, 3)
    shapes = [(numbers(1, 2, 6 + i % 7, 5 + i % 11), numbers(3, 2, 1 + i % 3, 1 + i % 4)) for i in range(77)]
    out = np.empty((1, 4, 6, 6), np.float32)
    large, one = [numbers(1, 1, 260 + 3 * i, 270) for i in range(7)], numbers(1, 1, 1, 1)

    def refused(_):
        try:
            vc.conv2d(x, w, stride=0, backend=backend)
        except ValueError:
            return
        raise AssertionError("accepted")

    kinds = {
        "fixed": lambda i: vc.conv2d(x, w, out=out, backend=backend),
        "varying": lambda i: vc.conv2d(*shapes[i % 77], backend=backend),
        "refused": refused,
        "recycled": lambda i: vc.conv2d(large[i % 7], one, backend=backend),
    }
    grown = {}
    for name, call in kinds.items():
        many = calls // 10 if name == "recycled" else calls
        for i in range(min(many, 2000)):
            call(i)
        before, live = resident(), live_bytes()
        for i in range(many):
            call(i)
        grown[name] = resident() - before
        assert live_bytes() == live, name
    return grown


@check("H4", "H5", "H6")
def h4_h5_h6_many_calls_do_not_grow(backend):
    for name, grown in growth(backend, 5000 if backend == "native" else 500).items():
        assert grown < 1 << 20, f"{name}: {grown} bytes"


@check("H7")
def h7_outputs_that_were_nan(backend):
    from voxconv import memory
    from voxconv.backends import native

    take = memory.block

    def stained(size):
        pointer = take(size)
        ctypes.memset(int(native.ffi.cast("intptr_t", pointer)), 0xFF, size)
        return pointer

    for call in everything(backend).values():
        first = call()
        with mock.patch.object(native, "block", stained), mock.patch.object(memory, "block", stained):
            oracle.assert_same_bits(call(), first)  # workspace and large results full of NaN


@check("H8")
def h8_a_small_stack(backend):
    calls = everything(backend)
    expected = {name: call() for name, call in calls.items()}
    found = {}
    before = threading.stack_size(256 << 10 if backend == "numba" else 128 << 10)
    try:
        thread = threading.Thread(target=lambda: found.update({name: call() for name, call in calls.items()}))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    for name, result in expected.items():
        oracle.assert_same_bits(found[name], result)


# --------------------------------------------------------------------------------------------------
# Callers, forks, signals


@check("D15")
def d15_an_array_cannot_be_resized_during_a_call(backend):
    room = bytearray(4 * 16 * 200 * 200)
    x, w = np.frombuffer(room, np.float32).reshape(1, 16, 200, 200), numbers(32, 16, 5, 5)
    expected = vc.conv2d(x, w, backend=backend)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(vc.conv2d, x, w, backend=backend)
        with pytest.raises(BufferError):
            room.extend(b"1")
        del x
        oracle.assert_same_bits(job.result(), expected)


def forks(backend, cycles, threads=4):
    """So many children, of a process that has the pool and of one that is in the middle of a call."""
    x, w = numbers(2, 16, 30, 30), numbers(16, 16, 3, 3)
    before = vc.get_num_threads()
    vc.set_num_threads(threads)
    expected = vc.conv2d(x, w, padding=1, backend=backend).tobytes()
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            vc.conv2d(x, w, padding=1, backend=backend)

    worker = threading.Thread(target=busy)
    try:
        for i in range(cycles):
            if i == cycles // 2:
                worker.start()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if not child:
                signal.alarm(LIMIT)
                same = vc.conv2d(x, w, padding=1, backend=backend).tobytes() == expected
                os._exit(0 if same else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"fork {i}"
    finally:
        stop.set()
        if worker.ident:
            worker.join()
        vc.set_num_threads(before)
    return cycles


@check("I1", "I3")
def i1_i3_forks_before_and_during_a_call(backend):
    if backend == "numba":  # its first call compiles; the child inherits what was compiled
        vc.conv2d(numbers(2, 16, 30, 30), numbers(16, 16, 3, 3), padding=1, backend=backend)
    forks(backend, 20 if backend == "native" else 6)


@check("I6")
def i6_two_threads_with_one_output(backend):
    x, w = numbers(1, 8, 40, 40), numbers(8, 8, 3, 3)
    out = np.empty((1, 8, 40, 40), np.float32)
    expected = vc.conv2d(x, w, padding=1, backend=backend)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: vc.conv2d(x * i, w, padding=1, out=out, backend=backend), range(30)))
    oracle.assert_same_bits(vc.conv2d(x, w, padding=1, backend=backend), expected)


def tasks():
    return len(os.listdir("/proc/self/task"))


@check("I2", "I7")
def i2_i7_pools_of_pools(backend):
    before = vc.get_num_threads()
    vc.set_num_threads(3)
    x, w = numbers(2, 8, 30, 30), numbers(8, 8, 3, 3)
    expected = vc.conv2d(x, w, backend=backend)
    most, started = 0, tasks()

    def call(_):
        nonlocal most
        result = vc.conv2d(x, w, backend=backend)
        most = max(most, tasks())
        return result

    with ThreadPoolExecutor(5) as pool:
        for result in pool.map(call, range(40)):
            oracle.assert_same_bits(result, expected)
    assert most <= started + 5 + 2, "one pool serves all callers"
    with ThreadPool(5) as pool:
        for result in pool.map(call, range(40)):
            oracle.assert_same_bits(result, expected)
    assert most <= started + 5 + 2 + 3, "one pool serves all callers, and ThreadPool has three threads of its own"
    if backend == "native":
        for kind in ("threading", "loky"):
            jobs = (joblib.delayed(vc.conv2d)(x, w, backend=backend) for _ in range(4))
            for result in joblib.Parallel(2, backend=kind)(jobs):
                oracle.assert_same_bits(result, expected)
        get_reusable_executor().shutdown()  # or its processes, and so this one, live for another five minutes
        for kind in ("threads", "processes"):
            jobs = [dask.delayed(vc.conv2d, pure=False)(x, w, backend=backend) for _ in range(8)]
            for result in dask.compute(*jobs, scheduler=kind, num_workers=3):
                oracle.assert_same_bits(result, expected)
    vc.set_num_threads(before)


@check("I10")
def i10_a_thousand_times_the_same(backend):
    x, w = numbers(1, 5, 9, 17), numbers(6, 5, 3, 3)
    first = vc.conv2d(x, w, backend=backend)
    for _ in range(1000 if backend == "native" else 50):
        oracle.assert_same_bits(vc.conv2d(x, w, backend=backend), first)


@check("I13")
def i13_a_rain_of_signals(backend):
    calls = everything(backend)
    expected = {name: call() for name, call in calls.items()}
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.siginterrupt(signal.SIGALRM, True)
    alarm = signal.alarm(0)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(20):
            for name, call in calls.items():
                oracle.assert_same_bits(call(), expected[name])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.alarm(alarm)
    assert seen


@names(__name__)
def test_faults(name, backend, child):
    child.run(run_check, __name__, name, backend)


# --------------------------------------------------------------------------------------------------
# A process of its own


def script(code, *, expect=0, **environment):
    code = "import numpy as np, voxconv as vc\n" + textwrap.dedent(code)
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=LIMIT
    )
    assert result.returncode == expect, result.stderr[-3000:]
    return result.stdout


def test_i8_the_cap_of_threads():
    report = "print(vc.get_num_threads(), vc.runtime_info()['thread_caps'])"
    here = len(os.sched_getaffinity(0))
    assert script(report, VOXCONV_NUM_THREADS="1").startswith("1 ")
    assert script(report, OMP_NUM_THREADS="1").startswith("1 ")
    assert "'OMP_NUM_THREADS': 7" in script(report, OMP_NUM_THREADS="7,3")
    assert script(report, VOXCONV_NUM_THREADS="64", OMP_NUM_THREADS="").startswith(f"{here} ")
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import voxconv as vc
        print(vc.get_num_threads())
    """
    pinned = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert pinned.stdout == "1\n"
    # a cap is where one starts; more may be asked for
    assert script("vc.set_num_threads(9); print(vc.get_num_threads())", VOXCONV_NUM_THREADS="1") == "9\n"


def long_call(latencies):
    """Interrupt a long call after 0.3 s; how long it took to hear of it is appended."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    x, w = np.ones((1, 128, 512, 512), np.float32), np.ones((128, 128, 3, 3), np.float32)
    sent = []

    def interrupt():
        time.sleep(0.3)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        while True:
            vc.conv2d(x, w, backend="native", precision="strict")
    except KeyboardInterrupt:
        latencies.append(time.monotonic() - sent[0])
    small_x, small_w = numbers(1, 2, 5, 5), numbers(3, 2, 3, 3)
    oracle.assert_within(
        vc.conv2d(small_x, small_w, backend="native"),
        vc.conv2d(small_x, small_w, backend="reference").astype(np.longdouble),
        np.full((1, 3, 3, 3), 1e-4),
    )


def test_i12_a_long_call_hears_of_an_interrupt():
    """Calls of 77 GFLOP each, one after another."""
    code = f"""
        import sys; sys.path.insert(0, {str(HERE)!r})
        import test_catalogue_faults as t
        latencies = []
        t.long_call(latencies)
        print(len(latencies))
    """
    assert script(code) == "1\n"


def test_i12_depthwise_of_a_large_kernel_is_cut_into_items():
    """Nothing interrupts an item; the cursor counts them."""
    from voxconv._native import ffi, lib

    x = np.ones((1, 1, 128, 1100), np.float32)
    weight = np.ones((1, 1, 101, 101), np.float32)
    plan = vc.plan_conv2d(x.shape, weight, algorithm="depthwise", backend="native")
    out, cursor = np.empty(plan.output_shape, np.float32), ffi.new("int64_t *")
    packed = plan._packed
    arrays = (ffi.from_buffer(x), packed.pointer, ffi.NULL, ffi.from_buffer(out), ffi.NULL)
    while lib.vox_conv_run(packed.call.struct, 1, *arrays, cursor) == lib.VOX_AGAIN:
        pass
    assert (out == 101 * 101).all()
    assert plan.problem.flops / 2 / cursor[0] < 1 << 27


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_i1_a_fork_before_the_first_call(threads):
    """Then another, of the parent that has a pool by now and of the child that has one of its own."""
    script(f"""
        import os, signal
        vc.set_num_threads({threads})
        x, w = np.ones((2, 16, 30, 30), "f4"), np.ones((16, 16, 3, 3), "f4")
        for _ in range(2):
            child = os.fork()
            signal.alarm({LIMIT})
            assert (vc.conv2d(x, w, precision="strict") == 144).all()
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """)


@pytest.mark.parametrize("threads", [1, 4])
def test_i14_a_process_ends_with_its_pool_alive(threads):
    script(f"""
        import threading
        vc.set_num_threads({threads})
        x, w = np.ones((4, 32, 64, 64), "f4"), np.ones((32, 32, 3, 3), "f4")
        vc.conv2d(x, w)
        def busy():
            while True:
                vc.conv2d(x, w)
        threading.Thread(target=busy, daemon=True).start()
    """)


def test_i15_no_other_runtime_of_threads_comes_along():
    script("""
        from pathlib import Path
        vc.conv2d(np.ones((1, 2, 9, 9), "f4"), np.ones((2, 2, 3, 3), "f4"), backend="native")
        loaded = Path("/proc/self/maps").read_text()
        assert not [name for name in ("libgomp", "libiomp", "libomp", "libtbb") if name in loaded]
    """)
    if importlib.util.find_spec("sklearn"):
        script("""
            from sklearn.cluster import KMeans
            x, w = np.ones((4, 32, 64, 64), "f4"), np.ones((32, 32, 3, 3), "f4")
            before = vc.conv2d(x, w)
            KMeans(2, n_init=1).fit(np.random.default_rng(0).normal(size=(500, 3)))
            assert (vc.conv2d(x, w) == before).all()
        """)


def test_i17_a_second_interpreter_is_refused_or_works():
    script("""
        try:
            import _xxsubinterpreters as interpreters
        except ImportError:
            raise SystemExit(0)
        other = interpreters.create()
        try:
            interpreters.run_string(other, "import voxconv, numpy; voxconv.max_pool1d(numpy.ones((1, 1, 4)), 2)")
        except Exception as error:
            assert "import" in str(error).lower() or "interpreter" in str(error).lower(), error
        assert vc.max_pool1d(np.ones((1, 1, 4)), 2).shape == (1, 1, 2)
    """)


def test_i18_imported_twice():
    script("""
        import importlib, sys
        first = vc.conv1d(np.ones((1, 1, 9)), np.ones((1, 1, 3)), backend="native")
        importlib.reload(vc)
        for name in [n for n in sys.modules if n.startswith("voxconv")]:
            del sys.modules[name]
        import voxconv as again
        assert again is not vc
        assert (again.conv1d(np.ones((1, 1, 9)), np.ones((1, 1, 3)), backend="native") == first).all()
        assert (vc.conv1d(np.ones((1, 1, 9)), np.ones((1, 1, 3)), backend="native") == first).all()
    """)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_i2_pools_of_processes(method):
    x, w = numbers(1, 3, 9, 9), numbers(2, 3, 3, 3)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for result in pool.starmap(vc.conv2d, [(x, w)] * 4):
            oracle.assert_same_bits(result, vc.conv2d(x, w))
