"""Keras models in mixed precision are lowered in float32, and are as before afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
@pytest.mark.parametrize("made", [convolutional, attentive])
def test_variables_of_16_bits_become_float32(made: Callable[[str], Any], policy: str) -> None:
    twin, model = stirred(made("float32")), made(policy)
    model.set_weights(twin.get_weights())
    twin.set_weights(model.get_weights())  # what is left of them in 16 bits
    lowered = lower_with_notes(model)
    assert f"computes in {policy}" in lowered.notes[0]
    assert {variable.dtype for variable in model.layers[-2].variables} <= {policy}
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    np.testing.assert_allclose(run(lowered.model, x), np.asarray(twin(x)), atol=1e-5)


def test_inputs_of_16_bits_are_taken_in_float32() -> None:
    inputs = keras.Input((4,), dtype="bfloat16")
    model = stirred(keras.Model(inputs, L.Dense(3, dtype="bfloat16")(inputs)))
    lowered = lower_with_notes(model).model
    assert lowered.main.tensors[lowered.main.inputs[0]].dtype == "float32"
    assert model.inputs[0].dtype == "bfloat16"


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_function_that_computes_in_16_bits_is_lowered_in_float32(dtype: Any) -> None:
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), dtype)

    def looped(x: Any) -> Any:
        step = lambda c, _: (jax.nn.silu(c @ weights), c.sum(-1))  # noqa: E731
        carry, sums = jax.lax.scan(step, x.astype(dtype), None, length=3)
        return carry.astype(jnp.float32), sums

    x = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
    lowered = lower_with_notes(looped, samples=[x])
    assert "computes in 16 bits, and its graph in float32" in lowered.notes[0]
    assert not {"float16", "bfloat16"} & {t.dtype for g in lowered.model.graphs for t in g.tensors.values()}
    expected = x
    for _ in range(3):
        expected = np.asarray(jax.nn.silu(expected @ np.asarray(weights, np.float32)))
    np.testing.assert_allclose(run(lowered.model, x)["output_0"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
@pytest.mark.parametrize(("given", "taken"), [("int64", "int32"), ("float64", "float32"), ("uint8", "uint8")])
def test_inputs_of_64_bits_are_taken_in_32(given: str, taken: str) -> None:
    inputs = keras.Input((6,), dtype=given, name="ids")
    x = L.Dense(2)(inputs) if "float" in given else L.Embedding(9, 2)(inputs)
    model = stirred(keras.Model(inputs, [x, keras.ops.argmax(x, -1)]))
    ids = np.random.default_rng(0).integers(0, 9, (16, 6)).astype(given)
    lowered = lower_with_notes(model, samples=[ids])
    assert lowered.model.main.tensors[lowered.model.main.inputs[0]].dtype == taken
    assert [f"Input 'ids' is {given} in the model, {taken} in its graph." in n for n in lowered.notes] == [True] * (
        given != taken
    )
    scores, places = model(ids)
    got = list(run(lowered.model, ids).values())
    np.testing.assert_allclose(got[0], np.asarray(scores), atol=1e-6)
    np.testing.assert_array_equal(got[1], np.asarray(places))
