"""What Keras keeps to itself: one test for each name, so that a release of Keras breaks this file and no other."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812

from featherweight import keras_internals
from tests import models

SOURCES = Path(keras_internals.__file__).parent
OWN = ("self", "cls")


def recurrent() -> Any:
    """A net with a cell inside a layer inside a layer."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input((5, 3)), L.Bidirectional(L.LSTM(2, name="memory")), L.Dense(2)], name="net")


class Nested(keras.Model):
    """A subclassed model that Keras can't copy: what it is made of is no configuration."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.parts = {"inner": [L.Dense(3, name="first"), L.Dropout(0.5)]}
        self.last, self.function = L.Dense(2, name="last"), function

    def call(self, x: Any) -> Any:
        for layer in self.parts["inner"]:
            x = layer(x)
        return self.function(self.last(x))


def nested() -> Any:
    model = Nested(lambda x: 2 * x)
    model(np.ones((1, 4), np.float32))
    return model


# ---------------------------------------------------------------------------------------------- layers and variables


def test_layers_are_those_at_every_depth() -> None:
    model = recurrent()
    names = {type(layer).__name__ for layer in keras_internals.layers_of(model)}
    assert {"Sequential", "Bidirectional", "LSTM", "LSTMCell", "Dense"} <= names
    inside = keras_internals.layers_of(model, with_self=False)
    assert model not in inside
    assert len(inside) == len(set(inside))
    assert {layer.name for layer in keras_internals.layers_of(nested())} >= {"first", "last"}


def test_own_variables_are_those_of_no_layer_inside() -> None:
    model, norm = recurrent(), L.BatchNormalization()
    norm.build((None, 3))
    norm.gamma.trainable = True
    assert keras_internals.own_trainable_variables(model) == []
    (cell, *_) = (layer for layer in keras_internals.layers_of(model) if isinstance(layer, L.LSTMCell))
    assert [variable.name for variable in keras_internals.own_trainable_variables(cell)] == [
        "kernel",
        "recurrent_kernel",
        "bias",
    ]
    names = [variable.name for variable in keras_internals.own_variables(norm)]
    assert names == ["gamma", "beta", "moving_mean", "moving_variance"]


def test_readers_of_an_output() -> None:
    inputs, dense = keras.Input((3,)), L.Dense(3)
    x = dense(inputs)
    readers = [L.ReLU(), L.Add()]
    keras.Model(inputs, readers[1]([x, readers[0](x)]))
    assert keras_internals.readers_of(dense) == readers
    assert keras_internals.readers_of(object()) == []


def test_structures_of_inputs_and_outputs() -> None:
    made = {name: keras.Input((3,), name=name) for name in ("b", "a")}
    model = keras.Model(made, {"sum": L.Add(name="added")(list(made.values()))})
    assert list(keras_internals.structure_of_inputs(model)) == ["b", "a"]
    assert list(keras_internals.structure_of_outputs(model)) == ["sum"]
    assert keras_internals.names_of_outputs(model) == ["added"]
    (given,) = keras.tree.flatten(keras_internals.structure_of_inputs(recurrent()))
    assert given.shape == (None, 5, 3)
    assert keras_internals.structure_of_outputs(recurrent()).shape == (None, 2)
    assert len(keras_internals.names_of_outputs(recurrent()) or ()) == 1
    for function in (keras_internals.structure_of_inputs, keras_internals.structure_of_outputs):
        assert function(nested()) is None
    assert keras_internals.names_of_outputs(nested()) is None


def test_the_sharding_of_a_variable() -> None:
    variable = keras.Variable(np.ones(3))
    assert keras_internals.sharding_of(variable) is None
    mesh = keras.distribution.DeviceMesh((1,), ["batch"], devices=["cpu:0"])
    layout = keras.distribution.TensorLayout([None], mesh)
    assert keras_internals.sharding_of(keras.Variable(np.ones(3), layout=layout)) is not None


def test_an_initial_value_that_is_given_later() -> None:
    with keras.StatelessScope():
        variable = keras.Variable("normal", shape=(2,))
        keras_internals.set_initial_value(variable, np.float32([3, 4]))
    np.testing.assert_array_equal(variable.numpy(), [3, 4])


def test_a_dtype_policy_is_that_of_one_layer() -> None:
    layer, other = L.Dense(2, dtype="mixed_float16"), L.Dense(2, dtype="mixed_float16")
    keras_internals.set_dtype_policy(layer, "float32")
    assert (layer.compute_dtype, other.compute_dtype) == ("float32", "float16")


def test_a_model_takes_another_type() -> None:
    inputs = keras.Input((2,), dtype="float16", name="x")
    model = keras.Model({"x": inputs}, L.Dense(1, dtype="float32")(inputs))
    keras_internals.set_input_dtypes(model, {"float16": "float32"})
    fine = np.float32([[1 + 2**-20, 0]])
    assert np.asarray(model({"x": fine})) == np.asarray(model.layers[-1](fine))


@pytest.mark.parametrize("way", ["fit", "train_on_batch", "load_model", "load_weights"])
def test_the_model_that_calls(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def notes(optimizer: Any, variables: Any) -> None:
        found.append(keras_internals.calling_model(variables))
        build(optimizer, variables)

    build = keras.optimizers.SGD.build
    model, x, y = recurrent(), np.ones((2, 5, 3)), np.ones((2, 2))
    model.compile(keras.optimizers.SGD(), "mse")
    model.save(tmp_path / "model.keras")
    monkeypatch.setattr(keras.optimizers.SGD, "build", notes)
    if way == "load_model":
        model = keras.saving.load_model(tmp_path / "model.keras")
    elif way == "load_weights":  # a compiled model, in which nothing is trained yet
        model.load_weights(tmp_path / "model.keras")
        model.fit(x, y, verbose=0)
    else:
        getattr(model, way)(x, y)
    assert found == [model]
    assert keras_internals.calling_model(model.trainable_variables) is None


# -------------------------------------------------------------------------------------------------------------- twins


@pytest.mark.parametrize("name", models.BUILDERS)
def test_a_twin_computes_what_its_model_does(name: str) -> None:
    model, batch = models.build(name), models.batch(name, 2)
    seen: list[Any] = []
    copy = keras_internals.twin(model, lambda twin, layer: seen.append((twin, layer)))
    assert {id(layer) for _, layer in seen} >= {id(layer) for layer in keras_internals.layers_of(model)}
    assert not {id(one) for one in keras_internals.layers_of(copy)} & {id(layer) for _, layer in seen}
    assert [id(variable) for variable in copy.variables] == [id(variable) for variable in model.variables]
    inputs = batch if len(batch) > 1 else next(iter(batch.values()))
    for one, other in zip(keras.tree.flatten(copy(inputs)), keras.tree.flatten(model(inputs)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("made", [recurrent, nested])
def test_what_is_set_on_a_twin_does_not_show_on_the_model(made: Any) -> None:
    model = made()
    x = np.ones((2, 5, 3) if made is recurrent else (2, 4), np.float32)
    before = np.asarray(model(x))

    def change(twin: Any, layer: Any) -> None:
        if isinstance(layer, L.Dense):
            plain = twin.call
            twin.call = lambda inputs, **options: 0 * plain(inputs, **options)

    copy = keras_internals.twin(model, change)
    assert not np.asarray(copy(x)).any()
    np.testing.assert_array_equal(model(x), before)
    assert not any("call" in vars(layer) for layer in keras_internals.layers_of(model))
    model.weights[-2].assign_add(np.ones(model.weights[-2].shape))
    assert (np.asarray(model(x)) != before).any()
    assert copy.weights[-2] is model.weights[-2]


def test_a_twin_that_predicts_does_so_itself() -> None:
    model, x = recurrent(), np.ones((2, 5, 3), np.float32)
    before = model.predict(x, verbose=0)  # compiles
    copy = keras_internals.twin(model, lambda twin, layer: vars(twin).update(call=lambda inputs, **_: inputs))
    np.testing.assert_array_equal(copy.predict(x, verbose=0), x)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


class Holder:
    """An object that holds a model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: Any) -> Any:
        return self.model(x)

    def method(self, x: Any) -> Any:
        return self.model(x)


