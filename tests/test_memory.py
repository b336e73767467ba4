"""Results over recycled memory: when a block comes back, and when it must not."""

from __future__ import annotations

import gc
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest

import voxconv as vc
from voxconv import memory
from voxconv.memory import LARGE, empty, release_memory

pytestmark = pytest.mark.skipif(
    "native" not in os.environ.get("VOXCONV_TEST_BACKENDS", "native"), reason="the compiled backend is not under test"
)
F32 = np.dtype(np.float32)
SHAPE = (LARGE // 4 + 3, 2)


def facts():
    gc.collect()
    return vc.runtime_info()["memory"]


@pytest.fixture(autouse=True)
def nothing_kept():
    release_memory()
    yield
    release_memory()


def test_a_large_result_is_aligned_writable_and_contiguous():
    a = empty(SHAPE, F32)
    assert (a.shape, a.dtype) == (SHAPE, F32)
    assert a.flags.c_contiguous
    assert a.flags.writeable
    assert a.ctypes.data % 64 == 0
    a[...] = 7
    assert (a == 7).all()


def test_a_small_result_is_numpys_own():
    assert empty((4, 4), F32).flags.owndata


def test_memory_comes_back_when_nothing_refers_to_it_and_not_before():
    first = empty(SHAPE, F32)
    address = first.ctypes.data
    views = [first[1:], memoryview(first), first.reshape(-1).view(np.int32)]
    del first
    while views:
        other = empty(SHAPE, F32)
        assert other.ctypes.data != address
        release_memory()
        views.pop()
    del other
    release_memory()
    block = empty(SHAPE, F32)
    address = block.ctypes.data
    del block
    assert empty(SHAPE, F32).ctypes.data == address


def test_kept_memory_is_counted_bounded_and_released():
    before = facts()
    held = [empty(SHAPE, F32) for _ in range(3)]
    size = held[0].nbytes
    assert facts()["live_bytes"] >= before["live_bytes"] + 3 * size
    held.clear()
    now = facts()
    assert now["live_bytes"] == before["live_bytes"]
    assert now["kept_bytes"] >= 3 * size
    for _ in range(100):
        held.append(empty((1 << 20, 4), F32))
    held.clear()
    assert facts()["kept_bytes"] <= 256 << 20
    release_memory()
    assert facts()["kept_bytes"] == 0


def test_pieces_of_a_kept_region_serve_smaller_requests_and_join_again():
    whole = empty((8 * LARGE,), np.dtype(np.uint8))
    first, size = whole.ctypes.data, whole.nbytes
    del whole
    kept = facts()["kept_bytes"]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)):
        pieces = {i: empty((2 * LARGE,), np.dtype(np.uint8)) for i in range(3)}
        for i in pieces:
            assert first <= pieces[i].ctypes.data < first + size - 2 * LARGE
            pieces[i][...] = i
        assert all((pieces[i] == i).all() for i in pieces)
        assert facts()["kept_bytes"] < kept - 6 * LARGE
        for i in order:
            del pieces[i]
        assert facts()["kept_bytes"] == kept
        assert empty((8 * LARGE,), np.dtype(np.uint8)).ctypes.data == first


def test_a_small_result_does_not_hold_back_a_large_region():
    before = facts()
    large = empty((64 * LARGE,), np.dtype(np.uint8))
    del large
    small = empty((LARGE,), np.dtype(np.uint8))
    release_memory()
    assert facts()["kept_bytes"] == before["kept_bytes"]
    large = empty((4 * LARGE,), np.dtype(np.uint8))
    del large
    small = empty((LARGE,), np.dtype(np.uint8))  # a piece of it, and the rest is not a region
    assert facts()["kept_bytes"] >= before["kept_bytes"] + 3 * LARGE
    release_memory()
    assert before["kept_bytes"] < facts()["kept_bytes"] < before["kept_bytes"] + 3 * 4096  # partial pages
    del small
    release_memory()
    assert facts()["kept_bytes"] == before["kept_bytes"]


