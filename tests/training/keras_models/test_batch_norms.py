"""Statistics of batch norms that are estimated anew."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from tests import models
from tests.backends import on_backend

import featherweight as fw
from featherweight.errors import DataError, RecipeError

ops: Any = keras.ops


def net() -> keras.Model:
    """Two batch norms, one behind a dropout, one frozen inside a nested model."""
    layers = keras.layers
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(3, 3), layers.BatchNormalization(name="frozen")])
    inner.get_layer("frozen").trainable = False
    inputs = keras.Input((8, 8, 2))
    x = layers.BatchNormalization(momentum=0.7, name="first")(layers.Dropout(0.5)(layers.Conv2D(4, 1)(inputs)))
    return keras.Model(inputs, inner(x), name="net")


def batches(*sizes: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(1, 2, (size, 8, 8, 2)).astype(np.float32) for size in sizes]


def norm(model: Any, name: str) -> Any:
    return next(layer for layer in model._flatten_layers() if layer.name == name)


def statistics(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    return ops.convert_to_numpy(layer.moving_mean), ops.convert_to_numpy(layer.moving_variance)


def normalized(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)


def test_statistics_are_those_of_all_values() -> None:
    model, data = net(), batches(5, 5, 2)
    assert fw.reestimate_batch_norm(model, iter(data)) == [norm(model, name).path for name in ("first", "frozen")]
    first = [ops.convert_to_numpy(model.layers[1](batch)) for batch in data]
    whole = np.concatenate(first).reshape(-1, 4)
    mean, variance = statistics(norm(model, "first"))
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, whole.var(0), rtol=1e-5)
    # Behind it, each batch was normalized by itself.
    second = [ops.convert_to_numpy(model.layers[-1].layers[0](normalized(batch))) for batch in first]
    whole = np.concatenate([part.reshape(-1, 3) for part in second])
    mean, variance = statistics(norm(model, "frozen"))
    np.testing.assert_allclose(mean, whole.mean(0), atol=1e-5)
    np.testing.assert_allclose(variance, whole.var(0), rtol=1e-4)


def test_nothing_else_changes() -> None:
    model, data = net(), batches(4)
    before = {v.path: ops.convert_to_numpy(v) for v in model.variables if "moving" not in v.path}
    fw.reestimate_batch_norm(model, data)
    for variable in model.variables:
        if variable.path in before:
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), before[variable.path])
    first, frozen = norm(model, "first"), norm(model, "frozen")
    assert (first.trainable, frozen.trainable, first.momentum) == (True, False, 0.7)
    mean = statistics(first)[0]
    model(data[0] + 1, training=True)
    moved = statistics(first)[0]
    batch = ops.convert_to_numpy(model.layers[1](data[0] + 1)).mean((0, 1, 2))
    assert (np.abs(moved - mean) > 0.01 * np.abs(batch - mean)).all()  # an exponential average again


def test_estimated_statistics_are_what_is_lowered() -> None:
    model = keras.models.clone_model(models.build("convnet"))
    model.set_weights(models.build("convnet").get_weights())
    fw.reestimate_batch_norm(model, [models.batch("convnet", 16, seed=5)["image"]])
    x = models.batch("convnet", 4)["image"]
    before = models.build("convnet").predict(x, verbose=0)
    assert np.abs(model.predict(x, verbose=0) - before).max() > 1e-3
    np.testing.assert_allclose(fw.run(fw.load(model), x), model.predict(x, verbose=0), atol=1e-5)


def test_masked_values_do_not_count() -> None:
    inputs = keras.Input((4, 2))
    outputs = keras.layers.BatchNormalization(name="norm")(keras.layers.Masking()(inputs))
    model = keras.Model(inputs, outputs)
    x = np.ones((2, 4, 2), np.float32) * np.float32([1, 3])
    x[1] *= 2
    x[:, 2:] = 0  # masked
    fw.reestimate_batch_norm(model, [x])
    mean, variance = statistics(norm(model, "norm"))
    np.testing.assert_allclose(mean, [1.5, 4.5])
    np.testing.assert_allclose(variance, [0.25, 2.25])


def test_a_layer_that_is_shared_pools_all_it_reads() -> None:
    shared = keras.layers.BatchNormalization(name="norm")
    left, right = keras.Input((1,), name="left"), keras.Input((1,), name="right")
    model = keras.Model([left, right], keras.layers.Add()([shared(left), shared(right)]))
    fw.reestimate_batch_norm(model, [{"left": np.float32([[1], [3]]), "right": np.float32([[5], [7]])}])
    assert [float(part[0]) for part in statistics(shared)] == [4.0, 5.0]


def test_what_is_wrong_is_said_and_changes_nothing() -> None:
    model = net()
    before = statistics(norm(model, "first"))
    with pytest.raises(RecipeError, match="has no batch norm whose statistics"):
        fw.reestimate_batch_norm(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), batches(2))
    with pytest.raises(DataError, match="There is no batch to estimate"):
        fw.reestimate_batch_norm(model, [])
    with pytest.raises(DataError, match="takes an iterable of batches, not one ndarray"):
        fw.reestimate_batch_norm(model, batches(2)[0])
    with pytest.raises(DataError, match="Batch norm 'first' gets statistics that are not finite"):
        fw.reestimate_batch_norm(model, [*batches(2), batches(2)[0] * np.float32(np.nan)])
    for part, was in zip(statistics(norm(model, "first")), before, strict=True):
        np.testing.assert_array_equal(part, was)


SCRIPT = """
from tests.training.keras_models import test_batch_norms as t
t.test_statistics_are_those_of_all_values()
t.test_nothing_else_changes()
t.test_masked_values_do_not_count()
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends_estimate_the_same(backend: str) -> None:
    on_backend(backend, SCRIPT)
