"""Graphs as other tools write them: shapes of real tensors, nameless outputs, loops, clipped LSTMs, bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests import clients
from tests.building import dense, layer, net, softmax, weights
from tests.ptq.nets import agreement_db, operators, planned, samples
from tests.single_ops import lstm
from tests.tflite.files import if_model

import featherweight as fw
from featherweight.errors import RecipeError
from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant, io_names
from featherweight.graph.numerics import QuantParams, quantize
from featherweight.runtime import run
from featherweight.runtime.litert import Session
from featherweight.tflite import read, write

WEIGHTS = {"w": weights(6, 8), "b": weights(6)}


def shaped() -> Model:
    """Returns a dense layer, whose output is brought into a shape that is computed from its input's."""
    model = net({"x": (3, 8)}, WEIGHTS, [dense("x", "w", "b", "y", (3, 6))], ["y"])
    graph = model.main
    tensors = {
        **graph.tensors,
        **{name: Tensor(name, (2,), "int32") for name in ("shape", "wanted")},
        "plus": constant("plus", np.int32([0, -2])),
        "z": Tensor("z", (3, 6), "float32"),
    }
    nodes = (
        *graph.nodes,
        Node("SHAPE", ("x",), ("shape",), {"out_type": 2}),
        Node("ADD", ("shape", "plus"), ("wanted",), {"fused_activation_function": "NONE"}),
        Node("RESHAPE", ("y", "wanted"), ("z",)),
    )
    return Model((replace(graph, nodes=nodes, tensors=tensors, outputs=("z",)),))


def test_the_shape_of_integers_is_that_of_what_they_stand_for() -> None:
    decided, model = planned(shaped(), io="int8")
    assert operators(model) == {"FULLY_CONNECTED": 1, "SHAPE": 1, "ADD": 1, "RESHAPE": 1}
    assert "shape" not in decided.kept_float
    assert fw.check(model, "litert") == ()
    decided, model = planned(shaped())
    assert operators(model)["DEQUANTIZE"] == 1
    assert agreement_db(shaped(), model) > 30
    found = fw.quantize(shaped(), "int8", calibration=samples(shaped()), strict=True, progress=False)
    assert operators(found.model)["SHAPE"] == 1


def test_plans_that_know_the_shape_as_a_float_operator_are_carried_out() -> None:
    decided, model = planned(shaped())
    older = replace(decided, kept_float={**decided.kept_float, "shape": "SHAPE: no kernel"})
    assert write(fw.rewrite(shaped(), older)) == write(model)


@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_outputs_without_a_signature_keep_their_names(io: str, tmp_path: Path) -> None:
    source = net({"x": (3, 8)}, WEIGHTS, [dense("x", "w", "b", "y", (3, 6))], ["y"])
    _, model = planned(source, io=io)
    path = tmp_path / "m.tflite"
    path.write_bytes(write(model))
    for found in (model, read(path)):
        assert list(io_names(found)[1]) == ["y"]
    with Session(path) as session:
        assert [detail["name"] for detail in session._interpreter.get_output_details()] == ["y"]
    names = [tensor.name for tensor in read(path).main.tensors.values()]
    assert len(set(names)) == len(names)


def test_outputs_with_a_signature_are_named_by_it() -> None:
    source = net({"x": (3, 8)}, WEIGHTS, [dense("x", "w", "b", "y", (3, 6))], ["y"])
    source = replace(source, signatures=(Signature("serve", (("in", "x"),), (("out", "y"),)),))
    _, model = planned(source)
    assert (model.main.outputs, list(io_names(model)[1])) == (("y_float32",), ["out"])


def test_the_name_of_a_softmax_that_is_left_out_stays() -> None:
    constants = {"w": weights(600, 8), "b": weights(600)}
    source = net({"x": (1, 8)}, constants, [dense("x", "w", "b", "l", (1, 600)), softmax("l", "p", (1, 600))], ["p"])
    decided, model = planned(source, target="tflm")
    assert "p" in decided.dropped
    assert list(io_names(read(write(model)))[1]) == ["p"]


