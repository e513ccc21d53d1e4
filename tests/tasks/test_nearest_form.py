from __future__ import annotations

import math

import numpy as np
import pytest
from tests import models

import featherweight as fw


@pytest.fixture(scope="module")
def recurrent():
    keras = models.import_keras()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GRU(5)(inputs)))
    samples = np.random.default_rng(0).normal(size=(8, 3, 4)).astype(np.float32)
    return model, samples, fw.quantize(model, calibration=samples, progress=False).model


def test_a_live_recurrent_model_is_compared_in_the_form_that_was_quantized(recurrent):
    model, samples, quantized = recurrent
    rows = fw.compare(model, quantized, samples, progress=False)
    assert len(rows) > 20
    assert all(math.isfinite(row.sqnr_db) and row.sqnr_db > 15 for row in rows if row.kind == "output")


def test_loops_beside_steps_are_compared_at_their_outputs(recurrent):
    model, samples, quantized = recurrent
    rows = fw.compare(fw.load(model), quantized, samples, progress=False)
    assert [row.sqnr_db > 15 for row in rows if row.kind == "output"] == [True]


def test_a_live_recurrent_model_is_diagnosed_beside_its_file(recurrent):
    model, samples, quantized = recurrent
    found = fw.diagnose(model, fw.write(quantized), samples, progress=False)
    assert len(found.own_errors) > 10
