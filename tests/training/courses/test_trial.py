"""The trial of learning rates: what it says, and that the model is then as it was."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests import models
from tests.training.checking import quantized

import featherweight as fw


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


@pytest.fixture(scope="module")
def model():
    made = quantized("convnet", "w4a8", teacher=True)
    made.compile(keras.optimizers.Adam(1e-3))
    made.train_on_batch(models.batch("convnet", 8, seed=5))
    return made


@pytest.fixture(scope="module")
def trial(model):
    before = state(model)
    found = fw.try_learning_rates(
        model, models.batch("convnet", 32, seed=2), rates=(10.0, 1e-3, 1.0), steps=3, batch_size=8
    )
    for one, other in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(one, other)
    return found


def test_rates_rise_and_end_with_the_first_that_leaves_the_optimum(trial):
    assert [row.rate for row in trial.rows] == [1e-3, 1.0]
    assert trial.rows[-1].loss > 3 * trial.before
    assert (trial.steps, trial.held_out) == (3, 8)
    assert trial.best in (1e-3, None)
    assert "1.0e-03" in str(trial)


def test_the_same_again_is_the_same(model, trial):
    again = fw.try_learning_rates(
        model, models.batch("convnet", 32, seed=2), rates=(10.0, 1e-3, 1.0), steps=3, batch_size=8
    )
    assert again == trial


def test_none_is_best_where_none_helps():
    rows = (fw.TriedRate(1e-3, 2.0), fw.TriedRate(1e-2, 3.0))
    assert fw.RateTrial(1.0, rows, 10, 8).best is None
    assert "no rate lowers the loss" in str(fw.RateTrial(1.0, rows, 10, 8))
    assert fw.RateTrial(2.5, rows, 10, 8).best == 1e-3


def test_wrong_use_is_said(model):
    x = models.batch("convnet", 8, seed=2)
    with pytest.raises(fw.DataError, match=r"3 sample\(s\) are too few; give at least 4"):
        fw.try_learning_rates(model, {name: value[:3] for name, value in x.items()})
    with pytest.raises(fw.DataError, match=r"8 sample\(s\) and 7 labels; give one for each"):
        fw.try_learning_rates(model, x, np.zeros(7))
    with pytest.raises(fw.RecipeError, match=r"rates.*finite number from 0 on, without 0"):
        fw.try_learning_rates(model, x, rates=(0.0,))
    plain = quantized("convnet")
    with pytest.raises(fw.RecipeError, match="compiled with an optimizer"):
        fw.try_learning_rates(plain, x)
    plain.compile(keras.optimizers.Adam(1e-3))
    with pytest.raises(fw.RecipeError, match="unless it has a teacher, a loss"):
        fw.try_learning_rates(plain, x)
    plain.compile(keras.optimizers.Adam(1e-3), "mse")
    with pytest.raises(fw.DataError, match="the loss of these samples and labels can"):
        fw.try_learning_rates(plain, x, np.zeros((8, 3, 5, 7)))
    plain.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 10)), "mse")
    with pytest.raises(fw.RecipeError, match="follows a schedule"):
        fw.try_learning_rates(plain, x)