@pytest.mark.parametrize("rows", [slice(None), slice(2, 4)])
def test_dense_layers_of_zeros_in_blocks(rows: slice) -> None:
    values = weights(6, 64)
    values[rows] = 0
    source = net({"x": (3, 64)}, {"w": values, "b": weights(6)}, [dense("x", "w", "b", "y", (3, 6))], ["y"])
    _, model = planned(source, "weights4")
    assert not np.asarray(model.main.tensors["w"].array)[rows].any()
    assert agreement_db(source, model) > 15


@pytest.mark.parametrize(("recipe", "form"), [("int8", "float32*int8"), ("int16x8", "float32*int8")])
def test_dense_layers_of_branches_take_their_hybrid_form(recipe: str, form: str) -> None:
    source, (main, then, other) = if_model(), if_model().graphs
    tensors = {**then.tensors, "w": constant("w", weights(3, 3)), "b": constant("b", weights(3))}
    node = Node("FULLY_CONNECTED", (then.inputs[0], "w", "b"), then.outputs)
    source = replace(source, graphs=(main, replace(then, nodes=(node,), tensors=tensors), other))
    feeds = [{"c": np.array([True]), "x": x["x"]} for x in samples(net({"x": (3,)}, {}, [], []))]
    decided = fw.plan(source, fw.calibrate(source, feeds, progress=False), recipe)
    assert decided.forms[node.name] == form
    assert any("quantized on the fly" in note for note in decided.notes)
    model = fw.rewrite(source, decided)
    for feed in feeds:
        np.testing.assert_allclose(run(model, feed), run(source, feed), atol=0.05)
    assert node.name in fw.plan(source, fw.calibrate(source, feeds, progress=False), recipe, "tflm").kept_float


@pytest.mark.parametrize("clip", [10.0, 0.25])
def test_the_cells_of_an_integer_lstm_are_clipped(clip: float, tmp_path: Path) -> None:
    source = lstm()
    (node,) = source.main.nodes
    node = replace(node, attrs={**node.attrs, "cell_clip": clip})
    source = replace(source, graphs=(replace(source.main, nodes=(node,)),))
    decided, model = planned(source, target="tflm")
    assert set(decided.forms.values()) == {"int8*int8"}
    (feed,) = samples(source, 1)
    x = {"x": _integers(model, feed["x"])}
    got = run(model, x)
    np.testing.assert_array_equal(got, run(model, x, runtime="reference"))
    (tmp_path / "m.tflite").write_bytes(write(model))
    on_device = clients.tflm_run(tmp_path / "m.tflite", x)[0]
    np.testing.assert_allclose(on_device.astype(int), got, atol=2)  # as without a clip: its tanh is another
    params = model.main.tensors[model.main.outputs[0]].quant
    assert params is not None
    real = (got.astype(np.float64) - params.zero_point[0]) * params.scale[0]
    assert 10 * np.log10((run(source, feed) ** 2).sum() / ((real - run(source, feed)) ** 2).sum()) > 20


def _integers(model: Model, x: np.ndarray) -> np.ndarray:
    params = model.main.tensors[model.main.inputs[0]].quant
    assert params is not None
    return quantize(x, params)


@pytest.mark.parametrize(
    ("recipe", "target", "why"),
    [
        ("dynamic", "tflm", "target 'tflm' has no kernel for int8 weights beside float activations"),
        ("float16", "ethos-u65", "target 'ethos-u65' runs integers only; choose the recipe int8"),
    ],
)
def test_a_recipe_that_changes_nothing_says_so(recipe: str, target: str, why: str) -> None:
    layers = [dense("x", "w", "b", "h", (3, 6)), dense("h", "v", "b", "y", (3, 6))]
    source = net({"x": (3, 8)}, {**WEIGHTS, "v": weights(6, 6)}, layers, ["y"])
    message = rf"^Recipe '{recipe}' on target '{target}' changes nothing of this model: {why} \(2 operators\)"
    with pytest.raises(RecipeError, match=message):
        fw.quantize(source, recipe, target=target, progress=False)


