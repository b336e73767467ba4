"""Where results are written: what `compute` sees, and what the caller gets back."""

from __future__ import annotations

import numpy as np
import pytest

from voxconv.results import fill, fill_all

F32, I64 = np.dtype("float32"), np.dtype("int64")


def test_outputs_that_overlap_each_other_are_computed_apart():
    room = np.zeros(8, np.int64)
    values, places = room.view(np.float64)[:4].reshape(1, 4), room[:4].reshape(1, 4)

    def compute(v, i):
        assert not np.shares_memory(v, i)
        v[...], i[...] = 1, 2

    results = fill_all("f", [("out[0]", values, values.dtype), ("out[1]", places, I64)], (1, 4), True, (), compute)
    assert results[0] is values
    assert results[1] is places
    assert (places == 2).all()


def test_a_fitting_output_is_written_in_place():
    out = np.zeros((2, 3), F32)
    assert fill("f", out, (2, 3), True, F32, (), lambda y: np.shares_memory(y, out) and y.fill(5)) is out
    assert (out == 5).all()


def test_an_output_without_the_sample_axis_is_seen_with_it():
    shapes = []
    result = fill("f", None, (1, 2, 3), False, F32, (), lambda y: shapes.append(y.shape))
    assert result.shape == (2, 3)
    assert shapes == [(1, 2, 3)]


def test_nothing_is_computed_for_an_empty_result():
    result = fill("f", None, (0, 3), True, F32, (), lambda y: pytest.fail("called"))
    assert result.shape == (0, 3)
