"""What the planner keeps float or drops, and the reasons that it gives."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import dense, net, reshape, softmax, unary, weights
from tests.ptq.nets import INT8, X, agreement_db, one_dense, operators, planned, ranges, recipe, single
from tests.tflite.files import while_model

from featherweight.graph import Model
from featherweight.passes.legalization import prepare
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Rule
from featherweight.targets.target import check

# ------------------------------------------------------------------------------------------------ what stays float


def test_operators_without_integer_kernels() -> None:
    layers = [unary("RELU", "x", "h", X), unary("COS", "h", "c", X), unary("RELU", "c", "y", X)]
    model = net({"x": X}, {}, layers, ["y"])
    decided = plan(model, ranges(x=(-2, 2), h=(0, 2), c=(-1, 1), y=(0, 1)), "int8")
    assert decided.kept_float == {"c": "COS: target 'litert' has no int8 kernel for it (it runs none in integers)"}


def test_forms_that_the_target_lacks_are_named() -> None:
    decided = plan(single("ELU"), ranges(x=(-2, 2), y=(-1, 2)), "int16x8")
    assert decided.kept_float == {"y": "ELU: target 'litert' has no int16 kernel for it (it runs int8)"}


def test_what_the_recipe_keeps_float() -> None:
    model = net({"x": X}, {}, [unary("RELU", "x", "h", X), unary("TANH", "h", "y", X)], ["y"])
    decided, quantized = planned(model, recipe(Rule("h"), INT8))
    assert decided.kept_float == {"h": "RELU: the recipe keeps it float"}
    assert operators(quantized) == {"RELU": 1, "QUANTIZE": 1, "TANH": 1, "DEQUANTIZE": 1}


def test_computed_weights_and_biases() -> None:
    dense_layer = dense("x", "w", "", "y", (1, 3))
    model = net({"x": (1, 8), "w": (3, 8)}, {}, [dense_layer], ["y"])
    decided = plan(model, ranges(x=(-1, 1), w=(-1, 1), y=(-1, 1)), "int8")
    assert decided.kept_float == {"y": "FULLY_CONNECTED: its weight is computed, not constant"}
    model = net({"x": (1, 8), "b": (3,)}, {"w": weights(3, 8)}, [dense("x", "w", "b", "y", (1, 3))], ["y"])
    decided = plan(model, ranges(x=(-1, 1), b=(-1, 1), y=(-1, 1)), "int8")
    assert decided.kept_float == {"y": "FULLY_CONNECTED: its bias is computed, not constant"}


def test_weights_of_float16_files_are_told_from_computed_ones() -> None:
    # A float16 file holds its weights behind DEQUANTIZE: not quantized, but silently nothing would happen to it.
    model = one_dense(weights(4, 32))
    half = rewrite(model, plan(model, None, "float16"))
    decided = plan(prepare(half), None, "dynamic")
    assert decided.forms == {"y": "float32*int8"}


def test_data_movement_between_float_operators_stays_float() -> None:
    s = {"s": np.array([1, 128], np.int32)}
    layers = [unary("COS", "x", "h", X), reshape("h", "s", "r", (1, 128)), unary("COS", "r", "y", (1, 128))]
    decided = plan(net({"x": X}, s, layers, ["y"]), ranges(x=(-1, 1), h=(-1, 1), r=(-1, 1), y=(-1, 1)), "int8")
    assert decided.kept_float["r"] == "RESHAPE: it only moves data, between float operators"
    assert decided.forms == {}


def test_an_integer_only_target_and_a_float_recipe() -> None:
    decided = plan(one_dense(weights(4, 32)), None, "dynamic", "ethos-u55")
    assert decided.kept_float == {"y": "FULLY_CONNECTED: target 'ethos-u55' runs integers only; choose the recipe int8"}


def test_loops_take_their_hybrid_form_in_integer_recipes() -> None:
    model = while_model()
    decided = plan(model, ranges(x=(-1, 1), y=(-1, 1)), "int8")
    reason = "integers need fixed ranges, which a loop or branch has no place for; lower the framework model"
    assert decided.kept_float["n"].startswith(f"WHILE: {reason}")
    assert decided.forms == {"next_x": "float32*int8"}
    assert agreement_db(model, rewrite(model, decided)) > 30
    decided = plan(model, ranges(x=(-1, 1), y=(-1, 1)), "int8", "tflm")
    assert decided.kept_float["next_x"].startswith(f"FULLY_CONNECTED: {reason}")


def test_dynamic_range_inside_a_loop() -> None:
    model = while_model()
    decided = plan(model, None, "dynamic")
    assert decided.forms == {"next_x": "float32*int8"}
    quantized = rewrite(model, decided)
    assert quantized.graphs[2].tensors["w"].dtype == "int8"
    assert quantized.graphs[2].tensors["b"].dtype == "float32"
    assert agreement_db(model, quantized) > 30


# ------------------------------------------------------------------------------------------------ softmax


def classifier(classes: int, *, reads_softmax: bool = False, outputs: tuple[str, ...] = ("p",)) -> Model:
    constants = {"w": weights(classes, 16)}
    layers = [dense("x", "w", "", "logits", (1, classes)), softmax("logits", "p", (1, classes))]
    if reads_softmax:
        layers.append(unary("RELU", "p", "y", (1, classes)))
    return net({"x": (1, 16)}, constants, layers, list(outputs))


def test_a_final_softmax_over_many_classes_is_left_out_for_tflm() -> None:
    decided, quantized = planned(classifier(512), "int8", "tflm")
    assert decided.dropped == {
        "p": "SOFTMAX: the int8 kernel of target 'tflm' stops the device from 512 classes on (it has 512); the output "
        "is what went into it, whose largest class is the same"
    }
    assert operators(quantized) == {"FULLY_CONNECTED": 1}
    assert quantized.main.outputs == ("logits",)
    assert check(quantized, "tflm") == ()


@pytest.mark.parametrize(("classes", "target"), [(511, "tflm"), (512, "litert")])
def test_other_softmaxes_stay(classes: int, target: str) -> None:
    decided, quantized = planned(classifier(classes), "int8", target)
    assert decided.dropped == {}
    assert operators(quantized)["SOFTMAX"] == 1


def test_an_int16_softmax_stays() -> None:
    decided, _ = planned(classifier(512), "int16x8", "tflm")
    assert decided.dropped == {}


def test_a_softmax_that_others_read_is_kept_float() -> None:
    decided, quantized = planned(classifier(512, reads_softmax=True, outputs=("y",)), "int8", "tflm")
    assert decided.dropped == {}
    assert decided.kept_float["p"].startswith(
        "SOFTMAX: the int8 kernel of target 'tflm' stops the device from 512 classes"
    )
    assert operators(quantized)["SOFTMAX"] == 1


def test_a_softmax_that_is_an_output_and_read_is_kept() -> None:
    model = classifier(512, reads_softmax=True, outputs=("p", "y"))
    decided, quantized = planned(model, "int8", "tflm", io="float32")
    assert decided.dropped == {}
    assert agreement_db(model, quantized) > 20


def test_logits_and_their_softmax_as_outputs() -> None:
    decided, quantized = planned(classifier(512, outputs=("logits", "p")), "int8", "tflm", io="float32")
    assert set(decided.dropped) == {"p"}
    assert len(quantized.main.outputs) == 2
    assert len(set(quantized.main.outputs)) == 1
    assert operators(quantized) == {"QUANTIZE": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 1}