def test_pages_beside_a_result_that_stays_go_where_they_are_too_many():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    release_memory()
    part, kept = 24 << 20, []
    for number in range(3):
        whole = empty((7 * (part + 64),), np.dtype(np.uint8))
        first, end = whole.ctypes.data, whole.ctypes.data + whole.nbytes
        del whole
        pieces = [empty((part,), np.dtype(np.uint8)) for _ in range(7)]
        assert all(first <= piece.ctypes.data < end for piece in pieces)
        for piece in pieces:
            piece[...] = number + 1
        kept.append(pieces)
    before, used = facts()["kept_bytes"], resident()
    staying = [pieces.pop(3) for pieces in kept]
    del piece, pieces
    kept.clear()
    assert before < facts()["kept_bytes"] <= 256 << 20
    assert resident() < used - (150 << 20)
    assert all((piece == number + 1).all() for number, piece in enumerate(staying))
    again = [empty((part,), np.dtype(np.uint8)) for _ in range(16)]
    for number, piece in enumerate(again):
        piece[...] = number
    assert all((piece == number).all() for number, piece in enumerate(again))
    assert all((piece == number + 1).all() for number, piece in enumerate(staying))
    del again, piece, staying
    release_memory()
    assert facts()["kept_bytes"] == 0


def test_the_oldest_regions_go_first():
    held = [empty(((40 << 20) + (i << 18),), np.dtype(np.uint8)) for i in range(10)]
    sizes = [array.nbytes for array in held]
    while held:
        held.pop(0)
    assert sum(sizes[-6:]) <= facts()["kept_bytes"] <= sum(sizes[-6:]) + 6 * 128


def test_requests_share_a_region_and_a_larger_one_takes_what_several_leave():
    one, two, three, four = (empty((4 * LARGE,), np.dtype(np.uint8)) for _ in range(4))
    first, step = one.ctypes.data, two.ctypes.data - one.ctypes.data
    assert [a.ctypes.data for a in (two, three, four)] == [first + i * step for i in (1, 2, 3)]
    del two, three
    assert empty((8 * LARGE,), np.dtype(np.uint8)).ctypes.data == first + step
    del four
    last = empty((16 * LARGE,), np.dtype(np.uint8))  # what the end lacks is added to it
    assert last.ctypes.data == first + step
    before = facts()["kept_bytes"]
    del last
    assert before == 0
    assert facts()["kept_bytes"] >= 16 * LARGE
    release_memory()
    assert facts()["kept_bytes"] == 0  # though one is still there
    assert empty((4 * LARGE,), np.dtype(np.uint8)).ctypes.data == first + step
    one[...] = 1


def test_results_of_calls_are_recycled_and_stay_their_owners():
    x = np.random.default_rng(0).standard_normal((1, 8, 128, 128)).astype(F32)
    w = np.random.default_rng(1).standard_normal((8, 8, 3, 3)).astype(F32)
    plan = vc.plan_conv2d(x.shape, w, padding=1)
    first = plan(x)
    copy = first.copy()
    results = [plan(x * k) for k in range(2, 6)]
    assert (first == copy).all()
    addresses = {r.ctypes.data for r in results}
    results.clear()
    assert plan(x).ctypes.data in addresses


def test_many_threads_at_once():
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            arrays = [empty((int(rng.integers(LARGE // 4, 2 * LARGE)),), F32) for _ in range(3)]
            arrays.pop(int(rng.integers(3)))
            arrays.append(empty((LARGE // 4,), F32))
            for i, array in enumerate(arrays):
                array[:] = seed * 10 + i
            if any((array != seed * 10 + i).any() for i, array in enumerate(arrays)):
                failures.append(seed)
            if rng.integers(20) == 0:
                release_memory()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_forked_child_allocates_while_others_do():
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            empty(SHAPE, F32)

    other = threading.Thread(target=churn)
    other.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                a = empty(SHAPE, F32)
                a[:] = 1
                os._exit(0 if a.sum() == a.size else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        other.join()


def test_no_room_is_a_memory_error():
    with pytest.raises(MemoryError):
        empty((1 << 50,), F32)


def test_without_the_compiled_library_results_are_plain_arrays(monkeypatch):
    monkeypatch.setattr(memory, "_native", None)
    assert empty(SHAPE, F32).flags.owndata
    release_memory()
