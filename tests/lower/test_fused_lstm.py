"""LSTM layers as one operator: equal to Keras, the state set back at every run; what can't be fused says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests.lower.support import all_ops, assert_equal_to_source, ops, sequential, stirred

from featherweight import tflite
from featherweight.errors import LoweringError
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.lower import lower, lower_with_notes
from featherweight.lower.rewrites.fused_lstm import COMPOSITE, fused
from featherweight.runtime.litert import RESOLVERS, Session

SHAPE = (5, 3)
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
LAYERS: dict[str, tuple[int, Callable[[], list[Any]]]] = {
    "last output": (1, lambda: [L.LSTM(4)]),
    "sequences": (1, lambda: [L.LSTM(4, return_sequences=True)]),
    "backwards": (1, lambda: [L.LSTM(4, go_backwards=True)]),
    "backwards sequences": (1, lambda: [L.LSTM(4, go_backwards=True, return_sequences=True)]),
    "no bias": (1, lambda: [L.LSTM(4, use_bias=False)]),
    "stacked": (2, lambda: [L.LSTM(4, return_sequences=True), L.LSTM(5), L.Dense(2)]),
    "bidirectional": (2, lambda: [L.Bidirectional(L.LSTM(4))]),
    "bidirectional sequences": (2, lambda: [L.Bidirectional(L.LSTM(4, return_sequences=True), merge_mode="sum")]),
    "dropout": (1, lambda: [L.LSTM(4, dropout=0.5, recurrent_dropout=0.5)]),
    "unrolled by Keras": (1, lambda: [L.LSTM(4, unroll=True)]),
    "nested model": (1, lambda: [sequential(SHAPE, L.LSTM(4)), L.Dense(2)]),
    "one unit": (1, lambda: [L.LSTM(1)]),
}


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.mark.parametrize("name", LAYERS)
def test_fused_layer_equals_keras(name: str) -> None:
    count, build = LAYERS[name]
    model = sequential(SHAPE, *build())
    lowered = lower_with_notes(model, fuse=True)
    assert ops(lowered.model).count(LSTM) == count
    assert len(lowered.model.graphs) == 1  # no loop, and no decomposition is left
    assert "STABLEHLO_COMPOSITE" not in all_ops(lowered.model)
    assert lowered.recurrent == ("fused",)
    assert_equal_to_source(lowered, model, inputs(3, *SHAPE), tolerance=1e-5)


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_every_run_starts_from_the_same_state(resolver: str) -> None:
    model = sequential(SHAPE, L.Bidirectional(L.LSTM(4, return_sequences=True)))
    graph = lower(model, fuse=True)
    first, other = inputs(2, 1, *SHAPE)
    with Session(graph, resolver=resolver) as session:
        results: list[np.ndarray] = []
        for x in (first, other, first):
            session.invoke({next(iter(session.inputs)): x})
            results.append(session.read(graph.main.outputs[0]))
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])


def test_without_the_reset_the_state_would_last() -> None:
    """The control of the test above: LiteRT keeps variable tensors from run to run."""
    graph = lower(sequential(SHAPE, L.LSTM(4)), fuse=True)
    states = {name for name, tensor in graph.main.tensors.items() if tensor.is_variable}
    assert len(states) == 2
    nodes = tuple(node for node in graph.main.nodes if not states & set(node.outputs))
    bare = replace(graph, graphs=(replace(graph.main, nodes=nodes),))
    with Session(bare) as session:
        results: list[np.ndarray] = []
        for _ in range(2):
            session.invoke({next(iter(session.inputs)): inputs(1, *SHAPE)})
            results.append(session.read(bare.main.outputs[0]))
    assert not np.array_equal(*results)


def test_a_fixed_batch_is_kept() -> None:
    fed = keras.Input(batch_shape=(2, *SHAPE))
    model = stirred(keras.Model(fed, L.LSTM(4)(fed)))
    lowered = lower_with_notes(model, fuse=True)
    assert lowered.notes == ()
    (x,) = (lowered.model.main.tensors[name] for name in lowered.model.main.inputs)
    assert (x.shape, x.shape_signature) == ((2, *SHAPE), None)


def test_a_free_batch_becomes_one_with_a_note() -> None:
    (note,) = lower_with_notes(sequential(SHAPE, L.LSTM(4)), fuse=True).notes
    assert "stays fixed at 1: UNIDIRECTIONAL_SEQUENCE_LSTM" in note
    assert "is a layer with its state, made for a fixed batch" in note


def test_a_layer_that_is_called_twice_has_its_weights_once() -> None:
    layer, a, b = L.LSTM(4), keras.Input(SHAPE, name="a"), keras.Input(SHAPE, name="b")
    model = stirred(keras.Model([a, b], L.Concatenate()([layer(a), layer(b)])))
    lowered = lower_with_notes(model, fuse=True)
    first, second = (node for node in lowered.model.main.nodes if node.op == LSTM)
    assert first.inputs[1:16] == second.inputs[1:16]
    assert not set(first.inputs[18:20]) & set(second.inputs[18:20])
    assert_equal_to_source(lowered, model, [inputs(3, *SHAPE), inputs(3, *SHAPE)[::-1]])


def test_the_operator_is_wired_as_its_kernels_want() -> None:
    model = sequential(SHAPE, L.LSTM(4, return_sequences=True, name="layer"))
    graph = lower(model, fuse=True).main
    (node,) = (node for node in graph.nodes if node.op == LSTM)
    kernel, recurrent, bias = (np.asarray(weight) for weight in model.layers[0].weights)
    tensors = [graph.tensors[name].array if name else None for name in node.inputs]
    assert len(tensors) == 24
    for gate in range(4):  # input, forget, cell, output
        span = slice(4 * gate, 4 * gate + 4)
        np.testing.assert_array_equal(tensors[1 + gate], kernel[:, span].T)
        np.testing.assert_array_equal(tensors[5 + gate], recurrent[:, span].T)
        np.testing.assert_array_equal(tensors[12 + gate], bias[span])
    assert [position for position, name in enumerate(node.inputs) if not name] == [9, 10, 11, 16, 17, 20, 21, 22, 23]
    assert all(graph.tensors[name].is_variable for name in node.inputs[18:20])
    attrs = {"fused_activation_function": "TANH", "cell_clip": 0.0, "proj_clip": 0.0, "time_major": False}
    assert {key: node.attrs[key] for key in attrs} == attrs


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "activation": (lambda: L.LSTM(4, activation="relu"), "its activation is relu (allowed: tanh)"),
    "gates": (
        lambda: L.LSTM(4, recurrent_activation="hard_sigmoid"),
        "its recurrent_activation is hard_sigmoid (allowed: sigmoid)",
    ),
    "gru": (lambda: L.GRU(4), f"only LSTM has a fused operator ({LSTM})"),
    "cell of one's own": (lambda: L.RNN(L.LSTMCell(4)), f"only LSTM has a fused operator ({LSTM})"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_fused_stays_a_loop_and_says_why(name: str) -> None:
    build, reason = REFUSED[name]
    layer = build()
    model = sequential(SHAPE, layer)
    lowered = lower_with_notes(model, fuse=True)
    assert ops(lowered.model).count("WHILE") == 1
    assert f"{type(layer).__name__} '{layer.name}' is a loop, not fused: {reason}." in lowered.notes
    assert lowered.recurrent == ("loop",)
    assert_equal_to_source(lowered, model, inputs(3, *SHAPE))


def test_what_cannot_be_fused_is_unrolled_where_that_is_asked_for() -> None:
    model = sequential(SHAPE, L.LSTM(4, return_sequences=True, name="first"), L.GRU(3, name="second"))
    lowered = lower_with_notes(model, fuse=True, unroll=True)
    assert LSTM in ops(lowered.model)
    assert "WHILE" not in ops(lowered.model)
    assert lowered.recurrent == ("fused", "unrolled")
    assert lowered.notes[-1].startswith("GRU 'second' is written out step by step, not fused: only LSTM")
    assert_equal_to_source(lowered, model, inputs(3, *SHAPE))


def test_a_masked_layer_stays_a_loop() -> None:
    model = sequential((6,), L.Embedding(9, 4, mask_zero=True), L.LSTM(3, name="layer"), dtype="int32")
    lowered = lower_with_notes(model, fuse=True)
    assert "LSTM 'layer' is a loop, not fused: its input has a mask." in lowered.notes
    assert_equal_to_source(lowered, model, np.array([[1, 2, 0, 0, 0, 0], [8, 7, 6, 5, 4, 3], [0] * 6], "int32"))


def test_states_that_go_in_or_out_keep_the_loop() -> None:
    x, h, c = keras.Input(SHAPE, name="x"), keras.Input((4,), name="h"), keras.Input((4,), name="c")
    given = stirred(keras.Model([x, h, c], L.LSTM(4, name="layer")(x, initial_state=[h, c])))
    assert "LSTM 'layer' is a loop, not fused: its initial state is given." in lower_with_notes(given, fuse=True).notes
    returned = stirred(keras.Model(x, L.LSTM(4, return_state=True, name="layer")(x)))
    assert "LSTM 'layer' is a loop, not fused: it returns its state." in lower_with_notes(returned, fuse=True).notes
    fixed = keras.Sequential([keras.Input(batch_shape=(1, *SHAPE)), L.LSTM(4, stateful=True, name="layer")])
    (note,) = lower_with_notes(fixed, fuse=True).notes
    assert note == "LSTM 'layer' is a loop, not fused: it keeps its state between calls (stateful)."


def test_keras_is_as_before_afterwards() -> None:
    before = keras.layers.RNN.call
    model = sequential(SHAPE, L.LSTM(4))
    lower(model, fuse=True)
    assert keras.layers.RNN.call is before
    assert "WHILE" in ops(lower(model))

    def broken(x: Any) -> Any:
        raise RuntimeError("no such luck")

    with pytest.raises(LoweringError, match="no such luck"):
        lower(broken, samples=[inputs(1, 2)], fuse=True)
    assert keras.layers.RNN.call is before


def test_a_layer_inside_of_a_jax_function() -> None:
    model = sequential(SHAPE, L.LSTM(4))
    x = inputs(1, *SHAPE)
    lowered = lower_with_notes(lambda x: 2 * model(x), samples=[x], fuse=True)
    assert LSTM in ops(lowered.model)


def test_other_graphs_keep_their_place_when_decompositions_go() -> None:
    """A loop behind a fused layer calls its condition and body by number."""
    model = sequential(SHAPE, L.LSTM(4, return_sequences=True), L.GRU(3, return_sequences=True), L.LSTM(2))
    lowered = lower_with_notes(model, fuse=True)
    (loop,) = (node for node in lowered.model.main.nodes if node.op == "WHILE")
    assert len(lowered.model.graphs) == 3
    assert {loop.attrs["cond_subgraph_index"], loop.attrs["body_subgraph_index"]} == {1, 2}
    assert_equal_to_source(lowered, model, inputs(3, *SHAPE))


def test_the_file_reads_back_as_it_was_written() -> None:
    model = lower(sequential(SHAPE, L.LSTM(4)), fuse=True)
    again = tflite.read(tflite.write(model))
    assert [node.inputs for node in again.main.nodes] == [node.inputs for node in model.main.nodes]
    assert {n for n, t in again.main.tensors.items() if t.is_variable} == {
        n for n, t in model.main.tensors.items() if t.is_variable
    }


def test_a_composite_with_computed_weights_is_an_error() -> None:
    tensors = {name: Tensor(name, (1, 2, 3), "float32") for name in ("x", "w", "y")}
    tensors |= {name: constant(name, np.zeros((2, 8), np.float32)) for name in ("r", "b")}
    attrs = {"name": COMPOSITE, "decomposition_subgraph_index": 1}
    node = Node("STABLEHLO_COMPOSITE", ("x", "w", "r", "b"), ("y",), attrs)
    model = Model((Graph("main", ("x", "w"), ("y",), (node,), tensors),))
    with pytest.raises(LoweringError, match=r"^LSTM 'y' can't be fused: the converter did not keep its weights"):
        fused(model)
