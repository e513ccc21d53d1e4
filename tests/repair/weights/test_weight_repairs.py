"""Repairs of weights as `improve=` applies them: from the same float weights each time, with reasons where not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests import models

import featherweight as fw
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Setting, integer_model, planned
from featherweight.repair.improve import asked_repairs
from featherweight.repair.judge import Judge, gain
from featherweight.repair.weights.repairs import WEIGHT_REPAIRS
from featherweight.targets import target as targets

BY_NAME = {repair.name: repair for repair in WEIGHT_REPAIRS}


@pytest.fixture(scope="module")
def setting():
    feeds = tuple(models.samples("depthwise", 16))
    return Setting(targets.load("litert"), feeds[:10], feeds[10:])


def test_the_order_of_repairs_makes_no_difference(setting):
    start = planned(setting, models.lowered("depthwise"), recipes.load("w4a8"))
    files = []
    for names in (("bias-correction", "gptq", "weight-scales"), ("weight-scales", "bias-correction", "gptq")):
        candidate = start
        for name in names:
            candidate = BY_NAME[name].apply(setting, candidate)
            assert not isinstance(candidate, str)
        files.append(fw.write(integer_model(candidate)))
    assert files[0] == files[1]


def test_each_repair_helps_where_weights_have_4_bits(setting):
    model = models.lowered("depthwise")
    start, judge = planned(setting, model, recipes.load("w4a8")), Judge(model, setting.held_out)
    before = judge.levels(integer_model(start))
    for name in ("bias-correction", "gptq", "weight-scales"):
        found = BY_NAME[name].apply(setting, start)
        assert not isinstance(found, str)
        assert gain(before, judge.levels(integer_model(found))).db > 1, name


def test_scales_of_a_layer_that_reads_floats_are_chosen_too(setting):
    recipe = recipes.load("int8")
    rule = recipes.Rule(op="FULLY_CONNECTED", weight=recipes.Scheme("int8", per_channel=False))
    start = planned(setting, models.lowered("depthwise"), replace(recipe, rules=(rule, *recipe.rules)))
    assert "float32*int8" in start.plan.forms.values()
    for name in ("weight-scales", "weight-spread"):
        assert not isinstance(BY_NAME[name].apply(setting, start), str)


def test_what_can_not_be_repaired_has_a_reason(setting):
    bare = Setting(setting.target, (), ())
    start = planned(setting, models.lowered("depthwise"), recipes.load("float16"))
    assert BY_NAME["gptq"].apply(bare, start) == "it chooses by what layers are fed: pass calibration samples"
    assert BY_NAME["gptq"].apply(setting, start) == "no weight can be chosen anew: none is in integers"
    assert BY_NAME["reconstruct"].apply(bare, start) == "it trains blocks on samples: pass calibration samples"


def test_auto_leaves_out_what_trains():
    names = [repair.name for repair in asked_repairs("auto")]
    assert "gptq" in names
    assert "reconstruct" not in names
    assert [repair.name for repair in asked_repairs("reconstruct")] == ["reconstruct"]


def test_the_float_graph_and_plan_of_repaired_weights_make_the_same_file_again():
    result = fw.quantize(
        models.lowered("depthwise"),
        "w4a8",
        calibration=models.samples("depthwise", 16),
        improve="bias-correction,gptq,weight-scales",
        progress=False,
    )
    again = fw.quantize(result.float_model, plan=result.plan, progress=False)
    assert fw.write(again.model) == fw.write(result.model)
    assert any(note.startswith("improve: gptq") for note in result.plan.notes)


def test_weights_of_loops_are_named_with_the_reason():
    samples = models.samples("gru", 16)
    result = fw.quantize(models.lowered("gru"), "dynamic", calibration=samples, improve="gptq", progress=False)
    assert any("was rounded as it is: it is in a loop" in note for note in result.plan.notes)
