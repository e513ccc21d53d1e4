"""Which small weights stay in a finer type than the recipe asks for, and that rules of one's own have the last word."""

from __future__ import annotations

import pytest
from tests.building import CONV, Layer, conv, dense, layer, net, weights
from tests.ptq.nets import planned

from featherweight.errors import RecipeError
from featherweight.graph import Graph, Model, Node
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Recipe, Rule, Scheme, load


def depthwise(x: str, w: str, b: str, y: str, shape: tuple[int, ...]) -> Layer:
    """A depthwise convolution."""
    return layer("DEPTHWISE_CONV_2D", (x, w, b), {y: shape}, depth_multiplier=1, **CONV)


def mixed() -> Model:
    """A stem of 432 weights, a depthwise kernel of 1,152, one of 4,096 and one of 2,048 weights, and 262,144 more."""
    constants = {
        "stem": weights(128, 1, 1, 3),
        "dw": weights(1, 3, 3, 128),
        "wide": weights(32, 1, 1, 128),
        "narrow": weights(64, 1, 1, 32),
        "big": weights(4096, 1, 1, 64),
        **{f"b{channels}": weights(channels) for channels in (32, 64, 128, 4096)},
    }
    layers = [
        conv("x", "stem", "b128", "a", (1, 4, 4, 128)),
        depthwise("a", "dw", "b128", "d", (1, 4, 4, 128)),
        conv("d", "wide", "b32", "e", (1, 4, 4, 32)),
        conv("e", "narrow", "b64", "f", (1, 4, 4, 64)),
        conv("f", "big", "b4096", "y", (1, 4, 4, 4096)),
    ]
    return net({"x": (1, 4, 4, 3)}, constants, layers, ["y"])


def test_few_weights_stay_float_beside_float_activations() -> None:
    decided = plan(mixed(), None, "dynamic")
    assert decided.forms == {"e": "float32*int8", "f": "float32*int8", "y": "float32*int8"}
    assert decided.kept_float == {
        "a": "CONV_2D: it has less than 1024 weights: float costs few bytes there, and keeps much",
        "d": "DEPTHWISE_CONV_2D: it has less than 2048 weights: float costs few bytes there, and keeps much",
    }


def test_in_4_bits_depthwise_and_small_weights_have_8() -> None:
    decided = plan(mixed(), None, "weights4")
    assert decided.forms == {"e": "float32+int4", "f": "float32+int8", "y": "float32+int4"}
    assert decided.kept_float.keys() == {"a", "d"}
    (note,) = decided.notes
    assert note.startswith("weights of less than 4096 elements are int8, which costs few bytes and keeps much")
    assert note.endswith("(as long as finer weights add no more than 10% of bytes): 'f'")
    decided, _ = planned(mixed(), "w4a8")
    assert decided.forms == dict.fromkeys("adf", "int8*int8") | {"e": "int8*int4", "y": "int8*int4"}


@pytest.mark.parametrize("recipe", ["weights4", "w4a8"])
def test_rules_say_why_they_are_there(recipe: str) -> None:
    large, row = {"w": weights(1, 5, 5, 128), "b": weights(128)}, (1, 8, 8, 128)
    notes = planned(net({"x": row}, large, [depthwise("x", "w", "b", "d", row)], ["d"]), recipe)[0].notes
    assert any(note.startswith("depthwise kernels are int8: nine") and note.endswith(": 'd'") for note in notes)


def test_a_large_depthwise_kernel_is_int8_in_weights4() -> None:
    large = {"w": weights(1, 5, 5, 128)}
    decided = plan(
        net({"x": (1, 8, 8, 128)}, large, [depthwise("x", "w", "b", "y", (1, 8, 8, 128))], ["y"]), None, "weights4"
    )
    assert decided.forms == {"y": "float32+int8"}


def test_all_of_it_adds_a_tenth_of_the_bytes_at_most() -> None:
    # 3 bytes more for each of 640 and 960 of 33,344 weights: the first fits into a tenth, both do not.
    constants = {"w": weights(128, 240), "v": weights(8, 128), "u": weights(80, 8), "t": weights(12, 80)}
    layers = [
        dense("x", "w", "", "a", (1, 128)),
        dense("a", "v", "", "b", (1, 8)),
        dense("b", "u", "", "c", (1, 80)),
        dense("c", "t", "", "y", (1, 12)),
    ]
    decided = plan(net({"x": (1, 240)}, constants, layers, ["y"]), None, "dynamic")
    assert decided.kept_float.keys() == {"c"}
    assert decided.forms.keys() == {"a", "b", "y"}


def test_8_bits_for_all_come_before_floats_for_the_smallest() -> None:
    # 640 weights in float would take more than a tenth of all bytes, in 8 bits they leave room for those of 2,304.
    constants = {"w": weights(48, 640), "v": weights(48, 48), "u": weights(10, 48), "t": weights(16, 10)}
    layers = [
        dense("x", "w", "", "a", (1, 48)),
        dense("a", "v", "", "b", (1, 48)),
        dense("b", "u", "", "c", (1, 10)),
        dense("c", "t", "", "y", (1, 16)),
    ]
    rule = Rule(weight=Scheme("int4"), weight_only=True, keep_small=True)
    decided = plan(net({"x": (1, 640)}, constants, layers, ["y"]), None, Recipe("four", (rule,)))
    assert decided.forms == {"a": "float32+int4", "b": "float32+int8", "c": "float32+int8", "y": "float32+int8"}


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_rule_of_ones_own_wins(scheme: str) -> None:
    own = Rule(weight=Scheme(scheme), weight_only=True)
    decided = plan(mixed(), None, Recipe("mine", (own,)))
    assert decided.kept_float == {}
    assert set(decided.forms.values()) == {f"float32+{scheme}"}
    named = Recipe("named", (Rule("stem", weight=Scheme("int8")), *load("dynamic").rules))
    assert plan(mixed(), None, named).forms["a"] == "float32*int8"


def test_a_small_table_that_several_operators_read_is_stored_once() -> None:
    constants = {"w": weights(16, 16), "big": weights(512, 16)}
    layers = [
        dense("x", "w", "", "a", (1, 16)),
        dense("a", "w", "", "b", (1, 16)),
        dense("b", "big", "", "y", (1, 512)),
    ]
    model = net({"x": (1, 16)}, constants, layers, ["y"])
    decided = plan(model, None, "dynamic")
    assert set(decided.forms.values()) == {"float32*int8"}
    assert sorted(t.dtype for t in rewrite(model, decided).main.tensors.values() if t.is_constant) == ["int8", "int8"]


def test_what_else_must_compute_the_model_is_asked() -> None:
    def obstacle(node: Node, graph: Graph, form: str) -> str | None:
        return "not in 8 bits" if (node.name, form) == ("f", "float32+int8") else None

    assert plan(mixed(), None, "weights4", obstacle=obstacle).forms["f"] == "float32+int4"


def test_where_there_is_no_finer_type() -> None:
    for rule in (
        lambda: Rule(keep_small=True),
        lambda: Rule(weight=Scheme("float16"), keep_small=True),
        lambda: Rule(weight=Scheme("int8"), activation=Scheme("int8"), keep_small=True),
    ):
        with pytest.raises(RecipeError, match=r"Rule: keep_small has no effect here \(allowed: with weight int4, or"):
            rule()
