"""Keras models in mixed precision are lowered in float32, and are as before afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests.lower.support import stirred
from tests.training.pruning.nets import Subclassed

from featherweight.lower import lower_with_notes
from featherweight.runtime import run

SEQUENCE = (5, 4)


def convolutional(policy: str) -> Any:
    layers = [L.Conv2D(4, 3, dtype=policy), L.BatchNormalization(dtype=policy), L.ReLU(dtype=policy)]
    return keras.Sequential(
        [L.Input((8, 8, 3)), *layers, L.Flatten(dtype=policy), L.Dense(3, dtype=policy)], name="net"
    )


def attentive(policy: str) -> Any:
    inputs = keras.Input(SEQUENCE)
    x = L.LayerNormalization(dtype=policy)(inputs)
    x = L.MultiHeadAttention(2, 4, dtype=policy)(x, x)
    return keras.Model(inputs, L.Dense(3, activation="softmax", dtype="float32")(x), name="net")


def recurrent(policy: str) -> Any:
    return keras.Sequential([L.Input(SEQUENCE), L.Bidirectional(L.GRU(4, dtype=policy), dtype=policy)], name="net")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("made", [convolutional, attentive, recurrent])
def test_a_model_in_mixed_precision_is_lowered_as_its_twin_in_float32(made: Callable[[str], Any], policy: str) -> None:
    twin, model = stirred(made("float32")), made(policy)
    model.set_weights(twin.get_weights())
    types = [layer.compute_dtype for layer in model._flatten_layers()]
    lowered = lower_with_notes(model, unroll=True)
    assert [layer.compute_dtype for layer in model._flatten_layers()] == types
    assert f"computes in {policy.removeprefix('mixed_')}, and its graph in float32" in lowered.notes[0]
    assert {tensor.dtype for graph in lowered.model.graphs for tensor in graph.tensors.values()} <= {"float32", "int32"}
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    np.testing.assert_allclose(run(lowered.model, x), np.asarray(twin(x)), atol=1e-5)


def test_inputs_of_a_subclassed_model_in_mixed_precision_are_float32() -> None:
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = Subclassed()
        x = np.ones((2, 4), np.float32)
        model(x)
        lowered = lower_with_notes(model)
    finally:
        keras.config.set_dtype_policy(previous)
    assert lowered.model.main.tensors[lowered.model.main.inputs[0]].dtype == "float32"
    np.testing.assert_allclose(run(lowered.model, x), np.asarray(model(x)), atol=0.02)
