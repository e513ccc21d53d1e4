"""One scale for all rows of dense weights: a smaller file, whose rows are left alone where they are too unlike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.building import conv, layer, net, weights

import featherweight as fw
from featherweight.graph.editor import with_constants
from featherweight.recipes import recipe as recipes
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.repair.candidate import Setting, integer_model, planned
from featherweight.repair.factors.equalize import EQUALIZE
from featherweight.repair.improve import asked_repairs
from featherweight.repair.judge import Judge
from featherweight.repair.weights.one_scale import one_scale
from featherweight.targets import target as targets

_ROWS = np.exp2(np.linspace(0, -7, 40)).astype(np.float32)[:, np.newaxis]


def _net():
    """Two dense layers whose rows are alike, and one whose rows are not."""
    constants = {"a": weights(48, 32, seed=1), "b": weights(40, 48, seed=2) * _ROWS, "c": weights(24, 40, seed=3)}
    biases = {f"{name}_bias": weights(len(constants[name]), seed=4) for name in constants}
    return net(
        {"x": (1, 32)},
        constants | biases,
        [
            layer("FULLY_CONNECTED", ("x", "a", "a_bias"), {"p": (1, 48)}, fused_activation_function="RELU"),
            layer("FULLY_CONNECTED", ("p", "b", "b_bias"), {"q": (1, 40)}, fused_activation_function="RELU"),
            layer("FULLY_CONNECTED", ("q", "c", "c_bias"), {"y": (1, 24)}),
        ],
        ["y"],
    )


@pytest.fixture(scope="module")
def setting():
    random = np.random.default_rng(5)
    feeds = tuple({"x": random.normal(0, 1, (1, 32)).astype(np.float32)} for _ in range(40))
    return Setting(targets.load("litert"), feeds[:32], feeds[32:])


def test_rows_that_are_alike_share_a_scale_and_the_note_counts_the_bytes(setting):
    start = planned(setting, _net(), recipes.load("int8"))
    found = one_scale(setting, start)
    assert not isinstance(found, str)
    before, after = (integer_model(each).main.tensors for each in (start, found))
    assert [len(after[name].quant.scale) for name in ("a", "b", "c")] == [1, 40, 1]
    assert after["a"].quant.scale == (max(before["a"].quant.scale),)
    assert after["y"].quant == before["y"].quant
    saved = len(fw.write(integer_model(start))) - len(fw.write(integer_model(found)))
    assert saved >= 8 * (47 + 23)
    assert (
        f"2 of 3 dense weights have one scale for all rows: {saved:,} bytes less; one scale is for" in found.notes[-1]
    )
    assert "keep 15 dB in it: 'b' keeps 1" in found.notes[-1]


def test_integers_can_be_chosen_beside_it_and_the_file_comes_of_its_plan(setting):
    kinds = {"rows": None, "one": "one-scale", "chosen": ["gptq", "one-scale"]}
    made = {
        kind: fw.quantize(_net(), calibration=list(setting.samples), improve=names, io="float32", progress=False)
        for kind, names in kinds.items()
    }
    weights_of = {kind: one.model.main.tensors["a"].array for kind, one in made.items()}
    assert (weights_of["chosen"] != weights_of["one"]).any()
    sizes = {kind: len(fw.write(one.model)) for kind, one in made.items()}
    assert sizes["chosen"] == sizes["one"] < sizes["rows"]
    again = fw.quantize(made["chosen"].float_model, plan=made["chosen"].plan, progress=False)
    assert fw.write(again.model) == fw.write(made["chosen"].model)


def test_what_the_recipe_names_and_what_is_not_dense_keeps_its_scales(setting):
    rules = tuple(Rule(name, weight=Scheme("int8"), activation=Scheme("int8")) for name in ("p", "q", "y"))
    named = Recipe("named", (*rules, *recipes.load("int8").rules))
    assert one_scale(setting, planned(setting, _net(), named)) == (
        "no dense weight in integers has a scale for each row"
    )
    image = net(
        {"x": (1, 4, 4, 2)},
        {"w": weights(3, 1, 1, 2), "b": weights(3)},
        [conv("x", "w", "b", "y", (1, 4, 4, 3))],
        ["y"],
    )
    feeds = tuple({"x": weights(1, 4, 4, 2, seed=seed)} for seed in range(8))
    of_image = replace(setting, samples=feeds, held_out=())
    start = planned(of_image, image, recipes.load("int8"))
    assert one_scale(of_image, start) == "no dense weight in integers has a scale for each row"
    hybrid = planned(setting, _net(), recipes.load("dynamic"))
    assert one_scale(setting, hybrid) == "no dense weight in integers has a scale for each row"


def test_rows_that_are_all_unlike_are_a_reason(setting):
    rules = tuple(Rule(name, weight=Scheme("int8"), activation=Scheme("int8")) for name in ("p", "y"))
    found = one_scale(setting, planned(setting, _net(), Recipe("named", (*rules, *recipes.load("int8").rules))))
    assert isinstance(found, str)
    assert found.startswith("one scale is for weights whose rows keep 15 dB in it: 'b' keeps ")


def test_what_only_saves_bytes_is_not_among_those_of_auto():
    assert "one-scale" not in [repair.name for repair in asked_repairs("auto")]
    assert "one-scale" in [repair.name for repair in asked_repairs("auto,one-scale")]


def test_beside_auto_it_is_kept_and_what_it_costs_is_said(setting):
    samples = list(setting.samples)
    made = fw.quantize(_net(), calibration=samples, improve=["auto", "one-scale"], io="float32", progress=False)
    (said,) = (note for note in made.plan.notes if note.startswith("improve: one-scale: "))
    assert "dB at the output" in said
    assert "kept" in said
    assert len(made.model.main.tensors["a"].quant.scale) == 1


def test_channels_are_evened_out_for_weights_with_one_scale(setting):
    rows = np.exp2(np.random.default_rng(7).uniform(-3, 3, 48)).astype(np.float32)
    rough = with_constants(_net(), {})
    tensors = {name: rough.main.tensors[name].array for name in ("a", "a_bias", "b")}
    rough = with_constants(
        rough,
        {"a": tensors["a"] * rows[:, np.newaxis], "a_bias": tensors["a_bias"] * rows, "b": tensors["b"] / rows},
    )
    rule = Rule("*", weight=Scheme("int8", per_channel=False), activation=Scheme("int8"))
    start = planned(setting, rough, Recipe("one", (rule,)))
    found = EQUALIZE.apply(setting, start)
    assert not isinstance(found, str)
    spread = np.abs(found.model.main.tensors["a"].array).max(axis=1)
    assert spread.max() / spread.min() < 8 < rows.max() / rows.min()
    judge = Judge(rough, setting.held_out)
    before, after = (judge.levels(integer_model(each)).mean() for each in (start, found))
    assert after > before + 3
