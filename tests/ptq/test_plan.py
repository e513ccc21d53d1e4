from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.building import add, conv, dense, net, weights
from tests.ptq.nets import planned, ranges

from featherweight.errors import FeatherweightError, FormatError, RecipeError
from featherweight.graph import constant
from featherweight.graph.numerics import QuantParams
from featherweight.ptq.plan import Plan, edge, from_json, load
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.tflite import write

NAMES = st.text(max_size=8)
SCALES = st.floats(2.0**-100, 2.0**100, width=32)


@st.composite
def params(draw: st.DrawFn) -> QuantParams:
    dtype = draw(st.sampled_from(["int4", "int8", "int16"]))
    kind = draw(st.sampled_from(["tensor", "channel", "block"]))
    if kind == "block":
        return QuantParams("int4", (), (), 0, 32, draw(NAMES))
    count = 1 if kind == "tensor" else draw(st.integers(2, 4))
    scale = tuple(draw(st.lists(SCALES, min_size=count, max_size=count)))
    zero_point = tuple(draw(st.lists(st.integers(-8, 7), min_size=count, max_size=count)))
    return QuantParams(dtype, scale, zero_point, None if kind == "tensor" else draw(st.integers(0, 3)))


PLANS = st.builds(
    Plan,
    recipe=NAMES,
    target=NAMES,
    profile=NAMES,
    io=st.sampled_from(["float32", "int8"]),
    forms=st.dictionaries(NAMES, st.sampled_from(["int8", "int8*int8", "float32*int8", "float32+float16"])),
    params=st.dictionaries(NAMES, params()),
    edges=st.dictionaries(st.builds(edge, NAMES, st.integers(0, 9)), params()),
    kept_float=st.dictionaries(NAMES, NAMES),
    dropped=st.dictionaries(NAMES, NAMES),
    notes=st.lists(NAMES).map(tuple),
)


@given(PLANS)
def test_plans_survive_as_json_exactly(decided: Plan) -> None:
    text = decided.to_json()
    assert from_json(text) == decided
    assert from_json(text).to_json() == text


def two_layers() -> Any:
    constants = {"w1": weights(4, 3, 3, 2), "b1": weights(4), "w2": weights(5, 4), "b2": weights(5)}
    layers = [conv("x", "w1", "b1", "h", (1, 1, 1, 4)), dense("h", "w2", "b2", "y", (1, 5))]
    return net({"x": (1, 1, 1, 2)}, constants, layers, ["y"])


@pytest.mark.parametrize("recipe", ["int8", "int16x8", "w4a8", "dynamic", "weights8", "weights4", "float16"])
def test_a_plan_from_a_file_gives_the_same_bytes(recipe: str, tmp_path: Path) -> None:
    model = two_layers()
    decided, quantized = planned(model, recipe)
    path = tmp_path / "plan.json"
    decided.save(path)
    assert load(path) == decided
    assert write(rewrite(model, load(path))) == write(quantized)


def test_a_plan_reads_well() -> None:
    decided, _ = planned(two_layers())
    table = json.loads(decided.to_json())
    assert table["format"] == 1
    assert table["recipe"] == "int8"
    assert table["target"] == "litert"
    assert table["profile"] == "xnnpack"
    assert table["forms"] == {"h": "int8*int8", "y": "int8*int8"}
    assert set(table["params"]) == {"x", "h", "y", "w1", "w2"}
    assert set(table["params"]["x"]) == {"dtype", "scale", "zero_point"}


def test_an_edited_plan_is_carried_out() -> None:
    model = two_layers()
    decided, _ = planned(model)
    table = json.loads(decided.to_json())
    table["params"]["h"] = {"dtype": "int8", "scale": [0.5], "zero_point": [7]}
    quantized = rewrite(model, from_json(json.dumps(table)))
    assert quantized.main.tensors["h"].quant == QuantParams("int8", (0.5,), (7,))
    bias = quantized.main.tensors["b2"].quant
    assert bias is not None
    assert bias.scale == tuple((np.float32(0.5) * np.float32(decided.params["w2"].scale)).tolist())


# ------------------------------------------------------------------------------------------------ files


def test_a_missing_file() -> None:
    with pytest.raises(
        RecipeError, match=r"^Plan 'missing\.json' can't be read: .*No such file.* Write one with --plan-out"
    ):
        load("missing.json")