def test_a_recipe_has_nothing_to_change_where_there_are_no_real_numbers() -> None:
    tensors = {name: Tensor(name, (2,), "int32") for name in "xy"}
    source = Model((Graph("main", ("x",), ("y",), (Node("ABS", ("x",), ("y",)),), tensors),))
    with pytest.raises(RecipeError, match="it computes nothing with real numbers"):
        fw.quantize(source, "dynamic", progress=False)


def cast_of_bytes() -> Model:
    """Returns a net that takes bytes."""
    model = net(
        {"x": (3, 8)}, WEIGHTS, [layer("CAST", ("p",), {"x": (3, 8)}), dense("x", "w", "b", "y", (3, 6))], ["y"]
    )
    graph = model.main
    tensors = {**graph.tensors, "p": Tensor("p", (3, 8), "uint8", shape_signature=(-1, 8))}
    return Model((replace(graph, inputs=("p",), tensors=tensors),))


def test_bytes_go_into_integers_without_becoming_real(tmp_path: Path) -> None:
    source, x = cast_of_bytes(), np.random.default_rng(0).integers(0, 256, (3, 8)).astype(np.uint8)
    decided = fw.plan(source, fw.calibrate(source, [x, np.full_like(x, 255)], progress=False), io="uint8")
    model = fw.rewrite(source, decided)
    assert operators(model) == {"QUANTIZE": 2, "FULLY_CONNECTED": 1}
    taken, given = (model.main.tensors[name] for name in (*model.main.inputs, *model.main.outputs))
    assert (taken.dtype, taken.quant, given.dtype) == ("uint8", QuantParams("uint8", (1.0,), (0,)), "uint8")
    got = run(model, x)
    for resolver, profile in (("auto", "xnnpack"), ("no_delegate", "tflite_opt"), ("reference", "tflite_ref")):
        with Session(model, resolver=resolver) as session:
            np.testing.assert_array_equal(session.run(x)["y"], run(model, x, runtime="reference", profile=profile))
    assert given.quant is not None
    real = (got.astype(np.float64) - given.quant.zero_point[0]) * given.quant.scale[0]
    assert np.abs(real - run(source, x)).max() < 0.03 * np.abs(run(source, x)).max()
    path = tmp_path / "m.tflite"
    path.write_bytes(write(model))
    np.testing.assert_array_equal(
        clients.tflm_run(path, {"p": x})[0], run(model, x, runtime="reference", profile="tflite_ref")
    )


def test_bytes_that_something_else_reads_are_cast() -> None:
    source = cast_of_bytes()
    graph = source.main
    nodes, tensors = list(graph.nodes), {**graph.tensors, "i": Tensor("i", (3, 8), "int32")}
    nodes.append(Node("CAST", ("p",), ("i",)))
    source = Model((replace(graph, nodes=tuple(nodes), tensors=tensors, outputs=("y", "i")),))
    x = np.random.default_rng(0).integers(0, 256, (3, 8)).astype(np.uint8)
    model = fw.rewrite(source, fw.plan(source, fw.calibrate(source, [x], progress=False), io="uint8"))
    assert operators(model)["CAST"] == 2
    assert model.main.tensors["p"].quant is None
    np.testing.assert_array_equal(run(model, x)["i"], x)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [("int16x8", "io uint8 stands for int8 activations"), ("dynamic", "io uint8 needs integer activations")],
)
def test_bytes_stand_for_int8(recipe: str, message: str) -> None:
    source = net({"x": (3, 8)}, WEIGHTS, [dense("x", "w", "b", "y", (3, 6))], ["y"])
    with pytest.raises(RecipeError, match=message):
        fw.quantize(source, recipe, calibration=samples(source), io="uint8", progress=False)
