"""Keras models that keep state between calls: step by step the same in the file, in every recipe, and on devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from tests.clients import tflm_steps

import featherweight as fw
from featherweight.errors import FeatherweightError, LoweringError
from featherweight.graph.numerics import dequantize, quantize
from featherweight.runtime import Session
from featherweight.tasks.load import load_with_notes

_STEPS, _FEATURES = 24, 5


class Ring(layers.Layer):
    """The last three frames of earlier calls before those of this one."""

    def build(self, shape: Any) -> None:
        self.frames = self.add_weight(shape=(1, 3, shape[-1]), initializer="zeros", trainable=False, name="frames")

    def call(self, x: Any) -> Any:
        joined = ops.concatenate([self.frames, x], axis=1)
        self.frames.assign(joined[:, -3:])
        return joined


class Counter(layers.Layer):
    """Counts its calls, from 5 on, and remembers a running mean that `reset_state` sets to one."""

    def build(self, shape: Any) -> None:
        self.count = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="count")
        self.mean = self.add_weight(shape=(1, shape[-1]), initializer="zeros", trainable=False, name="mean")

    def call(self, x: Any) -> Any:
        self.count.assign(self.count + 1)
        self.mean.assign(0.75 * self.mean + 0.25 * ops.mean(x, axis=0, keepdims=True))
        return self.mean * ops.cast(self.count, "float32")

    def reset_state(self) -> None:
        self.count.assign(ops.full((), 5, "int32"))
        self.mean.assign(ops.ones(self.mean.shape))


def _recurrent(kind: str) -> keras.Model:
    x = keras.Input(batch_shape=(1, 1, _FEATURES))
    hidden = getattr(layers, kind)(6, stateful=True, return_sequences=True, name="first")(x)
    return keras.Model(x, layers.Dense(4)(getattr(layers, kind)(6, stateful=True, name="second")(hidden)))


def _streaming() -> keras.Model:
    x = keras.Input(batch_shape=(1, 1, _FEATURES))
    hidden = layers.Conv1D(8, 4, activation="relu")(Ring(name="one")(x))
    return keras.Model(x, layers.Conv1D(4, 4)(Ring(name="two")(hidden)))


_BUILDERS = {
    "LSTM": lambda: _recurrent("LSTM"),
    "GRU": lambda: _recurrent("GRU"),
    "streaming": _streaming,
}


@pytest.fixture(scope="module")
def steps() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(_STEPS, 1, 1, _FEATURES)).astype(np.float32)


@pytest.fixture(scope="module", params=_BUILDERS)
def stateful(request: pytest.FixtureRequest, steps: np.ndarray) -> tuple[keras.Model, np.ndarray, fw.Model]:
    """(a model in the middle of its sequence, what it gives for the steps from its start, its graph without loops)."""
    keras.utils.set_random_seed(0)
    model = _BUILDERS[request.param]()
    start = [(layer.frames, np.zeros(layer.frames.shape)) for layer in model.layers if isinstance(layer, Ring)]
    right = np.stack([np.asarray(model(x)) for x in steps])
    for variable, value in start:
        variable.assign(value)
    return model, right, fw.load(model, unroll=True)


def _run(model: fw.Model, steps: np.ndarray) -> np.ndarray:
    """Runs the steps twice, with a reset between, and returns what came first and again."""
    with Session(model) as session:
        first = [next(iter(session.run(x).values())) for x in steps]
        session.reset()
        again = [next(iter(session.run(x).values())) for x in steps]
    return np.stack([first, again])


def _db(right: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(right).sum() / max(np.square(right - found).sum(), 1e-30)))


def test_the_lowered_graph_follows_keras_over_steps_and_can_be_reset(stateful, steps):
    model, right, _ = stateful
    lowered = fw.load(model)
    assert [signature.key for signature in lowered.signatures] == ["serving_default", "reset"]
    first, again = _run(lowered, steps)
    assert _db(right, first) > 100
    assert np.array_equal(first, again)
    reference = fw.run(lowered, np.concatenate(steps), runtime="reference")
    assert np.allclose(reference, np.concatenate(first), atol=1e-5)


@pytest.mark.parametrize(("recipe", "least"), [("float16", 55), ("dynamic", 30), ("int8", 18), ("int16x8", 35)])
def test_every_recipe_keeps_the_state(recipe, least, stateful, steps):
    _, right, graph = stateful
    done = fw.quantize(graph, recipe, calibration=list(steps), integers=True, progress=False)
    first, again = _run(done.model, steps)
    assert _db(right, first) > least
    assert np.array_equal(first, again)
    if recipe.startswith("int"):
        assert not done.plan.kept_float
        kept = [node.inputs[1] for graph in done.model.graphs for node in graph.nodes if node.op == "ASSIGN_VARIABLE"]
        wide = "int8" if recipe == "int8" else "int16"
        assert {done.model.tensors[name].dtype for name in kept} == {wide}
        profile = "xnnpack" if recipe == "int8" else "tflite_opt"
        reference = fw.run(done.model, np.concatenate(steps), runtime="reference", profile=profile)
        assert np.array_equal(reference, np.concatenate(first))


def test_the_device_computes_the_same_and_is_reset(stateful, steps, tmp_path: Path):
    _, right, graph = stateful
    done = fw.quantize(graph, "int8", calibration=list(steps), target="tflm", integers=True, progress=False)
    assert not done.plan.kept_float
    assert not done.report.violations
    done.save(tmp_path / "model.tflite")
    ends = [done.model.main.tensors[names[0]].quant for names in (done.model.main.inputs, done.model.main.outputs)]
    stored = quantize(steps, ends[0])
    first, again = tflm_steps(tmp_path / "model.tflite", stored)
    assert _db(right, dequantize(first, ends[1])) > 18
    assert np.array_equal(first, again)
    # Its curves round otherwise now and then, which the state carries on.
    reference = fw.run(done.model, np.concatenate(stored), runtime="reference", profile="tflite_ref")
    assert np.abs(reference.astype(int) - np.concatenate(first)).max() <= 4


def test_a_free_batch_is_fixed_and_states_of_all_types_begin_as_reset_state_says():
    x = keras.Input((_FEATURES,))
    model = keras.Model(x, Counter()(x))
    lowered = load_with_notes(model)
    graph = lowered.model
    assert graph.tensors["counter/mean/initial"].array.tolist() == [[1.0] * _FEATURES]
    assert graph.tensors["counter/count/initial"].array == 5
    assert any("is fixed at 1: it keeps state between calls" in note for note in lowered.notes)
    ones = np.ones((3, 1, _FEATURES), np.float32)
    with Session(graph) as session:
        found = [float(next(iter(session.run(one).values()))[0, 0]) for one in ones]
        session.reset()
        assert float(next(iter(session.run(ones[0]).values()))[0, 0]) == found[0]
    assert found == [6.0, 7.0, 8.0]


def test_a_reset_state_that_fails_is_named():
    class Odd(Counter):
        def reset_state(self) -> None:
            raise KeyError("none")

    x = keras.Input((_FEATURES,))
    with pytest.raises(LoweringError, match=r"'reset_state' of layer 'odd' raises KeyError"):
        fw.load(keras.Model(x, Odd(name="odd")(x)))


def test_a_stateless_model_has_no_variables_and_one_signature():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, _FEATURES))
    graph = fw.load(keras.Model(x, layers.BatchNormalization()(layers.Dropout(0.5)(layers.SimpleRNN(4)(x)))))
    assert [signature.key for signature in graph.signatures] == ["serving_default"]
    assert "CALL_ONCE" not in {node.op for node in graph.main.nodes}


def test_training_says_that_it_does_not_follow_state(steps):
    with pytest.raises(FeatherweightError, match="VARIABLE"):
        fw.graph_model(fw.load(_recurrent("SimpleRNN")))
