from __future__ import annotations

import sys

import numpy as np
import pytest
from tests.runtime import tiny

from featherweight import tflite
from featherweight.errors import RecipeError
from featherweight.graph import Tensor
from featherweight.runtime import benchmark
from featherweight.runtime.benchmark import random_inputs


def test_rows_come_in_order_with_ratios_to_the_first(tmp_path):
    path = tmp_path / "b.tflite"
    tflite.save(tiny.two_inputs(), path)
    rows = benchmark({"a": tiny.dense(free=True), "b": path}, runs=5, warmup=1)
    assert [row.name for row in rows] == ["a", "b"]
    assert rows[0].ratio == 1.0
    assert all(0 < row.low_ms <= row.median_ms <= row.high_ms and row.ratio > 0 for row in rows)
    assert {(row.runs, row.threads) for row in rows} == {(5, 1)}
    assert [row.name for row in benchmark([path], runs=1, warmup=0)] == [str(path)]


def test_rounds_are_interleaved(monkeypatch):
    order: list[str] = []
    seconds = {"a": 2.0, "b": 3.0, "c": 1.0}

    def fake(session, feed, repeats):
        order.append(session.model.main.name)
        return seconds[order[-1]]

    monkeypatch.setattr(sys.modules["featherweight.runtime.benchmark"], "_seconds", fake)
    models = {name: tiny.renamed(tiny.dense(), name) for name in "abc"}
    rows = benchmark(models, runs=3, warmup=1)
    assert [row.ratio for row in rows] == [1.0, 1.5, 0.5]
    assert [row.median_ms for row in rows] == [2000, 3000, 1000]
    timed = order[6:]  # two runs of each come before, to see how long they take
    rounds = ["".join(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert sorted(map("".join, map(sorted, rounds))) == ["abc"] * 4
    assert len(set(rounds)) == 3


def test_nothing_to_time_is_an_error():
    with pytest.raises(RecipeError, match="there are no models to time"):
        benchmark({})
    with pytest.raises(RecipeError, match="runs is 0"):
        benchmark({"a": tiny.dense()}, runs=0)


def test_random_inputs_suit_every_dtype():
    dtypes = ("float32", "int8", "uint8", "int32", "bool")
    arrays = random_inputs({dtype: Tensor(dtype, (1, 500), dtype) for dtype in dtypes})
    assert {name: array.dtype.name for name, array in arrays.items()} == {dtype: dtype for dtype in dtypes}
    assert set(np.unique(arrays["int32"])) == {0, 1}
    assert arrays["int8"].min() < -100
    assert abs(arrays["float32"]).max() <= 1
