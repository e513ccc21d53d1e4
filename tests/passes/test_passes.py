"""Every pass keeps what the graph computes, is idempotent, and gets along with whatever else a file holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.building import Layer, add, layer, net, unary
from tests.ptq.nets import operators, planned, samples
from tests.single_ops import FACTORIES
from tests.tflite.files import if_model, plain, while_model

import featherweight as fw
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.passes.legalization import PASSES, Pass, prepare
from featherweight.runtime import run
from featherweight.tasks.load import load
from featherweight.tflite import read, write

X = (1, 4, 4, 8)
CONSTANT = np.random.default_rng(0).uniform(0.5, 4, X).astype(np.float32)


def neg(x: str, y: str) -> Layer:
    return layer("NEG", (x,), {y: X})


def div(x: str, z: str, y: str) -> Layer:
    return layer("DIV", (x, z), {y: X}, fused_activation_function="RELU")


ROW = (1, 4, 4, 1)


def mul(x: str, z: str, y: str, shape: tuple[int, ...] = X) -> Layer:
    return layer("MUL", (x, z), {y: shape})


def sub(x: str, z: str, y: str, shape: tuple[int, ...] = X) -> Layer:
    return layer("SUB", (x, z), {y: shape})


def reshape_row(x: str, y: str) -> Layer:
    return layer("RESHAPE", (x, "row"), {y: ROW})


AXES = np.array([3], np.int32)
SIZES = np.array(ROW, np.int32)
# A layer norm as litert-torch writes it: statistics without the last axis, and x·s + (0 − m·s).
NORM = [
    layer("MEAN", ("x", "axes"), {"m": ROW[:3]}),
    reshape_row("m", "m4"),
    layer("SQUARED_DIFFERENCE", ("x", "m4"), {"q": X}),
    layer("MEAN", ("q", "axes"), {"v": ROW[:3]}),
    unary("RSQRT", "v", "s", ROW[:3]),
    mul("s", "m", "ms", ROW[:3]),
    sub("zero", "ms", "n", ROW[:3]),
    reshape_row("s", "s4"),
    mul("x", "s4", "xs"),
    reshape_row("n", "n4"),
    add("xs", "n4", "y", X),
]

MODELS = {
    "layer norm": net({"x": X}, {"axes": AXES, "row": SIZES, "zero": np.float32(0)}, NORM, ["y"]),
    "0 - x": net({"x": X}, {"zero": np.zeros(8, np.float32)}, [sub("zero", "x", "y")], ["y"]),
    "0 - m, broadcast": net({"x": ROW}, {"zero": np.zeros(X, np.float32)}, [sub("zero", "x", "y")], ["y"]),
    "x * (c + d)": net(
        {"x": X}, {"c": CONSTANT, "d": np.float32(2)}, [add("c", "d", "e", X), mul("x", "e", "y")], ["y"]
    ),
    "x + -z": net({"x": X, "z": X}, {}, [neg("z", "n"), add("x", "n", "y", X)], ["y"]),
    "-x + z": net({"x": X, "z": X}, {}, [neg("x", "n"), add("n", "z", "y", X)], ["y"]),
    "-x + -z": net({"x": X, "z": X}, {}, [neg("x", "m"), neg("z", "n"), add("m", "n", "y", X)], ["y"]),
    "-x + -x": net({"x": X}, {}, [neg("x", "n"), add("n", "n", "y", X)], ["y"]),
    "-x, x + -x": net({"x": X}, {}, [neg("x", "n"), add("x", "n", "y", X)], ["n", "y"]),
    "-x": net({"x": X}, {}, [neg("x", "y")], ["y"]),
    "-relu(-x)": net({"x": X}, {}, [neg("x", "a"), unary("RELU", "a", "b", X), neg("b", "y")], ["y"]),
    "x / c": net({"x": X}, {"c": CONSTANT}, [div("x", "c", "y")], ["y"]),
    "c / x": net({"x": X}, {"c": CONSTANT}, [div("c", "x", "y")], ["y"]),
    "x / z": net({"x": X, "z": X}, {}, [div("x", "z", "y")], ["y"]),
}


def outputs(model: Model) -> list[np.ndarray]:
    (feed,) = samples(model, 1, low=0.5, high=2.0)
    found = run(model, feed)
    return [found] if isinstance(found, np.ndarray) else list(found.values())


def passed(rewrite: Pass, model: Model) -> Model:
    return replace(model, graphs=tuple(rewrite(graph) for graph in model.graphs))


@pytest.mark.parametrize("rewrite", PASSES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_the_same(rewrite: Pass, name: str) -> None:
    for one, other in zip(outputs(MODELS[name]), outputs(passed(rewrite, MODELS[name])), strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-7)


@pytest.mark.parametrize("rewrite", PASSES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_second_time_changes_nothing(rewrite: Pass, name: str) -> None:
    once = passed(rewrite, MODELS[name])
    assert plain(passed(rewrite, once)) == plain(once)


def test_a_layer_norm_is_centred_first_and_squares_its_difference() -> None:
    found = operators(prepare(MODELS["layer norm"]))
    assert found == {"MEAN": 2, "RESHAPE": 2, "SUB": 1, "MUL": 2, "RSQRT": 1}


def test_what_depends_on_no_input_is_computed_once() -> None:
    assert operators(prepare(MODELS["x * (c + d)"])) == {"MUL": 1}


@pytest.mark.parametrize("name", MODELS)
def test_prepared_models_have_integer_kernels(name: str) -> None:
    prepared = prepare(MODELS[name])
    found = operators(prepared)
    assert "NEG" not in found
    assert ("DIV" in found) == (name in {"c / x", "x / z"})
    if "DIV" not in found:
        decided, _ = planned(prepared)
        assert decided.kept_float == {}


def test_the_activation_of_a_quotient_stays() -> None:
    (node,) = prepare(MODELS["x / c"]).main.nodes
    assert (node.op, node.attrs["fused_activation_function"]) == ("MUL", "RELU")


@pytest.mark.parametrize("value", [0.0, 1e-39, 1e-45])
def test_divisors_without_a_reciprocal_stay(value: float) -> None:
    model = net({"x": X}, {"c": np.array([1.0, value, 2.0, 1.0], np.float32).repeat(2)}, [div("x", "c", "y")], ["y"])
    assert operators(prepare(model)) == {"DIV": 1}


def test_integers_are_left_alone() -> None:
    tensors = {n: Tensor(n, (2,), "int32") for n in ("x", "n", "y")} | {"c": constant("c", np.array([2, 3], np.int32))}
    nodes = (
        Node("NEG", ("x",), ("n",)),
        Node("DIV", ("n", "c"), ("y",)),
    )
    model = Model((Graph("main", ("x",), ("y",), nodes, tensors),))
    assert operators(prepare(model)) == {"NEG": 1, "DIV": 1}


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_every_operator_passes(name: str) -> None:
    model = prepare(FACTORIES[name]())
    read(write(model))
    if name not in {"NEG", "DIV"}:
        assert plain(model) == plain(FACTORIES[name]())


@pytest.mark.parametrize("make", [while_model, if_model])
def test_loops_and_branches_pass(make: object) -> None:
    model = make()  # type: ignore[operator]
    feed = {n: np.ones(model.main.tensors[n].shape, bool if n == "c" else np.float32) for n in model.main.inputs}
    np.testing.assert_array_equal(run(prepare(model), feed), run(model, feed))


def test_operators_without_inputs_or_outputs_pass() -> None:
    # VAR_HANDLE and CALL_ONCE have none; an absent optional first input is possible, too.
    tensors = {"v": Tensor("v", (), "resource"), "x": Tensor("x", X, "float32"), "y": Tensor("y", X, "float32")}
    init = Graph("init", (), (), (), {})
    nodes = (
        Node("CALL_ONCE", (), (), {"init_subgraph_index": 1}),
        Node("VAR_HANDLE", (), ("v",), {"shared_name": b"state"}, extras={"options": "VarHandleOptions"}),
        Node("ASSIGN_VARIABLE", ("v", "x"), ()),
        Node("NEG", ("x",), ("y",)),
        Node("CUSTOM", ("", "x"), ("z",), custom_code="mine"),
    )
    tensors["z"] = Tensor("z", X, "float32")
    model = Model((Graph("main", ("x",), ("y", "z"), nodes, tensors), init))
    prepared = prepare(model)
    assert operators(prepared) == {"CALL_ONCE": 1, "VAR_HANDLE": 1, "ASSIGN_VARIABLE": 1, "MUL": 1, "CUSTOM": 1}
    assert len(load(write(model)).main.nodes) == 5


def test_added_names_are_new_to_the_whole_model() -> None:
    taken = "y/factor"
    other = Graph("other", (taken,), (taken,), (), {taken: Tensor(taken, (1,), "float32")})
    prepared = prepare(Model((MODELS["-x"].main, other)))
    names = [name for graph in prepared.graphs for name in graph.tensors]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("recipe", ["float16", "dynamic", "int8"])
def test_depthwise_convolutions_without_bias_run(recipe: str) -> None:
    """LiteRT's kernels end the process without one, those of floats too."""
    bare = FACTORIES["DEPTHWISE_CONV_2D"]()
    (node,) = bare.main.nodes
    model = replace(bare, graphs=(replace(bare.main, nodes=(replace(node, inputs=node.inputs[:2]),)),))
    (prepared,) = prepare(model).main.nodes
    assert len(prepared.inputs) == 3
    given = samples(model, 2)
    quantized = fw.quantize(model, recipe, calibration=given if recipe == "int8" else None, progress=False)
    assert not quantized.plan.kept_float
    expected = np.asarray(run(model, given[0], runtime="reference"))
    found = np.asarray(run(quantized.model, given[0]))
    np.testing.assert_allclose(found, expected, atol=0.05 * float(np.abs(expected).max()))
