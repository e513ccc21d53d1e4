"""What the rewriter makes of a plan: conversions only where needed, borders, signatures, biases, shared constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.building import add, conv, dense, layer, net, reshape, unary, weights
from tests.ptq.nets import agreement_db, operators, planned, ranges, samples
from tests.tflite.files import if_model, plain, while_model

from featherweight.calibration import calibrate
from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant
from featherweight.graph.numerics import QuantParams, quantize
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.runtime import run
from featherweight.tflite import read, write

INT8 = Rule(weight=Scheme("int8"), activation=Scheme("int8"))
X = (1, 4, 4, 8)


def keep(*names: str) -> Recipe:
    return Recipe("mine", (*(Rule(name) for name in names), INT8))


def tower() -> Model:
    """x → conv a → relu b → conv c → tanh d → conv y, each (1, 4, 4, 8)."""
    constants = {f"w{i}": weights(8, 1, 1, 8, seed=i) for i in range(3)} | {
        f"b{i}": weights(8, seed=9 + i) for i in range(3)
    }
    layers = [
        conv("x", "w0", "b0", "a", X),
        unary("RELU", "a", "b", X),
        conv("b", "w1", "b1", "c", X),
        unary("TANH", "c", "d", X),
        conv("d", "w2", "b2", "y", X),
    ]
    return net({"x": X}, constants, layers, ["y"])


def sequence(model: Model) -> list[str]:
    return [node.op for node in model.main.nodes]


# ------------------------------------------------------------------------------------------------ conversions


def test_integers_from_end_to_end() -> None:
    model = tower()
    _, quantized = planned(model)
    assert sequence(quantized) == ["QUANTIZE", "CONV_2D", "RELU", "CONV_2D", "TANH", "CONV_2D", "DEQUANTIZE"]
    assert agreement_db(model, quantized) > 25


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (("a",), ["CONV_2D", "QUANTIZE", "RELU", "CONV_2D", "TANH", "CONV_2D", "DEQUANTIZE"]),
        (("y",), ["QUANTIZE", "CONV_2D", "RELU", "CONV_2D", "TANH", "DEQUANTIZE", "CONV_2D"]),
        (("c",), ["QUANTIZE", "CONV_2D", "RELU", "DEQUANTIZE", "CONV_2D", "QUANTIZE", "TANH", "CONV_2D", "DEQUANTIZE"]),
        (
            ("c", "d"),
            ["QUANTIZE", "CONV_2D", "RELU", "DEQUANTIZE", "CONV_2D", "TANH", "QUANTIZE", "CONV_2D", "DEQUANTIZE"],
        ),
        (("a", "b", "c", "d", "y"), ["CONV_2D", "RELU", "CONV_2D", "TANH", "CONV_2D"]),
    ],
)
def test_partial_quantization_converts_only_where_needed(kept: tuple[str, ...], expected: list[str]) -> None:
    model = tower()
    decided, quantized = planned(model, keep(*kept))
    assert sequence(quantized) == expected
    assert set(decided.kept_float) == set(kept)
    assert agreement_db(model, quantized) > 25


def test_nothing_to_do_gives_the_same_model() -> None:
    model = tower()
    _, quantized = planned(model, keep("a", "b", "c", "d", "y"))
    assert plain(read(write(quantized)).graphs) == plain(read(write(model)).graphs)


def test_one_conversion_serves_all_who_need_it() -> None:
    layers = [unary("RELU", "x", "h", X), unary("COS", "h", "p", X), unary("COS", "h", "q", X), add("p", "q", "y", X)]
    model = net({"x": X}, {}, layers, ["y"])
    _, quantized = planned(model)
    assert operators(quantized) == {"QUANTIZE": 3, "RELU": 1, "DEQUANTIZE": 2, "COS": 2, "ADD": 1}


def test_conversions_come_before_their_readers() -> None:
    _, quantized = planned(tower(), keep("c", "d"))
    known = {*quantized.main.inputs, *(n for n, t in quantized.main.tensors.items() if t.is_constant)}
    for node in quantized.main.nodes:
        assert {name for name in node.inputs if name} <= known
        known |= set(node.outputs)


def test_every_conversion_has_a_version_for_its_types() -> None:
    _, int8 = planned(tower())
    _, int16 = planned(tower(), "int16x8")
    for model, expected in ((int8, {"QUANTIZE": 1, "DEQUANTIZE": 2}), (int16, {"QUANTIZE": 2, "DEQUANTIZE": 3})):
        assert {n.op: n.version for n in model.main.nodes if "QUANT" in n.op} == expected


def test_tensors_keep_their_names() -> None:
    model = tower()
    _, quantized = planned(model)
    assert set(model.main.tensors) <= set(quantized.main.tensors)
    assert {n.name for n in model.main.nodes} <= {n.name for n in quantized.main.nodes} | {"y"}


def test_unused_tensors_are_left_out() -> None:
    model = tower()
    tensors = dict(model.main.tensors) | {"unused": constant("unused", np.ones(9, np.float32))}
    model = replace(model, graphs=(replace(model.main, tensors=tensors),))
    _, quantized = planned(model)
    assert "unused" not in quantized.main.tensors


def test_free_batches_stay_free() -> None:
    model = tower()
    tensors = {
        n: t if t.is_constant else replace(t, shape_signature=(-1, *t.shape[1:])) for n, t in model.main.tensors.items()
    }
    model = replace(model, graphs=(replace(model.main, tensors=tensors),))
    _, quantized = planned(model)
    for tensor in quantized.main.tensors.values():
        if not tensor.is_constant:
            assert tensor.shape_signature == (-1, *X[1:]), tensor.name
    assert run(quantized, np.zeros((5, *X[1:]), np.float32)).shape == (5, *X[1:])  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------ borders


def test_integer_borders() -> None:
    model = tower()
    decided, quantized = planned(model, io="int8")
    assert sequence(quantized) == ["CONV_2D", "RELU", "CONV_2D", "TANH", "CONV_2D"]
    assert (quantized.main.inputs, quantized.main.outputs) == (("x",), ("y",))
    assert {quantized.main.tensors[n].dtype for n in "xy"} == {"int8"}
    (feed,) = samples(model, 1, 5)
    _, floats = planned(model)
    y = run(quantized, quantize(feed["x"], decided.params["x"]))
    expected = run(floats, feed)
    np.testing.assert_array_equal(
        (y.astype(np.float32) - decided.params["y"].zero_point[0]) * np.float32(decided.params["y"].scale[0]), expected
    )


def test_integer_borders_in_int16() -> None:
    _, quantized = planned(tower(), "int16x8", io="int8")
    assert {quantized.main.tensors[n].dtype for n in "xy"} == {"int16"}
    assert "QUANTIZE" not in operators(quantized)


def test_integer_borders_of_float_operators() -> None:
    _, quantized = planned(tower(), keep("a", "y"), io="int8")
    assert sequence(quantized) == [
        "DEQUANTIZE", "CONV_2D", "QUANTIZE", "RELU", "CONV_2D", "TANH", "DEQUANTIZE", "CONV_2D", "QUANTIZE"
    ]  # fmt: skip
    assert {quantized.main.tensors[n].dtype for n in (*quantized.main.inputs, *quantized.main.outputs)} == {"int8"}


@pytest.mark.parametrize("io", ["float32", "int8"])
def test_an_output_that_others_read(io: str) -> None:
    layers = [unary("RELU", "x", "h", X), unary("TANH", "h", "y", X)]
    model = net({"x": X}, {}, layers, ["h", "y"])
    _, quantized = planned(model, io=io)
    assert operators(quantized)["DEQUANTIZE"] == (2 if io == "float32" else 0)
    if io == "float32":
        assert agreement_db(model, quantized) > 30


@pytest.mark.parametrize("io", ["float32", "int8"])
def test_an_input_that_is_an_output(io: str) -> None:
    model = net({"x": X}, {}, [unary("RELU", "x", "y", X)], ["x", "y"])
    _, quantized = planned(model, io=io)
    assert len(quantized.main.outputs) == 2
    dtypes = [quantized.main.tensors[n].dtype for n in quantized.main.outputs]
    assert dtypes == [io, io]


def test_one_tensor_as_two_outputs() -> None:
    model = net({"x": X}, {}, [unary("RELU", "x", "y", X)], ["y", "y"])
    _, quantized = planned(model)
    assert operators(quantized) == {"QUANTIZE": 1, "RELU": 1, "DEQUANTIZE": 1}
    assert len(set(quantized.main.outputs)) == 1


def test_an_unread_input() -> None:
    model = net({"x": X, "z": X}, {}, [unary("RELU", "x", "y", X)], ["y"])
    _, quantized = planned(model)
    assert quantized.main.inputs == ("x", "z")
    assert quantized.main.tensors["z"].dtype == "float32"
    _, quantized = planned(model, io="int8")
    assert quantized.main.tensors["z"].dtype == "int8"


@pytest.mark.parametrize("io", ["float32", "int8"])
def test_signatures_follow_the_borders(io: str) -> None:
    signature = Signature("serve", (("image", "x"),), (("score", "y"),))
    model = replace(tower(), signatures=(signature,))
    stats = calibrate(model, [{"image": s["x"]} for s in samples(model)], progress=False)
    quantized = rewrite(model, plan(model, stats, "int8", io=io))
    (found,) = quantized.signatures
    assert found.inputs == (("image", quantized.main.inputs[0]),)
    assert found.outputs == (("score", quantized.main.outputs[0]),)
    dtype = np.int8 if io == "int8" else np.float32
    assert run(quantized, {"image": np.zeros(X, dtype)}).dtype == dtype  # type: ignore[union-attr]


def test_metadata_and_description_stay() -> None:
    model = replace(tower(), metadata={"author": b"tests"}, description="a tower")
    _, quantized = planned(model)
    assert (bytes(quantized.metadata["author"]), quantized.description) == (b"tests", "a tower")


# ------------------------------------------------------------------------------------------------ weights only


@pytest.mark.parametrize(
    ("name", "dtype", "version"), [("weights8", "int8", 5), ("weights4", "int4", 6), ("float16", "float16", 3)]
)
def test_weights_are_stored_small_and_computed_in_float(name: str, dtype: str, version: int) -> None:
    model = tower()
    _, quantized = planned(model, name)
    assert operators(quantized) == {"DEQUANTIZE": 3, "CONV_2D": 3, "RELU": 1, "TANH": 1}
    assert {n.version for n in quantized.main.nodes if n.op == "DEQUANTIZE"} == {version}
    assert all(quantized.main.tensors[f"w{i}"].dtype == dtype for i in range(3))
    assert all(quantized.main.tensors[f"b{i}"].dtype == "float32" for i in range(3))
    assert agreement_db(model, quantized) > {"int8": 35, "int4": 12, "float16": 60}[dtype]


def test_a_weight_of_two_layers_is_dequantized_once() -> None:
    layers = [dense("x", "w", "", "h", (1, 8)), dense("h", "w", "", "y", (1, 8))]
    model = net({"x": (1, 8)}, {"w": weights(8, 8)}, layers, ["y"])
    _, quantized = planned(model, "weights8")
    assert operators(quantized) == {"DEQUANTIZE": 1, "FULLY_CONNECTED": 2}


def test_dynamic_range_quantizes_weights_alone() -> None:
    model = tower()
    _, quantized = planned(model, "dynamic")
    assert operators(quantized) == {"CONV_2D": 3, "RELU": 1, "TANH": 1}
    assert quantized.main.tensors["w0"].quant is not None
    assert quantized.main.tensors["w0"].quant.is_per_channel
    assert quantized.main.tensors["x"].dtype == "float32"
    assert agreement_db(model, quantized) > 30


def test_dynamic_range_asks_for_asymmetric_inputs_where_the_kernel_offers_them() -> None:
    constants = {"w": weights(8, 64)}
    node = layer("FULLY_CONNECTED", ("x", "w", ""), {"y": (1, 8)}, asymmetric_quantize_inputs=False)
    _, quantized = planned(net({"x": (1, 64)}, constants, [node], ["y"]), "dynamic")
    assert quantized.main.nodes[0].attrs["asymmetric_quantize_inputs"] is True


@pytest.mark.parametrize("name", ["dynamic", "weights8", "float16"])
def test_weights_that_reach_a_loop_as_operands(name: str) -> None:
    # A loop-invariant weight is an operand of WHILE and a parameter of its body: no constant where it is used.
    w = weights(32, 32, spread=0.1)
    tensors = {
        "n": Tensor("n", (), "int32"),
        "x": Tensor("x", (1, 32), "float32"),
        "w": Tensor("w", (32, 32), "float32"),
    }

    def renamed(tag: str) -> dict[str, Tensor]:
        return {f"{tag}_{n}": replace(t, name=f"{tag}_{n}") for n, t in tensors.items()}

    cond = Graph(
        "cond",
        ("c_n", "c_x", "c_w"),
        ("again",),
        (Node("LESS", ("c_n", "three"), ("again",)),),
        renamed("c") | {"three": constant("three", np.array(3, np.int32)), "again": Tensor("again", (), "bool")},
    )
    body = Graph(
        "body",
        ("b_n", "b_x", "b_w"),
        ("next_n", "next_x", "b_w"),
        (
            Node("ADD", ("b_n", "one"), ("next_n",)),
            Node("FULLY_CONNECTED", ("b_x", "b_w", ""), ("next_x",)),
        ),
        renamed("b")
        | {"one": constant("one", np.array(1, np.int32)), "next_n": Tensor("next_n", (), "int32")}
        | {"next_x": Tensor("next_x", (1, 32), "float32")},
    )
    main = Graph(
        "main",
        ("x",),
        ("y",),
        (
            Node(
                "WHILE",
                ("zero", "x", "w"),
                ("n", "y", "w_out"),
                {"cond_subgraph_index": 1, "body_subgraph_index": 2},
            ),
        ),
        {
            "zero": constant("zero", np.array(0, np.int32)),
            "x": tensors["x"],
            "w": constant("w", w),
            "n": tensors["n"],
            "y": Tensor("y", (1, 32), "float32"),
            "w_out": Tensor("w_out", (32, 32), "float32"),
        },
    )
    model = Model((main, cond, body))
    decided, quantized = planned(model, name)
    assert agreement_db(model, quantized) > 30
    assert decided.kept_float or decided.forms


@pytest.mark.parametrize("name", ["dynamic", "weights8", "float16", "int8"])
@pytest.mark.parametrize("make", [while_model, if_model])
def test_loops_and_branches_compute_the_same(name: str, make: Any) -> None:
    model = make()
    stats = ranges(x=(-2.0, 2.0), y=(-2.0, 2.0)) if name == "int8" else None
    _, quantized = planned(model, name, stats=stats)
    assert [g.name for g in quantized.graphs] == [g.name for g in model.graphs]
    feed = {n: np.ones(model.main.tensors[n].shape, bool if n == "c" else np.float32) for n in model.main.inputs}
    np.testing.assert_allclose(run(quantized, feed), run(model, feed), atol=0.02)


# ------------------------------------------------------------------------------------------------ int16


def test_int16_disowns_the_old_power_of_two_kernel() -> None:
    node = layer("ADD", ("x", "z"), {"y": X}, pot_scale_int16=True)
    model = net({"x": X, "z": X}, {}, [node], ["y"])
    _, quantized = planned(model, "int16x8")
    (found,) = (n for n in quantized.main.nodes if n.op == "ADD")
    assert found.attrs["pot_scale_int16"] is False
    assert agreement_db(model, quantized) > 60


# ------------------------------------------------------------------------------------------------ odd constants


@pytest.mark.parametrize("value", [0.0, 1e-20, -3.5, 1e20])
def test_constant_operands_of_one_value(value: float) -> None:
    model = net({"x": X}, {"c": np.full((1,), value, np.float32)}, [add("x", "c", "y", X)], ["y"])
    _, quantized = planned(model)
    (feed,) = samples(model, 1, 3)
    expected = np.asarray(run(model, feed))
    step = np.ptp(expected) / 255 + max(abs(value), 4) / 100
    assert np.abs(run(quantized, feed) - expected).max() <= step


def test_an_operand_in_two_places_at_two_scales() -> None:
    constants = {"c": np.linspace(-1, 1, 128, dtype=np.float32).reshape(X)}
    layers = [
        layer("MAXIMUM", ("x", "c"), {"h": X}),
        add("h", "c", "y", X),
    ]
    model = net({"x": X}, constants, layers, ["y"])
    decided, quantized = planned(model)
    assert len([t for t in quantized.main.tensors.values() if t.is_constant]) == 1 + len(decided.edges)
    assert agreement_db(model, quantized) > 30


def test_the_lowest_integer_of_an_asymmetric_operand_is_used() -> None:
    # A zero point that happens to be 0 does not make an activation grid narrow.
    params = QuantParams("int8", (0.5,), (0,))
    model = net({"x": (1, 2)}, {"c": np.array([[-64.0, 63.5]], np.float32)}, [add("x", "c", "y", (1, 2))], ["y"])
    decided = plan(model, ranges(x=(-1.0, 1.0), y=(-70.0, 70.0)), "int8")
    quantized = rewrite(model, replace(decided, params=dict(decided.params) | {"c": params}))
    assert np.asarray(quantized.main.tensors["c"].array).tolist() == [[-128, 127]]


def test_reshapes_keep_their_integer_operands() -> None:
    model = net({"x": X}, {"s": np.array([1, 128], np.int32)}, [reshape("x", "s", "y", (1, 128))], ["y"])
    _, quantized = planned(model)
    assert quantized.main.tensors["s"].dtype == "int32"
    assert operators(quantized) == {"QUANTIZE": 1, "RESHAPE": 1, "DEQUANTIZE": 1}


def test_rewriting_changes_nothing_of_the_source() -> None:
    model = tower()
    before = plain(model)
    planned(model)
    planned(model, "weights4")
    assert plain(model) == before


def test_the_same_bytes_every_time() -> None:
    model = tower()
    assert write(planned(model)[1]) == write(planned(model)[1])
