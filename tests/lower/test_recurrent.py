"""Recurrent layers, as loops and unrolled: equal to Keras; the model's layers stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests.lower.support import all_ops, assert_equal_to_source, lowered_and_compared, ops, sequential, stirred

from featherweight.lower import lower_with_notes

SHAPE = (5, 3)
LAYERS: dict[str, Callable[[], Any]] = {
    "lstm": lambda: L.LSTM(4),
    "lstm sequences": lambda: L.LSTM(4, return_sequences=True),
    "lstm backwards": lambda: L.LSTM(4, go_backwards=True),
    "gru": lambda: L.GRU(4),
    "gru reset before": lambda: L.GRU(4, reset_after=False, return_sequences=True),
    "simple rnn": lambda: L.SimpleRNN(4),
    "bidirectional": lambda: L.Bidirectional(L.GRU(4, return_sequences=True)),
    "stacked cells": lambda: L.RNN([L.LSTMCell(4), L.GRUCell(3)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layer_as_a_loop(name: str) -> None:
    lowered = lowered_and_compared(sequential(SHAPE, LAYERS[name]()), SHAPE)
    assert ops(lowered.model).count("WHILE") == (2 if name == "bidirectional" else 1)
    assert not any(op.startswith("STABLEHLO_") for op in all_ops(lowered.model))


@pytest.mark.parametrize("name", ["lstm", "gru reset before", "bidirectional", "stacked cells"])
def test_recurrent_layer_unrolled(name: str) -> None:
    model = sequential(SHAPE, LAYERS[name]())
    lowered = lowered_and_compared(model, SHAPE, unroll=True)
    assert len(lowered.model.graphs) == 1
    assert "WHILE" not in ops(lowered.model)
    assert not any(getattr(layer, "unroll", False) for layer in model._flatten_layers())
    many = np.random.default_rng(0).normal(size=(40, *SHAPE)).astype("float32")  # more than it was lowered for
    assert_equal_to_source(lowered, model, many)


@pytest.mark.parametrize("unroll", [False, True])
def test_masks_are_kept(unroll: bool) -> None:
    model = sequential((6,), L.Embedding(9, 4, mask_zero=True), L.LSTM(3), dtype="int32")
    lowered = lower_with_notes(model, unroll=unroll)
    assert ops(lowered.model)[0] == "GATHER"
    assert_equal_to_source(lowered, model, np.array([[1, 2, 0, 0, 0, 0], [8, 7, 6, 5, 4, 3], [0] * 6], "int32"))


def test_states_go_in_and_come_out() -> None:
    x, h, c = keras.Input(SHAPE, name="x"), keras.Input((4,), name="h"), keras.Input((4,), name="c")
    outputs = L.LSTM(4, return_sequences=True, return_state=True)(x, initial_state=[h, c])
    model = stirred(keras.Model([x, h, c], list(outputs)))
    lowered = lower_with_notes(model)
    rng = np.random.default_rng(0)
    assert [name for name, _ in lowered.model.signatures[0].inputs] == ["x", "h", "c"]
    assert_equal_to_source(lowered, model, [rng.normal(size=(3, *s)).astype("float32") for s in (SHAPE, (4,), (4,))])


def test_convolutional_lstm() -> None:
    assert "WHILE" in ops(lowered_and_compared(sequential((4, 6, 2), L.ConvLSTM1D(3, 3)), (4, 6, 2)).model)


def test_a_loop_in_a_loop() -> None:
    import jax
    import jax.numpy as jnp

    def inner(carry: Any, row: Any) -> Any:
        state, _ = jax.lax.scan(lambda s, v: (jnp.tanh(s + v * row.mean()), None), carry, row)
        return state, state

    def nested(x: Any) -> Any:
        return jax.lax.scan(inner, jnp.float32(0.5), x)[1]

    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    lowered = lower_with_notes(nested, samples=[x])
    assert sum(op == "WHILE" for i in range(len(lowered.model.graphs)) for op in ops(lowered.model, i)) == 2
    unrolled = lower_with_notes(nested, samples=[x], unroll=True)
    assert "WHILE" not in all_ops(unrolled.model)


def test_the_fixed_batch_of_a_loop_is_noted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="featherweight"):
        lowered = lower_with_notes(sequential(SHAPE, L.LSTM(4)))
    assert len(lowered.notes) == 1
    assert "stays fixed at 1" in lowered.notes[0]
    assert "is a loop" in lowered.notes[0]
    assert lowered.notes[0] in caplog.text
