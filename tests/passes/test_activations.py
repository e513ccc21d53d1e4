"""Activations and softmaxes are recognized in every way that frameworks write them."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import layers, ops
from tests.building import Layer, dense, layer, net, softmax, unary, weights
from tests.ptq.nets import operators, sqnr_db

from featherweight.graph import Model
from featherweight.passes.activations import recognized_activations
from featherweight.passes.legalization import prepare
from featherweight.runtime import run
from featherweight.tasks.load import load
from featherweight.tasks.quantize import quantize

ROWS = (1, 6, 8)
X = np.random.default_rng(0).normal(0, 2, (16, *ROWS[1:])).astype(np.float32)

FUNCTIONS = {
    "elu": (ops.elu, {"ELU": 1}),
    "elu of 0.5": (lambda x: layers.ELU(alpha=0.5)(x), {"ELU": 1, "LEAKY_RELU": 1}),
    "selu": (ops.selu, {"ELU": 1, "LEAKY_RELU": 1}),  # the last factor goes into the weights behind
    "celu": (lambda x: ops.celu(x, alpha=0.7), {"ELU": 1, "MUL": 2}),
    "gelu": (lambda x: ops.gelu(x, approximate=False), {"GELU": 1}),
    "gelu by erf": (lambda x: 0.5 * x * (1 + ops.erf(x / np.sqrt(2))), {"GELU": 1}),
    "gelu by erf, halved last": (lambda x: x * (ops.erf(x * np.sqrt(0.5)) + 1) * 0.5, {"GELU": 1, "MUL": 1}),
    "gelu by tanh": (lambda x: ops.gelu(x, approximate=True), {"GELU": 1}),
    "softmax": (ops.softmax, {"SOFTMAX": 1}),
    "softmax over positions": (lambda x: ops.softmax(x, axis=1), {"SOFTMAX": 1, "TRANSPOSE": 2}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keras_functions_are_their_operators(name: str) -> None:
    function, expected = FUNCTIONS[name]
    x = keras.Input(ROWS[1:])
    model = keras.Model(x, layers.Dense(8)(function(layers.Dense(8)(x))))
    graph = load(model)
    assert operators(graph) - operators(load(keras.Model(x, layers.Dense(8)(layers.Dense(8)(x))))) == expected
    right = model.predict(X, verbose=0)
    np.testing.assert_allclose(run(graph, X), right, atol=1e-5)
    q = quantize(graph, "int8", calibration=[X], progress=False)
    assert q.plan.kept_float == {}
    assert sqnr_db(right, np.asarray(run(q.model, X))) >= 30.0
    tiny = quantize(graph, "int8", target="tflm", io="float32", calibration=[X], progress=False)
    assert tiny.plan.kept_float == {}
    assert sqnr_db(right, np.asarray(run(tiny.model, X))) >= 30.0
    assert any("has no GELU" in note for note in tiny.plan.notes) == ("gelu" in name)


@pytest.mark.parametrize("function", [jnp.argmax, jnp.argmin])
@pytest.mark.parametrize("axis", [-1, 1])
def test_the_largest_is_found_without_looking_at_bits(function, axis) -> None:
    graph = load(lambda x: function(x, axis=axis), samples=[X[:1]])
    assert sum(operators(graph).values()) == 1
    zeros = np.array([0.0, -0.0, -1.0], np.float32)[np.random.default_rng(1).integers(0, 3, ROWS)]
    assert (np.take_along_axis(zeros, np.expand_dims(run(graph, zeros), axis), axis) == zeros.max()).all() == (
        function is jnp.argmax
    )


def test_jax_functions_are_their_operators() -> None:
    for function, expected in ((jax.nn.selu, {"ELU", "LEAKY_RELU", "MUL"}), (jax.nn.elu, {"ELU"})):
        graph = load(lambda x, function=function: function(x), samples=[X])
        assert set(operators(graph)) == expected
        np.testing.assert_allclose(run(graph, X), function(X), atol=1e-6)


def branches(*more: Layer, **constants: np.ndarray) -> Model:
    """Returns ``x >= 0 ? x : exp(x) − 1`` as litert-torch writes it, with `more` behind."""
    layers_ = [
        unary("EXP", "x", "e", ROWS),
        layer("SUB", ("e", "one"), {"m": ROWS}),
        layer("GREATER_EQUAL", ("x", "zero"), {"c": ROWS}),
        layer("SELECT", ("c", "x", "m"), {"y": ROWS}),
        *more,
    ]
    built = net({"x": ROWS}, {"one": np.float32(1), "zero": np.float32(0)} | constants, layers_, [layers_[-1][0].name])
    tensors = {**built.main.tensors, "c": replace(built.main.tensors["c"], dtype="bool")}
    return Model((replace(built.main, tensors=tensors),))


def test_branches_are_one_operator_and_a_second_time_changes_nothing() -> None:
    once = prepare(branches())
    assert operators(once) == {"ELU": 1}
    assert prepare(once).main is once.main
    np.testing.assert_allclose(run(once, X[:1]), run(branches(), X[:1]), atol=1e-6)


def test_what_others_read_of_a_chain_stays() -> None:
    model = branches(layer("ADD", ("m", "y"), {"z": ROWS}))
    assert operators(prepare(model)) == {"EXP": 1, "SUB": 1, "ELU": 1, "ADD": 1}
    np.testing.assert_allclose(run(prepare(model), X[:1]), run(model, X[:1]), atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        branches(one=np.float32(1.01)),
        branches(zero=np.float32(0.5)),
        branches(one=np.linspace(0.9, 1.1, 8, dtype=np.float32)),
    ],
)
def test_what_is_nearly_an_activation_stays_what_it_is(model: Model) -> None:
    assert recognized_activations(model.main) is model.main


def test_a_softmax_of_something_else_stays() -> None:
    shape, rows = (1, 6, 8), (1, 6, 1)
    layers_ = [
        unary("EXP", "x", "e", shape),
        layer("SUM", ("e", "axis"), {"s": rows}, keep_dims=True),
        layer("DIV", ("z", "s"), {"y": shape}),
    ]
    model = net({"x": shape, "z": shape}, {"axis": np.array([2], np.int32)}, layers_, ["y"])
    assert operators(prepare(model)) == {"EXP": 1, "SUM": 1, "DIV": 1}


def test_an_operator_that_is_there_twice_is_computed_once() -> None:
    row = (1, 8)
    made = [dense("x", "w", "", "a", row, "RELU"), dense("x", "w", "", "b", row), layer("SUB", ("a", "b"), {"y": row})]
    model = net({"x": row}, {"w": weights(8, 8)}, made, ["y"])
    assert operators(prepare(model)) == {"FULLY_CONNECTED": 1, "RELU": 1, "SUB": 1}
    x = X[0, :1]
    np.testing.assert_array_equal(run(prepare(model), x), run(model, x))


def test_a_function_without_a_kernel_is_float_from_its_argument_on() -> None:
    x = keras.Input(ROWS[1:])
    model = keras.Model(x, layers.Dense(8)(ops.erf(layers.Dense(8)(x))))
    q = quantize(model, "int8", calibration=[X], progress=False)
    assert sqnr_db(model.predict(X, verbose=0), np.asarray(run(q.model, X))) >= 30.0
    assert operators(q.model)["DEQUANTIZE"] <= 2
    assert any("alone, which is float" in reason for reason in q.plan.kept_float.values())


def test_a_softmax_s_probabilities_stay_in_place() -> None:
    x = keras.Input(ROWS[1:])
    graph = load(keras.Model(x, ops.softmax(x, axis=1)))
    found = np.asarray(run(graph, X))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert operators(graph) == operators(prepare(graph))
    assert softmax("x", "y", ROWS)[0].op in operators(graph)