HELD = L.Dense(2)
HELD.build((None, 4))


def through_a_global(x: Any) -> Any:
    return HELD(x)


def through_another(x: Any) -> Any:
    return through_a_global(x)


FUNCTIONS = {
    "closure": lambda: (lambda model: lambda x: model(x))(HELD),
    "closure in a closure": lambda: (lambda f: lambda x: f(x))((lambda model: lambda x: model(x))(HELD)),
    "default": lambda: lambda x, model=HELD: model(x),
    "global": lambda: through_a_global,
    "function of the module": lambda: through_another,
    "partial": lambda: functools.partial(lambda model, x: model(x), HELD),
    "method": lambda: Holder(HELD).method,
    "object": lambda: Holder(HELD),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_twin_of_a_function_calls_twins(name: str) -> None:
    function, x = FUNCTIONS[name](), np.ones((2, 4), np.float32)
    before = np.asarray(function(x))
    copy = keras_internals.twin(function, lambda twin, layer: vars(twin).update(call=lambda inputs: 0 * inputs))
    assert not np.asarray(copy(x)).any()
    np.testing.assert_array_equal(function(x), before)


def test_a_function_without_layers_is_its_own_twin() -> None:
    def function(x: Any, depth: int = 3) -> Any:
        return x if depth == 0 else function(np.tanh(x), depth - 1)

    assert keras_internals.twin(function, lambda twin, layer: None) is function


# ------------------------------------------------------------------------------------------------------- nowhere else


def private_names() -> set[str]:
    """Names of Keras's objects that begin with one underscore."""
    model = recurrent()
    model.compile("adam", "mse")
    model.fit(np.ones((2, 5, 3)), np.ones((2, 2)), verbose=0)
    inputs = keras.Input((2,))
    objects = [model, keras.Model(inputs, L.Dense(1)(inputs)), *model.layers, *model.weights, model.optimizer]
    objects += [model.inputs[0], model.history]
    names = {name for found in objects for name in (*dir(type(found)), *vars(found))}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def names_of_others(source: str) -> set[str]:
    """Returns the attributes that a module reads or sets, by name or text, but those of `self`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in OWN):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            found |= {
                part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
    return found


def test_the_private_names_of_keras_stand_in_one_module() -> None:
    names = private_names()
    assert {"_flatten_layers", "_inputs_struct", "_dtype_policy", "_layout"} <= names
    paths = [path for path in SOURCES.rglob("*.py") if path.name != "keras_internals.py"]
    sources = {str(path.relative_to(SOURCES)): path.read_text() for path in paths}
    assert {path: found for path, text in sources.items() if (found := names & names_of_others(text))} == {}
    for forbidden in ("keras.src", "gc.get_objects", "sys.meta_path"):
        assert [path for path, text in sources.items() if forbidden in text] == []


def test_a_recording_scope_knows_what_was_assigned_and_drops_it() -> None:
    layer = keras.layers.SimpleRNN(2, stateful=True)
    before = np.asarray(layer(np.ones((1, 3, 4), np.float32)))
    layer.reset_state()
    with keras_internals.recording_scope() as scope:
        layer(np.ones((1, 3, 4), np.float32))
        layer(np.ones((1, 3, 4), np.float32))
    (state,) = scope.assigned
    assert np.asarray(scope.get_current_value(state)).any()
    assert np.array_equal(np.asarray(layer(np.ones((1, 3, 4), np.float32))), before)


def test_a_layer_knows_when_only_its_shapes_are_asked_for() -> None:
    class Layer(keras.layers.Layer):
        seen: tuple[bool, ...] = ()

        def call(self, x: Any) -> Any:
            self.seen = (*self.seen, keras_internals.is_symbolic())
            return x

    layer = Layer()
    layer(keras.Input((3,)))
    layer(np.ones((1, 3), np.float32))
    assert layer.seen == (True, False)
