"""Masks that are found inside a compiled step, against NumPy's."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compilation import optimizations

from featherweight.sparsity import patterns
from featherweight.training.pruning.bisection import keep_highest

SIZES = (1, 7, 40)


@functools.cache
def compiled_masks(is_pooled: bool) -> Any:
    function = jax.jit(lambda scores, counts: keep_highest(scores, counts, is_pooled))

    def call(scores: Any, counts: Any) -> Any:
        with optimizations(are_on=True):
            return function(scores, counts)

    return call


@given(
    levels=st.integers(1, 30),
    part=st.floats(0, 1),
    is_pooled=st.booleans(),
    has_signs=st.booleans(),
    seed=st.integers(0, 99),
)
def test_compiled_masks_are_those_of_numpy(
    levels: int, part: float, is_pooled: bool, has_signs: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = [(rng.integers(-levels * has_signs, levels, size) / 7).astype(np.float32) for size in SIZES]
    if is_pooled:
        counts = [round(part * sum(SIZES))]
        expected = np.split(patterns.keep_highest(np.concatenate(scores), counts[0]), np.cumsum(SIZES)[:-1])
    else:
        counts = [round(part * size) for size in SIZES]
        expected = [patterns.keep_highest(one, count) for one, count in zip(scores, counts, strict=True)]
    found = compiled_masks(is_pooled)(scores, np.array(counts, np.int32))
    for one, other in zip(found, expected, strict=True):
        assert np.asarray(one).tolist() == other.tolist()


@pytest.mark.parametrize("values", [[np.inf, 0, 1, np.inf], [1e-45, 0, 3e38, 1e-38], [np.nan, 1, 0, 2]])
def test_compiled_masks_of_extreme_scores(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    order = np.argsort(scores, kind="stable")  # NaN is the last: a broken weight stays to be seen
    for count in range(5):
        kept = np.asarray(compiled_masks(is_pooled=False)([scores], np.int32([count]))[0])
        assert sorted(np.flatnonzero(~kept)) == sorted(order[:count])
