"""Levels are the best there are, and a kernel's weights on them are the same few integers in every channel."""

from __future__ import annotations

import numpy as np
import pytest

from featherweight.clustering.levels import best_levels
from featherweight.repair.weights.codebook import clustered

RANDOM = np.random.default_rng(0)


def error(values, weights, levels):
    return float((weights * np.min((values[:, None] - np.asarray(levels)[None]) ** 2, axis=1)).sum())


@pytest.mark.parametrize("seed", range(20))
def test_no_other_division_into_three_is_better(seed):
    random = np.random.default_rng(seed)
    values, weights = np.sort(random.integers(-127, 128, 9)).astype(float), random.random(9) + 0.1

    def level(a, b):
        return [np.rint(np.average(values[a:b], weights=weights[a:b]))] if b > a else []

    tried = [[*level(0, i), *level(i, j), *level(j, 9)] for i in range(1, 9) for j in range(i, 10)]
    best = min(error(values, weights, levels) for levels in tried)
    assert error(values, weights, best_levels(values, weights, 3)) <= best + 1e-9


def test_fixed_levels_are_there_and_the_others_the_best_beside_them():
    values, weights = RANDOM.normal(0, 30, 4000).clip(-127, 127), np.ones(4000)
    fixed = (-127, 0, 127)
    levels = best_levels(values, weights, 8, fixed)
    assert len(levels) == 8
    assert {*fixed} <= {*levels.tolist()}
    found = error(values, weights, levels)
    for place, level in enumerate(levels):
        for step in (-1, 1) if level not in fixed else ():
            moved = levels.copy()
            moved[place] += step
            assert error(values, weights, moved) >= found - 1e-6


def test_more_levels_than_values_are_the_values():
    assert best_levels(np.array([3.0, 3.0, -5.0]), np.ones(3), 16).tolist() == [-5, 3]
    assert best_levels(np.zeros(5), np.ones(5), 4).tolist() == [0]


@pytest.mark.parametrize("has_moments", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("clusters", [4, 16])
def test_int8_makes_the_same_few_integers_in_every_channel(clusters, per_channel, has_moments):
    rows = RANDOM.normal(size=(24, 40)) * RANDOM.uniform(0.1, 4, (24, 1))
    x = RANDOM.normal(size=(300, 40)) @ RANDOM.normal(size=(40, 40))
    made = clustered(rows, clusters, (x.T @ x)[None] if has_moments else None, per_channel=per_channel)
    largest = np.abs(made.values).max(axis=1, keepdims=True) if per_channel else np.abs(made.values).max()
    integers = np.rint(made.values / (largest.astype(np.float64) / 127))
    np.testing.assert_array_equal(integers, made.integers)
    assert len(np.unique(integers)) <= clusters
    assert {*made.levels.tolist()} == {*np.unique(integers).astype(int).tolist()}


def test_moments_lower_the_error_of_outputs():
    rows, x = RANDOM.normal(size=(32, 64)), RANDOM.normal(size=(500, 64)) @ RANDOM.normal(size=(64, 64))
    moments = (x.T @ x)[None]
    errors = [float(np.linalg.norm(x @ (clustered(rows, 8, given).values - rows).T)) for given in (None, moments)]
    assert errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize("has_moments", [False, True])
def test_zeros_stay_and_count_as_a_value(has_moments):
    rows = RANDOM.normal(size=(16, 64)) * (RANDOM.random((16, 64)) < 0.3)
    rows[3] = 0
    x = RANDOM.normal(size=(200, 64))
    made = clustered(rows, 8, (x.T @ x)[None] if has_moments else None)
    assert (made.values[rows == 0] == 0).all()
    assert 0 in made.levels
    assert len(made.levels) <= 8
    assert np.isfinite(made.values).all()


def test_rows_of_groups_use_the_moments_of_their_own():
    rows, x = RANDOM.normal(size=(8, 32)), RANDOM.normal(size=(2, 100, 32)) * np.array([1.0, 30.0])[:, None, None]
    made = clustered(rows, 16, x.transpose(0, 2, 1) @ x)
    assert made.values.shape == rows.shape
    assert np.abs(made.values - rows).max() < 0.6


def test_moments_of_nothing_are_no_obstacle():
    rows = RANDOM.normal(size=(8, 32))
    for moments in (np.zeros((1, 32, 32)), np.full((1, 32, 32), np.nan)):
        made = clustered(rows, 16, moments)
        assert len(made.levels) <= 16
        assert np.isfinite(made.values).all()
