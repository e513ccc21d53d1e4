"""Biases whose units are tiny: an optimizer's step moves them by millions of integers, and more than those hold."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
from tests.training.checking import predictions, runtime_outputs

import featherweight as fw


def source(kind: str) -> Any:
    keras.utils.set_random_seed(0)
    layers, tiny = keras.layers, keras.initializers.RandomNormal(stddev=1e-5)
    x = keras.Input((6, 6, 3))
    first = layers.Conv2D(8, 3, activation="relu", kernel_initializer=tiny, name="first")
    options: Any = {"activation": "relu", "name": "tiny", "kernel_initializer": tiny}
    if kind == "dense":
        y = layers.Dense(8, **options)(layers.Flatten()(first(x)))
    elif kind == "conv":
        y = layers.Flatten()(layers.Conv2D(8, 3, **options)(first(x)))
    else:
        options["depthwise_initializer"] = options.pop("kernel_initializer")
        y = layers.Flatten()(layers.DepthwiseConv2D(3, **options)(first(x)))
    return keras.Model(x, layers.Dense(4, name="last")(y))


@pytest.mark.parametrize("kind", ["dense", "conv", "depthwise"])
@pytest.mark.parametrize(("recipe", "target"), [("int8", "litert"), ("int8", "tflm"), ("int16x8", "litert")])
def test_a_bias_stays_among_the_integers_that_training_and_file_hold(kind: str, recipe: str, target: str) -> None:
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype(np.float32)
    model = fw.quantize_aware(source(kind), recipe, calibration=[x], target=target, progress=False)
    bias = next(v for v in model.trainable_variables if v.path.endswith("tiny/bias"))
    units = model.integer.main.tensors
    [scale] = {t.quant.scale[0] for n, t in units.items() if n == "tiny/bias" and t.quant is not None} or {1e-12}
    limit = 2.0**38 if recipe == "int16x8" else 2.0**30
    integers = [0.0, 3e6 + 0.4, -7e6, 2.0**24 + 6, -(2.0**27) - 1e3, limit * 0.9, -limit * 1.5, limit * 1e3]
    bias.assign(np.float32(scale) * np.array(integers, np.float32))
    finished = fw.finalize(model)
    np.testing.assert_array_equal(predictions(model, x), runtime_outputs(finished, x))
    notes = "\n".join(finished.plan.notes)
    assert "grew beyond the integers" in notes
    assert json.loads(model.blueprint.plan)["notes"] != list(finished.plan.notes)


def test_a_step_of_an_optimizer_ends_in_a_file() -> None:
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype(np.float32)
    model = fw.quantize_aware(source("conv"), calibration=[x], teacher=True, progress=False)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(x, batch_size=4, verbose=0)
    np.testing.assert_array_equal(predictions(model, x), runtime_outputs(fw.finalize(model), x))
