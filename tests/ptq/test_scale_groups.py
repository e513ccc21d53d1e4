"""Tensors that share a scale, and outputs whose scale is prescribed."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import concat, layer, net, reshape, softmax, unary, weights
from tests.ptq.nets import X, agreement_db, operators, planned, ranges, single

from featherweight.graph import Graph, Model
from featherweight.graph.numerics import QuantParams, params_from_range
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.runtime import run

SIGMOID = QuantParams("int8", (1 / 256,), (-128,))
TANH = QuantParams("int8", (1 / 128,), (0,))


# ------------------------------------------------------------------------------------------------ one scale


@pytest.mark.parametrize("op", ["RESHAPE", "MAX_POOL_2D", "PAD", "TRANSPOSE"])
def test_operators_that_move_data_keep_the_scale(op: str) -> None:
    from tests.single_ops import FACTORIES

    model = FACTORIES[op]()
    decided = plan(model, ranges(x=(-1.0, 2.0), y=(-0.5, 1.0)), "int8")
    assert decided.params["x"] == decided.params["y"] == params_from_range(-1.0, 2.0, "int8")
    assert decided.edges == {}


def test_a_group_has_the_union_of_its_ranges() -> None:
    model = net({"a": X, "b": X}, {}, [concat("a", "b")], ["y"])
    decided = plan(model, ranges(a=(-1.0, 0.5), b=(-0.25, 3.0), y=(-1.0, 3.0)), "int8")
    assert set(decided.params.values()) == {params_from_range(-1.0, 3.0, "int8")}


def test_groups_join_over_chains() -> None:
    layers = [
        reshape("a", "s", "h", (1, 16, 8)),
        layer("PACK", ("h", "b"), {"p": (2, 1, 16, 8)}, values_count=2, axis=0),
        reshape("p", "s2", "y", (2, 128)),
    ]
    constants = {"s": np.array([1, 16, 8], np.int32), "s2": np.array([2, 128], np.int32)}
    model = net({"a": X, "b": (1, 16, 8)}, constants, layers, ["y"])
    decided = plan(model, ranges(a=(0, 1), h=(0, 1), b=(-5, 0), p=(-5, 1), y=(-5, 1)), "int8")
    assert set(decided.params.values()) == {params_from_range(-5.0, 1.0, "int8")}


def test_maximum_forces_its_inputs_to_one_scale() -> None:
    model = net({"a": X, "b": X}, {}, [layer("MAXIMUM", ("a", "b"), {"y": X})], ["y"])
    decided, quantized = planned(model)
    assert len(set(decided.params.values())) == 1
    assert agreement_db(model, quantized) > 30


def test_a_constant_operand_takes_the_scale_of_the_group() -> None:
    constants = {"c": np.full((1, 4, 4, 8), 0.5, np.float32)}
    model = net({"a": X}, constants, [layer("MAXIMUM", ("a", "c"), {"y": X})], ["y"])
    decided, quantized = planned(model)
    assert decided.params["c"] == decided.params["y"]
    assert agreement_db(model, quantized) > 30


@pytest.mark.parametrize("name", ["int8", "dynamic"])
def test_large_constant_operands_do_not_decide_about_the_range(name: str) -> None:
    # A constant of 1024 elements and more is a table for GATHER, but an operand like any other for MAXIMUM.
    shape = (1, 8, 8, 16)
    constants = {"c": np.full(shape, 0.01, np.float32)}
    model = net({"a": shape}, constants, [layer("MAXIMUM", ("a", "c"), {"y": shape})], ["y"])
    _, quantized = planned(model, name)
    assert agreement_db(model, quantized) > 30


@pytest.mark.parametrize("name", ["int8", "dynamic"])
def test_large_constants_in_a_concatenation(name: str) -> None:
    constants = {"c": np.full((1, 16, 16, 8), 0.01, np.float32)}
    model = net({"a": (1, 16, 16, 8)}, constants, [concat("a", "c", shape=(1, 16, 16, 16))], ["y"])
    _, quantized = planned(model, name)
    assert agreement_db(model, quantized) > 30


def gather(table: np.ndarray) -> Model:
    model = net({}, {"table": table}, [layer("GATHER", ("table", "i"), {"y": (3, 64)}, axis=0)], ["y"])
    from featherweight.graph import Tensor

    tensors = dict(model.main.tensors) | {"i": Tensor("i", (3,), "int32")}
    return Model((Graph("main", ("i",), ("y",), model.main.nodes, tensors),))


def test_a_table_decides_about_the_range_of_what_is_copied_out_of_it() -> None:
    table = weights(32, 64)
    decided = plan(gather(table), ranges(y=(-0.01, 0.01)), "int8")
    assert decided.params["y"] == params_from_range(float(table.min()), float(table.max()), "int8")


def test_tables_are_integers_in_dynamic_range() -> None:
    model = gather(weights(32, 64))
    decided = plan(model, None, "dynamic")
    quantized = rewrite(model, decided)
    assert quantized.main.tensors["table"].dtype == "int8"
    indices = np.array([0, 7, 31], np.int32)
    assert np.abs(run(quantized, indices) - run(model, indices)).max() <= decided.params["y"].scale[0] * 0.51


# ------------------------------------------------------------------------------------------------ fixed outputs


@pytest.mark.parametrize(
    ("op", "name", "expected"),
    [
        ("LOGISTIC", "int8", SIGMOID),
        ("LOGISTIC", "int16x8", QuantParams("int16", (1 / 32768,), (0,))),
        ("TANH", "int8", TANH),
        ("TANH", "int16x8", QuantParams("int16", (1 / 32768,), (0,))),
    ],
)
def test_prescribed_outputs(op: str, name: str, expected: QuantParams) -> None:
    decided = plan(single(op), ranges(x=(-3.0, 3.0), y=(-0.9, 0.9)), name)
    assert decided.params["y"] == expected


def test_a_prescribed_output_passes_through_data_movement() -> None:
    layers = [softmax("x", "p", (1, 10)), reshape("p", "s", "r", (10,)), reshape("r", "s", "y", (10,))]
    model = net({"x": (1, 10)}, {"s": np.array([10], np.int32)}, layers, ["y"])
    decided, quantized = planned(model)
    assert decided.params["p"] == decided.params["r"] == decided.params["y"] == SIGMOID
    assert operators(quantized) == {"QUANTIZE": 1, "SOFTMAX": 1, "RESHAPE": 2, "DEQUANTIZE": 1}


def test_a_prescribed_output_joins_a_group_that_it_can_not_hold_by_a_conversion() -> None:
    layers = [unary("LOGISTIC", "a", "p", X), concat("p", "b")]
    model = net({"a": X, "b": X}, {}, layers, ["y"])
    decided = plan(model, ranges(a=(-3, 3), b=(-2, 2), p=(0, 1), y=(-2, 2)), "int8")
    assert decided.params["p"] == SIGMOID
    assert decided.params["b"] == decided.params["y"] == params_from_range(-2, 2, "int8")
    assert decided.edges == {"y:0": decided.params["y"]}
    quantized = rewrite(model, decided)
    assert operators(quantized) == {"QUANTIZE": 3, "LOGISTIC": 1, "CONCATENATION": 1, "DEQUANTIZE": 1}
    assert agreement_db(model, quantized) > 30


def test_a_group_that_fits_takes_the_prescribed_parameters() -> None:
    layers = [unary("LOGISTIC", "a", "p", X), concat("p", "b")]
    model = net({"a": X, "b": X}, {}, layers, ["y"])
    decided = plan(model, ranges(a=(-3, 3), b=(0.0, 0.5), p=(0, 1), y=(0.0, 1)), "int8")
    assert decided.params["b"] == decided.params["y"] == SIGMOID
    assert decided.edges == {}


def test_sigmoid_beside_tanh_in_one_concatenation() -> None:
    layers = [unary("LOGISTIC", "a", "p", X), unary("TANH", "a", "t", X), concat("p", "t")]
    model = net({"a": X}, {}, layers, ["y"])
    decided, quantized = planned(model)
    assert decided.params["p"] == SIGMOID
    assert decided.params["t"] == decided.params["y"] == TANH
    assert list(decided.edges) == ["y:0"]
    assert agreement_db(model, quantized) > 30
