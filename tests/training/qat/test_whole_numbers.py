"""Models that compute whole numbers or answers, which other outputs train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from tests.training.checking import assert_equal, predictions, runtime_outputs

import featherweight as fw

X = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
HEADS: dict[str, Callable[[Any], Any]] = {
    "argmax": lambda x: ops.argmax(x, -1),
    "argmin": lambda x: ops.argmin(x, -1),
    "one_hot": lambda x: ops.one_hot(ops.argmax(x, -1), 4),
    "take": lambda x: ops.take(np.eye(4, dtype=np.float32), ops.argmax(x, -1), axis=0),
    "remainder": lambda x: ops.argmax(x, -1) % 2,
    "count": lambda x: ops.sum(ops.cast(x > 0.1, "int32"), -1),
    "gate": lambda x: ops.cast(x > 0.1, "float32") * x,
}


def model_with(head: str) -> Any:
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    logits = keras.layers.Dense(4, name="logits")(x)
    source = keras.Model(x, [HEADS[head](logits), logits])
    return fw.quantize_aware(source, calibration=[X], progress=False)


@pytest.mark.parametrize("head", HEADS)
def test_whole_numbers_are_the_file_s(head: str) -> None:
    model = model_with(head)
    assert_equal(predictions(model, X), runtime_outputs(fw.finalize(model), X))


def test_a_model_that_tells_classes_is_trained_by_its_logits() -> None:
    model = model_with("argmax")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss=[None, loss])
    model.fit(X, np.arange(16) % 4, epochs=2, verbose=0)
    assert_equal(predictions(model, X), runtime_outputs(fw.finalize(model), X))
