"""Activations behind an operator become a part of it: to the bit on LiteRT, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.building import POOL, Layer, add, layer, model_of, net, unary, weights
from tests.ptq.nets import operators, samples
from tests.single_ops import FACTORIES

import featherweight as fw
from featherweight.graph import Model, Tensor
from featherweight.operators import registered
from featherweight.passes.fusing import fused_activations
from featherweight.passes.legalization import prepare
from featherweight.runtime import run
from featherweight.tflite.names import FUSED_ACTIVATIONS

X = (1, 4, 4, 8)
VOLUME = (1, 4, 4, 4, 3)
ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1")
OTHERS = {
    "L2_POOL_2D": model_of("L2_POOL_2D", {"x": X}, {"y": (1, 2, 2, 8)}, **POOL),
    "CONV_3D": model_of(
        "CONV_3D",
        {"x": VOLUME, "w": weights(2, 2, 2, 3, 5), "b": weights(5)},
        {"y": (1, 4, 4, 4, 5)},
        padding="SAME",
        **{f"{what}_{axis}{end}": 1 for what, end in (("stride", ""), ("dilation", "_factor")) for axis in "dhw"},
    ),
}


def ending_in(model: Model, *activations: str) -> Model:
    """Returns a model of one operator with activations behind it."""
    (node,), tensors = model.main.nodes, dict(model.main.tensors)
    nodes, last = [node], node.name
    for number, activation in enumerate(activations):
        new, made = unary(activation, last, f"a{number}", tensors[node.name].shape)
        tensors |= made
        nodes.append(new)
        last = f"a{number}"
    graph = replace(model.main, nodes=tuple(nodes), tensors=tensors, outputs=(last,))
    return replace(model, graphs=(graph,))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("op", [op.name for op in registered() if op.fuses])
def test_what_is_computed_is_the_same_to_the_bit(op: str, activation: str) -> None:
    model = ending_in(FACTORIES[op]() if op in FACTORIES else OTHERS[op], activation)
    fused = prepare(model)
    (node,) = fused.main.nodes
    assert (node.op, node.attrs["fused_activation_function"], node.outputs) == (op, activation, ("a0",))
    (feed,) = samples(model, 1, low=-1.5, high=1.2 if activation == "RELU_N1_TO_1" else 9.0)
    for resolver in ("auto", "no_delegate", "reference"):
        one, other = (run(each, feed, resolver=resolver) for each in (model, fused))
        np.testing.assert_array_equal(one, other)
        assert len(np.unique(one)) > 1


@pytest.mark.parametrize(
    ("two", "one"),
    [
        (("RELU", "RELU6"), "RELU6"),
        (("RELU6", "RELU"), "RELU6"),
        (("RELU6", "RELU6"), "RELU6"),
        (("RELU_N1_TO_1", "RELU_N1_TO_1"), "RELU_N1_TO_1"),
    ],
)
def test_of_two_activations_the_operator_does_what_both_do(two: tuple[str, str], one: str) -> None:
    model = ending_in(FACTORIES["ADD"](), *two)
    fused = prepare(model)
    assert [node.attrs["fused_activation_function"] for node in fused.main.nodes] == [one]
    (feed,) = samples(model, 1, low=-6.0, high=9.0)
    np.testing.assert_array_equal(run(model, feed), run(fused, feed))


def test_bounds_that_have_no_name_stay_behind() -> None:
    fused = prepare(ending_in(FACTORIES["ADD"](), "RELU", "RELU_N1_TO_1"))
    assert [(node.op, node.attrs.get("fused_activation_function")) for node in fused.main.nodes] == [
        ("ADD", "RELU"),
        ("RELU_N1_TO_1", None),
    ]
    assert operators(prepare(ending_in(FACTORIES["ADD"](), "RELU_0_TO_1"))) == {"ADD": 1, "RELU_0_TO_1": 1}
    assert "RELU_0_TO_1" not in FUSED_ACTIVATIONS


def sums(*layers: Layer, outputs: tuple[str, ...]) -> Model:
    return net({"x": X, "z": X}, {}, [add("x", "z", "s", X), *layers], outputs)


@pytest.mark.parametrize(
    "model",
    [
        sums(unary("RELU", "s", "y", X), layer("ABS", ("s",), {"n": X}), outputs=("y", "n")),
        sums(unary("RELU", "s", "y", X), outputs=("y", "s")),
        net({"x": X}, {}, [unary("ABS", "x", "s", X), unary("RELU", "s", "y", X)], ("y",)),
        net({"x": X}, {}, [unary("RELU", "x", "y", X)], ("y",)),
    ],
    ids=["read twice", "an output", "an operator without", "an input"],
)
def test_others_stay(model: Model) -> None:
    assert fused_activations(model.main) is model.main


def test_integers_stay() -> None:
    tensors = {name: Tensor(name, (4,), "int32") for name in "xzs"}
    layers = [layer("ADD", ("x", "z"), {"s": tensors["s"]}), layer("RELU", ("s",), {"y": Tensor("y", (4,), "int32")})]
    model = net({"x": tensors["x"], "z": tensors["z"]}, {}, layers, ("y",))
    assert fused_activations(model.main) is model.main


@pytest.mark.parametrize("recipe", ["float16", "dynamic", "int8"])
def test_every_recipe_fuses_and_says_how_many(recipe: str) -> None:
    model = ending_in(FACTORIES["CONV_2D"](), "RELU6")
    given = [sample["x"] for sample in samples(model, 2)] if recipe == "int8" else None
    quantized = fw.quantize(model, recipe, calibration=given, progress=False)
    assert "RELU6" not in operators(quantized.model)
    assert any("1 activations that were operators of their own are fused" in note for note in quantized.plan.notes)
    again = fw.quantize(fw.load(model), recipe, calibration=given, progress=False)
    assert not any("are fused" in note for note in again.plan.notes)
