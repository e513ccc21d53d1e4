"""Several precisions and shared constants in one model, and plans that depend on nothing but model and ranges."""

from __future__ import annotations

from typing import Any

from tests.building import CONV, add, dense, net, weights
from tests.ptq.nets import INT8, agreement_db, one_conv, operators, planned, ranges, recipe, samples, single

from featherweight.calibration import calibrate
from featherweight.graph.numerics import QuantParams, params_from_range
from featherweight.ptq.planning import plan
from featherweight.recipes.recipe import Rule, Scheme


def test_int16_beside_int8() -> None:
    constants = {"w1": weights(8, 16), "w2": weights(8, 8), "w3": weights(4, 8)}
    layers = [dense("x", "w1", "", "a", (1, 8)), dense("a", "w2", "", "b", (1, 8)), dense("b", "w3", "", "y", (1, 4))]
    model = net({"x": (1, 16)}, constants, layers, ["y"])
    wide = Rule("b", weight=Scheme("int8"), activation=Scheme("int16"))
    decided, quantized = planned(model, recipe(wide, INT8))
    assert decided.forms == {"a": "int8*int8", "b": "int16*int8", "y": "int8*int8"}
    assert [decided.params[n].dtype for n in ("x", "a", "b", "y")] == ["int8", "int8", "int16", "int8"]
    assert set(decided.edges) == {"b:0", "y:0"}
    assert operators(quantized) == {"QUANTIZE": 3, "FULLY_CONNECTED": 3, "DEQUANTIZE": 1}
    assert agreement_db(model, quantized) > 25


def test_int8_activations_beside_dynamic_range() -> None:
    constants = {"w1": weights(32, 16), "w2": weights(4, 32)}
    layers = [dense("x", "w1", "", "h", (1, 32)), dense("h", "w2", "", "y", (1, 4))]
    model = net({"x": (1, 16)}, constants, layers, ["y"])
    decided, quantized = planned(model, recipe(Rule("y", weight=Scheme("int8")), INT8))
    assert decided.forms == {"h": "int8*int8", "y": "float32*int8"}
    assert operators(quantized) == {"QUANTIZE": 1, "FULLY_CONNECTED": 2, "DEQUANTIZE": 1}
    assert agreement_db(model, quantized) > 25


def test_one_weight_for_two_layers() -> None:
    constants = {"w": weights(8, 8), "b": weights(8)}
    layers = [dense("x", "w", "b", "h", (1, 8)), dense("h", "w", "b", "y", (1, 8))]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    decided, quantized = planned(model)
    assert decided.edges == {}
    first, second = (node for node in quantized.main.nodes if node.op == "FULLY_CONNECTED")
    assert first.inputs[1] == second.inputs[1]  # the weight is stored once
    assert first.inputs[2] != second.inputs[2]  # a bias belongs to the scale of its layer's input
    assert agreement_db(model, quantized) > 30


def test_one_weight_at_different_precision() -> None:
    constants = {"w": weights(8, 8)}
    layers = [dense("x", "w", "", "h", (1, 8)), dense("h", "w", "", "y", (1, 8))]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    four = Rule("y", weight=Scheme("int4"), activation=Scheme("int8"))
    decided, quantized = planned(model, recipe(four, INT8))
    assert decided.params["w"].dtype == "int8"
    assert decided.edges["y:1"].dtype == "int4"
    stored = sorted(t.dtype for t in quantized.main.tensors.values() if t.is_constant)
    assert stored == ["int4", "int8"]
    assert agreement_db(model, quantized) > 10


def test_one_weight_for_an_integer_and_a_float_layer() -> None:
    constants = {"w": weights(8, 8)}
    layers = [dense("x", "w", "", "h", (1, 8)), dense("h", "w", "", "y", (1, 8))]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    _, quantized = planned(model, recipe(Rule("y"), INT8))
    assert sorted(t.dtype for t in quantized.main.tensors.values() if t.is_constant) == ["float32", "int8"]
    assert agreement_db(model, quantized) > 30


def test_one_bias_for_layers_of_different_weights() -> None:
    constants = {"w1": weights(8, 8), "w2": weights(8, 8, seed=1), "b": weights(8)}
    layers = [dense("x", "w1", "b", "u", (1, 8)), dense("x", "w2", "b", "v", (1, 8)), add("u", "v", "y", (1, 8))]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    _, quantized = planned(model)
    assert sum(t.dtype == "int32" for t in quantized.main.tensors.values()) == 2
    assert agreement_db(model, quantized) > 30


def test_the_same_plan_whatever_the_order_of_samples() -> None:
    model = one_conv(weights(3, 1, 1, 8), weights(3))
    given = samples(model, 16)
    forward, backward = (calibrate(model, order, progress=False) for order in (given, given[::-1]))
    assert plan(model, forward, "int8") == plan(model, backward, "int8")


def test_parameters_that_are_given_stand() -> None:
    model = single("RELU")
    own = QuantParams("int8", (0.25,), (-5,))
    decided = plan(model, ranges(x=(-1, 1), y=(0, 1)), "int8", given={"y": own})
    assert decided.params["y"] == own
    assert decided.params["x"] == params_from_range(-1, 1, "int8")


def test_a_convolution_keeps_its_attributes() -> None:
    _, quantized = planned(one_conv(weights(3, 1, 1, 8)))
    node = next(n for n in quantized.main.nodes if n.op == "CONV_2D")
    assert {key: node.attrs[key] for key in CONV} == CONV
    assert node.version == 3


def test_plans_are_the_same_every_time() -> None:
    model = one_conv(weights(3, 1, 1, 8), weights(3))
    stats: Any = calibrate(model, samples(model), progress=False)
    assert plan(model, stats, "int8").to_json() == plan(model, stats, "int8").to_json()