def test_an_unwritable_path(tmp_path: Path) -> None:
    decided, _ = planned(two_layers())
    with pytest.raises(FeatherweightError, match=r"can't be written: No such file or directory"):
        decided.save(tmp_path / "missing" / "plan.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '"plan"', "null", "{}", '{"format": 1}'])
def test_text_that_is_no_plan(text: str) -> None:
    remedy = r"Write one with --plan-out, or plan\.save\(path\)\.$"
    with pytest.raises(RecipeError, match=rf"^plan\.json is not a plan: .* {remedy}"):
        from_json(text, "plan.json")


def changed(**changes: Any) -> str:
    table = json.loads(planned(two_layers())[0].to_json())
    return json.dumps(table | changes)


def test_another_version_of_the_format() -> None:
    with pytest.raises(
        RecipeError, match=r"^the plan: plan format 99 can't be read \(allowed: 1\)\. Plan the model again"
    ):
        from_json(changed(format=99))


def test_unknown_keys() -> None:
    with pytest.raises(RecipeError, match=r"^the plan: unknown key colour\. Compare it with a written plan"):
        from_json(changed(colour="blue"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"dtype": "int7", "scale": [1.0], "zero_point": [0]}, "'x': dtype 'int7' is unknown"),
        ({"dtype": "int8", "scale": [0.0], "zero_point": [0]}, "'x': every scale must be a positive finite number"),
        ({"dtype": "int8", "scale": [-1.0], "zero_point": [0]}, "'x': every scale must be a positive finite number"),
        ({"dtype": "int8", "scale": [float("nan")], "zero_point": [0]}, "'x': every scale must be a positive finite"),
        ({"dtype": "int8", "scale": [float("inf")], "zero_point": [0]}, "'x': every scale must be a positive finite"),
        ({"dtype": "int8", "scale": ["wide"], "zero_point": [0]}, "plan"),
        ({"dtype": "int8", "scale": 1.0, "zero_point": [0]}, "is not a plan"),
        ({"dtype": "int8", "zero_point": [0]}, "is not a plan"),
        ({"dtype": "int8", "scale": [1.0], "zero_point": [0], "bits": 8}, "is not a plan"),
        ({"dtype": "int8", "scale": [1.0], "zero_point": [0, 0]}, "'x'"),
        ({"dtype": "int8", "scale": [1.0, 1.0], "zero_point": [0, 0]}, "'x'"),  # two scales, but no axis
        ({"dtype": "int8", "scale": [1.0], "zero_point": [200]}, "'x'"),
        ({"dtype": "int8", "scale": [1.0], "zero_point": ["0"]}, "'x'"),
        ({"dtype": "int8", "scale": [1.0], "zero_point": [0.5]}, "'x'"),
        ({"dtype": "int8", "scale": [], "zero_point": []}, "'x'"),
        ({"dtype": "int4", "scale": [], "zero_point": [], "axis": 0, "block_size": 0, "scale_tensor": "s"}, "'x'"),
    ],
)
def test_impossible_parameters(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        from_json(changed(params={"x": row}))


@pytest.mark.parametrize(
    "changes",
    [
        {"io": "uint9"},
        {"forms": {"h": "int9*int8"}},
        {"forms": {"h": 8}},
        {"forms": 5},
        {"kept_float": 5},
        {"edges": {"h": {"dtype": "int8", "scale": [1.0], "zero_point": [0]}}},  # no position
    ],
)
def test_impossible_decisions(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="plan"):
        from_json(changed(**changes))


# ------------------------------------------------------------------------------------------------ other models


def renamed_layer() -> Any:
    constants = {"w1": weights(4, 3, 3, 2), "b1": weights(4)}
    return net({"x": (1, 1, 1, 2)}, constants, [conv("x", "w1", "b1", "out", (1, 1, 1, 4))], ["out"])


def test_a_plan_for_another_model() -> None:
    decided, _ = planned(two_layers())
    message = r"^The plan is for another model: this one has no 'h', 'y', .* Plan it again\.$"
    with pytest.raises(RecipeError, match=message):
        rewrite(renamed_layer(), decided)


def test_a_plan_for_a_part_of_the_model() -> None:
    # Every name of the plan exists, but it says nothing about 'z': that must not silently stay float.
    model = two_layers()
    decided, _ = planned(model)
    larger = net(
        {"x": (1, 1, 1, 2)},
        {n: np.asarray(model.main.tensors[n].array) for n in ("w1", "b1", "w2", "b2")},
        [conv("x", "w1", "b1", "h", (1, 1, 1, 4)), dense("h", "w2", "b2", "y", (1, 5)), add("y", "y", "z", (1, 5))],
        ["z"],
    )
    with pytest.raises(RecipeError, match="'z'"):
        rewrite(larger, decided)


def test_a_plan_for_other_shapes() -> None:
    model = two_layers()
    decided, _ = planned(model)
    tensors = dict(model.main.tensors)
    tensors["w1"], tensors["b1"] = constant("w1", weights(6, 3, 3, 2)), constant("b1", weights(6))
    wider = replace(model, graphs=(replace(model.main, tensors=tensors),))
    with pytest.raises(RecipeError, match="'w1'"):
        rewrite(wider, decided)


def test_a_plan_without_needed_parameters() -> None:
    decided, _ = planned(two_layers())
    params = {name: value for name, value in decided.params.items() if name != "h"}
    with pytest.raises(RecipeError, match=r"^The plan has no parameters for 'h', which an integer operator needs"):
        rewrite(two_layers(), replace(decided, params=params))


def test_an_edge_of_an_unknown_operator() -> None:
    decided, _ = planned(two_layers())
    edges = {"nowhere:0": QuantParams("int8", (1.0,), (0,))}
    with pytest.raises(RecipeError, match="nowhere"):
        rewrite(two_layers(), replace(decided, edges=edges))


@pytest.mark.parametrize("recipe", ["int8", "dynamic", "weights8"])
def test_a_model_that_is_quantized_already(recipe: str) -> None:
    _, quantized = planned(two_layers())
    with pytest.raises(
        FormatError, match=r"^The model is already quantized: '.*' holds int8 with a scale\. Start from the"
    ):
        plan(quantized, ranges(), recipe)


def test_a_model_with_quantized_weights() -> None:
    _, quantized = planned(two_layers(), "dynamic")
    with pytest.raises(FormatError, match=r"^The model is already quantized: 'w1' holds int8 with a scale"):
        plan(quantized, None, "float16")
