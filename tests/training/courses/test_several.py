"""One set of weights for several chips: each model stays its file's, bit for bit, and all have the same weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests import models
from tests.training.checking import assert_equal, runtime_outputs

import featherweight as fw

TARGETS = ["litert", "esp32-s3", "esp32-p4"]


def made(**options):
    return fw.quantize_aware(
        models.lowered("convnet"), calibration=models.samples("convnet", 8, seed=1), targets=TARGETS, progress=False,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    several = made(teacher=True)
    several.compile(keras.optimizers.Adam(3e-4))
    x = models.batch("convnet", 32, seed=2)
    before = several.evaluate(x)
    losses = several.fit(x, epochs=3, batch_size=8)
    return several, x, before, losses


def test_all_have_one_set_of_weights_and_a_loss_each(trained):
    several, x, before, losses = trained
    first, *others = several.models.values()
    for other in others:
        for one, another in zip(first.trainable_variables, other.trainable_variables, strict=True):
            np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v) for v in (one, another)))
    assert list(losses) == list(before) == TARGETS
    assert all(len(rows) == 3 and np.isfinite(rows).all() for rows in losses.values())
    assert set(several.evaluate(x)) == set(TARGETS)


def test_each_file_computes_what_its_model_predicts(trained):
    several, x, *_ = trained
    finished = fw.finalize(several)
    assert list(finished) == TARGETS
    for name, result in finished.items():
        assert result.plan.target == name
        assert_equal(several.models[name].predict(x, verbose=0), runtime_outputs(result, x))


def test_the_same_again_is_the_same(trained):
    several, x, *_ = trained
    again = made(teacher=True)
    again.compile(keras.optimizers.Adam(3e-4))
    again.fit(x, epochs=3, batch_size=8)
    pairs = zip(*(made.models["litert"].trainable_variables for made in (several, again)), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v) for v in (one, other)))


def test_what_can_not_be_shared_is_refused():
    with pytest.raises(fw.RecipeError, match="with several targets ranges can't be learned"):
        made(train_ranges="learned")
    with pytest.raises(fw.RecipeError, match="targets= goes without target= and plan="):
        made(target="tflm")
    with pytest.raises(fw.RecipeError, match=r"a list of targets .*, each once"):
        fw.quantize_aware(models.lowered("convnet"), targets=["litert", "litert"])
    several = made()
    with pytest.raises(fw.RecipeError, match="compile it before fit"):
        several.fit(models.batch("convnet", 8, seed=2))
