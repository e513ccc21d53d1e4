from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime import tiny

from featherweight.calibration import calibrate, subsets
from featherweight.calibration.histogram import Accumulator, Scratch, extremes
from featherweight.calibration.subsets import MOST_COUNTED, examples_lead, step_of, subset
from featherweight.graph import Tensor


@given(st.integers(1, 3_000_000))
def test_the_step_leaves_few_enough_values_and_shares_no_divisor(elements):
    step = step_of(elements)
    assert -(-elements // step) <= MOST_COUNTED
    assert step == 1 or math.gcd(step, elements) == 1
    assert step < 4 * -(-elements // MOST_COUNTED) + 60


@pytest.mark.parametrize("shape", [(112, 112, 96), (56, 56, 3), (480_000, 1), (1, 70_000), (7, 7, 1280), (197, 768)])
def test_all_channels_and_columns_are_counted_alike(shape):
    index = np.arange(math.prod(shape)).reshape(1, *shape)
    chosen, step = subset(index, 1)
    assert index.size <= chosen.size * step < index.size + step
    for axis, places in enumerate(np.unravel_index(chosen, shape)):
        counts = np.bincount(places, minlength=shape[axis])
        assert counts.max() - counts.min() <= max(2, chosen.size // shape[axis] // 8)


def test_each_example_is_counted_in_the_same_places(rng, monkeypatch):
    monkeypatch.setattr(subsets, "MOST_COUNTED", 10)
    values = rng.normal(size=(4, 5, 7)).astype(np.float32)
    whole, step = subset(values, 4)
    assert step == 4
    assert np.array_equal(whole, np.concatenate([subset(row[None], 1)[0] for row in values]))
    assert subset(values, 3)[1] == 1  # not so many examples: all is counted


def test_where_examples_lead():
    free = {"x": Tensor("x", (1, 5), "float32", shape_signature=(-1, 5))}
    assert examples_lead(Tensor("a", (1, 4, 3), "float32", shape_signature=(-1, 4, 3)), free)
    assert not examples_lead(Tensor("a", (4, 1, 3), "float32", shape_signature=(4, -1, 3)), free)
    assert not examples_lead(Tensor("a", (1, 4, 3), "float32"), free)
    assert examples_lead(Tensor("a", (4, 1, 3), "float32"), {"x": Tensor("x", (1, 5), "float32")})
    two = {"x": Tensor("x", (2, 5), "float32")}
    assert examples_lead(Tensor("a", (2, 4, 3), "float32"), two)
    assert not examples_lead(Tensor("a", (2, 2, 3), "float32"), two)
    assert not examples_lead(Tensor("a", (4, 2, 3), "float32"), two)


@pytest.mark.parametrize("free", [False, True])
def test_parts_of_tensors_merge_to_the_same_bytes(rng, monkeypatch, free):
    monkeypatch.setattr(subsets, "MOST_COUNTED", 1)
    samples = list(rng.normal(size=(6, 3)).astype(np.float32) * np.array([[1], [100], [1e-3], [5], [0], [7]], "f"))
    model = tiny.dense(free=free)
    expected = calibrate(model, samples, histograms=True)
    counted = expected.tensors["x"].histogram
    assert (counted.counted, counted.total) == (6, 24)  # the first of three each, for four
    assert (expected.tensors["x"].low, expected.tensors["x"].high) == (np.min(samples), np.max(samples))
    assert calibrate(model, samples[::-1], histograms=True) == expected
    assert calibrate(model, samples, histograms=True, threads=1) == expected
    parts = [calibrate(model, samples[a::2], histograms=True) for a in (0, 1)]
    assert parts[0].merge(parts[1]) == parts[1].merge(parts[0]) == expected
    if free:
        assert calibrate(model, [np.stack(samples[:2]), np.stack(samples[2:])], histograms=True) == expected


def test_extremes_that_were_not_counted_are_pieces_of_one_value():
    values = np.array([-8, 1, 1, 1, 9], np.float32)
    accumulator = Accumulator(Scratch())
    accumulator.widen(*extremes(values))
    accumulator.count(values[1:4])
    left, right, count = accumulator.result().pieces(-8.0, 9.0)
    assert (left[0], right[0], count[0]) == (-8, -8, 1)
    assert (left[-1], right[-1], count[-1]) == (9, 9, 1)
    assert count.tolist() == [1, 3, 1]
