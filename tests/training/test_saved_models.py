"""Models that version 0.1.0 saved still load, predict what they predicted, and train on."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import featherweight as fw
import featherweight.training

FOLDER = Path(__file__).with_name("saved")
SAVED = np.load(FOLDER / "predictions.npz")


@pytest.mark.parametrize("name", ["int8", "dynamic", "graph", "float"])
def test_a_model_of_version_0_1_predicts_as_it_did(name: str) -> None:
    model = keras.saving.load_model(FOLDER / f"{name}.keras")
    predicted = model.predict(SAVED["x"], verbose=0)
    if name == "int8":
        np.testing.assert_array_equal(predicted, SAVED[name])
    else:
        np.testing.assert_allclose(predicted, SAVED[name], atol=1e-6)


def test_a_model_of_version_0_1_trains_on_and_is_finalized() -> None:
    model = keras.saving.load_model(FOLDER / "int8.keras")
    model.fit(SAVED["x"], np.arange(16) % 4, epochs=3, verbose=0)
    assert model.optimizer.schedule is not None
    finished = fw.finalize(model)
    predicted = model.predict(SAVED["x"], verbose=0)
    np.testing.assert_array_equal(fw.run(finished.model, SAVED["x"]), predicted)
