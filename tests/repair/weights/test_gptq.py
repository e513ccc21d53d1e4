"""GPTQ and scales on their own: against brute force, and where moments are singular, empty or too few."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from featherweight.repair.weights.gptq import Grid, cholesky, factor_of, gptq, settled, with_fitted_scales
from featherweight.repair.weights.halves import Halves, shrunk
from featherweight.repair.weights.moments import InputMoments, total_error
from featherweight.repair.weights.scales import best_scales, with_spread


def _correlated(count: int, depth: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, depth)) @ random.normal(size=(depth, depth))


def _moments(x: np.ndarray, exact: np.ndarray | None = None) -> InputMoments:
    exact = x if exact is None else exact
    second = (x.T @ x, exact.T @ exact, exact.T @ x)
    return InputMoments(len(x), exact.sum(0)[None], x.sum(0)[None], *(part[None] for part in second))


def _grid(rows: int, scale: float = 0.1, limit: int = 7) -> Grid:
    return Grid(np.full((1, rows, 1), scale), 0, -limit, limit)


def test_gptq_is_near_the_best_integers_and_better_than_the_nearest():
    x = _correlated(200, 4)
    moments = (x.T @ x)[None]
    weights = np.random.default_rng(1).normal(scale=0.3, size=(1, 20, 4))
    grid = _grid(20, 0.2, 3)

    def errors(integers):
        return total_error(weights - grid.values(integers), moments)[0]

    every = np.array(list(itertools.product(range(-3, 4), repeat=4)), np.float64)
    best = np.array([errors(np.broadcast_to(q, (1, 20, 4))) for q in every]).min(axis=0)
    found, nearest = errors(gptq(weights, moments, grid)), errors(grid.integers(weights))
    assert found.sum() < 0.6 * nearest.sum()
    assert found.sum() < 2.5 * best.sum()


def test_without_correlations_gptq_gives_the_nearest_integers():
    weights = np.random.default_rng(2).normal(scale=0.3, size=(3, 5, 150))
    moments = np.stack([np.diag(np.random.default_rng(g).uniform(0.1, 9, 150)) for g in range(3)])
    grid = Grid(np.random.default_rng(3).uniform(0.05, 0.1, (3, 5, 1)), 0, -7, 7)
    assert np.array_equal(gptq(weights, moments, grid), grid.integers(weights))


def test_blocks_of_columns_make_no_difference_to_what_each_column_hears(monkeypatch):
    x = _correlated(400, 40)
    weights, grid = np.random.default_rng(4).normal(size=(1, 6, 40)), _grid(6, 0.3)
    whole = gptq(weights, (x.T @ x)[None], grid)
    monkeypatch.setattr("featherweight.repair.weights.gptq._BLOCK", 7)
    assert np.array_equal(gptq(weights, (x.T @ x)[None], grid), whole)


def test_no_single_integer_can_be_changed_for_the_better_once_they_have_settled():
    x = _correlated(300, 24)
    moments, weights = (x.T @ x)[None], np.random.default_rng(12).normal(scale=0.3, size=(1, 16, 24))
    grid = _grid(16, 0.15)

    def errors(integers):
        return total_error(weights - grid.values(integers), moments)[0]

    first = gptq(weights, moments, grid)
    found = settled(weights, moments, grid, first)
    assert errors(found).sum() < 0.995 * errors(first).sum()
    for _ in range(3):
        found = settled(weights, moments, grid, found)
    for column, change in itertools.product(range(24), (-1, 1)):
        other = found.copy()
        other[:, :, column] = np.clip(other[:, :, column] + change, -7, 7)
        assert (errors(other) >= errors(found) * 0.99).all()  # but for what damping adds to the error


def test_scales_are_fitted_to_the_integers_that_were_chosen():
    x = _correlated(300, 24)
    moments, weights = (x.T @ x)[None], np.random.default_rng(13).normal(scale=0.3, size=(1, 16, 24))
    grid = _grid(16, 0.15)
    integers = grid.integers(weights)
    fitted = with_fitted_scales(weights, moments, grid, integers)
    errors = [total_error(weights - each.values(integers), moments).sum() for each in (fitted, grid)]
    assert errors[0] < errors[1]
    for factor in (0.98, 1.02):
        other = fitted.scaled(factor)
        assert total_error(weights - other.values(integers), moments).sum() > errors[0] * 0.999
    dead = with_fitted_scales(np.zeros((1, 16, 24)), moments, grid, np.zeros((1, 16, 24)))
    assert np.allclose(dead.scale, grid.scale)


def test_scales_of_blocks_are_fitted_together():
    x = _correlated(300, 24)
    moments, weights = (x.T @ x)[None], np.random.default_rng(14).normal(scale=0.3, size=(1, 80, 24))
    grid = Grid(np.full((1, 80, 24), 0.1), 0, -7, 7, 8)
    integers = grid.integers(weights)
    integers[0, 3, 8:16] = 0  # a block of nothing
    fitted = with_fitted_scales(weights, moments, grid, integers)
    errors = [total_error(weights - each.values(integers), moments)[0] for each in (fitted, grid)]
    assert (errors[0] < errors[1] * 1.001).all()
    assert errors[0].sum() < 0.9 * errors[1].sum()
    assert (fitted.scale.reshape(80, 3, 8) == fitted.scale.reshape(80, 3, 8)[:, :, :1]).all()
    assert np.allclose(fitted.scale[0, 3, 8:16], 0.1, rtol=1e-3)
    for block in range(3):
        factors = np.ones((1, 80, 24))
        factors[:, :, 8 * block : 8 * block + 8] = 1.02
        other = total_error(weights - fitted.scaled(factors).values(integers), moments)[0]
        assert other.sum() > errors[0].sum()


@pytest.mark.parametrize("kind", ["zero", "one input", "one of them never used", "of one rank"])
def test_singular_moments_still_give_integers(kind):
    x = np.zeros((50, 6))
    if kind == "one input":
        x[:, 2] = 3
    elif kind == "one of them never used":
        x = _correlated(50, 6)
        x[:, 4] = 0
    elif kind == "of one rank":
        x[:] = np.arange(50)[:, None]
    weights, grid = np.random.default_rng(5).normal(scale=0.3, size=(1, 4, 6)), _grid(4)
    found = gptq(weights, (x.T @ x)[None], grid)
    assert found is not None
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 7
    unused = [c for c in range(6) if not x[:, c].any()]
    assert np.array_equal(found[:, :, unused], grid.integers(weights)[:, :, unused])


def test_large_moments_are_factored_in_place(monkeypatch):
    monkeypatch.setattr("featherweight.repair.weights.gptq._LARGE", 100)
    moments = np.stack([(x := _correlated(700, 300, seed)).T @ x for seed in range(2)])
    given = moments.copy()
    found = cholesky(given)
    assert found is given
    np.testing.assert_allclose(np.tril(found), np.linalg.cholesky(moments), rtol=1e-6, atol=1e-6 * np.abs(found).max())
    with pytest.raises(np.linalg.LinAlgError):
        cholesky(-moments)


def test_moments_that_are_no_numbers_give_nothing():
    assert factor_of(np.full((1, 3, 3), np.nan), np.arange(3)[None]) is None
    assert gptq(np.ones((1, 2, 3)), np.full((1, 3, 3), np.inf), _grid(2)) is None


def test_scales_are_the_best_of_those_tried_for_the_output():
    x = _correlated(100, 16)
    moments, weights = (x.T @ x)[None], np.random.default_rng(6).standard_t(2, size=(1, 8, 16))
    grid = Grid(np.abs(weights).max(axis=2, keepdims=True) / 7, 0, -7, 7)

    def error(of: Grid) -> np.ndarray:
        return total_error(weights - of.values(of.integers(weights)), moments)

    found = best_scales(weights, moments, grid, bits=4, is_shared=False, is_power_of_two=False)
    assert (error(found) <= error(grid) * (1 + 1e-6)).all()
    assert error(found).sum() < 0.8 * error(grid).sum()
    shared = best_scales(weights, moments, _grid(8, 1.0), bits=4, is_shared=True, is_power_of_two=True)
    assert len(np.unique(shared.scale)) == 1
    assert np.log2(shared.scale[0, 0, 0]) == np.rint(np.log2(shared.scale[0, 0, 0]))


def test_scales_of_blocks_are_chosen_for_each_and_are_float16():
    x = _correlated(100, 64)
    weights = np.random.default_rng(7).standard_t(2, size=(1, 4, 64))
    largest = np.abs(weights.reshape(1, 4, 2, 32)).max(axis=3)
    grid = Grid(np.repeat((largest / 7).astype(np.float16).astype(np.float64), 32, axis=2), 0, -7, 7, 32)
    found = best_scales(weights, (x.T @ x)[None], grid, bits=4, is_shared=False, is_power_of_two=False)
    assert found.scale.shape == (1, 4, 64)
    assert np.array_equal(found.scale, found.scale.astype(np.float16))
    blocks = found.scale.reshape(1, 4, 2, 32)
    assert (blocks == blocks[..., :1]).all()


def test_the_spread_of_outputs_is_that_of_the_float_layer():
    x = _correlated(300, 12)
    weights = np.random.default_rng(8).normal(size=(1, 5, 12))
    moments = _moments(0.7 * x, x)
    grid = Grid(np.abs(weights).max(axis=2, keepdims=True) / 127, 0, -127, 127)
    found = with_spread(weights, grid.integers(weights), moments, grid)
    wide = total_error(found.values(grid.integers(weights)), moments.rounded_squares)
    assert wide == pytest.approx(total_error(weights, moments.squares), rel=1e-3)


def test_correlations_that_halves_disagree_about_are_shrunk():
    x = np.random.default_rng(9).normal(size=(40, 60))
    chance = Halves(_moments(x[:20]), _moments(x[20:]))
    assert chance.shrinkage > 0.9
    steady = _correlated(4000, 6)
    assert Halves(_moments(steady[::2]), _moments(steady[1::2])).shrinkage < 0.02
    diagonal = np.diagonal(shrunk(chance.both.rounded_squares, 1.0)[0])
    assert np.array_equal(shrunk(chance.both.rounded_squares, 1.0)[0], np.diag(diagonal))


def test_one_sample_alone_says_nothing_of_chance():
    x = _correlated(50, 5)
    alone = Halves(_moments(x), _moments(np.zeros((0, 5))))
    assert alone.shrinkage == 0.5
    assert np.array_equal(alone.regressed(np.ones((1, 2, 5))), np.ones((1, 2, 5)))


def test_regressed_weights_undo_what_both_halves_see_wrong_and_nothing_else():
    x = _correlated(2000, 8)
    weights = np.random.default_rng(10).normal(size=(1, 3, 8))
    wrong = Halves(*(_moments(part * 0.8, part) for part in (x[::2], x[1::2])))
    assert wrong.both.mixed is not None
    left, before = (
        float(total_error(weights - 0.8 * made, (x.T @ x)[None]).sum()) for made in (wrong.regressed(weights), weights)
    )
    assert left < 0.05 * before
    noise = np.random.default_rng(11).normal(scale=1e-3, size=x.shape)
    random = Halves(*(_moments(part + each, part) for part, each in ((x[::2], noise[::2]), (x[1::2], noise[1::2]))))
    assert np.allclose(random.regressed(weights), weights, rtol=0.01)


def test_moments_about_means_are_those_of_what_is_centred():
    x, y = _correlated(30, 4), _correlated(30, 4, seed=1)
    means = x.mean(0), y.mean(0)
    found = _moments(y, x).about(means[0][None], means[1][None])
    wanted = _moments(y - means[1], x - means[0])
    for name in ("sums", "rounded_sums", "rounded_squares", "squares", "mixed"):
        assert np.allclose(getattr(found, name), getattr(wanted, name), atol=1e-8), name
