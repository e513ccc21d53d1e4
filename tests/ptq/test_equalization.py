"""Cross-layer equalization: what it may change, what it changes, and why it leaves tensors alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import featherweight as fw

IMAGES = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype(np.float32)


def net(activation: str = "relu", scale: float = 3.0) -> Any:
    """Convolution, depthwise, convolution, pooled and flattened; channels of very different ranges."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", activation=activation, name="first")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation=activation, name="depthwise")(x)
    x = layers.MaxPooling2D()(layers.Conv2D(6, 1, activation=activation, name="second")(x))
    x = layers.Dense(10, activation=activation, name="third")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(4, name="logits")(x))
    random = np.random.default_rng(1)
    for layer, reader in (("first", "depthwise"), ("depthwise", "second"), ("third", "logits")):
        one, other = model.get_layer(layer), model.get_layer(reader)
        factors = 2.0 ** random.uniform(-scale, scale, one.bias.shape[0])
        one.bias.assign(random.normal(size=one.bias.shape) * factors)
        kernel = np.asarray(one.kernel)
        one.kernel.assign(kernel * (factors.reshape(8, 2) if layer == "depthwise" else factors))
        axis = np.asarray(other.kernel).ndim - 2
        other.kernel.assign(np.moveaxis(np.moveaxis(np.asarray(other.kernel), axis, -1) / factors, -1, axis))
    return model


def test_the_function_stays_and_channels_get_like_ranges() -> None:
    graph = fw.load(net())
    equalized = fw.equalize(graph)
    expected, found = fw.run(graph, IMAGES), fw.run(equalized.model, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    rows = {row.producer: row for row in equalized.tensors}
    assert [name for name, row in rows.items() if row.reason] == [equalized.tensors[-1].producer]
    assert "is an output of the model" in equalized.tensors[-1].reason
    scaled = [row for row in equalized.tensors if not row.reason]
    assert len(scaled) == 4
    assert max(row.spread[0] for row in scaled) > 20
    assert max(row.spread[1] for row in scaled) < 8


def test_a_scale_for_a_whole_tensor_loses_less() -> None:
    source = net()
    expected = source.predict(IMAGES, verbose=0)
    calibration = list(IMAGES)

    def loss(model: Any) -> float:
        quantized = fw.quantize(model, calibration=calibration, target="int8-per-tensor", io="float32", progress=False)
        return float(np.square(fw.run(quantized.model, IMAGES) - expected).mean())

    assert loss(fw.equalize(source).model) < 0.2 * loss(source)


def test_again_nothing_changes() -> None:
    once = fw.equalize(net())
    twice = fw.equalize(once.model)
    for name, tensor in once.model.main.tensors.items():
        if tensor.is_constant and tensor.is_float:
            np.testing.assert_allclose(twice.model.main.tensors[name].array, tensor.array, rtol=0.02)


def test_a_bound_for_all_channels_is_left_alone_with_its_reason() -> None:
    graph = fw.load(net("relu6"))
    equalized = fw.equalize(graph)
    assert all("ends in RELU6, which has one bound" in row.reason for row in equalized.tensors[:-1])
    for name, tensor in graph.main.tensors.items():
        if tensor.is_constant:
            np.testing.assert_array_equal(equalized.model.main.tensors[name].array, tensor.array)


def test_a_sum_and_a_shared_weight_are_left_alone_with_their_reasons() -> None:
    inputs = keras.Input((6,))
    shared = layers.Dense(6, activation="relu", name="shared")
    x = shared(shared(inputs))
    y = layers.Dense(6, activation="relu", name="branch")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Add(name="sum")([x, y])))
    reasons = [row.reason for row in fw.equalize(model).tensors]
    assert sum("serves 2 operators" in reason for reason in reasons) == 2
    assert sum("does not commute with factors" in reason for reason in reasons) == 1


def test_dead_channels_stay_as_they_are() -> None:
    source = net()
    layer = source.get_layer("first")
    kernel = np.asarray(layer.kernel).copy()
    kernel[..., 2] = 0
    layer.kernel.assign(kernel)
    graph = fw.load(source)
    expected = fw.run(graph, IMAGES)
    found = fw.run(fw.equalize(graph).model, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_quantized_model_is_refused() -> None:
    quantized = fw.quantize(net(), calibration=list(IMAGES), progress=False)
    with pytest.raises(fw.FormatError, match="equalize takes a float model; this one is quantized"):
        fw.equalize(quantized.model)
